"""The sampler's coordinates: exact inverse, exact Jacobian, and a standard normal where the model is Gaussian."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from osteobayes.errors import OsteobayesError
from osteobayes.fit.geometry import (
    COMPONENT_SITES,
    Geometry,
    Point,
    bend,
    half_normal_score,
    log_half_normal,
    log_softplus,
    log_softplus_slope,
    softplus_score,
    unbend,
)
from osteobayes.observe import incidence
from osteobayes.precision import jit


def site(parameter, *shape, family="normal"):
    return SimpleNamespace(parameter=parameter, shape=shape, family=family)


def parameter(between_sd=None, pooling="none", sd=None, family="normal", **more):
    return SimpleNamespace(between_sd=between_sd, centered=True, pooling=pooling, sd=sd, family=family, **more)


SD = {"effect_sd": 0.4, "growth_sd": 0.5, "excess": 0.3}


def small(family="halfnormal", growth="normal"):
    """Two study effects under one standard deviation, a pooled parameter under another, three other scalars."""
    sampled = {
        "effect": site("effect", 2), "effect_sd": site("effect_sd", family=family), "growth_common": site("growth"),
        "growth_deviation": site("growth", 3), "growth_sd": site("growth_sd", family="halfnormal"),
        "other": site("other", 2), "excess": site("excess", family="halfnormal"),
    }  # fmt: skip
    priors = {
        "effect": parameter("effect_sd"), "growth": parameter("growth_sd", "cancer", family=growth), "other": parameter(),
    } | {n: parameter(sd=sd) for n, sd in SD.items()}  # fmt: skip
    packed = SimpleNamespace(arms={}, data={}, coords={})
    return Geometry(SimpleNamespace(sampled=sampled, priors=priors, packed=packed))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module", params=["normal", "lognormal"])
def geometry(request):
    """Growth on its own scale, or a rate (whose deviations are bent)."""
    return small(growth=request.param)


@pytest.fixture(scope="module")
def potential(geometry):
    """Quadratic in all but the standard deviations, plus the effects' priors given these, in the space x."""
    rng = np.random.default_rng(3)
    n, s = geometry.size, geometry.scales
    L = rng.normal(size=(n, n))
    H = L @ L.T + 0.5 * np.eye(n)
    H[s] = 0.0
    H[:, s] = 0.0
    linear = np.where(np.isin(np.arange(n), s), 0.0, rng.normal(size=n))

    def of(x):
        sd = jnp.stack([0.4 * jnp.exp(log_half_normal(x[s[0]])), 0.5 * jnp.exp(log_half_normal(x[s[1]]))])
        A = jnp.tensordot(sd**-2.0, jnp.asarray(geometry.design), axes=1)
        e = x[geometry.effects]
        return 0.5 * x @ H @ x + 0.5 * e @ A @ e - jnp.asarray(linear) @ x

    return of


@pytest.fixture(scope="module")
def gaussian(geometry, potential):
    """The map made at three points, none of them a mode."""
    gradient, hessian = jit(jax.grad(potential)), jit(jax.hessian(potential))
    at = np.random.default_rng(7).normal(size=(3, geometry.size))
    return geometry.arrays([Point(x, np.asarray(gradient(x)), np.asarray(hessian(x))) for x in at])


def test_half_normal_scores_against_scipy():
    v = np.linspace(-9.0, 8.0, 171)  # -4, where the two formulas meet, is one of them
    near_zero = scipy.stats.norm.logcdf(v) + 0.5 * np.log(0.5 * np.pi)
    expected = np.where(v < -5, near_zero, np.log(np.maximum(scipy.stats.halfnorm.isf(scipy.stats.norm.sf(v)), 1e-300)))
    np.testing.assert_allclose(log_half_normal(jnp.asarray(v)), expected, atol=1e-9)
    inner = v[v > -6]
    np.testing.assert_allclose(half_normal_score(log_half_normal(jnp.asarray(inner))), inner, atol=1e-7)
    slope = np.gradient(np.asarray(log_half_normal(jnp.asarray(v))), v)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_half_normal))(jnp.asarray(v))[1:-1], slope[1:-1], rtol=2e-3)


