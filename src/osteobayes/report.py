"""What a run shows: one picture (fit by study, predicted curves) and one self-contained page without scripts."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from osteobayes.errors import RunError
from osteobayes.fit.store import write_atomically

if TYPE_CHECKING:
    from osteobayes.fit import Run
    from osteobayes.predict import Prediction

FAMILY_TITLES = {
    "crude": "patients with a skeletal event, share",
    "split": "type of the first event, share",
    "completion": "still in the study, share",
    "median": "medians, months",
    "hazard_ratio": "hazard ratios (log scale)",
    "rate": "skeletal events per patient-year",
    "incidence": "bone metastasis, share of patients",
    "incidence_curve": "bone metastasis by month, share",
    "prevalence": "bone metastasis in advanced disease, share",
    "landmark": "free of the event at a landmark, share",
    "interval": "events of a curve by interval, share of those at risk",
    "rate_ratio": "ratios of event rates",
    "ratio": "odds ratios and differences of shares",
    "responder": "responders (tumour, pain, marker), share",
    "marker": "change of a bone marker, per cent",
}
SHARES = ("crude", "split", "completion", "landmark", "prevalence")
"""Families drawn on [0, 1]; shares of incidence studies are small and get an axis of their own."""
INSIDE, OUTSIDE, PRIOR = "#1f4e79", "#c1121f", "#dfe3e8"
PALETTE = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = {"prior-only": ":", "partly": "--"}
"""Line styles of grades; solid is trial-calibrated, or the comparator."""
LABEL_LENGTH = 50
FAILED_SHARE = 0.01
"""A regimen whose draws failed more often than this is not drawn."""


def overview(run: "Run", predictions: Sequence["Prediction"]) -> Path:
    """Draw ``overview.png`` in the run folder: fit by study, and first skeletal events by regimen.

    Parameters
    ----------
    run
        A finished run.
    predictions
        Predictions with curves; one small axis each.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    RunError
        If the run has no ``fit_by_outcome.csv``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(_fit_table(run))
    width, top, bottom = 17.4, 1.15, 0.35
    heights = [sum(_height(g) for _, g in column) for column in columns]
    height = top + bottom + max(*heights, 2.9 * len(predictions), 4.0)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    _heading(figure, run, height)
    for i, column in enumerate(columns):
        y = height - top
        for family, rows in column:
            tall = _height(rows)
            # inches: labels, then the axis; title above and ticks below lie inside the family's own height
            box = (2.95 + 5.6 * i, y - tall + 0.42, 2.45, tall - 0.72)
            _forest(_axes(figure, box), family, rows)
            y -= tall
    room = (height - top - bottom) / max(len(predictions), 1)
    for i, p in enumerate(predictions):
        lines = len(p.table) + int((~_solved(p.curves)).any("draw").sum())
        under = 0.56 + 0.145 * lines
        base = height - top - (i + 1) * room
        _curves(_axes(figure, (12.15, base + under, 4.95, room - under - 0.32)), p)
    if not predictions:
        _text(figure, 12.15, height - top - 0.5, "no predictions were asked for", size=9, color="0.4")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path = Path(run.path) / "overview.png"
    write_atomically(path, buffer.getvalue())
    return path


def _fit_table(run: "Run") -> pd.DataFrame:
    file = Path(run.path) / "fit_by_outcome.csv"
    if not file.is_file():
        raise RunError(f"{run.path}: no fit_by_outcome.csv; the run is not finished, or the file was taken away")
    return pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])


def _rows(table: pd.DataFrame) -> Any:
    return list(table.itertuples())


def _inside(table: pd.DataFrame) -> tuple[int, int]:
    """How many printed numbers lie inside their interval, and how many were printed."""
    read = np.isfinite(table["observed"].to_numpy(dtype=float))
    return int(np.sum(read & table["inside"].to_numpy(dtype=bool))), int(np.sum(read))


def _columns(table: pd.DataFrame) -> list[list[tuple[str, pd.DataFrame]]]:
    """Families in order, in two columns of about the same height."""
    groups = [(str(f), g) for f, g in table.groupby("family", sort=False)]
    total = sum(_height(g) for _, g in groups)
    columns: list[list[tuple[str, pd.DataFrame]]] = [[], []]
    done = 0.0
    for family, rows in groups:
        columns[int(done + _height(rows) / 2 > total / 2)].append((family, rows))
        done += _height(rows)
    return columns


def _height(rows: pd.DataFrame) -> float:
    """Inches of a family: its rows, its title and its ticks."""
    return 0.72 + 0.175 * (len(rows) + 0.6)


