"""From the epochs of a stream and the host's marks to a recording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piqi_runtime.meter.align import Clock, align, arrival_clock
from piqi_runtime.meter.base import MeterError, Quality, Recording, Times, covered_windows, empty_recording
from piqi_runtime.meter.stream import Epoch, LineStream


def assemble(stream: LineStream, marks_ns: Sequence[int] | Times | None) -> Recording:
    """The samples of all epochs on the host's clock.

    With marks, an epoch that does not fit them is left out: its samples are missing. Raises MeterError if none fits.
    """
    marks = np.asarray([] if marks_ns is None else marks_ns, np.int64)
    if (np.diff(marks) < 0).any():
        raise MeterError("power meter: marks_ns: expected times in ascending order")
    parts: list[Recording] = []
    clocks: list[Clock] = []
    errors: list[MeterError] = []
    for epoch in stream.epochs:
        if len(epoch.stamp_us) < 2:
            continue
        try:
            clock = _clock(epoch, marks)
        except MeterError as error:
            errors.append(error)
            continue
        clocks.append(clock)
        parts.append(_samples(epoch, clock))
    if errors and not clocks:
        raise errors[0]
    quality = Quality(
        lines=stream.good,
        bad_lines=stream.bad,
        lost_lines=stream.lost,
        resets=stream.resets,
        marks=len(marks),
        marks_matched=min(len(marks), sum(clock.matched for clock in clocks)),
        drift_ppm=tuple(clock.drift_ppm for clock in clocks),
        residual_us=max((clock.residual_ns / 1e3 for clock in clocks), default=0.0),
    )
    if not parts:
        return empty_recording(quality)
    time_ns = np.concatenate([part.time_ns for part in parts])
    order = np.argsort(time_ns, kind="stable")
    window_ns, power_mw, marker = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("window_ns", "power_mw", "marker")
    )
    return Recording(time_ns[order], window_ns, power_mw, marker, quality)


def _clock(epoch: Epoch, marks: Times) -> Clock:
    stamp_us = np.array(epoch.stamp_us, np.int64)
    arrival = arrival_clock(stamp_us, np.array(epoch.arrival_ns, np.int64))
    if len(marks) == 0:
        return arrival
    edges = np.array([power is None for power in epoch.power_mw])
    return align(stamp_us[edges], np.array(epoch.marker, np.int64)[edges], marks, arrival)


def _samples(epoch: Epoch, clock: Clock) -> Recording:
    kept = [i for i, power in enumerate(epoch.power_mw) if power is not None]
    time_ns = clock.to_host(np.array(epoch.stamp_us, np.int64)[kept])
    power_mw = np.array([epoch.power_mw[i] for i in kept], np.float64)
    return Recording(time_ns, covered_windows(time_ns), power_mw, np.array(epoch.marker, np.int64)[kept])
