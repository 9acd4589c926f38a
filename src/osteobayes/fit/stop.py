"""Ending a run where it can go on: asked by a signal, or because its time is over."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from osteobayes.errors import Interrupted


class Stop:
    """Whether a run is asked to end.

    Parameters
    ----------
    minutes
        How long it may go on, from now; None: as long as it takes.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._until = float("inf") if minutes is None else time.monotonic() + 60.0 * minutes
        self._minutes = minutes
        self._asked: str | None = None
        self._patient = False
        self.run: Path | None = None
        """The run that goes on, for the sentence of a signal."""

    def check(self, run: Path, kept: str, lasts: float = 0.0, again: str = "") -> None:
        """End the run if it was asked to, or if what comes next (seconds) would end after its time.

        ``again``: what continues it (default: ``osteobayes resume``).

        Raises
        ------
        Interrupted
        """
        why = self._asked
        if why is None and time.monotonic() + lasts > self._until:
            why = f"the {self._minutes:g} minutes it was given are over"
        if why is not None:
            raise Interrupted(f"{run}: {why}; {kept}: continue with {again or f'`osteobayes resume {run}`'}")

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """What is computed here is finished and written before a first signal counts (a second one counts at once)."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask the run to end (in the main thread of a process; elsewhere nothing changes)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def asked(number: int, frame: FrameType | None) -> None:
            name = signal.Signals(number).name
            if not self._patient or self._asked is not None:
                raise Interrupted(
                    f"{name}: what was written is kept: continue with `osteobayes resume {self.run or 'RUN'}`"
                )
            self._asked = f"{name} came"

        before = {n: signal.signal(n, asked) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
