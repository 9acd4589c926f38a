"""A long table of published numbers becomes draft study folders; what a person must decide is said row by row.

The columns are those of ``datasets/README.md``. A draft is a starting point: regimens that cannot be read stay empty, an event
definition is a guess that is named as one, and no row is marked `fit`.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from osteobayes.errors import EvidenceError, Problem, RegimenError
from osteobayes.evidence.checks import SHARES
from osteobayes.schema import (
    ADVERSE_EVENTS,
    COMPONENTS,
    CONTRASTS,
    DENOMINATORS,
    ENDPOINTS,
    OUTCOME_COLUMNS,
    TIME_UNITS,
    did_you_mean,
    plain_number,
    read_table,
    time_in_years,
)

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

CheckRegimen = Callable[[str], None]
Line = dict[str, str]
ArmKey = tuple[str, str, str]
Arms = dict[ArmKey, dict[str, Any]]


def arm_key(row: Line) -> ArmKey:
    """What tells the arms of a study apart: label, subgroup, cancer."""
    return row["arm_label"], row["subgroup"], row["cancer_type"]


@dataclass
class Draft:
    """Draft of one study folder."""

    id: str
    study: dict[str, Any]
    outcomes: list[dict[str, str]]
    rows: list[int] = field(default_factory=list)
    """Lines of the table that became an outcome, in the order of ``outcomes``."""


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


def _number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d+)?", text) is not None


@dataclass
class _Importer:
    """One study's rows on their way to a draft; ``problems`` are the decisions that are left to a person."""

    file: str
    rows: list[Line]
    check_regimen: CheckRegimen
    problems: list[Problem] = field(default_factory=list)

    def ask(self, row: Line, column: str, message: str, mend: str) -> None:
        """A person must decide."""
        self.problems.append(Problem(self.file, int(row["line"]), column, message, mend))

    def regimen(self, row: Line) -> str | None:
        """Regimen text of an arm if it can be read."""
        for text in (f"{row['treatment']} {row['dose_schedule']}".strip(), row["treatment"]):
            try:
                self.check_regimen(text)
            except RegimenError:
                continue
            if text:
                return text
        return None

    @property
    def pure(self) -> bool:
        """Whether all rows are of one cancer."""
        cancers = {cancer_of(r["cancer_type"]) for r in self.rows}
        return len(cancers) == 1 and None not in cancers

    def arms(self) -> Arms:
        """Arms in the order of the table."""
        found: Arms = {}
        several = len({r["cancer_type"] for r in self.rows}) > 1
        for row in self.rows:
            key = arm_key(row)
            if key not in found:
                words = [row["arm_label"] or "all", row["subgroup"], row["cancer_type"] if several else ""]
                words = [w for w in words if w]
                arm = self.unused(name_of(" ".join(words)), (a["id"] for a in found.values()))
                found[key] = {"id": arm, "label": ", ".join(words), "n": None, "regimen": self.regimen(row)}
                if found[key]["regimen"] is None and row["treatment"]:
                    text = f"{row['treatment']} {row['dose_schedule']}".strip()
                    message = f"arm {arm!r}: {text!r} is not a regimen that can be read"
                    self.ask(row, "treatment", message, "write its regimen in study.yaml, or leave it null")
                cancer = cancer_of(row["cancer_type"])
                if not self.pure and cancer is not None:
                    found[key]["cancer"] = cancer
                elif not self.pure:
                    message = f"arm {arm!r} holds {row['cancer_type']}"
                    self.ask(
                        row, "cancer_type", message, "give its `mix` in study.yaml, with the source of the weights"
                    )
            if row["n"].isdigit() and self.statistic(row) not in CONTRASTS:
                found[key]["n"] = max(found[key]["n"] or 0, int(row["n"]))
        for (label, subgroup, cancer), arm in found.items():
            whole = found.get((label, "", cancer))
            if subgroup and whole is not None:
                arm["overlaps"] = [whole["id"]]
        return found

    def unused(self, name: str, taken: Iterable[str]) -> str:
        """The name, with a number behind it if it is taken."""
        taken, found, k = set(taken), name, 2
        while found in taken:
            found, k = f"{name}_{k}", k + 1
        return found

    def statistic(self, row: Line) -> str | None:
        """Statistic of a row; None if no rule knows its endpoint."""
        rule = self.rule(row)
        return rule[1] if rule else None

    def rule(self, row: Line) -> tuple[str, str, str, str] | None:
        """Endpoint, statistic, estimator and component of a row; None if no rule knows its endpoint."""
        base, _, detail = row["endpoint"].partition(":")
        marker = next((m for word, m in MARKERS.items() if detail.lower().startswith(word)), None)
        if base in RULES:
            endpoint, statistic, estimator = RULES[base]
        elif base in MARKER_RULES and marker is not None:
            endpoint, (statistic, estimator) = marker, MARKER_RULES[base]
        else:
            return None
        component = COMPONENT_WORDS.get(detail, "")
        if endpoint == "safety":
            component = detail if detail in ADVERSE_EVENTS else ""
        if "_component_" in base and endpoint in ("SRE", "SSE") and not component:
            return None
        if row["value_basis"] == "range_or_direction_only":
            return endpoint, "bound_range", "none", component
        unit = row["unit"]
        if unit in DIFFERENCES and statistic not in CONTRASTS:
            statistic = DIFFERENCES[unit]
        elif unit == "percent_reduction":
            statistic = "relative_risk_reduction"
        elif unit.endswith("_difference"):
            statistic = "difference"
        elif unit == "rate_ratio":
            statistic = "rate_ratio"
        elif statistic == "median" and not row["value"]:
            statistic = "median_not_reached"
        return endpoint, statistic, estimator, component

    def reference(self, row: Line, arms: Arms) -> str:
        """Id of the arm that a contrast is against; one is added if the table has no row of it."""
        wanted, own = row["comparator"], arm_key(row)
        for key, arm in arms.items():
            treatments = {r["treatment"] for r in self.rows if arm_key(r) == key}
            if key != own and key[1:] == own[1:] and wanted in {key[0], *treatments}:
                return arm["id"]
        key = (f"{wanted} (comparator)", *own[1:])
        if key not in arms:
            name = self.unused(
                name_of(" ".join(w for w in (wanted, row["subgroup"]) if w)), (a["id"] for a in arms.values())
            )
            arms[key] = {
                "id": name,
                "label": wanted,
                "n": None,
                "regimen": self.regimen({"treatment": wanted, "dose_schedule": ""}),
            }
            if "cancer" in arms[own]:
                arms[key]["cancer"] = arms[own]["cancer"]
        return arms[key]["id"]

    def sources(self) -> tuple[list[dict[str, Any]], dict[tuple[str, ...], str]]:
        """Sources of `study.yaml`, and the id of each citation."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in self.rows:
            key = (row["citation"], row["doi"], row["pmid"])
            if key not in found:
                base = name_of(f"{row['first_author'] or row['study_id']}{row['year']}")
                name = self.unused(base, (s["id"] for s in found.values()))
                doubtful = row["identifiers_to_check"].split(";")
                source: dict[str, Any] = {
                    "id": name,
                    "citation": row["citation"] or row["trial_name"] or row["study_id"],
                }
                if row["year"].isdigit():
                    source["year"] = int(row["year"])
                for kind in ("doi", "pmid"):
                    if row[kind] and kind not in doubtful:
                        source[kind] = row[kind]
                    elif row[kind]:
                        self.ask(
                            row,
                            kind,
                            f"{row[kind]} was recalled, not read, and is left out",
                            "look it up and add it to the source, or leave it empty",
                        )
                for kind in doubtful:
                    if kind and kind not in ("doi", "pmid", "nct"):
                        self.ask(
                            row,
                            "identifiers_to_check",
                            f"the {kind.replace('_', ' ')} of source {name!r} is not certain",
                            "look it up",
                        )
                source["seen_at"] = []
                found[key] = source
            if row["seen_at"] and row["seen_at"] not in found[key]["seen_at"]:
                found[key]["seen_at"].append(row["seen_at"])
        return list(found.values()), {key: s["id"] for key, s in found.items()}

    def outcome(self, row: Line, study: str, arms: Arms, source: str) -> dict[str, str] | None:
        """One row of `outcomes.csv`; None, with what must be decided, if the table's row cannot become one."""
        rule = self.rule(row)
        if rule is None:
            self.ask(
                row,
                "endpoint",
                f"no statistic is known for {row['endpoint']!r}",
                "write the outcome by hand, or list the row as not converted",
            )
            return None
        endpoint, statistic, estimator, component = rule
        unit = UNITS.get(row["unit"], "")
        if not unit:
            self.ask(
                row,
                "unit",
                f"the unit {row['unit']!r} is none of the schema's",
                "convert the number by hand, saying so in its note",
            )
            return None
        if statistic.startswith("percent_change"):
            unit = "percent_change"
        if statistic in GUESSES:
            self.ask(row, "endpoint", *GUESSES[statistic])
        for column in ("value", "ci_low", "ci_high"):
            if row[column] and not _number(row[column]):
                self.ask(row, column, f"{row[column]!r} is not a number", "write the number; words go into the note")
                return None
        out = dict.fromkeys(OUTCOME_COLUMNS, "")
        notes = [
            row["endpoint_detail"],
            row["endpoint"] if ":" in row["endpoint"] else "",
            row["definition_notes"],
            row["notes"],
        ]
        if row["value_basis"] not in ("", "as_reported"):
            notes.insert(0, row["value_basis"].replace("_", " "))
        if row["p_value"]:
            notes.append(f"p {row['p_value']}")
        value, low, high = row["value"], row["ci_low"], row["ci_high"]
        if statistic == "bound_range" and value:
            low, high, value = value, value, ""
        if row["unit"] == "percentage_points_reduction" or row["endpoint"].partition(":")[0].endswith("_reduction"):
            notes.insert(0, f"printed as a reduction of {value}")
            value, low, high = (f"-{x}" if x else "" for x in (value, high, low))
        if row["ci_level"] and not _number(row["ci_level"]):
            notes.append(f"{row['ci_level']} {low} to {high}")
            low = high = ""
        level = "" if not (low or high) or statistic == "bound_range" else f"{float(row['ci_level'] or 95) / 100:g}"
        direction = row["value_basis"] == "range_or_direction_only"
        out |= {
            "arm": arms[arm_key(row)]["id"], "endpoint": endpoint, "component": component, "statistic": statistic,
            "time": row["followup_months"], "time_unit": "month" if row["followup_months"] else "", "value": value, "unit": unit,
            "low": low, "high": high, "level": level, "estimator": estimator, "events": row["events"], "n": row["n"],
            "use": "no" if direction else "check", "source": source, "where": row["seen_at"],
        }  # fmt: skip
        if row["followup_months"] and not _number(row["followup_months"]):
            self.ask(row, "followup_months", f"{row['followup_months']!r} is not a number", "write the months")
            out["time"] = out["time_unit"] = ""
        if statistic in CONTRASTS:
            if not row["comparator"]:
                self.ask(
                    row,
                    "comparator",
                    f"a {statistic} is of two arms, but the comparator is empty",
                    "name the reference arm",
                )
                return None
            out["versus"] = self.reference(row, arms)
        text = "; ".join(dict.fromkeys(t for t in notes if t))
        out["note"] = f"{'direction_only' if direction else 'undecided'}: {text}"
        if endpoint == "bone_metastasis" and statistic in SHARES:
            out["denominator"] = "diagnosed"
            message = f"the {statistic} of bone metastasis is drafted as a share of all diagnosed"
            self.ask(row, "endpoint", message, f"choose its denominator: {', '.join(DENOMINATORS)}")
        parts = [endpoint, component, statistic, out["arm"], f"{row['followup_months']}mo" if out["time"] else ""]
        out["outcome_id"] = f"{study}/{name_of('_'.join(p for p in parts if p))}"
        return out

    def draft(self) -> Draft:
        """The draft of the study."""
        first = self.rows[0]
        study = name_of(first["study_id"])
        arms = self.arms()
        sources, source_of = self.sources()
        outcomes, lines = [], []
        for row in self.rows:
            out = self.outcome(row, study, arms, source_of[row["citation"], row["doi"], row["pmid"]])
            if out is None:
                continue
            out["outcome_id"] = self.unused(out["outcome_id"], (o["outcome_id"] for o in outcomes))
            outcomes.append(out)
            lines.append(int(row["line"]))
        events = {}
        for endpoint in sorted({o["endpoint"] for o in outcomes} - set(ENDPOINTS)):
            more = sorted({o["component"] for o in outcomes if o["endpoint"] == endpoint} & set(COMPONENTS) - set(CORE))
            events[endpoint] = {
                "components": [*CORE, *more], "detection": "symptomatic" if endpoint == "SSE" else "clinical", "death": "competing",
                "note": "draft: the four core components and those that a row names; check against the paper",
            }  # fmt: skip
            self.ask(
                first,
                "endpoint",
                f"the event definition of {endpoint!r} in study {study!r} is a guess",
                "read the paper: components, detection, death",
            )
        contrast = any(o["versus"] for o in outcomes)
        preclinical = first["cancer_type"].startswith("preclinical_")
        self.ask(
            first,
            "study_id",
            f"design and follow-up of study {study!r} are guesses",
            "read the paper: design, law of follow-up, horizon, accrual",
        )
        longest = max(
            (
                float(r["followup_months"])
                for r in self.rows
                if _number(r["followup_months"]) and float(r["followup_months"]) > 0
            ),
            default=None,
        )
        medians = [
            12.0 * time_in_years(float(o["value"]), o["unit"])
            for o in outcomes
            if o["statistic"] == "median" and o["value"] and o["unit"] in TIME_UNITS
        ]
        if longest is not None and max(medians, default=0.0) > longest:
            longest = None  # what the rows say is no horizon of the study
        doubtful = "nct" in first["identifiers_to_check"].split(";")
        if doubtful and first["nct"]:
            self.ask(first, "nct", f"{first['nct']} was recalled, not read, and is left out", "look it up")
        registry = first["nct"] if re.fullmatch(r"NCT\d{8}", first["nct"]) and not doubtful else None
        document = {
            "format": 1, "id": study, "title": first["trial_name"] or first["study_id"], "registry": registry,
            "design": "preclinical" if preclinical else "randomised" if contrast else "cohort",
            "cancer": cancer_of(first["cancer_type"]) if self.pure else "mixed",
            "setting": ", ".join(dict.fromkeys(r["cancer_type"] for r in self.rows)), "years": None,
            "patients": first["overlap_group"] or study.upper(), "follow_up": {"law": "staggered", "horizon_months": longest},
            "events": events, "arms": list(arms.values()), "sources": sources, "notes": [],
        }  # fmt: skip
        return Draft(study, document, outcomes, lines)


