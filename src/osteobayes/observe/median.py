"""Kaplan-Meier medians: their sampling law from the at-risk process, reached or not.

With the cumulative observable hazard Lam(x) = int_0^x lam, the curve S = exp(-Lam), and Greenwood's variance of the
estimated Lam, V(x) = int_0^x lam/(n y), the Kaplan-Meier median is above x with probability Phi(-z(x)),

    z(x) = 2 (pi/4 - arcsin sqrt S(x)) sqrt(n_e(x)),     n_e(x) = (e^Lam(x) - 1)/V(x).

This is the arcsine square-root transformation of S (Borgan & Liestol 1990, Scand J Stat 17:35, for confidence limits of
survival); near the median it is (Lam - ln 2)/sqrt V to first order. n_e is the effective number of patients: n without
censoring, else n times a harmonic mean of the uncensored share. z > 0: the observed median is longer than expected.

Why not (Lam - ln 2)/sqrt V itself: for hazards far too high for the observed median V explodes, that z returns to 0 and
the likelihood gets a second, spurious mode at infinite hazard; its tails are skewed (6 % below and 3 to 4 % above the
90 % limits for n = 200 to 600, the arcsine 5 % and 5 %), and P(not reached) comes out 2 to 10 times too large. The
scale of log Lam has the same defect of a second mode, towards hazard 0.

The same functions serve SRE, OS and PFS: each hands in its own hazard.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from osteobayes.observe.distributions import confidence_sd
from osteobayes.observe.grid import cumulative

__all__ = ["evaluate", "expected", "log_lik", "log_lik_not_reached", "log_lik_reached", "residual", "simulate"]

_LN2 = 0.6931471805599453
_HALF_LOG_2PI = 0.9189385332046727
_TINY = 1e-10
_END = 15.0
_LAST, _LAST_VARIANCE = 2.0, 3.0
_PATIENT_FLOOR = 0.5
_SLOPE_FLOOR = 0.1


def _greenwood(lam, y, n, t):
    """Integrand of V [T]."""
    total = jnp.minimum(cumulative(lam, t), _END + 1.0)
    left = jnp.maximum(n * y, _PATIENT_FLOOR * jnp.exp(-total))
    return lam / left * jnp.clip(_END + 1.0 - total, 0.0, 1.0)


def _score(total, variance, n):
    """Return z from the cumulative hazard and Greenwood's variance of it; -(pi/2) sqrt(n) for a hazard of 0."""
    total = jnp.minimum(total + _TINY, _END)
    angle = jnp.pi / 4 - jnp.arcsin(jnp.exp(-0.5 * total))
    return 2.0 * angle * jnp.sqrt(jnp.expm1(total) / (variance + _TINY / n))


def _soft_floor(s):
    """Return s above the floor and a positive, differentiable continuation ``f^2/(2 f - s)`` below it."""
    low = s < _SLOPE_FLOOR
    return jnp.where(low, _SLOPE_FLOOR**2 / (2 * _SLOPE_FLOOR - jnp.where(low, s, 0.0)), s)


def _reached(lam, y, n, t, x, q_x, p_x, low, high):
    """Return (log density in x, z)."""
    rate, total = p_x @ lam + _TINY, q_x @ lam
    # no interval: Greenwood
    v = _greenwood(lam, y, n, t)
    variance = q_x @ v
    z_plain = _score(total, variance, n)
    variance = variance + _TINY / n
    turn = -1.0 / jnp.expm1(-jnp.minimum(total + _TINY, _END)) - (p_x @ v + _TINY / n) / (rate * variance)
    slope = _soft_floor(1.0 + 0.5 * z_plain * jnp.sqrt(variance) * turn)
    plain = -0.5 * z_plain**2 - _HALF_LOG_2PI + jnp.log(rate) - 0.5 * jnp.log(variance) + jnp.log(slope)
    # printed interval: its sd of log x
    low, high = (jnp.log(jnp.where(limit > 0, limit, jnp.nan)) for limit in (low, high))
    sd = confidence_sd(jnp.log(x), low, high)
    printed = jnp.isfinite(sd)
    sd = jnp.where(printed, sd, 1.0)
    elasticity = jnp.maximum(rate * x / (total + _TINY), 0.1)
    z_printed = jnp.log((total + _TINY) / _LN2) / (sd * elasticity)
    ci = -0.5 * z_printed**2 - _HALF_LOG_2PI - jnp.log(x * sd)
    return jnp.where(printed, ci, plain), jnp.where(printed, z_printed, z_plain)


