"""Command line: verbs over folders. Exit codes: 0 done, 1 failed, 2 bad input, 3 run not usable, 75 ended before it was done (resume it)."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from osteobayes.errors import EvidenceError, Interrupted, OsteobayesError, RegimenError, _ProblemsError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
err = Console(stderr=True)
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_UNUSABLE, EXIT_INTERRUPTED = 1, 2, 3, 75
JUDGED = 400
"""Draws of all chains from which a run is meant to be used: its predictions and its solver are checked too."""

Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Folder of datasets that is added to those that ship; may be repeated."),
]
OnlyData = Annotated[
    list[Path] | None,
    typer.Option("--only-data", help="Folder of datasets that replaces those that ship; may be repeated."),
]
Without = Annotated[list[str] | None, typer.Option("--without", help="Study that is left out; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


Shard = Annotated[str, typer.Option(help="i/n: only every n-th job, from the i-th on (job arrays).")]
MaxTime = Annotated[
    float | None,
    typer.Option(min=0.0, help="Minutes: end before they are over, where the run can be resumed (exit code 75)."),
]


def _start() -> None:
    from osteobayes.precision import enable_compile_cache, require_float64

    require_float64()
    enable_compile_cache()


def _folders(data: list[Path] | None, only: list[Path] | None) -> list[Path]:
    """Folders of datasets: those that ship and the added ones, or the ones that replace them."""
    from osteobayes.paths import shipped

    return [*(only or [shipped("datasets")]), *(data or [])]


def _parse(text: str) -> None:
    """Raise `RegimenError` for a regimen text that cannot be read."""
    from osteobayes.cycle import Regimen

    Regimen.parse(text)


def _say(text: str, as_json: bool) -> None:
    (err if as_json else Console()).print(text, highlight=False, soft_wrap=True)


class _Bar:
    """Progress bar over iterations, on standard error."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=False,
        )
        self.task: Any = None

    def advance(self, done: int, total: int, text: str) -> None:
        if self.task is None:
            self.progress.start()
            self.task = self.progress.add_task(text, total=total)
        self.progress.update(self.task, completed=done, description=text)

    def stop(self) -> None:
        if self.task is not None:
            self.progress.stop()


def _predictions(run: Any, cancers: list[str] | None, as_json: bool) -> list[Any]:
    from osteobayes.predict import default_predictions

    predictions = default_predictions(run, cancers)
    if not as_json:
        for p in predictions:
            Console().print(prediction_table(p))
    return predictions


def prediction_table(p: Any) -> Table:
    """Rich table of a prediction."""
    table = Table(
        title=f"{p.cancer}: population {p.population}, {p.horizon_months:g} months, against {p.versus} (90 % intervals)"
    )
    for column in (
        "regimen",
        "P(>=1 SRE)",
        "risk difference",
        "median time to SRE, mo",
        "mean SREs",
        "marker wk 13, %",
        "grade",
    ):
        table.add_column(column, overflow="fold")

    def cell(row: Any, name: str, form: str) -> str:
        value, low, high = (getattr(row, n) for n in (name, f"{name}_low", f"{name}_high"))
        return " ".join([_number(value, form), f"[{_number(low, form)}, {_number(high, form)}]"]).replace("[", r"\[")

    for row in p.table.itertuples():
        same = row.grade == "comparator"
        table.add_row(
            row.regimen, cell(row, "p_sre", ".2f"), "comparator" if same else cell(row, "risk_difference", "+.2f"),
            cell(row, "median_sre", ".0f"), cell(row, "mean_sre", ".2f"), cell(row, "marker_change", "+.0f"), row.grade,
        )  # fmt: skip
    return table


def _number(x: float, form: str) -> str:
    return "not reached" if x == float("inf") else format(x, form)


def _mend(run: Any) -> str:
    """What may make a run usable that is not."""
    from osteobayes.fit.diagnose import RATE_LIMIT

    if run.diagnostics["divergences"] > RATE_LIMIT * run.settings.chains * run.settings.sampling:
        return f"Shorter steps may mend it: fit again with a --target above {run.settings.target}"
    return f"More draws may mend it: osteobayes resume {run.path} --draws {2 * run.settings.sampling}"


