"""The evidence room: what ships is sound, and what is not is refused with one clear message."""

import csv
import re
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from osteobayes import paths
from osteobayes.cycle.therapy import shipped_catalogue
from osteobayes.errors import EvidenceError, OsteobayesError, RegimenError
from osteobayes.evidence import Evidence, network, summary, validate
from osteobayes.evidence.template import write_template
from osteobayes.evidence.uses import FAMILIES
from osteobayes.schema import OUTCOME_COLUMNS

BAD = Path(__file__).parent / "bad_files"
DATASETS = paths.shipped("datasets")


@pytest.fixture(scope="module")
def evidence():
    return Evidence.load(DATASETS)


def one(folder, **kwargs):
    problems = validate(folder, **kwargs)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


# ------------------------------------------------------------------------------------- one change to good files


def row(name, arm="placebo", statistic="proportion", **cells):
    """One row of the small trial, with the cells that a statistic usually has."""
    base = dict.fromkeys(OUTCOME_COLUMNS, "")
    base |= {"outcome_id": f"trial/{name}", "arm": arm, "statistic": statistic, "endpoint": "SRE", "use": "check"}
    base |= {"estimator": "none", "source": "paper"}
    if cells.get("use", "check") != "fit":
        base["note"] = "baseline: for the test"
    if statistic in ("hazard_ratio", "rate_ratio"):
        base |= {"versus": "placebo", "value": "0.8", "unit": "ratio", "low": "0.7", "high": "0.9", "level": "0.95"}
    elif statistic == "median":
        base |= {"value": "10", "unit": "month", "n": "100"}
    elif statistic == "median_not_reached":
        base |= {"unit": "month", "n": "100", "time": "12", "time_unit": "month"}
    elif statistic in ("mean_rate", "mean_count"):
        base |= {"value": "1.5", "unit": "1/year" if statistic == "mean_rate" else "count", "n": "100"}
    elif statistic == "bound_range":
        base |= {"low": "1", "high": "2", "unit": "month"}
    else:
        base |= {"value": "20", "unit": "percent", "events": "20", "n": "100", "time": "12", "time_unit": "month"}
    return base | cells


