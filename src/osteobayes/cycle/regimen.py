"""Regimens: what is given and when, from text or YAML.

Grammar of the text (components joined by ``+``)::

    AGENT [AMOUNT UNIT] [SCHEDULE] [ON d/PERIOD d] [xN] [from day A] [until day B]
    SCHEDULE = qNw | qNd | qNm | daily | bid | once

``denosumab 120 mg q4w + galunisertib 150 mg bid 14d/28d`` is denosumab every four weeks with galunisertib twice daily on
14 of every 28 days; ``denosumab 120 mg q4w x6 + denosumab 120 mg q12w from day 168`` is one agent in two phases. An agent's
name alone means its standard regimen. ``placebo`` (or ``backbone``) is the background treatment of the population,
which every regimen includes unless it says ``no backbone``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from osteobayes.cycle.therapy import Agent, Catalogue, shipped_catalogue
from osteobayes.errors import RegimenError

_PER_DAY = {"daily": 1.0, "qd": 1.0, "bid": 0.5}
_UNITS = ("mg/kg", "mg/m2", "kbq/kg", "mbq/kg", "mbq", "gbq", "gy", "mg", "ug", "g")
_NUMBER = r"-?\d+(?:\.\d+)?"
_EMPTY = ("placebo", "backbone", "background", "none")


def _plain(x: float) -> str:
    """Shortest decimal text that reads back as the same number, without an exponent."""
    return np.format_float_positional(x, trim="-")


@dataclass(frozen=True)
class Component:
    """One agent of a regimen.

    Attributes
    ----------
    agent
        Name in the catalogue.
    amount, unit
        Dose; ``unit`` is the agent's own unit.
    interval_days
        Days between doses.
    on_days, period_days
        On/off schedule, or None for continuous.
    start_day, stop_day, doses
        First day, last day (None: to the horizon), number of doses (None: no limit).
    """

    agent: str
    amount: float
    unit: str
    interval_days: float
    on_days: float | None = None
    period_days: float | None = None
    start_day: float = 0.0
    stop_day: float | None = None
    doses: int | None = None

    @property
    def end_day(self) -> float:
        """Day on which the component has ended: its last day, or one interval after its last dose."""
        ends = [self.stop_day, None if self.doses is None else self.start_day + self.doses * self.interval_days]
        return min((end for end in ends if end is not None), default=float("inf"))

    def text(self) -> str:
        """Canonical text of the component."""
        days = self.interval_days
        inverse = {v: k for k, v in _PER_DAY.items() if k != "qd"}
        schedule = inverse.get(days) or (f"q{_plain(days / 7)}w" if days % 7 == 0 else f"q{_plain(days)}d")
        parts = [self.agent, f"{_plain(self.amount)} {self.unit}", schedule]
        if self.on_days is not None:
            parts.append(f"{_plain(self.on_days)}d/{_plain(self.period_days)}d")  # pyright: ignore[reportArgumentType]
        if self.doses is not None:
            parts.append(f"x{self.doses}")
        if self.start_day:
            parts.append(f"from day {_plain(self.start_day)}")
        if self.stop_day is not None:
            parts.append(f"until day {_plain(self.stop_day)}")
        return " ".join(parts)


@dataclass(frozen=True)
class Regimen:
    """A regimen: its components and whether the background treatment is given."""

    components: tuple[Component, ...] = ()
    backbone: bool = True

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents, in order."""
        return tuple(dict.fromkeys(c.agent for c in self.components))

    def __str__(self) -> str:
        text = " + ".join(c.text() for c in self.components) or "placebo"
        return text if self.backbone else f"{text} + no backbone"

    def without(self, agent: str) -> "Regimen":
        """The same regimen with one agent left out."""
        return replace(self, components=tuple(c for c in self.components if c.agent != agent))

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | Regimen", catalogue: Catalogue | None = None) -> "Regimen":
        """Read a regimen from text, or from a mapping ``{agents: [{agent, amount, ...}], backbone: bool}``.

        Raises
        ------
        RegimenError
            Unknown agent, missing unit, negative or zero interval, unknown words; with the field and the mend.
        """
        catalogue = catalogue or shipped_catalogue()
        if isinstance(value, Regimen):
            return value
        if isinstance(value, Mapping):
            return _from_mapping(value, catalogue)
        text = " ".join(value.split())
        if not text:
            raise RegimenError("the regimen is empty; write an agent's name, or `placebo`")
        components, backbone = [], True
        for part in re.split(r"\s*\+\s*", text):
            word = part.strip().lower()
            if not word:
                raise RegimenError(f"`{text}`: nothing stands beside a `+`; name an agent there, or remove it")
            if word in _EMPTY:
                continue
            if word == "no backbone":
                backbone = False
                continue
            components.append(_component(part.strip(), catalogue))
        ordered = sorted(components, key=lambda c: (c.agent, c.start_day))
        for one, two in pairwise(ordered):
            if one.agent == two.agent and two.start_day < one.end_day:
                raise RegimenError(
                    f"`{text}`: {one.agent} is named twice at the same time; name it once, or give the second `from day` "
                    "the first has ended"
                )
        return cls(tuple(ordered), backbone)


