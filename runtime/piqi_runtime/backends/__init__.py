"""The vendors' libraries of this machine, as the executor takes them."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Set

import piqi_native
from piqi_runtime.backends.rknnlite import RknnLite
from piqi_runtime.boards import Board, Processor

__all__ = ["AnyBackend", "RknnLite", "available_backends"]

#: In C++, or in Python.
AnyBackend = piqi_native.NativeBackend | piqi_native.Backend

#: Entry points by a backend's name: functions of the board that give it, or None where it is not here.
PLUG_INS = "piqi.backends"

#: Backend -> what loads it for a processor, and the variable that names the library's file where it is not in its usual
#: place.
_LOADERS: dict[str, tuple[Callable[[str, Processor], piqi_native.VendorBackend], str, str]] = {
    "rknn1": (lambda path, _: piqi_native.rknn1_backend(path), "PIQI_RKNN1_LIBRARY", "librknn_api.so"),
    "rknn2": (
        lambda path, npu: piqi_native.rknn2_backend(path, core_mask=npu.core_mask or 0),
        "PIQI_RKNN2_LIBRARY",
        "librknnrt.so",
    ),
}

#: Float16 on the GPU instead of float32, where it is "1".
HALF = "PIQI_ARMCL_HALF"

_logger = logging.getLogger(__name__)


def available_backends(board: Board) -> dict[str, AnyBackend]:
    """Those of the board's backends whose library can be loaded here, by name.

    Without the library itself, Rockchip's Python package `rknnlite` takes its place, then a plug-in (`PLUG_INS`).
    What is there but cannot be used is logged as a warning with the reason.
    """
    found: dict[str, AnyBackend] = {}
    for name, processor in {p.backend: p for p in board.processors if p.backend in _LOADERS}.items():
        load, variable, usual = _LOADERS[name]
        path = os.environ.get(variable)
        try:
            found[name] = load(path or usual, processor)
        except piqi_native.BackendError as error:
            missing = path is None and f"{usual}: cannot open shared object file" in str(error)
            _logger.log(logging.INFO if missing else logging.WARNING, "%s", error)
            if missing and importlib.util.find_spec("rknnlite"):
                found[name] = RknnLite(processor.core_mask)
    found |= _arm_backends(board)
    missing_names = {processor.backend for processor in board.processors} - found.keys() - {"xnnpack"}
    return found | _plug_ins(board, missing_names) if missing_names else found


def _arm_backends(board: Board) -> dict[str, AnyBackend]:
    """Those on the Arm Compute Library, which are part of the native library or not there at all."""
    used = {processor.backend for processor in board.processors}
    threads = [p.threads or len(p.cpus) for p in board.processors if p.backend == "armcl_neon"]
    found: dict[str, AnyBackend] = {}
    try:
        if threads:
            found["armcl_neon"] = piqi_native.armcl_neon_backend(max(threads))
        if "armcl_cl" in used:
            found["armcl_cl"] = piqi_native.armcl_cl_backend(half=os.environ.get(HALF) == "1")
    except piqi_native.BackendError as error:
        missing = "this build has no" in str(error) or "no OpenCL library" in str(error)
        _logger.log(logging.INFO if missing else logging.WARNING, "%s", error)
    return found


def _plug_ins(board: Board, names: Set[str]) -> dict[str, AnyBackend]:
    from importlib.metadata import entry_points  # here: it takes a twentieth of the daemon's start

    found: dict[str, AnyBackend] = {}
    for entry in entry_points(group=PLUG_INS):
        if entry.name not in names - found.keys():
            continue
        try:
            backend = entry.load()(board)
        except Exception as error:  # whatever others' code raises
            _logger.warning("plug-in %s for backend %s: %s", entry.value, entry.name, error)
            continue
        if backend is not None:
            found[entry.name] = backend
    return found
