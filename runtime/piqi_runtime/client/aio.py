"""The client for asyncio."""

# ruff: noqa: PERF203  (trying again is what these loops are for)
from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from piqi_runtime.client import messages
from piqi_runtime.client.messages import (
    MAX_MESSAGE_BYTES,
    SLOTS,
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
T = TypeVar("T")
_RETRY_S = 0.05
_MAX_EVENTS = 1000


class AsyncClient:
    """As `Client`, with coroutines; any number of them may be under way at once (four frames, the rest waits).

    async with AsyncClient() as client:
        result = await client.infer(frame)
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, timeout_s: float = 10.0, *, name: str | None = None
    ) -> None:
        self.path = os.fspath(path or os.environ.get("PIQI_SOCKET", SOCKET))
        self.timeout_s = timeout_s
        self.name = name
        self.daemon: dict[str, Any] = {}
        self.reconnections = -1
        self._socket: socket.socket | None = None
        self._greeted = False
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        self._pool: FramePool | None = None
        self._free = asyncio.Semaphore(SLOTS)
        self._connecting = asyncio.Lock()
        self._pooling = asyncio.Lock()
        self._output_bytes: dict[str | None, int] = {}
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_EVENTS)
        self._limits: dict[str | None, dict[str, Any]] = {}
        self._subscribed: tuple[str, ...] = ()

    async def connect(self) -> None:
        """Connects; the first call would do so too."""
        await self._within(self._connected)

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        models: list[dict[str, Any]] = (await self._call({"op": "models"}))["models"]
        return models

    async def points(self, model: str | None = None) -> list[dict[str, Any]]:
        """See `Client.points`."""
        points: list[dict[str, Any]] = []
        while True:
            page = await self._call(_without_none(op="points", model=model, offset=len(points)))
            points += page["points"]
            if len(points) >= page["total"] or not page["points"]:
                return points

    async def infer(self, frame: Array, **options: Any) -> Result:
        """See `Client.infer`."""
        task = messages.inference(np.asarray(frame), **options)
        return await self._within(lambda: self._infer(task))

    async def limits(self, model: str | None = None, **limits: float | None) -> dict[str, Any]:
        """See `Client.limits`."""
        reply = await self._call({**_without_none(op="limits", model=model), **limits})
        self._limits[model] = {**self._limits.get(model, {}), **limits}
        return reply

    async def policy(self, *mode: str | None, seconds: float | None = None) -> dict[str, Any]:
        """See `Client.policy`."""
        message: dict[str, Any] = _without_none(op="policy", seconds=seconds)
        if mode:
            (message["mode"],) = mode
        return await self._call(message)

    async def status(self) -> dict[str, Any]:
        """See `Client.status`."""
        return await self._call({"op": "status"})

    async def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return await self._call({"op": "stats"})

    async def subscribe(self, events: Sequence[str]) -> None:
        """See `Client.subscribe`."""
        await self._call({"op": "subscribe", "events": list(events)})
        self._subscribed = tuple(events)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Events as they come; those that nobody takes are kept up to a thousand."""
        while True:
            yield await self._events.get()

    async def close(self) -> None:
        """Ends the connection. Idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])  # not `await reader`: its end would look like a cancellation of the caller
        self._drop(ConnectionLost(f"{self.path}: closed"))

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _within(self, function: Callable[[], Awaitable[T]]) -> T:
        """`function()`, again after a lost connection, within `timeout_s` in all."""

        async def tries() -> T:
            while True:
                try:
                    await self._connected()
                    return await function()
                except ConnectionLost:
                    await asyncio.sleep(_RETRY_S)

        try:
            return await asyncio.wait_for(tries(), self.timeout_s)
        except asyncio.TimeoutError:
            if self._socket is None:
                raise ConnectionLost(f"{self.path}: no daemon") from None
            raise TimedOut(f"{self.path}: no reply in time") from None

    async def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        return await self._within(lambda: self._exchange(message))

    async def _connected(self) -> None:
        async with self._connecting:
            if self._socket is not None and self._greeted:
                return
            if self._socket is not None:  # it was cut short, and lacks its limits
                await self.close()
            self._greeted = False
            try:
                connection = await asyncio.to_thread(messages.connect, self.path, self.timeout_s)
            except OSError as error:
                raise ConnectionLost(f"{self.path}: {error.strerror}") from error
            connection.setblocking(False)
            self._socket = connection
            self._reader = asyncio.create_task(self._read(connection))
            self.daemon = await self._exchange(_without_none(op="hello", version=VERSION, client=self.name))
            for model, limits in self._limits.items():
                await self._exchange({**_without_none(op="limits", model=model), **limits})
            if self._subscribed:
                await self._exchange({"op": "subscribe", "events": list(self._subscribed)})
            self._greeted = True
            self.reconnections += 1

    async def _infer(self, task: Inference) -> Result:
        output_bytes = 0
        if task.outputs:
            if task.model not in self._output_bytes:
                models = (await self._exchange({"op": "models"}))["models"]
                self._output_bytes[task.model] = messages.output_bytes(models, task.model)
            output_bytes = self._output_bytes[task.model]
        pool, free = await self._find_pool(task.frame.nbytes, output_bytes)
        await free.acquire()
        slot = pool.free.pop()
        id, reply = self._register()
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def finish(_: object) -> None:
            # Whether or not somebody still waits for it: only now the daemon is done with the slot.
            try:
                if not outcome.done():
                    outcome.set_result(messages.result(messages.checked(reply.result()), pool))
            except ClientError as error:
                outcome.set_exception(error)
            finally:
                pool.free.append(slot)
                free.release()

        reply.add_done_callback(finish)
        try:
            pool.put(slot, task.frame)
            await self._send({"id": id, **task.message(pool, slot)})
        except ClientError as error:
            if self._waiting.pop(id, None) is not None:
                reply.set_exception(error)
        return await outcome

    async def _find_pool(self, input_bytes: int, output_bytes: int) -> tuple[FramePool, asyncio.Semaphore]:
        async with self._pooling:
            pool = self._pool
            if pool is None or not pool.fits(input_bytes, output_bytes):
                old = pool
                pool = FramePool(
                    max(input_bytes, old.input_bytes if old else 0), max(output_bytes, old.output_bytes if old else 0)
                )
                if old is not None:
                    await self._exchange({"op": "pool_close", "pool": old.number})
                    old.close()
                    self._pool = None
                pool.number = (await self._exchange({"op": "pool"}, pool.descriptor))["pool"]
                self._pool, self._free = pool, asyncio.Semaphore(SLOTS)
            return pool, self._free

    def _register(self) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        self._next_id += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = future
        return self._next_id, future

    async def _exchange(self, message: dict[str, Any], descriptor: int = -1) -> dict[str, Any]:
        id, future = self._register()
        try:
            await self._send({"id": id, **message}, descriptor)
            reply = dict(messages.checked(await future))
        finally:
            self._waiting.pop(id, None)
        del reply["id"], reply["ok"]
        return reply

    async def _send(self, message: dict[str, Any], descriptor: int = -1) -> None:
        connection = self._socket
        data = messages.encode(message).encode()
        if connection is None:
            raise ConnectionLost(f"{self.path}: not connected")
        if len(data) > MAX_MESSAGE_BYTES:
            raise ClientError(f"message: expected at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}")
        try:
            if descriptor < 0:
                await asyncio.get_running_loop().sock_sendall(connection, data)
                return
            while True:  # rare, and asyncio cannot pass descriptors
                try:
                    socket.send_fds(connection, [data], [descriptor])
                    return
                except BlockingIOError:
                    await asyncio.sleep(0.001)
        except OSError as error:
            raise ConnectionLost(f"{self.path}: {error.strerror}") from error

    async def _read(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reason: ClientError = ConnectionLost(f"{self.path}: the daemon closed the connection")
        try:
            while data := await loop.sock_recv(connection, MAX_MESSAGE_BYTES + 1):
                message = json.loads(data)
                if "event" in message:
                    if self._events.full():
                        self._events.get_nowait()
                    self._events.put_nowait(message)
                elif message.get("id") is None:
                    messages.checked(message)
                else:
                    future = self._waiting.pop(message["id"], None)
                    if future is not None and not future.done():
                        future.set_result(message)
        except OSError as error:
            reason = ConnectionLost(f"{self.path}: {error.strerror}")
        except ClientError as error:
            reason = error
        self._drop(reason)

    def _drop(self, reason: ClientError) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._output_bytes.clear()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(reason)
                future.exception()  # those that nobody waits for any more are no news


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