def _standard(agent: Agent, catalogue: Catalogue) -> Component:
    return _component(f"{agent.name} {agent.standard}", catalogue)


def _component(part: str, catalogue: Catalogue) -> Component:
    agent, rest = catalogue.match(part)
    if not rest:
        return _standard(agent, catalogue)
    where = f"regimen `{part}`"
    found = re.match(r"^(-?\d+(?:\.\d+)?)\s*([A-Za-z/]*2?)\s*(.*)$", rest)
    if not found:
        raise RegimenError(f"{where}: field `amount`: expected a dose such as `{agent.standard}`, found `{rest}`")
    amount, unit, rest = float(found[1]), found[2].lower(), found[3]
    if not 0 < amount < 1e9:
        raise RegimenError(f"{where}: field `amount`: the dose must be positive and possible, found {amount:g}")
    if unit not in _UNITS:
        raise RegimenError(f"{where}: field `unit`: the dose has no unit; write for example `{agent.standard}`")
    if unit != agent.unit.lower():
        raise RegimenError(f"{where}: field `unit`: {agent.name} is dosed in {agent.unit}, not {unit}")
    values: dict[str, Any] = {}
    for token in re.findall(r"(?:from|until) day \S+|\S+", rest):
        found_here = _schedule_token(token, where)
        if twice := sorted(set(found_here) & set(values)):
            raise RegimenError(f"{where}: field `schedule`: `{token}` gives {twice[0]} a second time; keep one")
        values |= found_here
    if "interval_days" not in values:
        raise RegimenError(f"{where}: field `schedule`: no schedule; write for example `{agent.standard}`")
    component = Component(agent.name, amount, agent.unit, **values)
    if component.stop_day is not None and component.stop_day <= component.start_day:
        raise RegimenError(f"{where}: field `until day`: treatment must end after it starts")
    return component


def _schedule_token(token: str, where: str) -> dict[str, Any]:
    word = token.lower()
    if word in _PER_DAY:
        return {"interval_days": _PER_DAY[word]}
    if word == "once":
        return {"interval_days": 1.0, "doses": 1}
    if found := re.fullmatch(r"q(-?\d+(?:\.\d+)?)([wdm])", word):
        interval = float(found[1]) * {"w": 7.0, "d": 1.0, "m": 365.25 / 12}[found[2]]
        if interval <= 0:
            raise RegimenError(f"{where}: field `interval`: must be positive, found `{token}`; write for example `q4w`")
        return {"interval_days": interval}
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)d/(\d+(?:\.\d+)?)d", word):
        on, period = float(found[1]), float(found[2])
        if not 0 < on < period:
            raise RegimenError(f"{where}: field `on/period`: `{token}` must have 0 < on < period, e.g. `14d/28d`")
        return {"on_days": on, "period_days": period}
    if found := re.fullmatch(r"x([1-9]\d*)", word):
        return {"doses": int(found[1])}
    if found := re.fullmatch(rf"from day ({_NUMBER})", word):
        return {"start_day": float(found[1])}
    if found := re.fullmatch(rf"until day ({_NUMBER})", word):
        return {"stop_day": float(found[1])}
    raise RegimenError(
        f"{where}: field `schedule`: `{token}` is not understood; use qNw, qNd, qNm, daily, bid, once, ONd/PERIODd, xN, "
        "`from day A`, `until day B`"
    )


def _from_mapping(value: Mapping[str, Any], catalogue: Catalogue) -> Regimen:
    unknown = set(value) - {"agents", "backbone"}
    if unknown:
        raise RegimenError(f"regimen mapping: unknown field `{sorted(unknown)[0]}`; use `agents` and `backbone`")
    parts = []
    for entry in value.get("agents", []):
        if isinstance(entry, str):
            parts.append(entry)
            continue
        allowed = {"agent", "dose", "schedule", "on_off", "doses", "from_day", "until_day"}
        if extra := set(entry) - allowed:
            raise RegimenError(f"regimen mapping: unknown field `{sorted(extra)[0]}`; use {', '.join(sorted(allowed))}")
        if "agent" not in entry:
            raise RegimenError("regimen mapping: field `agent` is missing")
        text = [
            str(entry["agent"]),
            str(entry.get("dose", "")),
            str(entry.get("schedule", "")),
            str(entry.get("on_off", "")),
        ]
        text += [f"x{entry['doses']}"] if "doses" in entry else []
        text += [f"from day {entry['from_day']}"] if "from_day" in entry else []
        text += [f"until day {entry['until_day']}"] if "until_day" in entry else []
        parts.append(" ".join(t for t in text if t))
    if not value.get("backbone", True):
        parts.append("no backbone")
    return Regimen.parse(" + ".join(parts) or "placebo", catalogue)
