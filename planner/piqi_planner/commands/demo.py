"""``planner demo``: the shipped network on handwritten digits, under several run configurations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import SIZE, load
from piqi_planner.evaluate import count_correct, npu_scheme
from piqi_planner.importer import import_model
from piqi_planner.plots import draw_timelines
from piqi_planner.quantise import calibrate, quantise
from piqi_runtime import Engine, load_board
from piqi_runtime.report import format_table

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


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("demo", help="show what PiQi does, on a small network that it ships")
    parser.add_argument("--board", default="host", help="a board of configs/boards, or a file (default: host)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture (default: demo)")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Runs the test split under each configuration; prints a table, draws the timelines."""
    frames, _, test_frames, labels = load()
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
    arguments.out.mkdir(parents=True, exist_ok=True)
    picture = arguments.out / "timeline.png"
    draw_timelines(reports, board.letters, picture)
    print(f"\nN computes in int8, the others in float32. Timelines: {picture}")