def make(tmp_path, *rows, name="trial", yaml=lambda text: text):
    """Write the small trial with these rows."""
    place = tmp_path / name
    place.mkdir(parents=True)
    text = (BAD / "events_above_n" / "trial" / "study.yaml").read_text(encoding="utf-8")
    (place / "study.yaml").write_text(yaml(text), encoding="utf-8")
    with (place / "outcomes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, OUTCOME_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


@pytest.mark.parametrize(
    "statistic",
    ["proportion", "hazard_ratio", "median", "median_not_reached", "mean_rate", "mean_count", "bound_range"],
)
def test_the_small_trial_is_good(tmp_path, statistic):
    arm = "denosumab" if statistic == "hazard_ratio" else "placebo"
    assert validate(make(tmp_path, row("a", arm, statistic))) == []


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        (row("a", unit="month"), "unit", "'month' is not a unit of proportion"),
        (row("a", unit="percents"), "unit", "did you mean 'percent'?"),
        (row("a", statistic="hazard_ratio", arm="denosumab", unit="percent"), "unit", "write 'ratio'"),
        (row("a", value="150", events="", n=""), "value", "150 percent is impossible"),
        (row("a", statistic="hazard_ratio", arm="denosumab", value="-1", low="-2"), "", "impossible"),
        (row("a", value="20.1"), "value", "20.1 percent does not agree with 20/100 = 20.00"),
        (row("a", value="21"), "value", "21 percent does not agree with 20/100 = 20.0"),
        (row("a", events="20", n="101", value="19.9"), "n", "n is 101 but the arm has 100"),
        (row("a", low="10", high="30"), "level", "the interval has no level"),
        (row("a", level="0.95"), "level", "no interval"),
        (row("a", low="10", high="30", level="95"), "level", "write 0.95 for 95 %"),
        (row("a", low="30", high="10", level="0.95"), "low", "exchange them"),
        (row("a", low="21", high="30", level="0.95"), "low", "below its own interval"),
        (row("a", high="30", level="0.95"), "low", "upper limit but no lower one"),
        (row("a", value=""), "value", "a proportion needs a value"),
        (row("a", statistic="median_not_reached", value="9"), "value", "not reached has the value 9"),
        (row("a", versus="denosumab"), "versus", "belongs to one arm"),
        (row("a", "denosumab", "hazard_ratio", versus=""), "versus", "name the reference arm"),
        (row("a", "placebo", "hazard_ratio"), "versus", "compared with itself"),
        (row("a", "denosumab", "hazard_ratio", versus="placbo"), "versus", "did you mean 'placebo'?"),
        (row("a", endpoint="SREs"), "endpoint", "no event definition in study.yaml; did you mean 'SRE'?"),
        (row("a", component="surgery"), "component", "does not count 'surgery'"),
        (row("a", statistic="first_event_proportion"), "component", "name the component"),
        (row("a", statistic="proporton"), "statistic", "did you mean 'proportion'?"),
        (row("a", estimator=""), "estimator", "the cell is empty"),
        (row("a", use="maybe"), "use", "use one of: fit, check, no"),
        (row("a", use="no", note=""), "note", "does not begin with the rule that says why"),
        (row("a", note="because"), "note", "does not begin with the rule that says why"),
        (row("a", use="fit", note="subgroup: no"), "note", "a fitted row has the rule 'subgroup'"),
        (row("a", statistic="median", value="40"), "value", "longer than the follow-up"),
        (row("a", source="papers"), "source", "did you mean 'paper'?"),
        (row("a", time_unit=""), "time_unit", "the time 12 has no unit"),
        (row("a", time=""), "time", "no time"),
        (row("a", statistic="survival_at", endpoint="OS", time="", time_unit=""), "time", "needs its time"),
        (row("a", events="", use="fit"), "events", "that is fitted needs events"),
        (row("a", n="", use="fit"), "n", "that is fitted needs n"),
        (row("a", statistic="median", n="", use="fit"), "n", "that is fitted needs n"),
        (row("a", "denosumab", "hazard_ratio", low="", high="", level="", use="fit"), "low", "needs its interval"),
        (row("a", statistic="bound_range", use="fit"), "use", "no likelihood"),
        (row("a", statistic="median_not_reached", time="", time_unit="", use="fit"), "time", "needs its time"),
        (row("a", statistic="completion"), "statistic", "go together"),
        (
            row("a", statistic="incidence_proportion", endpoint="bone_metastasis"),
            "denominator",
            "needs the population that it is a share of",
        ),
        (row("a", value="nan"), "value", "not a finite number"),
        (row("a", value="twenty"), "value", "'twenty' is not a number"),
        (row("a", events="2.5"), "events", "not a whole number"),
        (row("a", outcome_id="trial/Crude A"), "outcome_id", "<study_id>/<short_name>"),
        (row("a", outcome_id="other/a"), "outcome_id", "begin it with 'trial/'"),
    ],
)
def test_what_a_row_may_not_say(tmp_path, bad, field, words):
    problems = validate(make(tmp_path, bad))
    matching = [problem for problem in problems if words in str(problem)]
    assert matching, [str(problem) for problem in problems]
    assert matching[0].row == 2
    assert not field or matching[0].field == field


@pytest.mark.parametrize("printed", ["19.6", "20", "20.4", "20.44"])
def test_a_share_agrees_within_its_printed_digits(tmp_path, printed):
    good = {"19.6": False, "20": True, "20.4": False, "20.44": False}[printed]
    assert (validate(make(tmp_path, row("a", value=printed))) == []) is good


