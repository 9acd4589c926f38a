"""Many fits of the same shapes side by side: one compiled program over lanes, shared by all devices.

A lane is a point of the search for optima, or a chain. Every fit runs in a thread of its own, by the same code as alone
(:mod:`osteobayes.fit.run`); where that asks for gradients or a block of draws it waits until all fits ask, and the lanes of all go
through the program together (:class:`Lanes`). Lanes are shared by the devices, each of which loops over its own: a trajectory lasts as
long as the longest of its device. What a lane gets depends on its own arguments alone, so a fit's draws do not depend on its
company.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from threading import Condition
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, PartitionSpec
from numpyro.infer.hmc import HMCState
from threadpoolctl import threadpool_limits

from osteobayes.errors import RunError
from osteobayes.fit.geometry import Arrays
from osteobayes.fit.hmc import Block, Sampler
from osteobayes.fit.workers import cores
from osteobayes.model import Data
from osteobayes.precision import jit

QUIET_S = 0.005
"""A batch begins when every fit waits and no further request has come for so long: several threads of a fit may ask at once."""
ORDER = ("gradients", "block")
"""What is computed first when fits ask for different things: those that search for optima catch up with those that sample."""


MOST = 4096
"""Lanes a device at most: from some 2000 on a call takes longer the more there are (``docs/design/step5.md``)."""


def free_bytes(device: Any) -> float:
    """Memory of a device that is free: of a CPU that of the machine."""
    if device.platform == "cpu":
        return float(psutil.virtual_memory().available)
    told = device.memory_stats() or {}
    return float(told.get("bytes_limit", 0)) - float(told.get("bytes_in_use", 0))


def equal(a: Any, b: Any) -> bool:
    """Whether two arrays are the same, gaps included."""
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


@dataclass(frozen=True)
class _Request:
    fit: int
    program: str
    arguments: Any
    """Arrays with a leading axis of lanes."""
    lanes: int
    answer: Future


class Call(NamedTuple):
    """One call of a program over lanes."""

    program: str
    lanes: int
    """Lanes that were asked for."""
    width: int
    seconds: float
    useful: float
    """Share of the lanes' leapfrog steps that were their own (the others wait for the longest trajectory of their device); 1 for gradients."""


class LaneSampler(Sampler):
    """The sampler of one fit among others: its gradients and blocks are computed with those of the others."""

    lanes: "Lanes"
    fit: int
    """Place of the fit's data among those of all."""

    def __init__(self, sampler: Sampler, lanes: "Lanes", fit: int) -> None:
        self.__dict__.update(sampler.__dict__, lanes=lanes, fit=fit)  # the small programs are shared

    def values_and_grads(self, flat: np.ndarray, data: Data, workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """As of :class:`Sampler`; the data are those that the fit began with."""
        flat = np.asarray(flat)
        return self.lanes.ask(self.fit, "gradients", flat, len(flat))

    def chains(self, states: Sequence[HMCState], coordinates: Arrays, longest: float) -> list[Block]:
        """One block of every chain (:class:`osteobayes.fit.workers.Chains`)."""
        n = len(states)
        stacked = jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *states)
        geometry = {k: np.broadcast_to(np.asarray(v), (n, *v.shape)) for k, v in coordinates.items()}
        arguments = (stacked, geometry, np.full(n, float(longest)))
        state, z, stats = self.lanes.ask(self.fit, "block", arguments, n)
        return [(jax.tree.map(lambda x, c=c: x[c], state), z[c], {k: v[c] for k, v in stats.items()}) for c in range(n)]


