"""Cells: the distinct (cancer, pre-treatment, regimen) combinations that have to be solved, as arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osteobayes.cycle import exposure
from osteobayes.cycle.dynamics import Columns
from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS, NOT_ON_BONE
from osteobayes.cycle.regimen import Component, Regimen
from osteobayes.cycle.therapy import Agent, Catalogue
from osteobayes.errors import RegimenError
from osteobayes.schema import CANCERS

PRETREATMENTS = {"none": None, "bisphosphonate_12_months": "zoledronic acid 4 mg q4w"}
"""Treatment before entry, as a regimen given from day -364 to day 0."""
PRETREATMENT_DAYS = 364.0
_PARTS_PER_DAY = 8
_ACTION_INDEX = {name: i for i, name in enumerate(ACTIONS)}


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

    def project(self, curve: Float[Array, "... quadrature_time"], linear: bool = True) -> Float[Array, "... step 3"]:
        """Least-squares line of a curve on every solver step, at the start, middle and end of the step.

        A bolus rises and falls within a step; what moves the states over the step is its mean and first moment, and these the
        line keeps. Sampled at three points instead, a step of 7 days missed up to 7 % of a gradient by a potency.

        Parameters
        ----------
        curve
            Exposure at :attr:`quadrature_days`.
        linear
            False: the mean alone. Then an on/off window stays between 0 and 1. A line is tilted at most until it touches zero.
        """

        def lines(part: Array, parts: int) -> Array:
            part = jnp.reshape(part, (*curve.shape[:-1], -1, parts))
            x = (np.arange(parts) + 0.5) / parts - 0.5
            mean = part.mean(axis=-1)
            tilt = jnp.clip((part * x).sum(axis=-1) / (x**2).sum() / 2.0, -mean, mean) * float(linear)
            return jnp.stack([mean - tilt, mean, mean + tilt], axis=-1)

        cut = self.refined * self._parts
        first, rest = lines(curve[..., :cut], self._parts // self.substeps), lines(curve[..., cut:], self._parts)
        return jnp.concatenate([first, rest], axis=-2)


DEFAULT_GRID = Grid(output_days=7.0, outputs=160, substeps=4, fine=2)
"""Weekly output for three years; steps of 1.75 days in the first two weeks, when new drugs move the states fast, then of a week."""


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

    Columns are the cells' lesions, those with an agent of the immune module first, then the distinct systemic skeletons.
    ``lesion``: the cell of each lesion column; ``column``: the column of each cell; ``immune``: ones, one a cell with the
    immune module; ``skeleton``: a representative cell of each skeleton; ``skeleton_of``: the skeleton of each cell.

    Drugs: ``rank`` counts the agents that act on one flux of one column; ``exposure`` is :meth:`Grid.project`,
    ``entry_exposure`` its mean before entry; ``potency`` and ``relative`` index :func:`parameter_names`; ``inverse`` is -1
    where the exposure is divided by the potency.
    """

    cancer: Int[Array, " cell"]
    lesion: Int[Array, " cell"]
    column: Int[Array, " cell"]
    skeleton: Int[Array, " skeleton"]
    skeleton_of: Int[Array, " cell"]
    immune: Float[Array, " immune"]
    backbone: Float[Array, " cell"]
    exposure: Float[Array, "step 3 rank action column"]
    entry_exposure: Float[Array, "rank action column"]
    potency: Int[Array, "rank action column"]
    relative: Int[Array, "rank action column"]
    inverse: Float[Array, "rank action column"]


def component_exposure(component: Component, agent: Agent, t: Array, horizon: float) -> Array:
    """Exposure of one component at times ``t`` (days), in the agent's own exposure unit."""
    kinetics = agent.kinetics
    if kinetics is None:
        raise RegimenError(
            f"regimen `{component.text()}`: field `agent`: the model has no mechanism of {agent.name} yet; leave it out"
        )
    constants = {
        "input_per_day": kinetics.input_per_day or exposure.SMOOTHING,
        "half_life_days": kinetics.half_life_days or 1.0,
        "scale": kinetics.scale,
    }
    start = component.start_day
    stop = horizon if component.stop_day is None else component.stop_day
    if component.doses is not None:
        stop = min(stop, start + component.doses * component.interval_days)
    relative_dose = component.amount / agent.standard_dose
    if kinetics.kind == "window":
        off = None if component.period_days is None else component.period_days - (component.on_days or 0.0)
        return relative_dose * exposure.window(t, start, stop, component.on_days, off)
    if component.on_days is not None:
        raise RegimenError(
            f"regimen `{component.text()}`: field `on/period`: {agent.name} has no on/off schedule; leave it out"
        )
    if kinetics.kind == "continuous":
        return exposure.continuous(t, start, stop, component.amount / component.interval_days, constants)
    times = dose_times(component, stop)
    return exposure.doses(t, jnp.asarray(times), jnp.full(len(times), component.amount), constants)


def dose_times(component: Component, stop: float) -> np.ndarray:
    """Days on which doses are given, from the start up to (not including) ``stop``."""
    times = np.arange(component.start_day, stop, component.interval_days)
    return times if component.doses is None else times[: component.doses]


def parameter_names(catalogue: Catalogue) -> list[str]:
    """Names of all potency and relative-potency parameters of the catalogue, sorted; index 0 is the constant one."""
    names = {a.potency for g in catalogue.agents.values() for a in g.actions}
    names |= {a.relative for g in catalogue.agents.values() for a in g.actions if a.relative}
    return ["", *sorted(names)]


def _given(cell: Cell, catalogue: Catalogue) -> list[tuple[Component, bool]]:
    """Components of a cell's regimen, and of its pre-treatment (True)."""
    loading = PRETREATMENTS[cell.pretreatment]
    before = Regimen.parse(loading, catalogue).components if loading else ()
    return [(c, False) for c in cell.regimen.components] + [
        (replace(c, start_day=-PRETREATMENT_DAYS, stop_day=0.0), True) for c in before
    ]


