"""The errors osteobayes raises, and `Problem`: one mistake in one place of one file."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake in an input file, and how to mend it.

    Parameters
    ----------
    file
        The file, as the user would find it.
    row
        Line of the file (the header of a table is line 1); `None` when no line is to blame.
    field
        Column or key, e.g. ``events`` or ``arms[0].mix``; empty when the whole row or file is meant.
    message
        What is wrong.
    mend
        What to do about it.
    """

    file: str
    row: int | None
    field: str
    message: str
    mend: str = ""

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}:{self.row}"
        field = f" {self.field}:" if self.field else ""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{place}:{field} {self.message}{mend}"

    @property
    def sort_key(self) -> tuple[str, int, str, str]:
        """File, then line, then field: the order in which problems are listed."""
        return (self.file, self.row or 0, self.field, self.message)


class OsteobayesError(Exception):
    """Base of every error that osteobayes raises on purpose: its text is meant for the user."""


class _ProblemsError(OsteobayesError):
    """An error that carries all the problems found, one a line."""

    what = "the input"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.sort_key)
        super().__init__(str(self))

    def __str__(self) -> str:
        n = len(self.problems)
        head = f"{n} {'problem' if n == 1 else 'problems'} in {self.what}:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


class EvidenceError(_ProblemsError):
    """The datasets do not follow the format or contradict themselves."""

    what = "the evidence"


class PriorError(_ProblemsError):
    """The prior files do not follow the format or contradict themselves."""

    what = "the priors"


class RegimenError(OsteobayesError):
    """A regimen text that cannot be read, or a therapy that is not known."""


class RunError(OsteobayesError):
    """A run that cannot be started, resumed or read."""


class LockedError(RunError):
    """A run on which another process works."""


class Interrupted(BaseException):
    """A run that ended before it was done, because it was asked to, and can be resumed; the text says how.

    Not an error: what isolates the failures of many fits lets it pass.
    """
