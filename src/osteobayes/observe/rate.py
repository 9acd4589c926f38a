"""Event rates: the mean of per-patient rates (skeletal morbidity rate) and the mean number of events."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import confidence_sd, normal_log_lik
from osteobayes.observe.frailty import log_laplace
from osteobayes.observe.grid import cumulative

__all__ = ["log_lik", "mean_count", "mean_rate", "simulate"]


def _weighted_alive(death, frailty, t, shared):
    """E[U 1(alive)] [M, T]: exp(-H_D) if a = 0, (1 + theta H_D)^(-1/theta - 1) if a = 1."""
    dead = cumulative(death, t)
    if not shared:
        return jnp.exp(-dead)
    return jnp.exp(-log_laplace(dead, frailty)) / (1.0 + frailty * dead)


def mean_rate(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
) -> Float[Array, ""]:
    """Mean over patients of (events / own time in the study), per year: the skeletal morbidity rate.

    Parameters
    ----------
    hazard, death, frailty, t, shared
        As in `osteobayes.observe.frailty.observable`; hazards of all counted components (recurrent events).
    weights : array [M]
        Member weights.
    stay : array [T]
        G(t).
    q : array [T]
        Quadrature weights to the horizon.

    Returns
    -------
    scalar
        ``phi(0+) + int phi'(t) E[U 1(T > t)] dt`` with ``phi = H/t``, ``phi(0+) = h(0)``.

    Notes
    -----
    E[N/T | T, U] = U phi(T), and E[phi(T)] is integrated by parts. No nodes in U are needed: E[U exp(-U H_D)] is a
    closed form for a = 1 too. With a constant hazard phi' = 0: the mean of rates is unbiased whatever the follow-up.
    phi' is taken as the central difference, with which the trapezoid is the Stieltjes sum of ``d phi``; ``(h -
    phi)/t`` loses accuracy near 0, just where front-loaded hazards matter.
    """
    h = jnp.sum(hazard, axis=1)
    started = t > 0
    safe = jnp.where(started, t, 1.0)
    phi = jnp.where(started, cumulative(h, t) / safe, h[:, :1])
    edge = jnp.diff(phi, axis=1) / jnp.diff(t)
    middle = (phi[:, 2:] - phi[:, :-2]) / (t[2:] - t[:-2])
    slope = jnp.concatenate([edge[:, :1], middle, edge[:, -1:]], axis=1)
    seen = _weighted_alive(death, frailty, t, shared) * stay
    return weights @ (h[:, 0] + (slope * seen) @ q)


def mean_count(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
) -> Float[Array, ""]:
    """Mean number of counted events per patient, ``sum_m w_m int h E[U 1(alive)] G dt``.

    Arguments as in `mean_rate`. The ratio of two arms' counts is not the Andersen-Gill ratio once survival or follow-up
    differ; for that see `osteobayes.observe.contrast.hazard_ratio`.
    """
    seen = _weighted_alive(death, frailty, t, shared) * stay
    return weights @ ((jnp.sum(hazard, axis=1) * seen) @ q)


def _sd(observed, n, low, high):
    def log(v):
        return jnp.where(v > 0, jnp.log(jnp.where(v > 0, v, 1.0)), jnp.nan)

    printed = confidence_sd(jnp.log(observed), log(low), log(high))
    return jnp.where(jnp.isfinite(printed), printed, 0.20 * jnp.sqrt(250.0 / n))


def log_lik(observed, n, mean, low=jnp.nan, high=jnp.nan) -> Float[Array, ""]:
    """Log density of the log of an observed rate or count.

    Parameters
    ----------
    observed : scalar
        Rate (1/year) or mean count, > 0.
    n : scalar
        Patients in the arm.
    mean : scalar
        `mean_rate` or `mean_count`.
    low, high : scalars
        Printed 95 % limits; not finite: not printed, then sd of the log ``0.20 sqrt(250/n)`` (a judgement: per-patient
        rates are heavy-tailed, short follow-up inflates them).

    Returns
    -------
    scalar
        ``log Normal(log observed; log mean, sd)``, a density on the log scale.
    """
    return normal_log_lik(jnp.log(observed), jnp.log(mean + 1e-12), _sd(observed, n, low, high))


def simulate(key, n, mean, sd_log=jnp.nan) -> Float[Array, ""]:
    """Draw a replicate of a rate or count; ``sd_log`` from a printed interval, NaN: the default of `log_lik`."""
    sd = jnp.where(jnp.isfinite(sd_log), sd_log, 0.20 * jnp.sqrt(250.0 / n))
    return mean * jnp.exp(sd * jax.random.normal(key, dtype=jnp.result_type(float)))