def _on_bone(cell: Cell, catalogue: Catalogue) -> tuple[Component, ...]:
    """Components of a regimen that act on bone: cells that share them share a systemic skeleton."""
    return tuple(
        c for c in cell.regimen.components if any(a.flux not in NOT_ON_BONE for a in catalogue.agents[c.agent].actions)
    )


def pack(cells: Sequence[Cell], catalogue: Catalogue, grid: Grid) -> CellArrays:
    """Arrays of the cells."""
    names = parameter_names(catalogue)
    t = jnp.asarray(grid.quadrature_days)
    before = jnp.asarray(np.arange(-28.0, 0.0, 0.25))
    horizon = float(grid.days[-1]) + 1.0
    cache: dict[Component, np.ndarray] = {}

    def exposed(component: Component, agent: Agent) -> np.ndarray:
        if component not in cache:
            curve = component_exposure(component, agent, t, horizon)
            cache[component] = np.asarray(
                grid.project(curve, linear=agent.kinetics is not None and agent.kinetics.kind != "window")
            )
        return cache[component]

    # by (action, cell), then by what the exposure is multiplied with: exposures that share it add up
    acting: dict[tuple[int, int], dict[tuple, tuple]] = {}
    for i, cell in enumerate(cells):
        for component, loaded in _given(cell, catalogue):
            agent = catalogue.agents[component.agent]
            curve = exposed(component, agent)
            entry = float(component_exposure(component, agent, before, horizon).mean()) if loaded else 0.0
            for action in agent.actions:
                own = component.agent if action.form == "fraction" else ""  # fractions do not add up
                multiplier = (names.index(action.potency), names.index(action.relative or ""), action.form, own)
                terms = acting.setdefault((_ACTION_INDEX[action.flux], i), {})
                old = terms.get(multiplier, (0.0, 0.0))
                terms[multiplier] = (old[0] + curve, old[1] + entry)
    shape = (max(map(len, acting.values()), default=1), len(ACTIONS), len(cells))
    exposure = np.zeros((len(grid.steps), 3, *shape))
    entry_exposure, inverse = np.zeros(shape), np.ones(shape)
    potency, relative = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    for (action, i), terms in acting.items():
        for k, ((p, r, form, _), (curve, entry)) in enumerate(terms.items()):
            at = (k, action, i)
            exposure[:, :, *at], entry_exposure[at] = curve, entry
            potency[at], relative[at], inverse[at] = p, r, -1.0 if form == "ratio" else 1.0
    skeletons: dict[tuple, int] = {}
    skeleton_of = [skeletons.setdefault((_on_bone(c, catalogue), c.pretreatment), len(skeletons)) for c in cells]
    skeleton = [skeleton_of.index(i) for i in range(len(skeletons))]
    immune = [any("immune" in catalogue.agents[a].modules for a in cell.regimen.agents) for cell in cells]
    lesion = sorted(range(len(cells)), key=lambda i: not immune[i])
    column = [*lesion, *skeleton]
    return CellArrays(
        cancer=jnp.asarray([CANCERS.index(c.cancer) for c in cells], dtype=jnp.int32),
        lesion=jnp.asarray(lesion, dtype=jnp.int32),
        column=jnp.asarray(np.argsort(lesion), dtype=jnp.int32),
        skeleton=jnp.asarray(skeleton, dtype=jnp.int32),
        skeleton_of=jnp.asarray(skeleton_of, dtype=jnp.int32),
        immune=jnp.ones(sum(immune)),
        backbone=jnp.asarray([float(c.regimen.backbone) for c in cells]),
        exposure=jnp.asarray(exposure[..., column]),
        entry_exposure=jnp.asarray(entry_exposure[..., column]),
        potency=jnp.asarray(potency[..., column]),
        relative=jnp.asarray(relative[..., column]),
        inverse=jnp.asarray(inverse[..., column]),
    )


def coefficients(
    values: Mapping[str, Array], names: Sequence[str], arrays: CellArrays
) -> Float[Array, "rank action column"]:
    """What each exposure is multiplied with: the potency (or one over it) and the relative potency of its agent.

    Parameters
    ----------
    values
        Values of the potency parameters, scalars.
    names
        :func:`parameter_names`.
    arrays
        The cells.
    """
    log_values = jnp.stack([jnp.zeros(()), *(jnp.log(values[n]) for n in names[1:])])
    return jnp.exp(arrays.inverse * log_values[arrays.potency] + log_values[arrays.relative])


def actions(
    exposure: Float[Array, "rank action column"], coefficient: Float[Array, "rank action column"]
) -> dict[str, Float[Array, " column"]]:
    """Drug actions by name from exposures at one time: several agents on one flux add; fractions combine as 1 - prod(1 - u)."""
    u = exposure * coefficient
    return {
        name: 1.0 - jnp.prod(1.0 - jnp.clip(u[:, i], 0.0, 1.0 - 1e-9), axis=0)
        if name in FRACTIONS
        else u[:, i].sum(axis=0)
        for i, name in enumerate(ACTIONS)
    }


def columns_of(arrays: CellArrays) -> tuple[Columns, Int[Array, " column"]]:
    """Columns of the solve (the cells' lesions, then the distinct skeletons) and the cancer of each."""
    which = jnp.concatenate([arrays.lesion, arrays.skeleton])
    lesion = jnp.concatenate([jnp.ones(arrays.lesion.shape[0]), jnp.zeros(arrays.skeleton.shape[0])])
    return Columns(lesion, arrays.immune, arrays.backbone[which]), arrays.cancer[which]
