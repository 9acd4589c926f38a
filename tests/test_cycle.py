"""The cycle room: responses, healthy bone, entry, exposures, regimens, and what the arrows and the drugs do."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from osteobayes import solve
from osteobayes.cycle import (
    CYCLE_PARAMETERS,
    Catalogue,
    Cell,
    Component,
    Grid,
    Regimen,
    exposure,
    pack,
    parameter_names,
    shipped_catalogue,
)
from osteobayes.cycle.cells import actions, coefficients, component_exposure, dose_times
from osteobayes.cycle.dynamics import Columns, Reference, State, field, osteoclast_loss, systemic_burden
from osteobayes.cycle.entry import bone_at_rest, entry_state, quasi_steady_bone
from osteobayes.cycle.fluxes import ACTIONS
from osteobayes.cycle.responses import down, down_to, log_positive, power, up
from osteobayes.errors import PriorError, RegimenError
from osteobayes.precision import jit
from osteobayes.priors import PriorSet
from osteobayes.schema import CANCERS

CATALOGUE = shipped_catalogue()
POTENCIES = parameter_names(CATALOGUE)
NAMES = (*CYCLE_PARAMETERS, *POTENCIES[1:])
IMMUNE_PARAMETERS = ("immune_kill", "effector_tgfb_fold", "exhaustion_pd1_share")
SEEDS = st.integers(0, 2**31 - 1)


@functools.cache
def prior():
    """The shipped priors of what the cycle reads, coordinates, hyperparameters."""
    priors = PriorSet.load()
    spreads = {priors[n].between_sd for n in NAMES}
    priors = replace(priors, parameters={n: p for n, p in priors.parameters.items() if n in (*NAMES, *spreads)})
    dims = {d for p in priors.parameters.values() for d in p.dims}
    coords = {d: CANCERS if d == "cancer" else ("one",) for d in dims}
    return priors, coords, priors.hyper(coords)


@functools.cache
def sampler():
    priors, coords, hyper = prior()
    return jit(lambda seed: priors.values(priors.sample(jax.random.key(seed), hyper, coords), hyper))


def draw(seed: int) -> dict:
    """The cycle's parameters and potencies at one prior draw."""
    values = sampler()(seed)
    return {n: values[n] for n in NAMES}


@functools.cache
def median() -> dict:
    """The same at the prior median (betas at their means)."""
    priors, coords, hyper = prior()
    sites = {}
    for name, site in priors.sites(coords).items():
        family, args = priors.site_distribution(site, sites, hyper)
        centre = {
            "normal": lambda a: a[0],
            "lognormal": lambda a: jnp.exp(a[0]),
            "halfnormal": lambda a: 0.6745 * a[0],
            "beta": lambda a: a[0] / (a[0] + a[1]),
        }[family](args)
        sites[name] = jnp.broadcast_to(centre, site.shape)
    values = priors.values(sites, hyper)
    return {n: jnp.asarray(np.asarray(values[n], float)) for n in NAMES}


def no_drugs(n: int) -> dict:
    return {name: jnp.zeros(n) for name in ACTIONS}


# ---- responses


@given(fold=st.floats(1.01, 50), floor=st.floats(0.01, 0.99))
def test_responses_are_one_in_healthy_bone_and_have_their_limits(fold, floor):
    for x, expected in ((0.0, (0.0, fold, fold)), (1.0, (1.0, 1.0, 1.0)), (1e16, (fold, 0.0, floor))):
        found = (up(x, fold), down(x, fold), down_to(x, fold, floor))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@given(fold=st.floats(1.01, 50), slope=st.floats(0.05, 2))
def test_the_slope_in_healthy_bone_is_the_declared_one(fold, slope):
    elasticity = jax.grad(lambda log_x: jnp.log(up(jnp.exp(slope * log_x), fold)))(0.0)
    np.testing.assert_allclose(elasticity, slope * (1 - 1 / fold), rtol=1e-12)


def test_logarithm_and_power_are_finite_on_the_whole_line():
    x = jnp.array([-1e30, -1.0, 0.0, 1e-300, 1.0, 1e30])
    assert np.isfinite(log_positive(x)).all() and np.isfinite(power(log_positive(x), 0.8)).all()
    np.testing.assert_allclose(power(log_positive(jnp.array(3.0)), 0.8), 3.0**0.8)


# ---- healthy bone, finite field, state at entry


def columns_without_tumour() -> tuple[Columns, dict]:
    """Five lesions without tumour and five skeletons, one a cancer; and how to give each its cancer's parameters."""
    lesion = jnp.concatenate([jnp.ones(5), jnp.zeros(5)])
    return Columns(lesion, lesion, jnp.ones(10)), {"cancer": jnp.tile(jnp.arange(5), 2)}


@functools.cache
def healthy_derivative():
    columns, where = columns_without_tumour()

    def derivative(values):
        p = {k: v[where["cancer"]] if jnp.ndim(v) else v for k, v in values.items()}
        one, zero = jnp.ones(10), jnp.zeros(10)
        log_N = jnp.where(columns.lesion > 0, -jnp.inf, jnp.log(0.2))
        healthy = State(one, one, one, one, one, log_N, zero, one, zero, one, zero)
        return field(healthy, no_drugs(10), p, Reference(one, one, 0.2 * one, one, one), columns)

    return jit(derivative)


