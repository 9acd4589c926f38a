"""Batches with a stand-in for the sampler: identities, isolation, skipping, resuming, the index, the batch file."""

import csv
import json

import numpy as np
import psutil
import pytest

from osteobayes import batch
from osteobayes.batch import BatchError, Job, index, load_batch, run_batch
from osteobayes.cli import app, guarded
from osteobayes.errors import Interrupted, LockedError, OsteobayesError, RunError
from osteobayes.fit import Run
from osteobayes.fit.run import Settings
from osteobayes.fit.stop import Stop
from osteobayes.report import batch_page


class Engine:
    """Writes a run's manifest and diagnostics; fails or stops on the seeds it is told to."""

    def __init__(self, fail=(), stop=()):
        self.fail, self.stop, self.calls, self.resumed = set(fail), set(stop), [], []

    def calibrate(self, data, priors, out, overlay, report, advance, stop, programs, **settings):
        self.calls.append(settings)
        if settings["seed"] in self.fail:
            raise RunError("no start reached a finite density") if settings["seed"] % 2 else ValueError("broken")
        out.mkdir()
        if settings["seed"] in self.stop:
            (out / "manifest.json").write_text('{"status": "running"}')
            raise Interrupted("SIGTERM came")
        return self._finish(out)

    def resume(self, path, report, advance, stop, programs):
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
        jobs,
        folder,
        engine.calibrate,
        engine.resume,
        **{"summary": lambda run: {"p_sre_24_breast": 0.4, "p_sre_24_breast_low": 0.3, "p_sre_24_breast_high": 0.5}}
        | more,
    )


def index_of(folder):
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
    rows = index_of(tmp_path)
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
    with pytest.raises(Interrupted):
        go(jobs, tmp_path, Engine(stop=[1]))
    assert [r["status"] for r in index_of(tmp_path)] == ["finished", "waiting", "waiting"]
    again = Engine()
    go(jobs, tmp_path, again)
    assert [p.name for p in again.resumed] == [jobs[1].id] and [c["seed"] for c in again.calls] == [2]
    assert {r["status"] for r in index_of(tmp_path)} == {"finished"}


def test_a_folder_that_is_in_the_way_is_not_touched(inputs, tmp_path):
    job = Job(**inputs)
    (tmp_path / job.id).mkdir()
    (tmp_path / job.id / "notes.txt").write_text("mine")
    table = go([job], tmp_path, Engine())
    assert table["status"][0] == "failed" and (tmp_path / job.id / "notes.txt").exists()


def test_a_job_on_which_another_process_works_is_no_failure(inputs, tmp_path):
    class Locked(Engine):
        def calibrate(self, *given, **more):
            raise LockedError("another process works on this run")

    table = go([Job(**inputs)], tmp_path, Locked())
    assert table["status"].tolist() == ["running"] and table["sentence"][0] == "another process works on this run"
    assert go([Job(**inputs)], tmp_path, Engine())["status"].tolist() == ["finished"]


def test_shards_share_the_jobs_and_one_folder(inputs, tmp_path):
    jobs, engines = [Job(seed=s, **inputs) for s in range(7)], [Engine() for _ in range(3)]
    for i, engine in enumerate(engines, 1):
        table = go(jobs, tmp_path, engine, shard=(i, 3))
    assert sorted(c["seed"] for e in engines for c in e.calls) == list(range(7))
    assert all(2 <= len(e.calls) <= 3 for e in engines)
    assert table["seed"].tolist() == list(range(7)) and set(table["status"]) == {"finished"}
    with pytest.raises(OsteobayesError, match="shard 4/3"):
        go(jobs, tmp_path, Engine(), shard=(4, 3))


def test_a_batch_whose_time_is_over_begins_no_job(inputs, tmp_path):
    engine = Engine()
    with pytest.raises(Interrupted, match="0 of 1 jobs are done"):
        go([Job(**inputs)], tmp_path, engine, stop=Stop(0))
    assert engine.calls == [] and [r["status"] for r in index_of(tmp_path)] == ["waiting"]


def test_an_index_is_made_again_and_merges_folders(inputs, tmp_path):
    jobs = [Job(seed=s, name=f"job {s}", **inputs) for s in (0, 1, 2)]
    go(jobs[:2], tmp_path / "a", Engine(fail=[1]))
    go(jobs[1:], tmp_path / "b", Engine())
    (tmp_path / "a" / "index.csv").unlink()
    (tmp_path / "a" / f"{'0' * 16}.json").write_text("{half")
    assert index(tmp_path / "a")["status"].tolist() == ["finished", "failed"]
    both = index(tmp_path / "a", tmp_path / "b", out=tmp_path / "all", page=batch_page)
    assert both["status"].tolist() == ["finished"] * 3 and sorted(both["seed"]) == [0, 1, 2]
    assert [r["name"] for r in index_of(tmp_path / "all")] == both["name"].tolist()
    page = (tmp_path / "all" / "index.html").read_text()
    assert "3 jobs: 3 finished" in page and page.count("0.40 [0.30, 0.50]") == 3
    with pytest.raises(OsteobayesError, match="no such folder"):
        index(tmp_path / "c")
    with pytest.raises(OsteobayesError, match="no job of a batch"):
        index(tmp_path)


