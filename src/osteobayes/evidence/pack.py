"""From the table of published numbers to arrays with named coordinates: what the likelihood takes as data."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pandas as pd
from jaxtyping import Float

from osteobayes.cycle import Catalogue, Cell, Grid, Regimen
from osteobayes.errors import OsteobayesError
from osteobayes.evidence.load import Evidence
from osteobayes.evidence.rows import PACKED, Arms, real_members
from osteobayes.evidence.together import Entry, Together, entries_of, joining, padded, sets_of
from osteobayes.evidence.uses import FAMILIES, KINDS, as_ratio, beyond, kind_of, statistic_of, unusable
from osteobayes.schema import CANCERS, COMPONENTS, DETECTIONS, TRIALS, Study
from osteobayes.schema.reading import did_you_mean

_UNSEEN = 10_000
ONSET_YEARS = np.concatenate([[0.0], np.geomspace(0.01, 9.0, 90)])
"""Grid (years) of the onset model of registries."""
ONSET_KINDS = ("bone_metastasis", "BMFS")
BONE_AGENT = "zoledronic acid"
"""What patients on an unnamed bone agent at entry are taken to receive."""
PERIOD_YEARS = 12 * 7 / 365.25
"""Length of a period of the skeletal morbidity period rate: 12 weeks (Coleman, Body, Lipton; trials of ibandronate)."""
RESPONSE_MONTHS = 12 * 7 / 30.4375
"""When a response of pain or of a marker is read where no source prints it: 12 weeks."""


@dataclass(frozen=True)
class Packed:
    """Everything that the likelihood takes as data.

    Attributes
    ----------
    cells, grid
        What has to be solved, on which time grid.
    arms
        Arms by kind.
    arm_ids
        Study, arm and event definition (with a component, if only that counts) of each arm, by kind.
    data
        Arrays by family; families with kinds hold one entry a kind.
    observed
        Observed values by family, in the order of ``outcomes``.
    outcomes
        Outcome ids by family (a split or a curve is one outcome).
    weights
        Weight of each outcome in the likelihood (1).
    coords
        Coordinates of study-level parameters.
    table
        One row an outcome: family, study, arm, endpoint, cancer, classes.
    together
        Sets of numbers of the same patients and endpoint.
    assumed
        Sentences: what was assumed where no source prints it.
    left_out
        Rows with the wanted use that the model cannot use, and why.
    """

    cells: tuple[Cell, ...]
    grid: Grid
    arms: dict[str, Arms]
    arm_ids: dict[str, tuple[tuple[str, str, str], ...]]
    data: dict
    observed: dict[str, np.ndarray]
    outcomes: dict[str, tuple[str, ...]]
    weights: dict[str, np.ndarray]
    coords: dict[str, tuple[str, ...]]
    table: pd.DataFrame
    together: tuple[Together, ...] = ()
    assumed: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def column(self, family: str, name: str) -> np.ndarray | None:
        """One array of a family, its blocks joined in the order of ``outcomes``; None if its rows have none of that name."""
        rows = self.data[family]
        blocks = list(rows.values()) if isinstance(rows, dict) else [rows]
        if not hasattr(blocks[0], name):
            return None
        longest = max((np.shape(getattr(b, name))[1:2] for b in blocks), default=())
        arrays = [np.asarray(getattr(b, name)) for b in blocks]
        if arrays[0].ndim == 2:
            arrays = [
                np.pad(a, [(0, 0), (0, longest[0] - a.shape[1])], constant_values=np.nan)
                if a.shape[1] < longest[0]
                else a
                for a in arrays
            ]
        return np.concatenate(arrays)

    def weighted(self, weights: Mapping[str, float]) -> "Packed":
        """The same with other weights of some outcomes in the likelihood.

        Parameters
        ----------
        weights
            Weight (0: left out, 1: as printed) by study or by outcome; an outcome's own comes before its study's.

        Raises
        ------
        OsteobayesError
            If a weight is not between 0 and 1, or names no study and no outcome that is fitted.
        """
        studies = sorted(set(self.table["study"]))
        known = {*studies, *self.table.index}
        for name, weight in weights.items():
            if name not in known:
                raise OsteobayesError(
                    f"weights: no fitted study or outcome is called {name!r}; {did_you_mean(name, studies)}"
                )
            if not 0.0 <= weight <= 1.0:
                raise OsteobayesError(f"weights: {name} has {weight:g}; give a number from 0 (left out) to 1")
        new = {
            f: np.array([weights.get(o, weights.get(self.table.loc[o, "study"], w)) for o, w in zip(ids, self.weights[f], strict=True)])
            for f, ids in self.outcomes.items()
        }  # fmt: skip
        return replace(self, weights=new)


@dataclass
class _Builder:
    evidence: Evidence
    catalogue: Catalogue
    grid: Grid
    accrual_share: float
    default_horizon: float
    cells: dict[Cell, int] = field(default_factory=dict)
    arms: dict[str, dict[tuple, int]] = field(default_factory=lambda: {k: {} for k in KINDS})
    effects: dict[str, dict[str, int]] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    survival: set[str] = field(default_factory=set)
    survival_curves: set[str] = field(default_factory=set)

    def cell(self, cancer: str, regimen: str, study: Study) -> int:
        cell = Cell(cancer, Regimen.parse(regimen, self.catalogue), study.population.pretreatment)
        return self.cells.setdefault(cell, len(self.cells))

    def effect(self, dim: str, name: str) -> int:
        """Index (from 1) of a level of a study-effect dimension."""
        return self.effects.setdefault(dim, {}).setdefault(name, len(self.effects[dim]) + 1)

    def death_effect(self, study: str) -> int:
        """Index of a study's survival effect; those without a fitted survival number stand behind the others."""
        seen = study in self.survival
        return self.effect("study_os", study) if seen else _UNSEEN + self.effect("study_os_unseen", study)

    def entry_effect(self, study: str) -> int:
        """Index of a study's own selection at entry, 0 where no fitted survival curve could tell of it."""
        return self.effect("study_entry", study) if study in self.survival_curves else 0

    def onset_effect(self, study: Study) -> int:
        """Index of a study's effect on incidence and prevalence of bone metastasis."""
        return self.effect("study_registry", f"{study.id} incidence")

    def arm(self, kind: str, study: str, arm: str, definition: str = "") -> int:
        """Index of an arm of a kind under an event definition."""
        return self.arms[kind].setdefault((study, arm, definition), len(self.arms[kind]))

    def horizon(self, study: Study) -> tuple[float, float]:
        """End of follow-up and accrual duration, years."""
        follow = study.follow_up
        months = follow.horizon_months
        if months is None:  # never shorter than what is known of the follow-up
            months = max(self.default_horizon, follow.accrual_months or 0.0, follow.median_months or 0.0)
            self.assumed.append(f"{study.id}: end of follow-up taken as {months:g} months (no source prints it)")
        accrual = follow.accrual_months
        if follow.law == "fixed":
            accrual = 0.0
        elif accrual is None:
            accrual = self.accrual_share * months
            self.assumed.append(f"{study.id}: accrual taken as {accrual:g} months (no source prints it)")
        return months / 12.0, accrual / 12.0

    def administrative(self, study: Study, t: np.ndarray) -> np.ndarray:
        """Share still under administrative follow-up, A(t)."""
        horizon, accrual = self.horizon(study)
        if accrual <= 0:
            return (t <= horizon + 1e-9).astype(float) if study.follow_up.law != "fixed" else np.ones_like(t)
        return np.clip((horizon - t) / accrual, 0.0, 1.0)


