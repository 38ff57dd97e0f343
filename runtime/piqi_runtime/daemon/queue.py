"""The requests that wait for a model: a queue for each client, served in turn."""

from __future__ import annotations

import _thread
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a queue must know of a request."""

    @property
    def latest(self) -> bool:
        """Whether a newer request of its client takes its place."""


C = TypeVar("C")
R = TypeVar("R", bound=Waiting)


@dataclass(frozen=True)
class Pushed(Generic[R]):
    """What became of a request: `accepted` or not; `dropped`: an older one whose place it took; `full`: its client
    has as many waiting as it may have."""

    accepted: bool
    dropped: R | None = None
    full: bool = False


class FairQueue(Generic[C, R]):
    """Requests [R] of clients [C]: first in, first out for each client, one of each client in turn.

    Any thread pushes; one thread pops.
    """

    def __init__(self, per_client: int = 8, total: int = 256) -> None:
        self.per_client = per_client
        self.total = total
        self._clients: OrderedDict[C, deque[R]] = OrderedDict()  # the first one's turn is next
        self._count = 0
        self._lock = threading.Lock()
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._asleep = False
        self._interrupted = False
        self._closed = False
        self._finished = False
        #: What `pop` returned last, and nobody has answered yet: who takes it out does.
        self.popped: deque[R] = deque(maxlen=1)

    def __len__(self) -> int:
        return self._count

    def push(self, client: C, request: R) -> Pushed[R]:
        """Adds a request. One with `latest` takes the place of its client's last one, if that has `latest` too."""
        dropped = None
        with self._lock:
            waiting = self._clients.get(client)
            if waiting and request.latest and waiting[-1].latest:
                dropped, waiting[-1] = waiting[-1], request
                return Pushed(True, dropped)
            if self._closed or self._count >= self.total or (waiting and len(waiting) >= self.per_client):
                return Pushed(False, full=bool(waiting))
            if waiting is None:
                waiting = self._clients[client] = deque()
            waiting.append(request)
            self._count += 1
            full = len(waiting) >= self.per_client
            self._notify()
        return Pushed(True, None, full)

    def pop(self) -> tuple[C, R, bool] | None:
        """The next request and its client, as soon as there is one, and whether that client's queue was full.

        None after `interrupt`, and after `close` when nothing waits any more.
        """
        while True:
            with self._lock:
                if self._interrupted:
                    self._interrupted = False
                    return None
                if self._clients:
                    client, waiting = self._clients.popitem(last=False)
                    was_full = len(waiting) >= self.per_client
                    request = waiting.popleft()
                    self.popped.append(request)  # under the lock: it always waits, or is here
                    self._count -= 1
                    if waiting:
                        self._clients[client] = waiting
                    return client, request, was_full
                if self._closed:
                    self._finished = True
                    return None
                self._asleep = True
            self._wake.acquire()

    def is_full(self, client: C) -> bool:
        """Whether this client has as many requests waiting as it may have."""
        with self._lock:
            return len(self._clients.get(client, ())) >= self.per_client

    def remove(self, client: C) -> list[R]:
        """Takes all requests of a client away."""
        with self._lock:
            waiting = self._clients.pop(client, None) or deque()
            self._count -= len(waiting)
            return list(waiting)

    def take_all(self) -> list[tuple[C, R]]:
        """Takes away all that waits."""
        with self._lock:
            taken = [(client, request) for client, waiting in self._clients.items() for request in waiting]
            self._clients.clear()
            self._count = 0
            return taken

    def interrupt(self) -> None:
        """Has the thread in `pop` return None once."""
        with self._lock:
            self._interrupted = True
            self._notify()

    def close(self) -> None:
        """Nothing is accepted any more."""
        with self._lock:
            self._closed = True
            self._notify()

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and what was popped last is done with: its thread came back for more."""
        with self._lock:
            return not self._clients and (self._asleep or self._finished)

    @property
    def finished(self) -> bool:
        """Whether `pop` returned None for good: it was closed, and nothing waits."""
        return self._finished

    def _notify(self) -> None:
        if self._asleep:
            self._asleep = False
            self._wake.release()
