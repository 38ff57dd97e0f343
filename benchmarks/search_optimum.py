"""How far our MobileNet fronts are from what knowing every mask gives.

python benchmarks/search_optimum.py [--targets A,B,...] [--weightings N]

MobileNet has 2^14 masks. For each that holds the floor, the best configurations for many weightings of latency and
energy are worked out, and the points in between by changing single states; `ours` is a normal search with the same cost
(published model and genes) and accuracy (the given predictor), reference 550 ms, 7 W.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np

from piqi_planner.accuracy import load_accuracy_model
from piqi_planner.cost import make_cost
from piqi_planner.profile import load_profile
from piqi_planner.search import hypervolume, search
from piqi_planner.search.piqi import PiqiSearch
from piqi_planner.search.problem import Archive, Problem
from piqi_planner.search.relaxation import Relaxation, Weights

DATA = Path(__file__).resolve().parents[2] / "shared/data/rk3399pro"
REFERENCE = (550.0, 7000.0)
MASKS_AT_A_TIME = 64


def main() -> None:
    """Prints a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default="67.34,67.5,67.8,68.0,68.2,68.3,68.36")
    parser.add_argument("--weightings", type=int, default=60, help="of latency against energy (default: 60)")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"the reference data is not there: {DATA}")
    floors = [float(target) for target in arguments.targets.split(",")]
    profile = load_profile(DATA).model("MobileV1")
    cost = make_cost("published", profile)
    accuracy = load_accuracy_model(DATA / "accuracy_model_mobilenet_v1.h5")
    states = profile.states_for("published")
    problem = Problem(cost, accuracy, states)
    relaxation = Relaxation(cost.tables, states)
    masks = np.array(list(product((False, True), repeat=profile.layer_count)))
    masks = masks[accuracy.predict(masks) >= min(floors)]
    watts = np.concatenate(
        [-np.linspace(8, 0.5, arguments.weightings // 2), np.geomspace(0.05, 150, arguments.weightings // 2)]
    )
    began = time.perf_counter()
    archive = Archive(problem, floors)
    for first in range(0, len(masks), MASKS_AT_A_TIME):
        some = masks[first : first + MASKS_AT_A_TIME]
        price = np.repeat(np.where(some, -np.inf, np.inf), len(watts), axis=0)
        archive.offer(relaxation.solve(Weights(np.tile(watts, len(some)), price)))
    refining = PiqiSearch(problem)
    for floor in floors:
        refining.refine(archive, floor)
    print(f"{len(masks)} masks, {time.perf_counter() - began:.0f} s\n target  every mask      ours     ratio  seconds")
    for floor in floors:
        began = time.perf_counter()
        front = search("piqi", cost, accuracy, [floor], states=states)[floor]
        seconds = time.perf_counter() - began
        known = archive.fronts[floor]
        best, ours = (hypervolume(f.latency_ms, f.power_mw, REFERENCE) for f in (known, front))
        print(f"{floor:7.2f} {best:11.5f} {ours:9.5f} {ours / best:9.5f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
