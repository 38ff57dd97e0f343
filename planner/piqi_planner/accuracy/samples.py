"""Samples of accuracy: networks of which some layers are quantised, evaluated on a data set."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from piqi_planner.accuracy.base import AccuracyError, Floats, Masks


@dataclass(frozen=True, eq=False)
class Samples:
    """Masks [n, layers], true where a layer is quantised, and their accuracy in percent [n]."""

    masks: Masks
    accuracy_percent: Floats
    metric: str = "accuracy"

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.masks.shape[1])

    def take(self, places: npt.NDArray[np.integer]) -> Samples:
        """The samples at `places`."""
        return Samples(self.masks[places], self.accuracy_percent[places], self.metric)


def read_samples(path: str | os.PathLike[str], layers: int, metric: str | None = None) -> Samples:
    """The samples of a CSV file, whatever the order of its rows.

    First column: the quantised layers, numbers from 0 with blanks between them, none if empty. The others are
    metrics, named in the first line; `metric` chooses one, the first by default. A column without a value
    above 1 holds fractions, any other percent. A sample that occurs twice counts once. Raises AccuracyError.
    """
    path = Path(path)
    if layers < 1:
        raise AccuracyError(f"{path}: the number of layers must be at least 1, got {layers}")
    head, rows = _read_rows(path)
    if len(head) < 2:
        raise AccuracyError(f"{path}:1: expected quantised layers and at least one metric, got {','.join(head)!r}")
    name = metric or head[1]
    if head[1:].count(name) != 1:
        raise AccuracyError(f"{path}:1: metric {name!r}: expected one of {', '.join(head[1:])}")
    column = head.index(name, 1)
    seen: dict[tuple[int, ...], tuple[float, int]] = {}
    for line, cells in rows:
        if len(cells) != len(head):
            raise AccuracyError(f"{path}:{line}: expected {len(head)} cells, got {len(cells)}")
        quantised = _parse_layers(cells[0], layers, f"{path}:{line}: {head[0]}")
        value = _parse_accuracy(cells[column], f"{path}:{line}: {name}")
        first, first_line = seen.setdefault(quantised, (value, line))
        if first != value:
            raise AccuracyError(
                f"{path}:{line}: {head[0]} {cells[0]!r}: {name} is {value:g} here, but {first:g} in line {first_line}"
            )
    if not seen:
        raise AccuracyError(f"{path}: has no samples")
    masks = np.zeros((len(seen), layers), np.bool_)
    for mask, quantised in zip(masks, seen, strict=True):
        mask[list(quantised)] = True
    accuracy = np.array([value for value, _ in seen.values()])
    return Samples(masks, accuracy * 100 if accuracy.max() <= 1 else accuracy, name)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise AccuracyError(f"{path}: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise AccuracyError(f"{path}: is not UTF-8 text, byte {cause.start}") from cause
    reader = csv.reader(io.StringIO(text))
    try:
        head = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as cause:
        raise AccuracyError(f"{path}:{reader.line_num}: {cause}") from cause
    if not head:
        raise AccuracyError(f"{path}: is empty")
    return head, rows


def _parse_layers(text: str, layers: int, where: str) -> tuple[int, ...]:
    numbers = []
    for word in text.split():
        if not (word.isascii() and word.isdecimal()) or int(word) >= layers:
            raise AccuracyError(f"{where}: expected layers from 0 to {layers - 1}, got {word!r}")
        numbers.append(int(word))
    if len(set(numbers)) < len(numbers):
        raise AccuracyError(f"{where}: a layer occurs twice in {text!r}")
    return tuple(sorted(numbers))


def _parse_accuracy(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise AccuracyError(f"{where}: expected a number from 0 to 100, got {text!r}")
    return value
