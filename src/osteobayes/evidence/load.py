"""Reads `datasets/`: all problems at once, or the evidence."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from osteobayes.errors import EvidenceError, OsteobayesError, Problem
from osteobayes.evidence import checks, network
from osteobayes.schema import (
    OUTCOME_COLUMNS,
    OutcomeRow,
    Study,
    did_you_mean,
    read_model,
    si_value,
    time_in_years,
)

CheckRegimen = Callable[[str], None]

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
        One row a published number: the columns of `outcomes.csv`, and `study`, `cancer` (of the arm), `patients`,
        `file`, `row`, `time_years` and `value_si` (shares as fractions, times in years, rates a year).
    """

    studies: dict[str, Study]
    outcomes: pd.DataFrame

    @classmethod
    def load(cls, folder: Path | str, check_regimen: CheckRegimen | None = None) -> "Evidence":
        """Read a folder of datasets.

        Parameters
        ----------
        folder
            Folder with one folder a study.
        check_regimen
            Called with every regimen text; raises `RegimenError` for one that cannot be read.

        Raises
        ------
        EvidenceError
            With every problem that was found.
        """
        studies, rows, problems = _read(Path(folder), check_regimen)
        if problems:
            raise EvidenceError(problems)
        return cls(studies, _table(rows, Path(folder)))

    def subset(
        self,
        cancers: Iterable[str] | None = None,
        studies: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> "Evidence":
        """Keep some of the studies.

        Parameters
        ----------
        cancers
            Keep the studies in which a main arm (not a subgroup) holds one of these cancers, alone or in a mix.
        studies
            Keep these studies.
        exclude
            Leave these studies out, whatever the other two say.
        """
        present = sorted({cancer for study in self.studies.values() for cancer in _cancers(study)})
        wanted = set(_known(cancers, present, "cancer")) if cancers is not None else None
        named = set(_known(studies, self.studies, "study")) if studies is not None else set(self.studies)
        dropped = set(_known(exclude or (), self.studies, "study"))
        kept = {
            name: study
            for name, study in self.studies.items()
            if name in named - dropped and (wanted is None or wanted & _cancers(study))
        }
        outcomes = self.outcomes.loc[self.outcomes["study"].isin(list(kept)), :].reset_index(drop=True)
        return Evidence(kept, outcomes)

    def __str__(self) -> str:
        return network.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return network.html(self)


def validate(folder: Path | str, check_regimen: CheckRegimen | None = None) -> list[Problem]:
    """Every problem of a folder of datasets, sorted by file and row; an empty list if there is none."""
    _, _, problems = _read(Path(folder), check_regimen)
    return problems


def _cancers(study: Study) -> set[str]:
    """Cancers that the main arms of a study hold."""
    return {cancer for arm in study.arms if not arm.overlaps for cancer, _, _ in study.members(arm.id)}


def _known(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return `names` as a list, after refusing the ones that are not known."""
    names, known = ([names] if isinstance(names, str) else list(names)), list(known)
    for name in names:
        if name not in known:
            raise OsteobayesError(f"the evidence has no {what} {name!r}; {did_you_mean(name, known)}")
    return names


def _read(folder: Path, check_regimen: CheckRegimen | None) -> tuple[dict[str, Study], list[checks.Row], list[Problem]]:
    """Read and check a folder of datasets."""
    if not folder.is_dir():
        return (
            {},
            [],
            [Problem(folder.as_posix(), None, "", "there is no such folder", "give the folder of the datasets")],
        )
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    studies: dict[str, Study] = {}
    rows: list[checks.Row] = []
    problems: list[Problem] = []
    if not places:
        problems.append(
            Problem(folder.as_posix(), None, "", "the folder holds no study", "add a folder for each study")
        )
    for place in places:
        study, found = _read_study(place, check_regimen)
        problems += found
        read, found = _read_outcomes(place / "outcomes.csv", study)
        problems += found
        rows += read
        if study is not None:
            studies[study.id] = study
    for row in rows:
        problems += checks.row_problems(row)
    problems += checks.set_problems(rows)
    return studies, rows, sorted(problems, key=lambda problem: problem.sort_key)


def _read_study(place: Path, check_regimen: CheckRegimen | None) -> tuple[Study | None, list[Problem]]:
    """Read one `study.yaml`."""
    study, document, problems = read_model(Study, place / "study.yaml")
    if study is not None and study.id != place.name:
        message = f"the id {study.id!r} is not the name of the folder, {place.name!r}"
        problems.append(document.problem(("id",), message, "rename one of the two"))
    if study is not None and check_regimen is not None:
        problems += checks.regimen_problems(study, document, check_regimen)
    return study, problems


def _read_outcomes(path: Path, study: Study | None) -> tuple[list[checks.Row], list[Problem]]:
    """Read one `outcomes.csv`; without its study only the cells are checked."""
    file = path.as_posix()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader]
    except FileNotFoundError:
        return [], [Problem(file, None, "", "the file is missing", "write it")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(file, None, "", f"the file cannot be read ({error})", "save it as CSV in UTF-8")]
    problems = list(_header_problems(file, header))
    if problems:
        return [], problems
    rows: list[checks.Row] = []
    for line, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            message = f"the row has {len(cells)} cells, but there are {len(header)} columns"
            problems.append(Problem(file, line, "", message, "put quotes around cells that hold a comma"))
            continue
        printed = {"denominator": ""} | {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        try:
            outcome = OutcomeRow.model_validate(
                {name: cell if cell or name in _TEXTS else None for name, cell in printed.items()}
            )
        except ValidationError as error:
            problems += [_cell_problem(file, line, detail) for detail in error.errors(include_url=False)]
            continue
        if study is not None:
            rows.append(checks.Row(file, line, study, printed, outcome))
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
    return Problem(file, line, name, f"{value!r}: {detail['msg'].lower()}", "correct the cell")


def _table(rows: list[checks.Row], folder: Path) -> pd.DataFrame:
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
            "file": Path(row.file).relative_to(folder).as_posix(),
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
