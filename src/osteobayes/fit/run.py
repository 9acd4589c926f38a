"""Runs: a folder with the inputs verbatim, the draws in blocks with the sampler's state, diagnostics and the result."""

import io
import json
import os
import platform
import resource
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpyro.infer.hmc import HMCState

from osteobayes.cycle import DEFAULT_GRID, Catalogue, Grid, Regimen
from osteobayes.errors import RunError
from osteobayes.evidence import Evidence
from osteobayes.fit import start
from osteobayes.fit.geometry import Arrays
from osteobayes.fit.hmc import FIRST_STEP, PROGRAMS, Sampler, state_arrays, state_from, step_for, with_step
from osteobayes.fit.programs import Programs
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import (
    LOCK,
    SUFFIXES,
    Blocks,
    load_arrays,
    locked,
    save_arrays,
    unpack,
    whole,
    write_atomically,
    write_json,
)
from osteobayes.fit.workers import Chains, cores, in_processes, in_threads, peak_gib, resident_gib
from osteobayes.model import Data, Model
from osteobayes.model.transform import constrain
from osteobayes.paths import shipped
from osteobayes.precision import cpu_tag, require_float64
from osteobayes.priors import PriorSet, therapies_of
from osteobayes.solve import METHODS

ALGORITHM = "numpyro/calibrate"
"""The sampler of `calibrate`, whose runs are resumed within a chain."""
FORMAT = 6
"""Of the blocks of a run: phases of the warm-up, coordinates, states."""
WARM_UP = (0, 1, 2, 3)
"""Phases of the warm-up, as blocks record them."""
SAMPLING = 4
"""Phase whose draws are kept."""
WARM_UP_SHARE = 2.0 / 3.0
"""Length of trajectories in the warm-up but its last phase, as a share of those while sampling."""
POINTS = 8
"""Draws at which warm-up measures the curvature of the density, at most."""
DRAWS_A_POINT = 14
"""Draws for each of them."""
PSEUDO_DRAWS = 300
"""Draws that the mean curvature counts for in the metric."""
EXCESS = 0.75
"""Power of the variance of long tails that the metric keeps: all of it would make steps shorter by more than it widens them."""
LEARNED = "coordinates.npz"
"""File of a run with the coordinates that the first phase of warm-up found."""
BEFORE_MANIFEST = {LOCK, "blocks", "inputs.zip", "inputs.zip.part", "manifest.json.part"}
"""What a run that ended before its manifest was written leaves: it was not begun."""
STACK = ("jax", "jaxlib", "numpyro", "numpy", "scipy", "arviz", "xarray", "diffrax", "equinox", "pymc", "pytensor")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Settings of a fit; stored in the manifest.

    ``tune`` has four phases of a quarter: the first moves in the coordinates of the Laplace approximation at the best mode; the
    second in coordinates, and with a metric, made from the draws of the first; the third and the last (and sampling) with a
    metric from all draws before them. The step size is one of all chains, set anew before every block from how much the
    blocks before it accepted; trajectories are shorter than while sampling,
    but in the last phase, which sets the step for it.
    """

    chains: int = 4
    draws: int = 1000
    tune: int = 450
    seed: int = 0
    cancers: tuple[str, ...] | None = None
    select: str = "core"
    """Selection of studies (``selections.yaml`` of the data); ``all`` for every study."""
    without: tuple[str, ...] = ()
    """Studies that are left out."""
    weights: tuple[tuple[str, float], ...] = ()
    """Weights of studies or single outcomes in the likelihood (:meth:`osteobayes.evidence.pack.Packed.weighted`); the others have 1."""
    model: str = "core"
    """``core``: a cell runs the modules that its agents switch on; ``full``: all modules in every cell."""
    joint: bool = False
    """All correlated numbers of the same patients in one law, instead of one total an arm (:meth:`Model.build`)."""
    shared_frailty: bool = False
    """The frailty of skeletal events multiplies death too."""
    starts: int = 4
    search_iterations: int = 400
    target: float = 0.93
    """Share of proposals to be accepted: the larger, the shorter the steps, and the fewer trajectories diverge."""
    trajectory: float = 6.0
    """Length of the longest trajectory (:class:`osteobayes.fit.hmc.Sampler`)."""
    block: int = 25
    prior_draws: int = 1000
    grid: tuple[float, int, int, int | None] = astuple(DEFAULT_GRID)  # pyright: ignore[reportAssignmentType]
    """:class:`osteobayes.cycle.Grid`: days between outputs, outputs, solver steps in each of the first intervals, how many those are."""
    method: str = "trapezoid"
    """How the cells are solved while sampling (:data:`osteobayes.solve.METHODS`): of second order, in half the time of the default, in
    whose place predictions never have it. What that costs is in ``diagnostics.json`` (``solver``)."""
    algorithm: str = ALGORITHM
    """Back end and sampler. That of the default goes on after any interruption, from its last block; with others
    (:data:`osteobayes.fit.samplers.SAMPLERS`) finished chains are kept (:mod:`osteobayes.fit.by_chain`)."""
    lanes: int | None = None
    """Lanes of one call, if the run is one of many that are fitted side by side (:mod:`osteobayes.fit.lanes`); 0: as many as the devices'
    memory holds (the run keeps that number); None: it is fitted alone. The draws do not depend on the other fits, but differ from those
    of a fit alone in the last bits."""
    processes: int | None = None
    """Processes that run the chains; 1: threads of this one; None: one a core where that pays (long runs on a CPU)."""

    def __post_init__(self) -> None:
        for name in ("chains", "draws", "tune", "starts", "block"):
            if getattr(self, name) < 1:
                raise RunError(f"setting `{name}` must be at least 1, found {getattr(self, name)}")
        if self.lanes is not None and self.lanes < 0:
            raise RunError(f"setting `lanes` must be at least 0, found {self.lanes}")
        if self.lanes is not None and self.algorithm != ALGORITHM:
            raise RunError(
                f"setting `lanes` needs the algorithm {ALGORITHM}, found {self.algorithm}: leave one of the two out"
            )
        if not 0.0 < self.target < 1.0:
            raise RunError(f"setting `target` must lie between 0 and 1, found {self.target}")
        if self.method not in METHODS:
            raise RunError(f"setting `method` must be one of {', '.join(METHODS)}, found {self.method!r}")
        if self.model not in ("core", "full"):
            raise RunError(f"setting `model` must be core or full, found {self.model!r}")

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Settings":
        """Settings from what JSON kept of them.

        Raises
        ------
        RunError
            If there are others than this version knows.
        """
        if unknown := sorted(set(content) - {f.name for f in fields(cls)}):
            raise RunError(f"the run has settings that this version does not know ({', '.join(unknown)}): fit it again")
        tuples = {n: tuple(content[n]) for n in ("grid", "without", "cancers") if content[n] is not None}
        tuples["weights"] = tuple((name, weight) for name, weight in content.get("weights", ()))
        return cls(**{**content, **tuples})

    @property
    def warm_up(self) -> tuple[int, ...]:
        """Iterations of each phase of the warm-up, in whole blocks."""
        ends = np.round(np.linspace(0.0, max(round(self.tune / self.block), len(WARM_UP)), len(WARM_UP) + 1))
        return tuple(self.block * int(n) for n in np.diff(ends))

    def sampler(self, model: Model, potential: Callable[..., Any] | None = None) -> Sampler:
        """The sampler of a model under these settings (``potential``: as of :class:`Sampler`)."""
        return Sampler(model, self.target, self.trajectory, self.block, self.method, potential)

    @property
    def sampling(self) -> int:
        """Draws a chain, in whole blocks."""
        return max(1, round(self.draws / self.block)) * self.block


def _zip_inputs(path: Path, data: Sequence[Path], priors: Path, overlay: Path | None) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        folders = [(folder, f"datasets_{i}" if i else "datasets") for i, folder in enumerate(data)]
        borrowed = [] if (priors / "therapies").is_dir() else [(therapies_of(priors), "priors/therapies")]
        for folder, name in (*folders, (priors, "priors"), *borrowed):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.suffix in SUFFIXES:
                    entry = zipfile.ZipInfo(f"{name}/{file.relative_to(folder).as_posix()}")
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
        if overlay is not None:
            archive.writestr(zipfile.ZipInfo("overlay.yaml"), overlay.read_bytes(), zipfile.ZIP_DEFLATED)
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Run:
    """A fit on disk. Opening one rebuilds from its inputs and executes nothing of it."""

    path: Path
    _memory: dict = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Open a run folder.

        Raises
        ------
        RunError
            If it is not a run, or not finished.
        """
        run = cls(Path(path))
        if run.manifest["status"] != "finished":
            raise RunError(f"{run.path}: the run is not finished; continue it with `osteobayes resume {run.path}`")
        return run

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Settings, versions, hashes, timings."""
        file = self.path / "manifest.json"
        if not file.is_file():
            raise RunError(f"{self.path}: not a run folder (no manifest.json)")
        return json.loads(file.read_text())

    @cached_property
    def diagnostics(self) -> dict[str, Any]:
        """What `diagnostics.json` says."""
        return json.loads((self.path / "diagnostics.json").read_text())

    @cached_property
    def tree(self) -> xr.DataTree:
        """All groups: posterior, sample_stats, log_likelihood, log_prior, posterior_predictive, prior, ..."""
        return xr.open_datatree(self.path / "results.nc", engine="h5netcdf").load()

    @cached_property
    def settings(self) -> Settings:
        """Settings of the fit."""
        return Settings.of(self.manifest["settings"])

    @cached_property
    def model(self) -> Model:
        """The model, rebuilt from the inputs in the folder."""
        if "model" in self._memory:
            return self._memory["model"]
        with TemporaryDirectory() as folder:
            root = Path(folder)
            unpack(self.path / "inputs.zip", root)
            overlay = root / "overlay.yaml"
            data = sorted(root.glob("datasets*"), key=lambda p: int(p.name.partition("_")[2] or 0))
            return build_model(data, root / "priors", overlay if overlay.exists() else None, self.settings)

    @cached_property
    def start(self) -> dict[str, np.ndarray]:
        """Optima, their Laplace weights, and the first coordinates (``start.npz``)."""
        return load_arrays(self.path / "start.npz")

    def coordinates(self, phase: int) -> Arrays:
        """The sampler's coordinates in a phase."""
        found = self.start if phase == WARM_UP[0] else load_arrays(self.path / LEARNED)
        return {k.removeprefix("geometry_"): jnp.asarray(v) for k, v in found.items() if k.startswith("geometry_")}

    @property
    def blocks(self) -> Blocks:
        """Draws of finished blocks, and the chains' states."""
        return Blocks(self.path / "blocks")

    @property
    def lacks_predictions(self) -> bool:
        """Finished, and `osteobayes calibrate` ended before it had written its predictions."""
        return self.manifest["status"] == "finished" and not (self.path / "predictions.json").exists()

    def __str__(self) -> str:
        text = f"run {self.path.name}: {self.manifest['status']}"
        return f"{text}; {self.diagnostics['sentence']}" if self.manifest["status"] == "finished" else text


