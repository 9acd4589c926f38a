"""The default method by itself: order, exact fixed points, stiff losses, inputs; against SciPy and diffrax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from osteobayes.precision import jit
from osteobayes.solve import integrate
from osteobayes.solve.adaptive import lines
from osteobayes.solve.stepper import march, weights, weights2


class Y(NamedTuple):
    fast: jax.Array
    slow: jax.Array


START = Y(jnp.array([1.0, 0.2]), jnp.array([0.5, 2.0]))


def field(y, u):
    """Two pairs: a lossy state fed by a slow logistic one, which it inhibits."""
    drive = u["dose"] if u else 0.0
    return Y(3.0 * y.slow**2 / (1.0 + y.slow) - (2.0 + drive) * y.fast, y.slow * (1.0 - y.slow) - 0.3 * y.fast * y.slow)


def loss(y, u):
    return {"fast": (2.0 + (u["dose"] if u else 0.0)) * jnp.ones(2)}


def by_scipy(end, drive=lambda t: 0.0):
    def f(t, x):
        d = field(Y(*jnp.split(jnp.asarray(x), 2)), {"dose": drive(t)})
        return np.concatenate([np.asarray(p) for p in d])

    out = solve_ivp(f, (0.0, end), np.concatenate(START), method="DOP853", rtol=1e-11, atol=1e-13, max_step=0.1)
    return out.y[:, -1]


def by_march(steps, inputs=None, order=4):
    inputs = {} if inputs is None else inputs
    path = jit(lambda start, inputs: march(field, loss, start, inputs, steps, order))(START, inputs)
    return np.concatenate([np.asarray(x[-1]) for x in path])


def test_it_is_of_fourth_order_and_agrees_with_scipy_and_diffrax():
    expected = by_scipy(4.0)
    errors = [np.abs(by_march(np.full(n, 4.0 / n)) - expected).max() for n in (16, 32, 64, 128)]
    assert errors[-1] < 1e-8
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert ((order > 3.5) & (order < 4.6)).all(), order
    for method in ("dopri8", "tsit5", "kvaerno5"):
        found = integrate(lambda t, y: field(y, {}), START, [0.0, 4.0], method=method, rtol=1e-10, atol=1e-12)
        assert bool(found.solved)
        np.testing.assert_allclose(np.concatenate([x[-1] for x in found.path]), expected, rtol=1e-7)


def test_the_one_for_sampling_is_of_second_order():
    expected = by_scipy(4.0)
    errors = [np.abs(by_march(np.full(n, 4.0 / n), order=2) - expected).max() for n in (32, 64, 128, 256)]
    assert errors[-1] < 1e-4
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert ((order > 1.7) & (order < 2.4)).all(), order


def test_steps_of_two_lengths_and_inputs_as_lines():
    steps = np.array([0.02] * 50 + [0.05] * 60)
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    ramp = lambda t: 2.0 + t  # noqa: E731  # a line is its own line
    points = np.stack([edges[:-1], 0.5 * (edges[:-1] + edges[1:]), edges[1:]], axis=1)
    inputs = {"dose": jnp.asarray(ramp(points))}
    expected = by_scipy(4.0, ramp)
    np.testing.assert_allclose(by_march(steps, inputs), expected, rtol=1e-6)
    driven = lines(steps, inputs)
    found = integrate(
        lambda t, y: field(y, driven(t)), START, [0.0, 4.0], rtol=1e-10, atol=1e-12, longest=0.05, jumps=edges[1:-1]
    )
    meeting = lines(steps, inputs, joined=True)
    np.testing.assert_allclose(meeting(1.03)["dose"], driven(1.03)["dose"], rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([x[-1] for x in found.path]), expected, rtol=1e-8)


@pytest.mark.parametrize("order", [2, 4])
def test_a_loss_far_faster_than_the_step_does_not_limit_it(order):
    """Loss times step is 500: the fast state follows its quasi-steady value, where an explicit method blows up."""
    inputs = {"dose": jnp.full((40, 3), 5000.0)}
    found = by_march(np.full(40, 0.1), inputs, order)
    slow = found[2:]
    np.testing.assert_allclose(found[:2], 3.0 * slow**2 / (1.0 + slow) / 5002.0, rtol=1e-3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("order", [2, 4])
def test_a_fixed_point_stays_to_the_last_digits(order):
    fixed = Y(jnp.zeros(2), jnp.zeros(2))
    path = march(field, loss, fixed, {}, np.full(5, 7.0), order)
    assert all((np.asarray(x) == 0).all() for x in path)


@given(st.floats(0.05, 50.0), st.floats(0.05, 10.0))
@settings(max_examples=30)
def test_the_weights_integrate_a_linear_decay_exactly(rate, h):
    """x' = 1 - L x: all stages see N = 1, so the weights must sum to (1 - e^(-L h)) / L."""
    exact = -np.expm1(-rate * h) / rate
    for w in (weights(jnp.array([rate]), jnp.asarray(h)), weights2(jnp.array([rate]), jnp.asarray(h))):
        if rate * h > 0.05:  # below, the closed forms of the weights cancel
            np.testing.assert_allclose(w.end.sum(axis=0)[0], exact, rtol=1e-7)
        np.testing.assert_allclose(w.whole[0], np.exp(-rate * h), rtol=1e-12)


def test_an_adaptive_solve_that_cannot_end_says_so():
    found = integrate(lambda t, y: y**2, jnp.ones(1), [0.0, 2.0], max_steps=200)  # infinite at t = 1
    assert not bool(found.solved)


def test_jumps_end_steps():
    kicked = lambda t, y: jnp.where(t < 1.0, -y, 3.0 - y)  # noqa: E731
    found = integrate(kicked, jnp.ones(1), [0.0, 1.0, 3.0], jumps=[1.0], rtol=1e-10, atol=1e-12)
    at_jump = np.exp(-1.0)
    np.testing.assert_allclose(found.path[:, 0], [1.0, at_jump, 3.0 + (at_jump - 3.0) * np.exp(-2.0)], rtol=1e-9)


@pytest.mark.parametrize("adjoint", ["checkpoint", pytest.param("direct", marks=pytest.mark.slow), "forward"])
def test_adjoints_agree_with_the_closed_form(adjoint):
    def end(rate):
        solved = integrate(lambda t, y: -rate * y, jnp.ones(1), [0.0, 2.0], rtol=1e-10, longest=0.1, adjoint=adjoint)
        return solved.path[-1, 0]

    slope = (jax.jacfwd if adjoint == "forward" else jax.grad)(end)(0.7)
    np.testing.assert_allclose(slope, -2.0 * np.exp(-1.4), rtol=1e-8)
