"""Published medians and hazard ratios from digitiser-like points of real figures (`km/README.md` says what they are)."""

import csv
import shutil
from math import inf, isinf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from osteobayes.evidence import Evidence
from osteobayes.schema import OUTCOME_COLUMNS
from osteobayes.survival import kaplan_meier, median

KM = Path(__file__).parent / "km"
pytestmark = pytest.mark.filterwarnings("ignore::Warning:lifelines")  # its own, about newer pandas


class Figure(NamedTuple):
    """One figure; the arm of the ratio's numerator first."""

    folder: str
    endpoint: str
    arms: tuple[str, str]
    hazard_ratio: float | None
    """As published; None where it is not in hand."""
    medians: tuple[float, float] | None
    """Months, as published; infinity where the published curve stays above one half."""
    source: tuple[float, float, float]
    """Hazard ratio and medians of the third party's patients, from whose curve the points were read."""


FIGURES = [
    Figure("comet1_os", "OS", ("cabozantinib", "prednisone"), 0.90, (11.0, 9.8), (0.9093, 11.10, 9.77)),
    Figure("comet1_pfs", "PFS", ("cabozantinib", "prednisone"), 0.48, (5.6, 2.8), (0.4920, 5.60, 2.84)),
    Figure("bolero2_os", "OS", ("eve_exe", "pbo_exe"), 0.89, (31.0, 26.6), (0.9018, 30.80, 26.50)),
    Figure("azure_dfs", "DFS", ("zoledronic_acid", "control"), 0.94, (inf, inf), (0.9362, inf, inf)),
    Figure("azure_os", "OS", ("zoledronic_acid", "control"), 0.93, (inf, inf), (0.9273, inf, inf)),
    Figure("prevail_os", "OS", ("enzalutamide", "placebo"), 0.71, None, (0.7250, 32.30, 30.20)),
    Figure("prevail_pfs", "PFS", ("enzalutamide", "placebo"), None, None, (0.1853, inf, 3.97)),
    Figure("couaa302_os", "OS", ("abiraterone", "placebo"), None, None, (0.8056, 34.60, 30.90)),
]

STUDY = """\
format: 1
id: trial
title: A trial with a digitised figure
design: randomised
cancer: prostate
setting: bone metastases
patients: TRIAL
follow_up: {{law: staggered, accrual_months: 24, horizon_months: 120}}
events: {{}}
arms:
  - {{id: {arms[0]}, label: treated, n: null, regimen: placebo}}
  - {{id: {arms[1]}, label: control, n: null, regimen: placebo}}
sources:
  - {{id: paper, citation: "A paper"}}
curves:
  - {{endpoint: {endpoint}, arm: {arms[0]}, use: fit, source: paper}}
  - {{endpoint: {endpoint}, arm: {arms[1]}, use: fit, source: paper}}
"""


@pytest.fixture(scope="module", params=FIGURES, ids=lambda figure: figure.folder)
def reconstructed(request, tmp_path_factory):
    """The figure, and its arms in months: a study with its files, read as any other."""
    figure = request.param
    datasets = tmp_path_factory.mktemp(figure.folder)
    place = datasets / "trial"
    place.mkdir()
    shutil.copytree(KM / figure.folder, place / "km")
    (place / "study.yaml").write_text(STUDY.format(arms=figure.arms, endpoint=figure.endpoint), encoding="utf-8")
    row = dict.fromkeys(OUTCOME_COLUMNS, "")
    row |= {"outcome_id": "trial/seen", "arm": figure.arms[0], "endpoint": figure.endpoint, "statistic": "bound_range"}
    row |= {
        "low": "1",
        "unit": "month",
        "estimator": "none",
        "use": "check",
        "source": "paper",
        "note": "not_printed: -",
    }
    with (place / "outcomes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, OUTCOME_COLUMNS)
        writer.writeheader()
        writer.writerow(row)
    curves = Evidence.load(datasets).curves
    found = [curves[f"trial/curve_{figure.endpoint.lower()}_{arm}"] for arm in figure.arms]
    return figure, [(curve.time * 12, curve.event) for curve in found]


def hazard_ratio(treated, control):
    time, event = (np.concatenate(both) for both in zip(treated, control, strict=True))
    group = np.repeat([1.0, 0.0], [len(treated[0]), len(control[0])])
    frame = pd.DataFrame({"time": time, "event": event.astype(float), "group": group})
    return float(np.exp(CoxPHFitter().fit(frame, "time", "event").params_["group"]))


def test_hazard_ratio(reconstructed):
    figure, arms = reconstructed
    found = hazard_ratio(*arms)
    assert found == pytest.approx(figure.source[0], rel=0.02)  # what the drawn curve itself says
    if figure.hazard_ratio is not None:
        assert found == pytest.approx(figure.hazard_ratio, rel=0.05)


def test_medians(reconstructed):
    figure, arms = reconstructed
    found = [median(kaplan_meier(*arm)) for arm in arms]
    for mine, published in zip(found, figure.medians or (), strict=False):
        assert mine == published if isinf(published) else abs(mine - published) <= 0.6
    for mine, drawn in zip(found, figure.source[1:], strict=True):
        assert mine == drawn if isinf(drawn) else abs(mine - drawn) <= 0.8


def test_the_numbers_at_risk_are_kept(reconstructed):
    figure, arms = reconstructed
    for name, (time, _) in zip(figure.arms, arms, strict=True):
        risk = pd.read_csv(KM / figure.folder / f"{figure.endpoint}.{name}.risk.csv")
        again = np.sum(time[:, None] >= risk["time"].to_numpy() - 1e-9, axis=0)
        assert again[0] == risk["n_at_risk"][0]
        # where the readings show more events than patients left, the curve goes before the table
        assert np.abs(again - risk["n_at_risk"]).max() <= 0.02 * again[0]
