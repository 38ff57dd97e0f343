"""No meter."""

from __future__ import annotations

from collections.abc import Sequence

from piqi_runtime.meter.base import PowerMeter, Quality, Recording, Times, empty_recording


class NullMeter(PowerMeter):
    """Never has a sample: what needs power fails where it asks for it."""

    name = "null"

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def check(self) -> None:
        pass

    def recording(self, marks_ns: Sequence[int] | Times | None = None, *, partial: bool = False) -> Recording:
        return empty_recording(Quality(marks=0 if marks_ns is None else len(marks_ns)))
