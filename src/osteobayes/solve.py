"""The only room that knows the ODE solver.

The default is a classical fourth-order Runge-Kutta scheme at the grid's steps, all cells side by side, in one ``lax.scan``;
the ``diffrax`` methods run the same field through diffrax (the same steps, or adaptive with tight tolerances as the reference).
Drug actions come as one line a step (:meth:`osteobayes.cycle.Grid.project`), so dose times may be differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osteobayes.cycle.cells import CellArrays, Grid, actions, coefficients, columns_of
from osteobayes.cycle.dynamics import Reference, State, burden, field, osteoclast_loss
from osteobayes.cycle.entry import entry_state

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


def _axpy(a: Array, x: State, y: State) -> State:
    return jax.tree.map(lambda xi, yi: a * xi + yi, x, y)


def _exponential_weights(z: Array, h: Array) -> tuple[Array, ...]:
    """Weights of the exponential fourth-order scheme for ``C' = -(-z/h) C + N`` (Cox and Matthews 2002); z < 0."""
    E, E2 = jnp.exp(z), jnp.exp(0.5 * z)
    half = h * (E2 - 1.0) / z
    first = h * (-4.0 - z + E * (4.0 - 3.0 * z + z**2)) / z**3
    middle = h * 2.0 * (2.0 + z + E * (z - 2.0)) / z**3
    last = h * (-4.0 - 3.0 * z - z**2 + E * (4.0 - z)) / z**3
    return E, E2, half, first, middle, last


_HALF, _SIXTH, _THIRD = 0.5, 1.0 / 6.0, 1.0 / 3.0
_STAGES = {
    "ahead": np.array([_HALF, _HALF, 1.0, 0.0]),  # share of the step from the start to the next stage
    "weight": np.array([_SIXTH, _THIRD, _THIRD, _SIXTH]),
    "is_first": np.array([1.0, 0.0, 0.0, 0.0]),
    "is_third": np.array([0.0, 0.0, 1.0, 0.0]),
}
_DRUG_OF_STAGE = np.array([0, 1, 1, 2])
"""Which of the three points of a step's line of drug exposure a stage reads."""


def _runge_kutta(
    vector_field, loss, act, state: State, exposure: Float[Array, "step 3 rank action column"], grid: Grid
) -> State:
    """Fourth-order Runge-Kutta at the grid's steps, exponential in the osteoclasts' own loss (ETD4RK of Cox and Matthews).

    The loss rate is frozen over a step at the state of its start and the mean drug action of the step; everything else of
    the osteoclast equation is treated as the non-linear part, so the fixed points are exact and strong bisphosphonates do
    not limit the step.

    The stages are an inner loop (a quarter of the program to compile), the vector field is computed again in the backward pass
    instead of kept, and barriers around it keep the compiler from computing one intermediate again in every expression that
    uses it: without them the gradient took 2.6 times as long.
    """
    guard = jax.lax.optimization_barrier
    vector_field = jax.checkpoint(vector_field)

    @jax.checkpoint
    def step(y: State, now):
        drugs, h = now
        L = loss(y, act(drugs[1]))
        E, E2, half, first, middle, last = _exponential_weights(-L * h, h)
        weights_C = jnp.stack([first, middle, middle, last])

        def stage(carry, now):
            at, total, n_first, C_second = carry
            k = guard(vector_field(*guard((at, act(now["drugs"])))))
            n = k.C + L * at.C
            n_first = n_first + now["is_first"] * n
            third = now["is_third"]
            C = E2 * (y.C + third * (C_second - y.C)) + half * ((1.0 + third) * n - third * n_first)
            after = _axpy(h * now["ahead"], k, y)._replace(C=C)
            total = _axpy(h * now["weight"], k, total)._replace(C=total.C + now["weight_C"] * n)
            return (after, total, n_first, C_second + now["is_first"] * C), None

        stages = {k: jnp.asarray(v) for k, v in _STAGES.items()} | {
            "drugs": drugs[_DRUG_OF_STAGE],
            "weight_C": weights_C,
        }
        nothing = jnp.zeros_like(y.C)
        (_, end, _, _), _ = jax.lax.scan(stage, (y, y._replace(C=E * y.C), nothing, nothing), stages)
        return end, end

    _, path = jax.lax.scan(step, state, (exposure, jnp.asarray(grid.steps)))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[grid.ends]]), state, path)


