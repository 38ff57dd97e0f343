"""``planner validate``: predicted against measured costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from piqi_planner.cost import (
    CostError,
    CostName,
    cost_errors,
    fit_cost,
    load_parameters,
    make_cost,
    read_measured,
    save_parameters,
    validate,
)
from piqi_planner.cost.validation import Errors
from piqi_planner.profile import load_profile
from piqi_runtime.boards import load_board
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("validate", help="compare predicted with measured costs, fit the cost model")
    parser.add_argument("--profile", type=Path, required=True, metavar="DIR", help="folder of the four CSV files")
    parser.add_argument("--model", required=True, help="a model of the profile")
    parser.add_argument(
        "--measured", type=Path, required=True, metavar="CSV", help="columns order, freqs, latency_ms, power_mw"
    )
    parser.add_argument("--cost", choices=get_args(CostName), default="calibrated", help="default: calibrated")
    parser.add_argument("--cost-parameters", type=Path, metavar="JSON", help="judge these instead of a fit")
    parser.add_argument("--board", help="board of the profile: name or file (default: what the profile tells)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write parameters fitted to all rows")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw predicted against measured")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints mean errors and bias of latency, power and energy."""
    if arguments.cost == "published" and (arguments.cost_parameters or arguments.out):
        raise CostError("--cost published has no parameters: --cost-parameters and --out are for calibrated")
    board = load_board(arguments.board) if arguments.board else None
    profile = load_profile(arguments.profile, board).model(arguments.model)
    measured = read_measured(profile, arguments.measured)
    given = load_parameters(arguments.cost_parameters) if arguments.cost_parameters else None
    validation = validate(profile, measured, arguments.cost, given)
    values: dict[str, Any] = {
        "model": profile.name,
        "cost": arguments.cost,
        "method": validation.method,
        "rows": len(measured),
        "doubtful_rows": int((~measured.trusted).sum()),
        **cost_errors(validation.costs, measured),
        "without_doubtful_rows": cost_errors(validation.costs.take(measured.trusted), measured.take(measured.trusted)),
    }
    if arguments.cost == "calibrated":
        values["shipped"] = cost_errors(make_cost("calibrated", profile).evaluate(measured.configs), measured)
    values["published"] = cost_errors(make_cost("published", profile).evaluate(measured.configs), measured)
    if arguments.out:
        parameters = fit_cost(profile, measured)
        text = f"{len(measured)} measured run configurations of {profile.name}"
        save_parameters(parameters.model_copy(update={"provenance": text}), arguments.out)
    if arguments.plot:
        from piqi_planner.cost.plot import draw_predictions

        draw_predictions(validation.costs, measured, f"{profile.name}: {validation.method}", arguments.plot)
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        _print(values)


def _print(values: dict[str, Any]) -> None:
    print(f"model  {values['model']}, {values['rows']} rows")
    print(f"cost   {values['cost']}: {values['method']}\n")
    rows: list[tuple[str, ...]] = [("", "latency", "%", "bias %", "power", "%", "bias %", "energy", "%", "bias %")]
    rows.append(_row(values["cost"], values))
    if values["doubtful_rows"]:
        rows.append(_row(f"  without {values['doubtful_rows']} doubtful rows", values["without_doubtful_rows"]))
    if "shipped" in values:
        rows.append(_row("shipped parameters", values["shipped"]))
        rows.append(_row("published", values["published"]))
    print(format_table(rows))
    if values["doubtful_rows"]:
        print("\ndoubtful: another run configuration has the very same latency and power")


def _row(name: str, errors: Errors) -> tuple[str, ...]:
    cells = [name]
    for quantity, unit in (("latency", "ms"), ("power", "mW"), ("energy", "mJ")):
        values = errors[quantity]
        cells += [f"{values[f'mae_{unit.lower()}']:.1f} {unit}"]
        cells += [f"{values['mae_percent']:.2f}", f"{values['bias_percent']:+.2f}"]
    return tuple(cells)
