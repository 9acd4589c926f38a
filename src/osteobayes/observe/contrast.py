"""Hazard ratios: the value a Cox model converges to, proportional hazards or not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import normal_log_lik
from osteobayes.observe.grid import cumulative

__all__ = [
    "RHO_CRUDE",
    "RHO_MEDIAN_SRE",
    "RHO_MEDIAN_SURVIVAL",
    "correlation_crude",
    "correlation_median",
    "expected",
    "hazard_ratio",
    "log_lik",
    "simulate",
    "standard_error",
]

RHO_CRUDE = -0.62
"""Working correlation of the log hazard ratio with the reference arm's logit crude proportion (equal allocation)."""
RHO_MEDIAN_SRE = 0.55
"""The same with the reference arm's log median time to the first event."""
RHO_MEDIAN_SURVIVAL = 0.61
"""The same with the reference arm's log median OS or PFS."""

_TINY = 1e-30
_RATE = 1e-12
_STEP = 3.0


def _allocate(y1, y0, p1, weights):
    """At-risk fractions of both arms with allocation (and strata weights) multiplied in, [S, T]."""
    share = 1.0 if weights is None else jnp.asarray(weights)[:, None]
    return p1 * share * jnp.atleast_2d(y1), (1.0 - p1) * share * jnp.atleast_2d(y0)


def _score(b, lam1, y1, lam0, y0, q):
    """Score and information of the stratified Cox model, per patient of the trial."""
    ratio = jnp.exp(b)
    both = y0 + y1 * ratio + _TINY
    product = y0 * y1 / both
    score = jnp.sum((product * (lam1 - ratio * lam0)) @ q)
    information = jnp.sum((product * ratio / both * (y0 * lam0 + y1 * lam1)) @ q)
    return score, information


def hazard_ratio(
    lam1: Float[Array, "stratum time"],
    y1: Float[Array, "stratum time"],
    lam0: Float[Array, "stratum time"],
    y0: Float[Array, "stratum time"],
    q: Float[Array, " time"],
    p1=0.5,
    weights: Float[Array, " stratum"] | None = None,
    steps: int = 3,
) -> Float[Array, ""]:
    """Log hazard ratio (arm 1 over arm 0) to which a Cox fit converges as the trial grows.

    Parameters
    ----------
    lam1, lam0 : arrays [S, T] (or [T])
        Observable total hazards of the arms by stratum, 1/year. For Andersen-Gill, the rates of
        `osteobayes.observe.frailty.recurrent`.
    y1, y0 : arrays [S, T] (or [T])
        At-risk fractions: at risk x stay x member weight (``weights`` may carry the last). For Andersen-Gill, alive x
        stay x member weight.
    q : array [T]
        Quadrature weights to the end of follow-up.
    p1 : scalar
        Share of the patients allocated to arm 1.
    weights : array [S], optional
        Strata weights, if they are not already in y1 and y0.
    steps : int
        Newton steps (static). With three the error is below 1e-8 for ratios of 0.3 to 3, crossing or delayed, and
        2e-4 for a ratio of 12.

    Returns
    -------
    scalar
        b with ``sum_s int y0 y1 (lam1 - e^b lam0)/(y0 + y1 e^b) dt = 0``, the expected partial-likelihood score
        ``int y1 lam1 - p (y0 lam0 + y1 lam1)`` written without cancellation.

    Notes
    -----
    Struthers & Kalbfleisch 1986, Biometrika 73:363 (misspecified proportional hazards). Start: the log ratio of the
    person-time hazards. The score falls with b, so there is one root; each step is limited to 3 on the log scale.
    Derivatives are those of the root (implicit function theorem), not of the steps. For a trial that was *not* stratified
    by member hand in one stratum, the mixed curves of `osteobayes.observe.mixture.mixed_hazard`. Checked against Cox fits of
    simulated patients: tests/statistical/test_contrasts.py.
    """
    lam1, lam0 = jnp.atleast_2d(lam1), jnp.atleast_2d(lam0)
    y1, y0 = _allocate(y1, y0, p1, weights)

    def crude(lam, y):
        return jnp.log(jnp.sum((y * lam) @ q) + _RATE) - jnp.log(jnp.sum(y @ q) + _RATE)

    given = jax.lax.stop_gradient((lam1, y1, lam0, y0))

    def newton(_, b):
        for _ in range(steps):
            score, information = _score(b, *given, q)
            b = b + jnp.clip(score / (information + _RATE), -_STEP, _STEP)
        return b

    start = crude(*given[:2]) - crude(*given[2:])
    return jax.lax.custom_root(
        lambda b: _score(b, lam1, y1, lam0, y0, q)[0], start, newton, lambda slope, y: y / (slope(1.0) - _RATE)
    )


expected = hazard_ratio


def standard_error(b, n, lam1, y1, lam0, y0, q, p1=0.5, weights=None) -> Float[Array, ""]:
    """Model-based standard error of the log hazard ratio for ``n`` patients in both arms, ``1/sqrt(n I(b))``.

    For rows that print neither an interval nor a z value. Arguments as in `hazard_ratio`.
    """
    y1, y0 = _allocate(y1, y0, p1, weights)
    _, information = _score(b, jnp.atleast_2d(lam1), y1, jnp.atleast_2d(lam0), y0, q)
    return 1.0 / jnp.sqrt(n * information + _RATE)


