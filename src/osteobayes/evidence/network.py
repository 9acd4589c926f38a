"""The evidence as a network, in text and HTML: studies by design, their arms, their patients and their rows."""

import html as _html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from osteobayes.cycle import Catalogue, Regimen
from osteobayes.cycle.therapy import shipped_catalogue
from osteobayes.errors import RegimenError
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


def study_agents(study: Study, catalogue: Catalogue) -> list[str]:
    """Agents in any arm of a study, in order."""
    regimens = [regimen for arm in study.arm_ids for _, regimen, _ in study.members(arm) if regimen]
    return list(dict.fromkeys(agent for regimen in regimens for agent in _agents(regimen, catalogue)))


def _agents(regimen: str, catalogue: Catalogue) -> tuple[str, ...]:
    """Agents of a regimen text; none if it cannot be read."""
    try:
        return Regimen.parse(regimen, catalogue).agents
    except RegimenError:
        return ()


def therapies(study: Study, catalogue: Catalogue) -> set[str]:
    """Agents and their classes in any arm of a study."""
    agents = study_agents(study, catalogue)
    return {*agents, *(catalogue.agents[agent].agent_class for agent in agents)}


@dataclass(frozen=True)
class Network:
    """Treatments and the randomised comparisons that link them.

    Attributes
    ----------
    components
        Treatments (agents joined by `` + ``, or ``placebo``) that randomised comparisons link, largest group first.
    comparisons
        Studies by pair of treatments.
    alone
        Agents that no randomised comparison with another treatment informs: only the mechanism links them to the others.
    """

    components: tuple[tuple[str, ...], ...]
    comparisons: dict[tuple[str, str], tuple[str, ...]]
    alone: tuple[str, ...]

    @property
    def connected(self) -> bool:
        """Whether randomised comparisons link all treatments that any of them holds."""
        return len(self.components) <= 1


def network(studies: Mapping[str, Study], catalogue: Catalogue) -> Network:
    """Network of the randomised comparisons between the main arms of studies; arms without a regimen are no node."""
    links: dict[tuple[str, str], list[str]] = {}
    everywhere: set[str] = set()
    for study in studies.values():
        everywhere |= set(study_agents(study, catalogue))
        if study.design != "randomised":
            continue
        nodes: list[str] = []
        for arm in study.arms:
            regimens = [regimen for _, regimen, _ in study.members(arm.id)]
            if arm.overlaps or None in regimens:
                continue
            given = [_agents(regimen, catalogue) for regimen in regimens if regimen]
            everyone = [agent for agent in given[0] if all(agent in other for other in given)]
            nodes.append(" + ".join(everyone) or "placebo")
        for one, two in combinations(sorted(set(nodes)), 2):
            links.setdefault((one, two), []).append(study.id)
    groups: list[set[str]] = []
    for pair in links:
        joined = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in joined] + [set(pair).union(*joined)]
    compared = set()
    for one, two in links:
        compared |= set(one.split(" + ")) ^ set(two.split(" + "))
    ordered = sorted((tuple(sorted(group)) for group in groups), key=lambda group: (-len(group), group))
    return Network(
        tuple(ordered), {pair: tuple(ids) for pair, ids in sorted(links.items())}, tuple(sorted(everywhere - compared))
    )


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


def _agent_lines(evidence: "Evidence", catalogue: Catalogue) -> list[tuple[str, str, str]]:
    """Agent, its class, and the studies with it."""
    where: dict[str, list[str]] = {}
    for study in evidence.studies.values():
        for agent in study_agents(study, catalogue):
            where.setdefault(agent, []).append(study.id)
    return [
        (agent, catalogue.agents[agent].agent_class, ", ".join(studies)) for agent, studies in sorted(where.items())
    ]


def _endpoints(evidence: "Evidence") -> list[tuple[str, dict[str, int]]]:
    """Endpoints with their rows by use, the most frequent first; event definitions of a study count as skeletal events."""
    counts: dict[str, dict[str, int]] = {}
    table = evidence.outcomes
    for study, endpoint, use in zip(table["study"], table["endpoint"], table["use"], strict=True):
        name = "skeletal events" if endpoint in evidence.studies[study].events else endpoint
        counts.setdefault(name, dict.fromkeys(USES, 0))[use] += 1
    return sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))


