"""The picture of a learning curve."""

from __future__ import annotations

import os

import numpy as np

from piqi_planner.accuracy.evaluate import LearningCurve


def draw_learning_curve(curve: LearningCurve, metric: str, path: str | os.PathLike[str]) -> None:
    """Error in percentage points against number of samples, for each model; the suffix of `path` is the format."""
    import matplotlib  # only here: it takes a second to load

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for model, errors in curve.mae_pp.items():
        axis.plot(curve.counts, np.nanmean(errors, axis=0), marker="o", label=model)
    axis.set_xscale("log")
    axis.set_xticks(curve.counts, [str(count) for count in curve.counts])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("samples")
    axis.set_ylabel(f"mean absolute error of {metric} (percentage points)")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
