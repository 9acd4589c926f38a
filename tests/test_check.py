"""Checks on made-up tables; what needs a solve is in the slow tests of the rooms it uses."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from osteobayes import check
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.evidence import Evidence
from osteobayes.fit import Run
from osteobayes.paths import shipped
from osteobayes.predict import Prediction


def numbers(inside, family="crude"):
    n = len(inside)
    return pd.DataFrame(
        {
            "outcome": [f"s{i}/{family}" for i in range(n)], "family": family, "patients": [f"P{i // 2}" for i in range(n)],
            "inside": inside, "of_prior": 0.2, "of_printed": np.nan if family == "split" else 1.5,
        }
    )  # fmt: skip


def test_coverage_and_sharpness_by_family():
    table = pd.concat([numbers([True] * 9 + [False]), numbers([True, False], "split")], ignore_index=True)
    found = check.by_family(table).set_index("family")
    assert list(found.index) == ["all", "crude", "split"]
    assert (found.loc["all", "rows"], found.loc["all", "inside"], found.loc["crude", "patient_sets"]) == (12, 10, 5)
    assert found["flagged"].to_dict() == {"all": True, "crude": False, "split": True}
    assert found.loc["split", "outside"] == "s1/split"
    assert found.loc["crude", "sentence"] == (
        "crude: 9 of 10 numbers lie inside their 90 % interval (90%); their intervals are 0.20 of the prior's and 1.5 times "
        "those of the printed numbers."
    )
    assert "the model misses this family" in found.loc["split", "sentence"]


def test_posterior_predictive_reads_the_run(tmp_path):
    numbers([True, False]).to_csv(tmp_path / "fit_by_outcome.csv", index=False)
    assert check.posterior_predictive(Run(tmp_path))["inside"].tolist() == [1, 1]
    with pytest.raises(RunError, match="not finished"):
        check.posterior_predictive(Run(tmp_path / "nothing"))


def prediction(rows):
    table = pd.DataFrame(rows, columns=["regimen", "grade", "width_of_prior"])
    return Prediction(table, xr.Dataset(), xr.DataArray(), "breast", "stopeck2010_136", "zoledronic acid", 24.0)


def test_prior_only_contrasts_are_flagged_when_narrow():
    rows = [
        ("galunisertib", "prior-only", 0.95),
        ("fresolimumab", "prior-only", 0.5),
        ("denosumab", "partly", 0.1),
        ("x", "prior-only", np.nan),
    ]
    found = check.prior_only_contrasts(prediction(rows)).set_index("regimen")
    assert found["flagged"].to_dict() == {"galunisertib": False, "fresolimumab": True, "x": True}
    assert found.loc["fresolimumab", "sentence"].startswith(
        "fresolimumab against zoledronic acid in breast: interval 0.50"
    )
    assert check.prior_only_contrasts(prediction([])).empty


def test_comparing_solvers():
    tight = np.linspace(-100.0, -90.0, 50)
    same = check.compare_log_likelihoods(tight - 3.0, tight)
    assert same["mean_difference"] == pytest.approx(3.0) and same["sd_difference"] == pytest.approx(0.0, abs=1e-9)
    assert same["efficiency"] == pytest.approx(1.0)  # a common shift costs nothing
    rng = np.random.default_rng(0)
    poor = check.compare_log_likelihoods(tight + rng.normal(0, 1.0, 50), tight)
    assert 0.1 < poor["efficiency"] < 0.7 and poor["effective_draws"] == pytest.approx(50 * poor["efficiency"])
    tails = rng.pareto(0.8, 400) + 1.0  # importance ratios whose variance is infinite: k = 1/0.8
    hopeless = check.compare_log_likelihoods(np.zeros(400), np.log(tails))
    assert poor["pareto_k"] < 0.7 < hopeless["pareto_k"] and "Pareto k" in hopeless["sentence"]
    assert np.isnan(check.compare_log_likelihoods(tight[:10] + 0.1 * rng.normal(size=10), tight[:10])["pareto_k"])
    failed = check.compare_log_likelihoods(np.where(np.arange(50) == 3, -np.inf, tight), tight)
    assert (failed["failed"], failed["draws"]) == (1, 50) and failed["sentence"].endswith(
        "1 draws could not be compared."
    )
    nothing = check.compare_log_likelihoods(np.full(3, -np.inf), tight[:3])
    assert nothing["effective_draws"] == 0.0 and np.isnan(nothing["efficiency"])
    with pytest.raises(OsteobayesError, match="same draws"):
        check.compare_log_likelihoods(tight, tight[:3])


@pytest.fixture(scope="module")
def evidence():
    return Evidence.load(shipped("datasets")).choose("core")


def test_control_arms_are_comparators_with_a_regimen(evidence):
    found = check.controls(evidence)
    assert {("affirm", "placebo"), ("stopeck2010_136", "zoledronic_acid"), ("cho2023", "pembrolizumab")} <= set(found)
    assert not any(evidence.studies[s].arm(a).overlaps for s, a in found)
    assert {evidence.studies[s].design for s, _ in found} == {"randomised"}


def test_published_figures_at_one_year(evidence):
    share, source = check.published_at_one_year(evidence, "affirm", "placebo", "OS")
    assert share == pytest.approx(0.5 ** (12 / 13.6), abs=1e-4) and "exponential" in source
    missing, source = check.published_at_one_year(evidence, "stopeck2010_136", "zoledronic_acid", "PFS")
    assert np.isnan(missing) and source == ""


def test_a_printed_landmark_wins_over_a_median(evidence):
    frame = evidence.outcomes
    row = frame[frame["outcome_id"] == "affirm/os_median_placebo"]
    extra = row.assign(outcome_id="affirm/os_12", statistic="survival_at", time_years=1.0, value_si=0.61, use="check")
    more = Evidence(evidence.studies, pd.concat([frame, extra], ignore_index=True))
    assert check.published_at_one_year(more, "affirm", "placebo", "OS") == (0.61, "affirm/os_12")


def test_control_arrays(evidence):
    from osteobayes.cycle import Grid, shipped_catalogue

    coords = {
        "study_os": ("affirm",), "study_os_unseen": ("henry2011_244",), "study_pfs": ("cho2023",), "study_entry": ("affirm",),
    }  # fmt: skip
    model = SimpleNamespace(coords=coords, evidence=evidence, catalogue=shipped_catalogue(), grid=Grid(14.0, 80, 1))
    arms = [("henry2011_244", "zoledronic_acid"), ("affirm", "placebo"), ("cho2023", "pembrolizumab")]
    cells, packed, fitted = check._control_arrays(model, arms)
    assert np.asarray(packed.weight).sum(axis=1) == pytest.approx([1.0, 1.0, 1.0])
    assert np.asarray(packed.cell).max() < len(cells)
    assert np.asarray(packed.death_effect).tolist() == [2, 1, 0] and np.asarray(packed.progression_effect).tolist() == [
        0,
        0,
        1,
    ]
    assert np.asarray(packed.trial).tolist() == [1.0] * 3 and np.asarray(packed.entry_effect).tolist() == [0, 1, 0]
    assert fitted == [(False, False), (True, False), (False, True)]


def drawn(x, regimens=("placebo", "denosumab")):
    """A prediction whose posterior draws of P(SRE) are ``x`` [draw, regimen]."""
    more = np.column_stack([x, np.full(len(x), 0.5)])  # a regimen by which a contrast is graded
    draws = xr.Dataset(
        {"p_sre_posterior": (("draw_posterior", "regimen"), more)}, coords={"regimen": [*regimens, "variant"]}
    )  # fmt: skip
    table = pd.DataFrame({"regimen": regimens})
    return Prediction(table, draws, xr.DataArray(), "breast", "stopeck2010_136", "denosumab", 24.0)


def a_run(folder, chains=4, sampling=500, **diagnostics):
    content = {"usable": True, "sentence": "The run may be used: R-hat at most 1.004."} | diagnostics
    return SimpleNamespace(
        path=folder, settings=SimpleNamespace(chains=chains, sampling=sampling), diagnostics=content
    )  # fmt: skip


def test_headline_errors_are_those_of_the_chains(tmp_path):
    """Independent draws: the error of the mean is sd/sqrt(draws); a chain that sits elsewhere takes the effective draws away."""
    x = 0.5 + 0.1 * np.random.default_rng(5).normal(size=(2000, 2))
    x[:500, 1] += 0.4
    found = check.headline(a_run(tmp_path), [drawn(x)])
    good, bad = found["breast: placebo"], found["breast: denosumab"]
    assert good["mcse"] == pytest.approx(0.1 / np.sqrt(2000), rel=0.15) and good["ess_bulk"] > 1500
    assert bad["ess_bulk"] < 20 and bad["mcse"] > 10 * good["mcse"]
    thinned = check.headline(a_run(tmp_path, sampling=1000), [drawn(x)])  # every second of 4000 draws
    assert thinned["breast: placebo"]["mean"] == pytest.approx(good["mean"])


def test_a_run_with_few_effective_predictions_or_a_poor_solver_may_not_be_used(tmp_path, monkeypatch):
    x = 0.5 + 0.1 * np.random.default_rng(6).normal(size=(2000, 2))
    solver = {"pareto_k": 0.3, "efficiency": 0.99, "sentence": "fine", "mean_difference": float("nan")}
    monkeypatch.setattr(check, "solver_check", lambda run, draws, reference: dict(solver))
    good = a_run(tmp_path)
    assert check.complete(good, [drawn(x)])["usable"]
    written = json.loads((tmp_path / "diagnostics.json").read_text())
    assert written["solver"]["mean_difference"] is None and written["headline"]["breast: placebo"]["ess_bulk"] > 400
    solver["pareto_k"] = 0.9
    x[:500, 0] += 0.4
    found = check.complete(a_run(tmp_path), [drawn(x)])
    assert not found["usable"]
    assert found["sentence"].startswith("The run may not be used: bulk ESS of P(SRE) in breast: placebo is")
    assert found["sentence"].endswith("Pareto k of the solver is 0.90 (limit 0.7).")
    worse = check.complete(
        a_run(tmp_path, usable=False, sentence="The run may not be used: 9 divergences."), [drawn(x)]
    )
    assert worse["sentence"].startswith("The run may not be used: 9 divergences; bulk ESS of P(SRE)")
