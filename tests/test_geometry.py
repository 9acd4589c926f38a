"""The sampler's coordinates: exact inverse, exact Jacobian, and a standard normal where the model is Gaussian."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes.fit.geometry import Geometry


def site(parameter, *shape):
    return SimpleNamespace(parameter=parameter, shape=shape)


def parameter(between_sd=None, pooling="none"):
    return SimpleNamespace(between_sd=between_sd, centered=True, pooling=pooling)


@pytest.fixture(scope="module")
def geometry():
    """Two study effects under one standard deviation, a pooled parameter under another, two other scalars."""
    sampled = {
        "effect": site("effect", 2), "effect_sd": site("effect_sd"), "growth_common": site("growth"),
        "growth_deviation": site("growth", 3), "growth_sd": site("growth_sd"), "other": site("other", 2),
    }  # fmt: skip
    priors = {
        "effect": parameter("effect_sd"), "growth": parameter("growth_sd", "cancer"), "effect_sd": parameter(),
        "growth_sd": parameter(), "other": parameter(),
    }  # fmt: skip
    return Geometry(SimpleNamespace(sampled=sampled, priors=priors))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def gaussian(geometry):
    """Quadratic likelihood of all but the standard deviations, its mode at given ones, and the map around it."""
    rng = np.random.default_rng(3)
    n, s = geometry.size, geometry.scales
    z = rng.normal(size=n)
    z[s] = [-1.0, -0.3]
    L = rng.normal(size=(n, n))
    H = L @ L.T + 0.5 * np.eye(n)
    H[s] = 0.0
    H[:, s] = 0.0
    own = np.zeros((n, n))
    own[np.ix_(geometry.effects, geometry.effects)] = np.tensordot(np.exp(-2.0 * z[s]), geometry.design, axes=1)
    linear = (H + own) @ z  # so that the gradient of 0.5 z'Hz + 0.5 z'Az - linear'z vanishes at z

    def potential(x):
        A = jnp.tensordot(jnp.exp(-2.0 * x[s]), jnp.asarray(geometry.design), axes=1)
        e = x[geometry.effects]
        return 0.5 * x @ H @ x + 0.5 * e @ A @ e - jnp.asarray(linear) @ x

    return potential, geometry.arrays(z, H + own, 0.5)


def test_inverse_and_jacobian_are_exact(geometry, gaussian):
    _, arrays = gaussian
    rng = np.random.default_rng(4)
    first = None
    for _ in range(3):
        w = jnp.asarray(rng.normal(size=geometry.size))
        z, log_det = geometry.forward(w, arrays)
        np.testing.assert_allclose(geometry.inverse(np.asarray(z), arrays), w, atol=1e-10)
        exact = np.linalg.slogdet(jax.jacobian(lambda x: geometry.forward(x, arrays)[0])(w))[1]
        first = exact - log_det if first is None else first
        np.testing.assert_allclose(exact - log_det, first, atol=1e-10)  # up to a constant


def test_a_gaussian_model_becomes_a_standard_normal_at_every_standard_deviation(geometry, gaussian):
    """Hessian by all but the standard deviations: the identity, and the gradient vanishes at their origin."""
    potential, arrays = gaussian
    free = np.setdiff1d(np.arange(geometry.size), geometry.scales)

    def moved(w):
        z, log_det = geometry.forward(w, arrays)
        return potential(z) - log_det

    for scale in (-3.0, 0.0, 2.0):
        w = jnp.zeros(geometry.size).at[geometry.scales].set(scale)
        np.testing.assert_allclose(jax.grad(moved)(w)[free], 0.0, atol=1e-8)
        H = np.asarray(jax.hessian(moved)(w))[np.ix_(free, free)]
        np.testing.assert_allclose(H, np.eye(len(free)), atol=1e-8)


def test_the_arrays_have_the_shapes_that_were_compiled(geometry, gaussian):
    shapes = jax.tree.map(jnp.shape, geometry.empty())
    assert shapes == jax.tree.map(jnp.shape, gaussian[1])
