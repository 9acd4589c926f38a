"""Agents as data: ``priors/therapies/*.yaml`` names each agent's class, actions on named fluxes, kinetics and regimen."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS, MODULES, SKELETAL
from osteobayes.errors import PriorError, RegimenError
from osteobayes.paths import shipped
from osteobayes.schema import Problem, plain_number, read_model, read_table


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Strict):
    """One action of an agent on a named flux.

    ``form``: ``ratio`` (exposure / potency), ``rate`` (exposure x potency), ``fraction`` (exposure x potency, 0-1), or
    ``linear_quadratic`` (cell kill by fractionated radiotherapy: ``potency`` is alpha, 1/Gy, ``relative`` the share of the
    lesion in the field). Otherwise ``relative`` names an optional second parameter that multiplies (relative potency of an
    agent within its class).
    """

    flux: str
    form: Literal["ratio", "rate", "fraction", "linear_quadratic"]
    potency: str
    relative: str | None = None


class Kinetics(_Strict):
    """Closed-form exposure: see :mod:`osteobayes.cycle.exposure`. ``source`` says where the constants come from.

    ``kind``: ``doses`` (boluses), ``continuous`` (constant input into a depot), ``window`` (on/off), ``pulse`` (fractions
    of radiotherapy), or ``table`` (times and concentrations from ``file``, a CSV beside the YAML with the columns
    ``time_days`` and ``concentration``, for the standard dose; ``after`` says what follows its last line).
    """

    kind: Literal["doses", "continuous", "window", "pulse", "table"]
    input_per_day: float | None = Field(default=None, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, gt=0)
    alpha_beta_gy: float | None = Field(default=None, gt=0)
    file: str | None = None
    after: Literal["zero", "hold"] | None = None
    source: str
    table: tuple[tuple[float, ...], tuple[float, ...]] | None = Field(default=None, exclude=True)


class Toxicity(_Strict):
    """A published rate of an adverse event of an agent; ``outcome`` is the row of the evidence that prints it."""

    event: str
    percent: float | None = Field(default=None, ge=0, le=100)
    per_100_patient_years: float | None = Field(default=None, ge=0)
    grade: str = ""
    outcome: str


class Agent(_Strict):
    """An agent: name, class, actions, kinetics, standard regimen, main toxicities.

    An agent without actions is known by name and dose only: evidence on it is read and shown, but a regimen with it cannot be
    solved or fitted; its note says why.
    """

    name: str
    aliases: tuple[str, ...] = ()
    agent_class: str = Field(alias="class")
    unit: str
    standard: str
    standard_dose: float = Field(gt=0)
    actions: tuple[Action, ...]
    kinetics: Kinetics | None = None
    note: str = ""
    toxicities: tuple[Toxicity, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that the agent's actions switch on."""
        return tuple(m for m, fluxes in MODULES.items() if any(a.flux in fluxes for a in self.actions))

    @property
    def skeletal(self) -> bool:
        """Whether bone without tumour feels the agent."""
        return any(a.flux in SKELETAL for a in self.actions)


class TherapyFile(_Strict):
    """One file of ``priors/therapies/``: agents, and the priors of their potencies (read by :class:`osteobayes.priors.PriorSet`)."""

    format: Literal[1]
    agents: tuple[Agent, ...]
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """All agents by name."""

    agents: dict[str, Agent]

    @classmethod
    def load(cls, *folders: Path) -> "Catalogue":
        """Read every ``*.yaml`` of therapies folders; all problems at once (:class:`PriorError`).

        An agent of a later folder replaces one of the same name.
        """
        agents: dict[str, Agent] = {}
        problems: list[Problem] = []
        for path in [path for folder in folders for path in sorted(Path(folder).glob("*.yaml"))]:
            content, document, found = read_model(TherapyFile, path, path.name)
            problems += found
            for i, agent in enumerate(content.agents if content else ()):
                problems += [document.problem(("agents", i, field), text, mend) for field, text, mend in _check(agent)]
                if agent.kinetics is not None and agent.kinetics.kind == "table" and agent.kinetics.file:
                    table, wrong = read_concentrations(path.parent / agent.kinetics.file)
                    problems += wrong
                    agent = agent.model_copy(update={"kinetics": agent.kinetics.model_copy(update={"table": table})})
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


