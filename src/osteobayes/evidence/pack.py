"""From the table of published numbers to arrays with named coordinates: what the likelihood takes as data."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from osteobayes.cycle import Catalogue, Cell, Grid, Regimen
from osteobayes.evidence.load import Evidence
from osteobayes.evidence.uses import FAMILIES, NO_CURVES, family_of, unusable
from osteobayes.schema import CANCERS, COMPONENTS, DETECTIONS, Study

KINDS = ("SRE", "OS", "PFS")
"""Time-to-event kinds: skeletal events, overall survival, progression-free survival."""
_UNSEEN = 10_000
ONSET_YEARS = np.concatenate([[0.0], np.geomspace(0.01, 9.0, 90)])
"""Grid (years) of the onset model of registries."""


class Arms(NamedTuple):
    """Arms of one kind; members are padded with weight 0.

    Effect indices count from 1 into the study-effect vectors; 0 means no effect. Arms share few event definitions.
    """

    counted: Float[Array, "definition component"]
    detection: Float[Array, "definition detection"]
    definition: Int[Array, " arm"]
    cell: Int[Array, "arm member"]
    weight: Float[Array, "arm member"]
    sre_effect: Int[Array, " arm"]
    death_effect: Int[Array, " arm"]
    progression_effect: Int[Array, " arm"]
    contrast: Int[Array, " arm"]
    dropout: Int[Array, " arm"]
    administrative: Float[Array, "arm time"]

    def at(self, arms: Int[Array, " row"]) -> "Arms":
        """Some of the arms, in the order asked for."""
        return Arms(*self[:2], *(x[arms] for x in self[2:]))


class Crude(NamedTuple):
    """At least one event among all patients of the arm."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    n: Float[Array, " row"]


class Split(NamedTuple):
    """First events by component, given their total."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    total: Float[Array, " row"]


class Completion(NamedTuple):
    """Still in the study at a time."""

    arm: Int[Array, " row"]
    interpolation: Float[Array, "row time"]
    years: Float[Array, " row"]
    n: Float[Array, " row"]


class Median(NamedTuple):
    """Kaplan-Meier medians of one kind; ``reached`` 0: not reached by ``x``."""

    arm: Int[Array, " row"]
    low: Float[Array, " row"]
    high: Float[Array, " row"]
    reached: Float[Array, " row"]
    n: Float[Array, " row"]
    last: Float[Array, " row"]


class HazardRatio(NamedTuple):
    """Log hazard ratios of one kind, with the reference arm's own fitted number, if any, for the correlation."""

    treated: Int[Array, " row"]
    reference: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    se: Float[Array, " row"]
    allocation: Float[Array, " row"]
    has_crude: Float[Array, " row"]
    has_median: Float[Array, " row"]
    crude: Int[Array, " row"]
    median: Int[Array, " row"]


class Rate(NamedTuple):
    """Mean of per-patient event rates."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    n: Float[Array, " row"]
    low: Float[Array, " row"]
    high: Float[Array, " row"]


class Incidence(NamedTuple):
    """Bone metastasis at diagnosis (``metachronous`` 0) or later (1) as a share of a registry's patients."""

    onset: Int[Array, " row"]
    cancer: Int[Array, " row"]
    effect: Int[Array, " row"]
    metachronous: Float[Array, " row"]
    stay: Float[Array, "row onset_time"]
    n: Float[Array, " row"]


class IncidenceCurve(NamedTuple):
    """Kaplan-Meier cumulative incidence of bone metastasis at landmarks (padded with NaN)."""

    onset: Int[Array, " row"]
    effect: Int[Array, " row"]
    years: Float[Array, "row landmark"]
    n: Float[Array, " row"]


@dataclass(frozen=True)
class Packed:
    """Everything that the likelihood takes as data.

    Attributes
    ----------
    cells, grid
        What has to be solved, on which time grid.
    arms
        Arms by kind.
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
    assumed
        Sentences: what was assumed where no source prints it.
    left_out
        Rows with the wanted use that the model cannot use, and why.
    """

    cells: tuple[Cell, ...]
    grid: Grid
    arms: dict[str, Arms]
    data: dict
    observed: dict[str, np.ndarray]
    outcomes: dict[str, tuple[str, ...]]
    weights: dict[str, np.ndarray]
    coords: dict[str, tuple[str, ...]]
    table: pd.DataFrame
    assumed: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


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


def _kind(endpoint: str) -> str:
    return endpoint if endpoint in ("OS", "PFS") else "SRE"


def _limit(value: float, scale: float = 1.0) -> float:
    return float("nan") if pd.isna(value) else float(value) * scale


