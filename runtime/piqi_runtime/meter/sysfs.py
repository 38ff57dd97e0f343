"""Power sensors that the kernel knows, read again and again. Base of the hwmon and iio meters."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from piqi_runtime.meter.background import BackgroundMeter
from piqi_runtime.meter.base import MeterError, Quality, Recording, Times, covered_windows

MAX_MW = 1e6

Reader = Callable[[], float]  # mW; raises OSError or ValueError


def read_number(path: Path) -> float:
    """The number that a file holds. Raises OSError or ValueError."""
    return float(path.read_bytes())


def chip_name(folder: Path) -> str:
    """What the driver calls the device of a sysfs folder."""
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return folder.name


class SysfsMeter(BackgroundMeter):
    """Adds up the named sensors; by default the one that reads most, which is the one before all others.

    The sensor's own averaging and update interval limit what can be told apart: a board with update intervals of tens
    of milliseconds gives the power of whole frames, not of layers.

    `names`: those to add up. `interval_s`: between two reads. Raises MeterError if there is none.
    """

    kind: ClassVar[str]  # as `open_meter` names it

    def __init__(
        self, names: Sequence[str] = (), *, interval_s: float = 0.005, root: str | os.PathLike[str] = "/"
    ) -> None:
        super().__init__()
        sensors = self.sensors(Path(root))
        what = f"{self.kind} power meter"
        if not interval_s > 0:
            raise MeterError(f"{what}: interval_s: expected more than 0, got {interval_s}")
        if not sensors:
            raise MeterError(f"{what}: no power sensor found")
        for name in names:
            if name not in sensors:
                raise MeterError(f"{what}: sensor {name}: expected one of {', '.join(sorted(sensors))}")
        if not names:
            names = [max(sensors, key=lambda name: _reading(sensors[name]))]
        self.name = f"{what} {'+'.join(names)}"
        self._readers = [sensors[name] for name in names]
        self._interval_s = interval_s
        self._times: list[int] = []
        self._powers: list[float] = []
        self._bad = 0
        self._next_s = 0.0
        self._why = "no reading yet"

    @staticmethod
    @abstractmethod
    def sensors(root: Path) -> dict[str, Reader]:
        """The sensors that there are below `root`, by their names."""

    def _open(self) -> None:
        with self._changed:
            self._times, self._powers, self._bad = [], [], 0
        self._next_s = time.monotonic()

    def _close(self) -> None:
        pass

    def _step(self) -> None:
        self._stopping.wait(max(0.0, self._next_s - time.monotonic()))
        self._next_s = max(self._next_s + self._interval_s, time.monotonic())
        began_ns = time.monotonic_ns()
        try:
            power_mw = sum(reader() for reader in self._readers)
            if not 0 <= power_mw <= MAX_MW:
                raise ValueError(f"expected 0 to {MAX_MW:g} mW, got {power_mw:g}")
        except (OSError, ValueError) as error:
            with self._changed:
                self._bad += 1
                self._why = str(error)
            return
        now_ns = time.monotonic_ns()
        with self._changed:
            self._times.append((began_ns + now_ns) // 2)
            self._powers.append(power_mw)
            self._good(now_ns)

    def _complaint(self) -> str:
        return f"cannot be read: {self._why}"

    def clear(self) -> None:
        with self._changed:
            self._times, self._powers, self._bad = [], [], 0

    def recording(self, marks_ns: Sequence[int] | Times | None = None, *, partial: bool = False) -> Recording:
        self._settle(partial)
        with self._changed:
            time_ns, power_mw = np.array(self._times, np.int64), np.array(self._powers, np.float64)
            quality = Quality(lines=len(time_ns), bad_lines=self._bad, marks=0 if marks_ns is None else len(marks_ns))
        return Recording(time_ns, covered_windows(time_ns), power_mw, np.zeros(len(time_ns), np.int64), quality)


def _reading(reader: Reader) -> float:
    try:
        return reader()
    except (OSError, ValueError):
        return -1.0
