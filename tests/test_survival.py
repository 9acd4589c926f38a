"""`survival`: hand-computed cases, properties that hold for all data, recovery of reconstructed patients."""

from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter

from osteobayes import survival as sv
from osteobayes.errors import OsteobayesError

# 6 patients: events at 1, 3, 3, 5; censored at 3 (after the events there) and 4
TIME, EVENT = [5, 3, 1, 3, 4, 3], [1, 1, 1, 0, 0, 1]

patients = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 12).map(float), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


def exponential(seed, n, rate, accrual=(6.0, 30.0)):
    """Patients with exponential events, administratively censored after staggered entry."""
    rng = np.random.default_rng(seed)
    events, follow_up = rng.exponential(1 / rate, n), rng.uniform(*accrual, n)
    return np.minimum(events, follow_up), events <= follow_up


# --- Kaplan-Meier -----------------------------------------------------------------------------------------------------


def test_kaplan_meier_by_hand():
    km = sv.kaplan_meier(TIME, EVENT)
    assert km.time.tolist() == [0, 1, 3, 4, 5]
    assert km.at_risk.tolist() == [6, 6, 5, 2, 1]
    np.testing.assert_allclose(km.survival, [1, 5 / 6, 5 / 6 * 3 / 5, 1 / 2, 0], rtol=1e-15)
    np.testing.assert_allclose(
        km.variance, [0, (5 / 6) ** 2 / 30, (1 / 30 + 2 / 15) / 4, (1 / 30 + 2 / 15) / 4, 0], rtol=1e-14
    )