def test_a_half_normal_site_has_a_standard_normal_prior_in_the_space_x(geometry):
    """Its log density in log x is log(x) - x^2/(2 sd^2) plus a constant; with the Jacobian it is -v^2/2."""
    at, _ = geometry.half_normals
    sd = np.array([SD["effect_sd"], SD["excess"], SD["growth_sd"]])  # order of the flat vector
    found = []
    for v in np.random.default_rng(2).normal(size=(4, 3)):
        z, log_det = geometry.values(jnp.zeros(geometry.size).at[np.sort(at)].set(v))
        x = np.exp(np.asarray(z)[np.sort(at)])
        found.append((np.log(x) - 0.5 * (x / sd) ** 2).sum() + log_det + 0.5 * (v**2).sum())
    np.testing.assert_allclose(found, found[0], atol=1e-8)


def test_softplus_in_logs_against_its_definition():
    y = np.linspace(-60.0, 60.0, 241)
    exact = np.log(np.log1p(np.exp(y)))
    np.testing.assert_allclose(log_softplus(jnp.asarray(y)), exact, rtol=1e-12)
    np.testing.assert_allclose(softplus_score(log_softplus(jnp.asarray(y))), y, rtol=1e-9, atol=1e-12)
    slope = jax.vmap(jax.grad(log_softplus))(jnp.asarray(y))
    np.testing.assert_allclose(jnp.exp(log_softplus_slope(y, jnp.asarray(exact))), slope, rtol=1e-12)


def test_coordinates_and_values_are_inverse(geometry):
    z = jnp.asarray(np.random.default_rng(1).normal(size=geometry.size) - 0.5)
    np.testing.assert_allclose(geometry.values(geometry.coordinates(z))[0], z, atol=1e-9)


def test_a_standard_deviation_with_another_prior_is_refused():
    other = small(family="lognormal")
    with pytest.raises(OsteobayesError, match="family: halfnormal"):
        other.empty()


def test_inverse_and_jacobian_are_exact(geometry, gaussian):
    rng = np.random.default_rng(4)
    first = None
    forward, backward = jit(geometry.forward), jit(geometry.backward)
    jacobian = jit(jax.jacobian(lambda v: geometry.forward(v, gaussian)[0]))
    for _ in range(3):
        w = jnp.asarray(rng.normal(size=geometry.size))
        x, log_det = forward(w, gaussian)
        np.testing.assert_allclose(backward(x, gaussian), w, atol=1e-9)
        exact = np.linalg.slogdet(jacobian(w))[1]
        first = exact - log_det if first is None else first
        np.testing.assert_allclose(exact - log_det, first, atol=1e-9)  # up to a constant


@pytest.mark.parametrize("geometry", ["normal"], indirect=True)
def test_a_gaussian_model_becomes_a_standard_normal_at_every_standard_deviation(geometry, potential, gaussian):
    """Hessian by all but the standard deviations: the identity, and the gradient vanishes at their origin (without bends)."""
    free = np.setdiff1d(np.arange(geometry.size), geometry.scales)

    def moved(w):
        x, log_det = geometry.forward(w, gaussian)
        return potential(x) - log_det

    gradient, hessian = jit(jax.grad(moved)), jit(jax.hessian(moved))
    for scale in (-3.0, 0.0, 2.0):
        w = jnp.zeros(geometry.size).at[geometry.scales].set(scale)
        np.testing.assert_allclose(gradient(w)[free], 0.0, atol=1e-7)
        H = np.asarray(hessian(w))[np.ix_(free, free)]
        np.testing.assert_allclose(H, np.eye(len(free)), atol=1e-7)


@pytest.mark.parametrize("ratio", [1.0, 1.3, 6.0])
def test_bending_has_the_slopes_it_says_and_an_inverse(ratio):
    u = jnp.linspace(-30.0, 30.0, 121)
    x, slope = bend(u, ratio)
    np.testing.assert_allclose(unbend(x, ratio), u, atol=1e-11)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(lambda v: bend(v, ratio)[0]))(u), rtol=1e-12)
    assert abs(slope[0] - ratio) < 0.01 and abs(slope[-1] - 1.0) < 0.01 and bend(jnp.zeros(()), ratio)[0] == 0


