"""``planner estimate MODEL``: a profile of a model that was never measured on the board."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_planner.commands.layers import add_layers_option
from piqi_planner.estimate import board_estimate, estimate_profile, read_measured_rows
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_runtime.boards import load_board
from piqi_runtime.profile_tables import LAYERS, TABLES

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("estimate", help="estimate a model's profile by the board's analytic model")
    parser.add_argument("model", help=".tflite, .h5 or .keras file")
    parser.add_argument("--board", required=True, help="a board of configs/boards, or a file")
    add_layers_option(parser)
    parser.add_argument("--profile", type=Path, metavar="DIR", help="measured rows, which win over estimated ones")
    parser.add_argument("--name", metavar="M", help="the model's name in the profile (default: the model's own)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the four CSV files")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Writes the four files, says how many rows are measured and how many estimated."""
    board = load_board(arguments.board)
    model = assign_layers(import_model(arguments.model), parse_layers(arguments.layers))
    name = arguments.name or model.name
    measured = read_measured_rows(arguments.profile, board) if arguments.profile else None
    profile = estimate_profile(model, board, name, measured)
    profile.save(arguments.out)
    count = len(profile.rows[LAYERS.name])
    found = sum(row.values[0] == name for row in measured.rows[LAYERS.name]) if measured else 0
    estimate = board_estimate(board)
    basis = estimate.basis if estimate else ""
    print(f"model   {name}, {model.layer_count} layers")
    print(f"board   {board.name}, parameters: {basis}")
    print(f"rows    {found} of {count} in {LAYERS.file_name} measured, the rest estimated")
    print(f"wrote   {', '.join(str(arguments.out / table.file_name) for table in TABLES)}")