def _finish(run: Any, cancers: list[str] | None, as_json: bool) -> int:
    """Diagnostics in a sentence, the table, the folder, the overview picture."""
    from concurrent.futures import ThreadPoolExecutor

    from osteobayes.check import complete, solver_beside
    from osteobayes.report import overview, report

    judged = run.settings.chains * run.settings.sampling >= JUDGED
    with ThreadPoolExecutor(1) as pool:
        solver = pool.submit(solver_beside, run) if judged else None
        predictions = _predictions(run, cancers, as_json)
        if solver is not None:
            complete(run, predictions, solver.result())
    _say(run.diagnostics["sentence"], as_json)
    if not run.diagnostics["usable"]:
        _say(_mend(run), as_json)
    picture = overview(run, predictions)
    page = report(run, predictions)
    content = {
        "run": str(run.path), "overview": str(picture),
        "report": str(page), "diagnostics": run.diagnostics,
        "predictions": [{"cancer": p.cancer, "population": p.population, "versus": p.versus, "rows": json.loads(p.table.to_json(orient="records"))} for p in predictions],
    }  # fmt: skip
    (run.path / "predictions.json").write_text(json.dumps(content["predictions"], indent=1) + "\n")
    if as_json:
        print(json.dumps(content))
    else:
        _say(f"run folder: {run.path}\noverview: {picture}\nreport: {page}", as_json)
    return 0 if run.diagnostics["usable"] else EXIT_UNUSABLE