def test_a_deviation_without_data_has_a_standard_normal_law(geometry):
    """Its prior given mean and standard deviation: no plateau but its own, so nothing is bent."""
    n, x = geometry.size, np.zeros(geometry.size)
    log_sd = geometry._log_sd(jnp.asarray(x[geometry.scales]))
    own = np.zeros((n, n))
    own[np.ix_(geometry.effects, geometry.effects)] = np.asarray(geometry._own(log_sd))
    data = np.eye(n)
    data[geometry.bent] = 0.0
    arrays = geometry.arrays([Point(x, np.zeros(n), data + own)])
    _, R = geometry._given(log_sd, arrays)
    ratio = geometry._ratio(log_sd, R)
    np.testing.assert_allclose(ratio, 1.0, atol=0.01)  # flat directions are raised to a curvature of 0.05


def test_the_arrays_have_the_shapes_that_were_compiled(geometry, gaussian):
    shapes = jax.tree.map(jnp.shape, geometry.empty())
    assert shapes == jax.tree.map(jnp.shape, gaussian)


@pytest.fixture(scope="module")
def mixing():
    """Lung and other solid tumours in mixed arms only, breast alone."""
    cancers = ("breast", "lung", "other_solid")
    sampled = {n: site(n, 3) for n in COMPONENT_SITES} | {"other": site("other")}
    arms = SimpleNamespace(
        cell=np.array([[0, 0], [1, 2], [1, 2]]), weight=np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    )
    packed = SimpleNamespace(
        data={}, arms={"SRE": arms}, coords={"cancer": cancers}, cells=[SimpleNamespace(cancer=c) for c in cancers]
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


def test_onset_is_sampled_by_its_hazard_up_to_the_end_of_follow_up(tiny_model):
    """Against the law of onset itself; exact inverse; the shape stays and the volume with it."""
    geometry = Geometry(tiny_model)
    onset, shape, log_years = geometry.followed
    assert len(onset) == 1 and 0.5 < np.exp(log_years[0]) < 9.0
    z = jnp.asarray(np.random.default_rng(8).normal(size=geometry.size))
    x = geometry.coordinates(z)
    law = incidence.onset(jnp.exp(log_years), jnp.exp(z[onset]), jnp.exp(z[shape]))
    np.testing.assert_allclose(jnp.exp(x[onset]), law, rtol=1e-12)
    np.testing.assert_array_equal(x[shape], z[shape])
    back, log_det = geometry.values(x)
    np.testing.assert_allclose(back, z, atol=1e-9)
    J = jax.jacobian(lambda x: geometry.values(x)[0])(x)
    assert float(log_det) == pytest.approx(np.linalg.slogdet(J)[1], abs=1e-9)


@pytest.fixture(scope="module")
def unseen():
    """Breast with skeletal events alone, lung with survival too; shares at diagnosis of breast, of lung only the curve."""
    sampled = {n: site(n, 2) for n in ("death_baseline", "onset_at_diagnosis", "sre_baseline")} | {
        "other": site("other")
    }
    arms = SimpleNamespace(cell=np.array([[0, 0], [1, 1]]), weight=np.array([[1.0, 0.0], [1.0, 0.0]]))
    data = {
        "median": {"OS": SimpleNamespace(arm=np.array([1]))},
        "incidence": SimpleNamespace(onset=np.array([0, 1]), metachronous=np.array([0.0, 1.0])),
        "incidence_curve": SimpleNamespace(onset=np.array([0, 1])),
    }
    cancers = ("breast", "lung")
    packed = SimpleNamespace(
        arms={"SRE": arms, "OS": arms}, data=data, coords={"cancer": cancers},
        cells=[SimpleNamespace(cancer=c) for c in cancers],
    )  # fmt: skip
    priors = {n: parameter(sd=1.5) for n in sampled}
    return Geometry(SimpleNamespace(sampled=sampled, priors=priors, packed=packed))  # pyright: ignore[reportArgumentType]


def test_log_rates_that_no_number_of_their_own_informs_are_bent(unseen):
    """Death of breast (position 0), share at diagnosis of lung (position 3): nothing else."""
    assert unseen.bent.tolist() == [0, 3]
    assert unseen.effects.tolist() == [0, 3] and set(unseen.rest) == {1, 2, 4, 5, 6}
    n, x = unseen.size, np.zeros(unseen.size)
    _, R = unseen._given(jnp.zeros(0), arrays := unseen.arrays([Point(x, np.zeros(n), np.eye(n) * 4.0)]))
    np.testing.assert_allclose(unseen._ratio(jnp.zeros(0), R), 1.5 * 2.0)  # prior 1.5 wide, curvature 4
    w = jnp.zeros(n).at[0].set(-9.0)
    step = unseen.forward(w, arrays)[0] - unseen.forward(w + 1e-3, arrays)[0]
    np.testing.assert_allclose(step[0], -1.5e-3, rtol=0.01)  # far to the left a unit is a prior standard deviation


@pytest.fixture(scope="module")
def rates():
    """Two kills and an elasticity, a kill whose prior is normal and one that studies share; growth of breast, progression of lung."""
    sampled = {n: site(n, 2) for n in ("immune_kill", "study_kill", "growth_deviation")} | {
        n: site(n) for n in ("death_elasticity", "normal_kill", "growth_common")
    }
    sampled |= {n: site(n, family="halfnormal") for n in ("kill_sd", "growth_sd")}
    sampled["growth_deviation"] = site("growth", 2)
    lognormal = {"log_sd": 0.6, "quantiles": None}
    priors = {
        "immune_kill": parameter(family="lognormal", median=np.array(0.002), **lognormal),
        "death_elasticity": parameter(family="lognormal", median=np.array(0.5), **lognormal),
        "study_kill": parameter("kill_sd", family="lognormal", median=np.array(1.0), **lognormal),
        "normal_kill": parameter(sd=1.0), "growth_common": parameter(sd=1.0), "growth": parameter("growth_sd", "cancer", family="lognormal"),
        "kill_sd": parameter(sd=0.3), "growth_sd": parameter(sd=0.3),
    }  # fmt: skip
    cancers = ("breast", "lung")
    arms = SimpleNamespace(cell=np.array([[0, 0], [1, 1]]), weight=np.array([[1.0, 0.0], [1.0, 0.0]]))
    packed = SimpleNamespace(
        arms={"PFS": arms}, data={"landmark": {"PFS": SimpleNamespace(arm=np.array([1]))}}, coords={"cancer": cancers},
        cells=[SimpleNamespace(cancer=c) for c in cancers],
    )  # fmt: skip
    return Geometry(SimpleNamespace(sampled=sampled, priors=priors, packed=packed))  # pyright: ignore[reportArgumentType]


def test_kills_and_elasticities_are_sampled_by_their_size(rates):
    """The coordinate's softplus is the ratio to the prior median; normal and pooled ones stay on their scale."""
    z = jnp.asarray(np.random.default_rng(9).normal(size=rates.size) - 3.0)
    x = np.asarray(rates.coordinates(z))
    at = [*rates._index["immune_kill"], *rates._index["death_elasticity"]]
    ratio = np.exp(np.asarray(z)[at]) / np.array([0.002, 0.002, 0.5])
    np.testing.assert_allclose(np.log1p(np.exp(x[at])), ratio, rtol=1e-9)
    for name in ("study_kill", "normal_kill", "growth_deviation"):
        np.testing.assert_array_equal(x[rates._index[name]], z[rates._index[name]])


def test_growth_is_bent_unless_progression_tells_it(rates):
    assert rates.bent.tolist() == rates._index["growth_deviation"][:1].tolist()


@pytest.mark.parametrize("which", ["mixing", "unseen", "rates"])
def test_the_whole_map_is_exact(which, request):
    geometry = request.getfixturevalue(which)
    rng = np.random.default_rng(6)
    n = geometry.size
    x, L = rng.normal(size=n), rng.normal(size=(n, n))
    arrays = geometry.arrays([Point(x, rng.normal(size=n), L @ L.T + np.eye(n))])

    def unconstrained(w):
        x, first = geometry.forward(w, arrays)
        z, second = geometry.values(x)
        return z, first + second

    differences = []
    for _ in range(3):
        w = jnp.asarray(rng.normal(size=n))
        z, log_det = unconstrained(w)
        np.testing.assert_allclose(geometry.backward(geometry.coordinates(z), arrays), w, atol=1e-9)
        differences.append(np.linalg.slogdet(jax.jacobian(lambda v: unconstrained(v)[0])(w))[1] - log_det)
    np.testing.assert_allclose(differences, differences[0], atol=1e-9)