def build_model(data: Path | Sequence[Path], priors: Path, overlay: Path | None, settings: Settings) -> Model:
    """Model of data folders and a prior folder; regimens are checked while reading."""
    catalogue = Catalogue.load(therapies_of(priors))

    def check(text: str) -> None:
        Regimen.parse(text, catalogue)

    folders = [data] if isinstance(data, Path) else data
    evidence = Evidence.load(*folders, check_regimen=check).choose(settings.select)
    if settings.without:
        evidence = evidence.drop(settings.without)
    if settings.cancers:
        evidence = evidence.select(cancer=settings.cancers)
    model = Model.build(
        evidence, PriorSet.load(priors, overlay), Grid(*settings.grid), catalogue, full=settings.model == "full",
        joint=settings.joint, shared_frailty=settings.shared_frailty,
    )  # fmt: skip
    return replace(model, packed=model.packed.weighted(dict(settings.weights))) if settings.weights else model


def calibrate(
    data: str | Path | Sequence[str | Path] | None = None,
    priors: str | Path | None = None,
    out: str | Path | None = None,
    overlay: str | Path | None = None,
    report: Report = lambda text: None,
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
    beside: Callable[[Run], None] = lambda run: None,
    stop: Stop | None = None,
    programs: Programs | None = None,
    **settings: Any,
) -> Run:
    """Fit the model to published numbers.

    Parameters
    ----------
    data, priors, overlay
        Folder (or folders) of datasets, folder of priors (defaults: those that ship), overlay file that changes some priors.
    out
        Run folder, created; default ``runs/<time>``.
    report, advance
        Called with sentences, and with (iterations done, total, text).
    beside
        Called with the run in a thread of its own while the draws are summarised.
    stop
        Asked after every block whether to go on (default: always).
    programs
        Programs of fits before this one in this process, which it shares if its shapes are theirs.
    **settings
        Fields of :class:`Settings`.

    Returns
    -------
    Run
        Finished; also when its diagnostics say that it may not be used.

    Raises
    ------
    EvidenceError, PriorError, RegimenError
        Bad input, before anything is written.
    RunError
        If ``out`` exists, the disk is full, or no start reached a finite density.
    Interrupted
        If ``stop`` says so; the run can be resumed.
    """
    with new_run(data, priors, out, overlay, report, **settings) as run:
        return _continue(run, report, advance, beside, stop or Stop(), programs or Programs())


