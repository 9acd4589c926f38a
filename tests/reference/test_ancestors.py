"""The solver room on the published ancestors of the cycle: printed numbers, SciPy's trajectories, libRoadRunner's reading of the SBML.

Agreement found with dopri8 (jax 0.12.0, diffrax 0.7.2, libRoadRunner 2.11.0, SciPy 1.18.1), as the largest difference relative to
the largest value of a state; the tolerances of paths are two to six times these. Lemaire: 1.7e-9 with the trajectories, 3.6e-9 with libRoadRunner
at 121 times under four protocols, 3.1e-9 between dopri8 and either tsit5 or kvaerno5 (what dopri8 leaves between its steps at rtol
1e-10; kvaerno5 is within 7e-11 of libRoadRunner). Komarova 2003: 1.7e-9 and 1.7e-9; Komarova 2005: 3e-12 at rest, 4e-10 under PTH; Ayati
without tumour: 2.1e-9, with cycles that go on 1.0e-9. Ayati with tumour: 5.3e-9 with the trajectories and 2.4e-8 with libRoadRunner at
1201 times (1.4e-6 where CVODE's steps are not bounded: the error is CVODE's); with treatment 6.0e-9 and 6.7e-9, which needs the
jump. Pivonka: 1.9e-9 with the trajectories, 2.5e-9 with SciPy's LSODA and DOP853. Steady states agree to 5e-12, the Gompertz tumour to
2e-14, libRoadRunner's finite-difference eigenvalues to 2.2e-7. Each constant was changed by 0.1 % (0 to 0.001): every change fails at least
two tests besides those that compare constants.
"""

import hashlib
from decimal import Decimal

import ancestors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ancestors import MODELS, SWITCH, Ayati, Komarova, Lemaire, Pivonka, ayati, komarova, lemaire, pivonka, sbml_file
from scipy.integrate import solve_ivp

from osteobayes.precision import jit
from osteobayes.solve import integrate

pytest.importorskip("libsbml")

GOLDEN = ancestors.golden()
LEMAIRE, LEMAIRE_START = ancestors.from_sbml(Lemaire, 278, ("R", "B", "C"))
KOMAROVA, KOMAROVA_START = ancestors.from_sbml(Komarova, 148, ("x1", "x2", "z"))
PIVONKA = ancestors.pivonka_constants()
AYATI = {number: ancestors.from_sbml(Ayati, number, ("C", "B", "z", "Tumour")) for number in (402, 403)}
STEADY = {name: np.array(GOLDEN[name]["steady_state"]) for name in ("lemaire2004", "pivonka2008")}

PROTOCOL = np.linspace(0, 60, 121)
CYCLE = np.linspace(0, 600, 601)
TUMOUR = np.linspace(0, 1200, 1201)
SMOOTH = {"rtol": 1e-10, "atol": 1e-16}  # pM: states of 1e-4
KINKED = {"rtol": 1e-9, "atol": 1e-12, "longest": 0.1}  # max() in bone mass


def printed(values, texts: str) -> bool:
    """Whether the values are these numbers up to half a unit of each one's last printed digit."""
    half = [0.5000001 * float(Decimal(1).scaleb(Decimal(text).as_tuple().exponent)) for text in texts.split()]
    off = np.abs(np.asarray(values) - [float(text) for text in texts.split()])
    return off.shape == (len(half),) and bool(np.all(off <= half))


