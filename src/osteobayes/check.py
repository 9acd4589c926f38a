"""Whether to believe a run: prior and posterior predictive, prior-only contrasts, control arms, the solver.

Tables only; plots belong to the room `report`, scores of numbers that were not fitted to `score`.
"""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array

from osteobayes.cycle import Cell, Regimen
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.evidence import Evidence
from osteobayes.evidence.pack import members, reference_arm
from osteobayes.evidence.rows import Arms
from osteobayes.fit import Run
from osteobayes.fit.diagnose import ESS_LIMIT, K_LIMIT, LEAST, convergence, importance
from osteobayes.fit.result import coverage, map_draws
from osteobayes.fit.store import write_atomically
from osteobayes.model import Model, curves, likelihood
from osteobayes.observe import interpolation
from osteobayes.predict import Prediction, _constants, _draws
from osteobayes.schema import COMPONENTS, DETECTIONS

LEAST_COVERAGE = 0.85
"""In-sample 90 % coverage below this is flagged: fitted numbers are used twice, so theirs is rather too high."""
LEAST_WIDTH = 0.8
"""A prior-only contrast narrower than this share of its prior is not prior-only, or its prior leaks."""
SOLVER_DRAWS = 100
"""Draws that :func:`complete` solves again; Pareto k of their importance ratios needs 25."""
TWO_SDS = (0.05, 0.5, 0.95)


def prior_predictive(model: Model, draws: int = 200, key: Array | None = None) -> pd.DataFrame:
    """Each fitted number beside its prior predictive interval; no posterior is needed.

    Parameters
    ----------
    model
        The model.
    draws
        Prior draws; each solves all cells.
    key
        Random key; default seed 0.

    Returns
    -------
    DataFrame
        One row a printed number: ``outcome, family, study, arm, endpoint, cancer, observed, low, median, high`` (90 %, on
        the printed scale: shares, months, ratios, rates), ``inside``. Draws whose cells could not be solved are left out;
        ``attrs["failed"]`` counts them.
    """
    data = model.data
    key = jax.random.key(0) if key is None else key

    def one(k: Array) -> tuple[dict[str, Array], Array]:
        values = model.values(model.draw_prior(jax.random.fold_in(k, 0), data), data)
        expected, failed = model.expected(values, data)
        return {
            f: likelihood.simulate(f, jax.random.fold_in(k, 1 + i), a, data["observed"][f])
            for i, (f, a) in enumerate(expected.items())
        }, failed

    replicates, failed = map_draws(one, jax.random.split(key, draws), draws, 1)
    solved = np.asarray(failed) == 0
    if not solved.any():
        raise OsteobayesError(f"none of {draws} prior draws could be solved; look at the priors of the cycle")
    replicates = {f: x[solved] for f, x in replicates.items()}
    table = coverage(model.packed, replicates, replicates)
    names = ["outcome", "family", "study", "arm", "endpoint", "cancer", "observed", "low", "median", "high", "inside"]
    table = table[names]
    table.attrs["failed"] = int((~solved).sum())
    return table


def posterior_predictive(run: Run) -> pd.DataFrame:
    """Coverage beside sharpness of the fitted numbers by family, from ``fit_by_outcome.csv``.

    Returns
    -------
    DataFrame
        Columns of :func:`by_family`.

    Raises
    ------
    RunError
        If the run holds no such file.
    """
    file = run.path / "fit_by_outcome.csv"
    if not file.is_file():
        raise RunError(f"{run.path}: there is no fit_by_outcome.csv; the run is not finished")
    return by_family(pd.read_csv(file))


