"""Observation models: published numbers of a trial as functionals of hazards, with their likelihoods and simulators.

Everything is a pure JAX function of one arm or contrast (float64, years); only the grid weights are made in NumPy.
"""

from osteobayes.observe import (
    completion,
    contrast,
    crude,
    incidence,
    landmark,
    marker,
    median,
    mixture,
    patient_set,
    progression,
    rate,
    ratio,
    response,
    split,
)
from osteobayes.observe.frailty import Observable, alive, log_laplace, observable, recurrent
from osteobayes.observe.grid import cumulative, interpolation, quadrature
from osteobayes.observe.mixture import km_survival, mixed_death, mixed_hazard

__all__ = [
    "Observable",
    "alive",
    "completion",
    "contrast",
    "crude",
    "cumulative",
    "incidence",
    "interpolation",
    "km_survival",
    "landmark",
    "log_laplace",
    "marker",
    "median",
    "mixed_death",
    "mixed_hazard",
    "mixture",
    "observable",
    "patient_set",
    "progression",
    "quadrature",
    "rate",
    "ratio",
    "recurrent",
    "response",
    "split",
]