@app.command()
def calibrate(
    data: Data = None,
    only_data: OnlyData = None,
    without: Without = None,
    select: Annotated[
        str, typer.Option(help="Selection of the shipped studies (datasets/selections.yaml); `all` for every study.")
    ] = "core",
    model: Annotated[
        str, typer.Option(help="`core`: a cell runs the modules of its agents; `full`: every module everywhere.")
    ] = "core",
    shared_frailty: Annotated[
        bool, typer.Option("--shared-frailty", help="The frailty of skeletal events multiplies death too (a variant).")
    ] = False,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint",
            help="Fit all correlated numbers of the same patients in one law (level 2), not one total an arm.",
        ),
    ] = False,
    priors: Annotated[Path | None, typer.Option(help="Folder of priors (default: shipped).")] = None,
    overlay: Annotated[Path | None, typer.Option(help="File that changes some priors.")] = None,
    cancer: Annotated[
        list[str] | None, typer.Option(help="Fit only studies with this cancer; may be repeated.")
    ] = None,
    chains: Annotated[int, typer.Option(min=1)] = 4,
    draws: Annotated[int, typer.Option(min=1, help="Draws a chain.")] = 1000,
    tune: Annotated[int, typer.Option(min=1, help="Warm-up iterations a chain.")] = 450,
    trajectory: Annotated[
        float,
        typer.Option(
            min=0.1, help="Length of the longest trajectory, in posterior SDs; longer where chains mix slowly."
        ),
    ] = 6.0,
    target: Annotated[
        float,
        typer.Option(min=0.5, max=0.99, help="Acceptance that steps are set for; higher where trajectories diverge."),
    ] = 0.93,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder (created).")] = None,
    max_time: MaxTime = None,
    as_json: Json = False,
) -> None:
    """Fit the model to published trials and predict therapy combinations."""
    _start()
    from osteobayes.fit import calibrate as fit
    from osteobayes.fit.run import Settings
    from osteobayes.fit.stop import Stop
    from osteobayes.predict import prepare

    bar, stop = _Bar(), Stop(max_time)
    block = max(1, min(25, draws, tune // 3 or 1))
    prior_draws = max(50, min(Settings.prior_draws, draws * chains))
    starts = 4 if draws >= 100 else 2
    try:
        with stop.signals():
            run = fit(
                _folders(data, only_data), priors, out, overlay, lambda text: _say(text, as_json), bar.advance,
                lambda run: prepare(run, cancer), stop, chains=chains, draws=draws, tune=tune, trajectory=trajectory,
                target=target, seed=seed, cancers=tuple(cancer) if cancer else None, select=select, model=model, joint=joint,
                shared_frailty=shared_frailty, without=tuple(without or ()),
                block=block, prior_draws=prior_draws, starts=starts,
            )  # fmt: skip
    finally:
        bar.stop()
    code = _finish(run, cancer, as_json)
    if code and draws * chains < JUDGED:
        _say("a run this short is for trying out; its predictions are not to be used", as_json)
        code = 0
    raise typer.Exit(code)


@app.command()
def resume(
    run: Path,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws a chain in all: more than a finished run has.")
    ] = None,
    max_time: MaxTime = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Go on although the run is locked (a shared disk on which the lock of a dead process stays).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run, or add draws to a finished one; they are those of an uninterrupted run."""
    _start()
    from osteobayes.fit import Run
    from osteobayes.fit import resume as go_on
    from osteobayes.fit.stop import Stop
    from osteobayes.predict import prepare

    bar, stop = _Bar(), Stop(max_time)
    begun = Run(run)
    try:
        with stop.signals():
            # one that ended between its last draw and its predictions has only those to make
            finished = begun if begun.lacks_predictions and draws is None else go_on(
                run, lambda text: _say(text, as_json), bar.advance, lambda run: prepare(run, run.settings.cancers), draws,
                stop, take_over,
            )  # fmt: skip
    finally:
        bar.stop()
    cancers = finished.settings.cancers
    raise typer.Exit(_finish(finished, list(cancers) if cancers else None, as_json))


@app.command()
def batch(
    file: Annotated[Path, typer.Argument(help="Batch file (YAML): settings, a matrix of them, single jobs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the batch; one that is there goes on (default: batches/<name of the file>)."),
    ] = None,
    shard: Shard = "1/1",
    engine: Annotated[
        str | None,
        typer.Option(
            help="`local`: Dask workers, one a core; tcp://host:port: those of a Dask scheduler (default: this process)."
        ),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Each job takes one `GPU` of a Dask worker's resources.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the jobs.")] = False,
    max_time: MaxTime = None,
    as_json: Json = False,
) -> None:
    """Fit many settings, data and priors: finished jobs are skipped, interrupted ones go on, failures stop no other."""
    _start()
    from osteobayes.batch import load_batch, run_batch
    from osteobayes.fit.stop import Stop
    from osteobayes.report import batch_page

    jobs = load_batch(file)
    part = _shard(shard)
    if dry_run:
        found = {j.id: j.name for j in jobs}
        print(json.dumps(found)) if as_json else print(*(f"{k} {name}" for k, name in found.items()), sep="\n")
        return
    folder = out or Path("batches") / file.stem
    bar, stop = _Bar(), Stop(max_time)
    try:
        with stop.signals():
            table = run_batch(
                jobs, folder, report=lambda text: _say(text, as_json), advance=bar.advance, stop=stop,
                shard=part, page=batch_page, engine=engine, resources={"GPU": 1} if gpu else None,
            )  # fmt: skip
    finally:
        bar.stop()
    raise typer.Exit(_indexed(folder, table, as_json))


@app.command()
def index(
    folder: Annotated[list[Path], typer.Argument(help="Folders of batches (or of parts of one).")],
    out: Annotated[Path | None, typer.Option(help="Folder for the index (default: the first).")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild the index of a batch, or merge those of several."""
    from osteobayes.batch import index as rebuild
    from osteobayes.report import batch_page

    raise typer.Exit(_indexed(out or folder[0], rebuild(*folder, out=out, page=batch_page), as_json))


def _shard(text: str) -> tuple[int, int]:
    """``i/n``."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise OsteobayesError(f"--shard {text}: give i/n with i from 1 to n, such as 2/8")
    return int(part), int(parts)


def _indexed(folder: Path, table: Any, as_json: bool) -> int:
    """Say what an index says; exit code 1 if a job failed."""
    counts = {str(k): int(n) for k, n in table["status"].value_counts().items()}
    if as_json:
        print(
            json.dumps({"folder": str(folder), "counts": counts, "jobs": json.loads(table.to_json(orient="records"))})
        )
    else:
        print(f"{len(table)} jobs: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
        for row in table[table["status"] == "failed"].itertuples():
            print(f"  {row.name or row.id}: {row.sentence}")
        print(f"index: {folder / 'index.html'}")
    return EXIT_FAILED if counts.get("failed") else 0


@app.command()
def predict(
    run: Path,
    cancer: Annotated[str, typer.Option()],
    population: Annotated[str, typer.Option(help="Study whose patients are the reference population.")],
    regimen: Annotated[list[str], typer.Option(help="Regimen text; may be repeated.")],
    versus: Annotated[str, typer.Option(help="Comparator.")] = "zoledronic acid",
    horizon: Annotated[float, typer.Option(help="Months.")] = 24.0,
    therapies: Annotated[
        Path | None, typer.Option(help="Folder of further agents (YAML) that the run did not know.")
    ] = None,
    anyway: Annotated[bool, typer.Option(help="Predict from a run that may not be used.")] = False,
    as_json: Json = False,
) -> None:
    """Predict regimens in a cancer and a named population."""
    _start()
    from osteobayes.fit import Run
    from osteobayes.predict import predict as ask

    p = ask(Run.load(run), regimen, cancer, population, versus, horizon, anyway=anyway, therapies=therapies)
    if as_json:
        print(
            json.dumps(
                {
                    "cancer": p.cancer,
                    "population": p.population,
                    "versus": p.versus,
                    "horizon_months": horizon,
                    "rows": json.loads(p.table.to_json(orient="records")),  # pyright: ignore[reportArgumentType]
                }
            )
        )
    else:
        Console().print(prediction_table(p))


@app.command()
def patterns(
    run: Path,
    draws: Annotated[int, typer.Option(min=50, help="Draws of posterior and prior, thinned evenly.")] = 400,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Json = False,
) -> None:
    """Published treatment effects beside posterior, new study and prior; coverage, sharpness, and what lies outside.

    Writes `patterns.csv` and, of numbers that were not fitted, `checks.csv` into the run folder.
    """
    _start()
    from osteobayes.fit import Run
    from osteobayes.patterns import patterns as ask

    fitted = Run.load(run)
    if not fitted.diagnostics["usable"]:
        _say(fitted.diagnostics["sentence"], as_json)
    found = ask(fitted, draws, seed)
    for name, table in (("patterns", found.table), ("checks", found.checks)):
        table.to_csv(run / f"{name}.csv", index=False, float_format="%.6g")
    if as_json:
        tables = (("rows", found.table), ("between", found.between))
        rows = {k: json.loads(str(x.to_json(orient="records"))) for k, x in tables}
        print(json.dumps(rows | {"sentences": found.sentences}))
        return
    console = Console()
    if len(found.table):
        console.print(pattern_table(found.table))
    else:
        console.print("the fitted numbers hold no comparison of treatments")
    for sentence in found.sentences:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for r in found.between.to_dict("records"):
        console.print(
            "{parameter}: prior {prior:.2f} [{prior_low:.2f}, {prior_high:.2f}], "
            "posterior {posterior:.2f} [{posterior_low:.2f}, {posterior_high:.2f}]".format(**r),
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def pattern_table(rows: Any) -> Table:
    """Rich table of comparisons: the named ones."""
    table = Table(title="published treatment effects (ratios; 90 % intervals)")
    for column in ("comparison", "study", "number", "published", "posterior", "predicted", "new study", "prior"):
        table.add_column(column, overflow="fold")
    for r in rows[rows["named"]].itertuples():
        versus = f" vs {r.versus}" if r.versus else " vs backbone"
        table.add_row(
            r.agent + versus, f"{r.study} ({r.cancer})", f"{r.statistic}, {r.endpoint}", f"{r.published:.2f}",
            rf"{r.posterior:.2f} \[{r.posterior_low:.2f}, {r.posterior_high:.2f}]",
            f"{r.predicted_low:.2f} to {r.predicted_high:.2f}{'' if r.inside else ' (outside)'}",
            f"{r.new_predicted_low:.2f} to {r.new_predicted_high:.2f}{'' if r.new_inside else ' (outside)'}",
            rf"{r.prior:.2f} \[{r.prior_low:.2f}, {r.prior_high:.2f}]{', imposes it' if r.imposed else ''}",
        )  # fmt: skip
    return table


@app.command()
def validate(
    folder: Annotated[
        list[Path] | None, typer.Argument(help="Folders of datasets, read together (default: shipped).")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="List the use of every row.")] = False,
    as_json: Json = False,
) -> None:
    """Check folders of datasets: every problem at once with its mend, or what each row is used for."""
    from osteobayes.evidence import Evidence, summary

    folders = _folders(None, folder)
    evidence, problems = None, []
    try:
        evidence = Evidence.load(*folders, check_regimen=_parse)
    except EvidenceError as error:
        problems = error.problems
    found = None if evidence is None else evidence.uses()
    if as_json:
        content = {
            "folders": [str(f) for f in folders], "problems": [asdict(p) for p in problems],
            "rows": [] if found is None else json.loads(found.to_json(orient="records")),  # pyright: ignore[reportArgumentType]
        }  # fmt: skip
        print(json.dumps(content))
    elif evidence is None or found is None:
        for p in problems:
            err.print(str(p), highlight=False, soft_wrap=True, markup=False)
        err.print(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}", highlight=False)
    else:
        text = f"no problem in {len(evidence.studies)} studies with {len(found)} rows\n\n{summary(found)}"
        if len(overlap := _overlap(evidence)):
            text += f"\n\n{overlap}"
        if rows or len(found) <= 40:
            text += "\n\n" + "\n".join(_use_line(row) for row in found.itertuples())
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(EXIT_BAD_INPUT if problems else 0)


def _overlap(evidence: Any) -> str:
    """Nominal against actual information of the numbers of the same patients, as fitted and all together."""
    from osteobayes.model import Model
    from osteobayes.priors import PriorSet

    used = evidence.uses()
    if not ((used["use"] == "fit") & (used["unusable"] == "")).any():
        return ""
    priors = PriorSet.load()
    lines = [
        "nominal over actual SD of the log ratio of two arms' hazards, if the numbers of the same patients were independent:"
    ]
    for joint, name in (
        (False, "as fitted, one number an arm (level 1)"),
        (True, "with `calibrate --joint` (level 2)"),
    ):
        table = Model.build(evidence, priors, joint=joint).information()
        over = table.sort_values("ratio").query("ratio < 0.995")
        lines.append(f"  {name}: {len(table)} sets, {len(over)} of them would overstate what they know")
        rows: Any = over.itertuples()
        lines += [f"    {r.study} {r.endpoint}: {r.ratio:.2f} ({r.numbers})" for r in rows]
    return "\n".join(lines)


def _use_line(row: Any) -> str:
    """Write what one row is used for."""
    if row.use != "fit":
        return f"{row.file}:{row.row} {row.outcome_id}: {row.use} ({row.rule})"
    return f"{row.file}:{row.row} {row.outcome_id}: fit, {row.unusable or row.family}"


@app.command()
def show(
    data: Data = None,
    only_data: OnlyData = None,
    without: Without = None,
    select: Annotated[str, typer.Option(help="Selection of the shipped studies, or `all`.")] = "all",
    study: Annotated[list[str] | None, typer.Option(help="Study; may be repeated.")] = None,
    cancer: Annotated[list[str] | None, typer.Option(help="Cancer or tumour; may be repeated.")] = None,
    therapy: Annotated[list[str] | None, typer.Option(help="Agent or class; may be repeated.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option(help="Endpoint; may be repeated.")] = None,
    design: Annotated[list[str] | None, typer.Option(help="Design; may be repeated.")] = None,
    years: Annotated[tuple[int, int] | None, typer.Option(help="First and last year of publication.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the network as a page to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Print the evidence as a network: studies, arms, patients, endpoints, and what randomised comparisons link."""
    from osteobayes.evidence import Evidence, network

    evidence = Evidence.load(*_folders(data, only_data), check_regimen=_parse).choose(select)
    if without:
        evidence = evidence.drop(without)
    evidence = evidence.select(
        cancer=cancer, therapy=therapy, endpoint=endpoint, design=design, years=years, study=study
    )
    if html is not None:
        html.write_text(network.page(evidence), encoding="utf-8")
        _say(f"written: {html}", as_json)
    if as_json:
        print(json.dumps(network.summary(evidence)))
    elif html is None:
        Console().print(str(evidence), highlight=False, markup=False, soft_wrap=True)


@app.command()
def recover(
    out: Annotated[Path, typer.Argument(help="Folder of the study (created; one that was interrupted goes on).")],
    datasets: Annotated[int, typer.Option(min=1, help="Datasets to draw and fit.")] = 20,
    select: Annotated[str, typer.Option(help="Selection of the shipped studies whose designs are used.")] = "core",
    cancer: Annotated[list[str] | None, typer.Option(help="Only studies with this cancer; may be repeated.")] = None,
    chains: Annotated[int, typer.Option(min=2)] = 4,
    draws: Annotated[int, typer.Option(min=8, help="Draws a chain.")] = 300,
    tune: Annotated[int, typer.Option(min=1, help="Warm-up iterations a chain.")] = 300,
    target: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="Acceptance that steps are set for (short fits: longer steps).")
    ] = 0.88,
    seed: Annotated[int, typer.Option()] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    as_json: Json = False,
) -> None:
    """Draw datasets from the prior on real designs, fit each, and count how often 90 % intervals hold the truth."""
    _start()
    from osteobayes.recovery import recover as study

    found = study(
        out, datasets, lambda text: _say(text, as_json), jobs, cancers=tuple(cancer) if cancer else None, select=select,
        chains=chains, draws=draws, tune=tune, target=target, seed=seed, starts=2,
    )  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    least = min(found["parameters"], key=found["parameters"].get)
    _say(
        f"{found['coverage']:.1%} of {found['pairs']} pairs of parameter and dataset lie inside their {found['level']:.0%} intervals; "
        f"least often {least} ({found['parameters'][least]} of {datasets})",
        False,
    )
    for sentence in found["short"]:
        _say(f"fell short: {sentence}", False)


