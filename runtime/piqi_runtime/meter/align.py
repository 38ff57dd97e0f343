"""Puts a meter's clock on the host's, from what both saw: edges of the marker line.

The host knows when it toggled the line, the meter when it saw an edge, and counted it. Which edge is which mark is not
known: lines are lost, the meter may miss edges, see others, or be reset. So short runs of edges are laid against the
marks at every place that the lines' arrival allows, each that fits is followed over the whole recording, and the one
with the most pairs wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piqi_runtime.meter.base import MeterError, Times

Stamps = npt.NDArray[np.int64]  # us of the meter, unwrapped

MAX_DRIFT = 0.02  # a ceramic resonator's is below 0.005
MAX_DELAY_NS = 100_000_000  # of a line between the meter and the host: USB adapters hold them for up to 16 ms
EARLY_NS = 5_000_000  # the arrival clock's own error
TOLERANCE_NS = 200_000  # of an edge against its mark: two reads of a clock, a system call, an interrupt
RUN = 24  # edges laid against the marks at a time
ANCHORS = 5
CANDIDATES = 16


@dataclass(frozen=True)
class Clock:
    """host ns = `host_ns` + 1000 * `rate` * (stamp - `stamp_us`)."""

    stamp_us: int
    host_ns: float
    rate: float
    matched: int = 0  # pairs of edge and mark
    residual_ns: float = 0.0  # their median distance

    def to_host(self, stamp_us: Stamps) -> Times:
        """Times on the host's clock, ns [stamps]."""
        return np.asarray(np.rint(self.host_ns + 1000.0 * self.rate * (stamp_us - self.stamp_us)), np.int64)

    @property
    def drift_ppm(self) -> float:
        """By how much the meter's clock runs too fast."""
        return 1e6 * (1.0 / self.rate - 1.0)


def arrival_clock(stamp_us: Stamps, arrival_ns: Times) -> Clock:
    """From when lines arrived, int64 [lines] each: late by the shortest delay that a line had."""
    lead_ns = (arrival_ns - arrival_ns[0]) - 1000 * (stamp_us - stamp_us[0])
    stamps, first = np.unique(stamp_us, return_index=True)
    slope = _slope_below(1000.0 * (stamps - stamps[0]), np.minimum.reduceat(lead_ns, first).astype(float))
    rate = 1.0 + float(np.clip(slope, -MAX_DRIFT, MAX_DRIFT))
    late = (arrival_ns - arrival_ns[0]) - 1000.0 * rate * (stamp_us - stamp_us[0])
    return Clock(int(stamp_us[0]), float(arrival_ns[0]) + float(late.min()), rate)


def align(edge_us: Stamps, counts: npt.NDArray[np.int64], marks_ns: Times, arrival: Clock) -> Clock:
    """The clock by which the meter's edges [edges] fall on the host's marks [marks], both ascending.

    `counts`: int64 [edges], the meter's count at each edge: where a line was lost it leaves one out.

    Raises MeterError unless more than half of the edges or of the marks (the fewer) fit, and two at least.
    """
    fewer = min(len(edge_us), len(marks_ns))
    if fewer < 2:
        raise MeterError(
            f"power meter: expected 2 marker edges at least, got {len(edge_us)} of {len(marks_ns)}: is the line wired?"
        )
    best: Clock | None = None
    anchors = np.unique(np.linspace(0, max(0, len(edge_us) - RUN), ANCHORS).astype(int))
    for anchor in anchors:
        for candidate in _candidates(edge_us[anchor : anchor + RUN], counts[anchor : anchor + RUN], marks_ns, arrival):
            clock = _follow(candidate, edge_us, marks_ns, int(anchor))
            if best is None or clock.matched > best.matched:
                best = clock
        if best is not None and best.matched >= 0.95 * fewer:
            break
    if best is None or best.matched < max(2, fewer / 2):
        matched = 0 if best is None else best.matched
        raise MeterError(
            f"power meter: {matched} of {len(edge_us)} marker edges fit {len(marks_ns)} marks: "
            "is the marker line wired to another pin or shared?"
        )
    return best


