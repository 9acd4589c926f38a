"""Compiled programs that runs of the same shapes share in a process: data, weights and priors' numbers are their arguments.

A fit of a few minutes spends half a minute on tracing programs that the fit before it had. Runs share them if everything
that is written into a program is equal (:func:`structure`, and the constants of the sampler's coordinates); what they compute
is then the same to the last bit as in a process of their own.
"""

import gc
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from osteobayes.fit.geometry import Geometry
from osteobayes.fit.hmc import Sampler
from osteobayes.model import Model

WRITTEN = ("name", "family", "dims", "pooling", "between_sd", "centered", "value")
"""Fields of a parameter that programs have written in; the other numbers of its prior are data."""


class Programs:
    """Programs of the latest shape; those of another take their place, so that memory does not grow from run to run."""

    def __init__(self) -> None:
        self._structure, self._constants = "", ""
        self._prior_only: tuple[str, ...] | None = None
        self.kept: dict[str, Any] = {}
        """Programs by name; a run keeps this dictionary, which another shape does not change but replaces."""
        self.shared = 0
        """Runs that found their programs here."""

    def enter(
        self,
        model: Model,
        settings: Any,
        sampler: Callable[[Model], Sampler],
        prior_only: Sequence[str] | None = None,
    ) -> Sampler:
        """The sampler for a run.

        Parameters
        ----------
        model
            The run's own model. Its :attr:`~osteobayes.model.Model.prior_only` is set: to what is given, or what a model of the
            same structure had; else it is found.
        settings
            :class:`osteobayes.fit.Settings`; those that programs depend on count.
        sampler
            Makes the sampler of a new shape.
        prior_only
            What the run knows.
        """
        found = structure(model, settings)
        if found != self._structure:
            self._clear()
            self._structure = found
        known = self._prior_only if prior_only is None else tuple(prior_only)
        if known is not None:
            model.__dict__["prior_only"] = known
        constants = self._hash_of(model)
        if constants == self._constants:
            self.shared += 1
        else:
            self._clear()
            self._structure, self._constants, self._prior_only = found, constants, model.prior_only
            self.kept["sampler"] = sampler(model)
        return self.kept["sampler"]

    def has(self, model: Model, settings: Any) -> bool:
        """Whether the programs that are kept are those of a run with this model; its ``prior_only`` is set, if it has their structure."""
        if structure(model, settings) != self._structure or self._prior_only is None:
            return False
        model.__dict__["prior_only"] = self._prior_only
        return self._hash_of(model) == self._constants

    @staticmethod
    def _hash_of(model: Model) -> str:
        return _hash([model.prior_only, *Geometry(model).constants])

    def _clear(self) -> None:
        if self.kept:
            self.kept, self._structure, self._constants, self._prior_only = {}, "", "", None
            jax.clear_caches()
            gc.collect()


def structure(model: Model, settings: Any) -> str:
    """Hash of all that programs have written in, but for constants of the sampler's coordinates."""
    agents = {a for cell in model.packed.cells for a in cell.regimen.agents}
    leaves, tree = jax.tree.flatten(model.data)
    return _hash(
        [
            settings.target, settings.trajectory, settings.block, settings.method, model.grid, model.full, model.method,
            model.shared_frailty, list(map(str, model.packed.cells)), [repr(model.catalogue.agents[a]) for a in sorted(agents)],
            sorted(model.coords.items()), [tuple(getattr(p, f) for f in WRITTEN) for p in model.priors.parameters.values()],
            sorted(model.packed.outcomes.items()), tree, [(np.shape(x), str(np.asarray(x).dtype)) for x in leaves],
        ]
    )  # fmt: skip


def _hash(parts: list[Any]) -> str:
    text = "\0".join(x.tobytes().hex() if isinstance(x, np.ndarray) else repr(x) for x in parts)
    return hashlib.sha256(text.encode()).hexdigest()
