"""Many fits: each in a folder named after its content, failures isolated, an index of what came out."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

import csv
import gc
import hashlib
import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from osteobayes.errors import LockedError, OsteobayesError, Problem, _ProblemsError
from osteobayes.fit import Run, Settings
from osteobayes.fit import calibrate as calibrate_one
from osteobayes.fit import resume as resume_one
from osteobayes.fit.programs import Programs
from osteobayes.fit.run import new_run, reopened
from osteobayes.fit.side_by_side import places, sample_all
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import SUFFIXES, locked, write_atomically, write_json
from osteobayes.fit.workers import cores
from osteobayes.paths import shipped
from osteobayes.schema import read_model
from osteobayes.schema.vocabulary import Cancer

FIRST_COLUMNS = (
    "id", "name", "cancers", "overlay", "seed", "settings", "status", "sentence", "usable", "max_rhat", "min_ess_bulk",
    "divergences", "wall_s",
)  # fmt: skip
"""Columns of ``index.csv`` before the headline predictions."""
ANSWER_S = 10.0
"""Seconds in which a Dask scheduler must answer."""
STATUSES = ("finished", "running", "failed", "waiting")
"""Of a job that several folders have the first of these counts."""
Page = Callable[[Path, pd.DataFrame], Any]
HEADLINE_REGIMENS = ("placebo", "zoledronic acid", "denosumab")
HORIZON_MONTHS = 24.0
_log = logging.getLogger(__name__)


class BatchError(_ProblemsError):
    """A batch file does not follow the format."""

    what = "the batch"


@dataclass(frozen=True)
class Job:
    """One fit of a batch.

    Attributes
    ----------
    cancers
        Fit only studies with these cancers; None: all.
    overlay
        File that changes some priors, or None.
    seed
        Seed of the sampler.
    settings
        Other fields of :class:`osteobayes.fit.Settings`.
    data, priors
        Folders of datasets and priors; None: those that ship.
    name
        Label for the index; no part of the identity.
    """

    cancers: tuple[str, ...] | None = None
    overlay: Path | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    priors: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        known = {f.name for f in fields(Settings)} - {"seed", "cancers"}
        for key in self.settings:
            if key not in known:
                raise OsteobayesError(f"a job has no setting {key!r}; use one of {', '.join(sorted(known))}")

    @property
    def chosen(self) -> Settings:
        """Settings of the fit, complete."""
        return Settings(seed=self.seed, cancers=self.cancers, **self.settings)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What jobs that are fitted side by side have in common; whether their programs are the same is seen later."""
        chosen = self.chosen
        return self.data, self.priors, replace(chosen, seed=0, weights=())

    @property
    def id(self) -> str:
        """Content address: 16 hexadecimal digits of inputs, settings and version of the package.

        Two jobs with the same id give the same draws on the same machine; a changed dataset or prior gives another id.
        """
        digest = hashlib.sha256()
        chosen = {f.name: getattr(self.chosen, f.name) for f in fields(Settings)}
        digest.update(json.dumps([metadata.version("osteobayes"), chosen], sort_keys=True).encode())
        for kind, folder in (("datasets", self.data), ("priors", self.priors)):
            _hash_folder(digest, kind, folder or shipped(kind))  # type: ignore[arg-type]
        if self.overlay is not None:
            _part(digest, "overlay", Path(self.overlay).read_bytes())
        return digest.hexdigest()[:16]


def _part(digest: Any, name: str, content: bytes) -> None:
    digest.update(f"\0{name}\0{len(content)}\0".encode())
    digest.update(content)


