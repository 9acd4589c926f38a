"""Observation models: closed forms, edges, gradients, batching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from osteobayes import observe
from osteobayes.observe import (
    alive,
    completion,
    contrast,
    crude,
    cumulative,
    incidence,
    interpolation,
    km_survival,
    landmark,
    log_laplace,
    median,
    mixed_death,
    mixed_hazard,
    observable,
    progression,
    quadrature,
    rate,
    recurrent,
    split,
)

jax.config.update("jax_enable_x64", True)

T = np.linspace(0, 3, 601)
Q = quadrature(T, 2.0)
P = interpolation(T, 2.0)
ONE = np.ones(1)
KEYS = jax.random.split(jax.random.PRNGKey(7), 4000)


def constant(*rates):
    return jnp.asarray(np.array(rates)[None, :, None] * np.ones(T.size))


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


# ---- grid ----


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=8), st.floats(0, 1), st.floats(-3, 3), st.floats(-3, 3))
def test_weights_are_exact_for_straight_lines(steps, share, a, b):
    t = np.concatenate([[0.0], np.cumsum(steps)])
    tau = share * t[-1]
    q, p = quadrature(t, tau), interpolation(t, tau)
    assert q @ (a + b * t) == pytest.approx(a * tau + b * tau**2 / 2, abs=1e-9)
    assert p @ (a + b * t) == pytest.approx(a + b * tau, abs=1e-9)


def test_quadrature_agrees_with_cumulative_at_grid_times():
    f = np.exp(-T) + np.sin(5 * T)
    total = cumulative(f, T)
    for i in (0, 1, 77, 600):
        assert quadrature(T, T[i]) @ f == pytest.approx(float(total[i]), abs=1e-12)


@pytest.mark.parametrize("tau", [3.01, -0.1, np.nan])
@pytest.mark.parametrize("weights", [quadrature, interpolation])
def test_times_off_the_grid_are_refused(weights, tau):
    with pytest.raises(ValueError, match="grid"):
        weights(T, tau)


def test_grid_must_start_at_zero_and_increase():
    with pytest.raises(ValueError, match="start at 0"):
        quadrature(np.array([0.1, 1.0]), 0.5)
    with pytest.raises(ValueError, match="increase"):
        quadrature(np.array([0.0, 1.0, 1.0]), 0.5)
    assert quadrature(T, 3.0 * (1 + 1e-12)) @ np.ones_like(T) == pytest.approx(3.0)


# ---- frailty ----


def test_log_laplace_is_smooth_through_zero():
    s = jnp.array([0.0, 1e-3, 0.5, 3.0, 20.0])
    np.testing.assert_allclose(log_laplace(s, 0.0), s, rtol=1e-15)
    np.testing.assert_allclose(log_laplace(s, 1.0), np.log1p(s), rtol=1e-15)
    for theta in (1e-9, 1e-6, 3e-5, 1e-4, 2e-4, 1e-2):
        exact = np.log1p(theta * np.asarray(s, dtype=np.longdouble)) / np.longdouble(theta)
        np.testing.assert_allclose(log_laplace(s, theta), np.asarray(exact, dtype=float), rtol=1e-12)
        first = jax.vmap(jax.grad(lambda th, v: log_laplace(v, th)), (None, 0))(theta, s)
        wanted = [integrate.quad(lambda u, v=v: -u / (1 + theta * u) ** 2, 0, v)[0] for v in np.asarray(s)]
        np.testing.assert_allclose(first, wanted, rtol=2e-8, atol=1e-14)  # d/dtheta int du/(1+theta u)
    curvature = jax.grad(jax.grad(lambda th: log_laplace(jnp.array(3.0), th)))
    assert float(curvature(0.0)) == pytest.approx(2 * 3.0**3 / 3, rel=1e-9)
    assert float(curvature(1e-3)) == pytest.approx(2 * 3.0**3 / 3, rel=1e-2)
    assert finite(log_laplace(jnp.array([1e8]), 1e-13)) and float(log_laplace(jnp.array([1e8]), 1e-13)[0]) > 0


def test_observable_without_frailty_is_exponential():
    obs = observable(constant(0.3, 0.5), constant(0.2)[:, 0], 0.0, T)
    np.testing.assert_allclose(obs.at_risk[0], np.exp(-1.0 * T), rtol=1e-12)
    np.testing.assert_allclose(obs.hazard[0, 1], 0.5)
    np.testing.assert_allclose(obs.cumulative[0], 0.8 * T, rtol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_observable_with_unit_frailty(shared):
    obs = observable(constant(0.3, 0.5), constant(0.2)[:, 0], 1.0, T, shared)
    exposed = (0.8 + 0.2 * shared) * T
    m = 1 / (1 + exposed)
    np.testing.assert_allclose(obs.at_risk[0], m * (1 if shared else np.exp(-0.2 * T)), rtol=1e-12)
    np.testing.assert_allclose(obs.hazard[0, 0], 0.3 * m, rtol=1e-12)
    np.testing.assert_allclose(obs.death[0], 0.2 * (m if shared else 1), rtol=1e-12)
    living = alive(constant(0.2)[:, 0], 1.0, T, shared)
    np.testing.assert_allclose(living[0], 1 / (1 + 0.2 * T) if shared else np.exp(-0.2 * T), rtol=1e-12)
    r, same = recurrent(constant(0.3, 0.5), constant(0.2)[:, 0], 1.0, T, shared)
    np.testing.assert_allclose(same, living)
    np.testing.assert_allclose(r[0, 0], 0.3 / (1 + 0.2 * T) if shared else 0.3)


@pytest.mark.parametrize("shared", [False, True])
def test_hazards_are_minus_the_slope_of_the_at_risk_curve(shared):
    h = jnp.asarray(0.4 + 0.3 * np.sin(3 * T))[None, None]
    obs = observable(h, 0.3 + 0.1 * jnp.asarray(T)[None], 0.7, T, shared)
    slope = -np.gradient(np.log(obs.at_risk[0]), T)
    total = obs.hazard[0, 0] + obs.death[0]
    np.testing.assert_allclose(slope[1:-1], total[1:-1], atol=5e-5)


# ---- crude and split ----


def arm(theta=0.6, shared=False, weights=ONE, rates=((0.3, 0.5, 0.0),), deaths=(0.2,)):
    h = jnp.asarray(np.array(rates)[:, :, None] * np.ones(T.size))
    d = jnp.asarray(np.array(deaths)[:, None] * np.ones(T.size))
    return h, d, observable(h, d, theta, T, shared), jnp.asarray(weights), jnp.exp(-0.1 * jnp.asarray(T))


def test_crude_exponential_closed_form():
    *_, obs, w, stay = arm(theta=0.0)
    first = crude.first_event(obs, w, stay, Q)
    total = 0.8 / 1.1 * -np.expm1(-1.1 * 2)
    np.testing.assert_allclose(first, total * np.array([3 / 8, 5 / 8, 0]), rtol=5e-6)
    assert float(crude.expected(obs, w, stay, Q)) == pytest.approx(total, rel=5e-6)
    assert float(crude.first_event_or_death(obs, w, stay, Q)) == pytest.approx(1.0 / 1.1 * -np.expm1(-2.2), rel=5e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_crude_with_frailty_by_integration_over_the_gamma_law(shared):
    theta, (_, _, obs, w, stay) = 0.6, arm(0.6, shared)

    def given_u(u):
        rest = 0.8 * u + (0.2 * u if shared else 0.2) + 0.1
        return 0.8 * u / rest * -np.expm1(-rest * 2) * stats.gamma.pdf(u, 1 / theta, scale=theta)

    exact = integrate.quad(given_u, 0, 40, limit=200)[0]
    assert float(crude.expected(obs, w, stay, Q)) == pytest.approx(exact, rel=2e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_any_event_leaves_the_other_components_out(shared):
    h, d, _, w, stay = arm(0.6, shared)
    found = crude.any_event(h, d, 0.6, w, stay, Q, T, shared)
    for k in range(3):
        alone = crude.expected(observable(h[:, k : k + 1], d, 0.6, T, shared), w, stay, Q)
        assert float(found[k]) == pytest.approx(float(alone), rel=1e-12)
    assert float(found[2]) == 0.0


def test_mixture_crude_is_the_weighted_sum():
    rates, deaths, w = ((0.3, 0.5, 0.0), (1.0, 0.1, 0.2)), (0.2, 0.7), np.array([0.3, 0.7])
    _, _, obs, _, stay = arm(0.8, weights=w, rates=rates, deaths=deaths)
    alone = [arm(0.8, rates=rates[i : i + 1], deaths=deaths[i : i + 1])[2] for i in (0, 1)]
    parts = [crude.first_event(member, ONE, stay, Q) for member in alone]
    np.testing.assert_allclose(crude.first_event(obs, w, stay, Q), 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-12)
    lam, y = mixed_hazard(obs, jnp.asarray(w))
    np.testing.assert_allclose((lam * y * stay) @ Q, crude.first_event(obs, w, stay, Q), rtol=1e-12)


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(-14, 100))
@settings(max_examples=200, deadline=None)
def test_no_probability_makes_a_count_likelier_than_certain(n, share, power):
    """A quadrature of a hazard that it cannot resolve returns p > 1, and that is no reward."""
    events = float(round(share * n))
    value, slope = jax.value_and_grad(lambda p: crude.log_lik(events, float(n), p))(10.0**power)
    assert float(value) <= 1e-6 and finite((value, slope))
    if power > 0:
        assert float(value) <= float(crude.log_lik(events, float(n), 1.0)) + 1e-9 and float(slope) <= 0.0


def test_binomial_with_constants():
    assert float(crude.log_lik(7.0, 20.0, 0.3)) == pytest.approx(stats.binom.logpmf(7, 20, 0.3), rel=1e-10)
    assert float(crude.log_lik(0.0, 20.0, 0.0)) == pytest.approx(0.0, abs=1e-9)
    for p in (0.0, 1.0):
        value, slope = jax.value_and_grad(lambda p: crude.log_lik(7.3, 20.0, p))(p)
        assert np.isfinite(value) and np.isfinite(slope) and slope != 0
    assert float(crude.residual(7.0, 20.0, 0.35)) == pytest.approx(0.0, abs=1e-9)
    assert float(crude.residual(9.0, 20.0, 0.35)) > 0
    assert np.isfinite(float(crude.residual(0.0, 20.0, 0.35)))
    se = np.sqrt(0.3 * 0.7 / 150)
    scale = se / (0.7 * -np.log(0.7))
    low, high = (-np.expm1(-np.exp(np.log(-np.log(0.7)) + s * 1.96 * scale)) for s in (-1, 1))
    assert float(crude.effective_size(0.3, low, high)) == pytest.approx(150, rel=1e-9)


def test_split_is_the_multinomial_given_the_total():
    first, n, counts = np.array([0.1, 0.25, 0.05]), 60, np.array([5.0, 14.0, 4.0])
    joint = stats.multinomial.logpmf([*counts, n - counts.sum()], n, [*first, 1 - first.sum()])
    parts = crude.log_lik(counts.sum(), n, first.sum()) + split.log_lik(counts, first)
    assert float(parts) == pytest.approx(joint, rel=1e-9)
    padded = split.log_lik(np.array([5.0, 14.0, np.nan, 4.0]), np.array([0.1, 0.25, 0.0, 0.05]))
    assert float(padded) == pytest.approx(float(split.log_lik(counts, first)), rel=1e-12)
    slope = jax.grad(split.log_lik, 1)(np.array([5.0, 14.0, 0.0, 4.0]), jnp.array([0.1, 0.25, 0.0, 0.05]))
    assert finite(slope) and float(slope[2]) == 0.0
    assert finite(jax.grad(split.log_lik, 1)(np.zeros(3), jnp.zeros(3)))
    assert float(split.log_lik(np.array([1.0, 1.0]), np.array([1.0, 0.0]))) < -20
    np.testing.assert_allclose(split.expected(first), first / 0.4)


def test_split_and_binomial_replicates():
    draws = jax.vmap(lambda k: split.simulate(k, 30.0, jnp.array([0.2, 0.0, 0.3, 0.5])))(KEYS)
    np.testing.assert_array_equal(draws.sum(1), 30)
    assert float(draws[:, 1].max()) == 0
    np.testing.assert_allclose(draws.mean(0), [6, 0, 9, 15], atol=4.5 * np.sqrt(7.5 / 4000))
    for n, p in ((30, 0.02), (700, 0.3), (900, 0.95)):
        d = np.asarray(jax.vmap(lambda k, n=n, p=p: crude.simulate(k, n, p))(KEYS))
        assert abs(d.mean() - n * p) < 4.5 * np.sqrt(n * p * (1 - p) / 4000)
        assert d.var() == pytest.approx(n * p * (1 - p), rel=0.12)


# ---- mixtures, Kaplan-Meier ----


def test_kaplan_meier_target_is_gamma_survival_only_without_shared_frailty():
    h, d = constant(0.8), constant(0.6)[:, 0]
    for shared in (False, True):
        lam, _ = mixed_hazard(observable(h, d, 1.0, T, shared), jnp.ones(1))
        exact = (1 + 1.4 * T) ** (-0.8 / 1.4) if shared else 1 / (1 + 0.8 * T)
        np.testing.assert_allclose(km_survival(lam[0], T), exact, rtol=2e-5)


def test_mixture_of_exponentials():
    h = jnp.asarray(np.array([0.2, 1.0])[:, None, None] * np.ones((1, T.size)))
    w = jnp.array([0.4, 0.6])
    lam, y = mixed_hazard(observable(h, jnp.zeros((2, T.size)), 0.0, T), w)
    np.testing.assert_allclose(y, 0.4 * np.exp(-0.2 * T) + 0.6 * np.exp(-T), rtol=1e-12)
    np.testing.assert_allclose(km_survival(lam[0], T), y, rtol=2e-6)
    dead, living = mixed_death(h[:, 0], alive(h[:, 0], 0.0, T), w)
    np.testing.assert_allclose(dead, lam[0], rtol=1e-12)
    np.testing.assert_allclose(living, y, rtol=1e-12)


def test_averaging_members_first_is_not_the_mixture():
    h = np.array([0.2, 1.0])
    mixed = 0.4 * np.exp(-0.2 * 2) + 0.6 * np.exp(-2.0)
    assert abs(mixed - np.exp(-2 * (h @ [0.4, 0.6]))) > 0.05


# ---- median ----


def median_row(rate_, n=200.0, x=1.0, low=np.nan, high=np.nan, reached=True, stay=None):
    lam = rate_ * jnp.ones(T.size)
    y = jnp.exp(-cumulative(lam, T)) * (1.0 if stay is None else stay)
    return lam, y, n, T, x, quadrature(T, x), interpolation(T, x), low, high, reached


def test_median_expected():
    for r in (0.4, 0.7, 2.0, 17.0):
        assert float(median.expected(r * np.ones(T.size), T)[0]) == pytest.approx(np.log(2) / r, rel=1e-9)
    found, reached = median.expected(0.1 * np.ones(T.size), T)
    assert float(found) == T[-1] and not bool(reached)
    t = np.array([0.0, 3.0])  # lam = t: Lam = t^2/2
    assert float(median.expected(t, t)[0]) == pytest.approx(np.sqrt(2 * np.log(2)), rel=1e-12)
    assert finite(jax.grad(lambda l: median.expected(l, T)[0])(jnp.zeros(T.size)))
    slope = jax.grad(lambda r: median.expected(r * jnp.ones(T.size), T)[0])(0.7)
    assert float(slope) == pytest.approx(-np.log(2) / 0.49, rel=1e-6)


def test_median_density_without_interval():
    n, r = 200.0, 0.7
    row = median_row(r, n)
    step = 1e-5

    def z_at(x):
        return 2 * np.sqrt(n) * (np.pi / 4 - np.arcsin(np.exp(-r * x / 2)))  # no censoring: n_e = n

    z = z_at(1.0)
    slope = (z_at(1 + step) - z_at(1 - step)) / (2 * step)
    got, res = median.evaluate(*row)
    assert float(res) == pytest.approx(z, rel=1e-3)
    assert float(got) == pytest.approx(stats.norm.logpdf(z) + np.log(slope), abs=1e-4)
    assert float(median.log_lik_reached(*row[:-1])) == pytest.approx(float(got))
    assert float(median.log_lik(*row)) == float(got) and float(median.residual(*row)) == float(res)


def test_median_density_and_not_reached_add_up_to_one():
    stay = jnp.exp(-0.3 * jnp.asarray(T))
    for n, r, end in ((60, 0.7, 2.0), (27, 0.9, 2.5), (200, 0.3, 2.0)):
        xs = np.linspace(0.01, end, 400)
        rows = jax.vmap(lambda x, q, p, r=r, n=n: median.log_lik_reached(*median_row_core(r, n, stay), x, q, p))(
            jnp.asarray(xs), jnp.asarray([quadrature(T, x) for x in xs]), jnp.asarray([interpolation(T, x) for x in xs])
        )
        left = np.exp(median.log_lik_not_reached(*median_row_core(r, n, stay), end, interpolation(T, end)))
        assert np.trapezoid(np.exp(rows), xs) + left == pytest.approx(1.0, abs=0.01)


def median_row_core(r, n, stay):
    lam = r * jnp.ones(T.size)
    return lam, jnp.exp(-cumulative(lam, T)) * stay, n, T


def test_median_with_interval_is_log_normal_for_exponential_survival():
    low, high = 0.8, 1.3
    for r in (0.4, 0.7, 1.5):
        got, z = median.evaluate(*median_row(r, low=low, high=high))
        sd = np.log(high / low) / 3.92
        want = stats.norm.logpdf(0.0, np.log(np.log(2) / r), sd)
        assert float(got) == pytest.approx(want, abs=1e-6)
        assert float(z) == pytest.approx(-np.log(np.log(2) / r) / sd, abs=1e-6)
    one_sided = median.log_lik(*median_row(0.7, low=0.8))
    sd = np.log(1 / 0.8) / 1.96
    assert float(one_sided) == pytest.approx(stats.norm.logpdf(0.0, np.log(np.log(2) / 0.7), sd), abs=1e-6)
    other = median.log_lik(*median_row(0.7, high=1.25))
    assert float(other) == pytest.approx(stats.norm.logpdf(0.0, np.log(np.log(2) / 0.7), np.log(1.25) / 1.96), abs=1e-6)


def test_median_residual_is_positive_when_longer_than_expected():
    assert float(median.residual(*median_row(1.4))) > 0  # expected 0.5 y, seen 1 y
    assert float(median.residual(*median_row(1.4, low=0.8, high=1.2))) > 0
    assert float(median.residual(*median_row(0.3))) < 0
    assert float(median.residual(*median_row(0.3, reached=False))) == 0.0


def test_median_likelihood_has_one_mode_in_the_hazard():
    rates = jnp.geomspace(0.01, 300.0, 300)
    for low, high in ((np.nan, np.nan), (0.8, 1.3)):
        value = jax.jit(jax.vmap(lambda r: median.log_lik(*median_row(r, low=low, high=high))))(rates)
        assert bool(jnp.all(jnp.isfinite(value)))
        top = int(jnp.argmax(value))
        assert abs(np.log(rates[top] / np.log(2))) < 0.1
        far = int(np.searchsorted(rates, 12.0))  # Lam(x) = 12; beyond 15 the density is flat but for grid error
        assert np.all(np.diff(value[: top + 1]) > 0) and np.all(np.diff(value[top:far]) < 0)
        assert np.all(value[far:] < -50)


def test_not_reached_needs_a_low_hazard():
    value = [float(median.log_lik(*median_row(r, reached=False))) for r in (0.01, 0.3, 0.7, 1.4)]
    assert value[0] == pytest.approx(0.0, abs=1e-12) and value == sorted(value, reverse=True)
    assert value[2] == pytest.approx(np.log(0.5), abs=0.1)
    nobody = median_row(5.0, n=1.0, reached=False)
    assert float(median.log_lik(*nobody)) == pytest.approx(0.0, abs=0.1)


def test_median_replicates_follow_the_likelihood():
    stay = jnp.exp(-0.2 * jnp.asarray(T))
    core = median_row_core(0.5, 150.0, stay)
    x, reached = jax.jit(jax.vmap(lambda k: median.simulate(k, *core, last=1.8)))(KEYS)
    chance = np.exp(median.log_lik_not_reached(*core, 1.8, interpolation(T, 1.8)))
    assert abs(1 - reached.mean() - chance) < 4.5 * np.sqrt(chance / 4000)
    np.testing.assert_allclose(x[~reached], 1.8)
    seen = np.asarray(x[reached][:400])
    weights = (np.array([w(T, v) for v in seen]) for w in (quadrature, interpolation))
    z = jax.vmap(lambda v, q, p: median.residual(*core, v, q, p))(seen, *weights)
    assert stats.kstest(z, stats.truncnorm(-9, stats.norm.isf(chance)).cdf).pvalue > 1e-3
    x, _ = jax.jit(jax.vmap(lambda k: median.simulate(k, *median_row_core(0.9, 150.0, stay), sd_log_x=0.12)))(KEYS)
    assert np.std(np.log(x)) == pytest.approx(0.12, rel=0.06)


def test_landmark_at_one_point_is_a_binomial():
    lam, y = 0.5 * jnp.ones(T.size), jnp.exp(-0.5 * jnp.asarray(T))
    q = jnp.asarray(Q)[None]
    assert float(landmark.expected(lam, q)[0]) == pytest.approx(np.exp(-1.0))
    got = landmark.log_lik(jnp.array([0.4]), lam, y, 100.0, q)  # nobody is censored: 60 of 100
    assert float(got) == pytest.approx(stats.binom.logpmf(60, 100, -np.expm1(-1.0)) + np.log(100.0), abs=1e-3)
    assert finite(jax.value_and_grad(lambda l: landmark.log_lik(jnp.ones(1), l, y, 100.0, q))(jnp.zeros(T.size)))
    draw = jax.vmap(lambda k: landmark.simulate(k, lam, y, 100.0, q))(KEYS)
    assert np.std(draw) == pytest.approx(np.sqrt(np.exp(-1.0) * -np.expm1(-1.0) / 100), rel=0.06)


# ---- contrast ----


def curves(h, d, theta, shared=False):
    obs = observable(jnp.asarray(h)[None, None], d * jnp.ones((1, T.size)), theta, T, shared)
    stay = jnp.exp(-0.2 * jnp.asarray(T))
    return obs.hazard[:, 0], obs.at_risk * stay


def test_equal_arms_have_no_effect_and_proportional_hazards_are_found():
    one = curves(0.8 * np.ones(T.size), 0.3, 0.9)
    assert float(contrast.hazard_ratio(*one, *one, Q)) == pytest.approx(0.0, abs=1e-14)
    half = curves(0.4 * np.ones(T.size), 0.3, 0.0)
    ref = curves(0.8 * np.ones(T.size), 0.1, 0.0)
    for p1 in (0.5, 2 / 3):
        assert float(contrast.hazard_ratio(*half, *ref, Q, p1)) == pytest.approx(np.log(0.5), rel=1e-10)
        back = contrast.hazard_ratio(*ref, *half, Q, 1 - p1)
        assert float(back) == pytest.approx(-np.log(0.5), rel=1e-10)


def cases():
    change = 1 / (1 + np.exp(-(T - 0.5) / 0.08))
    flat = 0.8 * np.ones(T.size)
    return {
        "proportional": (0.7 * flat, flat, 1.0, 0.5),
        "strong": (0.3 * flat, flat, 1.5, 2 / 3),
        "crossing": (flat * (0.4 + 1.4 * change), flat, 0.3, 2 / 3),
        "onset": (flat * (0.02 + 0.6 * change), flat, 0.3, 0.5),
        "extreme": (1e-4 * flat, flat, 0.5, 0.5),
        "huge": (30 * flat, flat, 0.5, 0.5),
    }


@pytest.mark.parametrize("name", cases())
def test_newton_root_against_bisection(name):
    h1, h0, theta, p1 = cases()[name]
    one, ref = curves(h1, 0.3, theta), curves(h0, 0.3, theta)

    def score(b):
        l1, y1, l0, y0 = (np.asarray(v[0]) for v in (*one, *ref))
        y1, y0 = p1 * y1, (1 - p1) * y0
        p = y1 * np.exp(b) / (y0 + y1 * np.exp(b))
        return Q @ (y1 * l1 - p * (y0 * l0 + y1 * l1))

    from scipy.optimize import brentq

    root = brentq(score, -20, 20, xtol=1e-12)
    assert float(contrast.hazard_ratio(*one, *ref, Q, p1)) == pytest.approx(root, abs=5e-4 if name == "huge" else 2e-6)


def test_gradient_of_the_root_is_the_implicit_one():
    ref = curves(0.8 * np.ones(T.size), 0.3, 0.9)

    def root(c, steps):
        h1 = 0.8 * (0.4 + c / (1 + jnp.exp(-(jnp.asarray(T) - 0.5) / 0.08)))
        return contrast.hazard_ratio(*curves(h1, 0.3, 0.9), *ref, Q, 0.6, steps=steps)

    numeric = (root(1.4 + 1e-4, 12) - root(1.4 - 1e-4, 12)) / 2e-4
    assert float(jax.grad(root)(1.4, 3)) == pytest.approx(float(numeric), rel=1e-6)


def test_strata():
    a, b = curves(0.5 * np.ones(T.size), 0.3, 0.0), curves(2.0 * np.ones(T.size), 0.3, 0.0)
    a0, b0 = curves(1.0 * np.ones(T.size), 0.3, 0.0), curves(4.0 * np.ones(T.size), 0.3, 0.0)
    w = np.array([0.4, 0.6])

    def stack(x, y, i):
        return jnp.concatenate([x[i], y[i]])

    args = (stack(a, b, 0), stack(a, b, 1), stack(a0, b0, 0), stack(a0, b0, 1))
    got = contrast.hazard_ratio(*args, Q, 0.5, w)
    assert float(got) == pytest.approx(np.log(0.5), rel=1e-10)
    inside = contrast.hazard_ratio(args[0], args[1] * w[:, None], args[2], args[3] * w[:, None], Q, 0.5)
    assert float(inside) == pytest.approx(float(got), rel=1e-12)
    pooled1, pooled0 = (w @ (args[i] * args[i + 1]) / (w @ args[i + 1]) for i in (0, 2))
    one = contrast.hazard_ratio(pooled1, w @ args[1], pooled0, w @ args[3], Q, 0.5)
    assert abs(float(one)) < abs(np.log(0.5)) - 0.02  # not stratifying shrinks the ratio
    one_stratum = contrast.hazard_ratio(*(v[:1] for v in args), Q)
    padded = contrast.hazard_ratio(*args, Q, 0.5, np.array([1.0, 0.0]))
    assert float(padded) == pytest.approx(float(one_stratum), rel=1e-12)
    slope = jax.grad(lambda l: contrast.hazard_ratio(l, *args[1:], Q, 0.5, np.array([1.0, 0.0])))(args[0])
    assert finite(slope) and float(jnp.abs(slope[1]).max()) == 0.0


def test_conditional_ratio_needed_for_a_marginal_one():
    """Non-collapsibility, under 2 years with death and loss of 0.8/y: 12 to 36 % on the log scale.

    How much depends on the follow-up: without death or loss it is about twice as much at 3 years.
    """
    table = {
        (0.5, 0.6): ((0.83, 0.809), (0.63, 0.595)),
        (1.0, 0.6): ((0.83, 0.793), (0.63, 0.570)),
        (1.0, 1.2): ((0.83, 0.775), (0.63, 0.540)),
    }
    found = {}
    for (theta, h), pairs in table.items():
        for marginal, conditional in pairs:
            found[theta, h, marginal] = noncollapsible(theta, h, conditional)
    worst = max(abs(v - k[2]) for k, v in found.items())
    assert worst < 0.003, found


def noncollapsible(theta, h, conditional, death=0.8):
    one, ref = (observable(constant(v), death * jnp.ones((1, T.size)), theta, T) for v in (h * conditional, h))
    q = quadrature(T, 2.0)
    return float(jnp.exp(contrast.hazard_ratio(one.hazard[:, 0], one.at_risk, ref.hazard[:, 0], ref.at_risk, q)))


def test_contrast_log_lik_conditional_on_the_reference_arm():
    cov = np.array([[1.0, -0.62 * 0.1], [-0.62 * 0.1, 0.01]])
    z, x = 0.7, -0.3
    joint = stats.multivariate_normal.logpdf([z, x], [0, -0.25], cov)
    parts = stats.norm.logpdf(z) + contrast.log_lik(x, 0.1, -0.25, z, contrast.RHO_CRUDE)
    assert float(parts) == pytest.approx(joint, rel=1e-10)
    assert contrast.RHO_CRUDE < 0 < contrast.RHO_MEDIAN_SRE < contrast.RHO_MEDIAN_SURVIVAL
    d = jax.vmap(lambda k: contrast.simulate(k, 0.1, -0.25, 0.7, -0.62))(KEYS)
    assert abs(d.mean() - (-0.25 - 0.62 * 0.1 * 0.7)) < 4.5 * 0.1 * np.sqrt(1 - 0.62**2) / np.sqrt(4000)
    assert np.std(d) == pytest.approx(0.1 * np.sqrt(1 - 0.62**2), rel=0.06)


def test_standard_error_of_a_null_contrast():
    one = curves(0.8 * np.ones(T.size), 0.3, 0.0)
    events = 500 * float(((one[0] * one[1]) @ Q)[0])
    assert float(contrast.standard_error(0.0, 500, *one, *one, Q)) == pytest.approx(2 / np.sqrt(events), rel=1e-9)


# ---- rates ----


def test_mean_rate_of_a_constant_hazard_is_the_hazard():
    for shared in (False, True):
        h, d, _, w, stay = arm(0.8, shared)
        assert float(rate.mean_rate(h, d, 0.8, w, stay, Q, T, shared)) == pytest.approx(0.8, rel=1e-12)


def test_mean_rate_of_a_front_loaded_hazard():
    f, tau0, c, d = 1.5, 0.25, 0.4, 0.9
    h = jnp.asarray(c * (1 + f * np.exp(-T / tau0)))[None, None]
    death = d * jnp.ones((1, T.size))
    q = quadrature(T, 2.5)

    def phi(t):
        return c * (1 + f * tau0 * -np.expm1(-t / tau0) / t)

    exact = integrate.quad(lambda t: phi(t) * d * np.exp(-d * t), 0, 2.5)[0] + phi(2.5) * np.exp(-d * 2.5)
    got = rate.mean_rate(h, death, 0.7, ONE, np.ones(T.size), q, T)
    assert float(got) == pytest.approx(exact, rel=1e-4)
    shared = rate.mean_rate(h, death, 0.7, ONE, np.ones(T.size), q, T, True)

    def given_u(u):
        before = integrate.quad(lambda t: phi(t) * d * u * np.exp(-d * u * t), 0, 2.5)[0]
        return u * (before + phi(2.5) * np.exp(-d * u * 2.5)) * stats.gamma.pdf(u, 1 / 0.7, scale=0.7)

    assert float(shared) == pytest.approx(integrate.quad(given_u, 0, 30, limit=200)[0], rel=2e-4)


def test_mean_count_and_log_lik():
    h, d, _, w, stay = arm(0.8)
    want = 0.8 / 0.3 * -np.expm1(-0.6)
    assert float(rate.mean_count(h, d, 0.8, w, stay, Q, T)) == pytest.approx(want, rel=1e-6)
    want = integrate.quad(lambda t: 0.8 * (1 + 0.16 * t) ** (-1 / 0.8 - 1) * np.exp(-0.1 * t), 0, 2)[0]
    assert float(rate.mean_count(h, d, 0.8, w, stay, Q, T, True)) == pytest.approx(want, rel=1e-6)
    assert float(rate.log_lik(1.2, 250.0, 1.0)) == pytest.approx(stats.norm.logpdf(np.log(1.2), 0, 0.2), rel=1e-9)
    sd = np.log(1.5 / 0.9) / 3.92
    want = stats.norm.logpdf(np.log(1.2), 0, sd)
    assert float(rate.log_lik(1.2, 250.0, 1.0, 0.9, 1.5)) == pytest.approx(want, rel=1e-9)
    draws = jax.vmap(lambda k: rate.simulate(k, 1000.0, 1.3))(KEYS)
    assert np.std(np.log(draws)) == pytest.approx(0.1, rel=0.06)


def test_completion():
    _, d, _, w, _ = arm()
    p = completion.expected(alive(d, 0.5, T), w, np.exp(-0.3 * 2), P)
    assert float(p) == pytest.approx(np.exp(-1.0), rel=1e-9)
    assert float(completion.log_lik(10.0, 40.0, p)) == pytest.approx(stats.binom.logpmf(10, 40, np.exp(-1.0)), rel=1e-8)
    assert 0 <= float(completion.simulate(KEYS[0], 40.0, p)) <= 40


# ---- incidence ----


@pytest.mark.parametrize("shape", [0.3, 0.6, 1.0])
def test_metachronous_crude(shape):
    grid = np.linspace(0, 10, 41)
    a, d = 0.12, 0.15

    def in_hazard(v):
        time = (v / a) ** (1 / shape)
        return np.exp(-v - d * time) * (1 - time / 20)

    exact = integrate.quad(in_hazard, 0, a * 10**shape)[0]
    got = incidence.metachronous_crude(a, shape, d, 1 - grid / 20, grid)
    assert float(got) == pytest.approx(exact, rel=3e-4)
    full = incidence.metachronous_crude(a, shape, 0.0, np.ones(41), grid)
    assert float(full) == pytest.approx(-np.expm1(-a * 10**shape), rel=1e-12)
    slopes = jax.grad(lambda p: incidence.metachronous_crude(*p, 1 - grid / 20, grid))((a, shape, d))
    assert finite(slopes)
    step = 1e-6
    numeric = (
        incidence.metachronous_crude(a, shape + step, d, 1 - grid / 20, grid)
        - incidence.metachronous_crude(a, shape - step, d, 1 - grid / 20, grid)
    ) / (2 * step)
    assert float(slopes[1]) == pytest.approx(float(numeric), rel=1e-6)


def test_incidence_curve_intervals():
    marks = jnp.array([1.0, 12, 24, 60, 120]) / 12
    curve = incidence.km_curve(marks, 0.05, 0.7, 0.03)
    d = incidence.km_curve_intervals(curve)
    np.testing.assert_allclose(d.sum(), -np.log1p(-0.03) + 0.05 * 10**0.7, rtol=1e-12)
    np.testing.assert_allclose(d[1:], np.diff(0.05 * np.asarray(marks) ** 0.7), rtol=1e-10)
    assert float(incidence.km_curve(jnp.array([0.0]), 0.05, 0.7, 0.03)[0]) == pytest.approx(0.03)
    n, tau = 5000.0, 0.1
    before = np.concatenate([[1.0], 1 - np.asarray(curve[:-1])])
    sd = np.sqrt(1 / (n * before * np.asarray(d)) + tau**2)
    seen = curve * 1.05
    want = stats.norm.logpdf(np.log(incidence.km_curve_intervals(seen)), np.log(d), sd).sum()
    assert float(incidence.km_log_lik(seen, curve, n, tau)) == pytest.approx(want, rel=1e-9)
    padded = incidence.km_log_lik(jnp.append(seen, jnp.nan), jnp.append(curve, curve[-1]), n, tau)
    assert float(padded) == pytest.approx(want, rel=1e-9)
    slope = jax.jit(
        jax.grad(
            lambda p: incidence.km_log_lik(
                jnp.append(seen, jnp.nan), incidence.km_curve(jnp.append(marks, 10.0), *p), n, tau
            )
        )
    )((0.05, 0.7, 0.03))
    assert finite(slope)
    draws = jax.vmap(lambda k: incidence.km_simulate(k, curve, n, tau))(KEYS)
    assert bool(jnp.all(jnp.diff(draws, axis=1) > 0))
    logs = np.log(jax.vmap(incidence.km_curve_intervals)(draws))
    np.testing.assert_allclose(logs.std(0), sd, rtol=0.06)
    assert float(incidence.at_diagnosis(jnp.array([0.02, 0.3]), jnp.array([0.9, 0.1]))) == pytest.approx(0.048)
    assert float(incidence.crude_log_lik(3.0, 40.0, 0.1)) == pytest.approx(stats.binom.logpmf(3, 40, 0.1), rel=1e-8)
    assert 0 <= float(incidence.crude_simulate(KEYS[1], 40.0, 0.1)) <= 40


# ---- progression ----


def test_progression_of_growing_tumours():
    y, s = 0.9 * jnp.asarray(T), 0.8
    for own in (True, False):
        h, total = progression.hazard(y, T, s, own)
        p = stats.norm.cdf((0.9 * T[1:] - progression.LOG_GROWTH) / (s * T[1:]))
        np.testing.assert_allclose(-np.expm1(-total[1:]), p, atol=1e-12)
        assert float(total[0]) == 0.0 and bool(jnp.all(h >= 0)) and bool(jnp.all(jnp.diff(total) >= 0))
        assert float(cumulative(h, T)[-1]) == pytest.approx(float(total[-1]), rel=1e-12)


def test_progression_of_shrinking_tumours_depends_on_whose_nadir():
    y = -2.0 * jnp.asarray(T)
    i = np.searchsorted(T, 1.0)
    own, typical = (-np.expm1(-progression.hazard(y, T, 0.8, o)[1][i]) for o in (True, False))
    assert own == pytest.approx(stats.norm.cdf(-(2 + np.log(1.73)) / 0.8), rel=1e-3)
    assert typical == pytest.approx(stats.norm.cdf(-np.log(1.73) / 0.8), rel=1e-3)


def test_progression_against_patients():
    t = np.linspace(0, 2, 101)
    y = np.where(t < 0.5, -1.5 * t, -0.75 + 1.2 * (t - 0.5))
    d = np.random.default_rng(3).normal(0, 0.8, 20000)
    paths = y + d[:, None] * t
    seen = np.maximum.accumulate(paths - np.minimum.accumulate(paths, axis=1) > np.log(1.73), axis=1).mean(0)
    p = -np.expm1(-progression.hazard(jnp.asarray(y), t, 0.8)[1])
    assert np.abs(p - seen).max() < 4.5 * 0.5 / np.sqrt(20000)


@pytest.mark.parametrize("own", [True, False])
def test_progression_gradients(own):
    t = jnp.linspace(0, 3, 61)

    def total(y, s):
        h, c = progression.hazard(y, t, s, own)
        return jnp.sum(h) + jnp.sum(c)

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    for y in (0 * t, -3 * t, 30 * t, jnp.sin(5 * t)):
        for s in (0.05, 0.8, 5.0):
            assert finite(run(y, s))


# ---- everything at its edges ----

MARK = 1.1
QX, PX = quadrature(T, MARK), interpolation(T, MARK)


def everything(h1, h0, d1, d0, theta, w, stay, shared=False):
    """One number that passes through every statistic."""
    t, q, p = jnp.asarray(T), jnp.asarray(Q), jnp.asarray(P)
    one, ref = observable(h1, d1, theta, t, shared), observable(h0, d0, theta, t, shared)
    first = crude.first_event(one, w, stay, q)
    out = crude.log_lik(12.0, 40.0, jnp.sum(first))
    out += split.log_lik(jnp.array([4.0, 8.0, 0.0]), first)
    out += jnp.sum(crude.any_event(h1, d1, theta, w, stay, q, t, shared)) + crude.first_event_or_death(one, w, stay, q)
    lam, y = mixed_hazard(one, w)
    total = jnp.sum(lam, 0)
    nan = jnp.nan
    low, high = jnp.array([nan, 0.9, 0.9, nan]), jnp.array([nan, 1.4, nan, nan])
    reached = jnp.array([True, True, True, False])
    rows = jax.vmap(lambda *flags: sum(median.evaluate(total, y * stay, 40.0, t, MARK, QX, PX, *flags)))
    out += jnp.sum(rows(low, high, reached))
    out += median.expected(total, t)[0]
    out += landmark.log_lik(jnp.array([0.6, 0.4]), total, y * stay, 40.0, jnp.stack([jnp.asarray(QX), q]))
    sides = [jnp.sum(o.hazard, 1) for o in (one, ref)]
    b = contrast.hazard_ratio(sides[0], one.at_risk * stay, sides[1], ref.at_risk * stay, q, 0.5, w)
    z = crude.residual(12.0, 40.0, jnp.sum(first))
    out += contrast.log_lik(-0.3, 0.2, b, z, -0.62)
    r1, a1 = recurrent(h1, d1, theta, t, shared)
    r0, a0 = recurrent(h0, d0, theta, t, shared)
    out += contrast.hazard_ratio(r1.sum(1), a1 * stay, r0.sum(1), a0 * stay, q, 0.5, w)
    out += rate.log_lik(0.8, 40.0, rate.mean_rate(h1, d1, theta, w, stay, q, t, shared))
    out += rate.log_lik(0.8, 40.0, rate.mean_count(h1, d1, theta, w, stay, q, t, shared))
    out += completion.log_lik(20.0, 40.0, completion.expected(alive(d1, theta, t, shared), w, 0.8, p))
    return out


def inputs(scale=1.0, members=3):
    rng = np.random.default_rng(5)
    h = scale * rng.uniform(0.1, 0.6, (2, members, 3, 1)) * np.ones(T.size)
    h[:, :, 2] = 0.0
    d = scale * rng.uniform(0.1, 0.4, (2, members, 1)) * np.ones(T.size)
    stay = np.clip(1.5 - 0.5 * T, 0, 1)  # nobody is left at the end
    w = np.full(members, 1 / members)
    return [jnp.asarray(v) for v in (h[0], h[1], d[0], d[1])], jnp.asarray(w), jnp.asarray(stay)


SLOPE = jax.jit(jax.value_and_grad(everything, (0, 1, 2, 3, 4)), static_argnums=7)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("theta", [0.0, 1e-6, 0.8])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_values_and_gradients_are_finite(scale, theta, shared):
    arrays, w, stay = inputs(scale)
    value, slope = SLOPE(*arrays, theta, w, stay, shared)
    assert finite(value) and finite(slope)


def test_no_follow_up_at_all_is_finite():
    arrays, w, stay = inputs()
    assert finite(SLOPE(*arrays, 0.5, w, 0.0 * stay, False))


@pytest.mark.parametrize("shared", [False, True])
def test_padding_changes_nothing(shared):
    arrays, _, stay = inputs()
    w = jnp.array([0.4, 0.6, 0.0])
    padded = [a.at[2].set(0.0) for a in arrays]
    wild = [a.at[2].set(7.0) for a in arrays]
    value, slope = SLOPE(*padded, 0.5, w, stay, shared)
    other, _ = SLOPE(*wild, 0.5, w, stay, shared)
    assert float(value) == pytest.approx(float(other), rel=1e-12)
    assert finite(slope) and all(float(jnp.abs(s[2]).max()) == 0.0 for s in slope[:4])
    # without the padded member, and with a component that was not counted
    short = observable(arrays[0][:2], arrays[2][:2], 0.5, T, shared)
    wide = jnp.concatenate([padded[0], jnp.zeros_like(padded[0][:, :1])], axis=1)
    long = observable(wide, padded[2], 0.5, T, shared)
    first = crude.first_event(long, w, stay, Q)
    np.testing.assert_allclose(first[:3], crude.first_event(short, w[:2], stay, Q), rtol=1e-12)
    assert float(first[3]) == 0.0
    (lam, y), (lam2, y2) = mixed_hazard(long, w), mixed_hazard(short, w[:2])
    np.testing.assert_allclose(lam[:3], lam2, rtol=1e-12)
    np.testing.assert_allclose(y, y2, rtol=1e-12)


def test_vmap_is_the_loop():
    sets = [inputs(s)[0] for s in (0.3, 1.0, 2.0)]
    _, w, stay = inputs()
    stacked = [jnp.stack(v) for v in zip(*sets, strict=True)]
    thetas = jnp.array([0.0, 0.5, 1.5])
    got = jax.jit(jax.vmap(lambda a, b, c, d, th: everything(a, b, c, d, th, w, stay)))(*stacked, thetas)
    want = [float(SLOPE(*s, th, w, stay, False)[0]) for s, th in zip(sets, thetas, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_gradient_against_differences():
    arrays, w, stay = inputs()

    def along(e, theta):
        value, slopes = SLOPE(arrays[0] * (1 + e), *arrays[1:], theta, w, stay, False)
        return float(value), (float(jnp.sum(slopes[0] * arrays[0])), float(slopes[4]))

    _, exact = along(0.0, 0.6)
    for i, (de, dt) in enumerate(((1e-5, 0.0), (0.0, 1e-5))):
        numeric = (along(de, 0.6 + dt)[0] - along(-de, 0.6 - dt)[0]) / 2e-5
        assert exact[i] == pytest.approx(numeric, rel=1e-5)


def test_everything_named_is_there():
    assert all(hasattr(observe, name) for name in observe.__all__)
    for module in (crude, split, median, contrast, rate, completion, incidence, landmark, progression):
        assert all(hasattr(module, name) for name in module.__all__)
