"""piqictl measure: what whole operating points really cost on this board."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_runtime.boards import load_board
from piqi_runtime.bundle import Bundle, load_bundle
from piqi_runtime.ctl.profile import add_conditions, conditions_of
from piqi_runtime.measured_points import MeasuredPoint
from piqi_runtime.profiling import Conditions, ProfilingError, measure_points
from piqi_runtime.report import format_table
from piqi_runtime.table import OperatingPoint, ParetoTable, load_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "measure",
        help="measure what operating points really cost",
        epilog="What was measured before an error or a kill is kept beside the output: the same command goes on.",
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="a bundle, or a table file with --kit")
    parser.add_argument("--kit", type=Path, metavar="DIR", help="bundle or kit that has model and partitions")
    parser.add_argument("--points", default="all", metavar="0,3,7", help="of the table (default: %(default)s)")
    parser.add_argument("--board", help="a board of configs/boards, or a file (default: the table's)")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="one row for each point")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=100, metavar="N", help="of a point, in all (default: %(default)s)"
    )
    add_conditions(parser)
    parser.set_defaults(function=_measure)


def _measure(arguments: argparse.Namespace) -> None:
    table, bundle = _load(arguments)
    board = load_board(arguments.board or table.board, arguments.root or "/")
    table.check_board(board)
    for field, expected, got in (
        ("board", board.name, bundle.manifest.board),
        ("layer_count", table.layers.count, bundle.manifest.layer_count),
    ):
        if expected != got:
            raise ProfilingError(f"{bundle.root}: {field}: expected {expected!r} as in the table, got {got!r}")
    numbers = _numbers(arguments.points, len(table.points))
    chosen = [table.points[number] for number in numbers]
    if not 0 < arguments.repeats <= arguments.frames:
        raise ProfilingError(f"--frames: expected one for each of {arguments.repeats} rounds, got {arguments.frames}")
    frames = math.ceil(arguments.frames / arguments.repeats)
    conditions = conditions_of(arguments, arguments.repeats, Conditions.seconds, frames)
    measured, effort = measure_points(bundle, board, chosen, arguments.out, conditions)
    rows: list[tuple[str, ...]] = [("point", "order", "ms", "predicted", "%", "mW", "predicted", "%", "frames")]
    rows += [_row(*both) for both in zip(numbers, chosen, measured, strict=True)]
    print(format_table(rows, left=(1,)))
    print(
        f"\n{arguments.out}: {len(measured)} points; {effort.measured_s:.1f} s of frames, {effort.spent_s:.1f} s in all"
    )


def _load(arguments: argparse.Namespace) -> tuple[ParetoTable, Bundle]:
    path: Path = arguments.table
    if path.is_dir():
        bundle = load_bundle(path)
        return bundle.table, bundle if arguments.kit is None else load_bundle(arguments.kit, kits=True)
    if arguments.kit is None:
        raise ProfilingError(f"--kit: expected the model and partitions to run {path} with")
    return load_table(path), load_bundle(arguments.kit, kits=True)


def _numbers(text: str, count: int) -> list[int]:
    """Of "0,3,7" or "all". Raises ProfilingError."""
    if text == "all":
        return list(range(count))
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and int(part) < count for part in parts):
        raise ProfilingError(f"--points: expected 'all' or numbers from 0 to {count - 1} between commas, got {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _row(number: int, predicted: OperatingPoint, measured: MeasuredPoint) -> tuple[str, ...]:
    power = ("-", f"{predicted.power_mw:.0f}", "-")
    if measured.power_mw is not None:
        error = measured.power_mw / predicted.power_mw - 1
        power = (f"{measured.power_mw:.0f}", f"{predicted.power_mw:.0f}", f"{error:+.1%}")
    return (
        str(number),
        measured.order,
        f"{measured.latency_ms:.3f}",
        f"{predicted.latency_ms:.3f}",
        f"{measured.latency_ms / predicted.latency_ms - 1:+.1%}",
        *power,
        str(measured.frames),
    )
