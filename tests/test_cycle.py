"""The cycle room: responses, healthy bone, entry, exposures, regimens, and what the arrows and the drugs do."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
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
    fluxes,
    pack,
    parameter_names,
    shipped_catalogue,
)
from osteobayes.cycle.cells import actions, coefficients, component_exposure, dose_times
from osteobayes.cycle.dynamics import Columns, Reference, State, field, osteoclast_loss, systemic_burden
from osteobayes.cycle.entry import bone_at_rest, entry_state, quasi_steady_bone
from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS, MODULES, SKELETAL
from osteobayes.cycle.responses import down, down_to, log_positive, power, up
from osteobayes.errors import PriorError, RegimenError
from osteobayes.precision import jit
from osteobayes.priors import PriorSet
from osteobayes.schema import CANCERS

CATALOGUE = shipped_catalogue()
POTENCIES = parameter_names(CATALOGUE)
NAMES = (*CYCLE_PARAMETERS, *POTENCIES[1:])
MODULE_PARAMETERS = {
    "immune": (
        "immune_kill", "effector_tgfb_fold", "exhaustion_pd1_share", "exhaustion_tim3_of_rest", "exhaustion_lag3_of_rest",
        "siglec15_exhaustion", "ctla4_priming", "antigen_priming",
    ),
    "vascular": ("vessel_need", "fgf_growth"),
    "plasticity": ("transition_rate", "reversion_rate", "mesenchymal_growth_ratio", "mesenchymal_resistance"),
}  # fmt: skip
"""Sampled parameters of each module; a test below says that these are all."""
SEEDS = st.integers(0, 2**31 - 1)


@functools.cache
def prior():
    """The shipped priors of what the cycle reads, coordinates, hyperparameters."""
    priors = PriorSet.load().only(NAMES)
    dims = {d for p in priors.parameters.values() for d in p.dims}
    coords = {d: CANCERS if d == "cancer" else ("one",) for d in dims}
    return priors, coords, priors.hyper(coords)


@functools.cache
def sampler():
    priors, coords, hyper = prior()
    return lambda seed: priors.values(priors.sample(jax.random.key(seed), hyper, coords), hyper)


def draw(seed: int) -> dict:
    """The cycle's parameters and potencies at one prior draw."""
    values = sampler()(seed)
    return {n: values[n] for n in NAMES}


@functools.cache
def median() -> dict:
    """The same at the centre of the prior."""
    priors, coords, hyper = prior()
    values = priors.values(priors.centre(coords, hyper), hyper)
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
    lesion, on = jnp.concatenate([jnp.ones(5), jnp.zeros(5)]), jnp.ones(5)
    return Columns(lesion, jnp.ones(10), on, on, on), {"cancer": jnp.tile(jnp.arange(5), 2)}


WITHOUT_MODULES = Columns(jnp.ones(1), jnp.ones(1), *(jnp.zeros(0),) * 3)
"""One lesion without modules."""


@functools.cache
def healthy_derivative():
    columns, where = columns_without_tumour()

    def derivative(values):
        p = {k: v[where["cancer"]] if jnp.ndim(v) else v for k, v in values.items()}
        one, zero = jnp.ones(10), jnp.zeros(10)
        log_N = jnp.where(columns.lesion > 0, -jnp.inf, jnp.log(0.2))
        both, none = jnp.ones((2, 5)), jnp.zeros((2, 5))
        module = {"G_without": jnp.ones(5), "E": both, "X": none, "A": jnp.zeros(5), "V": both, "F": none, "M": none}
        healthy = State(one, one, one, one, one, one, log_N, zero, **module)
        return field(healthy, no_drugs(10), p, Reference(one, one, 0.2 * one, one, one, one), columns)

    return jit(derivative)


@given(SEEDS)
def test_healthy_bone_is_a_fixed_point_at_every_parameter_value(seed):
    d = healthy_derivative()(draw(seed))
    for name in ("P", "B", "C", "Z", "G", "Q", "G_without", "E", "X", "A", "V", "F"):
        assert np.abs(getattr(d, name)).max() < 1e-12, name


@functools.cache
def skeleton_entry():
    return jit(lambda p: entry_state(p, no_drugs(1), WITHOUT_MODULES._replace(lesion=jnp.zeros(1))))


@given(SEEDS)
@settings(max_examples=10)
def test_a_skeleton_enters_healthy(seed):
    p = {k: v[0] if jnp.ndim(v) else v for k, v in draw(seed).items()}
    state, reference = skeleton_entry()(p)
    for name in ("P", "B", "C", "Z", "G", "Q"):
        np.testing.assert_allclose(getattr(state, name), 1.0, atol=1e-13)
    np.testing.assert_allclose([reference.feeding, reference.flux, reference.tgfb], 1.0, atol=1e-13)