@given(SEEDS)
def test_healthy_bone_is_a_fixed_point_at_every_parameter_value(seed):
    d = healthy_derivative()(draw(seed))
    for name in ("P", "B", "C", "Z", "G", "E", "X", "E_ref", "X_ref"):
        assert np.abs(getattr(d, name)).max() < 1e-12, name


@given(SEEDS)
@settings(max_examples=10)
def test_a_skeleton_enters_healthy(seed):
    p = {k: v[0] if jnp.ndim(v) else v for k, v in draw(seed).items()}
    state, reference = entry_state(p, no_drugs(1), Columns(jnp.zeros(1), jnp.zeros(1), jnp.ones(1)))
    for name in ("P", "B", "C", "Z", "G"):
        np.testing.assert_allclose(getattr(state, name), 1.0, atol=1e-13)
    np.testing.assert_allclose([reference.feeding, reference.flux, reference.tgfb], 1.0, atol=1e-13)


@functools.cache
def one_lesion_field():
    p = {k: v[0] if jnp.ndim(v) else v for k, v in median().items()}
    columns, one = Columns(jnp.ones(1), jnp.ones(1), jnp.ones(1)), jnp.ones(1)
    reference = Reference(one, one, 0.2 * one, one, one)

    def both(x, u):
        y = State(*x[:, None])
        u = dict(zip(ACTIONS, u[:, None], strict=True))
        return jnp.stack(field(y, u, p, reference, columns)), osteoclast_loss(y, jnp.exp(y.log_N), p, u)

    return jit(both)


REAL = st.one_of(st.floats(-3, 3), st.floats(-1e30, 1e30), st.sampled_from([-3.0, -1.0, -0.0, 0.0, 1.0]))
POLE = [1.0, 1.0, -3.0, 1.0, 1.0, -1.6, 0.0, 1.0, 0.1, 1.0, 0.1]


@given(
    st.lists(REAL, min_size=5, max_size=5),
    st.floats(-300, 60),
    st.floats(-300, 300),
    st.lists(REAL, min_size=4, max_size=4),
)
@example(POLE[:5], POLE[5], 0.0, POLE[7:])  # the flux at -(fold - 1) of the coupling response
@example([1.0, -1 / 46, 1.0, 1.0, 1.0], -1.6, 0.0, [1.0, 0.1, 1.0, 0.1])
@example([1.0, 1.0, 1.0, 1.0, -2.0], -1.6, 0.0, [1.0, 0.1, 1.0, 0.1])
@settings(max_examples=200)
def test_the_field_is_finite_wherever_a_solver_stage_may_land(bone, log_N, y, immune):
    x = jnp.array([*bone, log_N, y, *immune])
    for u in (jnp.zeros(len(ACTIONS)), jnp.array([1e4, 50.0, 0.1, 100.0, 0.999, 0.999, 0.1, 1e3])):
        d, loss = one_lesion_field()(x, u)
        assert np.isfinite(d).all(), d
        assert np.isfinite(loss).all() and (loss > 0).all()


@functools.cache
def entry():
    """Residual of the quasi-steady state, and a scalar of it, for all cancers under drug actions."""

    def residual(values, u_bp, u_den):
        p = {n: values[n] for n in CYCLE_PARAMETERS}
        N, Z = p["entry_burden"], p["entry_mineral"]
        u = no_drugs(5) | {"osteoclast_apoptosis": jnp.full(5, u_bp), "rankl_neutralisation": jnp.full(5, u_den)}
        P, B, C, G = quasi_steady_bone(Z, N, p, u)
        state = State(P, B, C, Z, G, jnp.log(N), *(jnp.zeros(5),) * 5)
        one = jnp.ones(5)
        d = field(state, u, p, Reference(one, one, N, one, one), Columns(one, one, one))
        again = jnp.stack([*bone_at_rest(C, Z, N, p, u)[:3]])
        return jnp.stack([d.P, d.B, d.C, d.G]), again - jnp.stack([P, B, G]), jnp.log(jnp.stack([P, B, C, G]))

    return jax.jit(residual)  # called inside other compiled functions too


@given(SEEDS, st.sampled_from([(0.0, 0.0), (3.0, 0.0), (0.0, 300.0), (50.0, 1e4)]))
def test_the_entry_state_is_at_rest(seed, drugs):
    d, again, _ = entry()(draw(seed), *drugs)
    assert np.abs(d).max() < 1e-10
    assert np.abs(again).max() < 1e-10


