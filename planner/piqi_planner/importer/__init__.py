"""Model files in, `piqi_runtime.model.Model` out.

`import_model` reads `.tflite`, and Keras `.h5` and `.keras` where tensorflow is installed. Whatever is wrong
with a file, however it came about, is a `ModelError`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from piqi_planner.importer import compute, elementwise, shaping
from piqi_planner.importer.errors import ModelError
from piqi_planner.importer.flatfile import read_graph
from piqi_planner.importer.keras import convert_keras
from piqi_planner.importer.lowering import lower
from piqi_planner.importer.simplify import simplify
from piqi_planner.layers import assign_layers
from piqi_runtime.model import Model

__all__ = ["ModelError", "import_model", "import_tflite"]

#: The modules whose import registers a lowering for each operator.
LOWERINGS = (compute, elementwise, shaping)


def import_model(path: str | os.PathLike[str]) -> Model:
    """The network in a `.tflite`, `.h5` or `.keras` file, its layers assigned by `conv`.

    Constants of a `.tflite` file are read-only views of the file, which stays mapped as long as they live.
    Raises ModelError, which names the file, if it cannot be read or needs an operator that is not supported.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ModelError("is not a file")
        if path.suffix in (".h5", ".keras"):
            return import_tflite(convert_keras(path), path.stem)
        if path.suffix != ".tflite":
            raise ModelError("is neither .tflite nor .h5 nor .keras")
        if not path.stat().st_size:
            raise ModelError("is empty")
        return import_tflite(np.memmap(path, np.uint8, mode="r"), path.stem)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def import_tflite(data: Any, name: str) -> Model:
    """The network in the bytes of a `.tflite` file, whose memory the constants share. Raises ModelError."""
    return assign_layers(simplify(lower(read_graph(data), name)), "conv")
