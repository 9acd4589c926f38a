"""Emission of the joint density as a PyMC model: named variables with dims, every statistic family an observed variable."""

# PyTensor's symbols are untyped
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from osteobayes.model import likelihood
from osteobayes.model.joint import Model
from osteobayes.precision import jit

Variable = Any


def pymc_model(
    model: Model,
    names: Sequence[str] | None = None,
    priors: Mapping[str, Callable[..., Variable]] | None = None,
    adjust: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Any:
    """PyMC model of the sampled sites; the others keep the prior draw of ``model.sampling_data["fixed"]``.

    Parameters
    ----------
    model
        The joint density.
    names
        Sites to emit; default: those that the evidence informs (:attr:`osteobayes.model.Model.sampled`).
    priors
        Functions ``f(name, dims=...)`` that make a variable of the user's own in place of a site's.
    adjust
        Called in the model's context with the parameters on the natural scale (by name), returns them changed: a covariate is
        ``lambda v: v | {"sre_study": v["sre_study"] + pm.Normal("slope", 0, 1) * x}``.

    Returns
    -------
    pymc.Model
        Weights of the outcomes are its data ``<family>_weight`` (``pm.set_data`` changes them).

    Raises
    ------
    OsteobayesError
        If ``priors`` names something that is not a site.
    """
    import pymc as pm
    import pytensor.tensor as pt
    from pytensor import wrap_jax

    names = model.emitted(names, priors)
    own = dict(priors or {})
    laws: dict[str, Callable[..., Variable]] = {
        "normal": pm.Normal,
        "lognormal": pm.LogNormal,
        "halfnormal": pm.HalfNormal,
        "beta": pm.Beta,
    }
    data = model.sampling_data
    hyper = jax.tree.map(np.asarray, data["hyper"])

    def expected(values: dict[str, Any]) -> tuple[dict, Any]:
        return model.expected(values, data)

    with pm.Model(coords=model.labels) as emitted:
        sites: dict[str, Variable] = {n: np.asarray(x) for n, x in data["fixed"].items() if n not in names}
        for name, site in model.sites.items():
            if name not in names:
                continue
            if name in own:
                sites[name] = own[name](name, dims=site.dims)
            else:
                family, arguments = model.priors.site_distribution(site, sites, hyper)
                sites[name] = laws[family](name, *arguments, dims=site.dims)
        values = model.priors.values(sites, hyper, exp=pt.exp)
        for name, value in values.items():
            if name not in sites and name not in model.priors.constants:
                pm.Deterministic(name, pt.as_tensor(value), dims=model.priors[name].dims)
        values = values if adjust is None else adjust(values)
        found: Any = wrap_jax(expected)(values)
        arguments, failed = found
        pm.Deterministic("solver_failures", failed)
        template = jax.eval_shape(
            lambda: model.expected(model.values(model.draw_prior(jax.random.key(0), data), data), data)[0]
        )
        for family, given in arguments.items():
            _observe(model, family, given, {k: x.shape for k, x in template[family].items()})
    return emitted


def potential(emitted: Any) -> Callable[[Mapping[str, Any], Any], Any]:
    """Negative log density of an emitted PyMC model in JAX: ``f(z, data)`` of unconstrained values by variable.

    The model holds its data, so that ``data`` is not read: weights and numbers are those of the emission.
    """
    from pymc.sampling.jax import get_jaxified_logp

    log_density = get_jaxified_logp(emitted)
    variable = {emitted.rvs_to_values[rv]: rv.name for rv in emitted.free_RVs}
    order = [variable[value] for value in emitted.value_vars]
    return lambda z, data: -log_density([z[name] for name in order])


def _observe(model: Model, family: str, arguments: Mapping[str, Variable], shapes: Mapping[str, tuple]) -> None:
    """Observed variable of a family in the model of the context; ``shapes`` are those of the arguments."""
    import pymc as pm
    import pytensor.tensor as pt
    from pytensor import wrap_jax

    observed = np.asarray(model.packed.observed[family], float)
    dims = model.outcome_dims(family)
    keys = sorted(arguments)

    def log_lik(value: Any, weights: Any, arguments: dict[str, Any]) -> Any:
        return likelihood.weighted(family, value, arguments, weights)

    replicate = jit(lambda key, design, arguments: likelihood.simulate(family, key, arguments, design))

    def logp(value: Variable, weights: Variable, _: Variable, *given: Variable) -> Variable:
        known = {k: pt.specify_shape(x, shapes[k]) for k, x in zip(keys, given, strict=True)}
        return wrap_jax(log_lik)(
            pt.specify_shape(value, observed.shape), pt.specify_shape(weights, observed.shape[:1]), known
        )

    def random(_: Any, design: np.ndarray, *given: Any, rng: Any = None, size: Any = None) -> np.ndarray:
        key = jax.random.key(int(rng.integers(2**31)))
        return np.asarray(replicate(key, design, dict(zip(keys, given, strict=True))))

    def core(symbol: str, ndim: int) -> str:
        return "(" + ",".join(f"{symbol}{i}" for i in range(ndim - 1)) + ")"

    # replicates keep the design of what was printed (its shape, which entries there are): it is a parameter too
    inputs = ["()", core("y", observed.ndim)] + [core(f"x{i}_", arguments[k].ndim) for i, k in enumerate(keys)]
    weights = pm.Data(f"{family}_weight", np.asarray(model.packed.weights[family], float), dims=dims[:1])
    pm.CustomDist(
        family, weights, observed, *(arguments[k] for k in keys), logp=logp, random=random,
        signature=",".join(inputs) + "->" + core("y", observed.ndim), observed=observed, dims=dims,
    )  # fmt: skip
