"""The solver on the cells of all shipped evidence: accuracy in nats, cost of value and gradient, against plain diffrax.

uv run python benchmarks/solve.py [--json] [--model core|full] [--repeats 30] [--draws 20]

Medians of repeats in one process. Cells: those of every `fit` row of the evidence that the model can use, and those of the default
predictions, lesions and systemic skeletons both. The last line with ``--json`` is one JSON object:

cells, skeletons       distinct lesions and skeletons solved
error_nats             largest difference of the log likelihood from tight adaptive steps (Dopri8, rtol 1e-9, exposures every
                       0.44 d) over draws around the posterior mode (of its Laplace covariance)
error_nats_sd          standard deviation of that difference: what remains when a constant is taken off
value_ms, grad_ms      a scalar of all curves, and its value and gradient by every sampled parameter that acts on cells
density_grad_ms        value and gradient of the whole log density (trajectories, hazards, likelihood, priors)
plain_diffrax_grad_ms  the same scalar by Tsit5, rtol 1e-6, longest step 1.75 d, one solve a column under vmap,
                       RecursiveCheckpointAdjoint; only on the same distinct cells
matched_diffrax_grad_ms  the same by Bosh3 at the default method's steps, all columns in one solve, DirectAdjoint
dedup_factor           cost of a gradient that solves every arm member on its own over that of the distinct cells
compile_s, warm_start_s  value and gradient of the scalar: trace and compile; the same again from the persistent cache
"""

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np

from osteobayes import solve
from osteobayes.cycle import CYCLE_PARAMETERS, Cell, Grid, Regimen, pack
from osteobayes.cycle.cells import actions
from osteobayes.cycle.dynamics import Columns, Reference, State, field
from osteobayes.fit import start
from osteobayes.fit.hmc import Sampler
from osteobayes.fit.run import Settings, build_model, held_sites
from osteobayes.model import likelihood
from osteobayes.model.transform import constrain, unconstrain
from osteobayes.paths import shipped
from osteobayes.precision import devices, jit
from osteobayes.predict import _default_questions
from osteobayes.schema import CANCERS
from osteobayes.solve.adaptive import integrate, lines

FINE = 16
"""Solver steps a week of the reference."""
CURVES = ("burden", "flux", "osteoblasts", "mineral", "tgfb", "skeleton_flux")


