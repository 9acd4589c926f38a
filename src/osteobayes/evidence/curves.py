"""Digitised Kaplan-Meier curves and individual times: read, made patients again, counted by interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osteobayes.errors import Problem
from osteobayes.evidence.checks import Row, rule
from osteobayes.schema import (
    ENDPOINTS,
    TIME_UNITS,
    Curve,
    OutcomeRow,
    Study,
    Table,
    YamlDocument,
    did_you_mean,
    plain_number,
    read_table,
    read_yaml,
    time_in_years,
)
from osteobayes.survival import IntervalCounts, guyot, interval_counts

TOLERATED_RISE = 0.02
"""How far a digitised curve may rise before it is refused; smaller rises are the digitiser's and are levelled."""
TOLERATED_EXCESS = 0.02
"""How far readings may leave [0, 1] before they are refused."""
LONGEST_YEARS = 100.0
"""Times beyond it are slips of the pen."""
_TIME_WORDS = ("time", "x", "t", "months", "weeks", "days", "years", "month", "week", "day", "year")
_SURVIVAL_WORDS = ("survival", "y", "s", "km", "probability", "percent", "event_free", "os", "pfs")
_RISK_WORDS = ("n_at_risk", "at_risk", "nrisk", "n", "number_at_risk", "number at risk")


@dataclass(frozen=True)
class CurveData:
    """One curve as patients.

    Attributes
    ----------
    study, curve
        Study id and what `study.yaml` says of the curve.
    time, event
        Years and event flags of the (reconstructed) patients.
    intervals
        Counts between the times of the risk table (individual times: every quarter of a year).
    settings
        How the readings were treated: scale, levelled rises, total of events, reconstruction.
    as_row
        The curve as one row of evidence, for the checks against counting patients twice.
    """

    study: str
    curve: Curve
    time: np.ndarray
    event: np.ndarray
    intervals: IntervalCounts
    settings: dict[str, str]
    as_row: Row


def curve_id(study: str, curve: Curve) -> str:
    """Id of a curve among the outcomes of its study."""
    return f"{study}/curve_{curve.endpoint.lower()}_{curve.arm}"


def read_curves(place: Path, study: Study) -> tuple[dict[str, CurveData], list[Problem]]:
    """Curves of a study folder, and what is wrong with them."""
    found: dict[str, CurveData] = {}
    problems: list[Problem] = []
    expected: dict[str, None] = {}
    yaml = place / "study.yaml"
    document = read_yaml(yaml) if study.curves else YamlDocument(yaml.as_posix(), None)
    for i, curve in enumerate(study.curves):
        entry = _Entry(document, i, curve, study)
        wrong = list(_declaration(curve, study))
        problems += [entry.problem(name, message, mend) for name, message, mend in wrong]
        stem = f"{curve.endpoint}.{curve.arm}"
        individual = curve.kind == "individual"
        names = [f"{curve.endpoint}.times.csv"] if individual else [f"{stem}.csv", f"{stem}.risk.csv"]
        expected |= dict.fromkeys(names)
        if wrong:
            continue
        read = _individual if individual else _digitised
        data, trouble = read([place / "km" / name for name in names], entry)
        problems += trouble
        if data is not None:
            if curve_id(study.id, curve) in found:
                problems.append(entry.problem("", "the curve is declared twice", "keep one"))
            found[curve_id(study.id, curve)] = data
    folder = place / "km"
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name not in expected and not path.name.startswith("."):
                mend = did_you_mean(path.name, expected) if expected else "declare it under `curves` in study.yaml"
                message = "study.yaml declares no curve of this file"
                problems.append(Problem(path.as_posix(), None, "", message, mend))
    return found, list(dict.fromkeys(problems))  # the curves of one file of times share its faults


@dataclass(frozen=True)
class _Entry:
    """One entry under `curves` and where it stands."""

    document: YamlDocument
    index: int
    curve: Curve
    study: Study

    @property
    def line(self) -> int:
        return self.document.line(("curves", self.index)) or 1

    def problem(self, name: str, message: str, mend: str) -> Problem:
        """Problem of a key of the entry, or of the entry."""
        return self.document.problem(("curves", self.index, *([name] if name else [])), message, mend)