def _candidates(edge_us: Stamps, counts: npt.NDArray[np.int64], marks_ns: Times, arrival: Clock) -> list[Clock]:
    """Clocks by which a run of edges may be a run of marks, those with the shortest delay first."""
    count = len(edge_us)
    steps = counts - counts[0]
    expected = arrival.to_host(edge_us)
    first = int(np.searchsorted(marks_ns, expected[0] - MAX_DELAY_NS))
    last = int(np.searchsorted(marks_ns, expected[0] + EARLY_NS, side="right"))
    found: list[tuple[float, Clock]] = []
    stamps = edge_us - edge_us[0]
    for mark in range(last - 1, first - 1, -1):
        run = marks_ns[mark + steps[mark + steps < len(marks_ns)]]
        size = len(run)
        if size < min(count, len(marks_ns), 4):
            continue
        x, y = 1000.0 * stamps[:size], (run - run[0]).astype(float)
        rate = _theil_sen(x, y) if size > 2 else arrival.rate
        if abs(rate - 1.0) > MAX_DRIFT:
            continue
        residual = y - rate * x
        middle = float(np.median(residual))
        spread = float(np.median(np.abs(residual - middle)))
        found.append((spread, Clock(int(edge_us[0]), float(run[0]) + middle, rate)))
    if not found:
        return []
    limit = 3 * min(spread for spread, _ in found) + TOLERANCE_NS / 10
    return [clock for spread, clock in found if spread <= limit][:CANDIDATES]


def _follow(clock: Clock, edge_us: Stamps, marks_ns: Times, anchor: int) -> Clock:
    """Fits over twice as many edges each time, so that what the rate lacks never adds up to another mark."""
    reach = RUN
    while True:
        low, high = max(0, anchor - reach + RUN), min(len(edge_us), anchor + reach)
        clock = _fit(clock, edge_us[low:high], marks_ns)
        if low == 0 and high == len(edge_us):
            return _fit(clock, edge_us, marks_ns)
        reach *= 2


def _fit(clock: Clock, edge_us: Stamps, marks_ns: Times) -> Clock:
    """The line through the pairs that `clock` makes, without those that lie far from it."""
    predicted = clock.to_host(edge_us)
    after = np.clip(np.searchsorted(marks_ns, predicted), 1, len(marks_ns) - 1)
    nearest = np.where(predicted - marks_ns[after - 1] <= marks_ns[after] - predicted, after - 1, after)
    distance = (marks_ns[nearest] - predicted).astype(float)
    pairs = np.abs(distance) <= TOLERANCE_NS
    if pairs.sum() < 2:
        return Clock(clock.stamp_us, clock.host_ns, clock.rate, int(pairs.sum()))
    x, y = 1000.0 * (edge_us[pairs] - clock.stamp_us), distance[pairs]
    weights = np.ones(len(x))
    slope = middle = 0.0
    for _ in range(5):  # Huber's weights: late marks pull with a limited force
        centre = np.average(x, weights=weights)
        spread = np.average((x - centre) ** 2, weights=weights)
        middle = float(np.average(y, weights=weights))
        slope = float(np.average((x - centre) * (y - middle), weights=weights) / spread) if spread > 0 else 0.0
        middle -= slope * float(centre)
        residual = np.abs(y - middle - slope * x)
        scale = max(1.5 * float(np.median(residual)), 1000.0)
        weights = np.minimum(1.0, scale / np.maximum(residual, 1.0))
    rate = float(np.clip(clock.rate + slope, 1 - MAX_DRIFT, 1 + MAX_DRIFT))
    matched = len(np.unique(nearest[pairs]))
    return Clock(clock.stamp_us, clock.host_ns + middle, rate, matched, float(np.median(residual)))


def _slope_below(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Of the line that lies below all points, `x` rising, and nearest to them: of their lower hull, at their mean.

    A delay only adds: however many lines were late, and by how much, those that were not tell the clock.
    """
    hull: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(hull) > 1 and _rise(hull[-2], point) <= _rise(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    middle = float(x.mean())
    return next((_rise(left, right) for left, right in pairwise(hull) if right[0] >= middle), 0.0)


def _rise(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _theil_sen(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """The median of the slopes between all pairs of points."""
    i, j = np.triu_indices(len(x), 1)
    run = x[j] - x[i]
    kept = run > 0
    return float(np.median((y[j] - y[i])[kept] / run[kept])) if kept.any() else 0.0
