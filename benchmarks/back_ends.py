"""The posteriors of the two back ends beside each other: the log densities of NumPyro's and of PyMC's model, each under the sampler of `calibrate`.

`uv run python benchmarks/back_ends.py FOLDER [--study lipton2000 stopeck2010_136] [--draws 1000]`

Both take the same files, and another seed. The two run side by side, each in a process with one core, and leave their draws in FOLDER (what is
there is not sampled again). Then, for every scalar on the unconstrained scale: z of the difference of means and of standard
deviations, in units of their Monte Carlo standard errors. Goals: both errors at most 5 % of the posterior SD, every |z| < 4, the
95th percentile of |z| < 2.5. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

PARTS = ("numpyro", "pymc")


def sample(part: str, folder: Path, studies: list[str], draws: int) -> None:
    """Draws [chain, draw, scalar], unconstrained, with labels and seconds, as an npz file."""
    import jax
    import jax.numpy as jnp

    from osteobayes.evidence import Evidence
    from osteobayes.fit import Settings, fit
    from osteobayes.model import Model
    from osteobayes.model.transform import unconstrain
    from osteobayes.paths import shipped
    from osteobayes.precision import enable_compile_cache
    from osteobayes.priors import PriorSet

    enable_compile_cache()
    begun = time.time()
    model = Model.build(Evidence.load(shipped("datasets")).select(study=studies), PriorSet.load())
    model = replace(model, method=Settings().method)
    names = sorted(model.sampled)
    labels = [f"{n}[{k}]" for n in names for k in range(max(1, int(np.prod(model.sampled[n].shape))))]
    found = fit(model, part, "calibrate", draws=draws, seed=PARTS.index(part), report=print)
    given = found.tree["posterior"].to_dataset()
    z = jax.vmap(jax.vmap(lambda s: unconstrain(model.sampled, s)))(
        {n: jnp.asarray(given[n].to_numpy()) for n in names}
    )
    x = np.concatenate([np.asarray(z[n]).reshape(*z[n].shape[:2], -1) for n in names], axis=-1)
    diverging = found.diagnostics["divergences"]
    np.savez(folder / f"{part}.npz", x=x, labels=labels, seconds=time.time() - begun, diverging=diverging)


def compare(folder: Path) -> dict:
    """z of means and standard deviations of the two sets of draws."""
    import arviz as az
    import xarray as xr

    stats, out = [], {}
    for part in PARTS:
        with np.load(folder / f"{part}.npz", allow_pickle=False) as f:
            labels, x = [str(s) for s in f["labels"]], f["x"]
            out[part] = {"seconds": float(f["seconds"]), "divergences": int(f["diverging"])}
        d = xr.Dataset({"x": (("chain", "draw", "scalar"), x)})
        one = {"labels": labels, "mean": x.mean(axis=(0, 1)), "sd": x.std(axis=(0, 1), ddof=1)}
        one |= {f"mcse_{m}": az.mcse(d, method=m)["x"].to_numpy() for m in ("mean", "sd")}
        out[part] |= {
            "max_rhat": float(az.rhat(d)["x"].max()),
            "min_ess_bulk": float(az.ess(d)["x"].min()),
            "worst_mcse_of_sd": {m: float((one[f"mcse_{m}"] / one["sd"]).max()) for m in ("mean", "sd")},
        }
        stats.append(one)
    a, b = stats
    if a["labels"] != b["labels"]:
        raise SystemExit("the two back ends sampled different scalars")
    z = {m: (a[m] - b[m]) / np.hypot(a[f"mcse_{m}"], b[f"mcse_{m}"]) for m in ("mean", "sd")}
    every = np.abs(np.concatenate([z["mean"], z["sd"]]))
    worst = {m: a["labels"][int(np.argmax(np.abs(z[m])))] for m in z}
    return out | {
        "scalars": len(a["labels"]), "largest_z": {m: float(np.abs(z[m]).max()) for m in z}, "worst": worst,
        "z_95": float(np.quantile(every, 0.95)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--study", nargs="+", default=["lipton2000", "stopeck2010_136"])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--part", choices=PARTS)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.part:
        return sample(asked.part, asked.folder, asked.study, asked.draws)
    environment = os.environ | {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    rest = ["--study", *asked.study, "--draws", str(asked.draws)]
    running = [
        subprocess.Popen([sys.executable, __file__, str(asked.folder), *rest, "--part", part], env=environment)
        for part in PARTS
        if not (asked.folder / f"{part}.npz").exists()
    ]
    if any(p.wait() for p in running):
        raise SystemExit("a process failed; what it printed stands above")
    found = compare(asked.folder)
    for part in PARTS:
        print(part, found[part])
    print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
