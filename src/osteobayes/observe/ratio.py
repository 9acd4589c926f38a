"""Odds ratio, risk ratio, risk difference and relative risk reduction of two arms' crude proportions.

Each has an analysis scale: the logarithm of a ratio, and the risk difference itself. The relative risk reduction is
1 - risk ratio and is analysed as the log risk ratio.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import confidence_sd, normal_log_lik

__all__ = ["KINDS", "Kind", "analysis", "expected", "log_lik", "printed_error", "simulate", "standard_error"]

Kind = Literal["odds_ratio", "risk_ratio", "risk_difference", "relative_risk_reduction"]
KINDS: tuple[Kind, ...] = ("odds_ratio", "risk_ratio", "risk_difference", "relative_risk_reduction")
_FLOOR = 1e-9


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}")


def _inside(p):
    """Return p and 1 - p, both at least about 1e-9."""
    return jnp.maximum(p, 0.0) + _FLOOR, jnp.maximum(1.0 - p, 0.0) + _FLOOR


def analysis(kind: Kind, value) -> Float[Array, "..."]:
    """Bring a printed number (or limit) to the analysis scale; NaN where it has none (a ratio of 0 or less).

    A relative risk reduction is a fraction (0.3 for 30 %); its *lower* limit is the *upper* one of the risk ratio.
    """
    _check(kind)
    value = jnp.asarray(value, dtype=float)
    if kind == "risk_difference":
        return value
    ratio = 1.0 - value if kind == "relative_risk_reduction" else value
    return jnp.where(ratio > 0, jnp.log(jnp.where(ratio > 0, ratio, 1.0)), jnp.nan)


def expected(kind: Kind, p1, p0) -> Float[Array, "..."]:
    """Ratio or difference of arm 1 against arm 0, on the analysis scale.

    Parameters
    ----------
    kind : str
        One of `KINDS`. Static.
    p1, p0 : scalars
        Crude proportions (`osteobayes.observe.crude.expected`) of the treated and the control arm.
    """
    _check(kind)
    (p1, rest1), (p0, rest0) = _inside(p1), _inside(p0)
    if kind == "risk_difference":
        return p1 - p0
    risk = jnp.log(p1) - jnp.log(p0)
    return risk - jnp.log(rest1) + jnp.log(rest0) if kind == "odds_ratio" else risk


def standard_error(kind: Kind, p1, p0, n1, n0) -> Float[Array, "..."]:
    """Standard error on the analysis scale by the delta method; arms of n1 and n0 patients are independent.

    ``sum 1/(n p (1-p))`` for the odds ratio, ``sum (1-p)/(n p)`` for the risk ratio (or reduction), ``sum p (1-p)/n`` for
    the difference (square root of each sum over arms). The logarithms need some 5 events in each arm.
    """
    _check(kind)

    def part(p, n):
        p, rest = _inside(p)
        if kind == "risk_difference":
            return p * rest / n
        return 1.0 / (n * p * rest) if kind == "odds_ratio" else rest / (n * p)

    return jnp.sqrt(part(p1, n1) + part(p0, n0))


def printed_error(kind: Kind, value, low, high) -> Float[Array, "..."]:
    """Standard error on the analysis scale from printed 95 % limits (as printed, for any kind); NaN: none."""
    value, low, high = (analysis(kind, v) for v in (value, low, high))
    if kind == "relative_risk_reduction":
        low, high = high, low
    return confidence_sd(value, low, high)


def log_lik(kind: Kind, observed, p1, p0, n1, n0, low=jnp.nan, high=jnp.nan) -> Float[Array, "..."]:
    """Log density, on the analysis scale, of a printed ratio or difference.

    Parameters
    ----------
    kind : str
        One of `KINDS`. Static.
    observed : scalar
        The number as printed (ratio, difference, or reduction as a fraction).
    p1, p0, n1, n0
        As in `standard_error`.
    low, high : scalars
        Printed 95 % limits; not finite: not printed, then the delta method at p1 and p0.

    Notes
    -----
    Only where the two arms' counts are not fitted: they hold this number.
    """
    printed = printed_error(kind, observed, low, high)
    own = standard_error(kind, p1, p0, n1, n0)
    has = jnp.isfinite(printed)
    sd = jnp.where(has, jnp.where(has, printed, 1.0), own)
    return normal_log_lik(analysis(kind, observed), expected(kind, p1, p0), sd)


def simulate(key, kind: Kind, p1, p0, n1, n0, sd=jnp.nan) -> Float[Array, ""]:
    """Draw a replicate, as it would be printed; ``sd`` on the analysis scale if limits were printed, else the delta one."""
    own = standard_error(kind, p1, p0, n1, n0)
    draw = jax.random.normal(key, dtype=jnp.result_type(float))
    value = expected(kind, p1, p0) + jnp.where(jnp.isfinite(sd), sd, own) * draw
    if kind == "risk_difference":
        return value
    return 1.0 - jnp.exp(value) if kind == "relative_risk_reduction" else jnp.exp(value)
