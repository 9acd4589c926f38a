"""The ordinary differential equations: a lesion, the systemic skeleton beside it, the systemic burden, three modules.

Columns: the first ``n`` bone columns are the lesions of ``n`` cells, the next ``s`` are systemic skeletons (the bone equations
with no tumour and the same drugs; cells that differ only in cancer share one). The first ``m`` lesions have a module. Time is
in days.

A module acts as a deviation: its states run twice, with its agents (row 0) and without them (row 1) at the same course of
the core, and what differs acts on the tumour. What a module does to an untreated tumour is part of net growth.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle import fluxes
from osteobayes.cycle.fluxes import MODULES
from osteobayes.cycle.responses import log_positive, power

Drugs = Mapping[str, Array]
Parameters = Mapping[str, Array]


class State(NamedTuple):
    """State of every column (the tumour states of skeleton columns are carried along unused); module states of the first ones."""

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
    Q: Float[Array, " column"]
    """Reserve of osteoclast precursors and osteomorphs (1)."""
    log_N: Float[Array, " column"]
    """Log lesion burden, in units of the lesion's capacity."""
    y: Float[Array, " column"]
    """Log systemic growth since entry."""
    G_without: Float[Array, " module"]
    """TGF-beta programme without the agents that act on TGF-beta."""
    E: Float[Array, "2 module"]
    """Effector T cells (1 in healthy tissue)."""
    X: Float[Array, "2 module"]
    """Exhausted share (0)."""
    A: Float[Array, " module"]
    """Released antigen (0)."""
    V: Float[Array, "2 module"]
    """Vessels (1)."""
    F: Float[Array, "2 module"]
    """FGF compensation (0)."""
    M: Float[Array, "2 module"]
    """Mesenchymal share of the tumour."""


class Reference(NamedTuple):
    """What a cell's untreated lesion is like at entry (the reference of growth, hazards and modules)."""

    feeding: Float[Array, " column"]
    tgfb: Float[Array, " column"]
    burden: Float[Array, " column"]
    flux: Float[Array, " column"]
    mineral: Float[Array, " column"]
    osteoclasts: Float[Array, " column"]
    frozen: "Frozen | None" = None
    """The full model's reference of modules; None: they deviate from the course without their agents."""


class Frozen(NamedTuple):
    """What modules do to the untreated lesion at entry: functional effectors, perfusion, mesenchymal share and its growth."""

    functional: Float[Array, " module"]
    perfusion: Float[Array, " module"]
    share: Float[Array, " module"]
    slower: Float[Array, " module"]


class Columns(NamedTuple):
    """What each column is, as 0/1 masks.

    ``lesion``: a lesion (else a skeleton); ``backbone``: the cancer's background treatment is given (the default);
    ``immune``, ``vascular``, ``plasticity``: as many as there are columns with a module, from the first, 1 where an agent of
    the module is given, or everywhere in the full model.
    """

    lesion: Float[Array, " column"]
    backbone: Float[Array, " column"]
    immune: Float[Array, " module"]
    vascular: Float[Array, " module"]
    plasticity: Float[Array, " module"]


def burden(y: State, columns: Columns) -> Float[Array, " column"]:
    """Lesion burden N of every column: none in a skeleton, whatever its unused tumour states have become."""
    return jnp.where(columns.lesion > 0, jnp.exp(y.log_N), 0.0)


class Bone(NamedTuple):
    """Time derivatives (1/day) of the bone states, and the loss rate of osteoclasts.

    ``loss`` is a rate that drugs can make fast, so the solver treats it exponentially.
    """

    P: Array
    B: Array
    C: Array
    Z: Array
    G: Array
    Q: Array
    loss: Array


