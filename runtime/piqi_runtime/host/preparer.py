"""Threads of a host: one that works in the background, and short ones for what may hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class HungError(Exception):
    """What was supervised did not return in time."""


class _Call(Generic[T]):
    def __init__(self, function: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._function, self._discard = function, discard
        self._lock = threading.Lock()
        self._abandoned = False
        self.done = threading.Event()
        self.result: list[T] = []
        self.error: Exception | None = None

    def work(self) -> None:
        try:
            result = self._function()
        except Exception as error:
            self.error = error
        else:
            with self._lock:
                self.result = [result]
                abandoned = self._abandoned
            if abandoned:
                self._discard(result)
        self.done.set()

    def abandon(self) -> bool:
        """False if the result came after all."""
        with self._lock:
            self._abandoned = not self.result
            return self._abandoned


def supervised(function: Callable[[], T], timeout_s: float, discard: Callable[[T], object]) -> T:
    """What `function` returns or raises, called on a thread of its own that is given up after `timeout_s`.

    `discard` gets a result that comes later. Raises HungError.
    """
    call = _Call(function, discard)
    threading.Thread(target=call.work, name="piqi-prepare", daemon=True).start()
    if not call.done.wait(timeout_s) and call.error is None and call.abandon():
        raise HungError
    if call.error is not None:
        raise call.error
    return call.result[0]


class Preparer:
    """A thread that calls `work` when it is woken, and when the time that `next_s` tells has come (monotonic)."""

    def __init__(self, name: str, work: Callable[[], None], next_s: Callable[[], float | None]) -> None:
        self._work, self._next_s = work, next_s
        self._woken = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Has it work soon."""
        self._woken.set()

    def close(self, patience_s: float = 1.0) -> None:
        """Ends the thread; one that is busy for longer is left to itself."""
        self._ends = True
        self._woken.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_s)

    def _loop(self) -> None:
        while not self._ends:
            due_s = self._next_s()
            self._woken.wait(None if due_s is None else max(0.0, due_s - time.monotonic()))
            self._woken.clear()
            if self._ends:
                return
            try:
                self._work()
            except Exception:
                _logger.exception("the preparer goes on after an error")
