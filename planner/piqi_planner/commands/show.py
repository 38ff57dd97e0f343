"""``planner show TABLE``: what a table offers."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from piqi_planner.cost import CostName, make_cost
from piqi_planner.front import single_processor_fronts
from piqi_planner.plots_front import draw_front
from piqi_planner.profile import load_profile
from piqi_runtime.report import format_table
from piqi_runtime.table import Objective, OperatingPoint, ParetoTable, TableError, load_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_BEST = {"latency": "fastest", "power": "least power", "energy": "least energy", "accuracy": "most accurate"}
_FIGURES = ("latency_ms", "power_mw", "energy_mj", "accuracy")


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("show", help="summarise a table of operating points")
    parser.add_argument("table", type=Path, help="JSON file of `planner table`")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the front in latency and power")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="draw each processor alone beside it, from this")
    parser.add_argument("--model", metavar="NAME", help="the model's name in the profile (default: the table's)")
    parser.add_argument(
        "--cost", choices=get_args(CostName), default="calibrated", help="cost model of --profile (default: calibrated)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints the table's head, the ranges of its figures and the best points."""
    table = load_table(arguments.table)
    if arguments.profile and not arguments.plot:
        raise TableError("--profile is for --plot, which is missing")
    if arguments.plot:
        _plot(arguments, table)
    if arguments.json:
        print(json.dumps(_to_dict(table), indent=1))
    else:
        print(_to_text(table))


def _plot(arguments: argparse.Namespace, table: ParetoTable) -> None:
    singles = {}
    if arguments.profile:
        profile = load_profile(arguments.profile).model(arguments.model or table.model)
        if profile.layer_count != table.layers.count:
            raise TableError(
                f"{arguments.table}: layers.count: {profile.name} has {profile.layer_count} in the profile, "
                f"got {table.layers.count}"
            )
        singles = single_processor_fronts(profile, make_cost(arguments.cost, profile))
    draw_front(arguments.plot, table.points, singles, f"{table.model} on {table.board}", table.accuracy_metric.name)


def _best(table: ParetoTable) -> dict[Objective, OperatingPoint]:
    found = {objective: table.best(objective) for objective in get_args(Objective)}
    return {objective: point for objective, point in found.items() if point is not None}


def _ranges(table: ParetoTable) -> dict[str, tuple[float, float]]:
    columns = {name: [getattr(point, name) for point in table.points] for name in _FIGURES}
    return {name: (min(values), max(values)) for name, values in columns.items()}


def _to_dict(table: ParetoTable) -> dict[str, object]:
    head = table.model_dump(mode="json", exclude={"points"})
    best = {objective: point.model_dump(exclude_none=True) for objective, point in _best(table).items()}
    return head | {"points": len(table.points), "ranges": _ranges(table), "best": best}


def _to_text(table: ParetoTable) -> str:
    metric = table.accuracy_metric
    sources = Counter(f"cost {point.cost_provenance}, accuracy {point.accuracy_provenance}" for point in table.points)
    lines = [
        f"board      {table.board}",
        f"model      {table.model}, {table.layers.count} layers on {table.layers.letters}",
        f"accuracy   {metric.name}: {metric.float32:g} % in float32, {metric.int8:g} % in int8",
        f"points     {len(table.points)}: {'; '.join(f'{count} {text}' for text, count in sources.items())}",
        f"created by {table.created_by}",
        "",
    ]
    rows: list[tuple[str, ...]] = [("", "latency ms", "power mW", "energy mJ", "accuracy %", "order")]
    for name, which in (("lowest", 0), ("highest", 1)):
        rows.append((name, *(f"{_ranges(table)[figure][which]:.3f}" for figure in _FIGURES), ""))
    for objective, point in _best(table).items():
        rows.append((_BEST[objective], *(f"{getattr(point, figure):.3f}" for figure in _FIGURES), point.order))
    return "\n".join([*lines, format_table(rows, left=(0, 5))])
