"""Published ancestors of the cycle as JAX vector fields ``field(parameters, t, y)``: what the solver room is tested on.

Constants come from the files in ``models/`` and nowhere else: Lemaire, Komarova and Ayati from the SBML, Pivonka from the JSON
(no SBML of it is published). Time is in days.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

MODELS = Path(__file__).parent / "models"
SWITCH = 600.0
"""Day on which the treatment of BIOMD403 starts: a number inside its rules, not a parameter."""


class Lemaire(NamedTuple):
    """Constants of Lemaire 2004 by their SBML names: pM and days; `I_L`, `I_O`, `I_P` are injections in pM/d."""

    C_s: Any
    D_A: Any
    d_B: Any
    D_C: Any
    D_R: Any
    f0: Any
    I_L: Any
    I_O: Any
    I_P: Any
    K: Any
    k1: Any
    k2: Any
    k3: Any
    k4: Any
    k5: Any
    k6: Any
    k_B: Any
    K_L_P: Any
    kO: Any
    K_O_P: Any
    k_P: Any
    r_L: Any
    S_P: Any


class Komarova(NamedTuple):
    """Constants of Komarova 2003 by their SBML names; cells, days, bone mass in %."""

    alpha1: Any
    alpha2: Any
    beta1: Any
    beta2: Any
    g11: Any
    g12: Any
    g21: Any
    g22: Any
    k1: Any
    k2: Any


class Ayati(NamedTuple):
    """Constants of Ayati 2010 by their SBML names; `v1`, `v2` are absent from BIOMD402 and 0 there."""

    alpha1: Any
    alpha2: Any
    beta1: Any
    beta2: Any
    g11: Any
    g12: Any
    g21: Any
    g22: Any
    k1: Any
    k2: Any
    r11: Any
    r12: Any
    r21: Any
    r22: Any
    gammaT: Any
    LT: Any
    v1: Any = 0.0
    v2: Any = 0.0


class Pivonka(NamedTuple):
    """Constants of Pivonka 2008 by their names in the JSON: pM and days; `*_inj` are injections in pM/d."""

    D_OBu: Any
    D_OBp: Any
    D_OCp: Any
    A_OBa: Any
    A_OCa: Any
    K_T_act: Any
    K_T_rep: Any
    K_PTH_act: Any
    K_PTH_rep: Any
    K_RR: Any
    PTH0: Any
    dPTH: Any
    dOPG: Any
    OPGmax: Any
    K_RO: Any
    K_RR_a: Any
    RANK: Any
    bRANKL: Any
    dRANKL: Any
    pOPG: Any
    nRANKL: Any
    alpha: Any
    kres: Any
    dT: Any
    OPG_inj: Any
    PTH_inj: Any
    RANKL_inj: Any
    T_inj: Any


def sbml_file(number: int) -> Path:
    """Path of a BioModels file."""
    return MODELS / f"BIOMD{number:010d}.xml"


@functools.cache
def read_sbml(number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Constants, and the start of every species, of a BioModels file."""
    import libsbml

    model = libsbml.readSBMLFromFile(str(sbml_file(number))).getModel()
    start = {
        s.getId(): s.getInitialAmount() if s.isSetInitialAmount() else s.getInitialConcentration()
        for s in model.getListOfSpecies()
    }
    return {p.getId(): p.getValue() for p in model.getListOfParameters() if p.getConstant()}, start


def from_sbml(kind, number: int, states: tuple[str, ...]):
    """Constants of a BioModels file as a `kind`, and its start in the order of `states`."""
    constants, start = read_sbml(number)
    known = {name: constants[name] for name in kind._fields if name in constants or name not in kind._field_defaults}
    return kind(**known), np.array([start[name] for name in states])


@functools.cache
def golden() -> dict[str, Any]:
    """Trajectories by SciPy's LSODA and what they were computed from."""
    return json.loads((MODELS / "golden_trajectories.json").read_text(encoding="utf-8"))


def pivonka_constants() -> Pivonka:
    """The constants of Pivonka 2008 in the JSON."""
    constants = golden()["pivonka2008"]["params"]
    return Pivonka(**{name: constants[name] for name in Pivonka._fields})


def lemaire_binding(p: Lemaire, y) -> tuple[Any, Any, Any]:
    """RANKL bound to RANK, RANKL bound to OPG (both per free RANKL), and PTH receptor occupancy, in Lemaire 2004."""
    pth, basal, half = p.I_P / p.k_P, p.S_P / p.k_P, p.k6 / p.k5
    occupied = (pth + basal) / (pth + half)
    return p.k3 * p.K / p.k4, p.k1 / (p.k2 * p.kO) * (p.I_O + p.K_O_P * y[0] / occupied), occupied


def lemaire(p: Lemaire, t, y):
    """Responding and active osteoblasts and active osteoclasts (pM) of Lemaire et al. 2004, J Theor Biol 229:293.

    Equations of BIOMD0000000278.
    """
    R, B, C = y
    rank, opg, occupied = lemaire_binding(p, y)
    tgf = (C + p.f0 * p.C_s) / (C + p.C_s)
    rankl = p.k3 / p.k4 * p.K_L_P * occupied * B * (1 + p.I_L / p.r_L) / (1 + rank + opg)
    maturing = p.f0 * p.d_B / tgf * R
    return jnp.array([p.D_R * tgf - maturing, maturing - p.k_B * B, p.D_C * rankl - p.D_A * tgf * C])


