"""External validation: proper scores of predictions against published numbers that were not fitted."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats

from osteobayes.errors import OsteobayesError
from osteobayes.evidence import Evidence
from osteobayes.evidence.pack import ONSET_KINDS
from osteobayes.evidence.uses import KINDS
from osteobayes.fit import Run
from osteobayes.fit.result import map_draws
from osteobayes.model import Model, likelihood
from osteobayes.predict import _constants, _draws
from osteobayes.priors import PriorSet
from osteobayes.twin import Twin

LEVEL = 0.9
PREDICTABLE = ("proportion", "hazard_ratio", "median")
"""Statistics that :func:`score_checks` predicts."""
SCALES = {"crude": "share", "median": "log years", "hazard_ratio": "log ratio"}
"""Scale on which each family is scored."""
_log = logging.getLogger(__name__)


def crps_sample(draws: np.ndarray, observed: float | np.ndarray) -> float | np.ndarray:
    """Continuous ranked probability score of predictive draws; lower is better, in the unit of the draws.

    Parameters
    ----------
    draws
        Predictive draws [S, ...].
    observed
        Observed value [...].

    Returns
    -------
    float or array [...]
        ``mean |x - y| - mean |x - x'| / 2``, of the empirical law of the draws (Gneiting and Raftery 2007, eq. 21).
    """
    x = np.sort(np.asarray(draws, dtype=float), axis=0)
    y = np.asarray(observed, dtype=float)
    if x.ndim == 0 or x.shape[0] == 0 or not np.isfinite(x).all():
        raise OsteobayesError("the CRPS needs at least one draw, and all draws finite")
    s = x.shape[0]
    rank = (2.0 * np.arange(1, s + 1) - s - 1.0).reshape(-1, *([1] * (x.ndim - 1)))
    score = np.abs(x - y).mean(axis=0) - (rank * x).sum(axis=0) / s**2
    return float(score) if np.ndim(score) == 0 else score


def crps_normal(mean: float | np.ndarray, sd: float | np.ndarray, observed: float | np.ndarray) -> Any:
    """CRPS of a normal prediction (Gneiting et al. 2005): ``sd (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi))``."""
    z = (np.asarray(observed, dtype=float) - mean) / sd
    return sd * (z * (2.0 * stats.norm.cdf(z) - 1.0) + 2.0 * stats.norm.pdf(z) - 1.0 / np.sqrt(np.pi))


def log_score_normal(mean: float | np.ndarray, sd: float | np.ndarray, observed: float | np.ndarray) -> Any:
    """Log predictive density of a normal prediction, nats; higher is better."""
    if np.any(np.asarray(sd) <= 0):
        raise OsteobayesError("the log score needs a positive standard deviation")
    return stats.norm.logpdf(observed, mean, sd)


def interval_score(
    low: float | np.ndarray, high: float | np.ndarray, observed: float | np.ndarray, level: float = LEVEL
) -> Any:
    """Interval score of a central interval; lower is better (Gneiting and Raftery 2007, eq. 43).

    Parameters
    ----------
    low, high
        Bounds of the interval.
    observed
        Observed value.
    level
        Nominal coverage, between 0 and 1.

    Returns
    -------
    float or array
        Width plus ``2 / (1 - level)`` times the distance by which the interval misses.
    """
    if not 0.0 < level < 1.0:
        raise OsteobayesError(f"the level of an interval lies between 0 and 1, found {level:g}")
    low, high, y = (np.asarray(x, dtype=float) for x in (low, high, observed))
    if np.any(high < low):
        raise OsteobayesError("an interval has its upper bound below its lower bound; exchange them")
    score = (high - low) + 2.0 / (1.0 - level) * (np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0))
    return float(score) if score.ndim == 0 else score


def coverage(low: np.ndarray, high: np.ndarray, observed: np.ndarray) -> float:
    """Share of observed values inside their intervals, bounds included."""
    low, high, y = (np.atleast_1d(np.asarray(x, dtype=float)) for x in (low, high, observed))
    if y.size == 0:
        return float("nan")
    return float(((low <= y) & (y <= high)).mean())


def _kind(endpoint: str, defined: bool) -> str:
    return "SRE" if defined else endpoint


def scorable(
    evidence: Evidence, priors: PriorSet, coords: Mapping[str, tuple[str, ...]]
) -> tuple[Evidence, list[tuple[str, str]]]:
    """Evidence whose only ``check`` rows are those that a fitted model can predict, and why the others are left out.

    Parameters
    ----------
    evidence
        Evidence of the run.
    priors
        Its priors: a row whose patients a prior is sourced from is no external evidence.
    coords
        Coordinates of the fitted model: a row's study must have been fitted, so that its baseline is known.

    Returns
    -------
    evidence
        The others have use ``no``; a crude share without a count has ``events = round(share n)``, and its study's n.
    left_out
        Outcome id and reason.
    """
    frame = evidence.outcomes.copy()
    sourced = priors.patients()
    out: list[tuple[str, str]] = []
    for i, row in zip(frame.index, frame.itertuples(), strict=True):
        if row.use != "check":
            continue
        study = evidence.studies[row.study]
        arm_n = study.arm(row.arm).n
        n = arm_n if pd.isna(row.n) else int(row.n)
        defined = row.endpoint in study.events
        arms = [a for a in (row.arm, row.versus) if a]
        reason = ""
        if row.statistic not in PREDICTABLE:
            reason = f"the statistic {row.statistic} is not predicted"
        elif not defined and row.endpoint not in KINDS:
            reason = f"the endpoint {row.endpoint} is not predicted"
        elif row.statistic == "proportion" and not defined:
            reason = f"a proportion of {row.endpoint} is not predicted"
        elif row.component:
            reason = "one component of the endpoint is not predicted"
        elif any(regimen is None for a in arms for _, regimen, _ in study.members(a)):
            reason = "an arm has no regimen"
        elif row.statistic != "hazard_ratio" and n is None:
            reason = "the number of patients is not printed"
        elif row.statistic == "hazard_ratio" and not (row.low > 0 and row.high > 0):
            reason = "the ratio has no printed interval"
        elif row.patients in sourced:
            reason = f"the prior of {min(sourced[row.patients])} is sourced from the same patients"
        else:
            reason = _unfitted(row.study, _kind(row.endpoint, defined), study.design, row.cancer, coords)
        if reason:
            out.append((row.outcome_id, reason))
            frame.loc[i, "use"] = "no"
            continue
        if row.statistic != "hazard_ratio":
            frame.loc[i, "n"] = n
        if row.statistic == "proportion" and pd.isna(row.events):
            frame.loc[i, "events"] = round(float(row.value_si) * float(n or 0))
    return Evidence(evidence.studies, frame), out


def _unfitted(study: str, kind: str, design: str, cancer: str, coords: Mapping[str, tuple[str, ...]]) -> str:
    """Reason why a study's baseline is unknown, or an empty text."""
    if design == "registry":
        return "" if f"{study} {kind}" in coords["study_registry"] else f"the registry's {kind} was not fitted"
    if kind in ONSET_KINDS:  # trials of prevention have the onset of their cancer
        return "" if cancer in coords["onset"] else f"no onset of bone metastasis in {cancer} was fitted"
    needed = {"SRE": ("study_sre",), "OS": ("study_os", "study_os_unseen")}.get(kind, ("study_pfs",))
    if any(study in coords[dim] for dim in needed):
        return ""
    return f"no {kind} number of the study was fitted, so its baseline is unknown"