def test_freireich_six_mercaptopurine():
    """Leukaemia remissions, 6-MP arm (Gehan 1965): the textbook product-limit estimates and standard errors."""
    time = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    km = sv.kaplan_meier(time, [1] * 9 + [0] * 12)
    np.testing.assert_allclose(
        km([6, 7, 10, 13, 16, 22, 23]), [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=5e-4
    )
    np.testing.assert_allclose(np.sqrt(km.variance[km.time == 23]), 0.1346, atol=5e-4)
    assert sv.median(km) == 23


def test_curve_is_right_continuous_and_unknown_after_follow_up():
    km = sv.kaplan_meier([1, 2, 3], [1, 0, 0])
    np.testing.assert_allclose(km([0, 0.999, 1, 3]), [1, 1, 2 / 3, 2 / 3])
    assert np.isnan(km(3.001))
    assert sv.kaplan_meier([1, 2], [1, 1])(9) == 0
    with pytest.raises(ValueError, match="negative"):
        km(-1)


def test_event_at_time_zero():
    km = sv.kaplan_meier([0, 1, 2, 2], [1, 0, 1, 0])
    assert km.time.tolist() == [0, 1, 2]
    np.testing.assert_allclose(km.survival, [3 / 4, 3 / 4, 3 / 8])


@given(patients)
def test_without_censoring_kaplan_meier_is_the_empirical_distribution(data):
    time = np.array(data[0])
    km = sv.kaplan_meier(time, np.ones(time.size))
    empirical = np.mean(time[:, None] > km.time, axis=0)
    np.testing.assert_allclose(km.survival, empirical, atol=1e-12)
    np.testing.assert_allclose(km.variance, empirical * (1 - empirical) / time.size, atol=1e-12)


@given(patients)
def test_kaplan_meier_does_not_depend_on_order_or_unit(data):
    time, event = np.array(data[0]), np.array(data[1]) > 0
    a, b = sv.kaplan_meier(time, event), sv.kaplan_meier(time[::-1] * 30.4375, event[::-1])
    np.testing.assert_array_equal(a.survival, b.survival)
    np.testing.assert_allclose(a.time * 30.4375, b.time)
    assert np.all(np.diff(a.survival) <= 0) and np.all(a.variance >= 0)


def test_median():
    assert sv.median(sv.kaplan_meier(TIME, EVENT)) == 3
    assert sv.median(sv.kaplan_meier([1, 2, 3], [1, 0, 0])) == np.inf
    assert sv.median(sv.kaplan_meier(range(1, 7), [1] * 6)) == 3  # 5/6 x 4/5 x 3/4 is a half but for rounding


# --- Aalen-Johansen ---------------------------------------------------------------------------------------------------


def test_aalen_johansen_by_hand():
    aj = sv.aalen_johansen([1, 2, 2, 3, 4], [1, 2, 0, 1, 2])
    assert aj.causes == (1, 2) and aj.time.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(aj[1], [0, 1 / 5, 1 / 5, 1 / 5 + 3 / 5 / 2, 1 / 2], rtol=1e-14)
    np.testing.assert_allclose(aj[2], [0, 0, 4 / 5 / 4, 1 / 5, 1 / 2], rtol=1e-14)


@given(patients)
def test_aalen_johansen_of_all_causes_is_one_minus_kaplan_meier(data):
    time, cause = np.array(data[0]), np.array(data[1])
    aj = sv.aalen_johansen(time, cause, (1, 2, 3))
    km = sv.kaplan_meier(time, cause > 0)
    np.testing.assert_allclose(aj.incidence.sum(0), 1 - km.survival, atol=1e-12)
    assert np.all(np.diff(aj.incidence, axis=1) >= 0)
    for code in (1, 2, 3):  # censoring competitors instead always overstates the incidence
        assert np.all(aj[code] <= 1 - sv.kaplan_meier(time, cause == code).survival + 1e-12)


def test_aalen_johansen_causes():
    aj = sv.aalen_johansen([1, 2], [1, 0], causes=(3, 1))
    assert aj[3].tolist() == [0, 0, 0] and aj.incidence[1].tolist() == [0, 0.5, 0.5]
    with pytest.raises(KeyError, match="cause 2"):
        aj[2]


# --- restricted mean --------------------------------------------------------------------------------------------------


def test_rmst_by_hand():
    km = sv.kaplan_meier(TIME, EVENT)
    assert sv.rmst(km, 4.5) == pytest.approx(1 + 2 * 5 / 6 + 1.5 / 2, rel=1e-14)
    assert sv.rmst(km, 0.25) == 0.25
    assert sv.rmst(km, 100) == pytest.approx(1 + 2 * 5 / 6 + 2 / 2)  # the curve is 0 from 5 on


@given(patients, st.floats(0.01, 1))
def test_rmst_bounds(data, share):
    time, event = np.array(data[0]) + 1, np.array(data[1]) > 0
    km = sv.kaplan_meier(time, event)
    tau = share * time.max()
    value = sv.rmst(km, tau)
    assert tau * km(tau) - 1e-12 <= value <= tau + 1e-12
    assert value >= sv.rmst(km, tau / 2)
    if event.all():
        assert value == pytest.approx(np.minimum(time, tau).mean())


# --- log-rank ---------------------------------------------------------------------------------------------------------


def test_log_rank_by_hand():
    # event times 1 (4 at risk, 2 in group 1, event in 0), 2 (3, 2, event in 1), 3 (2, 1, event in 0)
    test = sv.log_rank([1, 2, 3, 4], [1, 1, 1, 0], [0, 1, 0, 1])
    expected = 2 / 4 + 2 / 3 + 1 / 2
    assert test.observed == (2, 1) and test.expected == pytest.approx((3 - expected, expected))
    assert test.variance == pytest.approx(1 / 4 + 2 / 9 + 1 / 4)
    assert test.statistic == pytest.approx((1 - expected) ** 2 / (13 / 18))


def test_log_rank_freireich():
    """6-MP against placebo: chi-squared 16.79 (Freireich 1963, as in R's `survdiff`)."""
    treated = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    test = sv.log_rank(treated + placebo, [1] * 9 + [0] * 12 + [1] * 21, [1] * 21 + [0] * 21)
    assert test.statistic == pytest.approx(16.79, abs=0.01)
    assert test.expected == pytest.approx((10.75, 19.25), abs=0.01)
    assert test.p_value == pytest.approx(4.17e-5, rel=0.01)


def test_log_rank_of_twins_is_zero():
    time, event = exponential(0, 50, 0.1)
    test = sv.log_rank(np.tile(time, 2), np.tile(event, 2), np.repeat([0, 1], 50))
    assert test.statistic == pytest.approx(0, abs=1e-20) and test.p_value == pytest.approx(1)


# --- Guyot's reconstruction -------------------------------------------------------------------------------------------


def printed(time, event, every=6.0, digits=4):
    """What a figure shows: the curve at its steps, rounded as read, and the numbers at risk."""
    km = sv.kaplan_meier(time, event)
    grid = np.append(km.time[np.append(True, np.diff(km.survival) < 0)], time.max())
    risk_time = np.arange(0, time.max(), every)
    return grid, np.round(km(grid), digits), risk_time, np.sum(time[:, None] >= risk_time, axis=0)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("n", [60, 400])
def test_reconstruction_recovers_the_curve(rate, total, n):
    for seed in range(5):
        time, event = exponential(seed, n, rate)
        grid, curve, risk_time, at_risk = printed(time, event)
        t, e = sv.guyot(grid, curve, risk_time, at_risk, int(event.sum()) if total else None)
        assert t.size == n and e.dtype == bool and np.all(np.diff(t) >= 0) and t.max() == time.max()
        off = np.abs(sv.kaplan_meier(t, e)(grid) - curve)
        assert off[np.sum(time[:, None] >= grid, axis=0) >= 15].max() < 0.02  # with fewer, one patient is a cliff
        np.testing.assert_array_equal(np.sum(t[:, None] >= risk_time, axis=0), at_risk)
        if total:
            # only the last interval can be changed, and it is not for the rounding of those before it
            assert abs(e.sum() - event.sum()) <= max(1, np.sqrt(risk_time.size - 1), 0.02 * event.sum())


def test_reconstruction_from_a_grid_of_readings():
    time, event = exponential(7, 400, 0.03)
    grid = np.append(np.arange(0, time.max(), 0.1), time.max())
    curve = np.round(sv.kaplan_meier(time, event)(grid), 3)
    risk_time = np.arange(0, time.max(), 6.0)
    t, e = sv.guyot(grid, curve, risk_time, np.sum(time[:, None] >= risk_time, axis=0), int(event.sum()))
    assert np.abs(sv.kaplan_meier(t, e)(grid) - curve)[grid < 28].max() < 0.02
    assert sv.median(sv.kaplan_meier(t, e)) == pytest.approx(sv.median(sv.kaplan_meier(time, event)), abs=0.5)


def test_reconstruction_without_censoring_is_exact():
    time = np.sort(np.random.default_rng(1).exponential(10, 80))
    km = sv.kaplan_meier(time, np.ones(80))
    t, e = sv.guyot(km.time, km.survival, [0], [80])
    np.testing.assert_array_equal(t, time)
    assert e.all()


def test_reconstruction_by_hand():
    # 10 patients, 9 at 2 though the curve has not moved: one censored, midway between 0 and 2, 3 of 9 have events at 3;
    # from 2 to 4 the same rate of censoring, one in two units of time, halfway at 3, so between 3 and 4
    t, e = sv.guyot([0, 2, 3, 4], [1, 1, 2 / 3, 2 / 3], [0, 2], [10, 9])
    assert t.tolist() == [1, 3, 3, 3, 3.5, 4, 4, 4, 4, 4]
    assert e.tolist() == [False, True, True, True] + [False] * 6


def test_total_events_decide_the_censoring_that_no_table_shows():
    time, event = exponential(3, 300, 0.08)
    grid, curve, *_ = printed(time, event)
    true = int(event.sum())
    ignorant = sv.guyot(grid, curve, [0], [300])[1].sum()
    informed = sv.guyot(grid, curve, [0], [300], true)[1].sum()
    assert abs(informed - true) <= 1 < abs(ignorant - true)


def test_total_events_reached_before_the_last_interval():
    t, e = sv.guyot([0, 1, 2, 3], [1, 0.5, 0.5, 0.25], [0, 2], [10, 5], total_events=5)
    assert e.sum() == 5 and np.sum(t == 3) == 5


def test_steps_read_as_vertical_stretches_and_intervals_without_points():
    t, e = sv.guyot([0, 4, 4, 9], [1, 1, 0.5, 0.5], [0, 2, 3, 6, 9, 12], [8, 8, 8, 4, 4, 0])
    assert t.tolist() == [4] * 4 + [9] * 4 and e.sum() == 4


@given(
    st.integers(1, 200),
    st.lists(st.floats(0, 0.6), min_size=1, max_size=15),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_reconstruction_keeps_the_number_of_patients_on_any_curve(n, falls, stays, share):
    curve = np.cumprod(1 - np.array(falls))
    at_risk = np.floor(n * np.cumprod([1.0, *stays]))
    risk_time = np.linspace(0, len(falls), len(at_risk))
    total = None if share is None else int(share * n)
    t, e = sv.guyot(np.arange(1, len(falls) + 1), curve, risk_time, at_risk, total)
    assert t.shape == e.shape == (n,)
    assert np.all(t >= 0) and t.max() <= len(falls)
    again = sv.guyot(np.arange(1, len(falls) + 1), curve, risk_time, at_risk, total)
    np.testing.assert_array_equal(t, again[0])


def test_a_total_that_is_off_by_rounding_leaves_the_last_interval_alone():
    time, event = exponential(5, 200, 0.06)
    figure = printed(time, event)
    ignorant = sv.guyot(*figure)
    for off in (0, 1, 2):  # four intervals before the last one: up to two
        np.testing.assert_array_equal(sv.guyot(*figure, int(ignorant[1].sum()) + off), ignorant)
    after = int(np.sum(ignorant[1] & (ignorant[0] >= figure[2][-1])))
    assert sv.guyot(*figure, int(ignorant[1].sum()) - after)[1].sum() < ignorant[1].sum()


# --- two arms, there and back ------------------------------------------------------------------------------------------

SCENARIOS = {  # patients an arm, Weibull shape, median of the control in months, hazard ratio, follow-up from and to
    "constant hazard": (300, 1.0, 20.0, 0.75, (6.0, 30.0)),
    "falling hazard": (600, 0.8, 25.0, 0.90, (12.0, 48.0)),
    "rare events": (600, 1.0, 60.0, 0.70, (6.0, 40.0)),
    "no effect": (400, 1.2, 15.0, 1.00, (6.0, 24.0)),
    "rising hazard, small": (150, 1.4, 18.0, 0.60, (8.0, 36.0)),
    "constant hazard, small": (150, 1.0, 12.0, 0.80, (6.0, 24.0)),
}


def trial(seed, n, shape, median, ratio, follow_up):
    """Both arms of a proportional-hazards trial with staggered entry; the treated one first."""
    rng = np.random.default_rng(seed)
    arms = []
    for hazard in (ratio, 1.0):
        events = median * (rng.exponential(size=n) / hazard / np.log(2)) ** (1 / shape)
        censoring = rng.uniform(*follow_up, n)
        arms.append((np.minimum(events, censoring), events <= censoring))
    return arms


def read(time, event, every, grid):
    """The exact curve at every step or on a grid, and the numbers at risk every so many months."""
    km = sv.kaplan_meier(time, event)
    steps = km.time[np.append(True, np.diff(km.survival) < 0)]
    at = np.append(steps if grid is None else np.arange(0, time.max(), grid), time.max())
    risk_time = np.arange(0, time.max(), every)
    return at, km(at), risk_time, np.sum(time[:, None] >= risk_time, axis=0)


def hazard_ratio(treated, control):
    """Cox's hazard ratio of two arms of times and events."""
    time, event = (np.concatenate(both) for both in zip(treated, control, strict=True))
    group = np.repeat([1.0, 0.0], [len(treated[0]), len(control[0])])
    frame = pd.DataFrame({"time": time, "event": event.astype(float), "group": group})
    return float(np.exp(CoxPHFitter().fit(frame, "time", "event").params_["group"]))


def medians_agree(arm, again, at):
    """Whether the medians lie within one reading (but at least 0.25 months), or the curve does not say where.

    A curve that comes within half an event of one half may be rounded to the other side of it.
    """
    true, found = (sv.median(sv.kaplan_meier(*patients)) for patients in (arm, again))
    first, last = sorted(np.searchsorted(np.append(at, np.inf), [true, found]))
    if true == found or last - first <= 1 or abs(true - found) <= 0.25:
        return True
    km = sv.kaplan_meier(*arm)
    before = np.searchsorted(km.time, found if found < true else np.nextafter(found, 0), side="right") - 1
    before = min(before, km.time.size - 2)
    return abs(km.survival[before] - 0.5) <= 0.5 * 0.5 / km.at_risk[before + 1] + 1e-9


@pytest.mark.filterwarnings("ignore::Warning:lifelines")  # its own, about newer pandas
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SCENARIOS)
def test_hazard_ratio_and_medians_of_a_trial_come_back(name, seed):
    """Within 2 %, on two seeds of forty that were measured: at most 1.6 % here.

    Over seeds 0-39 the worst and the share above 2 % are 2.3 % and 0.6 % (arms of 300 or more, table every 3 months),
    3.3 % and 0.5 % (every 6 months), 3.0 % and 3.1 % (arms of 150, every 3 months), and 4.8 % and 8 % (arms of 150, every
    6 months, which is too little to go by and not tested). Of 3,200 medians 22 did not agree.
    """
    arms = trial(seed, *SCENARIOS[name])
    true = hazard_ratio(*arms)
    for every, grid, total in product([3.0] if "small" in name else [3.0, 6.0], [None, 0.25], [False, True]):
        figures = [read(*arm, every, grid) for arm in arms]
        again = [sv.guyot(*f, int(arm[1].sum()) if total else None) for f, arm in zip(figures, arms, strict=True)]
        assert hazard_ratio(*again) == pytest.approx(true, rel=0.02), (every, grid, total)
        for figure, arm, found in zip(figures, arms, again, strict=True):
            assert medians_agree(arm, found, figure[0]), (every, grid, total)


# --- counts by interval -----------------------------------------------------------------------------------------------


def test_interval_counts_by_hand():
    # an interval holds its right end: the events at 3 and the censoring at 3 are in the first one
    counts = sv.interval_counts(TIME, EVENT, [0, 3, 4.5, 6])
    assert counts.edges.tolist() == [0, 3, 4.5, 6]
    assert counts.at_risk.tolist() == [6, 2, 1]
    assert counts.events.tolist() == [3, 0, 1]
    assert counts.censored.tolist() == [1, 1, 0]


def test_interval_counts_at_the_ends():
    counts = sv.interval_counts([0, 0, 2, 2], [1, 0, 1, 0], [0, 1, 2])
    assert (counts.at_risk.tolist(), counts.events.tolist(), counts.censored.tolist()) == ([4, 2], [1, 1], [1, 1])


EDGES = st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True).map(lambda e: [0.0, *sorted(map(float, e))])


