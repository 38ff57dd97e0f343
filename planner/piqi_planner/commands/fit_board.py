"""``planner fit-board``: the analytic model's parameters of a board, fitted to measured profiles."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piqi_planner.commands.layers import add_layers_option
from piqi_planner.estimate import (
    NETWORKS,
    EstimateError,
    Measurements,
    Unseen,
    fit_board,
    leave_one_out,
    median_percent,
    replace_estimate,
)
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_planner.profile import load_profile
from piqi_planner.progress import progress
from piqi_runtime.boards import BOARDS, load_board
from piqi_runtime.container import write_atomically
from piqi_runtime.model import Model
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("fit-board", help="fit a board's analytic model to a measured profile")
    parser.add_argument("--profile", type=Path, required=True, metavar="DIR", help="folder of the four CSV files")
    parser.add_argument("--board", required=True, help="a board of configs/boards, or a file")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help=f"structure of a model of the profile, may be repeated; known without: {', '.join(NETWORKS)}",
    )
    add_layers_option(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the board file with the fitted parameters")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints leave-one-model-out errors of each processor, writes the board file."""
    board = load_board(arguments.board)
    profile = load_profile(arguments.profile, board)
    networks = {name: build() for name, build in NETWORKS.items()} | _given(arguments.model, arguments.layers)
    measurements = Measurements(profile, board, networks)
    letters = [p.letter for p in profile.processors]
    unseen = {
        letter: leave_one_out(measurements, letter) for letter in progress(letters, len(letters), "leave one model out")
    }
    skipped = [name for name in profile.models() if name not in measurements.models]
    values: dict[str, Any] = {
        "board": board.name,
        "models": measurements.models,
        "skipped": skipped,
        "median_percent": {letter: error_summary(found) for letter, found in unseen.items() if found},
    }
    if arguments.out:
        estimate = fit_board(measurements, f"fitted to {', '.join(measurements.models)}")
        source = Path(arguments.board) if Path(arguments.board).is_file() else BOARDS / f"{arguments.board}.toml"
        text = replace_estimate(source.read_text(encoding="utf-8"), estimate)
        write_atomically(arguments.out, [text.encode()])
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        _print(values)


def error_summary(unseen: Sequence[Unseen]) -> dict[str, Any]:
    """Median errors in percent: per layer, per model (sum over its layers), of power; and by model."""

    def medians(some: Sequence[Unseen]) -> dict[str, float]:
        return {
            "layer": round(median_percent([one.layers for one in some]), 1),
            "model": round(median_percent([one.totals for one in some]), 1),
            "power": round(median_percent([one.power for one in some]), 1),
        }

    return medians(unseen) | {"by_model": {one.model: medians([one]) for one in unseen}}


def _given(texts: Sequence[str], layers: str) -> dict[str, Model]:
    networks = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise EstimateError(f"--model: expected NAME=FILE, got {text!r}")
        networks[name] = assign_layers(import_model(file), parse_layers(layers))
    return networks


def _print(values: dict[str, Any]) -> None:
    print(f"board   {values['board']}")
    print(f"models  {', '.join(values['models'])}")
    if values["skipped"]:
        print(f"        without {', '.join(values['skipped'])}, whose structure is not known")
    print("\nmedian error in percent, leave one model out\n")
    rows: list[tuple[str, ...]] = [("processor", "model left out", "layer", "model", "power")]
    for letter, errors in values["median_percent"].items():
        named = {"all": errors, **errors["by_model"]}
        rows += [(letter, name, *(f"{found[key]:.1f}" for key in rows[0][2:])) for name, found in named.items()]
    print(format_table(rows, left=(0, 1)))
