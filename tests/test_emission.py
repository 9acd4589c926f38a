"""One specification, three densities: plain JAX, NumPyro and PyMC; what a user can do with the two emissions."""

from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pymc as pm
import pytest
from numpyro.infer.util import potential_energy

from osteobayes.errors import OsteobayesError
from osteobayes.model.emit import numpyro_model
from osteobayes.model.transform import constrain, unconstrain
from osteobayes.precision import jit

POINTS = 50


def log_jacobian(model, z):
    """Log derivative of the site values by the unconstrained ones."""
    total = 0.0
    for name, x in z.items():
        family = model.sites[name].family
        if family in ("lognormal", "halfnormal"):
            total += x.sum()
        elif family == "beta":
            total += (-jax.nn.softplus(x) - jax.nn.softplus(-x)).sum()
    return total


class Densities(NamedTuple):
    """Log density and gradient in unconstrained space, by sites."""

    plain: object
    numpyro: object
    pymc: object


def by_name(emitted, z):
    """A point of a PyMC model from unconstrained values of its variables."""
    return {emitted.rvs_to_values[rv].name: np.asarray(z[rv.name]) for rv in emitted.free_RVs}


@pytest.fixture(scope="module")
def emitted(tiny_model):
    return tiny_model.pymc()


@pytest.fixture(scope="module")
def points(tiny_model):
    draws = [tiny_model.draw_prior(jax.random.key(i), tiny_model.data) for i in range(POINTS)]
    return [unconstrain(tiny_model.sampled, {n: x[n] for n in tiny_model.sampled}) for x in draws]


@pytest.fixture(scope="module")
def densities(tiny_model, emitted):
    data = tiny_model.sampling_data

    def plain(z):
        sites = constrain(tiny_model.sampled, z) | data["fixed"]
        fixed = tiny_model.priors.log_density(sites, data["hyper"], tiny_model.coords)
        prior_only = sum(fixed[n] for n in tiny_model.prior_only)
        return tiny_model.log_density(sites, data) - prior_only + log_jacobian(tiny_model, z)

    model = numpyro_model(tiny_model)
    compiled = emitted.logp_dlogp_function(ravel_inputs=True, mode="JAX")
    compiled.set_extra_values({})
    names = {emitted.rvs_to_values[rv].name: rv.name for rv in emitted.free_RVs}

    def pymc(z):
        start = pm.blocking.DictToArrayBijection.map(by_name(emitted, z))
        value, gradient = compiled(start.data)
        found = pm.blocking.DictToArrayBijection.rmap(pm.blocking.RaveledVars(gradient, start.point_map_info))
        return value, {names[k]: x for k, x in found.items()}

    return Densities(
        jit(jax.value_and_grad(plain)),
        jit(jax.value_and_grad(lambda z: -potential_energy(model, (data,), {}, z))),
        pymc,
    )


def test_three_densities_are_one(tiny_model, densities, points):
    for z in points:
        value, gradient = densities.plain(z)
        scale = np.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
        for other in (densities.numpyro, densities.pymc):
            found, slope = other(z)
            assert float(found) == pytest.approx(float(value), rel=1e-8)
            assert slope.keys() == gradient.keys()
            for name, g in gradient.items():
                np.testing.assert_allclose(slope[name], g, rtol=1e-6, atol=1e-9 * scale, err_msg=name)


def test_terms_add_up_to_the_density(tiny_model, densities, points):
    """Log likelihoods by outcome times their weights, and log priors by site, sum to the joint log density."""
    data = tiny_model.sampling_data
    for z in points[:3]:
        sites = constrain(tiny_model.sampled, z) | data["fixed"]
        terms = tiny_model.compiled_log_likelihood(sites, tiny_model.data)
        assert {f: x.shape for f, x in terms.items()} == {f: w.shape for f, w in data["weights"].items()}
        prior = tiny_model.priors.log_density(sites, data["hyper"], tiny_model.coords)
        assert set(prior) == set(tiny_model.sites)
        total = sum(float((data["weights"][f] * x).sum()) for f, x in terms.items())
        total += sum(float(prior[n]) for n in tiny_model.sampled) + float(log_jacobian(tiny_model, z))
        assert total == pytest.approx(float(densities.plain(z)[0]), rel=1e-10)


def test_every_quantity_is_a_named_variable_and_nothing_is_a_potential(tiny_model, emitted):
    assert not emitted.potentials
    assert {rv.name for rv in emitted.free_RVs} == set(tiny_model.sampled)
    assert {rv.name for rv in emitted.observed_RVs} == set(tiny_model.packed.outcomes)
    for name, site in tiny_model.sampled.items():
        assert tuple(emitted.named_vars_to_dims.get(name, ())) == site.dims
    data = tiny_model.sampling_data
    trace = numpyro.handlers.trace(numpyro.handlers.seed(numpyro_model(tiny_model), 0)).get_trace(data)
    sites = {n: s for n, s in trace.items() if s["type"] == "sample"}
    assert {n for n, s in sites.items() if s["is_observed"]} == set(tiny_model.packed.outcomes)
    assert {n for n, s in sites.items() if not s["is_observed"]} == set(tiny_model.sampled)
    assert not any(isinstance(s["fn"], dist.Unit) for s in sites.values())
    for family in tiny_model.packed.outcomes:
        assert tuple(emitted.named_vars_to_dims[family]) == tiny_model.outcome_dims(family)
        assert list(emitted.coords[f"outcome_{family}"]) == list(tiny_model.packed.outcomes[family])
    for name in ("growth", "osteoblast_drive"):
        if name in tiny_model.priors.parameters and name not in tiny_model.sampled:
            assert name in emitted.named_vars


