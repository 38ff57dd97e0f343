"""The plain files that stages leave."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from piqi_planner.accuracy import read_samples
from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piqi_planner.evaluation.evaluator import Evaluator

_COLUMNS = ("standard_error", "lower_bound", "difference", "difference_standard_error", "difference_lower_bound")


class FileError(PiqiError):
    """A stage's file that cannot be written. Names it."""


def write(path: Path, data: bytes) -> None:
    """Atomically. Raises FileError."""
    try:
        write_atomically(path, [data])
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Atomically. Raises FileError."""
    write(path, json.dumps(value, indent=1).encode() + b"\n")


def write_frames(path: Path, frames: Mapping[str, npt.NDArray[Any]]) -> None:
    """Arrays by name as .npz, without time stamps: the same frames give the same bytes."""
    data = io.BytesIO()
    np.savez(data, **frames)  # type: ignore[arg-type]
    write(path, data.getvalue())


def write_samples(path: Path, masks: npt.NDArray[np.bool_], evaluator: Evaluator) -> None:
    """Masks [n, layers] with their measured accuracies: a file that `planner fit-accuracy` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["quantised_layers", "accuracy", *_COLUMNS])
    for mask in masks:
        summary = evaluator.summary(mask)
        layers = " ".join(str(layer) for layer in np.flatnonzero(mask))
        writer.writerow([layers, summary.value, *(getattr(summary, name) for name in _COLUMNS)])
    write(path, text.getvalue().encode())


def read_masks(path: Path, layers: int) -> npt.NDArray[np.bool_]:
    """The masks of such a file. Raises AccuracyError."""
    return read_samples(path, layers, "accuracy").masks
