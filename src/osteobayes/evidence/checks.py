"""Checks between the cells of a row, between rows, and between studies."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from osteobayes.errors import Problem, RegimenError
from osteobayes.schema import (
    ADVERSE_EVENTS,
    CONTRASTS,
    DENOMINATORS,
    ENDPOINTS,
    PROPORTIONS,
    STATISTIC_UNITS,
    TIME_UNITS,
    USE_RULES,
    OutcomeRow,
    Study,
    YamlDocument,
    did_you_mean,
    time_in_years,
)

#: Statistics whose `time` says when; without it they mean nothing.
TIMED = frozenset({"survival_at", "event_free_at", "cumulative_incidence"})
#: Absolute statistics that can never double count: what they say is independent of a total.
FREE = frozenset({"completion", "first_event_proportion"})
#: Statistics that hold a count of patients among `n`.
COUNTED = frozenset(
    {"proportion", "first_event_proportion", "any_event_proportion", "incidence_proportion", "completion"}
)

#: Statistics of bone metastasis that mean nothing without the population that they are a share of.
SHARES = frozenset(
    {"incidence_proportion", "prevalence", "share_of_events", "incidence_rate", "cumulative_incidence", "count"}
)

#: Statistics of bone metastasis that treatment did not touch: they say what was found before it.
BEFORE_TREATMENT = frozenset({"prevalence", "incidence_proportion", "share_of_events"})

Finding = tuple[str, str, str]  # field, message, mend


@dataclass(frozen=True)
class Row:
    """One row of `outcomes.csv`, its cells as printed, and where it stands."""

    file: str
    line: int
    study: Study
    printed: dict[str, str]
    outcome: OutcomeRow

    def problem(self, field: str, message: str, mend: str) -> Problem:
        """Problem in this row."""
        return Problem(self.file, self.line, field, message, mend)


def row_problems(row: Row) -> Iterator[Problem]:
    """Everything that is wrong inside one row."""
    for check in (_names, _unit, _interval, _value, _counts, _time, _statistic, _fit_needs):
        for field, message, mend in check(row):
            yield row.problem(field, message, mend)


def _names(row: Row) -> Iterator[Finding]:
    """Check that arms, endpoint, component and source exist."""
    outcome, study = row.outcome, row.study
    if not outcome.outcome_id.startswith(f"{study.id}/"):
        yield "outcome_id", f"{outcome.outcome_id!r} does not start with the study id", f"begin it with '{study.id}/'"
    for field in ("arm", "versus"):
        arm = getattr(outcome, field)
        if arm is not None and arm not in study.arm_ids:
            yield field, f"the study has no arm {arm!r}", did_you_mean(arm, study.arm_ids)
    if outcome.statistic in CONTRASTS and outcome.versus is None:
        yield "versus", f"a {outcome.statistic} compares two arms, but versus is empty", "name the reference arm"
    if outcome.versus is not None and outcome.statistic not in CONTRASTS | {"bound_range"}:
        yield "versus", f"a {outcome.statistic} belongs to one arm, but versus is {outcome.versus!r}", "empty versus"
    if outcome.versus is not None and outcome.versus == outcome.arm:
        yield "versus", "the arm is compared with itself", "name the reference arm"
    if outcome.endpoint not in ENDPOINTS and outcome.endpoint not in study.events:
        message = f"the endpoint {outcome.endpoint!r} has no event definition in study.yaml"
        yield "endpoint", message, did_you_mean(outcome.endpoint, [*study.events, *ENDPOINTS])
    definition = study.events.get(outcome.endpoint)
    if outcome.endpoint == "safety":
        if outcome.component is not None and outcome.component not in ADVERSE_EVENTS:
            yield (
                "component",
                f"{outcome.component!r} is not an adverse event",
                did_you_mean(outcome.component, ADVERSE_EVENTS),
            )
    elif outcome.component is not None and (definition is None or outcome.component not in definition.components):
        message = f"the endpoint {outcome.endpoint!r} does not count {outcome.component!r}"
        yield "component", message, "add it to the event definition in study.yaml, or empty the cell"
    if outcome.component is None and outcome.statistic in ("first_event_proportion", "any_event_proportion"):
        yield "component", f"a {outcome.statistic} is of one component, but component is empty", "name the component"
    sources = [source.id for source in study.sources]
    if outcome.source not in sources:
        yield "source", f"study.yaml has no source {outcome.source!r}", did_you_mean(outcome.source, sources)


def _unit(row: Row) -> Iterator[Finding]:
    """Check that the unit is there and fits the statistic."""
    outcome = row.outcome
    numbers = [name for name in ("value", "low", "high") if getattr(outcome, name) is not None]
    if outcome.unit is None:
        if numbers:
            yield "unit", f"the {numbers[0]} has no unit", f"write {_or(STATISTIC_UNITS[outcome.statistic])}"
    elif outcome.unit not in STATISTIC_UNITS[outcome.statistic]:
        message = f"{outcome.unit!r} is not a unit of {outcome.statistic}"
        yield "unit", message, f"write {_or(STATISTIC_UNITS[outcome.statistic])}, or correct the statistic"


def _or(words: Iterable[str]) -> str:
    return " or ".join(repr(word) for word in words)


def _interval(row: Row) -> Iterator[Finding]:
    """Check that the interval holds its value and has a level."""
    outcome = row.outcome
    low, high, value = outcome.low, outcome.high, outcome.value
    if low is not None and high is not None and low > high:
        yield "low", f"low {row.printed['low']} is above high {row.printed['high']}", "exchange them"
    elif value is not None and low is not None and value < low:
        yield (
            "low",
            f"the value {row.printed['value']} is below its own interval (low {row.printed['low']})",
            "read it again",
        )
    elif value is not None and high is not None and value > high:
        yield (
            "high",
            f"the value {row.printed['value']} is above its own interval (high {row.printed['high']})",
            "read it again",
        )
    has_interval = low is not None or high is not None
    if has_interval and outcome.level is None and outcome.statistic != "bound_range":
        yield "level", "the interval has no level", "write 0.95, or the level that is printed"
    if outcome.level is not None and not has_interval:
        yield "level", "there is a level but no interval", "give low and high, or empty level"
    if high is not None and low is None and outcome.statistic != "bound_range":
        yield "low", "the interval has an upper limit but no lower one", "give low (only high may be unreached)"


def _value(row: Row) -> Iterator[Finding]:
    """Check that the value is there exactly when the statistic has one, and is possible."""
    outcome = row.outcome
    if outcome.statistic == "median_not_reached":
        if outcome.value is not None:
            yield (
                "value",
                f"a median that was not reached has the value {row.printed['value']}",
                "empty it, or write median",
            )
        return
    if outcome.statistic == "bound_range":
        if outcome.value is not None:
            yield (
                "value",
                f"a bound_range has the value {row.printed['value']}",
                "write the bounds into low and high, or correct the statistic",
            )
            return
    elif outcome.value is None:
        yield "value", f"a {outcome.statistic} needs a value", "give it, or use median_not_reached or bound_range"
    for field in ("value", "low", "high"):
        number = getattr(outcome, field)
        if number is None or outcome.unit not in STATISTIC_UNITS[outcome.statistic]:
            continue
        bounds = _bounds(outcome)
        if not bounds[0] <= number <= bounds[1]:
            message = f"{row.printed[field]} {outcome.unit} is impossible for a {outcome.statistic}"
            yield field, message, "correct the number or its unit"


def _bounds(outcome: OutcomeRow) -> tuple[float, float]:
    """Least and greatest value that a statistic can have in its unit."""
    top = 1.0 if outcome.unit == "fraction" else 100.0
    if outcome.statistic in PROPORTIONS:
        return (0.0, top)
    if outcome.statistic in ("risk_difference", "relative_risk_reduction"):
        return (-top if outcome.statistic == "risk_difference" else -math.inf, top)
    if outcome.statistic == "bound_range":  # its unit says what it bounds
        if outcome.unit in ("percent", "fraction"):
            return (0.0 if outcome.versus is None else -math.inf, top)
        if outcome.unit == "percentage_point":
            return (-top, top)
    if outcome.statistic.startswith("percent_change") or outcome.unit == "percent_change":
        return (-100.0, math.inf)
    if outcome.statistic == "difference" or (outcome.statistic == "bound_range" and outcome.versus is not None):
        return (-math.inf, math.inf)
    if outcome.unit == "ratio" or outcome.statistic in ("median", "mean"):
        return (math.nextafter(0.0, 1.0), math.inf)
    return (0.0, math.inf)


def _counts(row: Row) -> Iterator[Finding]:
    """Check that events are among n, n is among the arm, and the printed share is events / n."""
    outcome = row.outcome
    if outcome.events is not None and outcome.n is not None and outcome.events > outcome.n:
        yield "events", f"{outcome.events} events among {outcome.n} patients", "exchange or correct events and n"
        return
    arms = [arm for arm in (outcome.arm, outcome.versus) if arm is not None]
    sizes = [row.study.arm(arm).n for arm in arms if arm in row.study.arm_ids]
    field, number = ("events", outcome.events) if outcome.n is None else ("n", outcome.n)
    if number is not None and len(sizes) == len(arms) and None not in sizes:
        most = sum(size for size in sizes if size is not None)
        if number > most:
            whole = "the arm has" if len(arms) == 1 else "both arms together have"
            verb = "is" if field == "n" else "are"
            message = f"{field} {verb} {number} but {whole} {most} patients"
            yield field, message, f"correct {field} here, or n in study.yaml"
    if outcome.statistic not in PROPORTIONS or outcome.unit not in ("percent", "fraction"):
        return
    if outcome.value is None or outcome.events is None or outcome.n is None:
        return
    share = outcome.events / outcome.n
    scale = 100.0 if outcome.unit == "percent" else 1.0
    if abs(scale * share - outcome.value) > 0.6 * 10.0 ** -_decimals(row.printed["value"]):
        shown = f"{scale * share:.{_decimals(row.printed['value']) + 1}f}"
        message = f"{row.printed['value']} {outcome.unit} does not agree with {outcome.events}/{outcome.n} = {shown}"
        yield "value", message, "correct value, events or n"


def _decimals(printed: str) -> int:
    """Digits that are printed after the decimal point."""
    exponent = Decimal(printed).as_tuple().exponent  # `4.42e1` has one, like `44.2`
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _time(row: Row) -> Iterator[Finding]:
    """Check that a time has a unit, and is there where the statistic needs one."""
    outcome = row.outcome
    if outcome.time is not None and outcome.time_unit is None:
        yield "time_unit", f"the time {row.printed['time']} has no unit", f"write {_or(TIME_UNITS)}"
    if outcome.time is None and outcome.time_unit is not None:
        yield "time", "there is a time_unit but no time", "give the time, or empty time_unit"
    if outcome.time is None and outcome.statistic in TIMED:
        yield "time", f"a {outcome.statistic} needs its time", "give the landmark"
    horizon = row.study.follow_up.horizon_months
    if outcome.statistic == "median" and outcome.value is not None and horizon and outcome.unit in TIME_UNITS:
        months = 12 * time_in_years(outcome.value, outcome.unit)
        if months > horizon and "beyond the horizon" not in outcome.note:
            message = f"the median of {months:.3g} months is longer than the follow-up of {horizon:g} months"
            yield "value", message, "correct horizon_months, or say `beyond the horizon` in the note"


def _statistic(row: Row) -> Iterator[Finding]:
    """Check that statistic and endpoint go together, and that what must be explained is."""
    outcome = row.outcome
    if outcome.statistic == "interval_counts":
        yield "statistic", "interval counts belong to a curve", "put the curve into km/ and declare it in study.yaml"
    if (outcome.statistic == "completion") != (outcome.endpoint == "completion"):
        yield "statistic", "the statistic `completion` and the endpoint `completion` go together", "use both or neither"
    if outcome.endpoint == "bone_metastasis" and outcome.statistic in SHARES and outcome.denominator is None:
        message = f"{_an(outcome.statistic)} of bone metastasis needs the population that it is a share of"
        yield "denominator", message, f"write one of {', '.join(DENOMINATORS)}"
    if outcome.use == "fit":
        if rule(outcome.note):
            yield (
                "note",
                f"a fitted row has the rule {rule(outcome.note)!r}",
                "remove the rule, or set `use` to `check`",
            )
    elif not rule(outcome.note):
        message = f"`use` is `{outcome.use}` but the note does not begin with the rule that says why"
        yield "note", message, f"begin it with one of {', '.join(USE_RULES)} and a colon"


def rule(note: str) -> str:
    """Rule at the beginning of a note; empty if there is none."""
    word = note.partition(":")[0].strip()
    return word if word in USE_RULES else ""


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _fit_needs(row: Row) -> Iterator[Finding]:
    """Check that a row has what it needs before it may enter the likelihood."""
    outcome, study = row.outcome, row.study
    if outcome.use != "fit":
        return
    if outcome.statistic == "incidence_proportion" and study.design == "registry":
        pass  # its sampling error is small beside the study effect of a registry, whether n is printed or not
    elif outcome.statistic in COUNTED:
        for field in ("events", "n"):
            if getattr(outcome, field) is None:
                yield field, f"a {outcome.statistic} that is fitted needs {field}", f"give {field}, or use `check`"
    elif outcome.statistic in CONTRASTS:
        if outcome.low is None or outcome.high is None:
            yield "low", f"a {outcome.statistic} that is fitted needs its interval", "give low and high, or use `check`"
    elif outcome.n is None and outcome.statistic != "bound_range":
        yield "n", f"a {outcome.statistic} that is fitted needs n", "give n, or use `check`"
    if outcome.low is not None and outcome.low == outcome.high:
        yield "low", "the interval has no width, so it says nothing of the error", "print more digits, or use `check`"
    if outcome.statistic == "bound_range":
        yield "use", "a bound_range has no likelihood", "use `check` or `no`"
    if outcome.statistic in ("median_not_reached", "completion") and outcome.time is None:
        yield "time", f"a {outcome.statistic} that is fitted needs its time", "give it, or use `check`"
    for field in ("arm", "versus"):
        arm = getattr(outcome, field)
        if outcome.endpoint == "bone_metastasis" and outcome.statistic in BEFORE_TREATMENT:
            continue
        if arm in study.arm_ids and any(regimen is None for _, regimen, _ in study.members(arm)):
            yield (
                field,
                f"arm {arm!r} has no regimen, so nothing can be fitted to it",
                "give its regimen, or use `check`",
            )
        if arm in study.arm_ids and study.design != "registry" and study.arm_cancer(arm) in ("mixed", "all_solid"):
            if not study.arm(arm).mix:
                message = f"arm {arm!r} mixes cancers in unknown shares, so nothing can be fitted to it"
                yield field, message, "give its mix, or use `check`"
    if study.design == "preclinical":
        yield "use", "animals are not fitted", "use `no` with the rule `preclinical`"


def shared_controls(rows: Iterable[Row]) -> Iterator[Problem]:
    """Fitted contrasts that share a control arm whose size is not printed: their covariance cannot be computed."""
    groups: dict[tuple[str, str | None, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome.use == "fit" and row.outcome.statistic in CONTRASTS:
            groups[row.study.id, row.outcome.versus, family(row)].append(row)
    for (_, control, name), members in groups.items():
        if len({row.outcome.arm for row in members}) < 2 or control not in members[0].study.arm_ids:
            continue
        if members[0].study.arm(control).n is None:
            message = f"contrasts of {name} share the control {control!r}, whose size is not given"
            mend = "give its n in study.yaml (their covariance is its variance), or fit one contrast"
            yield members[-1].problem("versus", message, mend)


def duplicate_ids(rows: Iterable[Row]) -> Iterator[Problem]:
    """Outcome ids that are used twice."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.outcome.outcome_id, row)
        if other is not row:
            message = f"{row.outcome.outcome_id!r} is already used in {other.file}:{other.line}"
            yield row.problem("outcome_id", message, "give every outcome its own id")