@given(patients, EDGES)
def test_interval_counts_count_everybody_once(data, edges):
    time, event = np.array(data[0]), np.array(data[1]) > 0
    edges = [*edges, *([13.0] if edges[-1] < time.max() else [])]
    counts = sv.interval_counts(time, event, edges)
    left = counts.at_risk - counts.events - counts.censored
    assert counts.at_risk[0] == time.size and left[-1] == 0
    np.testing.assert_array_equal(left[:-1], counts.at_risk[1:])
    assert counts.events.sum() == event.sum() and counts.censored.sum() == np.sum(~event)
    assert counts.events.min() >= 0 and counts.censored.min() >= 0
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (time <= high) & ((time > low) | (i == 0))
        assert (counts.events[i], counts.censored[i]) == (np.sum(inside & event), np.sum(inside & ~event))
        assert counts.at_risk[i] == (np.sum(time > low) if i else time.size)


@given(patients, EDGES)
def test_interval_counts_make_the_same_curve_if_nobody_is_censored_inside(data, edges):
    event = np.array(data[1]) > 0
    time = np.minimum(np.array(data[0]) + 0.5, edges[-1])
    time = np.where(event, time, np.array(edges)[np.searchsorted(edges, time)])  # censored at the right end only
    counts = sv.interval_counts(time, event, edges)
    estimate = np.cumprod(1 - counts.events / np.maximum(counts.at_risk, 1))
    km = sv.kaplan_meier(time, event)
    known = counts.edges[1:] <= time.max()
    np.testing.assert_allclose(estimate[known], km(counts.edges[1:][known]), atol=1e-12)


