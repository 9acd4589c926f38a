"""Crude proportions: patients with an event, of all patients, under competing death, dropout and staggered entry."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.distributions import binomial_draw, binomial_log_lik
from osteobayes.observe.frailty import Observable, observable

__all__ = [
    "any_event",
    "effective_size",
    "expected",
    "first_event",
    "first_event_or_death",
    "log_lik",
    "residual",
    "simulate",
]


def first_event(
    obs: Observable, weights: Float[Array, " member"], stay: Float[Array, " time"], q: Float[Array, " time"]
) -> Float[Array, " component"]:
    """Probability that a first event is seen and is of each component; their sum is the crude proportion.

    Parameters
    ----------
    obs : Observable
        Curves of the M members.
    weights : array [M]
        Member weights at entry.
    stay : array [T]
        G(t) = P(no dropout yet and still under administrative follow-up).
    q : array [T]
        Quadrature weights to the horizon (`osteobayes.observe.grid.quadrature`).

    Returns
    -------
    array [K]
        ``F_k = sum_m w_m int_0^tau lam_mk L_m G dt``.

    Notes
    -----
    Cumulative incidence under independent censoring, mixed over members with fixed weights. Staggered entry keeps the
    count binomial: patients are independent and identically distributed.
    """
    return jnp.einsum("m,mkt,mt,t->k", weights, obs.hazard, obs.at_risk, stay * q)


def first_event_or_death(
    obs: Observable, weights: Float[Array, " member"], stay: Float[Array, " time"], q: Float[Array, " time"]
) -> Float[Array, ""]:
    """Probability that an event or a death is seen: ``sum_m w_m int (sum_k lam_mk + lam_D,m) L_m G dt``."""
    total = jnp.sum(obs.hazard, axis=1) + obs.death
    return jnp.einsum("m,mt,mt,t->", weights, total, obs.at_risk, stay * q)


def any_event(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    weights: Float[Array, " member"],
    stay: Float[Array, " time"],
    q: Float[Array, " time"],
    t: Float[Array, " time"],
    shared: bool = False,
) -> Float[Array, " component"]:
    """Probability of at least one event of each type, whatever other events came before.

    For tables of types that sum to more than the total.

    Parameters
    ----------
    hazard, death, frailty, t, shared
        As in `osteobayes.observe.frailty.observable`.
    weights, stay, q
        As in `first_event`.

    Returns
    -------
    array [K]
        ``sum_m w_m int h_k m_k L_k G dt`` where m_k and L_k are built from the component's own cumulative hazard: other
        components do not remove a patient from follow-up. The types are dependent: never use them as independent
        binomials beside the total.
    """

    def own(component):
        return first_event(observable(component[:, None, :], death, frailty, t, shared), weights, stay, q)[0]

    return jax.vmap(own, in_axes=1)(hazard)


def expected(
    obs: Observable, weights: Float[Array, " member"], stay: Float[Array, " time"], q: Float[Array, " time"]
) -> Float[Array, ""]:
    """Crude proportion with at least one event: the sum of `first_event` over components."""
    return jnp.sum(first_event(obs, weights, stay, q))


def log_lik(events, n, probability) -> Float[Array, ""]:
    """Binomial log likelihood with constants; ``events`` may be fractional (a rounded percentage times ``n``)."""
    return binomial_log_lik(events, n, probability)


def residual(events, n, probability) -> Float[Array, ""]:
    """Standardised residual ``(logit p_obs - logit p) sqrt(n p (1-p))``; > 0 means more events than expected.

    Counts of 0 and n are drawn in by half a patient. Goes to `osteobayes.observe.contrast.log_lik` as ``z_reference``
    with a *negative* correlation: more events in the reference arm by chance lower the log hazard ratio.
    """
    seen = jnp.clip(events, 0.5, n - 0.5) / n
    p = jnp.clip(probability, 1e-9, 1.0 - 1e-9)
    return (jnp.log(seen) - jnp.log1p(-seen) - jnp.log(p) + jnp.log1p(-p)) * jnp.sqrt(n * p * (1.0 - p))


def effective_size(proportion, low, high) -> Float[Array, ""]:
    """Find the number of patients whose binomial is as precise as the printed 95 % interval of a proportion.

    ``p (1-p)/se^2`` with se from the interval on the complementary log-log scale, by the delta method.
    """

    def scale(p):
        return jnp.log(-jnp.log1p(-p))

    se = (scale(high) - scale(low)) / 3.92 * (1.0 - proportion) * -jnp.log1p(-proportion)
    return proportion * (1.0 - proportion) / se**2


def simulate(key, n, probability) -> Float[Array, ""]:
    """Draw a replicate of the number of patients with an event."""
    return binomial_draw(key, n, probability)
