"""``piqictl watch``: the daemon, live, in the terminal."""

from __future__ import annotations

import argparse
import importlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from piqi_runtime.client import Client, ClientError
from piqi_runtime.ctl.daemon import add_socket, connect, milliseconds

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EVENTS = ("switch", "throttle", "degrade", "reload", "fault")
_HISTORY = 60
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 56, 10


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("watch", help="show the daemon live (needs the package rich)")
    parser.add_argument("--interval", type=float, default=0.5, metavar="S", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N pictures")
    add_socket(parser)
    parser.set_defaults(function=_watch)


def _watch(arguments: argparse.Namespace) -> None:
    try:
        live = importlib.import_module("rich.live")
        text = importlib.import_module("rich.text")
    except ImportError:
        raise ClientError("watch needs the package rich: pip install rich") from None
    if not 0.05 <= arguments.interval <= 3600:
        raise ClientError(f"--interval: expected 0.05 to 3600 s, got {arguments.interval:g}")
    with connect(arguments) as client:
        client.subscribe(EVENTS)
        view = View(client)
        with live.Live(text.Text(view.draw()), auto_refresh=False, screen=arguments.count is None) as display:
            shown = 0
            while arguments.count is None or shown < arguments.count:
                display.update(text.Text(view.draw()), refresh=True)
                shown += 1
                view.events.extend(client.events(arguments.interval))


class View:
    """What was seen so far, and how it is drawn."""

    def __init__(self, client: Client) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=5)
        self._client = client
        self._points: dict[str, list[dict[str, Any]]] = {}
        self._powers: deque[float] = deque(maxlen=_HISTORY)
        self._queues: deque[float] = deque(maxlen=_HISTORY)
        self._latencies: dict[str, deque[float]] = {}
        self._replies: dict[str, tuple[float, int]] = {}

    def draw(self) -> str:
        """The picture as of now."""
        status, policy = self._client.status(), self._client.policy()
        sensors = status["sensors"]
        power_mw = sensors["power_mw"] or sum(model["power_mw"] or 0.0 for model in status["models"].values())
        self._powers.append(power_mw)
        self._queues.append(sum(model["queue"] for model in status["models"].values()))
        lines = [
            f"up {status['uptime_s']:.0f} s   {status['clients']} clients   mode {policy['mode']}: {policy['reason']}",
            f"power {power_mw:8.0f} mW {'measured ' if sensors['power_mw'] else 'predicted'} {bars(self._powers)}",
            f"queue {self._queues[-1]:8.0f}              {bars(self._queues)}",
            f"temperature {_known(sensors['temperature_c'], '°C')}   battery {_known(sensors['battery_percent'], '%')}",
        ]
        for name, model in status["models"].items():
            lines += ["", *self._draw_model(name, model)]
        lines += ["", "events"]
        lines += [
            f"  {event['event']}: " + ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
            for event in self.events
        ]
        return "\n".join(lines)

    def _draw_model(self, name: str, model: dict[str, Any]) -> list[str]:
        if name not in self._points:
            self._points[name] = self._client.points(name)
        now_s = time.monotonic()
        before_s, before = self._replies.get(name, (now_s, model["replies"]))
        self._replies[name] = now_s, model["replies"]
        rate = (model["replies"] - before) / (now_s - before_s) if now_s > before_s else 0.0
        times = self._latencies.setdefault(name, deque(maxlen=_HISTORY))
        if model["latency_us"]["median"] is not None:
            times.append(model["latency_us"]["median"])
        return [
            f"{name}: point {model['point']} ({model['order'] or 'fallback'}), {model['switches']} switches, "
            f"{model['faults']} faults, {rate:.1f} frames/s"
            + (f", not kept: {', '.join(model['degraded'])}" if model["degraded"] else ""),
            f"  median {milliseconds(model['latency_us']['median'])} ms, p99 {milliseconds(model['latency_us']['p99'])}"
            f" ms  {bars(times)}",
            *(f"  {line}" for line in front(self._points[name], model["point"])),
        ]


def _known(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.1f} {unit}"


def bars(values: deque[float]) -> str:
    """A line of bars from 0 to the greatest value."""
    top = max(values, default=0.0)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] if top > 0 else _BARS[0] for value in values)


def front(points: list[dict[str, Any]], current: int) -> list[str]:
    """Latency against power of all points, with the current one."""
    latencies = [point["latency_ms"] for point in points]
    powers = [point["power_mw"] for point in points]
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def cell(point: dict[str, Any]) -> tuple[int, int]:
        across = (point["latency_ms"] - min(latencies)) / ((max(latencies) - min(latencies)) or 1.0)
        up = (point["power_mw"] - min(powers)) / ((max(powers) - min(powers)) or 1.0)
        return round((1 - up) * (_HEIGHT - 1)), round(across * (_WIDTH - 1))

    for point in points:
        row, column = cell(point)
        grid[row][column] = "x" if point["quarantined"] else "·"
    if 0 <= current < len(points):
        row, column = cell(points[current])
        grid[row][column] = "●"
    return [
        f"{max(powers):8.0f} mW ┐",
        *("            │" + "".join(row) for row in grid),
        f"{min(powers):8.0f} mW └ {min(latencies):.4g} to {max(latencies):.4g} ms, accuracy "
        f"{min(p['accuracy'] for p in points):.2f} to {max(p['accuracy'] for p in points):.2f} %",
    ]
