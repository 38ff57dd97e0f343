"""The table: the Pareto-optimal operating points of one model on one board, as a JSON file.

docs/table.md describes the file, docs/table.schema.json is its JSON Schema. A file is checked as a whole before
any of it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import piqi_native
from piqi_runtime.boards import Board
from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

#: Relative difference that is allowed between energy and latency x power: files may round their figures.
ENERGY_TOLERANCE = 1e-3
CREATED_BY = f"piqi {piqi_native.__version__}"

Provenance = Literal["predicted", "measured"]
Objective = Literal["latency", "power", "energy", "accuracy"]
Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
_INDEX = "(0|[1-9][0-9]{0,3})"
_TOKEN = f"{_INDEX}(-{_INDEX})?"


class TableError(PiqiError):
    """A table that is missing or wrong, or does not fit its board. Names file, point, field and value."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class OperatingPoint(_Strict):
    """A run configuration with what it costs (whole board, one frame) and how accurate it is (percent).

    - `order`: a letter for each layer; `freqs`: a frequency index for each, "own-host" for a GPU;
    - `accuracy_lower_bound`: what accuracy keeps, with the confidence that the table's metric states;
    - `accuracy_standard_error` (points); `accuracy_difference` to the float model (points), measured on the same
      frames, with its own `accuracy_difference_standard_error`, which is smaller;
    - `search`, `seed`: what found the point.
    """

    order: Annotated[str, Field(pattern="^[A-Z]+$")]
    freqs: Annotated[str, Field(pattern=f"^{_TOKEN}( {_TOKEN})*$")]
    latency_ms: Positive
    power_mw: Positive
    energy_mj: Positive
    accuracy: Percent
    accuracy_lower_bound: Percent | None = None
    accuracy_standard_error: NotNegative | None = None
    accuracy_difference: float | None = None
    accuracy_difference_standard_error: NotNegative | None = None
    cost_provenance: Provenance = "predicted"
    accuracy_provenance: Provenance = "predicted"
    search: Name | None = None
    seed: int | None = None

    @property
    def tokens(self) -> list[str]:
        """The frequencies, one for each layer."""
        return self.freqs.split(" ")

    @model_validator(mode="after")
    def _check(self) -> OperatingPoint:
        if len(self.tokens) != len(self.order):
            raise ValueError(f"freqs: expected {len(self.order)} for order {self.order}, got {len(self.tokens)}")
        energy_mj = self.latency_ms * self.power_mw / 1e3
        if not abs(self.energy_mj - energy_mj) <= ENERGY_TOLERANCE * energy_mj:
            raise ValueError(f"energy_mj: expected latency x power, {energy_mj:.6g}, got {self.energy_mj!r}")
        if self.accuracy_lower_bound is not None and self.accuracy_lower_bound > self.accuracy:
            raise ValueError(
                f"accuracy_lower_bound: expected at most the accuracy, {self.accuracy!r}, "
                f"got {self.accuracy_lower_bound!r}"
            )
        return self


class TableLayers(_Strict):
    """How many layers the model has, and the letters of the processors that they may be mapped to."""

    count: Annotated[int, Field(ge=1)]
    letters: Annotated[str, Field(pattern="^[A-Z]+$")]

    @model_validator(mode="after")
    def _check(self) -> TableLayers:
        if len(set(self.letters)) != len(self.letters):
            raise ValueError(f"letters: a letter is named twice, got {self.letters!r}")
        return self


