"""The picture and the page of a run, from a made-up run folder: no sampling, no model."""

import base64
import re
import struct
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from osteobayes.errors import RunError
from osteobayes.report import ESTIMAND_COLUMNS, overview, report

NASTY = "<script>alert('x')</script> & $x_1"
HEAD = "outcome,family,study,arm,endpoint,part,observed,low,median,high,inside,prior_low,prior_high\n"
FIT = (
    HEAD
    + f"trial/crude,crude,trial,{NASTY},SRE,-1,0.4,0.3,0.38,0.5,True,0.1,0.9\n"
    + "trial/split/fracture,split,trial,zoledronic_acid,SRE,0,0.9,0.5,0.6,0.7,False,0.1,0.95\n"
    + "trial/median,median,trial,placebo,SRE,-1,12,9,11,inf,True,2,inf\n"
    + "trial/late,median,trial,denosumab,SRE,-1,,9,11,inf,False,2,inf\n"
    + "trial/hr,hazard_ratio,trial,denosumab,SRE,-1,0.8,0.7,0.82,0.95,True,0.4,1.6\n"
    + "trial/rate,rate,trial,denosumab,SRE,-1,0.5,0.3,0.4,0.6,True,0.01,5\n"
)


def prediction(cancer="breast", population="trial"):
    regimens = ["placebo", "zoledronic acid", "denosumab", NASTY]
    table = pd.DataFrame({"regimen": regimens, "grade": ["partly", "comparator", "trial-calibrated", "prior-only"]})
    for name, _, _ in ESTIMAND_COLUMNS:
        table[name], table[f"{name}_low"], table[f"{name}_high"] = 0.4, 0.25, 0.55
    table["median_sre_high"] = np.inf
    months = np.linspace(0.0, 36.0, 37)
    rate = np.exp(np.random.default_rng(0).normal(-3.5, 0.2, (30, len(regimens), 1)))
    curves = xr.DataArray(
        1 - np.exp(-rate * months),
        dims=("draw", "regimen", "months"),
        coords={"regimen": regimens, "months": months},
    )
    return SimpleNamespace(
        table=table,
        curves=curves,
        cancer=cancer,
        population=population,
        versus="zoledronic acid",
        horizon_months=24.0,
    )


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a_run"
    folder.mkdir()
    (folder / "fit_by_outcome.csv").write_text(FIT)
    return SimpleNamespace(
        path=folder,
        manifest={
            "assumed": [f"trial: accrual taken as 20 months {NASTY}"],
            "prior_only": ["alk5_block"],
            "versions": {"jax": "0.0.0", "osteobayes": "0.0.0"},
            "settings": {"chains": 2},
        },
        diagnostics={
            "usable": False,
            "sentence": "The run may not be used: R-hat of a is 2 (limit 1.01).",
            "between_study_sd": {"sre_between_sd": {"prior": [0.1, 0.33, 0.9], "posterior": [0.2, 0.44, 0.8]}},
        },
    )


class Rows(HTMLParser):
    """Texts of the cells of every table row, and all tags."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self._cell = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None


def size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("cancers", [(), ("breast",), ("breast", "prostate", "lung")])
def test_overview_is_a_large_picture(run, cancers):
    path = overview(run, [prediction(c) for c in cancers])
    assert path == run.path / "overview.png"
    assert min(size(path.read_bytes())) > 800
    assert sorted(p.name for p in run.path.iterdir()) == ["fit_by_outcome.csv", "overview.png"]


def test_legend_names_regimen_and_grade():
    from matplotlib.figure import Figure

    from osteobayes.report import _curves

    ax = Figure().add_subplot()
    p = prediction()
    _curves(ax, p)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == [f"{r} ({g})" for r, g in zip(p.table["regimen"], p.table["grade"], strict=True)]


@pytest.mark.parametrize("failed, drawn", [(1, True), (100, False)])
def test_draws_that_failed_are_told_and_many_are_not_drawn(failed, drawn):
    from matplotlib.figure import Figure

    from osteobayes.report import _curves

    ax, p = Figure().add_subplot(), prediction()
    p.curves = xr.concat([p.curves] * 10, "draw").copy()
    p.curves[:failed, 2] = np.nan
    _curves(ax, p)
    text = [t.get_text() for t in ax.get_legend().get_texts()][2]
    assert f"{failed} of 300 draws could not be solved" in text and ("not drawn" in text) is not drawn
    assert len(ax.collections) == 3 + drawn  # the bands


def test_outside_is_red_and_not_reached_is_neither():
    from matplotlib.figure import Figure

    from osteobayes.report import INSIDE, OUTSIDE, _fit_table, _forest

    colours = {}
    folder = SimpleNamespace()
    rows = pd.DataFrame(
        {
            "outcome": ["a/x", "a/y", "a/z"], "study": "a", "arm": "b", "endpoint": "SRE", "part": -1,
            "observed": [12.0, 40.0, np.nan], "low": 9.0, "median": 11.0, "high": 15.0, "inside": [True, False, False],
            "prior_low": 2.0, "prior_high": np.inf,
        }
    )  # fmt: skip
    ax = Figure().add_subplot()
    _forest(ax, "median", rows)
    for line in ax.get_lines():
        colours.setdefault(int(line.get_ydata()[0]), set()).add(line.get_color())
    assert OUTSIDE in colours[1] and INSIDE in colours[0] and INSIDE in colours[2]
    assert OUTSIDE not in colours[0] | colours[2]
    assert [text.get_text() for text in ax.texts] == ["not reached"]
    assert "1 of 2 inside" in ax.get_title(loc="left")
    with pytest.raises(RunError, match=r"no fit_by_outcome\.csv"):
        folder.path = "nowhere"
        _fit_table(folder)


def test_every_prediction_has_interval_population_and_grade(run):
    p = prediction(population="trial_of_reference")
    rows = Rows(report(run, [p]).read_text(encoding="utf-8")).rows
    for regimen, grade in zip(p.table["regimen"], p.table["grade"], strict=True):
        (row,) = [r for r in rows if r[0] == " ".join(regimen.split())]
        assert row[1:3] == ["trial_of_reference", grade]
        assert row[3] == "0.40 [0.25, 0.55]" and row[6].endswith(", not reached]")
        assert row[4] == ("comparator" if grade == "comparator" else "+0.400 [+0.250, +0.550]")


def test_what_could_not_be_solved_shows_no_number(run):
    p = prediction()
    p.table.loc[2, "p_sre"] = np.nan
    (row,) = [r for r in Rows(report(run, [p]).read_text(encoding="utf-8")).rows if r[0] == "denosumab"]
    assert row[2:] == ["trial-calibrated", *["not solved"] * len(ESTIMAND_COLUMNS)]


def test_page_says_what_it_must_and_escapes_markup(run):
    path = report(run, [prediction()])
    page = path.read_text(encoding="utf-8")
    assert path == run.path / "report.html"
    parsed = Rows(page)
    assert "script" not in parsed.tags and "&lt;script&gt;" in page
    assert run.diagnostics["sentence"] in page and "alk5_block" in page and "accrual taken as 20 months" in page
    assert ["sre_between_sd", "0.33 [0.10, 0.90]", "0.44 [0.20, 0.80]"] in parsed.rows
    assert ["osteobayes", "0.0.0"] in parsed.rows
    (late,) = [r for r in parsed.rows if r[0] == "trial/late"]
    assert late[5] == "not reached" and late[8] == ""
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert picture and base64.b64decode(picture[1]) == (run.path / "overview.png").read_bytes()
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # self-contained