def test_a_missing_and_an_extra_column_are_both_told(tmp_path):
    make(tmp_path, row("a"))
    path = tmp_path / "trial" / "outcomes.csv"
    header, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join([header.replace(",note", ",colour").replace("versus", "verses"), *rest]), encoding="utf-8"
    )
    told = {(problem.field, problem.mend) for problem in validate(tmp_path)}
    assert told == {("verses", "did you mean 'versus'?"), ("colour", "use one of: note"), ("note", "add it")}


def test_a_row_with_a_bare_comma_is_told(tmp_path):
    make(tmp_path, row("a"))
    with (tmp_path / "trial" / "outcomes.csv").open("a", encoding="utf-8") as stream:
        stream.write("trial/b,placebo\n")
    problem = one(tmp_path)
    assert problem.row == 3
    assert "2 cells, but there are 21 columns" in problem.message


def test_a_duplicate_outcome_id_is_told(tmp_path):
    problem = one(make(tmp_path, row("a"), row("b"), row("a")))
    assert (problem.row, problem.field) == (4, "outcome_id")
    assert "trial/outcomes.csv:2" in problem.message


def test_a_fitted_arm_needs_a_regimen(tmp_path):
    problem = one(make(tmp_path, row("a", use="fit"), yaml=lambda t: t.replace("regimen: placebo", "regimen: null")))
    assert (problem.field, "no regimen" in problem.message) == ("arm", True)


def test_first_events_may_not_exceed_their_total(tmp_path):
    split = [
        row(c, statistic="first_event_proportion", component=c, events=e, value=e)
        for c, e in (("fracture", "15"), ("radiation", "6"))
    ]
    problem = one(make(tmp_path, row("total"), *split))
    assert (problem.row, problem.field) == (4, "events")
    assert "sum to 21, but the total in line 2 has 20" in problem.message


def test_a_component_of_the_first_events_is_given_once(tmp_path):
    part = {"statistic": "first_event_proportion", "component": "fracture", "events": "6", "value": "6"}
    problem = one(make(tmp_path, row("total"), row("one", **part), row("two", **part)))
    assert (problem.row, problem.field) == (4, "component")
    assert "given twice" in problem.message


FIT = {"use": "fit"}


def part(statistic, component, events):
    return row(
        f"{statistic[:3]}_{component}", statistic=statistic, component=component, events=events, value=events, **FIT
    )


@pytest.mark.parametrize(
    ("rows", "clashes"),
    [
        ([row("p0", **FIT), row("p1", "denosumab", **FIT)], []),
        ([row("p0", **FIT), row("hr", "denosumab", "hazard_ratio", **FIT)], []),
        ([row("p0", **FIT), row("p1", "denosumab", **FIT), row("hr", "denosumab", "hazard_ratio", **FIT)], [4]),
        ([row("p1", "denosumab", **FIT), row("hr", "denosumab", "hazard_ratio", **FIT)], [3]),
        ([row("hr", "denosumab", "hazard_ratio", **FIT), row("ag", "denosumab", "rate_ratio", **FIT)], [3]),
        ([row("p12", **FIT), row("p24", time="24", **FIT)], [3]),
        ([row("p", **FIT), row("m", statistic="median", **FIT)], [3]),
        ([row("m1", statistic="median", **FIT), row("m2", statistic="median", **FIT)], [3]),
        ([row("p", **FIT), row("h", endpoint="SRE_HCM", **FIT)], [3]),
        ([row("p", **FIT), row("r", statistic="mean_rate", **FIT)], [3]),
        ([row("p", **FIT), row("o", endpoint="OS", statistic="median", **FIT)], []),
        ([row("o", endpoint="OS", statistic="median", **FIT), row("f", endpoint="PFS", statistic="median", **FIT)], []),
        ([row("p", **FIT), row("c", endpoint="completion", statistic="completion", **FIT)], []),
        ([row("p", **FIT), part("first_event_proportion", "fracture", "12")], []),
        ([row("p", **FIT), part("any_event_proportion", "fracture", "12")], [3]),
        ([part("any_event_proportion", c, e) for c, e in (("fracture", "12"), ("radiation", "9"))], []),
        (
            [row(f"s{t}", statistic="survival_at", endpoint="OS", time=t, **FIT) for t in ("6", "12")],
            [],
        ),
        (
            [
                row("s1", statistic="survival_at", endpoint="OS", **FIT),
                row("s2", statistic="survival_at", endpoint="OS", time="1", time_unit="year", **FIT),
            ],
            [3],
        ),
        ([row("p", **FIT), row("sub", "early", events="10", n="50", **FIT)], [3]),
        ([row("p"), row("sub", "early", events="10", n="50", **FIT)], []),
    ],
)
def test_double_counts(tmp_path, rows, clashes):
    def more(text):
        text = text.replace(
            "arms:\n", "  SRE_HCM: {components: [fracture], detection: clinical, death: competing}\narms:\n"
        )
        early = "  - {id: early, label: early, n: 50, regimen: placebo, overlaps: [placebo]}\n"
        return text.replace("sources:\n", early + "sources:\n")

    problems = validate(make(tmp_path, *rows, yaml=more))
    assert [problem.row for problem in problems] == clashes, [str(problem) for problem in problems]
    assert all(problem.field == "use" and "twice" in problem.message for problem in problems)


