"""``planner prepare BUNDLE --npu rknn``: a bundle's partitions in the form that the NPU's own library loads."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from piqi_planner.progress import progress
from piqi_planner.vendor.errors import VendorError
from piqi_planner.vendor.prepare import INSPECTED_FRAMES, PreparedPartition, prepare_partitions
from piqi_planner.vendor.toolkit import TIMEOUT_S, find_target
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import Bundle, add_files, load_bundle
from piqi_runtime.model import Array, Model

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

FRAMES = "calibration/frames.npz"
BACKENDS = {"rknn1", "rknn2"}


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("prepare", help="compile a bundle's partitions with the NPU vendor's toolkit")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--npu", required=True, choices=["rknn"], help="whose NPU")
    parser.add_argument("--board", metavar="BOARD", help="a board of configs/boards, or a file (default: the bundle's)")
    parser.add_argument("--target", metavar="NAME", help="the toolkit's platform: rk3566... (default: the board's)")
    parser.add_argument("--frames", type=Path, metavar="FILE", help=f"inputs, .npz (default: the bundle's {FRAMES})")
    parser.add_argument(
        "--inspect",
        type=int,
        default=INSPECTED_FRAMES,
        metavar="N",
        help="how many frames to run on the toolkit's simulator (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="for one partition (default: %(default)g s)"
    )
    parser.add_argument("--again", action="store_true", help="also those that have been prepared")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prepares what is missing, adds each to the bundle, prints how near it is."""
    if arguments.inspect < 1:
        raise VendorError(f"--inspect: expected at least 1, got {arguments.inspect}")
    bundle = load_bundle(arguments.bundle, kits=True)
    board = load_board(arguments.board or bundle.manifest.board)
    target = arguments.target or board_target(board)
    find_target(target)
    missing = [
        bundle.partition(first, last)
        for first, last in bundle.ranges
        if arguments.again or not bundle.vendor_file(first, last, target)
    ]
    if not bundle.ranges:
        raise VendorError(f"{arguments.bundle}: no operating point of its table uses an NPU")
    frames = load_frames(arguments.frames or bundle.root / FRAMES, bundle.model)
    folder = Path(tempfile.mkdtemp(prefix="piqi-prepare-"))
    try:
        done = prepare_partitions(
            bundle.model, missing, frames, target, folder, arguments.inspect, timeout_s=arguments.timeout
        )
        prepared = []
        for one in progress(done, len(missing), f"preparing for {target}"):
            add_to_bundle(bundle, one)
            prepared.append(one)
    except VendorError as error:
        if any(folder.iterdir()):
            print(f"planner: what there is was left in {folder}", file=sys.stderr)
        else:
            folder.rmdir()
        raise error
    shutil.rmtree(folder)
    print_report(prepared, len(bundle.ranges) - len(missing), target)


def board_target(board: Board) -> str:
    """The platform of the board's NPU. Raises VendorError."""
    processors = [processor for processor in board.processors if processor.backend in BACKENDS]
    targets = {processor.rknn_target for processor in processors if processor.rknn_target}
    if len(targets) != 1:
        letters = ", ".join(processor.letter for processor in processors) or "none"
        raise VendorError(
            f"board {board.name}: expected an NPU with rknn_target, got {letters} with "
            f"{', '.join(sorted(targets)) or 'none'}: name one with --target"
        )
    return min(targets)


def load_frames(path: Path, model: Model) -> dict[str, Array]:
    """The arrays [frames, ...] by input name in an .npz file; of a single input under any name. Raises VendorError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            frames = {name: np.asarray(file[name]) for name in file.files}
    except OSError as error:
        raise VendorError(f"{path}: {error.strerror or error}: no frames to quantise by; see --frames") from error
    except (ValueError, BadZipFile, AttributeError) as error:
        raise VendorError(f"{path}: expected arrays of frames (.npz): {error}") from error
    if len(frames) == len(model.inputs) == 1:
        return dict(zip(model.inputs, frames.values(), strict=True))
    return frames


def add_to_bundle(bundle: Bundle, one: PreparedPartition) -> None:
    """The compiled partition under `vendor/`, report and log under `report/vendor/`. Raises PiqiError."""
    report = f"report/vendor/{one.target}/{one.file.stem}"
    file = f"vendor/{one.target}/{one.file.name}"
    add_files(
        bundle.root,
        {
            file: one.file,
            f"{report}.json": json.dumps(one.to_json(), indent=1).encode() + b"\n",
            f"{report}.log": one.log,
        },
        vendor={(one.first_layer, one.last_layer): {one.target: file}},
    )


def print_report(prepared: Sequence[PreparedPartition], kept: int, target: str) -> None:
    """A line for each output: how near simulator, emulated NPU and float are."""
    if prepared:
        print(f"{prepared[0].toolkit}, {target}; quantised by {prepared[0].frames} frames")
        print(f"cosine and largest error, of the output's span, over the first {prepared[0].inspected}:")
        print(
            f"{'layers':>9}  {'cycles':>9}  {'simulator-float':>20}  {'simulator-emulated':>20}  {'emulated-float':>20}"
        )
    for one in prepared:
        for output in one.outputs:
            pairs = (output.simulator_to_float, output.simulator_to_emulated, output.emulated_to_float)
            cells = (f"{pair.cosine:.5f} {pair.max_error / (output.span or 1):8.2%}" for pair in pairs)
            text = "  ".join(f"{cell:>20}" for cell in cells)
            layers = f"{one.first_layer}-{one.last_layer}"
            print(f"{layers:>9}  {one.total_cycles or '-':>9}  {text}  {output.name[:40]}")
    print(f"{len(prepared)} partitions prepared, {kept} had been")
