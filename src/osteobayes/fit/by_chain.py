"""Runs of other samplers than that of `calibrate`: each chain is kept when it is finished, and one that was interrupted starts again."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from osteobayes.errors import RunError
from osteobayes.fit import result
from osteobayes.fit.programs import Programs
from osteobayes.fit.run import Report, Run
from osteobayes.fit.samplers import APPROXIMATIONS, SAMPLERS, fit
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import load_arrays, save_arrays, whole, write_json
from osteobayes.model.transform import unconstrain
from osteobayes.schema import did_you_mean

FOLDER = "chains"
STATS = ("diverging", "n_steps", "acceptance_rate", "energy")
"""Statistics that diagnostics take; missing where a sampler does not tell them."""


def check(algorithm: str) -> None:
    """Refuse what no run can be made with.

    Raises
    ------
    RunError
        If it is no sampler, or an approximation.
    """
    known = ["/".join(pair) for pair in SAMPLERS if pair not in APPROXIMATIONS]
    if algorithm not in known:
        if tuple(algorithm.split("/")) in APPROXIMATIONS:
            raise RunError(f"{algorithm} is an approximation, which has no run; use `osteobayes.fit.fit(model, ...)`")
        raise RunError(f"there is no sampler {algorithm!r}; {did_you_mean(algorithm, known)}")


def run_chains(run: Run, report: Report, stop: Stop, programs: Programs) -> Run:
    """Every chain that is not there yet, one after another, then the result.

    Parameters
    ----------
    run
        A run whose manifest is written.
    report
        Called with sentences; says which chains start again.
    stop
        Asked before every chain whether to go on.
    programs
        As of :func:`osteobayes.fit.calibrate`.

    Raises
    ------
    Interrupted
        If ``stop`` says so: between chains.
    """
    settings, model, begun = run.settings, run.model, time.time()
    stop.run = run.path
    backend, _, name = settings.algorithm.partition("/")
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    sampler = programs.enter(model, settings, settings.sampler, run.manifest["prior_only"])
    run._memory["programs"] = programs.kept
    if run.manifest["prior_only"] is None:
        write_json(run.path / "manifest.json", run.manifest | {"prior_only": model.prior_only})
        run.__dict__.pop("manifest")
    lasted = 0.0
    for c in range(settings.chains):
        file, mark = folder / f"{c}.npz", folder / f"{c}.begun"
        if file.exists() and whole(file):
            continue
        if mark.exists():
            report(
                f"chain {c + 1} was begun and not finished: {settings.algorithm} cannot go on within a chain, so it starts again"
            )
        stop.check(run.path, f"{c} of {settings.chains} chains are kept", lasted)
        mark.touch()
        tick = time.monotonic()
        seed = settings.seed * 1000 + c
        with stop.patiently():
            found = fit(model, backend, name, settings.draws, settings.tune, 1, seed, settings.target, report)
            save_arrays(file, _flat(found.tree, model))
        mark.unlink()
        lasted = time.monotonic() - tick
    kept = [load_arrays(folder / f"{c}.npz") for c in range(settings.chains)]
    draws = np.concatenate([k.pop("draws") for k in kept])
    stats = {k: np.concatenate([one[k] for one in kept]) for k in kept[0]}
    timings = dict(run.manifest["timings"])
    timings["wall_s"] = timings.get("wall_s", 0.0) + time.time() - begun
    report("summarising the draws")
    result.finish(run, sampler, draws, stats, None, timings)
    write_json(run.path / "manifest.json", run.manifest | {"status": "finished", "timings": timings})
    for attribute in ("manifest", "diagnostics"):
        run.__dict__.pop(attribute, None)
    return run


def _flat(tree: Any, model: Any) -> dict[str, np.ndarray]:
    """Draws of one chain in unconstrained space [chain, draw, parameter], and its statistics."""
    posterior = tree["posterior"].to_dataset()
    sites = {n: jnp.asarray(posterior[n].to_numpy()) for n in model.sampled}
    draws = jax.vmap(jax.vmap(lambda s: ravel_pytree(unconstrain(model.sampled, s))[0]))(sites)
    told = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else {}
    shape = draws.shape[:2]
    stats = {k: told[k].to_numpy().astype(float) if k in told else np.full(shape, np.nan) for k in STATS}
    stats["diverging"] = np.nan_to_num(stats["diverging"]).astype(bool)
    return {"draws": np.asarray(draws)} | stats