def _path(lam, y, n, t):
    """Cumulative hazard and its variance along the curve [T], which ends with the last patients."""
    at_risk = n * y
    total = cumulative(lam * jnp.clip(at_risk - (_LAST - 0.5), 0.0, 1.0), t)
    variance = cumulative(_greenwood(lam, y, n, t) * jnp.clip(at_risk - (_LAST_VARIANCE - 0.5), 0.0, 1.0), t)
    return total, variance


def _not_reached(lam, y, n, t, x, p_x):
    """Return log P(not reached by x, the end of the curve)."""
    z = _score(*_path(lam, y, n, t), n)
    top = jnp.max(jnp.where(t <= x, z, z[0]))
    return log_ndtr(-jnp.maximum(top, p_x @ z))


def log_lik_reached(
    lam: Float[Array, " time"],
    y: Float[Array, " time"],
    n,
    t: Float[Array, " time"],
    x,
    q_x: Float[Array, " time"],
    p_x: Float[Array, " time"],
    low=jnp.nan,
    high=jnp.nan,
) -> Float[Array, ""]:
    """Log density, per year, of an observed Kaplan-Meier median.

    Parameters
    ----------
    lam : array [T]
        Observable hazard of the whole arm (all counted events), 1/year.
    y : array [T]
        At-risk fraction under censoring, L(t) G(t).
    n : scalar
        Patients in the arm.
    t : array [T]
        Time grid, years.
    x : scalar
        Observed median, years.
    q_x, p_x : arrays [T]
        `quadrature(t, x)` and `interpolation(t, x)`.
    low, high : scalars
        Printed 95 % limits, years; not finite or <= 0: not printed (an upper limit that was not reached: NaN).

    Returns
    -------
    scalar
        Without limits, ``log phi(z) + log dz/dx`` with
        ``dz/dx = lam/sqrt(V) s``, ``s = 1 + z sqrt(V)/(2 lam) [lam e^Lam/(e^Lam - 1) - V'/V]``; s is 1 without
        censoring or at the model median. Below s = 0.1 (few left under follow-up) it is replaced by ``0.01/(0.2 -
        s)`` (positive, differentiable). With limits, ``sd = ln(high/low)/3.92`` of log x (``ln(x/low)/1.96`` or
        ``ln(high/x)/1.96`` with one limit), ``z = ln(Lam(x)/ln 2)/(sd e)`` with the slope ``e = dln Lam/dln x = lam
        x/Lam`` (at least 0.1), density ``phi(z)/(x sd)``. To first order ``z = (Lam - ln 2)/(lam x sd)``, the printed
        interval carried to the hazard scale; the logarithm makes it exactly ``ln(x/median)/sd`` for every Weibull
        curve and keeps it unbounded for hazards that are far too high.

    Notes
    -----
    V is Greenwood's variance in its continuous form. Numerical guards: V counts at least half an uncensored patient
    (``n y >= 0.5 exp(-Lam)``) and Lam is followed to 15 (S = 3e-7). Checked on simulated trials:
    tests/statistical/test_scenarios.py, and small ones in test_observe_simulated_patients.py.
    """
    return _reached(lam, y, n, t, x, q_x, p_x, low, high)[0]


def log_lik_not_reached(
    lam: Float[Array, " time"], y: Float[Array, " time"], n, t: Float[Array, " time"], x, p_x: Float[Array, " time"]
) -> Float[Array, ""]:
    """Log probability that the median was not reached by the end of the curve, ``log Phi(-max_(s <= x) z(s))``.

    Parameters
    ----------
    lam, y, n, t
        As in `log_lik_reached`.
    x : scalar
        End of the curve (follow-up), years.
    p_x : array [T]
        `interpolation(t, x)`.

    Notes
    -----
    Not reached by x means not reached at any earlier s, hence the largest z and not the last. The curve also ends where
    fewer than about 2 patients are expected at risk, and V stops growing below 3 (ramps one patient wide in n y, so
    that the end moves smoothly with the parameters). These two numbers were chosen on 12 simulated designs (n = 27 to
    600, P = 0 to 0.49) and checked on 66 other arms (mixtures, crossing and rising hazards, P = 0 to 1): rms error 0.012,
    worst 0.052, for a probability near a half whose curve ends in staggered entry to the last day (n = 600: 0.375 for
    0.428; n = 214: 0.462 for 0.502; n = 27: 0.392 for 0.345). tests/statistical/test_scenarios.py.
    """
    return _not_reached(lam, y, n, t, x, p_x)


