"""Event-time arithmetic in NumPy: Kaplan-Meier, Aalen-Johansen, restricted means, log-rank, Cox, Guyot's reconstruction.

Nothing here has a unit of its own: times come back in the unit they were given in. Survival functions are
right-continuous steps, S(t) is the probability of having no event up to and including t. Patients at risk at t are
those whose time is t or later: at equal times an event comes before a censoring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osteobayes.errors import OsteobayesError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NEWTON = 60
_ROUNDING = 1e-12  # products of survival ratios equal to a half or a zero in exact arithmetic


@dataclass(frozen=True)
class KaplanMeier:
    """A product-limit curve on its steps; all arrays [T]."""

    time: Floats
    """0 and every distinct observed time (event or censoring), increasing; the last is the end of follow-up."""
    survival: Floats
    """S(time), after the events at that time."""
    at_risk: Ints
    """Number at risk just before `time`."""
    variance: Floats
    """Greenwood's variance of `survival`; 0 where the curve is 1 or has come to 0."""

    def __call__(self, time: ArrayLike) -> Floats:
        """Survival at any times, same shape; NaN after the end of follow-up of a curve that is not 0 there.

        Raises
        ------
        ValueError
            If a time is negative.
        """
        at = np.asarray(time, float)
        if np.any(at < 0):
            raise ValueError("survival is defined from time 0 on: a time is negative")
        value = self.survival[np.searchsorted(self.time, at, side="right") - 1]
        return np.where((at > self.time[-1]) & (self.survival[-1] > 0), np.nan, value)


@dataclass(frozen=True)
class CumulativeIncidence:
    """Aalen-Johansen estimates of competing causes."""

    time: Floats
    """[T]: 0 and every distinct observed time."""
    causes: tuple[int, ...]
    """[C]: codes of the causes, in the order of the rows of `incidence`."""
    incidence: Floats
    """[C, T]: probability of an event of that cause up to and including `time`."""
    survival: Floats
    """[T]: probability of no event of any cause, 1 - sum of `incidence` over causes."""

    def __getitem__(self, cause: int) -> Floats:
        """Cumulative incidence [T] of one cause; KeyError if it is not among `causes`."""
        if cause not in self.causes:
            raise KeyError(f"cause {cause} is not among {self.causes}")
        return self.incidence[self.causes.index(cause)]


@dataclass(frozen=True)
class LogRank:
    """Log-rank comparison of two groups; index 0 is `group` False, 1 is `group` True."""

    statistic: float
    """Chi-squared with one degree of freedom."""
    p_value: float
    """Two-sided."""
    observed: tuple[float, float]
    """Events in each group."""
    expected: tuple[float, float]
    """Events expected in each group if the hazards were equal."""
    variance: float
    """Hypergeometric variance of observed - expected (same for both groups)."""


def _times(time: ArrayLike, what: str = "time") -> Floats:
    value = np.asarray(time, float)
    if value.ndim != 1 or value.size == 0:
        raise ValueError(f"{what} must be a vector with at least one value, it has shape {value.shape}")
    if not np.all(np.isfinite(value)):
        raise ValueError(f"{what} has a value that is not finite (index {int(np.argmin(np.isfinite(value)))})")
    if np.any(value < 0):
        raise ValueError(f"{what} has a negative value, {value.min():g} (index {int(np.argmin(value))})")
    return value


def _flags(event: ArrayLike, size: int, what: str = "event") -> Bools:
    value = np.asarray(event)
    if value.shape != (size,):
        raise ValueError(f"{what} must have one value a patient, shape ({size},); it has shape {value.shape}")
    if not np.all((value == 0) | (value == 1)):
        raise ValueError(f"{what} must be 0 or 1 (False or True) for every patient")
    return value.astype(bool)


def _at_risk(time: Floats, grid: Floats) -> Ints:
    """Patients [T] whose time is `grid` or later."""
    return time.size - np.searchsorted(np.sort(time), grid, side="left")


def _count(time: Floats, grid: Floats) -> Ints:
    """Patients [T] whose time is exactly on `grid` (which holds all of `time`)."""
    return np.bincount(np.searchsorted(grid, time), minlength=grid.size)


