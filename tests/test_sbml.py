"""SBML export: libSBML finds it consistent, and libRoadRunner's course of it is our own field's.

Agreement found (libRoadRunner 2.11.0, CVODE at 1e-11, against dopri8 at 1e-11 with the exact exposures; largest difference over
36 months relative to the largest value of each state): 2e-9 or less in every regimen below. The default solver, which reads
exposures as one line a step, is within 0.2 % of it. COPASI 4.48 reads the files too and agrees to 8 digits at the end (not tested
here).
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes.cli import app, guarded
from osteobayes.cycle import CYCLE_PARAMETERS, DEFAULT_GRID, Cell, Regimen, pack, parameter_names, shipped_catalogue
from osteobayes.cycle import sbml as export
from osteobayes.cycle.cells import (
    actions,
    coefficients,
    columns_of,
    component_exposure,
    dose_times,
    effective_dose,
    given_components,
)
from osteobayes.cycle.dynamics import State, field
from osteobayes.cycle.entry import entry_state
from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS
from osteobayes.cycle.sbml import sbml
from osteobayes.cycle.therapy import Catalogue
from osteobayes.errors import OsteobayesError, RegimenError
from osteobayes.precision import jit
from osteobayes.priors import PriorSet
from osteobayes.schema import CANCERS
from osteobayes.solve import integrate, trajectories

libsbml = pytest.importorskip("libsbml")
roadrunner = pytest.importorskip("roadrunner")

CATALOGUE = shipped_catalogue()
POTENCIES = parameter_names(CATALOGUE)
NAMES = (*CYCLE_PARAMETERS, *POTENCIES[1:])
HORIZON = float(DEFAULT_GRID.days[-1]) + 1.0

CELLS = {
    "placebo": Cell("breast", Regimen.parse("placebo")),
    "RANKL antibody": Cell("breast", Regimen.parse("denosumab")),
    "bisphosphonate": Cell("breast", Regimen.parse("zoledronic acid")),
    "alpha emitter": Cell("prostate", Regimen.parse("radium-223")),
    "windows": Cell("breast", Regimen.parse("galunisertib 150 mg bid 14d/28d")),
    "modules": Cell("lung", Regimen.parse("fresolimumab + pembrolizumab")),
    "radiotherapy": Cell("breast", Regimen.parse("radiotherapy 3 Gy daily x10")),
    "vascular": Cell("prostate", Regimen.parse("cabozantinib")),
    "chemotherapy": Cell("prostate", Regimen.parse("docetaxel")),
    "tablets, after loading": Cell("breast", Regimen.parse("clodronate + no backbone"), "bisphosphonate_12_months"),
    "two phases": Cell("lung", Regimen.parse("denosumab 120 mg q4w x6 + denosumab 120 mg q12w from day 168")),
}
FULL = {"placebo": CELLS["placebo"], "modules": CELLS["modules"]}
"""Cells that are solved with every module."""


@pytest.fixture(scope="module")
def priors():
    return PriorSet.load()


@pytest.fixture(scope="module")
def values(priors):
    """Parameters at the centre of the priors."""
    chosen, coords = priors.only(NAMES), {"cancer": CANCERS}
    hyper = chosen.hyper(coords)
    found = chosen.values(chosen.centre(coords, hyper), hyper)
    return {n: found[n] for n in NAMES}


def acting(cell, values, t):
    """Drug actions at one time, from the exact exposures and the definitions of the forms (`therapy.Action`)."""
    terms = {}
    for component, _ in given_components(cell, CATALOGUE):
        agent = CATALOGUE.agents[component.agent]
        exposure = component_exposure(component, agent, jnp.reshape(t, (1,)), HORIZON)[0]
        for action in agent.actions:
            potency = values[action.potency]
            relative = values[action.relative] if action.relative else 1.0
            factor = {"ratio": relative / potency, "linear_quadratic": 0.0}.get(action.form, relative * potency)
            if action.form == "linear_quadratic":
                killed = relative * (1.0 - jnp.exp(-potency * effective_dose(component, agent, HORIZON)))
                factor = -jnp.log(1.0 - killed)
            terms.setdefault(action.flux, []).append(factor * exposure)
    return {n: 1.0 - math.prod(1.0 - x for x in found) if n in FRACTIONS else sum(found) for n, found in terms.items()}


def edges(cells):
    """Times at which some exposure has a kink, and the output times: a step ends there."""
    found = set(DEFAULT_GRID.days.tolist())
    for component in (component for cell in cells for component in cell.regimen.components):
        stop = min(component.end_day, HORIZON)
        found |= {component.start_day, stop}
        if component.on_days is not None:
            begins = np.arange(component.start_day, stop, component.period_days)
            found |= {*begins.tolist(), *(begins + component.on_days).tolist()}
        elif CATALOGUE.agents[component.agent].kinetics.kind in ("doses", "pulse"):
            found |= set(dose_times(component, stop).tolist())
    return sorted(t for t in found if 0.0 < t < DEFAULT_GRID.days[-1])


def by_hand(cells, values, arrays, full=False):
    """States of every cell over time by their SBML names: our field with the exact exposures, tight."""
    columns, cancer = columns_of(arrays)
    which = np.concatenate([arrays.lesion, arrays.skeleton])
    p = {n: jnp.broadcast_to(values[n][cancer] if jnp.ndim(values[n]) else values[n], cancer.shape) for n in NAMES}
    before = actions({k: d.entry for k, d in arrays.drugs.items()}, coefficients(values, POTENCIES, arrays.drugs))
    start, reference = jit(lambda p, u: entry_state(p, u, columns, full))(p, before)

    def slope(t, y):
        each = [acting(cell, values, t) for cell in cells]
        given = {
            n: jnp.stack([u.get(n, jnp.zeros(())) for u in each])[which] for n in ACTIONS if any(n in u for u in each)
        }
        return field(y, dict.fromkeys(ACTIONS, jnp.zeros(())) | given, p, reference, columns)

    @jit
    def solve(start):
        return integrate(slope, start, DEFAULT_GRID.days, rtol=1e-11, atol=1e-13, jumps=edges(cells), adjoint="forward")

    found = solve(start)
    assert found.solved
    path = jax.tree.map(np.asarray, found.path)

    def named(i):
        out = {}
        for name, x in path._asdict().items():
            lesion, skeleton = int(arrays.column[i]), len(cells) + int(arrays.skeleton_of[i])
            if x.ndim == 2:
                out[f"{name}_skeleton"] = x[:, skeleton] if skeleton < x.shape[1] else None
                out[name] = x[:, lesion] if lesion < x.shape[1] else None
            elif lesion < x.shape[2]:
                out[name], out[f"{name}_without"] = x[:, 0, lesion], x[:, 1, lesion]
        return out

    return [named(i) for i in range(len(cells))]


@pytest.fixture(scope="module")
def arrays():
    return pack(list(CELLS.values()), CATALOGUE, DEFAULT_GRID)


@pytest.fixture(scope="module")
def own(values, arrays):
    return dict(zip(CELLS, by_hand(list(CELLS.values()), values, arrays), strict=True))


@pytest.fixture(scope="module")
def default(values, arrays):
    """The default solver on all cells."""
    return jit(lambda values: trajectories(values, POTENCIES, arrays, DEFAULT_GRID))(values)


@pytest.fixture(scope="module")
def documents(values, priors):
    """SBML of every cell, written on first use."""
    found = {}

    def of(name):
        if name not in found:
            found[name] = sbml(CELLS[name], values, CATALOGUE, priors=priors)
        return found[name]

    return of


def states(text):
    return re.findall(r'<rateRule variable="(\w+)"', text)


def rules(text):
    return re.findall(r'<assignmentRule variable="(\w+)"', text)


def load(text):
    """libRoadRunner with CVODE at tight tolerances and steps that no dose fits between."""
    options = roadrunner.LoadSBMLOptions()
    options.setLLVMBackend(options.LLJIT)
    options.setLLJitOptimizationLevel(options.NONE)  # half the time to compile a model
    runner = roadrunner.RoadRunner(text, options)
    cvode = runner.getIntegrator()
    cvode.relative_tolerance, cvode.absolute_tolerance = 1e-11, 1e-13
    cvode.maximum_time_step, cvode.maximum_num_steps = 1.0, 1_000_000
    return runner


def simulate(runner, names):
    runner.timeCourseSelections = list(names)
    return dict(zip(names, np.asarray(runner.simulate(times=DEFAULT_GRID.days.tolist())).T, strict=True))


@pytest.fixture(scope="module")
def theirs(documents):
    """libRoadRunner's course of every cell."""
    found = {}

    def of(name):
        if name not in found:
            text = documents(name)
            found[name] = simulate(load(text), states(text))
        return found[name]

    return of


