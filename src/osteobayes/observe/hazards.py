"""From trajectories to hazards: what each state does to each event, per cell."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteobayes.cycle.dynamics import systemic_burden
from osteobayes.schema import COMPONENTS
from osteobayes.solve import Trajectories

_BURDEN_FLOOR = 0.02
_STRENGTH_WIDTH = 0.05


class CellHazards(NamedTuple):
    """Hazards of each cell before baselines and study effects, and its systemic growth.

    ``sre`` has one row a component of :data:`osteobayes.schema.COMPONENTS`, clinically detected, relative to the baseline of
    the cell's cancer (:func:`sre_level`); ``death`` is in 1/year. ``growth`` (systemic), ``burden`` (lesion), ``flux``
    (resorption of the lesion), ``skeleton_flux`` and the markers of resorption and formation are logs relative to entry.
    """

    sre: Float[Array, "cell component time"]
    death: Float[Array, "cell time"]
    growth: Float[Array, "cell time"]
    burden: Float[Array, "cell time"]
    flux: Float[Array, "cell time"]
    skeleton_flux: Float[Array, "cell time"]
    resorption: Float[Array, "cell time"]
    formation: Float[Array, "cell time"]
    cancer: Int[Array, " cell"]


def strength(Z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Bone strength relative to healthy: the square of mineral up to 1, falling again in dense woven bone.

    Carter and Hayes 1977 (J Bone Joint Surg Am 59:954) square law; smooth at Z = 1 (softplus of width 0.05).
    """
    over = _STRENGTH_WIDTH * jax.nn.softplus((Z - 1.0) / _STRENGTH_WIDTH)
    return (Z - over) ** 2 / (1.0 + 0.4 * over)


def cell_hazards(
    path: Trajectories,
    p: Mapping[str, Array],
    cancer: Array,
    discrepancy: Float[Array, " cell"],
    years: Float[Array, " time"],
) -> CellHazards:
    """Hazards of each cell from its trajectories.

    Each component: baseline x (resorption flux / untreated flux at entry)^elasticity x burden and strength terms, with
    front-loading; a share of fractures occurs at uninvolved skeleton and follows the skeleton's own flux.

    Parameters
    ----------
    path
        Solution of the cells.
    p
        Parameters (natural scale).
    cancer
        Cancer of each cell (index).
    discrepancy
        Sum of the class discrepancies of the cell's agents (log hazard).
    years
        Output times of ``path``.
    """
    ref = path.reference
    log_flux = jnp.log(path.flux / ref.flux)
    log_burden = jnp.log((path.burden + _BURDEN_FLOOR) / (ref.burden + _BURDEN_FLOOR))
    weakness = jnp.log(strength(ref.mineral)) - jnp.log(strength(path.mineral))
    elasticity = p["resorption_elasticity"] + p["component_elasticity"]
    burden = p["burden_elasticity"] * log_burden
    weak = p["strength_elasticity"] * weakness
    share = p["skeleton_fracture_share"]
    logits = {
        "radiation": p["radiation_logit"][cancer],
        "surgery": p["surgery_logit"][cancer],
        "cord_compression": p["cord_compression_logit"][cancer],
        "hypercalcaemia": p["hypercalcaemia_logit"],
        "therapy_change": p["therapy_change_logit"],
    }
    relative = {
        "fracture": (1.0 - share) * jnp.exp(elasticity[0] * log_flux + burden + weak)
        + share * jnp.exp(elasticity[0] * jnp.log(path.skeleton_flux)),
        "radiation": jnp.exp(elasticity[1] * log_flux + burden),
        "surgery": jnp.exp(elasticity[2] * log_flux + burden + weak),
        "cord_compression": jnp.exp(elasticity[3] * log_flux + burden + weak),
        "hypercalcaemia": jnp.exp(p["hypercalcaemia_elasticity"] * log_flux + burden),
        "therapy_change": jnp.exp(p["resorption_elasticity"] * log_flux + burden),
    }
    core = 1.0 + sum(jnp.exp(logits[k]) for k in ("radiation", "surgery", "cord_compression"))
    front = 1.0 + p["front_loading"] * jnp.exp(-years / p["front_loading_time"])
    level = jnp.exp(discrepancy) / core * front[:, None]
    sre = jnp.stack([level * jnp.exp(logits.get(k, 0.0)) * relative[k] for k in COMPONENTS])

    W0 = p["systemic_entry_burden"]
    omega = p["death_bone_share"]
    bone = jnp.exp(p["death_burden_elasticity"] * log_burden + p["death_resorption_elasticity"] * log_flux)
    systemic = jnp.exp(p["death_systemic_elasticity"] * jnp.log(systemic_burden(path.growth, W0) / W0))
    death = jnp.exp(p["death_baseline"][cancer]) * (omega * bone + (1.0 - omega) * systemic)
    log_skeleton = jnp.log(path.skeleton_flux / path.skeleton_flux[0])
    return CellHazards(
        jnp.moveaxis(sre, (0, 1, 2), (1, 2, 0)), death.T, path.growth.T, log_burden.T, log_flux.T, log_skeleton.T,
        marker(path.flux, path.skeleton_flux, p["marker_lesion_share"]).T,
        marker(path.osteoblasts, path.skeleton_osteoblasts, p["marker_lesion_share"]).T, cancer,
    )  # fmt: skip


