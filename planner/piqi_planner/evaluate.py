"""Runs frames through an executor and scores what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy.typing as npt

from piqi_planner.progress import progress
from piqi_planner.quantise import SchemeName
from piqi_runtime.boards import Board
from piqi_runtime.engine import Executor

Array = npt.NDArray[Any]

WARM_UP_FRAMES = 5


def npu_scheme(board: Board) -> SchemeName:
    """How the board's NPUs store weights; `per_channel` for a board without one."""
    return next((p.weights for p in board.processors if p.weights), "per_channel")


def warmed_up(executor: Executor, frames: Iterable[Array]) -> Iterator[Array]:
    """The same frames, after the executor ran the first one a few times and forgot about it."""
    frames = iter(frames)
    first = next(frames)
    for _ in executor.stream([first] * max(WARM_UP_FRAMES, executor.frames_in_flight)):
        pass
    executor.clear_report()
    return chain([first], frames)


def count_correct(executor: Executor, frames: Iterable[Array], labels: Array, title: str) -> int:
    """How many of the frames a classifier gets right; the executor's report then covers them, warmed up.

    Raises what the executor raises.
    """
    outputs = executor.stream(warmed_up(executor, frames))
    correct = 0
    for label, output in zip(labels, progress(outputs, len(labels), title), strict=True):
        (scores,) = output.values()
        correct += int(scores.argmax() == label)
    return correct