@functools.cache
def one_lesion_field():
    p = {k: v[0] if jnp.ndim(v) else v for k, v in median().items()}
    one = jnp.ones(1)
    columns = Columns(*(one,) * 5)
    reference = Reference(one, one, 0.2 * one, one, one, one)
    shapes = [np.shape(x) for x in entry_state(p, no_drugs(1), columns)[0]]
    cuts = np.cumsum([int(np.prod(x)) for x in shapes])

    def both(x, u):
        y = State(*(part.reshape(shape) for part, shape in zip(jnp.split(x, cuts[:-1]), shapes, strict=True)))
        u = dict(zip(ACTIONS, u[:, None], strict=True))
        d = field(y, u, p, reference, columns)
        return jnp.concatenate([part.ravel() for part in d]), osteoclast_loss(y, jnp.exp(y.log_N), p, u)

    return jit(both), cuts


REAL = st.one_of(st.floats(-3, 3), st.floats(-1e30, 1e30), st.sampled_from([-3.0, -1.0, -0.0, 0.0, 1.0]))
STRONG = {name: 0.999 if name in FRACTIONS else 100.0 for name in ACTIONS} | dict.fromkeys(
    ("alpha_kill", "beta_kill", "external_beam_kill", "radioligand_kill", "tumour_kill", "cytotoxic_kill"), 0.1
)
"""Drug actions beyond what any dose does."""
POLE = [1.0, 1.0, -3.0, 1.0, 1.0, 1.0]
"""The flux at -(fold - 1) of the coupling response."""


@given(
    st.lists(REAL, min_size=6, max_size=6),
    st.floats(-300, 60),
    st.floats(-300, 300),
    st.lists(REAL, min_size=12, max_size=12),
)
@example(POLE, -1.6, 0.0, [1.0, 1.0, 1.0, 0.1, 0.1, 0.0, 1.0, 1.0, 0.0, 0.0, 0.1, 0.1])
@example([1.0, -1 / 46, 1.0, 1.0, 1.0, 1.0], -1.6, 0.0, [1.0] * 12)
@example([1.0, 1.0, 1.0, 1.0, -2.0, 1.0], -1.6, 0.0, [-1.0] * 12)
@example([1.0] * 6, 0.0, 0.0, [0.0] * 12)
@settings(max_examples=200)
def test_the_field_is_finite_wherever_a_solver_stage_may_land(bone, log_N, y, module):
    x = jnp.array([*bone, log_N, y, *module])
    run, cuts = one_lesion_field()
    assert cuts[-1] == len(x)
    for u in (jnp.zeros(len(ACTIONS)), jnp.array(list(STRONG.values()))):
        d, loss = run(x, u)
        assert np.isfinite(d).all(), d
        assert np.isfinite(loss).all() and (loss > 0).all()


COLUMNS = Columns(*(jnp.ones(5),) * 5)
"""Five lesions with every module."""


@functools.cache
def entry():
    """Residual of the quasi-steady state, and a scalar of it, for all cancers under drug actions."""

    def residual(values, u_bp, u_den):
        p = {n: values[n] for n in CYCLE_PARAMETERS}
        N, Z = p["entry_burden"], p["entry_mineral"]
        u = no_drugs(5) | {"osteoclast_apoptosis": jnp.full(5, u_bp), "rankl_neutralisation": jnp.full(5, u_den)}
        C, rest = quasi_steady_bone(Z, N, p, u)
        state, reference = entry_state(p, u, COLUMNS)
        d = field(state, u, p, reference, COLUMNS)
        again = bone_at_rest(C, Z, N, p, u).sustained - C
        log_states = jnp.log(jnp.stack([rest.P, rest.B, C, rest.G, rest.Q, *state.V]))
        moving = jnp.stack([d.P, d.B, d.C, d.G, d.Q, d.V[1], d.F[1]])
        return moving, again, log_states

    return jax.jit(residual)  # called inside other compiled functions too


@given(SEEDS, st.sampled_from([(0.0, 0.0), (3.0, 0.0), (0.0, 300.0), (50.0, 1e4)]))
def test_the_entry_state_is_at_rest(seed, drugs):
    d, again, _ = entry()(draw(seed), *drugs)
    assert np.abs(d).max() < 1e-10
    assert np.abs(again).max() < 1e-10


