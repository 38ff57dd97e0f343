"""Pictures. Every function writes one file; the suffix chooses the format."""

from __future__ import annotations

import os
from collections.abc import Mapping

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot

from piqi_runtime.report import Report

#: A colour for each kind of processor; boards with other letters take the rest of the cycle.
COLOURS = {"L": "#4c9f70", "B": "#2f6690", "G": "#d98e04", "N": "#b23a48"}


def draw_timelines(reports: Mapping[str, Report], letters: str, path: str | os.PathLike[str]) -> None:
    """The median frame of each run configuration: its layers on the processors' tracks, over time in ms.

    In pipeline mode: some consecutive frames, one shade each.
    """
    figure, axes = pyplot.subplots(
        len(reports), 1, figsize=(10, (0.3 * len(letters) + 0.5) * len(reports) + 0.3), squeeze=False
    )
    for axis, (title, report) in zip(axes[:, 0], reports.items(), strict=True):
        _draw_timeline(axis, report, letters)
        axis.set_title(title, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("time (ms)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_timeline(axis: pyplot.Axes, report: Report, letters: str) -> None:
    totals = report.works[-1].ended - report.works[0].began
    shown = [int(np.argsort(totals)[len(totals) // 2])]
    if report.throughput_fps * report.latency_us.median > 1.2e6:  # frames overlap
        shown = list(range(shown[0], min(shown[0] + 4, report.frames)))
    start = int(report.works[0].began[shown[0]])
    rows = {letter: len(letters) - 1 - row for row, letter in enumerate(letters)}
    for order, frame in enumerate(shown):
        for work in report.works:
            began, ended = (int(times[frame] - start) / 1e6 for times in (work.began, work.ended))
            colour = COLOURS.get(work.processor, f"C{rows[work.processor] + 4}")
            axis.barh(
                rows[work.processor],
                ended - began,
                left=began,
                height=0.8,
                color=colour,
                alpha=1 - 0.2 * order,
                edgecolor="white",
                linewidth=0.6,
            )
        for move in report.moves:
            if move.source and move.source != move.destination:
                times = (int(move.published[frame] - start) / 1e6, int(move.converted[frame] - start) / 1e6)
                axis.plot(times, (rows[move.source], rows[move.destination]), color="0.35", linewidth=0.8, zorder=3)
    axis.set_yticks(list(rows.values()), list(rows))
    axis.set_ylim(-0.6, len(letters) - 0.4)
    axis.set_xlim(left=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