def _hash_folder(digest: Any, kind: str, folder: Path) -> None:
    """Add the files of a folder that a run keeps in `inputs.zip`."""
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file() and file.suffix in SUFFIXES:
            _part(digest, f"{kind}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def headline(run: Run) -> dict[str, float]:
    """Headline predictions of a run: P(SRE by 24 months) of three regimens in each default population it fitted.

    Returns
    -------
    dict
        ``p_sre_24_<cancer>_<regimen>`` and the same with ``_low`` and ``_high`` (90 % interval), shares. Kept in
        ``headline.json`` of the run folder.
    """
    from osteobayes.predict import POPULATIONS, predict

    file = run.path / "headline.json"
    if file.is_file():
        return json.loads(file.read_text())
    out: dict[str, float] = {}
    for cancer, population in POPULATIONS.items():
        if population not in run.model.coords["study_sre"]:
            continue
        prediction = predict(
            run, HEADLINE_REGIMENS, cancer, population, horizon_months=HORIZON_MONTHS, draws=200, anyway=True
        )
        for asked, row in zip(HEADLINE_REGIMENS, prediction.table.itertuples(), strict=True):
            key = f"p_sre_{HORIZON_MONTHS:.0f}_{cancer}_{asked.replace(' ', '_')}"
            out |= {key: float(row.p_sre), f"{key}_low": float(row.p_sre_low), f"{key}_high": float(row.p_sre_high)}
    write_atomically(file, (json.dumps(out, indent=1) + "\n").encode())
    return out


def run_batch(
    jobs: Sequence[Job],
    folder: str | Path,
    calibrate: Callable[..., Run] = calibrate_one,
    resume: Callable[..., Run] = resume_one,
    summary: Callable[[Run], Mapping[str, float]] | None = headline,
    report: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
    stop: Stop | None = None,
    shard: tuple[int, int] = (1, 1),
    page: Page = lambda folder, table: None,
    engine: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Run jobs, each into ``folder/<id>``.

    Parameters
    ----------
    jobs
        What to fit; jobs with the same id run once.
    folder
        Created; a finished job in it is skipped, an interrupted one resumed.
    calibrate, resume
        What fits a job in this process (:func:`osteobayes.fit.calibrate`, :func:`osteobayes.fit.resume`); others for tests.
    summary
        Numbers of a finished run for the index, or None.
    report, advance
        Called with sentences, and with (iterations done, total, text) of the job that runs (in this process).
    stop
        Asked after every block whether to go on, and before every job (default: always); with a cluster, after every job.
    shard
        (i, n): of the jobs in the order of their ids only every n-th, from the i-th on. Shards may work on one folder side by
        side, without knowing of each other.
    page
        As of :func:`index`.
    engine
        None: one job after another in this process. ``local``: in worker processes of a Dask cluster of our own, one a core.
        Address of a Dask scheduler (``tcp://host:port``): in its workers, which must see the folder under the same path. A job whose
        worker is lost is given to another, which resumes it.
    resources
        Dask resources that a job takes, such as ``{"GPU": 1}``.

    Returns
    -------
    DataFrame
        The index of the folder (:func:`index`), written whole after every job: ``status`` is ``waiting``, ``running`` (by another
        process), ``finished`` or ``failed``, and ``sentence`` says why a job failed or whether its run may be used.

    Raises
    ------
    Interrupted
        If ``stop`` says so; the same call goes on from there.

    Notes
    -----
    A failed job stops no other. An interruption stops the batch, and the index is complete up to it.
    """
    folder, stop = Path(folder), stop or Stop()
    i, n = shard
    if not 1 <= i <= n:
        raise OsteobayesError(f"shard {i}/{n}: give i/n with i from 1 to n")
    folder.mkdir(parents=True, exist_ok=True)
    unique: dict[str, Job] = {}
    for job in jobs:
        unique.setdefault(job.id, job)
    plain = {key: _row(key, job) | {"order": place} for place, (key, job) in enumerate(unique.items())}
    for key, row in plain.items():
        _note(folder, key, row | {k: v for k, v in _noted(folder / f"{key}.json").items() if k != "order"})
    mine = set(sorted(unique)[i - 1 :: n])
    chosen = {k: j for k, j in unique.items() if k in mine}
    table = index(folder, page=page)
    labels = {k: f"job {place} of {len(chosen)} ({j.name or k})" for place, (k, j) in enumerate(chosen.items(), 1)}

    def say(key: str, text: str) -> None:
        report(f"{labels[key]}: {text}")

    if engine is None:
        found = _here(chosen, folder, calibrate, resume, summary, say, advance, stop)
    else:
        found = _dask(chosen, folder, engine, resources or {}, summary, stop)
    for key, row in found:
        say(key, f"{row['status']}: {row['sentence']}")
        _note(folder, key, plain[key] | row)
        table = index(folder, page=page)
    return table


def _here(
    jobs: Mapping[str, Job],
    folder: Path,
    calibrate: Callable[..., Run],
    resume: Callable[..., Run],
    summary: Callable[[Run], Mapping[str, float]] | None,
    say: Callable[[str, str], None],
    advance: Callable[[int, int, str], None],
    stop: Stop,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Jobs in this process, one after another; jobs of the same shapes share their programs."""
    programs, tried, widths = Programs(), set(), {}
    for place, (key, job) in enumerate(jobs.items()):
        stop.check(folder, f"{place} of {len(jobs)} jobs are done")
        if job.chosen.lanes is not None and key not in tried and calibrate is calibrate_one:
            alike = {k: j for k, j in jobs.items() if k not in tried and j.shape == job.shape}
            width = widths.get(job.shape, job.chosen.lanes)
            found, widths[job.shape] = _sample_side_by_side(
                alike, width, folder, programs, lambda text, key=key: say(key, text), advance, stop
            )
            tried |= found
        yield key, _result(
            job, folder / key, calibrate, resume, summary, lambda text, key=key: say(key, text), advance=advance, stop=stop, programs=programs,
        )  # fmt: skip
        gc.collect()


def _sample_side_by_side(
    jobs: Mapping[str, Job],
    width: int,
    folder: Path,
    programs: Programs,
    report: Callable[[str], None],
    advance: Callable[[int, int, str], None],
    stop: Stop,
) -> tuple[set[str], int]:
    """Sample the first jobs that are not finished, so that each needs only its summary; those that were tried, and lanes of a call.

    What cannot be begun, or fails, is left: the job meets its error again when its turn comes, and alone.
    """
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        tried: set[str] = set()
        for key, job in jobs.items():
            if runs and len(runs) >= places(width, job.chosen.chains):
                break
            path = folder / key
            tried.add(key)
            try:
                if (path / "manifest.json").is_file():
                    if Run(path).manifest["status"] == "finished":
                        continue
                    stack.enter_context(locked(path))
                    run = reopened(Run(path), report)
                else:
                    chosen = {"seed": job.seed, "cancers": job.cancers, **job.settings, "lanes": width}
                    run = stack.enter_context(
                        new_run(job.data, job.priors, path, job.overlay, lambda text: None, **chosen)
                    )
            except Exception as error:
                _log.info("%s: %s", path, _sentence(error))
                continue
            if not runs:
                width = run.settings.lanes or width
            if run.settings.lanes == width:
                runs[key] = run
        if not runs:
            return tried, width
        try:
            found = sample_all(list(runs.values()), programs, report, advance, stop)
        except Exception as error:
            _log.info("%s: %s", folder, _sentence(error))
            return tried, width
    return tried - {key for key, sampler in zip(runs, found, strict=True) if sampler is None}, width


def _dask(
    jobs: Mapping[str, Job],
    folder: Path,
    engine: str,
    resources: Mapping[str, float],
    summary: Callable[[Run], Mapping[str, float]] | None,
    stop: Stop,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Jobs in the workers of a Dask cluster, as they end."""
    try:
        import dask
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise OsteobayesError("the engine needs Dask: install osteobayes with its extra, `osteobayes[dask]`") from error
    with ExitStack() as stack:
        if engine == "local":
            single = {"NPROC": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": single}))
            cluster = LocalCluster(
                n_workers=cores(), threads_per_worker=1, processes=True, dashboard_address=None, resources=dict(resources) or None
            )  # fmt: skip
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        else:
            try:
                client = stack.enter_context(Client(engine, timeout=ANSWER_S))
            except (OSError, ValueError) as error:
                raise OsteobayesError(
                    f"--engine {engine}: no Dask scheduler answers there ({_sentence(error)}); give `local` or its address, "
                    "such as tcp://host:8786"
                ) from error
        futures = {
            client.submit(_in_worker, job, str(folder.resolve() / key), summary, engine == "local", pure=False, resources=dict(resources) or None): key
            for key, job in jobs.items()
        }  # fmt: skip
        for done, future in enumerate(as_completed(list(futures))):
            key = futures[future]
            if future.status == "error":
                row = {"status": "failed", "sentence": _sentence(future.exception())}
            else:
                row = future.result()
            yield key, row
            stop.check(folder, f"{done + 1} of {len(jobs)} jobs are done")


def _in_worker(job: Job, path: str, summary: Callable[[Run], Mapping[str, float]] | None, pin: bool) -> dict[str, Any]:
    """Body of a Dask task: one job, with one core where the cluster is ours."""
    from distributed import get_worker

    from osteobayes.precision import enable_compile_cache

    if pin and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[int(get_worker().name) % len(mine)]})
    enable_compile_cache()
    alone = replace(job, settings={"processes": 1, **job.settings})
    row = _result(alone, Path(path), calibrate_one, resume_one, summary, lambda text: None, programs=_OF_WORKER)
    gc.collect()
    return row


_OF_WORKER = Programs()
"""What the jobs of a Dask worker share: it works on one at a time."""


def _result(
    job: Job,
    path: Path,
    calibrate: Callable[..., Run],
    resume: Callable[..., Run],
    summary: Callable[[Run], Mapping[str, float]] | None,
    report: Callable[[str], None],
    **more: Any,
) -> dict[str, Any]:
    """What the index says of a job, after it ran."""
    try:
        run = _run_one(job, path, calibrate, resume, report, **more)
    except LockedError as error:
        return {"status": "running", "sentence": _sentence(error)}
    except Exception as error:
        return {"status": "failed", "sentence": _sentence(error)}
    return _outcome(run, summary)


def _sentence(error: Exception) -> str:
    """Text of an error; an error that nobody raised on purpose says its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OsteobayesError) else f"{type(error).__name__}: {text}"


def _row(key: str, job: Job) -> dict[str, Any]:
    return {
        "id": key, "name": job.name, "cancers": " ".join(job.cancers or ()) or "all",
        "overlay": str(job.overlay or ""), "seed": job.seed, "settings": json.dumps(dict(job.settings), sort_keys=True),
        "status": "waiting", "sentence": "", "usable": None, "max_rhat": None, "min_ess_bulk": None,
        "divergences": None, "wall_s": None,
    }  # fmt: skip


def _note(folder: Path, key: str, row: Mapping[str, Any]) -> None:
    """Keep a job's row of the index in a file of its own, beside its run folder."""
    write_json(folder / f"{key}.json", dict(row))


def _noted(file: Path) -> dict[str, Any]:
    """Row that an earlier batch kept of a job; nothing if there is none (or it is not whole)."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("id") == file.stem else {}


def _run_one(
    job: Job, path: Path, calibrate: Callable, resume: Callable, report: Callable[[str], None], **more: Any
) -> Run:
    """Skip, resume or start one job."""
    if (path / "manifest.json").is_file():
        run = Run(path)
        if run.manifest["status"] == "finished":
            report("finished before")
            return run
        report("resumed")
        return resume(path, report, **more)
    chosen = {"seed": job.seed, "cancers": job.cancers, **job.settings}
    return calibrate(job.data, job.priors, path, job.overlay, report, **more, **chosen)


def _outcome(run: Run, summary: Callable[[Run], Mapping[str, float]] | None) -> dict[str, Any]:
    found = run.diagnostics
    row: dict[str, Any] = {"status": "finished", "sentence": found["sentence"], "usable": found["usable"]}
    row |= {key: found.get(key) for key in ("max_rhat", "min_ess_bulk", "divergences", "wall_s")}
    if summary is not None:
        try:
            row |= summary(run)
        except Exception as error:
            row["sentence"] += f" Its predictions failed: {_sentence(error)}"
            _log.warning("%s: predictions failed: %s", run.path, _sentence(error))
    return row


def index(*folders: str | Path, out: str | Path | None = None, page: Page = lambda folder, table: None) -> pd.DataFrame:
    """Index of batch folders, from what their jobs left.

    Parameters
    ----------
    *folders
        Batch folders; of a job in several the finished one counts, else the first.
    out
        Where ``index.csv`` is written; default: the first folder.
    page
        Called with that folder and the index (:func:`osteobayes.report.batch_page` writes ``index.html``).

    Returns
    -------
    DataFrame
        One row a job, in the order of the batch file, as ``index.csv`` holds it.

    Raises
    ------
    OsteobayesError
        If a folder does not exist, or none has a job.
    """
    rows: dict[str, dict[str, Any]] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise OsteobayesError(f"{folder}: there is no such folder; give folders that `osteobayes batch` made")
        for file in sorted(folder.glob("?" * 16 + ".json")):
            row, known = _noted(file), rows.get(file.stem)
            if row and (known is None or STATUSES.index(row["status"]) < STATUSES.index(known["status"])):
                rows[file.stem] = row
    if not rows:
        raise OsteobayesError(f"{', '.join(map(str, folders))}: no job of a batch is there")
    ordered = sorted(rows.values(), key=lambda r: (r["order"], r["name"], r["id"]))
    more = sorted({name for row in ordered for name in row} - {*FIRST_COLUMNS, "order"})
    columns = [*FIRST_COLUMNS, *more]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: "" if row.get(k) is None else row[k] for k in columns} for row in ordered)
    where = Path(out or folders[0])
    where.mkdir(parents=True, exist_ok=True)
    write_atomically(where / "index.csv", buffer.getvalue().encode())
    table = pd.DataFrame(ordered, columns=columns)
    page(where, table)
    return table


# --- the batch file ---------------------------------------------------------------------------------------------------


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Days = Annotated[float, Field(gt=0)]


class JobSettings(_Closed):
    """Settings of a fit that a batch file may give; see :class:`osteobayes.fit.Settings`."""

    chains: Count | None = None
    draws: Count | None = None
    tune: Count | None = None
    starts: Count | None = None
    search_iterations: Count | None = None
    target: Annotated[float, Field(gt=0, lt=1)] | None = None
    trajectory: Annotated[float, Field(gt=0)] | None = None
    block: Count | None = None
    prior_draws: Count | None = None
    select: str | None = None
    without: list[str] | None = None
    weights: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    model: Literal["core", "full"] | None = None
    joint: bool | None = None
    shared_frailty: bool | None = None
    algorithm: str | None = None
    lanes: Annotated[int, Field(ge=0)] | None = None
    grid: tuple[Days, Count, Count] | tuple[Days, Count, Count, Count | None] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Only what was written, as :class:`osteobayes.fit.Settings` has it."""
        found = self.model_dump(exclude_none=True)
        if "weights" in found:
            found["weights"] = tuple(sorted(found["weights"].items()))
        return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


class Matrix(_Closed):
    """Every combination of these becomes a job."""

    cancers: Annotated[list[list[Cancer] | None], Field(min_length=1)] = [None]
    overlay: Annotated[list[str | None], Field(min_length=1)] = [None]
    variant: Annotated[dict[str, JobSettings], Field(min_length=1)] = {"": JobSettings()}
    """Settings by name: modules, correlations, shared frailty, ..."""
    without: Annotated[list[list[str]], Field(min_length=1)] = [[]]
    """Studies left out."""
    weights: Annotated[list[dict[str, Annotated[float, Field(ge=0, le=1)]]], Field(min_length=1)] = [{}]
    """Weights of studies or outcomes in the likelihood."""
    seed: Annotated[list[Seed], Field(min_length=1)] = [0]
    algorithm: Annotated[list[str | None], Field(min_length=1)] = [None]
    """Samplers: back end and name (:data:`osteobayes.fit.samplers.SAMPLERS`); None: that of `calibrate`."""
    settings: Annotated[list[JobSettings], Field(min_length=1)] = [JobSettings()]


class JobBlock(_Closed):
    """One job by itself."""

    name: str = ""
    cancers: list[Cancer] | None = None
    overlay: str | None = None
    seed: Seed = 0
    settings: JobSettings = JobSettings()


class BatchFile(_Closed):
    """A batch file: settings of all jobs, a matrix, single jobs. Paths are relative to the file."""

    format: Literal[1]
    data: str | None = None
    priors: str | None = None
    settings: JobSettings = JobSettings()
    matrix: Matrix | None = None
    jobs: list[JobBlock] = []

    @model_validator(mode="after")
    def _something(self) -> "BatchFile":
        if self.matrix is None and not self.jobs:
            raise ValueError("there is nothing to run; give a `matrix` or `jobs`")
        return self


def load_batch(file: str | Path) -> list[Job]:
    """Read a batch file.

    Parameters
    ----------
    file
        YAML: ``format: 1``, optional ``data``, ``priors``, ``settings`` (of all jobs), and ``matrix`` (lists ``cancers``,
        ``overlay``, ``variant``, ``without``, ``weights``, ``seed``, ``algorithm``, ``settings``: every combination) or ``jobs`` (single ones), or both. Keys are closed.

    Returns
    -------
    list of Job
        The matrix first (last key fastest), then the single jobs.

    Raises
    ------
    BatchError
        With every problem: file, line, key, mend.
    """
    file = Path(file)
    content, document, problems = read_model(BatchFile, file)
    if content is None:
        raise BatchError(problems)
    found: list[Problem] = []

    def place(text: str | None, key: tuple[str | int, ...], folder: bool = False) -> Path | None:
        if text is None:
            return None
        path = file.parent / text
        if not (path.is_dir() if folder else path.is_file()):
            what = "folder" if folder else "file"
            mend = f"give the path of a {what}, relative to the batch file"
            found.append(document.problem(key, f"there is no {what} {text!r}", mend))
        return path

    data, priors = (place(getattr(content, k), (k,), True) for k in ("data", "priors"))
    jobs: list[Job] = []

    def add(
        name: str, cancers: Sequence[str] | None, overlay: Path | None, seed: int, settings: Mapping[str, Any]
    ) -> None:
        chosen = {**content.settings.given, **settings}
        jobs.append(Job(tuple(cancers) if cancers else None, overlay, seed, chosen, data, priors, name))

    if content.matrix is not None:
        m = content.matrix
        overlays = [place(text, ("matrix", "overlay", i)) for i, text in enumerate(m.overlay)]
        axes = (m.cancers, overlays, m.variant.items(), m.without, m.weights, m.seed, m.algorithm, m.settings)
        for cancers, overlay, (variant, chosen), without, weights, seed, algorithm, settings in itertools.product(
            *axes
        ):
            parts = ["+".join(cancers or ["all"]), overlay.stem if overlay else "", variant]
            parts += [
                f"without {' '.join(without)}" if without else "",
                " ".join(f"{k}*{w:g}" for k, w in weights.items()),
                algorithm or "",
            ]
            given = chosen.given | settings.given
            given |= {"without": tuple(without)} if without else {}
            given |= {"weights": tuple(sorted(weights.items()))} if weights else {}
            given |= {"algorithm": algorithm} if algorithm else {}
            add(" ".join(p for p in (*parts, f"seed{seed}") if p), cancers, overlay, seed, given)
    for i, block in enumerate(content.jobs):
        add(block.name, block.cancers, place(block.overlay, ("jobs", i, "overlay")), block.seed, block.settings.given)
    if found:
        raise BatchError(found)
    return jobs
