"""Fits of simulated datasets per minute by every engine, each with all cores (or the accelerator), in one run.

uv run python benchmarks/batch.py [--json] [--datasets 64] [--engines loop lanes-1 lanes-2] [--cancer breast] [--grid 28 40 2] [--draws 200] [--tune 200]

loop: one process a core, each a loop over the compiled fit (`osteobayes recover`). lanes-N: one program over all fits and chains on N
devices (simulated ones on a CPU, without a number: what JAX finds). Each engine starts with an empty cache; its time to compile is
apart. Fits are equal in all (same datasets, same sampler), so draws of a fit are equally effective; the least bulk ESS is told.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def worker(engine: str, planned: dict, folder: Path, width: int, part: int, parts: int) -> None:
    from osteobayes.precision import enable_compile_cache

    enable_compile_cache()
    from osteobayes.recovery import Study

    study = Study(planned)
    numbers = range(part, planned["datasets"], parts)
    begun = time.perf_counter()
    if engine == "loop":
        study.compile()
        compiled = time.perf_counter() - begun
        fits = [study.fit(n, folder / f"{n:03d}") for n in numbers]
        calls = []
    else:
        from osteobayes.fit.lanes import Lanes

        lanes = Lanes(study.sampler, [study.dataset(n)[1] for n in numbers], width)
        lanes.compile()
        compiled = time.perf_counter() - begun
        fits = study.fit_side_by_side(list(numbers), folder, lanes)
        calls = lanes.calls
    told = ("min_ess_bulk", "max_rhat", "divergences", "draws")
    result = {
        "compile_s": compiled,
        "fit_s": time.perf_counter() - begun - compiled,
        "fits": [{"error": str(f)} if isinstance(f, Exception) else {k: f[k] for k in told} for f in fits],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        "calls": {},
    }
    for program in sorted({c[0] for c in calls}):
        mine = [c for c in calls if c[0] == program]
        result["calls"][program] = [len(mine), sum(c[1] for c in mine) / sum(c[2] for c in mine)]
    print(json.dumps(result))


def measure(engine: str, planned: dict, width: int) -> dict:
    from osteobayes.fit.workers import cores

    parts = cores() if engine == "loop" else 1
    flags = os.environ.get("XLA_FLAGS", "")
    if engine.startswith("lanes-"):
        flags += f" --xla_force_host_platform_device_count={engine.removeprefix('lanes-')}"
    with tempfile.TemporaryDirectory() as folder:
        more = {"XLA_FLAGS": flags, "OSTEOBAYES_CACHE": f"{folder}/cache"}
        if parts > 1:
            more |= {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--worker", engine, json.dumps(planned), f"{folder}/fits", str(width)]
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
        engine, planned, folder, *numbers = sys.argv[2:]
        worker(engine, json.loads(planned), Path(folder), *map(int, numbers))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--datasets", type=int, default=64)
    parser.add_argument("--engines", nargs="*", default=["loop", "lanes-1", "lanes-2"])
    parser.add_argument("--cancer", default="breast")
    parser.add_argument("--grid", type=float, nargs=3, default=[28, 40, 2])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tune", type=int, default=200)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--width", type=int, default=32, help="lanes of one call")
    chosen = parser.parse_args()
    from osteobayes.fit import Settings
    from osteobayes.precision import devices
    from osteobayes.recovery import plan

    days, outputs, steps = chosen.grid
    settings = Settings(
        cancers=(chosen.cancer,), grid=(days, int(outputs), int(steps), None), draws=chosen.draws, tune=chosen.tune,
        starts=chosen.starts,
    )  # fmt: skip
    planned = plan(chosen.datasets, settings)
    results = []
    for engine in chosen.engines:
        found = measure(engine, planned, chosen.width)
        results.append(found)
        if not chosen.json:
            print(
                f"{engine}: {found['fits_per_minute']:.2f} fits a minute, compiled in {found['compile_s']:.0f} s, {found['peak_gib']:.1f} GiB, "
                f"least bulk ESS {found['min_ess_bulk']}, {found['divergences']} divergences, {len(found['failed'])} failed; "
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
