"""Hazard ratios of simulated trials against the root of `contrast.hazard_ratio`: Cox and Andersen-Gill, proportional or not.

`osteobayes.survival.cox` fits the large samples; lifelines is the independent judge of one trial of each kind. Seeds are
fixed. With fresh seeds a comparison at Z = 4 standard errors fails with probability 6e-5 (about 60 of them here, together
0.004); the 20 scenarios are judged as in test_scenarios.py (0.055).
"""

import functools
import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import SCENARIOS, Scenario, judge_means, late, mutated
from simulated import counts, first_events, intervals

from osteobayes.observe import contrast, mixed_hazard, observable, quadrature, rate, recurrent
from osteobayes.survival import Cox, cox

jax.config.update("jax_enable_x64", True)

Z = 4.0
HORIZON = 3.0
T = np.linspace(0, HORIZON, 1201)


def trial(control, treated, theta, shared, share, deaths=(0.4, 0.4), weights=(1.0,), base=(1.0,)) -> Scenario:
    """One component; ``control`` and ``treated`` hazards at T, ``base`` factors of the members (deaths likewise)."""
    h = tuple(np.multiply.outer(np.asarray(base), np.broadcast_to(v, T.shape))[:, None, :] for v in (control, treated))
    d = tuple(np.multiply.outer(np.asarray(base), np.full(T.shape, v)) for v in deaths)
    sizes = (round(600 * (1 - share)), round(600 * share))
    return Scenario("", T, h, d, np.asarray(weights), theta, shared, 0.25, HORIZON, 1.5, sizes, "")


CROSSING = 0.4 + 1.4 * late(T, 0.7, 0.02)
DELAYED = 0.8 * (1 - 0.45 * late(T))
WANING = 0.8 * (1 - 0.7 * np.exp(-T / 0.5))
TUMOURS = {"weights": (0.5, 0.3, 0.2), "base": (0.4, 1.0, 2.5)}
TRIALS = {
    "proportional": trial(0.8, 0.56, 0.0, False, 0.5),
    "frailty": trial(0.8, 0.56, 1.0, False, 0.5),
    "shared frailty": trial(0.8, 0.56, 1.0, True, 0.5),
    "strong, 2:1": trial(0.8, 0.24, 1.5, False, 2 / 3),
    "delayed": trial(0.8, DELAYED, 0.5, False, 0.5),
    "delayed, shared": trial(0.8, DELAYED, 1.0, True, 0.5),
    "waning": trial(0.8, WANING, 0.0, False, 0.5),
    "waning, shared, 1:2": trial(0.8, WANING, 1.0, True, 1 / 3),
    "crossing, 2:1": trial(1.0, CROSSING, 1.0, False, 2 / 3),
    "crossing, shared, 2:1": trial(1.0, CROSSING, 1.0, True, 2 / 3),
    "nothing early": trial(0.8, 0.8 * (0.01 + 0.7 * late(T)), 0.3, False, 0.5),
    "longer lives": trial(1.2, 0.65 * 1.2, 0.0, False, 0.5, deaths=(0.6, 0.36)),
    "longer lives, shared": trial(1.2, 0.65 * 1.2, 0.8, True, 0.5, deaths=(0.6, 0.36)),
    "tumours": trial(0.8, 0.5, 0.5, False, 0.5, **TUMOURS),
    "tumours, crossing, shared": trial(1.0, CROSSING, 0.6, True, 2 / 3, **TUMOURS),
    "tumours, delayed": trial(0.8, DELAYED, 0.0, False, 0.5, **TUMOURS),
}
TRIALS = {name: replace(s, name=name) for name, s in TRIALS.items()}
MIXED = [name for name, s in TRIALS.items() if s.weights.size > 1]


# --- simulated fits ---------------------------------------------------------------------------------------------------


def seed(s: Scenario, a: int) -> int:
    return zlib.crc32(f"contrast/{s.name}/{a}".encode())


