"""What runs on the board: models, board files, the executor's Python face. Small dependencies only."""

from piqi_native import __version__
from piqi_runtime.boards import Board, BoardError, load_board
from piqi_runtime.engine import Engine, Executor
from piqi_runtime.errors import PiqiError
from piqi_runtime.model import Model
from piqi_runtime.report import Report

__all__ = [
    "Board",
    "BoardError",
    "Engine",
    "Executor",
    "Model",
    "PiqiError",
    "Report",
    "__version__",
    "load_board",
]
