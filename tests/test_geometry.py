"""The sampler's coordinates: exact inverse, exact Jacobian, and a standard normal where the model is Gaussian."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes.fit.geometry import COMPONENT_SITES, Geometry


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
    packed = SimpleNamespace(arms={})
    return Geometry(SimpleNamespace(sampled=sampled, priors=priors, packed=packed))  # pyright: ignore[reportArgumentType]


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


@pytest.fixture(scope="module")
def mixing():
    """Lung and other solid tumours in mixed arms only, breast alone."""
    cancers = ("breast", "lung", "other_solid")
    sampled = {n: site(n, 3) for n in COMPONENT_SITES} | {"other": site("other")}
    arms = SimpleNamespace(
        cell=np.array([[0, 0], [1, 2], [1, 2]]), weight=np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    )
    packed = SimpleNamespace(
        arms={"SRE": arms}, coords={"cancer": cancers}, cells=[SimpleNamespace(cancer=c) for c in cancers]
    )
    return Geometry(SimpleNamespace(sampled=sampled, priors={n: parameter() for n in sampled}, packed=packed))  # pyright: ignore[reportArgumentType]


def test_mixed_cancers_are_sampled_by_the_sums_and_ratios_of_their_component_hazards(mixing):
    """Against the definition: sum of the weighted component hazards, their ratio; exact inverse; volume preserved."""
    at, log_weight = mixing.mixed
    np.testing.assert_allclose(np.exp(log_weight), [0.45, 0.55])
    rng = np.random.default_rng(5)
    for _ in range(3):
        z = jnp.asarray(rng.normal(size=mixing.size) * 2)
        hazards = []
        for cancer in at:
            ratios = np.exp([0.0, *np.asarray(z)[cancer[1:]]])
            hazards.append(np.exp(z[cancer[0]]) * ratios / ratios.sum())
        u = mixing.unmix(z)
        np.testing.assert_allclose(np.exp(u[at[0]]), 0.45 * hazards[0] + 0.55 * hazards[1], rtol=1e-12)
        np.testing.assert_allclose(np.exp(u[at[1]]), hazards[0] / hazards[1], rtol=1e-12)
        np.testing.assert_allclose(mixing.mix(u), z, atol=1e-12)
        assert abs(np.linalg.slogdet(jax.jacobian(mixing.mix)(u))[1]) < 1e-12


def test_the_whole_map_of_mixed_cancers_is_exact(mixing):
    rng = np.random.default_rng(6)
    z, L = rng.normal(size=mixing.size), rng.normal(size=(mixing.size, mixing.size))
    arrays = mixing.arrays(z, L @ L.T + np.eye(mixing.size))
    differences = []
    for _ in range(3):
        w = jnp.asarray(rng.normal(size=mixing.size))
        x, log_det = mixing.forward(w, arrays)
        np.testing.assert_allclose(mixing.inverse(np.asarray(x), arrays), w, atol=1e-9)
        differences.append(np.linalg.slogdet(jax.jacobian(lambda v: mixing.forward(v, arrays)[0])(w))[1] - log_det)
    np.testing.assert_allclose(differences, differences[0], atol=1e-9)
