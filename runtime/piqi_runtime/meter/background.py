"""A meter that a thread reads: start, stop, failure, waiting for what is on its way."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable

from piqi_runtime.meter.base import MeterError, PowerMeter

START_S = 1.8  # for the first sample: a board that resets when its port is opened takes a second
SILENT_S = 2.0
SETTLE_NS = 60_000_000  # adapters hold lines for up to 16 ms
SETTLE_TIMEOUT_S = SILENT_S + 1.0
SLICE_S = 0.1


class BackgroundMeter(PowerMeter):
    """`_step` runs again and again in a thread until it raises MeterError or the meter is stopped."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards what the thread writes
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: MeterError | None = None
        self._latest_ns = 0  # when the last good sample came

    @abstractmethod
    def _open(self) -> None:
        """Opens the device. Raises MeterError."""

    @abstractmethod
    def _close(self) -> None:
        """Closes it; only after `_open`."""

    @abstractmethod
    def _step(self) -> None:
        """Reads once. Raises MeterError when there is no going on."""

    @abstractmethod
    def _complaint(self) -> str:
        """Why nothing good has come for a while."""

    def start(self) -> None:
        if self._thread is not None:
            raise MeterError(f"{self.name}: is recording already")
        self._error, self._latest_ns = None, 0
        self._stopping.clear()
        self._open()
        self._thread = threading.Thread(target=self._run, name="power-meter", daemon=True)
        self._thread.start()
        with self._changed:
            self._wait_for(lambda: self._latest_ns > 0 or self._error is not None, START_S)
            error = self._error
            if error is None and self._latest_ns == 0:
                error = MeterError(f"{self.name}: {self._complaint()}")
        if error is not None:
            self.stop()
            raise error

    def stop(self) -> None:
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        self._close()

    def check(self) -> None:
        with self._changed:
            if self._error is not None:
                raise self._error

    def _settle(self, partial: bool) -> None:
        """Waits until what was measured before now has come."""
        if self._thread is not None:
            now_ns = time.monotonic_ns()
            with self._changed:
                if not self._wait_for(
                    lambda: self._latest_ns >= now_ns + SETTLE_NS or self._error is not None, SETTLE_TIMEOUT_S
                ):
                    self._error = MeterError(f"{self.name}: {self._complaint()}")
        if not partial:
            self.check()

    def _good(self, now_ns: int) -> None:
        """Notes that something good has come; the caller holds `_changed`."""
        self._latest_ns = now_ns
        self._changed.notify_all()

    def _wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Under `_changed`. In slices: time in which this process stood still is not the meter's, and counts as one."""
        return any(self._changed.wait_for(condition, SLICE_S) for _ in range(round(seconds / SLICE_S)))

    def _run(self) -> None:
        quiet, since_ns = 0, 0  # steps that gave nothing good, and when the first of them began
        try:
            while not self._stopping.is_set():
                began_ns = time.monotonic_ns()
                self._step()
                quiet = 0 if self._latest_ns >= began_ns else quiet + 1
                if quiet == 1:
                    since_ns = began_ns
                # Several: this process may have stood still in one of them.
                if quiet > 3 and time.monotonic_ns() - since_ns > SILENT_S * 1e9:
                    raise MeterError(f"{self.name}: {self._complaint()}")
        except MeterError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