def split_problems(rows: Iterable[Row]) -> Iterator[Problem]:
    """Find components of events that hold more events than their total, or than patients."""
    splits: dict[tuple, list[Row]] = defaultdict(list)
    parts: dict[tuple, list[Row]] = defaultdict(list)
    totals: dict[tuple, Row] = {}
    for row in rows:
        outcome = row.outcome
        key = (row.study.id, outcome.arm, outcome.endpoint, _when(outcome))
        if outcome.events is None:
            continue
        if outcome.statistic == "first_event_proportion":
            splits[key].append(row)
        elif outcome.statistic == "any_event_proportion":
            parts[key].append(row)
        elif outcome.statistic == "proportion" and outcome.component is None:
            before = totals.setdefault(key, row)
            totals[key] = min(before, row, key=lambda r: r.outcome.events or 0)
    for key, components in parts.items():
        total = totals.get(key)
        for row in components:
            if total and (row.outcome.events or 0) > (total.outcome.events or 0):
                message = (
                    f"{row.outcome.events} patients of arm {key[1]!r} had a {row.outcome.component}, but the total in "
                    f"line {total.line} has {total.outcome.events} with any event"
                )
                yield row.problem("events", message, "correct one of the two")
    for key, siblings in splits.items():
        events = sum(row.outcome.events or 0 for row in siblings)
        total = totals.get(key)
        limit = total.outcome.events if total else _patients(siblings)
        last = siblings[-1]
        if limit is not None and events > limit:
            whole = f"the total in line {total.line} has {limit}" if total else f"there are {limit} patients"
            message = f"the first events of arm {key[1]!r} sum to {events}, but {whole}"
            yield last.problem("events", message, "correct the split, or use any_event_proportion")
        twice = {row.outcome.component for row in siblings}
        if len(twice) < len(siblings):
            message = f"a component of the first events of arm {key[1]!r} is given twice"
            yield last.problem("component", message, "keep one row a component")


