"""Rockchip's toolkits: where they are installed, and one conversion in a process of its own.

Neither can share an environment with the planner (NumPy below 2, protobuf 4), so they are never imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from piqi_planner.vendor.errors import VendorError
from piqi_planner.vendor.rknn_reports import LayerCycles, LayerError, last_complaint, read_cycles, read_errors
from piqi_runtime.config_files import CONFIGS
from piqi_runtime.model import Array

DRIVER = Path(__file__).with_name("rknn_driver.py")
TIMEOUT_S = 1800.0

Method = Literal["channel", "layer"]


@dataclass(frozen=True)
class ToolkitKind:
    """A generation of the toolkit. `opset`: of the ONNX that it takes."""

    generation: Literal[1, 2]
    name: str
    opset: int
    folder: str
    variable: str
    install: str


TOOLKIT_1 = ToolkitKind(
    1,
    "RKNN-Toolkit 1.7",
    11,
    ".rknn1-env",
    "PIQI_RKNN1_ENV",
    "it is not on PyPI: take rknn_toolkit-1.7.*.whl from https://github.com/rockchip-linux/rknn-toolkit/releases, "
    "install it with `pip` into a virtual environment of the Python that the wheel's name says (3.6)",
)
TOOLKIT_2 = ToolkitKind(2, "RKNN-Toolkit2", 12, ".rknn-env", "PIQI_RKNN_ENV", "`make rknn-env` creates it")

#: Target platform -> toolkit.
TARGETS = {
    **dict.fromkeys(("rk1806", "rk1808", "rk3399pro", "rv1109", "rv1126"), TOOLKIT_1),
    **dict.fromkeys(("rk3562", "rk3566", "rk3568", "rk3576", "rk3588"), TOOLKIT_2),
}


@dataclass(frozen=True)
class Conversion:
    """What a toolkit made of one ONNX file.

    `outputs`: for each inspected frame the outputs in the file's order, as the simulator gives them (float32, layouts
    of ONNX).
    """

    toolkit_version: str
    outputs: tuple[tuple[Array, ...], ...]
    cycles: tuple[LayerCycles, ...]
    layer_errors: tuple[LayerError, ...]


def find_target(target: str) -> ToolkitKind:
    """The toolkit of a target platform. Raises VendorError."""
    if target not in TARGETS:
        raise VendorError(f"target: expected one of {', '.join(sorted(TARGETS))}, got {target!r}")
    return TARGETS[target]


def find_python(kind: ToolkitKind, folder: str | os.PathLike[str] | None = None) -> Path:
    """The interpreter of the toolkit's virtual environment: in `folder`, the environment variable's, or the checkout's.

    Raises VendorError, which says what to install.
    """
    named = folder or os.environ.get(kind.variable)
    folders = [Path(named)] if named else [Path(kind.folder), CONFIGS.parent / kind.folder]
    for place in folders:
        python = place.absolute() / "bin" / "python"
        if python.is_file():
            return python
    looked = " and ".join(str(place) for place in dict.fromkeys(place.absolute() for place in folders))
    raise VendorError(
        f"{kind.name}: no virtual environment in {looked}: {kind.install}; another place: {kind.variable}=FOLDER"
    )


def convert(
    target: str,
    onnx: Path,
    rknn: Path,
    frames: Sequence[Sequence[Array]],
    log: Path,
    scratch: Path,
    method: Method = "channel",
    inspected: int = 4,
    timeout_s: float = TIMEOUT_S,
    python: Path | None = None,
) -> Conversion:
    """Converts `onnx` to the file `rknn`, quantised by `frames`, and runs some of them on the simulator.

    `frames`: for each frame the file's inputs, in its order and layouts; the first `inspected` are run. `log`
    gets all that the toolkit prints; `scratch`: an empty folder for all else.
    Raises VendorError naming toolkit, step and log.
    """
    kind = find_target(target)
    python = python or find_python(kind)
    scratch = scratch.absolute()
    job = {
        "generation": kind.generation,
        "target": target,
        "onnx": str(onnx.absolute()),
        "method": method,
        "frames": [_save(frame, scratch / f"frame_{i}") for i, frame in enumerate(frames)],
        "inspected": inspected,
        "rknn": str(rknn.absolute()),
        "scratch": str(scratch),
        "result": str(scratch / "result.json"),
    }
    (scratch / "job.json").write_text(json.dumps(job))
    what = f"{kind.name}, {onnx.name} for {target}"
    with log.open("wb") as file:
        status = _run(
            [str(python), str(DRIVER), str(scratch / "job.json")], file.fileno(), timeout_s, f"{what} (log: {log})"
        )
    text = log.read_text(errors="replace")
    try:
        result: dict[str, Any] = json.loads((scratch / "result.json").read_text())
    except (OSError, ValueError):
        raise VendorError(f"{what}: died with status {status}: {last_complaint(text)} (log: {log})") from None
    if "error" in result:
        raise VendorError(f"{what}: {result['stage']}: {last_complaint(result['error'])} (log: {log})")
    analysis = result["analysis"]
    return Conversion(
        result["version"],
        tuple(tuple(np.load(file) for file in files) for files in result["outputs"]),
        read_cycles(text),
        read_errors(Path(analysis).read_text(errors="replace")) if analysis else (),
    )


def _save(arrays: Sequence[Array], stem: Path) -> list[str]:
    files = [f"{stem}_{i}.npy" for i in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        if any(character.isspace() for character in file):  # the toolkit's list of files is separated by blanks
            raise VendorError(f"{file}: the toolkit cannot read a path with blanks")
        np.save(file, np.ascontiguousarray(array, np.float32))
    return files


def _run(command: list[str], log: int, timeout_s: float, what: str) -> int:
    """Runs a program with all that it prints in `log`; its whole process group ends with it."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    except OSError as error:
        raise VendorError(f"{command[0]}: {error.strerror}") from error
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise VendorError(f"{what}: did not finish in {timeout_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