def apart(found, expected):
    """Largest difference relative to the largest value."""
    difference, size = np.max(np.abs(found - expected)), np.max(np.abs(expected))
    return float(difference / size) if size else float(difference)


# ---- the courses


@pytest.mark.parametrize("name", CELLS)
def test_roadrunner_has_the_course_of_our_own_field(name, theirs, own):
    course = theirs(name)
    assert {"P", "B", "C", "Z", "G", "Q", "log_N", "y", "P_skeleton", "Z_skeleton"} <= set(course)
    off = {state: apart(x, own[name][state]) for state, x in course.items()}
    assert max(off.values()) < 1e-8, off


@pytest.mark.parametrize("name", CELLS)
def test_the_default_solver_is_near_it(name, theirs, default):
    course, i = theirs(name), list(CELLS).index(name)
    expected = {
        "burden": np.exp(course["log_N"]),
        "growth": course["y"],
        "osteoblasts": course["B"],
        "osteoclasts": course["C"],
        "mineral": course["Z"],
        "tgfb": course["G"],
        "flux": course["C"] * course["Z"],
        "skeleton_flux": course["C_skeleton"] * course["Z_skeleton"],
        "skeleton_osteoblasts": course["B_skeleton"],
        "skeleton_mineral": course["Z_skeleton"],
    }
    off = {curve: apart(np.asarray(getattr(default, curve))[:, i], x) for curve, x in expected.items()}
    assert max(off.values()) < 5e-3, off


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_full_model(name, values, priors):
    text = sbml(FULL[name], values, CATALOGUE, full=True, priors=priors)
    assert {"E", "X", "A", "V", "F", "M", "reference_functional"} <= {*states(text), *re.findall(r'id="(\w+)"', text)}
    course, expected = (
        simulate(load(text), states(text)),
        by_hand([FULL[name]], values, pack([FULL[name]], CATALOGUE, DEFAULT_GRID, full=True), full=True)[0],
    )
    off = {state: apart(x, expected[state]) for state, x in course.items()}
    assert max(off.values()) < 1e-8, off