def test_two_studies_of_the_same_patients_are_not_both_fitted(tmp_path):
    make(tmp_path, row("a", **FIT))
    again = row("a", outcome_id="again/a", **FIT)
    make(tmp_path, again, name="again", yaml=lambda text: text.replace("id: trial", "id: again"))
    problem = one(tmp_path)
    assert problem.file.endswith("trial/outcomes.csv")
    assert "again/outcomes.csv:2" in problem.message and "patient set TRIAL" in problem.message


def test_problems_of_several_files_come_sorted(tmp_path):
    make(tmp_path, row("a", unit=""), row("b", unit=""))
    make(tmp_path, row("c", unit=""), name="alpha")
    problems = validate(tmp_path)
    assert [problem.sort_key for problem in problems] == sorted(problem.sort_key for problem in problems)
    places = [(Path(problem.file).relative_to(tmp_path).as_posix(), problem.row, problem.field) for problem in problems]
    assert places == [
        ("alpha/outcomes.csv", 2, "unit"),
        ("alpha/study.yaml", 2, "id"),
        ("trial/outcomes.csv", 2, "unit"),
        ("trial/outcomes.csv", 3, "unit"),
    ]


def test_the_regimen_check_is_called_and_its_error_lands_at_the_arm(tmp_path):
    seen = []

    def check(text):
        seen.append(text)
        if "denosumab" in text:
            raise RegimenError("the agent is not known")

    problem = one(make(tmp_path, row("a")), check_regimen=check)
    assert seen == ["placebo", "denosumab 120 mg q4w"]
    assert (problem.field, problem.row) == ("arms[1].regimen", 13)
    assert "the agent is not known" in str(problem)


def test_missing_files_and_folders_are_told(tmp_path):
    assert "no such folder" in one(tmp_path / "nowhere").message
    assert "holds no study" in one(tmp_path).message
    (tmp_path / "trial").mkdir()
    assert [problem.message for problem in validate(tmp_path)] == ["the file is missing"] * 2


# ---------------------------------------------------------------------------------------------- what ships


def test_the_shipped_datasets_have_no_problem():
    assert [str(problem) for problem in validate(DATASETS)] == []


def test_a_mistake_in_a_copy_of_the_shipped_datasets_is_found(tmp_path):
    folder = tmp_path / "datasets"
    shutil.copytree(DATASETS, folder)
    path = folder / "saad2002_p039" / "outcomes.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("crude,92,208,,fit", "crude,290,208,,fit"), encoding="utf-8")
    problem = one(folder)
    assert (problem.row, problem.field) == (2, "events")