@contextmanager
def new_run(
    data: str | Path | Sequence[str | Path] | None,
    priors: str | Path | None,
    out: str | Path | None,
    overlay: str | Path | None,
    report: Report,
    **settings: Any,
) -> Iterator[Run]:
    """A new run, locked: its folder with inputs and manifest; arguments and errors are those of :func:`calibrate`."""
    require_float64()
    tick = time.time()
    chosen = Settings(**settings)
    if chosen.algorithm != ALGORITHM:
        from osteobayes.fit import by_chain

        by_chain.check(chosen.algorithm)
    chosen = replace(chosen, processes=_processes(chosen))
    given = shipped("datasets") if data is None else data
    data_folders = [Path(given)] if isinstance(given, str | Path) else [Path(folder) for folder in given]
    prior_folder = Path(priors) if priors is not None else shipped("priors")
    overlay_file = Path(overlay) if overlay is not None else None
    model = build_model(data_folders, prior_folder, overlay_file, chosen)
    if chosen.lanes == 0:
        from osteobayes.fit.side_by_side import fitting

        chosen = replace(chosen, lanes=fitting(model, chosen))
    path = Path(out) if out is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    there = {p.relative_to(path).as_posix() for p in path.rglob("*")} if path.exists() else set()
    if there - BEFORE_MANIFEST:
        raise RunError(f"{path}: the folder exists and is not empty; choose another --out, or resume it")
    report(str(model))
    if left := model.packed.left_out:
        report(
            f"{len(left)} rows marked `fit` are left out: the model cannot use them yet (`osteobayes validate` says why)"
        )
    path.mkdir(parents=True, exist_ok=True)
    versions = {p: metadata.version(p) for p in STACK}
    manifest = {
        "format": FORMAT, "status": "running", "settings": asdict(chosen), "fingerprint": model.fingerprint(),
        "versions": versions | {"osteobayes": metadata.version("osteobayes"), "python": platform.python_version()},
        "device": _device(chosen),
        "assumed": list(model.packed.assumed), "prior_only": None, "timings": {"begun": tick},
    }  # fmt: skip
    with locked(path):
        if chosen.algorithm == ALGORITHM:
            (path / "blocks").mkdir(exist_ok=True)
        _zip_inputs(path / "inputs.zip", data_folders, prior_folder, overlay_file)
        write_json(path / "manifest.json", manifest)
        yield Run(path, {"model": model})


