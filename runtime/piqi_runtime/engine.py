"""Runs a network on a board under any number of run configurations, which share its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.backends import AnyBackend, available_backends
from piqi_runtime.boards import Board
from piqi_runtime.model import Model

if TYPE_CHECKING:
    from piqi_runtime.partition import Partition
    from piqi_runtime.report import Report

Array = npt.NDArray[Any]

_logger = logging.getLogger(__name__)


class Engine:
    """One network on one board: prepares pieces of it once, however many configurations use them.

    An NPU whose vendor's library is on this machine runs there, what `backends` names on those.

    `root` is where the board's ``sys/`` is; ``root=None`` leaves frequencies alone. What this machine cannot
    do as the board file says (CPUs, frequencies) is logged once as a warning, and done without.
    """

    def __init__(
        self,
        model: Model,
        board: Board,
        *,
        root: str | os.PathLike[str] | None = None,
        backends: Mapping[str, AnyBackend] | None = None,
    ) -> None:
        backends = {**available_backends(board), **(backends or {})}
        self.model = model
        self.board = board
        self._native_board = board.to_native(root or Path("/"), backends={"xnnpack", *backends})
        self._manager = piqi_native.GraphManager(model.to_graph(), self._native_board, backends)
        self._partitions: dict[str, piqi_native.Partition] = {}
        self._target = next((p.rknn_target for p in board.processors if p.rknn_target), None)
        self._governor: piqi_native.Governor | None = None
        if root is not None:
            self._governor = piqi_native.sysfs_governor(self._native_board, os.fspath(root))
        for warning in [*self._manager.warnings, *(self._governor.warnings if self._governor else [])]:
            _logger.warning(warning)

    def plan(self, order: str, freqs: str = "") -> piqi_native.Plan:
        """A checked run configuration. Raises `piqi_native.PlanError`."""
        return piqi_native.Plan(self._native_board, self.model.layer_count, order, freqs)

    def executor(
        self,
        order: str,
        freqs: str = "",
        partitions: Callable[[int, int], Partition] | Sequence[Partition] = (),
        *,
        frames_in_flight: int = 1,
        timeout_s: float = 60.0,
        recorded_frames: int = 1024,
        measure_kernels: bool = False,
        marker: piqi_native.PowerMarker | None = None,
    ) -> Executor:
        """An executor for a run configuration; `partitions`, or what finds them by range, are for the NPU.

        One frame in flight is the switching mode, more are the pipeline mode. Raises `piqi_native.Error`.
        """
        plan = self.plan(order, freqs)
        if callable(partitions):
            partitions = [partitions(first, last) for first, last in plan.npu_ranges]
        # One native partition for each content, so that configurations share what was prepared of it.
        shared = [self._partitions.setdefault(p.checksum, p.to_native(self._target)) for p in partitions]
        native = piqi_native.GraphExecutor(
            self._manager,
            plan,
            shared,
            frames_in_flight=frames_in_flight,
            timeout_s=timeout_s,
            recorded_frames=recorded_frames,
            measure_kernels=measure_kernels,
            governor=self._governor,
            marker=marker,
        )
        return Executor(self, plan, native, frames_in_flight)

    @property
    def memory_bytes(self) -> int:
        """Packed weights and activations of all configurations, without what lies between their sub-graphs."""
        return self._manager.memory_bytes

    def trim(self, patience_s: float = 2.0) -> None:
        """Frees what no executor uses. Raises `piqi_native.TimeoutError` where a backend does not close."""
        self._manager.trim(patience_s)

    def close(self) -> None:
        """Frees what no executor uses and puts the frequencies back. The engine can still be used."""
        try:
            self.trim()
        finally:
            if self._governor:
                self._governor.restore()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Executor:
    """Runs frames through one run configuration of an `Engine`."""

    def __init__(
        self, engine: Engine, plan: piqi_native.Plan, native: piqi_native.GraphExecutor, frames_in_flight: int
    ) -> None:
        self.engine = engine
        self.plan = plan
        self.frames_in_flight = frames_in_flight
        self._native = native

    @property
    def sub_graphs(self) -> list[piqi_native.SubGraph]:
        """The maximal runs of layers on one processor, in order."""
        return self._native.sub_graphs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One frame: arrays by the names of the network's inputs to arrays by those of its outputs.

        Raises `piqi_native.GraphError` for arrays that do not fit, `piqi_native.BackendError` where a
        processor fails and `piqi_native.TimeoutError` where one hangs; the executor stays usable.
        """
        return self._native.run(inputs)

    def __call__(self, frame: Array) -> Array:
        """One frame of a network with one input and one output: float32 [H, W, C] or [1, H, W, C]."""
        (output_name,) = self.engine.model.outputs
        return self.run(self._named(frame))[output_name]

    def stream(self, frames: Iterable[Array]) -> Iterator[dict[str, Array]]:
        """The outputs by name for each frame of a network with one input, in order.

        As many frames are in flight as the executor was made for.
        """
        in_flight = 0
        for frame in frames:
            if in_flight == self.frames_in_flight:
                in_flight -= 1
                yield self._native.receive()
            self._native.submit(self._named(frame))
            in_flight += 1
        for _ in range(in_flight):
            yield self._native.receive()

    @property
    def memory_bytes(self) -> int:
        """The channels between its sub-graphs; weights and activations are the engine's."""
        return self._native.memory_bytes

    def report(self) -> Report:
        """Times of the frames since the last `clear_report` (of the last `recorded_frames` at most)."""
        from piqi_runtime.report import make_report  # here: the daemon makes none

        letters = [self.engine.board.processors[s.processor].letter for s in self.sub_graphs]
        return make_report(self._native, self.plan, letters)

    def clear_report(self) -> None:
        """Forgets the times recorded so far: what came before was warm-up."""
        self._native.clear_times()

    def close(self) -> None:
        """Ends its threads; what it prepared stays with the engine. Idempotent."""
        self._native.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _named(self, frame: Array) -> dict[str, Array]:
        (name,) = self.engine.model.inputs
        tensor = self.engine.model.tensors[name]
        frame = np.asarray(frame, dtype=tensor.dtype)
        return {name: frame[np.newaxis] if frame.shape == tensor.shape[1:] else frame}
