"""Simulation-based calibration: truths drawn from the prior, data simulated at them, fitted; ranks of the truths must be uniform.

Talts et al. 2018 (arXiv:1804.06788); the posterior kind is of Säilynoja et al. 2025 (arXiv:2502.03279). Two levels of simulation on the
designs of the real studies: ``likelihood`` draws every published number from the law that the likelihood takes it to have, so it finds
wrong sampling and wrong densities; ``trial`` simulates patients from the model's hazards and computes each study's own table from them,
so it finds formulas that do not describe what a study reports (:mod:`osteobayes.model.trial`).
"""

import io
import textwrap
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from osteobayes.errors import OsteobayesError, RunError
from osteobayes.fit import Run, Settings
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import write_atomically, write_json
from osteobayes.model import TrialSimulator, likelihood
from osteobayes.model.emit import numpyro_model
from osteobayes.model.redraw import redrawn
from osteobayes.model.transform import constrain
from osteobayes.precision import jit
from osteobayes.predict import headline_estimands
from osteobayes.recovery import SUMMARY, Study, errors, plan, study_command, work_all
from osteobayes.recovery import work as recovery_work

LEVELS = ("likelihood", "trial")
"""What simulates the data: the statistics' own laws, or patients."""
RANKED = 99
"""Draws, thinned, among which a truth is ranked: ranks are 0 to 99."""
FAILURE_RATE = 0.01
"""Chance that the criterion fails although every rank is uniform: each of three tests of each scalar gets an equal share of it."""
TESTS = ("location", "spread", "shape")
FAILED_SHARE = 0.05
"""Share of replicates that may lack a quantity (a cell that cannot be solved at a draw), or ranks at all (an error of the fit)."""


