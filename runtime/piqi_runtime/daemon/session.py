"""One client's connection: its messages in and out, pools, limits, subscriptions and counters."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from piqi_runtime.daemon.loop import Loop
from piqi_runtime.daemon.pools import Pool
from piqi_runtime.daemon.protocol import MAX_MESSAGE_BYTES, MAX_POOLS, ProtocolError
from piqi_runtime.daemon.queue import FairQueue

MAX_OUTBOX_BYTES = 1 << 20
MAX_OUTBOX_REPLIES = 256
_TWO_DESCRIPTORS = socket.CMSG_LEN(2 * 4)  # one more than a message may have: enough to notice


@dataclass(frozen=True)
class Limits:
    """What a client wants of one model."""

    min_accuracy: float | None = None
    max_power_mw: float | None = None
    max_latency_ms: float | None = None
    deadline_ms: float | None = None


@dataclass
class Allowance:
    """How many messages that lead to no inference a client may send: `rate` a second, `burst` at once.

    Inference is bounded by the models; all else takes time of the thread that serves everyone.
    """

    rate: float
    burst: float
    _left: float = field(init=False)
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._since = self.burst, time.monotonic()

    def spend(self) -> float:
        """Takes one. Seconds for which the client is to wait."""
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._since) * self.rate) - 1
        self._since = now
        # Woken once for each several messages: waking costs more than a message does.
        return (self.burst / 4 - self._left) / self.rate if self._left < 0 else 0.0


class Session:
    """A connected client. The main thread reads; any thread sends.

    `buffer` holds one byte more than a message may have; sessions of a thread share it.
    """

    def __init__(
        self,
        number: int,
        connection: socket.socket,
        loop: Loop,
        allowance: Allowance,
        buffer: memoryview,
        on_message: Callable[[Session, memoryview, list[int]], None],
        on_close: Callable[[Session], None],
    ) -> None:
        self.number = number
        self.pid = peer_pid(connection)
        self.name = f"pid {self.pid}"
        self.greeted = False
        self.pools: dict[int, Pool] = {}
        self.limits: dict[str, Limits] = {}
        self.events: frozenset[str] = frozenset()
        self.counters: Counter[str] = Counter()
        self._next_pool = 0
        self._socket = connection
        self._descriptor = connection.fileno()
        self._loop = loop
        self._allowance = allowance
        self._buffer, self._buffers = buffer, [buffer]
        self._on_message, self._on_close = on_message, on_close
        self._lock = threading.Lock()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._full_queues: set[str] = set()
        self._throttled = False
        self._mask = select.EPOLLIN
        self.closed = False
        connection.setblocking(False)
        loop.add(self._descriptor, select.EPOLLIN, self._on_ready)

    def send(self, message: bytes) -> None:
        """Sends, or keeps for later, a message. A client that does not read what it asked for is disconnected."""
        with self._lock:
            if self.closed:
                return
            if not self._outbox:
                try:
                    self._socket.send(message, socket.MSG_NOSIGNAL)
                    return
                except BlockingIOError:
                    pass
                except OSError:
                    return  # gone: the main thread gets an event for it
            self._outbox.append(message)
            self._outbox_bytes += len(message)
            if len(self._outbox) > MAX_OUTBOX_REPLIES or self._outbox_bytes > MAX_OUTBOX_BYTES:
                self._hang_up()
                return
            self._watch()

    def add_pool(self, descriptor: int) -> Pool:
        """Maps a pool. Raises ProtocolError."""
        if len(self.pools) >= MAX_POOLS:
            raise ProtocolError("bad_pool", f"a client has at most {MAX_POOLS} pools: close one")
        pool = Pool(self._next_pool, descriptor)
        self.pools[pool.number] = pool
        self._next_pool += 1
        return pool

    def find_pool(self, number: object) -> Pool:
        """The pool of this number. Raises ProtocolError (bad_pool)."""
        pool = self.pools.get(number) if type(number) is int else None
        if pool is None:
            raise ProtocolError("bad_pool", f"pool: expected one of {sorted(self.pools)}, got {str(number)[:80]}")
        return pool

    def charge(self) -> None:
        """Counts a message that led to no inference; beyond the allowance nothing is read for a while."""
        wait_s = self._allowance.spend()
        if wait_s and not self._throttled:
            self.counters["throttled"] += 1
            self._throttle(True)
            self._loop.call_later(wait_s, lambda: self._throttle(False))

    def look_at(self, name: str, queue: FairQueue[Session, Any]) -> None:
        """While one of its queues is full nothing is read: what the client sends waits on its own side.

        Whoever fills it, or takes from it, has the session look. Any thread may.
        """
        with self._lock:  # who looks last sees it as it is
            (self._full_queues.add if queue.is_full(self) else self._full_queues.discard)(name)
            self._watch()

    def hang_up(self) -> None:
        """Ends the connection; the main thread clears up. Any thread may."""
        with self._lock:
            self._hang_up()

    def close(self) -> None:
        """Ends the connection and forgets its pools. Main thread only; idempotent."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._outbox.clear()
            self._loop.remove(self._descriptor)
            self._socket.close()
        self.pools.clear()
        self._on_close(self)

    @property
    def drained(self) -> bool:
        """Whether all replies are with the kernel."""
        return not self._outbox

    def resume(self) -> None:
        """Reads again, whatever held it back."""
        with self._lock:
            self._throttled = False
            self._full_queues.clear()
            self._watch()

    def _on_ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & select.EPOLLIN:
            self.read()
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()

    def read(self) -> bool:
        """Takes in one message, if there is one and nothing holds the client back. Main thread only."""
        if self.closed or self._mask & select.EPOLLIN == 0:
            return False
        try:
            size, ancillary, flags, _ = self._socket.recvmsg_into(
                self._buffers, _TWO_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.close()
            return False
        descriptors = _descriptors(ancillary) if ancillary else []
        if size == 0:
            _close_all(descriptors)
            self.close()
            return False
        if flags & socket.MSG_CTRUNC:
            # None of them is wanted, and more than the buffer takes the kernel has closed already.
            _close_all(descriptors)
            descriptors = [-1, -1]
        if flags & socket.MSG_TRUNC:
            size = MAX_MESSAGE_BYTES + 1
        try:
            self._on_message(self, self._buffer[:size], descriptors)
        finally:
            _close_all(descriptors)
        return True

    def _flush(self) -> None:
        with self._lock:
            while self._outbox and not self.closed:
                try:
                    self._socket.send(self._outbox[0], socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    return
                except OSError:
                    self._outbox.clear()
                    break
                self._outbox_bytes -= len(self._outbox.popleft())
            self._watch()

    def _throttle(self, throttled: bool) -> None:
        with self._lock:
            self._throttled = throttled
            self._watch()

    def _hang_up(self) -> None:
        if not self.closed:
            self.counters["hung_up"] += 1
            self._outbox.clear()
            # Both directions: epoll then reports EPOLLHUP whatever it was asked for.
            with contextlib.suppress(OSError):  # the client was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    def _watch(self) -> None:
        mask = 0 if self._throttled or self._full_queues else select.EPOLLIN
        if self._outbox:
            mask |= select.EPOLLOUT
        if mask != self._mask and not self.closed:
            self._mask = mask
            self._loop.modify(self._descriptor, mask)


def peer_pid(connection: socket.socket) -> int:
    """The process at the other end, as it was when it connected."""
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
