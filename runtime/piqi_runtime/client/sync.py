"""The client that blocks."""

# ruff: noqa: PERF203  (trying again is what these loops are for)
from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.client import messages
from piqi_runtime.client.messages import (
    MAX_MESSAGE_BYTES,
    SOCKET,
    VERSION,
    ClientError,
    ConnectionLost,
    FramePool,
    Inference,
    Result,
    TimedOut,
)

Array = npt.NDArray[Any]
_RETRY_S = 0.05


class Client:
    """A connection to the daemon, made again when it is lost. One thread uses it.

    - `path`: its socket (default: what PIQI_SOCKET says, else /run/piqi/piqid.sock);
    - `timeout_s`: of each call, connecting again included; `name`: for the daemon's statistics.

    After a reconnection limits and subscriptions are set again. Raises ClientError: ConnectionLost, TimedOut,
    DaemonError.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, timeout_s: float = 10.0, *, name: str | None = None
    ) -> None:
        self.path = os.fspath(path or os.environ.get("PIQI_SOCKET", SOCKET))
        self.timeout_s = timeout_s
        self.name = name
        #: What the daemon said of itself: version, server, board, models, pid.
        self.daemon: dict[str, Any] = {}
        self.reconnections = -1
        self._socket: socket.socket | None = None
        self._pool: FramePool | None = None
        self._output_bytes: dict[str | None, int] = {}
        self._next_id = 0
        self._submitted: dict[int, tuple[FramePool, int]] = {}  # id -> where its frame lies
        self._replies: dict[int, dict[str, Any]] = {}
        self._abandoned: set[int] = set()
        self._events: deque[dict[str, Any]] = deque()
        self._limits: dict[str | None, dict[str, Any]] = {}
        self._subscribed: tuple[str, ...] = ()
        self._connect(time.monotonic() + timeout_s)

    def models(self) -> list[dict[str, Any]]:
        """What is served; docs/protocol.md lists the keys."""
        models: list[dict[str, Any]] = self._call({"op": "models"})["models"]
        return models

    def points(self, model: str | None = None) -> list[dict[str, Any]]:
        """All operating points of a model (None: the only one)."""
        points: list[dict[str, Any]] = []
        while True:
            page = self._call(_without_none(op="points", model=model, offset=len(points)))
            points += page["points"]
            if len(points) >= page["total"] or not page["points"]:
                return points

    def infer(self, frame: Array, **options: Any) -> Result:
        """Runs one frame; `options` are those of `piqi_runtime.client.messages.inference`.

        It is sent again if the connection is lost meanwhile.
        """
        task = messages.inference(np.asarray(frame), **options)
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._receive(self._submit(task, deadline_s), deadline_s)
            except ConnectionLost:
                self._connect(deadline_s)

    def submit(self, frame: Array, **options: Any) -> int:
        """Sends a frame and returns at once; `receive` gets the result. At most four are on their way.

        With ``queue="latest"`` an older one that still waits is answered by DaemonError "dropped".
        """
        deadline_s = time.monotonic() + self.timeout_s
        task = messages.inference(np.asarray(frame), **options)
        try:
            return self._submit(task, deadline_s)
        except ConnectionLost:
            self._connect(deadline_s)
            return self._submit(task, deadline_s)

    def receive(self, id: int) -> Result:
        """The result of what was submitted under this id."""
        if id not in self._submitted:
            raise ClientError(f"id: expected one of {sorted(self._submitted)}, got {id}")
        return self._receive(id, time.monotonic() + self.timeout_s)

    def limits(self, model: str | None = None, **limits: float | None) -> dict[str, Any]:
        """Sets this client's min_accuracy, max_power_mw, max_latency_ms, deadline_ms; None clears one."""
        reply = self._call({**_without_none(op="limits", model=model), **limits})
        self._limits[model] = {**self._limits.get(model, {}), **limits}
        return reply

    def policy(self, *mode: str | None, seconds: float | None = None) -> dict[str, Any]:
        """The policy's state; with a mode, sets it (for some seconds), with None goes back to the rules."""
        message: dict[str, Any] = _without_none(op="policy", seconds=seconds)
        if mode:
            (message["mode"],) = mode
        return self._call(message)

    def status(self) -> dict[str, Any]:
        """What the daemon does now."""
        return self._call({"op": "status"})

    def stats(self) -> dict[str, Any]:
        """What it has done so far."""
        return self._call({"op": "stats"})

    def subscribe(self, events: Sequence[str]) -> None:
        """From now on these events come (`events`): switch, throttle, degrade, reload, fault."""
        self._call({"op": "subscribe", "events": list(events)})
        self._subscribed = tuple(events)

    def events(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Events as they come, until there was none for `timeout_s`."""
        while True:
            deadline_s = time.monotonic() + timeout_s
            while not self._events:
                try:
                    self._read(deadline_s)
                except TimedOut:
                    return
                except ConnectionLost:
                    self._connect(time.monotonic() + self.timeout_s)
            yield self._events.popleft()

    def close(self) -> None:
        """Ends the connection. Idempotent; the next call would connect again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._submitted.clear()
        self._replies.clear()
        self._abandoned.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, deadline_s: float) -> None:
        self.close()
        while True:
            try:
                self._socket = messages.connect(self.path, deadline_s - time.monotonic())
                self.daemon = self._exchange(_without_none(op="hello", version=VERSION, client=self.name), deadline_s)
                self._output_bytes.clear()
                for model, limits in self._limits.items():
                    self._exchange({**_without_none(op="limits", model=model), **limits}, deadline_s)
                if self._subscribed:
                    self._exchange({"op": "subscribe", "events": list(self._subscribed)}, deadline_s)
                self.reconnections += 1
                return
            except (OSError, ConnectionLost) as error:
                self.close()
                if time.monotonic() + _RETRY_S >= deadline_s:
                    reason = error.strerror if isinstance(error, OSError) else error
                    raise ConnectionLost(f"{self.path}: {reason or 'timed out'}") from error
                time.sleep(_RETRY_S)
            except ClientError:
                self.close()
                raise

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._exchange(message, deadline_s)
            except ConnectionLost:
                self._connect(deadline_s)

    def _exchange(self, message: dict[str, Any], deadline_s: float, descriptor: int = -1) -> dict[str, Any]:
        id = self._send(message, descriptor, deadline_s)
        reply = dict(messages.checked(self._wait(id, deadline_s)))
        del reply["id"], reply["ok"]
        return reply

    def _submit(self, task: Inference, deadline_s: float) -> int:
        output_bytes = self._find_output_bytes(task.model, deadline_s) if task.outputs else 0
        pool = self._pool
        if pool is None or not pool.fits(task.frame.nbytes, output_bytes):
            pool = self._new_pool(task.frame.nbytes, output_bytes, deadline_s)
        while not pool.free:
            if self._submitted and all(id in self._replies for id in self._submitted):
                raise ClientError(f"submit: {len(self._submitted)} results have not been received")
            self._read(deadline_s)
        slot = pool.free.pop()
        try:
            pool.put(slot, task.frame)
            id = self._send(task.message(pool, slot), -1, deadline_s)
        except BaseException:
            pool.free.append(slot)
            raise
        self._submitted[id] = pool, slot
        return id

    def _receive(self, id: int, deadline_s: float) -> Result:
        # Where no reply comes the daemon may still use the slot: it is free once the reply is there.
        reply = self._wait(id, deadline_s)
        pool, slot = self._submitted.pop(id)
        try:
            return messages.result(messages.checked(reply), pool)
        finally:
            pool.free.append(slot)

    def _find_output_bytes(self, model: str | None, deadline_s: float) -> int:
        if model not in self._output_bytes:
            models = self._exchange({"op": "models"}, deadline_s)["models"]
            self._output_bytes[model] = messages.output_bytes(models, model)
        return self._output_bytes[model]

    def _new_pool(self, input_bytes: int, output_bytes: int, deadline_s: float) -> FramePool:
        old = self._pool
        pool = FramePool(
            max(input_bytes, old.input_bytes if old else 0), max(output_bytes, old.output_bytes if old else 0)
        )
        try:
            if old is not None:  # what is still on its way keeps the old one alive, here and in the daemon
                self._exchange({"op": "pool_close", "pool": old.number}, deadline_s)
                old.close()
                self._pool = None
            pool.number = self._exchange({"op": "pool"}, deadline_s, pool.descriptor)["pool"]
        except BaseException:
            pool.close()
            raise
        self._pool = pool
        return pool

    def _send(self, message: dict[str, Any], descriptor: int, deadline_s: float) -> int:
        self._next_id += 1
        message = {"id": self._next_id, **message}
        data = messages.encode(message).encode()
        if self._socket is None:
            raise ConnectionLost(f"{self.path}: not connected")
        try:
            self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            if descriptor >= 0:
                socket.send_fds(self._socket, [data], [descriptor])
            else:
                self._socket.send(data, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise TimedOut(f"{self.path}: the daemon reads nothing") from None
        except OSError as error:
            if len(data) > MAX_MESSAGE_BYTES:
                raise ClientError(f"message: expected at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}") from error
            raise ConnectionLost(f"{self.path}: {error.strerror}") from error
        return self._next_id

    def _wait(self, id: int, deadline_s: float) -> dict[str, Any]:
        replies = self._replies
        while id not in replies:
            try:
                self._read(deadline_s)
            except TimedOut:
                self._abandoned.add(id)
                raise
        return replies.pop(id)

    def _read(self, deadline_s: float) -> None:
        """Takes one message in."""
        if self._socket is None:
            raise ConnectionLost(f"{self.path}: not connected")
        try:
            self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            data = self._socket.recv(MAX_MESSAGE_BYTES + 1)
        except TimeoutError:
            raise TimedOut(f"{self.path}: no reply in time") from None
        except OSError as error:
            raise ConnectionLost(f"{self.path}: {error.strerror}") from error
        if not data:
            raise ConnectionLost(f"{self.path}: the daemon closed the connection")
        message: dict[str, Any] = json.loads(data)
        id = message.get("id")
        if "event" in message:
            self._events.append(message)
        elif id is None:  # refused as a whole, as when too many clients are connected
            messages.checked(message)
        elif id in self._abandoned:
            self._abandoned.discard(id)
            if id in self._submitted:
                pool, slot = self._submitted.pop(id)
                pool.free.append(slot)
        else:
            self._replies[id] = message


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
