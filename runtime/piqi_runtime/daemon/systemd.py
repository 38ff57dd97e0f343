"""What systemd and the daemon tell each other: sd_notify(3), sd_listen_fds(3), and the journal's structured fields.

Everything here does nothing, or falls back to standard error, where systemd or systemd-python is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping
from typing import Any

from piqi_runtime.errors import PiqiError

#: MESSAGE_ID of each kind of entry: `journalctl MESSAGE_ID=...` finds all of a kind, on every board.
MESSAGE_IDS = {
    "ready": "2f7c1c8de3c84a1c9ea3b5a0d4a1f6b1",
    "switch": "5a0f6a8b6b0d4f5f8a5d1f3f2c7be902",
    "throttle": "8c1e52d4f79b4e0f9d3c46a7b1f0a3d3",
    "degrade": "b7d9a2c05e8146d3a9f1e07c5d2b8e44",
    "reload": "d3b84f17c6a94f0e8b25e9a1706c5fd5",
    "fault": "e6f2097b1d3c4b58a0c7d48f93b1ae06",
    "client": "f19d5e3c7a824c6fb4e80d2a6c9537e7",
}
_FIRST_FD = 3
_SEND_TIMEOUT_S = 1.0
_QUEUED_RECORDS = 1000
_FLUSH_S, _FLUSHES = 0.1, 10
_FIELDS = ("MODEL", "POINT", "CLIENT_PID", "LATENCY_US")
_LEVELS = {"2": "CRITICAL", "3": "ERROR", "4": "WARNING", "6": "INFO", "7": "DEBUG"}


class ActivationError(PiqiError):
    """A socket from systemd that is not what the daemon serves."""


class Notifier:
    """Tells the service manager how the daemon is; silent where there is none (``NOTIFY_SOCKET`` is not set)."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of `environment`, so that children do not speak in the daemon's name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watchdog_pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        #: How often to call `watchdog` (half of what systemd waits), None if systemd does not want to hear of it.
        self.watchdog_interval_s: float | None = None
        if watchdog_us.isdecimal() and int(watchdog_us) > 0 and watchdog_pid == str(os.getpid()):
            self.watchdog_interval_s = int(watchdog_us) / 2e6
        self._socket: socket.socket | None = None
        self._status = ""
        if address.startswith(("/", "@")):
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @property
    def active(self) -> bool:
        """Whether somebody listens."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """The daemon serves: at start, and again after `reloading`."""
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it has changed."""
        if text != self._status:
            self._send("", text, wait=False)

    def watchdog(self) -> None:
        """The daemon is alive; to be called every `watchdog_interval_s`."""
        self._send("WATCHDOG=1", wait=False)

    def reloading(self) -> None:
        """Configuration is being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The daemon drains and will exit."""
        self._send("STOPPING=1", status)

    def close(self) -> None:
        """Stops notifying."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, state: str, status: str = "", wait: bool = True) -> None:
        if self._socket is None:
            return
        if status:
            self._status = " ".join(status.split())  # a line break would begin another assignment
            state = f"{state}\nSTATUS={self._status}".lstrip("\n")
        # Nobody to tell (systemd is being re-executed, its queue is full): not the daemon's problem.
        with contextlib.suppress(OSError):
            self._socket.settimeout(_SEND_TIMEOUT_S if wait else 0)
            self._socket.sendto(state.encode(), self._address)


def listen_fds(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process, in the order of the socket unit; often none.

    Raises `ActivationError` for a descriptor that is not a listening AF_UNIX SOCK_SEQPACKET socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for i in range(int(count)):
        fd = _FIRST_FD + i
        name = names[i] if i < len(names) else ""
        try:
            os.set_inheritable(fd, False)
            listener = socket.socket(fileno=fd)
            listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as cause:
            raise ActivationError(
                f"LISTEN_FDS: descriptor {fd} ({name}): {cause.strerror}, expected a socket"
            ) from cause
        if (listener.family, listener.type, listening) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 1):
            listener.detach()
            raise ActivationError(
                f"LISTEN_FDS: descriptor {fd} ({name}): expected a listening AF_UNIX SOCK_SEQPACKET socket, "
                f"got {listener.family!r}, {listener.type!r}"
            )
        sockets.append(listener)
    return sockets


def fields(
    event: str = "",
    *,
    model: str | None = None,
    point: int | None = None,
    client_pid: int | None = None,
    latency_us: float | None = None,
) -> dict[str, Any]:
    """The `extra=` of a logging call: MODEL=, POINT=..., and the MESSAGE_ID of `event`, a key of `MESSAGE_IDS`."""
    values = {
        "MESSAGE_ID": MESSAGE_IDS[event] if event else None,
        "MODEL": model,
        "POINT": point,
        "CLIENT_PID": client_pid,
        "LATENCY_US": None if latency_us is None else round(latency_us),
    }
    return {"journal": {name: str(value) for name, value in values.items() if value is not None}}


def journal_handler() -> logging.Handler:
    """Where the daemon logs to: the journal and its fields under systemd with systemd-python, else standard error."""
    if not _stderr_is_journal():
        return _StderrHandler(prefix_priority=False)
    try:
        send = importlib.import_module("systemd.journal").send
    except ImportError:
        return _StderrHandler(prefix_priority=True)
    return _JournalHandler(send)


def _stderr_is_journal() -> bool:
    """Whether standard error is the stream that systemd has named (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _priority(level: int) -> int:
    """syslog(3)'s number for a logging level."""
    return next(priority for at_least, priority in ((50, 2), (40, 3), (30, 4), (20, 6), (-1, 7)) if level >= at_least)


class _QueuedHandler(logging.Handler, ABC):
    """Writes from a thread of its own: who reads may be stopped or have a full disk, and the daemon must not wait.

    What is not written, because the queue is full or `_write` fails, is counted, and said when writing goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_QUEUED_RECORDS)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @abstractmethod
    def _write(self, entry: dict[str, Any]) -> None:
        """One entry: MESSAGE, PRIORITY and fields. Raises Exception."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = {
                "MESSAGE": self.format(record),
                "PRIORITY": str(_priority(record.levelno)),
                "LOGGER": record.name,
                "CODE_FILE": record.pathname,
                "CODE_LINE": record.lineno,
                "CODE_FUNC": record.funcName,
                **getattr(record, "journal", {}),
            }
            self._queue.put_nowait(entry)
        except queue.Full:
            self._lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Waits for what is queued, but not for long."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
            for _ in range(_FLUSHES):  # not all at once: when the whole process stood still, the thread could not write
                self._thread.join(_FLUSH_S)
        super().close()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            lost = self._lost
            try:
                if lost:
                    self._write({"MESSAGE": f"{lost} entries lost: nobody took them", "PRIORITY": "4"})
                    self._lost -= lost
                self._write(entry)
            except Exception:  # the thread goes on: what is logged next may be written
                self._lost += 1


