"""Curves at landmarks, rates, ratios, responses and shares against the patients of the twenty scenarios.

For each statistic: the mean over patients (or replicates) against `expected`, in Monte Carlo standard errors, pooled over
scenarios and arms (`judge_means`: fails for a right formula with fresh seeds with probability 0.06 for 20 scores, 0.10
for 40); the variance over replicates against the one that log_lik assumes, within 10 % (`judge_variance`, a few in a
thousand); and that the same judgement refuses a formula that is off by 10 %.

The patients are this file's own (`sample`), 40,000 an arm. The fixed 20,000 of "two tumours, shared", control, happen to
have few events (mean count 2.7 standard errors low, and with it every rate: up to -3.4), which a formula cannot be asked to
follow; in 300,000 fresh patients of the same arm the z-scores of the same formulas are -0.8 to -0.5.

Where log_lik works on a log scale, the replicates' variance is taken of the number and carried there by the delta method:
the moments of the log of a number that may be 0 do not exist.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import SCENARIOS, Scenario, judge_means, judge_variance, mutated
from scipy import stats

from osteobayes.observe import (
    crude,
    cumulative,
    landmark,
    mixed_hazard,
    observable,
    patients,
    quadrature,
    rate,
    ratio,
    response,
    split,
)

jax.config.update("jax_enable_x64", True)

ARMS = [(s, a) for s in SCENARIOS for a in (0, 1)]
LANDMARKS = (0.2, 0.4, 0.6, 0.75)
"""Shares of the horizon at which the curves are read."""


@functools.cache
def arm(s: Scenario, a: int) -> dict:
    """Everything the formulas ask for."""
    t = jnp.asarray(s.t)
    return {
        "hazard": jnp.asarray(s.hazard[a]),
        "death": jnp.asarray(s.death[a]),
        "frailty": s.theta,
        "weights": jnp.asarray(s.weights / np.sum(s.weights)),
        "stay": jnp.asarray(s.stay),
        "q": jnp.asarray(quadrature(s.t, s.horizon)),
        "t": t,
        "shared": s.shared,
    }


SAMPLE = 40_000


@functools.cache
def sample(s: Scenario, a: int) -> patients.Patients:
    return s.draw(a, SAMPLE, zlib.crc32(f"statistics/{s.name}/{a}".encode()))


def trials_of(s: Scenario, values: np.ndarray, a: int) -> np.ndarray:
    """Values of patients [40000] by replicate [replicates, patients of the arm]."""
    n = s.sizes[a]
    return values[: SAMPLE // n * n].reshape(-1, n)


@functools.cache
def curves(s: Scenario, a: int):
    """Observable hazard of any event, at-risk curve without censoring, weights of the landmarks."""
    x = arm(s, a)
    obs = observable(x["hazard"], x["death"], s.theta, x["t"], s.shared)
    lam, y = mixed_hazard(obs, x["weights"])
    return jnp.sum(lam, 0), y, jnp.asarray(np.stack([quadrature(s.t, f * s.horizon) for f in LANDMARKS]))


def counts(p: patients.Patients) -> np.ndarray:
    return np.bincount(p.patient, minlength=p.n).astype(float)


def z_of_mean(values: np.ndarray, expected) -> float:
    return float((values.mean() - expected) / (values.std(ddof=1) / np.sqrt(values.size)))


def ratio_influence(top: np.ndarray, bottom: np.ndarray):
    """Ratio of means and each patient's influence on it."""
    value = top.mean() / bottom.mean()
    return value, (top - value * bottom) / bottom.mean()


def z_of_ratio(top, bottom, expected) -> float:
    value, influence = ratio_influence(top, bottom)
    return float((value - expected) / (influence.std(ddof=1) / np.sqrt(top.size)))


def judge_both(z, expected_z, variance_ratios, replicates):
    """Means, variance, and the mutation of the means."""
    verdict = judge_means(z)
    print(verdict.text)
    spread = judge_variance(variance_ratios, replicates)
    print(spread.text)
    assert verdict, verdict.text
    assert spread, spread.text
    refused = mutated(lambda factor: judge_means(expected_z(factor)), 1.0)
    assert not refused


