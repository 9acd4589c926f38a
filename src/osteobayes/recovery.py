"""Recovery: datasets drawn from the prior on the designs of the real studies, fitted, and their parameters found again."""

# xarray labels are untyped
# pyright: reportArgumentType=false

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osteobayes.errors import LockedError, OsteobayesError, RunError
from osteobayes.fit import Run, Settings
from osteobayes.fit.diagnose import convergence
from osteobayes.fit.hmc import Sampler
from osteobayes.fit.lanes import Lanes
from osteobayes.fit.run import build_model, draws_of, find_start, sample
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import locked, write_json
from osteobayes.fit.workers import Chains, cores, in_threads
from osteobayes.model import Model, likelihood
from osteobayes.model.redraw import redrawn
from osteobayes.model.transform import constrain
from osteobayes.paths import shipped
from osteobayes.precision import enable_compile_cache, jit, require_float64

LEVEL = 0.9
ESS_GOAL = 200.0
MOST = 3
LEAST_OF_20 = 12
"""Datasets of 20 in which a parameter's 90 % interval must hold it; by chance 11 or fewer happen in 6 of 100,000 parameters."""
PLAN, SUMMARY = "plan.json", "summary.json"
TRIES = 50


def plan(datasets: int, settings: Settings) -> dict[str, Any]:
    """What a recovery study does; its folder keeps it, and refuses another."""
    return {"datasets": datasets, "settings": json.loads(json.dumps(asdict(settings)))}


def _complete(planned: Mapping[str, Any]) -> dict[str, Any]:
    """A plan that an earlier version wrote, with the settings that came since."""
    return {**planned, "settings": json.loads(json.dumps(asdict(Settings.of(planned["settings"]))))}


def _model(planned: Mapping[str, Any]) -> tuple[Model, Settings]:
    settings = Settings.of(planned["settings"])
    return build_model(shipped("datasets"), shipped("priors"), None, settings), settings


