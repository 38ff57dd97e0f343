"""``planner kit``: what is copied to a board to profile a model there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from piqi_planner.build.options import BuildOptions, make_options
from piqi_planner.build.pipeline import Build
from piqi_planner.build.stages import file_hash
from piqi_planner.images import Fit, Preprocessing
from piqi_planner.progress import StageBars
from piqi_planner.quantise import OBSERVERS
from piqi_runtime.bundle import Bundle, BundleInput, BundleOutput, write_kit
from piqi_runtime.partition import Partition

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: Stages with the share of the time that each usually takes.
STAGES = {"import": 0.1, "calibrate": 0.6, "kit": 0.3}
PAIRS = 4

Range = tuple[int, int]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "kit", help="make what a board needs to be profiled: float model and NPU partitions of every layer"
    )
    defaults = {name: field.default for name, field in BuildOptions.model_fields.items()}
    parser.add_argument("model", type=Path, metavar="MODEL", help=".tflite, .h5 or .keras file")
    parser.add_argument("--board", required=True, help="a board of configs/boards, or a file")
    parser.add_argument(
        "--calibrate", type=Path, required=True, metavar="DIR", help="images that show the range of every tensor"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the kit's folder")
    parser.add_argument("--name", metavar="M", help="the model's name in the profile (default: the file's)")
    parser.add_argument("--layers", default=defaults["layers"], metavar="conv|block|CUTS", help="what a layer is")
    parser.add_argument("--preprocess", default=defaults["preprocess"], choices=get_args(Preprocessing))
    parser.add_argument("--fit", default=defaults["fit"], choices=get_args(Fit), help="images of another size")
    parser.add_argument("--calibration-frames", type=int, default=defaults["calibration_frames"], metavar="N")
    parser.add_argument("--observer", default=defaults["observer"], choices=OBSERVERS, help="rule for ranges")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder of the stages' files (default: OUT.work)")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Makes the kit; says what is in it and what to do next."""
    given = {name: value for name, value in vars(arguments).items() if name in BuildOptions.model_fields}
    options = make_options({**given, "evaluate": arguments.calibrate})
    with StageBars(STAGES) as bars, Build(options, bars) as build:
        build.run("calibrate")
        with bars.stage("kit") as progress:
            kit = make_kit(build, progress)
    size_mib = sum(entry.size_bytes for entry in kit.manifest.files.values()) / 2**20
    print(f"model   {kit.manifest.model}, {kit.manifest.layer_count} layers, for {kit.manifest.board}")
    print(f"kit     {options.out}: {len(kit.ranges)} partitions, {size_mib:.1f} MiB")
    print(f"next    on the board: piqictl profile {options.out.name} --meter ... --out profile")


def make_kit(build: Build, progress: Callable[[float], None]) -> Bundle:
    """Writes the kit of a build that has calibrated. Raises PiqiError."""
    options, model = build.options, build.quantised.float_model
    shape = model.tensors[model.inputs[0]].shape
    ranges = kit_ranges(model.layer_count)

    def partitions() -> Iterator[Partition]:
        for number, (first, last) in enumerate(ranges):
            yield build.quantised.partition(first, last)
            progress((number + 1) / len(ranges))

    return write_kit(
        options.out,
        name=options.model_name,
        board=build.board,
        model=model,
        partitions=partitions(),
        input=BundleInput(
            name=model.inputs[0],
            shape=shape,
            preprocessing=options.preprocess,
            fit=options.fit,
            colour="grey" if shape[-1] == 1 else "rgb",
        ),
        outputs=[BundleOutput(name=name, shape=model.tensors[name].shape) for name in model.outputs],
        how_built={
            "options": options.plain("layers", "preprocess", "fit", "calibration_frames", "observer"),
            "model_sha256": file_hash(options.model),
        },
        extra_files={"calibration/frames.npz": build.path("frames.npz")},
    )


def kit_ranges(layer_count: int) -> list[Range]:
    """Every single layer; then all, halves, quarters and some pairs, to learn how a layer's time depends on its run."""
    ranges = [(layer, layer) for layer in range(layer_count)]
    for parts in (1, 2, 4):
        borders = [round(part * layer_count / parts) for part in range(parts + 1)]
        ranges += [(first, last - 1) for first, last in pairwise(borders)]
    steps = max(1, (layer_count - 1) // PAIRS)
    ranges += [(first, first + 1) for first in range(0, layer_count - 1, steps)][:PAIRS]
    return list(dict.fromkeys(span for span in ranges if span[0] <= span[1]))
