"""Traces for Chrome and Perfetto (ui.perfetto.dev): sub-graphs on processors' tracks, transfers as arrows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """When a processor ran a step of a sub-graph; ns of one clock, an entry a frame."""

    processor: str
    layers: tuple[int, int]
    sub_graph: tuple[int, int]  # its first and last layer
    began: Times
    ended: Times


@dataclass(frozen=True)
class Move:
    """When a tensor went from a processor ("": the caller) to another; ns of one clock, an entry a frame."""

    tensor: str
    source: str
    destination: str
    published: Times
    received: Times
    converted: Times


def chrome_trace(title: str, works: Sequence[Work], moves: Sequence[Move], processors: str) -> dict[str, Any]:
    """The trace-event object (JSON) of these frames; times in us from the first event."""
    start = min(min(int(move.published.min()) for move in moves), min(int(work.began.min()) for work in works))
    tracks = {letter: number for number, letter in enumerate(("", *processors))}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}},
        *(
            {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": letter or "caller"}}
            for letter, tid in tracks.items()
        ),
    ]

    def complete(name: str, track: str, began: int, ended: int, **args: Any) -> None:
        event = {"ph": "X", "pid": 1, "tid": tracks[track], "name": name, "args": args}
        events.append({**event, "ts": (began - start) / 1e3, "dur": (ended - began) / 1e3})

    sub_graphs: dict[tuple[int, int], list[Work]] = {}
    for work in works:
        sub_graphs.setdefault(work.sub_graph, []).append(work)
    for (first, last), steps in sub_graphs.items():
        for frame, (began, ended) in enumerate(zip(steps[0].began, steps[-1].ended, strict=True)):
            name = f"{steps[0].processor} {layer_range(first, last)}"
            complete(name, steps[0].processor, int(began), int(ended), frame=frame)
            for step in steps:
                complete(
                    f"layer {layer_range(*step.layers)}",
                    step.processor,
                    int(step.began[frame]),
                    int(step.ended[frame]),
                    frame=frame,
                )
    for number, move in enumerate(moves):
        for frame in range(len(move.published)):
            published, received = int(move.published[frame]), int(move.received[frame])
            arrow = {"pid": 1, "name": move.tensor, "cat": "transfer", "id": frame * len(moves) + number}
            events.append({**arrow, "ph": "s", "tid": tracks[move.source], "ts": (published - start) / 1e3})
            events.append(
                {
                    **arrow,
                    "ph": "f",
                    "bp": "e",
                    "tid": tracks[move.destination],
                    "ts": (received - start) / 1e3,
                }
            )
            if move.converted[frame] - received > 1000:
                complete(f"convert {move.tensor}", move.destination, received, int(move.converted[frame]))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def layer_range(first: int, last: int) -> str:
    """How a run of layers is written: ``3`` or ``3-5``."""
    return str(first) if first == last else f"{first}-{last}"
