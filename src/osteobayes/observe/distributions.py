"""Densities shared by the statistics; all finite, with finite gradients, at the edges of their domains."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

__all__ = ["binomial_draw", "binomial_log_lik", "confidence_sd", "normal_log_lik"]

_EDGE = 1e-12
_NEAR = 1e-6
_LOG_2PI = 1.8378770664093453


def binomial_log_lik(events, n, probability):
    """Binomial log probability with its constants; ``events`` may be fractional (rounded percentages).

    1e-12 is added to the probability. Where 1 - p is below 1e-6 (a quadrature of a stiff hazard may even return p >
    1) it goes on as ``1e-12/(2e-6 - (1 - p))``, which is positive and differentiable: the gradient never vanishes nor
    diverges. Events are no likelier for p > 1 than for p = 1: else a hazard that no quadrature resolves would have an
    unbounded density, and a search for optima would end there.
    """
    p = jnp.minimum(_EDGE + probability, 1.0)
    rest = 1.0 - probability
    near = rest < _NEAR
    rest = jnp.where(near, _NEAR**2 / (2 * _NEAR - jnp.where(near, rest, 0.0)), rest)
    constant = gammaln(n + 1.0) - gammaln(events + 1.0) - gammaln(n - events + 1.0)
    return constant + events * jnp.log(p) + (n - events) * jnp.log(rest)


def binomial_draw(key, n, probability):
    """Draw a binomial count (float64); ``n`` is rounded to a whole number."""
    p = jnp.clip(jnp.asarray(probability, dtype=float), 0.0, 1.0)
    n = jnp.broadcast_to(jnp.round(jnp.asarray(n, dtype=float)), p.shape)
    return jax.random.binomial(key, n, p, dtype=p.dtype)


def normal_log_lik(value, mean, sd):
    """Log density of ``value`` under Normal(mean, sd)."""
    z = (value - mean) / sd
    return -0.5 * z * z - jnp.log(sd) - 0.5 * _LOG_2PI


def confidence_sd(value, low, high):
    """Turn a 95 % interval into a standard deviation on the scale of the arguments; NaN if there is none.

    Parameters
    ----------
    value, low, high : scalars (data)
        Estimate and limits, already on the scale wanted; a limit that is not finite is missing. With both limits
        ``(high - low)/3.92``; with one, its distance from ``value`` over 1.96.
    """
    has_low, has_high = jnp.isfinite(low), jnp.isfinite(high)
    one = jnp.where(has_low, value - jnp.where(has_low, low, 0.0), jnp.where(has_high, high, 0.0) - value) / 1.96
    both = (jnp.where(has_high, high, 0.0) - jnp.where(has_low, low, 0.0)) / 3.92
    sd = jnp.where(has_low & has_high, both, one)
    return jnp.where((has_low | has_high) & (sd > 0), sd, jnp.nan)