def by_family(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise fitted numbers by family.

    Parameters
    ----------
    table
        One row a number: ``outcome, family, patients, inside, of_prior, of_printed``
        (:func:`osteobayes.fit.result.coverage`).

    Returns
    -------
    DataFrame
        One row a family, and ``all``: ``rows, patient_sets, inside, coverage`` (nominal 0.9), ``of_prior`` and
        ``of_printed`` (median width of the 90 % predictive interval over that of the prior and of the printed number),
        ``flagged`` (coverage below 0.85), ``outside`` (outcomes), ``sentence``.
    """
    groups = [("all", table), *((str(f), g) for f, g in table.groupby("family", sort=False))]
    rows = []
    for family, g in groups:
        inside = g["inside"].astype(bool)
        share = float(inside.mean()) if len(g) else float("nan")
        of_prior, of_printed = float(g["of_prior"].median()), float(g["of_printed"].median())
        flagged = share < LEAST_COVERAGE
        sharp = f"their intervals are {of_prior:.2f} of the prior's" if np.isfinite(of_prior) else "no prior to compare"
        if np.isfinite(of_printed):
            sharp += f" and {of_printed:.1f} times those of the printed numbers"
        sentence = (
            f"{family}: {int(inside.sum())} of {len(g)} numbers lie inside their 90 % interval ({share:.0%}); {sharp}."
        )
        if flagged:
            sentence += f" Fitted numbers should reach {LEAST_COVERAGE:.0%}: the model misses this family."
        rows.append(
            {
                "family": family, "rows": len(g), "patient_sets": g["patients"].nunique(), "inside": int(inside.sum()),
                "coverage": share, "of_prior": of_prior, "of_printed": of_printed, "flagged": flagged,
                "outside": ", ".join(g.loc[~inside, "outcome"]), "sentence": sentence,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def prior_only_contrasts(prediction: Prediction, least: float = LEAST_WIDTH) -> pd.DataFrame:
    """Whether contrasts that are graded prior-only are as wide as their priors.

    Parameters
    ----------
    prediction
        Of :func:`osteobayes.predict.predict`.
    least
        Flag a contrast whose 90 % interval (log rate ratio) is narrower than this share of its prior's.

    Returns
    -------
    DataFrame
        One row a prior-only regimen: ``cancer, population, regimen, versus, width_of_prior, flagged, sentence``.
    """
    rows = []
    table = prediction.table
    for row in table[table["grade"] == "prior-only"].itertuples():
        width = float(row.width_of_prior)
        flagged = not width >= least
        text = f"{row.regimen} against {prediction.versus} in {prediction.cancer}: interval {width:.2f} of its prior's"
        text += (
            f", narrower than {least:g}: something other than its own trials informs it (shared parameters); look before use."
            if flagged
            else ": as wide as a prior-only contrast should be."
        )
        rows.append(
            {
                "cancer": prediction.cancer, "population": prediction.population, "regimen": row.regimen,
                "versus": prediction.versus, "width_of_prior": width, "flagged": flagged, "sentence": text,
            }
        )  # fmt: skip
    names = ["cancer", "population", "regimen", "versus", "width_of_prior", "flagged", "sentence"]
    return pd.DataFrame(rows, columns=names)


def controls(evidence: Evidence) -> list[tuple[str, str]]:
    """Study and arm of the control arms of randomised studies: comparators that are no subgroup and have a regimen."""
    found = []
    for study in evidence.studies.values():
        if study.design != "randomised":
            continue
        reference = reference_arm(study, evidence.outcomes)
        for arm in study.arms:
            if arm.id in reference and not arm.overlaps and all(r for _, r, _ in study.members(arm.id)):
                found.append((study.id, arm.id))
    return found


def published_at_one_year(evidence: Evidence, study: str, arm: str, endpoint: str) -> tuple[float, str]:
    """Published share free of an endpoint at 12 months.

    Parameters
    ----------
    evidence, study, arm
        Where to look; rows of any use.
    endpoint
        ``OS`` or ``PFS``.

    Returns
    -------
    share, source
        A printed ``survival_at`` 12 months and its outcome id; else from the printed median, as an exponential
        (``0.5 ** (12 / median)``; the source says so); else NaN and an empty text.
    """
    frame = evidence.outcomes
    rows = frame[(frame["study"] == study) & (frame["arm"] == arm) & (frame["endpoint"] == endpoint)]
    at = rows[rows["statistic"].isin(["survival_at", "event_free_at"]) & (np.abs(rows["time_years"] - 1.0) < 0.05)]
    if not at.empty:
        return float(at["value_si"].iloc[0]), str(at["outcome_id"].iloc[0])
    medians = rows[(rows["statistic"] == "median") & rows["value_si"].notna()]
    if medians.empty:
        return float("nan"), ""
    best = medians.sort_values("use", key=lambda use: use.map({"fit": 0, "check": 1, "no": 2})).iloc[0]
    return float(0.5 ** (1.0 / best["value_si"])), f"{best['outcome_id']} (median, taken as exponential)"


def control_arms(run: Run, draws: int = 100) -> pd.DataFrame:
    """Burden, progression-free and overall survival of the control arms at 12 months beside the published figure.

    Parameters
    ----------
    run
        A finished run.
    draws
        Posterior draws used (thinned evenly).

    Returns
    -------
    DataFrame
        One row an arm and quantity: ``study, arm, cancer, quantity`` (``burden_fold``: lesion burden at 12 months over that
        at entry; ``systemic_fold``: the systemic burden; ``PFS`` and ``OS``: shares), ``low, median, high`` (90 %),
        ``published, source, inside`` (empty where nothing is published), ``baseline`` (whether the study's survival and
        progression effects were fitted; if not they are 0: the cancer's typical study).
    """
    model, t = run.model, run.model.grid.years
    if t[-1] < 1.0:
        raise RunError(f"the model's grid ends at {12 * t[-1]:.0f} months, before the 12 that this check needs")
    arms = controls(model.evidence)
    if not arms:
        raise OsteobayesError("the evidence holds no control arm of a randomised study")
    cells, packed, fitted = _control_arrays(model, arms)
    arrays = model.pack(cells)
    design = jnp.asarray(model.discrepancy_design(cells))
    year, tj, constants = jnp.asarray(interpolation(t, 1.0)), jnp.asarray(t), _constants(model)

    def one(values: dict[str, Any]) -> dict[str, Array]:
        v = {**constants, **values}
        hazards, path = model.cell_hazards(v, arrays, design)
        effects = curves.effect_vectors(v)
        os_ = curves.death_curves(packed, hazards, v, effects, tj)
        pfs = curves.CURVES["PFS"](packed, hazards, v, effects, tj)

        def fold(log_burden: Array) -> Array:
            return jnp.exp((packed.weight * (log_burden.T @ year - log_burden[0])[packed.cell]).sum(axis=1))

        return {
            "burden_fold": fold(jnp.log(path.burden)), "systemic_fold": fold(path.growth),
            "PFS": pfs.at_risk @ year, "OS": os_.at_risk @ year,
        }  # fmt: skip

    sampled = _draws(run, "posterior", draws)
    found = map_draws(one, sampled, len(next(iter(sampled.values()))), 1)
    rows = []
    for quantity, x in found.items():
        for i, (study, arm) in enumerate(arms):
            low, middle, high = (float(q) for q in np.nanquantile(x[:, i], TWO_SDS))
            published, source = float("nan"), ""
            if quantity in ("OS", "PFS"):
                published, source = published_at_one_year(model.evidence, study, arm, quantity)
            inside = bool(low <= published <= high) if np.isfinite(published) else None
            rows.append(
                {
                    "study": study, "arm": arm, "cancer": model.evidence.studies[study].arm_cancer(arm),
                    "quantity": quantity, "low": low, "median": middle, "high": high, "published": published,
                    "source": source, "inside": inside, "baseline": fitted[i][quantity == "PFS"],
                }
            )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["study", "arm"], kind="stable", ignore_index=True)


def _control_arrays(model: Model, arms: list[tuple[str, str]]) -> tuple[list[Cell], Arms, list[tuple[bool, bool]]]:
    """Cells, arm arrays, and whether (survival, progression) effects of each arm's study were fitted."""
    deaths = [*model.coords["study_os"], *model.coords["study_os_unseen"]]
    progressions = list(model.coords["study_pfs"])
    cells: dict[Cell, int] = {}
    groups: list[list[tuple[int, float]]] = []
    for study_id, arm in arms:
        study = model.evidence.studies[study_id]
        mine = []
        for cancer, regimen, weight in members(study, arm, model.catalogue):
            cell = Cell(cancer, Regimen.parse(regimen or "placebo", model.catalogue), study.population.pretreatment)
            mine.append((cells.setdefault(cell, len(cells)), weight))
        groups.append(mine)
    width, n = max(map(len, groups)), len(arms)
    cell, weight = np.zeros((n, width), dtype=np.int32), np.zeros((n, width))
    for i, mine in enumerate(groups):
        total = sum(w for _, w in mine)
        cell[i] = mine[0][0]
        for j, (c, w) in enumerate(mine):
            cell[i, j], weight[i, j] = c, w / total
    death = np.array([deaths.index(s) + 1 if s in deaths else 0 for s, _ in arms], dtype=np.int32)
    pfs = np.array([progressions.index(s) + 1 if s in progressions else 0 for s, _ in arms], dtype=np.int32)
    chosen = model.coords["study_entry"]
    entry = np.array([chosen.index(s) + 1 if s in chosen else 0 for s, _ in arms], dtype=np.int32)
    none = np.zeros(n, dtype=np.int32)
    packed = Arms(
        jnp.zeros((1, len(COMPONENTS))), jnp.zeros((1, len(DETECTIONS))), jnp.zeros((0, 1, 1)), none, jnp.asarray(cell), jnp.asarray(weight), none,
        jnp.asarray(death), jnp.ones(n), jnp.asarray(entry), jnp.asarray(pfs), none, none, none, none, jnp.zeros(n), jnp.ones((n, len(model.grid.years))),
    )  # fmt: skip
    seen = set(model.coords["study_os"])
    return list(cells), packed, [(s in seen, s in progressions) for s, _ in arms]


def solver_check(run: Run, draws: int = 100, reference: str = "diffrax_tight") -> dict[str, Any]:
    """Log likelihood of thinned draws with the solver of the sampler against a tight one that sees exposures every half day.

    Parameters
    ----------
    run
        A finished run.
    draws
        Posterior draws (thinned evenly); the reference is some ten times slower.
    reference
        Method of :func:`osteobayes.solve.trajectories`.

    Returns
    -------
    dict
        See :func:`compare_log_likelihoods`, with ``method`` and ``reference``.
    """
    constants = _constants(run.model)
    sampled = _draws(run, "posterior", draws)
    n = len(next(iter(sampled.values())))
    grid = run.model.grid
    fine = replace(run.model, grid=replace(grid, substeps=max(1, round(2 * grid.output_days)), fine=None))

    def total(model: Model, method: str) -> np.ndarray:
        data = model.data

        def one(values: dict[str, Any]) -> Array:
            expected, failed = model.expected({**constants, **values}, data, method)
            terms = [
                (data["weights"][f] * likelihood.log_lik(f, data["observed"][f], a)).sum() for f, a in expected.items()
            ]
            return jnp.where(failed > 0, -jnp.inf, sum(terms))

        return np.asarray(map_draws(one, sampled, n, 1))

    found = compare_log_likelihoods(total(run.model, run.settings.method), total(fine, reference))
    return found | {"method": run.settings.method, "reference": reference}


def compare_log_likelihoods(default: np.ndarray, tight: np.ndarray) -> dict[str, Any]:
    """Error of a solver in nats, and what reweighting to the tight one would cost (Timonen et al. 2022).

    Parameters
    ----------
    default, tight
        Log likelihood of the same draws with either solver [draw].

    Returns
    -------
    dict
        ``draws, failed`` (not finite with either), ``max_abs_difference, mean_difference, sd_difference`` (nats, tight
        minus default; a common shift is harmless, the sd is not), ``effective_draws`` (of the importance ratios),
        ``efficiency`` (their share of the draws), ``pareto_k`` (shape of the tail of the ratios; above 0.7 the draws of the
        default solver do not stand for those of the tight one; NaN with fewer than 25 draws), ``sentence``.
    """
    default, tight = np.asarray(default, dtype=float), np.asarray(tight, dtype=float)
    if default.shape != tight.shape or default.ndim != 1 or not default.size:
        raise OsteobayesError("the two solvers need one log likelihood each for the same draws")
    both = np.isfinite(default) & np.isfinite(tight)
    out: dict[str, Any] = {"draws": len(default), "failed": int((~both).sum())}
    if not both.any():
        names = ["max_abs_difference", "mean_difference", "sd_difference", "efficiency", "pareto_k"]
        nothing = dict.fromkeys(names, float("nan"))
        return out | nothing | {"effective_draws": 0.0, "sentence": "No draw could be solved with both solvers."}
    difference = (tight - default)[both]
    k, effective = importance(difference)
    out |= {
        "max_abs_difference": float(np.abs(difference).max()), "mean_difference": float(difference.mean()),
        "sd_difference": float(difference.std()), "effective_draws": effective, "efficiency": effective / len(difference),
        "pareto_k": k,
    }  # fmt: skip
    sentence = (
        f"The log likelihood of {len(difference)} draws differs from a tight solve by at most "
        f"{out['max_abs_difference']:.3g} nats (sd {out['sd_difference']:.2g}); reweighting would keep {out['efficiency']:.0%} (Pareto k {k:.2f})."
    )
    if out["failed"]:
        sentence += f" {out['failed']} draws could not be compared."
    return out | {"sentence": sentence}


def headline(run: Run, predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Monte Carlo error of each predicted P(at least one skeletal event).

    Parameters
    ----------
    run
        A finished run.
    predictions
        :func:`osteobayes.predict.default_predictions` of it, or others.

    Returns
    -------
    dict
        By cancer and regimen: ``mean, sd, mcse`` (standard error of the mean), ``ess_bulk, ess_tail`` of the draws that the
        prediction used (thinned evenly, so at most what the run has; NaN where there are too few to tell).
    """
    import arviz as az

    total = run.settings.chains * run.settings.sampling
    out = {}
    for p in predictions:
        x = p.draws["p_sre_posterior"].sel(regimen=list(p.table["regimen"])).to_numpy()
        kept = np.arange(total) if len(x) == total else np.linspace(0, total - 1, len(x)).astype(int)
        chain = kept // run.settings.sampling
        each = np.bincount(chain, minlength=run.settings.chains).min()
        by_chain = np.stack([x[chain == c][:each] for c in range(run.settings.chains)])
        found = convergence(by_chain)
        dataset = xr.Dataset({"x": (("chain", "draw", "regimen"), by_chain)})
        mcse = az.mcse(dataset)["x"].to_numpy() if each >= LEAST[1] else np.full(x.shape[1], np.nan)
        for k, regimen in enumerate(p.table["regimen"]):
            out[f"{p.cancer}: {regimen}"] = {
                "mean": float(x[:, k].mean()), "sd": float(x[:, k].std(ddof=1)), "mcse": float(mcse[k]),
                "ess_bulk": float(found.bulk[k]), "ess_tail": float(found.tail[k]),
            }  # fmt: skip
    return out


def solver_beside(run: Run) -> dict[str, Any]:
    """:func:`solver_check` as the diagnostics have it: half of its time is compiling, on one core."""
    return solver_check(run, SOLVER_DRAWS, "runge_kutta")


def complete(run: Run, predictions: Sequence[Prediction], solver: dict[str, Any] | None = None) -> dict[str, Any]:
    """Add to ``diagnostics.json`` what needs predictions and a second solve: ``headline`` and ``solver``.

    The solver is compared with itself at steps of half a day on :data:`SOLVER_DRAWS` draws (:func:`solver_beside`; ``solver``: what
    that found, if it ran already). A run whose headline predictions have
    fewer than 200 effective draws, or whose importance ratios have Pareto k above 0.7, may not be used, and its sentence says so.
    """
    found = dict(run.diagnostics)
    found["headline"] = headline(run, predictions)
    found["solver"] = solver or solver_beside(run)
    problems = []
    short = {k: h["ess_bulk"] for k, h in found["headline"].items() if not h["ess_bulk"] >= ESS_LIMIT}
    if short:
        worst = min(short, key=lambda k: short[k])
        problems.append(f"bulk ESS of P(SRE) in {worst} is {short[worst]:.0f} (limit {ESS_LIMIT})")
    if found["solver"]["pareto_k"] > K_LIMIT:
        problems.append(f"Pareto k of the solver is {found['solver']['pareto_k']:.2f} (limit {K_LIMIT})")
    if problems:
        before = found["sentence"] if not found["usable"] else "The run may not be used: "
        joined = "; ".join(problems)
        found["sentence"] = f"{before}{joined}." if found["usable"] else f"{before.removesuffix('.')}; {joined}."
        found["usable"] = False
    text = json.dumps(_finite(found), indent=1, sort_keys=True, allow_nan=False)
    write_atomically(run.path / "diagnostics.json", f"{text}\n".encode())
    run.__dict__.pop("diagnostics", None)
    return found


def _finite(x: Any) -> Any:
    """Content for JSON, which has no NaN: null."""
    if isinstance(x, dict):
        return {k: _finite(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_finite(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x
