"""What is searched, and the interface behind which the searches stand."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.search.front import Configs, Floats, Front, join, non_dominated
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from piqi_planner.accuracy import AccuracyModel
    from piqi_planner.cost import CostModel

Masks = npt.NDArray[np.bool_]
#: Called with the share of the work that is done, 0 to 1.
Progress = Callable[[float], None]


class SearchError(PiqiError):
    """A search that cannot give a result; the message says what could be reached."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Cost and accuracy models, and the states (indices) that a layer may be in."""

    cost: CostModel
    accuracy: AccuracyModel
    states: npt.NDArray[np.intp]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.cost.tables.layer_count

    def masks(self, configs: Configs) -> Masks:
        """Which layers run on an NPU, [n, layers]."""
        return self.cost.tables.is_npu[configs]

    def evaluate(self, configs: Configs) -> Front:
        """The configurations with their costs and accuracies."""
        costs = self.cost.evaluate(configs)
        masks = self.masks(configs)
        packed = np.packbits(masks, axis=1)
        _, chosen, place = np.unique(packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True)
        accuracy = self.accuracy.predict(masks[chosen])[place]
        return Front(configs, costs.latency_ms, costs.power_mw, costs.energy_mj, accuracy)


@dataclass
class Archive:
    """The best points so far for each accuracy floor (None: whatever the accuracy)."""

    problem: Problem
    floors: Sequence[float]
    fronts: dict[float, Front] = field(default_factory=dict)
    best_accuracy: float = -np.inf

    def offer(self, configs: Configs) -> Front:
        """Takes in configurations, NPU runs made whole where the cost model wants that; returns them, evaluated."""
        if self.problem.cost.whole_runs:
            configs = self.problem.cost.tables.whole_runs(configs)
        found = self.problem.evaluate(configs)
        if len(found):
            self.best_accuracy = max(self.best_accuracy, float(found.accuracy.max()))
        for floor in self.floors:
            self._keep(floor, found.take(np.flatnonzero(found.accuracy >= floor)))
        return found

    def _keep(self, floor: float, found: Front) -> None:
        if not len(found):
            return
        found = found.take(non_dominated(found.latency_ms, found.power_mw))
        if floor in self.fronts:
            found = join([self.fronts[floor], found])
            found = found.take(non_dominated(found.latency_ms, found.power_mw))
        self.fronts[floor] = found


class Search(ABC):
    """A way to fill an archive. With a budget it ends when that is used up; what was found by then stays."""

    def __init__(self, problem: Problem, seed: int = 0, budget_s: float | None = None) -> None:
        self.problem = problem
        self.random = np.random.default_rng(seed)
        self.seed = seed
        self._began, self._budget_s = time.monotonic(), budget_s

    @property
    def spent(self) -> float:
        """Share of the budget that is used up; 0 without a budget."""
        return (time.monotonic() - self._began) / self._budget_s if self._budget_s else 0.0

    @property
    def late(self) -> bool:
        """True when the budget is used up."""
        return self.spent > 1

    @abstractmethod
    def run(self, archive: Archive, progress: Progress) -> None:
        """Offers configurations to `archive`; KeyboardInterrupt passes through at any point."""


def single_processor_states(problem: Problem) -> list[npt.NDArray[np.intp]]:
    """The states of each processor, by its place."""
    of = problem.cost.tables.processor_of[problem.states]
    return [problem.states[of == place] for place in np.unique(of)]


__all__ = [
    "Archive",
    "Configs",
    "Floats",
    "Masks",
    "Problem",
    "Progress",
    "Search",
    "SearchError",
    "single_processor_states",
]
