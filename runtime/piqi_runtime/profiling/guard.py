"""Waits where the board is too hot to measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from piqi_runtime.policy.sensors import Sensors
from piqi_runtime.profiling.errors import ProfilingError

HYSTERESIS_C = 5.0
POLL_S = 1.0
PATIENCE_S = 900.0


class TemperatureGuard:
    """Reads the board's thermal zones below `root`; `sleep` and `say` are told what it does."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        max_c: float,
        say: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sensors = Sensors(root)
        self._max_c = max_c
        self._say, self._sleep = say, sleep

    def temperature_c(self) -> float | None:
        """Of the hottest zone; None where there is none."""
        return self._sensors.read(time.monotonic(), 0.0).temperature_c

    def wait(self) -> float:
        """Waits, if the limit is passed, until the board is 5 degrees below it; how long, in s.

        Raises ProfilingError when that takes more than a quarter of an hour.
        """
        now_c = self.temperature_c()
        if now_c is None or now_c <= self._max_c:
            return 0.0
        waited_s = 0.0
        while now_c is not None and now_c > self._max_c - HYSTERESIS_C:
            if waited_s >= PATIENCE_S:
                raise ProfilingError(
                    f"temperature: expected less than {self._max_c - HYSTERESIS_C:g} degrees after {waited_s:.0f} s "
                    f"of rest, got {now_c:.1f}: cool the board, or raise --max-temperature"
                )
            self._say(f"{now_c:.1f} degrees: waiting for {self._max_c - HYSTERESIS_C:g}")
            self._sleep(POLL_S)
            waited_s += POLL_S
            now_c = self.temperature_c()
        return waited_s
