"""The report's live part: the front, which answers to a slider, and the table of its points, which can be sorted.

All is in the page: data as JSON, plain JavaScript, no network. Without JavaScript a picture and the table remain.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import IO, Concatenate, ParamSpec

from piqi_planner.build.characterise import Floats
from piqi_planner.build.report_script import SCRIPT
from piqi_planner.plots_front import draw_front
from piqi_planner.report_html import Picture
from piqi_runtime.table import OperatingPoint, ParetoTable

P = ParamSpec("P")

ROWS = 200  # shown at first
DIGITS = 7  # of the figures in the page
STYLE = """
[hidden] { display: none !important; }
#floor { width: 100%; accent-color: #2f6690; margin: .3rem 0; }
#plot { width: 100%; height: 26rem; display: block; touch-action: pan-y; cursor: crosshair; }
@media (max-width: 30rem) { #plot { height: 21rem; } }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .9rem; }
.legend i { display: inline-block; width: 1.2rem; height: .25rem; vertical-align: middle; margin-right: .3rem; }
.legend .scale { width: 6rem; height: .7rem; margin: 0 .3rem; }
.shown { min-height: 7.5rem; border-left: 3px solid #2f6690; padding-left: .6rem; margin: .6rem 0; }
.shown p { margin: 0; } code { overflow-wrap: anywhere; }
#points td:nth-child(n + 7) { font-family: ui-monospace, monospace; text-align: left; font-size: .85rem; }
#points button { font: inherit; color: inherit; background: none; border: 0; padding: .3rem 0; cursor: pointer; }
#points [aria-sort=ascending] button::after { content: " \\25b2"; }
#points [aria-sort=descending] button::after { content: " \\25bc"; }
#more { font: inherit; padding: .4rem 1rem; margin: .6rem 0; }
"""
_FIGURES = {
    "latency_ms": "latency ms",
    "power_mw": "power mW",
    "energy_mj": "energy mJ",
    "accuracy": "accuracy %",
    "accuracy_standard_error": "± points",
    "accuracy_lower_bound": "at least %",
}
_TEXTS = {"order": "order", "freqs": "frequencies"}


@dataclass(frozen=True)
class LiveFront:
    """The plot with its slider; `singles`: letter -> latency in ms and power in mW of that processor alone."""

    table: ParetoTable
    singles: Mapping[str, tuple[Floats, Floats]]
    colours: Mapping[str, str]

    def to_html(self) -> str:
        """The section, its data and, for browsers without JavaScript, a picture."""
        table = self.table
        picture = Picture(
            png(draw_front, table.points, self.singles, f"{table.model} on {table.board}", table.accuracy_metric.name),
            "Operating points in latency and power, coloured by accuracy; lines: each processor alone.",
        )
        return _FRONT.format(
            data=_embedded(self._data()), picture=picture.to_html(), metric=escape(table.accuracy_metric.name)
        )

    def _data(self) -> dict[str, object]:
        columns = {name: [_short(getattr(point, name)) for point in self.table.points] for name in (*_FIGURES, *_TEXTS)}
        singles = {
            letter: {
                "latency_ms": [_short(float(value)) for value in latency_ms],
                "power_mw": [_short(float(value)) for value in power_mw],
                "colour": self.colours[letter],
            }
            for letter, (latency_ms, power_mw) in self.singles.items()
        }
        return {"points": columns, "singles": singles, "rows": ROWS}


@dataclass(frozen=True)
class PointTable:
    """The table of points; at first ROWS of them, spread over the front."""

    points: Sequence[OperatingPoint]

    def to_html(self) -> str:
        """The table and the script, which must stand behind all that it brings to life."""
        count = len(self.points)
        shown = min(count, ROWS)
        places = [round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)]
        head = "".join(
            f'<th scope="col" data-column="{name}"><button type="button">{title}</button></th>'
            for name, title in (_FIGURES | _TEXTS).items()
        )
        rows = "\n".join(_row(self.points[place]) for place in places)
        note = f"{shown} of {count} points" + (", spread over the front" if shown < count else "")
        return (
            f'<p id="note">{note}</p>\n<div class="wide"><table id="points">\n<thead><tr>{head}</tr></thead>\n'
            f'<tbody>\n{rows}\n</tbody></table></div>\n<button id="more" type="button" hidden>show all</button>\n'
            f"<script>{SCRIPT}</script>"
        )


def png(function: Callable[Concatenate[IO[bytes], P], None], *arguments: P.args, **options: P.kwargs) -> bytes:
    """The picture that `function` writes."""
    stream = io.BytesIO()
    function(stream, *arguments, **options)
    return stream.getvalue()


def _row(point: OperatingPoint) -> str:
    values = [getattr(point, name) for name in _FIGURES]
    cells = ["" if value is None else f"{value:.2f}" for value in values] + [point.order, point.freqs]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _short(value: object) -> object:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _embedded(data: object) -> str:
    """JSON that cannot end the element that it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


_FRONT = """<div id="front" hidden>
<p class="legend"><span>{metric}: <span id="low"></span><i class="scale"></i><span id="high"></span> %</span>
<span id="alone"></span></p>
<label for="floor">accuracy at least <output id="asked"></output></label>
<input id="floor" type="range" step="any">
<canvas id="plot" tabindex="0" role="img" aria-label="Operating points in latency and power; the table of points has
the same figures. Arrow keys go from point to point."></canvas>
<div class="shown" id="shown" aria-live="polite"><p>Point at an operating point or tap it. The line joins those that
are not beaten in both latency and power at this accuracy.</p></div>
</div>
<noscript>{picture}</noscript>
<script type="application/json" id="front-data">{data}</script>"""
