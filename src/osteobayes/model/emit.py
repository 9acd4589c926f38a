"""Emission of the joint density as a NumPyro model: named sites with dims, every statistic family an observed site."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from osteobayes.model import likelihood
from osteobayes.model.joint import Data, Model

Law = dist.Distribution
Adjust = Callable[[dict[str, Any]], dict[str, Any]]

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
        Statistic family (:data:`osteobayes.model.likelihood.FAMILY`).
    arguments
        What :meth:`osteobayes.model.Model.expected` returns for it.
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
        """Weighted log likelihood of each outcome; -inf where a cell could not be solved."""
        return likelihood.weighted(self.family, value, self.arguments, self.weights)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Replicates of the published numbers."""
        if not sample_shape:
            return likelihood.simulate(self.family, key, self.arguments, self.observed)
        keys = jax.random.split(key, sample_shape[0])
        return jax.vmap(lambda k: self.sample(k, sample_shape[1:]))(keys)


def numpyro_model(
    model: Model,
    names: Sequence[str] | None = None,
    priors: Mapping[str, Law] | None = None,
    adjust: Adjust | None = None,
    method: str | None = None,
) -> Callable[[Data], None]:
    """NumPyro model of the sampled sites; prior-only sites keep the value in ``data["fixed"]``, if there is one.

    Parameters
    ----------
    model
        The joint density.
    names
        Sites to emit; default: those that the evidence informs (:attr:`osteobayes.model.Model.sampled`).
    priors
        Distributions of the user's own that replace those of some sites.
    adjust
        Called with the parameters on the natural scale (by name), returns them changed: a covariate is
        ``lambda v: v | {"sre_study": v["sre_study"] + numpyro.sample("slope", dist.Normal(0, 1)) * x}``.
    method
        Of :func:`osteobayes.solve.trajectories`; default: the model's.

    Returns
    -------
    Callable
        ``f(data)``; ``data`` is :attr:`Model.data` (with ``fixed``: values of the sites that are not emitted).

    Raises
    ------
    OsteobayesError
        If ``priors`` names no emitted site.
    """
    names = model.emitted(names, priors)
    own = dict(priors or {})

    def emitted(data: Data) -> None:
        sites: dict[str, Array] = dict(data.get("fixed", {}))
        for name, site in model.sites.items():
            if name not in names:
                continue
            if name in own:
                law = own[name].expand(site.shape)
            else:
                family, arguments = model.priors.site_distribution(site, sites, data["hyper"])
                law = FAMILIES[family](*arguments)
            sites[name] = numpyro.sample(name, law, infer={"event_dims": list(site.dims)})  # pyright: ignore[reportArgumentType]
        values = model.values(sites, data)
        for name, value in values.items():
            if name not in sites and name not in model.priors.constants:
                numpyro.deterministic(name, value)
        expected, failed = model.expected(values if adjust is None else adjust(values), data, method)
        numpyro.deterministic("solver_failures", failed)
        for family, arguments in expected.items():
            law = Published(family, arguments, data["weights"][family], data["observed"][family])
            dims = list(model.outcome_dims(family))
            numpyro.sample(family, law, obs=data["observed"][family], infer={"event_dims": dims})

    return emitted
