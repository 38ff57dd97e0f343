"""What `piqi.backends` finds on a simulated board: the host's kernels, paced."""

import os

import piqi_native
from piqi_runtime.boards import Board


def backend(board: Board) -> piqi_native.NativeBackend | None:
    """XNNPACK as slow as the board; None where no simulated board is running."""
    observer = os.environ.get("PIQI_OBSERVER")
    if not observer or "PIQI_PACER" not in os.environ:
        return None
    return piqi_native.observed_backend(piqi_native.xnnpack_backend(), observer, board.letters)
