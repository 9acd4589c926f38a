"""Every number that was handed over is in `datasets/`, or listed with its reason; a seeded quarter is compared cell by cell.

`reference/evidence_sample.csv` was copied before the conversion and is not edited. `reference/reconciliation.csv` says where each
of the 995 rows went, which cells differ on purpose, and why.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

import pytest

from osteobayes import paths
from osteobayes.evidence import Evidence
from osteobayes.evidence.long_table import UNITS
from osteobayes.schema import CONTRASTS, time_in_years

REFERENCE = Path(__file__).parent / "reference"
HANDED_OVER = {
    "bone_modifying_agents.csv": 323,
    "other_therapies_and_incidence.csv": 534,
    "additional_outcomes.csv": 138,
}
FACTS = 374


def table(name):
    with (REFERENCE / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


SAMPLE = table("evidence_sample.csv")
PLACES = {(row["file"], row["line"]): row for row in table("reconciliation.csv")}


@pytest.fixture(scope="module")
def evidence():
    return Evidence.load(paths.shipped("datasets"))


@pytest.fixture(scope="module")
def outcomes(evidence):
    return evidence.outcomes.set_index("outcome_id")


def test_the_rows_reconcile(outcomes):
    expected = {(file, str(line)) for file, n in HANDED_OVER.items() for line in range(2, n + 2)}
    assert set(PLACES) == expected and len(expected) == 995
    listed = [row for row in PLACES.values() if not row["outcome_id"]]
    assert all(row["reason"] for row in listed)
    missing = {row["outcome_id"] for row in PLACES.values() if row["outcome_id"]} - set(outcomes.index)
    assert missing == set()
    assert len(listed) == 1  # a contrast between two groups that no study of the evidence randomised
    assert all(row["reason"] for row in PLACES.values() if row["differs"])


def test_no_study_was_left_out():
    studies = defaultdict(list)
    for row in PLACES.values():
        studies[row["study_id"]].append(row["outcome_id"])
    assert len(studies) == 167
    assert [study for study, ids in studies.items() if not any(ids)] == []


def test_every_design_fact_is_there(evidence):
    assert len(evidence.facts) == FACTS


def number(text):
    return float(text) if re.fullmatch(r"[-+]?\d+(\.\d+)?", text or "") else None


def same(one, two):
    """Whether two numbers agree; a reduction may be kept as a negative change."""
    return one == two if one is None or two is None else abs(abs(one) - abs(two)) < 1e-9


def absent(value):
    """None for a missing value of pandas."""
    return None if value != value or str(value) == "<NA>" else float(value)


@pytest.mark.parametrize("row", SAMPLE, ids=lambda row: f"{row['file']}:{row['line']}")
def test_a_seeded_quarter_agrees_with_the_datasets(row, outcomes, evidence):
    place = PLACES[row["file"], row["line"]]
    if not place["outcome_id"]:
        assert place["reason"]
        return
    found, differs = outcomes.loc[place["outcome_id"]], place["differs"].split()
    wrong = []
    # value; the ends of a printed range are not one value
    if "value" not in differs and found["statistic"] != "bound_range":
        if not same(number(row["value"]), absent(found["value"])):
            wrong.append(("value", row["value"], found["value"]))
    # interval: exchanged where the sign was changed; a range or an IQR is no interval
    handed = [number(row["ci_low"]), number(row["ci_high"])]
    kept = [absent(found["low"]), absent(found["high"])]
    if not (row["ci_level"] or "95").replace(".", "").isdigit() or found["statistic"] == "bound_range":
        handed = kept
    if not ({"low", "high"} & set(differs)):
        if not (all(map(same, handed, kept)) or all(map(same, handed, reversed(kept)))):
            wrong.append(("interval", handed, kept))
        level = float(row["ci_level"]) / 100 if number(row["ci_level"]) else 0.95
        if kept != [None, None] and found["statistic"] != "bound_range" and abs(found["level"] - level) > 1e-9:
            wrong.append(("level", level, found["level"]))
    for column in ("n", "events"):
        if row[column] and column not in differs and absent(found[column]) != number(row[column]):
            wrong.append((column, row[column], found[column]))
    unit = UNITS.get(row["unit"])
    relative = {"percent": ("percent_change", "percentage_point")}.get(unit, ())
    if "unit" not in differs and found["unit"] != unit and found["unit"] not in relative:
        wrong.append(("unit", row["unit"], found["unit"]))
    # the horizon of a number; of a median it is the follow-up, which study.yaml may hold instead
    landmark = found["statistic"] in ("survival_at", "event_free_at", "cumulative_incidence", "proportion")
    if row["followup_months"] and "time" not in differs and (landmark or absent(found["time"]) is not None):
        months = absent(found["time"])
        months = None if months is None else 12 * time_in_years(months, found["time_unit"])
        if months is None or abs(months - float(row["followup_months"])) > 0.02 * float(row["followup_months"]) + 0.01:
            wrong.append(("time", row["followup_months"], months))
    study = evidence.studies[found["study"]]
    labels = [study.arm(name).label for name in (found["arm"], found["versus"]) if name]
    renamed = RENAMED.get((row["study_id"], row["arm_label"])) == found["arm"]
    if not renamed and not words(row) & set().union(*(tokens(f"{label} {found['arm']}") for label in labels)):
        wrong.append(("arm", row["arm_label"], labels))
    assert found["statistic"] == "bound_range" or (found["statistic"] in CONTRASTS) == bool(found["versus"])
    assert wrong == [], wrong


#: Arms whose label has no word of the handed-over one: they are of no treatment but of a moment.
RENAMED = {("COUAA301", "baseline"): "all", ("PEMBRO1L_SRE", "at ICI start"): "all"}

SYNONYMS = {
    "za": "zoledronic", "zoledronate": "zoledronic", "pbo": "placebo", "den": "denosumab", "bm": "bone", "bms": "bone",
    "ra": "radium", "eve": "everolimus", "exe": "exemestane", "icis": "ici", "mm": "myeloma", "ebrt": "radiotherapy",
}  # fmt: skip


def tokens(text):
    """Words of a label, synonyms made one."""
    return {SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+|\d+", text.lower().replace("_", " "))} - {"mg", ""}


def words(row):
    """Words that name the arm of a handed-over row."""
    return tokens(" ".join((row["arm_label"], row["subgroup"], row["treatment"], row["cancer_type"])))


def test_handed_over_arms_stay_apart(outcomes):
    """Within one study, rows of one label are of one arm, unless their cancer or subgroup differs."""
    arms = defaultdict(set)
    for row in SAMPLE:
        place = PLACES[row["file"], row["line"]]
        if place["outcome_id"] and outcomes.loc[place["outcome_id"], "statistic"] not in CONTRASTS:
            arms[place["outcome_id"].partition("/")[0], outcomes.loc[place["outcome_id"], "arm"]].add(row["arm_label"])
    for (study, arm), labels in arms.items():
        treated = {label for label in labels if re.search(r"placebo|control", label, re.IGNORECASE)}
        assert not treated or treated == labels, f"{study}: arm {arm} holds {sorted(labels)}"
