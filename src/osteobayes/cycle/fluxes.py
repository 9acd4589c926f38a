"""The arrows of the vicious cycle, one function an arrow, named as a bone biologist names them.

All quantities are relative to healthy bone (1) and all arguments broadcast over columns (lesions and skeletons).
``p`` maps parameter names to scalars or per-column arrays; ``u`` maps drug actions to per-column exposures.
The equations follow Lemaire 2004 (J Theor Biol 229:293) and Pivonka 2008 (Bone 43:249) in structure (RANK-RANKL-OPG,
coupling, TGF-beta) with the sign of TGF-beta on coupling corrected; the choices are written in ``docs/design/cycle.md``.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from osteobayes.cycle.responses import down, down_to, log_positive, positive, power, up

Column = Float[Array, "column"]
Parameters = Mapping[str, Array]

ACTIONS: dict[str, str] = {
    "rankl_neutralisation": "u_den: neutralising capacity against free RANKL (concentration / EC50)",
    "osteoclast_apoptosis": "u_bp: bisphosphonate in the bone depot, added to osteoclast apoptosis (depot / ED)",
    "alpha_kill": "u_ra: log-kill rate of bone-seeking alpha emitter at healthy uptake (1/day)",
    "tgfb_neutralisation": "u_ab: ligand neutralisation in every tissue (concentration / Kd)",
    "matrix_tgfb_trap": "u_trap: fraction of matrix-released TGF-beta trapped on bone (0-1)",
    "tgfb_receptor_block": "u_alk5: fraction of SMAD signalling blocked at the receptor (0-1)",
    "tumour_kill": "u_kill: log-kill rate on tumour everywhere (1/day): androgen-pathway and other systemic agents",
    "pd1_block": "u_pd1: PD-1 / PD-L1 blockade (concentration / Kd)",
}
"""Drug actions (modifiers of named fluxes) that agents may have."""

FRACTIONS = frozenset({"matrix_tgfb_trap", "tgfb_receptor_block"})
"""Actions that are fractions in [0, 1]; several agents combine as 1 - prod(1 - u). The others add."""

NOT_ON_BONE = frozenset({"tumour_kill", "pd1_block"})
"""Actions that no bone equation reads: without a tumour the skeleton does not feel them."""


def half_saturation(N: Column, K: Column) -> Column:
    """Tumour burden as a saturating signal ``N / (K + N)``."""
    return N / (K + N)


def resorption(C: Column, Z: Column) -> Column:
    """Resorption flux (uNTx, CTx of the compartment): osteoclasts times mineral."""
    return C * Z


def tgfb_signal(flux: Column, N: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Active TGF-beta signal: released from matrix by resorption, made by tumour and stroma, minus blockade."""
    matrix = p["tgfb_matrix_share"] * flux * (1.0 - u["matrix_tgfb_trap"])
    free = (matrix + (1.0 - p["tgfb_matrix_share"]) + p["tgfb_tumour_output"] * N) / (1.0 + u["tgfb_neutralisation"])
    return free * (1.0 - u["tgfb_receptor_block"])


def pthrp(N: Column, G: Column, p: Parameters) -> Column:
    """PTH plus PTHrP signal: tumour PTHrP is induced by TGF-beta (Yin 1999, J Clin Invest 103:197)."""
    return 1.0 + p["pthrp_output"] * N * up(positive(G), p["pthrp_tgfb_fold"])