def kaplan_meier(time: ArrayLike, event: ArrayLike) -> KaplanMeier:
    """Product-limit estimate with Greenwood's variance.

    Parameters
    ----------
    time
        [n] time of event or censoring, any unit, not negative.
    event
        [n] 1 or True: event; 0 or False: censored at `time`.

    Returns
    -------
    KaplanMeier
        On 0 and all distinct times.

    Raises
    ------
    ValueError
        No patients, a negative or non-finite time, an event that is not 0 or 1, or lengths that differ.

    References
    ----------
    Kaplan EL, Meier P. Nonparametric estimation from incomplete observations. J Am Stat Assoc 1958;53:457-481.
    """
    t = _times(time)
    d = _flags(event, t.size)
    grid = np.unique(np.append(t, 0.0))
    at_risk = _at_risk(t, grid)
    events = _count(t[d], grid)
    survival = np.cumprod(1.0 - events / at_risk)
    left = at_risk - events
    terms = np.divide(events, at_risk * left, out=np.zeros(grid.size), where=left > 0)
    return KaplanMeier(grid, survival, at_risk, survival**2 * np.cumsum(terms))


def median(km: KaplanMeier) -> float:
    """Smallest time at which survival is one half or less; infinity if the curve stays above one half.

    In the unit of `km.time`. (R's `survfit` averages with the next step where the curve lies on one half exactly.)
    """
    reached = km.survival <= 0.5 + _ROUNDING
    return float(km.time[np.argmax(reached)]) if reached.any() else float("inf")


def median_interval(km: KaplanMeier, level: float = 0.95) -> tuple[float, float]:
    """Confidence limits of the median: where the band of the curve, on the log(-log S) scale, crosses one half.

    In the unit of `km.time`; infinite where the band does not come down to one half.

    References
    ----------
    Brookmeyer R, Crowley J. A confidence interval for the median survival time. Biometrics 1982;38:29-41.
    """
    inside = (km.survival > 0) & (km.survival < 1)
    s = np.where(inside, km.survival, 0.5)
    se = np.sqrt(km.variance) / (s * -np.log(s))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    found = []
    for sign in (1.0, -1.0):
        band = np.where(inside, s ** np.exp(sign * z * se), km.survival)
        reached = band <= 0.5 + _ROUNDING
        found.append(float(km.time[np.argmax(reached)]) if reached.any() else float("inf"))
    return found[0], found[1]


def aalen_johansen(time: ArrayLike, cause: ArrayLike, causes: tuple[int, ...] | None = None) -> CumulativeIncidence:
    """Cumulative incidence of competing causes.

    Parameters
    ----------
    time
        [n] time of event or censoring, any unit, not negative.
    cause
        [n] whole numbers: 0 censored, otherwise the code of the cause of the event.
    causes
        Codes to report, in order; by default all that occur, increasing. A code that does not occur has incidence 0;
        the codes given must include all that occur.

    Returns
    -------
    CumulativeIncidence
        On 0 and all distinct times. The rows sum to 1 - Kaplan-Meier of "any cause".

    Raises
    ------
    ValueError
        No patients, a negative or non-finite time, a cause that is negative, not whole or not among `causes`, or
        lengths that differ.

    References
    ----------
    Aalen OO, Johansen S. An empirical transition matrix for non-homogeneous Markov chains based on censored
    observations. Scand J Stat 1978;5:141-150.
    """
    t = _times(time)
    given = np.asarray(cause)
    if given.shape != t.shape:
        raise ValueError(f"cause must have one value a patient, shape {t.shape}; it has shape {given.shape}")
    codes = given.astype(np.int64)
    if np.any(codes != given) or np.any(codes < 0):
        raise ValueError("cause must be a whole number for every patient: 0 for censored, 1, 2, ... for causes")
    occurring = tuple(int(code) for code in np.unique(codes[codes > 0]))
    causes = occurring if causes is None else tuple(causes)
    if missing := set(occurring) - set(causes):
        raise ValueError(f"causes {sorted(missing)} occur and are not among the causes given, {causes}")
    if len(set(causes)) < len(causes) or any(code < 1 for code in causes):
        raise ValueError(f"causes must be different whole numbers from 1 on, they are {causes}")
    km = kaplan_meier(t, codes > 0)
    before = np.concatenate([[1.0], km.survival[:-1]])
    incidence = np.zeros((len(causes), km.time.size))
    for row, code in enumerate(causes):
        incidence[row] = np.cumsum(before * _count(t[codes == code], km.time) / km.at_risk)
    return CumulativeIncidence(km.time, causes, incidence, km.survival)


