"""Converts one ONNX file with Rockchip's toolkit and runs it on the toolkit's simulator.

A program of its own, for the interpreter of the toolkit's virtual environment, which may be as old as Python 3.6:

    python rknn_driver.py JOB.json

The job (JSON): `generation` 1 (`rknn.api` of RKNN-Toolkit 1.7) or 2; `target`; `onnx`; `method`, how weights share
scales: `channel` or `layer`; `frames`: for each frame the .npy file of each input; `inspected`: how many of the frames
go through the simulator; `rknn`, the file to write; `scratch`, a folder for all else; `result`, the JSON file that says
how it went: `version`, `outputs` (for each of those frames the .npy file of each output), `analysis` (the per-layer
text file, if there is one), or `stage` and `error`.

All that the toolkit prints goes to file descriptors 1 and 2, past Python: the caller keeps it. No device is looked for.
"""

import json
import os
import sys
import traceback
from typing import Any

import numpy as np


class StageError(Exception):
    """A step of the conversion that failed."""


def main(path: str) -> int:
    """Does the job; 0 if it is done."""
    with open(path) as file:
        job = json.load(file)
    os.chdir(job["scratch"])  # the toolkit leaves its intermediate graphs wherever it runs
    result: Any = {"stage": "import"}
    try:
        _convert(job, result)
    except BaseException as error:
        traceback.print_exc()
        result["error"] = str(error) or type(error).__name__  # the toolkit exits where others raise
    with open(job["result"], "w") as file:
        json.dump(result, file)
    return 1 if "error" in result else 0


def _convert(job: "dict[str, Any]", result: "dict[str, Any]") -> None:
    from rknn.api import RKNN

    result["version"] = _version()
    modern = job["generation"] == 2
    rknn = RKNN(verbose=True)

    def done(status: Any, following: str) -> None:
        if status not in (0, None):
            raise StageError(f"returned {status}")
        result["stage"] = following

    with open("dataset.txt", "w") as file:
        file.write("".join(" ".join(frame) + "\n" for frame in job["frames"]))
    result["stage"] = "config"
    if modern:
        done(rknn.config(target_platform=job["target"], quantized_method=job["method"]), "load")
    else:
        done(rknn.config(target_platform=[job["target"]], quantized_dtype="asymmetric_quantized-u8"), "load")
    done(rknn.load_onnx(model=job["onnx"]), "build")
    done(rknn.build(do_quantization=True, dataset="dataset.txt"), "export")
    done(rknn.export_rknn(job["rknn"]), "simulator")
    done(rknn.init_runtime(), "inference")  # without a target: the simulator
    result["outputs"] = [_infer(rknn, frame, i, modern) for i, frame in enumerate(job["frames"][: job["inspected"]])]
    result["stage"] = "analysis"
    inputs = job["frames"][0] if modern else _first_line("dataset.txt", "first.txt")
    done(rknn.accuracy_analysis(inputs=inputs, output_dir="analysis"), "release")
    table = os.path.abspath(os.path.join("analysis", "error_analysis.txt"))
    result["analysis"] = table if os.path.exists(table) else None
    rknn.release()


def _infer(rknn: Any, frame: "list[str]", number: int, modern: bool) -> "list[str]":
    arrays = [np.load(file) for file in frame]
    formats = ["nchw" if array.ndim == 4 else "nhwc" for array in arrays]
    outputs = rknn.inference(inputs=arrays, data_format=formats if modern else formats[0])
    if outputs is None:
        raise StageError("gave no outputs")
    files = [os.path.abspath(f"output_{number}_{i}.npy") for i in range(len(outputs))]
    for file, output in zip(files, outputs):  # noqa: B905  Python 3.6
        np.save(file, np.asarray(output))
    return files


def _first_line(source: str, target: str) -> str:
    with open(source) as file, open(target, "w") as copy:
        copy.write(file.readline())
    return target


def _version() -> str:
    """ "2.5.0", from the installed package."""
    try:
        from importlib.metadata import distributions

        versions = {package.metadata["Name"]: package.version for package in distributions()}
    except ImportError:  # before Python 3.8
        import pkg_resources

        versions = {package.key: package.version for package in pkg_resources.working_set}
    return str(versions.get("rknn-toolkit2") or versions.get("rknn-toolkit", "unknown"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
