"""The main thread's loop: descriptors, timers, and calls from other threads."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

_logger = logging.getLogger(__name__)


class Loop:
    """Calls what is registered, all in the thread that calls `run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._awake_until_s = 0.0
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Whoever wakes the loop must not meet its descriptor closed, or worse, another's with its number.
        self._waking = threading.Lock()
        self._closed = False
        self._running = False
        self.add(self._wake, select.EPOLLIN, self._run_calls)

    def add(self, descriptor: int, mask: int, handler: Callable[[int], None]) -> None:
        """Calls ``handler(events)`` whenever one of `mask` (select.EPOLL...) is so, and for errors."""
        self._epoll.register(descriptor, mask)
        self._handlers[descriptor] = handler

    def modify(self, descriptor: int, mask: int) -> None:
        """Other events for a descriptor. Any thread may."""
        self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Before the descriptor is closed."""
        self._handlers.pop(descriptor)
        self._epoll.unregister(descriptor)

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Calls `function` once, after `delay_s`. Main thread only."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), function))

    def call_soon(self, function: Callable[[], None]) -> None:
        """Calls `function` once, soon, in the main thread; not at all once it is closed. Any thread may."""
        with self._waking:
            if not self._closed:
                self._calls.append(function)
                os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        poll, handlers = self._epoll.poll, self._handlers
        while self._running:
            timeout_s = 0.0
            if self._awake_until_s < time.monotonic():
                timeout_s = self._timeout()
            else:
                os.sched_yield()  # the client that is to ask may have to run on this very CPU
            for descriptor, events in poll(timeout_s, 64):
                handler = handlers.get(descriptor)
                if handler is not None:  # else it was removed by one before it
                    handler(events)
            if self._timers and self._timers[0][0] <= time.monotonic():
                self._run_timers()

    def stay_awake(self, seconds: float) -> None:
        """For so long the loop looks for events without going to sleep. Main thread only."""
        self._awake_until_s = time.monotonic() + seconds

    def stop(self) -> None:
        """Has `run` return. Main thread only."""
        self._running = False

    def close(self) -> None:
        """Gives the descriptors back."""
        with self._waking:
            self._closed = True
            self._epoll.close()
            os.close(self._wake)

    def _timeout(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._guarded(heapq.heappop(self._timers)[2])

    def _run_calls(self, _: int) -> None:
        os.eventfd_read(self._wake)
        for _ in range(len(self._calls)):
            self._guarded(self._calls.popleft())

    @staticmethod
    def _guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            # A fault in one timer must not stop the daemon for all clients.
            _logger.exception("a task of the main loop failed")
