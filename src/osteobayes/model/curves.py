"""From hazards of cells to the observable curves of arms: study effects, ascertainment, mixtures, follow-up."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osteobayes.evidence.rows import Arms
from osteobayes.observe import alive, incidence, mixed_death, mixed_hazard, observable, progression
from osteobayes.observe.grid import cumulative
from osteobayes.observe.hazards import CellHazards, ascertainment, sre_level
from osteobayes.schema import COMPONENTS

FRACTURE = COMPONENTS.index("fracture")
PROGRESSION_STRIDE = 2
"""The progression law compares all pairs of times, so it runs on every second output time."""


class Curves(NamedTuple):
    """One kind of curve of each arm: observable total hazard, at-risk share (no censoring), stay G."""

    hazard: Float[Array, "arm time"]
    at_risk: Float[Array, "arm time"]
    member_hazard: Float[Array, "arm member time"]
    member_at_risk: Float[Array, "arm member time"]
    stay: Float[Array, "arm time"]

    def share_seen(self, weight: Float[Array, "arm member"]) -> Float[Array, "arm time"]:
        """Density (1/year) of events that are seen, of all patients at entry."""
        return jnp.einsum("am,amt,amt->at", weight, self.member_hazard, self.member_at_risk) * self.stay


def effect_vectors(values: Mapping[str, Array]) -> dict[str, Array]:
    """Study effects as vectors whose entry 0 is no effect; registries stand behind trials."""

    def get(name: str) -> Array:
        return jnp.atleast_1d(values[name]) if name in values else jnp.zeros(0)

    zero = jnp.zeros(1)
    return {
        "sre": jnp.concatenate([zero, get("sre_study"), get("registry_study")]),
        "death": jnp.concatenate([zero, get("os_study"), get("os_study_unseen")]),
        "entry": jnp.concatenate([zero, get("entry_selection_study")]),
        "progression": jnp.concatenate([zero, get("pfs_study")]),
        "registry": jnp.concatenate([zero, get("registry_study")]),
        "response": jnp.concatenate([zero, get("response_study")]),
        "contrast": jnp.concatenate([zero, get("effect_study")]),
        "dropout": jnp.concatenate([zero, get("dropout_study")]),
    }


def stay(arms: Arms, values: Mapping[str, Array], effects: Mapping[str, Array], t: Array) -> Float[Array, "arm time"]:
    """G(t): no dropout yet and under administrative follow-up; registries have no dropout."""
    dropout = jnp.where(arms.dropout > 0, values["dropout"] * jnp.exp(effects["dropout"][arms.dropout]), 0.0)
    return arms.administrative * jnp.exp(-dropout[:, None] * t)


def counted_levels(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> tuple[Float[Array, "definition component"], Float[Array, "arm member"]]:
    """Ascertainment of the counted components by event definition, and the level of each arm member's hazards."""
    study = effects["sre"][arms.sre_effect] + values["prior_event_effect"] * arms.prior_event
    baseline = values["sre_baseline"][cells.cancer[arms.cell]] + study[:, None]
    level = sre_level(baseline, values) * jnp.exp(effects["contrast"][arms.contrast])[:, None]
    return arms.counted * ascertainment(arms.detection, values), level


