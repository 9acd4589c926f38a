"""Where chains start: a multi-start search for optima, their Laplace weights, and the metric that sampling uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from osteobayes.errors import RunError

HELD_VARIANCE = 0.25
"""Metric of coordinates that the search holds (log standard deviations)."""
BEHIND = 20.0
"""An optimum so much (in nats) below the best has no mass; after a third of its iterations a start so much behind is given up."""
SAME_MODE = 2.0
"""Optima whose root-mean-square Mahalanobis distance is below this are one mode."""

HALVINGS = 10
"""Of the distance between a chain's first point and the centre of its mode, at most."""


@dataclass(frozen=True)
class Optimum:
    """A local optimum in unconstrained space.

    Attributes
    ----------
    z
        Location.
    log_density
        Joint log density there (with the Jacobian of the unconstrained space).
    covariance
        Inverse of the negative Hessian, made positive definite.
    log_weight
        Laplace approximation of the log mass of its mode.
    found
        How many starts ended here.
    """

    z: np.ndarray
    log_density: float
    covariance: np.ndarray
    log_weight: float
    found: int


ValueAndGrad = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Values and gradients at many points [point, parameter]."""


def minimise(potential: ValueAndGrad, z: np.ndarray, free: np.ndarray, iterations: int) -> tuple[np.ndarray, float]:
    """Local minimum over the free coordinates; a point that cannot be solved gets a finite penalty."""
    best = {"x": z, "f": np.inf}

    def penalised(part: np.ndarray) -> tuple[float, np.ndarray]:
        x = z.copy()
        x[free] = part
        value, gradient = (found[0] for found in potential(x[None]))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e10, np.zeros_like(part)
        if value < best["f"]:
            best["x"], best["f"] = x.copy(), float(value)
        return float(value), np.asarray(gradient)[free]

    scipy.optimize.minimize(
        penalised,
        z[free],
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxcor": 30, "maxfun": 2 * iterations},
    )
    return best["x"], best["f"]


def hessian(potential: ValueAndGrad, z: np.ndarray, free: np.ndarray, workers: int, step: float = 1e-4) -> np.ndarray:
    """Hessian of the potential over the free coordinates by central differences of its gradient, symmetrised."""
    steps = step * np.eye(len(z))[free]
    parts = np.array_split(np.concatenate([z + steps, z - steps]), workers)
    with ThreadPoolExecutor(workers) as pool:
        gradients = np.concatenate(list(pool.map(lambda points: potential(points)[1], parts)))[:, free]
    H = (gradients[: len(steps)] - gradients[len(steps) :]) / (2 * step)
    return 0.5 * (H + H.T)


def laplace(potential: ValueAndGrad, z: np.ndarray, free: np.ndarray, workers: int) -> tuple[np.ndarray, float]:
    """Covariance at an optimum over the free coordinates and its log determinant; held ones get :data:`HELD_VARIANCE`.

    Curvatures below 0.1 (flat or saddle directions) are raised to it.

    Raises
    ------
    RunError
        If the gradient beside the optimum is not finite.
    """
    H = hessian(potential, z, free, workers)
    if not np.isfinite(H).all():
        raise RunError("the gradient beside an optimum is not finite: the model cannot be solved there")
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(values, 0.1)
    covariance = np.diag(np.where(free, 0.0, HELD_VARIANCE))
    covariance[np.ix_(free, free)] = (vectors / values) @ vectors.T
    return covariance, float(-np.log(values).sum())


def search(
    potential: ValueAndGrad,
    starts: list[np.ndarray],
    free: np.ndarray,
    workers: int,
    iterations: int = 400,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Optimum]:
    """Multi-start search: distinct optima, best Laplace weight first.

    ``free`` marks the coordinates that move. Standard deviations of centred effects are held at a typical value: the joint
    density has no maximum where they vanish together with their effects.

    Raises
    ------
    RunError
        If no start reached a finite density, or none ended where the gradient beside it is finite.
    """
    first = max(iterations // 3, 1)
    with ThreadPoolExecutor(workers) as pool:

        def descend(starts: list[np.ndarray], iterations: int) -> list[tuple[np.ndarray, float]]:
            ends = pool.map(lambda z: minimise(potential, z, free, iterations), starts)
            return sorted((e for e in ends if np.isfinite(e[1])), key=lambda e: e[1])

        begun = descend(starts, first)
        near = [e for e in begun if e[1] < begun[0][1] + BEHIND]
        ends = sorted(descend([z for z, _ in near], iterations - first) + begun[len(near) :], key=lambda e: e[1])
    if not ends:
        raise RunError(
            "no start of the optimisation reached a finite density; look at the prior predictive (a prior far from the data?)"
        )
    progress(f"{len(starts)} starts ended at log density {', '.join(f'{-f:.1f}' for _, f in ends)}")
    optima: list[Optimum] = []
    for z, f in ends:
        if f > ends[0][1] + BEHIND:
            continue
        for i, known in enumerate(optima):
            d = z - known.z
            if np.sqrt(d @ np.linalg.solve(known.covariance, d) / free.sum()) < SAME_MODE:
                optima[i] = Optimum(known.z, known.log_density, known.covariance, known.log_weight, known.found + 1)
                break
        else:
            try:
                covariance, log_det = laplace(potential, z, free, workers)
            except RunError as error:
                progress(f"the optimum at log density {-f:.1f} is left out: {error}")
                continue
            optima.append(Optimum(z, -f, covariance, -f + 0.5 * log_det + 0.5 * free.sum() * np.log(2 * np.pi), 1))
    if not optima:
        raise RunError("no optimum can be started from: the model cannot be solved beside any; try another seed")
    return sorted(optima, key=lambda o: -o.log_weight)


def first_points(
    potential: Callable[[np.ndarray], np.ndarray], candidates: list[np.ndarray], spread: np.ndarray
) -> np.ndarray:
    """Where chains start: about the first candidate of each that is no worse than the others, at a distance that the density allows.

    An approximation may have its centre where the density is nearly nothing, or fall off slower than the density: from there
    no trajectory is accepted.

    Parameters
    ----------
    potential
        Negative log densities of points [chain, parameter].
    candidates
        Centres of all chains [chain, parameter], in the order in which they are preferred.
    spread
        Steps away from them [chain, parameter]; halved for a chain (:data:`HALVINGS` times at most) as long as the density falls by more
        than one nat a parameter.
    """

    def values(points: np.ndarray) -> np.ndarray:
        found = potential(points)
        return np.where(np.isfinite(found), found, np.inf)

    allowed = float(spread.shape[1])
    found = np.stack([values(c) for c in candidates])
    chosen = np.argmax(found <= found.min(axis=0) + allowed, axis=0)
    chains = np.arange(len(spread))
    centres, at = np.stack(candidates)[chosen, chains], found[chosen, chains]
    share = np.ones((len(spread), 1))
    for _ in range(HALVINGS):
        far = ~(values(centres + share * spread) <= at + allowed)
        if not far.any():
            break
        share[far] *= 0.5
    return centres + share * spread


def weights(optima: list[Optimum]) -> np.ndarray:
    """Laplace weights of the modes, summing to one."""
    w = np.array([o.log_weight for o in optima])
    w = np.exp(w - w.max())
    return w / w.sum()


def mode_of_chain(optima: list[Optimum], chains: int) -> np.ndarray:
    """Mode that each chain starts in: those with a Laplace weight above 1e-4 in turn."""
    usable = [i for i, w in enumerate(weights(optima)) if w > 1e-4]
    return np.array([usable[i % len(usable)] for i in range(chains)])