def free_rankl(P: Column, B: Column, R: Column, n: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Free RANKL: made by osteoblast precursors under PTHrP and by tumour contact; bound by OPG and by denosumab."""
    log_R = log_positive(R)
    induced = up(power(log_R, p["rankl_pthrp_slope"]), p["rankl_pthrp_fold"])
    rankl = P * induced * (1.0 + p["rankl_tumour_contact"] * n)
    opg = positive(B) * down(power(log_R, p["opg_pthrp_slope"]), p["opg_pthrp_fold"])
    theta = p["opg_bound_to_free"]
    return rankl * (1.0 + theta) / (1.0 + theta * opg + u["rankl_neutralisation"])


def osteoclast_formation(Lf: Column, osteoclast_tgfb: Column, n: Column, p: Parameters) -> Column:
    """Osteoclast formation: RANKL-dependent and RANKL-independent (tumour IL-6, IL-8...), primed by TGF-beta.

    ``osteoclast_tgfb`` is the TGF-beta response of osteoclasts (:func:`osteoclast_tgfb_response`).
    """
    w0 = p["rankl_independent_share"]
    dependent = up(power(log_positive(Lf), p["rankl_formation_slope"]), p["rankl_formation_fold"])
    drive = w0 * (1.0 + p["rankl_independent_tumour"] * n) + (1.0 - w0) * dependent
    f4 = p["tgfb_osteoclast_priming"]
    return drive * (1.0 - f4 + f4 * osteoclast_tgfb)


def osteoclast_tgfb_response(G_power: Column, p: Parameters) -> Column:
    """Response of osteoclasts and their precursors to TGF-beta (``G_power`` is ``G`` to the common slope)."""
    return up(G_power, p["tgfb_osteoclast_fold"])


def osteoclast_apoptosis(Lf: Column, osteoclast_tgfb: Column, p: Parameters, u: Mapping[str, Column]) -> Column:
    """Relative osteoclast apoptosis: TGF-beta and bisphosphonate raise it, RANKL (survival signal) lowers it."""
    f3 = p["tgfb_osteoclast_apoptosis"]
    rate = 1.0 - f3 + f3 * osteoclast_tgfb + u["osteoclast_apoptosis"]
    return rate * down_to(positive(Lf), p["rankl_survival_fold"], p["rankl_survival_floor"])


def osteoblast_recruitment(flux: Column, G: Column, N: Column, p: Parameters) -> Column:
    """Precursor recruitment: coupled to the resorption *flux*, weakly to TGF-beta, raised by osteoblastic tumour factors."""
    fc, f1 = p["coupling_share"], p["tgfb_recruitment_share"]
    coupled = 1.0 - fc + fc * up(positive(flux), p["coupling_fold"])
    tgfb = 1.0 - f1 + f1 * up(positive(G), p["tgfb_recruitment_fold"])
    return coupled * tgfb * (1.0 + p["osteoblastic_drive"] * half_saturation(N, p["osteoblastic_half_burden"]))


def osteoblast_differentiation(G_power: Column, p: Parameters) -> Column:
    """Relative rate at which precursors become osteoblasts: TGF-beta holds them back."""
    return down(G_power, p["tgfb_differentiation_fold"])


def precursor_loss(differentiation: Column, p: Parameters) -> Column:
    """Relative loss of precursors: a share differentiates, the rest is lost."""
    q = p["differentiating_share"]
    return q * differentiation + 1.0 - q


def feeding(flux: Column, G: Column, p: Parameters) -> Column:
    """How bone feeds tumour growth: the flux (matrix factors) and TGF-beta arrows multiply; positive, 1 when healthy."""
    by_flux = power(log_positive(flux), p["loop_strength"] * p["growth_flux_slope"])
    by_tgfb = power(log_positive(G), p["loop_strength"] * p["growth_tgfb_slope"])
    return up(by_flux, p["growth_flux_fold"]) * up(by_tgfb, p["growth_tgfb_fold"])


def effector_drive(G: Column, N: Column, n: Column, p: Parameters) -> Column:
    """T-cell effector priming by tumour antigen, suppressed by TGF-beta and by suppressive myeloid cells."""
    priming = 1.0 + p["effector_priming"] * half_saturation(N, p["effector_priming_half_burden"])
    return priming * down(positive(G), p["effector_tgfb_fold"]) / (1.0 + p["myeloid_suppression"] * n)


def functional_effectors(E: Column, X: Column, pd1_occupancy: Column, p: Parameters) -> Column:
    """Effectors that still kill: exhausted ones are held back through PD-1 and other checkpoints."""
    w = p["exhaustion_pd1_share"]
    return E * (1.0 - X * (w * (1.0 - pd1_occupancy) + 1.0 - w))


def alpha_kill(u_alpha: Column, B: Column, N: Column, p: Parameters) -> Column:
    """Tumour kill by a bone-seeking alpha emitter: uptake follows formation, range is short against lesion size."""
    return u_alpha * jnp.sqrt(jnp.maximum(B, 1e-12)) / (1.0 + N / p["alpha_range_burden"])
