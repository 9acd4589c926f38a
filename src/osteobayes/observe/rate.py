"""Event rates: mean of per-patient rates (skeletal morbidity rate), pooled rate, period rate (SMPR), mean number of events.

Events recur: given U they are a Poisson process of rate U h. Patients are independent, so every sampling variance is a
moment of one patient, over n. Those moments are integrals against P(in the study at t | U) = exp(-U^a H_D) G, and U
enters them through E[U^j exp(-U s)] of the gamma law only, which is a closed form.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import confidence_sd, normal_log_lik
from osteobayes.observe.frailty import log_laplace, recurrent
from osteobayes.observe.grid import cumulative

__all__ = [
    "component_counts",
    "log_lik",
    "mean_count",
    "mean_rate",
    "period_rate",
    "person_time",
    "pooled_rate",
    "sd_count",
    "sd_period",
    "sd_pooled",
    "simulate",
    "variance_count",
    "with_gap",
]

_TINY = 1e-12
_DEPTH = 10


def _weighted_alive(death, frailty, t, shared):
    """E[U 1(alive)] [M, T]: exp(-H_D) if a = 0, (1 + theta H_D)^(-1/theta - 1) if a = 1."""
    dead = cumulative(death, t)
    if not shared:
        return jnp.exp(-dead)
    return jnp.exp(-log_laplace(dead, frailty)) / (1.0 + frailty * dead)


def _laplace(s, frailty, power):
    """E[U^power exp(-U s)] for power 0, 1, 2: ``(1 + theta s)^(-1/theta - power)``, times 1 + theta for power 2."""
    value = jnp.exp(-log_laplace(s, frailty)) / (1.0 + frailty * s) ** power
    return value * (1.0 + frailty) if power == 2 else value


def _moment(extra, dead, frailty, power, shared):
    """E[U^power exp(-U extra) 1(alive)] [M, T], ``dead`` = H_D."""
    if shared:
        return _laplace(extra + dead, frailty, power)
    return _laplace(extra, frailty, power) * jnp.exp(-dead)


def _at(values, t, where):
    """Linear interpolation of [M, T] at times [T] of the grid's range."""
    i = jnp.clip(jnp.searchsorted(t, where, side="right") - 1, 0, t.shape[0] - 2)
    share = jnp.clip((where - t[i]) / (t[i + 1] - t[i]), 0.0, 1.0)
    return values[:, i] * (1.0 - share) + values[:, i + 1] * share


def _blocked(total, t, gap):
    """``H(t) - H(t - gap)`` [M, T], the events of U = 1 that may block one at t."""
    return total - _at(total, t, jnp.maximum(t - gap, 0.0))


def _thinning(x, mean, frailty, power=1):
    """E[U^power/(1 + x U)]/E[U^power], U ~ gamma with shape 1/theta and mean ``mean``: a continued fraction."""
    scale = frailty * mean

    def level(value, n):
        return 1.0 + (mean + (n - 1 + power) * scale) * x / (1.0 + n * scale * x / value), None

    # a loop, not ten written-out levels: those take XLA minutes to compile with gradients
    return 1.0 / jax.lax.scan(level, jnp.ones_like(x), jnp.arange(_DEPTH, 0, -1, dtype=jnp.result_type(x)))[0]


def _factor(hazard, death, frailty, t, shared, gap, power=1):
    """Share of the events that are counted [M, T], with U^power-weighted patients."""
    if isinstance(gap, int | float) and gap == 0:
        return jnp.ones_like(death)
    x = _blocked(cumulative(jnp.sum(hazard, axis=1), t), t, gap)
    mean = 1.0 / (1.0 + frailty * cumulative(death, t)) if shared else jnp.ones_like(x)
    return _thinning(x, mean, frailty, power)


