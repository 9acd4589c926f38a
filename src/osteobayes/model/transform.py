"""Unconstrained space of the sampled sites: the same bijections as NumPyro (exp for positive, logistic for shares)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osteobayes.priors import Site

Sites = dict[str, Array]


def constrain(sites: Mapping[str, Site], z: Mapping[str, Array]) -> Sites:
    """Site values from unconstrained values."""
    out: Sites = {}
    for name, value in z.items():
        family = sites[name].family
        out[name] = (
            jnp.exp(value)
            if family in ("lognormal", "halfnormal")
            else jax.nn.sigmoid(value)
            if family == "beta"
            else value
        )
    return out


def unconstrain(sites: Mapping[str, Site], values: Mapping[str, Array]) -> Sites:
    """Unconstrained values from site values."""
    out: Sites = {}
    for name, value in values.items():
        family = sites[name].family
        positive = family in ("lognormal", "halfnormal")
        out[name] = jnp.log(value) if positive else jnp.log(value) - jnp.log1p(-value) if family == "beta" else value
    return out