# --- Cox and Andersen-Gill --------------------------------------------------------------------------------------------


def test_cox_by_hand():
    """Events of A (0) at 1 and of B (1) at 2, A censored at 3, B at 4: e^b = r solves 1 = 2r/(2 + 2r) + 2r/(1 + 2r)."""
    fit = sv.cox([1, 2, 3, 4], [1, 1, 0, 0], [0, 1, 0, 1])
    r = np.sqrt(0.5)
    assert fit.log_hazard_ratio == pytest.approx(np.log(r), abs=1e-10)
    p = np.array([2 * r / (2 + 2 * r), 2 * r / (1 + 2 * r)])
    assert fit.se == pytest.approx(1 / np.sqrt(np.sum(p * (1 - p))), rel=1e-10)
    assert np.isnan(fit.robust_se)


def test_ties_by_hand():
    """Two events, one of each group, at one time, two patients a group: 1 = 2 r/(1 + r) by Breslow, hence r = 1."""
    time, event, group = [1, 1, 2, 2], [1, 1, 0, 0], [0, 1, 0, 1]
    for ties in ("breslow", "efron"):
        assert sv.cox(time, event, group, ties=ties).log_hazard_ratio == pytest.approx(0.0, abs=1e-10)
    # two of three B and one of two A at one time; Efron's denominators lose a third of the events each
    time, event, group = [1, 1, 1, 2, 2], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
    breslow, efron = (np.exp(sv.cox(time, event, group, ties=k).log_hazard_ratio) for k in ("breslow", "efron"))
    assert 2 == pytest.approx(3 * 3 * breslow / (2 + 3 * breslow))
    f = np.arange(3) / 3
    assert 2 == pytest.approx(np.sum((3 - 2 * f) * efron / (2 - f + (3 - 2 * f) * efron)))


