"""Active sampling: evaluates the masks that a front asks for, until all of a front's masks are measured.

Each round fits the accuracy model to what is known, searches twice, with the model's expectation and with what
accuracy may well be, and evaluates the masks that these fronts would use and that were not measured yet. It ends when
the expected front's masks are all measured and the measured front has settled. All of it follows from the seed and
the measured accuracies alone, so it comes to the same masks however often it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.accuracy import AccuracyModel, FittedModel, Samples, fit_accuracy
from piqi_planner.accuracy.base import Floats, Masks, checked_masks
from piqi_planner.build.masks import start_masks
from piqi_planner.search import (
    Archive,
    Front,
    Problem,
    SearchError,
    hypervolume,
    non_dominated,
    non_dominated_3d,
    search,
    solve_masks,
)
from piqi_planner.search.front import join
from piqi_planner.search.piqi import PiqiSearch

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from piqi_planner.cost import CostModel
    from piqi_planner.evaluation.base import Summary
    from piqi_planner.evaluation.evaluator import Evaluator

MASKS_IN_A_ROUND = 24
ROUNDS = 40
SETTLED = 0.0005  # relative change of the hypervolume
OPTIMISM = 2.0  # how far hope goes, in distances of the lower bound from the expectation
LEVELS = 12  # accuracy floors of a round's searches
ALL_MASKS_LAYERS = 14  # up to so many, all masks are compared
FINAL_LEVELS = 16
SHARES = 2  # between which floors are shared out: what is found must not depend on the number of processes


@dataclass(frozen=True)
class Floor:
    """What a point must keep: at least `accuracy`, or at most `loss` next to the float model, in percent and points.

    A measured mask keeps it if the lower bound of its measurement does.
    """

    accuracy: float | None = None
    loss: float | None = None

    def margin(self, summary: Summary) -> float:
        """How far above the floor the bound is; infinite without a floor."""
        margins = [np.inf]
        if self.accuracy is not None:
            margins.append(summary.lower_bound - self.accuracy)
        if self.loss is not None:
            margins.append(summary.difference_lower_bound + self.loss)
        return float(min(margins))

    @property
    def text(self) -> str:
        """For messages."""
        parts = [] if self.accuracy is None else [f"an accuracy of {self.accuracy:g} %"]
        parts += [] if self.loss is None else [f"a loss of at most {self.loss:g} points"]
        return " and ".join(parts)


class MeasuredAccuracy(AccuracyModel):
    """Accuracies of measured masks; nothing else is worth anything."""

    def __init__(self, masks: Masks, accuracy: Floats) -> None:
        self.layers = masks.shape[1]
        self._known = {mask.tobytes(): float(value) for mask, value in zip(masks, accuracy, strict=True)}

    def predict(self, masks: npt.ArrayLike) -> Floats:
        """Percent, [n]; minus infinity for a mask that was not measured."""
        checked = np.ascontiguousarray(checked_masks(masks, self.layers))
        return np.array([self._known.get(mask.tobytes(), -np.inf) for mask in checked], float)

    def lower_bound(self, masks: npt.ArrayLike) -> Floats:
        """The same."""
        return self.predict(masks)


class Optimistic(AccuracyModel):
    """Above the expectation of `model` by OPTIMISM times as much as its lower bound is below."""

    def __init__(self, model: FittedModel) -> None:
        self.layers = model.layers
        self._model = model

    def predict(self, masks: npt.ArrayLike) -> Floats:
        """Percent, [n]."""
        expected = self._model.predict(masks)
        return expected + OPTIMISM * (expected - self._model.lower_bound(masks))

    def lower_bound(self, masks: npt.ArrayLike) -> Floats:
        """The model's."""
        return self._model.lower_bound(masks)


