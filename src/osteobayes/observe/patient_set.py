"""Several numbers of the same patients: their working correlation, joint density, and how much they say together.

A trial prints proportions, medians, counts and ratios of the same patients. As if independent they would count the same
events several times. Level 1 leaves out all but one number of each arm; level 2, here, takes them together in one
multivariate normal with working correlations, which two simulated designs of very different size and censoring share to
within 0.1 (equal allocation; 2,500 trials of 500 an arm).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

__all__ = ["CONTRASTS", "STATISTICS", "Information", "Statistic", "information", "log_lik", "working_correlation"]

Statistic = Literal["crude", "median", "count", "rate", "hazard_ratio", "andersen_gill"]
STATISTICS: tuple[Statistic, ...] = ("crude", "median", "count", "rate", "hazard_ratio", "andersen_gill")
"""logit crude proportion, log median, log mean count, log mean rate; log hazard ratio and log Andersen-Gill ratio."""
CONTRASTS: tuple[Statistic, ...] = ("hazard_ratio", "andersen_gill")

_SAME_ARM = {
    ("crude", "median"): -0.74,
    ("crude", "count"): 0.76,
    ("crude", "rate"): 0.49,
    ("median", "count"): -0.55,
    ("median", "rate"): -0.34,
    ("count", "rate"): 0.48,
}
_WITH_CONTRAST = {
    "crude": (0.63, 0.48),
    "median": (-0.55, -0.42),
    "count": (0.51, 0.65),
    "rate": (0.36, 0.37),
}
_BOTH_CONTRASTS = 0.80
_LEAST_EIGENVALUE = 0.01
_HALF_LOG_2PI = 0.9189385332046727

Key = tuple[Statistic, int | tuple[int, int] | None]


def _arms(kind: Key) -> tuple[int, int | None]:
    """Return (arm, reference arm); no reference for an absolute number."""
    name, arm = kind
    if name not in STATISTICS:
        raise ValueError(f"unknown statistic {name!r}; use one of {', '.join(STATISTICS)}")
    if name in CONTRASTS:
        if isinstance(arm, int):
            raise ValueError(f"{name}: a contrast has two arms, (arm, reference), or None for (1, 0)")
        arms = (1, 0) if arm is None else (int(arm[0]), int(arm[1]))
        if arms[0] == arms[1]:
            raise ValueError(f"{name}: arm {arms[0]} against itself")
        return arms
    if not isinstance(arm, int):
        raise ValueError(f"{name}: an absolute number has one arm")
    return arm, None


def _pair(one: Key, other: Key, variance: Sequence[float]) -> float:
    """Working correlation of two different numbers."""
    (a, a0), (b, b0) = _arms(one), _arms(other)
    if a0 is None and b0 is None:
        pair = (one[0], other[0])
        value = _SAME_ARM.get(pair, _SAME_ARM.get((pair[1], pair[0]), 1.0))
        return value if a == b else 0.0
    if a0 is not None and b0 is not None:
        sign = {a: 1.0, a0: -1.0}
        shared = sum(variance[arm] * sign[arm] * s for arm, s in ((b, 1.0), (b0, -1.0)) if arm in sign)
        scale = np.sqrt((variance[a] + variance[a0]) * (variance[b] + variance[b0]))
        return (1.0 if one[0] == other[0] else _BOTH_CONTRASTS) * shared / scale
    contrast, absolute = (one, other) if a0 is not None else (other, one)
    arm = b if a0 is not None else a
    first, reference = (a, a0) if a0 is not None else (b, b0)
    assert reference is not None
    if arm not in (first, reference):
        return 0.0
    value = _WITH_CONTRAST[absolute[0]][CONTRASTS.index(contrast[0])]
    weight = np.sqrt(2.0 * variance[arm] / (variance[first] + variance[reference]))
    return float(value * weight * (1.0 if arm == first else -1.0))


def working_correlation(
    kinds: Sequence[Key], variance: Sequence[float] = (1.0, 1.0), least: float = _LEAST_EIGENVALUE
) -> Float[np.ndarray, "number number"]:
    """Correlation matrix of the numbers that one set of patients printed.

    Parameters
    ----------
    kinds : sequence of (statistic, arm)
        `STATISTICS`, each with its arm (0, 1, ...); a contrast with None, for arm 1 against arm 0, or (arm, reference).
    variance : sequence of floats
        Variance of each arm's log hazard up to a common factor, ``1/events``, for unequal allocation or trials of more
        than two arms.
    least : float
        Least eigenvalue.

    Returns
    -------
    array [N, N]
        Symmetric, unit diagonal, positive definite; in the order of ``kinds``.

    Notes
    -----
    Numbers of one arm: the table. Numbers of different arms: 0. A number of one of its arms with a contrast: the
    table times ``sqrt(2 v_a/(v_1 + v_0))`` (1 if equal), negative for the reference arm, and drawn in to +-0.99. Two
    contrasts: their covariance is the variance of the arms they share, ``v_0/sqrt((v_1 + v_0)(v_2 + v_0))`` for a common
    control (1/2 if equal), times 0.80 if one is a hazard ratio and the other Andersen-Gill. A pairwise table need not
    be positive definite for every subset and allocation: eigenvalues below ``least`` are raised to it and the diagonal is
    brought back to 1 (the nearest such matrix up to that scaling; entries move by about as much as the eigenvalue
    had to be raised). With equal arms the full table has 0.012 and is left as it is. The first-event split is
    independent of all of these and is not part of the set. Proportions etc. of *different* endpoints (events, death) are
    taken as independent: |r| <= 0.2 in simulations.
    """
    size = len(kinds)
    matrix = np.eye(size)
    for kind in kinds:
        arm, reference = _arms(kind)
        if max(arm, reference or 0) >= len(variance) or min(arm, reference or 0) < 0:
            raise ValueError(f"no variance for the arms of {kind}")
    if not all(v > 0 and np.isfinite(v) for v in variance):
        raise ValueError("the arms' variances must be positive")
    for i in range(size):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = np.clip(_pair(kinds[i], kinds[j], variance), -0.99, 0.99)
    for _ in range(100):
        values, vectors = np.linalg.eigh(matrix)
        if size == 0 or values[0] >= least * (1.0 - 1e-3):
            break
        matrix = (vectors * np.maximum(values, least)) @ vectors.T
        scale = 1.0 / np.sqrt(np.diag(matrix))
        matrix = scale[:, None] * matrix * scale
    matrix = 0.5 * (matrix + matrix.T)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def log_lik(
    residuals: Float[Array, " number"], sds: Float[Array, " number"], correlation: Float[Array, "number number"]
) -> Float[Array, ""]:
    """Joint log density of the numbers of one set of patients, on their analysis scales.

    Parameters
    ----------
    residuals : array [N]
        (observed - expected)/sd of each number, on the scale of `STATISTICS`, > 0 if the observed number is larger
        (`osteobayes.observe.crude.residual`, `osteobayes.observe.median.residual`, ...). NaN: not there (padding, or a
        median that was not reached); the rest have their marginal law.
    sds : array [N]
        Their standard deviations (the Jacobian from the residual to the number).
    correlation : array [N, N]
        `working_correlation`.
    """
    there = jnp.isfinite(residuals)
    z = jnp.where(there, residuals, 0.0)
    both = there[:, None] & there[None, :]
    matrix = jnp.where(both, correlation, 0.0) + jnp.diag(jnp.where(there, 0.0, 1.0))
    lower = jnp.linalg.cholesky(matrix)
    white = solve_triangular(lower, z, lower=True)
    each = jnp.log(jnp.where(there, sds, 1.0)) + jnp.log(jnp.diagonal(lower)) + 0.5 * white**2
    return -jnp.sum(each + jnp.where(there, _HALF_LOG_2PI, 0.0))


class Information(NamedTuple):
    """How much a set of numbers says about the treatment effect ln(h1/h0), in units of an arm's sd of ln h.

    Attributes
    ----------
    nominal : float
        Standard deviation that follows if the numbers are taken as independent.
    actual : float
        Standard deviation that the estimate so made really has.
    joint : float
        Standard deviation if the correlations are used.
    """

    nominal: float
    actual: float
    joint: float

    @property
    def ratio(self) -> float:
        """``nominal/actual``; below 1: overconfident. Its square is the power that would temper each term."""
        return self.nominal / self.actual


def information(
    correlation: Float[np.ndarray, "number number"],
    kinds: Sequence[Key],
    variance: Sequence[float] = (1.0, 1.0),
) -> Information:
    """Nominal against actual information about ln(h1/h0) of a two-arm set.

    Parameters
    ----------
    correlation : array [N, N]
        `working_correlation` of ``kinds``.
    kinds, variance
        As in `working_correlation`; arms 0 and 1, whose effect must be identified (a contrast, or both arms).

    Notes
    -----
    Linear Gaussian algebra. Each standardised number has the mean ``s_i . (ln h0, ln h1)``. The hazard ratio is efficient:
    slopes -1, +1 over ``sqrt(v_0 + v_1)``. A number whose correlation with the efficient estimate is r has a share r^2 of
    its information (r is the table's correlation with the hazard ratio, times sqrt(2) because one arm makes half of its
    variance), so that its slope is ``sqrt(2) r/sqrt(v_a)``, with its sign; the Andersen-Gill ratio's is 0.80 of the
    hazard ratio's. Nominal: ``(S'S)^-1``; actual: ``(S'S)^-1 S'R S (S'S)^-1``; joint: ``(S'R^-1 S)^-1``. If only
    the contrast is identified, the pseudo-inverse.
    """
    slopes = np.zeros((len(kinds), 2))
    for i, kind in enumerate(kinds):
        arm, reference = _arms(kind)
        if not {arm, reference} <= {0, 1, None}:
            raise ValueError("information is about arms 0 and 1")
        if reference is None:
            slopes[i, arm] = np.sqrt(2.0) * _WITH_CONTRAST[kind[0]][0] / np.sqrt(variance[arm])
        else:
            efficiency = 1.0 if kind[0] == "hazard_ratio" else _BOTH_CONTRASTS
            slopes[i, arm] = efficiency / np.sqrt(variance[0] + variance[1])
            slopes[i, reference] = -slopes[i, arm]
    effect = np.array([-1.0, 1.0])
    inverse = np.linalg.pinv(slopes.T @ slopes, hermitian=True)
    if not np.allclose(slopes.T @ slopes @ inverse @ effect, effect, atol=1e-8):
        raise ValueError("these numbers do not identify the treatment effect: both arms or a contrast are needed")
    joint = np.linalg.pinv(slopes.T @ np.linalg.solve(correlation, slopes), hermitian=True)
    covariances = (inverse, inverse @ slopes.T @ correlation @ slopes @ inverse, joint)
    return Information(*(float(np.sqrt(effect @ c @ effect)) for c in covariances))
