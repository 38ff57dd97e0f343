"""What runs a bundle's model all day: switches between points, works around faults, gives frequencies back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piqi_runtime.host.errors import HostError, HostFault
    from piqi_runtime.host.frequencies import Frequencies
    from piqi_runtime.host.model_host import ModelHost, RunResult
    from piqi_runtime.host.residents import FALLBACK, Configuration

__all__ = ["FALLBACK", "Configuration", "Frequencies", "HostError", "HostFault", "ModelHost", "RunResult"]

_MODULES = {
    "FALLBACK": "residents",
    "Configuration": "residents",
    "Frequencies": "frequencies",
    "HostError": "errors",
    "HostFault": "errors",
    "ModelHost": "model_host",
    "RunResult": "model_host",
}


def __getattr__(name: str) -> Any:
    """Loaded when asked for: `python -m piqi_runtime.host.restore` needs none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