def test_the_gradient_of_the_entry_state_is_that_of_central_differences():
    """Along random directions of log parameters; error of the differences about 1e-10 at a step of 1e-4."""
    keys = [n for n in CYCLE_PARAMETERS if prior()[0][n].sampled]
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5)))

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
def test_smoothing_a_bolus_keeps_its_area(half_life, scale, amount):
    edges = np.linspace(0, 60 * half_life, 61)
    kinetics = {"input_per_day": exposure.SMOOTHING, "half_life_days": half_life, "scale": scale}
    line = exposure.dose_lines(edges, np.zeros(1), np.full(1, amount), kinetics)
    np.testing.assert_allclose(line[:, 1] @ np.diff(edges), scale * amount * half_life / np.log(2), rtol=1e-9)


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
    drug = arrays.drugs["osteoclast_apoptosis"]
    assert list(arrays.drugs) == ["osteoclast_apoptosis"]
    np.testing.assert_allclose(drug.entry[0, 0], before.mean(), rtol=1e-8)
    after = depot(times, [4.0] * 13, exposure.SMOOTHING, 60.0, 0.6, grid.edges)
    found = np.asarray(drug.exposure[:, :, 0, 0])
    np.testing.assert_allclose(found[:, 0], after[:-1], rtol=3e-4)  # a slow decay is nearly its own line
    np.testing.assert_allclose(found[:, 2], after[1:], rtol=3e-4)
    assert (np.diff(found.ravel()) < 1e-4 * after[0]).all()


KINETICS = {
    "denosumab": (0.2567, 28.0), "zoledronic acid": (exposure.SMOOTHING, 60.0), "samarium-153": (exposure.SMOOTHING, 1.93)
}  # fmt: skip


@pytest.mark.parametrize("agent", KINETICS)
def test_lines_of_doses_keep_mean_and_first_moment_of_every_step(agent):
    """Doses before the first step, on a step's end, inside steps of either length; against fine numerical integrals."""
    grid, times = Grid(outputs=8, substeps=4, fine=2), np.array([-10.0, 0.0, 9.3, 28.0, 40.6])
    given, half_life = KINETICS[agent]
    kinetics = {"input_per_day": given, "half_life_days": half_life, "scale": 0.6}
    line = np.asarray(exposure.dose_lines(grid.edges, times, np.full(5, 4.0), kinetics))
    np.testing.assert_allclose(line[:, 1], 0.5 * (line[:, 0] + line[:, 2]), rtol=1e-12)
    x = (np.arange(20_000) + 0.5) / 20_000
    for (start, middle, end), a, h in zip(line, grid.edges, grid.steps, strict=False):
        exact = exposure.doses(a + h * x, times, np.full(5, 4.0), kinetics)
        np.testing.assert_allclose(middle, exact.mean(), rtol=1e-5)
        tilt = 6.0 * (exact * (x - 0.5)).mean()
        if abs(tilt) < middle:  # a line is never tilted below zero
            np.testing.assert_allclose(end - middle, tilt, rtol=1e-4, atol=1e-6 * middle)
        assert start >= -1e-12 and end >= -1e-12
    jax_line = exposure.dose_lines(grid.edges, jnp.asarray(times), jnp.full(5, 4.0), kinetics)
    np.testing.assert_allclose(jax_line, line, rtol=1e-9)  # differences of nearly equal exponentials


def test_projected_curves_keep_mean_and_first_moment_of_every_step():
    grid = Grid(outputs=4)
    curve = np.exp(-0.3 * grid.quadrature_days) * grid.quadrature_days
    line = grid.project(curve)
    np.testing.assert_allclose(line, grid.project(jnp.asarray(curve)), rtol=1e-12)
    for part, (start, mean, end) in zip(curve.reshape(4, -1), line, strict=True):
        x = (np.arange(len(part)) + 0.5) / len(part) - 0.5
        fitted = np.polyval(np.polyfit(x, part, 1), [-0.5, 0.0, 0.5])
        np.testing.assert_allclose([start, mean, end], np.maximum(fitted, 0.0), rtol=1e-10, atol=1e-12)
    peak = grid.project(np.exp(-20.0 * grid.quadrature_days))
    assert (peak >= 0).all() and peak[0, 2] == 0  # a line is never tilted below zero


def test_an_agent_without_windows_refuses_an_on_off_schedule():
    regimen = Regimen.parse("denosumab 120 mg q4w 14d/28d")
    with pytest.raises(RegimenError, match="on/period"):
        pack([Cell("breast", regimen)], CATALOGUE, Grid(outputs=2))


