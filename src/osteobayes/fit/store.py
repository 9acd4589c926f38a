"""Files of a run: written whole or not at all; draws in blocks, one file of them once the run is finished.

A block's file has the draws and what the sampler said of them, and is written first; then the chains' states and how many blocks there are
go to one of two files in turn. So whenever a process ends, the newest state whose blocks are all whole says where to go on, and what
stands behind it is made again: it comes out the same.
"""

import errno
import io
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from osteobayes.errors import LockedError, RunError

DAMAGED = (zipfile.BadZipFile, ValueError, EOFError, KeyError, OSError, MemoryError)
"""What NumPy raises of a file that is not whole."""
LOCK = "lock"
"""File of a run that the process which works on it holds locked."""
SUFFIXES = (".yaml", ".csv", ".json", ".md")
"""Files of datasets and priors that a run keeps."""
MOST_FILES, MOST_BYTES = 20_000, 2**29
"""What the inputs of a run may unpack to at most."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all (temporary name, fsync, rename).

    Raises
    ------
    RunError
        If the disk is full; what was there before is unchanged.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"{path}: the disk is full ({len(content) / 1e6:.1f} MB did not fit); what was written before is whole: make room, "
            "then resume the run (or repeat the command)"
        ) from error


def _sync(folder: Path) -> None:
    """The names in a folder reach the disk (where folders can be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems sync no folders
        if error.errno in FULL:
            raise
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """JSON with sorted keys."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name, in NumPy's format (no pickle)."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Inverse of :func:`save_arrays`."""
    with np.load(path, allow_pickle=False) as content:
        return {k: content[k] for k in content.files}


def _whole(path: Path) -> dict[str, np.ndarray] | None:
    try:
        return load_arrays(path)
    except DAMAGED:
        return None


def whole(path: Path) -> bool:
    """Whether a file of arrays can be read (or there is none)."""
    return not path.exists() or _whole(path) is not None


@contextmanager
def locked(run: Path, take_over: bool = False) -> Iterator[None]:
    """The run is ours until the block ends, or this process does.

    Parameters
    ----------
    run
        The run folder.
    take_over
        Remove a lock that is there first: for shared disks where the system keeps no locks, and a process that ended left its file.

    Raises
    ------
    LockedError
        If another process has it.
    """
    if take_over:
        (run / LOCK).unlink(missing_ok=True)
    try:
        with filelock.FileLock(run / LOCK, timeout=0):
            yield
    except filelock.Timeout as error:
        raise LockedError(
            f"{run}: another process works on this run; wait for it, or stop it. Where none does (on a shared disk without "
            "locks a process that ended leaves its lock), use --take-over"
        ) from error


@dataclass(frozen=True)
class Blocks:
    """The blocks of a run.

    A block's file has ``draws`` [chain, iteration, parameter] (unconstrained), ``phase`` [1] and ``stat_<name>`` [chain, iteration]; the
    file of a finished run the same of all blocks, ``phase`` [block].
    """

    folder: Path

    @property
    def _files(self) -> list[tuple[int, int, Path]]:
        """First and last block of each file, in order, without files whose blocks another has."""
        found: list[tuple[int, int, Path]] = []
        for path in self.folder.glob("[0-9]*.npz"):
            first, _, last = path.stem.partition("-")
            found.append((int(first), int(last or first), path))
        found.sort(key=lambda f: (f[0], -f[1]))
        kept: list[tuple[int, int, Path]] = []
        for one in found:
            if not kept or one[1] > kept[-1][1]:
                kept.append(one)
        return kept

    def _state_file(self, blocks: int) -> Path:
        return self.folder / f"state_{blocks % 2}.npz"

    @property
    def _states(self) -> list[tuple[int, Path]]:
        """How many blocks were done when each state was written; the newest first."""
        found = []
        for path in self.folder.glob("state_*.npz"):
            try:
                with np.load(path, allow_pickle=False) as content:
                    found.append((int(content["blocks"]), path))
            except DAMAGED:
                continue
        return sorted(found, reverse=True)

    def __len__(self) -> int:
        states = self._states
        return states[0][0] if states else 0

    def state(self) -> dict[str, np.ndarray]:
        """The chains' states after the last block."""
        return {k: v for k, v in load_arrays(self._states[0][1]).items() if k != "blocks"}

    def append(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
        """Add a block, and the states after it."""
        i = len(self)
        save_arrays(self.folder / f"{i:04d}.npz", arrays)
        save_arrays(self._state_file(i + 1), {**state, "blocks": np.array(i + 1)})

    def arrays(self, *names: str) -> dict[str, np.ndarray]:
        """Arrays of all blocks (default: everything), along iterations; ``phase`` along blocks."""
        count, parts = len(self), []
        for _, last, path in self._files:
            if last < count:
                with np.load(path, allow_pickle=False) as content:
                    parts.append({k: content[k] for k in names or content.files})
        if not parts:
            raise RunError(f"{self.folder}: there is no block yet")
        return {k: np.concatenate([p[k] for p in parts], axis=int(k != "phase")) for k in parts[0]}

    def merge(self) -> None:
        """Make one file of all blocks."""
        if len(self) > 1:
            save_arrays(self.folder / f"0000-{len(self) - 1:04d}.npz", self.arrays())
        kept = {path for _, _, path in self._files}
        for path in self.folder.glob("[0-9]*.npz"):
            if path not in kept:
                path.unlink()

    def mend(self, report: Callable[[str], None]) -> None:
        """Go back to the newest state whose blocks are all whole; what stands behind it is deleted, with a sentence.

        A block without its state (the process ended between the two) is made again without one.
        """
        for part in self.folder.glob("*.part"):
            part.unlink()
        ends, bad = [0], []  # numbers of blocks at which a whole file ends, without a gap
        for first, last, path in self._files:
            if first != ends[-1]:
                bad.append(f"{ends[-1]:04d}.npz")
                break
            if _whole(path) is None:
                bad.append(path.name)
                break
            ends.append(last + 1)
        states = {path: _whole(path) for path in self.folder.glob("state_*.npz")}
        bad += sorted(path.name for path, content in states.items() if content is None)
        done = {path: int(content["blocks"]) for path, content in states.items() if content is not None}
        count = max((n for n in done.values() if n in ends), default=0)
        if bad:
            report(f"{self.folder}: missing or not whole: {', '.join(bad)}; the run goes on after {count} blocks")
        for path in states:
            if not 0 < done.get(path, 0) <= count:
                path.unlink()
        for path in self.folder.glob("[0-9]*.npz"):
            if int(path.stem.partition("-")[0]) >= count:
                path.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the inputs of a run: plain files with known endings, inside the folder, and not too much of them.

    Raises
    ------
    RunError
        If the archive cannot be read, or holds anything else.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            total = sum(e.file_size for e in entries)
            if len(entries) > MOST_FILES or total > MOST_BYTES:
                raise RunError(f"{archive}: {len(entries)} files of {total / 2**20:.0f} MiB are no inputs of a run")
            for e in entries:
                parts = e.filename.split("/")
                plain = stat.S_IFMT(e.external_attr >> 16) in (0, stat.S_IFREG)
                if (
                    not plain
                    or {"", ".", ".."} & set(parts)
                    or set(e.filename) & set("\\:\0")
                    or not parts[-1].endswith(SUFFIXES)
                ):
                    raise RunError(f"{archive}: unsafe name {e.filename!r}; it was not made by osteobayes")
            content.extractall(folder)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise RunError(f"{archive} cannot be read ({error}); the inputs of the run are lost: fit it again") from error
