"""Speed of the policy's decision, beside the same decision in plain Python and beside filtering the table anew.

python benchmarks/policy_decision.py [--points N] [--repeats N]

Tables of random Pareto-optimal points. Wanted: at most 50 us for 5,000 points. The cases: limits that many points
keep; corrected by measured latency and power with a tenth of the points quarantined; limits that no point keeps (every
one of them gives way). `loop` does the same decision point by point; `filter` is `ParetoTable.best`, which knows no
corrections and no degraded answers. Each decision is checked to be the loop's. Median and p99 over the repeats; the
decision alone, and with the mode's selection by the default policy (`tick`).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from piqi_runtime.policy import Constraints, Decision, ModeSelector, PointChooser, Situation, load_policy
from piqi_runtime.policy.constraints import RELAX_ORDER
from piqi_runtime.report import format_table
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

WANTED_US = 50.0
LAYERS = 14


def random_table(count: int, rng: np.random.Generator) -> ParetoTable:
    """Points whose accuracy rises with latency and with power: none dominates another."""
    latency_ms = np.sort(rng.uniform(10, 200, count))
    power_mw = rng.uniform(2000, 9000, count)
    accuracy = 50 + 10 * (latency_ms - 10) / 190 + 15 * (power_mw - 2000) / 7000
    points = []
    for i in range(count):
        freqs = " ".join(str(i // 10**digit % 10) for digit in range(LAYERS))
        latency, power = float(latency_ms[i]), float(power_mw[i])
        points.append(
            OperatingPoint(
                order="B" * LAYERS,
                freqs=freqs,
                latency_ms=latency,
                power_mw=power,
                energy_mj=latency * power / 1e3,
                accuracy=float(accuracy[i]),
            )
        )
    # The check that no point dominates another takes a second at this size and is not what is measured.
    return ParetoTable.model_construct(
        board="random",
        model="random",
        layers=TableLayers(count=LAYERS, letters="B"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=76.0, int8=50.0),
        points=tuple(points),
    )


def loop_choose(
    table: ParetoTable, limits: Constraints, latency: Any, power: Any, excluded: Any
) -> tuple[int | None, tuple[str, ...]]:
    """The chooser's decision (least energy, no hysteresis) as plain Python over the points."""
    rows = []
    for i, point in enumerate(table.points):
        if excluded is None or not excluded[i]:
            latency_ms = point.latency_ms * (1.0 if latency is None else latency[i])
            power_mw = point.power_mw * (1.0 if power is None else power[i])
            costs = {"max_latency_ms": latency_ms, "max_power_mw": power_mw}
            rows.append((i, {**costs, "max_energy_mj": latency_ms * power_mw / 1e3, "min_accuracy": point.accuracy}))
    degraded = []
    given = limits.given()
    for name in reversed(RELAX_ORDER):
        if name in given and rows:
            best = max if name == "min_accuracy" else min
            limit = given[name]
            nearest = best(costs[name] for _, costs in rows)
            if best(nearest, limit) != nearest:
                degraded.append(name)
                limit = nearest
            rows = [row for row in rows if (row[1][name] >= limit if best is max else row[1][name] <= limit)]
    chosen = min(rows, key=lambda row: row[1]["max_energy_mj"], default=None)
    return (None if chosen is None else chosen[0]), tuple(degraded)


def times_us(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        function()
        times.append(time.perf_counter_ns() - began)
    median, p99 = np.percentile(np.array(times) / 1e3, (50, 99))
    return float(median), float(p99)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3000)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    count = arguments.points
    table = random_table(count, rng)
    chooser, policy = PointChooser(table), load_policy("default")
    latency, power = (rng.uniform(0.8, 1.5, count).astype(np.float32) for _ in range(2))
    excluded = rng.random(count) < 0.1
    usual = Constraints(min_accuracy=60.0, max_power_mw=6000.0, max_latency_ms=120.0)
    cases: dict[str, tuple[Constraints, Any, Any, Any]] = {
        "usual": (usual, None, None, None),
        "corrected": (usual, latency, power, excluded),
        "all give way": (Constraints(100.0, 1.0, 1.0, 1.0), latency, power, excluded),
    }
    rows: list[tuple[str, ...]] = [
        ("case", "points", "decision us", "p99", "wanted", "tick us", "p99", "loop us", "filter us")
    ]
    for name, (limits, *factors) in cases.items():
        keys = dict(zip(("latency_factor", "power_factor", "excluded"), factors, strict=True))

        def decide(limits: Constraints = limits, keys: dict[str, Any] = keys) -> Decision:
            return chooser.choose(limits, "energy", **keys)

        decision = decide()
        expected = loop_choose(table, limits, *factors)
        assert (decision.point, decision.degraded) == expected, f"{name}: expected {expected}, got {decision}"
        selector = ModeSelector(policy)

        def tick(limits: Constraints = limits, keys: dict[str, Any] = keys, selector: ModeSelector = selector) -> None:
            choice = selector.select(Situation(time.monotonic(), 50.0, False, 60.0, 4000.0))
            mode = policy.modes[choice.name]
            merged = mode.constraints(table).merged(limits)
            chooser.choose(merged, mode.objective, hysteresis=0.05, relax=mode.relax, **keys)

        median, p99 = times_us(decide, arguments.repeats)
        tick_median, tick_p99 = times_us(tick, arguments.repeats)
        loop, _ = times_us(partial(loop_choose, table, limits, *factors), 10)
        plain = "-"
        if name == "usual":
            given = (limits.min_accuracy, limits.max_power_mw, limits.max_latency_ms)
            plain = f"{times_us(partial(table.best, 'energy', *given), 30)[0]:,.0f}"
        figures = (f"{value:.1f}" for value in (median, p99, WANTED_US, tick_median, tick_p99))
        rows.append((name, f"{count:,}", *figures, f"{loop:,.0f}", plain))
    print(format_table(rows, left=(0,)))


if __name__ == "__main__":
    main()
