"""The published pattern: what trials found between treatments beside what the posterior, a new study and the prior say."""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from osteobayes.cycle import Regimen
from osteobayes.errors import OsteobayesError
from osteobayes.evidence.pack import Packed
from osteobayes.fit import Run
from osteobayes.fit.result import coverage
from osteobayes.model import Model
from osteobayes.predict import _constants, _draws
from osteobayes.score import LEVEL, expected_and_replicates, score_checks

NAMED = (
    ("denosumab", "zoledronic acid"), ("zoledronic acid", ""), ("pamidronate", ""), ("radium-223", ""), ("abiraterone", ""),
    ("enzalutamide", ""),
)  # fmt: skip
"""Comparisons that every calibration is judged by: agent, and what it is compared with (empty: its backbone alone)."""
PAIRED = {"crude": "ratio of shares", "median": "ratio of medians", "rate": "ratio of rates"}
"""Families whose numbers of two arms of a study make a comparison."""
PRINTED = {"hazard_ratio": "hazard ratio", "rate_ratio": "rate ratio"}
"""Families that are comparisons."""
IMPOSED = 0.9
"""Probability under the prior of the direction that was published, from which the prior is said to impose it."""


class Comparison(NamedTuple):
    """Two arms of a study and where their numbers stand: one number of a family, or two whose ratio is taken."""

    study: str
    treated: str
    reference: str
    agent: str
    versus: str
    endpoint: str
    cancer: str
    family: str
    numbers: tuple[int, ...]


def _agents(model: Model, study: str, arm: str) -> set[str]:
    """Agents that any member of an arm is given."""
    regimens = {r for _, r, _ in model.evidence.studies[study].members(arm) if r}
    return {a for r in regimens for a in Regimen.parse(r, model.catalogue).agents}


def _difference(model: Model, study: str, arm: str, other: str) -> tuple[str, str]:
    """Agents of one arm that the other lacks, and the other way round, as texts."""
    mine, theirs = _agents(model, study, arm), _agents(model, study, other)
    return " + ".join(sorted(mine - theirs)), " + ".join(sorted(theirs - mine))


def comparisons(model: Model) -> list[Comparison]:
    """Comparisons of treatments among the fitted numbers, those of :data:`NAMED` first.

    Of two arms the one whose agent the other lacks is the treated one; where both have one, the order of :data:`NAMED` decides,
    else that of the study's arms (the later is the treated one). Arms that differ in dose alone are left out, and medians that
    were not reached (what stands in their place is the end of follow-up).
    """
    table, found = model.packed.table, []
    for family in PRINTED:
        for i, outcome in enumerate(model.packed.outcomes.get(family, ())):
            row = table.loc[outcome]
            agent, versus = _difference(model, row["study"], row["arm"], row["versus"])
            if agent or versus:
                found.append(
                    Comparison(
                        row["study"], row["arm"], row["versus"], agent, versus, row["endpoint"], row["cancer"], family, (i,)
                    )
                )  # fmt: skip
    for family in PAIRED:
        ids = model.packed.outcomes.get(family, ())
        if not ids:
            continue
        groups: dict[tuple, list[int]] = {}
        reached = model.packed.column(family, "reached")
        for i, outcome in enumerate(ids):
            if reached is not None and not reached[i]:
                continue
            row = table.loc[outcome]
            groups.setdefault((row["study"], row["endpoint"], row["component"], row["block"]), []).append(i)
        for (study, endpoint, _, _), members in groups.items():
            for a, b in ((x, y) for k, x in enumerate(members) for y in members[k + 1 :]):
                i, j = _ordered(model, study, table.loc[ids[a]]["arm"], table.loc[ids[b]]["arm"], a, b)
                first, second = table.loc[ids[i]], table.loc[ids[j]]
                agent, versus = _difference(model, study, first["arm"], second["arm"])
                if agent or versus:
                    cancer = first["cancer"] if first["cancer"] == second["cancer"] else "mixed"
                    found.append(
                        Comparison(study, first["arm"], second["arm"], agent, versus, endpoint, cancer, family, (i, j))
                    )
    return sorted(found, key=lambda c: (_rank(c.agent, c.versus), c.agent, c.cancer, c.study))


def _rank(agent: str, versus: str) -> int:
    return NAMED.index((agent, versus)) if (agent, versus) in NAMED else len(NAMED)


