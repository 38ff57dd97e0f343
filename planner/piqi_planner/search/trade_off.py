"""Masks that no other one beats in cost (for one weighting) and accuracy together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piqi_planner.search.front import Floats

NEAREST = 3  # masks on either side of a floor that are expanded at a time


class TradeOff:
    """Kept by falling accuracy, and so by falling cost; each remembers whether its neighbours were tried."""

    def __init__(self, layers: int) -> None:
        self._masks = np.empty((0, layers), bool)
        self._cost, self._accuracy = np.empty(0), np.empty(0)
        self._expanded = np.empty(0, bool)

    def insert(self, masks: npt.NDArray[np.bool_], cost: Floats, accuracy: Floats) -> None:
        """Takes in masks [n, layers] with their costs and accuracies [n]."""
        promising = np.flatnonzero(cost < self.cost_at(accuracy))
        masks = np.concatenate([self._masks, masks[promising]])
        cost = np.concatenate([self._cost, cost[promising]])
        accuracy = np.concatenate([self._accuracy, accuracy[promising]])
        expanded = np.concatenate([self._expanded, np.zeros(len(promising), bool)])
        # A mask that comes again with a lower cost, by another weighting's solution, counts as not expanded.
        order = np.lexsort((cost, -accuracy))
        best = np.minimum.accumulate(cost[order])
        kept = order[np.concatenate([[True], best[1:] < best[:-1]])] if len(order) else order
        self._masks, self._cost, self._accuracy = masks[kept], cost[kept], accuracy[kept]
        self._expanded = expanded[kept]

    def cost_at(self, accuracy: Floats) -> Floats:
        """The least cost that is known for at least this accuracy; inf where none is."""
        places = np.searchsorted(-self._accuracy, -accuracy, side="right")
        return np.concatenate([[np.inf], self._cost])[places]

    def unexpanded(self, floors: Sequence[float]) -> npt.NDArray[np.bool_]:
        """The masks next to each floor, above and below it, whose neighbours were not tried; they count as tried."""
        chosen: list[int] = []
        for floor in floors:
            at = int(np.searchsorted(-self._accuracy, -floor, side="right"))
            above = [i for i in range(at - 1, -1, -1) if not self._expanded[i]][:NEAREST]
            below = [i for i in range(at, len(self._accuracy)) if not self._expanded[i]][:NEAREST]
            chosen += above + below
            self._expanded[above + below] = True
        return self._masks[chosen]