# ---- curves at landmarks ----


def estimate(time: np.ndarray, kind: np.ndarray, at: np.ndarray, rival: bool):
    """Kaplan-Meier (other ends censored) or Aalen-Johansen (``rival``: kind 2 competes) survival at landmarks.

    ``kind``: 1 the event, 2 death, 0 censored. [replicate, patient] -> [replicate, landmark].
    """
    order = np.argsort(time, axis=1)
    time, kind = np.take_along_axis(time, order, 1), np.take_along_axis(kind, order, 1)
    n = time.shape[1]
    left = 1.0 / (n - np.arange(n))
    fall = np.where((kind == 1) | ((kind == 2) & rival), 1.0 - left, 1.0)
    free = np.cumprod(fall, axis=1)
    if rival:
        before = np.concatenate([np.ones((time.shape[0], 1)), free[:, :-1]], axis=1)
        free = 1.0 - np.cumsum(np.where(kind == 1, before * left, 0.0), axis=1)
    free = np.concatenate([np.ones((time.shape[0], 1)), free], axis=1)
    index = np.stack([(time <= x).sum(axis=1) for x in at], axis=1)
    return np.take_along_axis(free, index, 1)


def observed(s: Scenario, a: int):
    p = sample(s, a)
    first, _ = patients.first(p)
    time = np.minimum(first, p.end)
    return time, np.where(first <= p.end, 1, np.where(p.died, 2, 0))


def interval_shares(curve: np.ndarray) -> np.ndarray:
    return 1.0 - curve / np.concatenate([np.ones_like(curve[..., :1]), curve[..., :-1]], axis=-1)


@pytest.mark.parametrize("kind", ["kaplan_meier", "aalen_johansen"])
def test_curve_at_landmarks(kind):
    z, ratios, replicates, whole, kept = [], [], [], [], []
    for s, a in ARMS:
        lam, y, q = curves(s, a)
        x, n = arm(s, a), s.sizes[a]
        at_risk = y * x["stay"]
        if kind == "aalen_johansen":
            lam, at_risk = landmark.subdistribution(lam, y, x["stay"], x["t"])
        target = np.asarray(landmark.expected(lam, q))
        p, m = (np.asarray(v) for v in landmark.increments(lam, at_risk, n, q))
        time, ends = observed(s, a)
        at = np.asarray(LANDMARKS) * s.horizon
        everybody = estimate(time[None], ends[None], at, kind == "aalen_johansen")[0]
        trials = estimate(trials_of(s, time, a), trials_of(s, ends, a), at, kind == "aalen_johansen")
        kept.append((interval_shares(everybody), p, np.sqrt(p * (1 - p) / (m * time.size / n))))
        ratios.append(interval_shares(trials).var(0, ddof=1) / (p * (1 - p) / m))
        whole.append(trials.var(0, ddof=1) / (target**2 * np.cumsum(p / ((1 - p) * m))))
        replicates.append(np.full(len(LANDMARKS), len(trials)))

    def scores(factor):
        """Of each interval, and of the whole curve (its intervals are independent)."""
        each = np.stack([(d - factor * p) / se for d, p, se in kept])
        return each, np.stack(
            [((d - factor * p) / (1 - p)).sum() / np.sqrt(((se / (1 - p)) ** 2).sum()) for d, p, se in kept]
        )

    z = scores(1.0)
    weights = np.asarray(replicates) - 1
    print(kind, "variance by interval", np.round(np.average(ratios, axis=0, weights=weights), 3))
    print(kind, "variance of the curve", np.round(np.average(whole, axis=0, weights=weights), 3))
    assert stats.chi2.sf(np.sum(z[0] ** 2), z[0].size) > 1e-3
    judge_both(z[1], lambda f: scores(f)[1], np.concatenate(ratios), np.concatenate(replicates))
    curve = judge_variance(np.concatenate(whole), np.concatenate(replicates))
    assert curve, curve.text