def test_the_studies_of_the_core_selection(evidence):
    core = evidence.choose("core")
    assert sorted(core.studies) == [
        "affirm",
        "alsympca",
        "cho2023",
        "couaa301",
        "henry2011_244",
        "hernandez2018",
        "jensen2011",
        "landi2019",
        "lipton2000",
        "norgaard2010",
        "optimize2_2017",
        "rosen2001_p010",
        "rosen2003_p011",
        "saad2002_p039",
        "stopeck2010_136",
        "zice2014",
    ]
    assert len({study.patients for study in core.studies.values()}) == 16
    assert evidence.choose("all") is evidence
    with pytest.raises(OsteobayesError, match="no selection 'cor'; did you mean 'core'"):
        evidence.choose("cor")


def test_what_ships_is_enough(evidence):
    uses = evidence.outcomes["use"].value_counts()
    assert len(evidence.studies) == 148 and uses["fit"] >= 280
    assert not (evidence.outcomes["rule"] == "undecided").any()
    assert ((evidence.outcomes["rule"] == "") == (evidence.outcomes["use"] == "fit")).all()


#: Outcome, value in the model's units, events, n: read off the published tables, not off the files.
FACTS = [
    ("stopeck2010_136/crude_denosumab", 0.307, 315, 1026),
    ("stopeck2010_136/crude_za", 0.365, 372, 1020),
    ("stopeck2010_136/first_fracture_za", 0.233, 238, 1020),
    ("henry2011_244/crude_denosumab", 0.314, 278, 886),
    ("henry2011_244/crude_za", 0.363, 323, 890),
    ("henry2011_244/os_hr_lung", 0.80, None, 811),
    ("saad2002_p039/crude_15_placebo", 0.442, 92, 208),
    ("saad2002_p039/crude_15_za4", 0.332, 71, 214),
    ("rosen2003_p011/completion_9", 0.258, 131, 507),
    ("rosen2001_p010/crude_13_za4", 0.44, 247, 561),
    ("lipton2000/crude_24_placebo", 0.64, 246, 384),
    ("optimize2_2017/crude_12_q12w", 0.232, 47, 203),
    ("zice2014/rate_za", 0.44, None, 672),
    ("alsympca/sse_median_radium", 1.3, None, 614),
    ("alsympca/os_hr", 0.695, None, 921),
    ("affirm/sre_median_placebo", 13.3 / 12, None, 399),
    ("couaa301/pfs_median_placebo", 0.3, None, 398),
    ("cho2023/os_hr", 1.201, None, 304),
    ("landi2019/os_median_squamous_bm", 5 / 12, None, 120),
    ("hernandez2018/km_60_months", 0.069, None, 382733),
    ("jensen2011/bm_at_diagnosis", 0.005, 178, 35912),
    ("norgaard2010/sre_bm_during_follow_up", 0.516, 1329, 2578),
]


@pytest.mark.parametrize(("outcome", "value", "events", "n"), FACTS)
def test_facts(evidence, outcome, value, events, n):
    found = evidence.outcomes.set_index("outcome_id").loc[outcome]
    assert found["use"] == "fit"
    assert found["value_si"] == pytest.approx(value, rel=1e-9)
    assert found["n"] == n
    if events is not None:
        assert found["events"] == events


def test_the_first_events_of_136_and_244_sum_to_their_totals(evidence):
    table = evidence.outcomes
    mine = table["study"].isin(["stopeck2010_136", "henry2011_244"])
    split = (
        table[mine & (table["statistic"] == "first_event_proportion")]
        .groupby(["study", "arm"])["events"]
        .sum()
        .to_dict()
    )
    assert split == {
        ("henry2011_244", "denosumab"): 278,
        ("henry2011_244", "zoledronic_acid"): 323,
        ("stopeck2010_136", "denosumab"): 315,
        ("stopeck2010_136", "zoledronic_acid"): 372,
    }