def pack(
    evidence: Evidence,
    catalogue: Catalogue,
    grid: Grid,
    quadrature,
    interpolation,
    accrual_share: float = 0.6,
    default_horizon: float = 36.0,
    use: str = "fit",
) -> Packed:
    """Pack the rows with ``use`` into arrays.

    Parameters
    ----------
    evidence, catalogue, grid
        Published numbers, agents, time grid.
    quadrature, interpolation
        :func:`osteobayes.observe.quadrature` and ``interpolation`` (handed in: this room is above `observe`).
    accrual_share, default_horizon
        Assumptions where a source prints neither (constants of ``priors/markers.yaml``).
    use
        Which rows: ``fit``, or ``check`` for comparison with what was not fitted.
    """
    b = _Builder(evidence, catalogue, grid, accrual_share, default_horizon)
    for dim in (
        "study_sre",
        "study_registry",
        "study_os",
        "study_os_unseen",
        "study_pfs",
        "study_trial",
        "contrast",
        "onset",
    ):
        b.effects[dim] = {}
    t = grid.years
    frame = evidence.outcomes
    wanted = frame[frame["use"] == use]
    reasons = [unusable(row, evidence.studies[row.study], catalogue) for row in wanted.itertuples()]
    left_out = {o: why for o, why in zip(wanted["outcome_id"], reasons, strict=True) if why}
    rows = wanted[[not why for why in reasons]]
    left_out |= {name: NO_CURVES for name, curve in evidence.curves.items() if curve.curve.use == use}
    out: dict[str, list] = {f: [] for f in FAMILIES}
    keys: dict[str, list[str]] = {f: [] for f in FAMILIES}
    seen: dict[str, list] = {f: [] for f in FAMILIES}
    table: list[dict] = []

    def note(family: str, outcome: str, row, observed) -> None:
        keys[family].append(outcome)
        seen[family].append(observed)
        study = evidence.studies[row.study]
        regimens = {r for _, r, _ in study.members(row.arm) if r}
        agents = {a for r in regimens for a in Regimen.parse(r, catalogue).agents}
        table.append(
            {
                "outcome": outcome, "family": family, "study": row.study, "arm": row.arm, "versus": row.versus,
                "endpoint": row.endpoint, "kind": _kind(row.endpoint), "cancer": row.cancer, "patients": row.patients,
                "design": study.design, "classes": tuple(sorted({catalogue.agents[a].agent_class for a in agents})),
            }
        )  # fmt: skip

    def until(row, study: Study) -> float:
        end = b.horizon(study)[0] if pd.isna(row.time_years) else float(row.time_years)
        return min(end, float(t[-1]))

    b.survival = {r.study for r in rows.itertuples() if r.endpoint == "OS"}
    for row in rows.itertuples():
        study = evidence.studies[row.study]
        kind = _kind(row.endpoint)
        definition = row.endpoint if row.endpoint in study.events else ""
        family = family_of(row.statistic, row.endpoint, row.component, study)
        if family == "crude":
            note("crude", row.outcome_id, row, float(row.events))
            out["crude"].append(
                (b.arm("SRE", row.study, row.arm, definition), quadrature(t, until(row, study)), float(row.n))
            )
        elif family == "completion":
            years = until(row, study)
            note("completion", row.outcome_id, row, float(row.events))
            out["completion"].append((b.arm("OS", row.study, row.arm), interpolation(t, years), years, float(row.n)))
        elif family == "median":
            reached = row.statistic == "median"
            end = until(row, study)
            x = float(row.value_si) if reached else end
            scale = float(row.value_si) / float(row.value) if reached else 1.0
            note("median", row.outcome_id, row, x)
            out["median"].append(
                (kind, b.arm(kind, row.study, row.arm, definition), _limit(row.low, scale), _limit(row.high, scale),
                 float(reached), float(row.n), min(b.horizon(study)[0], float(t[-1])))
            )  # fmt: skip
        elif family == "hazard_ratio":
            n1, n0 = study.arm(row.arm).n, study.arm(row.versus).n
            width = np.log(row.high) - np.log(row.low) if row.low > 0 and row.high > 0 else np.nan
            se = width / (2.0 * NormalDist().inv_cdf(0.5 + row.level / 2.0))
            note("hazard_ratio", row.outcome_id, row, float(np.log(row.value)))
            out["hazard_ratio"].append(
                (kind, b.arm(kind, row.study, row.arm, definition), b.arm(kind, row.study, row.versus, definition),
                 quadrature(t, min(b.horizon(study)[0], float(t[-1]))), se, n1 / (n1 + n0) if n1 and n0 else 0.5,
                 (row.study, row.versus, row.endpoint))
            )  # fmt: skip
        elif family == "rate":
            note("rate", row.outcome_id, row, float(row.value_si))
            out["rate"].append(
                (
                    b.arm("SRE", row.study, row.arm, definition),
                    quadrature(t, until(row, study)),
                    float(row.n),
                    _limit(row.low),
                    _limit(row.high),
                )
            )
        elif family == "incidence":
            horizon, accrual = b.horizon(study)
            stay = np.clip((horizon - ONSET_YEARS) / max(accrual, 1e-9), 0.0, 1.0)
            note("incidence", row.outcome_id, row, float(row.events))
            metachronous = 0.0 if row.time == 0 else 1.0
            out["incidence"].append(
                (b.effect("onset", row.cancer) - 1, CANCERS.index(row.cancer) if row.cancer in CANCERS else 0,
                 b.effect("study_registry", f"{row.study} incidence"), metachronous, stay, float(row.n))
            )  # fmt: skip

    for (study_id, arm), group in rows[rows["statistic"] == "first_event_proportion"].groupby(
        ["study", "arm"], sort=False
    ):
        first = next(group.itertuples())
        counts = np.zeros(len(COMPONENTS))
        for row in group.itertuples():
            counts[COMPONENTS.index(row.component)] = row.events
        note("split", f"{study_id}/first_events_{arm}", first, counts)
        study = evidence.studies[study_id]
        out["split"].append(
            (b.arm("SRE", study_id, arm, first.endpoint), quadrature(t, until(first, study)), counts.sum())
        )

    for (study_id, arm), group in rows[
        (rows["statistic"] == "cumulative_incidence") & (rows["endpoint"] == "bone_metastasis")
    ].groupby(["study", "arm"], sort=False):
        group = group.sort_values("time_years")
        study = evidence.studies[study_id]
        several = rows.loc[(rows["study"] == study_id) & (rows["endpoint"] == "bone_metastasis"), "arm"].nunique() > 1
        name = f"{study_id}/curve_{arm}" if several else f"{study_id}/curve"
        note("incidence_curve", name, next(group.itertuples()), group["value_si"].to_numpy(float))
        out["incidence_curve"].append(
            (b.effect("onset", group["cancer"].iloc[0]) - 1, b.effect("study_registry", f"{study_id} incidence"),
             group["time_years"].to_numpy(float), float(group["n"].iloc[0]))
        )  # fmt: skip

    return replace(_assemble(b, out, keys, seen, table), left_out=left_out)