def bone_field(y: State, N: Array, lesion: Array, p: Parameters, u: Drugs) -> Bone:
    """The bone equations of lesions and skeletons."""
    P, B, C, Z, G = y.P, y.B, y.C, y.Z, y.G
    G_power = power(log_positive(G), p["tgfb_slope"])
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    flux = fluxes.resorption(C, Z)
    log_R = log_positive(fluxes.pthrp(N, G, p, u))
    opg = fluxes.opg_binding(B, log_R, p)
    Lf = fluxes.free_rankl(P, log_R, opg, n, p, u)
    differentiation = fluxes.osteoblast_differentiation(G_power, p)
    osteoclast_tgfb = fluxes.osteoclast_tgfb_response(G_power, p)
    radiation = fluxes.osteoblast_radiation(lesion, p, u)
    recruited = fluxes.osteoblast_recruitment(flux, G, N, p, u)
    loss = p["osteoclast_turnover"] * fluxes.osteoclast_apoptosis(Lf, osteoclast_tgfb, p, u)
    bound = fluxes.rankl_bound_by_drug(opg, u)
    formed = fluxes.osteoclast_formation(Lf, y.Q, bound, osteoclast_tgfb, n, p, u)
    Zm = p["mineral_maximum"]
    return Bone(
        P=p["precursor_turnover"] * (recruited - P * fluxes.precursor_loss(differentiation, p)) - radiation * P,
        B=p["osteoblast_turnover"] * (fluxes.osteoblast_formation(P, differentiation, n, p, u) - B) - radiation * B,
        C=p["osteoclast_turnover"] * formed - loss * C,
        Z=p["mineral_turnover"] * (B * (Zm - Z) / (Zm - 1.0) - flux),
        G=p["tgfb_programme_rate"] * (fluxes.tgfb_signal(flux, N, p, u) - G),
        Q=p["reserve_turnover"] * (fluxes.precursor_reserve(bound, p) - y.Q),
        loss=loss,
    )


def osteoclast_loss(y: State, N: Array, p: Parameters, u: Drugs) -> Float[Array, " column"]:
    """Loss rate of osteoclasts (1/day) alone: :attr:`Bone.loss`."""
    log_R = log_positive(fluxes.pthrp(N, y.G, p, u))
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    Lf = fluxes.free_rankl(y.P, log_R, fluxes.opg_binding(y.B, log_R, p), n, p, u)
    tgfb = fluxes.osteoclast_tgfb_response(power(log_positive(y.G), p["tgfb_slope"]), p)
    return p["osteoclast_turnover"] * fluxes.osteoclast_apoptosis(Lf, tgfb, p, u)


class Modules(NamedTuple):
    """What modules do to the tumour of every column, and time derivatives of their states."""

    growth: Array
    """Factor on gross growth (1 without a module)."""
    kill: Array
    """Factor on kill by systemic treatment (1)."""
    immune: Array
    """Functional effectors beyond those of the reference (0)."""
    slopes: dict[str, Array]


def _with_and_without(u: Drugs, actions: frozenset[str]) -> dict[str, Array]:
    """Drug actions with the agents of a module (row 0) and without them (row 1); a scalar is an action that nobody gives."""
    return {k: jnp.stack([x, jnp.zeros_like(x)]) if k in actions and jnp.ndim(x) else x for k, x in u.items()}


def entry_modules(ref: Reference, p: Parameters, u: Drugs) -> dict[str, Array]:
    """Module states at rest for the untreated lesion at entry (``u``: no drugs)."""
    N, G, C = ref.burden, ref.tgfb, ref.osteoclasts
    n = fluxes.half_saturation(N, p["tumour_half_burden"])
    drive = fluxes.exhaustion_drive(C, n, p, u)
    # vessels at rest: a quadratic, V (V + need N) = V_0 (V + need N) + compensation
    need, alone = p["vessel_need"] * N, 1.0 + p["vegf_growth"] * N
    compensation = p["fgf_growth"] * p["fgf_hypoxia"] * n * need
    V = 0.5 * (alone - need + jnp.sqrt((alone - need) ** 2 + 4.0 * (need * alone + compensation)))
    return {
        "E": fluxes.effector_drive(G, N, n, jnp.zeros_like(N), p, u),
        "X": drive / (1.0 + drive),
        "V": V,
        "F": fluxes.fgf_drive(fluxes.perfusion(V, N, p), N, p),
        "M": p["entry_mesenchymal_share"] + jnp.zeros_like(N),
    }