def dense_cox_residuals(time, event, group, start, ties, b):
    """Score residuals by a loop over events and rows, as in the definition."""
    time, event, group, start = (np.asarray(v, float) for v in (time, event, group, start))
    out = np.zeros(time.size)
    for at in np.unique(time[event > 0]):
        risk, dying = (start < at) & (time >= at), (time == at) & (event > 0)
        d = int(dying.sum())
        for k in range(d):
            weight = np.where(risk, 1.0 - dying * (k / d if ties == "efron" else 0.0), 0.0) * np.exp(b * group)
            mean = np.sum(weight * group) / weight.sum()
            out += dying * (group - mean) / d - (group - mean) * weight / weight.sum()
    return out


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_robust_error_with_ties_and_intervals(ties):
    rng = np.random.default_rng(3)
    start = rng.integers(0, 5, 60)
    time, event = start + rng.integers(1, 6, 60), rng.integers(0, 2, 60)
    group, patient = rng.integers(0, 2, 60), rng.integers(100, 120, 60)
    fit = sv.cox(time, event, group, start=start, patient=patient, ties=ties)
    residual = dense_cox_residuals(time, event, group, start, ties, fit.log_hazard_ratio)
    assert residual.sum() == pytest.approx(0, abs=1e-8)  # the score at its root
    robust = np.sqrt(np.sum(np.bincount(patient, residual) ** 2)) * fit.se**2
    assert fit.robust_se == pytest.approx(robust, rel=1e-8)