def _stack(items: list, width: int | None = None) -> list[np.ndarray]:
    """Columns of a list of equal tuples as arrays."""
    if not items:
        return [np.zeros(0)] * (width or 0)
    return [np.asarray(column) for column in zip(*items, strict=True)]


def _pad(arrays: list[np.ndarray]) -> np.ndarray:
    longest = max((len(a) for a in arrays), default=0)
    return (
        np.stack([np.pad(a, (0, longest - len(a)), constant_values=np.nan) for a in arrays])
        if arrays
        else np.zeros((0, 0))
    )


def _arms(b: _Builder, kind: str) -> Arms:
    t = b.grid.years
    frame = b.evidence.outcomes
    columns: list[tuple] = []
    definitions: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    members: list[list[tuple[int, float]]] = []
    for study_id, arm_id, definition in b.arms[kind]:
        study = b.evidence.studies[study_id]
        registry = study.design == "registry"
        members.append([(b.cell(c, r or "placebo", study), w) for c, r, w in study.members(arm_id)])
        event = study.events[definition] if definition else None
        counts = (
            tuple(float(event is not None and c in event.components) for c in COMPONENTS),
            tuple(float(event is not None and d == event.detection) for d in DETECTIONS),
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
                b.effect("study_pfs", study_id) if kind == "PFS" else 0,
                b.effect("contrast", f"{study_id}/{arm_id}/{kind}") if treated and not pooled else 0,
                0 if registry else b.effect("study_trial", study_id),
                b.administrative(study, t),
            )
        )
    width = max((len(m) for m in members), default=1)
    cell = np.zeros((len(members), width), dtype=np.int32)
    weight = np.zeros((len(members), width))
    for i, m in enumerate(members):
        total = sum(w for _, w in m)
        for j, (c, w) in enumerate(m):
            cell[i, j], weight[i, j] = c, w / total
        cell[i, len(m) :] = m[0][0]
    if not columns:
        empty = np.zeros(0, dtype=np.int32)
        none = np.zeros((0, len(COMPONENTS))), np.zeros((0, len(DETECTIONS)))
        return Arms(*none, empty, cell, weight, *[empty] * 5, np.zeros((0, len(t))))
    counted, detection = (np.asarray(x) for x in zip(*definitions, strict=True))
    definition, r_sre, sre, os_, pfs, contrast, dropout, admin = _stack(columns)
    # effects of registries stand behind those of the trials in one vector
    return Arms(
        counted, detection, definition.astype(np.int32), cell, weight, _joined(sre, r_sre), os_.astype(np.int32), pfs,
        contrast, dropout, admin,
    )  # fmt: skip


