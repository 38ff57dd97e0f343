"""Where the time of a run configuration goes: layers, transfers, frequency changes, frames."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.trace import Move, Work, chrome_trace, layer_range

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """Of a time over frames, in microseconds."""

    median: float
    mean: float
    min: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of_ns(cls, values: Times) -> Statistics:
        """Of times in nanoseconds, at least one."""
        us = values / 1e3
        p50, p90, p99 = np.percentile(us, (50, 90, 99))
        return cls(*(round(float(number), 3) for number in (p50, us.mean(), us.min(), p90, p99, us.max())))


@dataclass(frozen=True)
class StepReport:
    """A layer, or a run of layers that the NPU ran as one node.

    `kernel_us` is the part spent inside the kernels, where that was measured.
    """

    layer: int
    last_layer: int
    processor: str
    freqs: str
    time_us: Statistics
    kernel_us: Statistics | None


@dataclass(frozen=True)
class TransferReport:
    """A tensor that crosses a cut. `source` is "" for the network's inputs.

    `handoff_us` counts from when it was there and the receiver free; `convert_us` is the change of type.
    """

    tensor: str
    source: str
    destination: str
    into_layer: int
    size_bytes: int
    handoff_us: Statistics
    convert_us: Statistics


@dataclass(frozen=True)
class SubGraphReport:
    """What a sub-graph does before its first layer and after its last: copies to the processor and back.

    For an NPU `load_us` is the copy in; the copy out is in part of its layer's time, the rest in `unload_us`.
    """

    first_layer: int
    last_layer: int
    processor: str
    load_us: Statistics
    unload_us: Statistics


@dataclass(frozen=True, eq=False)
class SubGraphTimes:
    """The columns of what an executor records of a sub-graph; n frames, r receivers, s steps, ns of the steady clock.

    - `arrivals` [n, r, 3]: published by the sender, received, converted;
    - `asked`, `bound_from` [n]: when the first layer's frequency was asked for, and when it was in force;
    - `steps` [n, s, 4]: next frequency asked for, begin, end, and for how long inside the kernels;
    - `sent` [n].
    """

    arrivals: Times
    asked: Times
    bound_from: Times
    steps: Times
    sent: Times

    @classmethod
    def of(cls, rows: Times, receivers: int) -> SubGraphTimes:
        """`rows`: what `times()` gives for the sub-graph, that has so many receivers."""
        head = 3 * receivers
        arrivals, steps = rows[:, :head].reshape(len(rows), -1, 3), rows[:, head + 2 : -1].reshape(len(rows), -1, 4)
        return cls(arrivals, rows[:, head], rows[:, head + 1], steps, rows[:, -1])


@dataclass(frozen=True)
class FrequencyReport:
    """Asking for the frequencies of a layer (and marking it for the power meter)."""

    layer: int
    processor: str
    freqs: str
    time_us: Statistics


@dataclass(frozen=True)
class Report:
    """Times of the recorded frames of one run configuration. `latency_us` is submit to receive."""

    order: str
    freqs: str
    frames: int
    sub_graphs: int
    latency_us: Statistics
    throughput_fps: float
    layers: tuple[StepReport, ...]
    transfers: tuple[TransferReport, ...]
    frequency_changes: tuple[FrequencyReport, ...]
    ends: tuple[SubGraphReport, ...]
    works: tuple[Work, ...] = field(repr=False, compare=False)
    moves: tuple[Move, ...] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the single frames, for JSON."""
        values = {key: value for key, value in vars(self).items() if key not in ("works", "moves")}
        return {
            key: [asdict(entry) for entry in value]
            if isinstance(value, tuple)
            else asdict(value)
            if isinstance(value, Statistics)
            else value
            for key, value in values.items()
        }

    def to_trace(self, title: str, processors: str) -> dict[str, Any]:
        """The frames as a Chrome/Perfetto trace; `processors` are the board's letters."""
        return chrome_trace(title, self.works, self.moves, processors)

    def to_text(self) -> str:
        """A table of layers, transfers and frequency changes, in the order in which they happen."""
        head = ("", "on", "freq", "median us", "p90", "p99", "max")
        rows: list[tuple[str, ...]] = [head]
        transfers = list(self.transfers)
        loads = {end.first_layer: end for end in self.ends}
        unloads = {end.last_layer: end for end in self.ends}

        def row(what: str, on: str, freqs: str, times: Statistics) -> None:
            numbers = (f"{value:.1f}" for value in (times.median, times.p90, times.p99, times.max))
            rows.append((what, on, freqs, *numbers))

        for step, change in zip(self.layers, self.frequency_changes, strict=True):
            while transfers and transfers[0].into_layer <= step.layer:
                transfer = transfers.pop(0)
                route = f"{transfer.source or 'caller'}>{transfer.destination}"
                row(f"  hand-off {transfer.size_bytes / 1024:.1f} KiB", route, "", transfer.handoff_us)
                if transfer.convert_us.median > 1:
                    row("  convert", route, "", transfer.convert_us)
            if change.time_us.median > 1:
                row("  frequency", step.processor, step.freqs, change.time_us)
            if (end := loads.get(step.layer)) and end.load_us.median > 1:
                row("  load", step.processor, "", end.load_us)
            row(f"layer {layer_range(step.layer, step.last_layer)}", step.processor, step.freqs, step.time_us)
            if (end := unloads.get(step.last_layer)) and end.unload_us.median > 1:
                row("  unload", step.processor, "", end.unload_us)
        row("frame", "", "", self.latency_us)
        return format_table(rows)