def test_the_table_of_outcomes(evidence):
    table = evidence.outcomes.set_index("outcome_id")
    assert list(evidence.outcomes.columns[: len(OUTCOME_COLUMNS)]) == list(OUTCOME_COLUMNS)
    assert table.loc["saad2002_p039/crude_15_za4", "time_years"] == pytest.approx(1.25)
    assert table.loc["saad2002_p039/median_15_placebo", "value_si"] == pytest.approx(321 / 365.25)
    assert table.loc["henry2011_244/os_median_za_lung", "cancer"] == "lung"
    assert table.loc["henry2011_244/crude_za", "cancer"] == "mixed"
    assert table.loc["stopeck2010_136/crude_za", "file"] == "stopeck2010_136/outcomes.csv"
    with (DATASETS / "stopeck2010_136" / "outcomes.csv").open(encoding="utf-8") as stream:
        line = stream.read().splitlines()[table.loc["stopeck2010_136/crude_za", "row"] - 1]
    assert line.startswith("stopeck2010_136/crude_za,")
    assert (evidence.outcomes.loc[evidence.outcomes["use"] == "no", "note"] != "").all()


def test_derived_numbers_say_so(evidence):
    table = evidence.outcomes.set_index("outcome_id")
    for outcome in ("henry2011_244/os_hr_lung", "saad2002_p039/crude_15_za4", "lipton2000/crude_24_pamidronate"):
        assert "DERIVED" in table.loc[outcome, "note"]
    interval = table.loc["henry2011_244/os_hr_lung", ["low", "high"]]
    assert list(interval) == pytest.approx([0.675, 0.948], abs=5e-4)


def test_no_word_of_the_workshop_is_in_the_datasets():
    for path in DATASETS.rglob("*.*"):
        text = re.sub(r"https?://\S*", "", path.read_text(encoding="utf-8").lower())
        for word in (
            "evidence file",
            "/work/",
            "shared/",
            "bone_modifying_agents",
            "design_facts",
            "handed over",
            "hand-over",
        ):
            assert word not in text, f"{path}: {word}"


def test_select_and_drop(evidence):
    core = evidence.choose("core")
    prostate = core.select(cancer="prostate").drop("affirm")
    assert sorted(prostate.studies) == ["alsympca", "couaa301", "norgaard2010", "saad2002_p039"]
    assert set(prostate.outcomes["study"]) == set(prostate.studies)
    assert list(evidence.select(study=["zice2014"]).studies) == ["zice2014"]
    assert "henry2011_244" in core.select(cancer=["myeloma"]).studies
    assert list(core.select(cancer=["all_solid"]).studies) == ["hernandez2018"]
    assert {"meteor", "clear"} <= set(evidence.select(cancer="renal").studies)
    assert len(core.studies) == 16 and len(evidence.studies) == 148
    with pytest.raises(OsteobayesError, match="no study 'zice'; did you mean 'zice2014'"):
        evidence.drop("zice")


def test_select_by_therapy_endpoint_design_and_years(evidence):
    denosumab = evidence.select(therapy="denosumab")
    assert {"stopeck2010_136", "henry2011_244", "dcare"} <= set(denosumab.studies)
    assert "saad2002_p039" not in denosumab.studies
    assert set(denosumab.studies) <= set(evidence.select(therapy="rankl_inhibitor").studies)
    skeletal = evidence.select(endpoint="skeletal events", design="randomised")
    assert {study.design for study in skeletal.studies.values()} == {"randomised"}
    assert all(row.endpoint in skeletal.studies[row.study].events for row in skeletal.outcomes.itertuples())
    survival = evidence.select(endpoint=["OS", "PFS"])
    assert set(survival.outcomes["endpoint"]) == {"OS", "PFS"}
    early = evidence.select(years=(1990, 1999))
    assert all(any(1990 <= (s.year or 0) <= 1999 for s in study.sources) for study in early.studies.values())
    assert "paterson1993" in early.studies and "stopeck2010_136" not in early.studies
    with pytest.raises(OsteobayesError, match="no therapy 'denosumb'; did you mean 'denosumab'"):
        evidence.select(therapy="denosumb")
    with pytest.raises(OsteobayesError, match="exchange them"):
        evidence.select(years=(1999, 1990))


