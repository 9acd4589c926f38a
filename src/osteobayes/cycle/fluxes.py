"""The arrows of the vicious cycle, one function an arrow, named as a bone biologist names them.

All quantities are relative to healthy bone (1) and all arguments broadcast over columns (lesions and skeletons).
``p`` maps parameter names to scalars or per-column arrays; ``u`` maps drug actions to per-column exposures.
The equations follow Lemaire 2004 (J Theor Biol 229:293) and Pivonka 2008 (Bone 43:249) in structure (RANK-RANKL-OPG,
coupling, TGF-beta) with the sign of TGF-beta on coupling corrected; the choices are written in ``docs/design/cycle.md``.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle.responses import FLOOR, down, down_to, log_positive, positive, power, up

Column = Float[Array, "column"]
Parameters = Mapping[str, Array]

ACTIONS: dict[str, str] = {
    "rankl_neutralisation": "neutralising capacity against free RANKL (concentration / EC50): denosumab",
    "osteoclast_apoptosis": "bisphosphonate in the bone depot, added to osteoclast apoptosis (depot / ED)",
    "osteoclast_formation_block": "fraction of osteoclast formation blocked (0-1): Src, mTOR, MET inhibition",
    "alpha_kill": "log-kill rate of a bone-seeking alpha emitter at healthy uptake (1/day); damages osteoblasts",
    "beta_kill": "log-kill rate of a bone-seeking beta emitter at healthy uptake (1/day); damages osteoblasts",
    "external_beam_kill": "log-kill rate of external-beam radiotherapy on the lesion (1/day); damages osteoblasts",
    "radioligand_kill": "log-kill rate of a tumour-targeted radioligand on tumour everywhere (1/day): 177Lu-PSMA",
    "tumour_kill": "log-kill rate on tumour everywhere (1/day): androgen-pathway and other endocrine agents",
    "cytotoxic_kill": "log-kill rate of chemotherapy on tumour everywhere (1/day); releases antigen",
    "growth_block": "fraction of tumour growth blocked everywhere (0-1): mTOR, MET inhibition",
    "tgfb_neutralisation": "TGF-beta ligand neutralisation in every tissue (concentration / Kd): antibody, soluble trap",
    "matrix_tgfb_trap": "fraction of matrix-released TGF-beta trapped on bone (0-1): bone-targeted trap, nanoparticle",
    "tgfb_receptor_block": "fraction of SMAD signalling blocked at the receptor (0-1): ALK5 inhibitor",
    "tgfb_synthesis_block": "fraction of TGF-beta synthesis of tumour and stroma silenced (0-1): antisense, RNAi",
    "stroma_block": "fraction of the TGF-beta output of tumour stroma taken away (0-1): fibroblast repolarisation",
    "pthrp_neutralisation": "neutralising capacity against tumour PTHrP (concentration / Kd)",
    "osteoblastic_drive_block": "fraction of the osteoblastic drive of tumour blocked (0-1): endothelin antagonist",
    "dkk1_block": "fraction of tumour DKK1 blocked (0-1)",
    "il6_block": "fraction of IL-6 signalling blocked (0-1): RANKL-independent osteoclasts, suppressive myeloid cells",
    "rankl_induction": "added RANKL output of osteoblast precursors (relative): loss of sex steroids, glucocorticoids",
    "osteoblast_suppression": "added loss of maturing osteoblasts (relative): glucocorticoids",
    "pd1_block": "PD-1 / PD-L1 blockade (concentration / Kd)",
    "ctla4_block": "CTLA-4 blockade (concentration / Kd)",
    "tim3_block": "TIM-3 blockade (concentration / Kd)",
    "lag3_block": "LAG-3 blockade (concentration / Kd)",
    "myeloid_repolarisation": "fraction of suppressive myeloid cells (macrophages, MDSC) repolarised (0-1)",
    "vegf_block": "fraction of VEGF signalling blocked (0-1)",
    "fgf_block": "fraction of FGF signalling blocked (0-1)",
}
"""Drug actions (modifiers of named fluxes) that agents may have."""

FRACTIONS = frozenset(name for name, meaning in ACTIONS.items() if "(0-1)" in meaning)
"""Actions that are fractions in [0, 1]; several agents combine as 1 - prod(1 - u). The others add."""

SKELETAL = frozenset(
    {
        "rankl_neutralisation", "osteoclast_apoptosis", "osteoclast_formation_block", "alpha_kill", "beta_kill",
        "external_beam_kill", "tgfb_neutralisation", "matrix_tgfb_trap", "tgfb_receptor_block", "tgfb_synthesis_block",
        "rankl_induction", "osteoblast_suppression",
    }
)  # fmt: skip
"""Actions that bone without tumour feels; cells that share these share a systemic skeleton."""

MODULES: dict[str, frozenset[str]] = {
    "immune": frozenset(
        {
            "pd1_block", "ctla4_block", "tim3_block", "lag3_block", "myeloid_repolarisation", "il6_block",
            "tgfb_neutralisation", "matrix_tgfb_trap", "tgfb_receptor_block", "tgfb_synthesis_block", "stroma_block",
        }
    ),
    "vascular": frozenset({"vegf_block", "fgf_block"}),
    "plasticity": frozenset(
        {"tgfb_neutralisation", "matrix_tgfb_trap", "tgfb_receptor_block", "tgfb_synthesis_block", "stroma_block"}
    ),
}  # fmt: skip
"""Modules beside the core, and the actions that switch each on."""


def half_saturation(N: Column, K: Column) -> Column:
    """Tumour burden as a saturating signal ``N / (K + N)``."""
    return N / (K + N)


def resorption(C: Column, Z: Column) -> Column:
    """Resorption flux (uNTx, CTx of the compartment): osteoclasts times mineral."""
    return C * Z


def tgfb_signal(flux: Column, N: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Active TGF-beta signal: released from matrix by resorption, made by tumour and stroma, minus blockade.

    Antisense reaches what tumour and stroma make and half of the rest of the body's synthesis, not the store in bone matrix.
    A share of the signal bypasses SMAD and with it a receptor kinase inhibitor (non-canonical signalling).
    """
    silenced = u["tgfb_synthesis_block"]
    matrix = p["tgfb_matrix_share"] * flux * (1.0 - u["matrix_tgfb_trap"])
    elsewhere = (1.0 - p["tgfb_matrix_share"]) * (1.0 - 0.5 * silenced)
    tumour = p["tgfb_tumour_output"] * N * (1.0 - silenced) * (1.0 - u["stroma_block"])
    free = (matrix + elsewhere + tumour) / (1.0 + u["tgfb_neutralisation"])
    return free * (1.0 - u["tgfb_receptor_block"] * (1.0 - p["smad_bypass"]))