def test_regimens_differ_and_bone_is_not_at_rest(theirs):
    """So that agreement is not that of courses in which nothing happens."""
    burden = {name: np.exp(theirs(name)["log_N"][-1]) for name in CELLS}
    assert len({round(x, 6) for x in burden.values()}) == len(CELLS)
    moved = {name: np.ptp(theirs(name)["C"]) for name in CELLS}
    assert min(moved.values()) > 1e-2
    assert np.ptp(theirs("RANKL antibody")["C_skeleton"]) > 0.5 > 1e-12 > np.ptp(theirs("placebo")["C_skeleton"])


def test_a_changed_parameter_changes_the_course(documents, theirs):
    runner = load(documents("placebo"))
    runner["net_growth"] = 1.5 * runner["net_growth"]
    changed = simulate(runner, ["log_N", "y"])
    assert changed["log_N"][-1] > theirs("placebo")["log_N"][-1] + 0.05
    assert changed["y"][-1] > theirs("placebo")["y"][-1] + 0.5


# ---- the document


@pytest.mark.parametrize("name", CELLS)
def test_libsbml_finds_nothing_wrong(name, documents):
    document = libsbml.readSBMLFromString(documents(name))
    document.checkConsistency()
    serious = [document.getError(i) for i in range(document.getNumErrors())]
    serious = [e.getMessage() for e in serious if e.getSeverity() >= libsbml.LIBSBML_SEV_ERROR]
    assert serious == []
    assert (document.getLevel(), document.getVersion()) == (3, 2)
    model = document.getModel()
    assert model.getName() == str(CELLS[name]) and model.getTimeUnits() == "day"


def test_names(documents):
    text = documents("modules")
    ids = re.findall(r'<parameter id="([^"]*)"', text)
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z_]\w*", x, re.ASCII) for x in ids)
    arrows = {
        "resorption", "tgfb_signal", "tgfb_signal_without", "pthrp", "free_rankl", "free_rankl_skeleton", "opg_binding",
        "osteoclast_formation", "osteoclast_formation_skeleton", "osteoclast_apoptosis", "osteoblast_recruitment", "feeding",
        "effector_drive", "effector_drive_without", "functional_effectors", "mesenchymal_transition", "immune_engagement",
        "exhaustion_drive_flux", "burden",
    }  # fmt: skip
    assert arrows <= set(rules(text))
    assert {"exposure_fresolimumab", "exposure_pembrolizumab", "drug_pd1_block"} <= set(rules(text))
    assert {"E", "E_without", "X", "M", "G_without"} <= set(states(text)) and "V" not in states(text)
    assert {"V", "F"} <= set(states(documents("vascular")))
    assert set(states(documents("placebo"))) & set(State._fields) == {"P", "B", "C", "Z", "G", "Q", "log_N", "y"}
    assert {"tgfb_matrix_share", "immune_kill", "pd1_kd", "exhaustion_drive", "reference_feeding"} <= set(ids)


