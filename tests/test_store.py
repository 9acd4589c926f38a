"""Files of a run: whatever ends a process, what was written is whole and the rest is made again."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from osteobayes.errors import Interrupted, OsteobayesError, RunError
from osteobayes.fit import store
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import Blocks, load_arrays, locked, save_arrays, unpack, write_atomically


def a_block(i):
    return {"draws": np.full((2, 5, 3), float(i)), "phase": np.array([i // 2]), "stat_n_steps": np.full((2, 5), i)}


@pytest.fixture
def blocks(tmp_path):
    found = Blocks(tmp_path)
    for i in range(4):
        found.append(a_block(i), {"chain0_state_000": np.array([10.0 * i])})
    return found


def steps(blocks):
    return blocks.arrays()["stat_n_steps"][0, ::5].tolist()


def test_blocks_are_kept_in_order_with_the_last_states(blocks):
    assert len(blocks) == 4 and steps(blocks) == [0, 1, 2, 3]
    assert blocks.arrays("phase")["phase"].tolist() == [0, 0, 1, 1]
    assert blocks.state() == {"chain0_state_000": np.array([30.0])}
    assert blocks.arrays("draws")["draws"].shape == (2, 20, 3)


def test_no_block_yet(tmp_path):
    assert len(Blocks(tmp_path)) == 0
    with pytest.raises(RunError, match="no block yet"):
        Blocks(tmp_path).arrays()


def test_a_finished_run_has_one_file_of_blocks_and_goes_on_from_it(blocks):
    blocks.merge()
    assert sorted(p.name for p in blocks.folder.iterdir()) == ["0000-0003.npz", "state_0.npz", "state_1.npz"]
    blocks.mend(pytest.fail)
    blocks.append(a_block(4), {"chain0_state_000": np.array([40.0])})
    assert steps(blocks) == [0, 1, 2, 3, 4]
    blocks.merge()
    blocks.merge()
    assert steps(blocks) == [0, 1, 2, 3, 4] and len(list(blocks.folder.glob("0*.npz"))) == 1


def test_a_merge_that_was_interrupted_counts_no_block_twice(blocks):
    save_arrays(blocks.folder / "0000-0003.npz", blocks.arrays())  # and the single ones are still there
    assert steps(blocks) == [0, 1, 2, 3]
    blocks.mend(pytest.fail)
    assert steps(blocks) == [0, 1, 2, 3]


def test_a_block_without_its_states_is_made_again_without_a_word(blocks):
    save_arrays(blocks.folder / "0004.npz", a_block(4))
    (blocks.folder / "0005.npz.part").write_bytes(b"half")
    assert steps(blocks) == [0, 1, 2, 3]
    blocks.mend(pytest.fail)
    assert not list(blocks.folder.glob("*.part")) and not (blocks.folder / "0004.npz").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("harm", "left", "named"),
    [
        (lambda f: cut(f / "0003.npz"), 3, "0003.npz"),
        (lambda f: cut(f / "state_0.npz"), 3, "state_0.npz"),
        (lambda f: (f / "0003.npz").write_bytes(b""), 3, "0003.npz"),
        (lambda f: (f / "0001.npz").unlink(), 0, "0001.npz"),
        (lambda f: cut(f / "0001.npz"), 0, "0001.npz"),
        (lambda f: [cut(f / "state_0.npz"), cut(f / "state_1.npz")], 0, "state_0.npz, state_1.npz"),
    ],
    ids=["block cut", "state cut", "block empty", "block missing", "early block cut", "both states cut"],
)
def test_the_run_goes_back_to_the_newest_whole_state(blocks, harm, left, named):
    harm(blocks.folder)
    said = []
    blocks.mend(said.append)
    assert len(blocks) == left and len(said) == 1
    assert named in said[0] and f"after {left} blocks" in said[0]
    for i in range(left, 4):
        blocks.append(a_block(i), {"chain0_state_000": np.array([10.0 * i])})
    assert steps(blocks) == [0, 1, 2, 3] and blocks.state()["chain0_state_000"] == 30.0
    blocks.mend(pytest.fail)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    save_arrays(file, {"a": np.arange(3)})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(RunError, match=r"a\.npz: the disk is full .*make room"):
        save_arrays(file, {"a": np.arange(4)})
    monkeypatch.undo()
    assert load_arrays(file)["a"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_another_error_of_the_disk_passes(tmp_path, monkeypatch):
    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "a", b"a")


HOLD = "import sys, time; from pathlib import Path; from osteobayes.fit.store import locked\nwith locked(Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"


def test_a_second_process_refuses_and_the_lock_of_a_dead_one_does_not_block(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(RunError, match=r"another process works on this run.*--take-over"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path), pytest.raises(RunError), locked(tmp_path):
        pass


def test_a_lock_file_that_stays_is_taken_over(tmp_path, monkeypatch):
    """A disk without locks: the file itself is the lock, and a process on another machine left it."""
    import filelock

    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    (tmp_path / "lock").write_text("99999\nanother-machine\n")
    with pytest.raises(RunError, match="take-over"), locked(tmp_path):
        pass
    with locked(tmp_path, take_over=True):
        pass


def test_a_run_ends_between_blocks_when_its_time_is_over(tmp_path):
    Stop().check(tmp_path, "nothing is kept", 1e9)
    Stop(10).check(tmp_path, "nothing is kept", 60)
    with pytest.raises(
        Interrupted, match=r"the 10 minutes it was given are over; 3 of 9 blocks are kept: continue with"
    ):
        Stop(10).check(tmp_path, "3 of 9 blocks are kept", 601)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_block_and_a_second_does_not(number, tmp_path):
    before = signal.getsignal(number)
    stop, done = Stop(), []
    with stop.signals():
        with stop.patiently():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            done.append("written")
        with pytest.raises(Interrupted, match=f"{signal.Signals(number).name} came; 1 block is kept"):
            stop.check(tmp_path, "1 block is kept")
        with pytest.raises(Interrupted, match="what was written is kept"), stop.patiently():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            done.append("not reached")
    assert done == ["written"] and signal.getsignal(number) is before


def test_a_signal_while_nothing_is_computed_ends_at_once():
    with pytest.raises(Interrupted, match="SIGTERM"), Stop().signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        pytest.fail("the signal did not count")


def test_being_interrupted_is_no_failure_of_a_fit():
    assert not issubclass(Interrupted, Exception) and not issubclass(Interrupted, OsteobayesError)


def an_archive(path, *entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def test_inputs_are_unpacked(tmp_path):
    unpack(
        an_archive(tmp_path / "a.zip", ("priors/therapies/a.yaml", "a: 1\n", 0), ("overlay.yaml", "b", 0o100644)),
        tmp_path / "in",
    )
    assert (tmp_path / "in" / "priors" / "therapies" / "a.yaml").read_text() == "a: 1\n"


@pytest.mark.parametrize(
    "name",
    [
        "../a.yaml",
        "a/../../b.yaml",
        "/etc/a.yaml",
        "a\\..\\b.yaml",
        "C:a.yaml",
        "a//b.yaml",
        "./a.yaml",
        "a.py",
        "a/",
        "a.yaml/",
    ],
)
def test_an_archive_cannot_write_outside_its_folder_nor_anything_but_inputs(tmp_path, name):
    archive = an_archive(tmp_path / "a.zip", ("good.yaml", "x", 0), (name, "x", 0))
    with pytest.raises(RunError, match="unsafe name"):
        unpack(archive, tmp_path / "in")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    archive = an_archive(tmp_path / "a.zip", ("a.yaml", "/etc/passwd", stat.S_IFLNK | 0o777))
    with pytest.raises(RunError, match=r"unsafe name .a\.yaml."):
        unpack(archive, tmp_path / "in")


def test_an_archive_that_swells_is_refused(tmp_path):
    archive = an_archive(tmp_path / "a.zip", *((f"{i}.yaml", bytes(2**27), 0) for i in range(5)))
    assert archive.stat().st_size < 2**21
    with pytest.raises(RunError, match="640 MiB are no inputs of a run"):
        unpack(archive, tmp_path / "in")


def test_an_archive_that_is_cut_is_a_sentence(tmp_path):
    archive = an_archive(tmp_path / "a.zip", ("a.yaml", "x" * 1000, 0))
    cut(archive)
    with pytest.raises(RunError, match=r"cannot be read .*fit it again"):
        unpack(archive, tmp_path / "in")


def test_arrays_of_strangers_are_not_executed(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(tmp_path / "a.npz")
    assert not store.whole(tmp_path / "a.npz")
