"""``planner run MODEL``: a network on images, under one run configuration."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from piqi_planner.commands.layers import add_layers_option
from piqi_planner.evaluate import count_correct, npu_scheme, warmed_up
from piqi_planner.images import Fit, Floats, ImageError, ImageSet, Preprocessing, load_image_set
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_planner.progress import progress
from piqi_planner.quantise import OBSERVERS, QuantisedModel, calibrate, quantise
from piqi_runtime import Board, Engine, Executor, Model, PiqiError, Report, load_board
from piqi_runtime.container import write_atomically

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


#: Images that need no more are read before the run, so that throughput is the executor's.
MAX_BYTES_AHEAD = 1 << 30


class RunError(PiqiError):
    """Options that do not fit each other or the model."""

    exit_code = 2


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("run", help="run a model on images under a run configuration")
    parser.add_argument("model", help=".tflite, .h5 or .keras file")
    parser.add_argument("--order", help="one processor's letter a layer, GLLN... (default: all on the first processor)")
    parser.add_argument(
        "--freqs", default="", help="one frequency index a layer, 'own-host' for a GPU (default: the highest)"
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, help="CSV with the columns file and label (default: DIR/labels.csv)")
    parser.add_argument("--calibrate", type=Path, help="images to quantise with (default: those that are run)")
    parser.add_argument("--calibration-frames", type=int, default=100, help="how many of them (default: 100)")
    parser.add_argument("--observer", choices=OBSERVERS, default="minmax", help="rule for ranges (default: minmax)")
    parser.add_argument(
        "--preprocess",
        choices=get_args(Preprocessing),
        default="signed",
        help="pixels as [-1, 1] (default), [0, 1] or [0, 255]",
    )
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="images of another size (default: crop)")
    parser.add_argument("--board", default="host", help="a board of configs/boards, or a file (default: host)")
    add_layers_option(parser)
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="frames in flight (default: 1)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="go through the images N times")
    parser.add_argument("--limit", type=int, metavar="N", help="only N of the images, evenly spread")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome/Perfetto trace of the frames")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints accuracy, latency and where the time goes."""
    for name in ("pipeline", "repeat", "limit", "calibration_frames"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise RunError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    board = load_board(arguments.board)
    model = assign_layers(import_model(arguments.model), parse_layers(arguments.layers))
    if len(model.inputs) != 1:
        raise RunError(f"{arguments.model}: has {len(model.inputs)} inputs, images fill one")
    images = load_image_set(arguments.images, arguments.labels)
    if arguments.limit:
        images = images.sample(arguments.limit)
    order = arguments.order or board.processors[0].letter * model.layer_count
    quantised = None
    if any(p.letter in order for p in board.processors if p.kind == "npu"):
        quantised = _quantise(arguments, model, board, images)
        model = quantised.float_model
    with (
        Engine(model, board, root="/") as engine,
        engine.executor(
            order,
            arguments.freqs,
            quantised.partition if quantised else (),
            frames_in_flight=arguments.pipeline,
            recorded_frames=len(images) * arguments.repeat,
            measure_kernels=True,
        ) as executor,
    ):
        accuracy = _run(arguments, executor, model, images)
        report = executor.report()
    if arguments.trace:
        trace = report.to_trace(f"{model.name} {order}", board.letters)
        write_atomically(arguments.trace, [json.dumps(trace).encode()])
    _print(arguments, report, accuracy)


def _quantise(arguments: argparse.Namespace, model: Model, board: Board, images: ImageSet) -> QuantisedModel:
    if arguments.calibrate:
        images = load_image_set(arguments.calibrate)
    else:
        print("note: calibrated on the images that are run; --calibrate names others", file=sys.stderr)
    images = images.sample(arguments.calibration_frames)
    frames = progress(_frames(arguments, model, images), len(images), "calibrating")
    calibration = calibrate(model, frames, arguments.observer, threads=len(os.sched_getaffinity(0)))
    return quantise(model, calibration, npu_scheme(board))


def _frames(arguments: argparse.Namespace, model: Model, images: ImageSet) -> Iterator[Floats]:
    return images.batches(model.tensors[model.inputs[0]].shape, arguments.preprocess, arguments.fit)


def _run(arguments: argparse.Namespace, executor: Executor, model: Model, images: ImageSet) -> float | None:
    """Runs the images; the accuracy where there are labels and a classifier."""
    repeat: int = arguments.repeat
    passes: Iterable[Iterable[Floats]] = (_frames(arguments, model, images) for _ in range(repeat))
    if len(images) * model.tensors[model.inputs[0]].size_bytes <= MAX_BYTES_AHEAD:
        passes = [list(progress(_frames(arguments, model, images), len(images), "reading"))] * repeat
    frames = chain.from_iterable(passes)
    count = len(images) * repeat
    if images.labels is None or len(model.outputs) != 1:
        for _ in progress(executor.stream(warmed_up(executor, frames)), count, "running"):
            pass
        return None
    classes = model.tensors[model.outputs[0]].shape[-1]
    if max(images.labels) >= classes:
        raise ImageError(f"{arguments.images}: label {max(images.labels)}, but the model has {classes} outputs")
    return count_correct(executor, frames, np.tile(images.labels, repeat), "running") / count


def _print(arguments: argparse.Namespace, report: Report, accuracy: float | None) -> None:
    if arguments.json:
        latency_ms = {key: round(us / 1e3, 6) for key, us in vars(report.latency_us).items()}
        values: dict[str, Any] = {"model": str(arguments.model), "accuracy": accuracy, "latency_ms": latency_ms}
        print(json.dumps(values | report.to_dict(), indent=1))
        return
    print(f"order      {report.order}\nfreqs      {report.freqs}")
    print(f"frames     {report.frames} in {report.sub_graphs} sub-graphs")
    if accuracy is not None:
        print(f"accuracy   {accuracy:.2%} top-1")
    latency = report.latency_us
    print(f"latency    {latency.median / 1e3:.3f} ms median, {latency.p99 / 1e3:.3f} ms p99")
    print(f"throughput {report.throughput_fps:.1f} frames/s\n")
    print(report.to_text())
