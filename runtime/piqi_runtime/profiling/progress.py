"""A line that says how far a measurement is and how long the rest will take."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SHARE = 0.1  # of the work between two lines where there is no terminal


class Progress:
    """Rewrites one line of a terminal; elsewhere writes a line for each tenth of the work."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = max(total, 1)
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began_s = time.monotonic()
        self._done = self._skipped = 0
        self._shown = 0.0

    def skip(self) -> None:
        """A piece of work was done before: it tells nothing of the time that others take."""
        self._done += 1
        self._skipped += 1

    def advance(self, text: str) -> None:
        """Another piece of work is done: `text` names it."""
        self._done += 1
        share = self._done / self._total
        spent_s = time.monotonic() - self._began_s
        left_s = spent_s / max(self._done - self._skipped, 1) * (self._total - self._done)
        line = f"{share:4.0%}  {_clock(left_s)} left  {text}"
        if self._terminal:
            self._stream.write(f"\r\x1b[K{line[:120]}")
        elif share >= self._shown + SHARE or self._done == self._total:
            self._stream.write(f"{line}\n")
            self._shown = share
        self._stream.flush()

    def say(self, text: str) -> None:
        """Something to know meanwhile."""
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()

    def close(self) -> None:
        """Leaves the terminal's line."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
