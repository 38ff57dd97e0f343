"""Calibrations as JSON files. Arrays are lists of numbers, so that other tools can read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_planner.quantise.calibrate import Calibration
from piqi_planner.quantise.errors import CalibrationError
from piqi_planner.quantise.observers import ObserverName
from piqi_planner.quantise.statistics import BINS, ChannelStatistics
from piqi_runtime.container import write_atomically

MAX_FILE_BYTES = 1 << 30


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Statistics(_Strict):
    minimum: list[float]
    maximum: list[float]
    low: list[float] | None = None
    width: list[float] | None = None
    counts: list[list[int]] | None = None

    def to_statistics(self) -> ChannelStatistics:
        """Raises ValueError if the arrays do not fit each other."""
        minimum, maximum = np.array(self.minimum), np.array(self.maximum)
        low, width, counts = (None if part is None else np.array(part) for part in (self.low, self.width, self.counts))
        histogram = (low, width, counts)
        if len({len(minimum), len(maximum), *(len(part) for part in histogram if part is not None)}) != 1:
            raise ValueError("the statistics of one tensor have different numbers of channels")
        if any(part is None for part in histogram) != all(part is None for part in histogram):
            raise ValueError("a histogram needs low, width and counts")
        if counts is not None and counts.shape != (len(minimum), BINS):
            raise ValueError(f"counts have the shape {counts.shape}, expected {(len(minimum), BINS)}")
        return ChannelStatistics(minimum, maximum, low, width, counts)


class _Taps(_Strict):
    shape: list[int]
    values: list[float]


class _Calibration(_Strict):
    model_hash: str
    frames: int = Field(ge=1)
    observer: ObserverName
    percentile: float = Field(gt=50, le=100)
    statistics: dict[str, _Statistics]
    tap_means: dict[str, _Taps]


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Writes `calibration` as JSON, atomically. Raises CalibrationError naming the file."""

    def listed(array: Any) -> Any:
        return None if array is None else array.tolist()

    parts = ("minimum", "maximum", "low", "width", "counts")
    document = _Calibration(
        model_hash=calibration.model_hash,
        frames=calibration.frames,
        observer=calibration.observer,
        percentile=calibration.percentile,
        statistics={
            name: _Statistics.model_validate({part: listed(getattr(known, part)) for part in parts})
            for name, known in calibration.statistics.items()
        },
        tap_means={
            name: _Taps(shape=list(means.shape), values=means.ravel().tolist())
            for name, means in calibration.tap_means.items()
        },
    )
    try:
        write_atomically(path, [document.model_dump_json(exclude_none=True).encode()])
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror}") from error


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Reads what `save_calibration` wrote. Raises CalibrationError naming the file and the field."""
    try:
        if (size := Path(path).stat().st_size) > MAX_FILE_BYTES:
            raise CalibrationError(f"{path}: {size} bytes are more than the {MAX_FILE_BYTES} a calibration may have")
        document = _Calibration.model_validate_json(Path(path).read_bytes())
        return Calibration(
            document.model_hash,
            document.frames,
            document.observer,
            document.percentile,
            {name: known.to_statistics() for name, known in document.statistics.items()},
            {name: np.array(taps.values).reshape(taps.shape) for name, taps in document.tap_means.items()},
        )
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        raise CalibrationError(f"{path}: {field}: {first['msg']}") from error
    except ValueError as error:
        raise CalibrationError(f"{path}: {error}") from error