# ---- rates ----


def rate_case(top_of, expected_of, sd_of, per_time: bool):
    z, ratios, replicates, kept = [], [], [], []
    for s, a in ARMS:
        p = sample(s, a)
        top = top_of(s, p)
        bottom = p.end if per_time else np.ones(p.n)
        expected, sd = float(expected_of(s, a)), float(sd_of(s, a))
        kept.append((top, bottom, expected))
        z.append(z_of_ratio(top, bottom, expected))
        trials = trials_of(s, top, a).mean(1) / trials_of(s, bottom, a).mean(1)
        ratios.append(trials.var(ddof=1) / (np.expm1(sd**2) * expected**2))
        replicates.append(trials.size)
    judge_both(z, lambda f: [z_of_ratio(t, b, f * e) for t, b, e in kept], ratios, replicates)


def test_mean_count():
    rate_case(
        lambda s, p: counts(p),
        lambda s, a: rate.mean_count(**arm(s, a)),
        lambda s, a: rate.sd_count(s.sizes[a], **arm(s, a)),
        False,
    )


def test_pooled_rate():
    rate_case(
        lambda s, p: counts(p),
        lambda s, a: rate.pooled_rate(**arm(s, a)),
        lambda s, a: rate.sd_pooled(s.sizes[a], **arm(s, a)),
        True,
    )


def periods(p: patients.Patients, length: float) -> np.ndarray:
    """Periods with an event, by patient."""
    number = np.floor(p.time / length).astype(int)
    found = np.unique(np.stack([p.patient, number]), axis=1)
    return np.bincount(found[0], minlength=p.n).astype(float)


@pytest.mark.parametrize("weeks", [12, 26])
def test_period_rate(weeks):
    length = weeks * 7 / 365.25
    rate_case(
        lambda s, p: periods(p, length),
        lambda s, a: rate.period_rate(**arm(s, a), length=length),
        lambda s, a: rate.sd_period(s.sizes[a], **arm(s, a), length=length),
        True,
    )


GAP = patients.GAP


def test_gap_between_events():
    gap = GAP
    rate_case(
        lambda s, p: counts(p.apart(gap)),
        lambda s, a: rate.mean_count(**arm(s, a), gap=gap),
        lambda s, a: rate.sd_count(s.sizes[a], **arm(s, a), gap=gap),
        False,
    )


def test_gap_pooled_rate():
    rate_case(
        lambda s, p: counts(p.apart()),
        lambda s, a: rate.pooled_rate(**arm(s, a), gap=GAP),
        lambda s, a: rate.sd_pooled(s.sizes[a], **arm(s, a), gap=GAP),
        True,
    )


# ---- two arms ----


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_ratio_of_proportions(kind):
    z, ratios, replicates, kept = [], [], [], []
    for s in SCENARIOS:
        had = [np.isfinite(patients.first(sample(s, a))[0]).astype(float) for a in (0, 1)]
        p = []
        for a in (0, 1):
            x = arm(s, a)
            obs = observable(x["hazard"], x["death"], s.theta, x["t"], s.shared)
            p.append(float(crude.expected(obs, x["weights"], x["stay"], x["q"])))
        seen = [h.mean() for h in had]
        value = float(ratio.expected(kind, seen[1], seen[0]))
        se = float(ratio.standard_error(kind, seen[1], seen[0], had[1].size, had[0].size))
        kept.append((value, p, se))
        z.append((value - float(ratio.expected(kind, p[1], p[0]))) / se)
        k = SAMPLE // max(s.sizes)
        trials = [trials_of(s, had[a], a)[:k].mean(1) for a in (0, 1)]
        numbers = np.asarray(ratio.expected(kind, trials[1], trials[0]))
        assumed = float(ratio.standard_error(kind, p[1], p[0], s.sizes[1], s.sizes[0]))
        ratios.append(numbers.var(ddof=1) / assumed**2)
        replicates.append(k)
    judge_both(
        z,
        lambda f: [(v - float(ratio.expected(kind, f * p[1], p[0]))) / se for v, p, se in kept],
        ratios,
        replicates,
    )