def s_system_balance(a1, a2, b1, b2, g11, g12, g21, g22) -> tuple[Any, Any]:
    """Osteoclasts and osteoblasts where ``a1 x1^g11 x2^g21 = b1 x1`` and ``a2 x1^g12 x2^g22 = b2 x2``."""
    gamma = g12 * g21 - (1 - g11) * (1 - g22)
    r1, r2 = b1 / a1, b2 / a2
    return r1 ** ((1 - g22) / gamma) * r2 ** (g21 / gamma), r1 ** (g12 / gamma) * r2 ** ((1 - g11) / gamma)


def komarova_balance(p: Komarova) -> tuple[Any, Any]:
    """Steady osteoclasts and osteoblasts of Komarova 2003."""
    return s_system_balance(p.alpha1, p.alpha2, p.beta1, p.beta2, p.g11, p.g12, p.g21, p.g22)


def komarova(p: Komarova, t, y):
    """Osteoclasts, osteoblasts (cells) and bone mass (%) of Komarova et al. 2003, Bone 33:206.

    Equations of BIOMD0000000148; BIOMD0000000279 (Komarova 2005) and BIOMD0000000401 (Ayati 2010 without tumour) are the same
    ones. BIOMD148 has its max() as events that set flags.
    """
    x1, x2, _ = y
    mean1, mean2 = komarova_balance(p)
    return jnp.array(
        [
            p.alpha1 * x1**p.g11 * x2**p.g21 - p.beta1 * x1,
            p.alpha2 * x1**p.g12 * x2**p.g22 - p.beta2 * x2,
            p.k2 * jnp.maximum(x2 - mean2, 0) - p.k1 * jnp.maximum(x1 - mean1, 0),
        ]
    )


def ayati_balance(p: Ayati) -> tuple[Any, Any]:
    """Steady osteoclasts and osteoblasts of Ayati 2010 at the largest tumour, without treatment."""
    return s_system_balance(
        p.alpha1,
        p.alpha2,
        p.beta1,
        p.beta2,
        p.g11 * (1 + p.r11),
        p.g12 / (1 + p.r12),
        p.g21 * (1 + p.r21),
        p.g22 - p.r22,
    )


def ayati(p: Ayati, t, y):
    """Osteoclasts, osteoblasts (cells), bone mass (%) and tumour (%) of Ayati et al. 2010, Biol Direct 5:28.

    Equations of BIOMD0000000402 and, with treatment from day `SWITCH`, BIOMD0000000403.
    """
    C, B, _, T = y
    mean_C, mean_B = ayati_balance(p)
    size = T / p.LT
    v1, v2 = jnp.where(t >= SWITCH, p.v1, 0.0), jnp.where(t >= SWITCH, p.v2, 0.0)
    return jnp.array(
        [
            p.alpha1 * C ** (p.g11 * (1 + p.r11 * size)) * B ** (p.g21 * (1 + p.r21 * size)) - p.beta1 * C,
            p.alpha2 * C ** (p.g12 / (1 + p.r12 * size)) * B ** (p.g22 - p.r22 * size) - (p.beta2 - v1) * B,
            p.k2 * jnp.maximum(B - mean_B, 0) - p.k1 * jnp.maximum(C - mean_C, 0),
            (p.gammaT - v2) * T * jnp.log(p.LT / T),
        ]
    )


def pivonka(p: Pivonka, t, y):
    """Osteoblast precursors, active osteoblasts and active osteoclasts (pM) of Pivonka et al. 2008, Bone 43:249.

    Equations of the model's maths page in the CellML repository. Bone volume, which feeds nothing back, is left out.
    """
    OBp, OBa, OCa = y
    tgf = (p.alpha * p.kres * OCa + p.T_inj) / p.dT
    tgf_up, tgf_down = tgf / (p.K_T_act + tgf), 1 / (1 + tgf / p.K_T_rep)
    pth = (p.PTH0 + p.PTH_inj) / p.dPTH
    pth_up, pth_down = pth / (p.K_PTH_act + pth), 1 / (1 + pth / p.K_PTH_rep)
    made = p.pOPG * OBa * pth_down
    opg = (made + p.OPG_inj) * p.OPGmax / (made + p.dOPG * p.OPGmax)
    room = p.nRANKL * OBp * pth_up
    rankl = room / (1 + p.K_RO * opg + p.K_RR_a * p.RANK) * (p.bRANKL + p.RANKL_inj) / (p.bRANKL + p.dRANKL * room)
    bound_rankl = p.K_RR_a * rankl * p.RANK
    rankl_up = bound_rankl / (p.K_RR + bound_rankl)
    maturing = p.D_OBp * OBp * tgf_down
    return jnp.array(
        [p.D_OBu * tgf_up - maturing, maturing - p.A_OBa * OBa, p.D_OCp * rankl_up - p.A_OCa * OCa * tgf_up]
    )
