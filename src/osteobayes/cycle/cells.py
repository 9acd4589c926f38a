"""Cells: the distinct (cancer, pre-treatment, regimen) combinations that have to be solved, as arrays."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osteobayes.cycle import exposure
from osteobayes.cycle.dynamics import Columns
from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS, MODULES
from osteobayes.cycle.regimen import Component, Regimen
from osteobayes.cycle.therapy import Agent, Catalogue, Kinetics
from osteobayes.errors import RegimenError
from osteobayes.schema import CANCERS

PRETREATMENTS = {"none": None, "bisphosphonate_12_months": "zoledronic acid 4 mg q4w"}
"""Treatment before entry, as a regimen given from day -364 to day 0."""
PRETREATMENT_DAYS = 364.0
_PARTS_PER_DAY = 8


@dataclass(frozen=True)
class Grid:
    """The time grid: output every ``output_days``; solver steps are shorter where the states move fast, after entry.

    ``substeps`` solver steps between outputs, in the first ``fine`` intervals (None: in all); one in the others.
    """

    output_days: float = 7.0
    outputs: int = 160
    substeps: int = 1
    fine: int | None = None

    @property
    def refined(self) -> int:
        """Intervals between outputs that have ``substeps`` solver steps."""
        return self.outputs if self.fine is None else min(self.fine, self.outputs)

    @property
    def steps(self) -> np.ndarray:
        """Lengths of the solver steps (days) [step]."""
        first = np.full(self.refined * self.substeps, self.output_days / self.substeps)
        return np.concatenate([first, np.full(self.outputs - self.refined, self.output_days)])

    @property
    def edges(self) -> np.ndarray:
        """Beginning of the first step and end of every step (days) [step + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.steps)])

    @property
    def ends(self) -> np.ndarray:
        """The step that ends at each output after the first [output]."""
        return np.cumsum(np.where(np.arange(self.outputs) < self.refined, self.substeps, 1)) - 1

    @property
    def days(self) -> np.ndarray:
        """Output times (days) [outputs + 1]."""
        return self.output_days * np.arange(self.outputs + 1)

    @property
    def years(self) -> np.ndarray:
        """Output times (years) [outputs + 1]."""
        return self.days / 365.25

    @property
    def _parts(self) -> int:
        """Equal parts of an output interval at which exposures are evaluated: eight or more a day, two or more a step."""
        return self.substeps * max(2, math.ceil(_PARTS_PER_DAY * self.output_days / self.substeps))

    @property
    def quadrature_days(self) -> np.ndarray:
        """Times (days) at which exposures are evaluated: midpoints of equal parts of every output interval."""
        return self.output_days / self._parts * (np.arange(self._parts * self.outputs) + 0.5)

    def project(
        self, curve: Float[exposure.Numbers, "... quadrature_time"], linear: bool = True
    ) -> Float[exposure.Numbers, "... step 3"]:
        """Least-squares line of a curve on every solver step, at the start, middle and end of the step.

        For exposures without closed integrals; doses have :func:`osteobayes.cycle.exposure.dose_lines`.

        Parameters
        ----------
        curve
            Exposure at :attr:`quadrature_days`.
        linear
            False: the mean alone. Then an on/off window stays between 0 and 1. A line is tilted at most until it touches zero.
        """
        xp = exposure.library(curve)

        def lines(part: exposure.Numbers, parts: int) -> exposure.Numbers:
            part = xp.reshape(part, (*curve.shape[:-1], -1, parts))
            x = (np.arange(parts) + 0.5) / parts - 0.5
            mean = part.mean(axis=-1)
            tilt = xp.clip((part * x).sum(axis=-1) / (x**2).sum() / 2.0, -mean, mean) * float(linear)
            return xp.stack([mean - tilt, mean, mean + tilt], axis=-1)

        cut = self.refined * self._parts
        first, rest = lines(curve[..., :cut], self._parts // self.substeps), lines(curve[..., cut:], self._parts)
        return xp.concatenate([first, rest], axis=-2)


DEFAULT_GRID = Grid(output_days=7.0, outputs=160, substeps=8, fine=2)
"""Weekly output for three years; steps of 0.875 days in the first two weeks, when new drugs move the states fast, then of a week."""


@dataclass(frozen=True)
class Cell:
    """One thing to solve: a lesion of a cancer, in a pre-treated or naive population, under a regimen."""

    cancer: str
    regimen: Regimen
    pretreatment: str = "none"

    def __str__(self) -> str:
        loaded = "" if self.pretreatment == "none" else f", after {self.pretreatment}"
        return f"{self.cancer}{loaded}: {self.regimen}"


class CellArrays(NamedTuple):
    """Cells as data of the compiled function.

    Columns are the cells' lesions, those with an agent of a module first, then the distinct systemic skeletons.
    ``lesion``: the cell of each lesion column; ``column``: the column of each cell; ``module``: which of the modules
    (:data:`osteobayes.cycle.fluxes.MODULES`) is on, by columns that have one; ``skeleton``: a representative cell of each
    skeleton; ``skeleton_of``: the skeleton of each cell.

    ``drugs`` has one entry an action that somebody is given.
    """

    cancer: Int[Array, " cell"]
    lesion: Int[Array, " cell"]
    column: Int[Array, " cell"]
    skeleton: Int[Array, " skeleton"]
    skeleton_of: Int[Array, " cell"]
    module: Float[Array, "kind module"]
    backbone: Float[Array, " cell"]
    drugs: dict[str, "Drug"]


class Drug(NamedTuple):
    """What is given of one drug action; ``rank`` counts the agents that act on one column.

    ``exposure`` holds :func:`component_lines`, ``entry`` is its mean before study entry; ``potency`` and ``relative`` index
    :func:`parameter_names`; ``inverse`` is -1 where the exposure is divided by the potency, 1 where it is multiplied, and 0
    where the kill is linear-quadratic with ``effective_dose`` (Gy, of the whole course).
    """

    exposure: Float[Array, "step 3 rank column"]
    entry: Float[Array, "rank column"]
    potency: Int[Array, "rank column"]
    relative: Int[Array, "rank column"]
    inverse: Float[Array, "rank column"]
    effective_dose: Float[Array, "rank column"]


def component_exposure(
    component: Component, agent: Agent, t: Float[exposure.Numbers, " time"], horizon: float
) -> Float[exposure.Numbers, " time"]:
    """Exposure of one component at times ``t`` (days), in the agent's own exposure unit; NumPy or JAX times."""
    kinetics = _kinetics(component, agent)
    start, stop = component.start_day, _stop(component, horizon)
    relative_dose = component.amount / agent.standard_dose
    if kinetics.kind == "window":
        off = None if component.period_days is None else component.period_days - (component.on_days or 0.0)
        return kinetics.scale * relative_dose * exposure.window(t, start, stop, component.on_days, off)
    if kinetics.kind == "table":
        times, concentrations = (np.asarray(x) for x in kinetics.table or ((), ()))
        return relative_dose * exposure.table(
            t, times, kinetics.scale * concentrations, start, kinetics.after == "hold"
        )  # pyright: ignore[reportArgumentType]
    if kinetics.kind == "continuous":
        return exposure.continuous(t, start, stop, component.amount / component.interval_days, _constants(kinetics))
    return exposure.doses(t, *_given_doses(component, agent, horizon))


def component_lines(component: Component, agent: Agent, grid: "Grid", horizon: float) -> np.ndarray:
    """Exposure of one component as a line on every solver step [step, 3]."""
    kinetics = _kinetics(component, agent)
    if kinetics.kind in ("doses", "pulse"):
        return np.asarray(exposure.dose_lines(grid.edges, *_given_doses(component, agent, horizon)))
    curve = component_exposure(component, agent, grid.quadrature_days, horizon)
    return np.asarray(grid.project(curve, linear=kinetics.kind != "window"))


def _kinetics(component: Component, agent: Agent) -> Kinetics:
    """Kinetics of an agent; refuses a schedule that they cannot follow."""
    where, kinetics = f"regimen `{component.text()}`", agent.kinetics
    if kinetics is None:
        raise RegimenError(f"{where}: field `agent`: the model has no mechanism of {agent.name} yet; leave it out")
    if kinetics.kind == "table" and (component.stop_day, component.doses, component.on_days) != (None, None, None):
        raise RegimenError(
            f"{where}: field `schedule`: the concentrations of {agent.name} come from a table, which says when they end; "
            "leave out `xN`, `until day` and on/off"
        )
    if kinetics.kind != "window" and component.on_days is not None:
        raise RegimenError(f"{where}: field `on/period`: {agent.name} has no on/off schedule; leave it out")
    if kinetics.kind == "pulse" and component.doses is None:
        raise RegimenError(f"{where}: field `xN`: how many fractions? Write for example `3 {agent.unit} daily x10`")
    return kinetics


def _stop(component: Component, horizon: float) -> float:
    """Day on which a component ends at the latest."""
    stop = horizon if component.stop_day is None else component.stop_day
    ends = stop if component.doses is None else component.start_day + component.doses * component.interval_days
    return min(stop, ends)


def _constants(kinetics: Kinetics) -> dict[str, float]:
    if kinetics.kind == "pulse":
        return exposure.pulse_kinetics(kinetics.half_life_days or 1.0)
    return {
        "input_per_day": kinetics.input_per_day or exposure.SMOOTHING,
        "half_life_days": kinetics.half_life_days or 1.0,
        "scale": kinetics.scale,
    }


def _given_doses(component: Component, agent: Agent, horizon: float) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Times, amounts and kinetics of single doses; fractions of radiotherapy share a course of unit area."""
    kinetics = _kinetics(component, agent)
    times = dose_times(component, _stop(component, horizon))
    amount = 1.0 / max(len(times), 1) if kinetics.kind == "pulse" else component.amount
    return times, np.full(len(times), amount), _constants(kinetics)


def dose_times(component: Component, stop: float) -> np.ndarray:
    """Days on which doses are given, from the start up to (not including) ``stop``."""
    times = np.arange(component.start_day, stop, component.interval_days)
    return times if component.doses is None else times[: component.doses]


def effective_dose(component: Component, agent: Agent, horizon: float) -> float:
    """Dose of a course of radiotherapy (Gy) that an infinite number of small fractions would need: n d (1 + d / (alpha/beta))."""
    kinetics = agent.kinetics
    if kinetics is None or kinetics.alpha_beta_gy is None:
        return 0.0
    return (
        len(dose_times(component, _stop(component, horizon)))
        * component.amount
        * (1.0 + component.amount / kinetics.alpha_beta_gy)
    )


def parameter_names(catalogue: Catalogue) -> list[str]:
    """Names of all potency and relative-potency parameters of the catalogue, sorted; index 0 is the constant one."""
    names = {a.potency for g in catalogue.agents.values() for a in g.actions}
    names |= {a.relative for g in catalogue.agents.values() for a in g.actions if a.relative}
    return ["", *sorted(names)]


def given_components(cell: Cell, catalogue: Catalogue) -> list[tuple[Component, bool]]:
    """Components of a cell's regimen, and of its pre-treatment (True)."""
    loading = PRETREATMENTS[cell.pretreatment]
    before = Regimen.parse(loading, catalogue).components if loading else ()
    return [(c, False) for c in cell.regimen.components] + [
        (replace(c, start_day=-PRETREATMENT_DAYS, stop_day=0.0), True) for c in before
    ]


def _on_bone(cell: Cell, catalogue: Catalogue) -> tuple[Component, ...]:
    """Components of a regimen that act on bone: cells that share them share a systemic skeleton."""
    return tuple(c for c in cell.regimen.components if catalogue.agents[c.agent].skeletal)


def pack(cells: Sequence[Cell], catalogue: Catalogue, grid: Grid, full: bool = False) -> CellArrays:
    """Arrays of the cells; ``full``: with every module everywhere."""
    horizon = float(grid.days[-1]) + 1.0
    steps = len(grid.steps)
    return assemble(cells, catalogue, steps, horizon, lambda c, a: component_lines(c, a, grid, horizon), full)


def assemble(
    cells: Sequence[Cell],
    catalogue: Catalogue,
    steps: int,
    horizon: float,
    exposed: Callable[[Component, Agent], Float[np.ndarray, "step 3"]],
    full: bool = False,
) -> CellArrays:
    """Arrays of the cells from the exposure of each component (:func:`pack` says which lines are usual)."""
    names = parameter_names(catalogue)
    before = np.arange(-28.0, 0.0, 0.25)
    cache: dict[Component, np.ndarray] = {}

    def cached(component: Component, agent: Agent) -> np.ndarray:
        if component not in cache:
            cache[component] = exposed(component, agent)
        return cache[component]

    # by action, then by cell, then by what the exposure is multiplied with: exposures that share it add up
    acting: dict[str, dict[int, dict[tuple, tuple]]] = {}
    for i, cell in enumerate(cells):
        for component, loaded in given_components(cell, catalogue):
            agent = catalogue.agents[component.agent]
            curve = cached(component, agent)
            entry = 0.0
            if loaded:
                entry = float(component_exposure(component, agent, before, horizon).mean())
            for action in agent.actions:
                own = component.agent if action.form == "fraction" else ""  # fractions do not add up
                course = effective_dose(component, agent, horizon) if action.form == "linear_quadratic" else 0.0
                multiplier = (names.index(action.potency), names.index(action.relative or ""), action.form, own, course)
                terms = acting.setdefault(action.flux, {}).setdefault(i, {})
                old = terms.get(multiplier, (0.0, 0.0))
                terms[multiplier] = (old[0] + curve, old[1] + entry)
    skeletons: dict[tuple, int] = {}
    skeleton_of = [skeletons.setdefault((_on_bone(c, catalogue), c.pretreatment), len(skeletons)) for c in cells]
    skeleton = [skeleton_of.index(i) for i in range(len(skeletons))]
    on = {i: {m for a in cell.regimen.agents for m in catalogue.agents[a].modules} for i, cell in enumerate(cells)}
    on = {i: set(MODULES) for i in on} if full else on
    lesion = sorted(on, key=lambda i: not on[i])
    column = [*lesion, *skeleton]
    return CellArrays(
        cancer=jnp.asarray([CANCERS.index(c.cancer) for c in cells], dtype=jnp.int32),
        lesion=jnp.asarray(lesion, dtype=jnp.int32),
        column=jnp.asarray(np.argsort(lesion), dtype=jnp.int32),
        skeleton=jnp.asarray(skeleton, dtype=jnp.int32),
        skeleton_of=jnp.asarray(skeleton_of, dtype=jnp.int32),
        module=jnp.asarray([[float(m in on[i]) for i in lesion if on[i]] for m in MODULES]),
        backbone=jnp.asarray([float(c.regimen.backbone) for c in cells]),
        drugs={name: _drug(acting[name], column, steps) for name in ACTIONS if name in acting},
    )


def _drug(acting: Mapping[int, Mapping[tuple, tuple]], column: Sequence[int], steps: int) -> Drug:
    """Arrays of one action from its terms by cell."""
    shape = (max(map(len, acting.values())), max(column) + 1)
    curves, entry = np.zeros((steps, 3, *shape)), np.zeros(shape)
    potency, relative = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    inverse, course = np.ones(shape), np.zeros(shape)
    sign = {"ratio": -1.0, "linear_quadratic": 0.0}
    for i, terms in acting.items():
        for k, ((p, r, form, _, dose), (curve, before)) in enumerate(terms.items()):
            curves[:, :, k, i], entry[k, i] = curve, before
            potency[k, i], relative[k, i], inverse[k, i], course[k, i] = p, r, sign.get(form, 1.0), dose
    return Drug(*(jnp.asarray(x[..., column]) for x in (curves, entry, potency, relative, inverse, course)))


def coefficients(
    values: Mapping[str, Array], names: Sequence[str], drugs: Mapping[str, Drug]
) -> dict[str, Float[Array, "rank column"]]:
    """What each exposure is multiplied with: the potency (or one over it) and the relative potency of its agent.

    A course of radiotherapy kills a share ``field (1 - exp(-alpha dose))`` of the lesion, so its log-kill is minus the log of
    what is left (linear-quadratic model; ``dose`` is the effective dose).

    Parameters
    ----------
    values
        Values of the potency parameters, scalars.
    names
        :func:`parameter_names`.
    drugs
        :attr:`CellArrays.drugs`.
    """
    logs = jnp.stack([jnp.zeros(()), *(jnp.log(values[n]) for n in names[1:])])

    def one(drug: Drug) -> Array:
        usual = jnp.exp(drug.inverse * logs[drug.potency] + logs[drug.relative])
        killed = jnp.exp(logs[drug.relative]) * -jnp.expm1(-jnp.exp(logs[drug.potency]) * drug.effective_dose)
        course = drug.inverse == 0
        return jnp.where(course, -jnp.log1p(-jnp.where(course, killed, 0.0)), usual)

    return {name: one(drug) for name, drug in drugs.items()}


def actions(
    exposure: Mapping[str, Float[Array, "rank column"]], coefficient: Mapping[str, Float[Array, "rank column"]]
) -> dict[str, Array]:
    """Drug actions by name from exposures at one time: several agents on one flux add; fractions combine as 1 - prod(1 - u).

    An action that nobody is given is the scalar 0.
    """
    u: dict[str, Array] = dict.fromkeys(ACTIONS, jnp.zeros(()))
    for name, x in exposure.items():
        each = x * coefficient[name]
        if name in FRACTIONS:
            u[name] = 1.0 - jnp.prod(1.0 - jnp.clip(each, 0.0, 1.0 - 1e-9), axis=0)
        else:
            u[name] = each.sum(axis=0)
    return u


def columns_of(arrays: CellArrays) -> tuple[Columns, Int[Array, " column"]]:
    """Columns of the solve (the cells' lesions, then the distinct skeletons) and the cancer of each."""
    which = jnp.concatenate([arrays.lesion, arrays.skeleton])
    lesion = jnp.concatenate([jnp.ones(arrays.lesion.shape[0]), jnp.zeros(arrays.skeleton.shape[0])])
    return Columns(lesion, arrays.backbone[which], *arrays.module), arrays.cancer[which]
