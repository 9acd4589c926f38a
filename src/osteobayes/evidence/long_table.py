"""The long table that is imported: its columns, its words as words of the schema, and its reading."""

import re
from dataclasses import replace
from pathlib import Path

from osteobayes.errors import EvidenceError, Problem
from osteobayes.schema import did_you_mean, plain_number, read_table

COLUMNS = (
    "study_id", "trial_name", "nct", "first_author", "year", "citation", "doi", "pmid", "cancer_type", "subgroup", "arm_label",
    "treatment", "dose_schedule", "comparator", "endpoint", "endpoint_detail", "definition_notes", "followup_months", "n", "events",
    "value", "unit", "ci_low", "ci_high", "ci_level", "p_value", "seen_at", "notes", "value_basis", "identifiers_to_check", "overlap_group",
)  # fmt: skip
"""Columns of a long table, in any order; those of :data:`REQUIRED` must be there."""
REQUIRED = ("study_id", "cancer_type", "arm_label", "endpoint", "value", "unit", "seen_at")

NUMBERS = ("followup_months", "n", "events", "value", "ci_low", "ci_high", "ci_level")
"""Columns of numbers: a decimal comma is read in a table that no comma separates."""

UNITS = {
    "percent": "percent", "fraction": "fraction", "months": "month", "days": "day", "weeks": "week", "years": "year",
    "hazard_ratio": "ratio", "ratio": "ratio", "odds_ratio": "ratio", "rate_ratio": "ratio", "risk_ratio": "ratio",
    "events_per_patient_year": "1/year", "events_per_patient": "count", "periods_with_events_per_patient_year": "1/year",
    "percent_reduction": "percent", "percentage_points": "percentage_point", "percentage_points_reduction": "percentage_point",
    "percent_change": "percent_change", "months_difference": "month", "events_per_patient_year_difference": "1/year",
    "patients": "count", "metastases": "count", "per_100000_per_year": "per_100000_years", "per_10000_person_years": "per_10000_years",
    "percent_per_patient_year": "percent_per_year", "hours": "hour", "per_uL": "per_uL", "pixels": "pixel", "fold": "ratio",
}  # fmt: skip
"""Units of the table as units of the schema."""

CANCER_WORDS = {
    "breast": "breast", "prostate": "prostate", "lung": "lung", "multiple_myeloma": "myeloma", "myeloma": "myeloma",
    **dict.fromkeys(("renal", "melanoma", "thyroid", "bladder", "liver", "pancreas", "glioma", "neuroendocrine", "nasopharyngeal", "other_solid"), "other_solid"),
    "all_solid": "all_solid", "all_cancers": "all_solid",
}  # fmt: skip
"""First words of `cancer_type` as cancers."""