def test_the_gradient_of_the_entry_state_is_that_of_central_differences():
    """Along random directions of log parameters; error of the differences about 1e-10 at a step of 1e-4."""
    keys = [n for n in CYCLE_PARAMETERS if prior()[0][n].sampled]
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))

    @jax.jit
    def scalar(step, direction, values, u_bp):
        moved = values | {k: values[k] * jnp.exp(step * direction[k]) for k in keys}
        return (weight * entry()(moved, u_bp, 2.0)[2]).sum()

    slope = jit(jax.grad(scalar))
    for seed, u_bp in ((0, 0.0), (1, 0.0), (2, 3.0), (3, 20.0)):
        values, rng = draw(seed), np.random.default_rng(seed)
        direction = {k: jnp.asarray(rng.normal(size=np.shape(values[k]))) / 5 for k in keys}
        up1, down1 = (scalar(s, direction, values, u_bp) for s in (1e-4, -1e-4))
        up2, down2 = (scalar(s, direction, values, u_bp) for s in (2e-4, -2e-4))
        central = (8 * (up1 - down1) - (up2 - down2)) / 12e-4
        np.testing.assert_allclose(slope(0.0, direction, values, u_bp), central, rtol=1e-7)


# ---- exposures


def depot(times, amounts, input_per_day, half_life, scale, days):
    """One compartment fed by first-order inputs, integrated numerically between doses."""
    loss = np.log(2) / half_life
    y, out, start = np.zeros(2), [], min([*times, days[0]])
    pending = sorted(zip(times, amounts, strict=True))

    def advance(y, a, b):
        if b <= a:
            return y
        f = lambda t, y: [-input_per_day * y[0], input_per_day * y[0] - loss * y[1]]  # noqa: E731
        return solve_ivp(f, (a, b), y, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]

    now = start
    for day in days:
        while pending and pending[0][0] <= day:
            time, amount = pending.pop(0)
            y, now = advance(y, now, time) + np.array([amount, 0.0]), time
        y, now = advance(y, now, day), day
        out.append(scale * y[1])
    return np.array(out)


@pytest.mark.parametrize("agent", ["denosumab", "zoledronic acid", "radium-223", "pembrolizumab"])
def test_doses_are_the_one_compartment_model(agent):
    """Three doses, one of them before time 0; against numerical integration."""
    kinetics = CATALOGUE.agents[agent].kinetics
    component = Component(agent, 7.0, CATALOGUE.agents[agent].unit, 20.0, start_day=-13.0, doses=3)
    days = np.linspace(-20, 90, 45)
    found = component_exposure(component, CATALOGUE.agents[agent], jnp.asarray(days), 1e4)
    given = kinetics.input_per_day or exposure.SMOOTHING
    expected = depot([-13.0, 7.0, 27.0], [7.0] * 3, given, kinetics.half_life_days, kinetics.scale, days)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    assert (found[days < -13] == 0).all() and found[days == 0] > 0


def test_a_continuous_input_is_the_one_compartment_model():
    agent = CATALOGUE.agents["ibandronate"]
    component = Component("ibandronate", 50.0, "mg", 1.0, start_day=3.0, stop_day=40.0)
    days = np.linspace(0, 120, 61)
    loss, scale = np.log(2) / agent.kinetics.half_life_days, agent.kinetics.scale
    expected = []
    for day in days:
        f = lambda t, y: [scale * 50.0 - loss * y[0]]  # noqa: E731
        on = solve_ivp(f, (3.0, np.clip(day, 3.0, 40.0) + 1e-12), [0.0], method="DOP853", rtol=1e-11, atol=1e-13)
        expected.append(on.y[0, -1] * np.exp(-loss * max(day - 40.0, 0.0)))
    found = component_exposure(component, agent, jnp.asarray(days), 1e4)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


@given(st.floats(1, 80), st.floats(0.1, 5), st.floats(0.3, 3))
@settings(max_examples=10)
def test_smoothing_a_bolus_keeps_its_area(half_life, scale, amount):
    t = jnp.linspace(0, 60 * half_life, 400_001)
    kinetics = {"input_per_day": exposure.SMOOTHING, "half_life_days": half_life, "scale": scale}
    area = np.trapezoid(exposure.doses(t, jnp.zeros(1), jnp.full(1, amount), kinetics), t)
    np.testing.assert_allclose(area, scale * amount * half_life / np.log(2), rtol=1e-5)


def test_a_schedule_of_14_days_in_28_is_on_half_of_the_time():
    def on(t):
        return np.asarray(exposure.window(jnp.asarray(t), 0.0, 1000.0, 14.0, 14.0))

    t = np.linspace(56, 112, 56_001)
    np.testing.assert_allclose(np.trapezoid(on(t), t) / 56, 0.5, atol=1e-9)
    assert 1 - 1e-9 < on(t).max() <= 1 + 1e-12 and 0 <= on(t).min() < 1e-9
    grid = Grid(output_days=3.5, outputs=16)  # the solver sees the same share
    np.testing.assert_allclose(grid.project(on(grid.quadrature_days + 56), linear=False).mean(), 0.5, atol=1e-9)


def test_windows_end_when_treatment_does():
    t = jnp.array([-3.0, 5.0, 39.0, 42.5, 300.0])
    np.testing.assert_allclose(exposure.window(t, 0.0, 40.0, None, None), [0, 1, 1, 0, 0], atol=4e-3)
    cut = exposure.window(jnp.array([30.0, 38.0]), 0.0, 33.0, 14.0, 14.0)
    np.testing.assert_allclose(cut, [1, 0], atol=4e-3)


