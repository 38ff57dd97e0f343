"""When each layer of a run configuration runs, as the cost model predicts it, and bars that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

import numpy as np

from piqi_planner.cost import Chain, CostModel
from piqi_planner.profile import ModelProfile, parse_configurations
from piqi_planner.profile.model import Indices
from piqi_runtime.table import OperatingPoint

STYLE = """
.tracks { display: grid; grid-template-columns: auto 1fr; gap: 2px .5rem; align-items: center; }
.tracks svg { width: 100%; height: 1.3rem; display: block; background: #8882; }
.tracks rect { stroke: Canvas; stroke-width: .5px; vector-effect: non-scaling-stroke; }
.tracks .transfer { opacity: .45; }
.axis { position: relative; height: 1.4rem; font-size: .8rem; overflow: hidden; }
.axis span { position: absolute; padding-left: 2px; border-left: 1px solid #8888; }
.tip { min-height: 1.5em; font-size: .9rem; margin: .2rem 0; }
"""
TICKS = 4


@dataclass(frozen=True)
class TimelineLayer:
    """Layers `first_layer` to `last_layer` in one state, or the transfer from one to the other, in ms of the frame.

    `token`: the frequency indices. A transfer is its receiver's; before layer 0 and behind the last layer it is the
    input and the output phase, of one layer.
    """

    first_layer: int
    last_layer: int
    letter: str
    token: str
    begin_ms: float
    end_ms: float
    kind: Literal["run", "transfer"]


def timeline(point: OperatingPoint, profile: ModelProfile, cost: CostModel) -> list[TimelineLayer]:
    """One frame of a point, without gaps, up to the latency that `cost` gives it.

    Consecutive NPU layers in one state are one entry. An NPU's unloading counts as transfer, its loading and what is
    copied around the main branch as running. Raises ConfigurationError where the point does not fit the profile.
    """
    (config,) = parse_configurations(profile, [point.order], [point.freqs])
    steps, close_ms = _steps(cost.chain(profile.is_npu[config], np.unique(config)), config)
    # Cost models give both phases in one; the profile says how much of it is the output's.
    output_ms = min(float(profile.output_ms[config[-1]]), close_ms)
    last = profile.layer_count - 1
    states = list(zip(point.order, point.tokens, strict=True))
    layers = [TimelineLayer(0, 0, *states[0], 0.0, close_ms - output_ms, "transfer")]

    def add(first: int, layer: int, duration_ms: float, kind: Literal["run", "transfer"]) -> None:
        now = layers[-1].end_ms
        layers.append(TimelineLayer(first, layer, *states[layer], now, now + duration_ms, kind))

    for layer, step_ms in enumerate(steps):
        moved_ms = min(_transfer_ms(cost, config, layer), step_ms) if layer else 0.0
        if moved_ms > 0:
            add(layer - 1, layer, moved_ms, "transfer")
        before = layers[-1]
        add(layer, layer, step_ms - moved_ms, "run")
        if before.kind == "run" and profile.is_npu[config[layer]] and (before.letter, before.token) == states[layer]:
            layers[-2:] = [replace(before, last_layer=layer, end_ms=layers[-1].end_ms)]
    add(last, last, output_ms, "transfer")
    return layers


def timeline_html(name: str, layers: Sequence[TimelineLayer], letters: str, colours: Mapping[str, str]) -> str:
    """A figure: a track of bars for each of `letters`; transfers paler. Text keeps its size on any screen."""
    total_ms = max(layer.end_ms for layer in layers)
    rows = []
    for letter in letters:
        bars = "".join(_bar(layer, total_ms) for layer in layers if layer.letter == letter)
        rows.append(
            f'<span>{escape(letter)}</span><svg viewBox="0 0 1000 10" preserveAspectRatio="none" '
            f'fill="{colours[letter]}" role="img" aria-label="{escape(letter)}">{bars}</svg>'
        )
    ticks = "".join(f'<span style="left:{100 * at / total_ms:.2f}%">{at:g}</span>' for at in _ticks(total_ms))
    return (
        f'<figure class="timeline"><figcaption>{escape(name)}, {escape(_shares(layers))}</figcaption>\n'
        f'<div class="tracks">{"".join(rows)}<span>ms</span><div class="axis">{ticks}</div></div>\n'
        '<p class="tip"></p></figure>'
    )


def _steps(chain: Chain, config: Indices) -> tuple[list[float], float]:
    """Each layer's ms with the transfer into it, and the input and output phases' ms together."""
    (first,) = np.flatnonzero(chain.nodes[0] == config[0])
    node, steps = first, [float(chain.first_time[first])]
    for layer in range(1, len(config)):
        follows = (chain.nodes[layer] == config[layer]) & np.isfinite(chain.time[layer][node])
        (follower,) = np.flatnonzero(follows)
        steps.append(float(chain.time[layer][node, follower]))
        node = follower
    return steps, float(chain.close_time[node, first])


def _transfer_ms(cost: CostModel, config: Indices, layer: int) -> float:
    """Of a layer behind another: the transfer into it, and the unloading of an NPU run that ends before it."""
    tables = cost.tables
    before, state = config[layer - 1], config[layer]
    total = tables.move[0][layer, before, state]
    if layer - 1 not in tables.side_rules and tables.processor_changes[before, state]:
        total += tables.tail[0][layer - 1, before]
    if tables.late is not None and tables.left_host is not None:
        left = tables.left_host[config[max(layer - 2, 0)]]
        total += tables.late[0][layer, left, tables.processor_of[before], tables.processor_of[state]]
    return float(total)


def _bar(layer: TimelineLayer, total_ms: float) -> str:
    begin, width = (1000 * ms / total_ms for ms in (layer.begin_ms, max(layer.end_ms - layer.begin_ms, 0.0)))
    return (
        f'<rect class="{layer.kind}" x="{begin:.3f}" width="{width:.3f}" height="10">'
        f"<title>{escape(_described(layer))}</title></rect>"
    )


def _described(layer: TimelineLayer) -> str:
    first, last = layer.first_layer, layer.last_layer
    if layer.kind == "run":
        what = f"layer {first}" if first == last else f"layers {first} to {last}"
    elif first == last:
        what = "output" if layer.begin_ms > 0 else "input"
    else:
        what = f"transfer from layer {first} to {last}"
    return f"{what} on {layer.letter} at {layer.token}: {layer.end_ms - layer.begin_ms:.3f} ms"


def _shares(layers: Sequence[TimelineLayer]) -> str:
    """ "12.3 ms: N 8.1 ms, L 2.2 ms, transfers, input and output 2.0 ms" """
    spent: dict[str, float] = {}
    for layer in layers:
        name = layer.letter if layer.kind == "run" else "transfers, input and output"
        spent[name] = spent.get(name, 0.0) + layer.end_ms - layer.begin_ms
    parts = sorted(spent.items(), key=lambda part: -part[1])
    total_ms = max(layer.end_ms for layer in layers)
    return f"{total_ms:.4g} ms: " + ", ".join(f"{name} {ms:.3g} ms" for name, ms in parts)


def _ticks(total_ms: float) -> Iterator[float]:
    """Round numbers from zero, about TICKS of them, none so near the end that its text would not fit."""
    power = 10.0 ** np.floor(np.log10(total_ms / TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * TICKS >= total_ms * 0.8)
    for number in range(int(0.93 * total_ms / step) + 1):
        yield float(number * step)