def test_actions_add_and_fractions_combine():
    """Ratios and rates add; fractions combine as 1 - prod(1 - u); a relative potency multiplies."""
    regimen = Regimen.parse("zoledronic acid + pamidronate + galunisertib + enzalutamide")
    arrays = pack([Cell("breast", regimen)], CATALOGUE, Grid(outputs=8))
    drugs = dict(arrays.drugs)
    once = drugs["tgfb_receptor_block"]  # galunisertib once more
    drugs["tgfb_receptor_block"] = type(once)(*(jnp.concatenate([x, x], axis=x.ndim - 2) for x in once))
    values = draw(0)
    coefficient = coefficients({n: values[n] for n in POTENCIES[1:]}, POTENCIES, drugs)
    u = jax.vmap(jax.vmap(lambda x: actions(x, coefficient)))({k: d.exposure for k, d in drugs.items()})
    curve = {name: drugs[name].exposure[:, :, :, 0] for name in drugs}
    pamidronate, zoledronic = (curve["osteoclast_apoptosis"][:, :, k] for k in (0, 1))
    depot_ = (zoledronic + values["pamidronate_relative"] * pamidronate) / values["zoledronic_acid_ed"]
    np.testing.assert_allclose(u["osteoclast_apoptosis"][..., 0], depot_, rtol=1e-12)
    block = 1 - (1 - values["alk5_block"] * curve["tgfb_receptor_block"][:, :, 0]) ** 2
    np.testing.assert_allclose(u["tgfb_receptor_block"][..., 0], block, rtol=1e-11, atol=1e-14)
    kill = values["androgen_pathway_kill"] * curve["tumour_kill"][:, :, 0]
    np.testing.assert_allclose(u["tumour_kill"][..., 0], kill, rtol=1e-12)
    given_ = {"osteoclast_apoptosis", "tgfb_receptor_block", "tumour_kill"}
    assert set(drugs) == given_ and all((u[n] == 0).all() for n in set(ACTIONS) - given_)


def test_radiotherapy_kills_by_the_linear_quadratic_law():
    """Log-kill of a course: -ln(1 - field (1 - exp(-n (alpha d + beta d^2)))), beta = alpha / 10 Gy; fractions matter."""
    cells = [
        Cell("prostate", Regimen.parse(f"radiotherapy {text}"))
        for text in ("8 Gy once", "3 Gy daily x10", "2 Gy daily x4")
    ]
    arrays = pack(cells, CATALOGUE, Grid(outputs=20))
    values = draw(3)
    drug = {"external_beam_kill": arrays.drugs["external_beam_kill"]}
    coefficient = coefficients({n: values[n] for n in POTENCIES[1:]}, POTENCIES, drug)["external_beam_kill"][0, :3]
    alpha, field_share = values["radiotherapy_alpha"], values["radiotherapy_field"]
    for found, (n, d) in zip(coefficient, ((1, 8), (10, 3), (4, 2)), strict=True):
        expected = -np.log(1 - field_share * (1 - np.exp(-n * (alpha * d + alpha / 10 * d**2))))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    area = 7.0 * drug["external_beam_kill"].exposure[:, 1, 0, :3].sum(axis=0)  # of the rate of cell death over 20 weeks
    np.testing.assert_allclose(area, 1.0, rtol=1e-3)
    with pytest.raises(RegimenError, match="how many fractions"):
        pack([Cell("prostate", Regimen.parse("radiotherapy 3 Gy daily"))], CATALOGUE, Grid(outputs=2))


CONCENTRATIONS = "time_days,concentration\n0,0\n1,20\n28,5\n56,0\n"


def own_concentrations(tmp_path, text=CONCENTRATIONS, after="zero"):
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    own = AGENT.replace("kind: doses, half_life_days: 3,", f"kind: table, file: mine.csv, after: {after},")
    (tmp_path / "agents.yaml").write_text(own, encoding="utf-8")
    return Catalogue.load(tmp_path)


@pytest.mark.parametrize(("after", "last"), [("zero", 0.0), ("hold", 5.0)])
def test_an_exposure_from_a_concentration_time_csv(tmp_path, after, last):
    text = CONCENTRATIONS if after == "zero" else CONCENTRATIONS.replace("56,0\n", "")
    catalogue = own_concentrations(tmp_path, text, after)
    (component,) = Regimen.parse("made up 2 mg daily from day 10", catalogue).components
    days = jnp.asarray([0.0, 9.9, 10.5, 11.0, 24.5, 100.0])
    found = component_exposure(component, catalogue.agents["made up"], days, 1000.0)
    np.testing.assert_allclose(found, 2.0 * np.array([0, 0, 10, 20, 12.5, last]), rtol=1e-12)  # twice the standard dose
    with pytest.raises(RegimenError, match="come from a table"):
        (cut,) = Regimen.parse("made up 1 mg daily x3", catalogue).components
        component_exposure(cut, catalogue.agents["made up"], days, 1000.0)