def test_dose_times_stop_before_the_end_and_after_the_last_dose():
    dose = Component("denosumab", 120.0, "mg", 28.0)
    np.testing.assert_array_equal(dose_times(dose, 84.0), [0, 28, 56])
    np.testing.assert_array_equal(dose_times(replace(dose, doses=2), 84.0), [0, 28])
    assert len(dose_times(replace(dose, start_day=-364.0), 0.0)) == 13


def test_pretreatment_loads_the_depot_before_entry():
    """Entry exposure: mean of the last 28 days of a year of zoledronic acid; afterwards the depot only decays."""
    grid = Grid(output_days=3.5, outputs=24)
    arrays = pack([Cell("breast", Regimen(), "bisphosphonate_12_months")], CATALOGUE, grid)
    times = np.arange(-364.0, 0.0, 28.0)
    before = depot(times, [4.0] * 13, exposure.SMOOTHING, 60.0, 0.6, np.arange(-28.0, 0.0, 0.25))
    at = (0, list(ACTIONS).index("osteoclast_apoptosis"), 0)
    np.testing.assert_allclose(arrays.entry_exposure[at], before.mean(), rtol=1e-8)
    after = depot(times, [4.0] * 13, exposure.SMOOTHING, 60.0, 0.6, grid.quadrature_days)
    found = arrays.exposure[:, :, *at]
    np.testing.assert_allclose(found, grid.project(after), rtol=1e-8)
    assert (np.diff(found.ravel()) < 1e-4 * after[0]).all()


def test_projected_exposures_keep_mean_and_first_moment_of_every_step():
    grid = Grid(outputs=8)
    after = depot([0.0, 28.0], [4.0, 4.0], exposure.SMOOTHING, 60.0, 0.6, grid.quadrature_days)
    line = np.asarray(grid.project(after))
    np.testing.assert_allclose(line[:, 1], 0.5 * (line[:, 0] + line[:, 2]), rtol=1e-12)
    for i, (start, _, end) in enumerate(line):
        t = np.linspace(0.0, 1.0, 4_001)
        exact = depot([0.0, 28.0], [4.0, 4.0], exposure.SMOOTHING, 60.0, 0.6, 7.0 * (i + t))
        for weight in (np.ones_like(t), t):
            found = np.trapezoid(weight * (start + (end - start) * t), t)
            np.testing.assert_allclose(found, np.trapezoid(weight * exact, t), rtol=1e-3)
    peak = np.asarray(grid.project(np.exp(-20.0 * grid.quadrature_days)))
    assert (peak >= 0).all() and peak[0, 2] == 0  # a line is never tilted below zero


def test_an_agent_without_windows_refuses_an_on_off_schedule():
    regimen = Regimen.parse("denosumab 120 mg q4w 14d/28d")
    with pytest.raises(RegimenError, match="on/period"):
        pack([Cell("breast", regimen)], CATALOGUE, Grid(outputs=2))


def test_actions_add_and_fractions_combine():
    """Ratios and rates add; fractions combine as 1 - prod(1 - u); a relative potency multiplies."""
    regimen = Regimen.parse("zoledronic acid + pamidronate + galunisertib + enzalutamide")
    arrays = pack([Cell("breast", regimen)], CATALOGUE, Grid(outputs=8))
    of = {name: i for i, name in enumerate(ACTIONS)}
    first, second = ((k, of["tgfb_receptor_block"]) for k in (0, 1))
    again = {
        f: getattr(arrays, f).at[second].set(getattr(arrays, f)[first]) for f in ("potency", "relative", "inverse")
    }
    twice = arrays.exposure.at[:, :, *second].set(arrays.exposure[:, :, *first])  # galunisertib once more
    arrays = arrays._replace(exposure=twice, **again)
    values = draw(0)
    coefficient = coefficients({n: values[n] for n in POTENCIES[1:]}, POTENCIES, arrays)
    u = jax.vmap(jax.vmap(lambda x: actions(x, coefficient)))(arrays.exposure)
    u = {name: x[:, :, 0] for name, x in u.items()}
    curve = {a: arrays.exposure[:, :, *at, 0] for a, at in {
        "pamidronate": (0, of["osteoclast_apoptosis"]), "zoledronic acid": (1, of["osteoclast_apoptosis"]),
        "galunisertib": first, "enzalutamide": (0, of["tumour_kill"]),
    }.items()}  # fmt: skip
    zoledronic = curve["zoledronic acid"] + values["pamidronate_relative"] * curve["pamidronate"]
    np.testing.assert_allclose(u["osteoclast_apoptosis"], zoledronic / values["zoledronic_acid_ed"], rtol=1e-12)
    block = 1 - (1 - values["alk5_block"] * curve["galunisertib"]) ** 2
    np.testing.assert_allclose(u["tgfb_receptor_block"], block, rtol=1e-11, atol=1e-14)
    kill = values["androgen_pathway_kill"] * curve["enzalutamide"]
    np.testing.assert_allclose(u["tumour_kill"], kill, rtol=1e-12)
    assert all((u[n] == 0).all() for n in ("alpha_kill", "pd1_block", "matrix_tgfb_trap", "rankl_neutralisation"))


