"""Effective draws per second of several samplers on one model, in one run.

`uv run --all-extras python benchmarks/sampling.py [--cancer breast] [--draws 200] [--tune 150] [--only nuts ...] [--json]`

One row a sampler: wall time with compiling and the search for optima, smallest bulk and tail effective size and largest R-hat
over all sampled scalars, effective draws per minute of wall time, divergences; for approximations Pareto k and the effective
number of draws by their importance ratios instead. `--json`: the last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import osteobayes as ob
from osteobayes.fit import Settings
from osteobayes.fit.run import build_model
from osteobayes.fit.samplers import SAMPLERS, fit
from osteobayes.paths import shipped
from osteobayes.precision import enable_compile_cache


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cancer", nargs="*", default=["breast"])
    parser.add_argument("--select", default="core")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tune", type=int, default=150)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="samplers, as backend:name, or calibrate")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    enable_compile_cache()
    settings = Settings(cancers=tuple(asked.cancer) or None, select=asked.select)
    model = build_model(shipped("datasets"), shipped("priors"), None, settings)
    print(model)
    size = {"draws": asked.draws, "tune": asked.tune, "chains": asked.chains}
    rows = []
    for name in ["calibrate", *(":".join(k) for k in SAMPLERS)]:
        if asked.only and name not in asked.only:
            continue
        begun = time.perf_counter()
        row: dict = {"sampler": name}
        try:
            if name == "calibrate":
                with tempfile.TemporaryDirectory() as folder:
                    run = ob.calibrate(out=Path(folder) / "run", cancers=settings.cancers, select=asked.select, **size)
                    found = run.diagnostics
            else:
                backend, sampler = name.split(":")
                found = fit(model, backend, sampler, **size).diagnostics
        except Exception as error:  # a sampler that fails is a result
            row |= {"failed": f"{type(error).__name__}: {error}"[:200], "wall_s": time.perf_counter() - begun}
        else:
            row["wall_s"] = time.perf_counter() - begun
            keep = ("max_rhat", "min_ess_bulk", "min_ess_tail", "divergences", "pareto_k", "effective_draws")
            row |= {k: found[k] for k in keep if k in found}
            least = row.get("effective_draws", min(row["min_ess_bulk"] or 0.0, row["min_ess_tail"] or 0.0))
            row["effective_per_minute"] = 60.0 * least / row["wall_s"]
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    if asked.json:
        print(json.dumps({"cancer": asked.cancer, "select": asked.select, **size, "samplers": rows}))


if __name__ == "__main__":
    main()
