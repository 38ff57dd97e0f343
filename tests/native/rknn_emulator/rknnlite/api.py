"""Stands in for Rockchip's `rknnlite`: the same calls, over the emulated librknnrt.so ($PIQI_RKNN2_LIBRARY).

Like the original it prints instead of raising, and then returns -1 or None.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np


class Attribute(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32),
        ("n_dims", ctypes.c_uint32),
        ("dims", ctypes.c_uint32 * 16),
        ("name", ctypes.c_char * 256),
        ("elements", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 44),
    ]


class Input(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
        ("pass_through", ctypes.c_uint8),
        ("type", ctypes.c_int32),
        ("order", ctypes.c_int32),
    ]


class Output(ctypes.Structure):
    _fields_ = [
        ("want_float", ctypes.c_uint8),
        ("is_preallocated", ctypes.c_uint8),
        ("index", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
    ]


class RKNNLite:
    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1

    def __init__(self, verbose: bool = False) -> None:
        self._library = ctypes.CDLL(os.environ["PIQI_RKNN2_LIBRARY"])
        self._handle = ctypes.c_uint64()
        self._model = b""

    def load_rknn(self, path: str) -> int:
        try:
            self._model = Path(path).read_bytes()
        except OSError as error:
            print(f"E load_rknn: {error}")
            return -1
        return 0

    def init_runtime(self, core_mask: int = NPU_CORE_AUTO) -> int:
        code = self._library.rknn_init(
            ctypes.byref(self._handle), self._model, ctypes.c_uint32(len(self._model)), ctypes.c_uint32(0), None
        )
        if code:
            print(f"E init_runtime: rknn_init: {code}")
            return -1
        return 0

    def inference(self, inputs: list[np.ndarray]) -> list[np.ndarray] | None:
        try:
            return self._inference(inputs)
        except Exception as error:
            print(f"E inference: {error}")
            return None

    def release(self) -> None:
        self._library.rknn_destroy(self._handle)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(self._handle, *arguments)
        if code:
            raise RuntimeError(f"{name}: {code}")

    def _inference(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
        given = (Input * len(arrays))(*(Input(i, a.ctypes.data, a.nbytes, 0, 0, 1) for i, a in enumerate(arrays)))
        self._call("rknn_inputs_set", ctypes.c_uint32(len(arrays)), given)
        self._call("rknn_run", None)
        counts = (ctypes.c_uint32 * 2)()
        self._call("rknn_query", 0, counts, ctypes.c_uint32(8))
        results = []
        for i in range(counts[1]):
            attribute = Attribute(index=i)
            self._call("rknn_query", 2, ctypes.byref(attribute), ctypes.c_uint32(ctypes.sizeof(attribute)))
            results.append(np.empty(attribute.dims[: attribute.n_dims], np.float32))
        wanted = (Output * len(results))(*(Output(1, 1, i, r.ctypes.data, r.nbytes) for i, r in enumerate(results)))
        self._call("rknn_outputs_get", ctypes.c_uint32(len(results)), wanted, None)
        self._call("rknn_outputs_release", ctypes.c_uint32(len(results)), wanted)
        return results