def apart(found, expected) -> float:
    """Largest difference relative to the largest value of each state over time."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.max(np.abs(found - expected) / np.max(np.abs(expected), axis=0)))


def solver(field, times, **settings):
    """Path of `field` at `times` as a function of its constants and start, compiled once."""

    @jit
    def solve(p, start):
        return integrate(lambda t, y: field(p, t, y), start, times, **settings)

    def run(p, start):
        found = solve(jax.tree.map(float, p), jnp.asarray(start))
        assert found.solved
        return np.asarray(found.path)

    return run


def settle(run, p, start, times=10):
    """The end of the path, `times` over."""
    for _ in range(times):
        start = run(p, start)[-1]
    return start


def by_frequency(values):
    return np.asarray(sorted(values, key=lambda value: value.imag))


def eigenvalues(field, p, y):
    return by_frequency(np.linalg.eigvals(jax.jacfwd(lambda y: field(p, 0.0, y))(jnp.asarray(y))))


@pytest.fixture(scope="module")
def lemaire_path():
    return solver(lemaire, PROTOCOL, **SMOOTH)


@pytest.fixture(scope="module")
def pivonka_path():
    return solver(pivonka, PROTOCOL, **SMOOTH)


@pytest.fixture(scope="module")
def komarova_path():
    return solver(komarova, CYCLE, **KINKED)


@pytest.fixture(scope="module")
def ayati_path():
    return solver(ayati, TUMOUR, jumps=[SWITCH], **KINKED)


@pytest.fixture(scope="module")
def load():
    """libRoadRunner with CVODE at tight tolerances on a BioModels file."""
    roadrunner = pytest.importorskip("roadrunner")

    def load(number, states, start=None, longest=0.0, **changed):
        runner = roadrunner.RoadRunner(str(sbml_file(number)))
        cvode = runner.getIntegrator()
        cvode.relative_tolerance, cvode.absolute_tolerance = 1e-12, 1e-16
        cvode.maximum_time_step, cvode.maximum_num_steps = longest, 1_000_000
        runner.timeCourseSelections = list(states)
        for name, value in {**changed, **dict(zip(states, () if start is None else start))}.items():
            runner[name] = float(value)
        return runner

    return load


@pytest.fixture(scope="module")
def judge(load):
    """Path by libRoadRunner."""
    return lambda times, *args, **kwargs: np.asarray(load(*args, **kwargs).simulate(times=list(times)))


def test_the_files_are_the_ones_that_were_copied():
    lines = (MODELS / "README.md").read_text(encoding="utf-8").split("```\n")[1].splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    kept = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MODELS.iterdir() if path.suffix != ".md"
    }
    assert kept == listed


@pytest.mark.parametrize(
    ("name", "found", "start"),
    [
        ("lemaire2004", LEMAIRE, None),
        ("komarova2003", KOMAROVA, KOMAROVA_START),
        ("ayati2010_402", *AYATI[402]),
        ("ayati2010_403", *AYATI[403]),
    ],
)
def test_sbml_has_the_constants_of_the_trajectories(name, found, start):
    expected = dict(GOLDEN[name]["params"])
    if "gT" in expected:
        assert expected.pop("t_on") == SWITCH
        expected["gammaT"] = expected.pop("gT")
    assert found._asdict() == expected
    if start is not None:
        assert start.tolist() == GOLDEN[name]["y0"]


# Lemaire 2004


def test_lemaire_steady_state(lemaire_path):
    np.testing.assert_allclose(LEMAIRE_START, [7.734e-4, 7.282e-4, 9.127e-4], rtol=1e-12)  # as published
    y = settle(lemaire_path, LEMAIRE, LEMAIRE_START)
    assert printed(y, "7.734377e-4 7.283396e-4 9.127528e-4")
    np.testing.assert_allclose(y, LEMAIRE_START, rtol=2e-4)
    np.testing.assert_allclose(y, STEADY["lemaire2004"], rtol=2e-11)


def test_lemaire_eigenvalues():
    found = eigenvalues(lemaire, LEMAIRE, STEADY["lemaire2004"])
    assert printed(found.real, "-0.252804 -0.0858379 -0.252804")
    assert printed(found.imag, "-0.233010 0 0.233010")


@pytest.mark.parametrize(
    ("protocol", "injection", "fold", "later"),
    [
        ("I_P=1000", {"I_P": 1000}, "5.2081 2.2384 4.0368", "1.0144 1.0197 1.0059"),  # catabolic: more osteoclasts
        ("I_O=200000", {"I_O": 2e5}, "0.1018 0.3303 0.0721", None),
        ("I_L=10000", {"I_L": 1e4}, "3.7854 1.9234 2.9776", None),
    ],
)
def test_lemaire_protocols(lemaire_path, protocol, injection, fold, later):
    steady = STEADY["lemaire2004"]
    expected = GOLDEN["lemaire2004"]["protocols"][f"{protocol} for 60 d then off 60 d, from steady state"]
    assert expected["t_on"] == PROTOCOL[::10].tolist()
    on = lemaire_path(LEMAIRE._replace(**injection), steady)
    off = lemaire_path(LEMAIRE, on[-1])
    assert printed(on[-1] / steady, fold)
    if later:
        assert printed(off[-1] / steady, later)
    assert apart(on[::10], expected["y_on"]) < 5e-9
    assert apart(off[::10], expected["y_off"]) < 5e-9


def test_lemaire_little_rankl_does_little(lemaire_path):
    """`r_L`, 1000 pM/d, sets the scale of an injection."""
    grown = lemaire_path(LEMAIRE._replace(I_L=10), STEADY["lemaire2004"])[-1] / STEADY["lemaire2004"] - 1
    assert printed([100 * grown[2]], "0.45")


def test_lemaire_opg_holds_most_rankl():
    rank, opg, _ = ancestors.lemaire_binding(LEMAIRE, STEADY["lemaire2004"])
    assert printed([rank, opg], "0.341 22.81")
    assert printed([opg / (1 + rank + opg)], "0.944")


def test_lemaire_balance_by_another_reader(load):
    """Its root finder and its Jacobian."""
    runner = load(278, "RBC")
    runner.steadyState()
    np.testing.assert_allclose(STEADY["lemaire2004"], [runner[name] for name in "RBC"], rtol=2e-12)
    found = eigenvalues(lemaire, LEMAIRE, STEADY["lemaire2004"])
    np.testing.assert_allclose(found, by_frequency(runner.getFullEigenValues()), rtol=5e-7)


@pytest.mark.parametrize("injection", [{}, {"I_P": 1000}, {"I_O": 2e5}, {"I_L": 1e4}])
def test_lemaire_by_another_reader(lemaire_path, judge, injection):
    on = lemaire_path(LEMAIRE._replace(**injection), LEMAIRE_START)
    theirs = judge(PROTOCOL, 278, "RBC", **injection)
    assert apart(on, theirs) < 1e-8
    assert apart(lemaire_path(LEMAIRE, on[-1]), judge(PROTOCOL, 278, "RBC", theirs[-1])) < 1e-8


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_lemaire_by_other_methods(lemaire_path, method):
    """An explicit method of another order, and the implicit one."""
    p = LEMAIRE._replace(I_P=1000)
    other = solver(lemaire, PROTOCOL, method=method, **SMOOTH)(p, STEADY["lemaire2004"])
    assert 0 < apart(other, lemaire_path(p, STEADY["lemaire2004"])) < 1e-8


# Komarova 2003, Komarova 2005, Ayati 2010 without tumour: the same equations


def test_komarova_steady_state(komarova_path):
    balance = ancestors.komarova_balance(KOMAROVA)
    assert printed(balance, "1.060660 212.132034")
    np.testing.assert_allclose(balance, GOLDEN["komarova2003"]["steady_state"], rtol=1e-14)
    np.testing.assert_allclose(settle(komarova_path, KOMAROVA, KOMAROVA_START, 2)[:2], balance, rtol=1e-12)


def test_komarova_trajectory(komarova_path):
    expected, path = GOLDEN["komarova2003"], komarova_path(KOMAROVA, KOMAROVA_START)
    assert expected["t"] == CYCLE[::25].tolist()
    assert apart(path[::25], expected["y"]) < 1e-8
    assert printed(path[30], "0.82119 351.896 93.6424")
    assert printed(path[100], "0.99727 219.178 99.7738")
    assert printed(path[600, 2:], "99.96687")


@pytest.mark.parametrize(
    ("number", "states", "changed", "tolerance"),
    [
        (148, ("x1", "x2", "z"), {}, 1e-8),
        (279, ("x1", "x2", "z"), {}, 1.5e-11),
        (279, ("x1", "x2", "z"), {"g21": -0.45}, 2e-9),  # PTH
        (401, "CBz", {}, 1e-8),
        (401, "CBz", {"g11": 1.1}, 5e-9),  # cycles that go on
    ],
)
def test_komarova_by_another_reader(komarova_path, judge, number, states, changed, tolerance):
    p, start = ancestors.from_sbml(Komarova, number, states)
    flag = {"flag_resorption": 1} if number == 148 else {}  # see models/README.md
    theirs = judge(CYCLE, number, states, longest=0.1, **changed, **flag)
    assert apart(komarova_path(p._replace(**changed), start), theirs) < tolerance


def test_komarova_cycles_go_on_with_autocrine_osteoclasts(komarova_path):
    osteoclasts = komarova_path(KOMAROVA._replace(g11=1.1), KOMAROVA_START)[:, 0]
    assert np.max(osteoclasts[300:]) > 3 > 1e-3 > np.min(osteoclasts[300:])


# Ayati 2010 with tumour


def test_ayati_balances():
    p = AYATI[402][0]
    assert printed(ancestors.ayati_balance(p), "4.993810 315.901489")
    np.testing.assert_allclose(ancestors.ayati_balance(p), GOLDEN["ayati2010_402"]["Cbar_Bbar"], rtol=1e-14)
    assert printed(ancestors.ayati_balance(p._replace(r11=0, r12=0, r21=0, r22=0)), "1.15862 231.724")


@pytest.mark.parametrize(
    ("number", "day600", "day1200"),
    [
        (402, "0.3754 16.15 96.979 79.51", "15.4696 368.298 -0.9059 98.865"),
        (403, "1.432 556.3 76.27 79.51", "8.7517 462.96 57.228 24.981"),
    ],
)
def test_ayati_trajectories(ayati_path, number, day600, day1200):
    expected, path = GOLDEN[f"ayati2010_{number}"], ayati_path(*AYATI[number])
    assert expected["t"] == TUMOUR[::50].tolist()
    assert printed(path[600], day600)
    assert printed(path[1200], day1200)
    assert apart(path[::50], expected["y"]) < 3e-8


@pytest.mark.parametrize(("number", "tolerance"), [(402, 1e-7), (403, 3e-8)])
def test_ayati_by_another_reader(ayati_path, judge, number, tolerance):
    theirs = judge(TUMOUR, number, ("C", "B", "z", "Tumour"), longest=0.1)
    assert apart(ayati_path(*AYATI[number]), theirs) < tolerance


def test_ayati_tumour_is_gompertz(ayati_path):
    """In closed form, with a slower one after the switch: nothing feeds the tumour."""
    gap = np.log(0.01) * np.exp(-0.005 * TUMOUR)
    untreated, treated = (ayati_path(*AYATI[number])[:, 3] for number in (402, 403))
    np.testing.assert_allclose(untreated, 100 * np.exp(gap), rtol=1e-12)
    shrinking = gap[600] * np.exp(0.003 * (TUMOUR[600:] - SWITCH))
    np.testing.assert_allclose(treated[600:], 100 * np.exp(shrinking), rtol=1e-12)
    assert printed(treated[600:601], "79.51")


# Pivonka 2008


def test_pivonka_constants_are_the_set_that_belongs_together():
    """As printed, the published table has D_OBp, D_OCp, K_RR and bRANKL of another scaling: see the next test."""
    expected = (
        "D_OBu 7e-4, D_OBp 0.2674, D_OCp 2.1e-3, A_OBa 0.189, A_OCa 0.7, K_T_act 4.545e-3, K_T_rep 1.416e-3, K_PTH_act 150, "
        "K_PTH_rep 0.2226, K_RR 4.457, PTH0 250, dPTH 86, dOPG 0.35, OPGmax 2e8, K_RO 1e-3, K_RR_a 3.412e-2, RANK 10, "
        "bRANKL 168.4, dRANKL 10.13, pOPG 1.625e8, nRANKL 2.703e6, alpha 1, kres 1, dT 1, OPG_inj 0, PTH_inj 0, RANKL_inj 0, T_inj 0"
    )
    names, texts = zip(*(item.split() for item in expected.split(", ")))
    assert names == Pivonka._fields
    assert printed(PIVONKA, " ".join(texts))


def test_pivonka_steady_state(pivonka_path):
    y = settle(pivonka_path, PIVONKA, [6e-4, 6e-4, 8e-4])
    assert printed(y, "6.19639e-4 5.58393e-4 8.06964e-4")
    np.testing.assert_allclose(y, STEADY["pivonka2008"], rtol=5e-12)
    found = eigenvalues(pivonka, PIVONKA, y)
    assert printed(found.real, "-0.0925 -0.3695 -0.0925")
    assert printed(found.imag, "-0.1085 0 0.1085")


def test_pivonka_one_constant_of_the_printed_table_goes_elsewhere(pivonka_path):
    y = settle(pivonka_path, PIVONKA._replace(D_OBp=5.348), STEADY["pivonka2008"], 30)
    assert printed(y, "7.6e-6 1.8e-4 2.4e-4")
    assert 5.348 * LEMAIRE.f0 == pytest.approx(PIVONKA.D_OBp, rel=1e-4)


@pytest.mark.parametrize(
    ("protocol", "injection", "fold"),
    [
        ("PTH_inj=1000", {"PTH_inj": 1000}, "2.2575 1.6887 1.9284"),
        ("OPG_inj=200000", {"OPG_inj": 2e5}, "0.131 0.204 0.156"),
        ("RANKL_inj=1000", {"RANKL_inj": 1000}, None),
        ("T_inj=0.001", {"T_inj": 1e-3}, "1.993 1.569 0.506"),
    ],
)
def test_pivonka_protocols(pivonka_path, protocol, injection, fold):
    expected, steady = GOLDEN["pivonka2008"]["protocols"][f"{protocol} for 60 d"], STEADY["pivonka2008"]
    assert expected["t"] == PROTOCOL[::10].tolist()
    path = pivonka_path(PIVONKA._replace(**injection), steady)
    assert apart(path[::10], expected["y"]) < 5e-9
    if fold:
        assert printed(path[-1] / steady, fold)


@pytest.mark.parametrize("method", ["LSODA", "DOP853"])
def test_pivonka_by_scipy(pivonka_path, method):
    p = PIVONKA._replace(PTH_inj=1000)
    field = jax.jit(lambda t, y: pivonka(p, t, y))
    theirs = solve_ivp(
        lambda t, y: np.asarray(field(t, y)), (0, 60), STEADY["pivonka2008"], method, PROTOCOL, rtol=1e-11, atol=1e-16
    )
    assert theirs.success
    assert apart(pivonka_path(p, STEADY["pivonka2008"]), theirs.y.T) < 1e-8