def _patients(rows: list[Row]) -> int | None:
    """Fewest patients that rows of one arm are of: what they print, or else the arm's."""
    printed = [row.outcome.n for row in rows if row.outcome.n is not None]
    study, arm = rows[0].study, rows[0].outcome.arm
    return min(printed) if printed else study.arm(arm).n if arm in study.arm_ids else None


def family(row: Row) -> str:
    """Endpoint family: definitions that differ only in what they count are one family."""
    return "skeletal events" if row.outcome.endpoint in row.study.events else row.outcome.endpoint


def double_counts(rows: Iterable[Row]) -> Iterator[Problem]:
    """Fitted rows that would count the same patients twice.

    Allowed for one patient set and endpoint family: one absolute number of each arm, or the reference arm's absolute
    and one ratio. A split of first events and a completion may always stand beside them; the landmarks of one curve,
    and the components of one any-event table, are one number; what was found at time 0 and what came later are two.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome.use == "fit":
            free = f"{row.outcome.statistic} of " if row.outcome.statistic in FREE else ""
            groups[row.study.patients, free + family(row)].append(row)
    for (patients, name), members in groups.items():
        where = f"{name} of patient set {patients}"
        clashes = list(_clashes(members))
        for late, early in clashes:
            message = f"this row and {_cite(early, late)} count the {where} twice"
            yield late.problem("use", message, "set one of them to `check`")
        if not clashes:
            for row in _implied(members):
                message = (
                    f"{row.outcome.arm!r} against {row.outcome.versus!r} follows from other fitted rows: the {where}"
                )
                yield row.problem("use", f"{message} count twice", "set one of them to `check`")


def _cite(row: Row, reader: Row) -> str:
    """Name a row, with its file if the reader is in another one."""
    place = f"line {row.line}" if row.file == reader.file else f"{row.file}:{row.line}"
    return f"{row.outcome.outcome_id!r} ({place})"


def _clashes(rows: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row that clashes with an earlier one, with the first such."""
    for late in rows:
        for early in rows:
            if early is late:
                break
            if _clash(early, late):
                yield late, early
                break


