"""``planner table FRONT...``: fronts to the table that a board's daemon reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from piqi_planner.front import FrontError, read_front
from piqi_planner.search.front import non_dominated_3d
from piqi_runtime.boards import Board, load_board
from piqi_runtime.table import (
    AccuracyMetric,
    OperatingPoint,
    ParetoTable,
    TableError,
    TableLayers,
    first_problem,
    save_table,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("table", help="merge fronts into a table of operating points")
    parser.add_argument("fronts", nargs="+", type=Path, metavar="FRONT", help="CSV files of fronts")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, a JSON file")
    parser.add_argument("--board", required=True, help="a board of configs/boards, or a file")
    parser.add_argument("--model", required=True, metavar="NAME", help="the model's name")
    parser.add_argument("--layers", type=int, metavar="N", help="how many it has (default: what the orders have)")
    parser.add_argument("--metric", required=True, metavar="NAME", help="what accuracy is: top-1, mAP...")
    parser.add_argument("--float-accuracy", type=float, required=True, metavar="X", help="of the float32 model, in %%")
    parser.add_argument("--int8-accuracy", type=float, required=True, metavar="Y", help="with all layers int8, in %%")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Merges, drops what is dominated, checks against the board, writes."""
    points = [point for path in arguments.fronts for point in read_front(path)]
    if not points:
        raise FrontError(f"{arguments.fronts[0]}: expected operating points, got none")
    for name in ("float_accuracy", "int8_accuracy"):
        if 0 < getattr(arguments, name) <= 1:
            option = name.replace("_", "-")
            raise TableError(f"--{option}: expected percent like the fronts', got {getattr(arguments, name)}")
    try:
        table = make_table(
            points,
            load_board(arguments.board),
            arguments.model,
            AccuracyMetric(name=arguments.metric, float32=arguments.float_accuracy, int8=arguments.int8_accuracy),
            arguments.layers,
        )
    except ValidationError as error:
        raise TableError(f"{arguments.out}: {first_problem(error)}") from error
    save_table(table, arguments.out)
    print(f"{arguments.out}: {len(table.points)} operating points of the {len(points)} given")


def make_table(
    points: Iterable[OperatingPoint], board: Board, model: str, metric: AccuracyMetric, layers: int | None = None
) -> ParetoTable:
    """A table of those of `points` that no other dominates.

    Of a run configuration that is there twice what was measured counts, then what came first. `layers`: by
    default as many as the first order has. Raises TableError, or pydantic's ValidationError, where points do not
    fit the layers or the board.
    """
    known: dict[tuple[str, str], OperatingPoint] = {}
    for point in sorted(points, key=lambda point: point.cost_provenance != "measured"):
        known.setdefault((point.order, point.freqs), point)
    distinct = list(known.values())
    columns = np.array([(point.latency_ms, point.power_mw, point.accuracy) for point in distinct]).T
    kept = [distinct[place] for place in non_dominated_3d(*columns)]
    kept.sort(key=lambda point: (point.latency_ms, point.power_mw, -point.accuracy))
    table = ParetoTable(
        board=board.name,
        model=model,
        layers=TableLayers(count=len(distinct[0].order) if layers is None else layers, letters=board.letters),
        accuracy_metric=metric,
        points=tuple(kept),
    )
    table.check_board(board)
    return table