# ---- regimens


def test_regimens_of_the_documentation():
    found = Regimen.parse("denosumab 120 mg q4w + galunisertib 150 mg bid 14d/28d")
    assert found.components == (
        Component("denosumab", 120.0, "mg", 28.0),
        Component("galunisertib", 150.0, "mg", 0.5, on_days=14.0, period_days=28.0),
    )
    assert found.backbone and found.agents == ("denosumab", "galunisertib")
    assert found.without("denosumab") == Regimen.parse("galunisertib 150 mg bid 14d/28d")
    assert Regimen.parse(found) is found


@pytest.mark.parametrize("agent", sorted(CATALOGUE.agents))
def test_a_name_alone_or_an_alias_is_the_standard_regimen(agent):
    standard = Regimen.parse(f"{agent} {CATALOGUE.agents[agent].standard}")
    assert Regimen.parse(agent) == Regimen.parse(agent.upper()) == standard
    assert all(Regimen.parse(alias) == standard for alias in CATALOGUE.agents[agent].aliases)
    (component,) = standard.components
    assert component.amount == CATALOGUE.agents[agent].standard_dose


@pytest.mark.parametrize(
    ("text", "interval", "doses"),
    [("q4w", 28, None), ("q12w", 84, None), ("q3m", 3 * 365.25 / 12, None), ("q10d", 10, None), ("once", 1, 1)],
)
def test_schedules(text, interval, doses):
    (component,) = Regimen.parse(f"denosumab 120 mg {text}").components
    assert (component.interval_days, component.doses) == (interval, doses)


def test_courses_and_backbones():
    (radium,) = Regimen.parse("radium-223 55 kBq/kg q4w x6 from day -56 until day 112").components
    assert (radium.doses, radium.start_day, radium.stop_day) == (6, -56.0, 112.0)
    assert Regimen.parse("placebo") == Regimen.parse("backbone") == Regimen()
    assert str(Regimen()) == "placebo"
    assert Regimen.parse("denosumab + no backbone") == replace(Regimen.parse("denosumab"), backbone=False)


def test_a_mapping_is_the_same_regimen():
    mapping = {
        "agents": [
            {"agent": "galunisertib", "dose": "150 mg", "schedule": "bid", "on_off": "14d/28d", "until_day": 168},
            {"agent": "radium-223", "dose": "55 kBq/kg", "schedule": "q4w", "doses": 6, "from_day": 28},
            "denosumab",
        ],
        "backbone": False,
    }
    text = (
        "galunisertib 150 mg bid 14d/28d until day 168 + radium-223 55 kBq/kg q4w x6 from day 28"
        " + denosumab 120 mg q4w + no backbone"
    )
    assert Regimen.parse(mapping) == Regimen.parse(text)
    assert Regimen.parse({"agents": []}) == Regimen()


@st.composite
def components(draw_):
    agent = CATALOGUE.agents[draw_(st.sampled_from(sorted(CATALOGUE.agents)))]
    interval = draw_(
        st.one_of(
            st.integers(1, 60).map(lambda k: 7.0 * k),
            st.integers(1, 12).map(lambda k: k * 365.25 / 12),
            st.sampled_from([0.5, 1.0]),
            st.floats(0.01, 400),
        )
    )
    start = draw_(st.one_of(st.just(0.0), st.floats(-400, 400)))
    length = draw_(st.one_of(st.none(), st.floats(1, 2000)))
    on = draw_(st.one_of(st.none(), st.floats(0.5, 40))) if agent.kinetics and agent.kinetics.kind == "window" else None
    return Component(
        agent.name,
        draw_(st.one_of(st.floats(1e-6, 1e7), st.integers(1, 5000).map(float))),
        agent.unit,
        interval,
        on_days=on,
        period_days=None if on is None else on + draw_(st.floats(0.5, 40)),
        start_day=start,
        stop_day=None if length is None else start + length,
        doses=draw_(st.one_of(st.none(), st.integers(1, 30))),
    )


@given(st.lists(components(), max_size=4, unique_by=lambda c: c.agent), st.booleans())
@settings(max_examples=150)
def test_the_text_of_a_regimen_reads_back_as_the_regimen(parts, backbone):
    regimen = Regimen(tuple(sorted(parts, key=lambda c: c.agent)), backbone)
    assert Regimen.parse(str(regimen)) == regimen


