"""``planner adjust TABLE``: what points really cost, as `piqictl measure` found it, into a table or a bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from piqi_planner.adjust import MIN_CONFIGURATIONS, Adjustment, Change, Row, adjust_table
from piqi_planner.build.stages import file_hash
from piqi_planner.cost import CostError, CostName, load_parameters, make_cost, save_parameters, shipped_parameters
from piqi_planner.cost.validation import Errors
from piqi_planner.front import read_front
from piqi_planner.profile import ModelProfile, load_profile
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import load_bundle
from piqi_runtime.bundle_table import replace_table
from piqi_runtime.bundle_verify import npu_ranges
from piqi_runtime.measured_points import read_measured_lines
from piqi_runtime.report import format_table
from piqi_runtime.table import OperatingPoint, ParetoTable, TableError, load_table, save_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: Points listed without --all.
LISTED = 20


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("adjust", help="merge measured costs into a table or a bundle")
    parser.add_argument("table", type=Path, help="JSON file of a table, or a bundle's folder")
    parser.add_argument(
        "--measured", type=Path, nargs="+", required=True, metavar="CSV", help="files of `piqictl measure`"
    )
    parser.add_argument("--profile", type=Path, metavar="DIR", help="calibrate the cost model with this profile")
    parser.add_argument("--model", metavar="NAME", help="the model's name in the profile (default: the table's)")
    parser.add_argument("--board", help="name or file (default: the board that the table names)")
    parser.add_argument("--front", type=Path, metavar="CSV", help="further points: some may not be dominated any more")
    parser.add_argument("--cost", choices=get_args(CostName), default="calibrated", help="the cost model so far")
    parser.add_argument("--cost-parameters", type=Path, metavar="JSON", help="its parameters (default: those shipped)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the new table (default for a bundle: the bundle gets the new table)"
    )
    parser.add_argument("--save-parameters", type=Path, metavar="JSON", help="write the fitted parameters")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw predicted against measured, before and after")
    parser.add_argument("--all", action="store_true", help=f"list all points, not only {LISTED}")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Reads, adjusts, writes table or bundle, prints errors and what became of the points."""
    bundle = load_bundle(arguments.table) if arguments.table.is_dir() else None
    table = bundle.table if bundle else load_table(arguments.table)
    if not (bundle or arguments.out):
        raise TableError("--out is missing: a bundle gets the new table, a table's file is left as it is")
    board = load_board(arguments.board or table.board)
    if board.name != table.board:
        raise TableError(f"{arguments.table}: board: expected {board.name!r}, got {table.board!r}")
    profile = _profile(arguments, board, table)
    before = None
    if profile:
        given = load_parameters(arguments.cost_parameters) if arguments.cost_parameters else None
        before = make_cost(arguments.cost, profile, given or shipped_parameters(table.model, table.board))
    rows = [(f"{path}:{line}", point) for path in arguments.measured for line, point in read_measured_lines(path)]
    front = read_front(arguments.front) if arguments.front else []
    if bundle:
        usable = [point for point in front if _has_partitions(point, table, bundle.ranges, bundle.manifest.npu_letters)]
    else:
        usable = front
    adjustment = adjust_table(table, board, rows, profile, before, usable)
    values = _to_dict(table, adjustment, rows) | {"front_without_partitions": len(front) - len(usable)}
    _write_extras(arguments, adjustment)
    if bundle and not arguments.out:
        replace_table(arguments.table, adjustment.table, board, {"adjusted": _how(arguments, values)})
    else:
        save_table(adjustment.table, arguments.out)
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        _print(arguments, values, adjustment)


def _profile(arguments: argparse.Namespace, board: Board, table: ParetoTable) -> ModelProfile | None:
    needing = ("model", "cost_parameters", "save_parameters", "plot")
    if arguments.profile is None:
        for name in needing:
            if getattr(arguments, name):
                raise CostError(f"--{name.replace('_', '-')} needs --profile")
        return None
    profile = load_profile(arguments.profile, board).model(arguments.model or table.model)
    if profile.layer_count != table.layers.count:
        raise TableError(
            f"{arguments.table}: layers.count: {profile.name} has {profile.layer_count} in the profile, "
            f"got {table.layers.count}"
        )
    return profile


def _has_partitions(point: OperatingPoint, table: ParetoTable, ranges: Sequence[tuple[int, int]], letters: str) -> bool:
    """Whether a bundle with partitions of these ranges of layers can run it."""
    return npu_ranges(table.model_copy(update={"points": (point,)}), letters).keys() <= set(ranges)


def _write_extras(arguments: argparse.Namespace, adjustment: Adjustment) -> None:
    calibration = adjustment.calibration
    if calibration is None:
        if arguments.save_parameters or arguments.plot:
            raise CostError(
                f"--save-parameters, --plot: expected at least {MIN_CONFIGURATIONS} measured run configurations"
            )
        return
    if arguments.save_parameters:
        save_parameters(calibration.parameters, arguments.save_parameters)
    if arguments.plot:
        from piqi_planner.cost.plot import draw_before_after

        draw_before_after(calibration.before, calibration.after, calibration.measured, arguments.plot)


