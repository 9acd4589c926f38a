"""Simulation-based calibration: the tests of uniformity, what a summary says, truths and planted defects."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from osteobayes import sbc
from osteobayes.errors import Interrupted, OsteobayesError
from osteobayes.fit import Settings
from osteobayes.fit.stop import Stop
from osteobayes.recovery import plan

COMMITTED = Path(__file__).parents[1] / "docs" / "validation" / "sbc.json"


def ranks_of(z, seed=0):
    """Ranks among draws from the standard normal."""
    draws = np.random.default_rng(seed).normal(size=(len(z), sbc.RANKED))
    return (draws < np.asarray(z)[:, None]).sum(axis=1)


def test_uniform_ranks_fail_as_often_as_stated():
    """2000 times 64 uniform ranks: each test is below 1 % in 0.2 to 2 % of them (binomial, beyond 3.5 standard errors either way)."""
    rng = np.random.default_rng(1)
    found = [sbc.uniformity(rng.integers(0, sbc.RANKED + 1, 64)) for _ in range(2000)]
    for test in sbc.TESTS:
        share = np.mean([f[test] < 0.01 for f in found])
        assert 0.002 <= share <= 0.02, (test, share)


def test_a_prior_scale_that_is_wrong_by_half_is_seen():
    """128 truths 1.5 times as wide as the posteriors, 139 scalars: below the limit; so are truths that are shifted by half an SD."""
    limit = sbc.FAILURE_RATE / (3 * 139)
    z = scipy.stats.norm.ppf((np.arange(128) + 0.5) / 128)
    assert sbc.uniformity(ranks_of(1.5 * z))["spread"] < limit
    assert sbc.uniformity(ranks_of(z + 0.5))["location"] < limit
    assert min(sbc.uniformity(ranks_of(z)).values()) > 0.01


def results(n=64, wide=1.0, missing=()):
    rng = np.random.default_rng(3)
    return [
        {
            "dataset": i, "seconds": 1.0,
            "rows": [
                {"quantity": "a", "level": "", "rank": int(ranks_of([wide * rng.normal()], i)[0])},
                {"quantity": "b", "level": "x/y", "rank": None if i in missing else int(rng.integers(0, 100))},
            ],
        }
        for i in range(n)
    ]  # fmt: skip


def planned(**more):
    return plan(64, Settings()) | {"level": "likelihood", "planted": {}, "posterior": None} | more


def test_a_summary_says_what_is_not_uniform_and_what_is_missing(tmp_path):
    good = sbc.summarise(planned(), results())
    assert good["uniform"] and not good["deviations"] and "0.01 / (3 x 2)" in good["criterion"]
    assert (
        good["command"].startswith("osteobayes sbc FOLDER --replicates 64") and "--level likelihood" in good["command"]
    )
    bad = sbc.summarise(planned(planted={"a": 1.5}), results(wide=2.5, missing=range(5)))
    assert not bad["uniform"] and "--planted a=1.5" in bad["command"]
    assert any(d.startswith("a: spread of its ranks") for d in bad["deviations"])
    assert any("b[x/y]: 5 of 64 replicates have no rank" in d for d in bad["deviations"])
    assert sbc.table(bad).iloc[0]["quantity"] == "a"
    tree = sbc.pit_tree(good)
    dataset = tree["prior_sbc"].to_dataset()
    assert dataset["a"].dims == ("chain", "draw") and dataset["b"].sizes == {"chain": 1, "draw": 64, "b_level": 1}
    tree.to_netcdf(tmp_path / "sbc.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "sbc.nc", engine="h5netcdf")
    xr.testing.assert_equal(again["prior_sbc"].to_dataset().load(), dataset)
    sbc.draw_ranks(tree, "prior_sbc", tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_fits_that_ended_in_an_error_have_no_ranks_and_are_told():
    error = {"dataset": 64, "seconds": 1.0, "error": "LinAlgError: not positive definite", "rows": []}
    found = sbc.summarise(planned(), [*results(), error])
    assert found["uniform"] and found["errors"] == ["dataset 64: LinAlgError: not positive definite"]
    assert len(found["quantities"]["a"]["ranks"]) == 64 and len(found["fits"]) == 65
    many = sbc.summarise(planned(), [*results(), *[error] * 4])
    assert many["deviations"] == ["4 of 68 datasets have no ranks: their fits ended in an error"]
    with pytest.raises(OsteobayesError, match="no dataset has ranks; dataset 64: LinAlgError"):
        sbc.summarise(planned(), [error])


def test_an_unknown_level_and_an_interruption(tmp_path, monkeypatch):
    with pytest.raises(OsteobayesError, match="level must be one of likelihood, trial"):
        sbc.calibrate_by_simulation(tmp_path / "study", level="patients")
    monkeypatch.setattr("osteobayes.recovery.subprocess.Popen", lambda *a, **k: Sleeping())
    with pytest.raises(Interrupted, match="0 of 4 datasets are done: continue with the same command"):
        sbc.calibrate_by_simulation(tmp_path / "study", replicates=4, stop=Stop(0.0))


class Sleeping:
    """A process that does not end."""

    returncode = None

    def poll(self):
        return None

    def kill(self):
        pass

    def wait(self):
        pass


def test_the_committed_study_says_what_its_criterion_says():
    """Ranks in docs/validation/sbc.json are tested again."""
    for name, study in json.loads(COMMITTED.read_text()).items():
        limit = sbc.FAILURE_RATE / (3 * len(study["quantities"]))
        least = {}
        for quantity, found in study["quantities"].items():
            p = sbc.uniformity(np.array([r for r in found["ranks"] if r is not None]))
            assert {t: pytest.approx(found[t], abs=1e-9) for t in sbc.TESTS} == p
            least[quantity] = min(p.values())
        assert study["uniform"] == (min(least.values()) >= limit), name
        assert max(f["seconds"] for f in study["fits"]) > 0
