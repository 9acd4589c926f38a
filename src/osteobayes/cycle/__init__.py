"""The vicious cycle: tumour, PTHrP, RANKL, osteoclasts, TGF-beta from bone, back to tumour; therapies act on named fluxes.

Read ``fluxes`` for the arrows, ``dynamics`` for the equations, ``entry`` for the state at study entry, ``therapy`` and
``regimen`` for what is given, ``exposure`` for its time course, ``cells`` for the arrays that the solver takes.
"""

from osteobayes.cycle.cells import DEFAULT_GRID, Cell, CellArrays, Grid, pack, parameter_names
from osteobayes.cycle.parameters import CYCLE_PARAMETERS
from osteobayes.cycle.regimen import Component, Regimen
from osteobayes.cycle.therapy import Agent, Catalogue, shipped_catalogue

__all__ = [
    "CYCLE_PARAMETERS",
    "DEFAULT_GRID",
    "Agent",
    "Catalogue",
    "Cell",
    "CellArrays",
    "Component",
    "Grid",
    "Regimen",
    "pack",
    "parameter_names",
    "shipped_catalogue",
]
