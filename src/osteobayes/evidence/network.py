"""The evidence as a network, in text and HTML: studies by design, their arms, their patients and their rows."""

import html as _html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from osteobayes.schema import DESIGNS, USES, Study

if TYPE_CHECKING:
    from osteobayes.evidence.load import Evidence


@dataclass(frozen=True)
class _Line:
    study: str
    cancer: str
    patients: str
    n: str
    arms: str
    rows: dict[str, int]


def agents(regimen: str | None) -> list[str]:
    """Agents that a regimen text names: the words before each dose.

    Examples
    --------
    >>> agents("radium-223 55 kBq/kg q4w x6 + zoledronic acid 4 mg q4w")
    ['radium-223', 'zoledronic acid']
    """
    if not regimen:
        return []
    parts = [part.strip() for part in regimen.split(" + ")]
    return [re.split(r"\s+\d", part, maxsplit=1)[0].strip() for part in parts]


def study_agents(study: Study) -> list[str]:
    """Agents in any arm of a study, in order."""
    regimens = [regimen for arm in study.arm_ids for _, regimen, _ in study.members(arm)]
    return list(dict.fromkeys(agent for regimen in regimens for agent in agents(regimen)))


def _arms(study: Study) -> str:
    """Write the main arms of a study as ``A | B``, then how many subgroups or pools there are."""
    main = [arm.id for arm in study.arms if not arm.overlaps]
    others = len(study.arms) - len(main)
    return " | ".join(main) + (f" (+{others} overlapping)" if others else "")


def _lines(evidence: "Evidence", design: str) -> list[_Line]:
    lines = []
    for study in evidence.studies.values():
        if study.design != design:
            continue
        names, uses = evidence.outcomes["study"].tolist(), evidence.outcomes["use"].tolist()
        mine = [use for name, use in zip(names, uses, strict=True) if name == study.id]
        rows = {use: mine.count(use) for use in USES}
        n = "?" if study.patient_count is None else f"{study.patient_count:,}"
        lines.append(_Line(study.id, study.cancer, study.patients, n, _arms(study), rows))
    return lines


def _agent_lines(evidence: "Evidence", classes: Mapping[str, str] | None) -> list[tuple[str, str, str]]:
    """Agent, its class if known, and the studies with it."""
    where: dict[str, list[str]] = {}
    for study in evidence.studies.values():
        for agent in study_agents(study):
            where.setdefault(agent, []).append(study.id)
    return [(agent, (classes or {}).get(agent, ""), ", ".join(studies)) for agent, studies in sorted(where.items())]


def _head(evidence: "Evidence") -> str:
    outcomes, studies = evidence.outcomes, evidence.studies.values()
    uses = outcomes["use"].tolist()
    counts = ", ".join(f"{uses.count(use)} {use}" for use in USES)
    sets = len({study.patients for study in studies})
    known = sum(study.patient_count or 0 for study in studies)
    unknown = sum(study.patient_count is None for study in studies)
    more = f" ({unknown} {'study does' if unknown == 1 else 'studies do'} not print all arm sizes)" if unknown else ""
    plural = "patient set" if sets == 1 else "patient sets"
    return (
        f"Evidence: {len(evidence.studies)} {'study' if len(evidence.studies) == 1 else 'studies'}, "
        f"{sets} {plural}, {known:,} patients{more}; {len(outcomes)} rows ({counts})"
    )


def text(evidence: "Evidence", classes: Mapping[str, str] | None = None) -> str:
    """Describe the evidence in plain text.

    Parameters
    ----------
    evidence
        The evidence.
    classes
        Class of each agent, if known.
    """
    out = [_head(evidence)]
    for design in DESIGNS:
        lines = _lines(evidence, design)
        if not lines:
            continue
        out += ["", f"{design} ({len(lines)})"]
        widths = [max(len(getattr(line, name)) for line in lines) for name in ("study", "cancer", "patients", "n")]
        for line in lines:
            cells = (line.study, line.cancer, line.patients)
            left = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
            rows = "  ".join(f"{use} {line.rows[use]:>3}" for use in USES)
            out.append(f"  {left}  n {line.n.rjust(widths[3])}  {rows}  {line.arms}")
    found = _agent_lines(evidence, classes)
    if found:
        out += ["", "agents"]
        width = max(len(agent) for agent, _, _ in found)
        out += [f"  {a.ljust(width)}  {f'[{c}] ' if c else ''}{studies}" for a, c, studies in found]
    fitted = evidence.outcomes.loc[evidence.outcomes["use"] == "fit", "statistic"].value_counts()
    out += ["", "fitted rows: " + (", ".join(f"{name} {n}" for name, n in sorted(fitted.items())) or "none")]
    return "\n".join(out)


def html(evidence: "Evidence", classes: Mapping[str, str] | None = None) -> str:
    """Describe the evidence as an HTML fragment, for notebooks."""
    esc = _html.escape
    out = [f"<p><strong>{esc(_head(evidence))}</strong></p>"]
    for design in DESIGNS:
        lines = _lines(evidence, design)
        if not lines:
            continue
        names = ["study", "cancer", "patients", "n", *USES, "arms"]
        head = "".join(f'<th scope="col">{esc(name)}</th>' for name in names)
        body = []
        for line in lines:
            cells = [line.cancer, line.patients, line.n, *(str(line.rows[use]) for use in USES), line.arms]
            row = f'<th scope="row">{esc(line.study)}</th>' + "".join(f"<td>{esc(cell)}</td>" for cell in cells)
            body.append(f"<tr>{row}</tr>")
        out.append(
            f"<table><caption>{esc(design)} ({len(lines)})</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )
    found = _agent_lines(evidence, classes)
    items = "".join(f"<li>{esc(a)}{f' [{esc(c)}]' if c else ''}: {esc(studies)}</li>" for a, c, studies in found)
    out.append(f"<p>Agents</p><ul>{items}</ul>")
    return "\n".join(out)
