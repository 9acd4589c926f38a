"""Published medians and hazard ratios from digitiser-like points of real figures (`km/README.md` says what they are)."""

import shutil
from functools import cache
from math import inf
from pathlib import Path
from typing import NamedTuple

import pytest

from osteobayes.evidence import Evidence

KM = Path(__file__).parent / "km"
pytestmark = pytest.mark.filterwarnings("ignore::Warning:lifelines")  # its own, about newer pandas


class Figure(NamedTuple):
    """One figure: the arm of the numerator first."""

    folder: str
    endpoint: str
    arms: tuple[str, str]
    hazard_ratio: float | None
    medians: tuple[float | None, float | None]
    """Months; infinity where the published curve stays above one half, None where the number is not in hand."""
    source: tuple[float, float, float]
    """Hazard ratio and medians of the third party's patients, from whose curve the points were read."""


FIGURES = [
    Figure("comet1_os", "OS", ("cabozantinib", "prednisone"), 0.90, (11.0, 9.8), (0.9093, 11.10, 9.77)),
    Figure("comet1_pfs", "PFS", ("cabozantinib", "prednisone"), 0.48, (5.6, 2.8), (0.4920, 5.60, 2.84)),
    Figure("bolero2_os", "OS", ("eve_exe", "pbo_exe"), 0.89, (31.0, 26.6), (0.9018, 30.80, 26.50)),
    Figure("prevail_os", "OS", ("enzalutamide", "placebo"), 0.71, (None, None), (0.7250, 32.30, 30.20)),
    Figure("azure_dfs", "DFS", ("zoledronic_acid", "control"), 0.94, (inf, inf), (0.9362, inf, inf)),
    Figure("azure_os", "OS", ("zoledronic_acid", "control"), 0.93, (inf, inf), (0.9273, inf, inf)),
    Figure("prevail_pfs", "PFS", ("enzalutamide", "placebo"), None, (None, None), (0.1853, inf, 3.97)),
    Figure("couaa302_os", "OS", ("abiraterone", "placebo"), None, (None, None), (0.8056, 34.60, 30.90)),
]
each = pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.folder)

STUDY = """\
format: 1
id: trial
title: A trial with a digitised figure
design: randomised
cancer: prostate
setting: bone metastases
patients: TRIAL
follow_up: {law: staggered}
events: {}
arms:
sources:
  - {id: paper, citation: "A paper"}
curves:
"""
OUTCOMES = """\
outcome_id,arm,versus,endpoint,component,statistic,time,time_unit,value,unit,low,high,level,estimator,events,n,use,source,where,note
trial/discontinuation,{arm},,safety,discontinuation,proportion,,,,percent,,,,crude,,,check,paper,,not_printed: a row there must be
"""


@cache
def arms(figure, base):
    """Reconstructed arms: a study with the files of the figure, loaded as any other; times back in months."""
    place = base / figure.folder / "trial"
    shutil.copytree(KM / figure.folder, place / "km")
    (place / "study.yaml").write_text(study(figure), encoding="utf-8")
    first = "outcome_id,arm,versus,endpoint,component,statistic,time,time_unit,value,unit,low,high,level,estimator,events,n,use,source,where,note"
    check = f"trial/size,{figure.arms[0]},,OS,,bound_range,,,,month,1,100,,none,,,check,paper,,not_printed: the value"
    (place / "outcomes.csv").write_text(f"{first}\n{check}\n", encoding="utf-8")
    evidence = Evidence.load(place.parent)
    return [evidence.curves[f"trial/curve_{figure.endpoint.lower()}_{arm}"] for arm in figure.arms]