class Lanes:
    """Programs over lanes for fits whose data have the same shapes.

    Parameters
    ----------
    sampler
        The sampler of one fit.
    data
        Data of every fit (:attr:`osteobayes.model.Model.sampling_data`, or :func:`osteobayes.model.redraw.redrawn`): what is equal in all
        is kept once.
    width
        Lanes of one call, rounded up to a multiple of the devices; more are computed in several calls. None: as many as the devices'
        memory holds (:meth:`fitting`), at most :data:`MOST`.
    devices
        Default: all of the default backend.
    own
        Parts of the data (keys) of which every fit has its own; None: those leaves that differ. If it is given, programs do not depend
        on which fits there are, and serve others (:meth:`load`).
    places
        Fits for which there is room (default: as many as there are data).

    Raises
    ------
    RunError
        If the data of the fits differ in structure or shape, or in parts that are not their own.
    """

    def __init__(
        self,
        sampler: Sampler,
        data: Sequence[Data],
        width: int | None,
        devices: Sequence[Any] | None = None,
        own: Collection[str] | None = None,
        places: int | None = None,
    ) -> None:
        devices = list(devices or jax.devices())
        self.sampler, self.places, self.asked = sampler, places or len(data), width
        self._treedef = treedef = jax.tree.structure(data[0])
        if own is None:
            leaves = [jax.tree.leaves(d) for d in data]
            self._own = [not all(equal(x, c[0]) for x in c[1:]) for c in zip(*leaves, strict=True)]
        else:
            self._own = [path[0].key in own for path, _ in jax.tree_util.tree_leaves_with_path(data[0])]
        own_leaves = self._own

        def at(index: jax.Array, table: list[jax.Array]) -> Data:
            return jax.tree.unflatten(
                treedef, [x[index] if mine else x for x, mine in zip(table, own_leaves, strict=True)]
            )

        def gradient(index: jax.Array, z: Any, table: list[jax.Array]) -> Any:
            return jax.value_and_grad(sampler.plain["density"])(z, at(index, table))

        def block(index: jax.Array, arguments: Any, table: list[jax.Array]) -> Any:
            state, geometry, longest = arguments
            return sampler.plain["block"](state, at(index, table) | {"geometry": geometry}, longest)

        functions: dict[str, Callable[..., Any]] = {"gradients": gradient, "block": block}
        lane, every = PartitionSpec("lane"), PartitionSpec()
        self._mesh = Mesh(np.array(devices), ("lane",))
        self._programs: dict[str, Callable] = {
            name: jit(
                jax.shard_map(
                    jax.vmap(f, in_axes=(0, 0, None)),
                    mesh=self._mesh,
                    in_specs=(lane, lane, every),
                    out_specs=lane,
                    check_vma=False,
                )
            )
            for name, f in functions.items()
        }
        self.load(data)
        self._changed = Condition()
        self._pending: list[_Request] = []
        self._working: list[_Request] = []
        self._closed: BaseException | None = None
        self._active: set[int] = set()
        self._busy: set[int] = set()  # of those: none of whose threads asks
        self.calls: list[Call] = []
        """What was computed."""
        self.width = -(-(width or self.fitting()) // len(devices)) * len(devices)

    def load(self, data: Sequence[Data]) -> None:
        """Take the data of fits, of which there may be fewer than places.

        Raises
        ------
        RunError
            As of the class.
        """
        flat = [jax.tree.flatten(d) for d in data]
        shapes = [np.shape(x) for x in flat[0][0]]
        for i, (leaves, structure) in enumerate(flat):
            if structure != self._treedef or [np.shape(x) for x in leaves] != shapes:
                raise RunError(f"fit {i} has data of another shape than fit 0: fits side by side need the same design")
        table = []
        for column, mine in zip(zip(*(leaves for leaves, _ in flat), strict=True), self._own, strict=True):
            if not mine and not all(equal(x, column[0]) for x in column[1:]):
                raise RunError("fits side by side have other designs: only numbers, weights and priors may differ")
            filled = [*column, *[column[0]] * (self.places - len(column))]
            table.append(np.stack([np.asarray(x) for x in filled]) if mine else np.asarray(column[0]))
        self._table = jax.device_put(table, jax.sharding.NamedSharding(self._mesh, PartitionSpec()))

    def fitting(self) -> int:
        """Lanes of one call that the devices' memory holds, from what the compiler says that two and four a device need.

        Half of the memory that is free is left: to arguments, results, and what a block keeps beside its gradients.

        Raises
        ------
        RunError
            If not even one lane a device fits.
        """
        devices = list(self._mesh.devices)
        need = []
        for each in (2, 4):
            lowered = self._lowered("gradients", each * len(devices))
            need.append(lowered.compile().memory_analysis().temp_size_in_bytes)
        lane = max((need[1] - need[0]) / 2.0, 1.0)
        room = 0.5 * min(free_bytes(d) for d in devices) / (len(devices) if devices[0].platform == "cpu" else 1)
        each = int((room - max(need[0] - 2.0 * lane, 0.0)) / lane)
        if each < 1:
            raise RunError(
                f"a lane needs {lane / 2**30:.2f} GiB, and {room / 2**30:.2f} GiB a device are to be had: use fewer or other devices"
            )
        return min(each, MOST) * len(devices)

    def _lowered(self, name: str, width: int) -> Any:
        def lanes(x: Any) -> Any:
            return jax.tree.map(lambda v: jax.ShapeDtypeStruct((width, *v.shape), v.dtype), x)

        if name == "gradients":
            like: Any = jnp.zeros(self.sampler.geometry.size)
        else:
            like = (jax.eval_shape(self.sampler.plain_state), self.sampler.geometry.empty(), jnp.zeros(()))
        return self._programs[name].lower(jnp.zeros(width, dtype=int), lanes(like), self._table)

    def compile(self) -> None:
        """Compile the programs, side by side."""
        lowered = {name: self._lowered(name, self.width) for name in self._programs}
        with ThreadPoolExecutor(len(lowered)) as pool:
            compiled = {name: pool.submit(x.compile) for name, x in lowered.items()}
        self._programs |= {name: x.result() for name, x in compiled.items()}

    def run[R](self, work: Sequence[Callable[[LaneSampler], R]]) -> list[R | Exception]:
        """Fits side by side: each function gets the sampler of its fit; an error of one stops no other and is returned."""
        self._active, self._busy = set(range(len(work))), set(range(len(work)))
        host = jax.devices("cpu")[0]

        def fit(i: int) -> R | Exception:
            try:
                with jax.default_device(host):  # what is not in lanes is small
                    return work[i](LaneSampler(self.sampler, self, i))
            except Exception as error:
                return error
            finally:
                with self._changed:
                    self._active.discard(i)
                    self._busy.discard(i)
                    self._changed.notify()

        self._closed = None
        # small matrices of many fits: threads of BLAS would wait for each other
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(work)) as pool:
            futures = [pool.submit(fit, i) for i in range(len(work))]
            try:
                self._serve()
            except BaseException as error:  # an interruption: the fits end where they wait
                self._close(error)
                raise
            return [f.result() for f in futures]

    def _close(self, error: BaseException) -> None:
        with self._changed:
            self._closed = error
            for r in (*self._pending, *self._working):
                if not r.answer.done():
                    r.answer.set_exception(error)
            self._pending = []

    def ask(self, fit: int, program: str, arguments: Any, lanes: int) -> Any:
        """Outputs of a program for lanes of a fit, once all fits ask."""
        request = _Request(fit, program, arguments, lanes, Future())
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._pending.append(request)
            self._busy.discard(fit)
            self._changed.notify()
        return request.answer.result()

    def _answer(self, requests: Sequence[_Request], answers: Sequence[Any]) -> None:
        """Give the answers to a few fits at a time, and wait until these ask again: hundreds of threads at once hinder each other."""
        by_fit: dict[int, list[tuple[_Request, Any]]] = {}
        for r, answer in zip(requests, answers, strict=True):
            by_fit.setdefault(r.fit, []).append((r, answer))
        for fits in batched(by_fit, cores()):
            with self._changed:
                self._busy.update(f for f in fits if f in self._active)
            for r, answer in (pair for f in fits for pair in by_fit[f]):
                if isinstance(answer, Exception):
                    r.answer.set_exception(answer)
                else:
                    r.answer.set_result(answer)
            with self._changed:
                self._changed.wait_for(lambda fits=fits: self._busy.isdisjoint(fits))

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy)
                if not self._active and not self._pending:
                    return
                count = -1
                while count != len(self._pending):
                    count = len(self._pending)
                    self._changed.wait_for(lambda n=count: len(self._pending) != n, QUIET_S)
                program = next(p for p in ORDER if any(r.program == p for r in self._pending))
                chosen = [r for r in self._pending if r.program == program]
                self._pending = [r for r in self._pending if r.program != program]
                self._working = chosen
            try:
                answers = self._compute(program, chosen)
            except Exception as error:
                answers = [error] * len(chosen)
            self._answer(chosen, answers)

    def _useful(self, found: Any) -> float:
        steps = found[2]["n_steps"].reshape(self._mesh.size, -1, self.sampler.block)
        return float(steps.mean() / steps.max(axis=1).mean())

    def _compute(self, program: str, requests: Sequence[_Request]) -> list[Any]:
        index = np.concatenate([np.full(r.lanes, r.fit) for r in requests])
        arguments = jax.tree.map(lambda *x: np.concatenate(x), *(r.arguments for r in requests))
        parts = []
        for begin in range(0, len(index), self.width):
            # the last call repeats its last lane: no lane lasts longer for it
            chosen = np.minimum(np.arange(begin, begin + self.width), len(index) - 1)
            some = jax.tree.map(lambda x, at=chosen: x[at], arguments)
            tick = time.perf_counter()
            found = jax.tree.map(np.asarray, self._programs[program](index[chosen], some, self._table))
            kept = min(self.width, len(index) - begin)
            parts.append(jax.tree.map(lambda x, n=kept: x[:n], found))
            seconds = time.perf_counter() - tick
            self.calls.append(
                Call(program, kept, self.width, seconds, self._useful(found) if program == "block" else 1.0)
            )
        whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        ends = np.cumsum([r.lanes for r in requests])
        return [
            jax.tree.map(lambda x, a=end - r.lanes, b=end: x[a:b], whole) for r, end in zip(requests, ends, strict=True)
        ]
