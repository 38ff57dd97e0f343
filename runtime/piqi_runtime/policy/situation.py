"""What a policy knows when it decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    """The board at one moment; None is unknown.

    - `now_s`: a monotonic clock; the time of day plays no part;
    - `power_mw`: of the whole board; `idle_s`: since a client last asked for anything.
    """

    now_s: float
    battery_percent: float | None = None
    on_mains: bool | None = None
    temperature_c: float | None = None
    power_mw: float | None = None
    idle_s: float = 0.0