def test_a_failed_solve_has_no_density_and_a_finite_gradient(tiny_model, densities, points):
    bad = points[0] | {"zoledronic_acid_ed": jnp.asarray(np.log(1e-200))}
    for density in densities:
        value, gradient = density(bad)
        assert value == -np.inf and all(np.isfinite(g).all() for g in gradient.values())


def test_a_prior_of_the_users_own(tiny_model, points):
    """The log density changes by the difference of the two priors."""
    z = points[0]
    x = float(constrain(tiny_model.sampled, z)["frailty"])
    data = tiny_model.sampling_data
    gamma = numpyro_model(tiny_model, priors={"frailty": dist.Gamma(2.0, 4.0)})
    traces = [
        numpyro.infer.util.log_density(m, (data,), {}, constrain(tiny_model.sampled, z))[0]
        for m in (numpyro_model(tiny_model), gamma)
    ]
    site = tiny_model.sites["frailty"]
    family, args = tiny_model.priors.site_distribution(site, {}, data["hyper"])
    from osteobayes.priors import log_density

    change = float(dist.Gamma(2.0, 4.0).log_prob(x)) - float(log_density(family, args, x))
    assert float(traces[1] - traces[0]) == pytest.approx(change, rel=1e-8)
    own = tiny_model.pymc(priors={"frailty": lambda name, dims: pm.Gamma(name, 2.0, 4.0, dims=dims)})
    assert own["frailty"].owner.op.name == "gamma"
    for model in (tiny_model.numpyro, tiny_model.pymc):
        with pytest.raises(OsteobayesError, match="frailtty"):
            model(priors={"frailtty": None})


def test_a_covariate_of_the_users_own(tiny_model, points):
    """A slope on a study-level covariate: at slope 0 nothing changes, elsewhere the likelihood does."""
    data, z = tiny_model.sampling_data, constrain(tiny_model.sampled, points[0])
    x = np.linspace(-1.0, 1.0, len(tiny_model.coords["study_sre"]))

    def adjust(values):
        return values | {"sre_study": values["sre_study"] + numpyro.sample("slope", dist.Normal(0.0, 1.0)) * x}

    def density(model, sites):
        return float(numpyro.infer.util.log_density(model, (data,), {}, sites)[0])

    plain, own = numpyro_model(tiny_model), numpyro_model(tiny_model, adjust=adjust)
    at_zero = float(dist.Normal(0.0, 1.0).log_prob(0.0))
    assert density(own, z | {"slope": 0.0}) == pytest.approx(density(plain, z) + at_zero, rel=1e-10)
    assert abs(density(own, z | {"slope": 0.5}) - density(plain, z)) > 1.0

    emitted = tiny_model.pymc(adjust=lambda v: v | {"sre_study": v["sre_study"] + pm.Normal("slope", 0.0, 1.0) * x})
    assert "slope" in {rv.name for rv in emitted.free_RVs}
    point = by_name(emitted, points[0] | {"slope": 0.0})
    found = emitted.compile_logp(mode="JAX", jacobian=False)
    assert float(found(point)) == pytest.approx(density(own, z | {"slope": 0.0}), rel=1e-8)
    moved = by_name(emitted, points[0] | {"slope": 0.5})
    assert float(found(moved)) == pytest.approx(density(own, z | {"slope": 0.5}), rel=1e-8)


@pytest.mark.slow
def test_arviz_works_on_a_pymc_posterior_with_no_glue(emitted):
    """Two short chains of PyMC's NumPyro sampler: predictive, pointwise likelihood and prior, LOO, power scaling, PIT, graph."""
    with emitted:
        tree = pm.sample(
            tune=60, draws=60, chains=2, nuts_sampler="numpyro", random_seed=1, progressbar=False,
            idata_kwargs={"log_likelihood": True}, target_accept=0.6,
        )  # fmt: skip
        pm.sample_posterior_predictive(tree, extend_inferencedata=True, random_seed=1, progressbar=False)
        pm.compute_log_prior(tree, progressbar=False)
    families = {rv.name for rv in emitted.observed_RVs}
    for group in ("posterior_predictive", "log_likelihood", "observed_data"):
        assert families <= set(tree[group].data_vars)
    assert {rv.name for rv in emitted.free_RVs} <= set(tree["log_prior"].data_vars)
    assert np.isfinite(az.loo(tree, var_name="crude").elpd)
    assert len(az.psense_summary(tree, var_names=["frailty", "resorption_elasticity"])) == 2
    assert az.plot_ppc_pit(tree, var_names=["crude"]) is not None
    assert pm.model_to_graphviz(emitted) is not None
