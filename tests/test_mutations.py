"""Valid studies, mutated: the loader says what is wrong, or what it reads is possible.

Every example copies one study, changes it a little the way people and programs do, and validates it. There may be no
traceback; every problem must say where, what and the mend; and what passes must keep the invariants written here, which
share no code with `osteobayes.evidence.checks`.
"""

import copy
import csv
import io
import math
import re
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osteobayes import paths
from osteobayes.evidence import Evidence, validate
from osteobayes.schema import (
    CONTRASTS,
    ENDPOINTS,
    OUTCOME_COLUMNS,
    PROPORTIONS,
    STATISTIC_UNITS,
    USE_RULES,
    read_yaml,
)

DATASETS = paths.shipped("datasets")

#: Shipped studies of every design, with every family of fitted rows, mixes, overlaps, contrasts, splits and landmarks.
STUDIES = (
    "saad2002_p039",
    "stopeck2010_136",
    "henry2011_244",
    "hernandez2018",
    "huang2020",
    "reactbta2021",
    "alsympca",
    "zoom2013",
    "zeus2015",
    "jp_breast5459",
    "brazil_lung_fx2018",
    "guise1996",
    "couaa302",
    "rosen2003_p011",
)

CURVES = "curves"
"""A made-up study with a digitised curve and individual times; none ships."""
_CURVE_STUDY = """
format: 1
id: curves
title: A small trial with curves
design: randomised
cancer: breast
setting: bone metastases
patients: CURVES
follow_up: {law: fixed, horizon_months: 24}
events:
  SRE: {components: [fracture, radiation], detection: clinical, death: competing}
arms:
  - {id: placebo, label: placebo, n: 100, regimen: placebo}
  - {id: denosumab, label: denosumab 120 mg, n: 100, regimen: denosumab 120 mg q4w}
  - {id: old, label: denosumab over 70, n: 30, regimen: denosumab 120 mg q4w, overlaps: [denosumab]}
curves:
  - {endpoint: OS, arm: placebo, use: fit, source: paper, total_events: 40}
  - {endpoint: PFS, arm: denosumab, kind: individual, use: check, source: paper, note: "transient: an early cut"}
sources:
  - {id: paper, citation: "A paper, 2020"}
"""
_CURVE_ROWS = [
    {"outcome_id": "curves/crude", "arm": "placebo", "endpoint": "SRE", "statistic": "proportion", "time": "12",
     "time_unit": "month", "value": "40", "unit": "percent", "estimator": "crude", "events": "40", "n": "100",
     "use": "fit", "source": "paper"},
    {"outcome_id": "curves/hr", "arm": "denosumab", "versus": "placebo", "endpoint": "SRE",
     "statistic": "hazard_ratio", "value": "0.72", "unit": "ratio", "low": "0.55", "high": "0.94", "level": "0.95",
     "estimator": "cox", "n": "200", "use": "fit", "source": "paper"},
    {"outcome_id": "curves/os_12", "arm": "denosumab", "endpoint": "OS", "statistic": "survival_at", "time": "12",
     "time_unit": "month", "value": "0.8", "unit": "fraction", "low": "0.7", "high": "0.9", "level": "0.95",
     "estimator": "km", "n": "100", "use": "fit", "source": "paper"},
    {"outcome_id": "curves/os_24", "arm": "denosumab", "endpoint": "OS", "statistic": "survival_at", "time": "24",
     "time_unit": "month", "value": "0.6", "unit": "fraction", "estimator": "km", "n": "100", "use": "fit",
     "source": "paper"},
]  # fmt: skip


def written(rows, dialect="excel", **how):
    """Rows of cells as the bytes of a table."""
    stream = io.StringIO(newline="")
    csv.writer(stream, dialect, **how).writerows(rows)
    return stream.getvalue()


