"""The state at study entry: the quasi-steady micro-environment of a lesion of given burden and mineral."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle import fluxes
from osteobayes.cycle.dynamics import Columns, Reference, State, entry_modules, frozen_modules
from osteobayes.cycle.responses import log_positive, power

ITERATIONS = 15


class Rest(NamedTuple):
    """Bone at rest: P, B, G, Q, and the osteoclast number that they sustain."""

    P: Array
    B: Array
    G: Array
    Q: Array
    sustained: Array


def bone_at_rest(
    C: Float[Array, " column"],
    Z: Float[Array, " column"],
    N: Float[Array, " column"],
    p: Mapping[str, Array],
    u: Mapping[str, Array],
) -> Rest:
    """Quasi-steady bone given osteoclasts ``C`` and mineral ``Z``."""
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    flux = fluxes.resorption(C, Z)
    G = fluxes.tgfb_signal(flux, N, p, u)
    G_power = power(log_positive(G), p["tgfb_slope"])
    differentiation = fluxes.osteoblast_differentiation(G_power, p)
    osteoclast_tgfb = fluxes.osteoclast_tgfb_response(G_power, p)
    P = fluxes.osteoblast_recruitment(flux, G, N, p, u) / fluxes.precursor_loss(differentiation, p)
    B = fluxes.osteoblast_formation(P, differentiation, n, p, u)
    log_R = log_positive(fluxes.pthrp(N, G, p, u))
    opg = fluxes.opg_binding(B, log_R, p)
    bound = fluxes.rankl_bound_by_drug(opg, u)
    Q = fluxes.precursor_reserve(bound, p)
    Lf = fluxes.free_rankl(P, log_R, opg, n, p, u)
    sustained = fluxes.osteoclast_formation(Lf, Q, bound, osteoclast_tgfb, n, p, u) / fluxes.osteoclast_apoptosis(
        Lf, osteoclast_tgfb, p, u
    )
    return Rest(P, B, G, Q, sustained)


def quasi_steady_bone(
    Z: Float[Array, " column"], N: Float[Array, " column"], p: Mapping[str, Array], u: Mapping[str, Array]
) -> tuple[Array, Rest]:
    """Osteoclasts and the other fast bone states at rest for clamped mineral and burden: a damped fixed point in log osteoclast number.

    The gradient is exact to first order: the fixed point is found without gradient, and one Newton step with a stopped
    slope carries the derivative (implicit function theorem in one dimension a column).
    """

    def sustain(log_C, Z, N, p, u):
        return jnp.log(bone_at_rest(jnp.exp(log_C), Z, N, p, u).sustained)

    frozen = jax.lax.stop_gradient((Z, N, dict(p), dict(u)))

    def newton(log_C, _):
        value, slope = jax.jvp(lambda c: sustain(c, *frozen), (log_C,), (jnp.ones_like(log_C),))
        return log_C + jnp.clip((value - log_C) / jnp.maximum(1.0 - slope, 0.2), -0.7, 0.7), slope

    root, slopes = jax.lax.scan(newton, jnp.zeros_like(Z), None, length=ITERATIONS)
    root, slope = jax.lax.stop_gradient((root, slopes[-1]))
    log_C = root + (sustain(root, Z, N, p, u) - root) / (1.0 - slope)
    C = jnp.exp(log_C)
    return C, bone_at_rest(C, Z, N, p, u)


def entry_state(
    p: Mapping[str, Array], u: Mapping[str, Float[Array, " column"]], columns: Columns, full: bool = False
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
    full
        Whether modules deviate from the state at entry (see :class:`Reference`).

    Returns
    -------
    State, Reference
        Lesion and skeleton at rest under ``u``; the lesion at rest without drugs.
    """
    N = columns.lesion * p["entry_burden"]
    Z = jnp.where(columns.lesion > 0, p["entry_mineral"], 1.0)
    C, rest = quasi_steady_bone(Z, N, p, u)
    no_drugs = {k: jnp.zeros(()) for k in u}
    C_ref, untreated = quasi_steady_bone(Z, N, p, no_drugs)
    flux = fluxes.resorption(C_ref, Z)
    reference = Reference(fluxes.feeding(flux, untreated.G, p), untreated.G, N, flux, Z, C_ref)
    some = columns.immune.shape[0]
    first = {k: v[:some] if jnp.ndim(v) else v for k, v in p.items()}
    of_modules = Reference(*(x[:some] for x in reference[:-1]))  # pyright: ignore[reportArgumentType]
    module = entry_modules(of_modules, first, no_drugs)
    if full:
        reference = reference._replace(frozen=frozen_modules(of_modules, first, no_drugs))
    state = State(
        P=rest.P, B=rest.B, C=C, Z=Z, G=rest.G, Q=rest.Q + jnp.zeros_like(N),
        log_N=jnp.log(p["entry_burden"]) + jnp.zeros_like(N), y=jnp.zeros_like(N),
        G_without=rest.G[:some], A=jnp.zeros(some), **{k: jnp.stack([x, x]) for k, x in module.items()},
    )  # fmt: skip
    return state, reference