def frozen_modules(ref: Reference, p: Parameters, u: Drugs) -> Frozen:
    """The full model's reference: modules of the untreated lesion at entry."""
    module = entry_modules(ref, p, u)
    return Frozen(
        fluxes.functional_effectors(module["E"], module["X"], p, u),
        fluxes.perfusion(module["V"], ref.burden, p),
        module["M"],
        fluxes.mesenchymal_growth(ref.tgfb, p),
    )


def exhaustion_loss(y: State, N: Array, p: Parameters, u: Drugs) -> Float[Array, "2 module"]:
    """Rate (1/day) at which the exhausted share goes to its balance, with and without drugs: the more cells are driven to exhaustion, the faster."""
    some = y.X.shape[1]
    p, u = ({k: x[:some] if jnp.ndim(x) else x for k, x in d.items()} for d in (p, u))
    n = fluxes.half_saturation(N[:some], p["tumour_half_burden"])
    return p["exhaustion_rate"] * (
        1.0 + fluxes.exhaustion_drive(y.C[:some], n, p, _with_and_without(u, MODULES["immune"]))
    )


def modules(
    y: State, N: Array, gross: Array, kill: Array, p: Parameters, u: Drugs, ref: Reference, columns: Columns
) -> Modules:
    """The modules of the columns that have one (the first ones); no effect in the others.

    Parameters
    ----------
    y, N
        State and burden of every column.
    gross, kill
        Gross growth and kill by systemic treatment (1/day) of every column before modules act on them.
    p, u, ref, columns
        As in :func:`field`.
    """
    some = columns.immune.shape[0]
    one, zero = jnp.ones_like(N), jnp.zeros_like(N)
    if some == 0:
        none = {k: jnp.zeros_like(getattr(y, k)) for k in ("G_without", "E", "X", "A", "V", "F", "M")}
        return Modules(one, one, zero, none)

    def first(x: Array) -> Array:
        return x[:some] if jnp.ndim(x) else x

    p, u = {k: first(v) for k, v in p.items()}, {k: first(v) for k, v in u.items()}
    frozen, flux_at_entry, osteoclasts_at_entry = ref.frozen, first(ref.flux), first(ref.osteoclasts)
    N, B, C, Z, G, gross, kill = (first(x) for x in (N, y.B, y.C, y.Z, y.G, gross, kill))
    n = fluxes.half_saturation(N, p["tumour_half_burden"])

    tone = _with_and_without(u, MODULES["plasticity"])  # agents on TGF-beta
    signal = fluxes.tgfb_signal(fluxes.resorption(C, Z), N, p, tone) + jnp.zeros_like(y.E)
    G_both = jnp.stack([G, y.G_without])

    # immune
    both = _with_and_without(u, MODULES["immune"])
    dE = p["effector_turnover"] * (fluxes.effector_drive(G_both, N, n, y.A, p, both) - y.E)
    dX = p["exhaustion_rate"] * (fluxes.exhaustion_drive(C, n, p, both) * (1.0 - y.X) - y.X)
    dA = fluxes.antigen_release(B, N, p, u) - p["antigen_loss"] * y.A
    functional = fluxes.functional_effectors(y.E, y.X, p, both)
    if frozen is None:
        no_drugs, none = {k: jnp.zeros(()) for k in u}, jnp.zeros_like(N)
        exhausted = fluxes.exhaustion_drive(osteoclasts_at_entry, n, p, no_drugs)
        tone = fluxes.tgfb_signal(flux_at_entry, N, p, no_drugs)  # of an untreated lesion of this burden
        fresh = fluxes.effector_drive(tone, N, n, none, p, no_drugs)
        untreated = fluxes.functional_effectors(fresh, exhausted / (1.0 + exhausted), p, no_drugs)
        engaged = fluxes.immune_engagement(signal[0], signal[1], u)
        beyond = functional[0] - functional[1] + engaged * (functional[1] - untreated)
    else:
        beyond = functional[0] - frozen.functional

    # vascular
    both = _with_and_without(u, MODULES["vascular"])
    nu = fluxes.perfusion(y.V, N, p)
    dV = p["vessel_turnover"] * (fluxes.vessel_growth(N, y.F, p, both) - y.V * fluxes.vessel_loss(p, both))
    dF = p["fgf_turnover"] * (fluxes.fgf_drive(nu, N, p) - y.F)
    perfused = nu[0] / (nu[1] if frozen is None else frozen.perfusion)

    # plasticity
    slower = fluxes.mesenchymal_growth(G_both, p)
    spared = fluxes.mesenchymal_kill(p)
    selection = gross * (slower - 1.0) - kill * (spared - 1.0)
    dM = fluxes.mesenchymal_transition(G_both, p) * (1.0 - y.M) - p["reversion_rate"] * y.M
    dM = dM + y.M * (1.0 - y.M) * selection

    def mixed(relative: Array, share: Array) -> Array:
        return 1.0 + jnp.clip(share, 0.0, 1.0) * (relative - 1.0)

    share_ref, slower_ref = (y.M[1], slower[1]) if frozen is None else (frozen.share, frozen.slower)
    grown = mixed(slower[0], y.M[0]) / mixed(slower_ref, share_ref)
    killed = mixed(spared, y.M[0]) / mixed(spared, share_ref)

    def everywhere(x: Array, neutral: Array) -> Array:
        return jnp.concatenate([x, neutral[some:]])

    growth = (1.0 + columns.vascular * (perfused - 1.0)) * (1.0 + columns.plasticity * (grown - 1.0))
    slopes = {"E": dE, "X": dX, "A": dA, "V": dV, "F": dF, "M": dM}
    slopes["G_without"] = p["tgfb_programme_rate"] * (signal[1] - y.G_without)
    return Modules(
        everywhere(growth, one),
        everywhere(1.0 + columns.plasticity * (killed - 1.0), one),
        everywhere(columns.immune * beyond, zero),
        slopes,
    )