def transfer(
    model: Model, target: Model, draws: Mapping[str, np.ndarray], seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Draws of a fitted model for another model of the same priors and other rows.

    Parameters
    ----------
    model, target
        The fitted model, and the one to predict with.
    draws
        Posterior draws of ``model`` on the natural scale [draw, ...].
    seed
        Of the effects that are drawn.

    Returns
    -------
    values
        Draws for ``target``: a study effect that was fitted keeps its draws, another is drawn from N(0, between-study SD).
    drawn
        Levels that were drawn, by effect.
    """
    rng = np.random.default_rng(seed)
    n = len(next(iter(draws.values())))
    values = {k: v for k, v in draws.items() if model.priors[k].family != "effect"}
    everywhere: dict[str, dict[str, np.ndarray]] = {}
    for name, x in draws.items():
        p = model.priors[name]
        if p.family == "effect":
            columns = {level: x[:, i] for i, level in enumerate(model.coords[p.dims[0]])}
            everywhere.setdefault(str(p.between_sd), {}).update({f"{name}/{k}": v for k, v in columns.items()})
    drawn: dict[str, list[str]] = {}
    for name, p in model.priors.parameters.items():
        if p.family != "effect":
            continue
        sd = draws[str(p.between_sd)] if str(p.between_sd) in draws else np.full(n, _fixed(model, p.between_sd))
        known = everywhere.get(str(p.between_sd), {})
        columns = []
        for level in target.coords[p.dims[0]]:
            # a trial whose survival was fitted may stand among the unseen of the target, and the other way round
            alias = {"os_study": "os_study_unseen", "os_study_unseen": "os_study"}.get(name, name)
            found = known.get(f"{name}/{level}", known.get(f"{alias}/{level}"))
            if found is None:
                drawn.setdefault(name, []).append(level)
                found = sd * rng.standard_normal(n)
            columns.append(found)
        if columns:
            values[name] = np.stack(columns, axis=1)
    return values, drawn


def _fixed(model: Model, between_sd: Any) -> float:
    """Value of a between-study SD that is a constant of the priors, or a number."""
    return float(model.priors[between_sd].value) if isinstance(between_sd, str) else float(between_sd)


def score_checks(run: Run, twin: Twin | None = None, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Score the run's predictions of published numbers that were not fitted.

    Parameters
    ----------
    run
        A finished run.
    twin
        The network meta-analysis to compare with; default: fitted here to the same evidence, if there is a network.
    draws
        Posterior draws used (thinned evenly).
    seed
        Of the replicates.

    Returns
    -------
    DataFrame
        One row a number: ``outcome, family, study, arm, versus, endpoint, cancer, patients, scale, observed, median, low,
        high`` (90 % predictive interval), ``inside, crps, log_score`` (of a normal with the draws' mean and sd),
        ``interval_score, effects`` (``fitted``, or which study effects were drawn from their prior) and
        ``same_patients`` (whether another number of the same patients was fitted: then this is no external test), and for
        hazard ratios of skeletal events the twin's ``twin_mean, twin_sd, twin_crps, twin_log_score``.
        ``attrs["left_out"]`` lists the check rows that were left out, with the reason; they are also logged.

    Notes
    -----
    Only rows of studies whose baseline was fitted are predicted (leave-one-study-out is another matter). A predicted
    median that is not reached is set to the end of follow-up, so its draws are finite.
    """
    model = run.model
    evidence, left_out = scorable(model.evidence, model.priors, model.coords)
    for outcome, reason in left_out:
        _log.info("%s left out: %s", outcome, reason)
    if not (evidence.outcomes["use"] == "check").any():
        raise OsteobayesError(
            "none of the run's check rows can be predicted: " + "; ".join(f"{o}: {r}" for o, r in left_out[:3])
        )
    target = Model.build(evidence, model.priors, model.grid, model.catalogue, use="check")
    values, drawn = transfer(model, target, _draws(run, "posterior", draws), seed)
    _, replicates = expected_and_replicates(target, values, _constants(model), seed)
    if twin is None:
        twin = _twin(model)
    table = score_table(target, replicates, drawn, set(model.packed.table["patients"]), twin)
    table.attrs["left_out"] = left_out
    return table


def _twin(model: Model) -> Twin | None:
    try:
        return Twin.fit(model.evidence, model.catalogue)
    except OsteobayesError as error:
        _log.info("no twin: %s", error)
        return None


def expected_and_replicates(
    target: Model, values: Mapping[str, np.ndarray], constants: Mapping, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Expected values and replicates of the target's numbers, by family [draw, outcome], where the cells could be solved."""
    data = target.data
    n = len(next(iter(values.values())))

    def one(arguments: Any) -> tuple[dict[str, Any], Any]:
        sites, key = arguments
        expected, failed = target.expected({**constants, **sites}, data)
        drawn = {
            f: likelihood.simulate(f, jax.random.fold_in(key, i), a, data["observed"][f])
            for i, (f, a) in enumerate(expected.items())
        }
        return {f: likelihood.centre(f, a) for f, a in expected.items()}, drawn, failed

    values = {k: jnp.asarray(v) for k, v in values.items()}
    *found, failed = map_draws(one, (values, jax.random.split(jax.random.key(seed), n)), n, 1)
    solved = np.asarray(failed) == 0
    if not solved.all():
        _log.warning("%d of %d draws could not be solved and are left out", int((~solved).sum()), n)
    centres, replicates = ({f: x[solved] for f, x in part.items()} for part in found)
    return centres, replicates


def score_table(
    target: Model,
    replicates: Mapping[str, np.ndarray],
    drawn: Mapping[str, list[str]],
    fitted: set[str],
    twin: Twin | None,
) -> pd.DataFrame:
    """Scores of replicates of the numbers of ``target`` (columns: :func:`score_checks`)."""
    rows = []
    for family, ids in target.packed.outcomes.items():
        if family == "patient_set":
            continue  # no number of its own
        for i, outcome in enumerate(ids):
            info = target.packed.table.loc[outcome]
            x, y = np.asarray(replicates[family])[:, i], float(target.packed.observed[family][i])
            if family == "crude":
                size = float(target.packed.column("crude", "n")[i])  # pyright: ignore[reportOptionalSubscript]
                x, y = x / size, y / size
            elif family == "median":
                x, y = np.log(x), np.log(y)
            x = x[np.isfinite(x)]
            shown = {k: info[k] for k in ("study", "arm", "versus", "endpoint", "cancer", "patients")}
            row = {"outcome": outcome, "family": family} | shown | {"scale": SCALES[family], "observed": y}
            row |= score_draws(x, y) | {"effects": _effects(info, drawn), "same_patients": info["patients"] in fitted}
            if twin is not None and family == "hazard_ratio" and info["kind"] == "SRE":
                row |= _twin_scores(twin, target, info, outcome, y)
            rows.append(row)
    return pd.DataFrame(rows)


def score_draws(draws: np.ndarray, observed: float, level: float = LEVEL) -> dict[str, Any]:
    """Median, central interval and scores of predictive draws [S] of one number."""
    if len(draws) < 2:
        raise OsteobayesError("a score needs at least two finite predictive draws")
    low, middle, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2])
    sd = float(np.std(draws, ddof=1))
    return {
        "median": float(middle), "low": float(low), "high": float(high), "inside": bool(low <= observed <= high),
        "crps": crps_sample(draws, observed),
        "log_score": float(log_score_normal(float(np.mean(draws)), sd, observed)) if sd > 0 else float("nan"),
        "interval_score": interval_score(low, high, observed, level),
    }  # fmt: skip