def reference_arm(study: Study, outcomes: pd.DataFrame) -> set[str]:
    """Arms that are somebody's comparator; without any contrast, the placebo arm or the first one."""
    named = set(outcomes.loc[(outcomes["study"] == study.id) & (outcomes["versus"] != ""), "versus"])
    if named:
        return named
    placebo = [a.id for a in study.arms if a.regimen == "placebo"]
    return {placebo[0] if placebo else study.arms[0].id}


def _limit(value: float, scale: float = 1.0) -> float:
    return float("nan") if pd.isna(value) else float(value) * scale


def members(study: Study, arm: str, catalogue: Catalogue) -> list[tuple[str, str | None, float]]:
    """Cancer, regimen and weight of the members of an arm, those who take a bone agent beside it as members of their own.

    `population.bone_agent_percent` is the share that takes one at entry; it splits arms whose regimen has none.
    """
    share = (study.population.bone_agent_percent or 0.0) / 100.0
    found: list[tuple[str, str | None, float]] = []
    for cancer, regimen, weight in study.members(arm):
        agents = Regimen.parse(regimen, catalogue).agents if regimen else ()
        bone = {catalogue.agents[a].agent_class for a in agents} & {"bisphosphonate", "rankl_inhibitor"}
        if regimen is None or bone or not share:
            found.append((cancer, regimen, weight))
            continue
        beside = BONE_AGENT if regimen == "placebo" else f"{regimen} + {BONE_AGENT}"
        found += [(cancer, regimen, weight * (1.0 - share))] * (share < 1.0)
        found.append((cancer, beside, weight * share))
    return found


