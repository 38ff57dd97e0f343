"""``planner build``: from a model file and images to a verified table and a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from piqi_planner.build.options import BuildOptions, make_options, read_options
from piqi_planner.build.pipeline import STAGES, Build
from piqi_planner.cost import CostName
from piqi_planner.images import Fit, Preprocessing
from piqi_planner.progress import StageBars
from piqi_planner.quantise import OBSERVERS
from piqi_runtime.report import format_table
from piqi_runtime.table import OperatingPoint, ParetoTable

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


#: What each stage does by itself, with all before it that have changed.
HELP = {
    "import": "read a model file, cut it into layers: model.piqi",
    "calibrate": "run calibration images, keep the range of every tensor: calibration.json",
    "profile": "the profile of the model, measured or estimated: profile/",
    "sample": "measure the accuracy of the masks to begin with: evaluations.sqlite",
    "characterise": "one- and two-layer quantisation: characterisation.csv and two pictures",
    "refine": "measure the masks that the front asks for: samples.csv",
    "front": "the measured front and its table: front.csv, table.json",
    "verify": "run points of the front whole, compare with what was measured: verification.json",
    "report": "the report: report.html",
}


def add_parser(commands: Subparsers) -> None:
    """Adds `build`, and a command for each stage."""
    _add(commands, "build", "from a model and images to a verified table and a bundle", "bundle")
    for stage, text in HELP.items():
        _add(commands, stage, f"stage of build: {text}", stage)


def _add(commands: Subparsers, name: str, text: str, last: str) -> None:
    parser = commands.add_parser(
        name,
        help=text,
        description="Options may come from a TOML file in MODEL's place; those of the command line win.",
        argument_default=argparse.SUPPRESS,
    )
    defaults = {name: field.default for name, field in BuildOptions.model_fields.items()}

    def option(name: str, text: str, **settings: object) -> None:
        default = defaults[name.removeprefix("--").replace("-", "_")]
        shown = f" (default: {default})" if isinstance(default, str | int | float) else ""
        parser.add_argument(name, help=text + shown, **settings)  # type: ignore[arg-type]

    parser.add_argument("model", type=Path, metavar="MODEL", help=".tflite, .h5 or .keras file, or a .toml of options")
    option("--board", "a board of configs/boards, or a file")
    parser.add_argument("--calibrate", type=Path, metavar="DIR", help="images that show the range of every tensor")
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="images on which accuracy is measured")
    parser.add_argument("--out", type=Path, metavar="BUNDLE", help="the bundle, a folder")
    option("--labels", "CSV with the columns file and label (default: DIR/labels.csv)", type=Path, metavar="CSV")
    option("--annotations", "COCO annotations, for map and map50", type=Path, metavar="JSON")
    option("--detector", "heads and anchors of a detector", type=Path, metavar="TOML")
    option("--class-names", "names of the classes, one a line", type=Path, metavar="TXT")
    option("--metric", "top1, top5, agreement (with the float model), map, map50 or MODULE:FUNCTION")
    option("--output", "the output that the metric judges, where there are several", metavar="NAME")
    option("--name", "the model's name in profile and table (default: the file's)")
    option("--layers", "what a layer is: conv, block, or cut points between commas", metavar="conv|block|CUTS")
    option("--preprocess", "pixels as [-1, 1], [0, 1] or [0, 255]", choices=get_args(Preprocessing))
    option("--fit", "images of another size", choices=get_args(Fit))
    option("--calibration-frames", "how many images to calibrate on", type=int, metavar="N")
    option("--observer", "rule for ranges", choices=OBSERVERS)
    option("--limit", "evaluate on N of the images, evenly spread", type=int, metavar="N")
    option("--profile", "measured profile; what it lacks is estimated", type=Path, metavar="DIR")
    option("--cost", "cost model", choices=get_args(CostName))
    option("--samples", "random masks to begin with", type=int, metavar="N")
    option("--pairs", "two-layer masks to begin with, at most", type=int, metavar="N")
    option("--min-accuracy", "floor; the bound of every point keeps it", type=float, metavar="PERCENT")
    option("--max-loss", "the same next to the float model", type=float, metavar="POINTS")
    option("--confidence", "of the bounds, each by itself", type=float)
    option("--points", "of the table, at most", type=int, metavar="N")
    option("--seed", "of all that is random", type=int)
    option("--jobs", "processes (default: one a CPU)", type=int, metavar="N")
    option("--memory", "what evaluating may use: 2G, 512M", metavar="SIZE")
    option("--dask", "scheduler of a Dask cluster to use", metavar="ADDRESS")
    option("--work", "folder of the stages' files (default: OUT.work)", type=Path, metavar="DIR")
    parser.set_defaults(function=main, last=last)


def main(arguments: argparse.Namespace) -> None:
    """Builds; prints what the table offers and where everything is."""
    options = options_of(arguments)
    with StageBars(STAGES) as bars, Build(options, bars) as build:
        build.run(arguments.last)
    if arguments.last != "bundle":
        print(f"{arguments.last}: done, in {options.work_folder}")
        return
    print(summary(build.bundle.table))
    print(f"\nbundle  {options.out}\nreport  {options.out / 'report/report.html'}\nstages  {options.work_folder}")


def options_of(arguments: argparse.Namespace) -> BuildOptions:
    """The options that were given, or those of a file. Raises BuildError."""
    given = {name: value for name, value in vars(arguments).items() if name in BuildOptions.model_fields}
    if arguments.model.suffix == ".toml":
        return read_options(arguments.model, {name: value for name, value in given.items() if name != "model"})
    return make_options(given)


def summary(table: ParetoTable) -> str:
    """The best points of a table as text."""
    metric = table.accuracy_metric
    rows: list[tuple[str, ...]] = [
        ("", "order", "latency ms", "power mW", "energy mJ", f"{metric.name} %", "at least %")
    ]
    rows += [
        (title, point.order, *_figures(point))
        for title, point in (
            ("most frugal", table.best("energy")),
            ("fastest", table.best("latency")),
            ("most accurate", table.best("accuracy")),
        )
        if point is not None
    ]
    head = (
        f"{table.model} on {table.board}: {len(table.points)} operating points; {metric.name} "
        f"{metric.float32:.2f} % in float32, {metric.int8:.2f} % in int8, on {metric.frames} frames"
    )
    return f"{head}\n\n{format_table(rows, left=(0, 1))}"


def _figures(point: OperatingPoint) -> tuple[str, ...]:
    error = "" if point.accuracy_standard_error is None else f" ± {point.accuracy_standard_error:.2f}"
    bound = "" if point.accuracy_lower_bound is None else f"{point.accuracy_lower_bound:.2f}"
    return (
        f"{point.latency_ms:.3f}",
        f"{point.power_mw:.0f}",
        f"{point.energy_mj:.3f}",
        f"{point.accuracy:.2f}{error}",
        bound,
    )
