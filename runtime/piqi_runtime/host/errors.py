"""What can go wrong in a host."""

from __future__ import annotations

from typing import Literal

from piqi_runtime.errors import PiqiError

FaultCode = Literal["backend_failed", "backend_hung", "unavailable"]


class HostError(PiqiError):
    """A host that cannot be made, or is asked for what it cannot do. Names the field and the value."""


class HostFault(HostError):  # noqa: N818
    """A frame that was lost, or a point that cannot be prepared; the host goes on with another point.

    - `code`: "backend_failed", "backend_hung", or "unavailable" after `close`;
    - `processors`: the letters of those that are blamed, "" where none is;
    - `point`: the index in the table, -1 for the fallback that is not in it.
    """

    def __init__(self, code: FaultCode, message: str, processors: str = "", point: int = -1) -> None:
        super().__init__(message)
        self.code: FaultCode = code
        self.processors = processors
        self.point = point
