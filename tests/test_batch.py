"""Batches with a stand-in for the sampler: identities, isolation, skipping, resuming, the index, the batch file."""

import csv
import json

import pytest

from osteobayes.batch import BatchError, Job, load_batch, run_batch
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.fit import Run
from osteobayes.fit.run import Settings


class Engine:
    """Writes a run's manifest and diagnostics; fails or stops on the seeds it is told to."""

    def __init__(self, fail=(), stop=()):
        self.fail, self.stop, self.calls, self.resumed = set(fail), set(stop), [], []

    def calibrate(self, data, priors, out, overlay, report, **settings):
        self.calls.append(settings)
        if settings["seed"] in self.fail:
            raise RunError("no start reached a finite density") if settings["seed"] % 2 else ValueError("broken")
        out.mkdir()
        if settings["seed"] in self.stop:
            (out / "manifest.json").write_text('{"status": "running"}')
            raise KeyboardInterrupt
        return self._finish(out)

    def resume(self, path, report):
        self.resumed.append(path)
        return self._finish(path)

    def _finish(self, path):
        found = {
            "sentence": 'The run may be used, "all" of it.',
            "usable": True,
            "max_rhat": 1.003,
            "min_ess_bulk": 812.0,
            "divergences": 0,
            "wall_s": 5.0,
        }
        (path / "manifest.json").write_text('{"status": "finished"}')
        (path / "diagnostics.json").write_text(json.dumps(found))
        return Run(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    for kind in ("datasets", "priors"):
        (root / kind).mkdir()
        (root / kind / "a.yaml").write_text(f"what: {kind}\n")
    (root / "tight.yaml").write_text("format: 1\nparameters: []\n")
    return {"data": root / "datasets", "priors": root / "priors"}


def go(jobs, folder, engine, **more):
    return run_batch(
        jobs, folder, engine.calibrate, engine.resume, **{"summary": lambda run: {"p_sre_24_breast": 0.4}} | more
    )


def index(folder):
    with (folder / "index.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def test_the_id_is_of_the_content(inputs, tmp_path):
    base = Job(seed=1, settings={"draws": 100}, **inputs)
    assert base.id == Job(seed=1, settings={"draws": 100}, name="other label", **inputs).id and len(base.id) == 16
    others = [
        Job(seed=2, settings={"draws": 100}, **inputs),
        Job(seed=1, **inputs),
        Job(("breast",), None, 1, {"draws": 100}, **inputs),
    ]
    others.append(Job(None, inputs["data"].parent / "tight.yaml", 1, {"draws": 100}, **inputs))
    assert len({job.id for job in [base, *others]}) == 5
    assert Job(seed=1, settings={"draws": Settings().draws}, **inputs).id == Job(seed=1, **inputs).id  # the default
    copy = tmp_path / "datasets"
    copy.mkdir()
    (copy / "a.yaml").write_text("what: datasets\n")
    assert Job(seed=1, settings={"draws": 100}, data=copy, priors=inputs["priors"]).id == base.id
    (copy / "a.yaml").write_text("what: changed\n")
    assert Job(seed=1, settings={"draws": 100}, data=copy, priors=inputs["priors"]).id != base.id


def test_an_unknown_setting_is_refused():
    with pytest.raises(OsteobayesError, match="no setting 'drows'"):
        Job(settings={"drows": 3})


def test_failures_are_isolated_and_the_index_says_why(inputs, tmp_path):
    engine = Engine(fail=[1, 2])
    table = go([Job(seed=s, **inputs) for s in (0, 1, 2, 3)], tmp_path, engine)
    assert list(table["status"]) == ["finished", "failed", "failed", "finished"]
    rows = index(tmp_path)
    assert [r["sentence"] for r in rows[1:3]] == ["no start reached a finite density", "ValueError: broken"]
    assert (rows[0]["max_rhat"], rows[0]["min_ess_bulk"], rows[0]["usable"]) == ("1.003", "812.0", "True")
    assert (rows[0]["p_sre_24_breast"], rows[1]["p_sre_24_breast"]) == ("0.4", "")
    assert rows[0]["sentence"] == 'The run may be used, "all" of it.'
    assert not list(tmp_path.rglob("*.part"))


def test_finished_jobs_are_skipped_and_failed_ones_tried_again(inputs, tmp_path):
    jobs = [Job(seed=s, **inputs) for s in (0, 1)]
    go(jobs, tmp_path, Engine(fail=[1]))
    again = Engine()
    table = go([*jobs, jobs[0]], tmp_path, again)
    assert [c["seed"] for c in again.calls] == [1] and again.resumed == []
    assert list(table["status"]) == ["finished", "finished"]


def test_an_interrupted_batch_keeps_its_index_and_is_resumed(inputs, tmp_path):
    jobs = [Job(seed=s, **inputs) for s in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        go(jobs, tmp_path, Engine(stop=[1]))
    assert [r["status"] for r in index(tmp_path)] == ["finished", "waiting", "waiting"]
    again = Engine()
    go(jobs, tmp_path, again)
    assert [p.name for p in again.resumed] == [jobs[1].id] and [c["seed"] for c in again.calls] == [2]
    assert {r["status"] for r in index(tmp_path)} == {"finished"}


def test_a_half_made_folder_is_not_touched(inputs, tmp_path):
    job = Job(**inputs)
    (tmp_path / job.id).mkdir()
    (tmp_path / job.id / "notes.txt").write_text("mine")
    table = go([job], tmp_path, Engine())
    assert "half-made" in table["sentence"][0] and (tmp_path / job.id / "notes.txt").exists()


def test_predictions_that_fail_do_not_fail_the_job(inputs, tmp_path):
    def broken(run):
        raise OsteobayesError("no population")

    table = go([Job(**inputs)], tmp_path, Engine(), summary=broken)
    assert table["status"][0] == "finished" and table["sentence"][0].endswith("Its predictions failed: no population")


def test_settings_reach_the_engine(inputs, tmp_path):
    engine = Engine()
    go([Job(("lung",), None, 4, {"draws": 50, "grid": (14.0, 80, 1)}, **inputs)], tmp_path, engine, summary=None)
    assert engine.calls == [{"seed": 4, "cancers": ("lung",), "draws": 50, "grid": (14.0, 80, 1)}]


GOOD = """\
format: 1
settings: {chains: 2, draws: 100}
matrix:
  cancers: [[breast], null]
  overlay: [null, tight.yaml]
  seed: [0, 1]
jobs:
  - {name: long, cancers: [lung], seed: 7, settings: {draws: 1000, grid: [14, 80, 1]}}
"""


def test_a_batch_file(tmp_path):
    (tmp_path / "tight.yaml").write_text("format: 1\nparameters: []\n")
    (tmp_path / "batch.yaml").write_text(GOOD)
    jobs = load_batch(tmp_path / "batch.yaml")
    assert len(jobs) == 9 and jobs[0].settings == {"chains": 2, "draws": 100}
    assert [j.name for j in jobs[:3]] == ["breast seed0", "breast seed1", "breast tight seed0"]
    assert (jobs[4].cancers, jobs[-1].settings) == (None, {"chains": 2, "draws": 1000, "grid": (14.0, 80, 1)})
    assert jobs[2].overlay == tmp_path / "tight.yaml" and jobs[2].chosen.chains == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (
            ("draws: 100}", "drows: 100}"),
            r"batch.yaml:2: settings.drows: there is no key 'drows' here; did you mean 'draws'",
        ),
        (("[[breast], null]", "[[brest], null]"), r"batch.yaml:4: matrix.cancers\[0\]\[0\]: 'brest' is not a word"),
        (("tight.yaml]", "loose.yaml]"), r"batch.yaml:5: matrix.overlay\[1\]: there is no file 'loose.yaml'"),
        (("seed: [0, 1]", "seed: [0, -1]"), r"batch.yaml:6: matrix.seed\[1\]"),
        (("format: 1", "format: 2"), r"batch.yaml:1: format"),
    ],
)
def test_a_bad_batch_file_is_refused_with_its_line(tmp_path, change, message):
    (tmp_path / "tight.yaml").write_text("format: 1\nparameters: []\n")
    (tmp_path / "batch.yaml").write_text(GOOD.replace(*change))
    with pytest.raises(BatchError, match=message):
        load_batch(tmp_path / "batch.yaml")


def test_an_empty_batch_is_refused(tmp_path):
    (tmp_path / "batch.yaml").write_text("format: 1\n")
    with pytest.raises(BatchError, match="nothing to run; give a `matrix` or `jobs`"):
        load_batch(tmp_path / "batch.yaml")