def cells_of(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


@cache
def study_files(name):
    """Files of a study: path inside its folder -> bytes."""
    if name != CURVES:
        place = DATASETS / name
        found = sorted(path for path in place.rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}
    table = [list(OUTCOME_COLUMNS), *([row.get(column, "") for column in OUTCOME_COLUMNS] for row in _CURVE_ROWS)]
    digitised = [["time", "survival"], *([f"{t}", f"{0.97**t:.4f}"] for t in range(0, 25, 2))]
    risk = [["time", "n_at_risk"], *([f"{t}", f"{n}"] for t, n in ((0, 100), (6, 80), (12, 60), (18, 40), (24, 20)))]
    times = [["time", "event", "arm"]]
    times += [[f"{1.5 * i + 0.5:g}", str(i % 2), "denosumab" if i % 3 else "placebo"] for i in range(12)]
    return {
        "study.yaml": _CURVE_STUDY.encode(),
        "outcomes.csv": written(table).encode(),
        "km/OS.placebo.csv": written(digitised).encode(),
        "km/OS.placebo.risk.csv": written(risk).encode(),
        "km/PFS.times.csv": written(times).encode(),
    }


def put(folder, name, files):
    """Write the files of a study into a folder of datasets."""
    for path, content in files.items():
        target = Path(folder) / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


# ------------------------------------------------------------------------------------------------------ mutations

NUMBERS = ("time", "value", "low", "high", "level", "events", "n")
WORDS = ("twelve", "12-May", "2024-05-12", "45%", "<0.001", "NR", "10-20", "1,234", "4,5", "nan", "inf", "-inf",
         "1e400", "1e-400", "1_000", "4_4.2", "0x10", "-0", "+5", "٣", "1e30", "99999999999999999999", "true", "?", "'", '"')  # fmt: skip
JUNK = ("\0", "\x07", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\ufffd", "é", "−", "𝟗", "\u202e", "\t", "\n", "\r",
        '"', "'", ";", ",", ":", ": ", " #", "[", "{", "}", "]", "&a ", "*a", "!!int ", "!!bool x", "!!timestamp x",
        "? ", "- ", "| ", "> ", "%", "@", "`", "<<: ", "---\n", "...\n", " + ", "[" * 1200)  # fmt: skip
ANYTHING = ("", "x", "no", 0, 1, -1, 2.5, 1e400, -0.0, math.nan, 10**30, True, False, None, [], {}, ["x"], {"x": 1},
            [[1]], "12-May", "45%", "<5", "denosumab 120 mg", "placebo +", "+", "mixed", "all_solid", "1:1", " ", "é\n")  # fmt: skip


def scaled(number, factor):
    return f"{number * factor:.12g}"


def put_cells(header, row, **cells):
    for name, cell in cells.items():
        if name in header:
            row[header.index(name)] = cell


def change_table(draw, files, path):
    """One change of the cells of a table."""
    table = cells_of(files[path])
    header, body = table[0], table[1:]
    if not body or len(header) < 2:
        return
    kinds = ["cell", "cell", "number", "number", "word", "row", "column", "again", "swap", "swap_names", "other"]
    kind = draw(st.sampled_from([*kinds, "fit", "fit", "share", "share"]))
    i = draw(st.integers(0, len(body) - 1))
    j = draw(st.sampled_from([j for j, cell in enumerate(body[i]) if cell] or [0]))
    numeric = [k for k, cell in enumerate(body[i]) if re.fullmatch(r"-?\d+(\.\d+)?", cell)]
    if kind == "cell":
        body[i][j] = draw(st.sampled_from(("", *WORDS)))
    elif kind == "number" and numeric:
        j = draw(st.sampled_from(numeric))
        factor = draw(st.sampled_from((-1, 10, 100, 0.1, 0.01, 0, 1e12, 1.05)))
        body[i][j] = scaled(float(body[i][j]), factor)
    elif kind == "word":  # what another row says in the same column
        body[i][j] = draw(st.sampled_from(sorted({row[j] for row in body})))
    elif kind == "row":
        del body[i]
    elif kind == "column":
        for row in table:
            del row[j]
    elif kind == "again":
        body.append([*body[i]])
        if draw(st.booleans()):  # the same number under another name
            body[-1][0] += "_again"
            if draw(st.booleans()):
                put_cells(header, body[-1], use="fit", note="")
            if draw(st.booleans()):
                put_cells(header, body[-1], time=draw(st.sampled_from(("0", "1", "12", "18"))), time_unit="month")
    elif kind == "fit":  # what its rule forbids
        put_cells(header, body[i], use="fit", note="")
    elif kind == "share" and {"events", "n", "value", "unit"} <= set(header):  # another count, and what it makes
        n = body[i][header.index("n")]
        if n.isdigit() and int(n) > 0:
            events = draw(st.integers(0, int(n)))
            fraction = draw(st.booleans())
            value = f"{events / int(n):.3f}" if fraction else f"{100 * events / int(n):.1f}"
            put_cells(header, body[i], events=str(events), value=value, unit="fraction" if fraction else "percent")
    elif kind == "swap":
        k = draw(st.integers(0, len(header) - 1))
        body[i][j], body[i][k] = body[i][k], body[i][j]
    elif kind == "swap_names":
        k = draw(st.integers(0, len(header) - 1))
        header[j], header[k] = header[k], header[j]
    else:  # the use, the statistic or the unit of the row becomes that of another; or two rows change places
        names = [name for name in ("use", "statistic", "unit", "arm", "time_unit", "endpoint") if name in header]
        if names:
            j = header.index(draw(st.sampled_from(names)))
            body[i][j] = draw(
                st.sampled_from(sorted({row[j] for row in body} | ({"fit"} if header[j] == "use" else set())))
            )
        else:
            k = draw(st.integers(0, len(body) - 1))
            body[i], body[k] = body[k], body[i]
    files[path] = written([header, *body]).encode()


def places(data, key=()):
    """Every key path of nested lists and mappings."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in inner:
        yield (*key, name)
        yield from places(value, (*key, name))


def at(data, key):
    for part in key:
        data = data[part]
    return data


def change_yaml(draw, files):
    """One change of what `study.yaml` says."""
    data = copy.deepcopy(yaml_data(files["study.yaml"]))
    if not isinstance(data, dict):
        return
    found = list(places(data))
    part = draw(st.sampled_from(("anywhere", "arms", "sources", "events", "follow_up", "facts", "curves")))
    found = [key for key in found if key[0] == part] or found
    numbers = [key for key in found if key[-1] != "year" and isinstance(at(data, key), int | float)]
    key = draw(st.sampled_from(numbers if numbers and draw(st.booleans()) else found))
    owner, name, value = at(data, key[:-1]), key[-1], at(data, key)
    kind = draw(st.sampled_from(("drop", "retype", "number", "number", "again", "swap", "rename")))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "drop":
        del owner[name]
    elif kind == "number" and number:
        factor = draw(st.sampled_from((-1, 10, 100, 0.1, 0.01, 0, 1e12)))
        owner[name] = type(value)(value * factor) if draw(st.booleans()) else value * factor
    elif kind == "again" and isinstance(owner, list):
        owner.append(copy.deepcopy(value))
        if isinstance(value, dict) and "id" in value and draw(st.booleans()):
            owner[-1]["id"] = f"{value['id']}_again"
    elif kind == "swap":
        other = draw(st.sampled_from(found))
        if other[: len(key)] != key and key[: len(other)] != other:
            at(data, other[:-1])[other[-1]], owner[name] = value, at(data, other)
    elif kind == "rename" and isinstance(owner, dict):
        owner[draw(st.sampled_from((f"{name}s", "id", 1, "", "é", str(name).upper())))] = owner.pop(name)
    elif isinstance(value, list) and value and draw(st.booleans()):
        owner[name] = value[0]
    else:
        owner[name] = draw(st.sampled_from(ANYTHING))
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    files["study.yaml"] = yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def yaml_data(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_bytes(content)
        return read_yaml(path).data


def change_text(draw, files, path):
    """One change of the text of a file: a line twice, gone or elsewhere, or something strange in it."""
    lines = files[path].decode("utf-8").splitlines(keepends=True)
    i, k = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    kind = draw(st.sampled_from(("twice", "gone", "swap", "value", "insert", "insert", "insert")))
    if kind == "twice":
        lines.insert(i, lines[i])
    elif kind == "gone":
        del lines[i]
    elif kind == "swap":
        lines[i], lines[k] = lines[k], lines[i]
    elif kind == "value":
        before, colon, _ = lines[i].partition(": ")
        lines[i] = before + colon + draw(st.sampled_from((*JUNK, *WORDS, "1:1", "0210", "~", "yes"))) + "\n"
    else:
        column = draw(st.integers(0, len(lines[i])))
        strange = draw(st.sampled_from(JUNK) | st.text(max_size=4))
        lines[i] = lines[i][:column] + strange + lines[i][column:]
    files[path] = "".join(lines).encode("utf-8", "surrogatepass")


def change_bytes(draw, files, path):
    """One change of the bytes of a file: cut off, a hole, a byte that is another, or another encoding."""
    content = files[path]
    i = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(("cut", "cut", "hole", "byte", "utf-16", "utf-8-sig", "cp1252", "cr", "empty", "gone")))
    if kind == "cut":
        content = content[:i]
    elif kind == "hole":
        content = content[:i] + content[i + draw(st.integers(1, 200)) :]
    elif kind == "byte":
        content = content[:i] + bytes([draw(st.integers(0, 255))]) + content[i + 1 :]
    elif kind == "cr":
        content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r")
    elif kind == "empty":
        content = draw(st.sampled_from((b"", b"\n\n", b"\xff\xfe", b"PK\x03\x04", b"\xef\xbb\xbf", b"# nothing\n")))
    elif kind == "gone":
        del files[path]
        return
    else:
        content = content.decode("utf-8").encode(kind, errors="replace")
    files[path] = content


@st.composite
def mutated(draw):
    """A study with one to three changes, of which the first are changes of meaning."""
    name = draw(st.sampled_from((*STUDIES, CURVES)))
    files = dict(study_files(name))
    tables = [path for path in files if path.endswith(".csv")]
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 2, 3)))):
        if draw(st.booleans()):
            change_table(draw, files, draw(st.sampled_from(tables)) if draw(st.booleans()) else "outcomes.csv")
        else:
            change_yaml(draw, files)
    if draw(st.integers(0, 3)) == 0 or files == study_files(name):
        change = draw(st.sampled_from((change_text, change_bytes)))
        change(draw, files, draw(st.sampled_from(sorted(files))))
    return name, files


def resave(draw, content):
    """The same table as another program saves it."""
    table = cells_of(content)
    kind = draw(st.sampled_from(("order", "rows_quoted", "encoding", "separator", "line_ends")))
    if kind == "order":
        order = draw(st.permutations(range(len(table[0]))))
        return written([[row[i] for i in order] for row in table]).encode()
    if kind == "rows_quoted":
        return written(table, quoting=csv.QUOTE_ALL).encode()
    if kind == "encoding":
        text = written(table)
        codec = draw(st.sampled_from(("cp1252", "utf-16", "utf-8-sig")))
        try:
            return text.encode(codec)
        except UnicodeEncodeError:
            return text.encode("utf-16")
    if kind == "line_ends":
        return written(table, lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r")))).encode()
    delimiter = draw(st.sampled_from((";", "\t")))
    if draw(st.booleans()):  # where a decimal comma is at home
        numeric = [i for i, name in enumerate(table[0]) if name in NUMBERS]
        for row in table[1:]:
            for i in numeric:
                row[i] = row[i].replace(".", ",")
    first = draw(st.sampled_from(("", f"sep={delimiter}\r\n")))
    codec = draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16")))
    return (first + written(table, delimiter=delimiter)).encode(codec)


# ----------------------------------------------------------------------------------------------------- invariants


def near(printed, exact):
    """Whether a printed number is an exact one, rounded: its digits are at least those of the shortest text."""
    digits = f"{printed:.12f}".rstrip("0").partition(".")[2]
    return abs(printed - exact) <= 0.6 * 10.0 ** -len(digits) + 1e-9


def given_number(x):
    return x is not None and not pd.isna(x)


def check_study(study):
    """What must hold of what `study.yaml` says."""
    arms = [arm.id for arm in study.arms]
    assert len(set(arms)) == len(arms) >= 1
    assert len({source.id for source in study.sources}) == len(study.sources) >= 1
    for arm in study.arms:
        assert arm.n is None or (type(arm.n) is int and 0 < arm.n < 1e11)
        assert set(arm.overlaps) <= set(arms) - {arm.id}
        if arm.mix is not None:
            assert abs(sum(member.weight for member in arm.mix) - 1) < 1.001e-3
            assert all(0 < member.weight <= 1 for member in arm.mix)
    follow = study.follow_up
    for months in (follow.horizon_months, follow.accrual_months, follow.median_months, follow.minimum_months):
        assert months is None or 0 < months < math.inf
        assert months is None or follow.horizon_months is None or months <= follow.horizon_months
    for fact in study.facts:
        numbers = [x for x in (fact.low, fact.value, fact.high) if isinstance(x, int | float)]
        assert all(math.isfinite(x) for x in numbers) and numbers == sorted(numbers)
        assert all(x >= 0 for x in numbers) or fact.unit == "percentage_point"
        assert fact.arm is None or fact.arm in arms
        assert all(x <= 100 for x in numbers) or fact.unit != "percent"


def check_row(row, study):
    """What must hold of one row."""
    arms = {arm.id: arm for arm in study.arms}
    assert row.arm in arms
    assert row.source in {source.id for source in study.sources}
    assert row.endpoint in ENDPOINTS or row.endpoint in study.events
    if row.statistic in CONTRASTS:
        assert row.versus in arms and row.versus != row.arm
    elif row.statistic != "bound_range":
        assert row.versus == ""
    value, low, high = (x if given_number(x) else None for x in (row.value, row.low, row.high))
    numbers = [x for x in (low, value, high) if x is not None]
    assert numbers == sorted(numbers) and all(math.isfinite(x) for x in numbers)
    if numbers:
        assert row.unit in STATISTIC_UNITS[row.statistic]
    assert (value is None) == (row.statistic in ("median_not_reached", "bound_range"))
    top = 100 if row.unit == "percent" else 1
    if row.statistic in PROPORTIONS:
        assert all(0 <= x <= top for x in numbers)
        assert not given_number(row.value_si) or 0 <= row.value_si <= 1
    if row.unit == "ratio":
        assert all(x > 0 for x in numbers)
    if row.unit in ("month", "day", "week", "year", "hour") and row.versus == "":
        assert all(x >= 0 for x in numbers)
    if row.statistic.startswith("percent_change"):
        assert all(x >= -100 for x in numbers)
    events, n = (int(x) if given_number(x) else None for x in (row.events, row.n))
    assert (n is None or n > 0) and (events is None or events >= 0)
    assert events is None or n is None or events <= n
    sizes = [arms[name].n for name in (row.arm, row.versus) if name]
    if None not in sizes:
        assert max(events or 0, n or 0) <= sum(sizes)
    if row.statistic in PROPORTIONS and None not in (value, events, n):
        assert near(value, top * events / n)
    assert not given_number(row.level) or 0 < row.level < 1
    if (low is not None or high is not None) and row.statistic != "bound_range":
        assert given_number(row.level) and low is not None
    assert given_number(row.time) == (row.time_unit != "")
    assert not given_number(row.time) or 0 <= row.time < math.inf
    if row.statistic in ("survival_at", "event_free_at", "cumulative_incidence"):
        assert given_number(row.time)
    horizon = study.follow_up.horizon_months
    if row.statistic == "median" and horizon and row.unit != "hour" and "beyond the horizon" not in row.note:
        assert 12 * row.value_si <= horizon + 1e-9
    if row.component and row.endpoint in study.events:
        assert row.component in study.events[row.endpoint].components
    if row.use == "fit":
        check_fitted(row, study, low, high)
    else:
        assert row.rule in USE_RULES and row.note.startswith(row.rule)


def check_fitted(row, study, low, high):
    """What a fitted row needs."""
    assert row.rule == "" and study.design != "preclinical" and row.statistic != "bound_range"
    if row.statistic == "incidence_proportion" and study.design == "registry":
        pass
    elif "proportion" in row.statistic or row.statistic == "completion":
        assert given_number(row.events) or row.statistic == "responder_proportion"
        assert given_number(row.n)
    elif row.statistic in CONTRASTS:
        assert low is not None and high is not None and low < high
    else:
        assert given_number(row.n)
    if row.statistic in ("median_not_reached", "completion"):
        assert given_number(row.time)
    if row.endpoint == "bone_metastasis" and row.statistic in ("prevalence", "incidence_proportion", "share_of_events"):
        return
    for name in filter(None, (row.arm, row.versus)):
        cells = study.members(name)
        assert all(regimen for _, regimen, _ in cells)
        if study.design != "registry":
            assert not {"mixed", "all_solid"} & {cancer for cancer, _, _ in cells}


def check_table(evidence):
    """What must hold between rows."""
    table = evidence.outcomes
    assert not table["outcome_id"].duplicated().any()
    splits, totals, curves = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in table.itertuples():
        when = round(row.time_years, 6) if given_number(row.time_years) else None
        key = (row.study, row.arm, row.endpoint, when)
        if row.statistic == "first_event_proportion" and given_number(row.events):
            splits[key].append(row)
        if row.statistic == "proportion" and not row.component and given_number(row.events):
            totals[key].append(row.events)
        if row.use == "fit" and row.statistic in ("survival_at", "event_free_at", "cumulative_incidence"):
            curves[(row.study, row.arm, row.endpoint, row.component, row.statistic)].append((when, row.value_si))
    for key, parts in splits.items():
        assert len({part.component for part in parts}) == len(parts)
        for whole in totals.get(key, []):
            assert sum(part.events for part in parts) <= whole
    for key, points in curves.items():
        values = [value for _, value in sorted(points)]
        assert values == sorted(values, reverse=key[-1] != "cumulative_incidence")
    for study in evidence.studies.values():
        mine = table[(table["study"] == study.id) & (table["use"] == "fit")]
        curves = [c.curve for c in evidence.curves.values() if c.study == study.id and c.curve.use == "fit"]
        check_counted_once(study, list(mine.itertuples()), curves)


def check_counted_once(study, rows, curves):
    """No patient of one study is fitted twice in a family of endpoints."""
    families = defaultdict(list)
    for row in rows:
        kind = row.statistic if row.statistic in ("completion", "first_event_proportion") else ""
        families[kind, "events" if row.endpoint in study.events else row.endpoint].append(row)
    for curve in curves:
        families.setdefault(("", "events" if curve.endpoint in study.events else curve.endpoint), [])
    for (kind, name), members in families.items():
        absolute, links = defaultdict(set), []
        for curve in curves:
            if kind == "" and name == ("events" if curve.endpoint in study.events else curve.endpoint):
                absolute[curve.arm].add(("curve", curve.endpoint))
        for row in members:
            when = round(row.time_years, 6) if given_number(row.time_years) else None
            if row.statistic in CONTRASTS:
                links.append((row.arm, row.versus))
                continue
            number = (row.statistic, row.endpoint)  # one number: a curve, a table of components, a split
            if row.statistic in ("survival_at", "event_free_at", "cumulative_incidence"):
                number += (row.component,)
            elif row.statistic in ("any_event_proportion", "first_event_proportion"):
                number += (when,)
            else:
                number += (row.outcome_id,)
            absolute[row.arm].add(number)
        assert all(len(numbers) == 1 for numbers in absolute.values()), absolute
        for one in absolute:
            for two in study.arm(one).overlaps:
                found = {number[0] for number in (*absolute[one], *absolute.get(two, ()))}
                assert two not in absolute or (found == {"incidence_proportion"} and kind == "")
        group = {arm: arm for arm in study.arm_ids} | dict.fromkeys(absolute, "absolute")
        for arm, versus in links:
            assert arm not in absolute, (arm, versus)
            assert group[arm] != group[versus], (arm, versus)
            joined = group[arm]
            group = {name: group[versus] if which == joined else which for name, which in group.items()}


def check_evidence(evidence):
    """Everything that must hold of evidence that was loaded."""
    for study in evidence.studies.values():
        check_study(study)
    for row in evidence.outcomes.itertuples():
        check_row(row, evidence.studies[row.study])
    check_table(evidence)
    for curve in evidence.curves.values():
        size = evidence.studies[curve.study].arm(curve.curve.arm).n
        counts = curve.intervals
        assert (curve.time >= 0).all() and (curve.time < math.inf).all()
        assert size is None or len(curve.time) <= size
        assert int(counts.events.sum() + counts.censored.sum()) == len(curve.time) == counts.at_risk[0]
        assert int(counts.events.sum()) == int(curve.event.sum())
    uses = evidence.uses()
    assert list(uses["outcome_id"]) == [*evidence.outcomes["outcome_id"], *evidence.curves]
    assert len(evidence.arms) >= len(evidence.studies) and len(evidence.facts) >= 0
    assert str(evidence).startswith("Evidence: 1 study")
    assert "<table>" in evidence._repr_html_()
    assert evidence.to_xarray().sizes["outcome"] == len(evidence.outcomes)


def check_problem(problem, folder, name, files):
    """Every problem says where, what, and what to do."""
    assert problem.file.startswith(f"{folder}/{name}")
    assert problem.message.strip() and problem.mend.strip()
    assert str(problem).startswith(problem.file) and problem.message in str(problem) and problem.mend in str(problem)
    content = files.get(problem.file.removeprefix(f"{folder}/{name}/"))
    if problem.row is not None and content is not None:
        codec = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        texts = [content.decode(name, errors="replace") for name in (codec, "cp1252")]
        assert 1 <= problem.row <= max(len(text.splitlines()) for text in texts) + 1


def judge(example):
    """A mutated study is refused in words, or is possible."""
    name, files = example
    with tempfile.TemporaryDirectory() as folder:
        put(folder, name, files)
        problems = validate(folder)
        assert isinstance(problems, list)
        for problem in problems:
            check_problem(problem, folder, name, files)
        if not problems:
            check_evidence(Evidence.load(folder))
    return problems


# ---------------------------------------------------------------------------------------------------------- tests

LIMITS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("name", [*STUDIES, CURVES])
def test_the_studies_are_possible_before_anything_is_changed(name):
    assert judge((name, study_files(name))) == []


P039, YAML, CSV = "saad2002_p039", "study.yaml", "outcomes.csv"


@pytest.mark.parametrize(
    ("name", "path", "changes", "words"),
    [
        (P039, YAML, {"title: Zol": "title: Z\0l"}, r"holds the control character '\x00'; remove it"),
        (P039, YAML, {"n: 208,": "n: !!int '',"}, "not valid YAML"),
        (P039, YAML, {"title: Zol": f"title: {'[' * 1200}"}, "not valid YAML"),
        (P039, YAML, {"title: Zol": "? [a, b]\n: 3\ntitle: Zol"}, "a key is a list or a mapping, not a word"),
        (P039, YAML, {"n: 208,": "n: true,"}, "true is neither a number nor a word; write the number"),
        (P039, YAML, {"n: 208,": "n: 1000000000000,"}, "more patients than there are people"),
        (P039, YAML, {"format: 1": "format: 2"}, "format: 2 is not allowed here; write 1"),
        (P039, YAML, {"value: 203": "value: -203"}, "-203 count is impossible for the fact 'marker_measured'"),
        (P039, YAML, {"value: 203": "value: 203\n    low: 204"}, "low, value and high of the fact 'marker_measured'"),
        (P039, YAML, {"n: 208\n    seen": "n: 209\n    seen"}, "209 patients of arm 'placebo', which has 208"),
        (P039, YAML, {"regimen: placebo}": "regimen: placebo +}"}, "nothing stands beside a `+`"),
        (P039, YAML, {"acid 4 mg q3w}": "acid 4 mg q0w}"}, "must be positive, found `q0w`"),
        (P039, CSV, {",422,,check": ",423,,check"}, "n is 423 but both arms together have 422 patients"),
        (P039, CSV, {",92,208,,fit": ",209,,,fit"}, "events are 209 but the arm has 208 patients"),
        (P039, CSV, {",92,208,,fit": ",92,9999999999999,,fit"}, "more patients than there are people"),
        (P039, CSV, {"15,month,44.2,": "1_5,month,44.2,"}, "'1_5' is not a number; remove the underscore"),
        (P039, CSV, {"15,month,44.2,": "15,month,4420e-2,", ",92,208,": ",93,208,"}, "does not agree with 93/208"),
        (
            P039,
            CSV,
            {"saad2002_p039/completion_15_za4,zoledronic_acid,": "saad2002_p039/completion_15_za4,placebo,"},
            "count the completion of completion of patient set P039 twice",
        ),
        ("zoom2013", CSV, {"0.22,1/year,0.14,0.29": "0.22,1/year,0.22,0.22"}, "the interval has no width"),
        (
            "stopeck2010_136",
            CSV,
            {
                "proportion,,,36.5,percent": "proportion,12,month,36.5,percent",
                "first_event_proportion,,,11.7,percent,,,,crude,119,": "first_event_proportion,1,year,60.0,percent,,,,crude,612,",
            },
            "the first events of arm 'zoledronic_acid' sum to 612, but the total in line 2 has 372",
        ),
        (
            "stopeck2010_136",
            CSV,
            {"radiation,any_event_proportion,,,16,percent,,,,crude,162": "radiation,any_event_proportion,,,37,percent,,,,crude,380"},
            "380 patients of arm 'zoledronic_acid' had a radiation, but the total in line 2 has 372 with any event",
        ),
        ("reactbta2021", CSV, {"incidence,24,month,32.7": "incidence,0.24,month,32.7"}, "the curve falls from 0.327"),
        ("hernandez2018", CSV, {"percent,18,29": "percent,-18,29"}, "-18 percent is impossible for a bound_range"),
        ("hernandez2018", CSV, {",,,,percent,18,29": ",,,20,percent,18,29"}, "a bound_range has the value 20"),
    ],
)  # fmt: skip
def test_what_mutations_found_is_refused(name, path, changes, words):
    files = dict(study_files(name))
    text = files[path].decode("utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    problems = judge((name, files | {path: text.encode("utf-8")}))
    assert any(words in str(problem) for problem in problems), [str(problem) for problem in problems]


def test_contrasts_that_close_a_circle_are_refused():
    """Of three arms two hazard ratios say everything; with two absolute numbers, two ratios to a third arm do."""
    name, files = P039, dict(study_files(P039))
    table = cells_of(files["outcomes.csv"])
    header, first = table[0], next(row for row in table if row[0].endswith("/rd_15_za4"))
    names = ("placebo", "zoledronic_acid", "zoledronic_acid_8_4")
    text = files["study.yaml"].decode("utf-8").replace("n: 221, regimen: null", "n: 221, regimen: placebo")
    rows = []
    for i, (arm, versus) in enumerate(((1, 0), (2, 1), (2, 0))):
        row = [*first]
        put_cells(
            header, row, outcome_id=f"{name}/c{i}", arm=names[arm], versus=names[versus], use="fit", note="", n=""
        )
        rows.append(row)
    files["study.yaml"] = text.encode("utf-8")
    for count, wanted in ((2, []), (3, [f"'{names[2]}' against '{names[0]}' follows from other fitted rows"])):
        files["outcomes.csv"] = written([header, *rows[:count]]).encode("utf-8")
        problems = judge((name, files))
        assert len(problems) == len(wanted)
        assert all(words in str(problem) for words, problem in zip(wanted, problems, strict=True))


@pytest.mark.parametrize(("printed", "value"), [("1:1:1", "1:1:1"), ("0210", 210.0), ("2004-05-06", "2004-05-06")])
def test_a_plain_word_is_not_a_number_in_base_60_or_8(printed, value):
    files = dict(study_files(P039))
    text = files["study.yaml"].decode("utf-8").replace('value: "1:1:1"', f"value: {printed}")
    with tempfile.TemporaryDirectory() as folder:
        put(folder, P039, files | {"study.yaml": text.encode("utf-8")})
        fact = Evidence.load(folder).studies[P039].facts[0]
    assert fact.value in (value, printed)


@settings(max_examples=300, **LIMITS)
@given(mutated())
def test_a_mutated_study_is_refused_in_words_or_is_possible(example):
    judge(example)


@settings(max_examples=60, **LIMITS)
@given(st.data())
def test_a_table_saved_by_another_program_is_read_the_same(data):
    name = data.draw(st.sampled_from(STUDIES))
    files = dict(study_files(name))
    files["outcomes.csv"] = resave(data.draw, files["outcomes.csv"])
    with tempfile.TemporaryDirectory() as folder:
        put(folder, name, files)
        assert [str(problem) for problem in validate(folder)] == []
        table = Evidence.load(folder).outcomes
    expected = shipped(name).outcomes
    pd.testing.assert_frame_equal(table.drop(columns="row"), expected.drop(columns="row"))
    assert len(table) == table["row"].nunique()


@cache
def shipped(name):
    with tempfile.TemporaryDirectory() as folder:
        put(folder, name, study_files(name))
        return Evidence.load(folder)


@pytest.mark.slow
@settings(max_examples=5000, **LIMITS)
@given(mutated())
def test_many_mutated_studies_are_refused_in_words_or_are_possible(example):
    judge(example)
