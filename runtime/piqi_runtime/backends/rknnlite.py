"""Rockchip's NPUs through the Python package `rknnlite`, for systems that have only that.

It knows no names: inputs and outputs are matched by their place, which is the partition's. It converts and copies
float32 itself. Instead of raising it prints and returns a code or None; here these are errors. While it runs it may
hold the GIL.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

import piqi_native
from piqi_native.backend import Array, Floats
from piqi_runtime.errors import PiqiError


class RknnLiteError(PiqiError):
    """`rknnlite` is missing or failed; what it printed says why."""


class RknnLite:
    """A backend over `rknnlite.api.RKNNLite`. `core_mask`: one of its `NPU_CORE_...`; None: as it likes."""

    def __init__(self, core_mask: int | None = None) -> None:
        self._core_mask = core_mask

    def prepare(self, sub_graph: piqi_native.SubGraph, input_names: list[str], output_names: list[str]) -> _Prepared:
        """Loads the partition's file. Raises RknnLiteError."""
        partition = sub_graph.partition
        if partition is None or not partition.vendor_file:
            raise RknnLiteError("no file was prepared for this board's NPU: `planner prepare` does that")
        graph = partition.graph
        inputs = graph.inputs if graph else input_names
        outputs = graph.outputs if graph else output_names
        return _Prepared(partition.vendor_file, inputs, outputs, self._core_mask)


class _Prepared:
    """A loaded partition."""

    def __init__(self, file: str, inputs: list[str], outputs: list[str], core_mask: int | None) -> None:
        self._file, self._inputs, self._outputs = file, inputs, outputs
        try:
            self._lite: Any = import_module("rknnlite.api").RKNNLite()
        except ImportError as error:
            raise RknnLiteError(f"rknnlite: {error}") from error
        try:
            self._expect(self._lite.load_rknn(file), "load_rknn")
            options = {} if core_mask is None else {"core_mask": core_mask}
            self._expect(self._lite.init_runtime(**options), "init_runtime")
        except BaseException:
            self.close()
            raise

    def run(self, inputs: dict[str, Floats]) -> dict[str, Array]:
        """One frame: float32 NHWC by tensor name. Raises RknnLiteError."""
        # Copies: what it is given is only valid, and may not be written, during this call.
        results = self._lite.inference(inputs=[np.array(inputs[name]) for name in self._inputs])
        if results is None:
            raise RknnLiteError(f"{self._file}: inference: failed without saying why (it returned None)")
        if len(results) != len(self._outputs):
            raise RknnLiteError(f"{self._file}: inference: expected {len(self._outputs)} outputs, got {len(results)}")
        return {name: _from_nchw(result) for name, result in zip(self._outputs, results, strict=True)}

    def close(self) -> None:
        """Unloads it."""
        self._lite.release()

    def _expect(self, code: object, call: str) -> None:
        if code != 0:
            raise RknnLiteError(
                f"{self._file}: {call}: failed with {code}: is the file for this board and of the library's version?"
            )


def _from_nchw(array: Array) -> Array:
    result = np.asarray(array, dtype=np.float32)
    return np.ascontiguousarray(result.transpose(0, 2, 3, 1) if result.ndim == 4 else result)
