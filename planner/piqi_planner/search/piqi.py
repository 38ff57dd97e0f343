"""Our search: exact inner solutions, a price for accuracy, and local search over masks.

For a weighting of energy and latency and a price for each quantised layer the best configuration is known exactly
(`relaxation`). Prices that follow the accuracy model's own slopes give masks of every accuracy. From there a Pareto
local search goes on for each weighting: it keeps the masks whose cost and accuracy no other mask beats, those below a
floor too, since the way to a better mask may lead through them, and tries their neighbours, each with its exact best
configuration. Power is energy over latency, so a point may count that is worse in both: negative prices on latency
ask for those. What lies between the exact solutions, corners of the convex hull, is found by changing single states.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from piqi_planner.search.front import Configs, Floats, Front
from piqi_planner.search.problem import Archive, Masks, Problem, Progress, Search, SearchError
from piqi_planner.search.relaxation import Relaxation, Weights
from piqi_planner.search.trade_off import TradeOff

ROUNDS = 16  # of local search
PROMISING = 40  # neighbours of a mask, two and more layers away, that a round works out
TRIPLES = 4000  # sets of three layers whose flipping is considered
STRETCHES = 400  # runs of layers that are quantised, or not, together
SAMPLED_MASKS = 400  # that the first slopes of accuracy are taken from
EXPANDING = 0.65  # share of the budget that local search may use; the rest is for the points in between
FINE_WEIGHTINGS = 120  # for each of at most FINE_MASKS masks of a front
FINE_MASKS = 60
FILL_ROUNDS = 8
FILL_POINTS = 400  # of a front whose neighbours are tried
MASKS_AT_A_TIME = 64
POWER_ROUNDS = 6  # the last two change nothing


class PiqiSearch(Search):
    """Work is shared between floors: what is found for one is offered to all."""

    def __init__(self, problem: Problem, seed: int = 0, budget_s: float | None = None) -> None:
        super().__init__(problem, seed, budget_s)
        self._relaxation = relaxation_of(problem)
        self._watts = weightings(problem)

    def run(self, archive: Archive, progress: Progress) -> None:
        """Fills all floors; raises SearchError naming the best accuracy where a floor cannot be reached."""
        trade_offs = [TradeOff(self.problem.layers) for _ in self._watts]
        self._spread(archive, trade_offs)
        for number in range(ROUNDS):
            progress(number / (ROUNDS + 1))
            if self.spent > EXPANDING or not self._expand(archive, trade_offs):
                break
        for number, floor in enumerate(archive.floors):
            if floor not in archive.fronts:
                raise SearchError(
                    f"no mask reaches an accuracy of {floor:g} %; the best found has {archive.best_accuracy:.4f} %"
                )
            self.refine(archive, floor)
            progress((ROUNDS + (number + 1) / len(archive.floors)) / (ROUNDS + 1))

    def _spread(self, archive: Archive, trade_offs: list[TradeOff]) -> None:
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
        prices = [np.multiply.outer(scale * np.geomspace(0.02, 100, 31), slope) for slope in slopes]
        ends = np.stack([np.full(layers, np.inf), np.full(layers, -np.inf), np.zeros(layers)])
        for price in (*prices, ends):
            watts = np.repeat(self._watts, len(price))
            self._solve(archive, trade_offs, watts, np.tile(price, (len(self._watts), 1)))

    def _slopes(self, mask: Masks) -> Floats:
        """What quantising each layer costs in accuracy next to `mask` [layers]: percentage points."""
        flipped = mask ^ np.eye(len(mask), dtype=bool)
        change = self.problem.accuracy.predict(flipped) - self.problem.accuracy.predict(mask[np.newaxis])
        slopes: Floats = np.where(mask, change, -change)
        return slopes

    def _solve(self, archive: Archive, trade_offs: list[TradeOff], watts: Floats, prices: Floats) -> Front:
        """The best configurations, offered to all floors and to all weightings' trade-offs."""
        found = archive.offer(self._relaxation.solve(Weights(watts, prices)))
        masks = self.problem.masks(found.configs)
        for watt, trade_off in zip(self._watts, trade_offs, strict=True):
            trade_off.insert(masks, found.energy_mj + watt * found.latency_ms, found.accuracy)
        return found

    def _expand(self, archive: Archive, trade_offs: list[TradeOff]) -> bool:
        """Tries the neighbours of the masks next to the floors; False when all of them were tried before."""
        layers = self.problem.layers
        chosen = [(watt, t, t.unexpanded(archive.floors)) for watt, t in zip(self._watts, trade_offs, strict=True)]
        watts = np.concatenate([np.full(len(masks), watt) for watt, _, masks in chosen])
        masks = np.concatenate([masks for _, _, masks in chosen])
        if not len(masks):
            return False
        flips = masks[:, np.newaxis] ^ np.concatenate([np.zeros((1, layers), bool), np.eye(layers, dtype=bool)])
        found = self._solve_masks(archive, trade_offs, watts, flips)
        cost = (found.energy_mj + np.repeat(watts, layers + 1) * found.latency_ms).reshape(len(masks), -1)
        change = cost[:, 1:] - cost[:, :1]  # what flipping each layer changes
        candidates = {mask.tobytes(): self._candidates(mask) for mask in np.unique(masks, axis=0)}
        place = {float(watt): trade_off for watt, trade_off, _ in chosen}
        promising = []
        for mask, watt, base, step in zip(masks, watts, cost[:, 0], change, strict=True):
            flipped, accuracy = candidates[mask.tobytes()]
            # Changes of single layers nearly add up; the sums that promise most are worked out exactly.
            gain = place[float(watt)].cost_at(accuracy) - (base + flipped @ step)
            promising.append(mask ^ flipped[np.argpartition(-gain, PROMISING)[:PROMISING]])
        self._solve_masks(archive, trade_offs, np.repeat(watts, PROMISING), np.concatenate(promising)[:, np.newaxis])
        return True

    def _solve_masks(self, archive: Archive, trade_offs: list[TradeOff], watts: Floats, masks: Masks) -> Front:
        """The best configuration for each weighting and each of its masks [weightings, n, layers]."""
        prices = np.where(masks.reshape(-1, masks.shape[-1]), -np.inf, np.inf)
        return self._solve(archive, trade_offs, np.repeat(watts, masks.shape[1]), prices)

    def _candidates(self, mask: Masks) -> tuple[Masks, Floats]:
        """Sets of layers to flip [n, layers], and the accuracies then: pairs, and triples and stretches by chance."""
        layers = len(mask)
        one = np.eye(layers, dtype=bool)
        first, second = np.triu_indices(layers, 1)
        three = self.random.integers(0, layers, (TRIPLES, 3))
        begin, length = self.random.integers(0, layers, (STRETCHES, 1)), self.random.integers(2, 9, (STRETCHES, 1))
        inside = (np.arange(layers) >= begin) & (np.arange(layers) < begin + length)
        alike = inside & (mask ^ (self.random.random((STRETCHES, 1)) < 0.5))
        flipped = np.concatenate([one[first] | one[second], one[three].any(axis=1), alike])
        return flipped, self.problem.accuracy.predict(mask ^ flipped)

    def refine(self, archive: Archive, floor: float) -> None:
        """Between the corners of the hull: more weightings, then every other state of every single layer."""
        front = archive.fronts[floor]
        masks = np.unique(self.problem.masks(front.configs), axis=0)
        watts = np.interp(np.linspace(0, 1, FINE_WEIGHTINGS), np.linspace(0, 1, len(self._watts)), self._watts)
        if len(masks) > FINE_MASKS:
            masks = masks[self.random.choice(len(masks), FINE_MASKS, replace=False)]
        for mask in masks:
            if self.late:
                return
            price = np.where(mask, -np.inf, np.inf)
            archive.offer(self._relaxation.solve(Weights(watts, np.tile(price, (len(watts), 1)))))
        if not self.late:
            archive.offer(least_power(self.problem, self._relaxation, masks))
        is_npu = self.problem.cost.tables.is_npu
        before = 0
        for _ in range(FILL_ROUNDS):
            front = archive.fronts[floor]
            if len(front) == before:
                return
            before = len(front)
            places = np.unique(np.linspace(0, len(front) - 1, FILL_POINTS).astype(np.intp))
            for config in front.configs[places]:
                if self.late:
                    return
                archive.offer(_single_changes(config, self.problem.states, is_npu))


