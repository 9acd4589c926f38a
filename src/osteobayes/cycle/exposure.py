"""Exposures: what a regimen is as a function of time, in closed form (sums of exponentials; no drug states in the ODE).

Pharmacokinetic constants come from ``priors/therapies/*.yaml``. An intravenous bolus is smoothed by a fast first-order
input (same area), so that no jump falls on a step of the solver.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMOOTHING = 0.35
"""Rate (1/day) of the fast input that smooths an intravenous bolus."""
EDGE_DAYS = 1.0
"""Width (days) of the smooth edges of on/off windows."""


def _bateman(dt: Array, input_rate: float, loss_rate: float) -> Array:
    """Unit dose through a first-order input into a first-order loss; 0 before the dose."""
    dt = jnp.maximum(dt, 0.0)
    return input_rate / (input_rate - loss_rate) * (jnp.exp(-loss_rate * dt) - jnp.exp(-input_rate * dt))


def doses(
    t: Float[Array, " time"],
    dose_time: Float[Array, " dose"],
    dose_amount: Float[Array, " dose"],
    kinetics: Mapping[str, float],
) -> Float[Array, " time"]:
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
    Float[Array, "time"]
        ``scale * amount`` times a Bateman function, summed over doses.
    """
    loss = jnp.log(2.0) / kinetics["half_life_days"]
    kernel = _bateman(t[:, None] - dose_time[None, :], kinetics["input_per_day"], loss)  # pyright: ignore[reportArgumentType]
    return kinetics["scale"] * kernel @ dose_amount


def continuous(
    t: Float[Array, " time"], start: float, stop: float, rate: float, kinetics: Mapping[str, float]
) -> Float[Array, " time"]:
    """Depot amount under a constant input (``rate`` mg/day, e.g. daily tablets) between two days."""
    loss = jnp.log(2.0) / kinetics["half_life_days"]
    on = jnp.maximum(t - start, 0.0)
    off = jnp.maximum(t - stop, 0.0)
    return kinetics["scale"] * rate / loss * (jnp.exp(-loss * off) - jnp.exp(-loss * on))


def window(
    t: Float[Array, " time"], start: float, stop: float, on_days: float | None, off_days: float | None
) -> Float[Array, " time"]:
    """On/off schedule of a short-lived drug as smooth windows: 1 while taken, 0 in the pause.

    Without a pause it is one window from ``start`` to ``stop``.
    """

    def pulse(begin, end):
        return jax.nn.sigmoid((t - begin) / (0.25 * EDGE_DAYS) - 2.0) * jax.nn.sigmoid(
            (end - t) / (0.25 * EDGE_DAYS) + 2.0
        )

    if on_days is None or off_days is None:
        return pulse(start, stop)
    period = on_days + off_days
    begins = jnp.arange(start, stop, period)
    ends = jnp.minimum(begins + on_days, stop)
    on = jax.nn.sigmoid((t[:, None] - begins) / (0.25 * EDGE_DAYS) - 2.0)
    off = jax.nn.sigmoid((ends - t[:, None]) / (0.25 * EDGE_DAYS) + 2.0)
    return (on * off).sum(axis=1)
