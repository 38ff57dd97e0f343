"""Points and processors that failed: left alone, and tried again after a growing pause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]

FIRST_PAUSE_S = 1.0
#: Pauses double: what recovers is back within twice the time that it was away, or within an hour.
LONGEST_PAUSE_S = 3600.0


@dataclass
class _Case:
    """A point or a processor that failed. `suspects`: the points to try it with, in turn."""

    suspects: Sequence[int]
    pause_s: float
    due_s: float
    attempts: int = 0


@dataclass(frozen=True)
class Probe:
    """What to try, and with which point. `what`: a point's index or a processor's letter."""

    what: int | str
    point: int


@dataclass
class Quarantine:
    """Of n points. `uses`: bool [n, processors], `letters` names the columns. The caller locks."""

    uses: Bools
    letters: str
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S
    _cases: dict[int | str, _Case] = field(default_factory=dict)
    _pauses_s: dict[int | str, float] = field(default_factory=dict)  # of those that were let go, should they return

    @property
    def points(self) -> list[int]:
        """Points that failed themselves."""
        return sorted(what for what in self._cases if isinstance(what, int))

    @property
    def processors(self) -> str:
        """Letters of the processors that failed."""
        return "".join(letter for letter in self.letters if letter in self._cases)

    def excluded(self) -> Bools:
        """bool [n]: points that failed or use a processor that did."""
        columns = [self.letters.index(letter) for letter in self.processors]
        result = np.asarray(self.uses[:, columns].any(axis=1))
        result[self.points] = True
        return result

    def excludes(self, point: int) -> bool:
        """Whether that point is excluded; the fallback (-1) never is."""
        return point in self._cases or any(letter in self._cases for letter in self.letters_of(point))

    def letters_of(self, point: int) -> str:
        """The processors that a point uses; "" of the fallback (-1)."""
        if point < 0:
            return ""
        return "".join(letter for letter, used in zip(self.letters, self.uses[point], strict=True) if used)

    def add(self, point: int, processors: Iterable[str], now_s: float) -> None:
        """A point failed (-1: one that is not in the table), and these processors are blamed for it."""
        for letter in processors:
            others = np.flatnonzero(self.uses[:, self.letters.index(letter)])
            # First the point that failed; then others, should it be the point's fault alone.
            spread = others[np.linspace(0, len(others) - 1, min(len(others), 8)).astype(int)] if len(others) else []
            suspects = list(dict.fromkeys([*([point] if point >= 0 else []), *map(int, spread)]))
            if suspects:
                self._put(letter, suspects, now_s)
        if point >= 0:
            self._put(point, [point], now_s)

    def next_due_s(self) -> float | None:
        """When the next probe is due."""
        return min((case.due_s for case in self._cases.values()), default=None)

    def due(self, now_s: float) -> Probe | None:
        """A probe that is due. A point waits until its processors are well."""
        for what, case in sorted(self._cases.items(), key=lambda item: item[1].due_s):
            if case.due_s > now_s:
                break
            if isinstance(what, int) and any(letter in self._cases for letter in self.letters_of(what)):
                case.due_s = now_s + self.first_pause_s
                continue
            return Probe(what, case.suspects[case.attempts % len(case.suspects)])
        return None

    def passed(self, probe: Probe) -> None:
        """It ran: what was tried is let go, and the point and all processors that it ran with."""
        for what in (probe.what, probe.point, *self.letters_of(probe.point)):
            if case := self._cases.pop(what, None):
                self._pauses_s[what] = case.pause_s

    def failed(self, probe: Probe, now_s: float) -> None:
        """It did not run: the pause doubles."""
        if case := self._cases.get(probe.what):
            case.attempts += 1
            case.pause_s = min(2 * case.pause_s, self.longest_pause_s)
            case.due_s = now_s + case.pause_s

    def healthy(self, point: int) -> None:
        """Frames run at this point for long: its past is forgotten."""
        for what in (point, *self.letters_of(point)):
            self._pauses_s.pop(what, None)

    def _put(self, what: int | str, suspects: Sequence[int], now_s: float) -> None:
        # What failed soon after it was let go rests longer than the time before.
        before_s = self._pauses_s.pop(what, None)
        pause_s = self.first_pause_s if before_s is None else min(2 * before_s, self.longest_pause_s)
        if what not in self._cases:
            self._cases[what] = _Case(suspects, pause_s, now_s + pause_s)