@pytest.mark.parametrize(
    ("regimen", "field", "mend"),
    [
        ("denosumap 120 mg q4w", "agent", "denosumab"),
        ("zoledronic", "agent", "zoledronic acid"),
        ("aspirin 100 mg daily", "agent", "known agents"),
        ("denosumab 120 q4w", "unit", "120 mg q4w"),
        ("denosumab 120 mL q4w", "unit", "120 mg q4w"),
        ("denosumab 120 kBq/kg q4w", "unit", "not kbq/kg"),
        ("denosumab lots", "amount", "120 mg q4w"),
        ("denosumab 120 mg q-4w", "interval", "q4w"),
        ("denosumab 120 mg q0w", "interval", "q4w"),
        ("denosumab 0 mg q4w", "amount", "positive"),
        ("denosumab -120 mg q4w", "amount", "positive"),
        ("denosumab 120 mg", "schedule", "120 mg q4w"),
        ("denosumab 120 mg q4w sometimes", "schedule", "sometimes"),
        ("denosumab 120 mg weekly", "schedule", "qNw"),
        ("denosumab 120 mg q4w x0", "schedule", "x0"),
        ("denosumab 120 mg q4w from day 1.2.3", "schedule", "1.2.3"),
        ("denosumab 120 mg q4w until day .", "schedule", "until day"),
        ("galunisertib 150 mg bid 28d/14d", "on/period", "14d/28d"),
        ("denosumab 120 mg q4w from day 30 until day 10", "until day", "after it starts"),
        ("denosumab + xgeva", "denosumab is named twice at the same time", "once"),
        ("denosumab 120 mg q4w q12w", "gives interval_days a second time", "keep one"),
        ("denosumab 120 mg q4w +", "nothing stands beside a `+`", "remove it"),
        ("", "empty", "placebo"),
        ({"agent": "denosumab"}, "agent", "agents"),
        ({"agents": [{"agent": "denosumab", "amount": 120}]}, "amount", "dose"),
        ({"agents": [{"dose": "120 mg"}]}, "agent", "missing"),
    ],
)
def test_a_bad_regimen_is_one_error_that_names_the_field(regimen, field, mend):
    with pytest.raises(RegimenError) as caught:
        Regimen.parse(regimen)
    assert field in str(caught.value) and mend in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


AGENT = """\
format: 1
agents:
  - name: made up
    class: test
    unit: mg
    standard: 1 mg daily
    standard_dose: 1
    actions: [{flux: osteoclast_apoptosis, form: ratio, potency: made_up_ed}]
    kinetics: {kind: doses, half_life_days: 3, source: expert}
"""


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("flux: osteoclast_apoptosis", "flux: osteoclast_apoptosi", "not a drug action"),
        ("form: ratio", "form: fraction", "cannot be a fraction"),
        ("half_life_days: 3, ", "", "half-life is missing"),
        ("half_life_days: 3", "half_life_days: -3", "greater than 0"),
        ("    unit: mg\n", "", "unit"),
    ],
)
def test_a_wrong_agent_is_refused_with_its_place(tmp_path, old, new, word):
    (tmp_path / "agents.yaml").write_text(AGENT, encoding="utf-8")
    assert list(Catalogue.load(tmp_path).agents) == ["made up"]
    (tmp_path / "agents.yaml").write_text(AGENT.replace(old, new), encoding="utf-8")
    with pytest.raises(PriorError) as caught:
        Catalogue.load(tmp_path)
    (problem,) = caught.value.problems
    assert problem.file == "agents.yaml" and problem.row and word in str(problem)


# ---- cells solved: what arrows and drugs do

GRID = Grid(output_days=3.5, outputs=209)
WEEK_13, WEEK_26, MONTH_24 = 26, 52, 209


def dose(agent: str, amount: float) -> Regimen:
    """Standard schedule at another dose (zero allowed, which no text can say)."""
    (component,) = Regimen.parse(agent).components
    return Regimen((replace(component, amount=amount),))


CELLS = {
    "placebo": Cell("breast", Regimen()),
    "denosumab 30": Cell("breast", dose("denosumab", 30.0)),
    "denosumab 60": Cell("breast", dose("denosumab", 60.0)),
    "denosumab": Cell("breast", Regimen.parse("denosumab")),
    "denosumab 240": Cell("breast", dose("denosumab", 240.0)),
    "zoledronic acid": Cell("breast", Regimen.parse("zoledronic acid")),
    "loaded": Cell("breast", Regimen(), "bisphosphonate_12_months"),
    "no backbone": Cell("breast", Regimen(backbone=False)),
    "fresolimumab": Cell("breast", Regimen.parse("fresolimumab")),
    "pembrolizumab": Cell("breast", Regimen.parse("pembrolizumab")),
    "prostate": Cell("prostate", Regimen()),
    "radium": Cell("prostate", Regimen.parse("radium-223")),
    "enzalutamide": Cell("prostate", Regimen.parse("enzalutamide")),
    "denosumab 0": Cell("breast", dose("denosumab", 0.0)),
    "zoledronic acid 0": Cell("breast", dose("zoledronic acid", 0.0)),
    "radium 0": Cell("prostate", dose("radium-223", 0.0)),
    "enzalutamide 0": Cell("prostate", dose("enzalutamide", 0.0)),
}
INDEX = {name: i for i, name in enumerate(CELLS)}


@pytest.fixture(scope="module")
def solved():
    """``solved(values) -> {cell: {curve: array}}``, one compilation."""
    arrays = pack(list(CELLS.values()), CATALOGUE, GRID)
    run = jit(lambda values, arrays: solve.trajectories(values, POTENCIES, arrays, GRID))

    def cells(values):
        path = run(values, arrays)
        assert (path.status == solve.OK).all()
        curves = {n: np.asarray(x) for n, x in path._asdict().items() if n not in ("reference", "status")}
        return {cell: {n: x[:, i] for n, x in curves.items()} for cell, i in INDEX.items()}

    return cells


