"""A study again, patient by patient: individual patients from the model's hazards, and the study's own table from them."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from osteobayes import solve, survival
from osteobayes.errors import OsteobayesError
from osteobayes.model import likelihood
from osteobayes.model.curves import DEATH_COUNTS, EVENTS, component_hazards, member_death
from osteobayes.model.joint import Data, Model
from osteobayes.observe import patients as individual
from osteobayes.observe.patients import Patients
from osteobayes.precision import jit
from osteobayes.schema import COMPONENTS


@dataclass(frozen=True)
class SimulatedTrial:
    """One simulated study.

    Attributes
    ----------
    study
        Its id.
    patients
        Patients by (kind of curve, arm, event definition).
    table
        One row an outcome that the model holds: ``outcome, family, block, value, low, high, events, n``. ``value`` is on the
        scale of the printed number (share, months, ratio, rate, per cent); one row a component or landmark. A median
        that was not reached has the end of its curve for a value and ``reached`` False.
    """

    study: str
    patients: dict[tuple[str, str, str], Patients]
    table: pd.DataFrame

    def __str__(self) -> str:
        return f"simulated {self.study}: {len(self.patients)} groups of patients\n{self.table.to_string(index=False)}"


class TrialSimulator:
    """Simulates the studies of a model; the solve of its cells is compiled once."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def _solved(self) -> Any:
        model = self.model

        def hazards(values: Mapping[str, Array], data: Mapping[str, Any]) -> dict[str, Any]:
            cells, path = model.hazards(values, data)  # pyright: ignore[reportArgumentType]
            c = likelihood.Context(values, cells, data, data["years"], model.shared_frailty)
            out: dict[str, Any] = {"failed": (path.status != solve.OK).sum()}
            for kind, a in data["arms"].items():
                if not a.cell.shape[0]:
                    continue
                if kind == "SRE":
                    event = component_hazards(a, cells, values, c.effects)
                    death = member_death(a, cells, values, c.effects, c.t)
                elif kind == "OS":
                    death = member_death(a, cells, values, c.effects, c.t, treated=True)
                    event = jnp.zeros_like(death)[:, :, None]
                else:
                    event, death = EVENTS[kind](a, cells, values, c.effects, c.t)
                    event = event[:, :, None]
                dropout = values["dropout"] * jnp.exp(c.effects["dropout"][a.dropout])
                out[kind] = {"event": event, "death": death, "dropout": jnp.where(a.dropout > 0, dropout, 0.0)}
            out["expected"] = likelihood.expected(values, cells, data, data["years"], model.shared_frailty)
            return out

        return jit(hazards)

    def simulate(
        self,
        study: str,
        parameters: Mapping[str, Array],
        key: int,
        sizes: Mapping[str, int] | None = None,
    ) -> SimulatedTrial:
        """Draw one study.

        Parameters
        ----------
        study
            Its id among the model's studies.
        parameters
            Values of all sites, as of :meth:`Model.draw_prior` (study effects included: those of the study are used).
        key
            Seed. The same seed gives the same patients.
        sizes
            Patients by arm, instead of the study's own.

        Raises
        ------
        OsteobayesError
            If the model holds no outcome of the study, an arm's size is not known, or its cells cannot be solved.
        """
        model = self.model
        table = model.packed.table
        mine = table[table["study"] == study]
        if mine.empty:
            known = ", ".join(sorted(set(table["study"])))
            raise OsteobayesError(f"the model holds no outcome of {study!r}; it holds {known}")
        values = model.values(parameters, model.data)
        return self._simulate(study, values, self._solve(values), key, sizes or {})

    def _solve(self, values: Mapping[str, Array]) -> Mapping[str, Any]:
        solved = self._solved(values, self.model.data)
        if int(solved["failed"]):
            raise OsteobayesError(f"{int(solved['failed'])} cells cannot be solved at these parameters; draw others")
        return solved

    def _simulate(
        self, study: str, values: Mapping[str, Array], solved: Mapping[str, Any], key: int, sizes: Mapping[str, int]
    ) -> SimulatedTrial:
        model = self.model
        table = model.packed.table
        mine = set(table.loc[table["study"] == study].index)
        groups = _Groups(model, solved, float(values["frailty"]), key, sizes)
        rows: list[dict[str, Any]] = []
        for family, ids in model.packed.outcomes.items():
            if family == "patient_set":
                continue  # no number of its own
            blocks = model.packed.data[family]
            named = blocks.items() if isinstance(blocks, dict) else [("", blocks)]
            flat = [(block, r, i) for block, r in named for i in range(len(r[0]))]
            for at, (outcome, (block, r, i)) in enumerate(zip(ids, flat, strict=True)):
                if outcome not in mine:
                    continue
                base = {"outcome": outcome, "family": family, "block": block}
                row = {name: np.asarray(values)[i] for name, values in r._asdict().items()}
                if family in _COUNT:
                    rows += [base | found for found in _COUNT[family](groups, block, row)]
                else:
                    rows.append(base | self._drawn(solved["expected"][family], family, at, block, row, key))
        return SimulatedTrial(study, groups.drawn, pd.DataFrame(rows))

    def published(self, values: Mapping[str, Array], key: int, data: Data) -> Data:
        """All studies simulated patient by patient, and their own tables in the place of the published ones.

        Parameters
        ----------
        values
            Parameters on the natural scale.
        key
            Seed.
        data
            What is sampled with; numbers that are not counted on patients (registries, responses, markers) stay as they are
            there, so give :func:`osteobayes.model.redraw.redrawn`.

        Returns
        -------
        dict
            The same structure and shapes.

        Raises
        ------
        OsteobayesError
            If its cells cannot be solved, an arm's size is not known, or a family's table cannot be packed (:data:`_PACKED`).
        """
        packed, solved = self.model.packed, self._solve(values)
        studies = dict.fromkeys(packed.table["study"])
        table = pd.concat([self._simulate(study, values, solved, key, {}).table for study in studies])
        observed, rows = dict(data["observed"]), dict(data["rows"])
        for family in sorted(set(packed.outcomes) & set(_COUNT)):
            if family not in _PACKED:
                raise OsteobayesError(f"numbers of the family `{family}` cannot be packed from patients yet")
            found = [_PACKED[family](table.loc[table["outcome"] == outcome]) for outcome in packed.outcomes[family]]
            x = np.array(observed[family])
            for i, (value, _) in enumerate(found):
                x[i] = value
            observed[family] = jnp.asarray(x)
            blocks, begun = rows[family], 0
            named = blocks if isinstance(blocks, dict) else {"": blocks}
            new = {}
            for block, r in named.items():
                n = len(r[0])
                changed = {k: jnp.asarray([float(f[k]) for _, f in found[begun : begun + n]]) for k in found[begun][1]}
                begun += n
                if refused := [
                    k for k in ("low", "high") if k not in changed and np.isfinite(getattr(r, k, np.nan)).any()
                ]:
                    raise OsteobayesError(
                        f"printed `{refused[0]}` limits of the family `{family}` cannot be made from patients yet"
                    )
                new[block] = r._replace(**changed)
            rows[family] = new if isinstance(blocks, dict) else new[""]
        return data | {"observed": observed, "rows": rows}

    def _drawn(
        self, arguments: Any, family: str, at: int, block: str, row: Mapping[str, Any], key: int
    ) -> dict[str, Any]:
        """A number that is not counted on patients, from the simulator of its statistic."""
        one = jax.tree.map(lambda x: x[at : at + 1], arguments)
        observed = jnp.asarray(self.model.packed.observed[family][at : at + 1])
        drawn = likelihood.simulate(family, jax.random.fold_in(jax.random.key(key), at), one, observed)[0]
        n = float(row["n"]) if "n" in row else np.nan
        value = likelihood.as_printed(family, block, np.asarray(drawn), n)
        return {"value": value if np.ndim(value) else float(value), "n": n}