def relaxation_of(problem: Problem) -> Relaxation:
    """The exact solver for a problem."""
    return Relaxation(problem.cost.tables, problem.states, problem.cost.whole_runs)


def weightings(problem: Problem) -> Floats:
    """Prices of latency in watt: what a second may cost in joules, and what it may save."""
    costs = problem.cost.evaluate(np.repeat(problem.states[:, np.newaxis], problem.layers, axis=1))
    low, high = costs.power_mw.min() / 1e3, costs.power_mw.max() / 1e3
    return np.concatenate([-np.linspace(1.2 * high, 0.3 * low, 14), [0.0], high * np.geomspace(0.05, 20, 11)])


def least_power(problem: Problem, relaxation: Relaxation, masks: Masks) -> Configs:
    """The configuration [n, layers] of least power for each of `masks` [n, layers].

    By Dinkelbach's iteration: energy over latency is least where energy less that power times latency is zero at best.
    """
    price = np.where(masks, -np.inf, np.inf)
    watts = np.full(len(masks), weightings(problem)[0])
    for _ in range(POWER_ROUNDS):
        configs = relaxation.solve(Weights(watts, price))
        watts = -problem.cost.evaluate(configs).power_mw / 1e3
    return configs


def solve_masks(problem: Problem, masks: Masks, progress: Progress = lambda done: None) -> Iterator[Configs]:
    """The best configurations of some of `masks` [m, layers] at a time: [masks, weightings + 1, layers].

    The last is that of least power.
    """
    relaxation = relaxation_of(problem)
    watts = weightings(problem)
    for first in range(0, len(masks), MASKS_AT_A_TIME):
        some = masks[first : first + MASKS_AT_A_TIME]
        price = np.repeat(np.where(some, -np.inf, np.inf), len(watts), axis=0)
        best = relaxation.solve(Weights(np.tile(watts, len(some)), price)).reshape(len(some), len(watts), -1)
        yield np.concatenate([best, least_power(problem, relaxation, some)[:, np.newaxis]], axis=1)
        progress((first + len(some)) / len(masks))


def _single_changes(config: Configs, states: Configs, is_npu: Masks) -> Configs:
    """All configurations that differ from `config` [layers] in the state of one layer, of the same kind."""
    layers = len(config)
    changed = np.repeat(config[np.newaxis], layers * len(states), axis=0)
    rows = np.arange(len(changed))
    changed[rows, rows // len(states)] = np.tile(states, layers)
    same_kind = is_npu[changed[rows, rows // len(states)]] == is_npu[config[rows // len(states)]]
    kept: Configs = changed[same_kind]
    return kept
