"""Reads `datasets/`: all problems at once, or the evidence."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from pydantic import ValidationError

from osteobayes.cycle import Catalogue, Regimen
from osteobayes.cycle.therapy import shipped_catalogue
from osteobayes.errors import EvidenceError, OsteobayesError, Problem
from osteobayes.evidence import checks, network
from osteobayes.evidence.curves import CurveData, read_curves
from osteobayes.evidence.uses import statistic_of, unusable, uses
from osteobayes.schema import (
    OUTCOME_COLUMNS,
    OutcomeRow,
    Selections,
    Study,
    StudyFact,
    did_you_mean,
    plain_number,
    read_model,
    read_table,
    si_value,
    time_in_years,
)

CheckRegimen = Callable[[str], object]

SKELETAL = "skeletal events"
"""Endpoints with an event definition, together."""
_TEXTS = ("where", "note")
_NUMBERS = ("time", "value", "low", "high", "level")
_INTEGERS = ("events", "n")


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """Studies and their published numbers.

    Parameters
    ----------
    studies
        Studies by id.
    outcomes
        One row a published number: the columns of `outcomes.csv`, and `study`, `cancer` (of the arm), `patients`, `rule` (why
        it is not fitted), `file`, `row`, `time_years` and `value_si` (shares as fractions, times in years, rates a year).
    selections
        Named lists of studies (``selections.yaml`` of the folders; studies of a folder without one are in every selection).
    curves
        Kaplan-Meier curves and individual times by `<study>/<endpoint>_<arm>`.
    """

    studies: dict[str, Study]
    outcomes: pd.DataFrame
    selections: dict[str, tuple[str, ...]] = field(default_factory=dict)
    curves: dict[str, CurveData] = field(default_factory=dict)

    @classmethod
    def load(cls, *folders: Path | str, check_regimen: CheckRegimen | None = None) -> "Evidence":
        """Read folders of datasets.

        Parameters
        ----------
        *folders
            Folders with one folder a study. No two may hold a study of the same id.
        check_regimen
            Called with every regimen text; raises `RegimenError` for one that cannot be read. The shipped agents by default.

        Raises
        ------
        EvidenceError
            With every problem that was found.
        """
        read = _read([Path(folder) for folder in folders], check_regimen)
        if read.problems:
            raise EvidenceError(read.problems)
        return cls(read.studies, _table(read.rows), read.selections, read.curves)

    def choose(self, selection: str) -> "Evidence":
        """Keep the studies of a named selection; `all` keeps every study.

        Raises
        ------
        OsteobayesError
            If no folder has a selection of that name.
        """
        if selection == "all":
            return self
        if selection not in self.selections:
            if not self.selections:  # folders without selections: there is nothing to choose from
                return self
            names = [*self.selections, "all"]
            raise OsteobayesError(f"there is no selection {selection!r}; {did_you_mean(selection, names)}")
        return self.select(study=self.selections[selection])

    def select(
        self,
        *,
        cancer: str | Iterable[str] | None = None,
        therapy: str | Iterable[str] | None = None,
        endpoint: str | Iterable[str] | None = None,
        design: str | Iterable[str] | None = None,
        years: tuple[int, int] | None = None,
        study: str | Iterable[str] | None = None,
        catalogue: Catalogue | None = None,
    ) -> "Evidence":
        """Keep the studies (for `endpoint`: and the rows) that meet every condition given; each takes a word or several.

        Parameters
        ----------
        cancer
            A main arm (not a subgroup) holds one of these cancers or tumours, alone or in a mix.
        therapy
            An arm gets one of these agents, or an agent of one of these classes.
        endpoint
            Rows of these endpoints; `skeletal events` is every endpoint with an event definition.
        design
            Designs of `study.yaml`.
        years
            First and last year: one of the study's sources was published within them.
        study
            Ids of studies.
        catalogue
            Agents; those that ship by default.

        Raises
        ------
        OsteobayesError
            If the evidence holds nothing of that name.
        """
        studies = self.studies
        if study is not None:
            wanted = set(_known(study, self.studies, "study"))
            studies = {name: s for name, s in studies.items() if name in wanted}
        if cancer is not None:
            wanted = set(_known(cancer, sorted({c for s in self.studies.values() for c in _cancers(s)}), "cancer"))
            studies = {name: s for name, s in studies.items() if wanted & _cancers(s)}
        if therapy is not None:
            catalogue = catalogue or shipped_catalogue()
            given = {name: network.therapies(s, catalogue) for name, s in self.studies.items()}
            wanted = set(_known(therapy, sorted({t for names in given.values() for t in names}), "therapy"))
            studies = {name: s for name, s in studies.items() if wanted & given[name]}
        if design is not None:
            wanted = set(_known(design, sorted({s.design for s in self.studies.values()}), "design"))
            studies = {name: s for name, s in studies.items() if s.design in wanted}
        if years is not None:
            first, last = years
            if first > last:
                raise OsteobayesError(f"the first year {first} is after the last, {last}; exchange them")
            studies = {
                name: s for name, s in studies.items() if any(x.year and first <= x.year <= last for x in s.sources)
            }
        kept = self.outcomes["study"].isin(list(studies))
        if endpoint is not None:
            names = self.outcomes["endpoint"].tolist()
            skeletal = {e for s in self.studies.values() for e in s.events}
            wanted = set(_known(endpoint, [*sorted(set(names)), SKELETAL], "endpoint"))
            wanted |= skeletal if SKELETAL in wanted else set()
            kept &= self.outcomes["endpoint"].isin(list(wanted))
            left = set(self.outcomes.loc[kept, "study"])
            studies = {name: s for name, s in studies.items() if name in left}
        return self._keep(studies, self.outcomes.loc[kept, :])

    def drop(self, study: str | Iterable[str]) -> "Evidence":
        """Leave studies out.

        Raises
        ------
        OsteobayesError
            If the evidence holds no study of that name.
        """
        dropped = set(_known(study, self.studies, "study"))
        studies = {name: s for name, s in self.studies.items() if name not in dropped}
        return self._keep(studies, self.outcomes.loc[~self.outcomes["study"].isin(list(dropped)), :])

    def _keep(self, studies: dict[str, Study], outcomes: pd.DataFrame) -> "Evidence":
        selections = {name: tuple(s for s in ids if s in studies) for name, ids in self.selections.items()}
        curves = {name: c for name, c in self.curves.items() if c.study in studies}
        return Evidence(studies, outcomes.reset_index(drop=True), selections, curves)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row a cell of an arm: study, arm, label, n, cancer, regimen, weight, main (shares patients with no other arm)."""
        records = [
            {
                "study": study.id, "arm": arm.id, "label": arm.label, "n": arm.n, "cancer": cancer, "tumour": arm.tumour or study.tumour or "",
                "regimen": regimen or "", "weight": weight, "main": not arm.overlaps,
            }
            for study in self.studies.values() for arm in study.arms for cancer, regimen, weight in study.members(arm.id)
        ]  # fmt: skip
        columns = ["study", "arm", "label", "n", "cancer", "tumour", "regimen", "weight", "main"]
        return pd.DataFrame.from_records(records, columns=columns).astype({"n": "Int64"})

    @cached_property
    def facts(self) -> pd.DataFrame:
        """One row a printed fact of design or population."""
        records = [{"study": s.id, **fact.model_dump()} for s in self.studies.values() for fact in s.facts]
        columns = ["study", *StudyFact.model_fields]
        return pd.DataFrame.from_records(records, columns=columns)

    def to_xarray(self) -> xr.Dataset:
        """Labelled view: dim `outcome` (ids), the numbers as variables, the words as coordinates."""
        table = self.outcomes.set_index("outcome_id")
        numbers = [*_NUMBERS, *_INTEGERS, "time_years", "value_si"]
        words = [name for name in table.columns if name not in (*numbers, "row")]
        return xr.Dataset(
            {name: ("outcome", table[name].astype(float).to_numpy()) for name in numbers},
            {"outcome": table.index.to_numpy(str)}
            | {name: ("outcome", table[name].to_numpy(str)) for name in words}
            | {"row": ("outcome", table["row"].to_numpy(int))},
        )

    def uses(self, catalogue: Catalogue | None = None) -> pd.DataFrame:
        """What each row is used for, and why the model cannot use it (:func:`osteobayes.evidence.uses.uses`)."""
        catalogue = catalogue or shipped_catalogue()
        rows = uses(self.outcomes, self.studies, catalogue)
        if not self.curves:
            return rows
        records = []
        for name, c in self.curves.items():
            study, row = self.studies[c.study], c.as_row.outcome
            found = statistic_of(row, study)
            family, block = ("", "") if isinstance(found, str) else found
            records.append(
                {
                    "outcome_id": name, "study": c.study, "file": "/".join(Path(c.as_row.file).parts[-2:]),
                    "row": c.as_row.line, "use": c.curve.use, "rule": checks.rule(c.curve.note), "family": family,
                    "block": block, "unusable": unusable(row, study, catalogue),
                }
            )  # fmt: skip
        return pd.concat([rows, pd.DataFrame.from_records(records)], ignore_index=True)

    def __str__(self) -> str:
        return network.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return network.html(self)