def test_cox_does_not_mind_the_order_the_unit_or_the_names_of_strata():
    rng = np.random.default_rng(4)
    time, event, group = rng.exponential(size=80), rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    stratum = rng.integers(0, 3, 80)
    fit = sv.cox(time, event, group, stratum, patient=np.arange(80))
    order = rng.permutation(80)
    other = sv.cox(
        12 * time[order], event[order], group[order], np.array([700, -2, 10**9])[stratum[order]], patient=order + 900
    )
    np.testing.assert_allclose(
        [other.log_hazard_ratio, other.se, other.robust_se], [fit.log_hazard_ratio, fit.se, fit.robust_se], rtol=1e-9
    )
    swapped = sv.cox(time, event, 1 - group, stratum)
    assert swapped.log_hazard_ratio == pytest.approx(-fit.log_hazard_ratio, abs=1e-9)
    # cut at any time, a row is the same information
    cut = time * rng.uniform(0.1, 0.9, 80)
    halves = sv.cox(
        np.concatenate([cut, time]),
        np.concatenate([np.zeros(80), event]),
        np.tile(group, 2),
        np.tile(stratum, 2),
        np.concatenate([np.zeros(80), cut]),
        np.tile(np.arange(80), 2),
    )
    assert halves.log_hazard_ratio == pytest.approx(fit.log_hazard_ratio, abs=1e-9)
    assert halves.robust_se == pytest.approx(fit.robust_se, rel=1e-9)


@pytest.mark.parametrize(
    "rows, sentence",
    [
        (([1, 2], [0, 0], [0, 1]), "no event, hence"),
        (([1, 2, 3], [0, 1, 1], [0, 1, 1]), "no event while both groups are at risk"),
        (([1, 2, 3], [1, 0, 0], [0, 1, 0]), "are in group 0: no finite ratio"),
        (([1, 2, 3], [1, 0, 0], [1, 0, 1]), "are in group 1: no finite ratio"),
        (([1, 1, 2, 2], [1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]), "no event while both groups"),
    ],
)
def test_cox_without_a_finite_ratio(rows, sentence):
    with pytest.raises(OsteobayesError, match=sentence):
        sv.cox(*rows)


