"""The only room that knows the ODE solver.

The default is a classical fourth-order Runge-Kutta scheme at a fixed step, all cells side by side, in one ``lax.scan``;
the ``diffrax`` methods run the same field through diffrax (fixed step, or adaptive with tight tolerances as the reference).
Drug actions come as one line a step (:meth:`osteobayes.cycle.Grid.project`), so dose times may be differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteobayes.cycle.cells import CellArrays, Grid, actions, columns_of
from osteobayes.cycle.dynamics import Reference, State, field, osteoclast_loss
from osteobayes.cycle.entry import entry_state
from osteobayes.cycle.fluxes import ACTIONS

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


def _axpy(a: float, x: State, y: State) -> State:
    return jax.tree.map(lambda xi, yi: a * xi + yi, x, y)


def _exponential_weights(z: Array, h: float) -> tuple[Array, ...]:
    """Weights of the exponential fourth-order scheme for ``C' = -(-z/h) C + N`` (Cox and Matthews 2002); z < 0."""
    E, E2 = jnp.exp(z), jnp.exp(0.5 * z)
    half = h * (E2 - 1.0) / z
    first = h * (-4.0 - z + E * (4.0 - 3.0 * z + z**2)) / z**3
    middle = h * 2.0 * (2.0 + z + E * (z - 2.0)) / z**3
    last = h * (-4.0 - 3.0 * z - z**2 + E * (4.0 - z)) / z**3
    return E, E2, half, first, middle, last


def _runge_kutta(vector_field, loss, state: State, u: Float[Array, "step 3 action column"], grid: Grid) -> State:
    """Fourth-order Runge-Kutta at a fixed step, exponential in the osteoclasts' own loss (ETD4RK of Cox and Matthews).

    The loss rate is frozen over a step at the state of its start and the mean drug action of the step; everything else of
    the osteoclast equation is treated as the non-linear part, so the fixed points are exact and strong bisphosphonates do
    not limit the step.
    """
    h = grid.step

    @jax.checkpoint
    def step(y: State, stage):
        u0, u1, u2 = stage
        k1, L = vector_field(y, u0), loss(y, u1)
        E, E2, half, first, middle, last = _exponential_weights(-L * h, h)
        n1 = k1.C + L * y.C
        a = _axpy(0.5 * h, k1, y)._replace(C=E2 * y.C + half * n1)
        k2 = vector_field(a, u1)
        n2 = k2.C + L * a.C
        b = _axpy(0.5 * h, k2, y)._replace(C=E2 * y.C + half * n2)
        k3 = vector_field(b, u1)
        n3 = k3.C + L * b.C
        c = _axpy(h, k3, y)._replace(C=E2 * a.C + half * (2.0 * n3 - n1))
        k4 = vector_field(c, u2)
        n4 = k4.C + L * c.C
        end = jax.tree.map(lambda yi, p, q, r, s: yi + h / 6.0 * (p + 2.0 * (q + r) + s), y, k1, k2, k3, k4)
        end = end._replace(C=E * y.C + first * n1 + middle * (n2 + n3) + last * n4)
        return end, end

    _, path = jax.lax.scan(step, state, u)
    every = slice(grid.substeps - 1, None, grid.substeps)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[every]]), state, path)


def _diffrax(vector_field, state: State, u: Array, grid: Grid, solver, controller, adjoint, max_steps: int) -> State:
    joints = jnp.concatenate(
        [u[:1, 0], 0.5 * (u[1:, 0] + u[:-1, 2]), u[-1:, 2]]
    )  # continuous: lines of neighbours meet halfway
    ys = jnp.concatenate([jnp.stack([joints[:-1], u[:, 1]], axis=1).reshape(-1, *u.shape[2:]), joints[-1:]])
    path = diffrax.LinearInterpolation(ts=0.5 * grid.step * jnp.arange(len(ys)), ys=ys)
    term = diffrax.ODETerm(lambda t, y, _: vector_field(y, path.evaluate(t)))
    solution = diffrax.diffeqsolve(
        term,
        solver,
        t0=0.0,
        t1=float(grid.days[-1]),
        dt0=grid.step,
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
        ``runge_kutta`` (default), ``diffrax_fixed`` (Bosh3, same step) or ``diffrax_tight`` (Dopri8, adaptive, ``rtol``).

    Returns
    -------
    Trajectories
        Never raises: a cell that could not be solved has another ``status`` than :data:`OK` and curves filled with 1.
    """
    drug = {n: values[n] for n in potencies[1:]}
    columns, cancer = columns_of(arrays)
    p = {k: (v[cancer] if jnp.ndim(v) == 1 else v) for k, v in values.items() if k not in drug}
    u, u_entry = actions(drug, potencies, arrays)
    state, reference = entry_state(p, dict(zip(ACTIONS, u_entry, strict=True)), columns)

    def vector_field(y: State, u_now: Array) -> State:
        return field(y, dict(zip(ACTIONS, u_now, strict=True)), p, reference, columns)

    def loss(y: State, u_now: Array) -> Array:
        N = columns.lesion * jnp.exp(y.log_N)
        return osteoclast_loss(y, N, p, dict(zip(ACTIONS, u_now, strict=True)))

    if method == "runge_kutta":
        path = _runge_kutta(vector_field, loss, state, u, grid)
    elif method == "diffrax_fixed":
        path = _diffrax(
            vector_field,
            state,
            u,
            grid,
            diffrax.Bosh3(),
            diffrax.ConstantStepSize(),
            diffrax.DirectAdjoint(),
            grid.outputs * grid.substeps + 2,
        )
    elif method == "diffrax_tight":
        controller = diffrax.PIDController(rtol=rtol, atol=rtol * 1e-2, dtmax=grid.step)
        path = _diffrax(vector_field, state, u, grid, diffrax.Dopri8(), controller, diffrax.ForwardMode(), 100_000)
    else:
        raise ValueError(f"unknown method `{method}`; use runge_kutta, diffrax_fixed or diffrax_tight")

    n = arrays.cancer.shape[0]
    finite = jnp.stack([jnp.isfinite(x).all(axis=0) for x in path]).all(axis=0)
    positive = jnp.stack([(x > 0).all(axis=0) for x in (path.P, path.B, path.C, path.Z, path.G)]).all(axis=0)
    column = jnp.where(finite, jnp.where(positive, OK, NOT_POSITIVE), NOT_FINITE)
    status = jnp.where(column[:n] == OK, column[n:][arrays.skeleton_of], column[:n])
    path = State(*(jnp.where(column == OK, x, 1.0) for x in path))

    def skeleton(x: Array) -> Array:
        return x[:, n:][:, arrays.skeleton_of]

    return Trajectories(
        burden=jnp.exp(path.log_N[:, :n]),
        growth=path.y[:, :n],
        osteoblasts=path.B[:, :n],
        osteoclasts=path.C[:, :n],
        mineral=path.Z[:, :n],
        tgfb=path.G[:, :n],
        flux=(path.C * path.Z)[:, :n],
        skeleton_flux=skeleton(path.C * path.Z),
        skeleton_osteoblasts=skeleton(path.B),
        skeleton_mineral=skeleton(path.Z),
        reference=Reference(*(x[:n] for x in reference)),
        status=status,
    )
