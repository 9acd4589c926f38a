"""The schema room: vocabularies, units, YAML reading, models and the errors they give."""

import pytest

from osteobayes import paths
from osteobayes.errors import EvidenceError, OsteobayesError, PriorError, Problem, RegimenError, RunError
from osteobayes.schema import (
    DENOMINATORS,
    ENDPOINTS,
    OUTCOME_COLUMNS,
    STATISTIC_UNITS,
    STATISTICS,
    TUMOURS,
    UNITS,
    USE_RULES,
    Study,
    did_you_mean,
    json_schemas,
    read_model,
    read_yaml,
    si_value,
    time_in_years,
    write_json_schemas,
)

STUDY = """\
format: 1
id: trial
title: A small trial
design: randomised
cancer: breast
setting: bone metastases
patients: TRIAL
follow_up: {law: fixed, horizon_months: 12}
events:
  SRE: {components: [fracture, radiation], detection: clinical, death: competing}
arms:
  - {id: placebo, label: placebo, n: 100, regimen: placebo}
  - id: denosumab
    label: denosumab
    n: 100
    regimen: denosumab 120 mg q4w
sources:
  - {id: paper, citation: A paper}
"""


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def only(problems):
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_problem_is_one_line_with_file_row_field_and_mend():
    problem = Problem("a.csv", 3, "events", "7 events among 5 patients", "correct it")
    assert str(problem) == "a.csv:3: events: 7 events among 5 patients; correct it"
    assert str(Problem("a.csv", None, "", "the file is missing")) == "a.csv: the file is missing"


@pytest.mark.parametrize(("error", "word"), [(EvidenceError, "evidence"), (PriorError, "priors")])
def test_errors_list_their_problems_sorted(error, word):
    raised = error([Problem("b", 1, "", "second"), Problem("a", 10, "", "first b"), Problem("a", 2, "", "first a")])
    lines = str(raised).splitlines()
    assert lines[0] == f"3 problems in the {word}:"
    assert [line.strip() for line in lines[1:]] == ["a:2: first a", "a:10: first b", "b:1: second"]
    assert isinstance(raised, OsteobayesError)
    assert len(raised.problems) == 3


def test_every_error_is_an_osteobayes_error():
    assert issubclass(RegimenError, OsteobayesError) and issubclass(RunError, OsteobayesError)


@pytest.mark.parametrize(
    ("time", "unit", "years"),
    [(15, "month", 1.25), (365.25, "day", 1.0), (96, "week", 96 * 7 / 365.25), (2, "year", 2.0)],
)
def test_times_in_years(time, unit, years):
    assert time_in_years(time, unit) == pytest.approx(years, rel=1e-12)
    assert si_value(time, unit) == pytest.approx(years, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (44.2, "percent", 0.442),
        (-11.0, "percentage_point", -0.11),
        (-32.2, "percent_change", -0.322),
        (0.3, "fraction", 0.3),
        (0.82, "ratio", 0.82),
        (1.47, "1/year", 1.47),
        (0.6, "count", 0.6),
    ],
)
def test_values_in_the_units_of_the_model(value, unit, expected):
    assert si_value(value, unit) == pytest.approx(expected, rel=1e-12)


def test_every_unit_and_statistic_is_covered():
    assert set(STATISTIC_UNITS) == set(STATISTICS)
    assert all(si_value(1.0, unit) > 0 for unit in UNITS)
    with pytest.raises(ValueError, match="neither a time"):
        si_value(1.0, "kilogram")


def test_did_you_mean_suggests_or_lists():
    assert did_you_mean("Fractur", ["fracture", "radiation"]) == "did you mean 'fracture'?"
    assert did_you_mean("xyz", ["fracture", "radiation"]) == "use one of: fracture, radiation"
    many = did_you_mean("xyz", [f"name_{i}" for i in range(200)])
    assert many.startswith("use one of 200, such as name_") and many.count(",") == 8


def test_the_small_study_is_good(tmp_path):
    study, document, problems = read_model(Study, write(tmp_path, STUDY))
    assert problems == []
    assert study.arm_ids == ["placebo", "denosumab"]
    assert study.members("denosumab") == [("breast", "denosumab 120 mg q4w", 1.0)]
    assert study.patient_count == 200
    assert document.line(("arms", 1, "n")) == 15


@pytest.mark.parametrize(
    ("old", "new", "row", "field", "words"),
    [
        ("design: randomised", "design: randomized", 4, "design", ["'randomized'", "did you mean 'randomised'?"]),
        ("cancer: breast", "cancer: brest", 5, "cancer", ["did you mean 'breast'?"]),
        ("patients: TRIAL", "patient: TRIAL", 7, "patient", ["no key 'patient'", "did you mean 'patients'?"]),
        ("law: fixed", "low: fixed, law: fixed", 8, "follow_up.low", ["no key 'low'", "did you mean 'law'?"]),
        ("[fracture, radiation]", "[fracture, radiations]", 10, "events.SRE.components[1]", ["'radiation'"]),
        ("    n: 100\n", "    n: -3\n", 15, "arms[1].n", ["greater than 0", "-3"]),
        ("    n: 100\n", "    n: many\n", 15, "arms[1].n", ["integer", "'many'"]),
        ("id: placebo, label: placebo", "id: denosumab, label: placebo", 1, "", ["'denosumab' is used twice"]),
        ("law: fixed, horizon_months: 12", "law: fixed", 8, "follow_up", ["needs its horizon_months"]),
        ("horizon_months: 12", "horizon_months: 12, accrual_months: 20", 8, "follow_up", ["longer than"]),
        ("cancer: breast", "cancer: breast\ntumour: renal", 1, "", ["its cancer is 'breast'"]),
        ("cancer: breast", "cancer: all_solid", 1, "", ["registries and cohorts"]),
        ("  SRE: {", "  OS: {", 1, "", ["'OS' needs no event definition"]),
        (
            "    label: denosumab\n",
            "    label: denosumab\n    overlaps: [placbo]\n",
            1,
            "",
            ["did you mean 'placebo'?"],
        ),
        (
            "    n: 100\n",
            "    n: 100\n    mix: [{cancer: breast, weight: 0.6}, {cancer: lung, weight: 0.3}]\n",
            13,
            "arms[1]",
            ["sum to 0.9, not 1"],
        ),
        ("title: A small trial\n", "", 1, "title", ["'title' is missing"]),
        ("id: paper,", "id: paper, doi: not-a-doi,", 18, "sources[0].doi", ["pattern"]),
    ],
)
def test_what_a_study_may_not_say(tmp_path, old, new, row, field, words):
    assert STUDY.count(old) == 1
    study, _, problems = read_model(Study, write(tmp_path, STUDY.replace(old, new)))
    problem = only(problems)
    assert study is None
    assert (problem.row, problem.field) == (row, field)
    for word in words:
        assert word in str(problem)