def pack(
    evidence: Evidence,
    catalogue: Catalogue,
    grid: Grid,
    quadrature,
    interpolation,
    correlation: Callable[..., np.ndarray],
    accrual_share: float = 0.6,
    default_horizon: float = 36.0,
    use: str = "fit",
    joint: bool = False,
) -> Packed:
    """Pack the rows with ``use`` into arrays.

    Parameters
    ----------
    evidence, catalogue, grid
        Published numbers, agents, time grid.
    quadrature, interpolation, correlation
        :func:`osteobayes.observe.quadrature`, ``interpolation`` and ``patient_set.working_correlation`` (handed in: this room is
        above `observe`).
    accrual_share, default_horizon
        Assumptions where a source prints neither (constants of ``priors/markers.yaml``).
    use
        Which rows: ``fit``, or ``check`` for comparison with what was not fitted.
    joint
        Level 2: beside the rows that are fitted, the other totals, medians, counts, rates and ratios of the same patients
        (rule ``same_patients``), all of one endpoint in one set. Otherwise only contrasts that share a control make a set.
    """
    b = _Builder(evidence, catalogue, grid, accrual_share, default_horizon)
    for dim in (
        "study_sre", "study_registry", "study_os", "study_os_unseen", "study_entry", "study_pfs", "study_response",
        "study_trial", "contrast", "onset",
    ):  # fmt: skip
        b.effects[dim] = {}
    t = grid.years
    last = float(t[-1])
    frame = evidence.outcomes
    wanted = frame[(frame["use"] == use) | (joining(frame, evidence, catalogue, last) if joint else False)]
    reasons = [unusable(row, evidence.studies[row.study], catalogue, last) for row in wanted.itertuples()]
    left_out = {o: why for o, why in zip(wanted["outcome_id"], reasons, strict=True) if why}
    rows = wanted[[not why for why in reasons]]
    found: dict[str, list[Entry]] = {f: [] for f in FAMILIES}

    def add(family: str, block: str, outcome: str, row, observed, arguments: tuple) -> None:
        study = evidence.studies[row.study]
        regimens = {r for _, r, _ in members(study, row.arm, catalogue) if r}
        agents = {a for r in regimens for a in Regimen.parse(r, catalogue).agents}
        described = {
            "outcome": outcome, "family": family, "block": block, "study": row.study, "arm": row.arm, "versus": row.versus,
            "endpoint": row.endpoint, "component": row.component, "kind": kind_of(row.endpoint, study) or row.endpoint,
            "cancer": row.cancer, "patients": row.patients, "design": study.design,
            "classes": tuple(sorted({catalogue.agents[a].agent_class for a in agents})),
        }  # fmt: skip
        found[family].append(Entry(block, outcome, observed, arguments, described))

    def until(row, study: Study) -> float:
        end = b.horizon(study)[0] if pd.isna(row.time_years) else float(row.time_years)
        return min(end, last)

    def end_of(study: Study) -> float:
        return min(b.horizon(study)[0], last)

    def definition_of(row, study: Study) -> str:
        return "" if row.endpoint not in study.events else "/".join(filter(None, (row.endpoint, row.component)))

    def allocation(study: Study, row) -> float:
        n1, n0 = study.arm(row.arm).n, study.arm(row.versus).n
        return n1 / (n1 + n0) if n1 and n0 else 0.5

    def count_of(row) -> float:
        return float(row.n) * float(row.value) / 100.0 if pd.isna(row.events) else float(row.events)

    def both(kind: str, row, study: Study) -> tuple[int, int]:
        definition = definition_of(row, study)
        return b.arm(kind, row.study, row.arm, definition), b.arm(kind, row.study, row.versus, definition)

    digitised = [c for c in evidence.curves.values() if c.as_row.outcome.endpoint == "OS"]
    b.survival = {r.study for r in rows.itertuples() if r.endpoint == "OS"}
    b.survival |= {c.study for c in digitised if c.curve.use == use}
    # curves that are fitted count even where other rows are packed: the same patients have the same selection
    times: dict[tuple[str, str], set[float]] = {}
    for r in frame.itertuples():
        of_curve = r.use in (use, "fit") and r.endpoint == "OS" and r.statistic == "survival_at"
        if of_curve and not unusable(r, evidence.studies[r.study], catalogue, last):
            times.setdefault((r.study, r.arm), set()).add(r.time_years)
    b.survival_curves = {study for (study, _), found in times.items() if len(found) > 1}
    b.survival_curves |= {c.study for c in digitised if c.curve.use in (use, "fit")}
    grouped: dict[tuple, list] = {}
    for row in rows.itertuples():
        study = evidence.studies[row.study]
        family, block = statistic_of(row, study)  # pyright: ignore[reportGeneralTypeIssues]
        kind = block.split(" ")[0]
        definition = definition_of(row, study)
        if family in ("split", "landmark", "incidence_curve"):
            grouped.setdefault((family, block, row.study, row.arm, row.endpoint), []).append(row)
        elif family == "crude":
            arguments = (b.arm(kind, row.study, row.arm, definition), quadrature(t, until(row, study)), float(row.n))
            add(family, block, row.outcome_id, row, count_of(row), arguments)
        elif family == "completion":
            years = until(row, study)
            arguments = (b.arm("OS", row.study, row.arm), interpolation(t, years), years, float(row.n))
            add(family, block, row.outcome_id, row, count_of(row), arguments)
        elif family == "median":
            reached = row.statistic == "median"
            x = float(row.value_si) if reached else until(row, study)
            scale = float(row.value_si) / float(row.value) if reached else 1.0
            arguments = (
                b.arm(kind, row.study, row.arm, definition), _limit(row.low, scale), _limit(row.high, scale), float(reached),
                float(row.n), end_of(study),
            )  # fmt: skip
            add(family, block, row.outcome_id, row, x, arguments)
        elif family in ("hazard_ratio", "rate_ratio", "ratio"):
            value, low, high = as_ratio(row)
            difference = block.endswith("difference")
            scale = float if difference else np.log
            se = (scale(high) - scale(low)) / (2.0 * NormalDist().inv_cdf(0.5 + row.level / 2.0))
            arm_kind = "SRE" if family == "rate_ratio" else kind
            end = until(row, study) if family == "ratio" else end_of(study)
            arguments = (*both(arm_kind, row, study), quadrature(t, end), float(se))
            if family != "ratio":
                arguments = (*arguments, allocation(study, row))
            add(family, block, row.outcome_id, row, float(scale(value)), arguments)
        elif family == "rate":
            gap = (study.events[row.endpoint].minimum_gap_days or 0.0) / 365.25
            arguments = (
                b.arm("SRE", row.study, row.arm, definition), quadrature(t, until(row, study)), float(row.n),
                _limit(row.low), _limit(row.high), gap,
            )  # fmt: skip
            add(family, block, row.outcome_id, row, float(row.value_si), arguments)
        elif family == "incidence":
            horizon, accrual = b.horizon(study)
            stay = np.clip((horizon - ONSET_YEARS) / max(accrual, 1e-9), 0.0, 1.0)
            arguments = (
                b.effect("onset", row.cancer) - 1, CANCERS.index(row.cancer) if row.cancer in CANCERS else 0,
                b.onset_effect(study), 0.0 if row.time == 0 else 1.0, stay, float(row.n),
            )  # fmt: skip
            add(family, block, row.outcome_id, row, float(row.events), arguments)
        elif family == "prevalence":
            arguments = (b.effect("onset", row.cancer) - 1, b.onset_effect(study), float(row.n))
            add(family, block, row.outcome_id, row, count_of(row), arguments)
        elif family in ("responder", "marker"):
            if pd.isna(row.time) and block != "ORR":
                b.assumed.append(f"{row.outcome_id}: the response is read at 12 weeks (no source prints when)")
            years = end_of(study) if block == "ORR" else until(row, study)
            years = RESPONSE_MONTHS / 12.0 if pd.isna(row.time) and block != "ORR" else years
            arm = b.arm("OS", row.study, row.arm)
            effect = b.effect("study_response", f"{row.study} {row.endpoint}")
            if family == "marker":
                mean = float(row.statistic == "percent_change_mean")
                add(
                    family,
                    block,
                    row.outcome_id,
                    row,
                    float(row.value),
                    (arm, interpolation(t, years), float(row.n), mean, effect),
                )
            else:
                fall = study.responses[row.endpoint].fall_percent if block in ("resorption", "formation") else 0.0
                arguments = (
                    arm, quadrature(t, years), interpolation(t, years), float(fall), float(row.n), effect,
                )  # fmt: skip
                add(family, block, row.outcome_id, row, count_of(row), arguments)

    for (family, block, study_id, arm, endpoint), group in grouped.items():
        study, first = evidence.studies[study_id], group[0]
        if family == "split":
            counts = np.zeros(len(COMPONENTS))
            for row in group:
                counts[COMPONENTS.index(row.component)] = row.events
            arguments = (b.arm("SRE", study_id, arm, endpoint), quadrature(t, until(first, study)), counts.sum())
            add(family, block, f"{study_id}/first_events_{arm}", first, counts, arguments)
            continue
        group = sorted(group, key=lambda r: r.time_years)
        years = np.array([r.time_years for r in group], dtype=float)
        if family == "incidence_curve":
            several = len({k[3] for k in grouped if k[0] == family and k[2] == study_id}) > 1
            name = f"{study_id}/curve_{arm}" if several else f"{study_id}/curve"
            arguments = (b.effect("onset", first.cancer) - 1, b.onset_effect(study), years, float(first.n))
            add(family, block, name, first, np.array([r.value_si for r in group], dtype=float), arguments)
            continue
        up = first.statistic == "cumulative_incidence"

        def free(x: float, up: bool = up) -> float:  # share free of the event
            return float("nan") if pd.isna(x) else 1.0 - x / 100.0 if up else x / 100.0

        low, high = (
            np.array([free(getattr(r, k)) for r in group]) for k in (("high", "low") if up else ("low", "high"))
        )
        arguments = (
            b.arm(block.split(" ")[0], study_id, arm, definition_of(first, study)),
            np.stack([quadrature(t, y) for y in years]), float(first.n), low, high, years,
        )  # fmt: skip
        name = f"{study_id}/{endpoint.lower()}_at_landmarks_{arm}"
        add(family, block, name, first, np.array([free(r.value) for r in group]), arguments)

    for name, data in evidence.curves.items():
        if data.curve.use != use:
            continue
        study, row = evidence.studies[data.study], data.as_row.outcome
        why = unusable(row, study, catalogue, last)
        edges = data.intervals.edges
        inside = edges[1:] <= last * (1.0 + 1e-9)
        if why or not inside.any():
            left_out[name] = why or beyond(last)
            continue
        if not inside.all():
            b.assumed.append(f"{name}: {int((~inside).sum())} intervals after {12 * last:.0f} months are left out")
        kind = kind_of(row.endpoint, study)
        at_risk = (data.intervals.at_risk - data.intervals.censored / 2.0)[inside]
        described = SimpleNamespace(
            study=study.id, arm=row.arm, versus="", endpoint=row.endpoint, component="", patients=study.patients,
            cancer=study.arm_cancer(row.arm),
        )  # fmt: skip
        q = np.stack([quadrature(t, y) for y in edges[1:][inside]])
        arguments = (b.arm(kind, study.id, row.arm, definition_of(described, study)), q, at_risk, edges[1:][inside])
        add("interval", kind, name, described, data.intervals.events[inside].astype(float), arguments)

    return replace(_assemble(b, found, correlation, joint), left_out=left_out)