def _joined(trial: np.ndarray, registry: np.ndarray) -> np.ndarray:
    """Index into [none, trials..., registries...]; registries negative until the counts are known."""
    return np.where(registry > 0, -registry, trial).astype(np.int32)


def _assemble(b: _Builder, out: Mapping, keys: Mapping, seen: Mapping, table: list[dict]) -> Packed:
    arms = {kind: _arms(b, kind) for kind in KINDS}
    data: dict = {}
    if out["crude"]:
        data["crude"] = Crude(*_stack(out["crude"]))
    if out["split"]:
        data["split"] = Split(*_stack(out["split"]))
    if out["completion"]:
        data["completion"] = Completion(*_stack(out["completion"]))
    # medians and ratios are ordered by kind
    order = sorted(range(len(out["median"])), key=lambda i: KINDS.index(out["median"][i][0]))
    keys["median"][:], seen["median"][:] = [keys["median"][i] for i in order], [seen["median"][i] for i in order]
    medians = [out["median"][i] for i in order]
    if medians:
        data["median"] = {
            k: Median(*_stack([m[1:] for m in medians if m[0] == k])) for k in KINDS if any(m[0] == k for m in medians)
        }
    order = sorted(range(len(out["hazard_ratio"])), key=lambda i: KINDS.index(out["hazard_ratio"][i][0]))
    keys["hazard_ratio"][:], seen["hazard_ratio"][:] = (
        [keys["hazard_ratio"][i] for i in order],
        [seen["hazard_ratio"][i] for i in order],
    )
    ratios = [out["hazard_ratio"][i] for i in order]
    where = {(r["study"], r["arm"], r["endpoint"], r["family"]): r["outcome"] for r in table}
    if ratios:
        data["hazard_ratio"] = {}
        for kind in KINDS:
            block = []
            for k, treated, reference, q, se, share, (study, versus, endpoint) in ratios:
                if k != kind:
                    continue
                anchor = {f: where.get((study, versus, endpoint, f)) for f in ("crude", "median")}
                family = "crude" if anchor["crude"] else "median" if anchor["median"] else ""
                index = {f: keys[f].index(anchor[f]) if family == f else 0 for f in ("crude", "median")}
                block.append(
                    (
                        treated,
                        reference,
                        q,
                        se,
                        share,
                        float(family == "crude"),
                        float(family == "median"),
                        index["crude"],
                        index["median"],
                    )
                )
            if block:
                data["hazard_ratio"][kind] = HazardRatio(*_stack(block))
    if out["rate"]:
        data["rate"] = Rate(*_stack(out["rate"]))
    if out["incidence"]:
        data["incidence"] = Incidence(*_stack(out["incidence"]))
    if out["incidence_curve"]:
        onset, effect, years, n = zip(*out["incidence_curve"], strict=True)
        data["incidence_curve"] = IncidenceCurve(
            np.asarray(onset), np.asarray(effect), _pad(list(years)), np.asarray(n)
        )
    coords = {dim: tuple(levels) for dim, levels in b.effects.items()}
    n_sre, n_os = (len(coords[d]) for d in ("study_sre", "study_os"))
    for kind, a in arms.items():
        death = np.where(a.death_effect > _UNSEEN, a.death_effect - _UNSEEN + n_os, a.death_effect)
        arms[kind] = a._replace(
            sre_effect=np.where(a.sre_effect < 0, n_sre - a.sre_effect, a.sre_effect).astype(np.int32),
            death_effect=death.astype(np.int32),
        )
    observed = {f: (_pad(v) if f == "incidence_curve" else np.asarray(v, dtype=float)) for f, v in seen.items() if v}
    families = [f for f in FAMILIES if keys[f]]
    return Packed(
        cells=tuple(b.cells), grid=b.grid, arms=arms, data=data, observed=observed,
        outcomes={f: tuple(keys[f]) for f in families},
        weights={f: np.ones(len(keys[f])) for f in families},
        coords={"cancer": CANCERS, "component": ("fracture", "radiation", "surgery", "cord_compression")} | coords,
        table=pd.DataFrame(table).set_index("outcome").loc[[k for f in families for k in keys[f]]],
        assumed=tuple(dict.fromkeys(b.assumed)),
    )  # fmt: skip
