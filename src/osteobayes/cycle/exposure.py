"""Exposures: what a regimen is as a function of time, in closed form (sums of exponentials; no drug states in the ODE).

Pharmacokinetic constants come from ``priors/therapies/*.yaml``. An intravenous bolus enters through a fast first-order
input (same area), so that its time may be differentiated.

Each function takes NumPy or JAX times and returns the same.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Numbers = Array | np.ndarray

SMOOTHING = 200.0
"""Rate (1/day) of the input of an intravenous bolus: an infusion of minutes, and times of doses may be differentiated."""
EDGE_DAYS = 0.1
"""Time constant (days) of the smooth edges of on/off windows; half of an edge lies on its day."""


def library(x: Any) -> Any:
    """JAX for JAX arrays, NumPy for others."""
    return jnp if isinstance(x, jax.Array) else np


def _terms(kinetics: Mapping[str, float]) -> tuple[tuple[float, float], ...]:
    """Unit dose through a first-order input into a first-order loss (Bateman): coefficients and rates of its exponentials."""
    given, loss = kinetics["input_per_day"], np.log(2.0) / kinetics["half_life_days"]
    c = kinetics["scale"] * given / (given - loss)
    return (c, loss), (-c, given)


def doses(
    t: Float[Numbers, " time"],
    dose_time: Float[Numbers, " dose"],
    dose_amount: Float[Numbers, " dose"],
    kinetics: Mapping[str, float],
) -> Float[Numbers, " time"]:
    """Concentration or depot amount after single doses.

    Parameters
    ----------
    t
        Time (days); may be negative for pre-treatment.
    dose_time, dose_amount
        Times (days) and amounts (mg, or standard doses) of the doses.
    kinetics
        ``input_per_day``, ``half_life_days``, ``scale`` (bioavailable fraction divided by volume, or the fraction that
        reaches the depot).

    Returns
    -------
    Float[Numbers, "time"]
        ``scale * amount`` times a Bateman function, summed over doses.
    """
    xp = library(t)
    since = xp.maximum(t[:, None] - dose_time[None, :], 0.0)
    return sum(c * xp.exp(-rate * since) for c, rate in _terms(kinetics)) @ dose_amount  # pyright: ignore[reportOperatorIssue]


def dose_lines(
    ends: Float[np.ndarray, " edge"],
    dose_time: Float[Numbers, " dose"],
    dose_amount: Float[Numbers, " dose"],
    kinetics: Mapping[str, float],
) -> Float[Numbers, "step 3"]:
    """Least-squares line of :func:`doses` on every step (start, middle, end), from exact integrals.

    A bolus rises and falls within a step; what moves the states over the step is its mean and first moment, and these the
    line keeps. Differentiable in the dose times; a line is tilted at most until it touches zero.

    Parameters
    ----------
    ends
        Beginning of the first step and end of every step (days).
    dose_time, dose_amount, kinetics
        As of :func:`doses`.
    """
    xp = library(dose_time)
    start, end = ends[:-1, None], ends[1:, None]
    h, middle = end - start, 0.5 * (start + end)
    given = xp.minimum(dose_time[None, :], end)  # a dose after the step acts for no time
    first = xp.maximum(given, start)  # where in the step a dose begins to act
    area = moment = 0.0
    for c, rate in _terms(kinetics):
        before, after = xp.exp(-rate * (first - given)), xp.exp(-rate * (end - given))
        area = area + c * (before - after) / rate
        moment = moment + c * ((first - middle + 1.0 / rate) * before - (end - middle + 1.0 / rate) * after) / rate
    mean = (area / h) @ dose_amount  # pyright: ignore[reportOperatorIssue]
    tilt = (6.0 * moment / h**2) @ dose_amount  # pyright: ignore[reportOperatorIssue]
    tilt = xp.clip(tilt, -mean, mean)
    return xp.stack([mean - tilt, mean, mean + tilt], axis=-1)


def continuous(
    t: Float[Numbers, " time"], start: float, stop: float, rate: float, kinetics: Mapping[str, float]
) -> Float[Numbers, " time"]:
    """Depot amount under a constant input (``rate`` mg/day, e.g. daily tablets) between two days."""
    xp, loss = library(t), np.log(2.0) / kinetics["half_life_days"]
    on, off = xp.maximum(t - start, 0.0), xp.maximum(t - stop, 0.0)
    return kinetics["scale"] * rate / loss * (xp.exp(-loss * off) - xp.exp(-loss * on))


def window(
    t: Float[Numbers, " time"], start: float, stop: float, on_days: float | None, off_days: float | None
) -> Float[Numbers, " time"]:
    """On/off schedule of a short-lived drug as smooth windows: 1 while taken, 0 in the pause.

    Without a pause it is one window from ``start`` to ``stop``.
    """
    xp = library(t)

    def pulse(begin, end, t):
        edges = xp.tanh(0.5 * (t - begin) / EDGE_DAYS), xp.tanh(0.5 * (end - t) / EDGE_DAYS)
        return 0.25 * (1.0 + edges[0]) * (1.0 + edges[1])

    if on_days is None or off_days is None:
        return pulse(start, stop, t)
    begins = np.arange(start, stop, on_days + off_days)
    return pulse(begins, np.minimum(begins + on_days, stop), t[:, None]).sum(axis=1)


def pulse_kinetics(spread_days: float) -> dict[str, float]:
    """Kinetics of the rate at which cells die of a fraction of radiotherapy: unit area, spread over days after it."""
    return {"input_per_day": SMOOTHING, "half_life_days": spread_days, "scale": np.log(2.0) / spread_days}


def table(
    t: Float[Numbers, " time"],
    times: Float[Numbers, " line"],
    concentrations: Float[Numbers, " line"],
    start: float,
    hold: bool,
) -> Float[Numbers, " time"]:
    """A user's concentration-time course, linear between its lines, 0 before ``start``; ``hold``: the last one stays."""
    return library(t).interp(t - start, times, concentrations, left=0.0, right=concentrations[-1] if hold else 0.0)
