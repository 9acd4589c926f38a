"""Cost of one gradient of the joint density, and of the trajectories alone by solver: medians of repeats in one run.

uv run python benchmarks/gradient.py [REPEATS]
"""

import platform
import statistics
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp

from osteobayes import solve
from osteobayes.cycle import CYCLE_PARAMETERS
from osteobayes.fit.nuts import Sampler
from osteobayes.fit.run import Settings, build_model
from osteobayes.model.transform import unconstrain
from osteobayes.paths import shipped
from osteobayes.precision import devices, jit


def timed(name, function, *arguments, repeats):
    """Compile, then print seconds to compile and the median of the repeats in milliseconds."""
    begun = time.perf_counter()
    compiled = jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - begun
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - begun)
    median = 1e3 * statistics.median(seconds)
    print(
        f"{name:45s} compile {compile_s:6.1f} s   median {median:8.2f} ms   min {1e3 * min(seconds):8.2f} ms",
        flush=True,
    )
    return median


def main(repeats: int) -> None:
    print(devices(), platform.platform(), {p: metadata.version(p) for p in ("jax", "diffrax", "numpyro")})
    model = build_model(shipped("datasets"), shipped("priors"), None, Settings())
    data, sampler = model.sampling_data, Sampler(model)
    print(model, f"; grid {model.grid}; {repeats} repeats")
    draw = model.draw_prior(jax.random.key(5), data)
    z = jax.flatten_util.ravel_pytree(unconstrain(model.sampled, {n: draw[n] for n in model.sampled}))[0]
    timed("joint density: value and gradient", sampler._kernel["value_and_grad"], z, data, repeats=repeats)
    values = model.values(draw, data)
    cycle = {k: values[k] for k in (*CYCLE_PARAMETERS, *model.potencies[1:])}
    free = {k: v for k, v in cycle.items() if model.priors[k].sampled}

    def scalar(moved, method):
        path = solve.trajectories(cycle | moved, model.potencies, data["cells"], model.grid, method)
        return sum(jnp.log(x).mean() for x in (path.burden, path.flux, path.mineral, path.skeleton_flux))

    found = {}
    for method in ("runge_kutta", "diffrax_fixed"):
        timed(f"trajectories, {method}: value", lambda v, m=method: scalar(v, m), free, repeats=repeats)
        found[method] = timed(
            f"trajectories, {method}: gradient", jax.grad(lambda v, m=method: scalar(v, m)), free, repeats=repeats
        )
    print(f"gradient, diffrax_fixed / runge_kutta: {found['diffrax_fixed'] / found['runge_kutta']:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
