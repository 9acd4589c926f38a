"""Many fits: each in a folder named after its content, failures isolated, an index of what came out."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

import csv
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from osteobayes.errors import OsteobayesError, Problem, RunError, _ProblemsError
from osteobayes.fit import Run, Settings
from osteobayes.fit import calibrate as calibrate_one
from osteobayes.fit import resume as resume_one
from osteobayes.fit.run import write_atomically
from osteobayes.paths import shipped
from osteobayes.schema import read_model
from osteobayes.schema.vocabulary import Cancer

FIRST_COLUMNS = (
    "id", "name", "cancers", "overlay", "seed", "settings", "status", "sentence", "usable", "max_rhat", "min_ess_bulk",
    "divergences", "wall_s",
)  # fmt: skip
"""Columns of ``index.csv`` before the headline predictions."""
HEADLINE_REGIMENS = ("placebo", "zoledronic acid", "denosumab")
HORIZON_MONTHS = 24.0
_SUFFIXES = (".yaml", ".csv", ".json", ".md")
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
        if file.is_file() and file.suffix in _SUFFIXES:
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
) -> pd.DataFrame:
    """Run jobs one after another, each into ``folder/<id>``.

    Parameters
    ----------
    jobs
        What to fit; jobs with the same id run once.
    folder
        Created; a finished job in it is skipped, an interrupted one resumed.
    calibrate, resume
        The engine (:func:`osteobayes.fit.calibrate`, :func:`osteobayes.fit.resume`); another one for tests.
    summary
        Numbers of a finished run for the index, or None.
    report
        Called with sentences.

    Returns
    -------
    DataFrame
        The index, as ``folder/index.csv`` holds it: one row a job; ``status`` is ``waiting``, ``finished`` or ``failed``
        and ``sentence`` says why a job failed or whether its run may be used. Written whole after every job.

    Notes
    -----
    A failed job stops no other. An interruption from the keyboard stops the batch, and the index is complete up to it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unique: dict[str, Job] = {}
    for job in jobs:
        unique.setdefault(job.id, job)
    rows = {key: _row(key, job) for key, job in unique.items()}
    _write_index(folder, rows)
    for i, (key, job) in enumerate(unique.items(), 1):
        label = f"job {i} of {len(unique)} ({job.name or key})"
        try:
            run = _run_one(job, folder / key, calibrate, resume, lambda text, label=label: report(f"{label}: {text}"))
        except Exception as error:
            rows[key] |= {"status": "failed", "sentence": _sentence(error)}
            report(f"{label} failed: {rows[key]['sentence']}")
        else:
            rows[key] |= _outcome(run, summary)
            report(f"{label}: {rows[key]['sentence']}")
        _write_index(folder, rows)
    return pd.DataFrame(list(rows.values()))


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


def _run_one(job: Job, path: Path, calibrate: Callable, resume: Callable, report: Callable[[str], None]) -> Run:
    """Skip, resume or start one job."""
    if (path / "manifest.json").is_file():
        run = Run(path)
        if run.manifest["status"] == "finished":
            report("finished before")
            return run
        report("resumed")
        return resume(path, report)
    if path.exists() and any(path.iterdir()):
        raise RunError(f"{path}: half-made (no manifest.json); delete it and run the batch again")
    chosen = {"seed": job.seed, "cancers": job.cancers, **job.settings}
    return calibrate(job.data, job.priors, path, job.overlay, report, **chosen)


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


def _write_index(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    more = sorted({name for row in rows.values() for name in row} - set(FIRST_COLUMNS))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*FIRST_COLUMNS, *more], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows.values())
    write_atomically(folder / "index.csv", buffer.getvalue().encode())


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
    grid: tuple[Days, Count, Count] | tuple[Days, Count, Count, Count | None] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Only what was written."""
        return self.model_dump(exclude_none=True)


class Matrix(_Closed):
    """Every combination of these becomes a job."""

    cancers: Annotated[list[list[Cancer] | None], Field(min_length=1)] = [None]
    overlay: Annotated[list[str | None], Field(min_length=1)] = [None]
    seed: Annotated[list[Seed], Field(min_length=1)] = [0]
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
        ``overlay``, ``seed``, ``settings``: every combination) or ``jobs`` (single ones), or both. Keys are closed.

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

    def add(name: str, cancers: Sequence[str] | None, overlay: Path | None, seed: int, settings: JobSettings) -> None:
        chosen = content.settings.given | settings.given
        jobs.append(Job(tuple(cancers) if cancers else None, overlay, seed, chosen, data, priors, name))

    if content.matrix is not None:
        m = content.matrix
        overlays = [place(text, ("matrix", "overlay", i)) for i, text in enumerate(m.overlay)]
        for cancers, overlay, seed, settings in itertools.product(m.cancers, overlays, m.seed, m.settings):
            parts = ["+".join(cancers or ["all"]), overlay.stem if overlay else "", f"seed{seed}"]
            add(" ".join(p for p in parts if p), cancers, overlay, seed, settings)
    for i, block in enumerate(content.jobs):
        add(block.name, block.cancers, place(block.overlay, ("jobs", i, "overlay")), block.seed, block.settings)
    if found:
        raise BatchError(found)
    return jobs
