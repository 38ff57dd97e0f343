"""The emulated libraries of Rockchip's NPUs (tests/native/rknn_emulator) and the files that they load."""

import ctypes
import fcntl
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_runtime.partition import Partition, vendor_name

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests/native/rknn_emulator"
PACER = ROOT / "tests/simulated_board/native"  # how it asks a simulated board for the time
LIBRARIES = {1: "librknn_api.so", 2: "librknnrt.so"}
TARGETS = {1: "rk3399pro", 2: "rk3588"}
#: Parts of the executor that the emulated NPU needs.
OBJECTS = (
    *("arena_pool", "conversion", "graph", "kernel", "kernel_cache", "operator_sequence", "shape_rules"),
    *("pthreadpool", "thread_pool"),
)
COUNTERS = ("runs", "contexts", "twins", "memories", "imports", "io_memories_set", "passed_through", "copied_bytes")


@cache
def emulator(generation: int) -> Path:
    """The library of a generation, compiled if that was not done since its sources changed."""
    objects = ROOT / f"build/extension-{sys.implementation.cache_tag}/native/src"
    parts = [objects / f"{name}.o" for name in OBJECTS] + sorted(objects.glob("kernel_*.o"))
    sources = [SOURCES / f"{name}.cpp" for name in ("emulator", "network_file", f"rknn{generation}")]
    sources.append(PACER / "pacer.cpp")
    missing = [path.name for path in parts if not path.exists()]
    if missing or shutil.which("g++") is None:
        pytest.skip(f"{missing or 'g++'} missing: `make build` makes the executor's objects")
    made = ROOT / "build/rknn_emulator" / LIBRARIES[generation]
    made.parent.mkdir(parents=True, exist_ok=True)
    with open(made.parent / f".lock{generation}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in [*SOURCES.glob("*.?pp"), *PACER.glob("*.?pp"), *parts])
        if not made.exists() or made.stat().st_mtime < newest:
            _compile(made, sources, parts)
    return made


def _compile(made: Path, sources: list[Path], parts: list[Path]) -> None:
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    folders = ["-Inative/include", "-Inative/src", f"-I{PACER}"]
    libraries = ["-lXNNPACK", "-pthread", "-Wl,--no-undefined"]
    scratch = made.with_suffix(".new")
    files = [str(path) for path in dict.fromkeys([*sources, *parts])]
    command = ["g++", *flags, *folders, *files, *libraries, "-o", str(scratch)]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    scratch.replace(made)


def counters(generation: int) -> dict[str, int]:
    """What the emulator counted so far in this process."""
    function = ctypes.CDLL(str(emulator(generation))).piqi_emulator_counter
    function.restype = ctypes.c_int64
    return {name: function(i) for i, name in enumerate(COUNTERS)}


def configure(generation: int, text: str = "") -> None:
    """What its calls do from now on: "rknn_run=-3 rknn_init=hang run_us=500"."""
    ctypes.CDLL(str(emulator(generation))).piqi_emulator_configure(text.encode())


def write_network(partition: Partition, path: Path, target: str, version: int = 6) -> Path:
    """Stands in for Rockchip's toolkit: the partition in the file format of the emulated library."""
    model = partition.model
    ids = {name: i for i, name in enumerate(model.tensors)}
    lines = ["piqi-rknn", f"target {target}", f"version {version}"]
    lines.append(f"layers {partition.first_layer} {partition.last_layer}")
    constants = b""
    for tensor in model.tensors.values():
        offset = -1
        if tensor.data is not None:
            constants += b"\0" * (-len(constants) % 64)
            offset = len(constants)
            constants += np.ascontiguousarray(tensor.data).tobytes()
        numbers = [*_listed(tensor.scales), *_listed(tensor.shape), offset]
        lines.append(f"tensor {tensor.dtype} {tensor.zero_point} {_text(numbers)} {tensor.name}")
    for op in model.operators:
        ends = _text([op.layer, *_listed([ids[n] for n in op.inputs]), *_listed([ids[n] for n in op.outputs])])
        attributes = [f"{name} {_text(_flat(value))}" for name, value in op.attributes.items()]
        lines.append(" ".join([f"operator {op.kind} {ends} {len(attributes)}", *attributes, op.name]))
    lines += [f"input {ids[name]} {vendor_name(name)}" for name in model.inputs]
    lines += [f"output {ids[name]} {vendor_name(name)}" for name in model.outputs]
    path.write_bytes("\n".join(lines).encode() + b"\nconstants\n" + constants)
    return path


def _flat(value: Any) -> list[Any]:
    return _listed(value) if isinstance(value, list | tuple) else [value]


def _listed(values: Any) -> list[Any]:
    return [len(values), *values]


def _text(numbers: list[Any]) -> str:
    return " ".join(repr(float(n)) if isinstance(n, float) else str(int(n)) for n in numbers)
