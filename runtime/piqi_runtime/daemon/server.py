"""The server: listens, keeps the sessions and the models' runners, and ties the loop to both."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from piqi_runtime.boards import Board
from piqi_runtime.daemon import inference, protocol, systemd
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.loop import Loop
from piqi_runtime.daemon.operations import Operations
from piqi_runtime.daemon.protocol import MAX_MESSAGE_BYTES, Message, ProtocolError
from piqi_runtime.daemon.queue import FairQueue
from piqi_runtime.daemon.runner import Runner, Serving
from piqi_runtime.daemon.session import Allowance, Session, peer_pid
from piqi_runtime.daemon.steering import Steering
from piqi_runtime.host.errors import HostFault
from piqi_runtime.policy.config import Policy
from piqi_runtime.policy.sensors import Sensors
from piqi_runtime.policy.situation import Situation

_logger = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.005
#: So many requests of a client that were not read yet are refused at the end.
_REFUSED = 256
#: After a short request the next one may be about to come: waking a CPU that has gone to sleep takes tens of us.
_AWAKE_S = 100e-6
_ACCEPT_PAUSE_S = 0.1
#: Connections a second, and at once, of all: who only connects must not keep the loop busy.
_ACCEPTS = (500.0, 256.0)
_REMEMBERED_PEERS = 256


class Server:
    """Serves `runners` on `listener` until `stop`. All methods: main thread, but for those that say otherwise."""

    def __init__(
        self,
        config: DaemonConfig,
        board: Board,
        policy: Policy,
        listener: socket.socket,
        servings: Mapping[str, Serving],
        sensors: Sensors | None = None,
    ) -> None:
        self.config, self.board = config, board
        self.loop = Loop()
        self.sessions: dict[int, Session] = {}
        self.runners: dict[str, Runner] = {}
        self.counters: Counter[str] = Counter()
        self.started_s = time.monotonic()
        self.stopping = False
        self.on_tick: Callable[[], None] = lambda: None
        self.steering = Steering(policy, self.started_s, self.publish)
        self.sensors = sensors or Sensors(config.root or "/", config.power_sensors)
        self._operations = Operations(self)
        self._buffer = memoryview(bytearray(MAX_MESSAGE_BYTES + 1))
        self._accepts = Allowance(*_ACCEPTS)
        self._peers: OrderedDict[int, Allowance] = OrderedDict()
        self._listener = listener
        self._next_session = 1
        self._asked_s = self.started_s  # when a client last asked for anything
        self._drain_until_s = 0.0
        self._ended = threading.Event()
        listener.setblocking(False)
        self.loop.add(listener.fileno(), select.EPOLLIN, self._accept)
        for name, serving in servings.items():
            self.add_model(name, serving)

    def add_model(self, name: str, serving: Serving) -> None:
        """Serves one more model."""
        queue: FairQueue[Session, inference.Request] = FairQueue(self.config.queue_per_client, self.config.queue_total)
        runner = self.runners[name] = Runner(name, serving, queue)
        self.attach(name, serving)
        runner.start()
        self.steering.steer(runner, self.sessions.values())

    def attach(self, name: str, serving: Serving) -> None:
        """Has a host tell of its switches and faults, on whatever thread they happen."""

        def switched(old: int, new: int, prepare_ms: float) -> None:
            order = serving.bundle.table.points[new].order if new >= 0 else None
            _logger.info("%s: point %d -> %d", name, old, new, extra=systemd.fields("switch", model=name, point=new))
            self.publish("switch", model=name, old=old, new=new, order=order, prepare_ms=round(prepare_ms, 3))

        def failed(fault: HostFault) -> None:
            _logger.error("%s: %s", name, fault, extra=systemd.fields("fault", model=name, point=fault.point))
            self.publish(
                "fault",
                model=name,
                code=fault.code,
                message=str(fault)[:500],
                processors=fault.processors,
                point=fault.point,
            )
            self.loop.call_soon(self.steer)

        serving.events.on_switch, serving.events.on_fault = switched, failed

    def remove_model(self, name: str) -> None:
        """Ends serving a model; what waits for it is still answered."""
        runner = self.runners.pop(name)
        self.steering.decisions.pop(name, None)
        runner.queue.close()
        threading.Thread(target=runner.close, name=f"close-{name}", daemon=True).start()

    def run(self) -> None:
        """Serves until `stop`, then answers what waits."""
        threading.Thread(target=self._sense, name="sensors", daemon=True).start()
        self.loop.call_later(0.0, self._tick)
        try:
            self.loop.run()
        finally:
            self._ended.set()
            for session in list(self.sessions.values()):
                session.close()
            self.loop.close()

    def stop(self) -> None:
        """Takes no more requests, serves those that wait for at most `drain_s`, and has `run` return."""
        if self.stopping:
            return
        self.stopping = True
        self._drain_until_s = time.monotonic() + self.config.drain_s
        self.loop.remove(self._listener.fileno())
        for runner in self.runners.values():
            runner.queue.close()
        self._drain()

    def steer(self) -> None:
        """Chooses all points anew: limits or faults have changed."""
        for runner in self.runners.values():
            self.steering.steer(runner, self.sessions.values())

    def publish(self, event: protocol.EventName, **values: Any) -> None:
        """Sends an event to all that subscribed to it. Any thread may."""
        message = b""
        for session in list(self.sessions.values()):
            if event in session.events:
                message = message or protocol.event(event, **values)
                session.send(message)

    def find_runner(self, name: object) -> Runner:
        """The model of that name; None: the only one. Raises ProtocolError (unknown_model)."""
        if name is None and len(self.runners) == 1:
            return next(iter(self.runners.values()))
        runner = self.runners.get(name) if type(name) is str else None
        if runner is None:
            known = ", ".join(sorted(self.runners)) or "none is served"
            raise ProtocolError("unknown_model", f"model: expected one of: {known}; got {str(name)[:80]!r}")
        return runner

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: they wait in the backlog
            _logger.warning("a client cannot be accepted: %s", error.strerror)
            self._pause_accepting(_ACCEPT_PAUSE_S)
            return
        if wait_s := self._accepts.spend():
            self._pause_accepting(wait_s)
        if self._peer(peer_pid(connection)).spend():
            self.counters["refused"] += 1
            connection.close()
            return
        if len(self.sessions) >= self.config.max_clients:
            self.counters["refused"] += 1
            with suppress(OSError):
                connection.setblocking(False)
                connection.send(
                    protocol.error(None, "unavailable", f"{self.config.max_clients} clients are connected"),
                    socket.MSG_NOSIGNAL,
                )
            connection.close()
            return
        allowance = Allowance(self.config.messages_per_s, self.config.message_burst)
        session = Session(
            self._next_session, connection, self.loop, allowance, self._buffer, self._on_message, self._forget
        )
        self._next_session += 1
        self.sessions[session.number] = session
        self.counters["accepted"] += 1

    def _peer(self, pid: int) -> Allowance:
        allowance = self._peers.pop(pid, None) or Allowance(self.config.connections_per_s, self.config.connection_burst)
        self._peers[pid] = allowance
        if len(self._peers) > _REMEMBERED_PEERS:
            self._peers.popitem(last=False)
        return allowance

    def _pause_accepting(self, pause_s: float) -> None:
        descriptor = self._listener.fileno()
        self.loop.modify(descriptor, 0)
        self.loop.call_later(pause_s, lambda: None if self.stopping else self.loop.modify(descriptor, select.EPOLLIN))

    def _forget(self, session: Session) -> None:
        del self.sessions[session.number]
        for name in ("requests", "bytes", "throttled", "hung_up"):
            self.counters[name] += session.counters[name]
        for runner in self.runners.values():
            runner.queue.remove(session)
        if session.counters["hung_up"]:
            fields = systemd.fields(client_pid=session.pid)
            _logger.warning("%s was disconnected: it did not read its replies", session.name, extra=fields)
        if session.limits:
            self.steer()

    def _on_message(self, session: Session, data: memoryview, descriptors: list[int]) -> None:
        counters = session.counters
        counters["requests"] += 1
        counters["bytes"] += len(data)
        id: protocol.MessageId = None
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise ProtocolError("too_large", f"a message has at most {MAX_MESSAGE_BYTES} bytes")
            if len(descriptors) > 1:
                raise ProtocolError("too_many_descriptors", "a message has at most one descriptor")
            message = protocol.decode(data)
            id = protocol.message_id(message)
            if message.get("op") == "infer" and not descriptors:
                self._infer(session, id, message)
                return
            reply = protocol.ok(id, **self._operations.run(session, message, descriptors))
        except ProtocolError as error:
            counters["errors"] += 1
            self.counters[f"error.{error.code}"] += 1
            reply = protocol.error(id, error.code, str(error))
        except Exception as error:
            _logger.exception("a request failed")
            self.counters["error.internal"] += 1
            reply = protocol.error(id, "internal", f"{type(error).__name__}: {error}")
        session.send(reply)
        session.charge()

    def _infer(self, session: Session, id: int | str, message: Message) -> None:
        if self.stopping:
            raise ProtocolError("shutting_down", "the daemon is ending")
        runner = self.find_runner(message.get("model"))
        request = inference.parse(session, id, message)
        self._asked_s = request.received_ns / 1e9
        if request.deadline_ns is None and session.limits:
            limits = session.limits.get(runner.name)
            if limits is not None and limits.deadline_ms is not None:
                request.deadline_ns = request.received_ns + int(limits.deadline_ms * 1e6)
        if runner.answer_at_once(request):
            self.loop.stay_awake(_AWAKE_S)
            return
        pushed = runner.queue.push(session, request)
        if pushed.dropped is not None:
            self.counters["dropped"] += 1
            session.send(protocol.error(pushed.dropped.id, "dropped", "a newer frame took its place"))
            session.charge()
        if not pushed.accepted:
            raise ProtocolError("queue_full", f"{len(runner.queue)} requests wait for {runner.name}")
        if pushed.full:
            session.look_at(runner.name, runner.queue)

    def _sense(self) -> None:
        # Of its own: a driver may take long to answer, and the loop must not wait for it.
        while not self._ended.wait(self.config.tick_s):
            situation = self.sensors.read(time.monotonic())
            self.loop.call_soon(lambda situation=situation: self._sensed(situation))  # type: ignore[misc]

    def _sensed(self, situation: Situation) -> None:
        situation = replace(situation, idle_s=time.perf_counter() - self._asked_s)
        for runner in self.runners.values():
            observe = getattr(runner.serving.host, "observe_power", None)
            if observe is not None and situation.power_mw is not None and len(self.runners) == 1:
                observe(situation.power_mw)
        self.steering.update(situation, self.runners.values(), self.sessions.values())

    def _tick(self) -> None:
        self.on_tick()
        self.loop.call_later(self.config.tick_s, self._tick)

    def _drain(self) -> None:
        late = time.monotonic() >= self._drain_until_s
        if late:
            for runner in self.runners.values():
                for request in runner.take_all():
                    request.session.send(protocol.error(request.id, "shutting_down", "the daemon is ending"))
        served = all(runner.queue.idle for runner in self.runners.values())
        if late or (served and all(session.drained for session in self.sessions.values())):
            self._refuse_rest()
            self.loop.stop()
        else:
            self.loop.call_later(_DRAIN_POLL_S, self._drain)

    def _refuse_rest(self) -> None:
        # A connection that is closed with unread messages is reset, and replies that are under way with it.
        for session in list(self.sessions.values()):
            session.resume()
            for _ in range(_REFUSED):
                if not session.read():
                    break