@app.command()
def sbc(
    out: Annotated[Path, typer.Argument(help="Folder of the study (created; one that was interrupted goes on).")],
    replicates: Annotated[int, typer.Option(min=2, help="Datasets to simulate and fit.")] = 128,
    level: Annotated[
        str,
        typer.Option(help="likelihood: each number from its own law; trial: patients, and the tables made from them."),
    ] = "likelihood",
    planted: Annotated[
        list[str] | None,
        typer.Option(help="PARAMETER=FACTOR: its prior scale in the simulator only (a defect to be found)."),
    ] = None,
    posterior: Annotated[Path | None, typer.Option(help="Finished run: truths are draws of its posterior.")] = None,
    select: Annotated[str, typer.Option(help="Selection of the shipped studies whose designs are used.")] = "core",
    cancer: Annotated[list[str] | None, typer.Option(help="Only studies with this cancer; may be repeated.")] = None,
    chains: Annotated[int, typer.Option(min=2)] = 2,
    draws: Annotated[int, typer.Option(min=8, help="Draws a chain.")] = 300,
    tune: Annotated[int, typer.Option(min=1, help="Warm-up iterations a chain.")] = 300,
    target: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="Acceptance that steps are set for (short fits: longer steps).")
    ] = 0.88,
    seed: Annotated[int, typer.Option()] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    shard: Shard = "1/1",
    max_time: MaxTime = None,
    as_json: Json = False,
) -> None:
    """Simulation-based calibration on real designs: ranks of true parameters and predictions must be uniform."""
    _start()
    from osteobayes.fit.stop import Stop
    from osteobayes.sbc import calibrate_by_simulation, table

    defects = {}
    for text in planted or ():
        name, _, factor = text.partition("=")
        try:
            defects[name] = float(factor)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not PARAMETER=FACTOR", param_hint="--planted") from None
    stop = Stop(max_time)
    with stop.signals():
        found = calibrate_by_simulation(
            out, replicates, level, defects, posterior, lambda text: _say(text, as_json), jobs, stop,
            cancers=tuple(cancer) if cancer else None, select=select, chains=chains, draws=draws, tune=tune, target=target,
            seed=seed, starts=2, shard=_shard(shard),
        )  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    if found is None:
        return
    _say(table(found).head(10).to_string(index=False), False)
    _say(found["criterion"], False)
    for sentence in found["deviations"]:
        _say(f"not uniform: {sentence}", False)
    _say("ranks are uniform by that criterion" if found["uniform"] else "ranks are not uniform", False)


