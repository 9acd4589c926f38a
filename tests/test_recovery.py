"""Recovery: data drawn anew on the designs of real studies, and studies that go on where they stopped."""

import json
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes import recovery
from osteobayes.cycle import Grid
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.evidence import Evidence
from osteobayes.fit import Settings
from osteobayes.fit.store import locked
from osteobayes.model import Model
from osteobayes.model.redraw import NOT_REDRAWN, redrawn
from osteobayes.paths import shipped
from osteobayes.precision import jit
from osteobayes.priors import PriorSet

COMMITTED = Path(__file__).parents[1] / "docs" / "validation" / "recovery.json"


@pytest.fixture(scope="module")
def small():
    """Two trials and their counts, medians, rates and hazard ratios, on a coarse grid."""
    evidence = Evidence.load(shipped("datasets")).select(study=["stopeck2010_136", "saad2002_p039", "affirm"])
    return Model.build(evidence, PriorSet.load(), Grid(14.0, 80, 2))


@pytest.fixture(scope="module")
def drawn(small):
    values = small.values(small.draw_prior(jax.random.key(3), small.data), small.data)
    draw = jit(jax.vmap(lambda key: {k: redrawn(small, key, values, small.data)[k] for k in ("observed", "rows")}))
    expected = jit(lambda v: small.expected(v, small.data)[0])(values)
    return draw(jax.random.split(jax.random.key(4), 400)), expected


def test_redrawn_numbers_scatter_around_what_is_expected(small, drawn):
    """Means of 400 draws within 4.5 standard errors of the expected (failure rate below 1e-4 over some twenty numbers)."""
    new, expected = drawn
    checked = 0
    for family in set(new["observed"]) & {"crude", "completion", "hazard_ratio"}:
        x = np.asarray(new["observed"][family])
        a = expected[family]
        centre = np.asarray(a["b"] if family == "hazard_ratio" else a["n"] * a["p"])
        assert (np.abs(x.mean(axis=0) - centre) <= 4.5 * x.std(axis=0) / 20 + 1e-9).all(), family
        checked += len(centre)
    assert checked >= 5


def test_hazard_ratios_are_drawn_given_their_reference_arm(small, drawn):
    """Marginal variance is that of the printed standard error, although each is drawn from its conditional law."""
    new, expected = drawn
    x, se = np.asarray(new["observed"]["hazard_ratio"]), np.asarray(expected["hazard_ratio"]["se"])
    assert x.std(axis=0) / se == pytest.approx(1.0, abs=0.16)  # 400 draws: 4.5 standard errors
    tied = np.asarray(small.data["rows"]["hazard_ratio"]["OS"].has_median) > 0
    assert tied.any()
    medians = np.asarray(new["observed"]["median"])
    r = small.data["rows"]["hazard_ratio"]["OS"]
    for i in np.flatnonzero(tied):
        rho = np.corrcoef(x[:, i], np.log(medians[:, int(r.median[i])]))[0, 1]
        assert (
            rho > 0.3
        )  # a reference arm that does well by chance raises the ratio; 0 would exceed 0.25 once in a million


def test_printed_intervals_move_with_their_numbers(small, drawn):
    new, _ = drawn
    before = small.data["rows"]["median"]
    begun = 0
    for kind, r in before.items():
        mine = slice(begun, begun + len(r.n))
        begun = mine.stop
        factor = np.asarray(new["observed"]["median"])[:, mine] / np.asarray(small.data["observed"]["median"])[mine]
        for name in ("low", "high"):
            moved = np.asarray(getattr(new["rows"]["median"][kind], name))
            assert moved == pytest.approx(factor * np.asarray(getattr(r, name)), nan_ok=True)
        assert set(np.unique(new["rows"]["median"][kind].reached)) <= {0.0, 1.0}


def test_families_with_the_number_in_their_design_are_refused(small):
    data = small.data | {"rows": small.data["rows"] | {NOT_REDRAWN[0]: {}}}
    with pytest.raises(OsteobayesError, match=r"`landmark` cannot be drawn anew.*such as `core`"):
        redrawn(small, jax.random.key(0), {}, data)


def result(number, inside, ess=500.0):
    rows = [
        {"parameter": f"p{i}", "level": "x" if i else "", "true": 0.0, "low": -1.0 if ok else 0.5, "high": 1.0}
        for i, ok in enumerate(inside)
    ]
    return {"dataset": number, "min_ess_bulk": ess, "rows": rows}