RULES: dict[str, tuple[str, str, str]] = {
    "os_median": ("OS", "median", "km"), "os_mean": ("OS", "mean", "km"), "os_hazard_ratio": ("OS", "hazard_ratio", "cox"),
    "os_proportion": ("OS", "survival_at", "km"), "survival_proportion": ("OS", "survival_at", "km"),
    "death_proportion": ("OS", "proportion", "crude"), "os_relative_reduction": ("OS", "relative_risk_reduction", "none"),
    "pfs_median": ("PFS", "median", "km"), "pfs_hazard_ratio": ("PFS", "hazard_ratio", "cox"), "pfs_proportion": ("PFS", "event_free_at", "km"),
    "pfs_relative_improvement": ("PFS", "relative_risk_reduction", "none"),
    "sre_proportion": ("SRE", "proportion", "crude"), "sre_free_proportion": ("SRE", "event_free_at", "km"),
    "sre_hazard_ratio": ("SRE", "hazard_ratio", "cox"), "time_to_first_sre_median": ("SRE", "median", "km"),
    "sre_component_proportion": ("SRE", "any_event_proportion", "crude"), "sre_component_odds_ratio": ("SRE", "odds_ratio", "model"),
    "sre_component_hazard_ratio": ("SRE", "hazard_ratio", "cox"), "sre_component_share": ("SRE", "share_of_events", "crude"),
    "sre_relative_risk_reduction": ("SRE", "relative_risk_reduction", "none"), "skeletal_morbidity_rate": ("SRE", "mean_rate", "none"),
    "smpr": ("SRE", "mean_period_rate", "none"), "smpr_component": ("SRE", "mean_period_rate", "none"),
    "mean_sre_per_patient": ("SRE", "mean_count", "none"), "multiple_event_rate_ratio": ("SRE", "rate_ratio", "andersen_gill"),
    "sre_subsequent_proportion": ("SRE", "proportion", "crude"),
    "sse_proportion": ("SSE", "proportion", "crude"), "sse_hazard_ratio": ("SSE", "hazard_ratio", "cox"),
    "sse_cumulative_incidence": ("SSE", "cumulative_incidence", "aj"), "time_to_first_sse_median": ("SSE", "median", "km"),
    "sse_component_proportion": ("SSE", "any_event_proportion", "crude"), "fracture_rate_ratio": ("SRE", "rate_ratio", "model"),
    "bm_incidence_proportion": ("bone_metastasis", "incidence_proportion", "crude"),
    "bm_cumulative_incidence": ("bone_metastasis", "cumulative_incidence", "km"), "bm_incidence_rate": ("bone_metastasis", "incidence_rate", "none"),
    "bm_share_of_all_bm": ("bone_metastasis", "share_of_events", "crude"), "bone_metastasis_proportion": ("bone_metastasis", "incidence_proportion", "crude"),
    "bm_prevalent_count": ("bone_metastasis", "count", "none"), "bone_metastasis_count": ("bone_metastasis", "count", "none"),
    "bm_prevalence_relative_change": ("bone_metastasis", "percent_change_mean", "none"),
    "time_to_bm_median": ("bone_metastasis", "median", "km"), "time_to_bm_mean": ("bone_metastasis", "mean", "none"),
    "time_to_first_bone_met_hr": ("bone_metastasis", "hazard_ratio", "cox"),
    "visceral_met_cumulative_incidence": ("visceral_metastasis", "cumulative_incidence", "aj"),
    "bone_met_free_survival_hr": ("BMFS", "hazard_ratio", "cox"), "bone_met_free_survival_event_proportion": ("BMFS", "proportion", "crude"),
    "bone_progression_cumulative_incidence": ("bone_progression", "cumulative_incidence", "aj"),
    "time_to_bone_progression_median": ("bone_progression", "median", "km"), "bone_pfs_hazard_ratio": ("bone_progression", "hazard_ratio", "cox"),
    "dfs_hazard_ratio": ("DFS", "hazard_ratio", "cox"), "idfs_hazard_ratio": ("DFS", "hazard_ratio", "cox"), "rfs_hazard_ratio": ("DFS", "hazard_ratio", "cox"),
    "recurrence_rate_ratio": ("recurrence", "rate_ratio", "model"), "distant_recurrence_rate_ratio": ("distant_recurrence", "rate_ratio", "model"),
    "distant_recurrence_hr": ("distant_recurrence", "hazard_ratio", "cox"), "bone_recurrence_rate_ratio": ("bone_recurrence", "rate_ratio", "model"),
    "bone_recurrence_absolute_reduction": ("bone_recurrence", "risk_difference", "km"),
    "breast_cancer_mortality_rate_ratio": ("cancer_death", "rate_ratio", "model"),
    "breast_cancer_mortality_absolute_reduction": ("cancer_death", "risk_difference", "km"),
    "ttp_median": ("TTP", "median", "km"), "dor_median": ("DOR", "median", "km"), "dcr": ("DCR", "responder_proportion", "crude"),
    "orr": ("ORR", "responder_proportion", "crude"), "bone_scan_response_proportion": ("bone_scan", "responder_proportion", "crude"),
    "bone_scan_complete_resolution_proportion": ("bone_scan", "responder_proportion", "crude"),
    "bone_specific_response_proportion": ("bone_response", "responder_proportion", "crude"),
    "pain_response_proportion": ("pain", "responder_proportion", "crude"), "pain_complete_response_proportion": ("pain", "responder_proportion", "crude"),
    "pain_response_odds_ratio": ("pain", "odds_ratio", "model"), "pain_prevalence": ("pain", "prevalence", "crude"),
    "pain_progression_proportion": ("pain", "proportion", "crude"), "pain_progression_hazard_ratio": ("pain", "hazard_ratio", "cox"),
    "psa_progression_median": ("PSA", "median", "km"),
    "untx_change": ("uNTx", "percent_change_mean", "none"), "untx_normalisation_proportion": ("uNTx", "responder_proportion", "crude"),
    "untx_responder_proportion": ("uNTx", "responder_proportion", "crude"), "untx_elevated_baseline_proportion": ("uNTx", "prevalence", "crude"),
    "untx_persistently_elevated_proportion": ("uNTx", "prevalence", "crude"),
    "untx_becomes_elevated_before_sre_or_death": ("uNTx", "proportion", "crude"),
    "study_completion_proportion": ("completion", "completion", "crude"), "followup_median": ("follow_up", "median", "none"),
    "ae_proportion": ("safety", "proportion", "crude"), "ae_cumulative_incidence": ("safety", "cumulative_incidence", "km"),
    "ae_risk_ratio": ("safety", "risk_ratio", "model"), "ae_incidence_rate": ("safety", "incidence_rate", "none"),
    "preclinical_lesion_area": ("lesion_area", "mean", "none"), "preclinical_lesion_area_reduction": ("lesion_area", "percent_change_mean", "none"),
    "preclinical_lesion_count_reduction": ("lesion_count", "percent_change_mean", "none"),
    "preclinical_tumour_burden_reduction": ("tumour_burden", "percent_change_mean", "none"),
    "preclinical_osteoclast_reduction": ("osteoclasts", "percent_change_mean", "none"),
    "preclinical_bone_volume_fold": ("bone_volume", "ratio_of_means", "none"), "pk_half_life": ("half_life", "median", "none"),
    "marker_stratum_relative_risk": ("SRE", "rate_ratio", "model"), "marker_stratum_odds_ratio": ("SRE", "odds_ratio", "model"),
    "marker_stratum_hazard_ratio": ("OS", "hazard_ratio", "cox"), "marker_response_hazard_ratio": ("OS", "hazard_ratio", "cox"),
    "bma_use_proportion": ("bone_agent_use", "prevalence", "crude"), "lesion_type_proportion": ("lesion_type", "prevalence", "crude"),
}  # fmt: skip
"""Endpoint, statistic and estimator of each `endpoint` of the table (before its colon)."""
MARKERS = {
    "bone_alp": "BSAP",
    "bsap": "BSAP",
    "total_alp": "ALP",
    "alp": "ALP",
    "ldh": "LDH",
    "psa": "PSA",
    "platelets": "platelets",
    "wbc": "white_cells",
    "pthrp": "PTHrP",
    "ctx": "CTX",
    "p1np": "P1NP",
}
MARKER_RULES = {
    "marker_change": ("percent_change_mean", "none"), "marker_response_proportion": ("responder_proportion", "crude"),
    "marker_progression_hazard_ratio": ("hazard_ratio", "cox"), "marker_nadir": ("mean", "none"),
    "preclinical_marker_ratio": ("ratio_of_means", "none"),
}  # fmt: skip
COMPONENT_WORDS = {
    "pathologic_fracture": "fracture", "pathologic_fracture_vertebral": "fracture", "pathologic_fracture_nonvertebral": "fracture",
    "fracture": "fracture", "radiation_to_bone": "radiation", "surgery_to_bone": "surgery", "spinal_cord_compression": "cord_compression",
    "hypercalcaemia": "hypercalcaemia",
}  # fmt: skip
GUESSES = {
    "percent_change_mean": ("a percent change is drafted as a mean", "read whether it is a mean or a median"),
    "any_event_proportion": (
        "a component is drafted as the share with any such event",
        "read whether the table is of any event or of the first (first_event_proportion)",
    ),
}
"""Statistics that a table does not tell apart from another one: what is drafted, and what to look up."""
DIFFERENCES = {"percentage_points": "risk_difference", "percentage_points_reduction": "risk_difference"}
CORE = ["fracture", "radiation", "surgery", "cord_compression"]

