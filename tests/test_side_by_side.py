"""Jobs of a batch sampled side by side: each has the draws that it has in any company, or alone, and one that fails stops no other."""

from pathlib import Path

import numpy as np
import pytest
from test_programs import TINY, overlay

from osteobayes import batch
from osteobayes.errors import Interrupted, RunError
from osteobayes.fit import Settings, calibrate, resume
from osteobayes.fit.side_by_side import places
from osteobayes.fit.stop import Stop

LANES = {**TINY, "lanes": 4}
del LANES["processes"]


def test_lanes_need_the_resumable_sampler_and_make_a_job_of_their_own():
    with pytest.raises(RunError, match="setting `lanes` must be at least 0, found -1"):
        Settings(lanes=-1)
    with pytest.raises(RunError, match="setting `lanes` needs the algorithm"):
        Settings(lanes=4, algorithm="numpyro/nuts")
    plain, wide = batch.Job(settings=TINY), batch.Job(settings={**TINY, "lanes": 4})
    assert plain.id != wide.id and plain.shape != wide.shape
    assert wide.shape == batch.Job(seed=3, settings={**TINY, "lanes": 4, "weights": (("lipton2000", 0.5),)}).shape
    assert places(9, 4) == 2 and places(1, 4) == 1


def assert_same_draws(one, two):
    ours, theirs = one.blocks.arrays(), two.blocks.arrays()
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.slow
def test_jobs_side_by_side_have_the_draws_of_one_alone(two_studies, tmp_path):
    """Of five jobs two go side by side, one has a bad prior, two (another prior and seed, another design) follow; to the last bit."""
    changed = overlay(tmp_path, "sre_baseline", "mean: -0.2")
    bad = overlay(tmp_path, "death_baseline", "mean: -0.2")
    bad.write_text(bad.read_text().replace("mean", "meen"))
    weighted = {**LANES, "weights": (("lipton2000", 0.5),)}
    jobs = [
        batch.Job(settings=LANES, data=two_studies),
        batch.Job(settings=LANES, data=two_studies, overlay=bad),
        batch.Job(seed=3, settings=weighted, data=two_studies),
        batch.Job(seed=5, settings=LANES, data=two_studies, overlay=changed),
        batch.Job(settings={**LANES, "without": ("lipton2000",)}, data=two_studies),
    ]
    said = []
    table = batch.run_batch(jobs, tmp_path / "batch", report=said.append)
    assert table["status"].tolist() == ["finished", "failed", "finished", "finished", "finished"], table[
        "sentence"
    ].tolist()
    assert "meen" in table["sentence"][1]
    assert sum("runs side by side" in text for text in said) >= 3
    folder = tmp_path / "batch"
    alone = calibrate(two_studies, out=tmp_path / "alone", seed=3, **weighted)
    assert_same_draws(batch.Run.load(folder / jobs[2].id), alone)
    assert batch.headline(alone) == batch.headline(batch.Run.load(folder / jobs[2].id))
    assert alone.manifest["device"]["engine"] == "4 lanes"
    whole = calibrate(two_studies, out=tmp_path / "whole", seed=5, overlay=changed, **LANES)
    assert_same_draws(batch.Run.load(folder / jobs[3].id), whole)
    assert len(list(Path(whole.path).rglob("*"))) <= 40


@pytest.mark.slow
def test_an_interrupted_wave_goes_on_to_the_same_draws(two_studies, tmp_path):
    jobs = [batch.Job(seed=s, settings=LANES, data=two_studies) for s in (0, 1)]
    batch.run_batch(jobs, tmp_path / "whole", summary=None)

    class After(Stop):
        """Asks to end at the sixth question."""

        asked = 0

        def check(self, *args, **more):
            self.asked += 1
            if self.asked > 6:
                self._asked = "a test"
            super().check(*args, **more)

    with pytest.raises(Interrupted, match="a test"):
        batch.run_batch(jobs, tmp_path / "parts", summary=None, stop=After())
    kept = [len(batch.Run(tmp_path / "parts" / j.id).blocks) for j in jobs]
    assert all(0 < n < 10 for n in kept), kept
    resume(tmp_path / "parts" / jobs[1].id)  # one of the two alone
    table = batch.run_batch(jobs, tmp_path / "parts", summary=None)
    assert set(table["status"]) == {"finished"}
    for j in jobs:
        assert_same_draws(batch.Run.load(tmp_path / "parts" / j.id), batch.Run.load(tmp_path / "whole" / j.id))
