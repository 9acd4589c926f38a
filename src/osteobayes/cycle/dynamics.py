"""The ordinary differential equations: a lesion, the systemic skeleton beside it, the systemic burden, the immune module.

Columns: the first ``n`` bone columns are the lesions of ``n`` cells, the next ``s`` are systemic skeletons (the bone equations
with no tumour and the same drugs; cells that differ only in cancer share one). Time is in days.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle import fluxes
from osteobayes.cycle.responses import log_positive, power


class State(NamedTuple):
    """State of every column; the tumour and immune states of skeleton columns are carried along unused."""

    P: Float[Array, " column"]
    """Osteoblast precursors (1 in healthy bone)."""
    B: Float[Array, " column"]
    """Osteoblasts (1)."""
    C: Float[Array, " column"]
    """Osteoclasts (1)."""
    Z: Float[Array, " column"]
    """Mineral (1)."""
    G: Float[Array, " column"]
    """TGF-beta transcriptional programme (1)."""
    log_N: Float[Array, " column"]
    """Log lesion burden, in units of the lesion's capacity."""
    y: Float[Array, " column"]
    """Log systemic growth since entry."""
    E: Float[Array, " column"]
    """Effector T cells (1)."""
    X: Float[Array, " column"]
    """Exhausted share (0 in healthy tissue)."""
    E_ref: Float[Array, " column"]
    """Effectors of the same lesion without agents, at its entry TGF-beta tone."""
    X_ref: Float[Array, " column"]
    """Exhausted share of the same."""


class Reference(NamedTuple):
    """What a cell's untreated lesion is like at entry (the reference of growth, hazards and the immune deviation)."""

    feeding: Float[Array, " column"]
    tgfb: Float[Array, " column"]
    burden: Float[Array, " column"]
    flux: Float[Array, " column"]
    mineral: Float[Array, " column"]


class Columns(NamedTuple):
    """What each column is, as 0/1 masks.

    ``lesion``: a lesion (else a skeleton); ``immune``: the immune module is switched on by an agent of its class;
    ``backbone``: the cancer's background treatment is given (the default).
    """

    lesion: Float[Array, " column"]
    immune: Float[Array, " column"]
    backbone: Float[Array, " column"]


def bone_field(
    y: State, N: Float[Array, " column"], p: Mapping[str, Array], u: Mapping[str, Array]
) -> tuple[Array, Array, Array, Array, Array]:
    """Time derivatives (1/day) of P, B, C, Z and G."""
    P, B, C, Z, G = y.P, y.B, y.C, y.Z, y.G
    G_power = power(log_positive(G), p["tgfb_slope"])
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    flux = fluxes.resorption(C, Z)
    Lf = fluxes.free_rankl(P, B, fluxes.pthrp(N, G, p), n, p, u)
    differentiation = fluxes.osteoblast_differentiation(G_power, p)
    osteoclast_tgfb = fluxes.osteoclast_tgfb_response(G_power, p)
    radiation = p["alpha_osteoblast_damage"] * u["alpha_kill"]
    dP = (
        p["precursor_turnover"]
        * (fluxes.osteoblast_recruitment(flux, G, N, p) - P * fluxes.precursor_loss(differentiation, p))
        - radiation * P
    )
    dB = p["osteoblast_turnover"] * (P * differentiation / (1.0 + p["dkk1_suppression"] * n) - B) - radiation * B
    dC = p["osteoclast_turnover"] * (
        fluxes.osteoclast_formation(Lf, osteoclast_tgfb, n, p)
        - C * fluxes.osteoclast_apoptosis(Lf, osteoclast_tgfb, p, u)
    )
    Zm = p["mineral_maximum"]
    dZ = p["mineral_turnover"] * (B * (Zm - Z) / (Zm - 1.0) - flux)
    dG = p["tgfb_programme_rate"] * (fluxes.tgfb_signal(flux, N, p, u) - G)
    return dP, dB, dC, dZ, dG


def osteoclast_loss(y: State, N: Array, p: Mapping[str, Array], u: Mapping[str, Array]) -> Float[Array, " column"]:
    """Loss rate of osteoclasts (1/day): the one rate that drugs can make fast, so the solver treats it exponentially."""
    Lf = fluxes.free_rankl(y.P, y.B, fluxes.pthrp(N, y.G, p), fluxes.half_saturation(N, p["tumour_half_burden"]), p, u)
    tgfb = fluxes.osteoclast_tgfb_response(power(log_positive(y.G), p["tgfb_slope"]), p)
    return p["osteoclast_turnover"] * fluxes.osteoclast_apoptosis(Lf, tgfb, p, u)


def immune_field(
    E: Array, X: Array, G: Array, N: Array, n: Array, u_pd1: Array, p: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Time derivative (1/day) of effectors and exhaustion."""
    dE = p["effector_turnover"] * (fluxes.effector_drive(G, N, n, p) - E)
    dX = p["exhaustion_rate"] * (
        p["exhaustion_drive"] * n * (1.0 + p["exhaustion_pd1_drive"] * u_pd1 / (1.0 + u_pd1)) * (1.0 - X) - X
    )
    return dE, dX


def field(
    y: State,
    u: Mapping[str, Float[Array, " column"]],
    p: Mapping[str, Array],
    ref: Reference,
    columns: Columns,
) -> State:
    """Time derivative of all states.

    Parameters
    ----------
    y
        Current state.
    u
        Drug actions (:data:`osteobayes.cycle.fluxes.ACTIONS`) per column.
    p
        Parameters: scalars or one value a column.
    ref
        The untreated lesion at entry.
    columns
        What each column is.
    """
    N = columns.lesion * jnp.exp(y.log_N)
    dP, dB, dC, dZ, dG = bone_field(y, N, p, u)

    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    u_pd1 = u["pd1_block"]
    dE, dX = immune_field(y.E, y.X, y.G, N, n, u_pd1, p)
    dE_ref, dX_ref = immune_field(y.E_ref, y.X_ref, ref.tgfb, N, n, jnp.zeros_like(u_pd1), p)
    deviation = columns.immune * (
        fluxes.functional_effectors(y.E, y.X, u_pd1 / (1.0 + u_pd1), p)
        - fluxes.functional_effectors(y.E_ref, y.X_ref, jnp.zeros_like(u_pd1), p)
    )

    gross = p["net_growth"] + p["background_loss"]
    fed = fluxes.feeding(fluxes.resorption(y.C, y.Z), y.G, p) / ref.feeding
    systemic = columns.backbone * p["background_loss"] + u["tumour_kill"]
    d_log_N = (
        gross * fed * (1.0 - N) / (1.0 - ref.burden)
        - systemic
        - fluxes.alpha_kill(u["alpha_kill"], y.B, N, p)
        - p["immune_kill"] * deviation / (1.0 + N / p["tumour_half_burden"])
    )
    d_y = gross - systemic - p["immune_kill"] * deviation
    return State(dP, dB, dC, dZ, dG, d_log_N, d_y, dE, dX, dE_ref, dX_ref)


def systemic_burden(y: Float[Array, "..."], W0: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Systemic burden W in (0, 1) from its net log growth: ``logit W = logit W0 + y`` (growth that saturates with W)."""
    return jax.nn.sigmoid(jnp.log(W0) - jnp.log1p(-W0) + y)