Line = dict[str, str]


def read_long_table(path: Path) -> list[Line]:
    """Rows of a long table with every column of :data:`COLUMNS` (empty where the file has none) and ``line``.

    Raises
    ------
    EvidenceError
        If the file cannot be read, or its header is not that of a long table.
    """
    name = path.name
    table = read_table(path, COLUMNS)
    if table.problems:
        raise EvidenceError([replace(problem, file=name) for problem in table.problems])
    header, line = table.header, table.header_row
    problems = [
        Problem(name, line, c, f"the column {c!r} is missing", "add it (datasets/README.md)")
        for c in REQUIRED
        if c not in header
    ]
    problems += [
        Problem(name, line, c, f"there is no column {c!r}", did_you_mean(c, COLUMNS))
        for c in header
        if c not in COLUMNS
    ]
    problems += [
        Problem(name, line, c, "the column stands twice", "remove one")
        for c in sorted({c for c in header if header.count(c) > 1})
    ]
    rows = []
    for i, cells in table.rows:
        if len(cells) != len(header):
            mend = "quote cells that hold the separator"
            problems.append(Problem(name, i, "", f"{len(cells)} cells under {len(header)} columns", mend))
            continue
        row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=True)) | {"line": str(i)}
        for c in NUMBERS if table.decimal_comma else ():
            row[c] = plain_number(row[c], True)[0]
        rows.append(row)
    if not rows and not problems:
        problems = [Problem(name, None, "", "the table holds no row", "add one row a published number")]
    if problems:
        raise EvidenceError(problems)
    return rows


def name_of(text: str) -> str:
    """Text as an id: lower-case words joined by underscores."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"
    return word if word[0].isalpha() else f"x{word}"


def cancer_of(text: str) -> str | None:
    """Cancer of a `cancer_type`; None for a mixture, whose weights only a person can look up."""
    word = text.removeprefix("preclinical_")
    for first, cancer in sorted(CANCER_WORDS.items(), key=lambda pair: -len(pair[0])):
        if word == first or word.startswith(f"{first}_"):
            return None if "_and_" in word and cancer != "all_solid" else cancer
    return None


def is_number(text: str) -> bool:
    """Whether a cell is one plain number."""
    return re.fullmatch(r"[-+]?\d+(\.\d+)?", text) is not None
