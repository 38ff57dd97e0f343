"""A picture of predicted against measured costs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot

import piqi_planner.plots  # noqa: F401  (chooses the backend that needs no display)
from piqi_planner.cost.base import Costs
from piqi_planner.cost.measured import Measured


def draw_predictions(costs: Costs, measured: Measured, title: str, path: str | os.PathLike[str]) -> None:
    """Latency and power, one dot a row; crosses: doubtful rows (see `Measured`)."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5))
    _draw(axes, costs, measured)
    figure.suptitle(title)
    _save(figure, path)


def draw_before_after(before: Costs, after: Costs, measured: Measured, path: str | os.PathLike[str]) -> None:
    """The same twice: predictions of the cost model before it was calibrated, and after, of rows not seen."""
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 9.5))
    for row, costs, text in zip(axes, (before, after), ("before", "calibrated, each row unseen"), strict=True):
        _draw(row, costs, measured, f"{text}: ")
    _save(figure, path)


def _draw(axes: Sequence[pyplot.Axes], costs: Costs, measured: Measured, prefix: str = "") -> None:
    for axis, label, predicted, truth in (
        (axes[0], "latency (ms)", costs.latency_ms, measured.latency_ms),
        (axes[1], "power (mW)", costs.power_mw, measured.power_mw),
    ):
        known = np.isfinite(truth)
        axis.set(xlabel=f"measured {label}", ylabel=f"predicted {label}", title=f"{prefix}not measured")
        if not known.any():
            continue
        trusted, doubtful = known & measured.trusted, known & ~measured.trusted
        values = np.concatenate([truth[known], predicted[known]])
        ends = (values.min(), values.max())
        axis.plot(ends, ends, color="0.6", linewidth=0.8)
        axis.scatter(truth[trusted], predicted[trusted], s=12, alpha=0.7, label="rows")
        if doubtful.any():
            axis.scatter(truth[doubtful], predicted[doubtful], s=20, marker="x", color="#b23a48", label="doubtful")
            axis.legend(frameon=False)
        axis.set_title(f"{prefix}mean error {abs(predicted / truth - 1)[known].mean():.1%}")


def _save(figure: pyplot.Figure, path: str | os.PathLike[str]) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