def _implied(rows: list[Row]) -> Iterator[Row]:
    """Contrasts of one study that close a circle: of arms, or of arms whose absolute numbers are fitted too."""
    root: dict[str | None, str | None] = {}

    def find(arm: str | None) -> str | None:
        while root.get(arm, arm) != arm:
            arm = root[arm]
        return arm

    contrasts = [row for row in rows if row.outcome.statistic in CONTRASTS]
    for row in rows:
        if row.outcome.statistic not in CONTRASTS:
            root[find(row.outcome.arm)] = None  # the absolute scale joins arms like a common reference
    for row in contrasts:
        one, two = find(row.outcome.arm), find(row.outcome.versus)
        if one == two:
            yield row
        root[one] = two


def _clash(one: Row, two: Row) -> bool:
    """Whether two fitted rows of a patient set and family count the same patients twice."""
    if one.study.id != two.study.id:
        return True
    study, a, b = one.study, one.outcome, two.outcome
    if a.statistic in FREE:  # a split is one number; its components are told apart by `split_problems`
        split = a.statistic == "first_event_proportion"
        if split and (a.arm, a.endpoint, _when(a)) == (b.arm, b.endpoint, _when(b)):
            return False
        return _share_patients(study, a.arm, b.arm)
    contrasts = [row for row in (a, b) if row.statistic in CONTRASTS]
    if len(contrasts) == 2:
        pairs = ((x, y) for x in (a.arm, a.versus) for y in (b.arm, b.versus))
        return sum(_share_patients(study, x, y) for x, y in pairs) > 1
    if len(contrasts) == 1:
        absolute = b if contrasts[0] is a else a
        return _share_patients(study, contrasts[0].arm, absolute.arm)
    if not _share_patients(study, a.arm, b.arm):
        return False
    return not (_one_curve(a, b) or _one_table(a, b) or _successive(a, b))