def _diffrax(
    vector_field, act, state: State, u: Array, grid: Grid, solver, controller, adjoint, max_steps: int
) -> State:
    joints = jnp.concatenate(
        [u[:1, 0], 0.5 * (u[1:, 0] + u[:-1, 2]), u[-1:, 2]]
    )  # continuous: lines of neighbours meet halfway
    ys = jnp.concatenate([jnp.stack([joints[:-1], u[:, 1]], axis=1).reshape(-1, *u.shape[2:]), joints[-1:]])
    ts = np.cumsum(np.concatenate([[0.0], np.repeat(0.5 * grid.steps, 2)]))
    path = diffrax.LinearInterpolation(ts=jnp.asarray(ts), ys=ys)
    term = diffrax.ODETerm(lambda t, y, _: vector_field(y, act(path.evaluate(t))))
    solution = diffrax.diffeqsolve(
        term,
        solver,
        t0=0.0,
        t1=float(grid.days[-1]),
        dt0=float(grid.steps[0]),
        y0=state,
        saveat=diffrax.SaveAt(ts=jnp.asarray(grid.days)),
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
    return solution.ys  # pyright: ignore[reportReturnType]


def trajectories(
    values: Mapping[str, Array],
    potencies: Sequence[str],
    arrays: CellArrays,
    grid: Grid,
    method: str = "runge_kutta",
    rtol: float = 1e-8,
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
        ``runge_kutta`` (default), ``diffrax_fixed`` (Bosh3, same steps) or ``diffrax_tight`` (Dopri8, adaptive, ``rtol``).

    Returns
    -------
    Trajectories
        Never raises: a cell that could not be solved has another ``status`` than :data:`OK` and curves filled with 1.
    """
    drug = {n: values[n] for n in potencies[1:]}
    columns, cancer = columns_of(arrays)
    p = {k: (v[cancer] if jnp.ndim(v) == 1 else jnp.full(cancer.shape, v)) for k, v in values.items() if k not in drug}
    coefficient = coefficients(drug, potencies, arrays)
    state, reference = entry_state(p, actions(arrays.entry_exposure, coefficient), columns)

    def act(exposure: Array) -> dict[str, Array]:
        return actions(exposure, coefficient)

    def vector_field(y: State, u: Mapping[str, Array]) -> State:
        return field(y, u, p, reference, columns)

    def loss(y: State, u: Mapping[str, Array]) -> Array:
        return osteoclast_loss(y, burden(y, columns), p, u)

    if method == "runge_kutta":
        path = _runge_kutta(vector_field, loss, act, state, arrays.exposure, grid)
    elif method == "diffrax_fixed":
        path = _diffrax(
            vector_field,
            act,
            state,
            arrays.exposure,
            grid,
            diffrax.Bosh3(),
            diffrax.StepTo(jnp.asarray(np.cumsum(np.concatenate([[0.0], grid.steps])))),
            diffrax.DirectAdjoint(),
            len(grid.steps) + 2,
        )
    elif method == "diffrax_tight":
        controller = diffrax.PIDController(rtol=rtol, atol=rtol * 1e-2, dtmax=float(grid.steps.min()))
        path = _diffrax(
            vector_field,
            act,
            state,
            arrays.exposure,
            grid,
            diffrax.Dopri8(),
            controller,
            diffrax.ForwardMode(),
            100_000,
        )
    else:
        raise ValueError(f"unknown method `{method}`; use runge_kutta, diffrax_fixed or diffrax_tight")

    n = arrays.cancer.shape[0]
    bone = (path.P, path.B, path.C, path.Z, path.G)
    grown = (jnp.where(columns.lesion > 0, x, 0.0) for x in (path.log_N, path.y))  # a skeleton has no tumour to fail
    finite = jnp.stack([jnp.isfinite(x).all(axis=0) for x in (*bone, *grown)]).all(axis=0)
    positive = jnp.stack([(x > 0).all(axis=0) for x in bone]).all(axis=0)
    column = jnp.where(finite, jnp.where(positive, OK, NOT_POSITIVE), NOT_FINITE)
    own, skeletons = column[arrays.column], column[n:][arrays.skeleton_of]
    status = jnp.where(own == OK, skeletons, own)
    B, C, Z, G, log_N, y = (jnp.where(column == OK, x, 1.0) for x in (*bone[1:], path.log_N, path.y))

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
        reference=Reference(*(x[arrays.column] for x in reference)),
        status=status,
    )
