"""Hamiltonian Monte Carlo in saved blocks: one jitted scan over NumPyro's own ``sample``; state in, state and draws out.

It moves in the coordinates ``w`` of :mod:`osteobayes.fit.geometry`, whose arrays are part of ``data``; draws come out in the
model's unconstrained space ``z`` (between the two stands the space ``x`` of that room).

Trajectories differ in length and end where they end. NUTS (Hoffman and Gelman 2014, JMLR 15:1593) stops where the posterior as a
whole turns round and then takes a point of the trajectory at random, so that half of the gradients are spent on the way, and
a direction twice as wide as the metric says moves little at each draw. Here lengths go evenly through two ranges (multiples of the
golden ratio, modulo 1), so that no direction comes back to where it was in all of them (Hoffman, Radul and Sountsov 2021, AISTATS
130:3907, with ranges that are given, not learned). Most are near a quarter of the period of a direction as wide as the metric says,
after which it has forgotten both its place and its distance from the middle; after half a period it stands at the mirror image, so
that its spread is learned slowly. Three in ten are long, for the directions that are wider. They depend on nothing but the place in the chain: any fixed order of
lengths leaves the posterior as it is, and chains side by side have trajectories of equally many steps.

Warm-up goes through the same compiled block as sampling, so no block after the first compiles. The step size stays the same in a
block, for all chains; the next one follows from how much was accepted (:func:`step_for`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import potential_energy

from osteobayes.fit.geometry import Arrays, Geometry, Point
from osteobayes.model import Data, Model
from osteobayes.model.emit import numpyro_model
from osteobayes.model.transform import unconstrain
from osteobayes.precision import jit

PROGRAMS = ("gradients", "block")
"""What is compiled, in the order in which a run needs it."""
STATS = ("diverging", "n_steps", "acceptance_rate", "energy", "lp", "step_size")
"""Sampler diagnostics kept for every draw."""


GOLDEN = 0.5 * (5.0**0.5 - 1.0)
SHORT, LONG = (0.13, 0.37), (0.5, 1.0)
"""Ranges of the lengths of trajectories, as shares of the longest (0.8 to 2.2 and 3 to 6 posterior standard deviations by default)."""
SHARE_SHORT = 0.7
"""Share of trajectories in the range of the short ones (``docs/design/step5.md``, "Lengths of trajectories")."""
MOST_STEPS = 64
"""Steps of a trajectory at most, however short they are."""
MOST_CHANGE = 3.0
"""Factor by which the step size changes from one block to the next, at most."""
FIRST_STEP = 0.1
"""Step size at which warm-up begins, in coordinates where the posterior is nearly a standard normal."""
STEP_OF_DIFFERENCES = 1e-4
"""Step of the differences of gradients that make a Hessian."""
AT_ONCE = 32
"""Gradients of one call at most. They are a loop in the program: between calls its buffers go back to the system, and with many cells mapping
them anew takes as long as a third of a gradient."""


Block = tuple[HMCState, np.ndarray, dict[str, np.ndarray]]
"""State of a chain, its draws and their diagnostics."""


def steps_at(place: Array, step_size: Array, longest: Array | float) -> Array:
    """Steps of the trajectory at a place in the chain."""
    share = place * GOLDEN % 1.0
    short = SHORT[0] + (SHORT[1] - SHORT[0]) * share / SHARE_SHORT
    long = LONG[0] + (LONG[1] - LONG[0]) * (share - SHARE_SHORT) / (1.0 - SHARE_SHORT)
    return jnp.clip(jnp.round(jnp.where(share < SHARE_SHORT, short, long) * longest / step_size), 1, MOST_STEPS)


@dataclass(frozen=True)
class Sampler:
    """Hamiltonian Monte Carlo on the emitted NumPyro model, with data, weights and hyperparameters as arguments.

    Attributes
    ----------
    model
        The joint density.
    target
        Target acceptance probability.
    trajectory
        Length of the longest trajectory, in the coordinates of the metric (where the posterior's standard deviations are about 1).
    block
        Iterations of one block.
    method
        How the cells are solved (:data:`osteobayes.solve.METHODS`).
    potential
        Negative log density of unconstrained values by site, and data; default: of the emitted NumPyro model. Another
        emission of the same model has the same unconstrained space.
    """

    model: Model
    target: float = 0.93
    trajectory: float = 6.0
    block: int = 25
    method: str = "trapezoid"
    potential: Callable[[dict[str, Array], Data], Array] | None = None
    _kernel: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    _draws: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _drawing: Any = field(default_factory=Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        emitted = numpyro_model(self.model, method=self.method)

        def of_numpyro(z: dict[str, Array], data: Data) -> Array:
            return jnp.asarray(potential_energy(emitted, (data,), {}, z))

        potential_of = self.potential or of_numpyro
        geometry = self.geometry

        def density(flat: Array, data: Data) -> Array:
            return potential_of(self.unravel(flat), data)

        def unconstrained(w: Array, arrays: Arrays) -> tuple[Array, Array]:
            x, first = geometry.forward(w, arrays)
            z, second = geometry.values(x)
            return z, first + second

        def potential_gen(data: Data, plain: bool = False):
            if plain:  # only shapes matter: the first state is filled in by `first_state`
                return lambda z: 0.5 * (z["w"] ** 2).sum()

            def potential(z: dict[str, Array]) -> Array:
                flat, log_det = unconstrained(z["w"], data["geometry"])
                return density(flat, data) - log_det

            return potential

        init, sample = hmc(potential_fn_gen=potential_gen, algo="HMC")

        def run_block(state: HMCState, data: Data, longest: Array):
            def step(at: HMCState, _: None):
                size = at.adapt_state.step_size
                length = (steps_at(at.i, size, longest) - 1e-6) * size  # the kernel rounds up
                s = sample(at._replace(trajectory_length=length), (data,), {})
                stats = (
                    s.diverging,
                    s.num_steps,
                    s.accept_prob,
                    s.energy,
                    -s.potential_energy,
                    s.adapt_state.step_size,
                )
                kernel = s._replace(trajectory_length=at.trajectory_length, adapt_state=at.adapt_state)
                return kernel, (s.z["w"], dict(zip(STATS, stats, strict=True)))

            state, (w, stats) = jax.lax.scan(step, state, length=self.block)
            z, log_det = jax.vmap(lambda x: unconstrained(x, data["geometry"]))(w)
            return state, z, stats | {"lp": stats["lp"] - log_det}

        def gradients(flat: Array, count: Array, data: Data) -> tuple[Array, Array]:
            def one(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
                value, slope = jax.value_and_grad(density)(flat[i], data)
                return found[0].at[i].set(value), found[1].at[i].set(slope)

            return jax.lax.fori_loop(0, count, one, (jnp.zeros(AT_ONCE), jnp.zeros_like(flat)))

        def back(w: Array, gradient: Array, arrays: Arrays) -> tuple[Array, Array]:
            (_, log_det), pull = jax.vjp(lambda x: unconstrained(x, arrays), w)
            return log_det, pull((gradient, -jnp.ones(())))[0]

        def back_x(x: Array, gradient: Array) -> tuple[Array, Array]:
            (_, log_det), pull = jax.vjp(geometry.values, x)
            return log_det, pull((gradient, -jnp.ones(())))[0]

        def jacobian(w: Array, arrays: Arrays) -> Array:
            def column(direction: Array) -> Array:
                return jax.jvp(lambda v: geometry.forward(v, arrays)[0], (w,), (direction,))[1]

            return some(column, jnp.eye(len(w))).T

        def some(f: Callable[..., Any], x: Any) -> Any:
            """``f`` of many points, few at once: each has matrices of all study effects."""
            return jax.lax.map(f, x, batch_size=AT_ONCE)

        self._kernel.update(
            plain={"density": density, "block": run_block},
            init=init,
            block=jit(run_block),
            gradients=jit(gradients),
            unconstrained=jit(lambda w, arrays: some(lambda x: unconstrained(x, arrays), w)),
            back=jit(lambda w, gradient, arrays: some(lambda x: back(x[0], x[1], arrays), (w, gradient))),
            jacobian=jit(jacobian),
            values=jit(jax.vmap(geometry.values)),
            back_x=jit(jax.vmap(back_x)),
            coordinates=jit(jax.vmap(geometry.coordinates)),
            backward=jit(lambda x, arrays: some(lambda one: geometry.backward(one, arrays), x)),
            state=jit(self._new_state),
        )

    @cached_property
    def geometry(self) -> Geometry:
        """The sampler's coordinates."""
        return Geometry(self.model)

    @property
    def plain(self) -> dict[str, Callable[..., Any]]:
        """Functions to be compiled with others: ``density`` of a flat unconstrained vector and data, and one ``block``."""
        return self._kernel["plain"]

    @property
    def template(self) -> dict[str, Array]:
        """Unconstrained values of the sampled sites, all zero."""
        return {n: jnp.zeros(s.shape) for n, s in self.model.sampled.items()}

    @property
    def unravel(self):
        """Flat unconstrained vector -> values by site."""
        return ravel_pytree(self.template)[1]

    def drawn(self, seed: int, data: Data) -> Float[np.ndarray, " parameter"]:
        """A draw from the prior in unconstrained space; kept, for many fits start from the same (and compiling it takes longer)."""
        key = f"{seed} ".encode() + b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(data["hyper"]))
        with self._drawing:
            if key not in self._draws:
                draw = self.model.priors.sample(jax.random.key(seed), data["hyper"], self.model.coords)
                z = unconstrain(self.model.sampled, {n: draw[n] for n in self.model.sampled})
                self._draws[key] = np.asarray(ravel_pytree(z)[0])
            return self._draws[key].copy()

    def first_state(
        self, w: np.ndarray, data: Data, metric: np.ndarray, key: Array, step: float = FIRST_STEP
    ) -> HMCState:
        """State of a chain that starts at ``w`` (sampler's coordinates) with a step size; ``data`` holds ``geometry``."""
        state = self._kernel["state"](w, metric, key)
        value, gradient = (jnp.asarray(x[0]) for x in self.moved_values_and_grads(np.asarray(w)[None], data))
        return with_step(state._replace(potential_energy=value, z_grad={"w": gradient}), step)

    def plain_state(self) -> HMCState:
        """A state of the right structure."""
        n = self.geometry.size
        return self._new_state(jnp.zeros(n), jnp.eye(n), jax.random.PRNGKey(0))

    def values_and_grads(
        self, flat: np.ndarray, data: Data, workers: int = 1
    ) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, "point parameter"]]:
        """Potential (negative joint log density in unconstrained space) and gradient at points, in parts on so many threads."""
        plain = {k: v for k, v in data.items() if k != "geometry"}
        size = min(AT_ONCE, -(-len(flat) // workers))

        def part(begin: int) -> tuple[np.ndarray, np.ndarray]:
            some = np.asarray(flat[begin : begin + size])
            padded = np.zeros((AT_ONCE, some.shape[1]))
            padded[: len(some)] = some
            found = self._compiled("gradients")(padded, len(some), plain)
            return tuple(np.asarray(x)[: len(some)] for x in found)  # pyright: ignore[reportReturnType]

        with ThreadPoolExecutor(workers) as pool:
            values, gradients = zip(*pool.map(part, range(0, len(flat), size)), strict=True)
        return np.concatenate(values), np.concatenate(gradients)

    def moved_values_and_grads(self, w: np.ndarray, data: Data, workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The same in the sampler's coordinates ``w``, with the Jacobian of the map, by the chain rule."""
        flat = np.asarray(self._kernel["unconstrained"](w, data["geometry"])[0])
        values, gradients = self.values_and_grads(flat, data, workers)
        log_det, moved = self._kernel["back"](w, gradients, data["geometry"])
        return values - np.asarray(log_det), np.asarray(moved)

    def point(self, z: np.ndarray, data: Data, workers: int) -> Point:
        """Gradient and Hessian (one-sided differences of the gradient) in the space ``x``, at the image of ``z``."""
        x = self.coordinates(z)
        at = np.concatenate([x[None], x + STEP_OF_DIFFERENCES * np.eye(len(x))])
        _, plain = self.values_and_grads(np.asarray(self._kernel["values"](at)[0]), data, workers)
        gradients = np.asarray(self._kernel["back_x"](at, plain)[1])
        H = (gradients[1:] - gradients[0]) / STEP_OF_DIFFERENCES
        return Point(x, gradients[0], 0.5 * (H + H.T))

    def moved_hessian(self, point: Point, data: Data) -> np.ndarray:
        """Hessian in the coordinates ``w`` of ``data["geometry"]`` at a point.

        Given the standard deviations ``x(w)`` is linear, so only their rows need differences.
        """
        arrays, at = data["geometry"], self.geometry.scales
        w = np.asarray(self._kernel["backward"](point.x[None], arrays)[0])
        J = np.asarray(self._kernel["jacobian"](jnp.asarray(w), arrays))
        H = J.T @ point.hessian @ J
        moved = np.concatenate([w[None], w + STEP_OF_DIFFERENCES * np.eye(len(w))[at]])
        gradients = self.moved_values_and_grads(moved, data)[1]
        H[at] = (gradients[1:] - gradients[0]) / STEP_OF_DIFFERENCES
        H[:, at] = H[at].T
        block = H[np.ix_(at, at)]
        H[np.ix_(at, at)] = 0.5 * (block + block.T)
        return H

    def coordinates(self, z: Float[np.ndarray, "*points parameter"]) -> Float[np.ndarray, "*points parameter"]:
        """``x(z)`` of one point, or of many."""
        return np.asarray(self._kernel["coordinates"](np.reshape(z, (-1, np.shape(z)[-1])))).reshape(np.shape(z))

    def unconstrained(self, w: np.ndarray, arrays: Arrays) -> Array:
        """``z(w)``."""
        return self._kernel["unconstrained"](jnp.asarray(w)[None], arrays)[0][0]

    def moved(
        self, z: Float[np.ndarray, "*points parameter"], arrays: Arrays
    ) -> Float[np.ndarray, "*points parameter"]:
        """``w(z)`` of one point, or of many."""
        x = self.coordinates(z)
        return np.asarray(self._kernel["backward"](x.reshape(-1, x.shape[-1]), arrays)).reshape(x.shape)

    def run_block(self, state: HMCState, data: Data, longest: float | None = None) -> Block:
        """One block: new state, draws ``z`` [block, parameter], statistics by name [block].

        ``longest``: length of its longest trajectory (default: :attr:`trajectory`).
        """
        longest = self.trajectory if longest is None else longest
        state, z, stats = jax.block_until_ready(self._compiled("block")(state, data, jnp.asarray(float(longest))))
        return state, np.asarray(z), {k: np.asarray(v) for k, v in stats.items()}

    def lower(self, data: Data, names: Sequence[str] = PROGRAMS) -> None:
        """Trace programs for :meth:`compile`, a fifth of the work; in one thread (NumPyro's handlers are not thread-safe)."""
        state = jax.eval_shape(lambda: self.plain_state())
        arguments = {
            "gradients": (jnp.zeros((AT_ONCE, self.geometry.size)), 1, data),
            "block": (state, data | {"geometry": self.geometry.empty()}, jax.ShapeDtypeStruct((), float)),
        }
        for name in names:
            if ("compiled", name) not in self._kernel:
                self._kernel["lowered", name] = self._kernel[name].lower(*arguments[name])

    def compile(
        self,
        data: Data,
        names: Sequence[str] = PROGRAMS,
        at_once: int = 2,
        ready: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Compile so many programs side by side, each while the next is traced; ``ready`` is called with the name of each in turn."""
        with ThreadPoolExecutor(at_once) as pool:
            compiled = {}
            for name in (n for n in names if ("compiled", n) not in self._kernel):
                if ("lowered", name) not in self._kernel:
                    self.lower(data, (name,))
                compiled[name] = pool.submit(self._kernel.pop(("lowered", name)).compile)
            for name in names:
                if name in compiled:
                    self._kernel["compiled", name] = compiled[name].result()
                ready(name)

    def _compiled(self, name: str):
        """Compiled function, or the jitted one if :meth:`compile` has not run."""
        return self._kernel.get(("compiled", name), self._kernel[name])

    def _new_state(self, w: Array, metric: Array, key: Array) -> HMCState:
        state = self._kernel["init"](
            {"w": w}, 0, step_size=FIRST_STEP, adapt_step_size=False, adapt_mass_matrix=False, inverse_mass_matrix=metric,
            dense_mass=True, target_accept_prob=self.target, trajectory_length=self.trajectory,
            model_args=({},), model_kwargs={"plain": True}, rng_key=key,
        )  # fmt: skip
        return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.asarray(x).dtype), state)


def with_step(state: HMCState, step: float) -> HMCState:
    """The chain with another step size."""
    return state._replace(adapt_state=state.adapt_state._replace(step_size=jnp.asarray(float(step))))


def step_for(target: float, step: float, acceptance: Float[np.ndarray, "..."]) -> float:
    """Step size at which a share ``target`` is accepted, from the acceptance at another.

    The energy error of leapfrog steps grows with their square, and so does the share that is not accepted while it is small.
    At most :data:`MOST_CHANGE` times longer or shorter.
    """
    ratio = np.sqrt((1.0 - target) / max(1.0 - float(np.mean(acceptance)), 1e-6))
    return float(step * np.clip(ratio, 1.0 / MOST_CHANGE, MOST_CHANGE))


def state_arrays(state: HMCState) -> dict[str, np.ndarray]:
    """Leaves of a sampler state by position (no pickle)."""
    return {f"state_{i:03d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}


def state_from(arrays: Mapping[str, np.ndarray], like: HMCState) -> HMCState:
    """Inverse of :func:`state_arrays` for a state of the same structure."""
    leaves, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(treedef, [jnp.asarray(arrays[f"state_{i:03d}"]) for i in range(len(leaves))])
