"""Accuracy predictors on the published samples: ours beside the published dense network and gradient boosting.

python benchmarks/accuracy_models.py [--data DIR] [--repeats N] [--seed N]

Held-out errors: in each repeat a fifth of the samples, drawn anew, is for testing. Wanted: error at most the published
one (0.0258 points for MobileNet, 0.0654 for YOLOv3, which its authors measured on samples of their own); from a fifth
of the training samples, at most the error of the published network with all of them; coverage of the 90 % bound
within 2 points of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from piqi_planner.accuracy import Samples, evaluate, fit_accuracy, load_accuracy_model, read_samples
from piqi_planner.accuracy.evaluate import SHARES, TEST_SHARE, LearningCurve, learning_curve, trainings
from piqi_planner.progress import progress
from piqi_runtime.report import format_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: network -> layers in the samples, metric, published error in percentage points
CASES = {"mobilenet_v1": (15, "top1", 0.0258), "yolov3": (75, "map50", 0.0654)}
COVERAGE_MARGIN = 0.02
BULK = 100_000


def split(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Training and test samples."""
    places = np.random.default_rng(seed).permutation(len(samples))
    test = int(len(samples) * TEST_SHARE)
    return samples.take(places[test:]), samples.take(places[:test])


def boosting_error(train: Samples, test: Samples, seed: int) -> float:
    """Of gradient-boosted trees, in percentage points."""
    trees = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, max_leaf_nodes=15, random_state=seed)
    trees.fit(train.masks.astype(float), train.accuracy_percent)
    return float(np.abs(trees.predict(test.masks.astype(float)) - test.accuracy_percent).mean())


def show_curve(curve: LearningCurve) -> None:
    """Error of each model against the number of samples."""
    rows = [("samples", *curve.mae_pp)]
    for column, count in enumerate(curve.counts):
        rows.append((str(count), *(f"{errors[:, column].mean():.4f}" for errors in curve.mae_pp.values())))
    print(format_table(rows, left=()) + "\n")


def held_out(samples: Samples, repeats: int, seed: int) -> tuple[float, float]:
    """Error and coverage of ours on held-out samples; prints them beside boosting's, and the speed."""
    errors, coverages, boosting = [], [], []
    for repeat in range(repeats):
        train, test = split(samples, seed + repeat)
        started = time.perf_counter()
        model = fit_accuracy(train, seed=seed)
        seconds = time.perf_counter() - started
        figures = evaluate(model, test)
        errors.append(figures.mae_pp)
        coverages.append(figures.coverage)
        boosting.append(boosting_error(train, test, seed))
    masks = np.random.default_rng(seed).random((BULK, samples.layers)) < 0.5
    started = time.perf_counter()
    model.predict(masks)
    rate = BULK / (time.perf_counter() - started)
    error, coverage = float(np.mean(errors)), float(np.mean(coverages))
    print(f"held-out MAE   {error:.4f} points ({model.kind}; gradient boosting {np.mean(boosting):.4f})")
    print(f"bound          {coverage:.1%} of held-out samples above it, 90 % wanted")
    print(f"speed          fitted in {seconds:.0f} s, {rate:,.0f} masks/s")
    return error, coverage


def main() -> None:
    """Prints the tables; fails if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="reference data (default: ../shared/data)")
    parser.add_argument("--repeats", type=int, default=3, help="random splits (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.data / "rk3399pro"
    if not folder.is_dir():
        print(f"skipped: no reference data in {arguments.data}")
        return
    missed = []
    for name, (layers, metric, published) in CASES.items():
        samples = read_samples(folder / f"accuracy_{name}.csv", layers, metric)
        print(f"{name}: {len(samples)} samples, {layers} layers, {metric}; published error {published}")
        error, coverage = held_out(samples, arguments.repeats, arguments.seed)
        steps = learning_curve(samples, arguments.seed, arguments.repeats)
        curve = list(progress(steps, trainings(samples, arguments.repeats), name))[-1]
        show_curve(curve)
        fifth = curve.mae_pp["best"][:, SHARES.index(0.2) - len(SHARES)].mean()
        network = curve.mae_pp["published"][:, -1].mean()
        print(f"ours from a fifth {fifth:.4f}, published network from all {network:.4f}")
        given = load_accuracy_model(folder / f"accuracy_model_{name}.h5")
        masks = np.random.default_rng(arguments.seed).random((BULK, given.layers)) < 0.5
        started = time.perf_counter()
        given.predict(masks)
        print(f"given .h5 network {BULK / (time.perf_counter() - started):,.0f} masks/s\n")
        missed += [
            f"{name}: {what}"
            for what, met in {
                "error": error <= published,
                "coverage": abs(coverage - 0.9) <= COVERAGE_MARGIN,
                "a fifth of the samples": fifth <= network,
            }.items()
            if not met
        ]
    if missed:
        raise SystemExit("a figure is missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