@pytest.mark.parametrize(
    ("text", "row", "word"),
    [
        ("day,concentration\n0,1\n1,2\n", 1, "name them time_days and concentration"),
        ("time_days,concentration\n0,1\n0,2\n", 3, "do not ascend"),
        ("time_days,concentration\n0,1\n1,lots\n", 3, "'lots' is not a number"),
        ("time_days,concentration\n0,1\n1,-2\n", 3, "at least 0"),
        ("time_days,concentration\n0,1\n1\n", 3, "1 cells instead of 2"),
        ("time_days,concentration\n0,1\n", None, "fewer than two lines"),
    ],
)
def test_a_wrong_concentration_table_is_refused_with_its_line(tmp_path, text, row, word):
    with pytest.raises(PriorError) as caught:
        own_concentrations(tmp_path, text)
    assert any(p.file == "mine.csv" and p.row == row and word in str(p) for p in caught.value.problems)


def test_a_missing_concentration_table_is_refused(tmp_path):
    own_concentrations(tmp_path)
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(PriorError, match="no such file"):
        Catalogue.load(tmp_path)


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
        ("half_life_days: 3, ", "", "lack half_life_days"),
        ("kind: doses, half_life_days: 3", "kind: table, after: zero", "lack file"),
        ("form: ratio", "form: linear_quadratic", "lacks its field or its fractions"),
        (
            "[{flux: osteoclast_apoptosis, form: ratio, potency: made_up_ed}]\n    kinetics: {kind: doses, half_life_days: 3, source: expert}",
            "[]",
            "say why it has no mechanism",
        ),
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
LADDER = (0.0, 0.5, 1.0, 2.0)
"""Doses relative to the standard."""
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
        curves = {n: np.asarray(x) for n, x in path._asdict().items() if n not in ("reference", "status", "failed")}
        return {cell: {n: x[:, i] for n, x in curves.items()} for cell, i in INDEX.items()}

    return cells


@functools.cache
def cut_at_entry():
    """24-month burden of an untreated lesion when some parameters change at entry and the entry state is kept.

    Net growth at entry is a parameter of its own, so changing an arrow everywhere would only move its share of it.
    """
    columns = WITHOUT_MODULES

    @jit
    def start(p):
        state, reference = entry_state(p, no_drugs(1), columns)
        return jnp.concatenate([x.ravel() for x in state]), reference, state

    @jit
    def slope(x, p, reference):
        none = {n: jnp.zeros(0) for n in ("G_without", "A")} | {n: jnp.zeros((2, 0)) for n in "EXVFM"}
        d = field(State(*x[:, None], **none), no_drugs(1), p, reference, columns)
        return jnp.concatenate([part.ravel() for part in d])

    def burden(p, **changes):
        x, reference, _ = start(p)
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
    assert 0.08 < share["denosumab"] < 0.25
    assert 0.30 < share["zoledronic acid"] < 0.45


def test_prostate_is_osteoblastic_with_resorption_raised(solved):
    cells = solved(median())
    assert cells["prostate"]["mineral"][MONTH_24] > 1 > cells["placebo"]["mineral"][MONTH_24]
    assert (cells["prostate"]["flux"] > 1.2).all() and (cells["prostate"]["osteoblasts"] > 1).all()


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


# ---- every agent


@pytest.fixture(scope="module")
def ladders():
    """``ladders(values) -> (solved, at)``: every agent at :data:`LADDER` in prostate cancer (all arrows are there), 26 weeks.

    ``at[agent]`` are the indices of its cells; the comparators come first.
    """
    grid, bases = Grid(output_days=7.0, outputs=26, substeps=2), (Regimen(), Regimen.parse("denosumab"))
    cells, at = [Cell("prostate", base) for base in bases], {}
    for agent in sorted(CATALOGUE.agents):
        at[agent] = range(len(cells), len(cells) + len(LADDER))
        standard = CATALOGUE.agents[agent].standard_dose
        cells += [Cell("prostate", dose(agent, share * standard)) for share in LADDER]
    at["zero beside denosumab"] = range(len(cells), len(cells) + len(at))
    cells += [
        Cell(
            "prostate",
            Regimen(tuple(sorted([*bases[1].components, *dose(agent, 0.0).components], key=lambda c: c.agent))),
        )
        for agent in sorted(CATALOGUE.agents)
    ]
    arrays = pack(cells, CATALOGUE, grid)
    run = jit(lambda values, arrays: solve.states(values, POTENCIES, arrays, grid))
    return lambda values: (run(values, arrays), arrays, at)


