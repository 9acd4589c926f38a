"""Reading tables as people save them: what a spreadsheet or a digitiser writes is read, or refused in words."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from osteobayes.errors import Problem

_WORKBOOKS = {b"PK\x03\x04": "an Excel or LibreOffice workbook", b"\xd0\xcf\x11\xe0": "an old Excel workbook"}
_NOT_REACHED = frozenset({"nr", "ne", "na", "n/a", "not reached", "not estimable", "-", "–", "—", "."})
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"\d{{1,2}}[-/ .]{_MONTH}(?:[-/ .]\d{{2,4}})?|{_MONTH}[-/ .]\d{{2,4}}|\d{{4}}-\d{{1,2}}-\d{{1,2}}.*|\d{{1,2}}([/.])\d{{1,2}}\1\d{{2,4}}.*",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\(?\s*-?\d+(?:\.\d+)?\s*(?:-|–|—|to|,)\s*-?\d+(?:\.\d+)?\s*\)?")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(?:[, \u00a0\u202f']\d{3})+(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))")


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    file
        How problems name the file.
    header
        Names of the columns as written; empty if the first line holds numbers.
    rows
        Line of the file and cells, without empty lines.
    decimal_comma
        Whether cells may be separated by something else than a comma, so that ``0,5`` is a half.
    problems
        Why there is nothing to read.
    header_row
        Line of the header, or of the first row.
    """

    file: str
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    decimal_comma: bool = False
    problems: tuple[Problem, ...] = ()
    header_row: int = 1


def read_table(path: Path, known: Iterable[str] = ()) -> Table:
    """Read a table separated by commas, semicolons or tabs, in UTF-8, UTF-16 or Latin-1, with any line ends.

    Parameters
    ----------
    path
        The file.
    known
        Names of columns: they tell the separator, and whether the first line is a header.
    """
    file = path.as_posix()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Table(file, problems=(Problem(file, None, "", "the file is missing", "write it"),))
    except OSError as error:
        return Table(file, problems=(Problem(file, None, "", f"the file cannot be read ({error})", "check it"),))
    for magic, what in _WORKBOOKS.items():
        if content.startswith(magic):
            problem = Problem(file, None, "", f"the file is {what}, not text", "save the sheet as `CSV UTF-8`")
            return Table(file, problems=(problem,))
    text = _decoded(content)
    if "\0" in text:
        problem = Problem(file, None, "", "the file is not text (it holds zero bytes)", "save it as `CSV UTF-8`")
        return Table(file, problems=(problem,))
    lines = re.split(r"\r\n|\r|\n", text)
    skipped = 0
    delimiter = None
    if lines and (found := re.fullmatch(r'sep=([^"])', lines[0].strip(" "))):  # what Excel writes to itself
        delimiter, skipped = found[1], 1
    if delimiter is None:
        delimiter = _delimiter(next((line for line in lines if line.strip()), ""), set(known))
    rows: list[tuple[int, list[str]]] = []
    line = skipped + 1  # where the row begins: a quoted cell may go on over several lines
    try:
        reader = csv.reader(io.StringIO("\n".join(lines[skipped:])), delimiter=delimiter, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + skipped + 1
    except csv.Error as error:
        problem = Problem(file, line, "", f"the file is not a table ({error})", "close every quote, one row a line")
        return Table(file, problems=(problem,))
    if not rows:
        return Table(file, problems=(Problem(file, None, "", "the file is empty", "write a header and rows"),))
    first = rows[0][1]
    has_header = bool(set(first) & set(known)) or not all(_numeric(cell, delimiter != ",") for cell in first if cell)
    header = first if has_header else []
    return Table(file, header, rows[1:] if has_header else rows, delimiter != ",", header_row=rows[0][0])


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _delimiter(line: str, known: set[str]) -> str:
    """Separator that gives most columns, those with a known name first, then lines of nothing but numbers."""

    def score(delimiter: str) -> tuple[int, bool, int]:
        cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
        numbers = all(_numeric(cell, delimiter != ",") for cell in cells if cell)
        return sum(cell in known for cell in cells), numbers, len(cells)

    # a line of numbers with decimal commas is separated by what is left
    if ";" in line or "\t" in line:
        return max((";", "\t", ","), key=lambda d: (score(d), -",".find(d)))
    return ","


def _numeric(cell: str, decimal_comma: bool) -> bool:
    text, problem = plain_number(cell, decimal_comma)
    if problem:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain_number(cell: str, decimal_comma: bool = False) -> tuple[str, tuple[str, str] | None]:
    """Number as Python reads it, or what is wrong and the mend.

    A decimal comma (in a table that no comma separates), a raised decimal point and a true minus sign are read. What
    means something else than one number is refused: percent signs, bounds, ranges, ranges that became dates, `NR`.

    Returns
    -------
    tuple
        The text to convert (the cell itself if nothing is known against it), and message and mend, or `None`.

    Examples
    --------
    >>> plain_number("0,75", decimal_comma=True)
    ('0.75', None)
    >>> plain_number("<0.001")[1][0]
    "'<0.001' is a bound, not a number"
    """
    text = cell.strip().replace("\u2212", "-").replace("·", ".")
    if decimal_comma and re.fullmatch(r"-?\d+,\d+(?:[eE][-+]?\d+)?", text):
        text = text.replace(",", ".")
    shown = repr(cell)
    if "_" in text:  # pydantic and Python read 1_000 as a thousand, and 4_4.2 as 44.2
        return text, (f"{shown} is not a number", "remove the underscore")
    if text.lower() in _NOT_REACHED:
        return text, (f"{shown} is not a number", "leave the cell empty (a median: write median_not_reached)")
    if re.fullmatch(r"[<>≤≥~≈].+", text):
        return text, (f"{shown} is a bound, not a number", "use the statistic bound_range, or put it into the note")
    if text.endswith("%"):
        return text, (f"{shown} has a percent sign", f"write {text.rstrip('% ')} and the unit percent")
    if _DATE.fullmatch(text):
        return text, (
            f"{shown} is a date: a spreadsheet made it of a range or a fraction",
            "write the numbers as printed",
        )
    if not decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        return text, (f"{shown} has a decimal comma", f"write {text.replace(',', '.')}")
    if _THOUSANDS.fullmatch(text):
        return text, (f"{shown} has a thousands separator", f"write {re.sub(r'[^0-9.-]', '', text)}")
    if _RANGE.fullmatch(text):
        return text, (f"{shown} is a range, not a number", "write its ends into low and high")
    return text, None