def read_concentrations(path: Path) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, list[Problem]]:
    """Times (days) and concentrations of a CSV with the columns ``time_days`` and ``concentration``, or what is wrong."""
    name = path.name
    if not path.is_file():
        return None, [Problem(name, None, "kinetics.file", "no such file", "put the CSV beside the YAML")]
    table = read_table(path, CONCENTRATION_COLUMNS)
    if sorted(table.header) != sorted(CONCENTRATION_COLUMNS):
        found = ", ".join(table.header) or "no header"
        return None, [Problem(name, 1, "", f"columns {found}", f"name them {' and '.join(CONCENTRATION_COLUMNS)}")]
    problems, numbers = [], []
    for row, cells in table.rows:
        values = []
        for column, cell in zip(table.header, cells, strict=False):
            text, wrong = plain_number(cell, table.decimal_comma)
            try:
                values.append(float("nan" if wrong else text))
            except ValueError:
                values.append(float("nan"))
            if not 0 <= values[-1] < float("inf"):
                problems.append(Problem(name, row, column, f"{cell!r} is not a number of at least 0", "give one"))
        if len(cells) != 2:
            problems.append(
                Problem(name, row, "", f"{len(cells)} cells instead of 2", "give a time and a concentration")
            )
            continue
        numbers.append(tuple(values[table.header.index(c)] for c in CONCENTRATION_COLUMNS))
        if len(numbers) > 1 and not numbers[-1][0] > numbers[-2][0]:
            problems.append(Problem(name, row, "time_days", "times do not ascend", "sort the lines by time"))
    if not problems and len(numbers) < 2:
        problems.append(Problem(name, None, "", "fewer than two lines", "give the time course"))
    return (None if problems else tuple(zip(*numbers, strict=True))), problems  # pyright: ignore[reportReturnType]


CONCENTRATION_COLUMNS = ("time_days", "concentration")


def _check(agent: Agent) -> list[tuple[str, str, str]]:
    """Field, message and mend of what pydantic cannot see."""
    found = []
    kinetics = agent.kinetics
    for action in agent.actions:
        if action.flux not in ACTIONS:
            found.append(("actions", f"{action.flux!r} is not a drug action", f"use one of {', '.join(ACTIONS)}"))
        elif (action.form == "fraction") != (action.flux in FRACTIONS):
            mend = "fractions are " + ", ".join(sorted(FRACTIONS))
            found.append(("actions", f"{action.flux!r} cannot be a {action.form}", mend))
        if action.form == "linear_quadratic" and not (action.relative and kinetics and kinetics.kind == "pulse"):
            mend = "name the share in the field as `relative`, and use kinetics of kind pulse"
            found.append(("actions", "linear-quadratic kill lacks its field or its fractions", mend))
    if kinetics is None:
        if agent.actions:
            found.append(("kinetics", "the agent has actions but no kinetics", "give its kinetics"))
        elif not agent.note:
            found.append(("note", "the agent has no actions and no note", "say why it has no mechanism"))
        return found
    needs = {
        "doses": ("half_life_days",), "continuous": ("half_life_days",), "pulse": ("half_life_days", "alpha_beta_gy"),
        "table": ("file", "after"), "window": (),
    }[kinetics.kind]  # fmt: skip
    for field in needs:
        if getattr(kinetics, field) is None:
            found.append(("kinetics", f"kinetics of kind {kinetics.kind} lack {field}", f"give {field}"))
    return found


@lru_cache(maxsize=8)
def _load(folder: Path) -> Catalogue:
    return Catalogue.load(folder)


def shipped_catalogue() -> Catalogue:
    """The agents that ship with the package."""
    return _load(shipped("priors") / "therapies")