def test_added_folders_join_every_selection_and_ids_may_not_clash(tmp_path):
    make(tmp_path / "mine", row("a"))
    both = Evidence.load(DATASETS, tmp_path / "mine")
    assert "trial" in both.studies and "trial" in both.choose("core").studies
    assert len(both.choose("core").studies) == 17
    alone = Evidence.load(tmp_path / "mine")
    assert list(alone.choose("core").studies) == ["trial"]  # a folder without selections is chosen whole
    make(
        tmp_path / "again",
        row("zice2014/a", outcome_id="zice2014/a"),
        name="zice2014",
        yaml=lambda t: t.replace("id: trial", "id: zice2014"),
    )
    with pytest.raises(EvidenceError, match=r"a study 'zice2014' is already in .*datasets"):
        Evidence.load(DATASETS, tmp_path / "again")


def test_tables_and_the_labelled_view(evidence):
    core = evidence.choose("core")
    labelled = core.to_xarray()
    assert labelled.sizes == {"outcome": len(core.outcomes)}
    assert float(labelled["value_si"].sel(outcome="zice2014/rate_za")) == pytest.approx(0.44)
    assert str(labelled["study"].sel(outcome="zice2014/rate_za").item()) == "zice2014"
    arms = core.arms
    assert arms.groupby(["study", "arm"])["weight"].sum().to_numpy() == pytest.approx(1.0, abs=2e-3)
    assert set(arms.loc[arms["study"] == "zice2014", "regimen"]) == {
        "zoledronic acid 4 mg q4w",
        "ibandronate 50 mg daily",
    } or len(arms)
    assert {"study", "fact", "value", "unit"} <= set(core.facts.columns)


def test_what_each_row_is_used_for(evidence):
    uses = evidence.uses().set_index("outcome_id")
    assert len(uses) == len(evidence.outcomes)
    assert uses.loc["saad2002_p039/crude_15_za4", "family"] == "crude"
    assert uses.loc["saad2002_p039/crude_15_za4", "unusable"] == ""
    assert uses.loc["vision/os_hr", "unusable"] == ""
    assert tuple(uses.loc["prevail/os_6_placebo", ["family", "block", "unusable"]]) == ("landmark", "OS", "")
    assert tuple(uses.loc["reactbta2021/cif_12_q4w", ["family", "block"]]) == ("landmark", "SRE aj")
    assert "37 months that the model solves" in uses.loc["couaa302/os_48_placebo", "unusable"]
    assert "no likelihood of hazard_ratio of pain" in uses.loc["latitude/pain_progression_hr", "unusable"]
    core = uses[uses["study"].isin(list(evidence.choose("core").studies)) & (uses["use"] == "fit")]
    assert (core["unusable"] == "").sum() == 75
    text = summary(evidence.uses())
    assert "the model cannot use" in text and "latitude/pain_progression_hr" in text and "same_patients" in text


def test_every_row_has_one_statistic_or_a_reason(evidence):
    """Each row that is fitted or compared reads exactly one statistic, or `validate` says why it reads none."""
    uses = evidence.uses()
    asked = uses[uses["use"].isin(["fit", "check"])]
    nothing = asked[asked["family"] == ""]
    assert (nothing["unusable"] != "").all()
    assert set(asked["family"]) - {""} <= set(FAMILIES)
    fitted = asked[asked["use"] == "fit"]
    assert (fitted["unusable"] == "").sum() >= 200
    kinds = {f: set(g["block"]) for f, g in asked[asked["family"] != ""].groupby("family")}
    assert kinds["rate"] == {"patient", "count", "period", "pooled"} and "andersen_gill" in kinds["rate_ratio"]


def test_the_evidence_is_frozen(evidence):
    with pytest.raises(FrozenInstanceError):
        evidence.studies = {}


