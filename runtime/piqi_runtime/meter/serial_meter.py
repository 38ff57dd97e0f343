"""The meter of native/firmware on a serial port (docs/power_meter.md)."""

from __future__ import annotations

import termios
import time
from collections.abc import Sequence
from typing import Any

from piqi_runtime.meter.assemble import assemble
from piqi_runtime.meter.background import BackgroundMeter
from piqi_runtime.meter.base import MeterError, Recording, Times
from piqi_runtime.meter.stream import LineStream

BAUD = 921600
_WAIT_S = 0.1
_PAUSE_S = 0.004  # several lines a read: the reader should not be seen in what it measures


class SerialMeter(BackgroundMeter):
    """Reads lines of a serial port, and aligns the meter's clock by the host's marks.

    `start` raises MeterError within 2 s for a port that is not there or in use, a meter that says nothing, and
    bytes that are no lines, as from a wrong baud rate.
    """

    def __init__(self, port: str, baud: int = BAUD) -> None:
        super().__init__()
        if baud <= 0:
            raise MeterError(f"{port}: baud rate: expected a positive number, got {baud}")
        self.name = f"serial power meter {port}"
        self._path, self._baud = port, baud
        self._port: Any = None
        self._stream = LineStream()
        self._bytes = 0  # since the last good line

    def _open(self) -> None:
        try:
            import serial
        except ImportError as error:
            raise MeterError(f"{self.name}: needs pyserial: pip install 'piqi[meter]'") from error
        try:
            self._port = serial.Serial(self._path, self._baud, timeout=_WAIT_S, exclusive=True)
            self._port.reset_input_buffer()
        except (OSError, ValueError, termios.error) as error:  # SerialException is an OSError
            raise MeterError(f"{self.name}: cannot be opened at {self._baud} baud: {error}") from error
        self._stream, self._bytes = LineStream(), 0

    def _close(self) -> None:
        self._port.close()

    def _step(self) -> None:
        try:
            data = self._port.read(1)
            data += self._port.read(self._port.in_waiting) if data else b""
        except (OSError, TypeError, termios.error) as error:
            raise MeterError(f"{self.name}: has gone (unplugged?): {error}") from error
        if data:
            now_ns = time.monotonic_ns()
            with self._changed:
                good = self._stream.good
                self._stream.feed(data, now_ns)
                self._bytes += len(data)
                if self._stream.good > good:
                    self._bytes = 0
                    self._good(now_ns)
            self._stopping.wait(_PAUSE_S)

    def _complaint(self) -> str:
        if self._bytes == 0:
            return "says nothing: is it powered, and is this its port?"
        return (
            f"{self._bytes} bytes came and no valid line: wrong baud rate? It is {self._baud} here; "
            f"the firmware's is {BAUD}"
        )

    def clear(self) -> None:
        with self._changed:
            self._stream.clear()

    def recording(self, marks_ns: Sequence[int] | Times | None = None, *, partial: bool = False) -> Recording:
        self._settle(partial)
        with self._changed:
            lines = self._stream.copy()
        return assemble(lines, marks_ns)  # takes a while: lines go on coming