def test_several_mistakes_are_told_at_once(tmp_path):
    text = STUDY.replace("randomised", "random").replace("breast", "brest").replace("n: 100, r", "n: 0, r")
    _, _, problems = read_model(Study, write(tmp_path, text))
    assert [problem.field for problem in problems] == ["design", "cancer", "arms[0].n"]


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' is already on line 1"),
        ("a: {b: 1,\n  b: 2}\n", 2, "the key 'b' is already on line 1"),
        ("a: 1\n  b: 2\n", 2, "not valid YAML"),
        ("a: [1, 2\n", 2, "not valid YAML"),
        ("a: &x [1]\nb: *x\n", 2, "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "not valid YAML"),
        ("", None, "the file is empty"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, row, words):
    document = read_yaml(write(tmp_path, text))
    problem = only(document.problems)
    assert document.data is None
    assert problem.row == row
    assert words in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: " + "[" * 2000 + "]" * 2000,
        "- " * 100_000 + "x",
        "{a: " * 100_000,
        "".join(f"{' ' * i}a:\n" for i in range(2000)),
    ],
    ids=["lists", "closed lists", "items", "mappings", "indented"],
)
def test_yaml_that_is_too_deep_is_a_sentence(tmp_path, text):
    document = read_yaml(write(tmp_path, text))
    assert document.data is None and "not valid YAML" in only(document.problems).message


def test_yaml_that_is_wide_is_read(tmp_path):
    assert read_yaml(write(tmp_path, "- [1, {a: [2]}]\n" * 1000)).data == [[1, {"a": [2]}]] * 1000


def test_yaml_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.yaml").open("wb") as f:
        f.truncate(17 * 2**20)
    document = read_yaml(tmp_path / "a.yaml")
    assert "17 MiB, 16 are allowed" in document.problems[0].message


def test_yaml_reads_plain_words_and_numbers(tmp_path):
    document = read_yaml(write(tmp_path, "a: no\nb: 1e-3\nc: 2020-01-02\nd: true\ne: null\nf: 007a\ng: -2.5\n"))
    assert document.problems == ()
    assert document.data == {"a": "no", "b": 1e-3, "c": "2020-01-02", "d": True, "e": None, "f": "007a", "g": -2.5}


def test_a_missing_file_is_a_problem(tmp_path):
    assert "missing" in only(read_yaml(tmp_path / "study.yaml").problems).message


def test_the_json_schemas_beside_the_datasets_are_current(tmp_path):
    write_json_schemas(tmp_path)
    for name, schema in json_schemas().items():
        shipped = (paths.shipped("datasets") / name).read_text(encoding="utf-8")
        assert shipped == (tmp_path / name).read_text(encoding="utf-8"), f"{name}: run write_json_schemas again"
        assert schema["additionalProperties"] is False
    assert json_schemas()["study.schema.json"]["required"][:2] == ["format", "id"]


def test_every_yaml_names_its_schema():
    folder = paths.shipped("datasets")
    for path in (folder / "selections.yaml", *folder.glob("*/study.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema="), path
        assert (path.parent / first.partition("$schema=")[2]).is_file(), path


def test_the_readme_names_every_word_and_column():
    text = (paths.shipped("datasets") / "README.md").read_text(encoding="utf-8")
    words = (*STATISTICS, *UNITS, *OUTCOME_COLUMNS, *USE_RULES, *DENOMINATORS, *TUMOURS, *ENDPOINTS)
    missing = [word for word in words if f"`{word}`" not in text]
    assert missing == []


def test_shipped_finds_both_layouts(tmp_path):
    installed = tmp_path / "site-packages" / "osteobayes"
    (installed / "_shipped" / "priors").mkdir(parents=True)
    assert paths.shipped("priors", installed) == installed / "_shipped" / "priors"
    checkout = tmp_path / "repository" / "src" / "osteobayes"
    checkout.mkdir(parents=True)
    (tmp_path / "repository" / "priors").mkdir()
    with pytest.raises(OsteobayesError, match="are neither in"):
        paths.shipped("priors", checkout)
    (tmp_path / "repository" / "pyproject.toml").touch()
    assert paths.shipped("priors", checkout) == tmp_path / "repository" / "priors"
    with pytest.raises(OsteobayesError, match="'datasets' or 'priors'"):
        paths.shipped("runs")
