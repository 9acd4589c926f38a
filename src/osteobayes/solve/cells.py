"""Trajectories of all cells: the default method at the grid's steps, or diffrax on the same field as the reference.

Drug actions come as one line a step (:func:`osteobayes.cycle.cells.component_lines`), so dose times may be differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osteobayes.cycle.cells import CellArrays, Grid, actions, coefficients, columns_of
from osteobayes.cycle.dynamics import Columns, Reference, State, burden, exhaustion_loss, field, osteoclast_loss
from osteobayes.cycle.entry import entry_state
from osteobayes.solve.adaptive import integrate, lines
from osteobayes.solve.stepper import march

OK, NOT_FINITE, NOT_POSITIVE = 0, 1, 2
STATUS = {
    OK: "solved",
    NOT_FINITE: "a state left the finite numbers; try a smaller step (Grid.substeps) or check the dose",
    NOT_POSITIVE: "a bone state became zero or negative, which only too long a step does; try a smaller step (Grid.substeps)",
}


class Trajectories(NamedTuple):
    """Solution of all cells on the output grid (time first)."""

    burden: Float[Array, "time cell"]
    growth: Float[Array, "time cell"]
    osteoblasts: Float[Array, "time cell"]
    osteoclasts: Float[Array, "time cell"]
    mineral: Float[Array, "time cell"]
    tgfb: Float[Array, "time cell"]
    flux: Float[Array, "time cell"]
    skeleton_flux: Float[Array, "time cell"]
    skeleton_osteoblasts: Float[Array, "time cell"]
    skeleton_mineral: Float[Array, "time cell"]
    reference: Reference
    status: Int[Array, " cell"]
    failed: Int[Array, " cell"]
    """The first output at which a cell had failed; -1: never."""


ORDER = {"runge_kutta": 4, "trapezoid": 2}
"""Methods of :mod:`osteobayes.solve.stepper` and their order: the default, and one of half its work for sampling."""
METHODS = (*ORDER, "diffrax_fixed", "diffrax_plain", "diffrax_tight")
"""Those of :data:`ORDER`; Bosh3 at the same steps; Tsit5, adaptive, ``rtol`` 1e-6; Dopri8, adaptive, with the given tolerance."""


class Solved(NamedTuple):
    """States of every column on the output grid, and what the equations were solved with."""

    path: State
    p: dict[str, Array]
    coefficient: dict[str, Array]
    reference: Reference
    columns: Columns


def at_entry(values: Mapping[str, Array], potencies: Sequence[str], arrays: CellArrays, full: bool = False) -> Solved:
    """What :func:`states` starts from: the state of every column at entry, and what the equations need."""
    drug = {n: values[n] for n in potencies[1:]}
    columns, cancer = columns_of(arrays)
    p = {k: (v[cancer] if jnp.ndim(v) == 1 else jnp.full(cancer.shape, v)) for k, v in values.items() if k not in drug}
    coefficient = coefficients(drug, potencies, arrays.drugs)
    acting = actions({k: d.entry for k, d in arrays.drugs.items()}, coefficient)
    state, reference = entry_state(p, acting, columns, full)
    return Solved(state, p, coefficient, reference, columns)


def states(
    values: Mapping[str, Array],
    potencies: Sequence[str],
    arrays: CellArrays,
    grid: Grid,
    method: str = "runge_kutta",
    rtol: float = 1e-8,
    full: bool = False,
) -> Solved:
    """States of all columns (lesions, then skeletons), time first; arguments as of :func:`trajectories`."""
    state, p, coefficient, reference, columns = at_entry(values, potencies, arrays, full)
    exposure = {k: d.exposure for k, d in arrays.drugs.items()}

    def act(exposure: Mapping[str, Array]) -> dict[str, Array]:
        return actions(exposure, coefficient)

    def vector_field(y: State, exposed: Mapping[str, Array]) -> State:
        return field(y, act(exposed), p, reference, columns)

    def loss(y: State, exposed: Mapping[str, Array]) -> dict[str, Array]:
        """Own losses of the bone states and of the exhausted share, which depend on drugs; of the other bone states nearly their turnover."""
        u, N = act(exposed), burden(y, columns)
        own = {"P": "precursor_turnover", "B": "osteoblast_turnover", "G": "tgfb_programme_rate"}
        rates = {state: jnp.broadcast_to(p[rate], y.C.shape) for state, rate in own.items()}
        rates["C"] = osteoclast_loss(y, N, p, u)
        rates["X"] = jnp.broadcast_to(exhaustion_loss(y, N, p, u), y.X.shape)
        return rates | {"G_without": rates["G"][: y.G_without.shape[0]]}

    if method in ORDER:
        ends = march(vector_field, loss, state, exposure, grid.steps, ORDER[method])
        path = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[grid.ends]]), state, ends)
    elif method in METHODS:
        shortest = float(grid.steps.min())
        options: dict[str, dict[str, Any]] = {
            "diffrax_fixed": {"method": "bosh3", "steps": np.cumsum(grid.steps), "adjoint": "direct",
                              "max_steps": len(grid.steps) + 2},
            "diffrax_plain": {"method": "tsit5", "rtol": 1e-6, "atol": 1e-8, "longest": shortest},
            "diffrax_tight": {"method": "dopri8", "rtol": rtol, "atol": rtol * 1e-2, "longest": shortest,
                              "adjoint": "forward", "jumps": grid.edges[1:-1]},
        }  # fmt: skip
        drugs_at = lines(grid.steps, exposure, joined="jumps" not in options[method])
        path = integrate(lambda t, y: vector_field(y, drugs_at(t)), state, grid.days, **options[method]).path
    else:
        raise ValueError(f"unknown method `{method}`; use one of {', '.join(METHODS)}")
    return Solved(path, p, coefficient, reference, columns)


def trajectories(
    values: Mapping[str, Array],
    potencies: Sequence[str],
    arrays: CellArrays,
    grid: Grid,
    method: str = "runge_kutta",
    rtol: float = 1e-8,
    full: bool = False,
) -> Trajectories:
    """Solve all cells.

    Parameters
    ----------
    values
        Parameters of the cycle and potencies (scalars, or one value a cancer).
    potencies
        :func:`osteobayes.cycle.cells.parameter_names`.
    arrays
        The cells (:func:`osteobayes.cycle.cells.pack`).
    grid
        Time grid.
    method
        One of :data:`METHODS`.
    rtol
        Tolerance of ``diffrax_tight``.
    full
        Whether the modules deviate from the state at entry (``arrays`` must be packed with ``full`` too).

    Returns
    -------
    Trajectories
        Never raises: a cell that could not be solved has another ``status`` than :data:`OK` and curves filled with 1.
    """
    path, _, _, reference, columns = states(values, potencies, arrays, grid, method, rtol, full)
    n = arrays.cancer.shape[0]
    bone = (path.P, path.B, path.C, path.Z, path.G, path.Q)
    grown = (jnp.where(columns.lesion > 0, x, 0.0) for x in (path.log_N, path.y))  # a skeleton has no tumour to fail
    finite = jnp.stack([jnp.isfinite(x) for x in (*bone, *grown)]).all(axis=0)
    right = finite & jnp.stack([x > 0 for x in bone]).all(axis=0)
    solved, first = right.all(axis=0), jnp.argmin(right, axis=0)
    column = jnp.where(solved, OK, jnp.where(finite.all(axis=0), NOT_POSITIVE, NOT_FINITE))
    own, skeletons = column[arrays.column], column[n:][arrays.skeleton_of]
    status = jnp.where(own == OK, skeletons, own)
    failed = jnp.where(own == OK, first[n:][arrays.skeleton_of], first[arrays.column])
    B, C, Z, G, log_N, y = (jnp.where(solved, x, 1.0) for x in (*bone[1:5], path.log_N, path.y))

    def lesion(x: Array) -> Array:
        return x[:, arrays.column]

    def skeleton(x: Array) -> Array:
        return x[:, n:][:, arrays.skeleton_of]

    return Trajectories(
        burden=jnp.exp(lesion(log_N)),
        growth=lesion(y),
        osteoblasts=lesion(B),
        osteoclasts=lesion(C),
        mineral=lesion(Z),
        tgfb=lesion(G),
        flux=lesion(C * Z),
        skeleton_flux=skeleton(C * Z),
        skeleton_osteoblasts=skeleton(B),
        skeleton_mineral=skeleton(Z),
        reference=Reference(*(jnp.where(solved, x, 1.0)[arrays.column] for x in reference[:-1])),  # pyright: ignore[reportArgumentType]
        status=status,
        failed=jnp.where(status == OK, -1, failed),
    )


def failures(path: Trajectories, cells: Sequence[object], grid: Grid) -> list[str]:
    """A sentence for each cell that could not be solved: which, from when, why, and what to do."""
    found = zip(cells, np.asarray(path.status), np.asarray(path.failed), strict=True)
    return [f"{cell}: by day {grid.days[at]:g} {STATUS[int(code)]}" for cell, code, at in found if code != OK]