def marker(
    lesion: Float[Array, "time cell"], skeleton: Float[Array, "time cell"], share: Float[Array, ""]
) -> Float[Array, "time cell"]:
    """Log fold of a bone marker from entry: a share of it comes from lesions, the rest from the systemic skeleton.

    Parameters
    ----------
    lesion, skeleton
        Resorption flux (urinary N-telopeptide, serum CTX) or osteoblasts (ALP, BSAP, P1NP) of both.
    share
        Share of the marker at entry that comes from lesions.
    """
    return jnp.log(share * lesion / lesion[0] + (1.0 - share) * skeleton / skeleton[0])


REFERENCE_YEARS = 0.5
"""Time at which `sre_baseline` is defined."""
_LARGEST = 5.0


def sre_level(log_baseline: Float[Array, "..."], p: Mapping[str, Array]) -> Float[Array, "..."]:
    """Conditional entry hazard (1/year) from the log *marginal* mean hazard over the first half year.

    Frailty and front-loading change how a hazard unfolds, not how many events the first half year brings: with r = 0.5 y,
    marginal cumulative hazard ``r e^b = log1p(theta H)/theta``, ``H = h_0 (r + f_0 tau_0 (1 - e^(-r/tau_0)))``, solved for
    ``h_0`` at an unchanged lesion. Defined so, baseline, frailty and front-loading are nearly independent a posteriori.
    Where ``theta r e^b`` exceeds 5 (nearly everybody has an event within weeks) the exponential goes on as its tangent, so
    that hazards stay finite at any prior draw.
    """
    r, theta = REFERENCE_YEARS, p["frailty"]
    tau = p["front_loading_time"]
    exposure = r + p["front_loading"] * tau * -jnp.expm1(-r / tau)
    x = theta * r * jnp.exp(log_baseline)
    inside = jnp.minimum(x, _LARGEST)
    return (jnp.expm1(inside) + jnp.exp(_LARGEST) * (x - inside)) / (theta * exposure)


def ascertainment(detection: Float[Array, "arm detection"], p: Mapping[str, Array]) -> Float[Array, "arm component"]:
    """Detected per clinically detected event by component: only fractures depend on the detection of the study.

    ``detection`` is one-hot over survey, clinical, symptomatic.
    """
    factor = detection @ jnp.stack([p["survey_ascertainment"], jnp.ones(()), p["symptomatic_ascertainment"]])
    fracture = jnp.asarray([float(c == "fracture") for c in COMPONENTS])
    return 1.0 + fracture * (factor[:, None] - 1.0) * (detection.sum(axis=1, keepdims=True) > 0)