class AccuracyMetric(_Strict):
    """What `accuracy` means, with its value (percent) for the float32 model and for that with all layers in int8.

    `frames`: on how many it was measured; `confidence`: of the points' bounds.
    """

    name: Name
    float32: Percent
    int8: Percent
    frames: Annotated[int, Field(ge=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None


class ParetoTable(_Strict):
    """Mutually non-dominated operating points, by rising latency (then rising power, falling accuracy).

    A point is dominated if another has at most its latency, at most its power and at least its accuracy.
    """

    schema_version: Literal[1] = 1
    created_by: Name = CREATED_BY
    board: Name
    model: Name
    layers: TableLayers
    accuracy_metric: AccuracyMetric
    points: Annotated[tuple[OperatingPoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> ParetoTable:
        places: dict[tuple[str, str], int] = {}
        hosted: dict[str, bool] = {}  # letter -> whether its tokens name a host's index
        for i, point in enumerate(self.points):
            if len(point.order) != self.layers.count:
                raise ValueError(
                    f"points[{i}].order: expected {self.layers.count} letters, got {len(point.order)}: {point.order!r}"
                )
            for layer, (letter, token) in enumerate(zip(point.order, point.tokens, strict=True)):
                if letter not in self.layers.letters:
                    raise ValueError(
                        f"points[{i}].order: layer {layer}: expected one of {self.layers.letters}, got {letter!r}"
                    )
                if hosted.setdefault(letter, "-" in token) != ("-" in token):
                    raise ValueError(
                        f"points[{i}].freqs: layer {layer}: elsewhere {letter} "
                        f"has {'a' if hosted[letter] else 'no'} host's index, got {token!r}"
                    )
            first = places.setdefault((point.order, point.freqs), i)
            if first != i:
                raise ValueError(f"points[{i}]: the run configuration of points[{first}] again, got {point.order!r}")
        _check_front(self.points)
        return self

    def best(
        self,
        objective: Objective = "energy",
        min_accuracy: float | None = None,
        max_power_mw: float | None = None,
        max_latency_ms: float | None = None,
    ) -> OperatingPoint | None:
        """The point with the best `objective` among those that keep the limits; of equals the fastest."""
        allowed = [
            point
            for point in self.points
            if (min_accuracy is None or point.accuracy >= min_accuracy)
            and (max_power_mw is None or point.power_mw <= max_power_mw)
            and (max_latency_ms is None or point.latency_ms <= max_latency_ms)
        ]
        keys = {
            "latency": lambda point: point.latency_ms,
            "power": lambda point: point.power_mw,
            "energy": lambda point: point.energy_mj,
            "accuracy": lambda point: -point.accuracy,
        }
        return min(allowed, key=keys[objective], default=None)

    def check_board(self, board: Board) -> None:
        """Raises TableError unless every point can be set on `board`: letters, hosts and frequency indices."""
        tops: dict[str, list[int]] = {}  # letter -> highest index of each part of its token
        for processor in board.processors:
            own = [] if processor.kind == "npu" else [processor.opp_count - 1]
            host = [board.processor(processor.host).opp_count - 1] if processor.host else []
            tops[processor.letter] = own + host
        for i, point in enumerate(self.points):
            for layer, (letter, token) in enumerate(zip(point.order, point.tokens, strict=True)):
                where = f"points[{i}].{{}}: layer {layer}: board {board.name}"
                if letter not in tops:
                    raise TableError(f"{where.format('order')} has {board.letters}, got {letter!r}")
                parts, limits = [int(part) for part in token.split("-")], tops[letter]
                if len(parts) != len(limits) or any(part > top for part, top in zip(parts, limits, strict=True)):
                    highest = "-".join(map(str, limits))
                    raise TableError(f"{where.format('freqs')}: {letter} has up to {highest}, got {token!r}")


def load_table(path: str | os.PathLike[str]) -> ParetoTable:
    """Reads and checks a table. Raises TableError, with one line."""
    try:
        return ParetoTable.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise TableError(f"{path}: {first_problem(error)}") from error


def save_table(table: ParetoTable, path: str | os.PathLike[str]) -> None:
    """Writes a table atomically. Raises TableError."""
    try:
        write_atomically(path, [table.model_dump_json(indent=1, exclude_none=True).encode(), b"\n"])
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error


def schema_json() -> str:
    """The file's JSON Schema, the text of docs/table.schema.json."""
    return json.dumps(ParetoTable.model_json_schema(), indent=1) + "\n"


def first_problem(error: ValidationError) -> str:
    """ "points[3].power_mw: Input should be greater than 0, got -2" """
    problem: Mapping[str, Any] = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "value_error":  # a check of several fields names them and their values itself
        return f"{key}.{message}" if key else str(message)
    got = "" if problem["type"] in ("missing", "json_invalid") else f", got {str(problem['input'])[:80]!r}"
    return ": ".join(filter(None, (key, message))) + got


def _check_front(points: Sequence[OperatingPoint]) -> None:
    """Raises ValueError unless the points are sorted and none is dominated."""
    keys = [(point.latency_ms, point.power_mw, -point.accuracy) for point in points]
    for i in range(1, len(keys)):
        if keys[i] < keys[i - 1]:
            before = _figures(points[i - 1])
            raise ValueError(
                f"points[{i}].latency_ms: expected points by rising latency, got {_figures(points[i])} behind {before}"
            )
    values = np.array(keys)
    for i in range(1, len(keys)):
        # In this order only an earlier point can dominate, and it is at least as fast.
        better = np.flatnonzero((values[:i, 1] <= values[i, 1]) & (values[:i, 2] <= values[i, 2]))
        if len(better):
            raise ValueError(f"points[{i}]: points[{better[0]}] dominates it, got {_figures(points[i])}")


def _figures(point: OperatingPoint) -> str:
    return f"{point.latency_ms!r} ms, {point.power_mw!r} mW, accuracy {point.accuracy!r}"
