"""Fronts as CSV files: ``order,freqs,latency_ms,power_mw,energy_mj,accuracy``, a row for each operating point.

Further columns, which may be missing: those of `OperatingPoint` that have a default.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from piqi_planner.cost import CostModel
from piqi_planner.profile import ModelProfile, format_configuration
from piqi_planner.search.front import Floats, Front, non_dominated
from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError
from piqi_runtime.table import OperatingPoint, first_problem

COLUMNS = tuple(name for name, field in OperatingPoint.model_fields.items() if field.is_required())
FURTHER_COLUMNS = tuple(name for name in OperatingPoint.model_fields if name not in COLUMNS)
_TEXTS = {"order", "freqs", "search", "cost_provenance", "accuracy_provenance"}


class FrontError(PiqiError):
    """A front's file that is missing or wrong; the message names file, line, column and value."""


def operating_points(
    profile: ModelProfile, front: Front, search: str | None = None, seed: int | None = None
) -> list[OperatingPoint]:
    """A search's front as predicted operating points, in its order."""
    columns = (front.latency_ms, front.power_mw, front.energy_mj, front.accuracy)
    return [
        OperatingPoint(
            order=order,
            freqs=freqs,
            latency_ms=latency_ms,
            power_mw=power_mw,
            energy_mj=energy_mj,
            accuracy=min(max(accuracy, 0.0), 100.0),  # a predictor knows no bounds
            search=search,
            seed=seed,
        )
        for (order, freqs), latency_ms, power_mw, energy_mj, accuracy in zip(
            (format_configuration(profile, config) for config in front.configs),
            *(values.tolist() for values in columns),
            strict=True,
        )
    ]


def write_front(path: str | os.PathLike[str], points: Iterable[OperatingPoint]) -> None:
    """Writes a front atomically, with those further columns in which a point differs from the default."""
    rows = [point.model_dump(exclude_defaults=True) for point in points]
    columns = [*COLUMNS, *(name for name in FURTHER_COLUMNS if any(name in row for row in rows))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(path, [text.getvalue().encode()])
    except OSError as error:
        raise FrontError(f"{path}: {error.strerror}") from error


def read_front(path: str | os.PathLike[str]) -> list[OperatingPoint]:
    """Reads a front, in the file's order; it may be empty. Raises FrontError."""
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise FrontError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FrontError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    for name in COLUMNS:
        if name not in header:
            raise FrontError(f"{path}:1: column {name} is missing, got {','.join(header)!r}")
    for name in header:
        if name not in OperatingPoint.model_fields or header.count(name) > 1:
            raise FrontError(
                f"{path}:1: expected each of the columns {','.join(OperatingPoint.model_fields)} at most "
                f"once, got {name!r}"
            )
    points = []
    try:
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(header):
                raise FrontError(f"{path}:{reader.line_num}: expected {len(header)} values, got {len(row)}")
            points.append(_point(f"{path}:{reader.line_num}", dict(zip(header, row, strict=True))))
    except csv.Error as error:
        raise FrontError(f"{path}:{reader.line_num}: {error}") from error
    return points


def single_processor_fronts(
    profile: ModelProfile, cost: CostModel, states: npt.NDArray[np.intp] | None = None
) -> dict[str, tuple[Floats, Floats]]:
    """Each processor's letter -> its front alone, at all frequencies: latency in ms and power in mW, each [n]."""
    chosen = np.arange(len(profile.states)) if states is None else states
    fronts = {}
    for place, letter in enumerate(profile.letters):
        own = chosen[profile.processor_of[chosen] == place]
        if len(own):
            costs = cost.evaluate(np.repeat(own[:, np.newaxis], profile.layer_count, axis=1))
            kept = non_dominated(costs.latency_ms, costs.power_mw)
            fronts[letter] = (costs.latency_ms[kept], costs.power_mw[kept])
    return fronts


def _point(where: str, row: Mapping[str, str]) -> OperatingPoint:
    values: dict[str, Any] = {name: text for name, text in row.items() if text or name in COLUMNS}
    for name, text in values.items():
        parse = str if name in _TEXTS else int if name == "seed" else float
        try:
            values[name] = parse(text)
        except ValueError:
            raise FrontError(f"{where}: {name}: expected a number, got {text!r}") from None
    try:
        return OperatingPoint(**values)
    except ValidationError as error:
        raise FrontError(f"{where}: {first_problem(error)}") from error
