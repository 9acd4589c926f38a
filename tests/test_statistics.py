"""Curves at landmarks, rates, ratios, markers, responses, patient sets: closed forms, limits, gradients, batching."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import digamma, gammaln

from osteobayes.observe import (
    crude,
    cumulative,
    incidence,
    landmark,
    marker,
    patient_set,
    quadrature,
    rate,
    ratio,
    response,
    split,
)

jax.config.update("jax_enable_x64", True)

# compiled once, run once: optimising costs more than it saves
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)

T = np.linspace(0, 3, 301)
TJ = jnp.asarray(T)
Q = jnp.asarray(quadrature(T, 2.0))
MARKS = (0.5, 1.0, 2.0)
QS = jnp.asarray(np.stack([quadrature(T, x) for x in MARKS]))
ONE = jnp.ones(1)
KEYS = jax.random.split(jax.random.PRNGKey(11), 4000)
NAN = np.nan


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def flat(*rates):
    return jnp.asarray(np.array(rates)[None, :, None] * np.ones(T.size))


# ---- landmarks ----


def exponential(r):
    lam = r * jnp.ones(T.size)
    return lam, jnp.exp(-cumulative(lam, TJ))


def test_increments_without_censoring_are_the_patients_left():
    lam, y = exponential(0.6)
    p, m = landmark.increments(lam, y, 300.0, QS)
    before = np.exp(-0.6 * np.array([0, 0.5, 1.0]))
    np.testing.assert_allclose(p, -np.expm1(-0.6 * np.diff([0, *MARKS])), rtol=1e-6)
    np.testing.assert_allclose(m, 300 * before, rtol=1e-4)
    np.testing.assert_allclose(landmark.expected(lam, QS), np.exp(-0.6 * np.array(MARKS)), rtol=1e-9)


def test_curve_without_censoring_is_a_multinomial():
    lam, y = exponential(0.6)
    n, curve = 300.0, np.exp(-0.6 * np.array(MARKS))  # as expected, so that sizes are the numbers left
    got = landmark.log_lik(jnp.asarray(curve), lam, y, n, QS)
    cells = -np.diff([1, *curve, 0])
    want = gammaln(n + 1) - gammaln(n * cells + 1).sum() + n * cells @ np.log(cells)
    assert float(got - np.log(n * np.array([1, *curve[:-1]])).sum()) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize(("r", "n"), [(0.7, 20.0), (0.7, 200.0), (0.05, 60.0), (2.5, 40.0)])
def test_density_adds_up_to_one_less_half_the_end_points(r, n):
    lam, y = exponential(r)
    y = y * jnp.exp(-0.3 * TJ)
    d = np.linspace(1e-9, 1 - 1e-9, 40001)
    one = jit(jax.vmap(lambda s: landmark.log_lik(s[None], lam, y, n, QS[1:2])))
    density = np.exp(one(jnp.asarray(1 - d)))
    p, m = (float(v[0]) for v in landmark.increments(lam, y, n, QS[1:2]))
    ends = [float(jnp.exp(one(jnp.array([s])))[0]) for s in (1.0, 0.0)]
    np.testing.assert_allclose(ends, [(1 - p) ** m, p**m], rtol=1e-6)
    lift, odds = digamma(m + 1) - digamma(1), np.log(p / (1 - p))
    slopes = ends[0] * (lift + odds), ends[1] * (odds - lift)
    whole = 1 - sum(ends) / 2 + (slopes[0] - slopes[1]) / 12  # Euler and Maclaurin
    assert np.trapezoid(density, d) == pytest.approx(whole, abs=3e-3)
    if sum(ends) < 1e-3:
        assert np.trapezoid(d * density, d) == pytest.approx(p, abs=1e-3)


def test_density_of_the_second_interval_adds_up_too():
    lam, y = exponential(0.7)
    y = y * jnp.exp(-0.3 * TJ)
    d = np.linspace(1e-9, 1 - 1e-9, 4001)
    one = jit(jax.vmap(lambda s: landmark.log_lik(jnp.stack([0.7, s]), lam, y, 150.0, QS[1:])))
    first = landmark.log_lik(jnp.array([0.7]), lam, y, 150.0, QS[1:2])
    density = np.exp(one(jnp.asarray(0.7 * (1 - d))) - first)
    assert np.trapezoid(density, d) == pytest.approx(1.0, abs=1e-3)


def test_padding_anywhere_changes_nothing():
    lam, y = exponential(0.6)
    seen = jnp.array([0.72, 0.6, 0.33])
    low, high = jnp.array([NAN, 0.5, 0.25]), jnp.array([NAN, 0.7, 0.42])
    log_lik, simulate = jit(landmark.log_lik), jit(landmark.simulate)
    want = log_lik(seen, lam, y, 80.0, QS, low, high)
    zero = jnp.zeros((1, T.size))

    def pad(x, i):
        return jnp.concatenate([x[:i], jnp.array([NAN]), x[i:]])

    for i in (0, 1, 3):
        rows = jnp.concatenate([QS[:i], zero, QS[i:]])
        got = log_lik(pad(seen, i), lam, y, 80.0, rows, pad(low, i), pad(high, i))
        assert float(got) == pytest.approx(float(want), rel=1e-12)
        draw = simulate(KEYS[0], lam, y, 80.0, rows)
        assert np.isnan(float(draw[i])) and np.isfinite(draw).sum() == 3
    # a landmark with a weight that was not printed: the next interval covers both
    gap = landmark.log_lik(jnp.array([0.72, NAN, 0.33]), lam, y, 80.0, QS)
    short = landmark.log_lik(jnp.array([0.72, 0.33]), lam, y, 80.0, QS[jnp.array([0, 2])])
    assert float(gap) == pytest.approx(float(short), rel=1e-12)
    assert float(landmark.log_lik(jnp.full(3, NAN), lam, y, 80.0, QS)) == 0.0


DRAW = jit(landmark.simulate)
SLOPE = jit(
    jax.value_and_grad(lambda lam, y, seen, n, low, high: landmark.log_lik(seen, lam, y, n, QS, low, high), (0, 1))
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just(NAN), st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.94, 1.0])), min_size=3, max_size=3),
    st.sampled_from([0.0, 1e-6, 0.5, 8.0, 1000.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([5.0, 80.0, 5e5]),
    st.booleans(),
)
def test_curves_are_finite_whatever_was_printed(seen, r, stay, n, printed):
    lam, y = exponential(r)
    seen = np.array(seen)
    low, high = (np.clip(seen + s, 0, 1) if printed else np.full(3, NAN) for s in (-0.05, 0.05))
    assert finite(SLOPE(lam, y * stay, jnp.asarray(seen), n, jnp.asarray(low), jnp.asarray(high)))
    draw = DRAW(KEYS[1], lam, y * stay, n, QS)
    assert finite(draw) and bool(jnp.all(jnp.diff(draw) <= 0))
    assert finite(SLOPE(lam, y * stay, draw, n, jnp.full(3, NAN), jnp.full(3, NAN)))


def test_rounded_rise_counts_as_no_event():
    lam, y = exponential(0.1)
    risen = landmark.log_lik(jnp.array([0.94, 0.95, 0.8]), lam, y, 60.0, QS)
    level = landmark.log_lik(jnp.array([0.94, 0.94, 0.8]), lam, y, 60.0, QS)
    assert float(risen) == pytest.approx(float(level), rel=1e-12)


def test_one_mode_in_the_hazard():
    rates = jnp.geomspace(1e-3, 1e3, 400)
    nothing = jnp.full(3, NAN)

    def value(r):
        lam, y = exponential(r)
        return landmark.log_lik(jnp.array([0.72, 0.6, 0.33]), lam, y * jnp.exp(-0.5 * TJ), 120.0, QS, nothing, nothing)

    steps = np.diff(jit(jax.vmap(value))(rates))
    assert (np.diff(np.sign(steps)) != 0).sum() == 1 and steps[0] > 0 > steps[-1]


def limits(s, variance):
    """Printed limits on the complementary log-log scale."""
    total, sd = -np.log(s), np.sqrt(variance) / -np.log(s)
    return np.exp(-total * np.exp(1.96 * sd)), np.exp(-total * np.exp(-1.96 * sd))


def test_sizes_from_printed_limits():
    n, m = 400.0, np.array([380.0, 250.0, 120.0])
    s = np.array([0.8, 0.62, 0.4])
    d = 1 - s / np.array([1.0, *s[:-1]])
    low, high = limits(s, np.cumsum(d / ((1 - d) * m)))
    found = landmark.printed_size(s, low, high, n)
    np.testing.assert_allclose(found, m, rtol=1e-6)
    np.testing.assert_allclose(landmark.printed_size(s, low, high, NAN), m, rtol=1e-6)
    rounded = np.asarray(landmark.printed_size(*(np.round(v, 2) for v in (s, low, high)), n))
    assert np.all(rounded > 0.5 * m) and np.all(rounded <= n * np.array([1, *s[:-1]]) + 1e-9)
    # limits that shrink: the share of the whole curve
    shrunk = np.asarray(landmark.printed_size(s, np.array([0.7, 0.52, 0.39]), np.array([0.9, 0.72, 0.41]), n))
    assert finite(shrunk) and np.all(shrunk >= 1) and np.all(shrunk <= n * np.array([1, *s[:-1]]))
    # printed at one landmark only; no events; everybody free
    one = np.asarray(landmark.printed_size(s, np.array([NAN, low[1], NAN]), np.array([NAN, high[1], NAN]), n))
    assert np.isnan(one[[0, 2]]).all() and 1 < one[1] <= n * 0.8
    none = landmark.printed_size(np.array([1.0, 1.0, 0.9]), np.array([0.95, 0.95, 0.8]), np.array([1.0, 1, 0.95]), n)
    assert finite(none) and np.all(np.asarray(none) >= 1)
    # the likelihood uses them, whatever n y says
    lam, y = exponential(0.5)
    args = (jnp.asarray(s), lam, y)
    a, b = (landmark.log_lik(*args, k, QS, jnp.asarray(low), jnp.asarray(high)) for k in (400.0, 1e5))
    assert float(a) == pytest.approx(float(b), rel=1e-9)


def test_replicates_of_a_curve():
    lam, y = exponential(0.6)
    y = y * jnp.exp(-0.4 * TJ)
    draws = np.asarray(jit(jax.vmap(lambda k: landmark.simulate(k, lam, y, 90.0, QS)))(KEYS))
    target = np.asarray(landmark.expected(lam, QS))
    variance = np.asarray(QS @ (lam / (90.0 * y))) * target**2
    np.testing.assert_allclose(draws.mean(0), target, atol=4.5 * np.sqrt(variance.max() / 4000))
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.13)
    size = jnp.array([NAN, 20.0, NAN])
    fixed = np.asarray(jit(jax.vmap(lambda k: landmark.simulate(k, lam, y, 90.0, QS, size)))(KEYS))
    share = 1 - fixed[:, 1] / fixed[:, 0]
    p = -np.expm1(-0.3)
    assert share.var() == pytest.approx(p * (1 - p) / 20, rel=0.12)


def test_subdistribution():
    h, death = 0.6 * jnp.ones(T.size), 0.5
    at_risk = jnp.exp(-1.1 * TJ)
    lam, y = landmark.subdistribution(h, at_risk, jnp.ones(T.size), TJ)
    f = 0.6 / (0.6 + death) * -np.expm1(-1.1 * np.array(MARKS))
    np.testing.assert_allclose(1 - landmark.expected(lam, QS), f, rtol=2e-4)
    np.testing.assert_allclose(y[-1], 1 - 0.6 / 1.1 * -np.expm1(-3.3), rtol=1e-4)
    variance = np.asarray(QS @ (lam / (50.0 * y))) * (1 - f) ** 2
    np.testing.assert_allclose(variance, f * (1 - f) / 50, rtol=1e-3)
    assert finite(landmark.subdistribution(jnp.full(T.size, 900.0), jnp.exp(-900 * TJ), 0 * TJ, TJ))


# ---- rates ----

ARM = {"frailty": 0.7, "weights": ONE, "stay": jnp.exp(-0.2 * TJ), "q": Q, "t": TJ}


def gamma_mean(f, theta=0.7):
    return integrate.quad(lambda u: f(u) * stats.gamma.pdf(u, 1 / theta, scale=theta), 0, 40, limit=200)[0]


@pytest.mark.parametrize("x", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("theta", [0.2, 0.7, 1.5])
@pytest.mark.parametrize("mean", [1.0, 0.6])
def test_thinning_is_the_mean_over_the_gamma_law(x, theta, mean):
    law = stats.gamma(1 / theta, scale=theta * mean)
    for power in (1, 2):
        top = integrate.quad(lambda u: u**power / (1 + x * u) * law.pdf(u), 0, np.inf, limit=300)[0]
        got = rate._thinning(jnp.array(x), mean, theta, power)
        want = top / integrate.quad(lambda u: u**power * law.pdf(u), 0, np.inf, limit=300)[0]
        assert float(got) == pytest.approx(want, rel=2e-6 if x * theta * mean < 0.5 else 2e-3)


def test_gap_without_frailty_is_a_dead_time():
    h, d = flat(1.0, 2.0), jnp.full((1, T.size), 0.3)
    run = jit(rate.with_gap, static_argnames="shared")
    r, living = run(h, d, 0.0, 0.1, TJ)
    np.testing.assert_allclose(r[0, :, 50], np.array([1.0, 2.0]) / 1.3, rtol=1e-9)
    np.testing.assert_allclose(r[0, :, 0], [1.0, 2.0], rtol=1e-9)
    np.testing.assert_allclose(living[0], np.exp(-0.3 * T), rtol=1e-9)
    none, _ = rate.with_gap(h, d, 0.7, 0.0, TJ, True)
    np.testing.assert_allclose(none, h / (1 + 0.7 * 0.3 * TJ), rtol=1e-9)
    traced, _ = run(h, d, 0.7, 0.0, TJ, shared=True)
    np.testing.assert_allclose(traced, none, rtol=1e-9)


def test_period_rate_of_a_constant_hazard():
    still, d = jnp.ones(T.size), jnp.zeros((1, T.size))
    for length in (0.25, 0.2299794, 0.5):
        whole = np.floor(3.0 / length + 1e-9) * length
        q = jnp.asarray(quadrature(T, whole))
        for theta in (0.0, 0.7):
            got = rate.period_rate(flat(1.5), d, theta, ONE, still, q, TJ, length=length)
            s = 1.5 * length
            want = -np.expm1(-np.log1p(theta * s) / theta if theta else -s) / length
            assert float(got) == pytest.approx(want, rel=1e-3)
    # shorter and shorter periods count every event
    many = rate.period_rate(flat(1.5), d, 0.7, ONE, still, Q, TJ, length=0.0101)
    assert float(many) == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize("shared", [False, True])
def test_period_rate_does_not_hang_on_the_grid(shared):
    found = []
    for size in (61, 1201):
        t = np.linspace(0, 3, size)
        h = jnp.asarray((0.5 + 1.5 * np.exp(-t / 0.4))[None, None])
        d = jnp.asarray((0.3 + 0.1 * t)[None])
        q = jnp.asarray(quadrature(t, 2.3))
        run = jit(rate.period_rate, static_argnames="shared")
        found.append(float(run(h, d, 0.7, ONE, jnp.exp(-0.2 * t), q, jnp.asarray(t), shared=shared)))
    np.testing.assert_allclose(found, found[-1], rtol=3e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_variances_by_integration_over_the_gamma_law(shared):
    h, d, death = flat(1.2), jnp.full((1, T.size), 0.4), 0.4
    given = {k: v for k, v in ARM.items() if k != "frailty"}
    rest = 0.2

    def given_u(u):
        k = death * u if shared else death
        hazard = k + rest

        def mean(f):
            return integrate.quad(lambda s: f(s) * hazard * np.exp(-hazard * s), 0, 2)[0] + f(2) * np.exp(-hazard * 2)

        t1, t2 = mean(lambda s: s), mean(lambda s: s * s)
        return np.array([u * 1.2 * t1, u * 1.2 * t1 + (u * 1.2) ** 2 * t2, t1, t2, u * 1.2 * t2])

    k1, k2, t1, t2, kt = (gamma_mean(lambda u, i=i: given_u(u)[i]) for i in range(5))
    got = rate.variance_count(h, d, 0.7, **given, shared=shared)
    assert float(got) == pytest.approx(k2 - k1**2, rel=1e-3)
    assert float(rate.mean_count(h, d, 0.7, **given, shared=shared)) == pytest.approx(k1, rel=1e-3)
    assert float(rate.pooled_rate(h, d, 0.7, **given, shared=shared)) == pytest.approx(k1 / t1, rel=1e-3)
    r = k1 / t1
    sd = np.sqrt(np.log1p((k2 - 2 * r * kt + r * r * t2) / (80 * k1**2)))
    assert float(rate.sd_pooled(80.0, h, d, 0.7, **given, shared=shared)) == pytest.approx(sd, rel=1e-3)
    # periods so short that each event has its own
    short = rate.sd_period(80.0, h, d, 0.7, **given, shared=shared, length=0.0101)
    assert float(short) == pytest.approx(sd, rel=0.01)
    if not shared:
        square = (k2 - k1) / 1.7
        assert float(got) == pytest.approx(k1 + 1.7 * square - k1**2, rel=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_rates_have_finite_gradients(shared):
    h, d = flat(0.5, 0.0), jnp.full((1, T.size), 0.3)
    rest = (ONE, jnp.clip(1.2 - 0.6 * TJ, 0, 1), Q, TJ)

    def everything(h, d, theta, gap):
        out = rate.period_rate(h, d, theta, *rest, shared) + rate.sd_period(50.0, h, d, theta, *rest, shared)
        sd = rate.sd_pooled(50.0, h, d, theta, *rest, shared, gap)
        mean = rate.pooled_rate(h, d, theta, *rest, shared, gap)
        return out + rate.sd_count(50.0, h, d, theta, *rest, shared, gap) + rate.log_lik(0.7, 50.0, mean, sd=sd)

    scale, theta = (jnp.ravel(v) for v in jnp.meshgrid(jnp.array([0.0, 1.0, 300.0]), jnp.array([0.0, 1e-6, 0.8])))
    run = jit(jax.vmap(jax.value_and_grad(lambda s, th, g: everything(s * h, s * d, th, g), (0, 1, 2)), (0, 0, None)))
    assert finite(run(scale, theta, 0.06))


def test_rate_log_lik_takes_the_sd():
    want = stats.norm.logpdf(np.log(1.2), np.log(1.1), 0.15)
    assert float(rate.log_lik(1.2, 90.0, 1.1, sd=0.15)) == pytest.approx(want, rel=1e-9)
    printed = rate.log_lik(1.2, 90.0, 1.1, 0.9, 1.6, 0.15)
    assert float(printed) == pytest.approx(float(rate.log_lik(1.2, 90.0, 1.1, 0.9, 1.6)), rel=1e-12)
    draws = jax.vmap(lambda k: rate.simulate(k, 90.0, 1.1, 0.15))(KEYS)
    assert np.std(np.log(draws)) == pytest.approx(0.15, rel=0.06)


# ---- ratios ----

CELLS = {"odds_ratio": np.log(0.3 / 0.7 / (0.5 / 0.5)), "risk_ratio": np.log(0.6), "risk_difference": -0.2}


@pytest.mark.parametrize("kind", ratio.KINDS)
def test_ratios(kind):
    want = CELLS.get(kind, np.log(0.6))
    assert float(ratio.expected(kind, 0.3, 0.5)) == pytest.approx(want, rel=1e-7)
    cells = np.array([0.3 * 200, 0.7 * 200, 0.5 * 150, 0.5 * 150])
    se = {
        "odds_ratio": np.sqrt((1 / cells).sum()),
        "risk_difference": np.sqrt(0.21 / 200 + 0.25 / 150),
    }.get(kind, np.sqrt(1 / 60 - 1 / 200 + 1 / 75 - 1 / 150))
    args = (0.3, 0.5, 200.0, 150.0)
    assert float(ratio.standard_error(kind, *args)) == pytest.approx(se, rel=1e-6)
    back = {"risk_difference": lambda v: v, "relative_risk_reduction": lambda v: 1 - np.exp(v)}.get(kind, np.exp)
    printed = sorted(back(want + s * 1.96 * 0.2) for s in (-1, 1))
    assert float(ratio.printed_error(kind, back(want), *printed)) == pytest.approx(0.2, rel=1e-6)
    got = ratio.log_lik(kind, back(want + 0.1), *args)
    assert float(got) == pytest.approx(stats.norm.logpdf(0.1, 0, se), rel=1e-5)
    got = ratio.log_lik(kind, back(want + 0.1), *args, *printed)
    assert float(got) == pytest.approx(stats.norm.logpdf(0.1, 0, 0.2), rel=1e-3)
    draws = ratio.analysis(kind, jax.vmap(lambda k: ratio.simulate(k, kind, *args))(KEYS))
    assert np.std(draws) == pytest.approx(se, rel=0.06)
    slope = jax.value_and_grad(lambda p: ratio.log_lik(kind, 0.4, p[0], p[1], 50.0, 60.0))
    for p in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.3, 0.3)):
        assert finite(slope(jnp.array(p)))
    many = jax.vmap(lambda a, b: ratio.log_lik(kind, 0.4, a, b, 50.0, 60.0))(
        jnp.array([0.2, 0.3]), jnp.array([0.4, 0.5])
    )
    assert finite(many)


def test_unknown_ratio_is_refused():
    with pytest.raises(ValueError, match="odds_ratio"):
        ratio.expected("hazard_ratio", 0.1, 0.2)


# ---- markers ----


@pytest.mark.parametrize("mean", [False, True])
def test_marker_change(mean):
    mu, s, n = np.log(0.35), 0.8, 60
    y = mu + s * np.random.default_rng(2).normal(size=(20000, n))
    x = 100 * np.expm1(y).mean(1) if mean else 100 * np.expm1(np.median(y, 1))
    logs = np.log1p(x / 100)
    sd = float(marker.sd_log(float(n), s, mean))
    assert logs.mean() == pytest.approx(float(marker.expected(mu, s, mean)), abs=0.1 * sd)
    assert logs.var() == pytest.approx(sd**2, rel=0.1)
    assert float(marker.sd_log(60.0, s, mean, 0.15)) == pytest.approx(np.hypot(sd, 0.15), rel=1e-9)
    want = stats.norm.logpdf(np.log(0.4), float(marker.expected(mu, s, mean)), np.hypot(sd, 0.15))
    assert float(marker.log_lik(-60.0, 60.0, mu, s, mean, 0.15)) == pytest.approx(want, rel=1e-9)
    draws = jax.vmap(lambda k: marker.simulate(k, 60.0, mu, s, mean, 0.1))(KEYS)
    assert np.std(np.log1p(draws / 100)) == pytest.approx(np.hypot(sd, 0.1), rel=0.06)


def test_marker_below_the_assay_and_responders():
    limit = stats.norm.logcdf((np.log(0.05) - np.log(0.1)) / float(marker.sd_log(30.0, 0.9)))
    for x in (-95.0, -99.0, -100.0):
        assert float(marker.log_lik(x, 30.0, np.log(0.1), 0.9)) == pytest.approx(limit, rel=1e-9)
        assert finite(jax.value_and_grad(lambda p: marker.log_lik(x, 30.0, p[0], p[1]))(jnp.array([3.0, 0.9])))
    assert float(marker.simulate(KEYS[0], 30.0, -9.0, 0.9)) == -95.0
    p = marker.responders(np.log(0.35), 0.9, 65.0)
    assert float(p) == pytest.approx(0.5, abs=1e-9)
    assert float(marker.responders(0.0, 0.9, 65.0)) == pytest.approx(stats.norm.cdf(np.log(0.35) / 0.9), rel=1e-9)
    assert float(marker.responders_log_lik(7.0, 20.0, p)) == float(crude.log_lik(7.0, 20.0, p))


# ---- responses ----


def test_objective_response_of_patients_who_stay():
    full = jnp.ones(T.size)
    y = -0.7 * TJ
    got = response.objective(y, full, TJ, 2.0, 0.8)  # d <= 0.7 - 1.07/2
    assert float(got) == pytest.approx(stats.norm.cdf((response.LOG_SHRINKAGE + 1.4) / 2 / 0.8), rel=1e-9)
    got = response.objective(y, jnp.exp(-0.5 * TJ), TJ, 3.0, 0.8)

    def density(t):
        c = response.LOG_SHRINKAGE / t + 0.7
        return stats.norm.pdf(c / 0.8) / 0.8 * -response.LOG_SHRINKAGE / t**2 * np.exp(-0.5 * t)

    assert float(got) == pytest.approx(integrate.quad(density, 1e-9, 3)[0], rel=1e-4)
    # a tumour that shrinks and grows again: the best time counts, not the last
    up = -1.8 * (1 - jnp.exp(-TJ / 0.25)) + 1.1 * TJ
    late, early = (float(response.objective(up, full, TJ, h, 0.8)) for h in (3.0, 0.8))
    assert late == pytest.approx(early, abs=0.01) and late > 0.4
    assert float(response.objective(y, full, TJ, 0.0, 0.8)) == 0.0
    between = [float(response.objective(y, full, TJ, h, 0.8)) for h in (1.0, 1.004, 1.01)]
    assert between[0] < between[1] < between[2]


def test_response_gradients_and_pain():
    run = jit(jax.value_and_grad(lambda y, s: response.objective(y, jnp.exp(-TJ), TJ, 1.7, s), (0, 1)))
    for y in (0 * TJ, -50 * TJ, 30 * TJ, jnp.sin(5 * TJ)):
        for s in (0.05, 0.8, 5.0):
            assert finite(run(y, s))
    assert float(response.pain(-1.0, 2.0, 0.0)) == pytest.approx(1 / (1 + np.e))
    assert float(response.pain(-1.0, 2.0, 0.5)) == pytest.approx(0.5)
    assert float(response.log_lik(3.0, 9.0, 0.4)) == pytest.approx(stats.binom.logpmf(3, 9, 0.4), rel=1e-8)


# ---- incidence, shares ----


def test_prevalence_among_the_metastatic():
    f = incidence.prevalence_among_metastatic
    assert float(f(0.06, 0.1)) == pytest.approx(0.6)
    p = jnp.linspace(0.001, 0.3, 400)
    values, slopes = jax.vmap(jax.value_and_grad(lambda p0: f(p0, 0.1)))(p)
    assert bool(jnp.all((values > 0) & (values < 1))) and bool(jnp.all(slopes > 0)) and finite(slopes)
    for logit in (-30.0, 0.0, 30.0):
        p0, slope = jax.value_and_grad(incidence.at_diagnosis_from_share)(logit, 0.1)
        assert 0 < float(p0) <= 0.1 and np.isfinite(slope)
    assert float(f(incidence.at_diagnosis_from_share(0.4, 0.1), 0.1)) == pytest.approx(float(jax.nn.sigmoid(0.4)))


def test_shares_of_all_events():
    h, d = flat(0.2, 0.0, 0.6), jnp.full((1, T.size), 0.3)
    events = rate.component_counts(h, d, **ARM)
    np.testing.assert_allclose(split.shares_of_all(events), [0.25, 0.0, 0.75], rtol=1e-9)
    assert float(jnp.sum(events)) == pytest.approx(float(rate.mean_count(h, d, **ARM)), rel=1e-12)
    assert finite(split.shares_of_all(jnp.zeros(3)))


# ---- patient sets ----

NUMBERS = [(k, a) for k in ("crude", "median", "count", "rate") for a in (0, 1)]
SET = [*NUMBERS, ("hazard_ratio", None), ("andersen_gill", None)]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from([*SET, ("crude", 2), ("median", 2), ("hazard_ratio", (2, 0)), ("andersen_gill", (2, 1))]),
        min_size=1,
        max_size=14,
    ),
    st.lists(st.floats(0.01, 100.0), min_size=3, max_size=3),
)
def test_any_set_has_a_positive_definite_correlation(kinds, variance):
    r = patient_set.working_correlation(kinds, variance)
    np.testing.assert_array_equal(r, r.T)
    np.testing.assert_array_equal(np.diag(r), 1.0)
    assert np.linalg.eigvalsh(r)[0] > 0.005


def test_correlations_follow_the_table():
    r = patient_set.working_correlation(SET)
    at = {k: i for i, k in enumerate(SET)}

    def get(a, b, m=r):
        return m[at[a], at[b]]

    assert np.linalg.eigvalsh(r)[0] == pytest.approx(0.012, abs=1e-3)  # not raised
    assert get(("crude", 1), ("hazard_ratio", None)) == 0.63 == -get(("crude", 0), ("hazard_ratio", None))
    assert get(("median", 0), ("median", 1)) == 0.0
    assert get(("crude", 0), ("count", 0)) == 0.76
    assert get(("hazard_ratio", None), ("andersen_gill", None)) == pytest.approx(0.80)
    # the reference arm is small: most of the contrast's variance is its own
    wide = patient_set.working_correlation([("crude", 0), ("crude", 1), ("hazard_ratio", None)], (2.0, 1.0))
    np.testing.assert_allclose(wide[2, :2], [-0.63 * np.sqrt(4 / 3), 0.63 * np.sqrt(2 / 3)])
    shared = patient_set.working_correlation([("hazard_ratio", (1, 0)), ("hazard_ratio", (2, 0))], (1, 1, 1))
    assert shared[0, 1] == pytest.approx(0.5)
    other = patient_set.working_correlation([("hazard_ratio", (1, 0)), ("hazard_ratio", (2, 3))], (1, 1, 1, 1))
    assert other[0, 1] == 0.0
    chain = patient_set.working_correlation([("hazard_ratio", (1, 0)), ("hazard_ratio", (2, 1))], (1, 1, 1))
    assert chain[0, 1] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (("mean", 0), "unknown"),
        (("crude", None), "one arm"),
        (("hazard_ratio", 1), "two arms"),
        (("hazard_ratio", (1, 1)), "itself"),
        (("crude", 4), "variance"),
    ],
)
def test_wrong_sets_are_refused(kind, match):
    with pytest.raises(ValueError, match=match):
        patient_set.working_correlation([kind])


def test_joint_density():
    r = patient_set.working_correlation(SET[:4])
    z, sd = np.array([0.4, -1.0, 0.3, 2.0]), np.array([0.1, 0.2, 0.3, 0.4])
    want = stats.multivariate_normal.logpdf(z * sd, cov=r * np.outer(sd, sd))
    assert float(patient_set.log_lik(z, sd, r)) == pytest.approx(want, rel=1e-10)
    part = patient_set.log_lik(jnp.array([0.4, NAN, 0.3, 2.0]), sd, r)
    keep = [0, 2, 3]
    want = stats.multivariate_normal.logpdf((z * sd)[keep], cov=(r * np.outer(sd, sd))[np.ix_(keep, keep)])
    assert float(part) == pytest.approx(want, rel=1e-10)
    grad = jax.grad(lambda x: patient_set.log_lik(jnp.where(jnp.arange(4) == 1, NAN, x), sd, r))(jnp.asarray(z))
    assert finite(grad) and float(grad[1]) == 0.0
    one = patient_set.log_lik(z[:1], sd[:1], np.eye(1))
    assert float(one) == pytest.approx(stats.norm.logpdf(0.04, 0, 0.1), rel=1e-10)


def test_information_counted_twice():
    p, m, hr, ag = NUMBERS[:2], NUMBERS[2:4], [("hazard_ratio", None)], [("andersen_gill", None)]
    table = [(p, 1.0), (p + hr, 0.72), (p + m, 0.75), (p + m + hr, 0.61), (p + m + hr + ag, 0.56), (SET, 0.50)]
    for kinds, simulated in table:
        found = patient_set.information(patient_set.working_correlation(kinds), kinds)
        assert found.ratio == pytest.approx(simulated, abs=0.02)
        assert found.joint <= found.actual + 1e-9
    alone = patient_set.information(np.eye(1), hr)
    assert alone.nominal == pytest.approx(np.sqrt(2)) and alone.ratio == pytest.approx(1.0)
    with pytest.raises(ValueError, match="identify"):
        patient_set.information(np.eye(1), [("crude", 0)])
