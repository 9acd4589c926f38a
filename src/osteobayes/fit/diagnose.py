"""Whether draws may be used: convergence of every sampled scalar, divergences, energy, failed solves, in one sentence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

RHAT_LIMIT = 1.01
ESS_LIMIT = 200
RATE_LIMIT = 0.001
"""Share of draws that may diverge, and that may hold cells which could not be solved."""
BFMI_LIMIT = 0.3
"""Energy fraction of a chain below which momentum is refreshed too slowly to explore the tails (Betancourt 2016)."""
K_LIMIT = 0.7
"""Pareto k of importance ratios above which draws of one density do not stand for those of another (Vehtari et al. 2024)."""
LEAST_FOR_TAIL = 25
"""Draws from which the tail of importance ratios can be fitted."""
LEAST = (2, 8)
"""Chains and draws a chain from which convergence can be told."""


class Convergence(NamedTuple):
    """R-hat, bulk and tail effective sizes of every scalar; NaN where there are too few draws to tell."""

    rhat: Float[np.ndarray, " scalar"]
    bulk: Float[np.ndarray, " scalar"]
    tail: Float[np.ndarray, " scalar"]


def convergence(draws: Float[np.ndarray, "chain draw scalar"]) -> Convergence:
    """R-hat (rank-normalised, split, folded) and effective sizes (Vehtari et al. 2021, Bayesian Anal 16:667)."""
    import arviz as az

    if draws.shape[0] < LEAST[0] or draws.shape[1] < LEAST[1]:
        nothing = np.full(draws.shape[-1], np.nan)
        return Convergence(nothing, nothing, nothing)
    dataset = xr.Dataset({"x": (("chain", "draw", "scalar"), draws)})
    found = (az.rhat(dataset), az.ess(dataset, method="bulk"), az.ess(dataset, method="tail"))
    return Convergence(*(x["x"].to_numpy() for x in found))


def energy_fraction(energy: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """E-BFMI of each chain; NaN where there are too few draws to tell."""
    import arviz as az

    if energy.shape[1] < LEAST[1]:
        return np.full(energy.shape[0], np.nan)
    tree = xr.DataTree.from_dict({"sample_stats": xr.Dataset({"energy": (("chain", "draw"), energy)})})
    return az.bfmi(tree)["energy"].to_numpy()


def importance(log_ratio: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """Pareto k of importance ratios (NaN if there are too few, or all are the same), and the effective number of draws.

    The ratios are smoothed where k is known (Vehtari et al. 2024, J Mach Learn Res 25:72).
    """
    from arviz_stats.base import array_stats

    k, log_w = np.nan, log_ratio - log_ratio.max()
    if len(log_w) >= LEAST_FOR_TAIL and log_w.std() > 1e-9:
        log_w, k = array_stats.psislw(-log_w)  # ArviZ takes minus the log of the ratios
    w = np.exp(log_w - log_w.max())
    return float(k), float(w.sum() ** 2 / (w**2).sum())


def verdict(
    labels: Sequence[str],
    found: Convergence,
    draws: int,
    divergences: int = 0,
    failures: int = 0,
    more: Sequence[str] = (),
) -> tuple[bool, str]:
    """Whether a run may be used, and a sentence that says why not (or the figures, if it may).

    Parameters
    ----------
    labels
        Names of the scalars.
    found
        Their convergence.
    draws
        Number of draws of all chains.
    divergences, failures
        Draws after a divergent transition, and with cells that could not be solved.
    more
        Further reasons against.
    """
    problems = []
    enough = bool(np.isfinite(found.rhat).any())
    worst, least = (np.nanmax(found.rhat), np.nanmin(found.bulk)) if enough else (np.nan, np.nan)
    if not worst <= RHAT_LIMIT:
        name = labels[int(np.nanargmax(found.rhat))] if enough else "all"
        problems.append(f"R-hat of {name} is {worst:.3f} (limit {RHAT_LIMIT})")
    if not least >= ESS_LIMIT:
        name = labels[int(np.nanargmin(found.bulk))] if enough else "all"
        problems.append(f"bulk ESS of {name} is {least:.0f} (limit {ESS_LIMIT})")
    if enough and np.isnan(found.rhat).any():
        name = labels[int(np.flatnonzero(np.isnan(found.rhat))[0])]
        problems.append(f"{name} does not move in some chain")
    if divergences > RATE_LIMIT * draws:
        problems.append(f"{divergences} divergences in {draws} draws (limit {RATE_LIMIT:.1%})")
    if failures > RATE_LIMIT * draws:
        problems.append(f"{failures} of {draws} draws have cells that could not be solved (limit {RATE_LIMIT:.1%})")
    problems += more
    if problems:
        return False, "The run may not be used: " + "; ".join(problems) + "."
    return True, (
        f"The run may be used: R-hat at most {worst:.3f}, bulk ESS at least {least:.0f}, {divergences} divergences"
    )


def learned(
    posterior: Mapping[str, np.ndarray], prior: Mapping[str, np.ndarray], dims: Mapping[str, Sequence[Sequence[str]]]
) -> pd.DataFrame:
    """What the evidence said about every parameter.

    Parameters
    ----------
    posterior, prior
        Draws by parameter [draw, ...], natural scale.
    dims
        Labels of each dim of each parameter.

    Returns
    -------
    DataFrame
        One row a scalar: ``parameter, level``, prior and posterior ``median, low, high`` (90 %), ``contraction`` (1 less the
        ratio of the posterior's interval width to the prior's; on the log scale where both are positive) and ``conflict``
        (distance of the medians in units of half the prior's interval: beyond 1 the data pull the parameter out of its prior).
    """
    rows = []
    for name, post in posterior.items():
        pre = np.asarray(prior[name])
        for at in np.ndindex(*np.shape(post)[1:]):
            x, y = np.asarray(post)[(slice(None), *at)], pre[(slice(None), *at)]
            p, q = (np.nanquantile(v, [0.05, 0.5, 0.95]) for v in (x, y))
            scale = np.log if min(p[0], q[0]) > 0 else np.asarray
            (low, mid, high), (low0, mid0, high0) = scale(p), scale(q)
            wide = high0 - low0
            rows.append(
                {
                    "parameter": name, "level": ", ".join(str(d[i]) for d, i in zip(dims[name], at, strict=True)),
                    "prior_median": q[1], "prior_low": q[0], "prior_high": q[2], "median": p[1], "low": p[0], "high": p[2],
                    "contraction": 1.0 - (high - low) / wide if wide > 0 else np.nan,
                    "conflict": (mid - mid0) / (0.5 * wide) if wide > 0 else np.nan,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
