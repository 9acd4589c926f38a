"""Incidence of bone metastasis: at diagnosis, later (crude), and along a Kaplan-Meier curve.

The onset law is analytic: cumulative onset hazard ``H_on(t) = A (t / 1 y)^shape``, with shape in (0, 1] (a hazard that
falls with time and is infinite at 0 if shape < 1); integrals are therefore taken in H_on, not in t.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import binomial_draw, binomial_log_lik, normal_log_lik

__all__ = [
    "at_diagnosis",
    "at_diagnosis_from_share",
    "crude_log_lik",
    "crude_simulate",
    "km_curve",
    "km_curve_intervals",
    "km_log_lik",
    "km_simulate",
    "metachronous_crude",
    "onset",
    "prevalence_among_metastatic",
]

_TINY = 1e-12
_NEAR = 1e-4


def onset(t: Float[Array, "..."], scale, shape) -> Float[Array, "..."]:
    """Cumulative onset hazard ``scale * t^shape`` (t in years; 0 at t = 0, with finite gradients there)."""
    started = t > 0
    return jnp.where(started, scale * jnp.where(started, t, 1.0) ** shape, 0.0)


def at_diagnosis(
    probability: Float[Array, " stage"], weights: Float[Array, " stage"] | None = None
) -> Float[Array, ""]:
    """Probability of bone metastasis at diagnosis: p0, or its mean over stages with ``weights``."""
    probability = jnp.atleast_1d(probability)
    return jnp.mean(probability) if weights is None else jnp.sum(weights * probability)


def at_diagnosis_from_share(logit_share, p_metastatic) -> Float[Array, "..."]:
    """Probability of bone metastasis at diagnosis, ``p0 = logistic(logit_share) P(M1)``, among all patients.

    The parameterisation to use where both denominators occur ("of all at diagnosis" and "of those metastatic at
    diagnosis"): the *share* with bone metastasis among the metastatic is the free parameter (a logit) and p0 is derived.
    p0 is then below P(M1) for any parameters, smoothly, and the printed prevalence among the metastatic is the share itself
    (`crude_log_lik` with ``logistic(logit_share)``).
    """
    return jax.nn.sigmoid(logit_share) * p_metastatic


def prevalence_among_metastatic(p0, p_metastatic) -> Float[Array, "..."]:
    """Bone metastasis among those metastatic at diagnosis, ``p0/P(M1)``, kept below 1.

    For models whose free parameter is p0 itself; prefer `at_diagnosis_from_share`.

    Parameters
    ----------
    p0 : scalar
        Probability of bone metastasis at diagnosis among all patients.
    p_metastatic : scalar
        P(M1), > 0, of the same patients.

    Notes
    -----
    Where the rest ``1 - p0/P(M1)`` is below e = 1e-4 (a p0 above P(M1), which is impossible, included) it goes on as
    ``e^2/(2 e - rest)``: positive, falling and differentiable, so that the likelihood pushes back instead of standing
    still as it would if clipped.
    """
    rest = 1.0 - p0 / p_metastatic
    near = rest < _NEAR
    return 1.0 - jnp.where(near, _NEAR**2 / (2 * _NEAR - jnp.where(near, rest, 0.0)), rest)


def metachronous_crude(scale, shape, death, stay: Float[Array, " time"], t: Float[Array, " time"]) -> Float[Array, ""]:
    """Crude proportion with a later bone metastasis, ``int h_on exp(-H_on - H_D) G dt`` from 0 to ``t[-1]``.

    Parameters
    ----------
    scale, shape : scalars
        Onset law `onset`; ``scale`` is the cumulative hazard at 1 year.
    death : scalar
        Constant death hazard of those without bone metastasis, 1/year.
    stay : array [T]
        G(t): any censoring law (uniform, exponential, ...) on the grid.
    t : array [T]
        Grid from 0 that ends at the horizon, years. It need not be the grid of the simulator.

    Returns
    -------
    scalar
        Among patients free of bone metastasis at diagnosis.

    Notes
    -----
    On each interval the onset probability ``exp(-H_i) - exp(-H_(i+1))`` is exact and ``exp(-H_D) G``, taken as
    linear, is read at the mean onset time of the interval, ``s/(s+1) (t2^(s+1) - t1^(s+1))/(t2^s - t1^s)``: the
    singularity at 0 costs nothing. Exact for death = 0 and G = 1.
    """
    total = onset(t, scale, shape)
    power, moment = onset(t, 1.0, shape), onset(t, 1.0, shape + 1.0)
    centre = shape / (shape + 1.0) * jnp.diff(moment) / jnp.diff(power)
    share = (centre - t[:-1]) / jnp.diff(t)
    free = jnp.exp(-death * t) * stay
    middle = free[:-1] + share * jnp.diff(free)
    return jnp.sum(jnp.exp(-total[:-1]) * -jnp.expm1(-jnp.diff(total)) * middle)


def crude_log_lik(events, n, probability) -> Float[Array, ""]:
    """Binomial log likelihood of a count at diagnosis or of a metachronous count (events may be fractional)."""
    return binomial_log_lik(events, n, probability)


def crude_simulate(key, n, probability) -> Float[Array, ""]:
    """Draw a replicate of such a count."""
    return binomial_draw(key, n, probability)


def km_curve(t: Float[Array, " landmark"], scale, shape, p0=0.0) -> Float[Array, " landmark"]:
    """Kaplan-Meier cumulative incidence with deaths censored: ``1 - (1 - p0) exp(-H_on(t))``, so F(0+) = p0.

    ``p0`` is 0 for a cohort that is free of bone metastasis at entry.
    """
    return 1.0 - (1.0 - p0) * jnp.exp(-onset(t, scale, shape))


def km_curve_intervals(cumulative: Float[Array, " landmark"]) -> Float[Array, " landmark"]:
    """Increments of the cumulative hazard between landmarks, ``d_j = -ln((1 - F_j)/(1 - F_(j-1)))``, with F_(-1) = 0.

    The first increment therefore holds those found at diagnosis (p0).
    """
    logs = jnp.log1p(-jnp.clip(cumulative, 0.0, 1.0 - _TINY))
    return -jnp.diff(logs, prepend=0.0)


def _km_moments(cumulative, n, tau_model, at_risk):
    d = km_curve_intervals(cumulative) + _TINY
    before = jnp.concatenate([jnp.ones(1), 1.0 - cumulative[:-1]]) * at_risk
    return jnp.log(d), jnp.sqrt(1.0 / jnp.maximum(n * before * d, _TINY) + tau_model**2)


def km_log_lik(
    observed: Float[Array, " landmark"],
    cumulative: Float[Array, " landmark"],
    n,
    tau_model=0.0,
    at_risk=1.0,
) -> Float[Array, ""]:
    """Interval likelihood of a Kaplan-Meier cumulative-incidence curve read at J landmarks.

    Parameters
    ----------
    observed : array [J]
        Cumulative incidence printed at increasing landmarks (fractions). An increment that is not positive, or NaN
        (padding), adds nothing.
    cumulative : array [J]
        `km_curve` at the landmarks.
    n : scalar
        Patients at entry.
    tau_model : scalar
        Standard deviation of the model residual of each log increment.
    at_risk : scalar or array [J]
        Share of patients neither dead nor lost at the start of each interval (1: no such loss).

    Returns
    -------
    scalar
        ``sum_j log Normal(log d_j,obs; log d_j, sqrt(1/(n S_(j-1) d_j) + tau_model^2))``: independent increments,
        Poisson variance of the log (expected events n S d; the delta method needs more than a few of them).
    """
    mean, sd = _km_moments(cumulative, n, tau_model, at_risk)
    seen = km_curve_intervals(jnp.where(jnp.isnan(observed), 1.0 - _TINY, observed))
    use = (seen > 0) & ~jnp.isnan(observed)
    terms = normal_log_lik(jnp.log(jnp.where(use, seen, 1.0)), mean, sd)
    return jnp.sum(jnp.where(use, terms, 0.0))


def km_simulate(key, cumulative: Float[Array, " landmark"], n, tau_model=0.0, at_risk=1.0) -> Float[Array, " landmark"]:
    """Draw a replicate of the curve at its landmarks (increasing by construction)."""
    mean, sd = _km_moments(cumulative, n, tau_model, at_risk)
    d = jnp.exp(mean + sd * jax.random.normal(key, mean.shape, dtype=mean.dtype))
    return -jnp.expm1(-jnp.cumsum(d))