@app.command()
def new_study(
    study_id: Annotated[str, typer.Argument(help="Id of the study: lower case, digits, underscores.")],
    out: Annotated[Path, typer.Option(help="Folder of your datasets (created).")] = Path("datasets"),
) -> None:
    """Write a commented template of a study that validates once it is filled."""
    from osteobayes.evidence.template import write_template

    place = write_template(study_id, out)
    _say(
        f"written: {place / 'study.yaml'} and {place / 'outcomes.csv'}; fill what says FILL, then `osteobayes validate {out}`",
        False,
    )


@app.command()
def import_table(
    table: Annotated[Path, typer.Argument(help="Long table, one row a published number (datasets/README.md).")],
    out: Annotated[Path, typer.Option(help="Folder for the drafts (created).")],
    as_json: Json = False,
) -> None:
    """Turn a long table into draft study folders, and say row by row what a person must decide."""
    from osteobayes.evidence import validate as check
    from osteobayes.evidence.import_table import drafts, write
    from osteobayes.evidence.long_table import read_long_table

    found, questions = drafts(read_long_table(table), table.name, _parse)
    folders, rows = list(write(found, out)), sum(len(d.rows) for d in found)
    questions += check(out, check_regimen=_parse)
    if as_json:
        print(
            json.dumps({"drafts": [str(f) for f in folders], "rows": rows, "questions": [asdict(q) for q in questions]})
        )
        return
    for question in questions:
        Console().print(str(question), highlight=False, soft_wrap=True, markup=False)
    _say(
        f"{len(folders)} drafts with {rows} rows in {out}; {len(questions)} decisions are left to you, listed above",
        False,
    )