def rmst(km: KaplanMeier, tau: float) -> float:
    """Restricted mean survival time: the area under the curve from 0 to `tau`, in the unit of `km.time`.

    Raises
    ------
    ValueError
        If `tau` is not positive, or is after the end of follow-up of a curve that is not 0 there.

    References
    ----------
    Royston P, Parmar MKB. Restricted mean survival time. BMC Med Res Methodol 2013;13:152.
    """
    if not tau > 0:
        raise ValueError(f"the restricted mean needs a positive tau, it is {tau:g}")
    if tau > km.time[-1] and km.survival[-1] > 0:
        raise ValueError(f"tau {tau:g} is after the end of follow-up, {km.time[-1]:g}: the curve is unknown there")
    return float(np.sum(km.survival * np.diff(np.minimum(np.append(km.time, np.inf), tau))))


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """Log-rank test of two groups.

    Parameters
    ----------
    time
        [n] time of event or censoring, any unit, not negative.
    event
        [n] 1 or True: event; 0 or False: censored.
    group
        [n] 0 or 1 (False or True).

    Returns
    -------
    LogRank
        Statistic 0 and p-value 1 when no event time had both groups at risk.

    Raises
    ------
    ValueError
        As `kaplan_meier`, and if a group has no patients.

    References
    ----------
    Mantel N. Evaluation of survival data and two new rank order statistics. Cancer Chemother Rep 1966;50:163-170.
    """
    t = _times(time)
    d = _flags(event, t.size)
    g = _flags(group, t.size, "group")
    if g.all() or not g.any():
        raise ValueError("the log-rank test compares two groups, and all patients are in one")
    grid = np.unique(t[d])
    n, n1 = _at_risk(t, grid), _at_risk(t[g], grid)
    events = _count(t[d], grid)
    share = n1 / n
    expected = float(np.sum(events * share))
    variance = float(np.sum(events * share * (1 - share) * (n - events) / np.maximum(n - 1, 1)))
    observed, total = float(np.sum(d & g)), float(np.sum(d))
    statistic = (observed - expected) ** 2 / variance if variance > 0 else 0.0
    return LogRank(
        statistic, erfc(sqrt(statistic / 2)), (total - observed, observed), (total - expected, expected), variance
    )


@dataclass(frozen=True)
class Cox:
    """A Cox or Andersen-Gill fit of one binary covariate."""

    log_hazard_ratio: float
    """Group True (1) over group False (0)."""
    se: float
    """Model-based standard error, from the information."""
    robust_se: float
    """Sandwich standard error over patients; NaN if no patients were named."""


class CoxError(OsteobayesError, ValueError):
    """The data have no finite hazard ratio."""


