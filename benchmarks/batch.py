"""Fits of simulated datasets per minute by every engine, each with all cores (or the accelerator), in one run.

uv run python benchmarks/batch.py [--json] [--datasets 64] [--engines loop lanes-1 lanes-2 dask] [--cancer breast] [--grid 28 40 2]
    [--chains 4] [--draws 200] [--tune 200] [--width N] [--split P] [--drawn FILE]

loop: one process a core, each a loop over the compiled fit (as `osteobayes recover`). dask: the same in Dask worker processes, one a
core. lanes-N: one program over all fits and chains on N devices (simulated ones on a CPU; on an accelerator what JAX finds), in P processes
(Python's lock: the work between calls takes one core of each). Datasets are
drawn beforehand (kept in FILE, if it is given). Each engine starts with an empty cache; its time to compile is apart. Fits are equal in all
(same datasets, same sampler, so many draws), so draws are equally effective; the least bulk ESS is told.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


def study_of(planned: dict, drawn: Path) -> Any:
    """A recovery study whose datasets come from a file, and which adds no draws."""
    import jax

    from osteobayes.recovery import Study

    with np.load(drawn) as file:
        kept = dict(file)  # a file of arrays cannot be read by several threads

    class Drawn(Study):
        ess_goal = 0.0

        def dataset(self, number: int):
            leaves, structure = jax.tree.flatten(self.data)
            new = [kept[f"leaf_{i}"][number] if f"leaf_{i}" in kept else x for i, x in enumerate(leaves)]
            return {}, jax.tree.unflatten(structure, new), 0

        def values_of(self, draws, number, data):
            return {}

        def _rows(self, truth, found):
            return []

    return Drawn(planned, tuple(kept["prior_only"].tolist()))


def draw(planned: dict, file: Path) -> None:
    """Draw the datasets: leaves of the data that differ, and the sites that are only drawn from the prior."""
    import jax

    from osteobayes.precision import enable_compile_cache
    from osteobayes.recovery import Study

    enable_compile_cache()
    study = Study(planned)
    every = [[np.asarray(x) for x in jax.tree.leaves(study.dataset(n)[1])] for n in range(planned["datasets"])]
    same = [all(np.array_equal(x, one[0], equal_nan=True) for x in one[1:]) for one in zip(*every, strict=True)]
    leaves = {f"leaf_{i}": np.stack([x[i] for x in every]) for i, equal in enumerate(same) if not equal}
    np.savez(file, prior_only=np.array(study.model.prior_only), **leaves)


def fit_some(planned: dict, drawn: Path, folder: Path, numbers: list[int]) -> dict:
    """A loop over the compiled fit."""
    from osteobayes.precision import enable_compile_cache

    enable_compile_cache()
    begun = time.perf_counter()
    study = study_of(planned, drawn)
    study.compile()
    compiled = time.perf_counter() - begun
    return told([study.fit(n, folder / f"{n:03d}") for n in numbers], begun, compiled, [])


def told(fits: list, begun: float, compiled: float, calls: list) -> dict:
    """What a process says of its fits."""
    names = ("min_ess_bulk", "max_rhat", "divergences", "draws")
    result = {
        "compile_s": compiled,
        "fit_s": time.perf_counter() - begun - compiled,
        "fits": [
            {"error": f"{type(f).__name__}: {f}"} if isinstance(f, Exception) else {k: f[k] for k in names}
            for f in fits
        ],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        "calls": {},
    }
    for program in sorted({c.program for c in calls}):
        mine = [c for c in calls if c.program == program]
        result["calls"][program] = {
            "calls": len(mine), "full": sum(c.lanes for c in mine) / sum(c.width for c in mine),
            "median_s": statistics.median(c.seconds for c in mine), "in_all_s": sum(c.seconds for c in mine),
            "useful": sum(c.useful for c in mine) / len(mine),
        }  # fmt: skip
    return result


def worker(engine: str, planned: dict, drawn: Path, folder: Path, width: int, part: int, parts: int) -> None:
    """Body of a process."""
    if engine == "loop":
        print(json.dumps(fit_some(planned, drawn, folder, list(range(part, planned["datasets"], parts)))))
        return
    import jax

    from osteobayes.fit.lanes import Lanes
    from osteobayes.precision import enable_compile_cache

    enable_compile_cache()
    begun = time.perf_counter()
    with jax.default_device(jax.devices("cpu")[0]):  # but for the programs over lanes
        study = study_of(planned, drawn)
        numbers = list(range(part, planned["datasets"], parts))
        lanes = Lanes(study.sampler, [study.dataset(n)[1] for n in numbers], width or None, jax.devices())
        lanes.compile()
        compiled = time.perf_counter() - begun
        print(f"compiled in {compiled:.0f} s", file=sys.stderr, flush=True)
        threading.Thread(target=progress, args=(lanes,), daemon=True).start()
        fits = study.fit_side_by_side(numbers, folder, lanes)
    print(json.dumps(told(fits, begun, compiled, lanes.calls)))


def progress(lanes: Any) -> None:
    """Say now and then how far the lanes are."""
    begun = time.perf_counter()
    while True:
        time.sleep(20)
        of = {p: [c.seconds for c in lanes.calls if c.program == p] for p in ("gradients", "block")}
        what = ", ".join(f"{len(x)} {p} {sum(x):.1f} s" for p, x in of.items())
        print(f"{time.perf_counter() - begun:.0f} s: {what}", file=sys.stderr, flush=True)


def with_dask(planned: dict, drawn: Path, folder: Path) -> list[dict]:
    """Each worker process of a local cluster fits its share, one task a worker (as jobs of `osteobayes batch --engine local`)."""
    import dask
    from distributed import Client, LocalCluster

    from osteobayes.fit.workers import cores

    n = cores()
    single = {
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OSTEOBAYES_CACHE": str(folder / "cache"),
    }
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": single}),
        LocalCluster(n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.upload_file(__file__)
        names = list(client.scheduler_info()["workers"])
        futures = [
            client.submit(
                fit_some,
                planned,
                drawn,
                folder / "fits",
                list(range(i, planned["datasets"], n)),
                workers=[names[i]],
                pure=False,
            )
            for i in range(n)
        ]
        return client.gather(futures)


def measure(engine: str, planned: dict, drawn: Path, width: int, split: int = 1) -> dict:
    """Run one engine."""
    from osteobayes.fit.workers import cores

    parts = cores() if engine == "loop" else split
    flags = os.environ.get("XLA_FLAGS", "")
    if engine.startswith("lanes-"):
        flags += f" --xla_force_host_platform_device_count={engine.removeprefix('lanes-')}"
    with tempfile.TemporaryDirectory() as folder:
        more = {"XLA_FLAGS": flags, "OSTEOBAYES_CACHE": f"{folder}/cache"}
        if engine.startswith("lanes-") and parts > 1:
            more |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.8 / parts:.2f}"}
        if engine == "loop":
            more |= {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if engine == "dask":
            found = with_dask(planned, drawn, Path(folder))
        else:
            words = [
                sys.executable,
                __file__,
                "--worker",
                engine,
                json.dumps(planned),
                str(drawn),
                f"{folder}/fits",
                str(width),
            ]
            running = [
                subprocess.Popen([*words, str(i), str(parts)], env=os.environ | more, stdout=subprocess.PIPE, text=True)
                for i in range(parts)
            ]
            found = [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]
    fits = [f for one in found for f in one["fits"]]
    slowest = max(one["fit_s"] for one in found)
    return {
        "engine": engine, "fits_per_minute": 60 * len(fits) / slowest, "fit_s": slowest,
        "compile_s": max(one["compile_s"] for one in found), "peak_gib": sum(one["peak_gib"] for one in found),
        "failed": [f["error"] for f in fits if "error" in f], "min_ess_bulk": min((f["min_ess_bulk"] for f in fits if "error" not in f), default=None),
        "divergences": sum(f.get("divergences", 0) for f in fits), "calls": found[0]["calls"],
    }  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        engine, planned, drawn, folder, *numbers = sys.argv[2:]
        worker(engine, json.loads(planned), Path(drawn), Path(folder), *map(int, numbers))
        return
    if sys.argv[1:2] == ["--draw"]:
        draw(json.loads(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--datasets", type=int, default=64)
    parser.add_argument("--engines", nargs="*", default=["loop", "lanes-1", "lanes-2", "dask"])
    parser.add_argument("--cancer", default="breast")
    parser.add_argument("--grid", type=float, nargs=3, default=[28, 40, 2])
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--drawn", type=Path, help="file of the datasets (drawn if it is not there)")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tune", type=int, default=200)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--width", type=int, default=0, help="lanes of one call (default: as many as memory holds)")
    parser.add_argument(
        "--split", type=int, default=1, help="processes that share the fits of lanes-N, and the accelerator"
    )
    chosen = parser.parse_args()
    from osteobayes.fit import Settings
    from osteobayes.precision import devices
    from osteobayes.recovery import plan

    days, outputs, steps = chosen.grid
    settings = Settings(
        cancers=(chosen.cancer,), grid=(days, int(outputs), int(steps), None), draws=chosen.draws, tune=chosen.tune,
        chains=chosen.chains, starts=chosen.starts,
    )  # fmt: skip
    planned = plan(chosen.datasets, settings)
    results = []
    drawn = chosen.drawn or Path(tempfile.mkdtemp()) / "drawn.npz"
    if not drawn.exists():
        words = [sys.executable, __file__, "--draw", json.dumps(planned), str(drawn)]
        subprocess.run(words, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True)
    for engine in chosen.engines:
        found = measure(engine, planned, drawn, chosen.width, chosen.split)
        results.append(found)
        if not chosen.json:
            print(
                f"{engine}: {found['fits_per_minute']:.2f} fits a minute, compiled in {found['compile_s']:.0f} s, {found['peak_gib']:.1f} GiB, "
                f"least bulk ESS {found['min_ess_bulk']}, {found['divergences']} divergences, {len(found['failed'])} failed {sorted(set(found['failed']))[:5]}; "
                f"calls and how full they were: {found['calls']}",
                flush=True,
            )
    if chosen.json:
        print(json.dumps({"machine": str(devices()), "plan": planned, "engines": results}))
    elif len(results) > 1:
        first = results[0]["fits_per_minute"]
        print("ratios to the first: " + ", ".join(f"{r['engine']} {r['fits_per_minute'] / first:.2f}" for r in results))


if __name__ == "__main__":
    main()