class Study:
    """A recovery study in this process: the model, its compiled programs, and what is done with one dataset.

    Parameters
    ----------
    planned
        :func:`plan`.
    prior_only
        :attr:`osteobayes.model.Model.prior_only`, if it is known.
    """

    ess_goal = ESS_GOAL
    tries = TRIES

    def __init__(self, planned: Mapping[str, Any], prior_only: tuple[str, ...] | None = None) -> None:
        require_float64()
        self.commit = commit()
        self.model, self.settings = _model(planned)
        if prior_only is not None:
            self.model.__dict__["prior_only"] = prior_only
        self.data = self.model.sampling_data
        self.sampler = self.settings.sampler(self.model)
        model = self.model

        def drawn(key: Any, data: Any, hyper: Any) -> tuple[Any, ...]:
            truth = data | {"hyper": hyper}
            values = model.values(model.draw_prior(key, truth), truth)
            new = redrawn(model, jax.random.fold_in(key, 1), values, data)
            expected, _ = model.expected(values, new)
            terms = [likelihood.log_lik(f, new["observed"][f], a) for f, a in expected.items()]
            return values, new, sum(x.sum() for x in terms)

        def natural(z: Any, key: Any, data: Any) -> dict[str, Any]:
            sites = constrain(model.sampled, self.sampler.unravel(z))
            return model.values(
                model.priors.sample(key, data["hyper"], model.coords, names=model.prior_only, given=sites), data
            )

        self._drawn, self._natural = jit(drawn), jit(jax.vmap(natural, in_axes=(0, 0, None)))

    @property
    def parameters(self) -> list[str]:
        """Parameters that the evidence informs, a random variable of theirs being sampled."""
        informed = {s.parameter for s in self.model.sampled.values()}
        return [n for n, p in self.model.priors.parameters.items() if n in informed and p.sampled]

    def dataset(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
        """True parameters on the natural scale, the data drawn at them, and how many prior draws had no finite likelihood before.

        Raises
        ------
        RunError
            If none of :data:`TRIES` prior draws has a finite likelihood at its own data.
        """
        for t in range(self.tries):
            key = jax.random.fold_in(jax.random.key(self.settings.seed * 100_003 + number), t)
            values, data, total = self._drawn(key, self.data, self.data["hyper"])
            if np.isfinite(float(total)):
                return {k: np.asarray(x) for k, x in values.items()}, data, t
        raise RunError(f"dataset {number}: none of {self.tries} prior draws has a finite likelihood at its own data")

    def compile(self) -> None:
        """Compile what :meth:`fit` runs."""
        self.sampler.compile(self.data)

    def fit(self, number: int, folder: Path) -> dict[str, Any]:
        """Fit one dataset; its start and blocks are kept in ``folder`` until it is done, so that an interrupted fit goes on.

        As long as a scalar has fewer effective draws than :attr:`ess_goal`, half as many draws again are added, :data:`MOST` times
        those asked for at most.
        """
        data = self.dataset(number)[1]
        with in_threads(self.sampler, data, 1) as chains:
            return self._fit(number, folder, self.sampler, chains)

    def fit_side_by_side(self, numbers: Sequence[int], folder: Path, lanes: Lanes) -> list[dict[str, Any] | Exception]:
        """The same for many datasets, with the programs over lanes for their data; an error of one is returned."""
        return lanes.run([lambda s, n=n: self._fit(n, folder / f"{n:03d}", s, s.chains) for n in numbers])

    def _fit(self, number: int, folder: Path, sampler: Sampler, chains: Chains) -> dict[str, Any]:
        begun = time.time()
        truth, data, redone = self.dataset(number)
        draws, told = self._sampled(data, folder, sampler, chains)
        rows = self._rows(truth, self.values_of(draws, number, data))
        return {
            "dataset": number,
            "commit": self.commit,
            "redone": redone,
            "seconds": time.time() - begun,
            **told,
            "rows": rows,
        }

    def _sampled(
        self, data: dict[str, Any], folder: Path, sampler: Sampler, chains: Chains
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws [chain, draw, parameter] of a fit to ``data``, and its diagnostics."""
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
        run = Run(folder, {"model": self.model})
        find_start(run, sampler, data, self.settings, lambda text: None)
        settings = self.settings
        while True:
            sample(run, sampler, chains, data, settings, lambda done, total, text: None)
            draws, stats = draws_of(run)
            judged = convergence(draws)
            if np.min(judged.bulk) >= self.ess_goal or settings.draws >= MOST * self.settings.draws:
                break
            settings = replace(settings, draws=settings.draws + self.settings.draws // 2)
        return draws, {
            "draws": draws.shape[1], "max_rhat": float(np.max(judged.rhat)), "min_ess_bulk": float(np.min(judged.bulk)),
            "min_ess_tail": float(np.min(judged.tail)), "divergences": int(stats["diverging"].sum()),
        }  # fmt: skip

    def values_of(self, draws: np.ndarray, number: int, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Parameters on the natural scale [draw, ...] of unconstrained draws [..., parameter]."""
        flat = jnp.asarray(draws.reshape(-1, draws.shape[-1]))
        keys = jax.random.split(jax.random.key(number), len(flat))
        return {k: np.asarray(v) for k, v in self._natural(flat, keys, data).items()}

    def _rows(self, truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        rows = []
        for name in self.parameters:
            levels = [self.model.coords[d] for d in self.model.priors[name].dims]
            for at in np.ndindex(*truth[name].shape):
                x = found[name][(slice(None), *at)]
                low, mid, high = np.quantile(x, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
                rows.append(
                    {
                        "parameter": name, "level": ", ".join(v[i] for v, i in zip(levels, at, strict=True)),
                        "true": float(truth[name][at]), "low": float(low), "median": float(mid), "high": float(high),
                        "rank": float((x < truth[name][at]).mean()),
                    }
                )  # fmt: skip
        return rows


def commit() -> str | None:
    """Commit of the source that runs, ``+`` behind it if files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def work(folder: Path, first: int, step: int, study: Callable[[Mapping[str, Any]], Study] = Study) -> None:
    """Fit every ``step``-th dataset of a planned study, from ``first`` on, that has no result yet."""
    enable_compile_cache()
    planned = json.loads((folder / PLAN).read_text())
    mine = [i for i in range(first, planned["datasets"], step) if not _result(folder, i).exists()]
    if not mine:
        return
    one = study(planned)
    one.compile()
    for i in mine:
        begun = time.time()
        dataset = folder / f"{i:03d}"
        dataset.mkdir(exist_ok=True)
        try:
            with locked(dataset):
                if _result(folder, i).exists():
                    continue
                found = one.fit(i, dataset)
        except LockedError:  # another process works on it
            continue
        except (OsteobayesError, ArithmeticError, np.linalg.LinAlgError) as error:  # of this dataset; the next go on
            sentence = f"{type(error).__name__}: {error}"
            found = {"dataset": i, "commit": one.commit, "seconds": time.time() - begun, "error": sentence, "rows": []}
        write_json(_result(folder, i), found)


def _said(one: Mapping[str, Any]) -> str:
    """Sentence of a dataset's result."""
    if "error" in one:
        return f"dataset {one['dataset']}: {one['error']}"
    return (
        f"dataset {one['dataset']}: {one['seconds']:.0f} s, R-hat {one['max_rhat']:.3f}, bulk ESS {one['min_ess_bulk']:.0f}, "
        f"{one['divergences']} divergences"
    )


def errors(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Sentences of the datasets whose fit ended in an error."""
    return [_said(one) for one in results if "error" in one]


def _result(folder: Path, number: int) -> Path:
    return folder / f"{number:03d}.json"


def work_all(
    folder: Path,
    planned: Mapping[str, Any],
    module: str,
    report: Callable[[str], None],
    jobs: int | None,
    stop: Stop,
    shard: tuple[int, int] = (1, 1),
) -> list[dict[str, Any]]:
    """Fit the datasets of a planned study that have no result yet, in processes of one core each; all results.

    Parameters
    ----------
    folder
        Folder of the study, created; what is there goes on.
    planned
        What the study does, with ``datasets``: how many.
    module
        Module whose ``work(folder, first, step)`` a process runs.
    report
        Called with sentences.
    jobs
        Processes; default: as many as there are cores.
    stop
        Asked now and then whether to go on.
    shard
        ``(i, n)``: only every n-th dataset from the i-th on, for several machines.

    Raises
    ------
    RunError
        If the folder holds another study, or a process ended before its datasets were done.
    Interrupted
        If ``stop`` says so; blocks that are done are kept.
    """
    if (folder / PLAN).exists() and _complete(json.loads((folder / PLAN).read_text())) != planned:
        raise RunError(f"{folder}: the folder holds a study with other settings; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, dict(planned))
    datasets, (i, shards) = planned["datasets"], shard
    mine = range(i - 1, datasets, shards)
    parts = max(1, min(jobs or cores(), len(mine)))
    environment = os.environ | {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    code = f"import sys; from pathlib import Path; from {module} import work; work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
    report(f"{len(mine)} datasets in {parts} processes (compiling takes a few minutes the first time)")
    processes = []
    try:
        for part in range(parts):
            command = [sys.executable, "-c", code, str(folder), str(i - 1 + shards * part), str(shards * parts)]
            processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
        seen: set[int] = set()
        while True:
            running = [p for p in processes if p.poll() is None]
            for n in mine:
                if n not in seen and _result(folder, n).exists():
                    seen.add(n)
                    one = json.loads(_result(folder, n).read_text())
                    report(_said(one))
            if not running:
                break
            stop.check(folder, f"{len(seen)} of {len(mine)} datasets are done", again="the same command")
            time.sleep(0.5)
    finally:
        for p in processes:
            p.kill()
            p.wait()
    if missing := [n for n in mine if not _result(folder, n).exists()]:
        codes = sorted({p.returncode for p in processes})
        raise RunError(
            f"{folder}: datasets {', '.join(map(str, missing))} were not fitted (exit codes {codes}; what the processes printed "
            "stands above; or others work on them); the same command goes on from there"
        )
    return [json.loads(_result(folder, n).read_text()) for n in range(datasets) if _result(folder, n).exists()]


def recover(
    out: str | Path,
    datasets: int = 20,
    report: Callable[[str], None] = lambda text: None,
    jobs: int | None = None,
    stop: Stop | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Draw datasets from the prior on the real designs, fit each, and count how often intervals hold the truth.

    Parameters
    ----------
    out
        Folder, created; a study that was interrupted there goes on.
    datasets
        How many.
    report
        Called with sentences.
    jobs
        Processes, each with one core; default: as many as there are cores.
    stop
        Asked now and then whether to go on (default: always).
    **settings
        Fields of :class:`osteobayes.fit.Settings`.

    Returns
    -------
    dict
        ``command``, ``plan``, ``fingerprint`` (of designs, priors, agents and grid), ``coverage`` over all pairs, ``parameters``
        (how often each scalar was inside), ``fits`` (diagnostics of each, and the commit), ``intervals`` (true, low, high) and ``short``: what fell
        short, in sentences. The folder has it as ``summary.json``.

    Raises
    ------
    RunError
        If the folder holds another study, or a process ended before its datasets were done.
    """
    folder = Path(out)
    planned = plan(datasets, Settings(**settings))
    found = summarise(planned, work_all(folder, planned, __name__, report, jobs, stop or Stop()))
    found = {
        "command": study_command("recover", "datasets", planned),
        **found,
        "fingerprint": _model(planned)[0].fingerprint(),
    }
    write_json(folder / SUMMARY, found)
    return found


def study_command(name: str, count: str, planned: Mapping[str, Any]) -> str:
    """The command that makes a study of so many datasets."""
    settings = planned["settings"]
    options = {
        count: planned["datasets"],
        **{k: settings[k] for k in ("select", "chains", "draws", "tune", "target", "seed")},
    }
    cancers = "".join(f" --cancer {c}" for c in settings["cancers"] or ())
    return f"osteobayes {name} FOLDER" + "".join(f" --{k} {v}" for k, v in options.items()) + cancers


def summarise(planned: Mapping[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage over all pairs of parameter and dataset, and by parameter.

    Parameters
    ----------
    planned
        :func:`plan`.
    results
        What :meth:`Study.fit` returns, one a dataset.
    """
    if not any(one["rows"] for one in results):
        raise OsteobayesError("; ".join(["there is no dataset to summarise", *errors(results)]))
    inside: dict[str, list[bool]] = {}
    for one in results:
        for r in one["rows"]:
            label = r["parameter"] + (f"[{r['level']}]" if r["level"] else "")
            inside.setdefault(label, []).append(r["low"] <= r["true"] <= r["high"])
    every = [x for xs in inside.values() for x in xs]
    least = LEAST_OF_20 / 20 * sum("error" not in one for one in results)
    short = [
        *errors(results),
        *(f"{k} inside in {sum(v)} of {len(v)} datasets" for k, v in inside.items() if sum(v) < least),
        *(
            f"dataset {o['dataset']}: bulk ESS {o['min_ess_bulk']:.0f}"
            for o in results
            if o.get("min_ess_bulk", ESS_GOAL) < ESS_GOAL
        ),
    ]
    return {
        "plan": dict(planned), "level": LEVEL, "coverage": float(np.mean(every)), "pairs": len(every),
        "parameters": {k: int(sum(v)) for k, v in inside.items()},
        "fits": [{k: v for k, v in one.items() if k != "rows"} for one in results], "short": short,
        "intervals": {
            str(one["dataset"]): {
                r["parameter"] + (f"[{r['level']}]" if r["level"] else ""): [r["true"], r["low"], r["high"]]
                for r in one["rows"]
            }
            for one in results
        },
    }  # fmt: skip