def test_summary_counts_pairs_and_names_what_fell_short():
    results = [result(i, [True, i < 8, i < 14], ess=150.0 if i == 3 else 400.0) for i in range(20)]
    found = recovery.summarise({"datasets": 20}, results)
    assert found["pairs"] == 60 and found["coverage"] == pytest.approx(42 / 60)
    assert found["parameters"] == {"p0": 20, "p1[x]": 8, "p2[x]": 14}
    assert found["short"] == ["p1[x] inside in 8 of 20 datasets", "dataset 3: bulk ESS 150"]
    with pytest.raises(OsteobayesError, match="no dataset"):
        recovery.summarise({}, [])


class Fake:
    """A study that fits nothing: dataset 1 cannot be fitted if it is ``broken``."""

    commit, broken = "c", False
    fitted: ClassVar[list[int]]

    def __init__(self, planned):
        pass

    def compile(self):
        pass

    def fit(self, number, folder):
        if number == 1 and self.broken:
            raise np.linalg.LinAlgError("not positive definite")
        self.fitted.append(number)
        return result(number, [True])


def test_an_error_of_one_dataset_is_its_result_and_the_others_go_on(tmp_path):
    class Breaking(Fake):
        broken, fitted = True, []

    (tmp_path / recovery.PLAN).write_text(json.dumps(recovery.plan(3, Settings())))
    recovery.work(tmp_path, 0, 1, Breaking)
    found = [json.loads((tmp_path / f"{i:03d}.json").read_text()) for i in range(3)]
    assert found[1]["error"] == "LinAlgError: not positive definite" and found[1]["rows"] == []
    summary = recovery.summarise({"datasets": 3}, found)
    assert summary["pairs"] == 2 and summary["short"] == ["dataset 1: LinAlgError: not positive definite"]


def test_a_dataset_that_another_process_works_on_is_left_to_it(tmp_path):
    class Noting(Fake):
        fitted: ClassVar[list[int]] = []

    (tmp_path / recovery.PLAN).write_text(json.dumps(recovery.plan(3, Settings())))
    (tmp_path / "001").mkdir()
    with locked(tmp_path / "001"):
        recovery.work(tmp_path, 0, 1, Noting)
    assert Noting.fitted == [0, 2] and not (tmp_path / "001.json").exists()
    recovery.work(tmp_path, 0, 1, Noting)
    assert Noting.fitted == [0, 2, 1]


def test_a_folder_with_another_study_is_refused_and_a_finished_one_is_not_fitted_again(tmp_path, monkeypatch):
    planned = recovery.plan(2, Settings(cancers=("breast",)))
    (tmp_path / recovery.PLAN).write_text(json.dumps(planned))
    with pytest.raises(RunError, match="other settings"):
        recovery.recover(tmp_path, 3, cancers=("breast",))

    def unwanted(_):
        raise AssertionError("nothing is left to fit")

    monkeypatch.setattr(recovery, "Study", unwanted)
    for i in range(2):
        (tmp_path / f"{i:03d}.json").write_text("{}")
    recovery.work(tmp_path, 0, 1)


def test_the_committed_study_meets_the_goals_it_says_it_meets():
    found = json.loads(COMMITTED.read_text())
    intervals = found["intervals"]
    inside = [low <= true <= high for one in intervals.values() for true, low, high in one.values()]
    assert len(intervals) == found["plan"]["datasets"] == 20
    assert np.mean(inside) == pytest.approx(found["coverage"])
    assert 0.84 <= found["coverage"] <= 0.96
    assert all(n >= recovery.LEAST_OF_20 for n in found["parameters"].values())
    assert all(one["min_ess_bulk"] >= recovery.ESS_GOAL for one in found["fits"]) and found["short"] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 13])
def test_a_committed_dataset_is_found_again(number, tmp_path):
    """The truth is the same, and the intervals are within the noise of some 300 effective draws (0.3 of their width)."""
    found = json.loads(COMMITTED.read_text())
    study = recovery.Study(found["plan"])
    study.compile()
    assert study.model.fingerprint() == found["fingerprint"], "designs or priors changed: repeat the study"
    again = study.fit(number, tmp_path)
    was = found["intervals"][str(number)]
    assert len(again["rows"]) == len(was)
    off = []
    for r in again["rows"]:
        true, low, high = was[r["parameter"] + (f"[{r['level']}]" if r["level"] else "")]
        assert r["true"] == pytest.approx(true, rel=1e-6)
        off.append(max(abs(r["low"] - low), abs(r["high"] - high)) / (high - low))
    assert np.quantile(off, 0.99) < 0.3
    assert jnp.isfinite(again["max_rhat"])
