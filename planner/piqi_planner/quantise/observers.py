"""Observers: from a tensor's statistics to the range (low, high) of real values that its quantised form
covers.

`minmax` keeps every value seen; `percentile` cuts a fraction off each end; `mse` cuts where the mean squared
error of clipping and rounding together is least. What lies outside of the range saturates.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from piqi_planner.quantise.statistics import BINS, ChannelStatistics, Floats

ObserverName = Literal["minmax", "percentile", "mse"]
OBSERVERS: tuple[ObserverName, ...] = get_args(ObserverName)

STEPS = 255  # quantisation steps between low and high
CANDIDATES = 64  # ranges that `mse` tries


def observed_range(statistics: ChannelStatistics, observer: ObserverName, percentile: float) -> tuple[float, float]:
    """Low and high, low <= 0 <= high, so that zero has an exact stored value."""
    low, high = float(statistics.minimum.min()), float(statistics.maximum.max())
    if observer == "percentile":
        low, high = _percentile(statistics, percentile)
    elif observer == "mse":
        low, high = _mean_squared_error(statistics)
    return min(low, 0.0), max(high, 0.0)


def _histogram(statistics: ChannelStatistics) -> tuple[Floats, Floats]:
    """Centres, rising, and relative frequencies of all channels' bins together."""
    if statistics.counts is None or statistics.low is None or statistics.width is None:
        raise ValueError("the statistics have no histogram")
    centres = statistics.low[:, None] + (np.arange(BINS) + 0.5) * statistics.width[:, None]
    centres = np.clip(centres, statistics.minimum[:, None], statistics.maximum[:, None])
    seen = statistics.counts > 0
    values, counts = centres[seen], statistics.counts[seen]
    order = np.argsort(values)
    return values[order], counts[order] / counts.sum()


def _percentile(statistics: ChannelStatistics, percentile: float) -> tuple[float, float]:
    values, weights = _histogram(statistics)
    cumulative = np.cumsum(weights)
    outside = 1 - percentile / 100
    low = values[np.searchsorted(cumulative, outside, side="right").clip(max=len(values) - 1)]
    high = values[np.searchsorted(cumulative, 1 - outside, side="left").clip(max=len(values) - 1)]
    return float(low), float(high)


def _mean_squared_error(statistics: ChannelStatistics) -> tuple[float, float]:
    values, weights = _histogram(statistics)
    widest_low = min(float(statistics.minimum.min()), 0.0)
    widest_high = max(float(statistics.maximum.max()), 0.0)
    # Each candidate keeps a fraction of the longer side and as much of the shorter one as fits.
    reach = max(-widest_low, widest_high)
    best = (np.inf, widest_low, widest_high)
    for fraction in np.linspace(1.0, 0.1, CANDIDATES):
        low, high = max(widest_low, -fraction * reach), min(widest_high, fraction * reach)
        clipping = np.square(values - np.clip(values, low, high))
        # A stored value stands for an interval one step wide; zero, which relu makes common, is exact.
        rounding = np.where((values != 0) & (values > low) & (values < high), ((high - low) / STEPS) ** 2 / 12, 0.0)
        error = float(np.dot(weights, clipping + rounding))
        if error < best[0]:
            best = (error, low, high)
    return best[1], best[2]