def cox(
    time: ArrayLike,
    event: ArrayLike,
    group: ArrayLike,
    stratum: ArrayLike | None = None,
    start: ArrayLike | None = None,
    patient: ArrayLike | None = None,
    ties: Literal["efron", "breslow"] = "efron",
) -> Cox:
    """Hazard ratio of two groups by maximum partial likelihood.

    Parameters
    ----------
    time
        [n] time of event or censoring, any unit, not negative; the end of the interval if ``start`` is given.
    event
        [n] 1 or True: event; 0 or False: censored.
    group
        [n] 0 or 1 (False or True).
    stratum
        [n] whole numbers; each stratum has a baseline hazard of its own. Default: one stratum.
    start
        [n] beginning of the interval: the row is at risk at t if ``start < t <= time``. A patient with recurrent events
        has one row for each interval between them and one to the end of follow-up (Andersen-Gill), a patient who
        entered late one row. Default: at risk from the beginning, time 0 included.
    patient
        [n] whole numbers, which patient a row belongs to: asks for the robust standard error, without which the rows of
        a patient with several events count as independent.
    ties
        What to do with several events at one time.

    Returns
    -------
    Cox
        Ratio of group 1 over group 0 and its standard errors.

    Raises
    ------
    CoxError
        No event while both groups are at risk, or all such events in one group: there is no finite ratio.
    ValueError
        As `kaplan_meier`; a group without rows; strata or patients that are not whole numbers; an interval that does
        not end after its start; a name of ``ties`` that is not known.

    Notes
    -----
    With n_x at risk and d_x events of group x at one event time, Efron's denominators are ``n_0 - f d_0 + (n_1 - f
    d_1) e^b`` with f = 0, 1/d, ..., (d - 1)/d, Breslow's the first of them for all. Newton's method on the concave
    log partial likelihood; all by cumulative sums over the event times, no loop over rows or strata. The sandwich is
    ``sum_p (sum of the score residuals of p's rows)^2 / I^2``, with the residuals that belong to the ties.

    References
    ----------
    Andersen PK, Gill RD. Cox's regression model for counting processes: a large sample study. Ann Stat
    1982;10:1100-1120. Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc
    1989;84:1074-1078. Efron B. The efficiency of Cox's likelihood function for censored data. J Am Stat Assoc
    1977;72:557-565.
    """
    t = _times(time)
    e = _flags(event, t.size)
    g = _flags(group, t.size, "group")
    if g.all() or not g.any():
        raise ValueError("a hazard ratio compares two groups, and all patients are in one")
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties must be 'efron' or 'breslow', not {ties!r}")
    s = None if stratum is None else _codes(stratum, t.size, "stratum")
    begin = None if start is None else _times(start, "start")
    if begin is not None and begin.shape != t.shape:
        raise ValueError(f"start must have one value a row, shape {t.shape}; it has shape {begin.shape}")
    if begin is not None and np.any(begin >= t):
        i = int(np.argmax(begin >= t))
        raise ValueError(f"an interval must end after its start: row {i} goes from {begin[i]:g} to {t[i]:g}")
    if not e.any():
        raise CoxError("there is no event, hence no hazard ratio")

    # a row is at risk at the event times first, ..., last - 1, counted over all strata
    grid = np.unique(t[e])
    last = np.searchsorted(grid, t, side="right")
    first = np.zeros(t.size, np.int64) if begin is None else np.searchsorted(grid, begin, side="right")
    if s is not None:
        offset = s * (grid.size + 1)
        keys = np.unique(offset[e] + last[e])
        first, last = (np.searchsorted(keys, offset + v, side="right") for v in (first, last))
    at = last[e] - 1
    size = int(at.max()) + 1

    def counted(rows: slice | Bools) -> Ints:
        """Number at risk among some rows at each event time."""
        change = np.bincount(first[rows], minlength=size + 1) - np.bincount(last[rows], minlength=size + 1)
        return np.cumsum(change)[:size]

    risk1 = counted(g)
    risk0 = counted(slice(None)) - risk1
    d1 = np.bincount(at[g[e]], minlength=size)
    d = np.bincount(at, minlength=size)
    # one entry for each denominator: `place` its event time, `fraction` f, `often` how many events have it
    if ties == "efron":
        place = np.repeat(np.arange(size), d)
        fraction = (np.arange(place.size) - (np.cumsum(d) - d)[place]) / d[place]
        often = np.ones(place.size)
    else:
        place, fraction, often = np.arange(size), np.zeros(size), d.astype(float)
    n1 = risk1[place] - fraction * d1[place]
    n0 = risk0[place] - fraction * (d - d1)[place]
    both = (n0 > 0) & (n1 > 0)
    informative = float(np.sum(often[both]))
    excess = float(np.sum(d1) - np.sum(often[n0 <= 0]))  # events of group 1 while both are at risk
    if informative == 0:
        raise CoxError("there is no event while both groups are at risk, hence no hazard ratio")
    if not 0 < excess < informative:
        raise CoxError(f"all events while both groups are at risk are in group {int(excess > 0)}: no finite ratio")

    b0, b1, w = n0[both], n1[both], often[both]
    b = information = 0.0
    for _ in range(_NEWTON):
        p = b1 / (b0 * np.exp(-b) + b1)
        information = float(np.sum(w * p * (1.0 - p)))
        step = (excess - float(np.sum(w * p))) / information
        b += min(max(step, -1.0), 1.0)
        if abs(step) < 1e-10:
            break
    else:
        raise CoxError(f"the hazard ratio did not converge (log ratio {b:g}): nearly all events are in one group")
    se = 1.0 / sqrt(information)
    if patient is None:
        return Cox(b, se, float("nan"))

    # score residuals: int (x - mean) dM, with the compensator summed over the event times at which the row is at risk
    ratio = np.exp(b)
    total = n0 + n1 * ratio
    mean = n1 * ratio / total
    residual = np.zeros(t.size)
    for x, rows in ((0.0, ~g), (1.0, g)):
        terms = often * (x - mean) / total
        running = np.concatenate([[0.0], np.cumsum(np.bincount(place, terms, size))])
        residual[rows] = -(ratio**x) * (running[last[rows]] - running[first[rows]])
        own = rows[e]
        index = np.flatnonzero(rows & e)
        less = np.bincount(place, fraction * terms, size)[at[own]]  # an event of a tie is at risk in part
        middle = (np.bincount(place, often * mean, size) / d)[at[own]]
        residual[index] += x - middle + ratio**x * less
    by_patient = np.bincount(_codes(patient, t.size, "patient"), residual)
    return Cox(b, se, sqrt(float(np.sum(by_patient**2))) / information)


