"""What the blocks of a configuration say together, without the frames that something else disturbed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_runtime.profiling.configurations import Configuration
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.profiling.store import Store

Floats = npt.NDArray[np.float64]

#: A frame is an outlier whose latency is further from the median than so many standard deviations (estimated from the
#: median absolute deviation) and than this part of it.
MAX_DEVIATIONS = 5.0
MIN_DEVIATION = 0.02
TRIMMED = 0.25  # of a phase's times, at each end


@dataclass(frozen=True, eq=False)
class Result:
    """`times_ms` [phases]: trimmed means; `power_mw` [phases]: medians over blocks, NaN without a meter.

    A phase too short for a power of its own has the whole frame's.
    """

    times_ms: Floats
    power_mw: Floats
    rounds_ms: list[Floats]  # times_ms of each block
    frames: int
    outliers: int


class Results:
    """Looks results up, and counts frames and outliers of all that were asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Configuration, Result] = {}

    def __getitem__(self, configuration: Configuration) -> Result:
        """Raises ProfilingError for one that was not measured."""
        if configuration not in self._known:
            self._known[configuration] = self._combine(configuration)
        return self._known[configuration]

    @property
    def frames(self) -> int:
        """All of them, outliers included."""
        return sum(result.frames for result in self._known.values())

    @property
    def outliers(self) -> int:
        """Frames that were left out."""
        return sum(result.outliers for result in self._known.values())

    def _combine(self, configuration: Configuration) -> Result:
        blocks = self._store.blocks(configuration)
        if not blocks:
            raise ProfilingError(f"{self._store.path}: {configuration} was not measured")
        kept = ordinary([block.latency_ms for block in blocks])
        times = [block.times_ms[rows] for block, rows in zip(blocks, kept, strict=True)]
        powers = np.array([np.where(np.isnan(block.power_mw), block.mean_mw, block.power_mw) for block in blocks])
        frames = sum(len(block.times_ms) for block in blocks)
        return Result(
            times_ms=trimmed_mean(np.concatenate(times)),
            power_mw=np.median(powers, axis=0),
            rounds_ms=[trimmed_mean(values) for values in times if len(values)],
            frames=frames,
            outliers=frames - sum(len(values) for values in times),
        )


def ordinary(latencies_ms: list[Floats]) -> list[npt.NDArray[np.bool_]]:
    """Which frames of each block are no outliers, judged over all blocks."""
    together = np.concatenate(latencies_ms)
    middle = float(np.median(together))
    deviation = 1.4826 * float(np.median(np.abs(together - middle)))
    limit = max(MAX_DEVIATIONS * deviation, MIN_DEVIATION * middle)
    return [np.abs(values - middle) <= limit for values in latencies_ms]


def trimmed_mean(values: Floats) -> Floats:
    """Of each column, the mean of its middle half."""
    count = len(values)
    cut = math.floor(TRIMMED * count)
    return np.asarray(np.sort(values, axis=0)[cut : count - cut].mean(axis=0))