@app.command()
def export_sbml(
    cancer: Annotated[str, typer.Option()],
    regimen: Annotated[str, typer.Option(help="Regimen text.")],
    priors: Annotated[Path | None, typer.Option(help="Folder of priors (default: shipped).")] = None,
    overlay: Annotated[Path | None, typer.Option(help="File that changes some priors.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: print).")] = None,
) -> None:
    """Write the model of a cancer under a regimen as SBML, at the centre of the priors."""
    from osteobayes.cycle import CYCLE_PARAMETERS, Catalogue, Cell, Regimen, parameter_names
    from osteobayes.cycle.sbml import sbml
    from osteobayes.paths import shipped
    from osteobayes.priors import PriorSet, therapies_of
    from osteobayes.schema import CANCERS

    _start()
    everything = PriorSet.load(priors, overlay)
    catalogue = Catalogue.load(therapies_of(priors or shipped("priors")))
    coords = {"cancer": CANCERS}
    chosen = everything.only([*CYCLE_PARAMETERS, *parameter_names(catalogue)[1:]])
    values = chosen.values(chosen.centre(coords), chosen.hyper(coords))
    text = sbml(Cell(cancer, Regimen.parse(regimen, catalogue)), values, catalogue, priors=everything)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
        _say(f"written: {out}", False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, float64 and its speed, what will be used, compile cache."""
    from importlib import metadata

    import jax

    from osteobayes.fit.run import STACK
    from osteobayes.paths import shipped
    from osteobayes.precision import advice, devices, enable_compile_cache, require_float64, throughput

    require_float64()
    begun = time.time()
    found = {
        "osteobayes": metadata.version("osteobayes"), "python": sys.version.split()[0], "versions": {p: metadata.version(p) for p in STACK},
        "devices": str(devices()), "backend": jax.default_backend(), "float64": bool(jax.config.jax_enable_x64),
        "float64_gflops": round(throughput(), 1), "use": advice(devices()),
        "compile_cache": str(enable_compile_cache()), "datasets": str(shipped("datasets")), "priors": str(shipped("priors")),
        "seconds": round(time.time() - begun, 2),
    }  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        Console().print(f"{key}: {text}", highlight=False, markup=False, soft_wrap=True)


def guarded(run: Callable[[], None]) -> int:
    """Run a command; deliberate errors become one clear message and an exit code, never a traceback."""
    try:
        run()
    except (_ProblemsError, RegimenError) as error:
        err.print(str(error), highlight=False, soft_wrap=True, markup=False)
        return EXIT_BAD_INPUT
    except OsteobayesError as error:
        err.print(str(error), highlight=False, soft_wrap=True, markup=False)
        return EXIT_FAILED
    except (Interrupted, KeyboardInterrupt) as error:
        err.print(str(error) or "interrupted", highlight=False, soft_wrap=True, markup=False)
        return EXIT_INTERRUPTED
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def main() -> None:
    """Entry point of the `osteobayes` command."""
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