@dataclass
class ActiveSampling:
    """Measures what matters for the front of `cost` and the evaluator's model.

    `states`: what a layer may be in; `asking_states`: some of them, enough to tell which masks are worth measuring.
    """

    evaluator: Evaluator
    cost: CostModel
    states: npt.NDArray[np.intp]
    asking_states: npt.NDArray[np.intp]
    floor: Floor = field(default_factory=Floor)
    samples: int = 100
    pairs: int | None = None
    seed: int = 0
    pool: Executor | None = None
    history: list[tuple[int, float]] = field(default_factory=list)  # masks measured, hypervolume, for each round

    def __post_init__(self) -> None:
        self._measured: dict[bytes, npt.NDArray[np.bool_]] = {}
        self._fronts = MaskFronts(self.cost, self.asking_states)

    def start(self, progress: Callable[[float], None]) -> None:
        """Measures the start set. Raises SearchError where not even the float model keeps the floor."""
        layers = self.evaluator.layers
        self._measure(start_masks(layers, self.pairs, self.samples, self.seed), progress)
        accuracies = [self.evaluator.summary(mask).value for mask in self._measured.values() if self._margin(mask) >= 0]
        if accuracies:
            self._levels = np.linspace(min(accuracies), max(accuracies), FINAL_LEVELS)
            return
        best = max(self._measured.values(), key=self._margin)
        summary = self.evaluator.summary(best)
        raise SearchError(
            f"no measured mask keeps {self.floor.text} with a confidence of {summary.confidence:g}; the best has "
            f"{summary.value:.3f} %, {summary.lower_bound:.3f} % at least, and loses "
            f"{-summary.difference_lower_bound:.3f} points at most"
        )

    def refine(self, progress: Callable[[float], None]) -> None:
        """Rounds of fitting, searching and measuring."""
        calm = 0
        for number in range(ROUNDS):
            progress(number / ROUNDS)
            wanted, expected = self._wanted()
            self.history.append((len(self._measured), self._hypervolume()))
            if len(self.history) > 1:
                before, now = self.history[-2][1], self.history[-1][1]
                calm = calm + 1 if abs(now - before) <= SETTLED * now else 0
            if not len(wanted) or (calm >= 2 and not expected):
                break
            self._measure(wanted, partial(_shifted, progress, number))
        progress(1.0)

    def adopt(self, masks: Masks) -> None:
        """Takes `masks`, which are in the store, for those that an earlier run came to."""
        self._measured.update((mask.tobytes(), mask) for mask in masks)

    def masks(self) -> Masks:
        """All that were measured, in a fixed order."""
        return np.unique(np.stack(list(self._measured.values())), axis=0)

    def measured_samples(self) -> Samples:
        """Their accuracies."""
        masks = self.masks()
        return Samples(masks, np.array([self.evaluator.summary(mask).value for mask in masks]))

    def front(self, progress: Callable[[float], None]) -> Front:
        """The front in latency, power and measured accuracy of all measured masks that keep the floor."""
        problem, masks, accuracy = self._admitted()
        levels = np.unique(np.quantile(accuracy, np.linspace(0, 1, FINAL_LEVELS), method="lower")).tolist()
        archive = Archive(problem, levels)
        # One state for all layers: the weightings are too coarse to be sure of the least power.
        archive.offer(np.repeat(self.states[:, np.newaxis], problem.layers, axis=1))
        for configs in solve_masks(problem, masks, lambda done: progress(done / 2)):
            archive.offer(np.unique(configs.reshape(-1, problem.layers), axis=0))
        refining = PiqiSearch(problem, self.seed)
        for number, level in enumerate(levels):
            refining.refine(archive, level)
            progress(0.5 + (number + 1) / len(levels) / 2)
        return _join_3d([archive.fronts[level] for level in levels])

    def _measure(self, masks: Masks, progress: Callable[[float], None]) -> None:
        self.evaluator.evaluate(masks, progress)
        self._measured.update((mask.tobytes(), mask) for mask in masks)

    def _margin(self, mask: npt.NDArray[np.bool_]) -> float:
        return self.floor.margin(self.evaluator.summary(mask))

    def _admitted(self) -> tuple[Problem, Masks, Floats]:
        """The problem among measured masks, those that keep the floor, and their accuracies."""
        masks = np.stack([mask for mask in self.masks() if self._margin(mask) >= 0])
        accuracy = np.array([self.evaluator.summary(mask).value for mask in masks])
        return Problem(self.cost, MeasuredAccuracy(masks, accuracy), self.states), masks, accuracy

    def _wanted(self) -> tuple[Masks, bool]:
        """Masks to measure next, and whether the expected front has any of them."""
        model = fit_accuracy(self.measured_samples(), seed=self.seed)
        half = MASKS_IN_A_ROUND // 2
        expected = self._asked_for(model)[:MASKS_IN_A_ROUND]
        hoped = self._asked_for(Optimistic(model))
        known = {mask.tobytes() for mask in expected[:half]}
        chosen = [*expected[:half], *(mask for mask in hoped if mask.tobytes() not in known)][:MASKS_IN_A_ROUND]
        return np.array(chosen, bool).reshape(-1, self.evaluator.layers), bool(len(expected))

    def _asked_for(self, model: AccuracyModel) -> list[npt.NDArray[np.bool_]]:
        """Masks of the model's front that are not measured, those with the most points first."""
        masks = self._front_masks(model)
        distinct, counts = np.unique(masks, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [distinct[place] for place in order if distinct[place].tobytes() not in self._measured]

    def _front_masks(self, model: AccuracyModel) -> Masks:
        """The masks of the points of the model's fronts, one a point."""
        floors = self._floors(model)
        if self.evaluator.layers <= ALL_MASKS_LAYERS:
            masks = np.array(list(product((False, True), repeat=self.evaluator.layers)))
            owner, latency_ms, power_mw = self._fronts.of(masks)
            accuracy = model.predict(masks)[owner]
            found = []
            for floor in floors:
                kept = np.flatnonzero(accuracy >= floor)
                found.append(owner[kept[non_dominated(latency_ms[kept], power_mw[kept])]])
            return masks[np.concatenate(found)]
        fronts = search(
            "piqi",
            self.cost,
            model,
            floors,
            states=self.asking_states,
            seed=self.seed,
            jobs=SHARES,
            pool=self.pool,
        )
        return np.concatenate([self.cost.tables.is_npu[front.configs] for front in fronts.values()])

    def _floors(self, model: AccuracyModel) -> list[float]:
        """Accuracies that the model expects of measured masks that keep the floor, from the least to the greatest."""
        kept = np.stack([mask for mask in self._measured.values() if self._margin(mask) >= 0])
        expected = np.unique(model.predict(kept))
        return [float(level) for level in np.unique(np.quantile(expected, np.linspace(0, 1, LEVELS), method="lower"))]

    def _hypervolume(self) -> float:
        """Of the measured front, in latency and power: its mean over accuracy floors."""
        problem, masks, accuracy = self._admitted()
        owner, latency_ms, power_mw = self._fronts.of(masks)
        return mean_hypervolume(latency_ms, power_mw, accuracy[owner], self._levels, reference_point(problem))


def _shifted(progress: Callable[[float], None], number: int, done: float) -> None:
    progress((number + done) / ROUNDS)


def reference_point(problem: Problem) -> tuple[float, float]:
    """The worst latency (ms) and power (mW) of one state for all layers."""
    everything = problem.cost.evaluate(np.repeat(problem.states[:, np.newaxis], problem.layers, axis=1))
    return float(everything.latency_ms.max()), float(everything.power_mw.max())


def mean_hypervolume(
    latency_ms: Floats, power_mw: Floats, accuracy: Floats, levels: Floats, reference: tuple[float, float]
) -> float:
    """In latency and power, in seconds x watts: the mean over accuracy floors `levels`."""
    volumes = []
    for level in levels:
        kept = accuracy >= level
        volumes.append(hypervolume(latency_ms[kept], power_mw[kept], reference))
    return float(np.mean(volumes))


class MaskFronts:
    """Masks' best points for many weightings of latency and energy, each mask worked out once."""

    def __init__(self, cost: CostModel, states: npt.NDArray[np.intp]) -> None:
        no_accuracy = MeasuredAccuracy(np.empty((0, cost.tables.layer_count), bool), np.empty(0))
        self._problem = Problem(cost, no_accuracy, states)
        self._row: dict[bytes, int] = {}
        self._latency_ms: list[Floats] = []
        self._power_mw: list[Floats] = []

    def of(self, masks: Masks) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
        """Points of `masks` [n, layers]: the mask's number, latency in ms and power in mW, each [n x weightings]."""
        new = np.array([mask for mask in masks if mask.tobytes() not in self._row], bool).reshape(-1, masks.shape[1])
        for configs in solve_masks(self._problem, new):
            costs = self._problem.cost.evaluate(configs.reshape(-1, configs.shape[-1]))
            self._latency_ms += list(costs.latency_ms.reshape(configs.shape[:2]))
            self._power_mw += list(costs.power_mw.reshape(configs.shape[:2]))
        for mask in new:
            self._row.setdefault(mask.tobytes(), len(self._row))
        rows = [self._row[mask.tobytes()] for mask in masks]
        latency_ms = np.stack([self._latency_ms[row] for row in rows])
        power_mw = np.stack([self._power_mw[row] for row in rows])
        return np.repeat(np.arange(len(masks)), latency_ms.shape[1]), latency_ms.ravel(), power_mw.ravel()


def _join_3d(fronts: list[Front]) -> Front:
    everything = join(fronts)
    _, first = np.unique(everything.configs, axis=0, return_index=True)
    everything = everything.take(first)
    return everything.take(non_dominated_3d(everything.latency_ms, everything.power_mw, everything.accuracy))