def correlation_crude(b, lam1, y1, lam0, y0, q, t, p1=0.5, weights=None) -> Float[Array, ""]:
    """Correlation of the log hazard ratio with the reference arm's (logit) crude proportion in one and the same trial.

    What `RHO_CRUDE` stands for, for this trial. Arguments as in `hazard_ratio` and `standard_error`, and the grid ``t``
    [T]; the follow-up of the proportion is that of the ratio (``q``).

    Notes
    -----
    Both are means over patients, so their covariance is that of one reference patient's score residual (Lin and Wei
    1989), ``U = -e pi(X) + int_0^X pi lam``, with the event e at X, ``pi = y1 e^b/(y0 + y1 e^b)`` and the pooled hazard
    ``lam = (y0 lam0 + y1 lam1)/(y0 + y1 e^b)``; then ``rho = cov(e, U) sqrt((1 - p1)/(I p (1 - p)))``, in units of the
    model-based error, as the likelihood uses it. -0.49 to -0.69 in 20 different trials; right for unequal allocation, and
    within 0.05 where hazards cross (tests/statistical/test_correlations.py).
    """
    lam1, lam0 = jnp.atleast_2d(lam1), jnp.atleast_2d(lam0)
    y1, y0 = _allocate(y1, y0, p1, weights)
    pi, pooled = _pooled(b, lam1, y1, lam0, y0)
    _, information = _score(b, lam1, y1, lam0, y0, q)
    proportion = jnp.sum((y0 * lam0) @ q) / (1.0 - p1)
    with_event = jnp.sum((y0 * lam0 * (cumulative(pi * pooled, t) - pi)) @ q) / (1.0 - p1)
    mean = jnp.sum((y0 * pi * (pooled - lam0)) @ q) / (1.0 - p1)
    size = information * proportion * (1.0 - proportion) / (1.0 - p1)
    return (with_event - proportion * mean) / jnp.sqrt(size + _RATE**2)


def correlation_median(b, lam1, y1, lam0, y0, q, t, q_x, p1=0.5) -> Float[Array, ""]:
    """Correlation of the log hazard ratio with the reference arm's log Kaplan-Meier median of the same event.

    What `RHO_MEDIAN_SRE` and `RHO_MEDIAN_SURVIVAL` stand for, for this trial, not stratified. Arguments as in
    `correlation_crude`; curves [T], ``q_x = quadrature(t, x)`` to the median x.

    Notes
    -----
    The median moves against ``int_0^x dM/y0``, M the martingale of a reference patient. With the notation of
    `correlation_crude` and ``A(u) = int_0^u lam0/y0``: ``cov(int_0^x dM/y0, U) = -int_0^x pi lam0 + int pi (lam0 - lam) y0
    A(min(s, x)) ds`` (the second part is 0 for proportional hazards), and ``rho = -cov sqrt((1 - p1)/(I A(x)))``.
    """
    share1, share0 = p1 * y1, (1.0 - p1) * y0
    pi, pooled = _pooled(b, lam1, share1, lam0, share0)
    _, information = _score(b, lam1, share1, lam0, share0, q)
    grown = lam0 / jnp.maximum(y0, _RATE)
    end = q_x @ grown
    path = jnp.minimum(cumulative(jnp.where(y0 > _RATE, grown, 0.0), t), end)
    covariance = (pi * (lam0 - pooled) * y0 * path) @ q - q_x @ (pi * lam0)
    return -covariance * jnp.sqrt((1.0 - p1) / (information * end + _RATE))


def _pooled(b, lam1, y1, lam0, y0):
    """Chance that the next event is of arm 1 if the ratio is b, and Breslow's hazard of arm 0."""
    both = y0 + y1 * jnp.exp(b) + _TINY
    return y1 * jnp.exp(b) / both, (y0 * lam0 + y1 * lam1) / both


def log_lik(observed, se, b, z_reference=0.0, rho=0.0) -> Float[Array, ""]:
    """Log density of an observed log hazard ratio, given the reference arm's absolute number if that is fitted too.

    Parameters
    ----------
    observed, se : scalars
        Log hazard ratio (arm 1 over the reference arm) and its standard error.
    b : scalar
        `hazard_ratio`.
    z_reference : scalar
        Standardised residual of the reference arm's number: `osteobayes.observe.crude.residual` or
        `osteobayes.observe.median.residual`; 0 if none is fitted (or a median was not reached; then also rho = 0).
    rho : scalar
        Correlation of that number with the log hazard ratio. ln HR ~ ln h1 - ln h0 falls when the reference arm has, by
        chance, more events: rho < 0 with a proportion (`RHO_CRUDE`), and rises when its median is, by chance, longer:
        rho > 0 with a median (`RHO_MEDIAN_SRE`, `RHO_MEDIAN_SURVIVAL`). Had the number been the *treated* arm's, the
        signs would be opposite.

    Returns
    -------
    scalar
        ``log Normal(observed; b + rho se z, se sqrt(1 - rho^2))``, the conditional normal.
    """
    return normal_log_lik(observed, b + rho * se * z_reference, se * jnp.sqrt(1.0 - rho**2))


def simulate(key, se, b, z_reference=0.0, rho=0.0) -> Float[Array, ""]:
    """Draw a replicate of the log hazard ratio, given the reference arm's residual."""
    draw = jax.random.normal(key, dtype=jnp.result_type(float))
    return b + se * (rho * z_reference + jnp.sqrt(1.0 - rho**2) * draw)