@functools.cache
def cut_at_entry():
    """24-month burden of an untreated lesion when some parameters change at entry and the entry state is kept.

    Net growth at entry is a parameter of its own, so changing an arrow everywhere would only move its share of it.
    """
    columns = Columns(jnp.ones(1), jnp.zeros(1), jnp.ones(1))

    @jit
    def start(p):
        state, reference = entry_state(p, no_drugs(1), columns)
        return jnp.concatenate(state), reference

    @jit
    def slope(x, p, reference):
        return jnp.concatenate(field(State(*x[:, None]), no_drugs(1), p, reference, columns))

    def burden(p, **changes):
        x, reference = start(p)
        moved = p | {n: np.asarray(v) for n, v in changes.items()}
        end = solve_ivp(lambda t, x: slope(x, moved, reference), (0, 731.5), x, method="LSODA", rtol=1e-8, atol=1e-10)
        return float(np.exp(end.y[State._fields.index("log_N"), -1]))

    return burden


FEEDING_ARROWS = [
    {"pthrp_output": 1e-9},
    {"pthrp_tgfb_fold": 1 + 1e-9},
    {"tgfb_matrix_share": 1e-9},
    {"loop_strength": 1e-9},
    {"rankl_tumour_contact": 0.0, "rankl_independent_tumour": 0.0},
]


@pytest.mark.parametrize("arrow", FEEDING_ARROWS, ids=lambda c: " + ".join(c))
def test_cutting_a_feeding_arrow_lowers_the_burden(arrow):
    p = {n: v[0] if np.ndim(v) else v for n, v in median().items()}
    assert p["entry_burden"] == 0.2
    assert cut_at_entry()(p, **arrow) < cut_at_entry()(p)


