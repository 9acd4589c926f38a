"""The twin: a network meta-analysis of the same fitted rows that knows nothing of biology.

It is the rival that the mechanistic model has to beat (room `score`): log hazard ratios of skeletal events by agent,
pooled over cancers, with random effects between studies.

Model: ``y_s = x_s' d + u_s + e_s`` with ``e_s ~ N(0, se_s^2)``, ``u_s ~ N(0, tau^2)``, ``d ~ N(0, effect_sd^2)``
relative to placebo and ``tau ~ HalfNormal(tau_sd)``. Given tau everything is normal, so the posterior is an exact
mixture over a grid of tau: no sampler, milliseconds. A regimen of several agents is the sum of its agents (additive
component network meta-analysis; Welton et al. 2009, Am J Epidemiol 169:1158).
"""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from osteobayes.cycle import Catalogue, Regimen, shipped_catalogue
from osteobayes.errors import OsteobayesError
from osteobayes.evidence import Evidence
from osteobayes.evidence.pack import reference_arm
from osteobayes.schema import Study, did_you_mean

LEVEL = 0.9
TAU_SD = 0.15
"""Scale of the half-normal prior of tau, that of the mechanistic model's effect heterogeneity."""
EFFECT_SD = 1.0
GRID = 241
"""Values of tau, midpoints between 0 and six prior scales."""


def cloglog_contrast(events1: float, n1: float, events0: float, n0: float) -> tuple[float, float]:
    """Log hazard ratio and its standard error from two crude totals.

    Parameters
    ----------
    events1, n1, events0, n0
        Patients with an event and all patients, treated and reference arm. Where an arm has no event, or only events,
        half a patient is added on both sides of that arm.

    Returns
    -------
    log_hr, se
        ``ln(-ln(1 - p1)) - ln(-ln(1 - p0))`` and its delta-method standard error,
        ``var ln(-ln(1 - p)) = p / (n (1 - p) ln(1 - p)^2)``.

    Notes
    -----
    Exact for proportional hazards and equal follow-up; death and dropout, which compete alike in both arms, bias it
    towards 0 (the mechanistic model has no such bias: the comparison is on purpose).
    """

    def one(events: float, n: float) -> tuple[float, float]:
        if not 0 <= events <= n or n <= 0:
            raise OsteobayesError(f"{events:g} events among {n:g} patients are no crude total; correct events or n")
        p = events / n if 0 < events < n else (events + 0.5) / (n + 1.0)
        survived = np.log1p(-p)
        return float(np.log(-survived)), float(p / (n * (1.0 - p) * survived**2))

    (y1, v1), (y0, v0) = one(events1, n1), one(events0, n0)
    return y1 - y0, float(np.sqrt(v1 + v0))


def treatment(regimen: str | Regimen, catalogue: Catalogue, by: str = "agent") -> tuple[str, ...]:
    """Agents (or classes) of a regimen, sorted; the empty tuple is placebo. Dose and schedule are not looked at."""
    agents = Regimen.parse(regimen, catalogue).agents
    return tuple(sorted({catalogue.agents[a].agent_class if by == "class" else a for a in agents}))