@pytest.mark.parametrize("seed", range(3))
def test_a_zero_dose_of_any_agent_is_exactly_the_comparator(ladders, seed):
    """To the last bit: alone, and added to denosumab (modules that it switches on then do nothing)."""
    solved_, arrays, at = ladders(draw(seed))
    column, path = np.asarray(arrays.column), solved_.path
    for name in ("P", "B", "C", "Z", "G", "Q", "log_N", "y"):
        x = np.asarray(getattr(path, name))[:, column]
        for agent in CATALOGUE.agents:
            np.testing.assert_array_equal(x[:, at[agent][0]], x[:, 0], err_msg=f"{agent}: {name}")
            acts = (x[:, at[agent][2]] != x[:, 0]).any()
            assert name != "log_N" or acts or agent == "DKK1 antibody", agent  # no DKK1 in prostate cancer
        for i in at["zero beside denosumab"]:
            np.testing.assert_array_equal(x[:, i], x[:, 1], err_msg=name)


def target(name, y, N, n, p, u):
    """Flux that an action is meant to lower, at the state that its course has led to."""
    log_R = log_positive(fluxes.pthrp(N, y["G"], p, u))
    opg = fluxes.opg_binding(y["B"], log_R, p)
    flux = fluxes.resorption(y["C"], y["Z"])
    Lf = fluxes.free_rankl(y["P"], log_R, opg, n, p, u)
    response = fluxes.osteoclast_tgfb_response(power(log_positive(y["G"]), p["tgfb_slope"]), p)
    rest = jnp.zeros_like(N)
    return {
        "rankl_neutralisation": lambda: Lf,
        "osteoclast_apoptosis": lambda: flux,
        "osteoclast_formation_block": lambda: fluxes.osteoclast_formation(
            Lf, y["Q"], fluxes.rankl_bound_by_drug(opg, u), response, n, p, u
        ),
        "pthrp_neutralisation": lambda: jnp.exp(log_R),
        "osteoblastic_drive_block": lambda: fluxes.osteoblast_recruitment(flux, y["G"], N, p, u),
        "dkk1_block": lambda: -fluxes.osteoblast_formation(1.0 + rest, 1.0, n, p, u),
        "il6_block": lambda: 1.0 + p["rankl_independent_tumour"] * n * (1.0 - u["il6_block"]),
        "vegf_block": lambda: fluxes.vessel_growth(N, rest, p, u),
        "fgf_block": lambda: y["F"] * (1.0 - u["fgf_block"]),
        "myeloid_repolarisation": lambda: n * (1.0 - u["myeloid_repolarisation"]),
        "ctla4_block": lambda: -y["E"],
        **{
            f"{c}_block": lambda: y["X"] * (1.0 - fluxes.functional_effectors(1.0, 1.0, p, u))
            for c in ("pd1", "tim3", "lag3")
        },
        **{a: lambda: fluxes.tgfb_signal(flux, N, p, u) for a in MODULES["plasticity"]},
    }.get(name, lambda: N)()


HARMS = ("rankl_induction", "osteoblast_suppression")
"""Actions that inhibit nothing."""
RISES = {("lenvatinib", "fgf_block"): "VEGF blockade by the same agent makes hypoxia, which drives FGF: compensation"}
"""Agents and actions that may raise their target flux at some parameters, and the biology."""
DAY_91 = 13


@pytest.mark.parametrize("seed", range(20))
def test_more_of_an_inhibitor_never_raises_its_target_flux(ladders, seed):
    """Along the trajectory, at day 91, over doses 0, 1/2, 1 and 2 of every agent and each of its actions."""
    values = draw(seed)
    solved_, arrays, at = ladders(values)
    some = arrays.module.shape[1]
    columns = np.asarray(arrays.column)
    u = actions({k: d.exposure[2 * DAY_91, 0] for k, d in arrays.drugs.items()}, solved_.coefficient)
    now = {n: getattr(solved_.path, n)[DAY_91] for n in State._fields}
    for agent, cells in at.items():
        for action in CATALOGUE.agents[agent].actions if agent in CATALOGUE.agents else ():
            if action.flux in HARMS:
                continue
            column = columns[list(cells)]
            pick = lambda x: x[..., column] if jnp.ndim(x) else x  # noqa: E731
            p, drugs = {k: pick(v) for k, v in solved_.p.items()}, {k: pick(v) for k, v in u.items()}
            y = {n: pick(x) for n, x in now.items() if n in ("P", "B", "C", "Z", "G", "Q", "log_N")}
            if (column < some).all():
                y |= {n: pick(now[n][0]) for n in "EXVFM"}
            N = jnp.exp(y["log_N"])
            n = fluxes.half_saturation(N, p["tumour_half_burden"])
            found = np.broadcast_to(target(action.flux, y, N, n, p, drugs), column.shape)
            rise = np.diff(found) / np.abs(found[:-1]).clip(1e-12)
            assert (rise <= 1e-9).all() or (agent, action.flux) in RISES, (agent, action.flux, found)


