"""What every power meter offers: samples on the host's clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

Times = npt.NDArray[np.int64]  # ns of time.monotonic_ns(), the executor's clock
Powers = npt.NDArray[np.float64]
Self = TypeVar("Self", bound="PowerMeter")


class MeterError(PiqiError):
    """A meter that cannot be opened, has fallen silent, or whose samples cannot be used."""


@dataclass(frozen=True)
class Quality:
    """How much of a recording arrived, and how well the meter's clock was fitted."""

    lines: int = 0  # that were good
    bad_lines: int = 0  # noise, wrong checksums
    lost_lines: int = 0  # by the gaps in sequence numbers; those lost around a reset cannot be counted
    resets: int = 0
    marks: int = 0  # that the host made
    marks_matched: int = 0  # of them, those whose edge the meter saw
    drift_ppm: tuple[float, ...] = ()  # of the meter's clock against the host's, an entry between two resets
    residual_us: float = 0.0  # median distance of edges from marks after the fit; 0 without marks


@dataclass(frozen=True)
class Recording:
    """Samples in order of time; sample `i` is the average power over the `window_ns[i]` that end at `time_ns[i]`.

    `time_ns`, `window_ns`: int64 [samples]; `power_mw`: float64 [samples]; `marker`: int64 [samples], the meter's
    count of marker edges at the sample (starts again from 0 when the meter resets; 0 for meters without a marker).
    Where windows leave a piece of time uncovered, samples are missing.
    """

    time_ns: Times
    window_ns: Times
    power_mw: Powers
    marker: Times
    quality: Quality = field(default_factory=Quality)

    @property
    def mean_mw(self) -> float:
        """Average power over what the samples cover. Raises MeterError if there are none."""
        covered = int(self.window_ns.sum())
        if covered == 0:
            raise MeterError("power meter: no samples")
        return float((self.power_mw * self.window_ns).sum() / covered)


def empty_recording(quality: Quality | None = None) -> Recording:
    """A recording without samples."""
    none = np.zeros(0, np.int64)
    return Recording(none, none, np.zeros(0), none, quality or Quality())


def covered_windows(time_ns: Times) -> Times:
    """The windows of samples that a meter takes back to back, int64 [samples]: no longer than 1.5 usual ones."""
    if len(time_ns) < 2:
        return np.zeros(len(time_ns), np.int64)
    steps = np.diff(time_ns)
    usual = int(np.median(steps))
    windows = np.where(steps <= usual + usual // 2, steps, usual)
    return np.concatenate([[min(usual, int(windows[0]))], windows]).astype(np.int64)


class PowerMeter(ABC):
    """A meter that records from `start` to `stop`, in the background. As a context manager it does both.

    A failure in the background (unplugged, silent) is raised, as one MeterError, by the next `recording`, and by
    `check`; what was recorded before is still to be had with `partial=True`.
    """

    name: str  # for messages: what it is and where

    @abstractmethod
    def start(self) -> None:
        """Begins recording. Raises MeterError if the meter is not there or does not make sense within 2 s."""

    @abstractmethod
    def stop(self) -> None:
        """Ends recording and frees the device; what was recorded stays. May be called twice."""

    @abstractmethod
    def clear(self) -> None:
        """Forgets what has been recorded so far."""

    @abstractmethod
    def check(self) -> None:
        """Raises MeterError if the meter has failed since it was started."""

    @abstractmethod
    def recording(self, marks_ns: Sequence[int] | Times | None = None, *, partial: bool = False) -> Recording:
        """What was recorded since `start` or `clear`, up to now; waits for what is still on its way.

        `marks_ns`: when the host toggled the marker (ns of `time.monotonic_ns`, ascending), all of them since
        `start` or `clear`; a meter with a clock of its own is aligned by them, to some microseconds, and without
        them only by when its lines arrive (late by the line's delay, milliseconds).
        `partial`: what there is, even if the meter has failed.
        Raises MeterError if it has failed or if its edges do not fit the marks.
        """

    def __enter__(self: Self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
