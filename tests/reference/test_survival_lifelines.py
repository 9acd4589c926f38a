"""Agreement of `survival` with lifelines on simulated patients."""

import numpy as np
import pandas as pd
import pytest

from osteobayes import survival as sv

lifelines = pytest.importorskip("lifelines")
pytestmark = pytest.mark.filterwarnings("ignore::Warning:lifelines")  # its own, about newer pandas


@pytest.fixture(params=range(3))
def patients(request):
    rng = np.random.default_rng(request.param)
    events, censoring = rng.weibull(1.3, 200) * 20, rng.uniform(2, 40, 200)
    time = np.minimum(events, censoring)
    return time, np.where(events <= censoring, rng.integers(1, 4, 200), 0)


@pytest.mark.parametrize("ties", [False, True])
def test_kaplan_meier(patients, ties):
    time, event = np.ceil(patients[0]) if ties else patients[0], patients[1] > 0
    fitter = lifelines.KaplanMeierFitter().fit(time, event)
    km = sv.kaplan_meier(time, event)
    np.testing.assert_allclose(km.time, fitter.survival_function_.index, atol=1e-12)
    np.testing.assert_allclose(km.survival, fitter.survival_function_.iloc[:, 0], atol=1e-10)
    np.testing.assert_allclose(km.at_risk[1:], fitter.event_table["at_risk"].iloc[1:])
    positive = km.survival > 0
    greenwood = np.asarray(fitter._cumulative_sq_)[positive]
    np.testing.assert_allclose(km.variance[positive] / km.survival[positive] ** 2, greenwood, atol=1e-10)
    assert sv.median(km) == fitter.median_survival_time_


def test_aalen_johansen(patients):
    time, cause = patients
    aj = sv.aalen_johansen(time, cause)
    for code in (1, 2, 3):
        fitter = lifelines.AalenJohansenFitter(calculate_variance=False).fit(time, cause, event_of_interest=code)
        np.testing.assert_allclose(aj.time, fitter.cumulative_density_.index, atol=1e-12)
        np.testing.assert_allclose(aj[code], fitter.cumulative_density_.iloc[:, 0], atol=1e-10)


@pytest.mark.parametrize("tau", [3.0, 12.5, 24.0])
def test_restricted_mean(patients, tau):
    time, event = patients[0], patients[1] > 0
    fitter = lifelines.KaplanMeierFitter().fit(time, event)
    theirs = lifelines.utils.restricted_mean_survival_time(fitter, t=tau)
    assert sv.rmst(sv.kaplan_meier(time, event), tau) == pytest.approx(theirs, abs=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_log_rank(patients, ties):
    time, event = np.ceil(patients[0]) if ties else patients[0], patients[1] > 0
    group = np.arange(time.size) % 2 == 1
    theirs = lifelines.statistics.logrank_test(time[group], time[~group], event[group], event[~group])
    ours = sv.log_rank(time, event, group)
    assert ours.statistic == pytest.approx(theirs.test_statistic, abs=1e-10)
    assert ours.p_value == pytest.approx(theirs.p_value, abs=1e-10)


# --- Cox and Andersen-Gill --------------------------------------------------------------------------------------------


def rows(seed, recurrent):
    """Patients of three strata with frailty: their first events, or all intervals between events."""
    rng = np.random.default_rng(seed)
    n, at = 300, []
    group, stratum = rng.integers(0, 2, n), rng.integers(0, 3, n)
    rate = rng.gamma(2, 0.5, n) * np.where(group, 0.6, 1.0) * (0.5 + stratum)
    for i in range(n):
        begin, end = rng.uniform(0, 0.3), rng.uniform(0.5, 3)
        while True:
            stop = begin + rng.exponential(1 / rate[i])
            at.append((i, begin, min(stop, end), stop < end))
            begin = stop
            if stop >= end or not recurrent:
                break
    patient, start, time, event = (np.array(v) for v in zip(*at, strict=True))
    return pd.DataFrame(
        {"time": time, "event": event, "x": group[patient], "start": start, "patient": patient, "s": stratum[patient]}
    )


def fitted(table, **options):
    columns = ["time", "event", "x", *(v for k in options.values() for v in ([k] if isinstance(k, str) else k))]
    fit = lifelines.CoxPHFitter().fit(
        table[columns], "time", "event", **options, fit_options={"precision": 1e-10, "r_precision": 1e-14}
    )
    return float(fit.params_["x"]), float(fit.standard_errors_["x"])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("form", ["first events", "left-truncated", "Andersen-Gill"])
def test_cox(form, stratified, ties):
    table = rows(4, form == "Andersen-Gill")
    if ties:
        table["time"] = np.ceil(table["time"] * 8) / 8
        table["start"] = np.floor(table["start"] * 8) / 8
    begins = {} if form == "first events" else {"start": table["start"]}
    strata = {"stratum": table["s"]} if stratified else {}
    ours = sv.cox(table["time"], table["event"], table["x"], **begins, **strata)
    theirs = {"entry_col": "start"} if begins else {}
    b, se = fitted(table, **theirs, **({"strata": ["s"]} if stratified else {}))
    assert ours.log_hazard_ratio == pytest.approx(b, abs=1e-6)
    assert ours.se == pytest.approx(se, rel=1e-6)
    assert np.isnan(ours.robust_se)


@pytest.mark.parametrize("stratified", [False, True])
def test_cox_robust_error_of_clusters(stratified):
    table = rows(5, False)
    table["patient"] //= 4
    strata = {"stratum": table["s"]} if stratified else {}
    ours = sv.cox(table["time"], table["event"], table["x"], patient=table["patient"], **strata)
    _, robust = fitted(table, cluster_col="patient", **({"strata": ["s"]} if stratified else {}))
    assert ours.robust_se == pytest.approx(robust, rel=1e-6)
    assert abs(ours.robust_se / ours.se - 1) > 0.01


def test_andersen_gill_robust_error_is_the_infinitesimal_jackknife():
    """lifelines leaves `entry_col` out of its score residuals, so its weighted fits are the judge: db/dw of each patient.

    The sandwich of Lin and Wei is the sum of squares of those derivatives.
    """
    table = rows(6, True).query("patient < 25")
    ours = sv.cox(table["time"], table["event"], table["x"], start=table["start"], patient=table["patient"])
    moved = []
    for patient in range(25):
        b = []
        for weight in (0.95, 1.05):
            table["w"] = np.where(table["patient"] == patient, weight, 1.0)
            with pytest.warns(Warning):  # it advises robust errors for weights that are not whole
                b.append(fitted(table, entry_col="start", weights_col="w")[0])
        moved.append((b[1] - b[0]) / 0.1)
    assert ours.robust_se == pytest.approx(np.sqrt(np.sum(np.square(moved))), rel=1e-3)