def test_parameters_have_their_values_and_meanings(documents, values, priors):
    model = libsbml.readSBMLFromString(documents("alpha emitter")).getModel()
    for name in ("net_growth", "osteoclast_turnover", "radium_kill"):
        expected = values[name][CANCERS.index("prostate")] if jnp.ndim(values[name]) else values[name]
        assert model.getParameter(name).getValue() == float(expected)
        assert priors[name].meaning.split("<")[0][:30] in model.getParameter(name).getNotesString()
    assert "Osteoblast precursors" in model.getParameter("P_skeleton").getNotesString()
    notes = model.getNotesString()
    assert all(x in notes for x in ("prostate", str(CELLS["alpha emitter"].regimen), "in days", "1120"))


def test_a_changed_equation_is_written(documents, values, priors, monkeypatch):
    monkeypatch.setattr(export.fluxes, "precursor_reserve", lambda bound, p: 3.5 - p["reserve_gain"] * bound)
    text = sbml(CELLS["placebo"], values, CATALOGUE, priors=priors)
    changed = {a for a, b in zip(text.splitlines(), documents("placebo").splitlines(), strict=True) if a != b}
    assert len(changed) == 2 and all('<rateRule variable="Q' in x and "<cn>3.5</cn>" in x for x in changed)


def test_the_modules_of_the_package_stay_as_they_are(documents):
    before = {m: dict(vars(m)) for m in (export.fluxes, export.dynamics)}
    documents("placebo")
    assert all(vars(m) == names for m, names in before.items())


# ---- what cannot be written


def test_an_unknown_agent_is_refused():
    with pytest.raises(RegimenError, match="no agent of that name"):
        Regimen.parse("denosumabb 120 mg q4w")


def test_an_agent_without_a_mechanism_is_refused(values):
    idle = next(iter(CATALOGUE.without_mechanism(CATALOGUE.agents)), None)
    agents = dict(CATALOGUE.agents)
    if idle is None:
        idle = "denosumab"
        agents[idle] = agents[idle].model_copy(update={"actions": (), "kinetics": None})
    catalogue = Catalogue(agents)
    with pytest.raises(RegimenError, match=f"no mechanism of {idle}"):
        sbml(Cell("breast", Regimen.parse(idle, catalogue)), values, catalogue)


def test_concentrations_of_a_table_are_refused(values):
    agent = CATALOGUE.agents["denosumab"]
    table = ((0.0, 10.0, 100.0), (0.0, 5.0, 0.0))
    kinetics = agent.kinetics.model_copy(update={"kind": "table", "table": table, "after": "zero"})
    catalogue = Catalogue(CATALOGUE.agents | {"denosumab": agent.model_copy(update={"kinetics": kinetics})})
    with pytest.raises(RegimenError, match="come from a table"):
        sbml(Cell("breast", Regimen.parse("denosumab", catalogue)), values, catalogue)


def test_an_unknown_cancer_and_missing_parameters_are_refused(values):
    with pytest.raises(OsteobayesError, match="no cancer is called 'brest'"):
        sbml(Cell("brest", Regimen()), values)
    with pytest.raises(OsteobayesError, match="without a value: net_growth"):
        sbml(CELLS["placebo"], {n: x for n, x in values.items() if n != "net_growth"})


# ---- the command


def test_the_command_writes_the_same_document(documents, tmp_path, capfd):
    out = tmp_path / "model.xml"
    asked = ["export-sbml", "--cancer", "breast", "--regimen", "denosumab"]
    assert guarded(lambda: app([*asked, "--out", str(out)])) == 0
    assert "written: " in capfd.readouterr().out
    assert out.read_text(encoding="utf-8") == documents("RANKL antibody")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("parameters:\n  - {name: denosumab_ec50, median: 7.25}\n")
    assert guarded(lambda: app([*asked, "--overlay", str(overlay)])) == 0
    printed = libsbml.readSBMLFromString(capfd.readouterr().out).getModel()
    assert printed.getParameter("denosumab_ec50").getValue() == pytest.approx(7.25, rel=1e-12)


@pytest.mark.parametrize(
    ("cancer", "regimen", "code", "word"),
    [("breast", "denosumabb", 2, "no agent of that name"), ("brest", "denosumab", 1, "no cancer is called 'brest'")],
)
def test_the_command_refuses_in_a_sentence(cancer, regimen, code, word, tmp_path, capfd):
    out = tmp_path / "model.xml"
    asked = ["export-sbml", "--cancer", cancer, "--regimen", regimen, "--out", str(out)]
    assert guarded(lambda: app(asked)) == code
    err = capfd.readouterr().err
    assert word in " ".join(err.split()) and "Traceback" not in err and not out.exists()


