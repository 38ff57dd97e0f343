"""A bundle's model, running: one executor in use, a few ready, faults and slow processors worked around.

with ModelHost(load_bundle("models/mobilenet", board), board, root="/") as host:
    host.request(17)
    result = host.run(frame)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.backends import AnyBackend
from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle
from piqi_runtime.dvfs_delays import BUNDLED, with_delays
from piqi_runtime.host.corrections import Corrections
from piqi_runtime.host.errors import HostError, HostFault
from piqi_runtime.host.frequencies import Frequencies, HostEngine
from piqi_runtime.host.quarantine import FIRST_PAUSE_S, Bools
from piqi_runtime.host.residents import FALLBACK, Configuration, Slot
from piqi_runtime.host.switcher import Options, Switcher
from piqi_runtime.report import Statistics

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

RECENT_FRAMES = 256
#: Frames after which a point that failed before is as good as any.
HEALTHY_FRAMES = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A frame's outputs by name, the configuration that made them (`point` -1: the fallback), submit to receive."""

    outputs: dict[str, Array]
    point: int
    latency_us: float
    configuration: Configuration


class ModelHost:
    """Runs one model of a board at the point that is asked for.

    - `root`: where the board's ``sys/`` is; None leaves frequencies alone. Several hosts of a process share
      `frequencies` instead;
    - `max_resident` (2 or more), `max_bytes`: bound the executors that are kept ready; the one in use and the
      fallback are kept in any case;
    - `timeout_s`: after which a frame, or a preparation, hangs; `probe_s`: the first pause before something that
      failed is tried again;
    - `on_switch(old, new, prepare_ms)`, `on_fault(fault)`: called on a thread of the host's, or, for a frame that
      failed, on the caller's; must be quick.

    `run` is called by one thread; all else by any. Raises PiqiError, `piqi_native.Error`.
    """

    def __init__(
        self,
        bundle: Bundle,
        board: Board,
        *,
        root: str | os.PathLike[str] | None = None,
        frequencies: Frequencies | None = None,
        max_resident: int = 4,
        max_bytes: int = 512 << 20,
        timeout_s: float = 5.0,
        probe_s: float = FIRST_PAUSE_S,
        backends: Mapping[str, AnyBackend] | None = None,
        on_switch: Callable[[int, int, float], None] | None = None,
        on_fault: Callable[[HostFault], None] | None = None,
    ) -> None:
        for name, value, least in (("max_resident", max_resident, 2), ("max_bytes", max_bytes, 1)):
            if value < least:
                raise HostError(f"{name}: expected at least {least}, got {value}")
        for name, seconds in (("timeout_s", timeout_s), ("probe_s", probe_s)):
            if not 0 < seconds < 1e6:
                raise HostError(f"{name}: expected more than 0 and less than 1e6 seconds, got {seconds}")
        self.bundle, self.board = bundle, board
        (self._input,) = bundle.model.inputs
        self._shape = bundle.model.tensors[self._input].shape
        points = bundle.table.points
        orders = [point.order for point in points]
        self._latency = Corrections(orders, [point.latency_ms for point in points])
        self._power = Corrections(orders, [point.power_mw for point in points])
        self._recent_us: Array = np.zeros(RECENT_FRAMES)
        self._frames = 0
        self._busy_s = 0.0
        self._power_mw: float | None = None
        self._power_since_s = time.monotonic()
        self._timeout_s = timeout_s
        self._own_frequencies = Frequencies(board, root) if frequencies is None and root is not None else None
        self.frequencies = frequencies or self._own_frequencies
        options = Options(max_resident, max_bytes, timeout_s, probe_s, on_switch, on_fault)
        try:
            measured = with_delays(board, bundle.root / BUNDLED)
            self.engine = HostEngine(bundle.model, measured, self.frequencies, backends)
            self._switcher = Switcher(self.engine, bundle, board, self._latency, options)
        except BaseException:
            if self._own_frequencies:
                self._own_frequencies.close()
            raise
        self._lock = self._switcher.lock

    @property
    def current(self) -> int:
        """The point that the next frame runs at; -1: the fallback, where the table has no point like it."""
        return self._switcher.slot.point

    @property
    def configuration(self) -> Configuration:
        """What the next frame runs at."""
        return self._switcher.slot.configuration

    @property
    def cpus_alone(self) -> bool:
        """Whether the next frame runs on CPUs alone: it ends by itself, where a GPU or an NPU may hang."""
        return self._switcher.slot.configuration.cpus_alone

    @property
    def latency_factor(self) -> Floats:
        """float32 [points]: measured / predicted."""
        with self._lock:
            return self._latency.factor(time.monotonic())

    @property
    def power_factor(self) -> Floats:
        """float32 [points]: measured / predicted; 1 without a sensor (see `observe_power`)."""
        with self._lock:
            return self._power.factor(time.monotonic())

    @property
    def excluded(self) -> Bools:
        """bool [points]: those that cannot be used for now."""
        with self._lock:
            return self._switcher.quarantine.excluded()

    def request(self, point: int) -> bool:
        """Prepares a point in the background; frames that begin after that run at it. The last request counts.

        False: the point is excluded, or the host closed. Raises HostError for an index that is not in the table.
        """
        if not 0 <= point < len(self.bundle.table.points):
            raise HostError(f"point: expected 0 to {len(self.bundle.table.points) - 1}, got {point}")
        return self._switcher.request(point)

    def wait(self, timeout_s: float) -> bool:
        """Until nothing that was requested is still to be prepared; False after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while self._switcher.wanted is not None:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.0005)
        return True

    def run(self, frame: Array) -> RunResult:
        """One frame: float32, of the shape of the model's input.

        Raises HostError for another shape or type and HostFault where the frame was lost; the next frame runs at
        another point.
        """
        if frame.shape != self._shape or frame.dtype != np.float32:
            raise HostError(f"frame: expected float32 {list(self._shape)}, got {frame.dtype} {list(frame.shape)}")
        switcher = self._switcher
        with self._lock:
            if switcher.closed:
                raise HostFault("unavailable", f"{self.bundle.table.model}: the host was closed")
            slot = switcher.slot
            slot.users += 1
        try:
            started_ns = time.perf_counter_ns()
            try:
                outputs = slot.executor.run({self._input: frame})
            except piqi_native.DeviceError as error:
                # A frequency that cannot be set any more is no reason to lose a frame.
                if self.frequencies:
                    self.frequencies.give_up(str(error))
                outputs = slot.executor.run({self._input: frame})
            latency_us = (time.perf_counter_ns() - started_ns) / 1e3
        except piqi_native.Error as error:
            raise switcher.fault(slot, error) from error
        finally:
            switcher.release(slot)
        self._count(slot, latency_us)
        return RunResult(outputs, slot.point, latency_us, slot.configuration)

    def observe_power(self, power_mw: float) -> None:
        """A measurement of the whole board since the last call, while this host alone kept it busy.

        Counts if frames ran for at least half of that time; what is idle time is taken off where the board file
        says what the board needs then.
        """
        now_s = time.monotonic()
        with self._lock:
            busy = min(1.0, self._busy_s / max(now_s - self._power_since_s, 1e-9))
            self._busy_s, self._power_since_s, self._power_mw = 0.0, now_s, power_mw
            idle_mw = self.board.idle_power_mw or 0.0
            running_mw = (power_mw - (1 - busy) * idle_mw) / busy if idle_mw and busy else power_mw
            if busy >= 0.5 and running_mw > 0 and self.current != FALLBACK:
                self._power.observe(self.current, running_mw, now_s)

    def status(self) -> dict[str, Any]:
        """What there is to tell, for JSON."""
        now_s, switcher = time.monotonic(), self._switcher
        with self._lock:
            slot, wanted = switcher.slot, switcher.wanted
            recent_ns = (self._recent_us[: min(self._frames, RECENT_FRAMES)] * 1e3).astype(np.int64)
            result = {
                "point": slot.point,
                "order": slot.configuration.order,
                "freqs": slot.configuration.freqs,
                "accuracy": slot.configuration.accuracy,
                "requested": wanted[0] if wanted else None,
                "frames": self._frames,
                "faults": switcher.faults,
                "switches": switcher.switches,
                "prepare_ms": round(switcher.prepare_ms, 3),
                "power_mw": self._power_mw,
                "latency_factors": {k: round(v, 3) for k, v in self._latency.processors(now_s).items()},
                "quarantined": {"points": switcher.quarantine.points, "processors": switcher.quarantine.processors},
                "resident": [resident.point for resident in switcher.residents.slots],
            }
        times = Statistics.of_ns(recent_ns) if len(recent_ns) else None
        result["latency_us"] = {"median": times.median, "p99": times.p99} if times else None
        result["memory_bytes"] = switcher.residents.memory_bytes
        return result

    def close(self) -> None:
        """Waits for the frame that is running (at most `timeout_s`), ends all threads, puts the frequencies back."""
        switcher = self._switcher
        with self._lock:
            if switcher.closed:
                return
            switcher.closed, switcher.wanted = True, None
        deadline_s = time.monotonic() + self._timeout_s
        while switcher.slot.users and time.monotonic() < deadline_s:
            time.sleep(0.001)
        try:
            switcher.close()
        except piqi_native.Error as error:
            _logger.warning("%s: %s", self.bundle.table.model, error)
        finally:
            if self._own_frequencies:
                self._own_frequencies.close()

    def __enter__(self) -> ModelHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, slot: Slot, latency_us: float) -> None:
        with self._lock:
            self._recent_us[self._frames % RECENT_FRAMES] = latency_us
            self._frames += 1
            self._busy_s += latency_us / 1e6
            slot.frames += 1
            self._switcher.active_s = now_s = time.monotonic()
            # The first one after a switch finds its weights in no cache.
            if slot.point != FALLBACK and slot.frames > 1:
                self._latency.observe(slot.point, latency_us / 1e3, now_s)
            if slot.frames % HEALTHY_FRAMES == 0:
                self._switcher.quarantine.healthy(slot.point)
