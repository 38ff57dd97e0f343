"""What runs on the board: models, board files, the executor's Python face. Small dependencies only."""

from typing import TYPE_CHECKING, Any

from piqi_native import __version__
from piqi_runtime.boards import Board, BoardError, load_board
from piqi_runtime.engine import Engine, Executor
from piqi_runtime.errors import PiqiError
from piqi_runtime.model import Model
from piqi_runtime.report import Report

if TYPE_CHECKING:
    from piqi_runtime.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Board",
    "BoardError",
    "Client",
    "Engine",
    "Executor",
    "Model",
    "PiqiError",
    "Report",
    "__version__",
    "load_board",
]


def __getattr__(name: str) -> Any:
    # Only applications need them.
    if name in ("AsyncClient", "Client"):
        from piqi_runtime import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
