"""Effective draws per second of several samplers on one model, in one run.

`uv run --all-extras python benchmarks/sampling.py [--study lipton2000 stopeck2010_136] [--draws 300] [--tune 300] [--only numpyro:nuts ...] [--json]`

One row a sampler: wall time with compiling and the search for optima, smallest bulk and tail effective size and largest R-hat
over all sampled scalars, effective draws per minute of wall time, divergences; for approximations Pareto k and the effective
number of draws by their importance ratios instead. All on the density that `calibrate` samples (`Settings.method`). Each runs in a process of its
own, so that none finds what another has compiled. `--json`: the last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

from osteobayes.evidence import Evidence
from osteobayes.fit import Settings
from osteobayes.fit.samplers import SAMPLERS, fit
from osteobayes.model import Model
from osteobayes.paths import shipped
from osteobayes.priors import PriorSet

KEPT = ("max_rhat", "min_ess_bulk", "min_ess_tail", "divergences", "pareto_k", "effective_draws")


def row(name: str, studies: list[str], size: dict[str, int]) -> dict:
    """One sampler, in this process."""
    model = Model.build(Evidence.load(shipped("datasets")).select(study=studies), PriorSet.load())
    model = replace(model, method=Settings().method)
    out: dict = {"sampler": name}
    begun = time.perf_counter()
    try:
        found = fit(model, *name.split(":"), **size).diagnostics
    except Exception as error:  # a sampler that fails is a result
        return out | {"failed": f"{type(error).__name__}: {error}"[:200], "wall_s": time.perf_counter() - begun}
    out["wall_s"] = time.perf_counter() - begun
    out |= {k: found[k] for k in KEPT if k in found}
    least = out.get("effective_draws", min(out["min_ess_bulk"] or 0.0, out["min_ess_tail"] or 0.0))
    return out | {"effective_per_minute": 60.0 * least / out["wall_s"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", nargs="+", default=["lipton2000", "stopeck2010_136"])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--tune", type=int, default=300)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="samplers, as backend:name")
    parser.add_argument("--part", help="this one sampler, in this process")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    size = {"draws": asked.draws, "tune": asked.tune, "chains": asked.chains}
    if asked.part:
        print(json.dumps(row(asked.part, asked.study, size)))
        return
    rows = []
    for name in asked.only or [":".join(k) for k in SAMPLERS]:
        command = [sys.executable, __file__, "--part", name, "--study", *asked.study]
        command += [x for k, v in size.items() for x in (f"--{k}", str(v))]
        done = subprocess.run(command, capture_output=True, text=True)
        one = (
            json.loads(done.stdout.splitlines()[-1])
            if done.returncode == 0
            else {"sampler": name, "failed": done.stderr[-200:]}
        )
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in one.items()), flush=True)
        rows.append(one)
    if asked.json:
        print(json.dumps({"studies": asked.study, **size, "samplers": rows}))


if __name__ == "__main__":
    main()