def _device(settings: Settings) -> dict[str, Any]:
    """Engine and machine of a fit: with others its draws differ, if only in the last bits."""
    threads = settings.processes == 1
    engine = f"{settings.lanes} lanes" if settings.lanes else "threads" if threads else "processes"
    return {
        "backend": jax.default_backend(), "kind": jax.devices()[0].device_kind, "devices": jax.device_count(), "cpu": cpu_tag(),
        "engine": engine, "cores": cores() if threads else 1,
        "flags": " ".join(sorted(os.environ.get("XLA_FLAGS", "").split())),
    }  # fmt: skip


def resume(
    path: str | Path,
    report: Report = lambda text: None,
    advance: Callable[[int, int, str], None] = lambda d, t, x: None,
    beside: Callable[[Run], None] = lambda run: None,
    draws: int | None = None,
    stop: Stop | None = None,
    take_over: bool = False,
    programs: Programs | None = None,
) -> Run:
    """Continue an interrupted run, or add draws to a finished one; the draws are those of an uninterrupted run.

    Parameters
    ----------
    path
        The run folder.
    report, advance, beside
        As of :func:`calibrate`.
    draws
        Draws a chain in all, more than the run has; None: as many as it was asked for.
    stop
        As of :func:`calibrate`.
    take_over
        Work on the run although its lock says that another process does (:func:`osteobayes.fit.store.locked`).
    programs
        As of :func:`calibrate`.

    Raises
    ------
    RunError
        If the run is finished (and no more draws are asked for), another process works on it, it was made by another version,
        with another engine or on another kind of device, or its inputs changed.
    Interrupted
        If ``stop`` says so.
    """
    if not (Path(path) / "manifest.json").is_file():
        raise RunError(f"{path}: not a run folder (no manifest.json); if a calibration was begun there, repeat it")
    with locked(Path(path), take_over):
        run = reopened(Run(Path(path)), report, draws)
        return _continue(run, report, advance, beside, stop or Stop(), programs or Programs())


