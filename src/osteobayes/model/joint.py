"""The joint density of evidence, priors and vicious cycle in pure JAX, and what is known about it before sampling."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from osteobayes import solve
from osteobayes.cycle import (
    CYCLE_PARAMETERS,
    DEFAULT_GRID,
    Catalogue,
    Cell,
    CellArrays,
    Grid,
    pack,
    parameter_names,
    shipped_catalogue,
)
from osteobayes.errors import EvidenceError, OsteobayesError, Problem
from osteobayes.evidence import Evidence
from osteobayes.evidence.pack import Packed
from osteobayes.evidence.pack import pack as pack_evidence
from osteobayes.model import likelihood
from osteobayes.observe import interpolation, patient_set, quadrature
from osteobayes.observe.hazards import CellHazards, cell_hazards
from osteobayes.precision import jit, require_float64
from osteobayes.priors import PriorSet, Site, therapy_parameters
from osteobayes.schema import did_you_mean

Data = dict[str, Any]
Sites = dict[str, Array]


def _require(priors: PriorSet, catalogue: Catalogue) -> None:
    """Refuse priors that lack a parameter of the cycle or a potency of an agent."""
    for name in (*CYCLE_PARAMETERS, *parameter_names(catalogue)[1:]):
        if name not in priors.parameters:
            raise OsteobayesError(
                f"the priors lack `{name}`; add it to priors/ (an agent of priors/therapies may name it)"
            )


@jax.custom_vjp
def finite_cotangents(values: dict[str, Array]) -> dict[str, Array]:
    """The values themselves; in reverse mode, what is not finite in their gradient becomes 0.

    A cell that could not be solved is masked and its density is zero, but zero times the derivative of its last step is not
    a number: without this the gradient of a failed draw would be none.
    """
    return values


def _kept(values: dict[str, Array]) -> tuple[dict[str, Array], None]:
    return values, None


def _finite(_: None, cotangents: dict[str, Array]) -> tuple[dict[str, Array]]:
    return (jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), cotangents),)


finite_cotangents.defvjp(_kept, _finite)


@dataclass(frozen=True)
class Model:
    """One joint density; frozen. Data, weights and hyperparameters are arguments of what is compiled (``data``)."""

    evidence: Evidence
    priors: PriorSet
    packed: Packed
    catalogue: Catalogue
    grid: Grid
    method: str = "runge_kutta"
    full: bool = False
    """Whether every module runs in every cell (`--model full`), instead of those that a cell's agents switch on."""
    shared_frailty: bool = False
    """Whether the frailty of skeletal events multiplies death too (a variant)."""

    @classmethod
    def build(
        cls,
        evidence: Evidence,
        priors: PriorSet,
        grid: Grid | None = None,
        catalogue: Catalogue | None = None,
        use: str = "fit",
        full: bool = False,
        joint: bool = False,
        shared_frailty: bool = False,
    ) -> "Model":
        """Join evidence and priors.

        Parameters
        ----------
        evidence, priors, grid, catalogue
            What is joined, the time grid and the agents (default: those that ship).
        use
            Which rows: ``fit`` or ``check``.
        full
            Every module in every cell.
        joint
            All correlated numbers of the same patients in one law (level 2), instead of one total an arm (level 1).
        shared_frailty
            The frailty of skeletal events multiplies death too: who has many events dies earlier.

        Raises
        ------
        EvidenceError
            If a prior's source is also fitted (provenance), or nothing is to be fitted.
        OsteobayesError
            If float64 is off.
        """
        require_float64()
        grid = grid or DEFAULT_GRID
        catalogue = catalogue or shipped_catalogue()
        constants = {n: p.value for n, p in priors.parameters.items() if not p.sampled}
        share = constants.get("followup_accrual_share", 0.6)
        horizon = constants.get("followup_horizon", 36.0)
        packed = pack_evidence(
            evidence,
            catalogue,
            grid,
            quadrature,
            interpolation,
            patient_set.working_correlation,
            float(share),  # pyright: ignore[reportArgumentType]
            float(horizon),  # pyright: ignore[reportArgumentType]
            use=use,  # type: ignore[arg-type]
            joint=joint,
        )
        if not packed.outcomes:
            raise EvidenceError(
                [Problem("datasets", None, "use", f"no row has use `{use}`", "mark rows that the model should fit")]
            )
        fitted = {p for p in packed.table["patients"] if p}
        clashes = {k: v for k, v in priors.patients().items() if k in fitted}
        if clashes:
            patients, names = next(iter(clashes.items()))
            raise OsteobayesError(
                f"prior of `{sorted(names)[0]}` is sourced from patients {patients}, which are also fitted; "
                "mark those rows `check`, or take the prior's source away"
            )
        _require(priors, catalogue)
        return cls(evidence, priors, packed, catalogue, grid, full=full, shared_frailty=shared_frailty)

    def with_therapies(self, folder: str | Path) -> "Model":
        """The same model with further agents: a folder of YAML files as in ``priors/therapies``, potency priors included.

        Raises
        ------
        PriorError
            What is wrong in the files.
        OsteobayesError
            If an agent's potency has no prior, or a prior is of a parameter that the model already has.
        """
        catalogue = Catalogue(self.catalogue.agents | Catalogue.load(Path(folder)).agents)
        new = therapy_parameters(folder)
        if known := sorted(set(new) & set(self.priors.parameters)):
            raise OsteobayesError(
                f"{folder}: the model already has a parameter `{known[0]}`, with draws of its own; give yours another name"
            )
        priors = replace(self.priors, parameters=self.priors.parameters | new)
        _require(priors, catalogue)
        return replace(self, catalogue=catalogue, priors=priors)

    @cached_property
    def coords(self) -> dict[str, tuple[str, ...]]:
        """Coordinates of every dim."""
        return dict(self.packed.coords)

    @cached_property
    def sites(self) -> dict[str, Site]:
        """All random variables."""
        return self.priors.sites(self.coords)

    @cached_property
    def potencies(self) -> list[str]:
        """Names of potency parameters in the order of the cell arrays."""
        return parameter_names(self.catalogue)

    @cached_property
    def classes(self) -> list[str]:
        """Agent classes that have a discrepancy parameter."""
        return [n.removeprefix("discrepancy_") for n in self.priors.parameters if n.startswith("discrepancy_")]

    def discrepancy_design(self, cells: tuple[Cell, ...] | list[Cell]) -> np.ndarray:
        """Which class discrepancies act in which cell [cell, class]."""
        design = np.zeros((len(cells), len(self.classes)))
        for i, cell in enumerate(cells):
            for agent in cell.regimen.agents:
                group = self.catalogue.agents[agent].agent_class
                if group in self.classes:
                    design[i, self.classes.index(group)] = 1.0
        return design

    @cached_property
    def data(self) -> Data:
        """Everything the compiled functions take: arrays, weights, hyperparameters."""

        def strong(x: Any) -> Array:
            return jnp.asarray(x, dtype=float) if np.issubdtype(np.asarray(x).dtype, np.floating) else jnp.asarray(x)

        with jax.ensure_compile_time_eval():
            return jax.tree.map(
                strong,
                {
                    "cells": self.pack(self.packed.cells),
                    "discrepancy": self.discrepancy_design(self.packed.cells),
                    "arms": self.packed.arms,
                    "rows": self.packed.data,
                    "observed": self.packed.observed,
                    "weights": self.packed.weights,
                    "hyper": self.priors.hyper(self.coords),
                    "years": self.grid.years,
                },
            )

    @cached_property
    def sampling_data(self) -> Data:
        """``data`` with ``fixed``: a prior draw of the prior-only sites, which cannot change any likelihood."""
        draw = self.draw_prior(jax.random.key(0), self.data)
        return self.data | {"fixed": {n: draw[n] for n in self.prior_only}}

    def values(self, sites: Mapping[str, Array], data: Data) -> dict[str, Array]:
        """Parameters on the natural scale from site values."""
        return self.priors.values(dict(sites), data["hyper"])

    def hazards(
        self, values: Mapping[str, Array], data: Data, method: str | None = None
    ) -> tuple[CellHazards, solve.Trajectories]:
        """Solve the cells and turn trajectories into hazards."""
        return self.cell_hazards(values, data["cells"], data["discrepancy"], method)

    def pack(self, cells: Sequence[Cell]) -> CellArrays:
        """Arrays of cells for this model's grid and modules."""
        return pack(cells, self.catalogue, self.grid, self.full)

    def trajectories(
        self, values: Mapping[str, Array], arrays: CellArrays, method: str | None = None
    ) -> solve.Trajectories:
        """Solve cells that :meth:`pack` packed, at parameters on the natural scale."""
        cycle = finite_cotangents({k: values[k] for k in (*CYCLE_PARAMETERS, *self.potencies[1:])})
        return solve.trajectories(cycle, self.potencies, arrays, self.grid, method or self.method, full=self.full)

    def cell_hazards(
        self, values: Mapping[str, Array], arrays: CellArrays, discrepancy: Array, method: str | None = None
    ) -> tuple[CellHazards, solve.Trajectories]:
        """Hazards of cells (``discrepancy``: :meth:`discrepancy_design`) and their trajectories."""
        path = self.trajectories(values, arrays, method)
        return self.hazards_of(path, values, arrays, discrepancy), path

    def hazards_of(
        self, path: solve.Trajectories, values: Mapping[str, Array], arrays: CellArrays, discrepancy: Array
    ) -> CellHazards:
        """Hazards of cells from their trajectories on this model's output times."""
        log_discrepancy = discrepancy @ jnp.stack([values[f"discrepancy_{c}"] for c in self.classes])
        return cell_hazards(path, values, arrays.cancer, log_discrepancy, jnp.asarray(self.grid.years))

    def expected(self, values: Mapping[str, Array], data: Data, method: str | None = None) -> tuple[dict, Array]:
        """Arguments of each family's likelihood, and the number of cells that could not be solved.

        That number is one of the arguments (``failed``) too: a failed solve has no likelihood.
        """
        cells, path = self.hazards(values, data, method)
        failed = (path.status != solve.OK).sum()
        expected = likelihood.expected(values, cells, data, data["years"], self.shared_frailty)
        return {
            f: a | {"failed": jnp.broadcast_to(failed, data["observed"][f].shape[:1])} for f, a in expected.items()
        }, failed

    def log_likelihood(self, sites: Mapping[str, Array], data: Data, method: str | None = None) -> dict[str, Array]:
        """Log likelihood of every outcome by family (unweighted); -inf everywhere if a cell could not be solved."""
        expected, _ = self.expected(self.values(sites, data), data, method)
        return {f: likelihood.log_lik(f, data["observed"][f], a) for f, a in expected.items()}

    def log_density(self, sites: Mapping[str, Array], data: Data, method: str | None = None) -> Array:
        """Joint log density: log prior of all sites plus weighted log likelihood."""
        prior = sum(self.priors.log_density(dict(sites), data["hyper"], self.coords).values())
        expected, _ = self.expected(self.values(sites, data), data, method)
        terms = [likelihood.weighted(f, data["observed"][f], a, data["weights"][f]).sum() for f, a in expected.items()]
        return prior + sum(terms)  # pyright: ignore[reportReturnType]

    def draw_prior(self, key: Array, data: Data) -> Sites:
        """One draw of all sites from the prior."""
        return self.priors.sample(key, data["hyper"], self.coords)

    @cached_property
    def compiled_log_likelihood(self):
        """Jitted :meth:`log_likelihood`."""
        return jit(lambda sites, data: self.log_likelihood(sites, data))

    @cached_property
    def prior_only(self) -> tuple[str, ...]:
        """Sites that no fitted row informs; they are drawn from their priors after sampling.

        A site is one when every log likelihood stays the same to the last bit whatever its value (three prior draws of it,
        at three prior draws of the rest), which is stronger than a zero derivative; a test checks the derivative too.
        """
        uninformed = dict.fromkeys(self.sites, True)
        for seed in range(3):
            base = self.draw_prior(jax.random.key(seed), self.data)
            other = self.draw_prior(jax.random.key(100 + seed), self.data)
            before = {f: np.asarray(x) for f, x in self.compiled_log_likelihood(base, self.data).items()}
            for name in self.sites:
                if uninformed[name]:
                    after = self.compiled_log_likelihood(base | {name: other[name]}, self.data)
                    uninformed[name] = all(
                        np.array_equal(before[f], np.asarray(x), equal_nan=True) for f, x in after.items()
                    )
        for site in self.sites.values():  # an informed effect informs its standard deviation through the prior
            sd = self.priors[site.parameter].between_sd
            if sd in uninformed and not uninformed[site.name]:
                uninformed[sd] = False
            common = f"{site.parameter}_common"
            if common in uninformed and not uninformed[site.name]:
                uninformed[common] = False
        return tuple(n for n, same in uninformed.items() if same)

    @cached_property
    def sampled(self) -> dict[str, Site]:
        """Sites that the sampler moves."""
        return {n: s for n, s in self.sites.items() if n not in self.prior_only}

    def emitted(self, names: Iterable[str] | None, priors: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Sites that an emission has (default: the sampled ones), and those whose prior the user replaces.

        Raises
        ------
        OsteobayesError
            If ``priors`` names something that is not a site.
        """
        names = list(self.sampled if names is None else names)
        for name in priors or ():
            if name not in self.sites:
                raise OsteobayesError(f"{name!r} is no random variable of the model; {did_you_mean(name, self.sites)}")
            if name not in names:
                names.append(name)
        return tuple(names)

    def outcome_dims(self, family: str) -> tuple[str, ...]:
        """Dims of the published numbers of a family; families differ in length, so each has an outcome dim of its own."""
        dims = (f"outcome_{family}", f"{family}_part")
        return dims[: self.packed.observed[family].ndim]

    @cached_property
    def labels(self) -> dict[str, list]:
        """Coordinates of every dim of an emission: those of the parameters, and the ids of the outcomes."""
        out: dict[str, list] = {k: list(v) for k, v in self.coords.items()}
        for family, x in self.packed.observed.items():
            labels = (self.packed.outcomes[family], *(range(n) for n in x.shape[1:]))
            out |= {d: list(v) for d, v in zip(self.outcome_dims(family), labels, strict=True)}
        return out

    def information(self) -> pd.DataFrame:
        """What the fitted numbers of the same patients would claim if they were taken as independent.

        Returns
        -------
        DataFrame
            One row a study and endpoint with two arms of which several numbers are fitted: ``study, endpoint, numbers``,
            ``nominal`` and ``actual`` (standard deviation of the log ratio of the arms' hazards, in units of one arm's, if
            taken as independent and as it is), ``ratio`` (below 1: overconfident) and ``joint`` (if the correlations are used).
        """
        rows = []
        for group in self.packed.together:
            arms = {a for _, side in group.kinds for a in (side if isinstance(side, tuple) else (side,))}
            contrast = any(isinstance(side, tuple) for _, side in group.kinds)
            if arms - {0, 1} or not (contrast or len(arms) == 2):
                continue
            kinds: Any = group.kinds
            found = patient_set.information(
                patient_set.working_correlation(kinds, group.variance), kinds, group.variance
            )
            rows.append(
                {
                    "study": group.study, "endpoint": group.endpoint, "numbers": " ".join(sorted(k for k, _ in group.kinds)),
                    "nominal": found.nominal, "actual": found.actual, "ratio": found.ratio, "joint": found.joint,
                }
            )  # fmt: skip
        columns = ["study", "endpoint", "numbers", "nominal", "actual", "ratio", "joint"]
        return pd.DataFrame(rows, columns=columns)

    def fingerprint(self) -> str:
        """Hash of priors, agents, rows, their weights, grid and modules: what makes two fits the same."""
        agents = {a for cell in self.packed.cells for a in cell.regimen.agents}
        text = (
            self.priors.fingerprint()
            + repr(self.grid)
            + repr((self.full, self.shared_frailty))
            + "".join(map(str, self.packed.cells))
        )
        text += "".join(repr(self.catalogue.agents[a]) for a in sorted(agents))
        text += "".join(f"{f}{v.tobytes().hex()}" for f, v in self.packed.observed.items())
        if any((w != 1.0).any() for w in self.packed.weights.values()):
            text += "".join(f"{f}{w.tobytes().hex()}" for f, w in self.packed.weights.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def numpyro(self, priors: Mapping[str, Any] | None = None, adjust: Callable[[dict], dict] | None = None):
        """NumPyro model ``f(data)``: every sampled quantity a named site, every family of outcomes an observed site.

        See :func:`osteobayes.model.emit.numpyro_model`.
        """
        from osteobayes.model.emit import numpyro_model

        return numpyro_model(self, priors=priors, adjust=adjust)

    def pymc(self, priors: Mapping[str, Any] | None = None, adjust: Callable[[dict], dict] | None = None):
        """PyMC model: every sampled quantity a named random variable, every family of outcomes an observed one.

        See :func:`osteobayes.model.emit_pymc.pymc_model`.
        """
        from osteobayes.model.emit_pymc import pymc_model

        return pymc_model(self, priors=priors, adjust=adjust)

    def __str__(self) -> str:
        count = {f: len(v) for f, v in self.packed.outcomes.items()}
        return (
            f"model: {len(self.packed.cells)} cells, {sum(count.values())} outcomes "
            f"({', '.join(f'{v} {k}' for k, v in count.items())}), {len(self.sites)} random variables"
        )
