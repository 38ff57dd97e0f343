"""``planner layers MODEL``: the layers that can be mapped."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, describe_layers, parse_layers
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_layers_option(parser: argparse.ArgumentParser) -> None:
    """The option ``--layers``, which several commands share."""
    parser.add_argument(
        "--layers",
        default="conv",
        metavar="conv|block|CUTS",
        help="one layer a convolution (default); depthwise and pointwise joined; or cut points: layer numbers "
        "or operator names between commas",
    )


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("layers", help="list a model's layers")
    parser.add_argument("model", help=".tflite, .h5 or .keras file")
    add_layers_option(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints number, name, operators, shapes, MACs, parameters, bytes in and out of each layer."""
    model = assign_layers(import_model(arguments.model), parse_layers(arguments.layers))
    infos = describe_layers(model)
    if arguments.json:
        print(json.dumps({"model": model.name, "layers": [asdict(info) for info in infos]}, indent=1))
        return
    rows: list[tuple[str, ...]] = [
        ("#", "operators", "input", "output", "MACs", "parameters", "bytes in", "bytes out", "name")
    ]
    for info in infos:
        shapes = (" ".join("x".join(map(str, s)) for s in side) for side in (info.input_shapes, info.output_shapes))
        counts = (f"{n:,}" for n in (info.macs, info.parameters, info.bytes_in, info.bytes_out))
        rows.append((str(info.number), " ".join(info.operators), *shapes, *counts, _short(info.name)))
    totals = (sum(info.macs for info in infos), sum(info.parameters for info in infos))
    rows.append(("", "total", "", "", *(f"{total:,}" for total in totals), "", "", ""))
    print(format_table(rows, left=(1, 8)))


def _short(name: str) -> str:
    """The last parts of a scoped name: converters nest them deeply."""
    return name if len(name) <= 40 else "..." + name[-37:]
