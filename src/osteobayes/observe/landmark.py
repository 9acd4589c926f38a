"""A Kaplan-Meier or Aalen-Johansen curve read at J landmarks, as interval counts.

Points of one curve are not independent: the curve at 24 months holds the curve at 12. Its *increments* nearly are. Given
that a patient is free of the event at landmark j - 1, he has it by landmark j with probability ``p_j``, and the curve
says how many did, ``d_j = 1 - S_j/S_(j-1)``, out of an effective number ``m_j`` which carries censoring (and competing
death) through Greenwood's variance. The curve is therefore a product of J binomials, that is, a multinomial if nobody is
censored.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, Int

from osteobayes.observe.distributions import binomial_draw, confidence_sd
from osteobayes.observe.grid import cumulative

__all__ = ["expected", "increments", "log_lik", "printed_size", "simulate", "subdistribution"]

_TINY = 1e-10
_EDGE = 1e-12
_PATIENT_FLOOR = 0.5
_LARGEST = 30.0


def expected(lam: Float[Array, " time"], q: Float[Array, "landmark time"]) -> Float[Array, " landmark"]:
    """Target of the curve at the landmarks, ``S_j = exp(-q_j @ lam)``; 1 at a padded landmark.

    Parameters
    ----------
    lam : array [T]
        Observable hazard, 1/year: the sum of `osteobayes.observe.mixture.mixed_hazard` over components for a Kaplan-Meier
        curve, `subdistribution` for an Aalen-Johansen curve (then 1 - S_j is the cumulative incidence).
    q : array [J, T]
        `osteobayes.observe.grid.quadrature` to each landmark, in increasing order; rows of zeros are padding.
    """
    return jnp.exp(-(q @ lam))


def _previous(used: Bool[Array, " landmark"]) -> Int[Array, " landmark"]:
    """Index of the last used landmark before each; -1 if there is none."""
    index = jnp.arange(used.shape[0])
    last = jax.lax.cummax(jnp.where(used, index, -1))
    return jnp.concatenate([jnp.full((1,), -1, dtype=last.dtype), last[:-1]])


def _carried(values: Float[Array, "landmark *rest"], before: Int[Array, " landmark"], start) -> Array:
    """Values at the landmarks before, ``start`` where there is none."""
    shape = (-1,) + (1,) * (values.ndim - 1)
    return jnp.where((before >= 0).reshape(shape), values[jnp.maximum(before, 0)], start)


def _increments(lam, y, n, q, used):
    """Return (cumulative hazard of each interval, its effective size)."""
    step = jnp.where(used[:, None], q - _carried(q, _previous(used), 0.0), 0.0)
    rate = lam + _TINY
    total = step @ rate
    variance = step @ (rate / jnp.maximum(n * y, _PATIENT_FLOOR))
    size = jnp.expm1(jnp.minimum(jnp.where(used, total, 1.0), _LARGEST)) / jnp.where(used, variance, 1.0)
    return total, jnp.minimum(size, n)


def increments(
    lam: Float[Array, " time"], y: Float[Array, " time"], n, q: Float[Array, "landmark time"]
) -> tuple[Float[Array, " landmark"], Float[Array, " landmark"]]:
    """Conditional event probabilities of the intervals and their effective sizes.

    Parameters
    ----------
    lam : array [T]
        Observable hazard, 1/year.
    y : array [T]
        At-risk fraction under censoring: L(t) G(t), or ``y_sub`` of `subdistribution`.
    n : scalar
        Patients.
    q : array [J, T]
        Quadrature weights to the landmarks; rows of zeros are padding (probability 0).

    Returns
    -------
    probability : array [J]
        ``p_j = 1 - exp(-(q_j - q_(j-1)) @ lam)``, of an event in interval j given free of it at its start.
    size : array [J]
        ``m_j = p_j/((1 - p_j) dV_j)``, with Greenwood's increment ``dV_j = (q_j - q_(j-1)) @ (lam/(n y))``: the number
        of patients whose binomial has the variance of the estimated increment, as ``d/(m (m - d))`` is the increment of
        Greenwood's sum. Without censoring m_j is n S_(j-1); never above n. At least half a patient is counted at risk.
    """
    used = jnp.sum(q, axis=1) > 0
    total, size = _increments(lam, y, n, q, used)
    return -jnp.expm1(-total), size


def _seen(observed: Float[Array, " landmark"], used: Bool[Array, " landmark"]):
    """Return (curve made non-increasing, curve before, conditional event proportions, used and anybody left)."""
    curve = jax.lax.cummin(jnp.clip(jnp.where(used, observed, 1.0), 0.0, 1.0))
    start = _carried(curve, _previous(used), 1.0)
    left = used & (start > 0)
    share = jnp.clip(1.0 - curve / jnp.where(start > 0, start, 1.0), 0.0, 1.0)
    return curve, start, share, left


def printed_size(
    observed: Float[Array, " landmark"], low: Float[Array, " landmark"], high: Float[Array, " landmark"], n
) -> Float[Array, " landmark"]:
    """Effective sizes of the intervals that the printed 95 % limits of the curve imply; NaN where none is printed.

    Parameters
    ----------
    observed, low, high : arrays [J]
        Survival proportions and their limits; NaN: padding, not printed.
    n : scalar
        Patients; not finite: unknown, then it bounds nothing.

    Returns
    -------
    array [J]
        ``m_j = d_j/((1 - d_j) (V_j - V_(j-1)))`` with ``V = (sd Lam)^2``, sd the standard deviation of log(-log S) by the
        limits and Lam = -log S_obs: V is the variance of the estimated Lam, which grows along the curve. At most
        n S_(j-1). Data only: it does not depend on the parameters.

    Notes
    -----
    Rounded limits may leave ``V_j - V_(j-1)`` at zero or below, and an interval without events has no variance of its
    own. Then (and where the landmark before printed no limits) the interval gets the same share of its patients as the
    whole curve has, ``m_j = e_j S_(j-1)``, with ``e_j = (1 - S_j)/(S_j V_j)``, at most n, the effective number of the
    curve up to j. At least one patient.
    """
    known = jnp.isfinite(n)
    most = jnp.where(known, n, jnp.inf)
    edge = jnp.where(known, 0.5 / jnp.where(known, n, 1.0), 1e-3)

    def scale(s, margin):
        return jnp.log(-jnp.log(jnp.clip(s, margin, 1.0 - margin)))

    def limit(s):
        return jnp.where(jnp.isfinite(s), scale(jnp.where(jnp.isfinite(s), s, 0.5), edge / 10), jnp.nan)

    used = jnp.isfinite(observed)
    curve, start, share, left = _seen(observed, used)
    inner = jnp.clip(curve, edge, 1.0 - edge)
    sd = confidence_sd(scale(inner, edge), limit(high), limit(low))
    printed = left & jnp.isfinite(sd)
    variance = jnp.where(printed, (jnp.where(printed, sd, 1.0) * jnp.log(inner)) ** 2, 1.0)
    before = _previous(used)
    gain = variance - _carried(variance, before, 0.0)
    whole = _carried(printed, before, True)
    own = whole & (gain > 0) & (share > 0) & (share < 1)
    size = jnp.where(own, share / jnp.where(own, (1.0 - share) * gain, 1.0), 0.0)
    overall = jnp.minimum((1.0 - inner) / (inner * variance), most)
    size = jnp.where(own, jnp.minimum(size, most * start), overall * start)
    return jnp.where(printed, jnp.maximum(size, 1.0), jnp.nan)


def log_lik(
    observed: Float[Array, " landmark"],
    lam: Float[Array, " time"],
    y: Float[Array, " time"],
    n,
    q: Float[Array, "landmark time"],
    low: Float[Array, " landmark"] | None = None,
    high: Float[Array, " landmark"] | None = None,
) -> Float[Array, ""]:
    """Log density of a curve read at its landmarks, in the conditional event proportions d_j.

    Parameters
    ----------
    observed : array [J]
        Proportions free of the event (for an Aalen-Johansen curve, 1 - cumulative incidence); NaN: padding.
    lam, y, n, q
        As in `increments`.
    low, high : arrays [J], optional
        Printed 95 % limits; NaN where not printed. Where they are, they set the effective size (`printed_size`).

    Returns
    -------
    scalar
        ``sum_j log m_j + log Binomial(m_j d_j; m_j, p_j)``, the binomial continued by gamma functions,
        ``d_j = 1 - S_j/S_(j-1)`` as observed.

    Notes
    -----
    The Jacobian ``log m_j`` is due because m_j depends on the parameters: without it a curve would favour large sizes. By
    the sum of Euler and Maclaurin the density integrates over (0, 1) to ``1 - (P(0) + P(m))/2``: the two ends of a
    binomial are atoms, and there (``d_j`` = 0 or 1, an interval without events or one that everybody leaves with the
    event) the term is their probability, without a Jacobian. Rounding of the printed curve may leave an interval
    without an event or even with a rise: it counts as d_j = 0. Rounding adds no variance here: one step of 0.01
    matters where ``m_j`` is above some thousand, or where p_j m_j is below 1. After everybody has had the event
    (S_(j-1) = 0) nothing more is said. Far from the data (``n y`` below half a patient) the size is at most n and the
    hazard itself enters linearly, so that value and gradient are finite, and the gradient never vanishes.
    """
    used = jnp.isfinite(observed) & (jnp.sum(q, axis=1) > 0)
    _, _, d, left = _seen(jnp.where(used, observed, 1.0), used)
    total, size = _increments(lam, y, n, q, used)
    if low is not None or high is not None:
        nothing = jnp.full(observed.shape, jnp.nan)
        printed = printed_size(
            jnp.where(used, observed, jnp.nan), nothing if low is None else low, nothing if high is None else high, n
        )
        size = jnp.where(jnp.isfinite(printed), jnp.where(jnp.isfinite(printed), printed, 1.0), size)
    size, total = jnp.where(left, size, 1.0), jnp.where(left, total, 1.0)
    events = size * d
    terms = gammaln(size + 1.0) - gammaln(events + 1.0) - gammaln(size - events + 1.0)
    terms = terms + events * jnp.log(-jnp.expm1(-total) + _EDGE) - (size - events) * total
    terms = terms + jnp.where((d > 0) & (d < 1), jnp.log(size), 0.0)
    return jnp.sum(jnp.where(left, terms, 0.0))


def simulate(
    key,
    lam: Float[Array, " time"],
    y: Float[Array, " time"],
    n,
    q: Float[Array, "landmark time"],
    size: Float[Array, " landmark"] | None = None,
) -> Float[Array, " landmark"]:
    """Draw a replicate of the curve at its landmarks; NaN at padded ones.

    ``size`` [J]: effective sizes where limits were printed (`printed_size`), NaN elsewhere. The binomials have whole
    sizes, rounded at random so that the mean size is right.
    """
    used = jnp.sum(q, axis=1) > 0
    total, own = _increments(lam, y, n, q, used)
    m = own if size is None else jnp.where(jnp.isfinite(size), size, own)
    first, second = jax.random.split(key)
    m = jnp.maximum(jnp.floor(m + jax.random.uniform(first, m.shape, dtype=m.dtype)), 1.0)
    d = binomial_draw(second, m, -jnp.expm1(-total)) / m
    return jnp.where(used, jnp.cumprod(jnp.where(used, 1.0 - d, 1.0)), jnp.nan)


def subdistribution(
    hazard: Float[Array, " time"], at_risk: Float[Array, " time"], stay: Float[Array, " time"], t: Float[Array, " time"]
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Hazard and at-risk fraction with which the functions above describe an Aalen-Johansen curve.

    Parameters
    ----------
    hazard : array [T]
        Observable cause-specific hazard of the event, 1/year (of the whole arm).
    at_risk : array [T]
        L(t): free of the event and of its competitors (alive), without censoring.
    stay : array [T]
        G(t).
    t : array [T]
        Time grid, years.

    Returns
    -------
    lam_sub : array [T]
        ``f/(1 - F)``, ``f = hazard L``, ``F = int_0^t f``: ``exp(-int lam_sub) = 1 - F`` (Gray 1988, Ann Stat 16:1141).
    y_sub : array [T]
        ``(1 - F) G``.

    Notes
    -----
    Variance. Without censoring the Aalen-Johansen estimate is a binomial proportion, and ``int lam_sub/(n y_sub) =
    F/((1 - F) n)`` is exactly its variance on the scale of -log(1 - F). With censoring it is exactly the variance of the
    estimator that keeps the dead at risk until their own censoring time (Fine & Gray 1999, JASA 94:496, censoring
    complete). The Aalen-Johansen estimator does without these times and is efficient; its variance,
    ``int (1 - F_2(s) - F(t))^2 dA/y + int (F(t) - F(s))^2 dA_2/y`` (y = L G, 2: death), is smaller: never by more than 7 %
    in the designs looked at for landmarks that 15 % of the patients reach under follow-up, by 12 % at the very end of
    staggered entry with heavy death and loss. The approximation is on the safe side, so no further term is carried.
    """
    f = hazard * at_risk
    left = jnp.maximum(1.0 - cumulative(f, t), _TINY)
    return f / left, left * stay