def _codes(value: ArrayLike, size: int, what: str) -> Ints:
    """Whole numbers, one a row, renumbered from 0 if they are not small and from 0 on already."""
    given = np.asarray(value)
    if given.shape != (size,):
        raise ValueError(f"{what} must have one value a row, shape ({size},); it has shape {given.shape}")
    if given.dtype.kind not in "iub" and not (given.dtype.kind == "f" and np.all(given == np.round(given))):
        raise ValueError(f"{what} must be a whole number for every row")
    codes = given.astype(np.int64)
    if codes.min() < 0 or codes.max() > 4 * size:
        codes = np.unique(codes, return_inverse=True)[1]
    return codes


@dataclass(frozen=True)
class IntervalCounts:
    """Patients counted by interval; all arrays [I] but `edges` [I + 1]."""

    edges: Floats
    """Ends of the intervals, increasing from 0; an interval holds its right end."""
    at_risk: Ints
    """At risk at the beginning of the interval."""
    events: Ints
    """Events in it."""
    censored: Ints
    """Censored in it; those whose time is the last edge are censored in the last interval."""


def interval_counts(time: ArrayLike, event: ArrayLike, edges: ArrayLike) -> IntervalCounts:
    """Count individual (or reconstructed) times by interval.

    Parameters
    ----------
    time, event
        [N] times from 0 on and event flags.
    edges
        [I + 1] increasing, the first 0, the last not before the last time.

    Raises
    ------
    ValueError
        Edges that do not increase from 0, or end before the last time.
    """
    t = _times(time)
    d = _flags(event, t.size)
    e = np.asarray(edges, float)
    if e.ndim != 1 or e.size < 2 or e[0] != 0 or np.any(np.diff(e) <= 0):
        raise ValueError("the edges must increase from 0 and make at least one interval")
    if e[-1] < t.max() - 1e-9:
        raise ValueError(f"the last edge {e[-1]:g} is before the last time {t.max():g}")
    place = np.clip(np.searchsorted(e, t, side="left") - 1, 0, e.size - 2)
    events = np.bincount(place[d], minlength=e.size - 1).astype(np.int64)
    censored = np.bincount(place[~d], minlength=e.size - 1).astype(np.int64)
    at_risk = t.size - np.concatenate([[0], np.cumsum(events + censored)[:-1]])
    return IntervalCounts(e, at_risk.astype(np.int64), events, censored)


