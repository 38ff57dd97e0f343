"""Writes what the tests under emulation need and only a workstation can make: networks, frames, LiteRT's outputs.

    prepare_networks.py FOLDER [MODEL.tflite]

For each network NAME.piqi (the network), NAME.npz (frame and LiteRT's output) and NAME-FIRST-LAST.piqi (partitions).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from piqi_planner import zoo
from piqi_planner.importer import import_tflite
from piqi_planner.layers import assign_layers
from piqi_planner.quantise import calibrate, quantise
from piqi_runtime.container import save_model
from piqi_runtime.model import Model


def litert(data: bytes, frame: np.ndarray) -> np.ndarray:
    """The output of LiteRT for one frame."""
    interpreter: Any = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], frame)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def prepare(name: str, data: bytes, folder: Path, *, partitions: bool = False) -> None:
    """Writes the files of one network, made of a TensorFlow Lite file's bytes."""
    model: Model = assign_layers(import_tflite(data, name))
    frame = np.random.default_rng(0).uniform(-1, 1, model.tensors[model.inputs[0]].shape).astype(np.float32)
    save_model(model, folder / f"{name}.piqi")
    np.savez(folder / f"{name}.npz", frame=frame, litert=litert(data, frame))
    if not partitions:
        return
    quantised = quantise(model, calibrate(model, [{model.inputs[0]: frame}]), equalise=False)
    last = model.layer_count - 1
    for first, end in ((0, 3), (4, last - 4), (last - 3, last)):
        quantised.partition(first, end).save(folder / f"{name}-{first}-{end}.piqi")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, width in (("mobilenet_v1", 0.25), ("mobilenet_v2", 0.35)):
        prepare(name, zoo.build_tflite(name, 64, width), folder, partitions=True)
    for path in sys.argv[2:]:
        prepare("published", Path(path).read_bytes(), folder)


if __name__ == "__main__":
    main()
