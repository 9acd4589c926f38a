"""From draws to the stored result: groups of the DataTree, coverage beside sharpness, and whether the run may be used."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array

from osteobayes.evidence.pack import Packed
from osteobayes.fit import start
from osteobayes.fit.diagnose import convergence, energy_fraction, learned, verdict
from osteobayes.fit.hmc import MOST_STEPS, Sampler
from osteobayes.fit.run import Run, _workers
from osteobayes.fit.store import write_json
from osteobayes.fit.workers import peak_gib
from osteobayes.model import Data, Model, likelihood
from osteobayes.model.transform import constrain
from osteobayes.precision import jit

CHUNK = 50
LEVEL = 0.9


def evaluate(model: Model, data: Data, sites: dict[str, Array], key: Array) -> dict[str, Any]:
    """Everything stored for one draw: parameters, log likelihoods, replicates, log priors, failures."""
    values = model.values(sites, data)
    expected, failed = model.expected(values, data)
    out: dict[str, Any] = {"failures": failed, "log_likelihood": {}, "replicate": {}}
    for i, (family, a) in enumerate(expected.items()):
        observed = data["observed"][family]
        out["log_likelihood"][family] = likelihood.log_lik(family, observed, a)
        out["replicate"][family] = likelihood.simulate(family, jax.random.fold_in(key, i), a, observed)
    out["log_prior"] = model.priors.log_density(sites, data["hyper"], model.coords)
    out["values"] = {n: v for n, v in values.items() if model.priors[n].sampled}
    return out


def map_draws(function: Callable[[Any], Any], arguments: Any, n: int, workers: int) -> Any:
    """``function`` over the leading axis in chunks, chunks side by side; NumPy out."""
    return map_chunks(jit(lambda chunk: jax.lax.map(function, chunk)), arguments, n, workers)


def map_chunks(mapped: Callable[[Any], Any], arguments: Any, n: int, workers: int) -> Any:
    """A compiled function of chunks (leading axis in and out) over all draws, chunks side by side; NumPy out."""
    size = min(CHUNK, n)
    padded = -(-n // size) * size
    index = np.minimum(np.arange(padded), n - 1).reshape(-1, size)
    chunks = [jax.tree.map(lambda x, i=i: jnp.asarray(x)[i], arguments) for i in index]
    first = jax.tree.map(np.asarray, mapped(chunks[0]))  # compiles once, before the threads
    with ThreadPoolExecutor(workers) as pool:
        rest = list(pool.map(lambda c: jax.tree.map(np.asarray, mapped(c)), chunks[1:]))
    return jax.tree.map(lambda *x: np.concatenate(x)[:n], first, *rest)


def outcome_frame(packed: Packed) -> pd.DataFrame:
    """One row a printed number (components of a split and landmarks of a curve are rows of their own)."""
    from osteobayes.schema import COMPONENTS

    rows = []
    for family, ids in packed.outcomes.items():
        if family == "patient_set":
            continue  # no number of its own
        for i, outcome in enumerate(ids):
            info = packed.table.loc[outcome]
            base = {
                "outcome": outcome,
                "family": family,
                "index": i,
                "block": info["block"],
                "study": info["study"],
                "arm": info["arm"],
                "endpoint": info["endpoint"],
                "cancer": info["cancer"],
                "patients": info["patients"],
            }
            if family == "split":
                rows += [
                    base | {"outcome": f"{outcome}/{c}", "part": k}
                    for k, c in enumerate(COMPONENTS)
                    if packed.observed[family][i, k] > 0
                ]
            elif family in ("incidence_curve", "landmark", "interval"):
                years = packed.column(family, "years")[i]  # pyright: ignore[reportOptionalSubscript]
                rows += [
                    base | {"outcome": f"{outcome}/{y * 12:.0f}mo", "part": k}
                    for k, y in enumerate(years)
                    if np.isfinite(y)
                ]
            else:
                rows.append(base | {"part": -1})
    return pd.DataFrame(rows)


def _size(packed: Packed, row: Any) -> float:
    """Patients (events, for a split) that a count is of."""
    names = {"split": "total", "interval": "at_risk"}
    sizes = packed.column(row.family, names.get(row.family, "n"))
    if sizes is None:
        return 1.0
    return float(sizes[row.index] if sizes.ndim == 1 else sizes[row.index, row.part])


def _column(packed: Packed, row: Any, replicate: dict[str, np.ndarray]) -> np.ndarray:
    x = replicate[row.family][:, row.index] if row.part < 0 else replicate[row.family][:, row.index, row.part]
    return likelihood.as_printed(row.family, row.block, x, _size(packed, row))


def _printed_width(packed: Packed, row: Any, observed: float) -> float:
    """Width of the 90 % interval that the printed number itself carries: its printed interval, or the binomial one."""
    if row.family in (*likelihood.COUNTS, "split", "interval"):
        n = _size(packed, row)
        return 2 * 1.645 * np.sqrt(max(observed * (1 - observed), 0.5 / n) / n)

    def own(name: str) -> float:
        values = packed.column(row.family, name)
        if values is None:
            return np.nan
        return float(values[row.index] if values.ndim == 1 else values[row.index, row.part])

    se = own("se")
    if np.isfinite(se):
        value = observed if row.block.endswith("difference") else np.log(observed)
        low, high = (likelihood.as_printed(row.family, row.block, value + s * 1.645 * se) for s in (-1, 1))
        return float(high - low)
    if row.family == "landmark":
        return (own("high") - own("low")) * 1.645 / 1.96
    if row.family in ("median", "rate"):
        scale = 12.0 if row.family == "median" else 1.0
        low, high = own("low") * scale, own("high") * scale
        sd = np.log(high / low) / 3.92 if np.isfinite(high) else np.log(observed / low) / 1.96
        return float(observed * (np.exp(1.645 * sd) - np.exp(-1.645 * sd)))
    return np.nan


def coverage(packed: Packed, posterior: dict[str, np.ndarray], prior: dict[str, np.ndarray]) -> pd.DataFrame:
    """Each printed number beside its 90 % posterior and prior predictive intervals (printed scale)."""
    frame = outcome_frame(packed)
    tail = (1 - LEVEL) / 2
    rows = []
    for row in frame.itertuples():
        raw = (
            packed.observed[row.family][row.index] if row.part < 0 else packed.observed[row.family][row.index, row.part]
        )
        observed = float(likelihood.as_printed(row.family, row.block, raw, _size(packed, row)))
        post, pre = _column(packed, row, posterior), _column(packed, row, prior)
        low, mid, high = np.nanquantile(post, [tail, 0.5, 1 - tail])
        p_low, p_high = np.nanquantile(pre, [tail, 1 - tail])
        rows.append(
            {
                "observed": observed, "low": low, "median": mid, "high": high, "inside": bool(low <= observed <= high),
                "prior_low": p_low, "prior_high": p_high, "of_prior": (high - low) / (p_high - p_low),
                "of_printed": (high - low) / _printed_width(packed, row, observed),
            }
        )  # fmt: skip
    return pd.concat([frame, pd.DataFrame(rows)], axis=1)


def _dims(model: Model, name: str, site: bool) -> list[str]:
    return list(model.sites[name].dims if site else model.priors[name].dims)


def labelled(model: Model, values: dict[str, np.ndarray], lead: tuple[str, ...], site: bool) -> xr.Dataset:
    """Draws by name [*lead, ...] as a dataset with the dims of sites, or of parameters."""
    out = {}
    for name, x in values.items():
        dims = _dims(model, name, site)
        out[name] = xr.DataArray(x, dims=[*lead, *dims], coords={d: list(model.coords[d]) for d in dims})
    return xr.Dataset(out)


def _families(model: Model, values: dict[str, np.ndarray], lead: tuple[str, ...]) -> xr.Dataset:
    """One variable a family; each has its own outcome dim because families differ in length."""
    out = {}
    for family, x in values.items():
        ids = list(model.packed.outcomes[family])
        table = model.packed.table.loc[ids]
        dim, *extra = model.outcome_dims(family)
        extra = extra[: x.ndim - len(lead) - 1]
        coords = {dim: ids} | {f"{c}_{family}": (dim, list(table[c])) for c in ("study", "arm", "endpoint", "cancer")}
        out[family] = xr.DataArray(x, dims=[*lead, dim, *extra], coords=coords)
    return xr.Dataset(out)


def finish(
    run: Run,
    sampler: Sampler,
    draws: np.ndarray,
    stats: dict[str, np.ndarray],
    begin: dict[str, np.ndarray] | None,
    timings: dict[str, float],
) -> None:
    """Write `results.nc`, `parameters.csv`, `fit_by_outcome.csv` and `diagnostics.json`.

    Parameters
    ----------
    run
        The run; its model is known.
    sampler
        The compiled density.
    draws, stats
        Unconstrained draws [chain, draw, parameter], and the sampler's statistics of each.
    begin
        Optima that a search found, if there was one.
    timings
        Seconds and GiB so far.
    """
    model, settings = run.model, run.settings
    data = model.sampling_data
    workers = _workers(settings)
    chains, n, _ = draws.shape
    flat = draws.reshape(chains * n, -1)
    seed = jax.random.key(settings.seed + 101)

    def posterior_sites(z: Array, key: Array) -> dict[str, Array]:
        sites = constrain(model.sampled, sampler.unravel(z))
        return model.priors.sample(
            jax.random.fold_in(key, 1), data["hyper"], model.coords, names=model.prior_only, given=sites
        )

    def prior_sites(key: Array) -> dict[str, Array]:
        return model.draw_prior(jax.random.fold_in(key, 3), data)

    def evaluated_at(chunk: Any, data: Data) -> Any:
        return jax.lax.map(lambda a: evaluate(model, data, a[0], jax.random.fold_in(a[1], 2)), chunk)

    keys = jax.random.split(seed, len(flat))
    prior_keys = jax.random.split(jax.random.fold_in(seed, 9), settings.prior_draws)
    sites = jax.tree.map(
        lambda a, b: np.concatenate([a, b]),
        jax.vmap(posterior_sites)(jnp.asarray(flat), keys),  # not compiled as a whole: that takes three times as long
        jax.vmap(prior_sites)(prior_keys),
    )
    # one call for both, so that the program is compiled once
    program = run._memory["programs"].setdefault("evaluate", jit(evaluated_at))
    evaluated = map_chunks(
        lambda chunk: program(chunk, data),
        (sites, jnp.concatenate([keys, prior_keys])),
        len(flat) + settings.prior_draws,
        workers,
    ) | {"sites": sites}
    post = jax.tree.map(lambda x: x[: len(flat)], evaluated)
    pre = jax.tree.map(lambda x: x[len(flat) :], evaluated)
    shaped = jax.tree.map(lambda x: x.reshape(chains, n, *x.shape[1:]), post)
    lead, one = ("chain", "draw"), ("chain", "draw")
    pre_shaped = jax.tree.map(lambda x: x[None], pre)
    names = {v: model.priors[v] for v in post["values"]}
    keep_sites, keep_prior = ({k: v for k, v in x["sites"].items() if k not in names} for x in (shaped, pre_shaped))
    groups = {
        "posterior": xr.merge([labelled(model, shaped["values"], lead, False), labelled(model, keep_sites, lead, True)]),
        "sample_stats": xr.Dataset({k: (lead, v) for k, v in stats.items()} | {"solver_failures": (lead, shaped["failures"])}),
        "log_likelihood": _families(model, shaped["log_likelihood"], lead),
        "log_prior": xr.Dataset({k: (lead, v) for k, v in shaped["log_prior"].items()}),
        "posterior_predictive": _families(model, shaped["replicate"], lead),
        "prior": xr.merge([labelled(model, pre_shaped["values"], one, False), labelled(model, keep_prior, one, True)]),
        "prior_predictive": _families(model, pre_shaped["replicate"], one),
        "observed_data": _families(model, dict(model.packed.observed), ()),
        "constant_data": _families(model, {f: np.asarray(w) for f, w in model.packed.weights.items()}, ()),
    }  # fmt: skip
    tree = xr.DataTree.from_dict({f"/{k}": v for k, v in groups.items()})
    tree.attrs["prior_only"] = list(model.prior_only)
    part = run.path / "results.nc.part"
    tree.to_netcdf(part, engine="h5netcdf")
    part.replace(run.path / "results.nc")
    run.__dict__["tree"] = tree  # reading it again takes as long as writing it
    levels = {n: [list(model.coords[d]) for d in model.priors[n].dims] for n in post["values"]}
    parameters = learned(post["values"], pre["values"], levels)
    parameters.to_csv(run.path / "parameters.csv", index=False, float_format="%.6g")
    table = coverage(model.packed, post["replicate"], pre["replicate"])
    table.to_csv(run.path / "fit_by_outcome.csv", index=False, float_format="%.6g")
    write_json(run.path / "diagnostics.json", diagnose(run, sampler, begin, draws, stats, post, pre, table, timings))


def diagnose(run, sampler, begin, draws, stats, post, pre, table, timings) -> dict[str, Any]:
    """Diagnostics and the sentence that says whether the run may be used."""
    model = run.model
    labels = [
        f"{name}[{','.join(str(i) for i in np.unravel_index(k, site.shape))}]" if site.shape else name
        for name, site in sorted(model.sampled.items())
        for k in range(max(1, int(np.prod(site.shape))))
    ]
    flat = draws.reshape(-1, draws.shape[-1])
    constrained = jax.vmap(lambda z: constrain(model.sampled, sampler.unravel(z)))(jnp.asarray(flat))
    by_label = np.concatenate(
        [np.asarray(constrained[n]).reshape(len(flat), -1) for n in sorted(model.sampled)], axis=1
    )
    by_chain = by_label.reshape(*draws.shape[:2], -1)
    found = convergence(by_chain)
    divergences = int(stats["diverging"].sum())
    failures = int((post["failures"] > 0).sum())
    modes = _modes(draws, begin) if begin else {"nearest_to_chain": []}
    by_family = {
        f: {
            "rows": len(g), "inside": int(g["inside"].sum()), "of_prior": _median(g["of_prior"]), "of_printed": _median(g["of_printed"]),
        }
        for f, g in table.groupby("family", sort=False)
    }  # fmt: skip
    sds = {
        n: {"prior": _quantiles(pre["values"][n]), "posterior": _quantiles(post["values"][n])}
        for n in post["values"]
        if n.endswith("_sd")
    }
    share = float(table["inside"].mean())
    more = ["chains sit in different modes"] if len(set(modes["nearest_to_chain"])) > 1 else []
    usable, sentence = verdict(labels, found, stats["diverging"].size, divergences, failures, more)
    if usable:
        sentence += f"; {share:.0%} of fitted numbers lie inside their 90 % predictive interval."
    bfmi = energy_fraction(stats["energy"])
    peak = max(timings.get("sampling_gib", 0.0), peak_gib(resource.RUSAGE_SELF))
    return {
        "max_rhat": _number(np.max(found.rhat)), "min_ess_bulk": _number(np.min(found.bulk)),
        "min_ess_tail": _number(np.min(found.tail)), "bfmi": [_number(x) for x in bfmi],
        "acceptance_rate": _number(float(stats["acceptance_rate"].mean())), "capped_share": float((stats["n_steps"] >= MOST_STEPS).mean()),
        "divergences": divergences, "solver_failures": failures,
        "coverage_90": {"all": share, "rows": len(table)} | {f: v["inside"] / v["rows"] for f, v in by_family.items()},
        "sharpness": by_family, "between_study_sd": sds, "wall_s": timings.get("wall_s"), "peak_memory_gib": peak,
        "usable": usable, "sentence": sentence, "sampled_scalars": len(labels),
        "posterior_scalars": int(sum(int(np.prod(s.shape)) for s in model.sites.values())),
        "modes": modes,
        "worst": [{"scalar": labels[k], "rhat": _number(found.rhat[k]), "ess_bulk": _number(found.bulk[k])} for k in np.argsort(np.nan_to_num(found.bulk))[:10]],
        "mean_leapfrogs": _number(float(stats["n_steps"].mean())), "constants": model.priors.constants,
    }  # fmt: skip


def _modes(draws: np.ndarray, begin: dict[str, np.ndarray]) -> dict[str, Any]:
    """Optima of the search, and the one that each chain is nearest to."""
    names = ("optima", "log_density", "covariance", "log_weight", "found")
    optima = [start.Optimum(*x) for x in zip(*(begin[n] for n in names), strict=True)]
    nearest = []
    for chain in draws:
        away = [chain.mean(axis=0) - o.z for o in optima]
        distance = [d @ np.linalg.solve(o.covariance, d) for d, o in zip(away, optima, strict=True)]
        nearest.append(int(np.argmin(distance)))
    return {
        "log_density": begin["log_density"].tolist(), "weight": start.weights(optima).tolist(),
        "found": begin["found"].tolist(), "nearest_to_chain": nearest,
    }  # fmt: skip


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _median(x: pd.Series) -> float | None:
    return _number(float(x.median())) if x.notna().any() else None


def _quantiles(x: np.ndarray) -> list[float]:
    return [float(q) for q in np.quantile(x, [0.05, 0.5, 0.95])]