def _ordered(model: Model, study: str, arm: str, other: str, i: int, j: int) -> tuple[int, int]:
    """Places of the treated and of the reference arm's number."""
    here, there = _difference(model, study, arm, other), _difference(model, study, other, arm)
    if _rank(*here) != _rank(*there):
        return (i, j) if _rank(*here) < _rank(*there) else (j, i)
    if bool(here[0]) != bool(here[1]):
        return (i, j) if here[0] else (j, i)
    arms = [a.id for a in model.evidence.studies[study].arms]
    return (i, j) if arms.index(arm) > arms.index(other) else (j, i)


def _log_ratio(packed: Packed, c: Comparison, x: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log of a comparison from numbers of its family [..., outcome]; infinite where a number is 0."""
    values = np.asarray(x[c.family])
    if c.family in PRINTED:
        return values[..., c.numbers[0]]
    i, j = c.numbers
    size = packed.column(c.family, "n") if c.family == "crude" else None
    scale = np.log(size[j] / size[i]) if size is not None else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values[..., i]) - np.log(values[..., j]) + scale


@dataclass(frozen=True)
class Patterns:
    """What :func:`patterns` found.

    Attributes
    ----------
    table
        One row a comparison, ratios below 1 in favour of the agent where events are counted (medians: above 1): ``agent,
        versus, cancer, study, treated, reference, endpoint, statistic, published``; ``posterior`` (of the expected value, with
        its 90 % interval), ``predicted_low, predicted_high`` (90 % interval of the printed number), the same for a *new* study
        (``new_``: study effects drawn, not fitted), ``inside`` and ``new_inside``; ``prior`` with its interval; ``prior_direction``
        (its probability of the published direction) and ``imposed`` (that is at least 0.9).
    fitted
        Every fitted number with its interval (:func:`osteobayes.fit.result.coverage`), and ``new_low, new_high, new_inside``.
    checks
        Scores of numbers that were not fitted (:func:`osteobayes.score.score_checks`); empty if none can be predicted.
    between
        Between-study standard deviations: 5 %, 50 % and 95 % quantiles of prior and posterior.
    left_out
        What the tables lack, and why, in sentences.
    """

    table: pd.DataFrame
    fitted: pd.DataFrame
    checks: pd.DataFrame
    between: pd.DataFrame
    left_out: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Coverage beside sharpness, and every number outside, in words."""
        f, level = self.fitted, f"{LEVEL:.0%}"
        out = [
            f"fitted numbers inside their {level} predictive interval: {f['inside'].mean():.0%} of {len(f)} (fitted outcomes flatter); "
            f"with study effects drawn as for a new study: {f['new_inside'].mean():.0%}",
            f"sharpness: the median interval is {f['of_prior'].median():.2f} of the prior's and {f['of_printed'].median():.1f} times that "
            "of the printed number itself",
        ]
        c = self.checks
        if len(c):
            alone = c[~c["same_patients"]]
            out.append(
                f"numbers that were not fitted inside: {c['inside'].mean():.0%} of {len(c)}"
                + (
                    f"; of patients with no fitted number: {alone['inside'].mean():.0%} of {len(alone)}"
                    if len(alone)
                    else ""
                )
            )
        out += [_outside(r, "fitted") for r in f[~f["inside"]].itertuples()]
        out += [_outside(r, "not fitted") for r in c[~c["inside"]].itertuples()] if len(c) else []
        out += self.left_out
        imposed = self.table[self.table["imposed"]] if len(self.table) else self.table
        out += [
            f"the prior imposes {r.agent} {'against ' + r.versus if r.versus else 'against its backbone'} on {r.endpoint} in {r.cancer} ({r.study}): "
            f"probability {r.prior_direction:.2f} of the published direction"
            for r in imposed.itertuples()
        ]
        return out


def _outside(row: object, kind: str) -> str:
    low, high, seen = row.low, row.high, row.observed
    scale = getattr(row, "scale", "")
    if scale.startswith("log"):
        low, high, seen = (float(np.exp(x)) * (12.0 if scale == "log years" else 1.0) for x in (low, high, seen))
    return f"outside ({kind}): {row.outcome}: published {seen:.3g}, predicted {low:.3g} to {high:.3g}{' months' if scale == 'log years' else ''}"


def patterns(run: Run, draws: int = 400, seed: int = 0, checks: bool = True) -> Patterns:
    """Compare published treatment effects with the posterior, with a new study and with the prior.

    Parameters
    ----------
    run
        A finished run; also one that may not be used (say so beside the table).
    draws
        Draws of the posterior and of the prior, thinned evenly.
    seed
        Of replicates and drawn effects.
    checks
        Whether numbers that were not fitted are scored too (another program to compile).
    """
    model = run.model
    rng = np.random.default_rng(seed)
    posterior, prior = _draws(run, "posterior", draws), _draws(run, "prior", draws)
    effects = [n for n in posterior if model.priors[n].family == "effect"]
    new = posterior | {n: _drawn_effect(model, n, posterior, rng) for n in effects}
    groups = {"posterior": posterior, "new": new, "prior": prior}
    names = sorted(set(posterior) & set(prior))
    sizes = [len(g[names[0]]) for g in groups.values()]
    stacked = {n: np.concatenate([g[n] for g in groups.values()]) for n in names}
    centres, replicates, at = _by_group(model, stacked, sizes, seed)
    observed = {f: np.asarray(x) for f, x in model.packed.observed.items()}
    rows, left_out = [], []
    for c in comparisons(model):
        published = float(_log_ratio(model.packed, c, observed))
        if not np.isfinite(published):
            left_out.append(
                f"left out: {c.study}, {c.treated} against {c.reference}, {c.endpoint}: an arm has no event"
            )
            continue
        centre = {g: _log_ratio(model.packed, c, centres)[at[i]] for i, g in enumerate(groups)}
        drawn = {g: _log_ratio(model.packed, c, replicates)[at[i]] for i, g in enumerate(groups)}
        rows.append(_row(c, published, centre, drawn))
    fitted = coverage(model.packed, *(_of(replicates, at[i]) for i in (0, 2)))
    again = coverage(model.packed, *(_of(replicates, at[i]) for i in (1, 2)))
    fitted[["new_low", "new_high", "new_inside"]] = again[["low", "high", "inside"]]
    scored = pd.DataFrame()
    if checks:
        try:
            scored = score_checks(run, seed=seed)
        except OsteobayesError as error:
            left_out.append(f"numbers that were not fitted are not scored: {error}")
    return Patterns(pd.DataFrame(rows), fitted, scored, _between(run), tuple(left_out))


def _of(x: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v[mask] for k, v in x.items()}


def _by_group(
    model: Model, stacked: Mapping[str, np.ndarray], sizes: list[int], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[np.ndarray]]:
    """Expected values and replicates of all draws, and which rows of them belong to each group."""
    centres, replicates = expected_and_replicates(model, stacked, _constants(model), seed)
    kept = len(next(iter(centres.values())))
    if kept != sum(sizes):
        raise OsteobayesError(
            f"{sum(sizes) - kept} of {sum(sizes)} draws could not be solved, so groups of draws cannot be told apart; "
            "look at `solver_failures` of the run"
        )
    edges = np.cumsum([0, *sizes])
    return centres, replicates, [np.arange(a, b) for a, b in pairwise(edges)]


def _drawn_effect(model: Model, name: str, draws: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Effects of a new study: normal with the between-study standard deviation of each draw."""
    sd = model.priors[name].between_sd
    scale = draws[sd] if sd in draws else np.full(len(draws[name]), float(model.priors[sd].value))
    return scale[:, None] * rng.standard_normal(draws[name].shape)


def _row(c: Comparison, published: float, centre: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> dict:
    def quantiles(x: np.ndarray) -> list[float]:
        x = x[~np.isnan(x)]
        levels = [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]
        return [float(np.exp(q)) for q in np.quantile(x, levels, method="nearest")]  # a median may be infinite

    seen = float(np.exp(published))
    low, mid, high = quantiles(centre["posterior"])
    prior_low, prior_mid, prior_high = quantiles(centre["prior"])
    direction = float((np.sign(centre["prior"]) == np.sign(published)).mean())
    row = {
        "agent": c.agent, "versus": c.versus, "cancer": c.cancer, "study": c.study, "treated": c.treated, "reference": c.reference,
        "endpoint": c.endpoint, "statistic": (PRINTED | PAIRED)[c.family], "named": (c.agent, c.versus) in NAMED,
        "published": seen, "posterior": mid, "posterior_low": low, "posterior_high": high,
    }  # fmt: skip
    for group, prefix in (("posterior", ""), ("new", "new_")):
        a, _, b = quantiles(drawn[group])
        row |= {f"{prefix}predicted_low": a, f"{prefix}predicted_high": b, f"{prefix}inside": bool(a <= seen <= b)}
    return row | {
        "prior": prior_mid, "prior_low": prior_low, "prior_high": prior_high, "prior_direction": direction,
        "imposed": direction >= IMPOSED,
    }  # fmt: skip


def _between(run: Run) -> pd.DataFrame:
    """Prior and posterior of every between-study standard deviation."""
    rows = []
    for name, found in run.diagnostics["between_study_sd"].items():
        row: dict = {"parameter": name}
        for group in ("prior", "posterior"):
            row |= dict(zip((f"{group}_low", f"{group}", f"{group}_high"), found[group], strict=True))
        rows.append(row)
    return pd.DataFrame(rows)