# --- refusals ---------------------------------------------------------------------------------------------------------

CURVE = ([0, 1, 2], [1, 0.8, 0.6])


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: sv.kaplan_meier([], []), "at least one value"),
        (lambda: sv.kaplan_meier([1, -2], [1, 1]), "negative value, -2"),
        (lambda: sv.kaplan_meier([1, np.nan], [1, 1]), "not finite"),
        (lambda: sv.kaplan_meier([1, 2], [1]), "one value a patient"),
        (lambda: sv.kaplan_meier([1, 2], [1, 2]), "0 or 1"),
        (lambda: sv.aalen_johansen([1, 2], [1, -1]), "whole number"),
        (lambda: sv.aalen_johansen([1, 2], [1, 1.5]), "whole number"),
        (lambda: sv.aalen_johansen([1, 2], [1]), "one value a patient"),
        (lambda: sv.aalen_johansen([1, 2], [1, 2], (1,)), "not among the causes"),
        (lambda: sv.aalen_johansen([1, 2], [1, 2], (1, 2, 2)), "different whole numbers"),
        (lambda: sv.rmst(sv.kaplan_meier(TIME, EVENT), 0), "positive tau"),
        (lambda: sv.rmst(sv.kaplan_meier([1, 2], [1, 0]), 3), "after the end of follow-up"),
        (lambda: sv.log_rank([1, 2], [1, 1], [1, 1]), "two groups"),
        (lambda: sv.cox([1, 2], [1, 1], [1, 1]), "two groups"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], [0.5, 1]), "stratum must be a whole number"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], ["a", "b"]), "stratum must be a whole number"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], [1]), "stratum must have one value a row"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], start=[0]), "start must have one value a row"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], start=[0, 2]), "row 1 goes from 2 to 2"),
        (lambda: sv.cox([1, 2], [1, 1], [0, 1], ties="exact"), "'efron' or 'breslow'"),
        (lambda: sv.interval_counts([1, 2], [1, 1], [0]), "at least one interval"),
        (lambda: sv.interval_counts([1, 2], [1, 1], [1, 2]), "increase from 0"),
        (lambda: sv.interval_counts([1, 2], [1, 1], [0, 2, 2]), "increase from 0"),
        (lambda: sv.interval_counts([1, 2], [1, 1], [0, 1.5]), "the last edge 1.5 is before the last time 2"),
        (lambda: sv.interval_counts([1, -2], [1, 1], [0, 2]), "negative value, -2"),
        (lambda: sv.interval_counts([1, 2], [1], [0, 2]), "one value a patient"),
        (lambda: sv.guyot([0, 1, 2], [1, 0.7, 0.8], [0], [9]), "rises after time 1"),
        (lambda: sv.guyot([0, 2, 1], [1, 0.9, 0.8], [0], [9]), "decrease after 2"),
        (lambda: sv.guyot([-1, 2], [1, 0.9], [0], [9]), "negative value"),
        (lambda: sv.guyot([0, 1], [100, 80], [0], [9]), "not percent"),
        (lambda: sv.guyot([0, 1], [0.9, 0.8], [0], [9]), "must be 1 at time 0"),
        (lambda: sv.guyot([0, 1], [1], [0], [9]), "one value a time"),
        (lambda: sv.guyot(*CURVE, [0, 1], [5, 6]), "rises after time 0"),
        (lambda: sv.guyot(*CURVE, [1, 2], [6, 5]), "must start at time 0"),
        (lambda: sv.guyot(*CURVE, [0, 0], [6, 5]), "must increase"),
        (lambda: sv.guyot(*CURVE, [0, 1], [6, 5.5]), "whole numbers"),
        (lambda: sv.guyot(*CURVE, [0], [6, 5]), "one value a risk_time"),
        (lambda: sv.guyot(*CURVE, [0], [0]), "nobody at risk"),
        (lambda: sv.guyot(*CURVE, [0, 3], [6, 5]), "5 patients are at risk after the curve ends at 2"),
        (lambda: sv.guyot(*CURVE, [0], [6], 7), "from 0 to 6 patients"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