def median_ms(function, *arguments, repeats):
    """Median milliseconds of a compiled function."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(seconds)


def scalar_of(path):
    """A scalar that every curve of every cell moves."""
    total = sum(jnp.log(getattr(path, name)).mean(axis=0).sum() for name in CURVES)
    return total + jnp.log(path.burden[-1]).sum() + path.growth[-1].sum()


def members(model):
    """Cells of every member of every arm of the fitted evidence, with repetitions."""
    table = model.packed.table
    found = []
    for (study, arm), _ in table.groupby(["study", "arm"]):
        s = model.evidence.studies[study]
        for cancer, regimen, _ in s.members(arm):
            if cancer in CANCERS:  # a registry of all cancers has no cell
                found.append(
                    Cell(cancer, Regimen.parse(regimen or "placebo", model.catalogue), s.population.pretreatment)
                )
    return found


def plain_diffrax(model, cells):
    """``f(moved, rest)``: the scalar by one adaptive diffrax solve a column, vmapped."""
    full = pack(cells, model.catalogue, model.grid, full=True)
    true = pack(cells, model.catalogue, model.grid)
    masks = np.zeros(full.module.shape)  # columns of `full` are in the order of the cells
    masks[:, np.asarray(true.lesion)[: true.module.shape[1]]] = np.asarray(true.module)
    arrays = full._replace(module=jnp.asarray(masks))
    n, grid = len(cells), model.grid

    def scalar(moved, rest):
        entry = solve.at_entry(rest | moved, model.potencies, arrays)
        y0 = entry.path
        exposure = {k: d.exposure for k, d in arrays.drugs.items()}

        def column(y, p, ref, columns, exposed, coefficient):
            def one(x):
                return x[..., None]

            drugs_at = lines(grid.steps, jax.tree.map(one, exposed), joined=True)
            p, ref, columns, coefficient, y = jax.tree.map(one, (p, ref, columns, coefficient, y))
            if not columns.immune.shape[0]:
                raise AssertionError
            return integrate(
                lambda t, y: field(y, actions(drugs_at(t), coefficient), p, ref, columns), y, grid.days,
                method="tsit5", rtol=1e-6, atol=1e-8, longest=1.75, adjoint="checkpoint", max_steps=4096,
            ).path  # fmt: skip

        lesion = jax.vmap(column, in_axes=(State(*([0] * 8), *([-1] * 7)), 0, 0, 0, -1, -1), out_axes=-1)
        cut = lambda tree: jax.tree.map(lambda x: x[..., :n], tree)  # noqa: E731
        ref = Reference(*(x[:n] for x in entry.reference[:-1]))
        columns = Columns(entry.columns.lesion[:n], entry.columns.backbone[:n], *entry.columns[2:])
        a = lesion(cut(y0), cut(entry.p), ref, columns, cut(exposure), cut(entry.coefficient))

        # the skeletons carry module states that nothing reads, so that one program serves both
        rest_of = lambda tree: jax.tree.map(lambda x: x[..., n:], tree)  # noqa: E731
        s = entry.p["net_growth"].shape[0] - n
        idle = {k: jnp.ones((*np.shape(getattr(y0, k))[:-1], s)) for k in State._fields[8:]}
        y_skeleton = State(*(x[n:] for x in y0[:8]), **idle)
        off = Columns(jnp.zeros(s), jnp.ones(s), *(jnp.zeros(s),) * 3)
        ref = Reference(*(x[n:] for x in entry.reference[:-1]))
        b = lesion(y_skeleton, rest_of(entry.p), ref, off, rest_of(exposure), rest_of(entry.coefficient))
        a, b = (jax.tree.map(lambda x: x[:, ..., 0, :] if x.ndim > 2 else x, t) for t in (a, b))
        total = sum(jnp.log(x).mean(axis=0).sum() for x in (jnp.exp(a.log_N), a.C * a.Z, a.B, a.Z, a.G))
        skeleton = jnp.log(b.C * b.Z).mean(axis=0)[full.skeleton_of].sum()
        return total + skeleton + a.log_N[-1].sum() + a.y[-1].sum()

    return scalar


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", choices=("core", "full"), default="core")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--no-plain", action="store_true", help="leave plain diffrax out (it is slow)")
    asked = parser.parse_args()
    say = lambda *text: print(*text, file=sys.stderr if asked.json else sys.stdout, flush=True)  # noqa: E731
    say(devices(), platform.platform(), {p: metadata.version(p) for p in ("jax", "diffrax", "numpyro")})
    cache = tempfile.mkdtemp(prefix="osteobayes-benchmark-")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    model = build_model(shipped("datasets"), shipped("priors"), None, Settings(select="all", model=asked.model))
    questions = [
        Cell(cancer, Regimen.parse(r, model.catalogue))
        for cancer, _, regimens in _default_questions(model, None)
        for r in regimens
    ]
    cells = list(dict.fromkeys([*model.packed.cells, *questions]))
    data = model.data | {"cells": model.pack(cells), "discrepancy": jnp.asarray(model.discrepancy_design(cells))}
    skeletons = int(data["cells"].skeleton.shape[0])
    say(f"{model}; {len(cells)} cells, {skeletons} skeletons, {len(model.grid.steps)} steps; {asked.repeats} repeats")
    result = {"model": asked.model, "cells": len(cells), "skeletons": skeletons}

    # the mode, and draws around it
    data["fixed"] = model.sampling_data["fixed"]
    draw = model.draw_prior(jax.random.key(5), data)
    centre = model.priors.centre(model.coords, data["hyper"])
    flat, unravel = jax.flatten_util.ravel_pytree(unconstrain(model.sampled, {n: centre[n] for n in model.sampled}))

    def sites(z):
        return data["fixed"] | constrain(model.sampled, unravel(z))

    density = Sampler(model, method=model.method)

    def finite(z):
        values, slopes = density.values_and_grads(z, data)
        solved = np.isfinite(values)
        return np.where(solved, values, 1e10), np.where(solved[:, None], slopes, 0.0)

    # as `calibrate` does: the standard deviations of effects are held (with them the joint density has no maximum)
    held = held_sites(model)
    free = np.concatenate([np.full(int(np.prod(i.shape)), n not in held) for n, i in sorted(model.sampled.items())])
    mode = start.search(finite, [np.asarray(flat)], free, 1, 2000)[0]
    say(
        f"mode: log density {mode.log_density:.2f}, largest gradient {np.abs(finite(mode.z[None])[1][0][free]).max():.3f}"
    )
    rng = np.random.default_rng(0)
    points = [mode.z, *rng.multivariate_normal(mode.z, mode.covariance, asked.draws - 1)]

    fine_grid = Grid(model.grid.output_days, model.grid.outputs, FINE)
    fine = pack(cells, model.catalogue, fine_grid, model.full)

    def log_likelihood(z, arrays, grid, method, rtol):
        values = model.values(sites(z), data)
        cycle = {k: values[k] for k in (*CYCLE_PARAMETERS, *model.potencies[1:])}
        path = solve.trajectories(cycle, model.potencies, arrays, grid, method, rtol, full=model.full)
        hazards = model.hazards_of(path, values, arrays, data["discrepancy"])
        expected = likelihood.expected(values, hazards, data, data["years"])
        return sum(
            (likelihood.log_lik(f, data["observed"][f], a) * data["weights"][f]).sum() for f, a in expected.items()
        )

    default = jit(lambda z, c: log_likelihood(z, c, model.grid, "runge_kutta", 0.0))
    tight = jit(lambda z, c: log_likelihood(z, c, fine_grid, "diffrax_tight", 1e-9))
    error = np.array([float(default(z, data["cells"]) - tight(z, fine)) for z in map(jnp.asarray, points)])
    result |= {"error_nats": float(np.abs(error).max()), "error_nats_sd": float(error.std())}
    say(
        f"error of the log likelihood, {len(points)} draws: largest {result['error_nats']:.4f}, SD {result['error_nats_sd']:.4f} nats"
    )

    # cost
    values = model.values(draw, data)
    cycle = {k: values[k] for k in (*CYCLE_PARAMETERS, *model.potencies[1:])}
    moved = {k: v for k, v in cycle.items() if model.priors[k].sampled}
    rest = {k: v for k, v in cycle.items() if k not in moved}

    def scalar(moved, arrays, method):
        return scalar_of(solve.trajectories(rest | moved, model.potencies, arrays, model.grid, method, full=model.full))

    def compiled(function, *arguments):
        begun = time.perf_counter()
        program = jit(function).lower(*arguments).compile()
        return program, time.perf_counter() - begun

    gradient = jax.value_and_grad(lambda m, c: scalar(m, c, "runge_kutta"))
    program, result["compile_s"] = compiled(gradient, moved, data["cells"])
    jax.clear_caches()
    program, result["warm_start_s"] = compiled(gradient, moved, data["cells"])
    result["grad_ms"] = median_ms(program, moved, data["cells"], repeats=asked.repeats)
    value, _ = compiled(lambda m, c: scalar(m, c, "runge_kutta"), moved, data["cells"])
    result["value_ms"] = median_ms(value, moved, data["cells"], repeats=asked.repeats)
    result["density_grad_ms"] = median_ms(density, jnp.asarray(mode.z), data, repeats=asked.repeats)
    say({k: round(v, 2) for k, v in result.items() if k.endswith(("_ms", "_s"))})
    repeated = members(model)
    many = model.pack(repeated)
    again, _ = compiled(gradient, moved, many)
    result["arm_members"] = len(repeated)
    distinct = model.pack(list(dict.fromkeys(repeated)))
    once, _ = compiled(gradient, moved, distinct)
    each = [median_ms(f, moved, c, repeats=asked.repeats) for f, c in ((again, many), (once, distinct))]
    result["dedup_factor"] = each[0] / each[1]
    say(f"{len(repeated)} arm members {each[0]:.1f} ms, {distinct.cancer.shape[0]} distinct {each[1]:.1f} ms")
    if not asked.no_plain:
        matched, _ = compiled(jax.value_and_grad(lambda m, c: scalar(m, c, "diffrax_fixed")), moved, data["cells"])
        result["matched_diffrax_grad_ms"] = median_ms(matched, moved, data["cells"], repeats=asked.repeats)
        if asked.model == "core":
            plain = plain_diffrax(model, cells)
            function, seconds = compiled(jax.value_and_grad(lambda m: plain(m, rest)), moved)
            result["plain_diffrax_compile_s"] = seconds
            result["plain_diffrax_grad_ms"] = median_ms(function, moved, repeats=asked.repeats)
            a, b = program(moved, data["cells"]), function(moved)
            result["plain_difference"] = float(abs(a[0] - b[0]))
    for name, x in result.items():
        say(f"{name:26s} {x if isinstance(x, str | int) else round(x, 4)}")
    if asked.json:
        print(json.dumps(result))


if __name__ == "__main__":
    logging.getLogger("jax").setLevel(logging.ERROR)
    main()
