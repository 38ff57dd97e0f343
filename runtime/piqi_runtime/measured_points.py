"""Whole run configurations that were measured on a board, as a CSV file: a row for each measurement.

    model,order,freqs,latency_ms,power_mw,energy_mj,frames,latency_std_ms,temperature_c

Only `order`, `freqs` and `latency_ms` must be there; other columns are ignored. A configuration may have several rows.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from piqi_runtime.container import write_atomically
from piqi_runtime.profile_tables import ProfileError, read_lines

#: Relative difference that is allowed between energy and latency x power: their means may be of different frames.
ENERGY_TOLERANCE = 0.01
_REQUIRED = ("order", "freqs", "latency_ms")
_TEXTS = ("model", "order", "freqs")
_FREQS = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?( [0-9]{1,4}(-[0-9]{1,4})?)*")


@dataclass(frozen=True)
class MeasuredPoint:
    """A run configuration with what it cost on the board: means of `frames` frames in switching mode.

    - `model`: its name ("": not told); `order`, `freqs` as in a table;
    - `power_mw`: of the whole board, on average; `energy_mj`: of one frame; None: no meter. One follows from the other;
    - `latency_std_ms`: standard deviation of a frame's latency; `temperature_c`: the highest of the board's zones.

    Raises ProfileError: field, what is expected, value.
    """

    model: str
    order: str
    freqs: str
    latency_ms: float
    power_mw: float | None = None
    energy_mj: float | None = None
    frames: int | None = None
    latency_std_ms: float | None = None
    temperature_c: float | None = None

    def __post_init__(self) -> None:
        if not (self.order.isascii() and self.order.isalpha() and self.order.isupper()):
            raise ProfileError(f"order: expected a letter for each layer, got {self.order!r}")
        if not _FREQS.fullmatch(self.freqs) or len(self.freqs.split(" ")) != len(self.order):
            raise ProfileError(f"freqs: expected {len(self.order)} indices for order {self.order}, got {self.freqs!r}")
        for name in ("latency_ms", "power_mw", "energy_mj", "frames"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ProfileError(f"{name}: expected a finite number above zero, got {value}")
        if self.latency_std_ms is not None and not 0 <= self.latency_std_ms < math.inf:
            raise ProfileError(
                f"latency_std_ms: expected a finite number that is not negative, got {self.latency_std_ms}"
            )
        if self.temperature_c is not None and not math.isfinite(self.temperature_c):
            raise ProfileError(f"temperature_c: expected a finite number, got {self.temperature_c}")
        self._complete()

    def _complete(self) -> None:
        if self.power_mw is None and self.energy_mj is not None:
            object.__setattr__(self, "power_mw", self.energy_mj / self.latency_ms * 1e3)
        elif self.power_mw is not None:
            energy_mj = self.latency_ms * self.power_mw / 1e3
            if self.energy_mj is None:
                object.__setattr__(self, "energy_mj", energy_mj)
            elif abs(self.energy_mj - energy_mj) > ENERGY_TOLERANCE * energy_mj:
                raise ProfileError(
                    f"energy_mj: expected latency x power, {energy_mj:.6g}, within {ENERGY_TOLERANCE:.0%}, "
                    f"got {self.energy_mj}"
                )


COLUMNS = tuple(field.name for field in fields(MeasuredPoint))


def read_measured(path: str | os.PathLike[str]) -> list[MeasuredPoint]:
    """The rows of a file, at least one, in its order. Raises ProfileError."""
    return [point for _, point in read_measured_lines(path)]


def read_measured_lines(path: str | os.PathLike[str]) -> list[tuple[int, MeasuredPoint]]:
    """The same, each row with the number of its line."""
    optional = [name for name in COLUMNS if name not in _REQUIRED]
    lines = read_lines(Path(path), _REQUIRED, optional)
    if not lines:
        raise ProfileError(f"{path}: has no rows")
    columns = (*_REQUIRED, *optional)
    return [(line, _point(f"{path}:{line}", dict(zip(columns, cells, strict=True)))) for line, cells in lines]


def write_measured(path: str | os.PathLike[str], points: Iterable[MeasuredPoint]) -> None:
    """Writes a file that is there as a whole or not at all. Raises ProfileError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in astuple(point)] for point in points)
    try:
        write_atomically(path, [text.getvalue().encode()])
    except OSError as cause:
        raise ProfileError(f"{path}: {cause.strerror}") from cause


def _point(where: str, cells: dict[str, str]) -> MeasuredPoint:
    values: dict[str, Any] = {name: _parse(name, text, where) for name, text in cells.items()}
    try:
        return MeasuredPoint(**values)
    except ProfileError as cause:
        raise ProfileError(f"{where}: {cause}") from cause


def _parse(name: str, text: str, where: str) -> str | float | None:
    if name in _TEXTS:
        return text
    if not text and name not in _REQUIRED:
        return None
    try:
        return int(text) if name == "frames" else float(text)
    except ValueError:
        raise ProfileError(f"{where}: {name}: expected a number, got {text!r}") from None