@pytest.fixture(scope="module")
def module_gradients():
    """Derivatives of every curve's sum by each module parameter, one cell an agent: ``by[agent][parameter]``."""
    grid = Grid(outputs=8)
    agents = [*sorted(CATALOGUE.agents), "pembrolizumab + radium-223"]
    arrays = pack([Cell("breast", Regimen.parse(a)) for a in agents], CATALOGUE, grid)
    columns = arrays._replace(cancer=jnp.arange(len(agents), dtype=jnp.int32))  # every cell has its own copy
    values = median()
    own = {n: jnp.broadcast_to(values[n][0] if jnp.ndim(values[n]) else values[n], (len(agents),)) for n in NAMES}
    moved = [n for group in MODULE_PARAMETERS.values() for n in group]

    def total(z):
        v = {n: own[n] for n in CYCLE_PARAMETERS} | {n: values[n] for n in POTENCIES[1:]} | z
        path = solve.trajectories(v, POTENCIES, columns, grid)
        curves = (x for n, x in path._asdict().items() if n not in ("status", "failed", "reference"))
        return sum((x * jnp.cos(jnp.arange(x.shape[0]))[:, None]).sum() for x in curves)

    slope = jit(jax.grad(total))({n: own[n] for n in moved})
    return {a: {n: float(slope[n][i]) for n in moved} for i, a in enumerate(agents)}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_acts_only_with_its_agents(module_gradients, module):
    """Without an agent of a module, derivatives by its parameters are exactly zero; with one, some are not."""
    for agent, by in module_gradients.items():
        mine = {n: by[n] for n in MODULE_PARAMETERS[module]}
        if any(module in CATALOGUE.agents[a].modules for a in Regimen.parse(agent).agents):
            assert any(mine.values()), agent
        else:
            assert not any(mine.values()), (agent, mine)
    for parameter in MODULE_PARAMETERS[module]:
        everywhere = {a for a, by in module_gradients.items() if by[parameter]}
        assert everywhere, parameter


def test_the_sampled_parameters_of_modules_are_all_named():
    module = {n for group in MODULE_PARAMETERS.values() for n in group}
    files = {"immune.yaml", "vascular.yaml", "plasticity.yaml"}
    priors = PriorSet.load()
    in_files = {
        p["name"] for f in files for p in yaml.safe_load((priors.folder / f).read_text(encoding="utf-8"))["parameters"]
    }
    assert module == {n for n in in_files if priors[n].sampled and n in NAMES}


def test_skeletal_actions_are_those_that_bone_without_tumour_feels():
    """Each action alone, at a strong value, on a healthy skeleton: it moves a bone state or it does not."""
    p = {k: v[1] if jnp.ndim(v) else v for k, v in median().items()}
    columns = WITHOUT_MODULES._replace(lesion=jnp.zeros(1))
    state, reference = entry_state(p, no_drugs(1), columns)
    for action, strong in STRONG.items():
        d = field(state, no_drugs(1) | {action: jnp.full(1, strong)}, p, reference, columns)
        moves = max(float(np.abs(getattr(d, n)).max()) for n in ("P", "B", "C", "Z", "G", "Q")) > 1e-9
        assert moves == (action in SKELETAL), action


# ---- rebound, bone loss, lesion types, the full model


def skeleton(texts, outputs=156, **changes):
    grid = Grid(output_days=7.0, outputs=outputs, substeps=4, fine=2)
    arrays = pack([Cell("breast", Regimen.parse(t)) for t in texts], CATALOGUE, grid)
    run = jit(lambda v, a: solve.trajectories(v, POTENCIES, a, grid))
    path = run(median() | {k: jnp.asarray(np.asarray(float(v))) for k, v in changes.items()}, arrays)
    return np.asarray(path.skeleton_flux), np.asarray(path.skeleton_mineral), np.asarray(path.osteoblasts)


