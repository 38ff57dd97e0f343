"""Accuracy of 8-bit networks on real images: ours beside LiteRT's own post-training quantisation of the same model.

python benchmarks/quantisation_accuracy.py [--data DIR] [--calibration N] [--limit N] [--observer NAME]

MobileNetV1-0.75 on the 1000 images of the reference data, N of them, evenly spread, for calibration. Wanted: per
channel within 1 point of LiteRT's, per tensor within 3 points of per channel. `float change`: the largest difference
that equalisation makes to any probability of the float network.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

import piqi_native
from piqi_planner.images import load_image_set
from piqi_planner.importer import import_model
from piqi_planner.importer.keras import tensorflow
from piqi_planner.quantise import OBSERVERS, SCHEMES, calibrate, quantise
from piqi_runtime.model import Model

Array = npt.NDArray[Any]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = "mobilenet_v1_0.75_224"
LITERT_LIMIT, PER_TENSOR_LIMIT = 0.01, 0.03


def ours(model: Model) -> Callable[[Array], Array]:
    """Runs `model`, quantised or not, on float frames [n, H, W, C]; gives [n, classes]."""
    interpreter = piqi_native.Interpreter(model.to_graph(), threads=len(os.sched_getaffinity(0)))
    name, output = model.inputs[0], model.tensors[model.outputs[0]]
    tensor = model.tensors[name]

    def run(frames: Array) -> Array:
        if tensor.scales:
            limits = np.iinfo(tensor.dtype)
            steps = np.rint(frames / np.float32(tensor.scales[0])) + tensor.zero_point
            frames = np.clip(steps, limits.min, limits.max).astype(tensor.dtype)
        results = np.concatenate(
            [interpreter.run({name: frames[i : i + 1]})[output.name].copy() for i in range(len(frames))]
        )
        if not output.scales:
            return results
        return np.asarray((results.astype(np.float32) - output.zero_point) * np.float32(output.scales[0]))

    return run


def litert(data: bytes) -> Callable[[Array], Array]:
    """The same by LiteRT's interpreter."""
    interpreter = Interpreter(model_content=data, num_threads=len(os.sched_getaffinity(0)))
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(frames: Array) -> Array:
        results = []
        for i in range(len(frames)):
            interpreter.set_tensor(source, frames[i : i + 1])
            interpreter.invoke()
            results.append(interpreter.get_tensor(target))
        return np.concatenate(results)

    return run


def litert_quantised(path: Path, frames: Array, per_channel: bool) -> bytes:
    """LiteRT's int8 post-training quantisation of a Keras file."""
    tf = tensorflow()
    keras = tf.keras.models.load_model(path, compile=False)
    call = tf.function(lambda x: keras(x, training=False))
    function = call.get_concrete_function(tf.TensorSpec((1, *frames.shape[1:]), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]

    def representative() -> Iterator[list[Array]]:
        for i in range(len(frames)):
            yield [frames[i : i + 1]]

    converter.representative_dataset = representative
    converter._experimental_disable_per_channel = not per_channel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


def main() -> None:
    """Prints the table; fails if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="reference data (default: ../shared/data)")
    parser.add_argument("--calibration", type=int, default=100, help="calibration images (default: 100)")
    parser.add_argument("--limit", type=int, help="only so many of the images, evenly spread")
    parser.add_argument("--observer", choices=OBSERVERS, default="minmax")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: no reference data in {arguments.data}")
        return
    model = import_model(arguments.data / "models" / f"{MODEL}.tflite")
    shape = model.tensors[model.inputs[0]].shape
    images = load_image_set(arguments.data / "images" / "imagenet1000")
    calibration_frames = np.concatenate(list(images.sample(arguments.calibration).batches(shape)))
    if arguments.limit:
        images = images.sample(arguments.limit)
    frames, labels = np.concatenate(list(images.batches(shape))), np.array(images.labels)
    print(f"{MODEL}: {len(frames)} images, {len(calibration_frames)} for calibration, observer {arguments.observer}\n")
    print(f"{'':44}{'top-1 %':>8}{'- float':>9}{'s':>8}")
    top1: dict[str, float] = {}

    def show(title: str, run: Callable[[Array], Array], started: float) -> Array:
        seconds = time.perf_counter() - started
        probabilities = run(frames)
        top1[title] = float((probabilities.argmax(axis=1) == labels).mean())
        difference = 100 * (top1[title] - top1["float"])
        print(f"{title:44}{100 * top1[title]:8.1f}{difference:9.1f}{seconds:8.1f}", flush=True)
        return probabilities

    expected = show("float", ours(model), time.perf_counter())
    for scheme in SCHEMES:
        started = time.perf_counter()
        keras = arguments.data / "models" / f"{MODEL}.h5"
        data = litert_quantised(keras, calibration_frames, scheme == "per_channel")
        show(f"LiteRT {scheme}", litert(data), started)
    started = time.perf_counter()
    calibration = calibrate(model, [calibration_frames], arguments.observer, threads=len(os.sched_getaffinity(0)))
    print(f"{'calibration':44}{'':17}{time.perf_counter() - started:8.1f}")
    for scheme in SCHEMES:
        for equalise, correct_bias in ((False, False), (True, False), (False, True), (True, True)):
            if scheme == "per_channel" and equalise:
                continue
            started = time.perf_counter()
            quantised = quantise(model, calibration, scheme, equalise, correct_bias)
            extras = [name for name, used in (("equalised", equalise), ("bias corrected", correct_bias)) if used]
            show(", ".join([f"ours {scheme}", *extras]), ours(quantised.model), started)
    changed = show("ours float, equalised", ours(quantised.float_model), started)
    print(f"\nfloat change: {np.abs(changed - expected).max():.1e}")
    per_channel = top1["ours per_channel, bias corrected"]
    per_tensor = top1["ours per_tensor, equalised, bias corrected"]
    print(f"per channel - LiteRT's: {100 * (per_channel - top1['LiteRT per_channel']):+.1f} points")
    print(f"per tensor - per channel: {100 * (per_tensor - per_channel):+.1f} points")
    if per_channel < top1["LiteRT per_channel"] - LITERT_LIMIT or per_tensor < per_channel - PER_TENSOR_LIMIT:
        raise SystemExit("a figure is missed")


if __name__ == "__main__":
    main()
