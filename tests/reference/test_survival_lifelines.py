"""Agreement of `survival` with lifelines on simulated patients."""

import numpy as np
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
