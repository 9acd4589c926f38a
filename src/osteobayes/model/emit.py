"""Emission of the joint density as a NumPyro model: named sites with dims, observed families with dim ``outcome``."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from osteobayes.model import likelihood
from osteobayes.model.joint import Data, Model

FAMILIES: dict[str, Callable[..., dist.Distribution]] = {
    "normal": dist.Normal,
    "lognormal": dist.LogNormal,
    "halfnormal": dist.HalfNormal,
    "beta": dist.Beta,
}


class Published(dist.Distribution):
    """Distribution of the published numbers of one statistic family, one entry an outcome, weighted.

    Parameters
    ----------
    family
        Statistic family (:data:`osteobayes.evidence.pack.FAMILIES`).
    arguments
        What :func:`osteobayes.model.likelihood.expected` returns for it.
    weights
        Weight of each outcome's log likelihood.
    observed
        The printed numbers: replicates keep their design (shape, printed intervals).
    """

    support = constraints.real  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("arguments", "weights", "observed")
    pytree_aux_fields = ("family",)

    def __init__(self, family: str, arguments: Mapping[str, Array], weights: Array, observed: Array) -> None:
        self.family, self.arguments, self.weights, self.observed = family, dict(arguments), weights, observed
        super().__init__(batch_shape=(observed.shape[0],), event_shape=observed.shape[1:])

    @property
    def support_event_dim(self) -> int:  # noqa: D102
        return len(self.event_shape)

    def log_prob(self, value: Array) -> Array:
        """Weighted log likelihood of each outcome."""
        return self.weights * likelihood.log_lik(self.family, value, self.arguments)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Replicates of the published numbers."""
        if not sample_shape:
            return likelihood.simulate(self.family, key, self.arguments, self.observed)
        keys = jax.random.split(key, sample_shape[0])
        return jax.vmap(lambda k: self.sample(k, sample_shape[1:]))(keys)


def numpyro_model(model: Model, names: Any = None) -> Callable[[Data], None]:
    """NumPyro model of the sampled sites; prior-only sites keep the value in ``data["fixed"]``, if there is one.

    Parameters
    ----------
    model
        The joint density.
    names
        Sites to emit; default: those that the evidence informs (:attr:`osteobayes.model.Model.sampled`).

    Returns
    -------
    Callable
        ``f(data)``; ``data`` is :attr:`Model.data` (with ``fixed``: values of the sites that are not emitted).
    """
    names = tuple(model.sampled if names is None else names)

    def emitted(data: Data) -> None:
        sites: dict[str, Array] = dict(data.get("fixed", {}))
        for name, site in model.sites.items():
            if name not in names:
                continue
            family, arguments = model.priors.site_distribution(site, sites, data["hyper"])
            law = FAMILIES[family](*arguments)
            sites[name] = numpyro.sample(name, law.to_event(0), infer={"dims": site.dims})  # pyright: ignore[reportArgumentType]
        expected, failed = model.expected(model.values(sites, data), data)
        numpyro.deterministic("solver_failures", failed)
        # a failed solve has no likelihood: NUTS counts it as a divergence
        numpyro.factor("solved", jnp.where(failed > 0, -jnp.inf, 0.0))
        for family, arguments in expected.items():
            observed = data["observed"][family]
            numpyro.sample(family, Published(family, arguments, data["weights"][family], observed), obs=observed)

    return emitted