# ---- shares, any component ----


def test_shares_of_all_events():
    z, ratios, replicates, kept = [], [], [], []
    for s, a in ARMS:
        p = sample(s, a)
        shares = np.asarray(split.shares_of_all(rate.component_counts(**arm(s, a))))
        total = counts(p)
        own = np.bincount(p.patient[p.component == 0], minlength=p.n).astype(float)
        kept.append((own, total, float(shares[0])))
        z.append(z_of_ratio(own, total, shares[0]))
        # the multinomial is conditional on the total: standardise each replicate by its own
        k, n = trials_of(s, own, a).sum(1), trials_of(s, total, a).sum(1)
        ratios.append(np.mean((k - n * shares[0]) ** 2 / (n * shares[0] * (1 - shares[0]))))
        replicates.append(k.size)
    judge_both(z, lambda f: [z_of_ratio(o, t, f * e) for o, t, e in kept], ratios, replicates)


ANY = jax.jit(crude.any_event, static_argnames="shared")


def test_any_event_of_a_component():
    z, ratios, replicates, kept = [], [], [], []
    for s, a in ARMS:
        p, x, n = sample(s, a), arm(s, a), s.sizes[a]
        expected = np.asarray(ANY(**x))
        for k in range(2):
            had = np.bincount(p.patient[p.component == k], minlength=p.n) > 0
            kept.append((had.astype(float), float(expected[k])))
            z.append(z_of_mean(had.astype(float), expected[k]))
            trials = trials_of(s, had, a).mean(1)
            ratios.append(trials.var(ddof=1) / (expected[k] * (1 - expected[k]) / n))
            replicates.append(trials.size)
    judge_both(z, lambda f: [z_of_mean(h, f * e) for h, e in kept], ratios, replicates)


# ---- response ----

BURDENS = {
    "shrinks": lambda t: -1.6 * (1 - np.exp(-t / 0.3)),
    "shrinks, grows again": lambda t: -1.8 * (1 - np.exp(-t / 0.25)) + 1.1 * t,
    "grows": lambda t: 0.5 * t,
    "slow": lambda t: -0.7 * t,
}


def test_objective_response():
    z, ratios, replicates, kept = [], [], [], []
    for i, (s, a) in enumerate(ARMS):
        p, x, n = sample(s, a), arm(s, a), s.sizes[a]
        spread, horizon = (0.5, 0.8, 1.3)[i % 3], (1.0, 0.63)[i % 2] * s.horizon
        y = list(BURDENS.values())[i % 4](s.t)
        living = np.asarray(
            rate._moment(jnp.zeros_like(x["death"]), cumulative(x["death"], x["t"]), s.theta, 0, s.shared)
        )
        alive_stay = np.asarray(x["weights"]) @ living * s.stay
        expected = float(response.objective(jnp.asarray(y), jnp.asarray(alive_stay), x["t"], horizon, spread))
        d = np.random.default_rng(100 + i).normal(0.0, spread, p.n)
        limit = np.maximum.accumulate(np.where(s.t > 0, (response.LOG_SHRINKAGE - y) / np.where(s.t > 0, s.t, 1), -1e9))
        when = np.searchsorted(limit, d)  # first grid time with c(u) >= d
        when = np.where(when < s.t.size, s.t[np.minimum(when, s.t.size - 1)], np.inf)
        had = ((when < p.end) & (when <= horizon)).astype(float)
        kept.append((had, expected))
        z.append(z_of_mean(had, expected))
        trials = trials_of(s, had, a).mean(1)
        ratios.append(trials.var(ddof=1) / (expected * (1 - expected) / n))
        replicates.append(trials.size)
    judge_both(z, lambda f: [z_of_mean(h, f * e) for h, e in kept], ratios, replicates)
