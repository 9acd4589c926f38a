"""Agents as data: ``priors/therapies/*.yaml`` names each agent's class, actions on named fluxes, kinetics and regimen."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS
from osteobayes.errors import PriorError, RegimenError
from osteobayes.paths import shipped
from osteobayes.schema import Problem, read_model


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Strict):
    """One action of an agent on a named flux.

    ``form``: ``ratio`` (exposure / potency), ``rate`` (exposure x potency) or ``fraction`` (exposure x potency, 0-1).
    ``relative`` names an optional second parameter that multiplies (relative potency of an agent within its class).
    """

    flux: str
    form: Literal["ratio", "rate", "fraction"]
    potency: str
    relative: str | None = None


class Kinetics(_Strict):
    """Closed-form exposure: see :mod:`osteobayes.cycle.exposure`. ``source`` says where the constants come from."""

    kind: Literal["doses", "continuous", "window"]
    input_per_day: float | None = Field(default=None, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, gt=0)
    source: str


class Agent(_Strict):
    """An agent: name, class, module, actions, kinetics, standard regimen.

    An agent without actions is known by name and dose only: evidence on it is read and shown, but a regimen with it cannot be
    solved or fitted until its mechanism is written.
    """

    name: str
    aliases: tuple[str, ...] = ()
    agent_class: str = Field(alias="class")
    modules: tuple[str, ...] = ()
    unit: str
    standard: str
    standard_dose: float = Field(gt=0)
    actions: tuple[Action, ...]
    kinetics: Kinetics | None = None
    note: str = ""
    sources: tuple[dict[str, Any], ...] = ()


class TherapyFile(_Strict):
    """One file of ``priors/therapies/``."""

    format: Literal[1]
    agents: tuple[Agent, ...]


@dataclass(frozen=True)
class Catalogue:
    """All agents by name."""

    agents: dict[str, Agent]

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        """Read every ``*.yaml`` of a therapies folder; all problems at once (:class:`PriorError`)."""
        agents: dict[str, Agent] = {}
        problems: list[Problem] = []
        for path in sorted(folder.glob("*.yaml")):
            content, document, found = read_model(TherapyFile, path, path.name)
            problems += found
            for i, agent in enumerate(content.agents if content else ()):
                problems += [document.problem(("agents", i, field), text, mend) for field, text, mend in _check(agent)]
                agents[agent.name] = agent
        if problems:
            raise PriorError(problems)
        return cls(agents)

    def without_mechanism(self, agents: Iterable[str]) -> list[str]:
        """Those of `agents` whose mechanism is not in the model."""
        return [name for name in agents if not self.agents[name].actions]

    def match(self, text: str) -> tuple[Agent, str]:
        """Longest agent name or alias at the beginning of ``text``, and what follows it."""
        lowered = text.lower()
        names = {n.lower(): a for a in self.agents.values() for n in (a.name, *a.aliases)}
        for name in sorted(names, key=len, reverse=True):
            if lowered == name or lowered.startswith(name + " "):
                return names[name], text[len(name) :].strip()
        words = lowered.split()
        guess = difflib.get_close_matches(" ".join(words[:2]), names, 1, 0.6) or difflib.get_close_matches(
            words[0], names, 1, 0.6
        )
        hint = f"did you mean `{guess[0]}`?" if guess else f"known agents: {', '.join(sorted(self.agents))}"
        raise RegimenError(f"regimen `{text}`: field `agent`: no agent of that name; {hint}")


def _check(agent: Agent) -> list[tuple[str, str, str]]:
    """Field, message and mend of what pydantic cannot see."""
    found = []
    for action in agent.actions:
        if action.flux not in ACTIONS:
            found.append(("actions", f"{action.flux!r} is not a drug action", f"use one of {', '.join(ACTIONS)}"))
        elif (action.form == "fraction") != (action.flux in FRACTIONS):
            found.append(
                (
                    "actions",
                    f"{action.flux!r} cannot be a {action.form}",
                    "fractions are " + ", ".join(sorted(FRACTIONS)),
                )
            )
    if agent.kinetics is None:
        if agent.actions:
            found.append(("kinetics", "the agent has actions but no kinetics", "give its kinetics"))
    elif agent.kinetics.kind != "window" and agent.kinetics.half_life_days is None:
        found.append(("kinetics", "the half-life is missing", "give half_life_days"))
    return found


@lru_cache(maxsize=8)
def _load(folder: Path) -> Catalogue:
    return Catalogue.load(folder)


def shipped_catalogue() -> Catalogue:
    """The agents that ship with the package."""
    return _load(shipped("priors") / "therapies")
