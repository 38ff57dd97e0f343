"""One model that is served: its queue, the thread that runs its frames, and what they took."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.bundle import Bundle
from piqi_runtime.daemon import protocol, systemd
from piqi_runtime.daemon.inference import Request
from piqi_runtime.daemon.models import HostEvents
from piqi_runtime.daemon.protocol import MAX_MESSAGE_BYTES, ProtocolError, to_json
from piqi_runtime.daemon.queue import FairQueue
from piqi_runtime.daemon.session import Session
from piqi_runtime.daemon.tensors import InputConverter, OutputWriter
from piqi_runtime.host.errors import HostError, HostFault
from piqi_runtime.policy.choose import PointChooser

Array = npt.NDArray[Any]

_logger = logging.getLogger(__name__)

REMEMBERED = 1024
#: A request of this many microseconds may keep the main thread.
SHORT_US = 150.0
#: What a request of a new model is taken to need: it is short after some dozens of short ones.
UNKNOWN_US = 5000.0


class RunResult(Protocol):
    """A frame that was run: `outputs` by name, by which `point`, in how long."""

    @property
    def outputs(self) -> dict[str, Array]: ...
    @property
    def point(self) -> int: ...
    @property
    def latency_us(self) -> float: ...


class Host(Protocol):
    """What runs frames: a `piqi_runtime.host.ModelHost`, or what a benchmark puts in its place."""

    @property
    def current(self) -> int: ...
    @property
    def cpus_alone(self) -> bool: ...
    @property
    def latency_factor(self) -> npt.NDArray[np.float32]: ...
    @property
    def power_factor(self) -> npt.NDArray[np.float32]: ...
    @property
    def excluded(self) -> npt.NDArray[np.bool_]: ...
    def request(self, point: int) -> bool: ...
    def run(self, frame: Array) -> RunResult: ...
    def status(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Times:
    """The last `REMEMBERED` latencies; one thread adds, any reads."""

    def __init__(self) -> None:
        self._values = np.zeros(REMEMBERED, np.float32)
        self._count = 0

    def add(self, value_us: float) -> None:
        self._values[self._count % REMEMBERED] = value_us
        self._count += 1

    def summary(self) -> dict[str, float | None]:
        """Median and 99th percentile in microseconds."""
        values = self._values[: min(self._count, REMEMBERED)].copy()
        if not len(values):
            return {"median": None, "p99": None}
        return {"median": round(float(np.median(values)), 1), "p99": round(float(np.percentile(values, 99)), 1)}


class Serving:
    """A bundle with its host and all that is made of it once. Replaced as a whole when bundles are reloaded."""

    def __init__(self, bundle: Bundle, host: Host, events: HostEvents) -> None:
        self.events = events
        self.bundle = bundle
        self.host = host
        self.chooser = PointChooser(bundle.table)
        self.converter = InputConverter(bundle)
        self.writer = OutputWriter(bundle)
        name = to_json(bundle.manifest.model)
        self._heads = [
            f'"model":{name},"point":{i},"order":"{point.order}","accuracy":{point.accuracy!r}'
            for i, point in enumerate(bundle.table.points)
        ]
        self._fallback = f'"model":{name},"point":-1,"order":null,"accuracy":null'

    def head(self, point: int) -> str:
        """What every reply by this point says, as JSON; the fallback (-1) is in no table."""
        return self._heads[point] if 0 <= point < len(self._heads) else self._fallback


class Runner:
    """Runs the requests for one model, one after the other, and replies."""

    def __init__(self, name: str, serving: Serving, queue: FairQueue[Session, Request]) -> None:
        self.name = name
        self.serving = serving
        self.queue = queue
        self.degraded: tuple[str, ...] = ()
        self.counters: Counter[str] = Counter()  # this thread's
        self.latency, self.waiting = Times(), Times()
        self._spent_us = UNKNOWN_US  # lately, for one request
        self._replying = threading.Lock()  # a request is taken out of what was popped, and answered
        self._thread = threading.Thread(target=self._run, name=f"run-{name}", daemon=True)

    def start(self) -> None:
        """Begins to take requests."""
        self._thread.start()

    def replace(self, serving: Serving) -> None:
        """From the next frame on `serving` is used; the one before is closed by then. Any thread may."""
        self.serving = serving
        self.queue.interrupt()

    def answer_at_once(self, request: Request) -> bool:
        """Serves a request on the main thread, which is the only one that pushes, unless others wait or it may be long.

        To hand a request to another thread takes longer than a small model does. But who waits on the main thread for
        a driver that hangs keeps all clients waiting.
        """
        if self._spent_us > SHORT_US or not self.queue.idle or not self.serving.host.cpus_alone:
            return False
        self.queue.popped.append(request)
        self._answer(self.serving, request)
        return True

    def take_all(self) -> list[Request]:
        """The request that runs now, if any, and those that wait: they are then the caller's to answer."""
        waiting = [request for _, request in self.queue.take_all()]  # first: none of them begins then
        with self._replying:
            running = list(self.queue.popped)
            self.queue.popped.clear()
        return running + waiting

    def close(self) -> None:
        """Waits for the end of the thread after the queue was closed, and closes the host."""
        self._thread.join()
        self._close(self.serving)

    def _run(self) -> None:
        serving = self.serving
        while True:
            popped = self.queue.pop()
            if self.serving is not serving:
                old, serving = serving, self.serving
                # Elsewhere: it may take long, and frames wait here.
                threading.Thread(target=self._close, args=(old,), daemon=True).start()
            if popped is None:
                if self.queue.finished:
                    break
                continue
            session, request, was_full = popped
            if was_full:
                session.look_at(self.name, self.queue)
            self._answer(serving, request)
            # What it refers to, a pool maybe, is not to live until the next request.
            del popped, session, request

    def _answer(self, serving: Serving, request: Request) -> None:
        begun_ns = perf_counter_ns()
        try:
            reply = self._serve(serving, request)
        except ProtocolError as error:
            reply = self._failed(request, error.code, str(error))
        except HostFault as fault:
            reply = self._failed(request, fault.code, str(fault))
            self._log_failure(request, fault, (perf_counter_ns() - begun_ns) / 1e3)
        except HostError as error:
            reply = self._failed(request, "bad_argument", str(error))
        except (piqi_native.Error, MemoryError) as error:
            reply = self._failed(request, "backend_failed", str(error))
        except Exception as error:
            _logger.exception("%s: a request failed", self.name)
            reply = self._failed(request, "internal", f"{type(error).__name__}: {error}")
        spent_us = (perf_counter_ns() - begun_ns) / 1e3
        # Up at once, down slowly: one long frame is a reason for caution.
        self._spent_us = max(spent_us, 0.9 * self._spent_us + 0.1 * spent_us)
        with self._replying:
            if self.queue.popped:
                self.queue.popped.clear()
                if reply:
                    request.session.send(reply)

    def _serve(self, serving: Serving, request: Request) -> bytes:
        begun_ns = perf_counter_ns()
        if request.session.closed:
            return b""
        if request.deadline_ns is not None and begun_ns > request.deadline_ns:
            late_ms = (begun_ns - request.deadline_ns) / 1e6
            self.counters["deadline_misses"] += 1
            raise ProtocolError("deadline", f"not begun: {late_ms:.3f} ms after the deadline")
        result = serving.host.run(serving.converter.convert(request.source))
        outputs = serving.writer.write(request, result.outputs)
        queue_us = (begun_ns - request.received_ns) / 1e3
        degraded = to_json(self.degraded) if self.degraded else "[]"
        text = (
            f'{{"id":{request.id if type(request.id) is int else to_json(request.id)},"ok":true,'
            f'{serving.head(result.point)},"latency_us":{result.latency_us:.1f},"queue_us":{queue_us:.1f},'
            f'"degraded":{degraded},"outputs":{outputs}'
        )
        if request.decoding is not None:
            text += f',"decoded":{serving.writer.decode(request.decoding, request.source, result.outputs)}'
        if request.deadline_ns is not None and perf_counter_ns() > request.deadline_ns:
            self.counters["deadline_misses"] += 1
            text += ',"late":true'
        data = f"{text}}}".encode("utf-8", "backslashreplace")
        if len(data) > MAX_MESSAGE_BYTES:
            raise ProtocolError("too_large", f"the reply has {len(data)} bytes: use a pool for outputs")
        self.latency.add(result.latency_us)
        self.waiting.add(queue_us)
        self.counters["replies"] += 1
        return data

    def _failed(self, request: Request, code: str, message: str) -> bytes:
        self.counters[f"error.{code}"] += 1
        return protocol.error(request.id, code, message)

    def _log_failure(self, request: Request, fault: HostFault, spent_us: float) -> None:
        pid = request.session.pid
        fields = systemd.fields(model=self.name, point=fault.point, client_pid=pid, latency_us=spent_us)
        _logger.warning("%s: a request of pid %d failed after %.0f us", self.name, pid, spent_us, extra=fields)

    def _close(self, serving: Serving) -> None:
        try:
            serving.host.close()
        except Exception:
            _logger.exception("%s: closing failed", self.name)
