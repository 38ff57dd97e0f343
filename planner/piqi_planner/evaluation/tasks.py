"""One piece of work: some masks on one block of frames. Runs in any process, here or on a cluster."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_planner.evaluation.batch import with_batch
from piqi_runtime.container import content_hash
from piqi_runtime.model import Model

if TYPE_CHECKING:
    from piqi_planner.evaluation.dataset import EvaluationSet
    from piqi_planner.evaluation.metrics import Metric
    from piqi_planner.evaluation.store import Records

Masks = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Frames that go through the network together: weights stay in the cache, activations do too.
BATCH = 4
_OWN_BYTES = 150 << 20  # of a process with NumPy, Pillow and the extension


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """What all tasks of one evaluation share: the float network beside its quantised form, data and metric."""

    exact: Model
    quantised: Model
    metric: Metric
    dataset: EvaluationSet | None
    images_hash: str
    batch: int = BATCH

    @cached_property
    def key(self) -> dict[str, str]:
        """What the records depend on, by name."""
        return {
            "model": content_hash(self.exact),
            "quantised": content_hash(self.quantised),
            "images": self.images_hash,
            "metric": self.metric.key,
            "block": f"{block_frames(self.exact)} frames",
        }

    def without_frames(self) -> EvaluationContext:
        """For workers that are given the frames with each task."""
        return replace(self, dataset=None)

    def memory_bytes(self) -> int:
        """About what a process needs that works on this."""
        weights = activations = 0
        for model in (self.exact, self.quantised):
            for tensor in model.tensors.values():
                if tensor.data is not None:
                    weights += 2 * tensor.size_bytes  # as it came, and packed
                else:
                    activations += tensor.size_bytes
        return _OWN_BYTES + weights + 2 * self.batch * activations


@dataclass(frozen=True, eq=False)
class Task:
    """`masks` [n, layers] on frames first..first + count of the data set."""

    block: int
    first: int
    count: int
    masks: Masks


def block_frames(model: Model) -> int:
    """Frames whose records are kept together: fewer of a network that takes long, so that little is lost."""
    active = sum(t.size_bytes for t in model.tensors.values() if t.data is None)
    return min(max((1 << 29) // active, 4), 32)


class Worker:
    """Runs tasks of one context, one at a time."""

    def __init__(self, context: EvaluationContext) -> None:
        self._context = context
        batch = context.batch
        exact, quantised = (with_batch(model, batch) for model in (context.exact, context.quantised))
        if exact is None or quantised is None:
            batch, exact, quantised = 1, context.exact, context.quantised
        self._batch = batch
        self._evaluator = piqi_native.MaskEvaluator(exact.to_graph(), quantised.to_graph())

    def run(self, task: Task, frames: Floats | None = None) -> list[Records]:
        """The records of each mask; `frames` [count, H, W, C] where the data set's are not at hand.

        Raises what reading frames, the network or the metric raises.
        """
        (name,) = self._context.exact.inputs
        if frames is None:
            assert self._context.dataset is not None
            frames = self._context.dataset.frames(task.first, task.count)
        records: list[list[Any]] = [[] for _ in task.masks]
        for start in range(0, task.count, self._batch):
            batch = frames[start : start + self._batch]
            count = len(batch)
            if count < self._batch:  # its shape is fixed; what the last frame gives again is dropped
                batch = np.concatenate([batch, np.repeat(batch[-1:], self._batch - count, axis=0)])

            def keep(mask: int, outputs: dict[str, Any], first: int = task.first + start, count: int = count) -> None:
                named = {name: values[:count] for name, values in outputs.items()}
                records[mask] += self._context.metric.records(first, named)

            self._evaluator.evaluate({name: batch}, task.masks, keep)
        return list(records)


_of_thread = threading.local()


def run_task(context: EvaluationContext, task: Task, frames: Floats | None = None) -> list[Records]:
    """`Worker.run`, with a worker that the calling thread keeps for as long as the context stays the same."""
    key = context.key
    if getattr(_of_thread, "key", None) != key:
        _of_thread.worker, _of_thread.key = None, None  # free the old one first
        _of_thread.worker, _of_thread.key = Worker(context), key
    worker: Worker = _of_thread.worker
    return worker.run(task, frames)