def field(y: State, u: Drugs, p: Parameters, ref: Reference, columns: Columns) -> State:
    """Time derivative of all states.

    Parameters
    ----------
    y
        Current state.
    u
        Drug actions (:data:`osteobayes.cycle.fluxes.ACTIONS`), one value a column, or a scalar 0 where nobody has it.
    p
        Parameters: scalars or one value a column.
    ref
        The untreated lesion at entry.
    columns
        What each column is.
    """
    N = burden(y, columns)
    bone = bone_field(y, N, columns.lesion, p, u)
    fed = fluxes.feeding(fluxes.resorption(y.C, y.Z), y.G, p) / ref.feeding
    gross = (p["net_growth"] + p["background_loss"]) * (1.0 - u["growth_block"])
    local = gross * fed * (1.0 - N) / (1.0 - ref.burden)
    treated = columns.backbone * p["background_loss"] + u["tumour_kill"] + u["cytotoxic_kill"]
    module = modules(y, N, local, treated, p, u, ref, columns)
    systemic = treated * module.kill + u["radioligand_kill"]
    immune = p["immune_kill"] * module.immune
    return State(
        **{k: getattr(bone, k) for k in ("P", "B", "C", "Z", "G", "Q")},
        log_N=local * module.growth
        - systemic
        - fluxes.skeletal_kill(y.B, N, p, u)
        - immune / (1.0 + N / p["tumour_half_burden"]),
        y=gross * module.growth - systemic - immune,
        **module.slopes,
    )


def systemic_burden(y: Float[Array, "..."], W0: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Systemic burden W in (0, 1) from its net log growth: ``logit W = logit W0 + y`` (growth that saturates with W)."""
    return jax.nn.sigmoid(jnp.log(W0) - jnp.log1p(-W0) + y)
