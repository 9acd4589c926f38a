"""Milliseconds a gradient takes while all chains run: chains as threads of one process against one process a core.

uv run python benchmarks/chains.py      (two short calibrations of everything shipped; about 10 minutes on two cores)
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from osteobayes.fit import calibrate
from osteobayes.fit.workers import cores
from osteobayes.precision import devices, enable_compile_cache


def milliseconds(processes: int, folder: Path) -> list[float]:
    """Wall time of every block but the first, by gradients of the busiest worker."""
    ticks = [time.perf_counter()]
    run = calibrate(
        out=folder, chains=cores(), draws=50, tune=50, starts=2, prior_draws=50, processes=processes,
        advance=lambda done, total, text: ticks.append(time.perf_counter()),
    )  # fmt: skip
    kept = run.blocks.arrays("phase", "stat_n_steps")
    steps = [x.sum(axis=1).max() for x in np.split(kept["stat_n_steps"], len(kept["phase"]), axis=1)]
    return [1e3 * (b - a) / n for a, b, n in zip(ticks[1:], ticks[2:], steps[1:], strict=False)]


def main() -> None:
    print(devices())
    enable_compile_cache()
    medians = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, cores()):
            found = milliseconds(processes, Path(folder) / str(processes))
            medians[processes] = statistics.median(found)
            print(
                f"{processes} process(es), {cores()} chains: {[round(x, 1) for x in found]} ms a gradient, median {medians[processes]:.1f}"
            )
    print(f"ratio {medians[1] / medians[cores()]:.2f}")


if __name__ == "__main__":
    main()
