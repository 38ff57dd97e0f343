"""``planner search``: the Pareto front of run configurations under accuracy floors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from piqi_planner.accuracy import AccuracyModel, fit_accuracy, load_accuracy_model, read_samples
from piqi_planner.cost import CostName, load_parameters, make_cost
from piqi_planner.front import operating_points, single_processor_fronts, write_front
from piqi_planner.plots_front import draw_front
from piqi_planner.profile import load_profile
from piqi_planner.progress import share_bar
from piqi_planner.search import SEARCHES, Front, SearchError, hypervolume, search
from piqi_planner.search.settle import settle
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("search", help="find the Pareto front under accuracy floors")
    parser.add_argument("--profile", type=Path, required=True, metavar="DIR", help="folder of the four CSV files")
    parser.add_argument("--model", required=True, metavar="NAME", help="a model of the profile")
    accuracy = parser.add_mutually_exclusive_group(required=True)
    accuracy.add_argument("--accuracy-model", type=Path, metavar="FILE", help="a fitted model, or Keras' .h5 or .keras")
    accuracy.add_argument("--samples", type=Path, metavar="CSV", help="quantised layers and accuracy, to fit a model")
    parser.add_argument(
        "--min-accuracy",
        type=float,
        action="append",
        default=[],
        metavar="PERCENT",
        help="accuracy floor; several share work; none: the front in latency, power and accuracy",
    )
    parser.add_argument("--search", choices=SEARCHES, default="piqi", help="default: piqi")
    parser.add_argument("--cost", choices=get_args(CostName), default="calibrated", help="default: calibrated")
    parser.add_argument("--cost-parameters", type=Path, metavar="JSON", help="fitted by validate (default: shipped)")
    parser.add_argument("--genes", choices=("all", "published"), default="all", help="published: GPU's host at its top")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for each floor (default: until it is done)")
    parser.add_argument("--jobs", type=int, default=1, help="processes between which floors are shared (default: 1)")
    parser.add_argument("--reference", type=float, nargs=2, metavar=("LATENCY_MS", "POWER_MW"), help="for hypervolumes")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="several floors: its name is extended")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the fronts; several floors: likewise")
    parser.add_argument("--json", action="store_true", help="machine-readable summary")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Writes a front for each floor; prints their sizes, ranges and hypervolumes."""
    if arguments.jobs < 1:
        raise SearchError(f"--jobs must be at least 1, got {arguments.jobs}")
    profile = load_profile(arguments.profile).model(arguments.model)
    parameters = load_parameters(arguments.cost_parameters) if arguments.cost_parameters else None
    cost = make_cost(arguments.cost, profile, parameters)
    accuracy = _accuracy(arguments, profile.layer_count)
    floors = list(dict.fromkeys(arguments.min_accuracy))
    with share_bar("searching") as progress:
        fronts = search(
            arguments.search,
            cost,
            accuracy,
            floors,
            states=profile.states_for(arguments.genes),
            seed=arguments.seed,
            budget_s=arguments.budget,
            jobs=arguments.jobs,
            progress=progress,
        )
    if cost.whole_runs:  # the published model is of another executor
        fronts = {floor: settle(front, profile, cost, not floors) for floor, front in fronts.items()}
    singles = single_processor_fronts(profile, cost)
    results = []
    for floor, front in fronts.items():
        suffix = f"_{floor:g}" if len(fronts) > 1 else ""
        path = arguments.out.with_stem(arguments.out.stem + suffix)
        points = operating_points(profile, front)
        write_front(path, points)
        if arguments.plot:
            picture = arguments.plot.with_stem(arguments.plot.stem + suffix)
            draw_front(picture, points, singles, f"{profile.name}, accuracy >= {floor:g} %" if floors else profile.name)
        results.append(
            {
                "min_accuracy": floor if floors else None,
                "points": len(front),
                "fastest_ms": round(float(front.latency_ms.min()), 4),
                "least_mw": round(float(front.power_mw.min()), 3),
                "hypervolume": _hypervolume(front, arguments.reference),
                "front": str(path),
            }
        )
    if arguments.json:
        print(json.dumps({"search": arguments.search, "cost": arguments.cost, "fronts": results}, indent=1))
        return
    rows: list[tuple[str, ...]] = [("floor %", "points", "fastest ms", "least mW", "hypervolume s W", "front")]
    rows += [tuple("-" if value is None else str(value) for value in result.values()) for result in results]
    print(format_table(rows, left=(5,)))


def _hypervolume(front: Front, reference: list[float] | None) -> float | None:
    if reference is None:
        return None
    return round(hypervolume(front.latency_ms, front.power_mw, (reference[0], reference[1])), 6)


def _accuracy(arguments: argparse.Namespace, layers: int) -> AccuracyModel:
    if arguments.samples:
        return fit_accuracy(read_samples(arguments.samples, layers), seed=arguments.seed)
    model = load_accuracy_model(arguments.accuracy_model)
    if model.layers != layers:
        raise SearchError(f"{arguments.accuracy_model}: predicts for {model.layers} layers, the model has {layers}")
    return model
