"""Observation models against simulated patients.

Patients are drawn in NumPy (gamma frailty, events of several types, death, dropout, staggered entry), the published
number is computed from them as a trial would, and compared with the formula. Seeds are fixed. With fresh seeds a
comparison at Z = 4.5 standard errors fails by chance with probability 7e-6; the tests hold about 50 such comparisons
(together 4e-4). Comparisons of an *approximation* (medians, standard errors) have wider, written tolerances.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from osteobayes.observe import (
    alive,
    completion,
    contrast,
    crude,
    incidence,
    interpolation,
    median,
    mixed_hazard,
    observable,
    quadrature,
    rate,
    recurrent,
)

jax.config.update("jax_enable_x64", True)

Z = 4.5
HORIZON, ACCRUAL, DROPOUT = 3.0, 1.5, 0.25
T = np.linspace(0, HORIZON, 1201)
Q = quadrature(T, HORIZON)
STAY = np.exp(-DROPOUT * T) * np.clip((HORIZON - T) / ACCRUAL, 0, 1)
FINE = np.linspace(0, 40, 400001)


def gamma(rng, theta, n):
    return rng.gamma(1 / theta, theta, n) if theta > 0 else np.ones(n)


def waiting(rng, hazard, u):
    """Times of a first event with hazard u * hazard(t), by inversion on a fine grid."""
    h = hazard(FINE)
    total = np.concatenate([[0.0], np.cumsum(0.5 * (h[1:] + h[:-1]) * np.diff(FINE))])
    return np.interp(rng.exponential(size=u.size) / u, total, FINE, right=np.inf)


def follow_up(rng, n):
    """Dropout and end of administrative follow-up."""
    return np.minimum(rng.exponential(1 / DROPOUT, n), HORIZON - ACCRUAL * rng.uniform(size=n))


def patients(rng, n, hazards, death, theta, shared):
    """First event times by component [K, n], death, censoring, frailty."""
    u = gamma(rng, theta, n)
    events = np.stack([waiting(rng, h, u) for h in hazards])
    dead = rng.exponential(1 / death, n) / (u if shared else 1.0)
    return events, dead, follow_up(rng, n), u


def flat(value):
    return lambda t: value * np.ones_like(t)


def curves(hazards, death, theta, shared):
    h = jnp.asarray(np.stack([h(T) for h in hazards]))[None]
    return h, death * jnp.ones((1, T.size)), observable(h, death * jnp.ones((1, T.size)), theta, T, shared)


def agree(seen, n, expected):
    """Z-score of a simulated proportion."""
    expected = np.asarray(expected)
    return np.abs(np.asarray(seen) - expected) / np.sqrt(expected * (1 - expected) / n)


HAZARDS = (flat(0.5), lambda t: 0.2 + 0.3 * t, lambda t: 0.1 + 1.0 * np.exp(-t / 0.3))


@pytest.mark.parametrize(("theta", "shared"), [(0.0, False), (1.0, False), (1.0, True)])
def test_crude_by_component_any_event_composite_and_completion(theta, shared):
    n = 200_000
    rng = np.random.default_rng(11)
    events, dead, lost, _ = patients(rng, n, HAZARDS, 0.4, theta, shared)
    h, d, obs = curves(HAZARDS, 0.4, theta, shared)
    end = np.minimum(dead, lost)
    first, kind = events.min(0), events.argmin(0)
    seen = [(first < end) & (kind == k) for k in range(3)]
    expected = crude.first_event(obs, np.ones(1), STAY, Q)
    assert agree([s.mean() for s in seen], n, expected).max() < Z
    assert agree((first < end).mean(), n, expected.sum()) < Z
    every = crude.any_event(h, d, theta, np.ones(1), STAY, Q, T, shared)
    assert agree((events < end).mean(1), n, every).max() < Z
    composite = crude.first_event_or_death(obs, np.ones(1), STAY, Q)
    assert agree((np.minimum(first, dead) < lost).mean(), n, composite) < Z
    tau = 1.2
    p = completion.expected(alive(d, theta, T, shared), np.ones(1), np.exp(-DROPOUT * tau), interpolation(T, tau))
    dropout = rng.exponential(1 / DROPOUT, n)
    assert agree((np.minimum(dead, dropout) > tau).mean(), n, p) < Z


def test_crude_of_a_mixture_and_its_curve():
    n, w = 200_000, np.array([0.55, 0.45])
    rng = np.random.default_rng(12)
    parts = [patients(rng, round(n * x), HAZARDS[:1], d, 0.7, True) for x, d in zip(w, (0.2, 1.0), strict=True)]
    first = np.concatenate([p[0][0] * f for p, f in zip(parts, (1.0, 0.5), strict=True)])  # 0.5 and 1.0/y
    dead, lost = (np.concatenate([p[i] for p in parts]) for i in (1, 2))
    h = jnp.asarray(np.stack([0.5 * np.ones((1, T.size)), 1.0 * np.ones((1, T.size))]))
    obs = observable(h, jnp.asarray(np.stack([0.2 * np.ones(T.size), 1.0 * np.ones(T.size)])), 0.7, T, True)
    expected = crude.expected(obs, w, STAY, Q)
    assert agree((first < np.minimum(dead, lost)).mean(), n, expected) < Z
    lam, y = mixed_hazard(obs, w)
    time, event = np.minimum(first, np.minimum(dead, lost)), first < np.minimum(dead, lost)
    for tau in (0.5, 1.5):
        steps, km, variance = kaplan_meier(time, event)
        i = np.searchsorted(steps, tau) - 1
        total = quadrature(T, tau) @ lam[0]
        assert abs(-np.log(km[i]) - total) / np.sqrt(variance[i]) < Z
        formula = quadrature(T, tau) @ (lam[0] / (n * y * np.maximum(STAY, 1e-3)))
        assert variance[i] == pytest.approx(float(formula), rel=0.03)  # Greenwood in its continuous form


def kaplan_meier(time, event):
    order = np.argsort(time)
    at_risk = time.size - np.arange(time.size)
    d = event[order]
    km = np.cumprod(1 - d / at_risk)
    return time[order], km, np.cumsum(d / at_risk**2)


def trials(rng, count, n, hazard, death, theta):
    """Kaplan-Meier medians of ``count`` trials of ``n`` patients; NaN: not reached."""
    events, dead, lost, _ = patients(rng, count * n, (flat(hazard),), death, theta, False)
    end = np.minimum(dead, lost)
    time = np.minimum(events[0], end).reshape(count, n)
    event = (events[0] < end).reshape(count, n)
    order = np.argsort(time, axis=1)
    time, event = (np.take_along_axis(v, order, axis=1) for v in (time, event))
    km = np.cumprod(1 - event / (n - np.arange(n)), axis=1)
    low = km <= 0.5
    x = np.take_along_axis(time, low.argmax(1)[:, None], axis=1)[:, 0]
    return np.where(low.any(1), x, np.nan)


DESIGNS = {  # n, hazard, death, theta
    "large": (200, 0.9, 0.4, 0.5),
    "often not reached": (200, 0.45, 0.4, 0.3),
    "sixty": (60, 0.9, 0.4, 0.5),
    "small": (27, 1.0, 0.4, 0.5),
    "half not reached": (214, 0.28, 0.4, 0.3),
    "small, not reached": (27, 0.6, 0.4, 0.5),
    "deaths": (300, 0.5, 0.8, 0.3),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_kaplan_meier_median(name):
    """An approximation, with its tolerances.

    P(not reached) within 0.05; where nearly all are reached, sd(z) 0.85 to 1.1, mean within 0.1, and 0.03 to 0.07 of
    the residuals beyond each 90 % limit (0.02 to 0.075 for n = 27).
    """
    n, hazard, death, theta = DESIGNS[name]
    count = min(4000, 200_000 // n)
    x = trials(np.random.default_rng(13), count, n, hazard, death, theta)
    _, _, obs = curves((flat(hazard),), death, theta, False)
    lam, y = obs.hazard[0, 0], obs.at_risk[0] * STAY
    missed = np.exp(float(median.log_lik_not_reached(lam, y, n, T, HORIZON, interpolation(T, HORIZON))))
    assert abs(np.isnan(x).mean() - missed) < 0.05
    seen = x[~np.isnan(x)][:2000]
    q = jnp.asarray([quadrature(T, v) for v in seen])
    p = jnp.asarray([interpolation(T, v) for v in seen])
    z = np.asarray(jax.vmap(lambda v, a, b: median.residual(lam, y, n, T, v, a, b))(jnp.asarray(seen), q, p))
    if missed < 0.05:
        least, most = (0.02, 0.075) if n < 50 else (0.03, 0.07)
        assert least < (z < -1.645).mean() < most
        assert least < (z > 1.645).mean() + np.isnan(x).mean() < most + 0.02
        assert 0.85 < z.std() < 1.1
        assert abs(z.mean()) < 0.1
    # residuals of the reached medians fill the normal law below its truncation
    chance = stats.norm.cdf(z) / (1 - np.isnan(x).mean())
    assert abs(np.minimum(chance, 1).mean() - 0.5) < 0.06


def cox(time, event, arm, stratum=None):
    """Cox log hazard ratio of one binary covariate (no ties) and its standard error."""
    stratum = np.zeros(time.size) if stratum is None else stratum
    order = np.lexsort((time, stratum))
    time, event, arm, stratum = (v[order] for v in (time, event, arm, stratum))
    n1, n0 = np.empty(time.size), np.empty(time.size)
    for s in np.unique(stratum):
        i = stratum == s
        n1[i] = np.cumsum(arm[i][::-1])[::-1]
        n0[i] = np.cumsum(1 - arm[i][::-1])[::-1]
    n1, n0, a = n1[event], n0[event], arm[event]
    b = 0.0
    for _ in range(30):
        p = n1 * np.exp(b) / (n0 + n1 * np.exp(b))
        b += np.sum(a - p) / np.sum(p * (1 - p))
    return b, 1 / np.sqrt(np.sum(p * (1 - p)))


def late(t):
    return 1 / (1 + np.exp(-(t - 0.5) / 0.06))


CONTRASTS = {  # hazard of arm 1, of arm 0, death, theta, shared, share of arm 1
    "proportional": (flat(0.56), flat(0.8), 0.4, 0.0, False, 0.5),
    "frailty": (flat(0.56), flat(0.8), 0.4, 1.0, False, 0.5),
    "shared frailty": (flat(0.56), flat(0.8), 0.4, 1.0, True, 0.5),
    "strong, 2:1": (flat(0.24), flat(0.8), 0.4, 1.5, False, 2 / 3),
    "delayed": (lambda t: 0.8 * (1 - 0.45 * late(t)), flat(0.8), 0.4, 0.5, False, 0.5),
    "crossing, 2:1": (lambda t: 0.8 * (0.4 + 1.4 * late(t)), flat(0.8), 0.4, 0.3, False, 2 / 3),
    "nothing early": (lambda t: 0.8 * (0.01 + 0.7 * late(t)), flat(0.8), 0.4, 0.3, False, 0.5),
}


def contrast_patients(name, n, seed=14):
    h1, h0, death, theta, shared, share = CONTRASTS[name]
    rng = np.random.default_rng(seed)
    out = []
    for arm, h, m in ((1, h1, round(n * share)), (0, h0, n - round(n * share))):
        events, dead, lost, _ = patients(rng, m, (h,), death, theta, shared)
        end = np.minimum(dead, lost)
        out.append((np.minimum(events[0], end), events[0] < end, np.full(m, float(arm))))
    return (np.concatenate(v) for v in zip(*out, strict=True))


def contrast_curves(name):
    h1, h0, death, theta, shared, share = CONTRASTS[name]
    one, ref = (curves((h,), death, theta, shared)[2] for h in (h1, h0))
    return (one.hazard[:, 0], one.at_risk * STAY, ref.hazard[:, 0], ref.at_risk * STAY), share


@pytest.mark.parametrize("name", CONTRASTS)
def test_hazard_ratio_is_what_cox_converges_to(name):
    n = 200_000
    b, se = cox(*contrast_patients(name, n))
    args, share = contrast_curves(name)
    root = float(contrast.hazard_ratio(*args, Q, share))
    assert abs(b - root) < Z * se
    assert float(contrast.standard_error(root, n, *args, Q, share)) == pytest.approx(se, rel=0.02)
    if name in ("crossing, 2:1", "nothing early"):  # the event-weighted mean of the log ratio misses
        lam1, y1, lam0, y0 = (np.asarray(v)[0] for v in args)
        weight = Q * (share * y1 * lam1 + (1 - share) * y0 * lam0)
        naive = weight @ np.log(lam1 / lam0) / weight.sum()
        assert abs(naive - root) > 5 * se


@pytest.mark.parametrize("name", ["frailty", "crossing, 2:1"])
def test_hazard_ratio_against_lifelines(name):
    lifelines = pytest.importorskip("lifelines")
    import pandas as pd

    time, event, arm = contrast_patients(name, 20_000, seed=15)
    fit = lifelines.CoxPHFitter().fit(pd.DataFrame({"t": time, "e": event, "x": arm}), "t", "e")
    b, se = float(fit.params_["x"]), float(fit.standard_errors_["x"])
    own, own_se = cox(time, event, arm)
    assert own == pytest.approx(b, abs=1e-5)
    assert own_se == pytest.approx(se, rel=1e-4)
    args, share = contrast_curves(name)
    assert abs(b - float(contrast.hazard_ratio(*args, Q, share))) < Z * se


def test_stratified_mixture():
    """Three tumours; stratified and unstratified Cox models, each against its own root."""
    n = 200_000
    w, h0, effect, death = np.array([0.5, 0.3, 0.2]), (0.3, 0.8, 2.0), (0.9, 0.7, 0.6), (0.3, 0.6, 1.2)
    rng = np.random.default_rng(16)
    rows, lam, y = [], [[], []], [[], []]
    for s in range(3):
        for arm in (0, 1):
            h = h0[s] * (effect[s] if arm else 1.0)
            m = round(n * w[s] / 2)
            events, dead, lost, _ = patients(rng, m, (flat(h),), death[s], 0.5, False)
            end = np.minimum(dead, lost)
            rows.append((np.minimum(events[0], end), events[0] < end, np.full(m, float(arm)), np.full(m, s)))
            obs = curves((flat(h),), death[s], 0.5, False)[2]
            lam[arm].append(obs.hazard[0, 0])
            y[arm].append(obs.at_risk[0] * STAY)
    (lam0, lam1), (y0, y1) = (map(jnp.stack, v) for v in (lam, y))
    time, event, arm, stratum = (np.concatenate(v) for v in zip(*rows, strict=True))
    b, se = cox(time, event, arm, stratum)
    stratified = float(contrast.hazard_ratio(lam1, y1, lam0, y0, Q, 0.5, w))
    assert abs(b - stratified) < Z * se
    pooled = [(w @ (v * k) / (w @ k + 1e-30), w @ k) for v, k in ((lam1, y1), (lam0, y0))]
    whole = float(contrast.hazard_ratio(*pooled[0], *pooled[1], Q))
    b, se = cox(time, event, arm)
    assert abs(b - whole) < Z * se
    assert abs(whole - stratified) > 4 * se


def histories(rng, n, hazard, death, theta, shared, most=40):
    """Recurrent events: count in own time, times [n, most] (inf after the end), end."""
    u = gamma(rng, theta, n)
    end = np.minimum(rng.exponential(1 / death, n) / (u if shared else 1.0), follow_up(rng, n))
    h = hazard(FINE)
    total = np.concatenate([[0.0], np.cumsum(0.5 * (h[1:] + h[:-1]) * np.diff(FINE))])
    clock = np.cumsum(rng.exponential(size=(n, most)), axis=1) / u[:, None]
    times = np.interp(clock, total, FINE, right=np.inf)
    times[times > end[:, None]] = np.inf
    return np.isfinite(times).sum(1), times, end, u


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("front", [0.0, 1.5])
def test_mean_of_rates_and_mean_count(shared, front):
    n, theta = 50_000, 0.8
    hazard = lambda t: 0.9 * (1 + front * np.exp(-t / 0.25))  # noqa: E731
    count, _, end, u = histories(np.random.default_rng(17), n, hazard, 0.5, theta, shared)
    h, d, _ = curves((hazard,), 0.5, theta, shared)
    args = (h, d, theta, np.ones(1), STAY, Q, T, shared)
    rates = count / end
    # E[1/T] diverges, so the error of the plain mean cannot be estimated: below a week of follow-up the simulated rate
    # is replaced by its expectation, U h(0+) (the early part of h falls by < 8 % in a week)
    rates = np.where(end > 0.02, rates, u * hazard(np.zeros(1)))
    se = rates.std() / np.sqrt(n)
    assert abs(rates.mean() - float(rate.mean_rate(*args))) < Z * se + 0.05 * front * 0.9 * np.mean(end <= 0.02)
    assert abs(count.mean() - float(rate.mean_count(*args))) < Z * count.std() / np.sqrt(n)


def test_andersen_gill_ratio_is_not_the_ratio_of_counts():
    """Rate ratio 0.65, death hazard ratio 0.6: the Andersen-Gill root finds 0.65, counts 0.79."""
    n, theta = 30_000, 0.8
    rng = np.random.default_rng(18)
    starts, stops, events, arms, counts = [], [], [], [], []
    parts = []
    for arm, r, d in ((1, 0.65 * 1.2, 0.36), (0, 1.2, 0.6)):
        count, times, end, _ = histories(rng, n, flat(r), d, theta, True)
        counts.append(count)
        event = times[np.isfinite(times)]
        events.append(event)
        stops.append(end)
        arms.append(np.full(event.size, float(arm)))
        h, death, _ = curves((flat(r),), d, theta, True)
        rate_, living = recurrent(h, death, theta, T, True)
        parts.append((rate_[:, 0], living * STAY))
        starts.append(float(rate.mean_count(h, death, theta, np.ones(1), STAY, Q, T, True)))
    root = float(contrast.hazard_ratio(*parts[0], *parts[1], Q))
    time, a = np.concatenate(events), np.concatenate(arms)
    n1, n0 = (n - np.searchsorted(np.sort(v), time) for v in stops)
    b = 0.0
    for _ in range(20):
        p = n1 * np.exp(b) / (n0 + n1 * np.exp(b))
        b += np.sum(a - p) / np.sum(p * (1 - p))
    robust = np.sqrt(sum(c.var() / c.mean() ** 2 / n for c in counts))
    assert abs(b - root) < Z * robust
    assert abs(np.log(counts[0].mean() / counts[1].mean()) - np.log(starts[0] / starts[1])) < Z * robust
    assert abs(root - np.log(starts[0] / starts[1])) > Z * robust


def test_correlation_signs_of_the_hazard_ratio_with_the_reference_arm():
    """-0.62 with the proportion and about +0.55 with the median of the reference arm (600 trials: +- 0.13)."""
    n, count = 150, 600
    rng = np.random.default_rng(19)
    sides = []
    for h in (0.65, 1.0):
        events, dead, lost, _ = patients(rng, n * count, (flat(h),), 0.3, 0.5, False)
        end = np.minimum(dead, lost)
        sides.append((np.minimum(events[0], end).reshape(count, n), (events[0] < end).reshape(count, n)))
    b = np.array(
        [
            cox(np.r_[sides[0][0][i], sides[1][0][i]], np.r_[sides[0][1][i], sides[1][1][i]], np.repeat([1.0, 0.0], n))[
                0
            ]
            for i in range(count)
        ]
    )
    p = sides[1][1].mean(1)
    steps = [kaplan_meier(sides[1][0][i], sides[1][1][i]) for i in range(count)]
    m = np.array([s[0][np.argmax(s[1] <= 0.5)] for s in steps])
    assert all(s[1][-1] <= 0.5 for s in steps)
    assert np.corrcoef(b, np.log(p / (1 - p)))[0, 1] == pytest.approx(contrast.RHO_CRUDE, abs=0.13)
    assert np.corrcoef(b, np.log(m))[0, 1] == pytest.approx(contrast.RHO_MEDIAN_SRE, abs=0.13)


def test_incidence():
    n, a, shape, d = 200_000, 0.15, 0.6, 0.1
    rng = np.random.default_rng(20)
    onset = (rng.exponential(size=n) / a) ** (1 / shape)
    dead, lost = rng.exponential(1 / d, n), rng.uniform(0, 10, n)
    grid = np.linspace(0, 10, 201)
    expected = incidence.metachronous_crude(a, shape, d, 1 - grid / 10, grid)
    end = np.minimum(dead, lost)
    assert agree((onset < end).mean(), n, expected) < Z
    marks = np.array([1.0, 12, 24, 60, 108]) / 12
    time, km, _ = kaplan_meier(np.minimum(onset, end), onset < end)
    seen = 1 - km[np.searchsorted(time, marks) - 1]
    curve = incidence.km_curve(marks, a, shape)
    share = np.r_[1.0, np.exp(-d * marks[:-1]) * (1 - marks[:-1] / 10)]
    d_seen, d_model = incidence.km_curve_intervals(seen), incidence.km_curve_intervals(curve)
    sd = np.sqrt(1 / (n * np.r_[1.0, 1 - curve[:-1]] * share * 0.5 * d_model))  # half: at risk falls inside
    assert np.max(np.abs(np.log(d_seen / d_model)) / sd) < Z
