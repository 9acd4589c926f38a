"""Progression-free survival from the systemic tumour burden and the spread of growth rates between patients."""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

__all__ = ["LOG_GROWTH", "hazard", "rate_of", "threshold"]

LOG_GROWTH = 0.5481214085096876
"""ln 1.73: 20 % more diameter, of a sphere, is 73 % more volume (1.2^3 = 1.728)."""

_FAR = 40.0


def threshold(y: Float[Array, " time"], t: Float[Array, " time"], own: bool = True) -> Float[Array, " time"]:
    """Least extra growth rate (1/year) with which a patient has progressed by each time; it never rises with time.

    Parameters
    ----------
    y : array [T]
        Log burden of the arm's typical patient, relative to the start.
    t : array [T]
        Time grid from 0, years.
    own : bool
        Whether progression is counted from the patient's own nadir; else from the typical patient's (static).

    Returns
    -------
    array [T]
        c(t); infinite at t = 0 is written as a large number.

    Notes
    -----
    A patient with growth rate d above the typical one has log burden ``y(u) + d u``. He has progressed by t if for some
    s < u <= t ``y(u) - y(s) + d (u - s) > ln 1.73``, that is, if ``d > c(t)`` with
    ``c(t) = min over s < u <= t of (ln 1.73 - y(u) + y(s))/(u - s)``. This is exact, and monotone without further ado.
    With ``own=False``: ``c(t) = min over u <= t of (ln 1.73 - x(u))/u``, x = y - running minimum of y. The two agree
    while the typical burden grows linearly; where it shrinks the second ignores that a patient must first outgrow the
    shrinkage (y = -2 t, sd 0.8/y: 25 % progressed at one year instead of 0.07 %).
    """
    y, t = jnp.asarray(y), jnp.asarray(t)
    far = 1e6
    started = t > 0
    if own:
        gap = t[:, None] - t[None, :]
        later = gap > 0
        needed = (LOG_GROWTH - (y[:, None] - y[None, :])) / jnp.where(later, gap, 1.0)
        first = jnp.min(jnp.where(later, needed, far), axis=1)
    else:
        x = y - jax.lax.cummin(y)
        first = jnp.where(started, (LOG_GROWTH - x) / jnp.where(started, t, 1.0), far)
    return jax.lax.cummin(jnp.minimum(first, far))


def hazard(
    y: Float[Array, " time"], t: Float[Array, " time"], spread, own: bool = True
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Hazard and cumulative hazard of progression in an arm; add the death hazard for PFS.

    Parameters
    ----------
    y : array [T]
        Log burden of the typical patient relative to the start (systemic burden, not the bone lesion).
    t : array [T]
        Time grid from 0, years.
    spread : scalar
        Standard deviation between patients of the yearly log growth, 1/year, > 0.
    own : bool
        Nadir of the patient himself (exact) or of the typical patient; see `threshold`. Static under ``jit``.

    Returns
    -------
    hazard : array [T]
        >= 0, 1/year: ``(H_(i+1) - H_(i-1))/(t_(i+1) - t_(i-1))``, whose trapezoid over the whole grid is H exactly.
    cumulative : array [T]
        ``H = -log(1 - P)``, ``P(t) = Phi(-c(t)/spread)``; 0 at t = 0; finite.

    Notes
    -----
    While y grows linearly this is ``P = Phi((y - ln 1.73)/(spread t))`` (made monotone). Heterogeneity of *size*
    instead of growth, ``Phi((x - ln 1.73)/s)`` without t, would have 25 % of patients progressed at t = 0 (s = 0.8).
    Visits, deaths before progression and new lesions are not modelled.
    """
    t = jnp.asarray(t)
    score = -threshold(y, t, own) / spread
    score = jnp.maximum(score, -_FAR)
    total = -log_ndtr(-score)
    total = jnp.where(t > 0, total, 0.0)
    return jnp.maximum(rate_of(total, t), 0.0), total


def rate_of(total: Float[Array, "... time"], t: Float[Array, " time"]) -> Float[Array, "... time"]:
    """Hazard (1/year) whose trapezoid over the whole grid is the cumulative hazard ``total``: central differences."""
    inner = (total[..., 2:] - total[..., :-2]) / (t[2:] - t[:-2])
    ends = jnp.diff(total) / jnp.diff(t)
    return jnp.concatenate([ends[..., :1], inner, ends[..., -1:]], axis=-1)
