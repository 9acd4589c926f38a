"""The only room that knows an ODE solver: ``cells`` solves all cells, ``stepper`` is the default method, ``adaptive`` is diffrax."""

from osteobayes.solve.adaptive import Solution, integrate
from osteobayes.solve.cells import (
    METHODS,
    NOT_FINITE,
    NOT_POSITIVE,
    OK,
    STATUS,
    Trajectories,
    at_entry,
    failures,
    states,
    trajectories,
)
from osteobayes.solve.courses import CURVES, courses

__all__ = [
    "CURVES",
    "METHODS",
    "NOT_FINITE",
    "NOT_POSITIVE",
    "OK",
    "STATUS",
    "Solution",
    "Trajectories",
    "at_entry",
    "courses",
    "failures",
    "integrate",
    "states",
    "trajectories",
]