class Calibration(Study):
    """One calibration study in this process.

    Parameters
    ----------
    planned
        As ``plan.json`` holds it: a recovery plan with ``level``, ``planted`` (parameter whose prior scale is multiplied in the
        simulator only, and the factor) and ``posterior`` (folder of a finished run from whose draws truths are taken).
    """

    ess_goal = RANKED + 1.0

    def __init__(self, planned: Mapping[str, Any]) -> None:
        self.level, self.planted, self.of = planned["level"], planned["planted"], planned["posterior"]
        super().__init__(planned)
        self.hyper = dict(self.data["hyper"])
        for name, factor in self.planted.items():
            if "scale" not in self.hyper.get(name, {}):
                raise OsteobayesError(f"{name!r} has no prior with a scale; plant a defect in another parameter")
            self.hyper[name] = self.hyper[name] | {"scale": self.hyper[name]["scale"] * factor}
        if self.of:
            self.run = Run.load(self.of)
            if self.run.model.fingerprint() != self.model.fingerprint():
                raise RunError(
                    f"{self.of}: the run fitted other evidence, priors or grid than this study; give it the run's settings"
                )
            self.sampler = self.settings.sampler(self.model, self._twice)
            self.data = self.data | {"also": {k: self.data[k] for k in ("observed", "rows")}}
        self.trials = TrialSimulator(self.model)
        self.estimands = headline_estimands(self.model)
        self._again = jit(self._again_at)

    def _again_at(self, key: Any, values: Any, data: Any) -> tuple[Any, Any]:
        new = redrawn(self.model, key, values, data)
        return new, self._total(values, new)

    def _total(self, values: Any, data: Any) -> Any:
        expected, _ = self.model.expected(values, data)
        return sum(likelihood.log_lik(f, data["observed"][f], a).sum() for f, a in expected.items())

    @cached_property
    def _total_of(self) -> Callable[[Any, Any], Any]:
        return jit(self._total)

    @cached_property
    def _emitted(self) -> Any:
        return numpyro_model(self.model, method=self.settings.method)

    def _twice(self, z: Any, data: Any) -> Any:
        """Potential of the simulated numbers and the published ones together."""
        from numpyro.infer.util import potential_energy

        published = {k: x for k, x in data.items() if k != "also"} | data["also"]
        sites = constrain(self.model.sampled, z) | data["fixed"]
        values = self.model.values(sites, published)
        expected, _ = self.model.expected(values, published, self.settings.method)
        terms = [
            likelihood.weighted(f, published["observed"][f], a, data["weights"][f]).sum() for f, a in expected.items()
        ]
        own = {k: x for k, x in data.items() if k != "also"}
        return jnp.asarray(potential_energy(self._emitted, (own,), {}, z)) - sum(terms)

    @cached_property
    def _truths(self) -> dict[str, np.ndarray]:
        """Draws of the run's posterior, parameters by name [draw, ...]."""
        posterior = self.run.tree["posterior"].to_dataset()
        return {
            n: posterior[n].to_numpy().reshape(-1, *posterior[n].shape[2:])
            for n, p in self.model.priors.parameters.items()
            if p.sampled
        }

    def dataset(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
        """As of :class:`osteobayes.recovery.Study`, at the level of this study; truths of a planted defect have another prior."""
        for t in range(self.tries):
            key = jax.random.fold_in(jax.random.key(self.settings.seed * 100_003 + number), t)
            if self.of:
                many = len(next(iter(self._truths.values())))
                at = int(np.random.default_rng([self.settings.seed, number, t]).integers(many))
                fixed = {n: x["value"] for n, x in self.data["hyper"].items() if not self.model.priors[n].sampled}
                values = fixed | {n: jnp.asarray(x[at]) for n, x in self._truths.items()}
                data, total = self._again(jax.random.fold_in(key, 1), values, self.data)
            else:
                values, data, total = self._drawn(key, self.data, self.hyper)
            if not np.isfinite(float(total)):
                continue
            if self.level == "trial":
                data = self.trials.published(
                    values, int(jax.random.randint(jax.random.fold_in(key, 2), (), 0, 2**31 - 1)), data
                )
                if not np.isfinite(float(self._total_of(values, data))):
                    continue
            return {k: np.asarray(x) for k, x in values.items()}, data, t
        raise RunError(f"dataset {number}: none of {self.tries} draws has a finite likelihood at its own data")

    def _rows(self, truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Rank of every true scalar among :data:`RANKED` thinned draws; None where a cell cannot be solved."""
        many = len(next(iter(found.values())))
        at = np.linspace(0, many - 1, RANKED).round().astype(int)
        both = {k: np.concatenate([np.asarray(truth[k])[None], x[at]]) for k, x in found.items()}
        rows = []
        for name in self.parameters:
            dims = self.model.priors[name].dims
            rows += _ranks(name, both[name], [", ".join(x) for x in _levels([self.model.coords[d] for d in dims])])
        for name, x in self.estimands(both).items():
            rows += _ranks(f"predicted_{name}", x.to_numpy(), x["question"].to_numpy().tolist())
        return rows


def _levels(coords: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(str(c[i]) for c, i in zip(coords, at, strict=True)) for at in np.ndindex(*map(len, coords))]


def _ranks(name: str, both: np.ndarray, levels: list[str]) -> list[dict[str, Any]]:
    """Ranks of the first among the others, by level."""
    flat = both.reshape(len(both), -1)
    fine = np.isfinite(flat).all(axis=0)
    ranks = (flat[1:] < flat[0]).sum(axis=0)
    return [
        {"quantity": name, "level": level, "rank": int(r) if ok else None}
        for level, r, ok in zip(levels, ranks, fine, strict=True)
        if not name.endswith("log_rate_ratio") or not np.isnan(flat[:, levels.index(level)]).all()
    ]


def work(folder: Path, first: int, step: int) -> None:
    """Body of a process of :func:`calibrate_by_simulation`."""
    recovery_work(folder, first, step, Calibration)


def calibrate_by_simulation(
    out: str | Path,
    replicates: int = 128,
    level: str = "likelihood",
    planted: Mapping[str, float] | None = None,
    posterior: str | Path | None = None,
    report: Callable[[str], None] = lambda text: None,
    jobs: int | None = None,
    stop: Stop | None = None,
    shard: tuple[int, int] = (1, 1),
    **settings: Any,
) -> dict[str, Any] | None:
    """Simulation-based calibration on the designs of the real studies.

    Parameters
    ----------
    out
        Folder, created; a study that was interrupted there goes on.
    replicates
        How many datasets.
    level
        ``likelihood`` or ``trial`` (:data:`LEVELS`).
    planted
        Parameters whose prior scale is multiplied in the simulator and not in the model: a defect that the tests must find.
    posterior
        Folder of a finished run: truths are draws of its posterior, and each replicate fits the simulated and the published numbers
        together, so that calibration is checked where the posterior is, instead of all over the prior.
    report
        Called with sentences.
    jobs
        Processes, each with one core; default: as many as there are cores.
    stop
        Asked now and then whether to go on (default: always).
    shard
        ``(i, n)``: only every n-th dataset from the i-th on, for several machines; who comes last makes the summary.
    **settings
        Fields of :class:`osteobayes.fit.Settings`.

    Returns
    -------
    dict or None
        None while datasets of other shards are missing, else what ``summary.json`` holds: ``command``, ``plan``, ``criterion``,
        ``uniform``, ``deviations`` and ``errors`` (sentences), ``quantities`` (p-values and ranks), ``fits`` (diagnostics, seconds, commit).
        ``sbc.nc`` has the ranks as shares in group ``prior_sbc`` (``posterior_sbc``), which ArviZ plots; ``ranks.png`` shows them.

    Raises
    ------
    OsteobayesError
        If the level or the planted parameter is not known.
    RunError
        If the folder holds another study, or a process ended before its datasets were done.
    Interrupted
        If ``stop`` says so.
    """
    if level not in LEVELS:
        raise OsteobayesError(f"level must be one of {', '.join(LEVELS)}, found {level!r}")
    folder, chosen = Path(out), Settings(**settings)
    of = str(Path(posterior).resolve()) if posterior is not None else None
    planned = plan(replicates, chosen) | {"level": level, "planted": dict(planted or {}), "posterior": of}
    results = work_all(folder, planned, __name__, report, jobs, stop or Stop(), shard)
    if len(results) < replicates:
        report(f"{len(results)} of {replicates} datasets are there; the same command with the other shards goes on")
        return None
    found = summarise(planned, results)
    write_json(folder / SUMMARY, found)
    group = "posterior_sbc" if of else "prior_sbc"
    tree = pit_tree(found, group)
    tree.to_netcdf(folder / "sbc.nc.part", engine="h5netcdf")
    (folder / "sbc.nc.part").replace(folder / "sbc.nc")
    draw_ranks(tree, group, folder / "ranks.png")
    return found


def uniformity(ranks: np.ndarray, ranked: int = RANKED) -> dict[str, float]:
    """P-values of three tests that ranks 0 to ``ranked`` are uniform.

    Parameters
    ----------
    ranks
        Ranks of one scalar [replicate].
    ranked
        Largest rank.

    Returns
    -------
    dict
        ``location`` and ``spread``: mean and sum of squares of the ranks as normal scores (Cook, Gelman and Rubin 2006, JCGS
        15:675), against the normal and the chi-squared law; ``shape``: ArviZ's pointwise test of the empirical distribution function
        (``pot_c``, Tesso et al. 2026, arXiv:2603.02928).
    """
    score = scipy.stats.norm.ppf((np.arange(ranked + 1) + 0.5) / (ranked + 1))
    variance = float((score**2).mean())
    z, n = score[ranks] / np.sqrt(variance), len(ranks)
    square = float((z**2).sum())
    spread = 2.0 * min(scipy.stats.chi2.cdf(square, n), scipy.stats.chi2.sf(square, n))
    pit = xr.DataArray((ranks + 0.5) / (ranked + 1), dims="sample")
    shape = xr.Dataset({"x": pit}).azstats.uniformity_test(dim="sample", method="pot_c")[0]["x"]
    return {
        "location": float(2.0 * scipy.stats.norm.sf(abs(z.mean()) * np.sqrt(n))),
        "spread": float(min(spread, 1.0)),
        "shape": float(np.clip(shape, 0.0, 1.0)),
    }


def summarise(planned: Mapping[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Ranks, their tests and what they say, of the results of all replicates."""
    ranks: dict[str, list[int | None]] = {}
    failed = errors(results)
    for one in results:
        for row in one["rows"]:
            ranks.setdefault(f"{row['quantity']}[{row['level']}]" if row["level"] else row["quantity"], []).append(
                row["rank"]
            )
    if not ranks:
        raise OsteobayesError("; ".join(["no dataset has ranks", *failed]))
    quantities, deviations = {}, []
    if len(failed) > FAILED_SHARE * len(results):
        deviations.append(f"{len(failed)} of {len(results)} datasets have no ranks: their fits ended in an error")
    limit = FAILURE_RATE / (len(TESTS) * len(ranks))
    for name, found in ranks.items():
        whole = np.array([r for r in found if r is not None], dtype=int)
        if len(whole) < (1.0 - FAILED_SHARE) * len(found):
            deviations.append(
                f"{name}: {len(found) - len(whole)} of {len(found)} replicates have no rank (cells that cannot be solved)"
            )
        p = uniformity(whole) if len(whole) > 1 else dict.fromkeys(TESTS, float("nan"))
        quantities[name] = p | {"ranks": found}
        deviations += [
            f"{name}: {test} of its ranks, p = {x:.1e} (limit {limit:.1e})" for test, x in p.items() if not x >= limit
        ]
    return {
        "command": _command(planned), "plan": dict(planned),
        "criterion": f"every p-value of three tests (location, spread, shape) of each of {len(ranks)} scalars is at least "
        f"{FAILURE_RATE:g} / (3 x {len(ranks)}) = {limit:.2e}; if all ranks are uniform this fails in at most {FAILURE_RATE:.0%} of studies",
        "uniform": not deviations, "deviations": deviations, "errors": failed,
        "least": {test: min((q[test], name) for name, q in quantities.items()) for test in TESTS},
        "quantities": quantities,
        "fits": [{k: v for k, v in one.items() if k != "rows"} for one in results],
    }  # fmt: skip


def _command(planned: Mapping[str, Any]) -> str:
    more = f" --level {planned['level']}" + "".join(f" --planted {k}={v:g}" for k, v in planned["planted"].items())
    more += " --posterior RUN" if planned["posterior"] else ""
    return study_command("sbc", "replicates", planned) + more


def pit_tree(found: Mapping[str, Any], group: str = "prior_sbc") -> xr.DataTree:
    """Ranks as shares in (0, 1), one variable a quantity with its levels, as ArviZ's ``plot_ecdf_pit`` takes them."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for label, q in found["quantities"].items():
        name, _, level = label.removesuffix("]").partition("[")
        pit = np.array([np.nan if r is None else (r + 0.5) / (RANKED + 1) for r in q["ranks"]])
        parts.setdefault(name, {})[level] = pit
    variables = {}
    for name, levels in parts.items():
        if list(levels) == [""]:
            variables[name] = (("chain", "draw"), levels[""][None])
        else:
            dim = f"{name}_level"
            variables[name] = xr.DataArray(
                np.stack(list(levels.values()), axis=-1)[None], dims=("chain", "draw", dim), coords={dim: list(levels)}
            )
    return xr.DataTree.from_dict({f"/{group}": xr.Dataset(variables)})


def draw_ranks(tree: xr.DataTree, group: str, path: Path, most: int = 24) -> None:
    """Picture of the empirical distribution functions that are least uniform, by ArviZ."""
    import matplotlib
    from matplotlib import pyplot

    dataset = tree[group].to_dataset()
    flat: dict[str, Any] = {}
    for name, x in dataset.items():
        wide = x.to_numpy().reshape(*x.shape[:2], -1)
        labels = x[x.dims[2]].to_numpy().tolist() if x.ndim > 2 else [""]
        flat |= {
            f"{name}\n{textwrap.fill(level, 40)}".replace("/", ":"): wide[..., i]
            for i, level in enumerate(labels)
            if np.isfinite(wide[..., i]).all()
        }
    worst = sorted(flat, key=lambda k: min(uniformity(np.round(flat[k][0] * (RANKED + 1) - 0.5).astype(int)).values()))[
        :most
    ]
    shown = xr.DataTree.from_dict({f"/{group}": xr.Dataset({k: (("chain", "draw"), flat[k]) for k in worst})})
    with matplotlib.rc_context({"font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7}):
        size = {"figsize": (13, 2.4 * -(-len(worst) // 4))}
        plots = az.plot_ecdf_pit(
            shown, group=group, backend="matplotlib", visuals={"xlabel": False}, figure_kwargs=size
        )
        buffer = io.BytesIO()
        figure = plots.viz["figure"].item()
        figure.set_layout_engine("constrained")
        figure.savefig(buffer, format="png", dpi=110)
        pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def table(found: Mapping[str, Any]) -> pd.DataFrame:
    """P-values by scalar, the least first."""
    frame = pd.DataFrame([{"quantity": k, **{t: q[t] for t in TESTS}} for k, q in found["quantities"].items()])
    return frame.assign(least=frame[list(TESTS)].min(axis=1)).sort_values("least", ignore_index=True)