def evaluate(
    lam: Float[Array, " time"],
    y: Float[Array, " time"],
    n,
    t: Float[Array, " time"],
    x,
    q_x: Float[Array, " time"],
    p_x: Float[Array, " time"],
    low=jnp.nan,
    high=jnp.nan,
    reached=True,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log likelihood and standardised residual of one median row, whatever was printed; the flags are data.

    Parameters
    ----------
    lam, y, n, t, x, q_x, p_x, low, high
        As in `log_lik_reached`. If not reached, ``x`` is the end of the curve (> 0).
    reached : bool scalar
        Whether a median was printed.

    Returns
    -------
    log_lik : scalar
        Log density per year, or log probability.
    z : scalar
        Residual, > 0 if the observed median is longer than expected; 0 where it was not reached. As ``z_reference`` of
        `osteobayes.observe.contrast.log_lik` it goes with a *positive* correlation: a reference arm that does well by
        chance raises the log hazard ratio against it.
    """
    x = jnp.where(x > 0, x, 1.0)
    density, z = _reached(lam, y, n, t, x, q_x, p_x, low, high)
    absent = _not_reached(lam, y, n, t, x, p_x)
    return jnp.where(reached, density, absent), jnp.where(reached, z, 0.0)


def log_lik(lam, y, n, t, x, q_x, p_x, low=jnp.nan, high=jnp.nan, reached=True):
    """Log likelihood of one median row; see `evaluate`."""
    return evaluate(lam, y, n, t, x, q_x, p_x, low, high, reached)[0]


def residual(lam, y, n, t, x, q_x, p_x, low=jnp.nan, high=jnp.nan, reached=True):
    """Residual z of one median row (> 0: longer than expected); see `evaluate`."""
    return evaluate(lam, y, n, t, x, q_x, p_x, low, high, reached)[1]


def expected(lam: Float[Array, " time"], t: Float[Array, " time"]) -> tuple[Float[Array, ""], Array]:
    """Median of the curve, years, and whether it is reached on the grid (else the end of the grid).

    Solves ``Lam(x) = ln 2`` exactly for a hazard that is linear between grid times.
    """
    lam, t = jnp.asarray(lam), jnp.asarray(t)
    total = cumulative(lam, t)
    reached = total[-1] >= _LN2
    i = jnp.clip(jnp.argmax(total >= _LN2) - 1, 0, t.shape[0] - 2)
    i = jnp.where(reached, i, 0)
    step = t[i + 1] - t[i]
    missing = jnp.where(reached, _LN2 - total[i], 0.0)
    root = jnp.sqrt(jnp.maximum(lam[i] ** 2 + 2.0 * (lam[i + 1] - lam[i]) / step * missing, _TINY**2))
    inside = jnp.clip(2.0 * missing / (lam[i] + root), 0.0, step)
    return jnp.where(reached, t[i] + inside, t[-1]), reached


def simulate(
    key,
    lam: Float[Array, " time"],
    y: Float[Array, " time"],
    n,
    t: Float[Array, " time"],
    last=jnp.inf,
    sd_log_x=jnp.nan,
) -> tuple[Float[Array, ""], Array]:
    """Draw a replicate of a Kaplan-Meier median.

    Parameters
    ----------
    key
        Random key.
    lam, y, n, t
        As in `log_lik_reached`.
    last : scalar
        End of the curve (follow-up), years.
    sd_log_x : scalar
        Standard deviation of log x if the interval was printed; NaN: Greenwood.

    Returns
    -------
    x : scalar
        The median, years, or the end of the curve if not reached.
    reached : bool scalar

    Notes
    -----
    z(x) is standard normal: draws Z and takes the first x with ``z(x) >= Z`` along the curve, which ends as in
    `log_lik_not_reached`.
    """
    lam, t = jnp.asarray(lam), jnp.asarray(t)
    draw = jax.random.normal(key, dtype=lam.dtype)
    gap = _score(*_path(lam, y, n, t), n) - draw
    end = jnp.minimum(jnp.max(jnp.where(n * y >= _LAST - 0.5, t, 0.0)), jnp.minimum(last, t[-1]))
    crossed = jnp.any(gap >= 0)
    i = jnp.clip(jnp.argmax(gap >= 0), 1, t.shape[0] - 1)
    share = jnp.clip(-gap[i - 1] / jnp.maximum(gap[i] - gap[i - 1], 1e-300), 0.0, 1.0)
    x = jnp.where(crossed, t[i - 1] + share * (t[i] - t[i - 1]), jnp.inf)
    middle, found = expected(lam, t)
    printed = jnp.isfinite(sd_log_x)
    around = jnp.where(found, middle * jnp.exp(jnp.where(printed, sd_log_x, 0.0) * draw), jnp.inf)
    x = jnp.where(printed, around, x)
    reached = x <= end
    return jnp.where(reached, x, end), reached