def make_report(executor: piqi_native.GraphExecutor, plan: piqi_native.Plan, letters: list[str]) -> Report:
    """The report of an executor whose sub-graphs run on `letters`. Raises ValueError without any frame."""
    times = executor.times()
    # Sub-graphs ahead of one that failed have recorded more frames than were completed.
    count = min([len(times["frames"]), *(len(rows) for rows in times["sub_graphs"])])
    if count == 0:
        raise ValueError("no frame was run since the report was cleared")
    frames = times["frames"][-count:]
    freqs = plan.freqs.split()
    layers: list[StepReport] = []
    transfers: list[TransferReport] = []
    changes: list[FrequencyReport] = []
    ends: list[SubGraphReport] = []
    works: list[Work] = []
    moves: list[Move] = []
    source = {name: letters[i] for i, names in enumerate(executor.senders) for name, _ in names}
    for sub_graph, receivers, letter, rows in zip(
        executor.sub_graphs, executor.receivers, letters, times["sub_graphs"], strict=True
    ):
        recorded = SubGraphTimes.of(rows[-count:], len(receivers))
        arrivals, steps, sent = recorded.arrivals, recorded.steps, recorded.sent
        # A receiver is free for its first tensor when it has sent the frame before, then for the next one.
        free = np.concatenate([arrivals[:1, 0, 0], sent[:-1]])
        for i, (tensor, size_bytes) in enumerate(receivers):
            published, received, converted = arrivals[:, i].T
            began = np.maximum(published, free)
            free = converted
            move = Move(tensor, source.get(tensor, ""), letter, published, received, converted)
            moves.append(move)
            handoff, convert = Statistics.of_ns(received - began), Statistics.of_ns(converted - received)
            transfers.append(
                TransferReport(tensor, move.source, letter, sub_graph.first_layer, size_bytes, handoff, convert)
            )
        load, unload = Statistics.of_ns(steps[:, 0, 0] - recorded.bound_from), Statistics.of_ns(sent - steps[:, -1, 2])
        ends.append(SubGraphReport(sub_graph.first_layer, sub_graph.last_layer, letter, load, unload))
        for i, (first, last) in enumerate(sub_graph.steps):
            asked, began, ended, inside = steps[:, i].T
            if i == 0:
                asked = asked - (recorded.bound_from - recorded.asked)
            kernel = Statistics.of_ns(inside) if inside.any() else None
            layers.append(StepReport(first, last, letter, freqs[first], Statistics.of_ns(ended - began), kernel))
            changes.append(FrequencyReport(first, letter, freqs[first], Statistics.of_ns(began - asked)))
            works.append(Work(letter, (first, last), (sub_graph.first_layer, sub_graph.last_layer), began, ended))
    elapsed_s = (frames[-1, 1] - frames[0, 0]) / 1e9
    return Report(
        order=plan.order,
        freqs=plan.freqs,
        frames=count,
        sub_graphs=len(executor.sub_graphs),
        latency_us=Statistics.of_ns(frames[:, 1] - frames[:, 0]),
        throughput_fps=round(float(count / elapsed_s), 3),
        layers=tuple(layers),
        transfers=tuple(transfers),
        frequency_changes=tuple(changes),
        ends=tuple(ends),
        works=tuple(works),
        moves=tuple(moves),
    )


def format_table(rows: Sequence[tuple[str, ...]], left: Collection[int] = (0,)) -> str:
    """Columns side by side, those in `left` flush left, the rest flush right; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