def contrasts(evidence: Evidence, catalogue: Catalogue, by: str = "agent") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contrasts of skeletal events among the fitted rows of randomised studies.

    Returns
    -------
    contrasts : DataFrame
        ``study, patients, endpoint, arm, versus, treated, reference, log_hr, se, source`` (one row a study);
        ``treated`` and ``reference`` are tuples of the names that only that arm has.
    left_out : DataFrame
        ``study, outcomes, reason`` of the fitted skeletal rows that give no contrast.

    Raises
    ------
    OsteobayesError
        If contrasts of one study share an arm (they would be correlated), or a study fits three arms.
    """
    frame = evidence.outcomes
    fit = frame[(frame["use"] == "fit") & frame["statistic"].isin(["proportion", "hazard_ratio", "median"])]
    rows: list[dict[str, Any]] = []
    out: list[dict[str, str]] = []
    for name, mine in fit.groupby("study", sort=True):
        study = evidence.studies[str(name)]
        mine = mine[mine["endpoint"].isin(list(study.events))]
        if mine.empty:
            continue
        if study.design != "randomised":
            out.append(_left(study, mine, f"the study is not randomised ({study.design})"))
            continue
        pairs = _study_contrasts(study, mine, reference_arm(study, frame), out)
        arms = [arm for pair in pairs for arm in (pair["arm"], pair["versus"])]
        shared = sorted({arm for arm in arms if arms.count(arm) > 1})
        if shared:
            raise OsteobayesError(
                f"the twin cannot use {study.id}: several of its contrasts share the arm {shared[0]!r}, so they are "
                "correlated; set all but one of them to `check`, or leave the study out"
            )
        for pair in pairs:
            sides = _sides(study, pair["arm"], pair["versus"], catalogue, by)
            if sides is None:
                reason = "the arms mix treatments in different shares, or one has no regimen"
                out.append({"study": study.id, "outcomes": pair["source"], "reason": reason})
            elif sides == ((), ()):
                reason = f"both arms give the same {'classes' if by == 'class' else 'agents'}"
                out.append({"study": study.id, "outcomes": pair["source"], "reason": reason})
            else:
                known = {"study": study.id, "patients": study.patients}
                rows.append(known | pair | {"treated": sides[0], "reference": sides[1]})
    names = ["study", "patients", "endpoint", "arm", "versus", "treated", "reference", "log_hr", "se", "source"]
    return pd.DataFrame(rows, columns=names), pd.DataFrame(out, columns=["study", "outcomes", "reason"])


def _left(study: Study, rows: pd.DataFrame, reason: str) -> dict[str, str]:
    return {"study": study.id, "outcomes": ", ".join(rows["outcome_id"]), "reason": reason}


def _sides(
    study: Study, arm: str, versus: str, catalogue: Catalogue, by: str
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Names that only one of two arms has; None if an arm has no regimen or a name differs in part of an arm only.

    A background that a share of both arms takes cancels.
    """
    shares: list[dict[str, float]] = []
    for side in (arm, versus):
        share: dict[str, float] = {}
        members = study.members(side)
        total = sum(weight for _, _, weight in members)
        for _, regimen, weight in members:
            if regimen is None:
                return None
            for name in treatment(regimen, catalogue, by):
                share[name] = share.get(name, 0.0) + weight / total
        shares.append(share)
    difference = {n: shares[0].get(n, 0.0) - shares[1].get(n, 0.0) for n in {*shares[0], *shares[1]}}
    if any(min(abs(d), abs(abs(d) - 1.0)) > 1e-6 for d in difference.values()):
        return None
    treated, reference = (tuple(sorted(n for n, d in difference.items() if sign * d > 0.5)) for sign in (1, -1))
    return treated, reference


def _study_contrasts(study: Study, rows: pd.DataFrame, reference: set[str], out: list) -> list[dict[str, Any]]:
    found = []
    for row in rows[rows["statistic"] == "hazard_ratio"].itertuples():
        level = 0.95 if pd.isna(row.level) else float(row.level)
        if not (row.low > 0 and row.high > row.low):
            out.append({"study": study.id, "outcomes": row.outcome_id, "reason": "no printed interval"})
            continue
        se = float(np.log(row.high / row.low) / (2.0 * stats.norm.ppf(0.5 + level / 2.0)))
        pair = {"endpoint": row.endpoint, "arm": row.arm, "versus": row.versus, "source": row.outcome_id}
        found.append(pair | {"log_hr": float(np.log(row.value)), "se": se})
    explained = {arm for pair in found for arm in (pair["arm"], pair["versus"])}
    crude = rows[rows["statistic"] == "proportion"]
    for (endpoint, _), group in crude.groupby(["endpoint", "time"], dropna=False, sort=True):
        if len(group) == 1:
            if group["arm"].iloc[0] not in explained:
                out.append(_left(study, group, "only one arm has a crude total at that time"))
            continue
        if len(group) > 2:
            raise OsteobayesError(
                f"the twin cannot use {study.id}: it fits crude totals of {len(group)} arms of {endpoint}, so its "
                "contrasts would share a control; set all but two arms to `check`, or leave the study out"
            )
        one, two = (row for row in group.itertuples())
        treated, control = (one, two) if two.arm in reference else (two, one)
        log_hr, se = cloglog_contrast(float(treated.events), float(treated.n), float(control.events), float(control.n))
        pair = {"endpoint": endpoint, "arm": treated.arm, "versus": control.arm, "log_hr": log_hr, "se": se}
        found.append(pair | {"source": f"{treated.outcome_id}, {control.outcome_id}"})
        explained |= {treated.arm, control.arm}
    medians = rows[(rows["statistic"] == "median") & ~rows["arm"].isin(list(explained))]
    if not medians.empty:
        out.append(_left(study, medians, "a median alone gives no standard error of a contrast"))
    return found