@functools.cache
def rows(s: Scenario, n: int, recurring: bool) -> dict[str, np.ndarray]:
    """Rows of both arms, ``n`` patients: start, stop, event, group, member, patient."""
    arms = []
    for a, share in ((0, 1 - s.share), (1, s.share)):
        p = s.draw(a, round(n * share), seed(s, a))
        if recurring:
            patient, start, stop, event = intervals(p)
        else:
            patient, start = np.arange(p.n), np.zeros(p.n)
            stop, event = first_events(p)
        arms.append((start, stop, event, np.full(patient.size, a), p.member[patient], patient + a * n))
    names = ("start", "stop", "event", "group", "member", "patient")
    return {k: np.concatenate(v) for k, v in zip(names, zip(*arms, strict=True), strict=True)}


def fit(s: Scenario, n: int, recurring: bool, stratified: bool = False) -> Cox:
    r = rows(s, n, recurring)
    more = {"start": r["start"], "patient": r["patient"]} if recurring else {}
    return cox(r["stop"], r["event"], r["group"], r["member"] if stratified else None, **more)


def lifelines_fit(s: Scenario, n: int, recurring: bool, stratified: bool = False) -> float:
    lifelines = pytest.importorskip("lifelines")
    import pandas as pd

    more = {"entry_col": "start"} if recurring else {}
    more |= {"strata": ["member"]} if stratified else {}
    columns = ["stop", "event", "group", *(["start"] if recurring else []), *(["member"] if stratified else [])]
    table = pd.DataFrame(rows(s, n, recurring))[columns]
    options = {"precision": 1e-10, "r_precision": 1e-14}
    return float(lifelines.CoxPHFitter().fit(table, "stop", "event", **more, fit_options=options).params_["group"])


# --- what they converge to --------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="shared")
def _curves(h, d, theta, w, stay, t, shared):
    obs = observable(h, d, theta, t, shared)
    lam, y = mixed_hazard(obs, w)
    r, living = recurrent(h, d, theta, t, shared)
    return {
        (False, True): (obs.hazard.sum(axis=1), obs.at_risk * stay),
        (False, False): (lam.sum(axis=0), y * stay),
        (True, True): (r.sum(axis=1), living * stay),
        (True, False): (jnp.einsum("m,mt,mkt->t", w, living, r) / (w @ living), (w @ living) * stay),
    }


@functools.cache
def arguments(s: Scenario, recurring: bool, stratified: bool) -> tuple:
    """Arguments of `contrast.hazard_ratio`."""
    sides = [
        _curves(s.hazard[a], s.death[a], s.theta, s.weights, s.stay, s.t, s.shared)[recurring, stratified]
        for a in (1, 0)
    ]
    return *sides[0], *sides[1], quadrature(s.t, s.horizon), s.share, s.weights if stratified else None


def root(s: Scenario, recurring: bool = False, stratified: bool = False) -> float:
    return float(contrast.hazard_ratio(*arguments(s, recurring, stratified)))


def event_weighted(s: Scenario) -> float:
    """The mean of the log ratio of the observable hazards, weighted by events: what the root replaces."""
    lam1, y1, lam0, y0, q, share, _ = arguments(s, False, False)
    weight = q * (share * y1 * lam1 + (1 - share) * y0 * lam0)
    return float(weight @ np.log(lam1 / lam0) / weight.sum())


# --- Cox --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRIALS)
def test_cox_ratio(name):
    s, n = TRIALS[name], 200_000
    for stratified in {False, name in MIXED}:
        found, b = fit(s, n, False, stratified), root(s, False, stratified)
        assert abs(found.log_hazard_ratio - b) < Z * found.se
        se = float(contrast.standard_error(b, n, *arguments(s, False, stratified)))
        assert se == pytest.approx(found.se, rel=0.02)
        assert abs(found.log_hazard_ratio - b - np.log(1.1)) > Z * found.se  # a ratio off by 10 % would show


def test_cox_ratio_of_crossing_hazards_is_not_the_event_weighted_mean():
    """0.4 times the hazard at first, 1.8 times later, 2:1: -0.18 against -0.11; no events early: -0.91 against -1.51."""
    for name, exact, mean in (("crossing, 2:1", -0.184, -0.107), ("nothing early", -0.910, -1.513)):
        s = TRIALS[name]
        found = fit(s, 200_000, False)
        print(name, found.log_hazard_ratio, root(s), event_weighted(s))
        assert root(s) == pytest.approx(exact, abs=0.002)
        assert event_weighted(s) == pytest.approx(mean, abs=0.002)
        assert abs(found.log_hazard_ratio - event_weighted(s)) > 5 * found.se


