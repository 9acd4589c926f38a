"""Response: of the tumour (RECIST), from the burden and the spread of growth rates between patients; of pain."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from osteobayes.observe import crude

__all__ = ["LOG_SHRINKAGE", "log_lik", "objective", "pain", "reached", "simulate"]

LOG_SHRINKAGE = -1.0700248318161971
"""ln 0.343: 30 % less diameter, of a sphere, is 65.7 % less volume (0.7^3 = 0.343)."""
_FAR = 40.0


def reached(y: Float[Array, " time"], t: Float[Array, " time"], spread) -> Float[Array, " time"]:
    """Probability that a patient's tumour has been small enough by each time, deaths and censoring aside.

    Parameters
    ----------
    y : array [T]
        Log systemic burden of the arm's typical patient, relative to the start.
    t : array [T]
        Time grid from 0, years.
    spread : scalar
        Standard deviation between patients of the yearly log growth, 1/year, > 0 (as `osteobayes.observe.progression`).

    Returns
    -------
    array [T]
        ``Phi(max over u <= t of c(u)/spread)``, ``c(u) = (ln 0.343 - y(u))/u``; 0 at t = 0; never falls.

    Notes
    -----
    A patient with growth d above the typical has log burden ``y(u) + d u``; it is at or below ln 0.343 at u if ``d <=
    c(u)``. The response that has once been seen counts: the largest c decides. Exact for these patients. As u -> 0, c
    goes to -infinity whatever y, so the start needs no rule but a finite number.
    """
    y, t = jnp.asarray(y), jnp.asarray(t)
    started = t > 0
    score = jnp.where(started, (LOG_SHRINKAGE - y) / (jnp.where(started, t, 1.0) * spread), -_FAR)
    return jnp.where(started, ndtr(jax.lax.cummax(jnp.clip(score, -_FAR, _FAR))), 0.0)


def objective(
    y: Float[Array, " time"], alive_stay: Float[Array, " time"], t: Float[Array, " time"], horizon, spread
) -> Float[Array, ""]:
    """Probability that an objective response is seen: reached while alive and under follow-up, by the horizon.

    Parameters
    ----------
    y, t, spread
        As in `reached`.
    alive_stay : array [T]
        P(alive) x G(t), independent of the patient's growth rate.
    horizon : scalar
        End of the assessment, years (data; need not be a grid time).

    Returns
    -------
    scalar
        ``int_0^horizon alive stay dP``, by interval of the grid (P linear within, so exact for alive_stay constant).

    Notes
    -----
    Visits, the confirmation of a response, measurable disease and a progression (new lesions) before the response are
    not modelled; death is independent of d. All of these lower the rate that is seen.
    """
    p = reached(y, t, spread)
    share = jnp.clip((horizon - t[:-1]) / jnp.diff(t), 0.0, 1.0)
    start = alive_stay[:-1]
    middle = start + 0.5 * share * jnp.diff(alive_stay)
    return jnp.sum(jnp.diff(p) * share * middle)


def pain(logit0, elasticity, log_relief) -> Float[Array, "..."]:
    """Probability of a pain response at an assessment, ``logistic(logit0 + elasticity * log_relief)``.

    An empirical observation model: no mechanism links the states to pain. ``log_relief`` is the log fall of a driver (burden or
    resorption flux: log of its value at entry over its value then; 0: no change), ``logit0`` the log odds of response
    without any fall (placebo, analgesics), ``elasticity`` the log odds gained per unit. The denominator is those
    alive and assessed.
    """
    return jax.nn.sigmoid(logit0 + elasticity * log_relief)


log_lik = crude.log_lik
simulate = crude.simulate