def with_gap(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    gap,
    t: Float[Array, " time"],
    shared: bool = False,
) -> tuple[Float[Array, "member component time"], Float[Array, "member time"]]:
    """Rate of *counted* events among the living if an event within ``gap`` after the last counted one is not counted.

    Parameters
    ----------
    hazard, death, frailty, t, shared
        As in `osteobayes.observe.frailty.recurrent`.
    gap : scalar
        Least time between counted events, years (usually 21 days, `osteobayes.observe.patients.GAP`); 0 counts all.

    Returns
    -------
    rate : array [M, K, T]
        ``h_k E[U/(1 + U x) | alive]``, ``x = H(t) - H(t - gap)`` (H(t) before ``gap``), 1/year; in the place of
        `osteobayes.observe.frailty.recurrent`.
    alive : array [M, T]
        Survival.

    Notes
    -----
    Given U the counted rate c solves ``c(t) = U h(t) (1 - C(t) + C(t - gap))``: at most one counted event lies in the
    window, so that C(t) - C(t - gap) is the probability that it blocks. For slowly changing hazards C(t) - C(t - gap) =
    U x/(1 + U x). With x over the window before t, and not ``h gap``, the start (no event yet) and a falling hazard come
    out right to first order. The mean over the gamma law is Stieltjes' continued fraction for
    ``E_a[1/(1 + y V)] = 1/(1 + a y/(1 + y/(1 + (a + 1) y/(1 + 2 y/...))))``, V of shape a: here a = 1/theta + 1 and y =
    x theta times the mean of U, so a y stays finite at theta = 0, where the fraction is 1/(1 + x). Ten levels are exact
    to 2e-6 for x theta < 0.5 (8 events a year at theta = 1 and 21 days). Against
    simulated patients: within 0.2 % for 21 days; for three times that, 0.8 % too many in the busiest scenarios (1.5 events a
    year and patient), most of them just after entry.
    """
    rate, living = recurrent(hazard, death, frailty, t, shared)
    return rate * _factor(hazard, death, frailty, t, shared, gap)[:, None, :], living


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


def component_counts(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
    gap=0.0,
) -> Float[Array, " component"]:
    """Mean number of counted events per patient by component, ``sum_m w_m int r_k L_R G dt``.

    Arguments as in `mean_rate` and `with_gap`. For the shares of components among all events see
    `osteobayes.observe.split.shares_of_all`.
    """
    rate, living = with_gap(hazard, death, frailty, gap, t, shared)
    return jnp.einsum("m,mkt,mt,t->k", weights, rate, living, stay * q)


def mean_count(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
    gap=0.0,
) -> Float[Array, ""]:
    """Mean number of counted events per patient, ``sum_m w_m int h E[U 1(alive)] G dt``.

    Arguments as in `mean_rate` and, for events that must be ``gap`` years apart, `with_gap`. The ratio of two arms' counts
    is not the Andersen-Gill ratio once survival or follow-up differ; for that see
    `osteobayes.observe.contrast.hazard_ratio`.
    """
    return jnp.sum(component_counts(hazard, death, frailty, weights, stay, q, t, shared, gap))


def person_time(death, frailty, weights, stay, q, t, shared=False) -> Float[Array, ""]:
    """Mean time in the study, years: ``sum_m w_m int L_R G dt``. Arguments as in `mean_rate`."""
    seen = _moment(jnp.zeros_like(death), cumulative(death, t), frailty, 0, shared) * stay
    return weights @ (seen @ q)


def pooled_rate(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
    gap=0.0,
) -> Float[Array, ""]:
    """All events over all person-time, per year: `mean_count` / `person_time`. Arguments as in `mean_count`."""
    count = mean_count(hazard, death, frailty, weights, stay, q, t, shared, gap)
    return count / (person_time(death, frailty, weights, stay, q, t, shared) + _TINY)


def _periods(h, total, t, length):
    """Periods at each grid time, as two alternatives with their shares of the grid time's surroundings.

    Yields (share [T], cumulative hazard since the start of the period [M, T], cumulative hazard at its start [M, T],
    number of periods before it [T]). A grid time stands for the half intervals around it; where a boundary falls
    inside, each side has its share, so that the boundaries need not be grid times (second order in the step).
    """
    middle = 0.5 * (t[1:] + t[:-1])
    lower, upper = jnp.concatenate([t[:1], middle]), jnp.concatenate([middle, t[-1:]])
    before = jnp.floor(upper / length)
    edge = before * length
    share = jnp.clip((edge - lower) / (upper - lower), 0.0, 1.0)
    at_edge = _at(total, t, edge)
    earlier = jnp.maximum(before - 1.0, 0.0)
    at_earlier = _at(total, t, earlier * length)
    yield 1.0 - share, jnp.maximum(total - at_edge, 0.0), at_edge, before
    yield share, jnp.maximum(jnp.minimum(total, at_edge) - at_earlier, 0.0), at_earlier, earlier


