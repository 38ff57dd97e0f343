"""``planner fit-accuracy``: an accuracy model from samples."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piqi_planner.accuracy import MODELS, AccuracyError, Figures, evaluate, fit_accuracy, read_samples
from piqi_planner.accuracy.evaluate import LearningCurve, learning_curve, trainings
from piqi_planner.accuracy.files import save_accuracy_model
from piqi_planner.accuracy.fit import DEFAULT_CONFIDENCE
from piqi_planner.accuracy.plot import draw_learning_curve
from piqi_planner.progress import progress
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("fit-accuracy", help="learn accuracy from samples of partial quantisation")
    parser.add_argument(
        "--samples", type=Path, required=True, metavar="CSV", help="quantised layers (numbers, blanks between), metrics"
    )
    parser.add_argument("--layers", type=int, required=True, metavar="N", help="number of layers of the network")
    parser.add_argument("--test", type=Path, metavar="CSV", help="samples to test on, of the same form")
    parser.add_argument("--metric", metavar="NAME", help="column to learn (default: the first metric)")
    parser.add_argument(
        "--model", choices=tuple(MODELS), default="best", help="ours (default) or the published dense network"
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=DEFAULT_CONFIDENCE,
        help=f"share of samples above the lower bound (default: {DEFAULT_CONFIDENCE})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the model")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw error against number of samples, of all models")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints errors in percentage points and coverage of the bound."""
    if arguments.seed < 0:
        raise AccuracyError(f"--seed must not be negative, got {arguments.seed}")
    samples = read_samples(arguments.samples, arguments.layers, arguments.metric)
    # A wrong test file is to be known before the work, not behind it.
    test = read_samples(arguments.test, arguments.layers, samples.metric) if arguments.test else None
    model = fit_accuracy(samples, arguments.model, arguments.seed, arguments.confidence)
    figures = {"cross_validation": model.cross_validation, "test": evaluate(model, test) if test else None}
    if arguments.out:
        save_accuracy_model(model, arguments.out)
    most = int(samples.masks.sum(axis=1).max())
    if most < arguments.layers // 2:
        print(
            f"note: the samples have at most {most} of {arguments.layers} layers quantised; "
            "with more, predictions are extrapolated and the bound is not assured",
            file=sys.stderr,
        )
    curve = None
    if arguments.plot:
        steps = learning_curve(samples, arguments.seed)
        curve = list(progress(steps, trainings(samples), "learning curve"))[-1]
        draw_learning_curve(curve, samples.metric, arguments.plot)
    _print(arguments, model.kind, figures, curve)


def _print(
    arguments: argparse.Namespace, kind: str, figures: dict[str, Figures | None], curve: LearningCurve | None
) -> None:
    if arguments.json:
        values: dict[str, Any] = {name: vars(f) if f else None for name, f in figures.items()}
        values |= {"model": arguments.model, "kind": kind, "confidence": arguments.confidence}
        if curve:
            errors = {model: mae.mean(axis=0).tolist() for model, mae in curve.mae_pp.items()}
            values["learning_curve"] = {"samples": curve.counts, "mae_pp": errors}
        print(json.dumps(values, indent=1))
        return
    print(f"model       {arguments.model}: {kind}\nconfidence  {arguments.confidence:g}\n")
    rows: list[tuple[str, ...]] = [("", "samples", "MAE (points)", "coverage")]
    for name, f in figures.items():
        if f:
            rows.append((name.replace("_", " "), str(f.samples), f"{f.mae_pp:.4f}", f"{f.coverage:.1%}"))
    print(format_table(rows))
    if curve:
        head = ("samples", *(f"{name} MAE" for name in curve.mae_pp))
        lines = [
            (str(n), *(f"{mae[:, i].mean():.4f}" for mae in curve.mae_pp.values())) for i, n in enumerate(curve.counts)
        ]
        print("\n" + format_table([head, *lines], left=()))