def validate(*folders: Path | str, check_regimen: CheckRegimen | None = None) -> list[Problem]:
    """Every problem of folders of datasets, sorted by file and row; an empty list if there is none."""
    return _read([Path(folder) for folder in folders], check_regimen).problems


def _cancers(study: Study) -> set[str]:
    """Cancers and tumours that the main arms of a study hold."""
    main = [arm for arm in study.arms if not arm.overlaps]
    found = {cancer for arm in main for cancer, _, _ in study.members(arm.id)}
    return found | {tumour for arm in main if (tumour := arm.tumour or study.tumour)}


def _known(names: str | Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return `names` as a list, after refusing the ones that are not known."""
    names, known = ([names] if isinstance(names, str) else list(names)), list(known)
    for name in names:
        if name not in known:
            raise OsteobayesError(f"the evidence has no {what} {name!r}; {did_you_mean(name, known)}")
    return names


@dataclass
class _Reading:
    """What was read of all folders."""

    studies: dict[str, Study] = field(default_factory=dict)
    rows: list[checks.Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    selections: dict[str, tuple[str, ...]] = field(default_factory=dict)
    curves: dict[str, CurveData] = field(default_factory=dict)


def _read(folders: list[Path], check_regimen: CheckRegimen | None) -> _Reading:
    """Read and check folders of datasets."""
    check_regimen = check_regimen or Regimen.parse
    out = _Reading()
    places: dict[str, Path] = {}
    chosen: list[tuple[dict[str, list[str]], list[str]]] = []
    for folder in folders:
        if not folder.is_dir():
            message = "there is no such folder"
            out.problems.append(Problem(folder.as_posix(), None, "", message, "give the folder of the datasets"))
            continue
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
        if not found:
            message = "the folder holds no study"
            if (folder / "study.yaml").is_file():
                message = "the folder is one study, not a folder of studies"
            out.problems.append(Problem(folder.as_posix(), None, "", message, "add a folder for each study"))
        for place in found:
            if place.name in places:
                message = f"a study {place.name!r} is already in {places[place.name].parent.as_posix()}"
                mend = "rename yours, or leave the other one out"
                out.problems.append(Problem(place.as_posix(), None, "", message, mend))
                continue
            places[place.name] = place
            _read_place(out, place, check_regimen)
        lists = _read_selections(out, folder / "selections.yaml", [place.name for place in found])
        chosen.append((lists, [place.name for place in found]))
    names = list(dict.fromkeys(name for lists, _ in chosen for name in lists))
    out.selections = {name: tuple(s for lists, own in chosen for s in lists.get(name, own)) for name in names}
    for row in out.rows:
        out.problems += checks.row_problems(row)
    out.problems += checks.set_problems([*out.rows, *(c.as_row for c in out.curves.values())])
    out.problems.sort(key=lambda problem: problem.sort_key)
    return out


def _read_place(out: _Reading, place: Path, check_regimen: CheckRegimen) -> None:
    """Read the folder of one study."""
    study, found = _read_study(place, check_regimen)
    out.problems += found
    rows, found = _read_outcomes(place / "outcomes.csv", study)
    out.problems += found
    out.rows += rows
    if study is not None:
        out.studies[study.id] = study
        curves, found = read_curves(place, study)
        out.problems += found
        out.curves |= curves


def _read_selections(out: _Reading, path: Path, studies: list[str]) -> dict[str, list[str]]:
    """Read `selections.yaml`, if it is there."""
    if not path.is_file():
        return {}
    content, document, problems = read_model(Selections, path)
    out.problems += problems
    if content is None:
        return {}
    for name, selection in content.selections.items():
        for i, study in enumerate(selection.studies):
            if study not in studies:
                key = ("selections", name, "studies", i)
                out.problems.append(document.problem(key, f"there is no study {study!r}", did_you_mean(study, studies)))
    return {name: list(selection.studies) for name, selection in content.selections.items()}


def _read_study(place: Path, check_regimen: CheckRegimen) -> tuple[Study | None, list[Problem]]:
    """Read one `study.yaml`."""
    study, document, problems = read_model(Study, place / "study.yaml")
    if study is not None and study.id != place.name:
        message = f"the id {study.id!r} is not the name of the folder, {place.name!r}"
        problems.append(document.problem(("id",), message, "rename one of the two"))
    if study is not None:
        problems += checks.regimen_problems(study, document, check_regimen)
    return study, problems


def _read_outcomes(path: Path, study: Study | None) -> tuple[list[checks.Row], list[Problem]]:
    """Read one `outcomes.csv`; without its study only the cells are checked."""
    file = path.as_posix()
    table = read_table(path, OUTCOME_COLUMNS)
    if table.problems:
        return [], list(table.problems)
    header = table.header
    if len(set(header) & set(OUTCOME_COLUMNS)) < 3:
        mend = f"begin the file with the names of its columns: {', '.join(OUTCOME_COLUMNS)}"
        return [], [Problem(file, 1, "", "the first line is not a header", mend)]
    problems = list(_header_problems(file, header))
    if problems:
        return [], problems
    rows: list[checks.Row] = []
    for line, cells in table.rows:
        if len(cells) != len(header):
            message = f"the row has {len(cells)} cells, but there are {len(header)} columns"
            problems.append(Problem(file, line, "", message, "put quotes around cells that hold the separator"))
            continue
        printed = {"denominator": ""} | dict(zip(header, cells, strict=True))
        refused = []
        for name in (*_NUMBERS, *_INTEGERS):
            printed[name], wrong = plain_number(printed[name], table.decimal_comma) if printed[name] else ("", None)
            if wrong:
                refused.append(Problem(file, line, name, *wrong))
        if refused:
            problems += refused
            continue
        try:
            outcome = OutcomeRow.model_validate(
                {name: cell if cell or name in _TEXTS else None for name, cell in printed.items()}
            )
        except ValidationError as error:
            problems += [_cell_problem(file, line, detail) for detail in error.errors(include_url=False)]
            continue
        if study is not None:
            rows.append(checks.Row(file, line, study, printed, outcome))
    if not table.rows:
        problems.append(Problem(file, None, "", "the file holds no outcome", "write one row a published number"))
    return rows, problems


def _header_problems(file: str, header: list[str]) -> Iterable[Problem]:
    """Misspelt, missing, doubled and extra columns."""
    missing = [name for name in OUTCOME_COLUMNS if name not in header and name != "denominator"]
    for name in dict.fromkeys(header):
        if header.count(name) > 1:
            yield Problem(file, 1, name, "the column is there twice", "keep one")
        if name not in OUTCOME_COLUMNS:
            mend = did_you_mean(name, missing) if missing else "remove it"
            if mend.startswith("did you mean"):
                missing.remove(mend.split("'")[1])
            yield Problem(file, 1, name, f"there is no column {name!r}", mend)
    for name in missing:
        yield Problem(file, 1, name, f"the column {name!r} is missing", "add it")


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}


def _cell_problem(file: str, line: int, detail: Any) -> Problem:
    """Turn a pydantic error about one cell into a problem."""
    name = str(detail["loc"][0])
    kind, value = detail["type"], detail["input"]
    if value is None:
        return Problem(file, line, name, "the cell is empty", f"give the {name}")
    if kind == "literal_error":
        words = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return Problem(file, line, name, f"{value!r} is not a word that is allowed here", did_you_mean(value, words))
    if name == "level":
        return Problem(file, line, name, f"{value!r} is not a level between 0 and 1", "write 0.95 for 95 %")
    if kind in _EXPECTED:
        return Problem(file, line, name, f"{value!r} is not {_EXPECTED[kind]}", "correct the cell")
    if kind == "string_pattern_mismatch":
        form = "<study_id>/<short_name>" if name == "outcome_id" else "snake_case"
        return Problem(file, line, name, f"{value!r} is not an id", f"write it as {form}, in lower case")
    message, _, mend = detail["msg"].removeprefix("Value error, ").partition("; ")
    return Problem(file, line, name, f"{value!r}: {message[:1].lower()}{message[1:]}", mend or "correct the cell")


def _table(rows: list[checks.Row]) -> pd.DataFrame:
    """Rows as a data frame."""
    records = []
    for row in rows:
        outcome = row.outcome
        record = {name: getattr(outcome, name) for name in OUTCOME_COLUMNS}
        record |= {
            "study": row.study.id,
            "cancer": row.study.arm_cancer(outcome.arm),
            "patients": row.study.patients,
            "rule": checks.rule(outcome.note),
            "file": "/".join(Path(row.file).parts[-2:]),
            "row": row.line,
            "time_years": None
            if outcome.time is None or outcome.time_unit is None
            else time_in_years(outcome.time, outcome.time_unit),
            "value_si": None
            if outcome.value is None or outcome.unit is None
            else si_value(outcome.value, outcome.unit),
        }
        records.append(record)
    extra = ["study", "cancer", "patients", "rule", "file", "row", "time_years", "value_si"]
    table = pd.DataFrame.from_records(records, columns=[*OUTCOME_COLUMNS, *extra])
    numbers = [*_NUMBERS, "time_years", "value_si"]
    table[numbers] = table[numbers].astype(float)
    table[list(_INTEGERS)] = table[list(_INTEGERS)].astype("Int64")
    table["row"] = table["row"].astype(int)
    texts = [name for name in table.columns if name not in (*numbers, *_INTEGERS, "row")]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    return table
