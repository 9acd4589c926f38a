"""Bone markers: median or mean change from baseline, and the share of patients whose marker falls enough.

A patient's log ratio to baseline is normal around the model's log fold ``mu`` with standard deviation ``s`` between
patients (about 0.9 for uNTx, a judgement). Changes x are in percent: -70 is a fall by 70 %.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr
from jaxtyping import Array, Float

from osteobayes.observe import crude
from osteobayes.observe.distributions import normal_log_lik

__all__ = [
    "LEAST",
    "expected",
    "log_lik",
    "responders",
    "responders_log_lik",
    "responders_simulate",
    "sd_log",
    "simulate",
]

LEAST = -95.0
"""Changes at or below this (percent) are censored from below: the assay ends there."""
_MEDIAN = 1.2533141373155001


def expected(mu, spread, mean=False) -> Float[Array, "..."]:
    """Log of one plus the arm's change: ``mu`` for a median, ``mu + s^2/2`` for a mean of percent changes.

    Parameters
    ----------
    mu : scalar
        Log fold of the marker against baseline (the typical patient).
    spread : scalar
        s, standard deviation of a patient's log ratio.
    mean : bool scalar
        Whether the arm's mean was printed; else its median.

    Notes
    -----
    The mean of a log-normal ratio is exp(mu + s^2/2): with s = 0.9 a median of -70 % is a mean of -55 %.
    """
    return mu + jnp.where(mean, 0.5 * spread**2, 0.0)


def sd_log(n, spread, mean=False, tau=0.0) -> Float[Array, "..."]:
    """Standard deviation of log(1 + x/100).

    Median: ``sqrt(pi/2) s/sqrt(n)``. Mean: its coefficient of variation is ``c = sqrt((e^(s^2) - 1)/n)``, and
    ``sqrt(log(1 + c^2))`` is the sd of its log if it is about log-normal too. ``tau`` (between studies) is added in
    quadrature.
    """
    middle = (_MEDIAN * spread) ** 2 / n
    average = jnp.log1p(jnp.expm1(spread**2) / n)
    return jnp.sqrt(jnp.where(mean, average, middle) + tau**2)


def log_lik(observed, n, mu, spread, mean=False, tau=0.0) -> Float[Array, "..."]:
    """Log density of log(1 + x/100) of an arm's percent change x, or the log probability of x <= -95.

    Parameters
    ----------
    observed : scalar
        Median (or mean) change, percent, > -100 or censored.
    n, mu, spread, mean, tau
        As in `sd_log` and `expected`.
    """
    sd = sd_log(n, spread, mean, tau)
    centre = expected(mu, spread, mean)
    censored = observed <= LEAST
    value = jnp.log1p(jnp.where(censored, LEAST, observed) / 100.0)
    return jnp.where(censored, log_ndtr((value - centre) / sd), normal_log_lik(value, centre, sd))


def simulate(key, n, mu, spread, mean=False, tau=0.0) -> Float[Array, ""]:
    """Draw a replicate of the percent change; -95 where it is censored."""
    draw = jax.random.normal(key, dtype=jnp.result_type(float))
    value = expected(mu, spread, mean) + sd_log(n, spread, mean, tau) * draw
    return jnp.maximum(100.0 * jnp.expm1(value), LEAST)


def responders(mu, spread, fall) -> Float[Array, "..."]:
    """Probability that a patient's marker falls by more than ``fall`` %: ``Phi((ln(1 - fall/100) - mu)/s)``.

    A negative ``fall`` is a rise; ``fall`` < 100.
    """
    return ndtr((jnp.log1p(-fall / 100.0) - mu) / spread)


responders_log_lik = crude.log_lik
responders_simulate = crude.simulate