def _declaration(curve: Curve, study: Study) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the entry in `study.yaml`."""
    if curve.arm not in study.arm_ids:
        yield "arm", f"the study has no arm {curve.arm!r}", did_you_mean(curve.arm, study.arm_ids)
    if curve.endpoint not in ENDPOINTS and curve.endpoint not in study.events:
        message = f"the endpoint {curve.endpoint!r} has no event definition"
        yield "endpoint", message, did_you_mean(curve.endpoint, [*study.events, *ENDPOINTS])
    sources = [source.id for source in study.sources]
    if curve.source not in sources:
        yield "source", f"study.yaml has no source {curve.source!r}", did_you_mean(curve.source, sources)
    if curve.use != "fit" and not rule(curve.note):
        message = f"`use` is `{curve.use}` but the note does not begin with the rule that says why"
        yield "note", message, "begin it with a rule and a colon, as in outcomes.csv"


Columns = dict[str, list[tuple[int, float]]]


def _columns(
    path: Path, words: dict[str, tuple[str, ...]], texts: tuple[str, ...] = ()
) -> tuple[Columns, dict[str, list[str]], Table, list[Problem]]:
    """Columns of numbers (with their lines) and of texts; a file without a header is taken in the order of `words`."""
    table = read_table(path, [word for group in words.values() for word in group])
    none: tuple[Columns, dict[str, list[str]]] = ({}, {})
    if table.problems:
        return *none, table, list(table.problems)
    file = table.file
    width = max(len(cells) for _, cells in table.rows) if table.rows else len(table.header)
    known = {word for group in words.values() for word in group}
    header = [name.lower().split("(")[0].strip() for name in table.header]
    if header and not known & set(header) and table.rows and known & {cell.lower() for cell in table.rows[0][1]}:
        header = [
            cell.lower() for cell in table.rows.pop(0)[1]
        ]  # WebPlotDigitizer: the data set's name above the header
    if not header:
        if width != len(words):
            message = f"there are {width} columns and no header, but {', '.join(words)} are wanted"
            return *none, table, [Problem(file, table.header_row, "", message, "write a header")]
        header = [group[0] for group in words.values()]
    if len(header) > len(words) and sum(name in words["time"] for name in header) > 1:
        message = "the file holds several curves side by side"
        return *none, table, [Problem(file, table.header_row, "", message, "save one curve a file: time, survival")]
    at: dict[str, int] = {}
    for name, group in words.items():
        places = [i for i, word in enumerate(header) if word in group]
        if len(places) != 1:
            message = f"there is no column {name!r}" if not places else f"several columns could be {name!r}"
            mend = f"name the columns {', '.join(words)}; found {', '.join(table.header)}"
            return *none, table, [Problem(file, table.header_row, name, message, mend)]
        at[name] = places[0]
    problems, numbers, others = [], {name: [] for name in words}, {name: [] for name in texts}
    for line, cells in table.rows:
        for name, i in at.items():
            cell = cells[i] if i < len(cells) else ""
            if name in texts:
                others[name].append(cell)
                continue
            text, wrong = plain_number(cell, table.decimal_comma)
            try:
                value = float(text)
            except ValueError:
                value = float("nan")
            if wrong is None and not np.isfinite(value):
                wrong = (f"{cell!r} is not a number" if cell else "the cell is empty", "")
            if wrong:
                mend = "write one plain number, or remove the row"
                problems.append(Problem(file, line, name, wrong[0], mend))
            numbers[name].append((line, value))
    if not table.rows:
        problems.append(Problem(file, None, "", "the file holds no row", "write the readings"))
    return {n: v for n, v in numbers.items() if n not in texts}, others, table, problems


def _unit_problem(table: Table, curve: Curve) -> list[Problem]:
    """A header that names another unit of time than `study.yaml`."""
    for name in table.header:
        for unit in TIME_UNITS:
            if unit in name.lower() and unit != curve.time_unit:
                message = f"the header says {name!r} but study.yaml says time_unit: {curve.time_unit}"
                return [Problem(table.file, table.header_row, "time", message, "correct one of the two")]
    return []


def _late_problems(times: list[tuple[int, float]], file: str, curve: Curve) -> Iterator[Problem]:
    """Times that no patient can be followed for."""
    for line, time in times:
        if time_in_years(time, curve.time_unit) > LONGEST_YEARS:
            message = f"the time {time:g} is in {curve.time_unit}s and above {LONGEST_YEARS:g} years"
            yield Problem(file, line, "time", message, "correct it, or time_unit in study.yaml")


def _digitised(paths: list[Path], entry: _Entry) -> tuple[CurveData | None, list[Problem]]:
    """A digitised curve and its risk table as patients."""
    curve = entry.curve
    points, _, table, problems = _columns(paths[0], {"time": _TIME_WORDS, "survival": _SURVIVAL_WORDS})
    risks, _, risk_table, more = _columns(paths[1], {"time": _TIME_WORDS, "n_at_risk": _RISK_WORDS})
    problems += more + _unit_problem(table, curve) + _unit_problem(risk_table, curve)
    for read, file in ((points, table.file), (risks, risk_table.file)):
        problems += _late_problems(read.get("time", []), file, curve)
    if problems:
        return None, problems
    time, survival, settings, problems = _levelled(points, table.file)
    if problems:
        return None, problems
    problems = list(_risk_problems(risks, risk_table.file, float(time.max())))[:1]
    if problems:
        return None, problems
    at, n = (np.array([v for _, v in risks[name]]) for name in ("time", "n_at_risk"))
    printed = entry.study.arm(curve.arm).n
    if printed is not None and n[0] > printed:
        message = f"{n[0]:g} patients are at risk at the start, but arm {curve.arm!r} has {printed}"
        return None, [
            Problem(risk_table.file, risks["n_at_risk"][0][0], "n_at_risk", message, "correct one of the two")
        ]
    if curve.total_events is not None and curve.total_events > n[0]:
        message = f"{curve.total_events} events among {n[0]:g} patients"
        return None, [entry.problem("total_events", message, "correct total_events or the numbers at risk")]
    try:
        t, event = guyot(time, survival, at, n, curve.total_events)
    except ValueError as error:
        text = str(error)
        file = risk_table.file if "risk" in text else table.file
        return None, [Problem(file, None, "", text, "read the curve and the numbers at risk again")]
    settings |= {"reconstruction": "Guyot 2012", "total_events": str(curve.total_events or "not printed")}
    scale = time_in_years(1.0, curve.time_unit)
    edges = np.append(at[at < t.max()], t.max()) * scale
    return _data(t * scale, event, edges, entry, settings), []


def _risk_problems(risks: Columns, file: str, end: float) -> Iterator[Problem]:
    """What a risk table cannot say, by line; `end`: the last time of the curve."""
    mend = "read the numbers at risk again"
    before: tuple[float, float] | None = None
    for (line, time), (_, n) in zip(risks["time"], risks["n_at_risk"], strict=True):
        if before is None and time != 0:
            yield Problem(file, line, "time", f"the risk table must start at time 0, it starts at {time:g}", mend)
        if before is not None and time <= before[0]:
            message = f"the time {time:g} does not come after the time {before[0]:g}"
            yield Problem(file, line, "time", message, "sort the rows, one a time")
        if n != round(n) or n < 0:
            yield Problem(file, line, "n_at_risk", f"{n:g} is not a whole number of patients", mend)
        if before is None and n == 0:
            yield Problem(file, line, "n_at_risk", "nobody is at risk at the start", mend)
        if before is not None and n > before[1]:
            message = f"the number at risk rises from {before[1]:g} to {n:g}: nobody comes back at risk"
            yield Problem(file, line, "n_at_risk", message, mend)
        if time > end and n > 0:
            message = f"{n:g} patients are at risk at time {time:g}, after the curve ends at {end:g}"
            more = "extend the curve to that time at its last value, or leave the row out"
            yield Problem(file, line, "n_at_risk", message, more)
        before = (time, n)


def _levelled(points: Columns, file: str) -> tuple[np.ndarray, np.ndarray, dict[str, str], list[Problem]]:
    """Readings in order of time, as fractions, never rising; small faults of the digitiser are mended and recorded."""
    from scipy.optimize import isotonic_regression  # a second to import, and most evidence has no curves

    lines = [line for line, _ in points["time"]]
    time = np.array([v for _, v in points["time"]])
    survival = np.array([v for _, v in points["survival"]])
    settings: dict[str, str] = {}
    order = np.lexsort((-survival, time))
    if np.any(order != np.arange(len(order))):
        settings["order"] = "sorted by time"
    time, survival, lines = time[order], survival[order], [lines[i] for i in order]
    if survival[0] <= TOLERATED_EXCESS and survival.max() > survival[0] + TOLERATED_RISE:
        message = f"the curve begins at {survival[0]:g} and rises: a cumulative incidence, not a survival"
        mend = "write 1 (in percent: 100) minus each reading"
        return time, survival, settings, [Problem(file, lines[0], "survival", message, mend)]
    if survival[0] > 2.0:  # a curve begins near 1 or near 100; a slip in a later reading makes no percent of it
        survival = survival / 100.0
        settings["scale"] = "percent"
    beyond = (survival < -TOLERATED_EXCESS) | (survival > 1 + TOLERATED_EXCESS)
    if beyond.any():
        i = int(np.argmax(beyond))
        message = f"a survival of {100 * float(survival[i]):.4g} percent is impossible"
        return time, survival, settings, [Problem(file, lines[i], "survival", message, "read it again")]
    if time.max() <= 0:
        return time, survival, settings, [Problem(file, lines[-1], "time", "no reading is after time 0", "read on")]
    if time[0] < -0.02 * time.max():
        return (
            time,
            survival,
            settings,
            [Problem(file, lines[0], "time", f"the time {time[0]:g} is negative", "read it again")],
        )
    if time[0] < 0 or np.any((survival < 0) | (survival > 1)):
        settings["clipped"] = "readings just outside the axes were put on them"
    time, survival = np.maximum(time, 0.0), np.clip(survival, 0.0, 1.0)
    rise = survival - np.minimum.accumulate(survival)
    # pooled, not cut to the lowest reading so far: errors of reading would pull a flat stretch, and its median, down
    level = isotonic_regression(survival, increasing=False).x
    if rise.max() > TOLERATED_RISE:
        i = int(np.argmax(rise))
        message = f"the curve rises by {rise[i]:.3f} before time {time[i]:g}: a survival curve cannot"
        return (
            time,
            level,
            settings,
            [Problem(file, lines[i], "survival", message, "read it again; are two curves mixed?")],
        )
    if rise.max() > 0:
        settings["levelled"] = f"rises of up to {rise.max():.4f} were levelled"
    first = time == 0
    if first.any() and level[first].max() < 1.0:
        if level[first].max() < 1.0 - TOLERATED_EXCESS:
            message = f"the curve is {level[first].max():g} at time 0, not 1"
            return time, level, settings, [Problem(file, lines[0], "survival", message, "read it again")]
        level = np.where(first & (np.arange(len(level)) == 0), 1.0, level)
    return time, level, settings, []


def _individual(paths: list[Path], entry: _Entry) -> tuple[CurveData | None, list[Problem]]:
    """Individual times of one arm."""
    curve, study = entry.curve, entry.study
    words = {"time": _TIME_WORDS, "event": ("event", "status"), "arm": ("arm", "group")}
    numbers, texts, table, problems = _columns(paths[0], words, ("arm",))
    problems += _unit_problem(table, curve)
    if problems:
        return None, problems
    for (line, _), arm in zip(numbers["time"], texts["arm"], strict=True):
        if arm not in study.arm_ids:
            problems.append(
                Problem(table.file, line, "arm", f"the study has no arm {arm!r}", did_you_mean(arm, study.arm_ids))
            )
    for line, value in numbers["event"]:
        if value not in (0.0, 1.0):
            problems.append(Problem(table.file, line, "event", f"{value:g} is neither 0 nor 1", "write 1 for an event"))
    for line, value in numbers["time"]:
        if value < 0:
            problems.append(Problem(table.file, line, "time", f"the time {value:g} is negative", "correct it"))
    problems += _late_problems(numbers["time"], table.file, curve)
    mine = np.array([arm == curve.arm for arm in texts["arm"]])
    if not mine.any():
        message = f"no row is of arm {curve.arm!r}"
        problems.append(Problem(table.file, None, "arm", message, "add its patients, or remove the curve"))
    printed = study.arm(curve.arm).n
    if printed is not None and mine.sum() > printed:
        message = f"{mine.sum()} patients are of arm {curve.arm!r}, which has {printed}"
        problems.append(Problem(table.file, None, "arm", message, "correct the times, or n in study.yaml"))
    if problems:
        return None, problems
    scale = time_in_years(1.0, curve.time_unit)
    time = np.array([v for _, v in numbers["time"]])[mine] * scale
    if time.max() <= 0:
        message = f"no time of arm {curve.arm!r} is after 0"
        return None, [Problem(table.file, numbers["time"][int(np.argmax(mine))][0], "time", message, "read them again")]
    event = np.array([v for _, v in numbers["event"]])[mine] == 1.0
    order = np.lexsort((~event, time))
    edges = np.unique(np.append(np.arange(0.0, time.max(), 0.25), time.max()))
    return _data(time[order], event[order], edges, entry, {"kind": "individual times"}), []


def _data(
    time: np.ndarray,
    event: np.ndarray,
    edges: np.ndarray,
    entry: _Entry,
    settings: dict[str, str],
) -> CurveData:
    curve, study = entry.curve, entry.study
    texts = {
        "outcome_id": curve_id(study.id, curve), "arm": curve.arm, "endpoint": curve.endpoint, "statistic": "interval_counts",
        "estimator": "km", "use": curve.use, "source": curve.source, "where": curve.where or "", "note": curve.note,
    }  # fmt: skip
    row: dict[str, Any] = dict.fromkeys(OutcomeRow.model_fields) | texts | {"events": int(event.sum()), "n": len(time)}
    outcome = OutcomeRow.model_construct(**row)
    row_of_it = Row(entry.document.file, entry.line, study, {}, outcome)
    return CurveData(study.id, curve, time, event, interval_counts(time, event, edges), settings, row_of_it)
