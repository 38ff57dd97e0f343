"""Which executor the next frame runs on: switches, faults, probes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import piqi_native
from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle
from piqi_runtime.engine import Executor
from piqi_runtime.errors import PiqiError
from piqi_runtime.host.corrections import Corrections
from piqi_runtime.host.errors import HostFault
from piqi_runtime.host.frequencies import HostEngine
from piqi_runtime.host.preparer import HungError, Preparer, supervised
from piqi_runtime.host.quarantine import Probe, Quarantine
from piqi_runtime.host.residents import Configuration, Residents, Slot, blame, configurations, fallback

#: A processor this much slower than predicted is measured again when it was not for `SLOW_PAUSE_S`.
SLOW_FACTOR = 1.25
SLOW_PAUSE_S = 30.0
#: Frames of such a measurement; the fastest counts, since others run at the same time.
SLOW_FRAMES = 3

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Those of `ModelHost`."""

    max_resident: int
    max_bytes: int
    timeout_s: float
    probe_s: float
    on_switch: Callable[[int, int, float], None] | None
    on_fault: Callable[[HostFault], None] | None


class Switcher:
    """Keeps executors of a bundle, and says which one is in use (`slot`).

    `lock` guards all of it, and `latency`, whose owner takes it too.
    """

    def __init__(
        self, engine: HostEngine, bundle: Bundle, board: Board, latency: Corrections, options: Options
    ) -> None:
        self.engine = engine
        self.configurations = configurations(bundle.table, board)
        self.fallback = fallback(bundle.table, board)
        self.lock = threading.Lock()
        self.wanted: tuple[int, float] | None = None
        self.switches = self.faults = 0
        self.prepare_ms = 0.0
        self.closed = False
        self.active_s = -SLOW_PAUSE_S  # when the last frame ran
        self._bundle, self._board, self._latency, self._options = bundle, board, latency, options
        used = [[letter in c.order for letter in latency.letters] for c in self.configurations]
        self.quarantine = Quarantine(np.array(used, np.bool_), latency.letters, options.probe_s)
        self._zeros = {
            name: np.zeros(bundle.model.tensors[name].shape, bundle.model.tensors[name].dtype)
            for name in bundle.model.inputs
        }
        self._renews = self._probes = False
        self.slot = Slot(self.fallback, self._make(self.fallback))
        self.residents = Residents(engine, self.slot, options.max_resident, options.max_bytes, self.lock)
        self._preparer = Preparer(f"piqi {bundle.table.model}"[:15], self._work, self._next_s)

    def request(self, point: int) -> bool:
        """As `ModelHost.request`, for a point that is in the table."""
        with self.lock:
            if self.closed or self.quarantine.excludes(point):
                return False
            if self.wanted is not None and self.wanted[0] == point:
                return True
            self.wanted = None if point == self.slot.point else (point, time.monotonic())
        self._preparer.wake()
        return True

    def release(self, slot: Slot) -> None:
        """A frame is done with it."""
        with self.lock:
            slot.users -= 1
        if slot.retired:
            self._preparer.wake()

    def fault(self, slot: Slot, error: piqi_native.Error) -> HostFault:
        """Leaves the point that failed. Returns what the frame's caller is told."""
        if isinstance(error, piqi_native.ClosedError):
            return HostFault("unavailable", str(error), point=slot.point)
        fault = self._blame(slot.configuration, error)
        with self.lock:
            self._condemn(slot.configuration, fault)
            if self.slot is slot:
                self._switch(self.residents.next_best(lambda other: other is not slot and self._usable(other)))
        self._tell(slot, 0.0, fault)
        self._preparer.wake()
        return fault

    def close(self) -> None:
        """Ends the threads and closes the executors. Raises `piqi_native.Error`."""
        self._preparer.close()
        self.residents.close()
        self.engine.close()

    def _make(self, configuration: Configuration) -> Executor:
        return self.engine.executor(
            configuration.order,
            configuration.freqs,
            self._bundle.partition,
            timeout_s=self._options.timeout_s,
            recorded_frames=0,
        )

    def _make_supervised(self, configuration: Configuration) -> Executor:
        return supervised(lambda: self._make(configuration), self._options.timeout_s, Executor.close)

    def _usable(self, slot: Slot) -> bool:
        return not self.quarantine.excludes(slot.point)

    def _blame(self, configuration: Configuration, error: Exception) -> HostFault:
        hung = isinstance(error, (piqi_native.TimeoutError, HungError))
        what = f"not prepared within {self._options.timeout_s:g} s" if isinstance(error, HungError) else str(error)
        where = f"{self._bundle.table.model}: point {configuration.point} ({configuration.order})"
        letters = blame(error, configuration.order, self._board)
        return HostFault("backend_hung" if hung else "backend_failed", f"{where}: {what}", letters, configuration.point)

    def _condemn(self, configuration: Configuration, fault: HostFault) -> None:
        """Under the lock. The fallback is never left alone: nothing would be left."""
        self.faults += 1
        if configuration is self.fallback:
            return
        self.quarantine.add(configuration.point, fault.processors, time.monotonic())
        self.residents.retire(lambda slot: not self._usable(slot))
        if self.slot.retired:
            self._switch(self.residents.next_best(self._usable))
        self._renews = True
        if self.wanted is not None and self.quarantine.excludes(self.wanted[0]):
            self.wanted = None

    def _switch(self, slot: Slot) -> None:
        """Under the lock: frames that begin from now on run there."""
        if slot is not self.slot:
            self.switches += 1
            slot.frames = 0
        self.slot = slot
        self.residents.use(slot)

    def _tell(self, old: Slot, prepare_ms: float, fault: HostFault | None = None) -> None:
        new = self.slot
        if fault is not None:
            _logger.warning("%s", fault)
            if self._options.on_fault:
                self._options.on_fault(fault)
        if new is not old and self._options.on_switch:
            self._options.on_switch(old.point, new.point, prepare_ms)

    def _next_s(self) -> float | None:
        """When the preparer has to look again, even if nobody wakes it."""
        with self.lock:
            if self._probes:
                return None  # the probe wakes it
            times = [measured_s + SLOW_PAUSE_S for measured_s in self._slow().values()]
            if self._latency.slow(SLOW_FACTOR):
                times.append(time.monotonic() + SLOW_PAUSE_S)  # frames may come again
            if (due_s := self.quarantine.next_due_s()) is not None:
                times.append(due_s)
        return min(times, default=None)

    def _work(self) -> None:
        """On the preparer's thread."""
        self.residents.tidy(lambda: self.slot)
        while (wanted := self.wanted) is not None and not self.closed:
            self._prepare(*wanted)
            self.residents.tidy(lambda: self.slot)
        if self._renews:
            self._renews = False
            self.residents.trim()
        self._start_probe()

    def _prepare(self, point: int, asked_s: float) -> None:
        configuration, fault = self.configurations[point], None
        with self.lock:
            slot = self.residents.find(point)
        if slot is None:
            try:
                slot = Slot(configuration, self._make_supervised(configuration))
            except (PiqiError, piqi_native.Error, HungError) as error:
                fault = self._blame(configuration, error)
                # Its files may be wrong, not its processors; nor are those that run frames now.
                working = self.slot.configuration.order if self.slot.frames else ""
                broken = isinstance(error, (piqi_native.BackendError, HungError))
                fault.processors = "".join(x for x in fault.processors if broken and x not in working)
        with self.lock:
            old, prepare_ms = self.slot, 1e3 * (time.monotonic() - asked_s)
            if fault is not None:
                self._condemn(configuration, fault)
            elif slot is not None and not slot.retired:
                self.prepare_ms = prepare_ms
                self.residents.use(slot)
                self.residents.retire(lambda other: not self._usable(other))  # what failed in the meantime
                if self.wanted is not None and self.wanted[0] == point and self._usable(slot):
                    self._switch(slot)
            if self.wanted is not None and self.wanted[0] == point:
                self.wanted = None
        self._tell(old, prepare_ms, fault)

    def _slow(self) -> dict[str, float]:
        """Under the lock: letter -> when it was last measured, of processors that are slow and not in use."""
        if time.monotonic() - self.active_s > SLOW_PAUSE_S:
            return {}  # without frames there is nothing to win
        busy = self.slot.configuration.order + self.quarantine.processors
        return {letter: s for letter, s in self._latency.slow(SLOW_FACTOR).items() if letter not in busy}

    def _start_probe(self) -> None:
        now_s = time.monotonic()
        with self.lock:
            if self._probes or self.closed:
                return
            probe = self.quarantine.due(now_s)
            if probe is None:
                probe = self._slow_probe(now_s)
            if probe is None:
                return
            self._probes = True
        threading.Thread(target=self._probe, args=(probe,), name="piqi probe", daemon=True).start()

    def _slow_probe(self, now_s: float) -> Probe | None:
        """Under the lock: of a processor that is due, the point that has most of its layers there."""
        for letter, measured_s in self._slow().items():
            if measured_s + SLOW_PAUSE_S > now_s:
                continue
            self._latency.measured_s[letter] = now_s  # whatever comes of it, not again before the pause
            allowed = ~self.quarantine.excluded()
            shares = [c.order.count(letter) if ok else 0 for c, ok in zip(self.configurations, allowed, strict=True)]
            if max(shares) > 0:
                return Probe(letter, int(np.argmax(shares)))
        return None

    def _probe(self, probe: Probe) -> None:
        """Tries what failed, or measures what was slow, on an executor of its own, while frames run on others."""
        times_ms: list[float] = []
        executor = None
        try:
            executor = self._make_supervised(self.configurations[probe.point])
            for _ in range(SLOW_FRAMES):
                started_s = time.perf_counter()
                executor.run(self._zeros)
                times_ms.append(1e3 * (time.perf_counter() - started_s))
        except (PiqiError, piqi_native.Error, HungError) as error:
            _logger.info("probe of %s with point %d: %s", probe.what, probe.point, error)
        finally:
            if executor is not None:
                executor.close()
            now_s = time.monotonic()
            with self.lock:
                passed = len(times_ms) == SLOW_FRAMES
                if passed:
                    self.quarantine.passed(probe)
                    self._latency.probed(probe.point, min(times_ms), now_s)
                else:
                    self.quarantine.failed(probe, now_s)
                    self._renews = True
                self._probes = False
            self._preparer.wake()
