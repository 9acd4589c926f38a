"""Courses of a lesion, its patient's skeleton and the systemic burden under regimens, straight from priors: no fit needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from osteobayes.cycle import (
    CYCLE_PARAMETERS,
    DEFAULT_GRID,
    Catalogue,
    Cell,
    Grid,
    Regimen,
    pack,
    parameter_names,
    shipped_catalogue,
)
from osteobayes.errors import OsteobayesError
from osteobayes.precision import jit, require_float64
from osteobayes.priors import PriorSet
from osteobayes.schema import CANCERS, did_you_mean
from osteobayes.solve.cells import failures, trajectories

if TYPE_CHECKING:
    import xarray as xr

CURVES = {
    "burden": "lesion burden (share of its capacity)",
    "growth": "log systemic growth since entry",
    "osteoblasts": "osteoblasts of the lesion (healthy = 1)",
    "osteoclasts": "osteoclasts of the lesion (healthy = 1)",
    "mineral": "mineral of the lesion (healthy = 1)",
    "tgfb": "TGF-beta programme of the lesion (healthy = 1)",
    "flux": "resorption flux of the lesion (healthy = 1)",
    "skeleton_flux": "resorption flux of the systemic skeleton (healthy = 1)",
    "skeleton_osteoblasts": "osteoblasts of the systemic skeleton (healthy = 1)",
    "skeleton_mineral": "mineral of the systemic skeleton (healthy = 1)",
}
"""Curves of :class:`osteobayes.solve.Trajectories` and what they are."""


def courses(
    regimens: Sequence[str | Regimen],
    cancer: str,
    priors: PriorSet | None = None,
    catalogue: Catalogue | None = None,
    draws: int = 0,
    seed: int = 0,
    pretreatment: str = "none",
    grid: Grid = DEFAULT_GRID,
    full: bool = False,
) -> "xr.Dataset":
    """Trajectories under regimens at the centre of the priors, or at draws from them.

    Parameters
    ----------
    regimens
        Regimens as text.
    cancer
        One of :data:`osteobayes.schema.CANCERS`.
    priors, catalogue
        Default: those that ship with the package.
    draws
        Draws from the prior; 0: the centre of every prior (median; mean of a beta) alone.
    seed
        Of the draws.
    pretreatment
        Treatment of the population before entry (:data:`osteobayes.cycle.cells.PRETREATMENTS`).
    grid
        Time grid.
    full
        Every module in every cell.

    Returns
    -------
    xarray.Dataset
        One variable a curve (:data:`CURVES`), dims ``draw``, ``regimen`` and ``day``. These are consequences of the priors, not
        predictions: no trial has informed them.

    Raises
    ------
    OsteobayesError, RegimenError
        Unknown cancer or agent, an agent without a mechanism, or a cell that could not be solved at the centre (which and when).
    """
    import xarray as xr

    require_float64()
    if cancer not in CANCERS:
        raise OsteobayesError(f"no cancer is called {cancer!r}; {did_you_mean(cancer, CANCERS)}")
    catalogue = catalogue or shipped_catalogue()
    potencies = parameter_names(catalogue)
    names = (*CYCLE_PARAMETERS, *potencies[1:])
    chosen = (priors or PriorSet.load()).only(names)
    coords = {"cancer": CANCERS}
    hyper = chosen.hyper(coords)
    cells = [Cell(cancer, Regimen.parse(r, catalogue), pretreatment) for r in regimens]
    arrays = pack(cells, catalogue, grid, full)

    def at(sites):
        values = chosen.values(sites, hyper)
        return trajectories({n: values[n] for n in names}, potencies, arrays, grid, full=full)

    run = jit(at)
    if draws:
        paths = [run(chosen.sample(jax.random.key(seed + i), hyper, coords)) for i in range(draws)]
    else:
        paths = [run(chosen.centre(coords, hyper))]
        if failed := failures(paths[0], cells, grid):
            raise OsteobayesError(failed[0])
    solved = np.stack([np.asarray(p.status) == 0 for p in paths])

    def stacked(name: str) -> np.ndarray:
        curves = np.stack([np.asarray(getattr(p, name)).T for p in paths])
        return np.where(solved[..., None], curves, np.nan)

    return xr.Dataset(
        {n: (("draw", "regimen", "day"), stacked(n), {"long_name": text}) for n, text in CURVES.items()},
        coords={"regimen": [str(c.regimen) for c in cells], "day": grid.days},
        attrs={"cancer": cancer, "pretreatment": pretreatment, "unsolved": int((~solved).sum())},
    )