def drafts(rows: Iterable[Line], file: str, check_regimen: CheckRegimen) -> tuple[list[Draft], list[Problem]]:
    """Drafts of the studies of a table in order, and what a person must decide, by row.

    Parameters
    ----------
    rows
        From :func:`read_long_table`.
    file
        Name of the table, for the messages.
    check_regimen
        Raises `RegimenError` for a regimen text that cannot be read.
    """
    studies: dict[str, list[Line]] = {}
    for row in rows:
        studies.setdefault(name_of(row["study_id"]), []).append(row)
    found, problems = [], []
    for lines in studies.values():
        importer = _Importer(file, lines, check_regimen)
        found.append(importer.draft())
        problems += importer.problems
    return found, sorted(problems, key=lambda p: (p.row or 0, p.field))


def write(found: Iterable[Draft], out: Path) -> Iterator[Path]:
    """Write each draft as a study folder.

    Raises
    ------
    EvidenceError
        If a folder of that name is there already.
    """
    found = list(found)
    there = [d.id for d in found if (out / d.id).exists()]
    if there:
        raise EvidenceError(
            [
                Problem(
                    f"{out.name}/{name}",
                    None,
                    "",
                    "the folder is there already",
                    "choose another --out, or merge by hand",
                )
                for name in there
            ]
        )
    for draft in found:
        folder = out / draft.id
        folder.mkdir(parents=True)
        text = yaml.safe_dump(_plain(draft.study), sort_keys=False, allow_unicode=True, width=120)
        (folder / "study.yaml").write_text(
            f"# yaml-language-server: $schema=../study.schema.json\n{text}", encoding="utf-8"
        )
        with (folder / "outcomes.csv").open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, OUTCOME_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(draft.outcomes)
        yield folder


def _plain(study: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in study.items() if v not in ({}, [])}
