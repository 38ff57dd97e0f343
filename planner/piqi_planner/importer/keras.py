"""Keras models, by way of TensorFlow's own converter."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from piqi_planner.importer.errors import ModelError


def convert_keras(path: Path) -> bytes:
    """The `.tflite` form of a Keras `.h5` or `.keras` file, batch 1, float32. Raises ModelError.

    Needs tensorflow. Layers with code of their own (Lambda) are not loaded: a model file must not run code.
    """
    model = _load(path)
    open_axes = [tuple(x.shape) for x in model.inputs if None in tuple(x.shape)[1:]]
    if open_axes:
        raise ModelError(f"leaves its input size open: {open_axes[0]}; save it with a fixed input size")
    return to_tflite(model)


def to_tflite(model: Any) -> bytes:
    """The `.tflite` form of a Keras model in memory, batch 1, float32. Raises ModelError."""
    tf = tensorflow()
    try:
        inputs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]
        call = tf.function(lambda *values: model(values if len(values) > 1 else values[0], training=False))
        # Without the model as a second argument the variables are frozen at once: ten times as fast as by way
        # of the SavedModel that from_keras_model() writes.
        function = call.get_concrete_function(*inputs)
        with _quiet():
            return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    except Exception as error:  # the converter raises whatever its passes raise
        raise ModelError(f"TensorFlow cannot convert it: {_first_line(error)}") from error


def tensorflow() -> Any:
    """The tensorflow module. Raises ModelError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ModelError(
            "Keras files are read through tensorflow, which is not installed: "
            "pip install tensorflow, or convert the model to .tflite elsewhere"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter's advice to its own developers from the user's terminal."""
    logging = importlib.import_module("absl.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _load(path: Path) -> Any:
    models = tensorflow().keras.models
    try:
        return models.load_model(path, compile=False)
    except Exception as error:  # h5py, zipfile, json and Keras each have their own
        raise ModelError(f"Keras cannot load it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