def test_the_network_in_text(evidence):
    text = str(evidence.choose("core"))
    assert text.startswith("Evidence: 16 studies, 16 patient sets, 456,144 patients; ")
    assert "randomised (12)" in text and "registry (3)" in text and "single_arm" not in text
    line = next(line for line in text.splitlines() if line.startswith("  stopeck2010_136"))
    assert "P136" in line and "2,046" in line and "zoledronic_acid | denosumab" in line and "fit  10" in line
    assert "  denosumab        [rankl_inhibitor] henry2011_244, stopeck2010_136" in text.splitlines()
    assert "not connected: 2 groups of treatments, which only the mechanism links" in text
    assert "linked only through the mechanism (in no randomised comparison): nivolumab" in text
    assert any(line.startswith("  skeletal events") for line in text.splitlines())


def test_the_network_of_comparisons(evidence):
    found = network.network(evidence.choose("core").studies, shipped_catalogue())
    assert found.comparisons["denosumab", "zoledronic acid"] == ("henry2011_244", "stopeck2010_136")
    assert found.components[1] == ("bintrafusp alfa", "pembrolizumab")
    assert not found.connected and found.alone == ("nivolumab",)
    one = network.network({"zice2014": evidence.studies["zice2014"]}, shipped_catalogue())
    assert one.connected and one.components == (("ibandronate", "zoledronic acid"),)


def test_the_network_in_html(evidence):
    html = evidence.choose("core")._repr_html_()
    assert html.count("<table>") == 4  # three designs, and the endpoints
    assert '<th scope="row">stopeck2010_136</th>' in html
    assert "<td>zoledronic_acid | denosumab</td>" in html
    assert network.page(evidence).startswith("<!doctype html>")
    assert network.summary(evidence)["network"]["connected"] is False


def test_the_template_validates_once_it_is_filled(tmp_path):
    place = write_template("my_trial", tmp_path)
    told = validate(tmp_path)
    assert {problem.field for problem in told} == {"time", "value", "events"}
    path = place / "outcomes.csv"
    rows = path.read_text(encoding="utf-8").splitlines()
    filled = [rows[0]] + [
        line.replace("FILL,month,FILL", "12,month,40").replace("FILL,100", "40,100") for line in rows[1:]
    ]
    path.write_text("\n".join(filled) + "\n", encoding="utf-8")
    assert [str(problem) for problem in validate(tmp_path)] == []
    with pytest.raises(EvidenceError, match="there already"):
        write_template("my_trial", tmp_path)
    with pytest.raises(EvidenceError, match="is not an id"):
        write_template("My Trial", tmp_path)


def test_the_readme_counts_what_ships(evidence):
    text = (DATASETS.parent / "README.md").read_text(encoding="utf-8")
    uses = evidence.outcomes["use"].value_counts()
    said = (
        f"{len(evidence.studies)} studies ship with {len(evidence.outcomes)} published numbers: {uses['fit']} may be fitted, "
        f"{uses['check']} are compared, {uses['no']} stand for the record"
    )
    assert said in " ".join(text.split())


def test_toxicities_of_agents_are_rows_of_the_evidence(evidence):
    """Value, unit and arm of every adverse event that `priors/therapies` quotes."""
    rows = evidence.outcomes.set_index("outcome_id")
    quoted = 0
    for agent in shipped_catalogue().agents.values():
        for toxicity in agent.toxicities:
            row = rows.loc[toxicity.outcome]
            study = evidence.studies[row["study"]]
            value = toxicity.percent if toxicity.percent is not None else toxicity.per_100_patient_years
            assert (toxicity.percent is None) != (toxicity.per_100_patient_years is None), toxicity
            assert row["value"] == value, toxicity
            assert (row["unit"] == "percent") == (toxicity.percent is not None), (toxicity, row["unit"])
            given = " ".join(f"{regimen} {row['arm']}" for _, regimen, _ in study.members(row["arm"])).lower()
            label = next(str(a.label) for a in study.arms if a.id == row["arm"]).lower()
            names = [n.lower() for n in (agent.name, *agent.aliases)]
            assert any(n in given or n in label for n in names), (agent.name, toxicity, given, label)
            quoted += 1
    assert quoted == 78