def _share_patients(study: Study, one: str | None, two: str | None) -> bool:
    """Whether two arms are the same, or overlap."""
    if one is None or two is None or not {one, two} <= set(study.arm_ids):
        return False
    return one == two or two in study.arm(one).overlaps or one in study.arm(two).overlaps


def _one_curve(a: OutcomeRow, b: OutcomeRow) -> bool:
    """Landmarks of one curve at different times."""
    same = (a.statistic, a.endpoint, a.arm) == (b.statistic, b.endpoint, b.arm)
    return same and a.statistic in TIMED and _when(a) != _when(b) and a.component == b.component


def _when(outcome: OutcomeRow) -> float | None:
    """Time of a row, in years."""
    if outcome.time is None or outcome.time_unit is None:
        return None
    return round(time_in_years(outcome.time, outcome.time_unit), 6)  # 12 months are a year, whatever the rounding


def _one_table(a: OutcomeRow, b: OutcomeRow) -> bool:
    """Two components of one table of any events."""
    same = (a.statistic, a.endpoint, a.arm, _when(a)) == (b.statistic, b.endpoint, b.arm, _when(b))
    return same and a.statistic == "any_event_proportion" and a.component != b.component


def _successive(a: OutcomeRow, b: OutcomeRow) -> bool:
    """Whether one is what was found at time 0, and the other what came later among the rest."""
    if a.statistic != "incidence_proportion" or b.statistic != "incidence_proportion" or a.arm == b.arm:
        return False
    return (a.time == 0) != (b.time == 0)


