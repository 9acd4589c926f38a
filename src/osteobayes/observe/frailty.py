"""From conditional hazards to what a trial can observe: gamma frailty and competing death.

Every patient carries U ~ Gamma(mean 1, variance theta). U multiplies the hazards of the skeletal events; death is
multiplied by U^a with a = 0 (``shared=False``, death independent of U) or a = 1 (``shared=True``). Both cases are
closed forms, because they need only the Laplace transform of the gamma law, E[exp(-U s)] = (1 + theta s)^(-1/theta),
and its derivative, E[U exp(-U s)] = (1 + theta s)^(-1/theta - 1).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.observe.grid import cumulative

__all__ = ["Observable", "alive", "log_laplace", "observable", "recurrent"]


class Observable(NamedTuple):
    """The observable curves of the members of one arm, before any censoring.

    Attributes
    ----------
    at_risk : array [M, T]
        L(t) = P(no counted event yet and alive).
    hazard : array [M, K, T]
        Observable cause-specific hazards of the counted components, lam_k = h_k m, m = E[U | at risk], 1/year.
    death : array [M, T]
        Observable death hazard among those at risk, 1/year.
    cumulative : array [M, T]
        H, the conditional cumulative hazard of all counted components together.
    """

    at_risk: Float[Array, "member time"]
    hazard: Float[Array, "member component time"]
    death: Float[Array, "member time"]
    cumulative: Float[Array, "member time"]


def log_laplace(s: Float[Array, "..."], frailty) -> Float[Array, "..."]:
    """Return ``-log E[exp(-U s)] = log1p(theta s) / theta``, smooth through theta = 0.

    Written as ``s f(theta s)`` with ``f(x) = log1p(x)/x``; a four-term series replaces f below x = 1e-4, so that values
    and first and second derivatives stay finite and accurate at theta = 0 (truncation below 1e-20).

    Parameters
    ----------
    s : array
        A cumulative hazard, >= 0.
    frailty : scalar
        theta >= 0, the variance of U.
    """
    x = frailty * s
    small = x < 1e-4
    safe = jnp.where(small, 1.0, x)
    series = 1.0 + x * (-1.0 / 2 + x * (1.0 / 3 + x * (-1.0 / 4 + x / 5.0)))
    return s * jnp.where(small, jnp.where(small, series, 1.0), jnp.log1p(safe) / safe)


def observable(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    t: Float[Array, " time"],
    shared: bool = False,
) -> Observable:
    """Observable curves of the members of an arm.

    Parameters
    ----------
    hazard : array [M, K, T]
        Conditional hazards of the counted components (rows of zeros: not counted), 1/year.
    death : array [M, T]
        Conditional death hazard, 1/year.
    frailty : scalar
        theta >= 0.
    t : array [T]
        Time grid from 0, years.
    shared : bool
        Whether U multiplies death too (a = 1). Static under ``jit``.

    Returns
    -------
    Observable

    Notes
    -----
    a = 0: ``L = (1 + theta H)^(-1/theta) exp(-H_D)``, ``m = 1/(1 + theta H)``, death hazard h_D.
    a = 1: ``L = (1 + theta (H + H_D))^(-1/theta)``, ``m = 1/(1 + theta (H + H_D))``, death hazard h_D m.
    Conjugate-gamma algebra; checked against simulated patients (tests/statistical/test_scenarios.py).
    """
    total = cumulative(jnp.sum(hazard, axis=-2), t)
    dead = cumulative(death, t)
    if shared:
        exposed = total + dead
        at_risk = jnp.exp(-log_laplace(exposed, frailty))
        mean = 1.0 / (1.0 + frailty * exposed)
        death = death * mean
    else:
        at_risk = jnp.exp(-log_laplace(total, frailty) - dead)
        mean = 1.0 / (1.0 + frailty * total)
    return Observable(at_risk, hazard * mean[..., None, :], death, total)


def alive(
    death: Float[Array, "member time"], frailty, t: Float[Array, " time"], shared: bool = False
) -> Float[Array, "member time"]:
    """Survival whatever the skeletal events: ``exp(-H_D)``, or ``(1 + theta H_D)^(-1/theta)`` if ``shared``.

    Parameters
    ----------
    death : array [M, T]
        Conditional death hazard, 1/year.
    frailty : scalar
        theta >= 0.
    t : array [T]
        Time grid from 0, years.
    shared : bool
        Whether U multiplies death. Static under ``jit``.
    """
    dead = cumulative(death, t)
    return jnp.exp(-(log_laplace(dead, frailty) if shared else dead))


def recurrent(
    hazard: Float[Array, "member component time"],
    death: Float[Array, "member time"],
    frailty,
    t: Float[Array, " time"],
    shared: bool = False,
) -> tuple[Float[Array, "member component time"], Float[Array, "member time"]]:
    """Event rate among the living whatever their event history, and survival.

    Parameters
    ----------
    hazard, death, frailty, t, shared
        As in `observable`.

    Returns
    -------
    rate : array [M, K, T]
        ``r = h E[U | alive]``: h if a = 0, ``h/(1 + theta H_D)`` if a = 1; 1/year. It takes the place of the observable
        hazard in an Andersen-Gill contrast (`osteobayes.observe.contrast.hazard_ratio`).
    alive : array [M, T]
        Survival, `alive`.
    """
    living = alive(death, frailty, t, shared)
    if not shared:
        return hazard, living
    return hazard / (1.0 + frailty * cumulative(death, t))[..., None, :], living
