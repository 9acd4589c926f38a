"""NUTS in saved blocks: one jitted scan over the kernel's own ``sample``; state in, state and draws out.

Warm-up goes through the same compiled block as sampling, so no block after the first compiles.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import potential_energy

from osteobayes.model import Data, Model
from osteobayes.model.emit import numpyro_model

STATS = ("diverging", "n_steps", "acceptance_rate", "energy", "lp", "step_size")
"""Sampler diagnostics kept for every draw."""


@dataclass(frozen=True)
class Sampler:
    """NUTS on the emitted NumPyro model, with data, weights and hyperparameters as arguments.

    Attributes
    ----------
    model
        The joint density.
    warmup
        Number of warm-up iterations.
    target
        Target acceptance probability.
    max_tree_depth
        Doublings of a trajectory at most.
    block
        Iterations of one block.
    """

    model: Model
    warmup: int
    target: float = 0.8
    max_tree_depth: int = 6
    block: int = 25
    _kernel: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        emitted = numpyro_model(self.model)

        def potential_gen(data: Data, plain: bool = False):
            if plain:  # only shapes matter: the first state is filled in by `first_state`
                return lambda z: sum(0.5 * (x**2).sum() for x in jax.tree.leaves(z))
            return lambda z: potential_energy(emitted, (data,), {}, z)

        init, sample = hmc(potential_fn_gen=potential_gen, algo="NUTS")

        def run_block(state: HMCState, data: Data):
            def step(s: HMCState, _):
                s = sample(s, (data,), {})
                stats = (
                    s.diverging,
                    s.num_steps,
                    s.accept_prob,
                    s.energy,
                    -s.potential_energy,
                    s.adapt_state.step_size,
                )
                return s, (ravel_pytree(s.z)[0], dict(zip(STATS, stats, strict=True)))

            return jax.lax.scan(step, state, None, length=self.block)

        def value_and_grad(flat: Array, data: Data):
            return jax.value_and_grad(lambda x: potential_gen(data)(self.unravel(x)))(flat)

        self._kernel.update(init=init, block=jax.jit(run_block), value_and_grad=jax.jit(value_and_grad))

    @property
    def template(self) -> dict[str, Array]:
        """Unconstrained values of the sampled sites, all zero."""
        return {n: jnp.zeros(s.shape) for n, s in self.model.sampled.items()}

    @property
    def unravel(self):
        """Flat unconstrained vector -> values by site."""
        return ravel_pytree(self.template)[1]

    def first_state(self, z: np.ndarray, data: Data, inverse_mass: np.ndarray, key: Array) -> HMCState:
        """State of a chain that starts at ``z`` (flat, unconstrained)."""
        flat = jnp.asarray(z)
        state = self._kernel["init"](
            self.unravel(flat),
            self.warmup,
            step_size=0.3,
            inverse_mass_matrix=jnp.asarray(inverse_mass),
            adapt_mass_matrix=False,
            dense_mass=True,
            target_accept_prob=self.target,
            max_tree_depth=self.max_tree_depth,
            model_args=(data,),
            model_kwargs={"plain": True},
            rng_key=key,
        )
        value, gradient = self.value_and_grad(flat, data)
        state = state._replace(potential_energy=value, z_grad=self.unravel(gradient))
        return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.asarray(x).dtype), state)

    def value_and_grad(self, flat: Array, data: Data) -> tuple[Array, Array]:
        """Potential (negative joint log density in unconstrained space) and gradient."""
        return self._compiled("value_and_grad")(jnp.asarray(flat), data)

    def run_block(self, state: HMCState, data: Data) -> tuple[HMCState, np.ndarray, dict[str, np.ndarray]]:
        """One block: new state, draws [block, parameter] (flat, unconstrained), statistics by name [block]."""
        state, (draws, stats) = jax.block_until_ready(self._compiled("block")(state, data))
        return state, np.asarray(draws), {k: np.asarray(v) for k, v in stats.items()}

    def compile(self, data: Data) -> None:
        """Trace one after the other (NumPyro's handlers are not thread-safe), then compile side by side."""
        flat = jnp.zeros(sum(int(np.prod(s.shape)) for s in self.model.sampled.values()))
        state = jax.eval_shape(lambda: self._plain_state(np.zeros(len(flat)), data))
        lowered = {
            "value_and_grad": self._kernel["value_and_grad"].lower(flat, data),
            "block": self._kernel["block"].lower(state, data),
        }
        with ThreadPoolExecutor(2) as pool:
            compiled = pool.map(lambda item: (item[0], item[1].compile()), lowered.items())
        self._kernel["compiled"] = dict(compiled)

    def _compiled(self, name: str):
        """Compiled function, or the jitted one if :meth:`compile` has not run."""
        return self._kernel.get("compiled", self._kernel)[name]

    def _plain_state(self, z: np.ndarray, data: Data) -> HMCState:
        flat = jnp.asarray(z)
        return self._kernel["init"](
            self.unravel(flat), self.warmup, step_size=0.3, inverse_mass_matrix=jnp.eye(len(z)), adapt_mass_matrix=False,
            dense_mass=True, target_accept_prob=self.target, max_tree_depth=self.max_tree_depth, model_args=(data,),
            model_kwargs={"plain": True}, rng_key=jax.random.PRNGKey(0),
        )  # fmt: skip


def with_metric(state: HMCState, sampler: Sampler, inverse_mass: np.ndarray, data: Data, key: Array) -> HMCState:
    """Chain restarted where it is with another metric (step size adapts anew)."""
    return sampler.first_state(np.asarray(ravel_pytree(state.z)[0]), data, inverse_mass, key)


def state_arrays(state: HMCState) -> dict[str, np.ndarray]:
    """Leaves of a sampler state by position (no pickle)."""
    return {f"state_{i:03d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}


def state_from(arrays: Mapping[str, np.ndarray], like: HMCState) -> HMCState:
    """Inverse of :func:`state_arrays` for a state of the same structure."""
    leaves, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(treedef, [jnp.asarray(arrays[f"state_{i:03d}"]) for i in range(len(leaves))])
