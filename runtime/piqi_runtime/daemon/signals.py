"""Signals, taken by a thread of their own.

Python's handlers run in the midst of whatever the main thread does, even of each other, and are gone before the process
is. Here signals stay with the kernel until somebody is ready for them, and are forgotten with the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

_HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> None:
    """From now on these signals wait for `deliver`. Before the first thread is started: threads inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def deliver(to: Callable[[signal.Signals], None]) -> None:
    """Calls ``to(number)`` for each signal that came or comes, on a thread of its own."""

    def work() -> None:
        while True:
            to(signal.Signals(signal.sigwait(_HELD)))

    threading.Thread(target=work, name="signals", daemon=True).start()
