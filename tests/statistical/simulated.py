"""Published numbers of many simulated trials at once, as a trial would compute them. NumPy; R trials, n patients each."""

import numpy as np

from osteobayes.observe.patients import Patients, first

_APART = 100.0  # years between the time axes of two trials laid end to end


def first_events(p: Patients, components=None) -> tuple[np.ndarray, np.ndarray]:
    """Time of the first event or of the end of observation, and whether it was an event [patients]."""
    time, _ = first(p, components)
    return np.minimum(time, p.end), np.isfinite(time)


def _ordered(time, event):
    order = np.argsort(time, axis=-1)
    return (np.take_along_axis(v, order, axis=-1) for v in (time, event))


def medians(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Kaplan-Meier medians [R] of times [R, n]; infinite: not reached."""
    time, event = _ordered(time, event)
    n = time.shape[-1]
    low = np.cumprod(1.0 - event / (n - np.arange(n)), axis=-1) <= 0.5 + 1e-12
    reached = np.take_along_axis(time, low.argmax(-1)[..., None], axis=-1)[..., 0]
    return np.where(low.any(-1), reached, np.inf)


def survival(time: np.ndarray, event: np.ndarray, at: float) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier estimates [R] at a time, and Greenwood's variance of their cumulative hazard."""
    time, event = _ordered(time, event)
    left = time.shape[-1] - np.arange(time.shape[-1])
    d = event * (time <= at)
    with np.errstate(divide="ignore"):
        return np.prod(1.0 - d / left, axis=-1), np.sum(d / (left * np.maximum(left - 1, 1)), axis=-1)


def ratios(events, ends, strata=None) -> tuple[np.ndarray, np.ndarray]:
    """Log hazard ratios [R] of arm 1 over arm 0 and their model-based standard errors.

    Parameters
    ----------
    events : (arm 0, arm 1), each (trial, time) or (trial, time, stratum), arrays [events of the arm]
        All first events for a Cox ratio, all events for an Andersen-Gill ratio.
    ends : (arm 0, arm 1), arrays [R, n of the arm]
        When each patient leaves the risk set.
    strata : (arm 0, arm 1), arrays [R, n of the arm], optional
        Strata from 0, together with ``events`` of three parts.
    """
    trials = ends[0].shape[0]
    groups = 1 if strata is None else 1 + int(max(s.max() for s in strata))
    line, at_risk = [], []
    for arm in (0, 1):
        place = np.arange(trials)[:, None] * groups + (0 if strata is None else strata[arm])
        line.append(np.sort((place * _APART + ends[arm]).ravel()))
    place = [e[0] * groups + (e[2] if strata is not None else 0) for e in events]
    trial = np.concatenate([e[0] for e in events])
    stretch, time = np.concatenate(place), np.concatenate([e[1] for e in events])
    for arm in (0, 1):
        after = np.searchsorted(line[arm], (stretch + 1) * _APART - 1e-6)
        at_risk.append(after - np.searchsorted(line[arm], stretch * _APART + time * (1 - 1e-12)))
    n0, n1 = at_risk
    treated = np.bincount(events[1][0], minlength=trials)
    b, information = np.zeros(trials), np.ones(trials)
    for _ in range(25):
        p = n1 / (n0 * np.exp(-b)[trial] + n1)
        information = np.bincount(trial, p * (1 - p), trials)
        step = np.clip((treated - np.bincount(trial, p, trials)) / information, -2, 2)
        b = b + step
        if np.abs(step).max() < 1e-9:
            break
    return b, 1 / np.sqrt(information)


def cox_ratios(times, happened, strata=None) -> tuple[np.ndarray, np.ndarray]:
    """Cox log ratios [R] and standard errors; ``times``, ``happened``, ``strata``: (arm 0, arm 1) of [R, n]."""
    events = []
    for arm in (0, 1):
        where = np.nonzero(happened[arm])
        more = () if strata is None else (strata[arm][where],)
        events.append((where[0], times[arm][where], *more))
    return ratios(events, times, strata)


def counts(p: Patients) -> np.ndarray:
    """Events of each patient."""
    return np.bincount(p.patient, minlength=p.n)


def recurrent_events(p: Patients, size: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """(trial, time) of all events of the first ``trials`` trials of ``size`` patients."""
    keep = p.patient < size * trials
    return p.patient[keep] // size, p.time[keep]


def intervals(p: Patients):
    """Counting-process rows of all patients: (patient, start, stop, event), one row for each event and one to the end."""
    patient = np.concatenate([p.patient, np.arange(p.n)])
    stop, event = np.concatenate([p.time, p.end]), np.arange(p.time.size + p.n) < p.time.size
    order = np.lexsort((stop, patient))
    patient, stop, event = patient[order], stop[order], event[order]
    start = np.where(np.r_[True, patient[1:] != patient[:-1]], 0.0, np.r_[0.0, stop[:-1]])
    keep = stop > start
    return patient[keep], start[keep], stop[keep], event[keep]
