"""Errors of the cost models against whole run configurations measured on the board, beside the published figures.

python benchmarks/cost_accuracy.py [--data DIR] [--seeds N]

Mean relative errors of latency and power. Ours: ten-fold cross-validation, split by run configuration, mean over N
splits; every row is predicted by parameters fitted without it. Wanted: YOLOv3 4 % and 1.6 %, MobileNet 3.8 % and 5.3 %.
`doubtful` rows share latency and power with another configuration, so that at most one of them was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from piqi_planner.cost import Costs, Measured, cost_errors, cross_validate, make_cost, read_measured
from piqi_planner.profile import load_profile
from piqi_runtime.report import format_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {"MobileV1": "measured_mobilenet_v1.csv", "YOLOv3": "measured_yolov3.csv"}
#: Latency and power error in percent: in the paper (on 1000 and 300 rows), and wanted here.
IN_PAPER = {"MobileV1": (3.8, 5.3), "YOLOv3": (9.8, 1.7)}
WANTED = {"MobileV1": (3.8, 5.3), "YOLOv3": (4.0, 1.6)}


def percents(costs: Costs, measured: Measured) -> tuple[float, float, float, float]:
    """Error and bias of latency, error and bias of power."""
    errors = cost_errors(costs, measured)
    latency, power = errors["latency"], errors["power"]
    return latency["mae_percent"], latency["bias_percent"], power["mae_percent"], power["bias_percent"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="splits (default: 3)")
    arguments = parser.parse_args()
    profile = load_profile(arguments.data / "rk3399pro")
    rows: list[tuple[str, ...]] = [("model", "cost", "rows", "latency %", "bias %", "power %", "bias %")]

    def add(model: str, cost: str, count: int | str, values: tuple[float, ...]) -> None:
        rows.append(
            (model, cost, str(count), *(f"{value:+.2f}" if i % 2 else f"{value:.2f}" for i, value in enumerate(values)))
        )

    for name, file in FILES.items():
        model = profile.model(name)
        measured = read_measured(model, arguments.data / "rk3399pro" / file)
        published = make_cost("published", model).evaluate(measured.configs)
        unseen = [cross_validate(model, measured, seed) for seed in range(arguments.seeds)]
        for text, chosen in (("", np.ones(len(measured), bool)), (", not doubtful", measured.trusted)):
            if text and measured.trusted.all():
                continue
            part = measured.take(chosen)
            ours = np.mean([percents(costs.take(chosen), part) for costs in unseen], axis=0)
            add(name, "published" + text, len(part), percents(published.take(chosen), part))
            add(name, "calibrated" + text, len(part), tuple(ours))
        for text, (latency, power) in (("published, in the paper", IN_PAPER[name]), ("wanted", WANTED[name])):
            rows.append((name, text, "", f"{latency:.2f}", "", f"{power:.2f}", ""))
    print(format_table(rows, left=(0, 1)))


if __name__ == "__main__":
    main()
