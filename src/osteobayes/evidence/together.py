"""Numbers of the same patients: which there are, and which join those that are fitted (level 2)."""

# pandas rows are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from osteobayes.cycle import Catalogue
from osteobayes.evidence.load import Evidence
from osteobayes.evidence.rows import PatientSet
from osteobayes.evidence.uses import statistic_of, unusable
from osteobayes.schema import Study

TOGETHER = ("crude", "median", "rate", "hazard_ratio", "rate_ratio")
"""Families of which numbers may stand in one set of patients, in the order of their residuals."""


@dataclass(frozen=True)
class Entry:
    """One outcome before it is packed."""

    block: str
    outcome: str
    observed: float | np.ndarray
    arguments: tuple
    described: dict


def number_of(family: str, block: str) -> str:
    """What a row is in `observe.patient_set.STATISTICS`; empty if it is none of them."""
    if family == "rate":
        return {"patient": "rate", "count": "count"}.get(block, "")
    if family == "rate_ratio":
        return block if block == "andersen_gill" else ""
    return family if family in ("crude", "median", "hazard_ratio") else ""


def joining(frame: pd.DataFrame, evidence: Evidence, catalogue: Catalogue, last: float) -> pd.Series:
    """Rows that join fitted ones of the same patients: of each arm and endpoint one total, one median, and so on."""
    found: list[str] = []
    taken: set[tuple] = set()
    fitted = frame[frame["use"] == "fit"]
    curves = {
        (r.study, r.endpoint)
        for r in fitted.itertuples()
        if r.statistic in ("survival_at", "event_free_at", "cumulative_incidence")
    }  # a whole curve holds its median, and most of the ratio
    both = frame[(frame["use"] == "fit") | ((frame["use"] == "check") & (frame["rule"] == "same_patients"))]
    for row in both.sort_values("use", ascending=False, kind="stable").itertuples():  # `fit` before `check`
        study = evidence.studies[row.study]
        if row.component or (row.study, row.endpoint) in curves or unusable(row, study, catalogue, last):
            continue
        number = number_of(*statistic_of(row, study))  # pyright: ignore[reportArgumentType]
        overlapping = any(study.arm(a).overlaps for a in (row.arm, row.versus) if a)
        key = (row.study, row.arm, row.versus, row.endpoint, number)
        if row.use == "check" and number and key not in taken and not overlapping:
            found.append(row.outcome_id)
        taken.add(key)
    return frame["outcome_id"].isin(found)


class Together(NamedTuple):
    """Numbers of the same patients and endpoint in the likelihood, as `observe.patient_set` names them."""

    study: str
    endpoint: str
    outcomes: tuple[str, ...]
    places: tuple[int, ...]
    """Where they stand among the residuals of :data:`TOGETHER`."""
    kinds: tuple[tuple[str, int | tuple[int, int]], ...]
    """Statistic, and arm (or arm and reference)."""
    variance: tuple[float, ...]
    """Variance of each arm's log hazard up to a common factor."""

    @property
    def contrasts(self) -> int:
        """How many of the numbers compare two arms."""
        return sum(isinstance(side, tuple) for _, side in self.kinds)


def sets_of(studies: Mapping[str, Study], ordered: Mapping[str, Sequence[Entry]]) -> tuple[Together, ...]:
    """Sets of numbers of the same patients and endpoint, of at least two numbers."""
    groups: dict[tuple[str, str], list[tuple[int, Entry, str]]] = {}
    place = 0
    for family in TOGETHER:
        for e in ordered.get(family, ()):
            d = e.described
            if (number := number_of(family, e.block)) and not d["component"]:
                groups.setdefault((d["study"], d["endpoint"]), []).append((place, e, number))
            place += 1
    out = []
    for (study_id, endpoint), numbers in groups.items():
        if len(numbers) < 2:
            continue
        study = studies[study_id]
        sides = [(e.described["arm"], e.described["versus"]) for _, e, _ in numbers]
        arms = {a: i for i, a in enumerate(dict.fromkeys(x for arm, versus in sides for x in (versus, arm) if x))}
        kinds = tuple(
            (number, (arms[arm], arms[versus]) if versus else arms[arm])
            for (_, _, number), (arm, versus) in zip(numbers, sides, strict=True)
        )
        sizes = [study.arm(a).n for a in arms]
        variance = tuple(1.0 / n for n in sizes if n) if all(sizes) else (1.0,) * len(arms)
        outcomes = tuple(e.outcome for _, e, _ in numbers)
        out.append(Together(study_id, endpoint, outcomes, tuple(i for i, _, _ in numbers), kinds, variance))
    return tuple(out)


def entries_of(
    sets: Sequence[Together], ordered: Mapping[str, Sequence[Entry]], correlation_of: Callable[..., np.ndarray]
) -> list[Entry]:
    """Entries of the sets whose numbers are correlated (arms of a trial are independent)."""
    described = {e.outcome: e.described for entries in ordered.values() for e in entries}
    out = []
    for group in sets:
        correlation = correlation_of(group.kinds, group.variance)
        if np.allclose(correlation, np.eye(len(group.kinds))):
            continue
        name = f"{group.study}/{group.endpoint.lower()}_together"
        words = {"outcome": name, "family": "patient_set", "block": "", "arm": "", "versus": "", "component": ""}
        out.append(Entry("", name, 0.0, (np.array(group.places), correlation), described[group.outcomes[0]] | words))
    return out


def padded(sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> PatientSet:
    """Sets of different size side by side: no number (-1), uncorrelated, where a set has fewer."""
    size = max(len(index) for index, _ in sets)
    indices = np.full((len(sets), size), -1, dtype=np.int32)
    correlations = np.tile(np.eye(size), (len(sets), 1, 1))
    for k, (index, correlation) in enumerate(sets):
        n = len(index)
        indices[k, :n], correlations[k, :n, :n] = index, correlation
    return PatientSet(indices, correlations)