class _Groups:
    """Patients of the arms that are asked for, drawn once each."""

    def __init__(
        self, model: Model, solved: Mapping[str, Any], frailty: float, key: int, sizes: Mapping[str, int]
    ) -> None:
        self.model, self.solved, self.frailty, self.key, self.sizes = model, solved, frailty, key, sizes
        self.drawn: dict[tuple[str, str, str], Patients] = {}
        self.t = np.asarray(model.grid.years)

    def of(self, kind: str, arm: int) -> Patients:
        """Patients of an arm of a kind; only its counted components stand among their events."""
        study, name, definition = self.model.packed.arm_ids[kind][int(arm)]
        at = (kind, name, definition)
        if at not in self.drawn:
            self.drawn[at] = self._draw(kind, int(arm), study, name)
        return self.drawn[at]

    def _draw(self, kind: str, arm: int, study: str, name: str) -> Patients:
        n = self.sizes.get(name) or self.model.evidence.studies[study].arm(name).n or self._printed(study, name)
        if not n:
            raise OsteobayesError(f"{study}: no source prints how many patients arm {name!r} has; give `sizes`")
        arms, hazards = self.model.packed.arms[kind], self.solved[kind]
        # one stream an arm: its patients have the same frailty, death and follow-up under every event definition
        rng = np.random.default_rng([self.key, zlib.crc32(f"{study}/{name}".encode())])
        share = arms.administrative[arm]
        ends = np.interp(rng.uniform(size=n), share[::-1], self.t[::-1])
        frail = kind == "SRE" or (kind == "OS" and self.model.shared_frailty)
        return individual.draw(
            rng, int(n), np.asarray(hazards["event"][arm]), np.asarray(hazards["death"][arm]), self.t,
            np.asarray(arms.weight[arm]), self.frailty if frail else 0.0, float(hazards["dropout"][arm]),
            shared=self.model.shared_frailty, administrative=ends,
        )  # fmt: skip

    def _printed(self, study: str, name: str) -> int:
        frame = self.model.evidence.outcomes
        found = frame.loc[(frame["study"] == study) & (frame["arm"] == name), "n"].dropna()
        return int(found.max()) if len(found) else 0

    def first(self, kind: str, arm: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Time to the first event or the end, whether it was an event, and the member, of each patient."""
        p = self.of(kind, arm)
        if kind == "OS":
            return p.end, p.died, p.member
        time, _ = individual.first(p)
        event = np.isfinite(time)
        if kind in DEATH_COUNTS:
            return np.minimum(time, p.end), event | p.died, p.member
        return np.minimum(time, p.end), event, p.member


def _tau(weights: np.ndarray) -> float:
    return float(weights.sum())


def _crude(g: _Groups, kind: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    time, event, _ = g.first(kind, r["arm"])
    events = int((event & (time <= _tau(r["quadrature"]) + 1e-9)).sum())
    return [{"value": events / time.size, "events": events, "n": time.size}]


def _split(g: _Groups, _: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    p = g.of("SRE", r["arm"])
    time, component = individual.first(p)
    seen = time <= min(_tau(r["quadrature"]), g.t[-1]) + 1e-9
    total = int(seen.sum())
    counts = np.bincount(component[seen], minlength=g.solved["SRE"]["event"].shape[2])
    counted = g.model.packed.arms["SRE"].counted[g.model.packed.arms["SRE"].definition[int(r["arm"])]] > 0
    return [
        {"value": c / max(total, 1), "events": int(c), "n": total, "part": k}
        for k, c in enumerate(counts)
        if counted[k]
    ]


def _completion(g: _Groups, _: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    p = g.of("OS", r["arm"])
    events = int((np.minimum(p.death, p.dropout) > float(r["years"])).sum())
    return [{"value": events / p.n, "events": events, "n": p.n}]


def _median(g: _Groups, kind: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    time, event, _ = g.first(kind, r["arm"])
    curve = survival.kaplan_meier(time, event)
    middle = survival.median(curve)
    reached = bool(np.isfinite(middle))
    low, high = survival.median_interval(curve)
    value = 12.0 * (middle if reached else min(float(time.max()), float(r["last"])))
    return [{"value": value, "low": 12.0 * low, "high": 12.0 * high, "reached": reached, "n": time.size}]


def _landmark(g: _Groups, block: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind, _, estimator = block.partition(" ")
    time, event, _ = g.first(kind, r["arm"])
    at = [y for y in np.asarray(r["years"]) if np.isfinite(y)]
    if estimator == "aj":
        p = g.of(kind, r["arm"])
        cause = np.where(event, 1, np.where(p.died, 2, 0))
        found = survival.aalen_johansen(time, cause, (1, 2))
        values = [1.0 - float(found[1][np.searchsorted(found.time, y, side="right") - 1]) for y in at]
    else:
        curve = survival.kaplan_meier(time, event)
        values = [float(curve(np.array(y))) for y in at]
    return [{"value": v, "part": k, "n": time.size} for k, v in enumerate(values)]


def _interval(g: _Groups, kind: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    time, event, _ = g.first(kind, r["arm"])
    edges = np.concatenate([[0.0], [y for y in np.asarray(r["years"]) if np.isfinite(y)]])
    inside = time <= edges[-1]
    counts = survival.interval_counts(np.minimum(time, edges[-1]), event & inside, edges)
    return [
        {"value": e / max(n, 1), "events": int(e), "n": float(n), "part": k}
        for k, (e, n) in enumerate(zip(counts.events, counts.at_risk - counts.censored / 2.0, strict=True))
    ]


def _hazard_ratio(g: _Groups, kind: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    sides = [g.first(kind, r["treated"]), g.first(kind, r["reference"])]
    time, event, member = (np.concatenate(x) for x in zip(*sides, strict=True))
    group = np.repeat([1, 0], [len(sides[0][0]), len(sides[1][0])])
    return [_fitted(survival.cox(time, event, group, member), time.size)]


def _fitted(found: survival.Cox, n: int, robust: bool = False) -> dict[str, Any]:
    se = found.robust_se if robust else found.se
    low, high = (float(np.exp(found.log_hazard_ratio + s * 1.96 * se)) for s in (-1, 1))
    return {"value": float(np.exp(found.log_hazard_ratio)), "low": low, "high": high, "n": n}


def _rate_ratio(g: _Groups, law: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    sides = [g.of("SRE", r["treated"]), g.of("SRE", r["reference"])]
    if law != "andersen_gill":
        rates = [p.time.size / p.end.sum() for p in sides]
        return [{"value": rates[0] / rates[1], "n": sides[0].n + sides[1].n}]
    start, stop, event, group, member, patient, before = [], [], [], [], [], [], 0
    for p, one in zip(sides, (1, 0), strict=True):
        who = np.concatenate([p.patient, np.arange(p.n)])
        when = np.concatenate([p.time, p.end])
        order = np.lexsort((when, who))
        who, when = who[order], when[order]
        fresh = np.concatenate([[True], who[1:] != who[:-1]])
        start.append(np.where(fresh, 0.0, np.concatenate([[0.0], when[:-1]])))
        stop.append(when)
        event.append(np.concatenate([np.ones(p.time.size), np.zeros(p.n)])[order])
        group.append(np.full(who.size, one))
        member.append(p.member[who])
        patient.append(who + before)
        before += p.n
    start, stop, event, group, member, patient = (
        np.concatenate(x) for x in (start, stop, event, group, member, patient)
    )
    long = stop > start  # an event at the very end leaves no interval behind it
    found = survival.cox(stop[long], event[long], group[long], member[long], start[long], patient[long])
    return [_fitted(found, before, robust=True)]


def _ratio(g: _Groups, block: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind, _, law = block.partition(" ")
    p1, p0 = (
        _crude(g, kind, {"arm": r[k], "quadrature": r["quadrature"]})[0]["value"] for k in ("treated", "reference")
    )
    return [{"value": p1 * (1 - p0) / (p0 * (1 - p1)) if law == "odds" else p1 - p0}]


def _rate(g: _Groups, law: str, r: Mapping[str, Any]) -> list[dict[str, Any]]:
    p = g.of("SRE", r["arm"])
    if r["gap"] > 0:
        p = p.apart(float(r["gap"]))
    end = np.minimum(p.end, _tau(r["quadrature"]))
    seen = p.time <= end[p.patient]
    count = np.bincount(p.patient[seen], minlength=p.n)
    if law == "patient":
        value = float((count / end).mean())
    elif law == "count":
        value = float(count.mean())
    elif law == "pooled":
        value = float(count.sum() / end.sum())
    else:
        period = np.floor(p.time[seen] / likelihood.PERIOD_YEARS).astype(int)
        value = len(set(zip(p.patient[seen].tolist(), period.tolist(), strict=True))) / float(end.sum())
    return [{"value": value, "events": int(count.sum()), "n": p.n}]


_COUNT = {
    "crude": _crude, "split": _split, "completion": _completion, "median": _median, "landmark": _landmark,
    "interval": _interval, "hazard_ratio": _hazard_ratio, "rate_ratio": _rate_ratio, "ratio": _ratio, "rate": _rate,
}  # fmt: skip
"""Families that are counted on patients; the others (registries, responses, markers) are drawn by their own `simulate`."""


Fields = tuple[float | np.ndarray, dict[str, float]]
"""An observed number as the likelihood takes it, and what changes of its row."""


def _count_packed(table: pd.DataFrame) -> Fields:
    row = table.iloc[0]
    return float(row["events"]), {"n": row["n"]}


def _split_packed(table: pd.DataFrame) -> Fields:
    counts = np.zeros(len(COMPONENTS))
    counts[table["part"].astype(int)] = table["events"]
    return counts, {"total": table["n"].iloc[0]}


def _median_packed(table: pd.DataFrame) -> Fields:
    row = table.iloc[0]
    low, high = (x / 12.0 if np.isfinite(x) else np.nan for x in (row["low"], row["high"]))
    return row["value"] / 12.0, {"n": row["n"], "low": low, "high": high, "reached": float(row["reached"])}


def _log_ratio_packed(table: pd.DataFrame) -> Fields:
    row = table.iloc[0]
    return float(np.log(row["value"])), {"se": float(np.log(row["high"] / row["low"]) / (2 * 1.96))}


def _rate_packed(table: pd.DataFrame) -> Fields:
    row = table.iloc[0]
    return row["value"], {"n": row["n"]}


_PACKED: dict[str, Callable[[pd.DataFrame], Fields]] = {
    "crude": _count_packed, "completion": _count_packed, "split": _split_packed, "median": _median_packed,
    "hazard_ratio": _log_ratio_packed, "rate": _rate_packed,
}  # fmt: skip
"""Families whose simulated rows can stand in the place of the published ones."""


def simulate_trial(
    model: Model, study: str, parameters: Mapping[str, Array], key: int, sizes: Mapping[str, int] | None = None
) -> SimulatedTrial:
    """Draw one study of a model (:meth:`TrialSimulator.simulate`); for many, keep a `TrialSimulator`."""
    return TrialSimulator(model).simulate(study, parameters, key, sizes)
