"""Draws of a model that came from any sampler: completed, judged, and ready to be predicted from."""

# xarray labels are untyped
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from osteobayes.errors import RunError
from osteobayes.fit.diagnose import convergence, verdict
from osteobayes.fit.result import labelled
from osteobayes.model import Model
from osteobayes.schema import did_you_mean

PRIOR_DRAWS = 1000


@dataclass(frozen=True)
class Posterior:
    """Draws of a model: what :func:`osteobayes.predict` needs, wherever they were made.

    Attributes
    ----------
    model
        The model.
    tree
        The draws as given, with group ``posterior`` completed (sites that were not sampled from their priors, parameters on
        the natural scale); so is group ``prior`` if it has the sampled sites, else it is drawn from the model's own priors:
        with priors of your own, give theirs (``pm.sample_prior_predictive``), or contraction and grade are against the model's.
    diagnostics
        ``usable, sentence, max_rhat, min_ess_bulk, min_ess_tail, divergences, solver_failures``.
    """

    model: Model
    tree: xr.DataTree
    diagnostics: dict[str, Any]
    _memory: dict = field(default_factory=dict, compare=False, repr=False)

    path = "the posterior"

    def __str__(self) -> str:
        return self.diagnostics["sentence"]

    @classmethod
    def of(cls, model: Model, tree: xr.DataTree, seed: int = 0) -> "Posterior":
        """Complete and judge the draws of a DataTree (of PyMC, of ``az.from_numpyro``, ...).

        Parameters
        ----------
        model
            The model whose emission was sampled, with user's priors and covariates or without.
        tree
            Group ``posterior`` with the emitted sites by name (dims chain, draw, ...), and ``sample_stats`` with ``diverging``
            if the sampler has it.
        seed
            Of the draws from the prior.

        Raises
        ------
        RunError
            If there is no such group, or it lacks a site that the evidence informs.
        """
        if "posterior" not in tree.children:
            raise RunError(f"the draws have no group `posterior`, only {', '.join(tree.children) or 'none'}")
        given = tree["posterior"].to_dataset()
        for name, site in model.sampled.items():
            if name not in given:
                raise RunError(
                    f"group `posterior` lacks `{name}`; {did_you_mean(name, given.data_vars)}. Sample `model.pymc()` or "
                    "`model.numpyro()`, and keep the names"
                )
            if given[name].shape[2:] != site.shape:
                raise RunError(
                    f"`{name}` has shape {given[name].shape[2:]} a draw, the model has {site.shape}; was it another evidence?"
                )
        key = jax.random.key(seed)
        tree = tree.copy()
        tree["posterior"] = xr.DataTree(_completed(model, given, key))
        prior = tree["prior"].to_dataset() if "prior" in tree.children else xr.Dataset()
        if set(model.sampled) <= set(prior.data_vars):  # of the user's own priors, if any
            tree["prior"] = xr.DataTree(_completed(model, prior, jax.random.fold_in(key, 1)))
        else:
            keys = jax.random.split(jax.random.fold_in(key, 1), PRIOR_DRAWS)
            sites = jax.vmap(lambda k: model.draw_prior(k, model.data))(keys)
            tree["prior"] = xr.DataTree(_dataset(model, sites, (1, PRIOR_DRAWS)))
        stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else xr.Dataset()
        return cls(model, tree, _judged(model, given, stats))


def _completed(model: Model, given: xr.Dataset, key: Any) -> xr.Dataset:
    """Draws with sites that were not sampled from their priors, and parameters; what is there stays as it was given."""
    chains, draws = (given.sizes[d] for d in ("chain", "draw"))
    known = {n: given[n].to_numpy().reshape(chains * draws, *s.shape) for n, s in model.sites.items() if n in given}
    missing = [n for n in model.sites if n not in known]

    def completed(sites: dict, key: Any) -> dict:
        return model.priors.sample(key, model.data["hyper"], model.coords, names=missing, given=sites)

    keys = jax.random.split(key, chains * draws)
    sites = jax.vmap(completed)({k: jnp.asarray(x) for k, x in known.items()}, keys)
    return _dataset(model, sites, (chains, draws)).assign(dict(given.data_vars))


def _dataset(model: Model, sites: dict[str, Any], lead: tuple[int, int]) -> xr.Dataset:
    """Sites and parameters as a dataset with named dims."""
    values = jax.vmap(lambda s: model.values(s, model.data))(sites)
    shaped = {
        site: {k: np.asarray(x).reshape(*lead, *np.shape(x)[1:]) for k, x in found.items()}
        for site, found in (
            (False, {n: v for n, v in values.items() if model.priors[n].sampled}),
            (True, {n: x for n, x in sites.items() if n not in values}),
        )
    }
    return xr.merge([labelled(model, shaped[site], ("chain", "draw"), site) for site in shaped])


def _judged(model: Model, given: xr.Dataset, stats: xr.Dataset) -> dict[str, Any]:
    """Diagnostics of the sampled sites and of variables that the user added, as they were given."""
    added = set(given.data_vars) - set(model.sites) - set(model.priors.parameters) - {"solver_failures"}
    labels, columns = [], []
    for name in (*model.sampled, *sorted(added)):
        flat = given[name].to_numpy().reshape(*given[name].shape[:2], -1)
        columns.append(flat)
        labels += [f"{name}[{k}]" if given[name].ndim > 2 else name for k in range(flat.shape[-1])]
    found = convergence(np.concatenate(columns, axis=-1))
    divergences = int(stats["diverging"].sum()) if "diverging" in stats else 0
    failures = int((given["solver_failures"] > 0).sum()) if "solver_failures" in given else 0
    usable, sentence = verdict(labels, found, given.sizes["chain"] * given.sizes["draw"], divergences, failures)
    return {
        "usable": usable, "sentence": sentence.removesuffix(".") + ".", "max_rhat": float(np.max(found.rhat)),
        "min_ess_bulk": float(np.min(found.bulk)), "min_ess_tail": float(np.min(found.tail)), "divergences": divergences,
        "solver_failures": failures,
    }  # fmt: skip
