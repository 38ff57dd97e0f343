"""A picture of predicted against measured costs."""

from __future__ import annotations

import os

from matplotlib import pyplot

import piqi_planner.plots  # noqa: F401  (chooses the backend that needs no display)
from piqi_planner.cost.base import Costs
from piqi_planner.cost.measured import Measured


def draw_predictions(costs: Costs, measured: Measured, title: str, path: str | os.PathLike[str]) -> None:
    """Latency and power, one dot a row; crosses: doubtful rows (see `Measured`)."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5))
    trusted = measured.trusted
    for axis, label, predicted, truth in (
        (axes[0], "latency (ms)", costs.latency_ms, measured.latency_ms),
        (axes[1], "power (mW)", costs.power_mw, measured.power_mw),
    ):
        ends = (min(truth.min(), predicted.min()), max(truth.max(), predicted.max()))
        axis.plot(ends, ends, color="0.6", linewidth=0.8)
        axis.scatter(truth[trusted], predicted[trusted], s=12, alpha=0.7, label="rows")
        if not trusted.all():
            axis.scatter(truth[~trusted], predicted[~trusted], s=20, marker="x", color="#b23a48", label="doubtful")
            axis.legend(frameon=False)
        error = abs(predicted / truth - 1).mean()
        axis.set(xlabel=f"measured {label}", ylabel=f"predicted {label}", title=f"mean error {error:.1%}")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
