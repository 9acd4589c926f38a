"""SIGKILL at any moment loses nothing: after resuming, all draws are those of an uninterrupted run, of a fit and of a batch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from osteobayes.batch import index
from osteobayes.fit import Run

pytestmark = pytest.mark.slow

MOMENTS, SEED = 20, 20261127
STAGES = ("before the temporary write", "mid-write", "before the rename", "after the rename")

PROGRAM = """
import os, signal, sys
from pathlib import Path

what, data, out, *where = sys.argv[1:]
from osteobayes import batch
from osteobayes.fit import calibrate, resume, store
from osteobayes.precision import enable_compile_cache

enable_compile_cache()
TINY = dict(chains=2, draws=30, tune=20, block=5, prior_draws=10, starts=1, search_iterations=20, grid=(28.0, 40, 1), processes=1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if where:
    stage, name = where
    write, replace = store.write_atomically, os.replace

    def written(path, content):
        if path.name == name and stage == "before the temporary write":
            die()
        if path.name == name and stage == "mid-write":
            path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])
            die()
        write(path, content)

    def renamed(a, b):
        if Path(b).name == name and stage == "before the rename":
            die()
        replace(a, b)
        if Path(b).name == name and stage == "after the rename":
            die()

    store.write_atomically = batch.write_atomically = written
    store.os.replace = renamed

out = Path(out)
if what == "batch":
    jobs = [batch.Job(seed=s, settings=TINY, data=Path(data)) for s in range(3)]
    batch.run_batch(jobs, out, summary=None)
elif (out / "manifest.json").exists():
    if '"finished"' not in (out / "manifest.json").read_text():
        resume(out)
else:
    calibrate(data, out=out, **TINY)
print("done")
"""


@pytest.fixture(scope="module", params=["fit", "batch"])
def whole(request, tmp_path_factory, two_studies):
    """What is run, an uninterrupted one with warm programs, and how long it took."""
    folder = tmp_path_factory.mktemp(request.param)

    def go(out, seconds=None, *where):
        """Run it until it ends, or is killed after some seconds or at a place; True if it was done."""
        command = [sys.executable, "-c", PROGRAM, request.param, str(two_studies), str(out), *where]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"NPROC": "1"}
        )
        try:
            printed = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed = process.communicate()[0]
        assert process.returncode in (0, -signal.SIGKILL), printed
        return process.returncode == 0

    assert go(folder / "cold")
    begun = time.perf_counter()
    assert go(folder / "whole")
    return go, folder, time.perf_counter() - begun


def runs_of(path):
    return sorted(p.parent for p in path.rglob("manifest.json"))


def same(one, other):
    """Draws, warm-up included, statistics and posteriors are equal to the last bit; files are the same ones."""
    ones, others = runs_of(one), runs_of(other)
    assert [p.relative_to(one) for p in ones] == [p.relative_to(other) for p in others] and ones
    for a, b in zip(map(Run.load, ones), map(Run.load, others), strict=True):
        kept, again = a.blocks.arrays(), b.blocks.arrays()
        assert kept.keys() == again.keys()
        for name in kept:
            np.testing.assert_array_equal(kept[name], again[name])
        for group in ("posterior", "log_likelihood", "posterior_predictive"):
            for name, x in a.tree[group].to_dataset().items():
                np.testing.assert_array_equal(x, b.tree[group][name])
        files = [{p.relative_to(r.path).as_posix() for p in r.path.rglob("*") if p.is_file()} for r in (a, b)]
        assert files[0] == files[1] and len(files[0]) <= 40
    if (one / "index.csv").exists():
        tables = [index(p).drop(columns="wall_s") for p in (one, other)]
        assert tables[0].equals(tables[1]) and set(tables[0]["status"]) == {"finished"} and len(tables[0]) == 3


def test_killed_at_any_moment(whole):
    go, folder, seconds = whole
    moments = np.random.default_rng(SEED).uniform(0.0, seconds, MOMENTS)

    def one(i):
        out, moment = folder / f"moment{i}", moments[i]
        while go(
            out, moment
        ):  # done before it was killed (the machine was busier when it was timed): that shows nothing
            shutil.rmtree(out)
            moment *= 0.8
        return go(out)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(one, range(MOMENTS)))
    for i in range(MOMENTS):
        same(folder / "whole", folder / f"moment{i}")


def test_killed_at_a_write(whole, request):
    go, folder, _ = whole
    places = [(s, "0003.npz") for s in STAGES] + [("after the rename", "state_0.npz"), ("mid-write", "manifest.json")]
    if (folder / "whole" / "index.csv").exists():
        places.append(("before the temporary write", "index.csv"))
    else:
        places.append(("before the temporary write", "diagnostics.json"))

    def one(i):
        out = folder / f"place{i}"
        killed = not go(out, None, *places[i])
        return killed and go(out)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, range(len(places))))
    assert all(found), [p for p, ok in zip(places, found, strict=True) if not ok]
    for i in range(len(places)):
        same(folder / "whole", folder / f"place{i}")


def test_a_signal_ends_the_command_where_it_can_go_on(two_studies, tmp_path):
    """Exit code 75 after the block that was computed; `--max-time` too; `resume` goes on to the table of predictions."""
    out, begun = tmp_path / "run", time.perf_counter()
    words = ["calibrate", "--only-data", two_studies, "--chains", "2", "--draws", "60", "--tune", "60", "--out", out]
    command = [sys.executable, "-m", "osteobayes.cli", *map(str, words)]

    def end(process, seconds):
        printed = process.communicate(timeout=seconds)[0]
        return process.returncode, printed

    def start(*more):
        return subprocess.Popen(
            [*command, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"NPROC": "1"},
        )

    process = start()
    while not list((out / "blocks").glob("state_*")) and time.perf_counter() - begun < 600:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, printed = end(process, 120)
    assert code == 75 and "SIGTERM" in printed and f"osteobayes resume {out}" in printed.replace("\n", ""), printed
    done = len(Run(out).blocks)
    assert 0 < done < 6
    command[3:] = ["resume", str(out)]
    code, printed = end(start("--max-time", "0"), 600)
    assert code == 75 and "the 0 minutes it was given are over" in printed, printed
    assert len(Run(out).blocks) == done
    code, printed = end(start(), 600)
    assert code in (0, 3) and "run folder" in printed, printed
    (out / "predictions.json").unlink()
    assert end(start(), 600)[0] in (0, 3) and (out / "predictions.json").is_file()
    code, printed = end(start(), 600)
    assert code == 1 and "nothing to resume" in printed
