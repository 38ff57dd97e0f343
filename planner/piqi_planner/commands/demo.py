"""``planner demo``: the shipped network on handwritten digits, run here and built for a simulated board."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_planner.build.options import BuildOptions
from piqi_planner.build.pipeline import STAGES, Build
from piqi_planner.build.simulated import simulated
from piqi_planner.commands.build import summary
from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import SIZE, Array, load, write_images
from piqi_planner.demo.serve import FRAMES, MODES, stream
from piqi_planner.evaluate import count_correct, npu_scheme
from piqi_planner.front import single_processor_fronts
from piqi_planner.importer import import_model
from piqi_planner.plots import draw_timelines
from piqi_planner.plots_front import draw_front
from piqi_planner.progress import StageBars
from piqi_planner.quantise import calibrate, quantise
from piqi_runtime import Engine, load_board
from piqi_runtime.bundle import Bundle
from piqi_runtime.report import format_table
from piqi_runtime.table import Objective

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: Title, order, frames in flight.
CONFIGURATIONS = (
    ("all on L", "LLLLLLLLLL", 1),
    ("all on N", "NNNNNNNNNN", 1),
    ("first layers exact", "BBBNNNNNNN", 1),
    ("L, N, G, B in turn", "LLNNNGGNBB", 1),
    ("pipeline of L and B", "LLLLLBBBBB", 3),
    ("pipeline of L, N, B", "LLLNNNNBBB", 4),
)
CALIBRATION_FRAMES = 100
SIMULATED_BOARD = "rk3399pro"
BEST: dict[str, Objective] = {"most frugal": "energy", "fastest": "latency", "most accurate": "accuracy"}


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("demo", help="show what PiQi does, on a small network that it ships")
    parser.add_argument("--board", default="host", help="a board of configs/boards, or a file (default: host)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what it makes (default: demo)")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """The executor under several configurations on this machine, then a whole build for a simulated board."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    frames, labels, test_frames, test_labels = load()
    _run_configurations(arguments, frames, test_frames, test_labels)
    _build(arguments, (frames, labels), (test_frames, test_labels))


def _run_configurations(arguments: argparse.Namespace, frames: Array, test_frames: Array, labels: Array) -> None:
    """Runs the test split under each configuration; prints a table, draws the timelines."""
    board = load_board(arguments.board)
    model = import_model(MODEL)
    calibration = calibrate(model, [frames[:: len(frames) // CALIBRATION_FRAMES]])
    quantised = quantise(model, calibration, npu_scheme(board))
    print(f"{len(test_frames)} handwritten digits, {SIZE}x{SIZE} pixels, on board '{board.name}'\n")
    rows = [("configuration", "order", "sub-graphs", "accuracy", "latency ms", "frames/s")]
    reports = {}
    with Engine(quantised.float_model, board, root="/") as engine:
        for title, order, in_flight in CONFIGURATIONS:
            with engine.executor(order, partitions=quantised.partition, frames_in_flight=in_flight) as executor:
                correct = count_correct(executor, test_frames, labels, order)
                report = executor.report()
            reports[f"{title}: {order}"] = report
            rows.append(
                (
                    title,
                    order,
                    str(report.sub_graphs),
                    f"{correct / len(labels):.2%}",
                    f"{report.latency_us.median / 1e3:.3f}",
                    f"{report.throughput_fps:.0f}",
                )
            )
    print(format_table(rows, left=(0, 1)))
    picture = arguments.out / "timeline.png"
    draw_timelines(reports, board.letters, picture)
    print(f"\nN computes in int8, the others in float32. Timelines: {picture}\n")


def _build(arguments: argparse.Namespace, train: tuple[Array, Array], test: tuple[Array, Array]) -> None:
    """Builds the bundle of the same network for the simulated board; one inference at three of its points."""
    out = arguments.out
    write_images(out / "train", *train, count=CALIBRATION_FRAMES)
    write_images(out / "test", *test)
    options = BuildOptions(
        model=MODEL,
        name="digits",
        board=SIMULATED_BOARD,
        calibrate=out / "train",
        evaluate=out / "test",
        fit="exact",
        calibration_frames=CALIBRATION_FRAMES,
        out=out / "bundle",
    )
    print(f"building a bundle of it for {SIMULATED_BOARD}, which is simulated")
    with StageBars(STAGES) as bars, Build(options, bars) as build:
        build.run()
    table = build.bundle.table
    print(f"{summary(table)}\n")
    front = out / "front.png"
    singles = single_processor_fronts(build.profile, build.cost)
    draw_front(front, table.points, singles, f"{table.model} on {table.board}", table.accuracy_metric.name)
    _infer(build.bundle, test)
    print(f"\npiqid serves it, a camera streams {len(MODES)} x {FRAMES} digits, the policy changes twice:\n")
    print(stream(build.bundle, *test, out / "piqid.log"))
    print(f"\nbundle: {options.out}; its report: {options.out / 'report/report.html'}; the front: {front}")


def _infer(bundle: Bundle, test: tuple[Array, Array]) -> None:
    """One digit at the most frugal, the fastest and the most accurate point."""
    frames, labels = test
    rows = [("one digit at the point that is", "order", "predicted on the board", "is", "recognised as")]
    with Engine(bundle.model, simulated(load_board(bundle.table.board))) as engine:
        for title, objective in BEST.items():
            point = bundle.table.best(objective)
            assert point is not None
            with engine.executor(point.order, point.freqs, bundle.partition) as executor:
                digit = int(executor(frames[0]).argmax())
            cost = f"{point.latency_ms:.2f} ms, {point.energy_mj:.2f} mJ"
            rows.append((title, point.order, cost, str(labels[0]), str(digit)))
    print(format_table(rows, left=(0, 1)))
