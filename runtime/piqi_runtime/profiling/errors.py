"""What can go wrong while a board is measured."""

from __future__ import annotations

from piqi_runtime.errors import PiqiError


class ProfilingError(PiqiError):
    """A measurement that cannot be made or continued. What was measured before is kept."""


class LeftOutError(ProfilingError):
    """All is measured and written but for some processors; the message says which and why."""

    exit_code = 3
