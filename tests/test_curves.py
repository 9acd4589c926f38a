"""Curve files in `km/`: read as people and digitisers save them, made patients, counted by interval."""

import csv

import numpy as np
import pytest
from test_evidence import BAD, row

from osteobayes.cycle import Grid
from osteobayes.errors import EvidenceError
from osteobayes.evidence import Evidence, validate
from osteobayes.model import Model
from osteobayes.paths import shipped
from osteobayes.priors import PriorSet
from osteobayes.schema import OUTCOME_COLUMNS, time_in_years
from osteobayes.survival import kaplan_meier, median

N = 100
DIGITISED = "  - {endpoint: OS, arm: placebo, use: fit, source: paper}\n"


def simulated():
    """Readings of a curve, in months and percent, and the numbers at risk every 3 months."""
    rng = np.random.default_rng(20261126)
    events, follow_up = rng.exponential(15.0, N), rng.uniform(6.0, 24.0, N)
    time = np.round(np.minimum(events, follow_up), 1)
    km = kaplan_meier(time, events <= follow_up)
    steps = np.append(True, np.diff(km.survival) < 0)
    at = np.append(km.time[steps], time.max())
    risk = np.arange(0.0, time.max(), 3.0)
    return list(zip(at, np.round(100 * km(at), 1), strict=True)), list(zip(risk, np.sum(time[:, None] >= risk, axis=0)))


POINTS, RISK = simulated()


def table(rows, header="", separator=",", comma=False, end="\n"):
    """Write rows of two numbers as a text."""
    lines = [separator.join(f"{float(a):.10g}" for a in r) for r in rows]
    if comma:
        lines = [line.replace(".", ",") for line in lines]
    return end.join([*([header] if header else []), *lines, ""])


