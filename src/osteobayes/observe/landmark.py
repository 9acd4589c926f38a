"""One point of a Kaplan-Meier curve (event-free or survival proportion at a landmark)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import confidence_sd, normal_log_lik

__all__ = ["expected", "log_lik", "simulate"]

_TINY = 1e-10


def _scale(survival):
    return jnp.log(-jnp.log(survival))


def expected(lam: Float[Array, " time"], q: Float[Array, " time"]) -> Float[Array, ""]:
    """Kaplan-Meier target at the landmark, ``exp(-q @ lam)`` (``q`` = `quadrature(t, tau)`, ``lam`` 1/year)."""
    return jnp.exp(-(q @ lam))


def _moments(lam, y, n, q):
    total = q @ lam + _TINY
    variance = q @ (lam / jnp.maximum(n * y, 0.5)) + _TINY**2
    return jnp.log(total), jnp.sqrt(variance) / total


def log_lik(observed, lam: Float[Array, " time"], y: Float[Array, " time"], n, q, low=jnp.nan, high=jnp.nan):
    """Log density of a survival proportion on the complementary log-log scale.

    Parameters
    ----------
    observed : scalar
        Proportion free of the event; drawn in by half a patient from 0 and 1.
    lam, y : arrays [T]
        Observable hazard (1/year) and at-risk fraction under censoring.
    n : scalar
        Patients.
    q : array [T]
        Quadrature weights to the landmark.
    low, high : scalars
        Printed 95 % limits of the proportion; not finite: not printed, then Greenwood's ``sqrt(V)/Lam``.

    Returns
    -------
    scalar
        ``log Normal(log(-log S_obs); log Lam, sd)``, a density on the complementary log-log scale.
    """
    edge = 0.5 / n
    value = _scale(jnp.clip(observed, edge, 1 - edge))
    bottom = jnp.where(jnp.isfinite(high), _scale(jnp.clip(high, edge / 10, 1 - edge / 10)), jnp.nan)
    top = jnp.where(jnp.isfinite(low), _scale(jnp.clip(low, edge / 10, 1 - edge / 10)), jnp.nan)
    mean, sd = _moments(lam, y, n, q)
    printed = confidence_sd(value, bottom, top)
    return normal_log_lik(value, mean, jnp.where(jnp.isfinite(printed), printed, sd))


def simulate(key, lam: Float[Array, " time"], y: Float[Array, " time"], n, q, sd=jnp.nan) -> Float[Array, ""]:
    """Draw a replicate of the proportion; ``sd`` on the complementary log-log scale if printed, else Greenwood's."""
    mean, own = _moments(lam, y, n, q)
    draw = jax.random.normal(key, dtype=jnp.result_type(float))
    return jnp.exp(-jnp.exp(mean + jnp.where(jnp.isfinite(sd), sd, own) * draw))