def regimen_problems(study: Study, document: YamlDocument, check_regimen: Callable[[str], object]) -> Iterator[Problem]:
    """Regimen texts that the cycle room cannot read."""
    for i, arm in enumerate(study.arms):
        places = [(("arms", i, "regimen"), arm.regimen)]
        places += [(("arms", i, "mix", j, "regimen"), member.regimen) for j, member in enumerate(arm.mix or [])]
        for key, text in places:
            if text is None:
                continue
            try:
                check_regimen(text)
            except RegimenError as error:
                yield document.problem(key, str(error), "correct the regimen")
            except (ValueError, OverflowError) as error:  # numbers of absurd length
                yield document.problem(key, f"`{text[:60]}` cannot be read ({error})", "correct the regimen")


def curve_problems(rows: Iterable[Row]) -> Iterator[Problem]:
    """Fitted landmarks of one curve that go back: an incidence that falls, or a survival that rises."""
    curves: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        outcome = row.outcome
        if outcome.use == "fit" and outcome.statistic in TIMED and None not in (_when(outcome), outcome.value):
            key = (row.study.id, outcome.arm, outcome.endpoint, outcome.component, outcome.statistic)
            curves[key].append(row)
    for key, members in curves.items():
        rising = key[-1] == "cumulative_incidence"
        members.sort(key=lambda row: _when(row.outcome) or 0.0)
        for early, late in pairwise(members):
            first, second = (_share(row.outcome) for row in (early, late))
            if first is not None and second is not None and (second < first if rising else second > first):
                verb = "falls" if rising else "rises"
                message = f"the curve {verb} from {first:g} in line {early.line} to {second:g} here, which it cannot"
                yield late.problem("value", message, "correct value, time or unit of one of the two")


def _share(outcome: OutcomeRow) -> float | None:
    """Value of a share as a fraction."""
    if outcome.value is None or outcome.unit not in ("percent", "fraction"):
        return None
    return outcome.value / 100.0 if outcome.unit == "percent" else outcome.value


def set_problems(rows: list[Row]) -> Iterator[Problem]:
    """Everything that is wrong between rows."""
    yield from duplicate_ids(rows)
    yield from split_problems(rows)
    yield from curve_problems(rows)
    yield from shared_controls(rows)
    yield from double_counts(rows)