def _stack(items: list, width: int | None = None) -> list[np.ndarray]:
    """Columns of a list of equal tuples as arrays."""
    if not items:
        return [np.zeros(0)] * (width or 0)
    return [np.asarray(column) for column in zip(*items, strict=True)]


def _arms(b: _Builder, kind: str) -> Arms:
    t = b.grid.years
    frame = b.evidence.outcomes
    columns: list[tuple] = []
    definitions: list[tuple[tuple[float, ...], tuple[float, ...], float]] = []
    groups: list[list[tuple[int, float]]] = []
    for study_id, arm_id, definition in b.arms[kind]:
        study = b.evidence.studies[study_id]
        registry = study.design == "registry"
        mine = members(study, arm_id, b.catalogue)
        groups.append([(b.cell(c, r or "placebo", study), w) for c, r, w in mine])
        endpoint, _, component = definition.partition("/")
        event = study.events[endpoint] if endpoint else None
        surveyed = event is not None and event.detection == "survey" and event.survey_weeks
        counts = (
            tuple(float(event is not None and c in event.components and component in ("", c)) for c in COMPONENTS),
            tuple(float(event is not None and d == event.detection) for d in DETECTIONS),
            float(surveyed or 0.0) * 7.0 / 365.25,
        )
        if counts not in definitions:
            definitions.append(counts)
        treated = study.design == "randomised" and arm_id not in reference_arm(study, frame)
        pooled = bool(study.arm(arm_id).overlaps) and arm_id not in set(
            frame.loc[frame["study"] == study_id, "arm"][frame["versus"] != ""]
        )
        columns.append(
            (
                definitions.index(counts),
                b.effect("study_registry", f"{study_id} SRE") if registry and definition else 0,
                0 if registry else (b.effect("study_sre", study_id) if definition else 0),
                b.death_effect(study_id),
                float(study.design in TRIALS),
                b.entry_effect(study_id),
                b.effect("study_pfs", study_id) if kind == "PFS" else 0,
                b.effect("contrast", f"{study_id}/{arm_id}/{kind}") if treated and not pooled else 0,
                0 if registry else b.effect("study_trial", study_id),
                b.effect("onset", mine[0][0]) - 1 if kind in ONSET_KINDS else 0,
                b.onset_effect(study) if kind in ONSET_KINDS else 0,
                (study.population.prior_sre_percent or 50.0) / 100.0 - 0.5,
                b.administrative(study, t),
            )
        )
    width = max((len(m) for m in groups), default=1)
    cell = np.zeros((len(groups), width), dtype=np.int32)
    weight = np.zeros((len(groups), width))
    for i, m in enumerate(groups):
        total = sum(w for _, w in m)
        for j, (c, w) in enumerate(m):
            cell[i, j], weight[i, j] = c, w / total
        cell[i, len(m) :] = m[0][0]
    if not columns:
        empty = np.zeros(0, dtype=np.int32)
        none = np.zeros((0, len(COMPONENTS))), np.zeros((0, len(DETECTIONS))), np.zeros((0, len(t), len(t)))
        return Arms(
            *none, empty, cell, weight, *[empty] * 2, np.zeros(0), *[empty] * 6, np.zeros(0), np.zeros((0, len(t)))
        )
    counted, detection, survey = (np.asarray(x) for x in zip(*definitions, strict=True))
    delay = np.stack([delayed(t, w / 2.0) for w in survey]) if survey.any() else np.zeros((0, len(t), len(t)))
    definition, r_sre, sre, os_, trial, entry, pfs, contrast, dropout, onset, onset_effect, prior, admin = _stack(
        columns
    )
    # effects of registries stand behind those of the trials in one vector
    return Arms(
        counted, detection, delay, definition.astype(np.int32), cell, weight, _joined(sre, r_sre), os_.astype(np.int32), trial,
        entry, pfs, contrast, dropout, onset.astype(np.int32), onset_effect.astype(np.int32), prior, admin, *real_members([len(m) for m in groups]),
    )  # fmt: skip


