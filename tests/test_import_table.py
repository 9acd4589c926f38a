"""A long table of published numbers becomes drafts that validate, or questions with their row."""

import csv
import json

import pytest

from osteobayes.cycle import Regimen
from osteobayes.errors import EvidenceError
from osteobayes.evidence import Evidence, validate
from osteobayes.evidence.import_table import drafts, write
from osteobayes.evidence.long_table import COLUMNS, RULES, cancer_of, name_of, read_long_table
from osteobayes.schema import ENDPOINTS, ESTIMATORS, STATISTICS

BASE = {
    "study_id": "TRIAL-1", "trial_name": "Trial 1", "nct": "NCT00000001", "first_author": "Doe", "year": "2001",
    "citation": "Doe J et al. J 2001;1:1-2", "doi": "10.1000/x1", "pmid": "123", "cancer_type": "breast", "arm_label": "ZA 4 mg",
    "treatment": "zoledronic acid", "dose_schedule": "4 mg q3w", "comparator": "placebo", "endpoint": "sre_proportion",
    "followup_months": "12", "n": "200", "value": "40", "unit": "percent", "seen_at": "https://example.org/1",
}  # fmt: skip


def row(**cells):
    return dict.fromkeys(COLUMNS, "") | BASE | cells


def table(tmp_path, *rows, columns=COLUMNS):
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def imported(tmp_path, *rows):
    found, questions = drafts(read_long_table(table(tmp_path, *rows)), "table.csv", lambda t: Regimen.parse(t))
    list(write(found, tmp_path / "out"))
    return found, questions, tmp_path / "out"


def test_a_trial_becomes_a_folder_that_validates(tmp_path):
    placebo = {"arm_label": "placebo", "treatment": "placebo", "dose_schedule": ""}
    _, questions, out = imported(
        tmp_path,
        row(events="80"),
        row(**placebo, value="50", events="100"),
        row(endpoint="sre_hazard_ratio", value="0.75", unit="hazard_ratio", ci_low="0.6", ci_high="0.9", n="400", p_value="0.01"),
        row(endpoint="time_to_first_sre_median", value="", unit="months"),
        row(endpoint="ae_proportion:onj", value="1.5", events="3"),
    )  # fmt: skip
    assert validate(out, check_regimen=lambda t: Regimen.parse(t)) == []
    evidence = Evidence.load(out)
    study, rows = evidence.studies["trial_1"], evidence.outcomes.set_index("outcome_id")
    assert study.design == "randomised" and study.registry == "NCT00000001" and study.follow_up.horizon_months == 12
    assert [(a.id, a.n, a.regimen) for a in study.arms] == [
        ("za_4_mg", 200, "zoledronic acid 4 mg q3w"),
        ("placebo", 200, "placebo"),
    ]
    hr = rows.loc["trial_1/sre_hazard_ratio_za_4_mg_12mo"]
    assert (hr["versus"], hr["value"], hr["low"], hr["high"], hr["level"]) == ("placebo", 0.75, 0.6, 0.9, 0.95)
    assert hr["estimator"] == "cox" and "p 0.01" in hr["note"]
    assert rows.loc["trial_1/sre_median_not_reached_za_4_mg_12mo", "statistic"] == "median_not_reached"
    onj = rows.loc["trial_1/safety_onj_proportion_za_4_mg_12mo"]
    assert (onj["endpoint"], onj["component"], onj["events"], onj["n"]) == ("safety", "onj", 3, 200)
    assert set(rows["use"]) == {"check"}  # what is fitted is a person's choice
    assert {(q.field, q.row) for q in questions} == {("study_id", 2), ("endpoint", 2)}  # design and event definition


def test_what_must_be_decided_is_said_with_its_row(tmp_path):
    found, questions, _ = imported(
        tmp_path,
        row(treatment="best care", dose_schedule=""),
        row(endpoint="moon_phase"),
        row(unit="furlongs"),
        row(value="about 40"),
        row(endpoint="os_hazard_ratio", unit="ratio", comparator=""),
        row(cancer_type="mixed_bone_mets", arm_label="mixed"),
        row(identifiers_to_check="doi;nct;volume_page", citation="another"),
    )
    said = {(q.row, q.field) for q in questions}
    wanted = {
        (2, "treatment"),
        (3, "endpoint"),
        (4, "unit"),
        (5, "value"),
        (6, "comparator"),
        (7, "cancer_type"),
        (8, "doi"),
    }
    assert wanted | {(8, "identifiers_to_check")} <= said
    assert found[0].rows == [2, 7, 8]  # the others wait for an answer
    assert all(q.file == "table.csv" and q.message and q.mend for q in questions)


