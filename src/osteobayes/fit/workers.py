"""Chains side by side: in threads of this process, or each in a process that keeps one core busy.

XLA spreads the many small operations of one gradient over a pool of threads that all chains of a process share. Two chains in
one process on two cores took 35 ms a gradient each, the same two in single-threaded processes 20 ms (`benchmarks/chains.py`).
A worker process keeps no state between blocks: it is sent a chain's state and sends back what `Sampler.run_block` returns, as
arrays (NumPy's npz format, no pickle).
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from osteobayes.errors import RunError
from osteobayes.fit.geometry import Arrays
from osteobayes.fit.hmc import Block, ChainState, Sampler, state_arrays, state_from
from osteobayes.model import Data


class Chains(Protocol):
    """Runs one block of every chain."""

    def __call__(self, states: Sequence[ChainState], coordinates: Sequence[Arrays], adapt: bool) -> list[Block]:
        """Blocks of all chains, in order, each in its own coordinates (:mod:`osteobayes.fit.geometry`)."""
        ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_threads(sampler: Sampler, data: Data, workers: int) -> Iterator[Chains]:
    """All chains in this process."""
    with ThreadPoolExecutor(workers) as pool:

        def run(states: Sequence[ChainState], coordinates: Sequence[Arrays], adapt: bool) -> list[Block]:
            return list(pool.map(lambda s, g: sampler.run_block(s, data | {"geometry": g}, adapt), states, coordinates))

        yield run


@contextmanager
def in_processes(run_folder: Path, workers: int, prior_only: Future[tuple[str, ...]]) -> Iterator[Chains]:
    """Each chain in turn in one of ``workers`` single-threaded processes.

    The first starts at once, and compiles the block as soon as ``prior_only`` is known; the others start when it has, and read
    the block from the compilation cache (without a cache all start at once and each compiles its own).

    Parameters
    ----------
    run_folder
        Folder with the inputs and the manifest.
    workers
        Processes.
    prior_only
        Names of the sites that are not sampled (`Model.prior_only`).

    Raises
    ------
    RunError
        If a process ends before it answers (what it printed stands on standard error).
    """
    environment = os.environ | {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from osteobayes.fit.workers import main; main()", str(run_folder)]
    processes: list[subprocess.Popen] = []
    lock, over = Lock(), Event()

    def launch() -> None:
        with lock:
            if not over.is_set():
                process = subprocess.Popen(
                    [*command, str(len(processes))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
                processes.append(process)

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

    def compile_in(some: Sequence[subprocess.Popen]) -> None:
        for process in some:
            with alive(process):
                _send(process.stdin, {"prior_only": np.array(prior_only.result(), dtype=str)})
        for process in some:
            with alive(process):
                _receive(process.stdout)

    def start() -> None:
        cached = bool(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
        if cached:
            compile_in(processes)
        for _ in range(1, workers):
            launch()
        compile_in(processes[1 if cached else 0 :])

    def ask(i: int, state: ChainState, coordinates: Arrays, adapt: bool) -> Block:
        process = processes[i]
        where = {f"geometry_{k}": np.asarray(v) for k, v in coordinates.items()}
        with alive(process):
            _send(process.stdin, state_arrays(state) | where | {"adapt": np.array(adapt)})
            answer = _receive(process.stdout)
        stats = {k.removeprefix("stat_"): v for k, v in answer.items() if k.startswith("stat_")}
        return state_from(answer, state), answer["z"], stats

    launch()
    with ThreadPoolExecutor(workers) as pool:
        started = pool.submit(start)

        def run(states: Sequence[ChainState], coordinates: Sequence[Arrays], adapt: bool) -> list[Block]:
            started.result()

            def share(i: int) -> dict[int, Block]:
                return {c: ask(i, states[c], coordinates[c], adapt) for c in range(i, len(states), workers)}

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

    The first message names the sites that are not sampled; the first answer says that the block is compiled.
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
    model.__dict__["prior_only"] = tuple(str(n) for n in _receive(pipe_in)["prior_only"])
    sampler = run.settings.sampler(model)
    data = model.sampling_data
    sampler.compile(data, ("block",))
    _send(pipe_out, {})
    like = jax.eval_shape(sampler.plain_state)
    while True:
        try:
            asked = _receive(pipe_in)
        except EOFError:
            return
        coordinates = {
            k.removeprefix("geometry_"): jnp.asarray(v) for k, v in asked.items() if k.startswith("geometry_")
        }
        state, z, stats = sampler.run_block(
            state_from(asked, like), data | {"geometry": coordinates}, bool(asked["adapt"])
        )
        _send(pipe_out, state_arrays(state) | {"z": z} | {f"stat_{k}": v for k, v in stats.items()})


def main() -> None:
    """Entry of a worker process: the run folder and the number of the worker."""
    serve(Path(sys.argv[1]), int(sys.argv[2]))