def guyot(
    time: ArrayLike,
    survival: ArrayLike,
    risk_time: ArrayLike,
    n_at_risk: ArrayLike,
    total_events: int | None = None,
) -> tuple[Floats, Bools]:
    """Reconstruct patients from a digitised Kaplan-Meier curve and the numbers at risk printed under it.

    Within each interval of the risk table censorings are spread evenly; events at each digitised step are those that
    bring the product-limit estimate to the curve; the number of censorings is changed until the numbers at risk at
    the next printed time agree. After the last printed time the censoring rate is the average one before it; with
    `total_events` it is changed until the total agrees, if it is off by more than rounding. Deterministic.

    Parameters
    ----------
    time
        [T] times of the digitised points, any unit, not decreasing. Points at equal times are a vertical stretch, the
        lowest counts. A point (0, 1) is added if there is none. Read the curve where it steps, or often: an event read
        after a printed risk time that it came before is reconstructed as a censoring.
    survival
        [T] survival read at those times, as a fraction, not increasing, from 0 to 1.
    risk_time
        [R] times of the risk table in the same unit, increasing from 0.
    n_at_risk
        [R] whole numbers, not increasing, the first positive. Entries of 0 after the end of the curve are left out.
    total_events
        Number of events that the report states, if it does.

    Returns
    -------
    time : ndarray [n_at_risk[0]]
        Increasing. Events lie on digitised times, censorings halfway between two, those still at risk at the end of
        the curve on its last time.
    event : ndarray of bool [n_at_risk[0]]
        At equal times events come first.

    Raises
    ------
    ValueError
        A curve that rises, leaves [0, 1] or is not 1 at time 0; times that are negative or decrease; a risk table
        that does not start at 0, does not have increasing times, or in which patients come back; patients at risk
        after the end of the curve; a total of events that is negative or above the number of patients.

    Notes
    -----
    Departures from the published R program: the curve is extended by its own step value at every printed risk time,
    so an interval without a digitised point is allowed; somebody stays at risk to the end of a curve that is not 0
    (the published loop can censor everybody before it); patients are neither lost nor made where the printed numbers
    at risk cannot be reached; the search for the number of censorings keeps the best value seen and halves the
    interval where the published step would alternate for ever; a total of events that is off by no more than the root
    of the number of intervals before the last one (their rounding) leaves the last one alone: the few patients there
    would have to make up for all others, and hazard ratios suffered.

    References
    ----------
    Guyot P, Ades AE, Ouwens MJNM, Welton NJ. Enhanced secondary analysis of survival data: reconstructing the data
    from published Kaplan-Meier survival curves. BMC Med Res Methodol 2012;12:9.
    """
    t, s = _curve(time, survival)
    starts, at_start = _risk_table(risk_time, n_at_risk, t[-1])
    patients = int(at_start[0])
    if total_events is not None and not (total_events == int(total_events) and 0 <= total_events <= patients):
        raise ValueError(f"total_events must be a whole number from 0 to {patients} patients, it is {total_events}")
    grid = np.union1d(t, starts)
    s = s[np.searchsorted(t, grid, side="right") - 1]
    edges = np.append(np.searchsorted(grid, starts), grid.size - 1)
    state = _Reconstruction(grid, s, patients)
    last = starts.size - 1

    censored = 0
    for i in range(last):
        low, high = int(edges[i]), int(edges[i + 1])
        ratio = s[high] / s[low] if s[low] > 0 else 0.0
        guess = round(state.at_risk[low] * ratio - at_start[i + 1])
        target = int(at_start[i + 1])
        censored += state.search(low, high, guess, lambda high=high, target=target: int(state.at_risk[high]) - target)

    low, high = int(edges[last]), grid.size - 1
    before = grid[low] - grid[0]
    guess = round(censored * (grid[high] - grid[low]) / before) if before > 0 else 0
    guess = min(guess, int(state.at_risk[low]))
    state.walk(low, high, guess, to_end=True)
    if total_events is not None and abs(int(state.events.sum()) - total_events) > sqrt(last):
        if int(state.events[:low].sum()) >= total_events:
            state.stop(low)
        else:
            state.search(low, high, guess, lambda: int(state.events.sum()) - int(total_events), to_end=True)
    return state.patients()


def _curve(time: ArrayLike, survival: ArrayLike) -> tuple[Floats, Floats]:
    """Check a digitised curve; its distinct times from 0, and the survival after each."""
    t = _times(time)
    s = np.asarray(survival, float)
    if s.shape != t.shape:
        raise ValueError(f"survival must have one value a time, shape {t.shape}; it has shape {s.shape}")
    if not np.all((s >= 0) & (s <= 1)):
        raise ValueError("survival must lie from 0 to 1: a fraction, not percent, and no gaps")
    if np.any(np.diff(t) < 0):
        raise ValueError(f"the times of the curve decrease after {t[np.argmax(np.diff(t) < 0)]:g}: sort the points")
    if np.any(np.diff(s) > 0):
        raise ValueError(f"the curve rises after time {t[np.argmax(np.diff(s) > 0)]:g}: a survival curve cannot")
    if t[0] > 0:
        t, s = np.append(0.0, t), np.append(1.0, s)
    elif s[0] < 1:
        raise ValueError(f"the curve must be 1 at time 0, it is {s[0]:g}")
    final = np.append(np.diff(t) > 0, True)
    return t[final], s[final]