def test_without_the_loop_the_lesion_grows_by_its_own_law(solved):
    """No feeding: d log N/dt = gross (1 - N)/(1 - N0) - loss, which has a closed form; an independent integration."""
    values = median() | {"loop_strength": jnp.asarray(np.asarray(1e-12))}
    gross, loss = (float(x[0]) for x in (values["net_growth"] + values["background_loss"], values["background_loss"]))
    expected = solve_ivp(
        lambda t, y: gross * (1 - np.exp(y)) / 0.8 - loss, (0, GRID.days[-1]), [np.log(0.2)],
        t_eval=GRID.days, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(np.log(solved(values)["placebo"]["burden"]), expected.y[0], atol=1e-7)


def test_antiresorptives_suppress_resorption_as_markers_say(solved):
    cells = solved(median())
    share = {a: cells[a]["flux"][WEEK_13] / cells["placebo"]["flux"][WEEK_13] for a in ("denosumab", "zoledronic acid")}
    assert 0.12 < share["denosumab"] < 0.30
    assert 0.30 < share["zoledronic acid"] < 0.45


def test_prostate_is_osteoblastic_with_resorption_raised(solved):
    cells = solved(median())
    assert cells["prostate"]["mineral"][MONTH_24] > 1 > cells["placebo"]["mineral"][MONTH_24]
    assert (cells["prostate"]["flux"] > 1.2).all() and (cells["prostate"]["osteoblasts"] > 1).all()


@pytest.mark.parametrize("agent", ["denosumab", "zoledronic acid", "radium", "enzalutamide"])
def test_a_zero_dose_is_exactly_the_comparator(solved, agent):
    cells = solved(median())
    comparator = cells["prostate" if agent in ("radium", "enzalutamide") else "placebo"]
    for name, curve in cells[f"{agent} 0"].items():
        np.testing.assert_array_equal(curve, comparator[name], err_msg=name)
    assert not np.array_equal(cells[agent]["burden"], comparator["burden"])


@pytest.mark.parametrize("seed", range(20))
def test_more_denosumab_never_raises_resorption(solved, seed):
    cells = solved(draw(seed))
    ladder = ["placebo", "denosumab 30", "denosumab 60", "denosumab", "denosumab 240"]
    assert (np.diff([cells[c]["flux"][WEEK_13] for c in ladder]) < 0).all()
    assert (np.diff([cells[c]["skeleton_flux"][WEEK_13] for c in ladder]) < 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_systemic_burden_reads_systemic_treatment_only(solved, seed):
    values = draw(seed)
    cells = solved(values)
    for agent in ("denosumab", "zoledronic acid", "loaded"):
        np.testing.assert_array_equal(cells[agent]["growth"], cells["placebo"]["growth"])
    np.testing.assert_array_equal(cells["radium"]["growth"], cells["prostate"]["growth"])
    assert cells["radium"]["burden"][WEEK_26] < cells["prostate"]["burden"][WEEK_26]
    np.testing.assert_allclose(cells["placebo"]["growth"], values["net_growth"][0] * GRID.days, rtol=1e-10)
    gross = values["net_growth"][0] + values["background_loss"][0]
    np.testing.assert_allclose(cells["no backbone"]["growth"], gross * GRID.days, rtol=1e-10)
    for curve in ("growth", "burden"):
        assert cells["enzalutamide"][curve][-1] < cells["prostate"][curve][-1]


def test_a_loaded_population_starts_with_less_resorption_that_returns(solved):
    loaded, naive = solved(median())["loaded"], solved(median())["placebo"]
    assert loaded["flux"][0] < 0.5 * naive["flux"][0]
    assert loaded["flux"][-1] > 0.8 * naive["flux"][-1]
    assert 0.3 < loaded["skeleton_flux"][0] < 0.6


@given(st.floats(0.01, 0.6), st.floats(-0.01, 0.02))
@settings(max_examples=10)
def test_systemic_burden_is_logistic_in_its_growth(W0, rate):
    """dW/dt = y' W (1 - W)."""
    t = np.linspace(0, 700, 8)
    logistic = solve_ivp(lambda t, W: rate * W * (1 - W), (0, 700), [W0], t_eval=t, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(systemic_burden(jnp.asarray(rate * t), W0), logistic.y[0], rtol=1e-7)


def test_immune_parameters_act_only_with_an_immune_agent():
    """Derivatives of all curves by each immune parameter: exactly zero without an agent of the module."""
    names = ("placebo", "denosumab", "zoledronic acid", "enzalutamide", "radium", "fresolimumab", "pembrolizumab")
    grid = Grid(output_days=3.5, outputs=30)
    arrays = pack([CELLS[n] for n in names], CATALOGUE, grid)
    values = median()

    def curves(moved):
        path = solve.trajectories(values | moved, POTENCIES, arrays, grid)
        return {n: x for n, x in path._asdict().items() if n not in ("status", "reference")}

    by = jit(jax.jacfwd(curves))({n: values[n] for n in IMMUNE_PARAMETERS})
    immune = np.asarray(arrays.column) < len(arrays.immune)
    assert immune.tolist() == [False] * 5 + [True] * 2
    for parameter in IMMUNE_PARAMETERS:
        for curve, derivatives in by.items():
            d = np.asarray(derivatives[parameter]).reshape(grid.outputs + 1, len(names), -1)
            assert (d[:, ~immune] == 0).all(), (parameter, curve)
        acts = np.asarray(by["growth"][parameter][-1]).reshape(len(names), -1).any(axis=1)
        assert acts[-1] and acts[-2] == (parameter != "exhaustion_pd1_share"), parameter


def test_cells_share_skeletons():
    cells = [
        Cell("breast", Regimen.parse("denosumab")),
        Cell("prostate", Regimen.parse("xgeva 120 mg q4w")),
        Cell("breast", Regimen()),
        Cell("breast", Regimen(), "bisphosphonate_12_months"),
        Cell("lung", Regimen.parse("pembrolizumab")),  # not on bone
    ]
    arrays = pack(cells, CATALOGUE, Grid(outputs=6))
    assert arrays.skeleton_of.tolist() == [0, 0, 1, 2, 1] and arrays.skeleton.tolist() == [0, 2, 3]
    assert arrays.lesion.tolist() == [4, 0, 1, 2, 3] and arrays.column.tolist() == [1, 2, 3, 4, 0]
    for name in ("exposure", "entry_exposure", "potency", "relative", "inverse"):
        x = getattr(arrays, name)
        assert x.shape[-1] == 8
        np.testing.assert_array_equal(x[..., 5:], x[..., arrays.column[jnp.array([0, 2, 3])]], err_msg=name)


def test_every_cell_and_catalogue_name_is_a_parameter_of_the_priors():
    assert set(NAMES) <= set(prior()[0].parameters)
    assert "denosumab 120 mg q4w" in str(Cell("breast", Regimen.parse("denosumab"), "bisphosphonate_12_months"))


def test_one_agent_in_two_phases():
    text = "denosumab 120 mg q4w x6 + denosumab 120 mg q12w from day 168"
    regimen = Regimen.parse(text)
    assert regimen.agents == ("denosumab",) and len(regimen.components) == 2
    assert Regimen.parse(str(regimen)) == regimen
    assert regimen.without("denosumab") == Regimen.parse("placebo")
    with pytest.raises(RegimenError, match=r"named twice at the same time.*from day"):
        Regimen.parse("denosumab 120 mg q4w x6 + denosumab 120 mg q12w from day 100")
    # the exposure is the sum of its phases
    days = jnp.asarray([10.0, 160.0, 200.0, 300.0])
    agent = CATALOGUE.agents["denosumab"]
    both = sum(component_exposure(c, agent, days, 400.0) for c in regimen.components)
    first = component_exposure(regimen.components[0], agent, days, 400.0)
    assert np.allclose(both[:2], first[:2]) and (both[2:] > first[2:]).all()


def test_an_agent_without_a_mechanism_is_read_but_not_solved():
    regimen = Regimen.parse("everolimus + exemestane 25 mg daily")
    assert CATALOGUE.without_mechanism(regimen.agents) == ["everolimus", "exemestane"]
    with pytest.raises(RegimenError, match="no mechanism of everolimus yet"):
        component_exposure(regimen.components[0], CATALOGUE.agents["everolimus"], jnp.asarray([1.0]), 100.0)
