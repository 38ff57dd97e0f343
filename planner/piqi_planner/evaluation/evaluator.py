"""Accuracies of masks: what the store has, and what workers find out for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.evaluation.store import EvaluationStore, Records
from piqi_planner.evaluation.tasks import EvaluationContext, Task, block_frames
from piqi_planner.evaluation.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from piqi_planner.evaluation.metrics import Summary

Masks = npt.NDArray[np.bool_]

#: Masks that one task takes at most: beginnings are shared inside of a task only.
MASKS_IN_A_TASK = 512


class Evaluator:
    """Evaluates masks once each. `confidence`: of the bounds."""

    def __init__(
        self, context: EvaluationContext, store: EvaluationStore, workers: Workers, confidence: float = 0.95
    ) -> None:
        assert context.dataset is not None
        self.context = context
        self.layers = context.exact.layer_count
        self._store, self._workers, self._confidence = store, workers, confidence
        self._frames = len(context.dataset)
        self._block = block_frames(context.exact)
        self._summaries: dict[bytes, Summary] = {}

    def evaluate(self, masks: Masks, progress: Callable[[float], None] = lambda done: None) -> None:
        """Makes sure that `masks` [n, layers] are in the store. Raises what reading or running raises."""
        tasks = list(self._tasks(np.unique(masks, axis=0)))
        total = sum(len(task.masks) * task.count for task in tasks)
        done = 0
        for task, results in self._workers.run(tasks):
            self._store.add((mask, task.block, records) for mask, records in zip(task.masks, results, strict=True))
            done += len(task.masks) * task.count
            progress(done / total)

    def records(self, mask: npt.NDArray[np.bool_]) -> Records:
        """What each frame gave for a mask that was evaluated."""
        return self._store.records(mask)

    def summary(self, mask: npt.NDArray[np.bool_]) -> Summary:
        """Accuracy in percent of a mask that was evaluated, with its standard error and bounds."""
        key = mask.tobytes()
        if key not in self._summaries:
            reference = self._store.records(np.zeros(self.layers, np.bool_))
            metric = self.context.metric
            self._summaries[key] = metric.summary(self._store.records(mask), reference, self._confidence)
        return self._summaries[key]

    def _tasks(self, masks: Masks) -> Iterator[Task]:
        """What is missing, in pieces; masks in the order of their layers, so that a piece shares beginnings."""
        missing: dict[int, list[int]] = defaultdict(list)
        blocks = range(-(-self._frames // self._block))
        for place, mask in enumerate(masks):
            known = self._store.blocks(mask)
            for block in blocks:
                if block not in known:
                    missing[block].append(place)
        # Few blocks for many workers: smaller pieces keep all of them busy, though they share less.
        pieces = -(-self._workers.count // max(len(missing), 1))
        for block, places in sorted(missing.items()):
            first = block * self._block
            count = min(self._block, self._frames - first)
            size = min(MASKS_IN_A_TASK, -(-len(places) // pieces))
            for start in range(0, len(places), size):
                yield Task(block, first, count, masks[places[start : start + size]])