def _effects(info: pd.Series, drawn: Mapping[str, list[str]]) -> str:
    """Which study effects of a number were drawn from their prior."""
    wanted = {info["study"], f"{info['study']} {info['kind']}"}
    wanted |= {f"{info['study']}/{arm}/{info['kind']}" for arm in (info["arm"], info["versus"])}
    found = sorted(name for name, levels in drawn.items() if wanted & set(levels))
    return "fitted" if not found else "drawn: " + ", ".join(found)


def _twin_scores(twin: Twin, target: Model, info: pd.Series, outcome: str, observed: float) -> dict[str, float]:
    study = target.evidence.studies[info["study"]]
    sides = [study.members(info[k]) for k in ("arm", "versus")]
    if any(len({regimen for _, regimen, _ in members}) > 1 for members in sides):
        return {}
    try:
        mean, sd = twin.predict_contrast(str(sides[0][0][1]), str(sides[1][0][1]), new_study=True)
    except OsteobayesError as error:
        _log.info("%s: no prediction of the twin: %s", outcome, error)
        return {}
    row = target.evidence.outcomes.set_index("outcome_id").loc[outcome]
    level = 0.95 if pd.isna(row["level"]) else float(row["level"])
    se = float(np.log(row["high"] / row["low"]) / (2.0 * stats.norm.ppf(0.5 + level / 2.0)))
    total = float(np.hypot(sd, se))
    return {
        "twin_mean": mean, "twin_sd": total, "twin_crps": float(crps_normal(mean, total, observed)),
        "twin_log_score": float(log_score_normal(mean, total, observed)),
    }  # fmt: skip
