"""What was measured against what the table predicts: factors for each point, learnt by point and by processor.

A point's log factor is the sum of its processors' log factors, weighted by the share of its layers that each has,
and of a part of its own. A measurement moves them all by normalised least mean squares (Haykin, Adaptive Filter
Theory, chapter 6), so that a processor that is throttled is seen at every point that uses it. Points have parts of
their own once more points than processors were measured; before that nothing tells one from the other, and a
point would be preferred, or left, only because it is the one that was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: Share of a new measurement.
ALPHA = 0.1
#: A measurement further off than this factor counts as this far: one frame that was disturbed says little.
MOST = math.e
#: The part of an error that is a point's own, against the squared shares of its processors.
OWN = 0.25
#: What was learnt is half forgotten after this time without a measurement.
HALF_LIFE_S = 300.0


class Corrections:
    """Factors (measured / predicted) of a table's points. Times are of a monotonic clock, in seconds.

    - `orders`: a letter a layer for each of n points; `predicted`: n figures in any unit, above 0.
    Not locked: measurements come from one thread; readers may be one behind.
    """

    def __init__(
        self, orders: Sequence[str], predicted: Sequence[float], alpha: float = ALPHA, half_life_s: float = HALF_LIFE_S
    ) -> None:
        self.letters = "".join(sorted(set("".join(orders))))
        shares = {
            order: [order.count(letter) / len(order) for letter in self.letters] for order in dict.fromkeys(orders)
        }
        self._shares: Floats = np.array([shares[order] for order in orders], np.float32)
        # Of each order (processor, share) and the squares' sum: a measurement costs no array arithmetic.
        self._steps = {
            order: ([(k, w) for k, w in enumerate(row) if w > 0], sum(w * w for w in row))
            for order, row in shares.items()
        }
        self._orders = orders
        self._log_predicted = [math.log(value) for value in predicted]
        self._processors = [0.0] * len(self.letters)
        self._own: Floats = np.zeros(len(orders), np.float32)
        self._alpha, self._half_life_s = alpha, half_life_s
        self._decayed_s = time.monotonic()
        self._points: set[int] = set()  # that were measured
        self.measured_s: dict[str, float] = {}

    def observe(self, point: int, measured: float, now_s: float) -> None:
        """A measurement at a point, in the unit of `predicted`."""
        steps, squares = self._steps[self._orders[point]]
        expected = float(self._own[point]) + sum(self._processors[k] * share for k, share in steps)
        limit = math.log(MOST)
        error = min(max(math.log(measured) - self._log_predicted[point] - expected, -limit), limit)
        for k, _ in steps:
            self.measured_s[self.letters[k]] = now_s
        self._points.add(point)
        own = OWN if len(self._points) > len(self.measured_s) else 0.0
        step = self._alpha * error / (squares + own)
        for k, share in steps:
            self._processors[k] += step * share
        self._own[point] += step * own

    def factor(self, now_s: float) -> Floats:
        """float32 [n]: what to multiply the predictions by."""
        self._forget(now_s)
        factor: Floats = np.exp(self._shares @ np.array(self._processors, np.float32) + self._own)
        return factor

    def processors(self, now_s: float) -> dict[str, float]:
        """Letter -> factor."""
        self._forget(now_s)
        return {letter: math.exp(value) for letter, value in zip(self.letters, self._processors, strict=True)}

    def slow(self, factor: float) -> dict[str, float]:
        """Letter -> when it was last measured, of the processors that are slower than predicted by `factor`."""
        limit = math.log(factor)
        pairs = zip(self.letters, self._processors, strict=True)
        return {letter: self.measured_s.get(letter, 0.0) for letter, value in pairs if value > limit}

    def probed(self, point: int, measured: float, now_s: float) -> None:
        """A probe's measurement: the processors of `point` are at most as slow as it says."""
        ratio = math.log(measured) - self._log_predicted[point]
        steps, _ = self._steps[self._orders[point]]
        if ratio >= float(self._own[point]) + sum(self._processors[k] * share for k, share in steps):
            self.observe(point, measured, now_s)
            return
        for k, _ in steps:
            self._processors[k] = min(self._processors[k], max(ratio, 0.0))
            self.measured_s[self.letters[k]] = now_s
        self._own[point] = 0

    def _forget(self, now_s: float) -> None:
        elapsed_s = now_s - self._decayed_s
        if elapsed_s < 1:
            return
        self._decayed_s = now_s
        kept = 0.5 ** (elapsed_s / self._half_life_s)
        self._processors = [value * kept for value in self._processors]
        self._own *= np.float32(kept)