def test_names_and_sentences_of_strangers_are_text_in_the_page(inputs, tmp_path):
    class Hostile(Engine):
        def calibrate(self, *given, **more):
            raise RunError("<img src=x onerror=alert(1)>")

    go([Job(name="<script>alert(1)</script>", **inputs)], tmp_path, Hostile(), page=batch_page)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page and "&lt;img" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


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


def test_axes_of_a_matrix(tmp_path):
    (tmp_path / "batch.yaml").write_text("""\
format: 1
matrix:
  cancers: [[breast]]
  variant: {full: {model: full}, plain: {}}
  without: [[], [lipton2000]]
  weights: [{}, {stopeck2010_136: 0.5}]
""")
    jobs = load_batch(tmp_path / "batch.yaml")
    assert len({j.id for j in jobs}) == 8
    assert jobs[0].name == "breast full seed0" and jobs[0].chosen.model == "full"
    assert jobs[-1].name == "breast plain without lipton2000 stopeck2010_136*0.5 seed0"
    assert jobs[-1].chosen.without == ("lipton2000",) and jobs[-1].chosen.weights == (("stopeck2010_136", 0.5),)


def test_the_command_lists_and_refuses(tmp_path, capfd):
    (tmp_path / "batch.yaml").write_text("format: 1\njobs: [{name: one, cancers: [breast]}]\n")

    def osteobayes(*words):
        return guarded(lambda: app(list(words)))

    assert osteobayes("batch", str(tmp_path / "batch.yaml"), "--dry-run") == 0
    assert capfd.readouterr().out.endswith(" one\n")
    assert osteobayes("batch", str(tmp_path / "batch.yaml"), "--shard", "3/2") == 1
    assert "--shard 3/2: give i/n" in capfd.readouterr().err
    (tmp_path / "bad.yaml").write_text("format: 1\njobs: [{nome: one}]\n")
    assert osteobayes("batch", str(tmp_path / "bad.yaml")) == 2
    assert "bad.yaml:2: jobs[0].nome" in capfd.readouterr().err
    assert osteobayes("index", str(tmp_path)) == 1
    assert "no job of a batch" in capfd.readouterr().err


TINY = {
    "chains": 2, "draws": 30, "tune": 20, "block": 5, "prior_draws": 10, "starts": 1, "search_iterations": 20, "grid": (28.0, 40, 1),
}  # fmt: skip


@pytest.mark.slow
def test_workers_of_a_cluster_do_the_jobs_and_a_lost_one_loses_nothing(two_studies, tmp_path):
    """Four fits and a poisoned one in the processes of a Dask cluster, one of which is killed while it works."""
    jobs = [Job(seed=s, settings=TINY, data=two_studies, name=f"job {s}") for s in range(4)]
    bad = tmp_path / "bad.yaml"
    bad.write_text("format: 1\nparameters:\n  - {name: frailtyy, sd: 1}\n")
    killed = []

    def kill_one(folder, table):  # called after every job that ends: the first time, kill a worker that is at work
        if "finished" in set(table["status"]) and not killed:
            others = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
            busy = max(others, key=lambda p: sum(p.cpu_times()[:2]))
            killed.append(busy.pid)
            busy.kill()

    table = run_batch(
        [*jobs, Job(overlay=bad, settings=TINY, data=two_studies, name="poisoned")],
        tmp_path / "all",
        engine="local",
        page=kill_one,
    )
    assert killed and table["status"].tolist() == ["finished"] * 4 + ["failed"]
    assert "frailtyy" in table["sentence"][4]
    again = run_batch(jobs[:1], tmp_path / "alone", engine="local")
    one, other = (Run.load(tmp_path / f / jobs[0].id).blocks.arrays() for f in ("all", "alone"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert again["status"].tolist() == ["finished"]


def test_an_engine_that_does_not_answer_is_a_sentence(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "ANSWER_S", 0.5)
    with pytest.raises(OsteobayesError, match=r"no Dask scheduler answers there.*give `local` or its address"):
        run_batch([Job(**inputs)], tmp_path, engine="tcp://127.0.0.1:1")
    with pytest.raises(OsteobayesError, match="no Dask scheduler answers there"):
        run_batch([Job(**inputs)], tmp_path, engine="nonsense://x")
