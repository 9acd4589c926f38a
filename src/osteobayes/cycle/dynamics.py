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
    """State of every column (the tumour states of skeleton columns are carried along unused); immune states of the first ones."""

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
    E: Float[Array, " immune"]
    """Effector T cells (1)."""
    X: Float[Array, " immune"]
    """Exhausted share (0 in healthy tissue)."""
    E_ref: Float[Array, " immune"]
    """Effectors of the same lesion without agents, at its entry TGF-beta tone."""
    X_ref: Float[Array, " immune"]
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

    ``lesion``: a lesion (else a skeleton); ``immune``: as many ones as there are columns, from the first, whose immune module
    is switched on by an agent of its class (0 switches it off); ``backbone``: the cancer's background treatment is given (the default).
    """

    lesion: Float[Array, " column"]
    immune: Float[Array, " immune"]
    backbone: Float[Array, " column"]


def burden(y: State, columns: Columns) -> Float[Array, " column"]:
    """Lesion burden N of every column: none in a skeleton, whatever its unused tumour states have become."""
    return jnp.where(columns.lesion > 0, jnp.exp(y.log_N), 0.0)


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


class Deviation(NamedTuple):
    """Functional effectors beyond those of the same lesion without agents, and time derivatives of the immune states."""

    of_column: Float[Array, " column"]
    slopes: tuple[Array, Array, Array, Array]


def immune_deviation(
    y: State, N: Array, u_pd1: Array, p: Mapping[str, Array], ref: Reference, columns: Columns
) -> Deviation:
    """The immune module in the columns that have it (the first ones); zero in the others."""
    some = columns.immune.shape[0]

    def first(x: Array) -> Array:
        return x[:some] if jnp.ndim(x) else x

    mine = {k: first(v) for k, v in p.items()}
    N, G, u_pd1, tone = first(N), first(y.G), first(u_pd1), first(ref.tgfb)
    n, none = fluxes.half_saturation(N, mine["tumour_half_burden"]), jnp.zeros_like(u_pd1)
    dE, dX = immune_field(y.E, y.X, G, N, n, u_pd1, mine)
    dE_ref, dX_ref = immune_field(y.E_ref, y.X_ref, tone, N, n, none, mine)
    beyond = columns.immune * (
        fluxes.functional_effectors(y.E, y.X, u_pd1 / (1.0 + u_pd1), mine)
        - fluxes.functional_effectors(y.E_ref, y.X_ref, none, mine)
    )
    return Deviation(jnp.pad(beyond, (0, columns.lesion.shape[0] - some)), (dE, dX, dE_ref, dX_ref))


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
    N = burden(y, columns)
    dP, dB, dC, dZ, dG = bone_field(y, N, p, u)

    deviation = immune_deviation(y, N, u["pd1_block"], p, ref, columns)
    dE, dX, dE_ref, dX_ref = deviation.slopes
    gross = p["net_growth"] + p["background_loss"]
    fed = fluxes.feeding(fluxes.resorption(y.C, y.Z), y.G, p) / ref.feeding
    systemic = columns.backbone * p["background_loss"] + u["tumour_kill"]
    d_log_N = (
        gross * fed * (1.0 - N) / (1.0 - ref.burden)
        - systemic
        - fluxes.alpha_kill(u["alpha_kill"], y.B, N, p)
        - p["immune_kill"] * deviation.of_column / (1.0 + N / p["tumour_half_burden"])
    )
    d_y = gross - systemic - p["immune_kill"] * deviation.of_column
    return State(dP, dB, dC, dZ, dG, d_log_N, d_y, dE, dX, dE_ref, dX_ref)


def systemic_burden(y: Float[Array, "..."], W0: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Systemic burden W in (0, 1) from its net log growth: ``logit W = logit W0 + y`` (growth that saturates with W)."""
    return jax.nn.sigmoid(jnp.log(W0) - jnp.log1p(-W0) + y)
