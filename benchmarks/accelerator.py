"""Gradients a second on every kind of device of this machine, by how many draws are computed side by side.

uv run python benchmarks/accelerator.py [--select core] [--cancer breast] [--lanes 1 64 1024]

A lane is one draw (a chain, or one of many data sets of the same design): the joint density's gradient, vectorised over lanes, with the
sampler's solver. Medians of five calls. On a CPU the program has one core (the sampler gives each chain a core).
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from osteobayes.fit.run import Settings, build_model
from osteobayes.model.emit import numpyro_model
from osteobayes.model.transform import unconstrain
from osteobayes.paths import shipped
from osteobayes.precision import devices, require_float64


def main() -> None:
    from numpyro.infer.util import potential_energy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="core")
    parser.add_argument("--cancer", action="append")
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 64, 1024])
    parser.add_argument("--cpu-lanes", type=int, nargs="*", default=[1, 16])
    chosen = parser.parse_args()
    require_float64()
    print(devices(), flush=True)
    settings = Settings(select=chosen.select, cancers=tuple(chosen.cancer) if chosen.cancer else None)
    model = build_model(shipped("datasets"), shipped("priors"), None, settings)
    print(model, flush=True)
    draws = [model.draw_prior(jax.random.key(i), model.data) for i in range(16)]
    data = model.data | {"fixed": {}}
    names = tuple(model.sites)
    flat = np.stack([ravel_pytree(unconstrain(model.sites, d))[0] for d in draws])
    unravel = ravel_pytree(unconstrain(model.sites, draws[0]))[1]
    emitted = numpyro_model(model, names=names, method=settings.method)
    gradient = jax.value_and_grad(lambda x, d: potential_energy(emitted, (d,), {}, unravel(x)))
    reference = None
    for kind in dict.fromkeys(("cpu", jax.default_backend())):
        device, lanes = jax.devices(kind)[0], chosen.cpu_lanes if kind == "cpu" else chosen.lanes
        options = {"xla_backend_optimization_level": 1} if kind == "cpu" else {}
        placed = jax.device_put(data, device)
        for n in lanes:
            x = jax.device_put(jnp.asarray(np.resize(flat, (n, flat.shape[1]))), device)
            begun = time.perf_counter()
            run = jax.jit(jax.vmap(gradient, in_axes=(0, None)), compiler_options=options).lower(x, placed).compile()
            compiled = time.perf_counter() - begun
            value, slope = jax.block_until_ready(run(x, placed))
            took = []
            for _ in range(5):
                begun = time.perf_counter()
                jax.block_until_ready(run(x, placed))
                took.append(time.perf_counter() - begun)
            middle = statistics.median(took)
            memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
            print(
                f"{kind} ({device.device_kind}), {n} lanes: {1e3 * middle:.1f} ms a call, {n / middle:.1f} gradients a second; "
                f"compiled in {compiled:.0f} s" + (f", peak {memory:.2f} GiB" if memory else ""),
                flush=True,
            )
            found = np.asarray(value)[:1], np.asarray(slope)[:1]
            reference = reference or found
            size = np.abs(reference[1]).max()
            print(
                f"  against the first: value {np.abs(found[0] / reference[0] - 1).max():.1e} relative, "
                f"gradient {np.abs(found[1] - reference[1]).max() / size:.1e} of its largest component",
                flush=True,
            )


if __name__ == "__main__":
    main()
