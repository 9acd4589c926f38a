"""Arms that mix tumours or regimens: what a Kaplan-Meier curve of the whole arm estimates."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.frailty import Observable
from osteobayes.observe.grid import cumulative

__all__ = ["km_survival", "mixed_death", "mixed_hazard"]

_TINY = 1e-30


def mixed_hazard(
    obs: Observable, weights: Float[Array, " member"]
) -> tuple[Float[Array, "component time"], Float[Array, " time"]]:
    """Hazards of the mixed arm among those still at risk, and its at-risk fraction.

    Parameters
    ----------
    obs : Observable
        Curves of the M members.
    weights : array [M]
        Member weights at entry, summing to 1; 0 for padding.

    Returns
    -------
    hazard : array [K, T]
        ``sum_m w_m L_m lam_mk / sum_m w_m L_m``, 1/year. Censoring that is common to the members is a factor of
        numerator and denominator and drops out, so none is asked for.
    at_risk : array [T]
        ``sum_m w_m L_m``; multiply by G(t) for the at-risk fraction under censoring.
    """
    y = weights[:, None] * obs.at_risk
    total = jnp.sum(y, axis=0)
    return jnp.sum(y[:, None, :] * obs.hazard, axis=0) / (total + _TINY), total


def mixed_death(
    death: Float[Array, "member time"], living: Float[Array, "member time"], weights: Float[Array, " member"]
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Mixed hazard [T] and mixed at-risk fraction [T] of any single-outcome curve, for instance death (for OS).

    Parameters
    ----------
    death : array [M, T]
        Hazard of the outcome among those at risk, 1/year. For OS under shared frailty: ``h_D/(1 + theta H_D)``.
    living : array [M, T]
        At-risk probability of the members, from `osteobayes.observe.frailty.alive`.
    weights : array [M]
        Member weights at entry.
    """
    y = weights[:, None] * living
    total = jnp.sum(y, axis=0)
    return jnp.sum(y * death, axis=0) / (total + _TINY), total


def km_survival(hazard: Float[Array, "... time"], t: Float[Array, " time"]) -> Float[Array, "... time"]:
    """Kaplan-Meier target ``exp(-int_0^t lam)`` of an observable hazard ``lam`` [..., T] (other events censored).

    Under a = 1 this is neither the gamma survival of H nor the latent marginal survival: the censoring by death is
    informative.
    """
    return jnp.exp(-cumulative(hazard, t))
