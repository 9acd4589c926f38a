"""Integration by diffrax, for any vector field: the reference of the default method, and of published models."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

METHODS = {
    "tsit5": diffrax.Tsit5,
    "bosh3": diffrax.Bosh3,
    "dopri8": diffrax.Dopri8,
    "kvaerno5": diffrax.Kvaerno5,
}
"""Explicit methods of orders 5, 3 and 8, and an implicit one of order 5 (for stiff fields)."""
ADJOINTS = {
    "checkpoint": diffrax.RecursiveCheckpointAdjoint,
    "direct": diffrax.DirectAdjoint,
    "forward": diffrax.ForwardMode,
}
"""Reverse mode with checkpoints, either mode through every step, forward mode."""


class Solution(NamedTuple):
    """States at the output times (time first), whether the solver reached the last of them, and its steps."""

    path: Any
    solved: Bool[Array, ""]
    steps: Array


def integrate(
    field: Callable[[Array, Any], Any],
    start: Any,
    times: Sequence[float] | np.ndarray,
    *,
    method: str = "dopri8",
    rtol: float = 1e-9,
    atol: float = 1e-12,
    jumps: Sequence[float] | np.ndarray = (),
    longest: float | None = None,
    steps: Sequence[float] | np.ndarray | None = None,
    adjoint: str = "checkpoint",
    max_steps: int = 100_000,
) -> Solution:
    """Solve ``y' = field(t, y)``.

    Parameters
    ----------
    field
        Time derivative of the state (any pytree of arrays).
    start
        State at ``times[0]``.
    times
        Output times, ascending, in the time unit of the field.
    method
        A key of :data:`METHODS`.
    rtol, atol
        Tolerances of the step-size controller.
    jumps
        Times at which the field is discontinuous: a step ends there.
    longest
        Longest step. An explicit method near its limit of stability may give right values and wrong gradients: bound it.
    steps
        Fixed step ends after ``times[0]``, instead of adaptive ones.
    adjoint
        A key of :data:`ADJOINTS`.
    max_steps
        Steps after which it gives up.

    Returns
    -------
    Solution
        Never raises for the numbers: look at ``solved``.
    """
    if steps is None:
        controller = diffrax.PIDController(rtol=rtol, atol=atol, dtmax=longest)
        first = None if longest is None else longest
        if len(jumps):
            controller = diffrax.ClipStepSizeController(controller, jump_ts=jnp.asarray(jumps, dtype=float))
    else:
        controller = diffrax.StepTo(jnp.asarray([times[0], *steps], dtype=float))
        first = None
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: field(t, y)),  # pyright: ignore[reportArgumentType]
        METHODS[method](),
        t0=float(times[0]),
        t1=float(times[-1]),
        dt0=first,
        y0=start,
        saveat=diffrax.SaveAt(ts=jnp.asarray(times, dtype=float)),
        stepsize_controller=controller,
        adjoint=ADJOINTS[adjoint](),
        max_steps=max_steps,
        throw=False,
    )
    return Solution(solution.ys, solution.result == diffrax.RESULTS.successful, solution.stats["num_steps"])


def lines(steps: np.ndarray, inputs: Any, joined: bool = False) -> Callable[[Array], Any]:
    """Inputs as a function of time, from their lines on steps (leaves [step, 3, ...]).

    They jump where steps meet (give the ends as `jumps`), unless ``joined``: then neighbours meet halfway.
    """
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    if not jax.tree.leaves(inputs):
        return lambda t: inputs
    if joined:

        def meet(u: Array) -> Array:
            joints = jnp.concatenate([u[:1, 0], 0.5 * (u[1:, 0] + u[:-1, 2]), u[-1:, 2]])
            return jnp.concatenate([jnp.stack([joints[:-1], u[:, 1]], axis=1).reshape(-1, *u.shape[2:]), joints[-1:]])

        halves = jnp.asarray(np.cumsum(np.concatenate([[0.0], np.repeat(0.5 * steps, 2)])))
        return diffrax.LinearInterpolation(ts=halves, ys=jax.tree.map(meet, inputs)).evaluate

    def at(t: Array) -> Any:
        i = jnp.clip(jnp.searchsorted(jnp.asarray(edges), t, side="right") - 1, 0, len(steps) - 1)
        share = (t - jnp.asarray(edges)[i]) / jnp.asarray(steps)[i]
        return jax.tree.map(lambda u: u[i, 0] + share * (u[i, 2] - u[i, 0]), inputs)

    return at