def period_rate(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
    length=12.0 * 7.0 / 365.25,
) -> Float[Array, ""]:
    """Skeletal morbidity period rate: periods with at least one event, over person-time, per year.

    Parameters
    ----------
    hazard, death, frailty, weights, stay, q, t, shared
        As in `mean_rate`.
    length : scalar
        Length of a period, years (12 weeks); longer than the steps of the grid.

    Returns
    -------
    scalar
        ``sum_m w_m int h E[U exp(-U (H - H(start))) 1(alive)] G dt / person_time``, start of the period that holds t.

    Notes
    -----
    Exact: the first event of each period is counted when it happens, so that a last period that death or censoring cuts
    short counts as far as it was seen. E[.] is ``(1 + theta s)^(-1/theta - 1)`` with s = H - H(start), times exp(-H_D) or, if
    shared, s + H_D. The ratio of sums, not the mean over patients. A gap between events of three weeks matters only
    across a boundary of periods and is left out.
    """
    h = jnp.sum(hazard, axis=1)
    total, dead = cumulative(h, t), cumulative(death, t)
    hits = sum(part * _moment(own, dead, frailty, 1, shared) for part, own, _, _ in _periods(h, total, t, length))
    periods = weights @ ((h * hits * stay) @ q)
    return periods / (person_time(death, frailty, weights, stay, q, t, shared) + _TINY)


def _second(hazard, death, frailty, t, shared, gap):
    """Integrands of E[K], E[K^2] and E[K T], before G [M, T]."""
    h = jnp.sum(hazard, axis=1)
    dead = cumulative(death, t)
    zero = jnp.zeros_like(dead)
    once, twice = (_moment(zero, dead, frailty, power, shared) for power in (1, 2))
    counted = _factor(hazard, death, frailty, t, shared, gap)
    again = _factor(hazard, death, frailty, t, shared, gap, 2)
    mean = h * once * counted
    poisson = mean * counted**2
    square = 2.0 * h * cumulative(h * again, t) * twice * again
    return mean, poisson + square, cumulative(h * counted, t) * once + t * mean


def variance_count(hazard, death, frailty, weights, stay, q, t, shared=False, gap=0.0) -> Float[Array, ""]:
    """Variance between patients of the number of counted events K.

    Arguments as in `mean_count`.

    Returns
    -------
    scalar
        ``M + E[U^2 H(T)^2] - M^2``, T the time in the study: K is Poisson given (U, T). ``E[U^2 H(T)^2] = sum_m w_m int 2 h
        H E[U^2 1(alive)] G dt``, with ``E[U^2 exp(-U s)] = (1 + theta)(1 + theta s)^(-1/theta - 2)``, which is ``(1 +
        theta) E[H(T)^2]`` without shared frailty.

    Notes
    -----
    With a gap the count of one patient is less variable than Poisson: variance/mean is ``1/(1 + U h gap)^2`` for a
    counter with dead time (Cox 1962, Renewal Theory), taken at the mean over the gamma law; the square is taken of the
    thinned events.
    """
    mean, square, _ = (weights @ ((x * stay) @ q) for x in _second(hazard, death, frailty, t, shared, gap))
    return square - mean**2


def _log_sd(variance, mean, n):
    """Standard deviation of the log of a mean of n, log-normal with the right coefficient of variation."""
    return jnp.sqrt(jnp.log1p(jnp.maximum(variance, _TINY) / (n * (mean + _TINY) ** 2)))


def sd_count(n, hazard, death, frailty, weights, stay, q, t, shared=False, gap=0.0) -> Float[Array, ""]:
    """Standard deviation of the log of an arm's mean count, ``sqrt(log(1 + Var(K)/(n M^2)))``; as `variance_count`."""
    mean, square, _ = (weights @ ((x * stay) @ q) for x in _second(hazard, death, frailty, t, shared, gap))
    return _log_sd(square - mean**2, mean, n)


def sd_pooled(n, hazard, death, frailty, weights, stay, q, t, shared=False, gap=0.0) -> Float[Array, ""]:
    """Standard deviation of the log of an arm's pooled rate R, by the delta method.

    ``E[(K - R T)^2]/(n M^2)``, with ``E[K T] = E[U H(T) T] = int (H + t h) E[U 1(alive)] G dt``, ``E[T^2] = int 2 t
    L_R G dt`` and E[K^2] as in `variance_count`. Events and time of a patient go together, so it is less than that of
    the count. Arguments as in `mean_count`.
    """
    mean, square, cross = (weights @ ((x * stay) @ q) for x in _second(hazard, death, frailty, t, shared, gap))
    living = _moment(jnp.zeros_like(death), cumulative(death, t), frailty, 0, shared) * stay
    time, time2 = weights @ (living @ q), weights @ ((2.0 * t * living) @ q)
    rate = mean / (time + _TINY)
    return _log_sd(square - 2.0 * rate * cross + rate**2 * time2, mean, n)


