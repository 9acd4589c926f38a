"""The state at study entry: the quasi-steady micro-environment of a lesion of given burden and mineral."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle import fluxes
from osteobayes.cycle.dynamics import Columns, Reference, State
from osteobayes.cycle.responses import log_positive, power

ITERATIONS = 15


def bone_at_rest(
    C: Float[Array, " column"],
    Z: Float[Array, " column"],
    N: Float[Array, " column"],
    p: Mapping[str, Array],
    u: Mapping[str, Array],
) -> tuple[Array, Array, Array, Array]:
    """Quasi-steady P, B, G and the osteoclast number that they sustain, given osteoclasts ``C`` and mineral ``Z``."""
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    flux = fluxes.resorption(C, Z)
    G = fluxes.tgfb_signal(flux, N, p, u)
    G_power = power(log_positive(G), p["tgfb_slope"])
    differentiation = fluxes.osteoblast_differentiation(G_power, p)
    osteoclast_tgfb = fluxes.osteoclast_tgfb_response(G_power, p)
    P = fluxes.osteoblast_recruitment(flux, G, N, p) / fluxes.precursor_loss(differentiation, p)
    B = P * differentiation / (1.0 + p["dkk1_suppression"] * n)
    Lf = fluxes.free_rankl(P, B, fluxes.pthrp(N, G, p), n, p, u)
    sustained = fluxes.osteoclast_formation(Lf, osteoclast_tgfb, n, p) / fluxes.osteoclast_apoptosis(
        Lf, osteoclast_tgfb, p, u
    )
    return P, B, G, sustained


def quasi_steady_bone(
    Z: Float[Array, " column"], N: Float[Array, " column"], p: Mapping[str, Array], u: Mapping[str, Array]
) -> tuple[Array, Array, Array, Array]:
    """Fast bone states P, B, C, G at rest for clamped mineral and burden: a damped fixed point in log osteoclast number.

    The gradient is exact to first order: the fixed point is found without gradient, and one Newton step with a stopped
    slope carries the derivative (implicit function theorem in one dimension a column).
    """

    def sustain(log_C, Z, N, p, u):
        return jnp.log(bone_at_rest(jnp.exp(log_C), Z, N, p, u)[3])

    frozen = jax.lax.stop_gradient((Z, N, dict(p), dict(u)))

    def newton(log_C, _):
        value, slope = jax.jvp(lambda c: sustain(c, *frozen), (log_C,), (jnp.ones_like(log_C),))
        return log_C + jnp.clip((value - log_C) / jnp.maximum(1.0 - slope, 0.2), -0.7, 0.7), slope

    root, slopes = jax.lax.scan(newton, jnp.zeros_like(Z), None, length=ITERATIONS)
    root, slope = jax.lax.stop_gradient((root, slopes[-1]))
    log_C = root + (sustain(root, Z, N, p, u) - root) / (1.0 - slope)
    C = jnp.exp(log_C)
    P, B, G, _ = bone_at_rest(C, Z, N, p, u)
    return P, B, C, G


def entry_state(
    p: Mapping[str, Array], u: Mapping[str, Float[Array, " column"]], columns: Columns
) -> tuple[State, Reference]:
    """State at study entry and the untreated reference of the same lesion.

    Parameters
    ----------
    p
        Parameters: scalars or one value a column.
    u
        Drug actions before entry per column (pre-treated populations, averaged over the last dosing interval; else 0).
    columns
        What each column is.

    Returns
    -------
    State, Reference
        Lesion and skeleton at rest under ``u``; the lesion at rest without drugs.
    """
    N = columns.lesion * p["entry_burden"]
    Z = jnp.where(columns.lesion > 0, p["entry_mineral"], 1.0)
    P, B, C, G = quasi_steady_bone(Z, N, p, u)
    _P, _B, C_ref, G_ref = quasi_steady_bone(Z, N, p, {k: jnp.zeros_like(v) for k, v in u.items()})
    flux = fluxes.resorption(C_ref, Z)
    reference = Reference(fluxes.feeding(flux, G_ref, p), G_ref, N, flux, Z)
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    E = fluxes.effector_drive(G_ref, N, n, p)
    drive = p["exhaustion_drive"] * n
    X = drive / (1.0 + drive)
    E, X = E[: columns.immune.shape[0]], (X + jnp.zeros_like(N))[: columns.immune.shape[0]]
    log_N = jnp.log(p["entry_burden"]) + jnp.zeros_like(N)
    return State(P, B, C, Z, G, log_N, jnp.zeros_like(N), E, X, E, X), reference