def _how(arguments: argparse.Namespace, values: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of it."""
    files = [{"file": path.name, "sha256": file_hash(path)} for path in arguments.measured]
    return {"measured": files, **{name: values[name] for name in ("rows", "table", "before", "after", "better")}}


def _to_dict(table: ParetoTable, adjustment: Adjustment, rows: Sequence[Row]) -> dict[str, Any]:
    count, errors = adjustment.table_errors
    calibration = adjustment.calibration
    before, after = calibration.errors if calibration else (None, None)
    points = adjustment.table.points
    ours = {(point.order, point.freqs) for point in table.points}
    gone = [change for change in adjustment.changes if change.beaten_by]
    return {
        "board": table.board,
        "model": table.model,
        "rows": len(rows),
        "doubtful_rows": [where for where, _ in adjustment.doubtful],
        "configurations_not_in_table": adjustment.unplaced,
        "points_before": len(table.points),
        "points_after": len(points),
        "points_measured": sum(point.cost_provenance == "measured" for point in points),
        "points_dropped": sum((change.before.order, change.before.freqs) in ours for change in gone),
        "points_from_front": sum((point.order, point.freqs) not in ours for point in points),
        "table": {"points": count, **errors},
        "before": before,
        "after": after,
        "better": sorted(calibration.better) if calibration else [],
    }


def _print(arguments: argparse.Namespace, values: dict[str, Any], adjustment: Adjustment) -> None:
    print(f"{values['model']} on {values['board']}: {values['rows']} measurements")
    if values["doubtful_rows"]:
        print(f"left out as doubtful (two run configurations, the same values): {', '.join(values['doubtful_rows'])}")
    if values["configurations_not_in_table"]:
        print(f"not in the table, for the calibration only: {values['configurations_not_in_table']} configurations")
    if values["front_without_partitions"]:
        print(f"{arguments.front}: {values['front_without_partitions']} points need partitions that the bundle lacks")
    print(f"\n{_errors_text(values)}\n")
    if adjustment.calibration is None:
        why = f"fewer than {MIN_CONFIGURATIONS} configurations" if arguments.profile else "no --profile"
        print(f"Not calibrated ({why}): points that were not measured stay as they were.")
    else:
        taken = " and ".join(values["better"]) or "nothing"
        print(f"Points that were not measured: {taken} predicted anew; what the fit does not do better stays.")
    count = len(adjustment.changes) if arguments.all else min(LISTED, len(adjustment.changes))
    print(f"\n{_changes_text(adjustment.changes, count)}")
    if count < len(adjustment.changes):
        print(f"... {len(adjustment.changes) - count} more, see --all")
    print(
        f"\n{arguments.out or arguments.table}: {values['points_after']} operating points, "
        f"{values['points_measured']} of them measured; {values['points_dropped']} of {values['points_before']} "
        f"dropped, {values['points_from_front']} came from the front"
    )


def _errors_text(values: dict[str, Any]) -> str:
    lines: list[tuple[str, ...]] = [("mean error (bias), measured:", "", "latency", "power", "energy")]
    table = values["table"]
    lines.append(_errors_row("in the table", f"{table['points']} points", table))
    if values["before"]:
        count = f"{values['rows'] - len(values['doubtful_rows'])} rows"
        lines.append(_errors_row("cost model so far", count, values["before"]))
        lines.append(_errors_row("calibrated, each row unseen", count, values["after"]))
    return format_table(lines)


def _errors_row(name: str, count: str, errors: Errors) -> tuple[str, ...]:
    cells = []
    for quantity, unit in (("latency", "ms"), ("power", "mW"), ("energy", "mJ")):
        found = errors.get(quantity)
        text = f"{found[f'mae_{unit.lower()}']:.1f} {unit}, {found['mae_percent']:.2f} %" if found else "-"
        cells.append(f"{text} ({found['bias_percent']:+.2f} %)" if found else text)
    return (name, count, *cells)


def _changes_text(changes: Sequence[Change], count: int) -> str:
    """The first `count` changes; the number of a point is its place in the table so far, the front's follow."""
    numbers = {(change.before.order, change.before.freqs): i for i, change in enumerate(changes)}
    lines: list[tuple[str, ...]] = [("", "order", "latency ms", "power mW", "energy mJ", "accuracy %", "now")]
    for number, change in enumerate(changes[:count]):
        old, new = change.before, change.after
        cells = [f"{getattr(old, n):.1f} > {getattr(new, n):.1f}" for n in ("latency_ms", "power_mw", "energy_mj")]
        state = new.cost_provenance
        if change.beaten_by:
            better = numbers[change.beaten_by.order, change.beaten_by.freqs]
            lines.append(
                (str(number), _short(old), *cells, f"{old.accuracy:.2f}", f"{state}, dropped: {better} is better")
            )
        else:
            lines.append((str(number), _short(old), *cells, f"{old.accuracy:.2f}", state))
    return format_table(lines, left=(1, 6))


def _short(point: OperatingPoint) -> str:
    """ "G3 N5 L2", a letter and how many layers in turn: long orders fill no line."""
    runs: list[list[Any]] = []
    for letter in point.order:
        if runs and runs[-1][0] == letter:
            runs[-1][1] += 1
        else:
            runs.append([letter, 1])
    text = " ".join(f"{letter}{count}" for letter, count in runs)
    return text if len(text) <= 32 else f"{text[:29]}..."