def pthrp(N: Column, G: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """PTH plus PTHrP signal: tumour PTHrP is induced by TGF-beta (Yin 1999, J Clin Invest 103:197)."""
    return 1.0 + p["pthrp_output"] * N * up(positive(G), p["pthrp_tgfb_fold"]) / (1.0 + u["pthrp_neutralisation"])


def opg_binding(B: Column, log_R: Column, p: Parameters) -> Column:
    """OPG that competes for RANKL, relative to free RANKL in healthy bone: made by osteoblasts, suppressed by PTHrP."""
    return p["opg_bound_to_free"] * positive(B) * down(power(log_R, p["opg_pthrp_slope"]), p["opg_pthrp_fold"])


def free_rankl(P: Column, log_R: Column, opg: Column, n: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Free RANKL: made by osteoblast precursors under PTHrP and by tumour contact; bound by OPG and by denosumab."""
    induced = up(power(log_R, p["rankl_pthrp_slope"]), p["rankl_pthrp_fold"])
    rankl = P * induced * (1.0 + p["rankl_tumour_contact"] * n) * (1.0 + u["rankl_induction"])
    return rankl * (1.0 + p["opg_bound_to_free"]) / (1.0 + opg + u["rankl_neutralisation"])


def rankl_bound_by_drug(opg: Column, u: Mapping[str, Column]) -> Column:
    """Share of RANKL that a neutralising drug holds (0-1)."""
    return u["rankl_neutralisation"] / (1.0 + opg + u["rankl_neutralisation"])


def osteoclast_formation(
    Lf: Column, Q: Column, bound: Column, osteoclast_tgfb: Column, n: Column, p: Parameters, u: Mapping[str, Column]
) -> Column:
    """Osteoclast formation: RANKL-dependent and RANKL-independent (tumour IL-6, IL-8...), primed by TGF-beta.

    The precursor reserve beyond its healthy size (``Q - 1``) fuses by free RANKL once no drug holds it (``bound``): rebound.
    ``osteoclast_tgfb`` is the TGF-beta response of osteoclasts (:func:`osteoclast_tgfb_response`).
    """
    w0 = p["rankl_independent_share"]
    Lf = positive(Lf)
    dependent = up(power(log_positive(Lf), p["rankl_formation_slope"]), p["rankl_formation_fold"])
    rebound = (Q - 1.0) * (1.0 - bound) ** 2 * up(Lf, p["rankl_formation_fold"])
    independent = w0 * (1.0 + p["rankl_independent_tumour"] * n * (1.0 - u["il6_block"]))
    f4 = p["tgfb_osteoclast_priming"]
    return (
        (independent + (1.0 - w0) * (dependent + rebound))
        * (1.0 - f4 + f4 * osteoclast_tgfb)
        * (1.0 - u["osteoclast_formation_block"])
    )


def precursor_reserve(bound: Column, p: Parameters) -> Column:
    """Size towards which the reserve of osteoclast precursors grows while a drug holds a share ``bound`` of RANKL.

    Osteoclasts that lose RANKL recycle as osteomorphs and precursors do not fuse (McDonald 2021, Cell 184:1330); without a
    RANKL antibody the reserve is 1, its healthy size. It fills under nearly complete blockade (square): were it proportional to the
    share, a low dose would raise resorption.
    """
    return 1.0 + p["reserve_gain"] * bound**2


def osteoclast_tgfb_response(G_power: Column, p: Parameters) -> Column:
    """Response of osteoclasts and their precursors to TGF-beta (``G_power`` is ``G`` to the common slope)."""
    return up(G_power, p["tgfb_osteoclast_fold"])


def osteoclast_apoptosis(Lf: Column, osteoclast_tgfb: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Relative osteoclast apoptosis: TGF-beta and bisphosphonate raise it, RANKL (survival signal) lowers it."""
    f3 = p["tgfb_osteoclast_apoptosis"]
    rate = 1.0 - f3 + f3 * osteoclast_tgfb + u["osteoclast_apoptosis"]
    return rate * down_to(positive(Lf), p["rankl_survival_fold"], p["rankl_survival_floor"])


def osteoblast_recruitment(flux: Column, G: Column, N: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Precursor recruitment: coupled to the resorption *flux*, weakly to TGF-beta, raised by osteoblastic tumour factors.

    Osteoblastic factors are endothelin-1, Wnt and BMP of the tumour; an endothelin antagonist takes its share away.
    """
    fc, f1 = p["coupling_share"], p["tgfb_recruitment_share"]
    coupled = 1.0 - fc + fc * up(positive(flux), p["coupling_fold"])
    tgfb = 1.0 - f1 + f1 * up(positive(G), p["tgfb_recruitment_fold"])
    drive = p["osteoblastic_drive"] * (1.0 - u["osteoblastic_drive_block"])
    return coupled * tgfb * (1.0 + drive * half_saturation(N, p["osteoblastic_half_burden"]))


def osteoblast_differentiation(G_power: Column, p: Parameters) -> Column:
    """Relative rate at which precursors become osteoblasts: TGF-beta holds them back."""
    return down(G_power, p["tgfb_differentiation_fold"])


def precursor_loss(differentiation: Column, p: Parameters) -> Column:
    """Relative loss of precursors: a share differentiates, the rest is lost."""
    q = p["differentiating_share"]
    return q * differentiation + 1.0 - q


def osteoblast_formation(
    P: Column, differentiation: Column, n: Column, p: Parameters, u: Mapping[str, Column]
) -> Column:
    """Osteoblasts made from precursors: held back by DKK1 of the tumour (Wnt antagonist) and by glucocorticoids."""
    dkk1 = p["dkk1_suppression"] * n * (1.0 - u["dkk1_block"])
    return P * differentiation / ((1.0 + dkk1) * (1.0 + u["osteoblast_suppression"]))


def osteoblast_radiation(lesion: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Loss rate (1/day) of osteoblasts and precursors by radiation; a beam reaches little of the systemic skeleton."""
    beam = jnp.where(lesion > 0, 1.0, p["beam_skeleton_share"]) * u["external_beam_kill"]
    return p["radiation_osteoblast_damage"] * (u["alpha_kill"] + u["beta_kill"] + beam)


def feeding(flux: Column, G: Column, p: Parameters) -> Column:
    """How bone feeds tumour growth: the flux (matrix factors) and TGF-beta arrows multiply; positive, 1 when healthy."""
    by_flux = power(log_positive(flux), p["loop_strength"] * p["growth_flux_slope"])
    return up(by_flux, p["growth_flux_fold"]) * growth_by_tgfb(G, p["growth_tgfb_slope"], p)


def growth_by_tgfb(G: Column, slope: Column, p: Parameters) -> Column:
    """Tumour growth by TGF-beta; 1 when healthy."""
    return up(power(log_positive(G), p["loop_strength"] * slope), p["growth_tgfb_fold"])


def skeletal_kill(B: Column, N: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Log-kill rate (1/day) by radiation of bone.

    Uptake of bone-seeking emitters follows formation (square root of osteoblasts); alpha particles do not reach far into a
    large lesion (Casarin 2020, BMC Cancer 20:605), beta particles and beams do.
    """
    uptake = jnp.sqrt(jnp.maximum(B, FLOOR))
    return (u["alpha_kill"] / (1.0 + N / p["alpha_range_burden"]) + u["beta_kill"]) * uptake + u["external_beam_kill"]


# ---- immune module


def occupancy(u: Column) -> Column:
    """Share of a receptor that a drug holds, from concentration / Kd."""
    return u / (1.0 + u)


def effector_drive(G: Column, N: Column, n: Column, A: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """T-cell effector priming by tumour antigen and by antigen that kill releases; suppressed by TGF-beta and myeloid cells.

    CTLA-4 blockade raises priming; regulatory T cells are lumped with TGF-beta.
    """
    antigen = p["effector_priming"] * half_saturation(N, p["effector_priming_half_burden"])
    priming = 1.0 + antigen * (1.0 + p["ctla4_priming"] * occupancy(u["ctla4_block"])) + p["antigen_priming"] * A
    myeloid = p["myeloid_suppression"] * n * (1.0 - u["myeloid_repolarisation"]) * (1.0 - 0.5 * u["il6_block"])
    return priming * down(positive(G), p["effector_tgfb_fold"]) / (1.0 + myeloid)


def exhaustion_drive(C: Column, n: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Exhaustion of effectors by chronic antigen, PD-1 blockade and Siglec-15 of osteoclasts beyond their healthy number."""
    excess = 0.5 * (C - 1.0 + jnp.sqrt((C - 1.0) ** 2 + 0.01))  # a smooth positive part
    siglec15 = 1.0 + p["siglec15_exhaustion"] * excess
    return p["exhaustion_drive"] * n * (1.0 + p["exhaustion_pd1_drive"] * occupancy(u["pd1_block"])) * siglec15


def functional_effectors(E: Column, X: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Effectors that still kill: exhausted ones are held back through PD-1, TIM-3, LAG-3 and other checkpoints."""
    pd1 = p["exhaustion_pd1_share"]
    tim3 = (1.0 - pd1) * p["exhaustion_tim3_of_rest"]
    lag3 = (1.0 - pd1 - tim3) * p["exhaustion_lag3_of_rest"]
    released = sum(
        share * occupancy(u[f"{name}_block"]) for share, name in ((pd1, "pd1"), (tim3, "tim3"), (lag3, "lag3"))
    )
    return E * (1.0 - X * (1.0 - released))


def immune_engagement(signal: Column, signal_without: Column, u: Mapping[str, Column]) -> Column:
    """How far agents of the immune module are engaged (0-1): 0 without any, 1 at full occupancy of one of them.

    ``signal`` and ``signal_without``: the TGF-beta signal with and without the agents that act on it.
    """
    left = jnp.maximum(signal, FLOOR) / jnp.maximum(signal_without, FLOOR)
    for name in ("pd1", "ctla4", "tim3", "lag3"):
        left = left * (1.0 - occupancy(u[f"{name}_block"]))
    for name in ("myeloid_repolarisation", "il6_block"):
        left = left * (1.0 - u[name])
    return 1.0 - left


def antigen_release(B: Column, N: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Antigen released by immunogenic kill: radiation in full, chemotherapy by a share."""
    return N * (skeletal_kill(B, N, p, u) + u["radioligand_kill"] + p["immunogenic_death"] * u["cytotoxic_kill"])


# ---- vascular module


def perfusion(V: Column, N: Column, p: Parameters) -> Column:
    """Share of tumour growth that its blood supply allows: vessels against what the burden needs."""
    V = jnp.maximum(V, FLOOR)
    return V / (V + p["vessel_need"] * N)


def vessel_growth(N: Column, F: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Vessel growth by VEGF of the tumour and by FGF, its compensation."""
    return 1.0 + p["vegf_growth"] * N * (1.0 - u["vegf_block"]) + p["fgf_growth"] * F * (1.0 - u["fgf_block"])


def vessel_loss(p: Parameters, u: Mapping[str, Column]) -> Column:
    """Relative loss of vessels: VEGF blockade makes immature ones regress."""
    return 1.0 + p["vegf_regression"] * u["vegf_block"]


def fgf_drive(nu: Column, N: Column, p: Parameters) -> Column:
    """FGF compensation: driven by hypoxia (lacking perfusion ``nu``)."""
    return p["fgf_hypoxia"] * (1.0 - nu) * half_saturation(N, p["tumour_half_burden"])


# ---- plasticity module


def mesenchymal_transition(G: Column, p: Parameters) -> Column:
    """Rate (1/day) of epithelial-mesenchymal transition: induced by TGF-beta."""
    return p["transition_rate"] * up(power(log_positive(G), p["transition_slope"]), p["transition_fold"])


def mesenchymal_growth(G: Column, p: Parameters) -> Column:
    """Growth of mesenchymal relative to epithelial tumour cells: slower, more dependent on TGF-beta."""
    by_tgfb = growth_by_tgfb(G, p["mesenchymal_tgfb_slope"], p) / growth_by_tgfb(G, p["growth_tgfb_slope"], p)
    return p["mesenchymal_growth_ratio"] * by_tgfb


def mesenchymal_kill(p: Parameters) -> Column:
    """Kill of mesenchymal relative to epithelial tumour cells by systemic treatment: a share of them resists."""
    return 1.0 - p["mesenchymal_resistance"]