def reopened(run: Run, report: Report, draws: int | None = None) -> Run:
    """An interrupted run (or one that gets more draws) that can go on, what is not whole in it made good; errors as of :func:`resume`."""
    if run.manifest["format"] != FORMAT:
        raise RunError(
            f"{run.path}: another version of osteobayes began this run (format {run.manifest['format']}, this one goes on "
            f"from {FORMAT}): fit it again"
        )
    more = draws is not None and replace(run.settings, draws=draws).sampling > run.settings.sampling
    if run.manifest["status"] == "finished" and not more:
        raise RunError(
            f"{run.path}: the run is finished with {run.settings.sampling} draws a chain; "
            "there is nothing to resume unless you ask for more draws"
        )
    was, now = run.manifest["device"], _device(run.settings)
    if other := [f"{key} {was[key]!r} (now {now[key]!r})" for key in now if was[key] != now[key]]:
        raise RunError(f"{run.path}: made with {', '.join(other)}; draws would differ, so resume it as it was begun")
    if run.model.fingerprint() != run.manifest["fingerprint"]:
        raise RunError(f"{run.path}: inputs.zip does not match the manifest; the folder was changed")
    if run.settings.algorithm != ALGORITHM:
        if more:
            raise RunError(
                f"{run.path}: draws cannot be added to a run of {run.settings.algorithm}; fit it again with more"
            )
        return run
    if more:
        settings = run.manifest["settings"] | {"draws": draws}
        write_json(run.path / "manifest.json", run.manifest | {"status": "running", "settings": settings})
        run = Run(run.path, {"model": run.model})
    for file, made in (("start.npz", ()), (LEARNED, [run.path / "blocks"])):
        if not whole(run.path / file):
            report(f"{run.path}/{file} is not whole: it is made again")
            for path in ((run.path / file), *(p for folder in made for p in folder.iterdir())):
                path.unlink()
    run.blocks.mend(report)
    return run


LONG = 1000
"""Iterations of all chains together from which processes of their own pay (each costs about half a minute to start)."""


def _processes(settings: Settings) -> int:
    if settings.algorithm != ALGORITHM or settings.lanes is not None:
        return 1
    if settings.processes is not None:
        return settings.processes
    long = settings.chains * (sum(settings.warm_up) + settings.sampling) >= LONG
    return _workers(settings) if long and jax.default_backend() == "cpu" else 1


def _workers(settings: Settings) -> int:
    return max(1, min(settings.chains, cores()))


def _continue(
    run: Run,
    report: Report,
    advance: Callable[[int, int, str], None],
    beside: Callable[[Run], None],
    stop: Stop,
    programs: Programs,
) -> Run:
    begun, stop.run = time.time(), run.path
    settings, model = run.settings, run.model
    if settings.algorithm != ALGORITHM:
        from osteobayes.fit import by_chain

        done = by_chain.run_chains(run, report, stop, programs)
        beside(done)
        return done
    run._memory["model"] = model
    if settings.lanes:
        from osteobayes.fit import side_by_side

        sampler = side_by_side.sample_all([run], programs, report, advance, stop)[0]
        if isinstance(sampler, Exception):
            raise sampler
        assert sampler is not None
        timings = dict(run.manifest["timings"])
        timings["sampling_gib"] = max(timings.get("sampling_gib", 0.0), resident_gib())
        return _finish(run, sampler, report, beside, timings)
    processes = settings.processes or 1
    report("compiling (about two minutes on two cores)")
    with ExitStack() as stack:
        prior_only: Future[tuple[str, ...]] = Future()
        gradients: Future[None] = Future()
        peaks: dict[int, float] = {}
        if processes > 1:  # they start up and compile beside what follows
            chains = stack.enter_context(in_processes(run.path, processes, prior_only, gradients, peaks))
        sampler = programs.enter(model, settings, settings.sampler, run.manifest["prior_only"])
        prior_only.set_result(note_prior_only(run))
        run._memory["programs"] = programs.kept
        data, names = model.sampling_data, PROGRAMS if processes == 1 else PROGRAMS[:1]
        sampler.lower(data, names)
        if processes == 1:
            chains = stack.enter_context(in_threads(sampler, data, _workers(settings)))
        else:
            gradients.result()
        report(f"{sum(int(np.prod(s.shape)) for s in model.sampled.values())} sampled scalars")
        sampler.compile(data, names)
        timings = dict(run.manifest["timings"])
        timings["compile_s"] = timings.get("compile_s", 0.0) + time.time() - begun
        tick = time.time()
        find_start(run, sampler, data, settings, report)
        searching = peak_gib(resource.RUSAGE_SELF)
        timings["search_s"] = timings.get("search_s", 0.0) + time.time() - tick
        tick = time.time()
        sample(run, sampler, chains, data, settings, advance, stop)
    # the search ran beside the process that compiles, the largest that has ended; sampling beside the workers
    beside_search, beside_sampling = peak_gib(resource.RUSAGE_CHILDREN), sum(peaks.values())
    timings["sampling_gib"] = max(searching + beside_search, resident_gib() + beside_sampling)
    timings["sampling_s"] = timings.get("sampling_s", 0.0) + time.time() - tick
    timings["wall_s"] = timings.get("wall_s", 0.0) + time.time() - begun
    return _finish(run, sampler, report, beside, timings)