def test_resorption_rebounds_after_denosumab_and_returns():
    """60 mg every 26 weeks, four times: suppressed as by 120 mg every four weeks, then a peak 40 to 60 % above baseline.

    The peak comes six to twelve months after the last dose (see the prior of `reserve_gain`). A bisphosphonate at the stop
    blunts the rebound, zoledronic acid itself has none, and without the reserve it is small.
    """
    after = "denosumab 120 mg q4w x13 + zoledronic acid 4 mg q4w x6 from day 364"
    texts = ["denosumab 60 mg q26w x4", "denosumab 120 mg q4w x13", after, "zoledronic acid 4 mg q4w x13", "denosumab"]
    flux, mineral, _ = skeleton(texts, outputs=208)
    np.testing.assert_allclose(flux[4, 0], flux[4, 4], rtol=0.1)
    assert flux[26, 0] < 0.8  # still suppressed when the next dose is due
    assert 1.4 < flux[:, 0].max() < 1.6 and 26 < flux[:, 0].argmax() - 78 < 52 and flux[-1, 0] < 1.1
    assert flux[:, 1].max() > 1.4 and flux[:, 2].max() < 0.9 * flux[:, 1].max()
    assert flux[:, 3].max() < 1.12
    assert flux[:, 4].max() <= 1 + 1e-9 and mineral[156, 4] > 1.03  # no escape while it is given
    none, _, _ = skeleton(texts, outputs=208, reserve_gain=1e-9)
    assert none[:, 0].max() < 1.16
    np.testing.assert_allclose(none[13, 4], flux[13, 4], rtol=0.02)  # the reserve does not weaken the drug


def test_hormones_and_steroids_take_bone_from_the_skeleton():
    flux, mineral, _ = skeleton(
        ["androgen deprivation", "exemestane", "prednisone", "androgen deprivation + denosumab"]
    )
    assert (flux[13, :3] > 1.02).all() and (mineral[52, :3] < 0.99).all() and (mineral[52, :3] > 0.85).all()
    assert flux[13, 3] < 0.5 and mineral[52, 3] > 1


def test_radiation_of_normal_bone_lowers_its_formation():
    grid = Grid(outputs=26)
    cells = [Cell("prostate", Regimen.parse(t)) for t in ("placebo", "radium-223", "strontium-89", "radiotherapy")]
    path = jit(lambda v, a: solve.trajectories(v, POTENCIES, a, grid))(median(), pack(cells, CATALOGUE, grid))
    formation = np.asarray(path.skeleton_osteoblasts)
    assert (
        np.allclose(formation[:, 0], 1, rtol=1e-12)
        and (formation[4:20, 1] < 0.95).all()
        and formation[:, 2].min() < 0.98
    )
    assert 0.97 < formation[:, 3].min() < 1  # a beam reaches little of the skeleton


@pytest.mark.parametrize("seed", range(5))
def test_lesion_types_follow_from_parameters(solved, seed):
    """Prostate: blastic with raised resorption. Without the osteoblastic drive it would be lytic like breast."""
    cells = solved(draw(seed))
    lytic, blastic = cells["placebo"], cells["prostate"]
    assert blastic["mineral"][MONTH_24] > 1 > lytic["mineral"][MONTH_24]
    assert blastic["osteoblasts"][MONTH_24] > 1.2 and blastic["flux"][MONTH_24] > 1.0
    plain = {k: v.at[1].set(v[0]) if k in ("osteoblastic_drive", "dkk1_suppression", "entry_mineral") else v
             for k, v in draw(seed).items()}  # fmt: skip
    assert solved(plain)["prostate"]["mineral"][MONTH_24] < 1


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
    for drug in arrays.drugs.values():
        for name, x in drug._asdict().items():
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


def test_an_agent_without_a_mechanism_is_read_but_not_solved(tmp_path):
    head, _ = AGENT.split("    actions:")
    (tmp_path / "agents.yaml").write_text(
        head + "    actions: []\n    note: nobody knows how it acts\n", encoding="utf-8"
    )
    catalogue = Catalogue.load(tmp_path)
    regimen = Regimen.parse("made up", catalogue)
    assert catalogue.without_mechanism(regimen.agents) == ["made up"]
    with pytest.raises(RegimenError, match="no mechanism of made up yet"):
        component_exposure(regimen.components[0], catalogue.agents["made up"], jnp.asarray([1.0]), 100.0)
    assert not CATALOGUE.without_mechanism(CATALOGUE.agents)  # every shipped agent has one
