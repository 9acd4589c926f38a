"""Broken inputs: each folder of `bad_files` is refused at the right place, in words that say what is wrong and how to mend it.

A case is a small folder of datasets (or a long table, `command: import-table`) with one defect, and `expected.yaml`: the `file`,
`row` and `field` of the problem, a phrase that its message `says`, a phrase of its `mend`, and how many `others` there are.
"""

from pathlib import Path

import pytest
import yaml

from osteobayes.cycle import Regimen
from osteobayes.errors import EvidenceError
from osteobayes.evidence import Evidence, validate
from osteobayes.evidence.long_table import read_long_table

BAD = Path(__file__).parent / "bad_files"
CASES = sorted(path.name for path in BAD.iterdir() if path.is_dir())
KEYS = {"file", "row", "field", "says", "mend"}


def expectation(case):
    return yaml.safe_load((BAD / case / "expected.yaml").read_text(encoding="utf-8"))


def parse(text):
    Regimen.parse(text)


def read(case, command):
    """Problems of a case, and the text of the error that a user gets."""
    if command == "import-table":
        with pytest.raises(EvidenceError) as raised:
            read_long_table(BAD / case / "table.csv")
        return raised.value.problems, str(raised.value)
    problems = validate(BAD / case, check_regimen=parse)
    with pytest.raises(EvidenceError) as raised:
        Evidence.load(BAD / case, check_regimen=parse)
    return problems, str(raised.value)


@pytest.mark.parametrize("case", CASES)
def test_bad_files(case):
    expected = expectation(case)
    problems, text = read(case, expected.get("command"))
    told = [str(problem) for problem in problems]
    assert len(problems) == 1 + expected.get("others", 0), told
    file = expected["file"] if "command" in expected else (BAD / case / expected["file"]).as_posix()
    places = [(problem.file, problem.row, problem.field) for problem in problems]
    assert (file, expected["row"], expected["field"]) in places
    found = [problem for problem in problems if expected["says"] in problem.message]
    assert len(found) == 1, told
    assert (found[0].file, found[0].row, found[0].field) == (file, expected["row"], expected["field"])
    assert expected["mend"] in found[0].mend
    for line in told:
        assert "\n" not in line and line in text


def test_there_are_enough_cases_and_each_says_what_it_expects():
    assert len(CASES) >= 85
    for case in CASES:
        expected = expectation(case)
        assert KEYS <= set(expected) <= {*KEYS, "others", "command"}, case
        assert expected["says"] and expected["mend"], case
        assert expected.get("command", "import-table") == "import-table", case


def test_the_small_trial_without_its_defect_is_good(tmp_path):
    place = tmp_path / "trial"
    place.mkdir()
    for name in ("study.yaml", "outcomes.csv"):
        text = (BAD / "events_above_n" / "trial" / name).read_text(encoding="utf-8")
        (place / name).write_text(text.replace(",130,100,", ",30,100,"), encoding="utf-8")
    assert [str(problem) for problem in validate(tmp_path, check_regimen=parse)] == []
