"""Chains side by side: in threads of this process, or each in a process that keeps one core busy.

XLA spreads the many small operations of one gradient over a pool of threads that all chains of a process share. Two chains in
one process on two cores took 35 ms a gradient each, the same two in single-threaded processes 20 ms (`benchmarks/chains.py`).
A worker process keeps no state between blocks: it is sent a chain's state and sends back what `Sampler.run_block` returns, as
arrays (NumPy's npz format, no pickle).
"""

import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import HMCState

from osteobayes.errors import RunError
from osteobayes.fit.geometry import Arrays
from osteobayes.fit.hmc import PROGRAMS, Block, Sampler, state_arrays, state_from
from osteobayes.model import Data


class Chains(Protocol):
    """Runs one block of every chain."""

    def __call__(self, states: Sequence[HMCState], coordinates: Arrays, longest: float) -> list[Block]:
        """Blocks of all chains, in order, in the same coordinates (:mod:`osteobayes.fit.geometry`), with trajectories of at most such a length."""
        ...


def peak_gib(who: int) -> float:
    """Peak resident memory (``resource.RUSAGE_SELF``: of this process; ``RUSAGE_CHILDREN``: of the largest that has ended)."""
    return resource.getrusage(who).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)


def resident_gib() -> float:
    """Resident memory of this process now (GiB); its peak where the system does not tell."""
    told = Path("/proc/self/statm")
    if not told.exists():
        return peak_gib(resource.RUSAGE_SELF)
    return int(told.read_text().split()[1]) * resource.getpagesize() / 1024**3


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_threads(sampler: Sampler, data: Data, workers: int) -> Iterator[Chains]:
    """All chains in this process."""
    with ThreadPoolExecutor(workers) as pool:

        def run(states: Sequence[HMCState], coordinates: Arrays, longest: float) -> list[Block]:
            where = data | {"geometry": coordinates}
            return list(pool.map(lambda s: sampler.run_block(s, where, longest), states))

        yield run


@contextmanager
def in_processes(
    run_folder: Path,
    workers: int,
    prior_only: Future[tuple[str, ...]],
    gradients: Future[None] | None = None,
    peaks: dict[int, float] | None = None,
) -> Iterator[Chains]:
    """Each chain in turn in one of ``workers`` single-threaded processes.

    What XLA needs to compile it keeps until the process ends, so a process of its own compiles (as soon as ``prior_only`` is
    known) and ends; the others read its programs from the compilation cache. Without a cache each compiles its own block.

    Parameters
    ----------
    run_folder
        Folder with the inputs and the manifest.
    workers
        Processes.
    prior_only
        Names of the sites that are not sampled (`Model.prior_only`).
    gradients
        Set when the cache holds the program for gradients, which this process needs (or when there is no cache).
    peaks
        Filled with the peak memory (GiB) of each worker.

    Raises
    ------
    RunError
        If a process ends before it answers (what it printed stands on standard error).
    """
    environment = os.environ | {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from osteobayes.fit.workers import main; main()", str(run_folder)]
    processes: list[subprocess.Popen] = []
    lock, over = Lock(), Event()

    def launch() -> subprocess.Popen:
        with lock:
            if over.is_set():
                raise CancelledError
            process = subprocess.Popen(
                [*command, str(len(processes))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            processes.append(process)
            return process

    @contextmanager
    def alive(process: subprocess.Popen) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, EOFError) as error:
            code = process.wait()
            raise RunError(
                f"{run_folder}: a sampling process ended (exit code {code}); finished blocks are kept: resume the run, "
                "with `processes` 1 if it happens again (memory?)"
            ) from error

    def send_names(process: subprocess.Popen, names: Sequence[str]) -> None:
        given = {"prior_only": prior_only.result(), "names": names}
        _send(process.stdin, {k: np.array(v, dtype=str) for k, v in given.items()})

    def compile_first() -> None:
        try:
            process = launch()
            with alive(process):
                send_names(process, PROGRAMS)
                for name in PROGRAMS:
                    _receive(process.stdout)
                    if gradients is not None and name == "gradients":
                        gradients.set_result(None)
        except BaseException as error:
            if gradients is not None and not gradients.done():
                gradients.set_exception(error)
            raise
        processes.remove(process)
        process.kill()
        process.wait()

    def start() -> None:
        if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
            compile_first()
        elif gradients is not None:
            gradients.set_result(None)
        for _ in range(workers):
            launch()
        for process in processes:
            with alive(process):
                send_names(process, ("block",))
        for process in processes:
            with alive(process):
                _receive(process.stdout)

    def ask(i: int, state: HMCState, coordinates: Arrays, longest: float) -> Block:
        process = processes[i]
        where = {f"geometry_{k}": np.asarray(v) for k, v in coordinates.items()}
        with alive(process):
            _send(process.stdin, state_arrays(state) | where | {"longest": np.array(longest)})
            answer = _receive(process.stdout)
        if peaks is not None:
            peaks[i] = float(answer["peak_gib"])
        stats = {k.removeprefix("stat_"): v for k, v in answer.items() if k.startswith("stat_")}
        return state_from(answer, state), answer["z"], stats

    with ThreadPoolExecutor(workers) as pool:
        started = pool.submit(start)

        def run(states: Sequence[HMCState], coordinates: Arrays, longest: float) -> list[Block]:
            started.result()

            def share(i: int) -> dict[int, Block]:
                return {c: ask(i, states[c], coordinates, longest) for c in range(i, len(states), workers)}

            found: dict[int, Block] = {}
            for part in pool.map(share, range(workers)):
                found |= part
            return [found[c] for c in range(len(states))]

        try:
            yield run
        finally:
            prior_only.cancel()
            with lock:
                over.set()
            for process in processes:
                process.kill()
                process.wait()


def _send(pipe: BinaryIO | Any, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    content = buffer.getvalue()
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> dict[str, np.ndarray]:
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    content = pipe.read(int.from_bytes(head, "big"))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {k: arrays[k] for k in arrays.files}


def serve(run_folder: Path, worker: int) -> None:
    """Body of a worker process: blocks of chains of a run, asked for on standard input, until that is closed.

    The first message names the sites that are not sampled and the programs to compile; an answer follows each of those.
    """
    pipe_in, pipe_out = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints does not disturb the answers
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[worker % len(mine)]})
    from osteobayes.fit.run import Run
    from osteobayes.precision import enable_compile_cache, require_float64

    require_float64()
    enable_compile_cache()
    run = Run(run_folder)
    model = run.model
    asked = _receive(pipe_in)
    model.__dict__["prior_only"] = tuple(str(n) for n in asked["prior_only"])
    sampler = run.settings.sampler(model)
    data = model.sampling_data
    # one at a time: two would need twice the memory
    sampler.compile(data, [str(n) for n in asked["names"]], at_once=1, ready=lambda name: _send(pipe_out, {}))
    like = jax.eval_shape(sampler.plain_state)
    while True:
        try:
            asked = _receive(pipe_in)
        except EOFError:
            return
        coordinates = {
            k.removeprefix("geometry_"): jnp.asarray(v) for k, v in asked.items() if k.startswith("geometry_")
        }
        where = data | {"geometry": coordinates}
        state, z, stats = sampler.run_block(state_from(asked, like), where, float(asked["longest"]))
        peak = {"peak_gib": np.array(peak_gib(resource.RUSAGE_SELF))}
        _send(pipe_out, state_arrays(state) | peak | {"z": z} | {f"stat_{k}": v for k, v in stats.items()})


def main() -> None:
    """Entry of a worker process: the run folder and the number of the worker."""
    serve(Path(sys.argv[1]), int(sys.argv[2]))
