"""A long table of published numbers becomes draft study folders; what a person must decide is said row by row.

The columns are those of ``datasets/README.md``. A draft is a starting point: regimens that cannot be read stay empty, an event
definition is a guess that is named as one, and no row is marked `fit`.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from osteobayes.errors import EvidenceError, Problem, RegimenError
from osteobayes.evidence.checks import SHARES
from osteobayes.evidence.long_table import (
    COMPONENT_WORDS,
    CORE,
    DIFFERENCES,
    GUESSES,
    MARKER_RULES,
    MARKERS,
    RULES,
    UNITS,
    Line,
    cancer_of,
    is_number,
    name_of,
)
from osteobayes.schema import (
    ADVERSE_EVENTS,
    COMPONENTS,
    CONTRASTS,
    DENOMINATORS,
    ENDPOINTS,
    OUTCOME_COLUMNS,
    TIME_UNITS,
    time_in_years,
)

CheckRegimen = Callable[[str], None]
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
            if row[column] and not is_number(row[column]):
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
        if row["ci_level"] and not is_number(row["ci_level"]):
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
        if row["followup_months"] and not is_number(row["followup_months"]):
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
                if is_number(r["followup_months"]) and float(r["followup_months"]) > 0
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