def component_hazards(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> Float[Array, "arm member component time"]:
    """Hazards of the counted components of SRE arms after study effects and ascertainment."""
    factor, level = counted_levels(arms, cells, values, effects)
    hazard = cells.sre[arms.cell]
    if arms.delay.shape[0]:  # data: some study looks for fractures by scheduled surveys
        found = jnp.einsum("ams,ast->amt", hazard[:, :, FRACTURE], arms.delay[arms.definition])
        hazard = hazard.at[:, :, FRACTURE].set(found)
    return hazard * (factor[arms.definition][:, None, :] * level[:, :, None])[..., None]


def total_hazards(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> Float[Array, "arm member time"]:
    """Sum of :func:`component_hazards`, by way of the few distinct event definitions."""
    factor, level = counted_levels(arms, cells, values, effects)
    by_definition = jnp.einsum("dk,ckt->dct", factor, cells.sre)
    if arms.delay.shape[0]:
        fracture = cells.sre[:, FRACTURE]
        found = jnp.einsum("cs,dst->dct", fracture, arms.delay)
        by_definition = by_definition + factor[:, FRACTURE, None, None] * (found - fracture)
    return by_definition[arms.definition[:, None], arms.cell] * level[..., None]


def death_effect(
    effects: Mapping[str, Array], values: Mapping[str, Array], study: Array, trial: Array, entry: Array, t: Array
) -> Float[Array, "arm time"]:
    """Study effect on the log hazard of death: its level, less the selection at entry, which fades.

    Trials take patients who are expected to live some months, so deaths are rarer at first than the state of the disease
    says: ``b_s - (trial psi + psi_s) exp(-t / tau_psi)``.

    Parameters
    ----------
    effects, values
        Study effects (:func:`effect_vectors`) and parameters.
    study, entry
        Indices into the effects on the level and on the selection.
    trial
        1 for trials, 0 for cohorts and registries.
    t
        Years from entry.
    """
    selection = trial * values["entry_selection"] + effects["entry"][entry]
    fading = jnp.exp(-t / values["entry_selection_time"])
    return effects["death"][study][..., None] - selection[..., None] * fading


def member_death(
    arms: Arms,
    cells: CellHazards,
    values: Mapping[str, Array],
    effects: Mapping[str, Array],
    t: Array,
    treated: bool = False,
) -> Array:
    """Death hazard of arm members after study effects [arm, member, time]."""
    log_effect = death_effect(effects, values, arms.death_effect, arms.trial, arms.entry_effect, t)
    if treated:
        log_effect = log_effect + effects["contrast"][arms.contrast][:, None]
    return cells.death[arms.cell] * jnp.exp(log_effect)[:, None, :]


def of_real_members(f: Callable[..., Any], arms: Arms, *x: Float[Array, "arm member ..."]) -> Any:
    """``f`` of arrays whose first axis is members, at those that are no padding; its results by arm and member again.

    Most arms have one member and a few have many: three of four places are padding.
    """
    if arms.real is None or arms.place is None:
        size = arms.weight.shape
        found = f(*(v.reshape(-1, *v.shape[2:]) for v in x))
        return jax.tree.map(lambda v: v.reshape(*size, *v.shape[1:]), found)
    found = f(*(v[arms.real[:, 0], arms.real[:, 1]] for v in x))
    return jax.tree.map(lambda v: v[arms.place], found)


def sre_curves(arms: Arms, cells: CellHazards, values, effects, t: Array, shared: bool = False) -> Curves:
    """First skeletal event: Kaplan-Meier hazard and at-risk share (deaths censored).

    ``shared``: whether the frailty of skeletal events multiplies death too (here and in :func:`death_curves`).
    """
    total = total_hazards(arms, cells, values, effects)[:, :, None]
    death = member_death(arms, cells, values, effects, t)
    obs = of_real_members(lambda h, d: observable(h, d, values["frailty"], t, shared), arms, total, death)
    hazard, at_risk = jax.vmap(mixed_hazard)(obs, arms.weight)
    return Curves(hazard[:, 0], at_risk, obs.hazard[:, :, 0], obs.at_risk, stay(arms, values, effects, t))


def death_curves(arms: Arms, cells: CellHazards, values, effects, t: Array, shared: bool = False) -> Curves:
    """Overall survival; under shared frailty the observable hazard is ``h_D / (1 + theta H_D)``."""
    death = member_death(arms, cells, values, effects, t, treated=True)
    living = of_real_members(lambda d: alive(d, values["frailty"], t, shared), arms, death)
    if shared:
        death = death / (1.0 + values["frailty"] * cumulative(death, t))
    hazard, at_risk = jax.vmap(mixed_death)(death, living, arms.weight)
    return Curves(hazard, at_risk, death, living, stay(arms, values, effects, t))


def _outgrown(growth: Float[Array, "member time"], values, t: Array) -> Float[Array, "member time"]:
    """Hazard of progression of a burden whose log is ``growth`` in the arm's typical patient."""
    coarse = t[::PROGRESSION_STRIDE]
    law = jax.vmap(lambda y: progression.hazard(y, coarse, values["progression_heterogeneity"])[0])
    return law(growth[..., ::PROGRESSION_STRIDE]) @ _between(t.shape[0])


def _progression(growth: Array, arms: Arms, cells: CellHazards, values, effects, t: Array) -> tuple[Array, Array]:
    level = jnp.exp(effects["progression"][arms.progression_effect] + effects["contrast"][arms.contrast])
    hazard = of_real_members(lambda y: _outgrown(y, values, t), arms, growth[arms.cell])
    return hazard * level[:, None, None], member_death(arms, cells, values, effects, t)


def systemic_progression(arms: Arms, cells: CellHazards, values, effects, t: Array) -> tuple[Array, Array]:
    """Hazards of progression of the systemic burden and of death [arm, member, time]."""
    return _progression(cells.growth, arms, cells, values, effects, t)


def bone_progression(arms: Arms, cells: CellHazards, values, effects, t: Array) -> tuple[Array, Array]:
    """Hazards of progression of the burden of the lesions and of death [arm, member, time]."""
    return _progression(cells.burden, arms, cells, values, effects, t)


def onset(arms: Arms, cells: CellHazards, values, effects, t: Array) -> tuple[Array, Array]:
    """Hazards of bone metastasis and of death among patients who have none [arm, member, time].

    Onset follows the analytic law of `observe.incidence` times the resorption of healthy bone to the power
    ``onset_elasticity``: integrated between the grid times, because the law is infinite at 0, and turned back into a hazard
    whose trapezoid is that integral.
    """
    scale = jnp.exp(values["onset_hazard"][arms.onset] + effects["registry"][arms.onset_effect])
    scale = scale * jnp.exp(effects["contrast"][arms.contrast])
    law = jax.vmap(lambda a: jnp.diff(incidence.onset(t, a, values["onset_shape"])))(scale)
    fold = jnp.exp(values["onset_elasticity"] * cells.skeleton_flux[arms.cell])
    pieces = law[:, None, :] * 0.5 * (fold[..., 1:] + fold[..., :-1])
    total = jnp.concatenate([jnp.zeros_like(fold[..., :1]), jnp.cumsum(pieces, axis=-1)], axis=-1)
    death = values["registry_death"][cells.cancer[arms.cell]][..., None] * jnp.ones_like(fold)
    return progression.rate_of(total, t), death


EVENTS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "PFS": systemic_progression,
    "bone_progression": bone_progression,
    "bone_metastasis": onset,
    "BMFS": onset,
}
"""Hazards of the event and of death, by kind of curve."""
DEATH_COUNTS = ("PFS", "BMFS")
"""Kinds of which death is an event; of the others it is a competitor."""


def event_curves(kind: str, arms: Arms, cells: CellHazards, values, effects, t: Array, shared: bool = False) -> Curves:
    """Curves of an event that happens once; death counts (`DEATH_COUNTS`) or competes.

    These events have no frailty of their own, and deaths beside them none either, whatever ``shared``.
    """
    event, death = EVENTS[kind](arms, cells, values, effects, t)
    free = of_real_members(lambda h: jnp.exp(-cumulative(h, t)), arms, event + death)
    if kind in DEATH_COUNTS:
        event = event + death
    mixed, at_risk = jax.vmap(mixed_death)(event, free, arms.weight)
    return Curves(mixed, at_risk, event, free, stay(arms, values, effects, t))


def _between(times: int) -> Float[np.ndarray, "coarse time"]:
    """Weights of linear interpolation from every :data:`PROGRESSION_STRIDE`-th time of a uniform grid to all."""
    coarse = np.arange(0, times, PROGRESSION_STRIDE)
    return np.stack([np.interp(np.arange(times), coarse, one) for one in np.eye(len(coarse))])


CURVES: dict[str, Callable[..., Curves]] = {
    "SRE": sre_curves,
    "OS": death_curves,
    **{kind: partial(event_curves, kind) for kind in EVENTS},
}
"""Curves of arms by kind."""
