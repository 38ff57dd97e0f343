"""Pictures of fronts. Every function writes one picture, to a path or a binary stream."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator

from piqi_planner.plots import COLOURS
from piqi_planner.search.front import Floats
from piqi_runtime.table import OperatingPoint

Target = str | os.PathLike[str] | IO[bytes]
Curve = Sequence[tuple[float, float | None]]

#: A marker for each search, in the order in which they are drawn.
MARKERS = "osv^DPX*"


def draw_front(
    target: Target,
    points: Sequence[OperatingPoint],
    singles: Mapping[str, tuple[Floats, Floats]],
    title: str,
    metric: str = "accuracy",
    below: Collection[str] = (),
) -> None:
    """Operating points in latency and power, coloured by accuracy; single processors' fronts as lines beside them.

    `singles`: letter -> latency in ms and power in mW; those in `below` are dotted, as less accurate than asked for.
    """
    figure, axis = _axis(title)
    for number, (letter, (latency_ms, power_mw)) in enumerate(singles.items()):
        axis.plot(
            latency_ms,
            power_mw,
            marker="x",
            markersize=4,
            linewidth=0.9,
            linestyle=":" if letter in below else "-",
            color=COLOURS.get(letter, f"C{number + 4}"),
            label=f"{letter} alone" + (" (below the target)" if letter in below else ""),
        )
    if points:
        drawn = axis.scatter(
            [point.latency_ms for point in points],
            [point.power_mw for point in points],
            c=[point.accuracy for point in points],
            cmap="viridis",
            s=14,
            zorder=3,
            label=f"{len(points)} operating points",
        )
        figure.colorbar(drawn, label=f"{metric} (%)")
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("latency (ms)")
    axis.set_ylabel("power (mW)")
    if singles:
        axis.legend(fontsize=8)
    _save(figure, target)


def draw_hypervolumes(
    target: Target, curves: Mapping[str, Curve], published: Mapping[str, Curve], title: str, metric: str = "accuracy"
) -> None:
    """Hypervolume (s W) against accuracy target (%): a line for each search, dashed grey ones for what was published.

    A target without a value leaves a gap.
    """
    figure, axis = _axis(title)
    styles: list[tuple[str, Curve, dict[str, Any]]] = [
        (name, curve, {"linewidth": 1.4}) for name, curve in curves.items()
    ]
    styles += [
        (f"{name} (published)", curve, {"linewidth": 0.9, "linestyle": "--", "color": grey})
        for (name, curve), grey in zip(published.items(), ("0.35", "0.6", "0.75"), strict=False)
    ]
    for number, (name, curve, style) in enumerate(styles):
        axis.plot(
            [accuracy for accuracy, _ in curve],
            [float("nan") if value is None else value for _, value in curve],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            label=name,
            **style,
        )
    axis.set_xlabel(f"{metric} target (%)")
    axis.set_ylabel("hypervolume (s W)")
    axis.legend(fontsize=8)
    _save(figure, target)


def _axis(title: str) -> tuple[pyplot.Figure, pyplot.Axes]:
    figure, axis = pyplot.subplots(figsize=(7.5, 4.6))
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(visible=True, linewidth=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis


def _save(figure: pyplot.Figure, target: Target) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    pyplot.close(figure)