def _risk_table(risk_time: ArrayLike, n_at_risk: ArrayLike, end: float) -> tuple[Floats, Ints]:
    """Check a risk table; without the entries of 0 after the `end` of the curve."""
    t = _times(risk_time, "risk_time")
    n = _times(n_at_risk, "n_at_risk")
    if n.shape != t.shape:
        raise ValueError(f"n_at_risk must have one value a risk_time, shape {t.shape}; it has shape {n.shape}")
    if t[0] != 0:
        raise ValueError(f"the risk table must start at time 0, it starts at {t[0]:g}")
    if np.any(np.diff(t) <= 0):
        raise ValueError(f"risk_time must increase; it does not after {t[np.argmax(np.diff(t) <= 0)]:g}")
    if np.any(n != np.round(n)):
        raise ValueError("n_at_risk must be whole numbers")
    if np.any(np.diff(n) > 0):
        raise ValueError(f"n_at_risk rises after time {t[np.argmax(np.diff(n) > 0)]:g}: nobody comes back at risk")
    if n[0] < 1:
        raise ValueError("the risk table starts with nobody at risk")
    late = t > end
    if np.any(n[late] > 0):
        raise ValueError(
            f"{n[late].max():g} patients are at risk after the curve ends at {end:g}: extend the curve to that time "
            "at its last value, or leave the entry out"
        )
    return t[~late], n[~late].astype(np.int64)


class _Reconstruction:
    """The state of Guyot's algorithm: events, censorings and numbers at risk on the points of the curve."""

    def __init__(self, time: Floats, survival: Floats, patients: int):
        self.time, self.survival = time, survival
        self.events = np.zeros(time.size, np.int64)  # at time[k]
        self.censored = np.zeros(time.size, np.int64)  # between time[k] and time[k + 1]
        self.at_risk = np.full(time.size + 1, patients, np.int64)  # just before time[k]
        self.estimate = np.ones(time.size)  # product-limit estimate after time[k]

    def walk(self, low: int, high: int, censored: int, to_end: bool = False) -> None:
        """Go from point `low` to before point `high` (through it at the end of the curve) with so many censorings."""
        censored = min(max(censored, 0), int(self.at_risk[low]))
        span = self.time[high] - self.time[low]
        places = self.time[low] + span * np.arange(1, censored + 1) / (censored + 1)
        self.censored[low:high] = np.histogram(places, self.time[low : high + 1])[0] if high > low else 0
        estimate = self.estimate[low - 1] if low > 0 else 1.0
        for k in range(low, high + to_end):
            here = int(self.at_risk[k])
            fall = 1.0 - self.survival[k] / estimate if estimate > _ROUNDING and k > 0 else 0.0
            stay = int(self.survival[k] > 0 and 0 < here and k < self.time.size - 1)  # somebody is followed to the end
            self.events[k] = min(max(round(here * fall), 0), here - stay)
            if self.events[k]:
                estimate *= 1.0 - self.events[k] / here
            self.estimate[k] = estimate
            self.censored[k] = min(self.censored[k], here - stay - self.events[k])
            self.at_risk[k + 1] = here - self.events[k] - self.censored[k]

    def search(self, low: int, high: int, censored: int, excess: Callable[[], int], to_end: bool = False) -> int:
        """Find the number of censorings with which `excess()` is 0, or as near as it comes; leaves the state there."""
        most = int(self.at_risk[low])
        found: dict[int, int] = {}
        following = min(max(censored, 0), most)
        while following not in found:
            self.walk(low, high, following, to_end)
            off = found[following] = excess()
            if off == 0:
                return following
            following = min(max(following + off, 0), most)
            if following in found:  # rounding makes the published step alternate: halve what lies between
                too_few = max((c for c, off in found.items() if off > 0), default=most)
                too_many = min((c for c, off in found.items() if off < 0), default=0)
                if too_many - too_few > 1:
                    following = (too_few + too_many) // 2
        best = min(found, key=lambda c: (abs(found[c]), c))
        self.walk(low, high, best, to_end)
        return best

    def stop(self, low: int) -> None:
        """No events or censorings from point `low` on: all who are left are followed to the end."""
        self.events[low:] = 0
        self.censored[low:] = 0
        self.at_risk[low:] = self.at_risk[low]

    def patients(self) -> tuple[Floats, Bools]:
        """One time and one event flag for each patient."""
        middle = (self.time[:-1] + self.time[1:]) / 2
        parts = [
            np.repeat(self.time, self.events),
            np.repeat(middle, self.censored[:-1]),
            np.repeat(self.time[-1], self.at_risk[-1] + self.censored[-1]),
        ]
        time = np.concatenate(parts)
        event = np.repeat([True, False], [parts[0].size, time.size - parts[0].size])
        order = np.lexsort((~event, time))
        return time[order], event[order]