def _finish(
    run: Run, sampler: Sampler, report: Report, beside: Callable[[Run], None], timings: dict[str, float]
) -> Run:
    """Summarise the draws of a run that is sampled."""
    report("summarising the draws")
    from osteobayes.fit import result

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(beside, run)
        result.finish(run, sampler, *draws_of(run), run.start, timings)
        other.result()
    run.blocks.merge()
    manifest = run.manifest | {"status": "finished", "timings": timings}
    write_json(run.path / "manifest.json", manifest)
    for name in ("manifest", "diagnostics"):
        run.__dict__.pop(name, None)
    return run


def find_start(run: Run, sampler: Sampler, data: Data, settings: Settings, report: Report) -> None:
    """Search for optima and write ``start.npz``, unless it is there."""
    file = run.path / "start.npz"
    if not file.exists():
        report("searching for optima")
        save_arrays(file, search(sampler, data, settings, report))


def note_prior_only(run: Run) -> tuple[str, ...]:
    """`Model.prior_only`, kept in the manifest from the first time on."""
    found = run.model.prior_only
    if run.manifest["prior_only"] is None:
        write_json(run.path / "manifest.json", run.manifest | {"prior_only": found})
        run.__dict__.pop("manifest")
    return found


def held_sites(model: Model) -> list[str]:
    """Standard deviations of study effects and the like: held at a typical value during the search for optima."""
    sds = {p.between_sd for p in model.priors.parameters.values() if p.between_sd}
    return [n for n in model.sampled if n in sds]


