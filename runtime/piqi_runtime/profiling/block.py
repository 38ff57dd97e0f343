"""One block of a measurement: some frames of one run configuration, where their time went and what power it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.engine import Executor
from piqi_runtime.meter import PowerMeter, layer_energies
from piqi_runtime.profiling.configurations import Range
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.report import SubGraphTimes

MIN_FRAMES = 8
MAX_FRAMES = 1000
MAX_WARM_UP = 50
WARM_UP_SHARE = 0.05
#: Phases other than layers that are shorter are too short for a power of their own.
MIN_POWERED_NS = 50_000
_WARM_UP = -1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """`times_ms` [frames, 2 steps + 1]: the input phase, then in turns a step and what lies behind it (nothing, a
    transfer, at last the output phase); `latency_ms` [frames], their sum where nothing runs side by side.

    `power_mw` [2 steps + 1] by phase, NaN where it was too short; `mean_mw` of whole frames. NaN: no meter.
    """

    times_ms: Floats
    latency_ms: Floats
    power_mw: Floats
    mean_mw: float

    @property
    def seconds(self) -> float:
        """How long its frames took."""
        return float(self.latency_ms.sum()) / 1e3


def measure_block(
    executor: Executor,
    inputs: Mapping[str, npt.NDArray[Any]],
    steps: list[Range],
    seconds: float,
    meter: PowerMeter | None,
    marked: bool,
    count: int | None = None,
) -> Block:
    """Runs frames for `seconds` (8 at least), or `count` of them, warmed up by some that do not count.

    `steps`: what the executor must be made of; `marked`: the meter sees the executor's marks. Raises MeterError,
    `piqi_native.Error`.
    """
    if meter is not None:
        meter.clear()
    executor.clear_report()
    executor.run(inputs)
    latency_s = _frames(executor, steps).latency_s
    warm_up = min(MAX_WARM_UP, max(1, math.ceil(WARM_UP_SHARE * seconds / latency_s)))
    for _ in range(warm_up - 1):
        executor.run(inputs)
    latency_s = min(latency_s, _frames(executor, steps).latency_s)
    if count is None:
        count = min(MAX_FRAMES, max(MIN_FRAMES, math.ceil(seconds / latency_s)))
    for _ in range(count):
        executor.run(inputs)
    frames = _frames(executor, steps)
    times_ns = frames.phases()
    columns = times_ns.shape[1]
    powers, mean_mw = np.full(columns, np.nan), math.nan
    if meter is not None:
        powers, mean_mw = _powers(meter, frames, times_ns, warm_up, marked)
    return Block(times_ns[warm_up:] / 1e6, (frames.received - frames.submitted)[warm_up:] / 1e6, powers, mean_mw)


@dataclass(frozen=True, eq=False)
class _Frames:
    """ns of one clock: `began`, `ended` [frames, steps] of the steps, `submitted`, `received` [frames]."""

    began: Integers
    ended: Integers
    submitted: Integers
    received: Integers

    @property
    def latency_s(self) -> float:
        return float((self.received - self.submitted)[-1]) / 1e9

    def phases(self) -> Integers:
        """[frames, 2 steps + 1]; 0 where a step began before the one before it had ended."""
        before = np.column_stack([self.submitted, self.ended])
        after = np.column_stack([self.began, self.received])
        times = np.empty((len(before), 2 * self.began.shape[1] + 1), np.int64)
        times[:, 0::2] = np.maximum(after - before, 0)
        times[:, 1::2] = self.ended - self.began
        return times


def _frames(executor: Executor, steps: list[Range]) -> _Frames:
    """What the executor recorded. Raises ProfilingError if it is made of other steps."""
    native = executor._native
    made = [step for sub_graph in native.sub_graphs for step in sub_graph.steps]
    if made != steps:
        raise ProfilingError(f"{executor.plan.order}: expected steps {steps}, got {made}")
    times = native.times()
    count = min([len(times["frames"]), *(len(rows) for rows in times["sub_graphs"])])
    parts = []
    for sub_graph, rows, receivers in zip(native.sub_graphs, times["sub_graphs"], native.receivers, strict=True):
        part = SubGraphTimes.of(rows[-count:], len(receivers)).steps.copy()
        if sub_graph.partition is not None:  # what an NPU's library does beside running is to unload
            _, began, ended, inside = part.transpose(2, 0, 1)
            part[..., 2] = np.where(inside > 0, began + inside, ended)
        parts.append(part)
    all_steps = np.concatenate(parts, axis=1)  # asked, begin, end, inside
    frames = times["frames"][-count:]
    return _Frames(all_steps[:, :, 1], all_steps[:, :, 2], frames[:, 0], frames[:, 1])


def _powers(meter: PowerMeter, frames: _Frames, times_ns: Integers, warm_up: int, marked: bool) -> tuple[Floats, float]:
    """mW by phase, and of whole frames."""
    marks = np.sort(frames.began.ravel()) if marked else None
    recording = meter.recording(marks)
    count, columns = times_ns.shape
    measured = slice(warm_up, None)
    long_enough = times_ns[measured].mean(axis=0) >= MIN_POWERED_NS
    long_enough[1::2] = True
    began = np.empty((count, columns), np.int64)
    began[:, 0], began[:, 1::2], began[:, 2::2] = frames.submitted, frames.began, frames.ended
    number = np.broadcast_to(np.flatnonzero(long_enough), (count - warm_up, int(long_enough.sum())))
    layers = np.concatenate([np.full(warm_up, _WARM_UP), number.ravel()])
    starts = np.concatenate([frames.submitted[:warm_up], began[measured, long_enough].ravel()])
    ends = np.concatenate([frames.received[:warm_up], (began + times_ns)[measured, long_enough].ravel()])
    order = np.argsort(starts, kind="stable")
    layers, starts, ends = layers[order], starts[order], ends[order]
    ends[:-1] = np.minimum(ends[:-1], starts[1:])  # branches that run side by side
    kept = ends > starts
    powers = np.full(columns, np.nan)
    for energy in layer_energies(recording, layers[kept], starts[kept], ends[kept]):
        if energy.layer != _WARM_UP:
            powers[energy.layer] = energy.power_mw
    whole = np.where(np.arange(count) < warm_up, _WARM_UP, 0)
    energies = layer_energies(recording, whole, frames.submitted, frames.received)
    return powers, energies[-1].power_mw
