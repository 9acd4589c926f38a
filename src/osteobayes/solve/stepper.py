"""Exponential Runge-Kutta at given steps, all cells side by side: of fourth order (the default), and of second for sampling.

ETD4RK or ETD2RK of Cox and Matthews 2002 (J Comput Phys 176:430) in the states whose own loss is fast (bone cells, most of all
osteoclasts under a bisphosphonate, the TGF-beta programme, and the exhausted share of effectors), classical Runge-Kutta or the
trapezoid of Heun in the others. The loss rate is frozen over a step and the rest of the equation is the non-linear part, so
fixed points are exact and strong drugs do not limit the step.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_HALF, _SIXTH, _THIRD = 0.5, 1.0 / 6.0, 1.0 / 3.0
_STAGES = {
    "ahead": np.array([_HALF, _HALF, 1.0, 0.0]),  # share of the step from the start to the next stage
    "weight": np.array([_SIXTH, _THIRD, _THIRD, _SIXTH]),
    "is_first": np.array([1.0, 0.0, 0.0, 0.0]),
    "is_third": np.array([0.0, 0.0, 1.0, 0.0]),
}
_INPUT_OF_STAGE = np.array([0, 1, 1, 2])
"""Which of the three points of a step's line of inputs a stage reads."""


class Weights(NamedTuple):
    """Weights of ETD4RK for a step of length ``h`` for ``x' = -L x + N``, from ``z = -L h`` (Cox and Matthews 2002, eq. 26-29)."""

    whole: Array
    half: Array
    stage: Array
    end: Float[Array, "4 fast"]


def weights(L: Float[Array, " fast"], h: Array) -> Weights:
    """Weights of the scheme; ``L`` must be positive (a loss of exactly 0 has no exponential part)."""
    z = -L * h
    E, E2 = jnp.exp(z), jnp.exp(_HALF * z)
    first = h * (-4.0 - z + E * (4.0 - 3.0 * z + z**2)) / z**3
    middle = h * 2.0 * (2.0 + z + E * (z - 2.0)) / z**3
    last = h * (-4.0 - 3.0 * z - z**2 + E * (4.0 - z)) / z**3
    return Weights(E, E2, h * (E2 - 1.0) / z, jnp.stack([first, middle, middle, last]))


class Weights2(NamedTuple):
    """Weights of ETD2RK for a step of length ``h`` (Cox and Matthews 2002, eq. 22), as :class:`Weights`."""

    whole: Array
    stage: Array
    end: Float[Array, "2 fast"]


def weights2(L: Float[Array, " fast"], h: Array) -> Weights2:
    """Weights of the second-order scheme; ``L`` must be positive."""
    z = -L * h
    E = jnp.exp(z)
    whole, last = h * (E - 1.0) / z, h * (E - 1.0 - z) / z**2
    return Weights2(E, whole, jnp.stack([whole - last, last]))


def _axpy(a: Array, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda xi, yi: a * xi + yi, x, y)


Field = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any], Mapping[str, Array]]


def _fourth(field: Field, L: Mapping[str, Array], y: Any, driven: Any, h: Array) -> Any:
    """State after one step of ETD4RK; the four stages are an inner loop (a quarter of the program to compile)."""
    fast = {name: getattr(y, name) for name in L}
    w = {name: weights(rate, h) for name, rate in L.items()}

    def stage(carry, now):
        at, total, n_first, x_second = carry
        k = field(at, now["inputs"])
        third = now["is_third"]
        n = {i: getattr(k, i) + rate * getattr(at, i) for i, rate in L.items()}
        n_first = {i: n_first[i] + now["is_first"] * n[i] for i in L}
        ahead = {
            i: w[i].half * (x + third * (x_second[i] - x)) + w[i].stage * ((1.0 + third) * n[i] - third * n_first[i])
            for i, x in fast.items()
        }
        end = {i: getattr(total, i) + now["end"][i] * n[i] for i in L}
        after = _axpy(h * now["ahead"], k, y)._replace(**ahead)
        total = _axpy(h * now["weight"], k, total)._replace(**end)
        return (after, total, n_first, {i: x_second[i] + now["is_first"] * ahead[i] for i in L}), None

    stages = {k: jnp.asarray(v) for k, v in _STAGES.items()} | {
        "inputs": jax.tree.map(lambda x: x[_INPUT_OF_STAGE], driven),
        "end": {i: w[i].end for i in L},
    }
    nothing = {i: jnp.zeros_like(x) for i, x in fast.items()}
    begun = y._replace(**{i: w[i].whole * x for i, x in fast.items()})
    (_, end, _, _), _ = jax.lax.scan(stage, (y, begun, nothing, nothing), stages)
    return end


def _second(field: Field, L: Mapping[str, Array], y: Any, driven: Any, h: Array) -> Any:
    """State after one step of ETD2RK: half the work of :func:`_fourth`."""
    fast = {name: getattr(y, name) for name in L}
    w = {name: weights2(rate, h) for name, rate in L.items()}
    decayed = {i: w[i].whole * x for i, x in fast.items()}

    def stage(carry, now):
        at, total = carry
        k = field(at, now["inputs"])
        n = {i: getattr(k, i) + rate * getattr(at, i) for i, rate in L.items()}
        after = _axpy(h, k, y)._replace(**{i: decayed[i] + w[i].stage * n[i] for i in L})
        end = {i: getattr(total, i) + now["end"][i] * n[i] for i in L}
        return (after, _axpy(_HALF * h, k, total)._replace(**end)), None

    stages = {"inputs": jax.tree.map(lambda x: x[np.array([0, 2])], driven), "end": {i: w[i].end for i in L}}
    return jax.lax.scan(stage, (y, y._replace(**decayed)), stages)[0][1]


_STEP = {4: _fourth, 2: _second}


def march(field: Field, loss: Loss, start: Any, inputs: Any, steps: np.ndarray, order: int = 4) -> Any:
    """States at the end of every step (step first).

    The vector field is computed again in the backward pass instead of kept, and barriers around it keep the compiler from
    computing one intermediate again in every expression that uses it: without them the gradient took 2.6 times as long.

    Parameters
    ----------
    field
        ``field(y, inputs)``: time derivative of the state, a named tuple of arrays.
    loss
        ``loss(y, inputs)``: rates (per time unit, positive) of the fields that are treated exponentially, by name.
    start
        State at the beginning.
    inputs
        What drives the field: a pytree whose leaves are [step, 3, ...], at the start, middle and end of each step.
    steps
        Lengths of the steps.
    order
        4 (four evaluations of the field a step) or 2 (two).
    """
    guard = jax.lax.optimization_barrier
    checkpointed, advance = jax.checkpoint(field), _STEP[order]

    def guarded(y: Any, now: Any) -> Any:
        return guard(checkpointed(*guard((y, now))))

    def step(y: Any, now: tuple[Any, Array]) -> tuple[Any, Any]:
        driven, h = now
        end = advance(guarded, loss(y, jax.tree.map(lambda x: x[1], driven)), y, driven, h)
        return end, end

    return jax.lax.scan(step, start, (inputs, jnp.asarray(steps)))[1]