# ---- reading a trace


def number(node, values):
    """The value of an expression."""
    if node.op == "number":
        return node.value
    if node.op == "symbol":
        return values[node.value]
    args = [number(a, values) for a in node.args]
    return (args[1] if args[0] else args[2]) if node.op == "choose" else export._FOLD[node.op](*args)


TRACES = {
    "signs": lambda x, y: (-x) * (-x) - (-y) * x + (0.0 - x) / (-y) - (x - (-y)) + (-(x - y)),
    "neutral": lambda x, y: 1.0 * x + 0.0 * y + (x + 0.0) / 1.0 - (y - 0.0) ** 1 + (x - x) + y / y - 1.0 * -1.0,
    "powers": lambda x, y: jnp.exp(y * jnp.log(x)) + jnp.exp(-jnp.log(x)) + jnp.exp(jnp.log(x) - y) + x**3 + x**y,
    "logarithms": lambda x, y: jnp.log1p(x) + jnp.expm1(y) + jnp.log(jnp.exp(x)) + jnp.sqrt(x) + jnp.square(y),
    "bounds": lambda x, y: (
        jnp.clip(x, 0.5, 1.5) + jnp.maximum(0.3, jnp.maximum(x, 0.7)) + jnp.minimum(x, y) + abs(x - y)
    ),
    "conditions": lambda x, y: jnp.where((x > y) | ~(x <= 1.0) & (y != x), x, 2.0 * y) + (x >= y) * 1.0,
    "smooth": lambda x, y: jax.nn.sigmoid(x / 0.1) * jax.nn.sigmoid(-y) + jnp.tanh(y),
    "places": lambda x, y: jnp.stack([x, y])[:, ::-1].T.reshape(-1)[jnp.array([0, 3, 2])] + jnp.pad(x, (0, 1))[-1],
    "products": lambda x, y: jnp.outer(x, y) @ jnp.array([[1.0, 2.0], [0.0, -1.0]]) @ x + jnp.concatenate([x, y]).sum(),
    "reductions": lambda x, y: jnp.prod(1.0 - jnp.stack([x, y]), axis=0) + jnp.stack([x, y]).sum(axis=0),
    "nested": lambda x, y: jax.jit(lambda z: jax.checkpoint(jnp.exp)(z) * y)(x),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("at", [(0.4, 1.7, 0.9, 2.2), (1.3, 0.6, 1.3, 0.6)])
def test_an_expression_has_the_value_of_the_function(name, at):
    read = export.Reader({})
    x, y = (np.array([read.make.symbol(f"{v}{i}") for i in range(2)], dtype=object) for v in "xy")
    found = read(TRACES[name], x, y)
    values = dict(zip(("x0", "x1", "y0", "y1"), at, strict=True))
    expected = TRACES[name](jnp.array(at[:2]), jnp.array(at[2:]))
    assert found.shape == expected.shape
    np.testing.assert_allclose([number(n, values) for n in read.nodes(found).flat], expected.ravel(), rtol=1e-13)


def test_expressions_are_written_short():
    read = export.Reader({})
    x, y = (np.array(read.make.symbol(v), dtype=object) for v in "xy")
    short = read(lambda x, y: jnp.exp(-1.0 * jnp.log(x) + jnp.log(y)) * 1.0 + 0.0 * x, x, y).item()
    assert short.op == "divide" and [a.value for a in short.args] == ["y", "x"]
    assert read(lambda x, y: jnp.where(jnp.ones(()) > 0, x, y), x, y).item() is x.item()
    assert read(lambda x, y: (x + y) - (x + y), x, y) == 0.0


def test_an_operation_without_a_rule_is_one_clear_message():
    read = export.Reader({})
    with pytest.raises(OsteobayesError, match="`sin` of JAX, which the SBML export cannot write"):
        read(jnp.sin, np.array(read.make.symbol("x"), dtype=object))


@pytest.mark.parametrize("value", [1.0, 0.1, -2.5e-7, 1e-12, 1.0 / 3.0, 123456.789, 28.0, 3e-45, -6.02e40])
def test_a_number_reads_back_as_it_was(value):
    element = export._number(value)
    mantissa, exponent = element.text, element.findtext("sep")
    tail = element[0].tail if len(element) else None
    assert exponent in (None, "") and float(mantissa + (f"e{tail}" if tail else "")) == value
    if abs(np.log10(abs(value))) < 30:
        assert len(element) == 0 and "e" not in mantissa
    with pytest.raises(OsteobayesError, match="not finite"):
        export._number(float("nan"))