def _axes(figure: Any, box: tuple[float, float, float, float]) -> Any:
    """Axes at (left, bottom, width, height) in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def _text(figure: Any, x: float, y: float, text: str, size: float, **style: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=size, va="top", parse_math=False, **style)


def _heading(figure: Any, run: "Run", height: float) -> None:
    import textwrap

    usable = run.diagnostics.get("usable", False)
    sentence = textwrap.wrap(str(run.diagnostics.get("sentence", "")), 200)
    lines = [*sentence[:1], sentence[1] + (" ..." if len(sentence) > 2 else "")] if len(sentence) > 1 else sentence
    _text(figure, 0.2, height - 0.12, f"osteobayes run {Path(run.path).name}", 12, weight="bold")
    _text(figure, 0.2, height - 0.36, "\n".join(lines), 8.5, color="black" if usable else OUTSIDE)
    _text(
        figure,
        0.2,
        height - 0.79,
        "Fit by study: dot = printed number, line = 90 % posterior predictive interval",
        9,
        weight="bold",
    )
    note = "red diamond = outside its interval; grey bar = prior predictive interval (cut at the axis)"
    _text(figure, 6.1, height - 0.80, note, 8.5, color="0.35")
    _text(
        figure,
        12.15,
        height - 0.79,
        "At least one SRE: cumulative incidence, death competing, 90 % bands",
        9,
        weight="bold",
    )


def _label(row: Any) -> str:
    """Study, arm and what distinguishes the row: endpoint, component or landmark."""
    part = str(row.outcome).rsplit("/", 1)[-1] if getattr(row, "part", -1) >= 0 else row.endpoint
    text = f"{row.study}  {row.arm}, {part}".replace("_", " ")
    text = text.replace(row.study.replace("_", " "), row.study, 1)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def _limits(family: str, rows: pd.DataFrame) -> tuple[float, float]:
    if family in SHARES:
        return 0.0, 1.0
    x = rows[["observed", "low", "high"]].to_numpy(dtype=float).ravel()
    x = x[[math.isfinite(v) for v in x]]
    if family == "hazard_ratio":
        x = x[x > 0]
        return (min(0.5, x.min() / 1.1), max(2.0, x.max() * 1.1)) if len(x) else (0.5, 2.0)
    return 0.0, 1.08 * float(x.max()) if len(x) and x.max() > 0 else 1.0


def _forest(ax: Any, family: str, rows: pd.DataFrame) -> None:
    """One row a printed number."""
    left, right = _limits(family, rows)
    if family == "hazard_ratio":
        from matplotlib.ticker import FixedLocator, NullLocator

        ax.set_xscale("log")
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if left <= t <= right]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.axvline(1.0, color="0.5", linewidth=0.8, zorder=1)

    def cut(x: float, otherwise: float) -> float:
        return otherwise if math.isnan(x) else min(max(x, left), right)

    for y, row in enumerate(_rows(rows)):
        read = math.isfinite(row.observed)
        colour = OUTSIDE if read and not row.inside else INSIDE
        if not math.isnan(row.prior_low):
            ax.plot(
                [cut(row.prior_low, left), cut(row.prior_high, right)],
                [y, y],
                color=PRIOR,
                linewidth=6,
                solid_capstyle="butt",
                zorder=0,
            )
        if not math.isnan(row.low):
            ax.plot([cut(row.low, left), cut(row.high, right)], [y, y], color=colour, linewidth=1.6, zorder=2)
        if row.high > right:  # not reached in more than 5 % of replicates
            ax.plot(right, y, marker=">", color=colour, markersize=4, clip_on=False, zorder=3)
        if read:
            ax.plot(
                row.observed,
                y,
                marker="D" if colour == OUTSIDE else "o",
                color=colour,
                markersize=4.6,
                markeredgecolor="white",
                markeredgewidth=0.5,
                clip_on=False,
                zorder=4,
            )
        else:
            ax.annotate("not reached", (right, y), fontsize=6.5, ha="right", va="center", color="0.3", zorder=4)
    ax.set_xlim(left, right)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [_label(r) for r in _rows(rows)], fontsize=7)
    for label, row in zip(ax.get_yticklabels(), _rows(rows), strict=True):
        label.set_parse_math(False)
        label.set_color(OUTSIDE if math.isfinite(row.observed) and not row.inside else "black")
    ax.tick_params(axis="x", labelsize=7, length=2.5, pad=2)
    ax.tick_params(axis="y", length=0)
    if ax.get_xscale() == "linear":
        ax.locator_params(axis="x", nbins=6)
    ax.grid(axis="x", color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    _open(ax)
    inside, known = _inside(rows)
    ax.set_title(
        f"{FAMILY_TITLES.get(family, family)}: {inside} of {known} inside",
        fontsize=8,
        loc="left",
        pad=3,
        parse_math=False,
    )


def _curves(ax: Any, p: "Prediction") -> None:
    """Cumulative incidence of the first skeletal event with 90 % bands; the legend names the grade."""
    months = p.curves["months"].to_numpy()
    end = min(float(months[-1]), 1.5 * p.horizon_months)
    shown = months <= end
    grades = dict(zip(p.table["regimen"], p.table["grade"], strict=True))
    highest = 0.0
    for i, name in enumerate(p.curves["regimen"].to_numpy()):
        draws = p.curves.sel(regimen=name).transpose("draw", "months").to_numpy()
        solved = _solved(p.curves).sel(regimen=name).to_numpy()
        colour, label = PALETTE[i % len(PALETTE)], f"{name} ({grades[name]})"
        if not solved.all():
            label += f"\n{(~solved).sum()} of {len(solved)} draws could not be solved"
        if (~solved).mean() > FAILED_SHARE:  # a band of the draws that happen to be left would mislead
            ax.plot([], [], linestyle="none", marker="x", color=colour, label=label + ", not drawn")
            continue
        low, mid, high = np.quantile(draws[solved], [0.05, 0.5, 0.95], axis=0)
        style = STYLES.get(grades[name], "-")
        ax.fill_between(months[shown], low[shown], high[shown], color=colour, alpha=0.10, linewidth=0)
        ax.plot(months[shown], mid[shown], color=colour, linewidth=1.7, linestyle=style, label=label)
        highest = max(highest, float(high[shown].max()))
    ax.axvline(p.horizon_months, color="0.4", linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_xlim(0, end)
    ax.set_ylim(0, min(1.0, 1.08 * highest) or 1.0)
    ax.set_xticks([m for m in range(0, math.ceil(end) + 1, 6) if m <= end])
    ax.tick_params(labelsize=7, length=2.5, pad=2)
    ax.set_xlabel("months", fontsize=7, labelpad=1)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    _open(ax)
    ax.set_title(
        f"{p.cancer}, population {p.population}; against {p.versus}", fontsize=8, loc="left", pad=3, parse_math=False
    )
    inches = ax.figure.get_size_inches()[1] * ax.get_position().height
    legend = ax.legend(
        fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.32 / inches), borderaxespad=0,
        handlelength=3.2, labelspacing=0.25, alignment="left", title_fontsize=6.5,
        title="grade of the contrast in brackets; dashed: partly, dotted: prior-only",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _solved(curves: Any) -> Any:
    """Whether a draw of a regimen has a curve at all; a cell that could not be solved leaves none."""
    return np.isfinite(curves).all("months")


def _open(ax: Any) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("0.6")


STYLE = """body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 80rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .8rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid #d5d9de; padding: .25rem .6rem; text-align: left; vertical-align: top; }
.interval { color: #555; white-space: nowrap; } .outside, .grade-prior-only { color: #c1121f; font-weight: 600; }
img { width: 100%; height: auto; border: 1px solid #d5d9de; }
"""
"""Of every page."""

TEMPLATE = """<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>osteobayes run {{ name }}</title>
<style>
{{ style }}.sentence { padding: .4rem .8rem; border-left: 4px solid {{ "#1f4e79" if usable else "#c1121f" }}; }
</style>
</head>
<body>
<h1>osteobayes run {{ name }}</h1>
<p class="sentence">{{ sentence }}</p>
<p><img alt="Left: printed numbers with their 90 % posterior predictive intervals, by study. Right: predicted
cumulative incidence of the first skeletal-related event by regimen; the numbers are in the tables below."
src="data:image/png;base64,{{ picture }}"></p>

<h2>Predictions</h2>
<p>Population means with 90 % intervals. P(SRE) is the cumulative incidence of at least one skeletal-related event by
the horizon, death competing, no dropout. The grade says how much of the contrast with the comparator comes from
patients: trial-calibrated, partly, or prior-only (the data say next to nothing: what is printed is the prior).</p>
{% for p in predictions %}
<div class="scroll"><table>
<caption>{{ p.cancer }}, {{ p.horizon }} months, against {{ p.versus }}</caption>
<thead><tr>{% for h in headings %}<th scope="col">{{ h }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in p.rows %}<tr>
<th scope="row">{{ row.regimen }}</th><td>{{ p.population }}</td>
<td class="grade-{{ row.grade }}">{{ row.grade }}</td>
{% for value, interval in row.cells %}<td>{{ value }} <span class="interval">{{ interval }}</span></td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% else %}<p>No predictions were asked for.</p>
{% endfor %}
<h2>Between-study standard deviations</h2>
<p>Median and 90 % interval before and after the data. Where they agree, the data say little about heterogeneity.</p>
<table>
<thead><tr><th scope="col">standard deviation</th><th scope="col">prior</th><th scope="col">posterior</th></tr></thead>
<tbody>{% for n, prior, posterior in sds %}<tr>
<th scope="row">{{ n }}</th><td>{{ prior }}</td><td>{{ posterior }}</td></tr>
{% endfor %}</tbody></table>

<h2>Fit by printed number</h2>
<p>{{ inside }} of {{ known }} printed numbers lie inside their 90 % posterior predictive interval. Study effects are
those of the fitted studies, so this is a check of the fit, not of prediction in a new study.</p>
<div class="scroll"><table>
<thead><tr>{% for h in fit_headings %}<th scope="col">{{ h }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in fit %}<tr>
<th scope="row">{{ row.outcome }}</th><td>{{ row.family }}</td><td>{{ row.study }}</td>
<td>{{ row.arm }}</td><td>{{ row.endpoint }}</td><td>{{ row.observed }}</td><td>{{ row.posterior }}</td>
<td>{{ row.prior }}</td><td{% if row.inside == "no" %} class="outside"{% endif %}>{{ row.inside }}</td></tr>
{% endfor %}</tbody></table></div>

<h2>Assumed because no source prints it</h2>
<ul>{% for a in assumed %}<li>{{ a }}</li>{% else %}<li>nothing</li>{% endfor %}</ul>
<h2>Informed by no fitted number</h2>
<p>These are drawn from their priors: {{ prior_only|join(", ") or "none" }}.</p>
<h2>Versions and settings</h2>
<table><tbody>{% for k, v in facts %}<tr><th scope="row">{{ k }}</th><td>{{ v }}</td></tr>
{% endfor %}</tbody></table>
</body>
</html>
"""

ESTIMAND_COLUMNS = (
    ("p_sre", "P(SRE)", ".2f"),
    ("risk_difference", "risk difference", "+.3f"),
    ("risk_ratio", "risk ratio", ".2f"),
    ("median_sre", "median time to first SRE, months", ".0f"),
    ("mean_sre", "mean SREs a patient", ".2f"),
    ("rate_ratio", "rate ratio (mean SREs)", ".2f"),
    ("survival", "P(alive)", ".2f"),
    ("marker_change", "resorption marker, week 13, %", "+.0f"),
)

FIT_HEADINGS = (
    "outcome", "kind", "study", "arm", "endpoint", "printed", "posterior predictive", "prior predictive", "inside",
)  # fmt: skip


def report(run: "Run", predictions: Sequence["Prediction"]) -> Path:
    """Write ``report.html`` in the run folder: one self-contained page (the overview inside), no scripts.

    Parameters
    ----------
    run
        A finished run.
    predictions
        Predictions to show.

    Returns
    -------
    Path
        The page.
    """
    from jinja2 import Environment

    picture = overview(run, predictions)
    manifest, diagnostics, table = run.manifest, run.diagnostics, _fit_table(run)
    facts = sorted(manifest.get("versions", {}).items())
    facts += [(k, manifest[k]) for k in ("fingerprint",) if k in manifest]
    facts += [(f"device, {k}", v) for k, v in sorted(manifest.get("device", {}).items())]
    facts += [(f"setting, {k}", v) for k, v in sorted(manifest.get("settings", {}).items())]
    inside, known = _inside(table)
    sds = sorted(diagnostics.get("between_study_sd", {}).items())
    page = Environment(autoescape=True).from_string(TEMPLATE).render(
        style=STYLE, name=Path(run.path).name, sentence=diagnostics["sentence"], usable=diagnostics["usable"],
        picture=base64.b64encode(picture.read_bytes()).decode("ascii"),
        headings=["regimen", "population", "grade", *(title for _, title, _ in ESTIMAND_COLUMNS)],
        predictions=[_prediction(p) for p in predictions],
        sds=[(n, _triple(q["prior"]), _triple(q["posterior"])) for n, q in sds],
        fit_headings=FIT_HEADINGS, fit=[_fit_row(row) for row in _rows(table)],
        inside=inside, known=known,
        assumed=manifest.get("assumed", []), prior_only=manifest.get("prior_only", []), facts=facts,
    )  # fmt: skip
    path = Path(run.path) / "report.html"
    write_atomically(path, page.encode("utf-8"))
    return path


def _number(x: float, form: str) -> str:
    return "not reached" if x == math.inf else "not solved" if math.isnan(x) else format(x, form)


def _triple(quantiles: Sequence[float]) -> str:
    low, mid, high = quantiles
    return f"{mid:.2f} [{low:.2f}, {high:.2f}]"


def _prediction(p: "Prediction") -> dict[str, Any]:
    rows = []
    for row in p.table.to_dict(orient="records"):
        cells = []
        for name, _, form in ESTIMAND_COLUMNS:
            if row["grade"] == "comparator" and name.startswith("risk_"):
                cells.append(("comparator", ""))
                continue
            if math.isnan(row["p_sre"]):  # cells that could not be solved: nothing derived from them may be shown
                cells.append(("not solved", ""))
                continue
            low, high = (_number(row[f"{name}_{end}"], form) for end in ("low", "high"))
            cells.append((_number(row[name], form), f"[{low}, {high}]"))
        rows.append({"regimen": row["regimen"], "grade": row["grade"], "cells": cells})
    about = {"cancer": p.cancer, "population": p.population, "versus": p.versus, "horizon": f"{p.horizon_months:g}"}
    return about | {"rows": rows}


def _fit_row(row: Any) -> dict[str, Any]:
    known = math.isfinite(row.observed)
    return {
        "outcome": row.outcome, "family": FAMILY_TITLES.get(row.family, row.family), "study": row.study, "arm": row.arm,
        "endpoint": row.endpoint, "observed": f"{row.observed:.3g}" if known else "not reached",
        "posterior": f"[{_number(row.low, '.3g')}, {_number(row.high, '.3g')}]",
        "prior": f"[{_number(row.prior_low, '.3g')}, {_number(row.prior_high, '.3g')}]",
        "inside": ("yes" if row.inside else "no") if known else "",
    }  # fmt: skip


BATCH_TEMPLATE = """<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>osteobayes batch {{ name }}</title>
<style>
{{ style }}.failed, .no { color: #c1121f; font-weight: 600; }
</style>
</head>
<body>
<h1>osteobayes batch {{ name }}</h1>
<p>{{ counts }}. P(SRE): share of patients with at least one skeletal-related event by 24 months, death competing, mean and 90 % interval.
The same is in <code>index.csv</code>.</p>
<div class="scroll"><table>
<caption>Jobs</caption>
<thead><tr>{% for h in headings %}<th>{{ h }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for text, kind in row %}<td class="{{ kind }}">{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
</body>
</html>
"""


def batch_page(folder: Path, table: pd.DataFrame) -> Path:
    """Write ``index.html`` of a batch: one self-contained page, no scripts.

    Parameters
    ----------
    folder
        Where the page is written.
    table
        The index (:func:`osteobayes.batch.index`).
    """
    from jinja2 import Environment

    plain = ("name", "status", "usable", "sentence", "max_rhat", "min_ess_bulk", "divergences", "wall_s", "id")
    predicted = [c for c in table.columns if c.startswith("p_sre_") and not c.endswith(("_low", "_high"))]

    def text(row: Any, column: str) -> str:
        x = row[column]
        if x is None or (isinstance(x, float) and np.isnan(x)) or x == "":
            return ""
        if column in predicted:
            return f"{x:.2f} [{row[f'{column}_low']:.2f}, {row[f'{column}_high']:.2f}]"
        forms = {"max_rhat": ".3f", "min_ess_bulk": ".0f", "wall_s": ".0f", "divergences": ".0f"}
        return ("yes" if x else "no") if column == "usable" else format(x, forms.get(column, ""))

    rows = []
    for _, row in table.iterrows():
        cells = [(c, text(row, c)) for c in (*plain, *predicted)]
        rows.append([(t, t if c in ("status", "usable") else "interval" if c in predicted else "") for c, t in cells])
    counted = table["status"].value_counts()
    page = Environment(autoescape=True).from_string(BATCH_TEMPLATE).render(
        style=STYLE, name=folder.resolve().name, rows=rows, headings=[*plain, *(c.removeprefix("p_sre_24_").replace("_", " ") for c in predicted)],
        counts=f"{len(table)} jobs: " + ", ".join(f"{n} {status}" for status, n in counted.items()),
    )  # fmt: skip
    path = folder / "index.html"
    write_atomically(path, page.encode("utf-8"))
    return path