def search(sampler: Sampler, data: Data, settings: Settings, report: Report) -> dict[str, np.ndarray]:
    """Optima of a multi-start search, their Laplace weights, the first coordinates, and where in them chains start."""
    model = sampler.model
    held = held_sites(model)
    names = sorted(model.sampled)  # the order of jax.flatten_util.ravel_pytree
    free = np.concatenate([np.full(int(np.prod(model.sampled[n].shape)), n not in held) for n in names])
    typical = np.concatenate([np.log(0.67 * np.ravel(data["hyper"][n]["scale"])) for n in names if n in held] or [[]])

    def potential(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sampler.values_and_grads(z, data)

    starts = []
    for i in range(settings.starts):
        z = 0.7 * sampler.drawn(settings.seed * 1000 + 17 + i, data)
        z[~free] = typical
        starts.append(z)
    optima = start.search(potential, starts, free, _workers(settings), settings.search_iterations, report)
    modes = start.mode_of_chain(optima, settings.chains)
    report(f"{len(optima)} mode(s), Laplace weights {np.round(start.weights(optima), 3).tolist()}")
    arrays, near = _geometry(sampler, data, optima[0], settings)
    at = sampler.moved(np.stack([o.z for o in optima]), arrays)
    centre = sampler.moved(near, arrays)
    spread = np.random.default_rng(settings.seed).normal(0.0, 0.7, (settings.chains, sampler.geometry.size))

    def potential_at(w: np.ndarray) -> np.ndarray:
        return sampler.moved_values_and_grads(w, data | {"geometry": arrays})[0]

    candidates = [at[modes] - at[0], at[modes] - at[0] + centre, at[modes]]
    first = start.first_points(potential_at, candidates, spread)
    return {
        "mode_of_chain": modes, "first": first, "optima": np.stack([o.z for o in optima]),
        "log_density": np.array([o.log_density for o in optima]), "log_weight": np.array([o.log_weight for o in optima]),
        "found": np.array([o.found for o in optima]), "covariance": np.stack([o.covariance for o in optima]),
        **{f"geometry_{k}": np.asarray(v) for k, v in arrays.items()},
    }  # fmt: skip


def _geometry(sampler: Sampler, data: Data, optimum: start.Optimum, settings: Settings) -> tuple[Arrays, np.ndarray]:
    """Coordinates of the Laplace approximation at a mode, with the standard deviations moved to where they are likely, and that point."""
    geometry, workers = sampler.geometry, _workers(settings)
    arrays = geometry.arrays([sampler.point(optimum.z, data, workers)])

    def moved(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sampler.moved_values_and_grads(w, data | {"geometry": arrays})

    every = np.ones(geometry.size, dtype=bool)
    w, _ = start.minimise(moved, sampler.moved(optimum.z, arrays), every, settings.search_iterations // 4)
    near = np.asarray(sampler.unconstrained(w, arrays))
    point = sampler.point(near, data, workers)
    arrays = geometry.arrays([point])
    if len(geometry.scales):
        curvature = np.diag(sampler.moved_hessian(point, data | {"geometry": arrays}))[geometry.scales]
        arrays["scale_sd"] = arrays["scale_sd"] / jnp.sqrt(jnp.clip(jnp.asarray(curvature), 0.25, 25.0))
    return arrays, near


def _learn(sampler: Sampler, data: Data, draws: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """Coordinates, and the mean curvature in them, from draws of all chains [chain, iteration, parameter]."""
    geometry = sampler.geometry
    every = draws.reshape(-1, draws.shape[-1])
    count = min(max(len(every) // DRAWS_A_POINT, 1), POINTS)
    at = np.unique(np.linspace(0, len(every) - 1, count + 2).astype(int)[1:-1])
    points = [sampler.point(z, data, _workers(settings)) for z in every[at]]
    scores = sampler.coordinates(every)[:, geometry.scales]
    arrays = geometry.arrays(points, scores.mean(axis=0), np.clip(scores.std(axis=0), 0.1, 1.5))
    curvature = np.mean([sampler.moved_hessian(p, data | {"geometry": arrays}) for p in points], axis=0)
    return {"curvature": curvature} | {f"geometry_{k}": np.asarray(v) for k, v in arrays.items()}


def _power(matrix: np.ndarray, exponent: float, low: float = 0.0, high: float = np.inf) -> np.ndarray:
    """Power of a symmetric matrix, its eigenvalues clipped first."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.clip(values, low, high) ** exponent) @ vectors.T


def refreshed_metric(draws: np.ndarray, gradients: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Metric of warm-up and sampling from draws and gradients there.

    The geometric mean of the covariance of the draws and the inverse covariance of the gradients: the noise of the two cancels
    where the posterior is Gaussian (the metric of least Fisher divergence: Seyboldt, Carlson and Carpenter 2026, as in nutpie).
    In coordinates where that mean is the identity a Gaussian has equal draws and gradients; half the covariance of their
    difference is what the variance is above one, so that directions with long tails get a power of that on top
    (:data:`EXCESS`).

    Parameters
    ----------
    draws, gradients
        Draws in the sampler's coordinates, and gradients of the negative log density [draw, parameter].
    curvature
        Mean Hessian of the negative log density at some draws [parameter, parameter], which counts as
        :data:`PSEUDO_DRAWS` draws; curvatures below 0.2 are raised to it.

    Returns
    -------
    array
        Inverse mass matrix [parameter, parameter], positive definite.
    """
    size = draws.shape[-1]
    x, g = (a - a.mean(axis=0) for a in (draws, gradients))
    n = len(x) + PSEUDO_DRAWS
    covariance = (x.T @ x + PSEUDO_DRAWS * _power(curvature, -1.0, 0.2, 1e3)) / n
    information = (g.T @ g + PSEUDO_DRAWS * _power(curvature, 1.0, 0.2, 1e3)) / n
    root, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
    mean = root @ _power(inverse @ np.linalg.inv(information) @ inverse, 0.5) @ root
    root, inverse = _power(mean, 0.5), _power(mean, -0.5)
    differs = x @ inverse - g @ root
    return root @ _power(np.eye(size) + 0.5 * differs.T @ differs / n, EXCESS) @ root


def _phases(settings: Settings) -> list[int]:
    """The phase of every block."""
    warm_up = [p for p, n in zip(WARM_UP, settings.warm_up, strict=True) for _ in range(n // settings.block)]
    return warm_up + [SAMPLING] * (settings.sampling // settings.block)


def sampled(run: Run) -> bool:
    """Whether all blocks of a run are there."""
    return (run.path / "start.npz").exists() and len(run.blocks) >= len(_phases(run.settings))


def sample(
    run: Run,
    sampler: Sampler,
    chains: Chains,
    data: Data,
    settings: Settings,
    advance: Callable[[int, int, str], None],
    stop: Stop | None = None,
) -> None:
    """Warm-up and draws of all chains from ``start.npz`` on, in blocks that the run's folder keeps; goes on after the last."""
    stop = stop or Stop()
    block = settings.block
    phases = _phases(settings)
    done = len(run.blocks)
    keys = [jax.random.PRNGKey(settings.seed * 7919 + 31 * c + 1) for c in range(settings.chains)]
    states: list[HMCState] = []
    if done:
        last, like = run.blocks.state(), jax.eval_shape(sampler.plain_state)
        states = [
            state_from({k.removeprefix(f"chain{c}_"): v for k, v in last.items() if k.startswith(f"chain{c}_")}, like)
            for c in range(settings.chains)
        ]
    total, lasted = len(phases) * block, 0.0
    coordinates: Arrays = {}
    for i, phase in enumerate(phases):
        if i < done:
            continue
        stop.check(run.path, f"{i} of {len(phases)} blocks are kept", lasted)
        begun = time.monotonic()
        enters = i == 0 or phase != phases[i - 1]
        if enters and phase != SAMPLING:
            coordinates, where, metric = _begin(run, sampler, data, settings, phase)
            states = [
                sampler.first_state(w, data | {"geometry": coordinates}, metric, jax.random.fold_in(key, phase))
                for w, key in zip(where, keys, strict=True)
            ]
        coordinates = coordinates or run.coordinates(phase)
        if phase != SAMPLING or enters:
            step = next_step(run, phase, settings.target)
            states = [with_step(s, step) for s in states]
        longest = settings.trajectory * (1.0 if phase >= WARM_UP[-1] else WARM_UP_SHARE)
        with stop.patiently():
            results = chains(states, coordinates, longest)
            states = [r[0] for r in results]
            stats = {k: np.stack([r[2][k] for r in results]) for k in results[0][2]}
            arrays = {"draws": np.stack([r[1] for r in results]), "phase": np.array([phase])}
            arrays |= {f"stat_{k}": v for k, v in stats.items()}
            kept = {f"chain{c}_{k}": v for c, s in enumerate(states) for k, v in state_arrays(s).items()}
            run.blocks.append(arrays, kept)
        lasted = time.monotonic() - begun
        text = "sampling" if phase == SAMPLING else f"warm-up {phase + 1}/{len(WARM_UP)}"
        advance(
            (i + 1) * block,
            total,
            f"{text}: {stats['n_steps'].mean():.0f} leapfrogs, acceptance {stats['acceptance_rate'].mean():.2f}, {int(stats['diverging'].sum())} divergent",
        )


def _begin(
    run: Run, sampler: Sampler, data: Data, settings: Settings, phase: int
) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Coordinates of a phase of the warm-up, where in them each chain begins, and the metric, from all draws before it."""
    if phase == WARM_UP[0]:
        return run.coordinates(phase), run.start["first"], np.eye(sampler.geometry.size)
    kept = run.blocks.arrays("draws", "phase")
    draws, phases = kept["draws"], np.repeat(kept["phase"], kept["draws"].shape[1] // len(kept["phase"]))
    skipped = settings.warm_up[0] // 4  # the start of a chain is not the posterior
    late, phases = draws[:, skipped:], phases[skipped:]
    if phase == WARM_UP[1]:
        save_arrays(run.path / LEARNED, _learn(sampler, data, late, settings))
    coordinates, curvature = run.coordinates(phase), load_arrays(run.path / LEARNED)["curvature"]
    nothing = np.zeros((len(late), 0, late.shape[-1]))
    both = run._memory.get("moved", (nothing, nothing))  # of the phases before, whose coordinates are the same
    for entered in WARM_UP[
        1 : phase + 1
    ]:  # in the same parts after an interruption: sums over other parts differ in the last bits
        new = late[:, both[0].shape[1] : np.searchsorted(phases, entered)]
        if new.shape[1] == 0:
            continue
        moved = sampler.moved(new.reshape(-1, late.shape[-1]), coordinates)
        gradients = sampler.moved_values_and_grads(moved, data | {"geometry": coordinates}, _workers(settings))[1]
        both = tuple(
            np.concatenate([k, x.reshape(new.shape)], axis=1) for k, x in zip(both, (moved, gradients), strict=True)
        )
    run._memory["moved"] = both
    w, slopes = (x.reshape(-1, late.shape[-1]) for x in both)
    return coordinates, both[0][:, -1], refreshed_metric(w, slopes, curvature)


def next_step(run: Run, phase: int, target: float) -> float:
    """Step size of all chains in the next block of warm-up, or while sampling.

    The geometric mean of what the blocks of this phase say (:func:`osteobayes.fit.hmc.step_for`), or of the phase before.
    """
    found: dict[int, list[float]] = {}
    if len(run.blocks):
        kept = run.blocks.arrays("phase", "stat_step_size", "stat_acceptance_rate")
        blocks = (np.split(kept[f"stat_{k}"], len(kept["phase"]), axis=1) for k in ("step_size", "acceptance_rate"))
        for of, step, acceptance in zip(kept["phase"], *blocks, strict=True):
            said = step_for(target, float(step[0, 0]), np.ascontiguousarray(acceptance))  # the same sum in any file
            found.setdefault(int(of), []).append(float(np.log(said)))
    latest = found.get(phase) or found.get(phase - 1)
    return float(np.exp(np.mean(latest))) if latest else FIRST_STEP


def draws_of(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Unconstrained draws [chain, draw, parameter] and statistics of the sampling phase."""
    kept = run.blocks.arrays()
    phase = kept.pop("phase")
    mine = np.repeat(phase == SAMPLING, kept["draws"].shape[1] // len(phase))
    kept = {k: v[:, mine] for k, v in kept.items()}
    return kept.pop("draws"), {k.removeprefix("stat_"): v for k, v in kept.items()}


__all__ = ["Run", "Settings", "build_model", "calibrate", "constrain", "draws_of", "resume"]
