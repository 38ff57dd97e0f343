"""Hypervolumes of our search at the 44 published accuracy targets, beside the published ones.

python benchmarks/search_hypervolume.py [--model MobileV1|YOLOv3] [--targets A,B,...] [--budget SECONDS]

Cost: the published additive model; genes: the published ones; accuracy: the given Keras predictors. Each target is
searched on its own and timed. Every configuration that is counted is checked: its cost by the plain reference
implementation (a sample of 20 a front, since that is slow), its accuracy by the predictor itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from piqi_planner.accuracy import load_accuracy_model
from piqi_planner.cost import make_cost
from piqi_planner.profile import format_configuration, load_profile
from piqi_planner.published import published_results
from piqi_planner.search import hypervolume, search

SHARED = Path(__file__).resolve().parents[2] / "shared"
PREDICTORS = {"MobileV1": "accuracy_model_mobilenet_v1.h5", "YOLOv3": "accuracy_model_yolov3.h5"}


def check(profile, front, floor: float, accuracy) -> None:
    """Raises AssertionError where a point is not what it says."""
    sys.path.insert(0, str(SHARED / "reference"))
    import published_cost

    board = published_cost.Board(SHARED / "data/rk3399pro")
    for place in np.unique(np.linspace(0, len(front) - 1, 20).astype(int)):
        order, freqs = format_configuration(profile, front.configs[place])
        latency_ms, power_mw = board.cost(profile.name, order, published_cost.parse(freqs))
        assert abs(latency_ms / front.latency_ms[place] - 1) < 1e-9
        assert abs(power_mw / front.power_mw[place] - 1) < 1e-9
    assert accuracy.predict(profile.is_npu[front.configs]).min() >= floor


def main() -> None:
    """Prints a line for each target and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=PREDICTORS, action="append", help="default: both")
    parser.add_argument("--targets", help="default: all that are published")
    parser.add_argument("--budget", type=float, default=55.0, metavar="SECONDS", help="a target (default: 55)")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        raise SystemExit(f"the reference data is not there: {SHARED}")
    for model in arguments.model or list(PREDICTORS):
        published = published_results(model)
        assert published is not None
        profile = load_profile(SHARED / "data/rk3399pro").model(model)
        cost = make_cost("published", profile)
        accuracy = load_accuracy_model(SHARED / "data/rk3399pro" / PREDICTORS[model])
        wanted = [float(target) for target in arguments.targets.split(",")] if arguments.targets else None
        print(f"{model}, reference {published.reference}\n target  genetic   greedy     ours  to best  seconds  points")
        gains = []
        for target in published.targets:
            if wanted and target.accuracy not in wanted:
                continue
            began = time.perf_counter()
            states = profile.states_for("published")
            front = search("piqi", cost, accuracy, [target.accuracy], states=states, budget_s=arguments.budget)[
                target.accuracy
            ]
            seconds = time.perf_counter() - began
            check(profile, front, target.accuracy, accuracy)
            ours = hypervolume(front.latency_ms, front.power_mw, published.reference)
            gains.append(ours / target.best - 1)
            greedy = "-" if target.greedy is None else f"{target.greedy:8.4f}"
            print(
                f"{target.accuracy:7.2f} {target.genetic:8.4f} {greedy:>8} {ours:8.4f} {gains[-1]:+7.2%} "
                f"{seconds:8.1f} {len(front):7}",
                flush=True,
            )
        print(f"mean {np.mean(gains):+.2%}, above at {sum(gain > 0 for gain in gains)} of {len(gains)}\n")


if __name__ == "__main__":
    main()