class _StderrHandler(_QueuedHandler):
    """Lines for people; `prefix_priority` writes what journald makes the priority from (sd-daemon(3))."""

    def __init__(self, prefix_priority: bool) -> None:
        self._prefix_priority = prefix_priority
        super().__init__()

    def _write(self, entry: dict[str, Any]) -> None:
        priority = entry["PRIORITY"]
        start = f"<{priority}>" if self._prefix_priority else f"{_LEVELS[priority]}: "
        known = (f"{key}={entry[key]}" for key in _FIELDS if key in entry)
        lines = " ".join((entry["MESSAGE"], *known)).split("\n")
        _write_stderr("".join(f"{start}{line}\n" for line in lines))


class _JournalHandler(_QueuedHandler):
    """Structured entries. `send`: systemd-python's; sd_journal_send(3) blocks while journald is stopped."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        super().__init__()

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self._send(entry["MESSAGE"], **{name: value for name, value in entry.items() if name != "MESSAGE"})
        except Exception as error:
            with contextlib.suppress(OSError):
                _write_stderr(f"the journal refuses an entry: {error}\n")
            raise


def _write_stderr(text: str) -> None:
    """Past Python's buffer, which would keep what cannot be written and fail with it at the end. Raises OSError."""
    if sys.stderr is None:
        return
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # something else was put in its place
        sys.stderr.write(text)
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]