@dataclass(frozen=True)
class Twin:
    """Posterior of the network meta-analysis: a mixture of normals over a grid of tau.

    Attributes
    ----------
    contrasts, left_out
        What was used, and what was not and why (:func:`contrasts`).
    names
        Agents (or classes) with an effect [A]; placebo is the reference.
    tau, weights
        Grid of the between-study standard deviation and its posterior weights [G].
    means, covariances
        Posterior of the log hazard ratios relative to placebo at each tau, [G, A] and [G, A, A].
    design
        Which effects enter each contrast [contrast, A].
    """

    contrasts: pd.DataFrame
    left_out: pd.DataFrame
    names: tuple[str, ...]
    tau: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    design: np.ndarray
    by: str
    catalogue: Catalogue

    @classmethod
    def fit(
        cls,
        evidence: Evidence,
        catalogue: Catalogue | None = None,
        by: Literal["agent", "class"] = "agent",
        tau_sd: float = TAU_SD,
        effect_sd: float = EFFECT_SD,
    ) -> "Twin":
        """Fit the network.

        Parameters
        ----------
        evidence
            Published numbers; only rows with use ``fit`` are read.
        catalogue
            Agents; default: those that ship.
        by
            Effects by agent, or by agent class.
        tau_sd, effect_sd
            Prior scales of tau (half-normal) and of the effects relative to placebo (normal), on the log scale.

        Raises
        ------
        OsteobayesError
            If there is no contrast, or contrasts share an arm.
        """
        catalogue = catalogue or shipped_catalogue()
        table, left_out = contrasts(evidence, catalogue, by)
        if table.empty:
            raise OsteobayesError("no randomised study fits a contrast of skeletal events, so there is no network")
        return cls.from_contrasts(table, left_out, catalogue, by, tau_sd, effect_sd)

    @classmethod
    def from_contrasts(
        cls,
        table: pd.DataFrame,
        left_out: pd.DataFrame,
        catalogue: Catalogue,
        by: str = "agent",
        tau_sd: float = TAU_SD,
        effect_sd: float = EFFECT_SD,
    ) -> "Twin":
        """Posterior of given contrasts (columns ``treated``, ``reference``, ``log_hr``, ``se``)."""
        names = tuple(
            sorted({n for pair in zip(table["treated"], table["reference"], strict=True) for s in pair for n in s})
        )
        x = np.stack([_row(t, r, names) for t, r in zip(table["treated"], table["reference"], strict=True)])
        y, se = table["log_hr"].to_numpy(float), table["se"].to_numpy(float)
        tau = (np.arange(GRID) + 0.5) * (6.0 * tau_sd / GRID)
        log_weight, means, covariances = np.empty(GRID), [], []
        for i, value in enumerate(tau):
            v = se**2 + value**2
            precision = (x.T / v) @ x + np.eye(len(names)) / effect_sd**2
            covariance = linalg.inv(precision)
            means.append(covariance @ (x.T @ (y / v)))
            covariances.append(covariance)
            marginal = np.diag(v) + effect_sd**2 * x @ x.T
            log_weight[i] = (
                stats.multivariate_normal.logpdf(y, np.zeros(len(y)), marginal) - 0.5 * (value / tau_sd) ** 2
            )
        weights = np.exp(log_weight - log_weight.max())
        return cls(
            table,
            left_out,
            names,
            tau,
            weights / weights.sum(),
            np.stack(means),
            np.stack(covariances),
            x,
            by,
            catalogue,
        )

    @property
    def effects(self) -> pd.DataFrame:
        """Log hazard ratio of each agent (or class) against placebo.

        Columns: ``agent`` (or ``class``), ``log_hr`` (mean), ``sd``, ``low`` and ``high`` (90 % interval), ``studies``
        (that hold it), ``connected`` (to placebo; if not, the number is mostly prior).
        """
        rows = []
        for i, name in enumerate(self.names):
            direction = np.eye(len(self.names))[i]
            mean, sd = self._moments(direction, 0.0)
            low, high = (self._quantile(direction, q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
            holds = [bool(c) for c in self.design[:, i] != 0]
            studies = ", ".join(self.contrasts.loc[holds, "study"])
            row = {self.by: name, "log_hr": mean, "sd": sd, "low": low, "high": high, "studies": studies}
            rows.append(row | {"connected": self._connected(direction)})
        return pd.DataFrame(rows)

    @property
    def between_study_sd(self) -> tuple[float, float, float]:
        """Posterior 5 %, 50 % and 95 % quantiles of tau."""
        cumulative = np.cumsum(self.weights) - 0.5 * self.weights
        low, middle, high = np.interp([0.05, 0.5, 0.95], cumulative, self.tau)
        return float(low), float(middle), float(high)

    def predict_contrast(
        self, treated: str | Regimen, reference: str | Regimen = "placebo", new_study: bool = False
    ) -> tuple[float, float]:
        """Log hazard ratio of skeletal events of one regimen against another.

        Parameters
        ----------
        treated, reference
            Regimens; only their agents matter, and agents add up.
        new_study
            Add the between-study variance: the true contrast of a study that was not fitted.

        Returns
        -------
        mean, sd
            Posterior, log scale.

        Raises
        ------
        OsteobayesError
            If the network holds no evidence about the difference (agents missing or not connected).
        """
        direction = self.direction(treated, reference)
        return self._moments(direction, 1.0 if new_study else 0.0)

    def direction(self, treated: str | Regimen, reference: str | Regimen = "placebo") -> np.ndarray:
        """Weights of the effects in a contrast [A]; raises if the network does not connect it."""
        sides = [treatment(r, self.catalogue, self.by) for r in (treated, reference)]
        for name in (n for side in sides for n in side):
            if name not in self.names and not (name in sides[0] and name in sides[1]):
                raise OsteobayesError(
                    f"no fitted contrast of skeletal events holds {name!r}; {did_you_mean(name, self.names)}"
                )
        shared = set(sides[0]) & set(sides[1])
        direction = _row([n for n in sides[0] if n not in shared], [n for n in sides[1] if n not in shared], self.names)
        if not self._connected(direction):
            text = " and ".join(" + ".join(side) or "placebo" for side in sides)
            raise OsteobayesError(
                f"{text} are not connected in the network of fitted trials: no chain of contrasts joins them"
            )
        return direction

    def _connected(self, direction: np.ndarray) -> bool:
        """Whether a contrast is a combination of fitted contrasts (lies in the row space of the design)."""
        solution = np.linalg.lstsq(self.design.T, direction, rcond=None)[0]
        return bool(np.allclose(self.design.T @ solution, direction, atol=1e-8))

    def _components(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of a contrast at each tau [G]."""
        return self.means @ direction, np.einsum("a,gab,b->g", direction, self.covariances, direction)

    def _moments(self, direction: np.ndarray, between: float) -> tuple[float, float]:
        means, variances = self._components(direction)
        variances = variances + between * self.tau**2
        mean = float(self.weights @ means)
        return mean, float(np.sqrt(self.weights @ (variances + (means - mean) ** 2)))

    def _quantile(self, direction: np.ndarray, q: float) -> float:
        means, variances = self._components(direction)
        sds = np.sqrt(variances)
        span = 10.0 * sds.max() + 1e-9
        law = lambda x: float(self.weights @ stats.norm.cdf(x, means, sds)) - q  # noqa: E731
        return float(optimize.brentq(law, means.min() - span, means.max() + span))

    def __str__(self) -> str:
        low, middle, high = self.between_study_sd
        lines = [f"network of {len(self.contrasts)} contrasts; between-study SD {middle:.2f} [{low:.2f}, {high:.2f}]"]
        for row in self.effects.itertuples():
            lines.append(
                f"  {row[1]}: log hazard ratio {row.log_hr:+.2f} [{row.low:+.2f}, {row.high:+.2f}] against placebo"
                + ("" if row.connected else " (not connected to placebo: mostly prior)")
            )
        return "\n".join(lines)


def _row(treated: Sequence[str], reference: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Row of the design: +1 for what only the treated side has, -1 for the reference."""
    x = np.zeros(len(names))
    for side, sign in ((treated, 1.0), (reference, -1.0)):
        for name in side:
            x[list(names).index(name)] += sign
    return x