def _network_lines(found: Network) -> list[str]:
    """The network in sentences."""
    if not found.comparisons:
        out = ["no randomised comparison between treatments that can be written as regimens"]
    elif found.connected:
        out = [f"connected: randomised comparisons link all {len(found.components[0])} treatments"]
    else:
        out = [f"not connected: {len(found.components)} groups of treatments, which only the mechanism links"]
    out += [f"group {i}: {', '.join(group)}" for i, group in enumerate(found.components, 1)]
    if found.alone:
        out.append(f"linked only through the mechanism (in no randomised comparison): {', '.join(found.alone)}")
    return out


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


def text(evidence: "Evidence", catalogue: Catalogue | None = None) -> str:
    """Describe the evidence in plain text.

    Parameters
    ----------
    evidence
        The evidence.
    catalogue
        Agents; those that ship by default.
    """
    catalogue = catalogue or shipped_catalogue()
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
    found = _agent_lines(evidence, catalogue)
    if found:
        out += ["", "agents"]
        width = max(len(agent) for agent, _, _ in found)
        out += [f"  {a.ljust(width)}  [{c}] {studies}" for a, c, studies in found]
    endpoints = _endpoints(evidence)
    if endpoints:
        out += ["", "endpoints"]
        width = max(len(name) for name, _ in endpoints)
        out += [f"  {name.ljust(width)}  " + "  ".join(f"{u} {n[u]:>3}" for u in USES) for name, n in endpoints]
    out += ["", "network", *(f"  {line}" for line in _network_lines(network(evidence.studies, catalogue)))]
    fitted = evidence.outcomes.loc[evidence.outcomes["use"] == "fit", "statistic"].value_counts()
    out += ["", "fitted rows: " + (", ".join(f"{name} {n}" for name, n in sorted(fitted.items())) or "none")]
    return "\n".join(out)


def html(evidence: "Evidence", catalogue: Catalogue | None = None) -> str:
    """Describe the evidence as an HTML fragment, for notebooks."""
    catalogue = catalogue or shipped_catalogue()
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
    found = _agent_lines(evidence, catalogue)
    items = "".join(f"<li>{esc(a)} [{esc(c)}]: {esc(studies)}</li>" for a, c, studies in found)
    out.append(f"<p>Agents</p><ul>{items}</ul>")
    rows = "".join(
        f'<tr><th scope="row">{esc(name)}</th>' + "".join(f"<td>{n[u]}</td>" for u in USES) + "</tr>"
        for name, n in _endpoints(evidence)
    )
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in ("endpoint", *USES))
    out.append(f"<table><caption>endpoints</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    lines = "".join(f"<li>{esc(line)}</li>" for line in _network_lines(network(evidence.studies, catalogue)))
    out.append(f"<p>Network</p><ul>{lines}</ul>")
    return "\n".join(out)


def page(evidence: "Evidence", catalogue: Catalogue | None = None) -> str:
    """Page that holds :func:`html`, readable from disk."""
    style = (
        "body{font:16px system-ui;margin:2rem;max-width:80rem}table{border-collapse:collapse;margin:1rem 0}"
        "th,td{border:1px solid #999;padding:.2rem .5rem;text-align:left}caption{font-weight:bold;text-align:left}"
        "@media (prefers-color-scheme:dark){body{background:#111;color:#eee}}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evidence</title>'
        f"<style>{style}</style></head><body><h1>Evidence</h1>{html(evidence, catalogue)}</body></html>\n"
    )


def summary(evidence: "Evidence", catalogue: Catalogue | None = None) -> dict[str, Any]:
    """The network as plain data: studies, agents, endpoints by use, and the groups that comparisons link."""
    catalogue = catalogue or shipped_catalogue()
    found = network(evidence.studies, catalogue)
    lines = [line for design in DESIGNS for line in _lines(evidence, design)]
    return {
        "studies": [{**asdict(line), "design": evidence.studies[line.study].design} for line in lines],
        "agents": [{"agent": a, "class": c, "studies": s.split(", ")} for a, c, s in _agent_lines(evidence, catalogue)],
        "endpoints": dict(_endpoints(evidence)),
        "network": {
            "connected": found.connected,
            "groups": [list(group) for group in found.components],
            "comparisons": [{"pair": list(pair), "studies": list(ids)} for pair, ids in found.comparisons.items()],
            "only_through_the_mechanism": list(found.alone),
        },
    }
