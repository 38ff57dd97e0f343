"""What calibration remembers of a tensor: each channel's range and, where an observer needs it, its
histogram.

Channels are the last dimension. Statistics are kept for each of them, although activations have one scale for
the whole tensor, because equalisation scales channels: the range of the rescaled tensor then needs no second
run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 128
MAX_ROWS = 4096  # of one update that the histogram sees; the range sees all


def as_rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`values` as [positions, channels]."""
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)


class ChannelStatistics:
    """Running statistics of one tensor: `minimum`, `maximum` [C]; with a histogram `low`, `width` [C],
    `counts` [C, BINS].

    A channel's bins cover [low, low + BINS * width) and double their width when a value falls outside.
    """

    def __init__(
        self,
        minimum: Floats,
        maximum: Floats,
        low: Floats | None = None,
        width: Floats | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.low, self.width, self.counts = low, width, counts

    @classmethod
    def empty(cls, channels: int, histogram: bool) -> ChannelStatistics:
        """Of a tensor not seen yet."""
        unseen = np.full(channels, np.inf)
        if not histogram:
            return cls(unseen, -unseen)
        bins = np.zeros((channels, BINS), np.int64)
        return cls(unseen, -unseen, np.zeros(channels), np.zeros(channels), bins)

    @property
    def channels(self) -> int:
        return len(self.minimum)

    def update(self, values: npt.NDArray[Any]) -> None:
        """Takes in more values, [..., channels]. Raises ValueError if one is not finite."""
        rows = as_rows(values)
        minimum, maximum = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        if not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            raise ValueError("takes values that are not finite")
        first = bool(np.isinf(self.minimum).any())
        self.minimum = np.minimum(self.minimum, minimum)
        self.maximum = np.maximum(self.maximum, maximum)
        if self.counts is None or self.low is None or self.width is None:
            return
        if first:
            smallest = np.maximum(np.abs(minimum), np.abs(maximum)) * 1e-6 + 1e-9
            self.low, self.width = minimum, np.maximum(maximum - minimum, smallest) / BINS
        self._grow()
        rows = rows[:: -(-len(rows) // MAX_ROWS)]
        index = np.clip(((rows - self.low) / self.width).astype(np.int64), 0, BINS - 1)
        index += np.arange(self.channels) * BINS
        self.counts += np.bincount(index.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def rescaled(self, scales: Floats) -> ChannelStatistics:
        """Those of the tensor with channel c divided by ``scales[c]`` > 0."""
        if self.low is None or self.width is None:
            return ChannelStatistics(self.minimum / scales, self.maximum / scales)
        low, width = self.low / scales, self.width / scales
        return ChannelStatistics(self.minimum / scales, self.maximum / scales, low, width, self.counts)

    def _grow(self) -> None:
        """Widens the bins until they cover [minimum, maximum]."""
        assert self.counts is not None and self.low is not None and self.width is not None
        while True:
            above = self.maximum > self.low + self.width * BINS * (1 + 1e-9)
            below = ~above & (self.minimum < self.low)
            if not (above | below).any():
                return
            pairs = self.counts.reshape(self.channels, BINS // 2, 2).sum(axis=2)
            half = np.zeros_like(pairs)
            self.counts[above] = np.concatenate([pairs, half], axis=1)[above]
            self.counts[below] = np.concatenate([half, pairs], axis=1)[below]
            self.low = np.where(below, self.low - self.width * BINS, self.low)
            self.width = np.where(above | below, self.width * 2, self.width)
