"""Integrals and interpolation on the shared time grid.

The time grid ``t`` [T] starts at 0 and is strictly increasing (years). Landmarks and horizons are *data*: their weights
are made once, in NumPy, outside any compiled function, and enter the statistics as plain vectors.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["cumulative", "interpolation", "quadrature"]


def _locate(t, tau: float) -> tuple[np.ndarray, int, float]:
    """Return the grid, the interval that holds ``tau`` and the share of that interval below ``tau``."""
    t = np.asarray(t, dtype=float)
    if t.ndim != 1 or t.size < 2 or not np.all(np.diff(t) > 0) or t[0] != 0.0:
        raise ValueError("the time grid must start at 0 and increase strictly")
    tau = float(tau)
    if not tau >= 0.0:
        raise ValueError(f"the time {tau!r} y is not a time on the grid (it must be >= 0)")
    if tau > t[-1] * (1.0 + 1e-9):
        raise ValueError(f"the time {tau:g} y is beyond the end of the time grid ({t[-1]:g} y); extend the grid")
    tau = min(tau, float(t[-1]))
    i = int(np.clip(np.searchsorted(t, tau, side="right") - 1, 0, t.size - 2))
    return t, i, (tau - t[i]) / (t[i + 1] - t[i])


def quadrature(t, tau: float) -> np.ndarray:
    """Weights ``q`` [T]: ``q @ f`` is the integral from 0 to ``tau`` of the piecewise linear interpolant of f.

    Parameters
    ----------
    t : array [T]
        Time grid from 0, years.
    tau : float
        Upper limit, years; a limit inside an interval takes part of it.

    Raises
    ------
    ValueError
        If ``tau`` is negative, not a number, or beyond the grid.

    Notes
    -----
    On the last interval of width d, with share r of it used: ``d r (1 - r/2) f_i + d r^2/2 f_(i+1)``. Checked against
    polynomials of degree one (exact) and smooth functions (second order).
    """
    t, i, r = _locate(t, tau)
    d = np.diff(t)
    q = np.zeros_like(t)
    q[:i] += d[:i] / 2
    q[1 : i + 1] += d[:i] / 2
    q[i] += d[i] * r * (1 - r / 2)
    q[i + 1] += d[i] * r * r / 2
    return q


def interpolation(t, tau: float) -> np.ndarray:
    """Weights ``p`` [T] with ``p @ f`` equal to the linear interpolation of f at ``tau`` (years).

    Raises
    ------
    ValueError
        If ``tau`` is negative, not a number, or beyond the grid.
    """
    t, i, r = _locate(t, tau)
    p = np.zeros_like(t)
    p[i] += 1 - r
    p[i + 1] += r
    return p


def cumulative(f: Float[Array, "... time"], t: Float[Array, " time"]) -> Float[Array, "... time"]:
    """Cumulative trapezoid of ``f`` along its last axis; the first value is 0.

    Parameters
    ----------
    f : array [..., T]
        Any rate, 1/year.
    t : array [T]
        Time grid, years.

    Returns
    -------
    array [..., T]
        The integral of ``f`` from ``t[0]`` to each grid time.
    """
    f, t = jnp.asarray(f), jnp.asarray(t)
    pieces = 0.5 * (f[..., 1:] + f[..., :-1]) * jnp.diff(t)
    return jnp.concatenate([jnp.zeros_like(f[..., :1]), jnp.cumsum(pieces, axis=-1)], axis=-1)
