"""Which component came first (or which components all events were): the multinomial split, given the total.

A multinomial over (components, none) factorises into a binomial total and this split, so a split may always stand
beside one total of the same arm.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from osteobayes.observe.distributions import binomial_draw

__all__ = ["expected", "log_lik", "shares_of_all", "simulate"]

_TINY = 1e-12


def expected(first: Float[Array, " component"]) -> Float[Array, " component"]:
    """Shares of the components among first events: ``F_k / sum F`` (zeros if there are no events at all)."""
    return first / (jnp.sum(first) + 1e-30)


def shares_of_all(events: Float[Array, " component"]) -> Float[Array, " component"]:
    """Shares of the components among *all* events, recurrent ones included.

    Parameters
    ----------
    events : array [K]
        Mean numbers by component, ``sum_m w_m int r_k L_R G dt`` (`osteobayes.observe.rate.component_counts`).

    Returns
    -------
    array [K]
        ``events_k / sum events``; zeros if there are none. The ratio of the means, as printed tables pool patients.

    Notes
    -----
    They differ from the shares of first events (`expected`) where a component's share changes with time, or under
    frailty. A patient's events have independent components given their times, so that the split of a given total is
    multinomial as long as the shares are the same for all members and times; a mixture adds a little.
    """
    return expected(events)


def log_lik(counts: Float[Array, " component"], shares: Float[Array, " component"]) -> Float[Array, ""]:
    """Multinomial log likelihood of the split with its constants.

    Parameters
    ----------
    counts : array [K]
        First (or all) events by component (may be fractional); NaN or 0 where the component was not counted.
    shares : array [K]
        `expected` shares, or the probabilities of `osteobayes.observe.crude.first_event` (they are normalised here).
        A component that was not counted has share 0; its count must be 0 and it adds neither value nor gradient. A
        positive count on share 0 is heavily (finitely) penalised.
    """
    counts = jnp.where(jnp.isnan(counts), 0.0, counts)
    counted = shares > 0
    share = jnp.where(counted, shares, 0.0)
    probability = share / (jnp.sum(share) + 1e-30)
    use = counts > 0
    logs = jnp.log(jnp.where(use, probability + _TINY, 1.0))
    return gammaln(jnp.sum(counts) + 1.0) - jnp.sum(gammaln(counts + 1.0)) + jnp.sum(counts * logs)


def simulate(key, total, shares: Float[Array, " component"]) -> Float[Array, " component"]:
    """Draw a split of ``total`` first events (a chain of conditional binomials)."""
    shares = jnp.asarray(shares, dtype=float)
    after = jnp.cumsum(shares[::-1])[::-1]
    chance = jnp.where(after > 0, shares / jnp.where(after > 0, after, 1.0), 0.0)
    left, counts = jnp.round(jnp.asarray(total, dtype=float)), []
    for part, p in zip(jax.random.split(key, shares.shape[0]), chance, strict=True):
        counts.append(binomial_draw(part, left, p))
        left = left - counts[-1]
    return jnp.stack(counts)
