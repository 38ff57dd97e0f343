"""A board's letters and frequencies on this machine: every processor emulated, no frequency set."""

from __future__ import annotations

import os

from piqi_runtime.boards import Board


def simulated(board: Board) -> Board:
    """A board of the same processors that can run here, whatever libraries the real one has."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    processors = tuple(
        processor.model_copy(update={"backend": "xnnpack", "cpus": cpus, "threads": len(cpus), "domains": ()})
        for processor in board.processors
    )
    return board.model_copy(update={"processors": processors})
