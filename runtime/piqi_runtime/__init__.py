"""What runs on the board: models, board files, the executor's Python face. Small dependencies only.

Names are imported when they are first used: a client needs no executor, and the daemon starts the sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piqi_native import __version__
    from piqi_runtime.boards import Board, BoardError, load_board
    from piqi_runtime.client import AsyncClient, Client
    from piqi_runtime.engine import Engine, Executor
    from piqi_runtime.errors import PiqiError
    from piqi_runtime.model import Model
    from piqi_runtime.report import Report

_MODULES = {
    "AsyncClient": "piqi_runtime.client",
    "Board": "piqi_runtime.boards",
    "BoardError": "piqi_runtime.boards",
    "Client": "piqi_runtime.client",
    "Engine": "piqi_runtime.engine",
    "Executor": "piqi_runtime.engine",
    "Model": "piqi_runtime.model",
    "PiqiError": "piqi_runtime.errors",
    "Report": "piqi_runtime.report",
    "__version__": "piqi_native",
    "load_board": "piqi_runtime.boards",
}

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
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
