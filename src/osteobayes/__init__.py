"""Mechanistic Bayesian meta-analysis of bone metastasis trials.

Importing this package turns on 64-bit floats in JAX (`jax_enable_x64`) for the whole process: the hazards and
their gradients lose their meaning in single precision. It does not start a JAX backend, so a platform can still be
chosen afterwards. The public names below are loaded on first use.

========================  ==============================================================
`Evidence`, `validate`    published numbers of the studies, read from `datasets/`
`PriorSet`                priors with their sources, read from `priors/`
`Regimen`                 what is given and when
`courses`                 trajectories under regimens, straight from the priors
`Model`                   the joint density of evidence, priors and vicious cycle
`calibrate`, `Run`        sampling, and its stored result
`fit`                     sampling in memory by other samplers
`Posterior`               draws of `model.pymc()` or `model.numpyro()` by any sampler
`predict`                 regimens and contrasts, each with interval, population and grade
`simulate_trial`          a study patient by patient, and its table computed from them
========================  ==============================================================
"""

import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from osteobayes.cycle import Regimen
    from osteobayes.evidence import Evidence, validate
    from osteobayes.fit import Posterior, Run, calibrate, fit
    from osteobayes.model import Model, simulate_trial
    from osteobayes.predict import predict
    from osteobayes.priors import PriorSet
    from osteobayes.solve import courses

jax.config.update("jax_enable_x64", True)

try:
    __version__ = metadata.version("osteobayes")
except metadata.PackageNotFoundError:  # a source tree on the path that was never installed
    __version__ = "0+unknown"

_ROOM = {
    "Evidence": "evidence",
    "Model": "model",
    "Posterior": "fit",
    "PriorSet": "priors",
    "Regimen": "cycle",
    "Run": "fit",
    "calibrate": "fit",
    "courses": "solve",
    "fit": "fit",
    "predict": "predict",
    "simulate_trial": "model",
    "validate": "evidence",
}

__all__ = [
    "Evidence",
    "Model",
    "Posterior",
    "PriorSet",
    "Regimen",
    "Run",
    "__version__",
    "calibrate",
    "courses",
    "fit",
    "predict",
    "simulate_trial",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use (PEP 562)."""
    if name not in _ROOM:
        raise AttributeError(f"module 'osteobayes' has no attribute {name!r}")
    value = getattr(import_module(f"osteobayes.{_ROOM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what is loaded and what can be."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package itself, in which a public name wins over a room of the same name.

    `predict` is a room and a function. The import system sets a loaded room as an attribute of its package, which
    would make `osteobayes.predict` a function or a module depending on who imported what first.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ROOM and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