def test_strata_matter():
    """The stratified and the pooled root are different numbers, and each is what its own fit finds."""
    s = TRIALS["tumours"]
    n = 200_000
    assert abs(root(s, stratified=True) - root(s)) > 3 * fit(s, n, False).se
    gap = fit(s, n, False, True).log_hazard_ratio - fit(s, n, False).log_hazard_ratio
    assert gap == pytest.approx(root(s, stratified=True) - root(s), abs=0.005)  # the same patients: most noise cancels


# --- Andersen-Gill ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRIALS)
def test_andersen_gill_ratio(name):
    s, n = TRIALS[name], 150_000
    for stratified in {False, name in MIXED}:
        found, b = fit(s, n, True, stratified), root(s, True, stratified)
        assert abs(found.log_hazard_ratio - b) < Z * found.robust_se
        assert abs(found.log_hazard_ratio - b - np.log(1.1)) > Z * found.robust_se


def test_andersen_gill_ratio_is_not_the_ratio_of_counts():
    """Rate ratio 0.65, death hazard ratio 0.6: Andersen-Gill stays at 0.65, mean counts give 0.79; 0.73 and 0.82 shared."""
    for name, ag, of_counts in (("longer lives", 0.65, 0.79), ("longer lives, shared", 0.73, 0.82)):
        s, n = TRIALS[name], 150_000
        found = fit(s, n, True)
        per_patient = [counts(s.draw(a, n // 2, seed(s, a))) for a in (0, 1)]
        seen = np.log(per_patient[1].mean() / per_patient[0].mean())
        q = quadrature(s.t, s.horizon)
        means = [
            float(rate.mean_count(s.hazard[a], s.death[a], s.theta, s.weights, s.stay, q, s.t, s.shared))
            for a in (0, 1)
        ]
        print(name, np.exp([found.log_hazard_ratio, root(s, True), seen]), means[1] / means[0])
        error = np.sqrt(sum(c.var() / c.mean() ** 2 / c.size for c in per_patient))
        assert np.exp(root(s, True)) == pytest.approx(ag, abs=0.01)
        assert means[1] / means[0] == pytest.approx(of_counts, abs=0.03)
        assert abs(seen - np.log(means[1] / means[0])) < Z * error
        assert abs(found.log_hazard_ratio - seen) > Z * error


def test_model_based_error_of_andersen_gill_is_too_small():
    """With frailty the events of a patient go together: robust/model-based is near sqrt(1 + theta M), 1 without frailty.

    Within 12 % of it for theta up to 1 in these trials (an approximation: M is the mean count of both arms).
    """
    for name in ("waning", "proportional", "frailty", "delayed", "longer lives, shared"):
        s = TRIALS[name]
        found = fit(s, 60_000, True)
        m = np.mean(rows(s, 60_000, True)["event"]) * rows(s, 60_000, True)["event"].size / 60_000
        print(name, found.robust_se / found.se, np.sqrt(1 + s.theta * m))
        assert found.robust_se / found.se == pytest.approx(np.sqrt(1 + s.theta * m), rel=0.12)


def test_andersen_gill_of_all_scenarios():
    z, b = [], []
    for s in SCENARIOS:
        n = 2 * 20_000
        found = fit(s, n, True)
        z.append((found.log_hazard_ratio, found.robust_se))
        b.append(root(s, True))
    seen, se = np.array(z).T

    def judged(b):
        return judge_means((seen - b) / se)

    verdict = judged(np.array(b))
    print(verdict.text)
    assert verdict, verdict.text
    mutated(judged, b)


# --- an independent judge ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::Warning:lifelines")  # its own, about newer pandas
@pytest.mark.parametrize("recurring", [False, True])
@pytest.mark.parametrize("name", ["frailty", "delayed", "waning", "crossing, 2:1", "tumours, crossing, shared"])
def test_lifelines_agrees(name, recurring):
    s, n = TRIALS[name], 1_200
    stratified = name in MIXED
    theirs, ours = lifelines_fit(s, n, recurring, stratified), fit(s, n, recurring, stratified)
    assert theirs == pytest.approx(ours.log_hazard_ratio, abs=1e-6)
    error = ours.robust_se if recurring else ours.se
    assert abs(theirs - root(s, recurring, stratified)) < Z * error