def delayed(t: np.ndarray, by: float) -> Float[np.ndarray, "earlier time"]:
    """Weights ``w`` with which ``f @ w`` is ``f(t - by)``, 0 before ``by``, on a uniform grid.

    What a survey every 2 ``by`` finds has happened half an interval before, on average.
    """
    step = t[1] - t[0]
    at = np.arange(len(t)) - by / step
    lower = np.floor(at).astype(int)
    w = np.zeros((len(t), len(t)))
    for i, (a, low) in enumerate(zip(at, lower, strict=True)):
        for j, share in ((low, 1.0 - (a - low)), (low + 1, a - low)):
            if a >= 0 and 0 <= j < len(t):
                w[j, i] += share
    return w


def _joined(trial: np.ndarray, registry: np.ndarray) -> np.ndarray:
    """Index into [none, trials..., registries...]; registries negative until the counts are known."""
    return np.where(registry > 0, -registry, trial).astype(np.int32)


def _column(values: Sequence) -> np.ndarray:
    """Stack; arrays of different length along their first axis are padded, numbers with NaN, weights with 0."""
    arrays = [np.asarray(v) for v in values]
    if len({a.shape for a in arrays}) == 1:
        return np.stack(arrays)
    longest = max(len(a) for a in arrays)
    return np.stack(
        [
            np.pad(a, [(0, longest - len(a)), *[(0, 0)] * (a.ndim - 1)], constant_values=np.nan if a.ndim == 1 else 0.0)
            for a in arrays
        ]
    )


