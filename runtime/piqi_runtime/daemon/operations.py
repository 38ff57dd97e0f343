"""What the daemon answers at once: every operation but `infer`. Main thread only."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import piqi_native
from piqi_runtime.daemon import protocol
from piqi_runtime.daemon.protocol import Message, ProtocolError, bad
from piqi_runtime.daemon.runner import Runner
from piqi_runtime.daemon.session import Limits, Session
from piqi_runtime.policy.constraints import PolicyError

if TYPE_CHECKING:
    from piqi_runtime.daemon.server import Server

Reply = dict[str, Any]


class Operations:
    """The operations by name; each takes a session, a message and its descriptors, and returns the reply's values."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._by_name: dict[str, Callable[[Session, Message], Reply]] = {
            "hello": self._hello,
            "models": self._models,
            "points": self._points,
            "pool_close": self._pool_close,
            "limits": self._limits,
            "policy": self._policy,
            "status": self._status,
            "subscribe": self._subscribe,
            "stats": self._stats,
        }

    def run(self, session: Session, message: Message, descriptors: list[int]) -> Reply:
        """The values of the reply. Raises ProtocolError."""
        name = message.get("op")
        if name == "pool":
            return self._pool(session, message, descriptors)
        operation = self._by_name.get(name) if type(name) is str else None
        if operation is None and name != "infer":
            known = ", ".join(sorted([*self._by_name, "infer", "pool"]))
            raise ProtocolError("unknown_op", f"op: expected one of {known}; got {str(name)[:80]!r}")
        if descriptors or operation is None:
            raise ProtocolError("bad_argument", f"op: only pool takes a descriptor, got one with {name!r}")
        return operation(session, message)

    def _hello(self, session: Session, message: Message) -> Reply:
        values = protocol.arguments(protocol.HelloArguments, message)
        if values.version != protocol.VERSION:
            raise ProtocolError("version", f"version: this daemon speaks {protocol.VERSION}, got {values.version}")
        if values.client:
            session.name = values.client
        return {
            "version": protocol.VERSION,
            "server": f"piqid {piqi_native.__version__}",
            "board": self._server.board.name,
            "models": sorted(self._server.runners),
            "pid": os.getpid(),
        }

    def _models(self, _: Session, message: Message) -> Reply:
        protocol.arguments(protocol.NoArguments, message)
        return {"models": [_describe(runner) for _, runner in sorted(self._server.runners.items())]}

    def _points(self, _: Session, message: Message) -> Reply:
        values = protocol.arguments(protocol.PointsArguments, message)
        serving = self._server.find_runner(values.model).serving
        points = serving.bundle.table.points
        factor, excluded = serving.host.latency_factor, serving.host.excluded
        rows = []
        for i in range(values.offset, min(values.offset + values.limit, len(points))):
            point = points[i]
            row = {
                "index": i,
                "order": point.order,
                "freqs": point.freqs,
                "latency_ms": point.latency_ms,
                "power_mw": point.power_mw,
                "energy_mj": point.energy_mj,
                "accuracy": point.accuracy,
                "corrected_latency_ms": round(point.latency_ms * float(factor[i]), 6),
                "quarantined": bool(excluded[i]),
            }
            if point.accuracy_lower_bound is not None:
                row["accuracy_lower_bound"] = point.accuracy_lower_bound
            rows.append(row)
        return _fitting({"total": len(points)}, "points", rows)

    def _pool(self, session: Session, message: Message, descriptors: list[int]) -> Reply:
        protocol.arguments(protocol.NoArguments, message)
        if len(descriptors) != 1:
            raise ProtocolError("bad_pool", "pool: expected one descriptor with the message (SCM_RIGHTS), got none")
        pool = session.add_pool(descriptors[0])
        return {"pool": pool.number, "size_bytes": pool.size_bytes}

    def _pool_close(self, session: Session, message: Message) -> Reply:
        pool = session.find_pool(protocol.arguments(protocol.PoolCloseArguments, message).pool)
        del session.pools[pool.number]
        return {}

    def _limits(self, session: Session, message: Message) -> Reply:
        values = protocol.arguments(protocol.LimitsArguments, message)
        runner = self._server.find_runner(values.model)
        given = {name: getattr(values, name) for name in values.model_fields_set - {"model"}}
        limits = replace(session.limits.get(runner.name, Limits()), **given)
        if given:
            session.limits[runner.name] = limits
            if limits == Limits():
                del session.limits[runner.name]
        decision = self._server.steering.steer(runner, self._server.sessions.values())
        return {"limits": asdict(limits), "point": decision.point, "degraded": list(decision.degraded)}

    def _policy(self, _: Session, message: Message) -> Reply:
        values = protocol.arguments(protocol.PolicyArguments, message)
        steering, now_s = self._server.steering, time.monotonic()
        if "mode" in values.model_fields_set:
            if values.mode is None and values.seconds is not None:
                raise bad("seconds", "a mode with it", values.seconds)
            until_s = None if values.seconds is None else now_s + values.seconds
            try:
                steering.selector.override(values.mode, until_s)
            except PolicyError as error:
                raise ProtocolError("bad_argument", str(error)) from None
            steering.select(now_s)
            self._server.steer()
        elif values.seconds is not None:
            raise bad("seconds", "a mode with it", values.seconds)
        choice, override = steering.choice, steering.selector.overridden
        return {
            "policy": steering.policy.name,
            "mode": choice.name,
            "rule": choice.rule,
            "reason": choice.reason,
            "override": None
            if override is None
            else {"mode": override[0], "seconds": None if override[1] is None else round(override[1] - now_s, 3)},
            "rules": [{"name": rule.name, "mode": rule.mode} for rule in steering.policy.rules],
            "modes": sorted(steering.policy.modes),
        }

    def _status(self, _: Session, message: Message) -> Reply:
        protocol.arguments(protocol.NoArguments, message)
        server = self._server
        situation = asdict(server.steering.situation)
        del situation["now_s"]
        frequencies = (
            getattr(next(iter(server.runners.values())).serving.host, "frequencies", None) if server.runners else None
        )
        return {
            "models": {name: self._model_status(runner) for name, runner in sorted(server.runners.items())},
            "uptime_s": round(time.monotonic() - server.started_s, 3),
            "clients": len(server.sessions),
            "sensors": situation,
            "frequencies": frequencies.freqs_khz() if frequencies is not None else {},
        }

    def _model_status(self, runner: Runner) -> Reply:
        host = runner.serving.host
        status = host.status()
        point = host.current
        table = runner.serving.bundle.table
        return {
            "point": point,
            "order": status.get("order") or (table.points[point].order if point >= 0 else None),
            "mode": self._server.steering.choice.name,
            "degraded": list(runner.degraded),
            "queue": len(runner.queue),
            "latency_us": runner.latency.summary(),
            "queue_us": runner.waiting.summary(),
            "power_mw": status.get("power_mw") or (table.points[point].power_mw if point >= 0 else None),
            "accuracy": table.points[point].accuracy if point >= 0 else None,
            "replies": runner.counters["replies"],
            "switches": status.get("switches", 0),
            "faults": status.get("faults", 0),
            "quarantined": status.get("quarantined", {}),
            "memory_bytes": status.get("memory_bytes", 0),
        }

    def _subscribe(self, session: Session, message: Message) -> Reply:
        session.events = frozenset(protocol.arguments(protocol.SubscribeArguments, message).events)
        return {}

    def _stats(self, _: Session, message: Message) -> Reply:
        protocol.arguments(protocol.NoArguments, message)
        server = self._server
        total = Counter(server.counters)
        for runner in server.runners.values():
            total.update(dict(runner.counters))
        sessions = list(server.sessions.values())
        errors = {name.removeprefix("error."): count for name, count in total.items() if name.startswith("error.")}
        if total["dropped"]:
            errors["dropped"] = total["dropped"]
        clients = [{"client": session.name[:80], "pid": session.pid, **session.counters} for session in sessions]
        for name in ("requests", "bytes", "throttled", "hung_up"):
            total[name] += sum(session.counters[name] for session in sessions)
        head = {
            **{name: total[name] for name in ("accepted", "refused", "requests", "bytes", "throttled", "hung_up")},
            "replies": total["replies"],
            "dropped": total["dropped"],
            "deadline_misses": total["deadline_misses"],
            "errors": errors,
            "models": {name: dict(runner.counters) for name, runner in server.runners.items()},
        }
        return _fitting(head, "clients", clients)


def _describe(runner: Runner) -> Reply:
    bundle = runner.serving.bundle
    manifest, table = bundle.manifest, bundle.table
    return {
        "name": manifest.model,
        "board": manifest.board,
        "layers": manifest.layer_count,
        "input": {**manifest.input.model_dump(mode="json"), "dtype": "float32"},
        "outputs": [output.model_dump(mode="json") for output in manifest.outputs],
        "labels": bool(bundle.labels),
        "points": len(table.points),
        "float_accuracy": table.accuracy_metric.float32,
        "int8_accuracy": table.accuracy_metric.int8,
        "metric": table.accuracy_metric.name,
    }


def _fitting(reply: Reply, key: str, rows: list[Reply]) -> Reply:
    """`reply` with as many of the rows, from the first on, as fit into a message."""
    left = protocol.MAX_MESSAGE_BYTES - len(protocol.to_json(reply).encode()) - 256
    fitting = []
    for row in rows:
        left -= len(protocol.to_json(row).encode("utf-8", "backslashreplace")) + 1
        if left < 0:
            break
        fitting.append(row)
    return {**reply, key: fitting}