def test_differences_reductions_and_directions_keep_their_meaning(tmp_path):
    placebo = {"arm_label": "placebo", "treatment": "placebo", "dose_schedule": ""}
    found, _, out = imported(
        tmp_path,
        row(**placebo),
        row(value="-11", unit="percentage_points", ci_low="-20.3", ci_high="-1.8"),
        row(endpoint="bone_recurrence_absolute_reduction", value="2.2", unit="percentage_points_reduction", ci_low="0.6", ci_high="3.8"),
        row(endpoint="orr", value="", value_basis="range_or_direction_only"),
        row(endpoint="os_median", value="12", unit="months", ci_low="3", ci_high="30", ci_level="range"),
    )  # fmt: skip
    assert validate(out, check_regimen=lambda t: Regimen.parse(t)) == []
    by = {o["statistic"]: o for o in found[0].outcomes if o["endpoint"] != "SRE" or o["statistic"] == "risk_difference"}
    reduction = next(o for o in found[0].outcomes if o["endpoint"] == "bone_recurrence")
    assert (reduction["value"], reduction["low"], reduction["high"]) == ("-2.2", "-3.8", "-0.6")
    assert by["bound_range"]["use"] == "no" and by["bound_range"]["note"].startswith("direction_only:")
    assert by["median"]["low"] == "" and "range 3 to 30" in by["median"]["note"]


def test_what_a_table_does_not_tell_apart_is_asked(tmp_path):
    found, questions, out = imported(
        tmp_path,
        row(endpoint="sre_component_proportion:radiation_to_bone"),
        row(endpoint="marker_change:ctx", value="-60"),
        row(endpoint="marker_change:ctx", value="", value_basis="range_or_direction_only"),
        row(endpoint="sre_component_proportion:unheard_of"),
    )
    assert validate(out, check_regimen=lambda t: Regimen.parse(t)) == []
    drafted = [(o["endpoint"], o["component"], o["statistic"]) for o in found[0].outcomes]
    assert drafted == [
        ("SRE", "radiation", "any_event_proportion"),
        ("CTX", "", "percent_change_mean"),
        ("CTX", "", "bound_range"),
    ]
    asked = {
        (q.row, word) for q in questions for word in ("any such event", "as a mean", "unheard_of") if word in q.message
    }
    assert asked == {(2, "any such event"), (3, "as a mean"), (5, "unheard_of")}


def test_cancers_of_one_study_become_arms_of_one_cancer(tmp_path):
    _, _, out = imported(
        tmp_path,
        row(comparator="", endpoint="bm_incidence_proportion", notes="of all diagnosed"),
        row(comparator="", endpoint="bm_incidence_proportion", cancer_type="lung_nsclc", notes="of all diagnosed"),
    )
    assert validate(out) == []
    study = Evidence.load(out).studies["trial_1"]
    assert study.cancer == "mixed" and [study.arm_cancer(a) for a in study.arm_ids] == ["breast", "lung"]


def test_no_study_is_overwritten(tmp_path):
    found, _, out = imported(tmp_path, row())
    with pytest.raises(EvidenceError, match=r"trial_1.*there already"):
        list(write(found, out))


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ([c for c in COLUMNS if c != "unit"], "'unit' is missing"),
        ([*COLUMNS, "endpiont"], "no column 'endpiont'"),
        ([*COLUMNS, "value"], "stands twice"),
    ],
)
def test_a_wrong_header_is_refused_in_words(tmp_path, columns, word):
    with pytest.raises(EvidenceError, match=word):
        read_long_table(table(tmp_path, row(), columns=columns))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(EvidenceError, match="no row"):
        read_long_table(table(tmp_path))
    with pytest.raises(EvidenceError, match="the file is missing"):
        read_long_table(tmp_path / "nothing.csv")
    path = table(tmp_path, row())
    path.write_text(path.read_text() + "one,cell,too,few\n")
    with pytest.raises(EvidenceError, match="4 cells under"):
        read_long_table(path)


def test_rules_use_the_words_of_the_schema():
    for endpoint, statistic, estimator in RULES.values():
        assert endpoint in {*ENDPOINTS, "SRE", "SSE"} and statistic in STATISTICS and estimator in ESTIMATORS


def test_names_and_cancers():
    assert name_of("ZA 4 mg (q3w)") == "za_4_mg_q3w" and name_of("177Lu-PSMA") == "x177lu_psma"
    assert [cancer_of(c) for c in ("prostate_crpc", "liver_hcc", "all_cancers", "lung_and_other_solid", "pooled")] == [
        "prostate", "other_solid", "all_solid", None, None,
    ]  # fmt: skip


def test_the_command_lists_the_questions(tmp_path, capsys):
    from osteobayes.cli import app, guarded

    path = table(tmp_path, row(), row(endpoint="moon_phase"))
    code = guarded(
        lambda: app(["import-table", str(path), "--out", str(tmp_path / "out"), "--json"], standalone_mode=False)
    )
    said = json.loads(capsys.readouterr().out)
    assert code == 0 and said["rows"] == 1 and len(said["drafts"]) == 1
    assert "moon_phase" in next(q["message"] for q in said["questions"] if q["field"] == "endpoint" and q["row"] == 3)
    assert guarded(lambda: app(["import-table", str(path), "--out", str(tmp_path / "out")], standalone_mode=False)) == 2
