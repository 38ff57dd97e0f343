"""Speed of the cost models, beside the published model stated one configuration at a time in Python.

python benchmarks/cost_speed.py [--data DIR] [--count N]

Random run configurations, one core. Wanted: 1,000,000 a second for the 14 layers of MobileNet, 150,000 for the 75 of
YOLOv3. `chain`: building the exact chain of one random mask, with the published genes, of masks not seen before. The
best of five: other work on the machine only ever makes it slower.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from piqi_planner.cost import make_cost
from piqi_planner.profile import format_configuration, load_profile
from piqi_runtime.report import format_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WANTED = {"MobileV1": 1_000_000, "YOLOv3": 150_000}
MASKS = 50


def best_s(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def load_peer(data: Path) -> Any:
    """The reference statement of the published model, with its board; None where it is missing."""
    path = data.parent / "reference" / "published_cost.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("published_cost", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.board = module.Board(data / "rk3399pro")
    return module


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--count", type=int, default=100_000, help="configurations (default: 100000)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    profile, peer = load_profile(arguments.data / "rk3399pro"), load_peer(arguments.data)
    rng = np.random.default_rng(0)
    rows: list[tuple[str, ...]] = [("model", "cost", "configurations/s", "wanted", "one at a time/s", "chain ms")]
    for name, wanted in WANTED.items():
        model = profile.model(name)
        configs = rng.integers(len(model.states), size=(arguments.count, model.layer_count))
        peer_text = "-"
        if peer is not None:
            texts = [format_configuration(model, config) for config in configs[:100]]
            parsed = [(order, peer.parse(freqs)) for order, freqs in texts]
            peer_s = best_s(lambda parsed=parsed, name=name: [peer.board.cost(name, *config) for config in parsed], 2)
            peer_text = f"{len(parsed) / peer_s:,.0f}"
        for cost_name in ("published", "calibrated"):
            cost = make_cost(cost_name, model)
            seconds = best_s(lambda cost=cost, configs=configs: cost.evaluate(configs))
            states = model.states_for("published")
            masks = rng.random((2 * MASKS, model.layer_count)) < rng.random((2 * MASKS, 1))
            for mask in masks[:MASKS]:  # what masks have in common is built once
                cost.chain(mask, states)
            began = time.perf_counter()
            for mask in masks[MASKS:]:
                cost.chain(mask, states)
            chain_ms = (time.perf_counter() - began) / MASKS * 1e3
            speed = f"{len(configs) / seconds:,.0f}"
            rows.append((name, cost_name, speed, f"{wanted:,}", peer_text, f"{chain_ms:.2f}"))
    print(format_table(rows, left=(0, 1)))


if __name__ == "__main__":
    main()