def _anchored(entries: Sequence[Entry], numbers: Mapping[str, Sequence[Entry]], in_set: set[str]) -> list[tuple]:
    """Arguments of hazard ratios with the reference arm's own fitted total or median, if there is one outside a set."""
    where = {
        (e.described["study"], e.described["arm"], e.described["endpoint"], family): i
        for family in ("crude", "median")
        for i, e in enumerate(numbers[family])
        if not e.described["component"]
    }
    out = []
    for e in entries:
        d = e.described
        at = {f: where.get((d["study"], d["versus"], d["endpoint"], f)) for f in ("crude", "median")}
        if d["component"] or e.outcome in in_set:
            at = dict.fromkeys(at)
        crude, median = at["crude"], at["median"] if at["crude"] is None else None
        out.append((*e.arguments, float(crude is not None), float(median is not None), crude or 0, median or 0))
    return out


def _assemble(
    b: _Builder, found: Mapping[str, list[Entry]], correlation: Callable[..., np.ndarray], joint: bool
) -> Packed:
    # JAX hands a compiled function the entries of a dict in the order of their keys: so are blocks, and outcomes within a family
    ordered = {f: sorted(e, key=lambda x: x.block) for f, e in found.items() if e}
    sets = sets_of(b.evidence.studies, ordered)
    linked = [g for g in sets if joint or g.contrasts > 1]
    in_set = {o for g in linked for o in g.outcomes}
    if entries := entries_of(linked, ordered, correlation):
        ordered["patient_set"] = entries
    data: dict = {}
    for family, entries in ordered.items():
        arguments = [e.arguments for e in entries]
        if family == "patient_set":
            data[family] = padded(arguments)  # pyright: ignore[reportArgumentType]
            continue
        if family == "hazard_ratio":
            arguments = _anchored(entries, {f: ordered.get(f, []) for f in ("crude", "median")}, in_set)
        blocks: dict[str, list[tuple]] = {}
        for e, a in zip(entries, arguments, strict=True):
            blocks.setdefault(e.block, []).append(a)
        packed = {k: PACKED[family](*map(_column, zip(*a, strict=True))) for k, a in blocks.items()}
        data[family] = packed.get("", packed)
    arms = {kind: _arms(b, kind) for kind in KINDS}
    coords = {dim: tuple(levels) for dim, levels in b.effects.items()}
    n_sre, n_os = (len(coords[d]) for d in ("study_sre", "study_os"))
    for kind, a in arms.items():
        death = np.where(a.death_effect > _UNSEEN, a.death_effect - _UNSEEN + n_os, a.death_effect)
        arms[kind] = a._replace(
            sre_effect=np.where(a.sre_effect < 0, n_sre - a.sre_effect, a.sre_effect).astype(np.int32),
            death_effect=death.astype(np.int32),
        )
    table = pd.DataFrame([e.described for entries in ordered.values() for e in entries])
    return Packed(
        cells=tuple(b.cells), grid=b.grid, arms=arms, arm_ids={k: tuple(a) for k, a in b.arms.items()}, data=data,
        observed={f: _column([e.observed for e in entries]).astype(float) for f, entries in ordered.items()},
        outcomes={f: tuple(e.outcome for e in entries) for f, entries in ordered.items()},
        weights={f: np.ones(len(entries)) for f, entries in ordered.items()},
        coords={"cancer": CANCERS, "component": ("fracture", "radiation", "surgery", "cord_compression")} | coords,
        table=table.set_index("outcome"), together=sets, assumed=tuple(dict.fromkeys(b.assumed)),
    )  # fmt: skip
