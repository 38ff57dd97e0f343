"""Our search: exact inner solutions, a price for accuracy, and local search over masks.

For a weighting of energy and latency and a price for each quantised layer the best configuration is known exactly
(`relaxation`). Prices that follow the accuracy model's own slopes lead to masks near each floor; flipping and
swapping single layers, each time with the exact best configuration behind it, then finds better ones. Power is
energy over latency, so a point may count that is worse in both: negative prices on latency ask for those. What lies
between the exact solutions, which are corners of the convex hull, is found by changing single layers' states.
"""

from __future__ import annotations

import numpy as np

from piqi_planner.search.front import Configs, Floats, Front, join, non_dominated
from piqi_planner.search.problem import Archive, Masks, Problem, Progress, Search, SearchError
from piqi_planner.search.relaxation import Relaxation, Weights

ROUNDS = 6  # of local search, for each floor
SWAPS = 200  # pairs of layers that a round tries for each weighting
SAMPLED_MASKS = 400  # that the first slopes of accuracy are taken from
FILL_ROUNDS = 3
FILL_POINTS = 150  # of a front whose neighbours are tried


class PiqiSearch(Search):
    """Work is shared between floors: what is found for one is offered to all."""

    def __init__(self, problem: Problem, seed: int = 0, budget_s: float | None = None) -> None:
        super().__init__(problem, seed, budget_s)
        self._relaxation = Relaxation(problem.cost.tables, problem.states)
        self._watts = self._weightings()

    def run(self, archive: Archive, progress: Progress) -> None:
        """Fills all floors; raises SearchError naming the best accuracy where a floor cannot be reached."""
        self._spread(archive)
        stages = len(archive.floors) * (ROUNDS + FILL_ROUNDS)
        done = 0
        # From the highest floor down: what holds a higher floor holds the lower ones.
        for floor in sorted(archive.floors, reverse=True):
            if floor not in archive.fronts:
                raise SearchError(
                    f"no mask reaches an accuracy of {floor}: the best found is {archive.best_accuracy:.4f}"
                )
            masks = self._best_masks(archive, floor)
            for _ in range(ROUNDS):
                if not self.late:
                    masks = self._improve(archive, floor, masks)
                done += 1
                progress(done / stages)
            for _ in range(FILL_ROUNDS):
                if not self.late:
                    self._fill(archive, floor)
                done += 1
                progress(done / stages)

    def _weightings(self) -> Floats:
        """Prices of latency in watt: what a second may cost in joules, and what it may save."""
        costs = self.problem.cost.evaluate(np.repeat(self.problem.states[:, np.newaxis], self.problem.layers, axis=1))
        low, high = costs.power_mw.min() / 1e3, costs.power_mw.max() / 1e3
        return np.concatenate([-np.linspace(1.2 * high, 0.3 * low, 14), [0.0], high * np.geomspace(0.05, 20, 11)])

    def _spread(self, archive: Archive) -> None:
        """Prices from slopes of accuracy at several places, on a wide scale: masks of every accuracy."""
        layers = self.problem.layers
        some = self.random.random((SAMPLED_MASKS, layers)) < self.random.random((SAMPLED_MASKS, 1))
        accuracy = self.problem.accuracy.predict(some)
        centred = some - some.mean(axis=0)
        ridge = centred.T @ centred + 1e-3 * SAMPLED_MASKS * np.eye(layers)
        slopes = [-np.linalg.solve(ridge, centred.T @ (accuracy - accuracy.mean()))]
        slopes += [self._slopes(np.full(layers, quantised)) for quantised in (False, True)]
        one = self.problem.cost.evaluate(np.full((1, layers), self.problem.states[0]))
        scale = float(one.energy_mj[0]) / max(float(np.ptp(accuracy)), 1e-6)
        prices = scale * np.concatenate([[0.0], np.geomspace(0.02, 100, 31)])
        for slope in slopes:
            self._solve(archive, np.multiply.outer(prices, slope))
        # Nothing quantised, everything quantised.
        self._solve(archive, np.stack([np.full(layers, np.inf), np.full(layers, -np.inf)]))

    def _slopes(self, mask: Masks) -> Floats:
        """What quantising each layer costs in accuracy next to `mask` [layers]: percentage points."""
        flipped = mask ^ np.eye(len(mask), dtype=bool)
        change = self.problem.accuracy.predict(flipped) - self.problem.accuracy.predict(mask[np.newaxis])
        return np.where(mask, change, -change)

    def _solve(self, archive: Archive, prices: Floats) -> Front:
        """Every weighting of latency with every price [n, layers]; offered and returned, weighting by weighting."""
        watt = np.repeat(self._watts, len(prices))
        return archive.offer(self._relaxation.solve(Weights(watt, np.tile(prices, (len(self._watts), 1)))))

    def _weighted(self, front: Front) -> Floats:
        """[weightings, n]: the cost of each point."""
        return front.energy_mj + self._watts[:, np.newaxis] * front.latency_ms

    def _best_masks(self, archive: Archive, floor: float) -> Masks:
        """The mask of the best known point for each weighting, [weightings, layers]."""
        front = archive.fronts[floor]
        return self.problem.masks(front.configs[self._weighted(front).argmin(axis=1)])

    def _improve(self, archive: Archive, floor: float, masks: Masks) -> Masks:
        """Neighbours of the best masks, each with its best configuration; returns the best masks then."""
        unique = np.unique(masks, axis=0)
        slopes = {mask.tobytes(): self._slopes(mask) for mask in unique}
        prices, watts = [], []
        for mask, watt in zip(masks, self._watts, strict=True):
            neighbours = self._neighbours(mask, floor)
            prices.append(np.where(neighbours, -np.inf, np.inf))
            watts.append(np.full(len(neighbours), watt))
            # Far jumps: prices along the slope here, on a scale that the costs themselves set.
            slope = slopes[mask.tobytes()]
            scale = self._scale(slope, watt)
            prices.append(np.multiply.outer(scale * np.geomspace(0.1, 10, 12), slope))
            watts.append(np.full(12, watt))
        archive.offer(self._relaxation.solve(Weights(np.concatenate(watts), np.concatenate(prices))))
        return self._best_masks(archive, floor)

    def _scale(self, slope: Floats, watt: float) -> float:
        """A price per percentage point of the size of what the NPU saves."""
        layers = self.problem.layers
        prices = np.stack([np.full(layers, np.inf), np.full(layers, -np.inf)])
        costs = self.problem.cost.evaluate(self._relaxation.solve(Weights(np.full(2, watt), prices)))
        exact, quantised = costs.energy_mj + watt * costs.latency_ms
        return abs(exact - quantised) / max(float(np.abs(slope).sum()), 1e-9)

    def _neighbours(self, mask: Masks, floor: float) -> Masks:
        """Masks that hold the floor and differ in a layer, two layers, or a stretch of layers."""
        layers = len(mask)
        flips = mask ^ np.eye(layers, dtype=bool)
        on, off = np.flatnonzero(mask), np.flatnonzero(~mask)
        found = [mask[np.newaxis], flips]
        if len(on) and len(off):
            swaps = np.repeat(mask[np.newaxis], SWAPS, axis=0)
            swaps[np.arange(SWAPS), self.random.choice(on, SWAPS)] = False
            swaps[np.arange(SWAPS), self.random.choice(off, SWAPS)] = True
            found.append(swaps)
        stretches = np.repeat(mask[np.newaxis], SWAPS, axis=0)
        begin = self.random.integers(0, layers, (SWAPS, 1))
        inside = (np.arange(layers) >= begin) & (np.arange(layers) < begin + self.random.integers(2, 9, (SWAPS, 1)))
        found.append(np.where(inside, self.random.random((SWAPS, 1)) < 0.5, stretches))
        candidates = np.unique(np.concatenate(found), axis=0)
        return candidates[self.problem.accuracy.predict(candidates) >= floor]

    def _fill(self, archive: Archive, floor: float) -> None:
        """Between the corners of the hull: every other state of every single layer that keeps the mask."""
        front = archive.fronts[floor]
        chosen = np.unique(np.linspace(0, len(front) - 1, FILL_POINTS).astype(np.intp))
        is_npu = self.problem.cost.tables.is_npu
        for config in front.configs[chosen]:
            archive.offer(_single_changes(config, self.problem.states, is_npu))


def _single_changes(config: Configs, states: Configs, is_npu: Masks) -> Configs:
    """All configurations that differ from `config` [layers] in the state of one layer, of the same kind."""
    layers = len(config)
    changed = np.repeat(config[np.newaxis], layers * len(states), axis=0)
    rows = np.arange(len(changed))
    changed[rows, rows // len(states)] = np.tile(states, layers)
    same_kind = is_npu[changed[rows, rows // len(states)]] == is_npu[config[rows // len(states)]]
    return changed[same_kind]


__all__ = ["PiqiSearch", "join", "non_dominated"]