def sd_period(
    n, hazard, death, frailty, weights, stay, q, t, shared=False, length=12.0 * 7.0 / 365.25
) -> Float[Array, ""]:
    """Standard deviation of the log of an arm's period rate, by the delta method.

    As `sd_pooled` with N, the number of a patient's periods with an event, for K. Two hits need two periods:
    ``E[N^2] = E[N] + 2 int E[U h exp(-U dH) C(start) 1(alive)] G dt``, with C(start) the expected hits before the period
    given U, taken as ``b (1 - exp(-U H(start)/b))`` for b periods (exact for a constant hazard). Arguments as in
    `period_rate`.
    """
    h = jnp.sum(hazard, axis=1)
    total, dead = cumulative(h, t), cumulative(death, t)
    zero = jnp.zeros_like(dead)
    mean = square = cross = zero
    for part, own, start, before in _periods(h, total, t, length):
        each = start / jnp.maximum(before, 1.0)
        once = h * _moment(own, dead, frailty, 1, shared)
        pairs = (
            2.0 * h * before * (_moment(own, dead, frailty, 1, shared) - _moment(own + each, dead, frailty, 1, shared))
        )
        alive = _moment(zero, dead, frailty, 0, shared)
        hits = (
            before * (alive - _moment(each, dead, frailty, 0, shared)) + alive - _moment(own, dead, frailty, 0, shared)
        )
        mean, square, cross = mean + part * once, square + part * (once + pairs), cross + part * (hits + t * once)
    living = _moment(zero, dead, frailty, 0, shared)
    mean, square, cross, time, time2 = (
        weights @ ((x * stay) @ q) for x in (mean, square, cross, living, 2.0 * t * living)
    )
    rate = mean / (time + _TINY)
    return _log_sd(square - 2.0 * rate * cross + rate**2 * time2, mean, n)


def _default_sd(n, sd):
    known = jnp.isfinite(sd)
    return jnp.where(known, jnp.where(known, sd, 1.0), 0.20 * jnp.sqrt(250.0 / n))


def spread_of(observed, n, low, high, sd) -> Float[Array, ""]:
    """Standard deviation of the log of an observed rate or count, as `log_lik` takes it."""

    def log(v):
        return jnp.where(v > 0, jnp.log(jnp.where(v > 0, v, 1.0)), jnp.nan)

    printed = confidence_sd(jnp.log(observed), log(low), log(high))
    return jnp.where(jnp.isfinite(printed), printed, _default_sd(n, sd))


def log_lik(observed, n, mean, low=jnp.nan, high=jnp.nan, sd=jnp.nan) -> Float[Array, ""]:
    """Log density of the log of an observed rate or count.

    Parameters
    ----------
    observed : scalar
        Rate (1/year) or mean count, > 0.
    n : scalar
        Patients in the arm.
    mean : scalar
        `mean_rate`, `mean_count`, `pooled_rate` or `period_rate`.
    low, high : scalars
        Printed 95 % limits; not finite: not printed, then ``sd``.
    sd : scalar
        Standard deviation of the log without printed limits: `sd_count`, `sd_pooled` or `sd_period`; not finite: ``0.20
        sqrt(250/n)``, a judgement for `mean_rate`, whose variance is dominated by E[1/T] of those followed for days
        (it has no finite value: no formula replaces the judgement).

    Returns
    -------
    scalar
        ``log Normal(log observed; log mean, sd)``, a density on the log scale.
    """
    return normal_log_lik(jnp.log(observed), jnp.log(mean + 1e-12), spread_of(observed, n, low, high, sd))


def simulate(key, n, mean, sd_log=jnp.nan) -> Float[Array, ""]:
    """Draw a replicate of a rate or count; ``sd_log`` printed or by formula, NaN: the default of `log_lik`."""
    sd = _default_sd(n, sd_log)
    return mean * jnp.exp(sd * jax.random.normal(key, dtype=jnp.result_type(float)))