def study(tmp_path, files, curves=DIGITISED, rows=(), yaml=lambda text: text):
    """Write the small trial with these files in `km/`, and return its folder of datasets."""
    place = tmp_path / "trial"
    (place / "km").mkdir(parents=True)
    text = (BAD / "events_above_n" / "trial" / "study.yaml").read_text(encoding="utf-8")
    (place / "study.yaml").write_text(yaml(text) + "curves:\n" + curves, encoding="utf-8")
    with (place / "outcomes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, OUTCOME_COLUMNS)
        writer.writeheader()
        writer.writerows(rows or [row("a", use="check", note="transient: a row there must be")])
    for name, content in files.items():
        (place / "km" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def load(tmp_path, points, risk=None, **kwargs):
    """Read the curve of overall survival on placebo."""
    risk = table(RISK, "time,n_at_risk") if risk is None else risk
    folder = study(tmp_path, {"OS.placebo.csv": points, "OS.placebo.risk.csv": risk}, **kwargs)
    return Evidence.load(folder).curves["trial/curve_os_placebo"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load(tmp_path_factory.mktemp("plain"), table(POINTS, "time,survival"))


def same(curve, plain):
    np.testing.assert_allclose(curve.time, plain.time, rtol=1e-12)
    np.testing.assert_array_equal(curve.event, plain.event)


# ------------------------------------------------------------------------------------------------ what people save

SAVED = {
    "no header": table(POINTS),
    "semicolon, decimal comma": table(POINTS, "time;survival", ";", comma=True),
    "semicolon, decimal comma, no header": table(POINTS, "", ";", comma=True),
    "tab": table(POINTS, "time\tsurvival", "\t"),
    "tab, decimal comma, no header": table(POINTS, "", "\t", comma=True),
    "CRLF": table(POINTS, "time,survival", end="\r\n"),
    "BOM": table(POINTS, "time,survival").encode("utf-8-sig"),
    "BOM, no header": table(POINTS).encode("utf-8-sig"),
    "UTF-16": table(POINTS, "time\tsurvival", "\t").encode("utf-16"),
    "Latin-1 remarks": "\n".join(["time;survival;relevé", *(f"{t};{s};début" for t, s in POINTS)]).encode("latin-1"),
    "sep= of Excel": "sep=;\r\n" + table(POINTS, "time;survival", ";", end="\r\n"),
    "capitals and units": table(POINTS, "Time (months),Survival (%)"),
    "WebPlotDigitizer, x and y": table(POINTS, "x, y", ", "),
    "WebPlotDigitizer, name of the data set": table(POINTS, "Default Dataset, \nX, Y", ", "),
    "blank lines and quotes": table(POINTS, '"time","survival"\n').replace("\n", "\n\n"),
    "other columns": "\n".join(["arm,time,survival", *(f"placebo,{t},{s}" for t, s in POINTS)]),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_curve_is_read_however_it_was_saved(tmp_path, plain, name):
    curve = load(tmp_path, SAVED[name])
    same(curve, plain)
    assert curve.settings == plain.settings


@pytest.mark.parametrize(
    "risk",
    [
        table(RISK),
        table(RISK, "time;number at risk", ";"),
        table(RISK, "Months\tN", "\t", end="\r\n"),
        table([*RISK, (27, 0), (30, 0)], "time,n_at_risk"),  # zeros are printed after the end of the curve
    ],
    ids=["no header", "semicolon", "tab", "zeros"],
)
def test_a_risk_table_is_read_however_it_was_saved(tmp_path, plain, risk):
    same(load(tmp_path, table(POINTS, "time,survival"), risk), plain)


def test_a_plain_curve_becomes_patients(plain):
    assert plain.time.shape == plain.event.shape == (N,)
    assert plain.settings == {"scale": "percent", "reconstruction": "Guyot 2012", "total_events": "not printed"}
    km = kaplan_meier(plain.time * 12, plain.event)
    early = [(t, s) for t, s in POINTS if t < 15]
    np.testing.assert_allclose(km([t for t, _ in early]), [s / 100 for _, s in early], atol=0.01)


def test_fractions_and_percent_are_told_apart(tmp_path, plain):
    curve = load(tmp_path, table([(t, s / 100) for t, s in POINTS], "time,survival"))
    same(curve, plain)
    assert "scale" not in curve.settings


def test_unsorted_points_are_sorted(tmp_path, plain):
    mixed = [POINTS[i] for i in np.random.default_rng(1).permutation(len(POINTS))]
    curve = load(tmp_path, table(mixed, "time,survival"))
    same(curve, plain)
    assert curve.settings["order"] == "sorted by time"


def test_readings_just_outside_the_axes_are_put_on_them(tmp_path, plain):
    curve = load(tmp_path, table([(-0.1, 100.4), *POINTS[1:]], "time,survival"))
    same(curve, plain)
    assert "just outside the axes" in curve.settings["clipped"]


# ------------------------------------------------------------------------------------------------ rises


def test_small_rises_are_levelled_and_recorded(tmp_path, plain):
    rng = np.random.default_rng(2)
    time, survival = np.array(POINTS).T
    often = np.append(np.arange(0.0, time[-1], 0.2), time[-1])
    shaken = survival[np.searchsorted(time, often, side="right") - 1] + rng.uniform(-0.4, 0.4, often.size)
    curve = load(tmp_path, table(zip(often, shaken, strict=True), "time,survival"))
    assert curve.settings["levelled"].startswith("rises of up to 0.00")
    medians = [median(kaplan_meier(c.time * 12, c.event)) for c in (curve, plain)]
    assert medians[0] == pytest.approx(medians[1], abs=0.6)


def test_a_flat_stretch_is_levelled_at_its_mean_not_at_its_lowest_reading(tmp_path):
    flat = [90.0, 90.8, 89.4, 90.2, 90.6, 89.0, 90.9, 90.3]  # their mean is 90.15
    points = [(0, 100), (1, 95), *((2 + i, s) for i, s in enumerate(flat)), (12, 80)]
    curve = load(
        tmp_path, table(points, "time,survival"), "0,1000\n", yaml=lambda text: text.replace("n: 100", "n: 1000")
    )
    assert curve.settings["levelled"] == "rises of up to 0.0190 were levelled"
    assert kaplan_meier(curve.time * 12, curve.event)(11.0) == pytest.approx(0.9015, abs=0.001)


def test_a_curve_that_begins_a_little_low_begins_at_one(tmp_path, plain):
    same(load(tmp_path, table([(0, 99.6), *POINTS[1:]], "time,survival")), plain)


# ------------------------------------------------------------------------------------------------ units of time


@pytest.mark.parametrize("unit", ["day", "week", "month", "year"])
def test_the_unit_of_time(tmp_path, plain, unit):
    curve = load(
        tmp_path,
        table(POINTS, f"time ({unit}s),survival"),
        table(RISK, f"time ({unit}s),n_at_risk"),
        curves=DIGITISED.replace("use: fit", f"time_unit: {unit}, use: fit"),
    )
    np.testing.assert_allclose(curve.time, plain.time * 12 * time_in_years(1.0, unit), rtol=1e-12)
    np.testing.assert_allclose(curve.intervals.edges, plain.intervals.edges * 12 * time_in_years(1.0, unit))


# ------------------------------------------------------------------------------------------------ counts


def test_interval_counts_lie_between_the_printed_times(plain):
    counts = plain.intervals
    np.testing.assert_allclose(counts.edges[:-1] * 12, [t for t, _ in RISK])
    assert counts.edges[-1] == plain.time.max()
    assert counts.at_risk[0] == N == counts.events.sum() + counts.censored.sum()
    assert counts.events.sum() == plain.event.sum()
    # printed: at risk just before the time; counted: after the events at it
    printed = np.array([n for _, n in RISK])
    assert np.all(counts.at_risk <= printed) and np.all(counts.at_risk >= printed - 2)


def test_total_events_are_used_and_recorded(tmp_path, plain):
    curve = load(
        tmp_path,
        table(POINTS, "time,survival"),
        table(RISK[:1], "time,n_at_risk"),  # without numbers at risk only the total tells of the censoring
        curves=DIGITISED.replace("use: fit", f"total_events: {plain.event.sum()}, use: fit"),
    )
    assert curve.settings["total_events"] == str(plain.event.sum())
    assert abs(curve.event.sum() - plain.event.sum()) <= 1


# ------------------------------------------------------------------------------------------------ individual times

TIMES = "time,event,arm\n4,1,placebo\n2,0,placebo\n6,1,denosumab\n2,1,placebo\n1.5,1,denosumab\n7.5,0,placebo\n"
INDIVIDUAL = "".join(
    f"  - {{endpoint: OS, arm: {arm}, kind: individual, use: fit, source: paper}}\n" for arm in ("placebo", "denosumab")
)


@pytest.mark.parametrize(
    "text", [TIMES, TIMES.replace(",", ";").replace(".", ",").replace("time;event", "Month;status")]
)
def test_individual_times(tmp_path, text):
    curves = Evidence.load(study(tmp_path, {"OS.times.csv": text}, INDIVIDUAL)).curves
    placebo, denosumab = curves["trial/curve_os_placebo"], curves["trial/curve_os_denosumab"]
    np.testing.assert_allclose(placebo.time * 12, [2, 2, 4, 7.5])
    assert placebo.event.tolist() == [True, False, True, False]
    np.testing.assert_allclose(denosumab.time * 12, [1.5, 6])
    assert placebo.settings == {"kind": "individual times"}
    np.testing.assert_allclose(placebo.intervals.edges, [0, 0.25, 0.5, 7.5 / 12])
    assert placebo.intervals.at_risk.tolist() == [4, 2, 1]
    assert placebo.intervals.events.tolist() == [1, 1, 0]
    assert placebo.intervals.censored.tolist() == [1, 0, 1]


# ------------------------------------------------------------------------------------------------ beside other numbers

MEDIAN = row("os_median", statistic="median", endpoint="OS", estimator="km", use="fit")
FILES = {"OS.placebo.csv": table(POINTS, "time,survival"), "OS.placebo.risk.csv": table(RISK, "time,n_at_risk")}


def test_a_fitted_curve_beside_a_fitted_median_counts_patients_twice(tmp_path):
    folder = study(tmp_path, FILES, rows=[MEDIAN])
    (problem,) = validate(folder)
    assert (problem.file, problem.field) == ((folder / "trial" / "study.yaml").as_posix(), "use")
    assert "'trial/os_median'" in problem.message and "count the OS of patient set TRIAL twice" in problem.message
    with pytest.raises(EvidenceError):
        Evidence.load(folder)


@pytest.mark.parametrize(
    ("curves", "other"),
    [
        (DIGITISED.replace("use: fit", "note: 'same_patients: the median is fitted', use: check"), MEDIAN),
        (DIGITISED, MEDIAN | {"use": "check", "note": "same_patients: the curve is fitted"}),
        (DIGITISED, MEDIAN | {"arm": "denosumab"}),
        (DIGITISED, MEDIAN | {"endpoint": "PFS"}),
        (DIGITISED, row("os_hr", "denosumab", "hazard_ratio", endpoint="OS", estimator="cox", use="fit")),
    ],
    ids=["curve checked", "median checked", "other arm", "other endpoint", "ratio of the other arm"],
)
def test_a_fitted_curve_beside_numbers_of_other_patients(tmp_path, curves, other):
    assert list(Evidence.load(study(tmp_path, FILES, curves, [other])).curves) == ["trial/curve_os_placebo"]


def test_curves_stay_with_their_studies(tmp_path):
    evidence = Evidence.load(study(tmp_path, FILES))
    assert list(evidence.select(study="trial").curves) == ["trial/curve_os_placebo"]
    assert evidence.drop(study="trial").curves == {}


def test_a_fitted_curve_enters_the_likelihood_by_intervals(tmp_path):
    """Events of each interval among those at risk at its beginning, less half of those censored in it."""
    evidence = Evidence.load(study(tmp_path, FILES))
    found = evidence.uses().set_index("outcome_id").loc["trial/curve_os_placebo"]
    assert tuple(found[["use", "family", "block", "unusable"]]) == ("fit", "interval", "OS", "")
    packed = Model.build(evidence, PriorSet.load(), Grid(7.0, 160, 1, 1)).packed
    place = packed.outcomes["interval"].index("trial/curve_os_placebo")
    counts = evidence.curves["trial/curve_os_placebo"].intervals
    inside = counts.edges[1:] <= packed.grid.years[-1]
    assert inside.sum() >= 3
    rows = packed.data["interval"]["OS"]
    events = packed.observed["interval"][place]
    np.testing.assert_array_equal(events[np.isfinite(events)], counts.events[inside])
    at_risk = rows.at_risk[place]
    np.testing.assert_allclose(at_risk[np.isfinite(at_risk)], (counts.at_risk - counts.censored / 2)[inside])
    np.testing.assert_allclose(rows.quadrature[place].sum(axis=1)[: inside.sum()], counts.edges[1:][inside])
    assert packed.table.loc["trial/curve_os_placebo", "kind"] == "OS"
    assert packed.coords["study_os"] == packed.coords["study_entry"] == ("trial",)


def test_a_curve_that_is_fitted_tells_of_the_selection_at_entry():
    """Two fitted times of one arm do, one does not; and rows to check keep the selection of the study's fitted curve."""
    evidence = Evidence.load(shipped("datasets"))
    fitted = Model.build(evidence, PriorSet.load(), Grid(7.0, 160, 1, 1)).packed
    assert set(fitted.coords["study_entry"]) == {"bolero2", "comet1", "couaa302", "prevail", "zhang2017lung"}
    checked = Model.build(evidence, PriorSet.load(), Grid(7.0, 160, 1, 1), use="check").packed
    assert "bolero2/os_median_pbo" in checked.outcomes["median"] and "bolero2" in checked.coords["study_entry"]
    arm = checked.arm_ids["OS"].index(("bolero2", "pbo_exe", ""))
    assert checked.coords["study_entry"][checked.arms["OS"].entry_effect[arm] - 1] == "bolero2"
    assert checked.arms["OS"].trial[arm] == 1.0
    cohort = [i for i, a in enumerate(fitted.arm_ids["OS"]) if a[0] in ("zhang2017lung", "gong2018")]
    assert cohort and not fitted.arms["OS"].trial[cohort].any()
