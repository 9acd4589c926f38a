"""Individual patients drawn from the same hazards that the statistics integrate: NumPy, one arm at a time.

What the formulas of this room say of an arm is what a large sample of these patients shows; the tests hold the two
against each other.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["GAP", "Patients", "draw", "first", "times_to"]

GAP = 21.0 / 365.25
"""Usual least time between two skeletal events that count as two, years (Coleman et al.; trials of zoledronic acid)."""


@dataclass(frozen=True)
class Patients:
    """One arm's patients. Times in years from entry; infinite: never.

    Attributes
    ----------
    member : array [n]
        Which member of the arm (cancer and regimen) a patient is.
    frailty : array [n]
        U, mean 1.
    death, dropout, administrative : arrays [n]
        Times of death, dropout and end of administrative follow-up, each as if the others did not exist.
    patient, time, component : arrays [e]
        Every event up to death, dropout and end of follow-up included, sorted by patient and time.
    """

    member: Int[np.ndarray, " patient"]
    frailty: Float[np.ndarray, " patient"]
    death: Float[np.ndarray, " patient"]
    dropout: Float[np.ndarray, " patient"]
    administrative: Float[np.ndarray, " patient"]
    patient: Int[np.ndarray, " event"]
    time: Float[np.ndarray, " event"]
    component: Int[np.ndarray, " event"]

    @property
    def n(self) -> int:
        """Patients."""
        return self.member.size

    @property
    def end(self) -> Float[np.ndarray, " patient"]:
        """End of a patient's own time in the study: death, dropout or administrative end, whichever is first."""
        return np.minimum(self.death, np.minimum(self.dropout, self.administrative))

    @property
    def died(self) -> Bool[np.ndarray, " patient"]:
        """Whether the time in the study ended with death."""
        return self.death <= np.minimum(self.dropout, self.administrative)

    def apart(self, gap: float = GAP) -> "Patients":
        """The same patients with only those events that come at least ``gap`` years after the last counted one."""
        keep = np.zeros(self.time.size, dtype=bool)
        last_patient, last_time = -1, -np.inf
        for i, (patient, time) in enumerate(zip(self.patient.tolist(), self.time.tolist(), strict=True)):
            if patient != last_patient or time - last_time >= gap:
                keep[i], last_patient, last_time = True, patient, time
        return self.with_events(keep)

    def with_events(self, keep: Bool[np.ndarray, " event"]) -> "Patients":
        """The same patients with some of the events only."""
        kept = (self.patient[keep], self.time[keep], self.component[keep])
        return Patients(self.member, self.frailty, self.death, self.dropout, self.administrative, *kept)


def _unit(total: Float[np.ndarray, " time"], t: Float[np.ndarray, " time"], x: Float[np.ndarray, "..."]) -> np.ndarray:
    """Time at which a cumulative hazard reaches ``x``; infinite beyond the grid."""
    return np.where(x > total[-1], np.inf, np.interp(x, total, t))


def _cumulative(h: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(0.5 * (h[1:] + h[:-1]) * np.diff(t))])


def times_to(
    rng: np.random.Generator, hazard: Float[np.ndarray, " time"], t: Float[np.ndarray, " time"], frailty: np.ndarray
) -> Float[np.ndarray, " patient"]:
    """Waiting times of patients with hazard ``frailty x hazard(t)``, by inversion; infinite beyond the grid.

    The cumulative hazard is that of `observe.grid.cumulative` at the grid times and linear between them.
    """
    total = _cumulative(hazard, t)
    return _unit(total, t, rng.exponential(size=frailty.size) / np.maximum(frailty, 1e-300))


def draw(
    rng: np.random.Generator,
    n: int,
    hazard: Float[np.ndarray, "member component time"],
    death: Float[np.ndarray, "member time"],
    t: Float[np.ndarray, " time"],
    weights: Float[np.ndarray, " member"],
    frailty: float,
    dropout: float = 0.0,
    horizon: float = np.inf,
    accrual: float = 0.0,
    shared: bool = False,
    administrative: Float[np.ndarray, " patient"] | None = None,
) -> Patients:
    """Draw an arm.

    Parameters
    ----------
    n
        Patients.
    hazard, death
        Conditional hazards of the members, 1/year. Events recur: a Poisson process given U.
    t
        Time grid from 0, years; nobody is followed beyond its end.
    weights
        Member weights.
    frailty
        theta, the variance of U.
    dropout
        Dropout hazard, 1/year.
    horizon, accrual
        End of follow-up after the first entry and duration of (uniform) entry, years.
    shared
        Whether U multiplies death too.
    administrative
        End of each patient's administrative follow-up instead of ``horizon`` and ``accrual``, years.
    """
    member = rng.choice(len(weights), size=n, p=np.asarray(weights) / np.sum(weights))
    u = rng.gamma(1.0 / frailty, frailty, n) if frailty > 0 else np.ones(n)
    if administrative is None:
        administrative = horizon - accrual * rng.uniform(size=n)
    administrative = np.minimum(administrative, t[-1])
    leaves = rng.exponential(1.0 / dropout, n) if dropout > 0 else np.full(n, np.inf)
    dies = np.full(n, np.inf)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for m in range(len(weights)):
        mine = np.flatnonzero(member == m)
        dies[mine] = times_to(rng, death[m], t, u[mine] if shared else np.ones(mine.size))
        end = np.minimum(dies[mine], np.minimum(leaves[mine], administrative[mine]))
        total = _cumulative(hazard[m].sum(axis=0), t)
        reached = np.interp(end, t, total)
        patient = np.repeat(np.arange(mine.size), rng.poisson(u[mine] * reached))
        time = np.interp(rng.uniform(size=patient.size) * reached[patient], total, t)
        parts = np.stack([np.interp(time, t, h) for h in hazard[m]])
        which = (rng.uniform(size=time.size) * parts.sum(axis=0) > np.cumsum(parts, axis=0)).sum(axis=0)
        found.append((mine[patient], time, np.minimum(which, len(parts) - 1)))
    patient, time, component = (np.concatenate(x) for x in zip(*found, strict=True))
    order = np.lexsort((time, patient))
    return Patients(member, u, dies, leaves, administrative, patient[order], time[order], component[order])


def first(
    p: Patients, components: Bool[np.ndarray, " component"] | None = None
) -> tuple[Float[np.ndarray, " patient"], Int[np.ndarray, " patient"]]:
    """First event of some components: (time, component); infinite and -1 for those without one."""
    keep = np.ones(p.time.size, dtype=bool) if components is None else np.asarray(components)[p.component]
    patient, index = np.unique(p.patient[keep], return_index=True)
    time, component = np.full(p.n, np.inf), np.full(p.n, -1)
    time[patient], component[patient] = p.time[keep][index], p.component[keep][index]
    return time, component
