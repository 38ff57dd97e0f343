"""The report of a build: one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import Any, get_args

import numpy as np

from piqi_planner.accuracy import Figures
from piqi_planner.build import report_front
from piqi_planner.build.characterise import Characterisation, Floats
from piqi_planner.build.plots import draw_one_layer, draw_predicted, draw_rounds, draw_two_layers
from piqi_planner.build.report_front import LiveFront, PointTable, png
from piqi_planner.build.timeline import STYLE as TIMELINE_STYLE
from piqi_planner.build.timeline import TimelineLayer, timeline, timeline_html
from piqi_planner.plots import COLOURS
from piqi_planner.report_html import Block, Heading, HtmlTable, Paragraph, Picture, render_page
from piqi_runtime.errors import PiqiError
from piqi_runtime.table import Objective, OperatingPoint, ParetoTable

__all__ = ["ReportData", "ReportError", "TimelineLayer", "chosen_points", "render_report", "timeline"]

WORST_LAYERS = 5
_MORE_COLOURS = ("#7d5ba6", "#3a9aa8", "#8c6d46", "#6b7280")
_BEST = {"latency": "fastest", "energy": "least energy", "power": "least power", "accuracy": "most accurate"}
_STYLE = """
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
"""


class ReportError(PiqiError):
    """Data that do not belong together. Names the field and the value."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a build found.

    - `facts`: what it was built from and how, name -> text;
    - `singles`: letter -> latency (ms) and power (mW) of that processor alone;
    - `accuracy_figures`: cross-validated; `predicted`, `measured` [n]: accuracies (percent) of held-out masks;
    - `history`: masks measured and the front's hypervolume (s W), by round;
    - `cost_notes`: where the cost model comes from, and its errors;
    - `timelines`: title -> one frame of a chosen point;
    - `verified`: "order" and the number of "frames" that were compared, of each point that was run whole.
    """

    title: str
    facts: Mapping[str, str]
    table: ParetoTable
    singles: Mapping[str, tuple[Floats, Floats]]
    characterisation: Characterisation
    accuracy_figures: Figures
    predicted: Floats
    measured: Floats
    history: Sequence[tuple[int, float]]
    cost_notes: Sequence[str]
    timelines: Mapping[str, Sequence[TimelineLayer]]
    verified: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Facts:
    facts: Mapping[str, str]

    def to_html(self) -> str:
        rows = "\n".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
            for name, value in self.facts.items()
        )
        return f'<table class="facts">\n{rows}\n</table>'


@dataclass(frozen=True)
class _Timeline:
    name: str
    layers: Sequence[TimelineLayer]
    letters: str
    colours: Mapping[str, str]

    def to_html(self) -> str:
        return timeline_html(self.name, self.layers, self.letters, self.colours)


def chosen_points(table: ParetoTable) -> dict[str, OperatingPoint]:
    """The best point for each objective by what it is best in: "fastest", or "fastest, least energy" if one is both."""
    names: dict[tuple[str, str], list[str]] = {}
    points: dict[tuple[str, str], OperatingPoint] = {}
    for objective in get_args(Objective):
        point = table.best(objective)
        assert point is not None  # a table has points
        key = (point.order, point.freqs)
        points[key] = point
        names.setdefault(key, []).append(_BEST[objective])
    return {", ".join(names[key]): point for key, point in points.items()}


def render_report(data: ReportData) -> str:
    """The page; the same data give the same text. Raises ReportError where the data contradict each other."""
    _check(data)
    letters = data.table.layers.letters
    colours = _colours([*letters, *data.singles])
    blocks: list[Block] = [
        _Facts(data.facts),
        Heading("Front"),
        Paragraph(_provenance(data.table)),
        LiveFront(data.table, data.singles, colours),
        *_characterisation(data.characterisation),
        *_accuracy(data),
        Heading("Cost model"),
        *(Paragraph(note) for note in data.cost_notes),
        *_verified(data.verified),
        Heading("Chosen points: one frame as predicted"),
        *(_Timeline(name, layers, letters, colours) for name, layers in data.timelines.items()),
        Heading("Operating points"),
        PointTable(data.table.points),
    ]
    return render_page(data.title, blocks, _STYLE + report_front.STYLE + TIMELINE_STYLE)


def _check(data: ReportData) -> None:
    if data.predicted.shape != data.measured.shape or data.predicted.ndim != 1:
        raise ReportError(
            f"predicted, measured: expected one accuracy each of the same masks, got {data.predicted.shape} and "
            f"{data.measured.shape}"
        )
    letters = data.table.layers.letters
    for name, layers in data.timelines.items():
        if not layers:
            raise ReportError(f"timelines: {name}: expected layers, got none")
        for layer in layers:
            if layer.letter not in letters:
                raise ReportError(f"timelines: {name}: expected processors of {letters}, got {layer.letter!r}")
    for name, values in chain.from_iterable(
        ((f"singles: {letter}", v) for v in pair) for letter, pair in data.singles.items()
    ):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ReportError(f"{name}: expected numbers above zero, got {values[~(values > 0)][:1]}")


def _colours(letters: Sequence[str]) -> dict[str, str]:
    """A colour for each; those of other letters than the usual ones repeat only when they run out."""
    others = [letter for letter in dict.fromkeys(letters) if letter not in COLOURS]
    return {**COLOURS, **{letter: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, letter in enumerate(others)}}


def _provenance(table: ParetoTable) -> str:
    metric = table.accuracy_metric
    sources = Counter(f"cost {point.cost_provenance}, accuracy {point.accuracy_provenance}" for point in table.points)
    parts = "; ".join(f"{count} with {source}" for source, count in sources.items())
    return (
        f"{len(table.points)} operating points of {table.model} on {table.board}: {parts}. "
        f"{metric.name}: {metric.float32:.2f} % in float32, {metric.int8:.2f} % with all layers in int8."
    )


def _characterisation(found: Characterisation) -> list[Block]:
    if not len(found.singles):
        return []
    rows_of = {int(np.flatnonzero(found.masks[row])[0]): row for row in found.singles}
    rows = [
        (
            str(layer),
            found.names[layer],
            f"{found.difference[rows_of[layer]]:+.2f} ± {found.standard_error[rows_of[layer]]:.2f}",
            f"{found.frames_per_joule[rows_of[layer]] / found.frames_per_joule[0] - 1:+.1%}",
        )
        for layer in found.worst(WORST_LAYERS)
        if found.difference[rows_of[layer]] < 0
    ]
    blocks: list[Block] = [
        Heading("Characterisation"),
        Picture(png(draw_one_layer, found), "Each layer alone on the NPU. Bars of error: one standard error."),
    ]
    if rows:
        blocks += [
            Paragraph("The layers whose quantisation alone loses most:"),
            HtmlTable(("layer", "name", "accuracy, points", "frames per joule"), rows),
        ]
    else:
        blocks.append(Paragraph("No layer loses accuracy when it alone is quantised."))
    if len(found.pairs):
        blocks.append(
            Picture(
                png(draw_two_layers, found),
                f"{len(found.pairs)} pairs of layers on the NPU; single layers on the diagonal, white: not measured.",
            )
        )
    return blocks


def _accuracy(data: ReportData) -> list[Block]:
    figures = data.accuracy_figures
    blocks: list[Block] = [
        Heading("Accuracy model"),
        Paragraph(
            f"Cross-validated on {figures.samples} masks: mean absolute error {figures.mae_pp:.3f} points; "
            f"{figures.coverage:.1%} are at or above the predicted lower bound."
        ),
    ]
    if len(data.measured):
        error = np.abs(data.predicted - data.measured)
        caption = f"{len(error)} masks, predicted without them: mean error {error.mean():.3f}, largest "
        blocks.append(
            Picture(png(draw_predicted, data.predicted, data.measured), f"{caption}{error.max():.3f} points.")
        )
    if data.history:
        blocks.append(
            Picture(png(draw_rounds, list(data.history)), "How the front of measured masks grew, round by round.")
        )
    return blocks


def _verified(verified: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not verified:
        return []
    rows = [(str(entry["frames"]), str(entry["order"])) for entry in verified]
    return [
        Heading("Verification"),
        Paragraph("Run whole by the executor, with the very same results as the evaluation of accuracy:"),
        HtmlTable(("frames", "order"), rows),
    ]
