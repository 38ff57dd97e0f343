"""Events as a client that subscribed gets them."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_helpers import PATIENCE_S, Connection, Process, wait_for

from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

SLOWED = Path(__file__).parent / "slowed_daemon.py"
EVENTS = ["switch", "throttle", "degrade", "reload", "fault"]
#: Of the points: fast on one processor, frugal on another.
FAST, FRUGAL = 0, 1


def write(folder: Path, board: str, *points: tuple[str, str, float, float]) -> Path:
    """A bundle of one layer: points of order, frequencies, latency (ms), power (mW)."""
    tensors = {name: Tensor(name, (1, 2, 2, 1)) for name in ("x", "y")}
    write_bundle(
        folder,
        model=Model("net", tensors, (Operator("clamp", "relu", ("x",), ("y",), {"clamp_min": 0.0}),), ("x",), ("y",)),
        table=ParetoTable(
            board=board,
            model="net",
            layers=TableLayers(count=1, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=tuple(
                OperatingPoint(
                    order=order, freqs=freqs, latency_ms=ms, power_mw=mw, energy_mj=ms * mw / 1e3, accuracy=70.0
                )
                for order, freqs, ms, mw in points
            ),
        ),
        partitions=(),
        input=BundleInput(name="x", shape=(1, 2, 2, 1), colour="grey"),
        outputs=[BundleOutput(name="y", shape=(1, 2, 2, 1))],
    )
    return folder


class Listener(Connection):
    """Subscribed to all events."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, pool=False)
        id = self.send({"op": "subscribe", "events": EVENTS})
        while (message := self.receive()).get("id") != id:  # events come as soon as it has subscribed
            pass
        assert message["ok"]

    def next(self, event: str) -> dict[str, Any]:
        """The next event, which must be such a one."""
        message = self.receive()
        assert message.pop("event") == event, message
        return message

    def silent(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            message = self.receive()
        except TimeoutError:
            return True
        raise AssertionError(message)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    """The real command on a board of this machine's CPUs."""
    net = write(tmp_path / "net", "host", ("B", "0", 2.0, 6000.0), ("L", "0", 4.0, 2000.0))
    policy = tmp_path / "policy.toml"
    policy.write_text('name = "fastest"\ndefault = "fast"\n[modes.fast]\nobjective = "latency"\n')
    (tmp_path / "daemon.toml").write_text(f'root = ""\ntimeout_s = {PATIENCE_S}\n')
    path = tmp_path / "piqid"
    command = ["-m", "piqi_runtime.daemon.main", "--config", str(tmp_path / "daemon.toml"), "--board", "host"]
    command += ["--bundle", str(net), "--policy", str(policy), "--socket", str(path)]
    process = Process(command, path, tmp_path / "log")
    yield process
    assert process.stop() == 0


def test_switch(daemon: Process) -> None:
    with Connection(daemon.path) as client:
        while client.call({"op": "status"})["models"]["net"]["point"] != FAST:
            time.sleep(0.01)
        with Listener(daemon.path) as listener:
            asked_s = time.monotonic()
            client.call({"op": "limits", "max_power_mw": 3000})
            switch = listener.next("switch")
            assert 0 <= switch.pop("prepare_ms") <= 1e3 * (time.monotonic() - asked_s)
            assert switch == {"model": "net", "old": FAST, "new": FRUGAL, "order": "L"}
            assert client.call(client.frame(0, 1))["order"] == "L"
            client.call({"op": "limits", "max_power_mw": None})
            switch = listener.next("switch")
            assert (switch["old"], switch["new"], switch["order"]) == (FRUGAL, FAST, "B")
            assert client.call(client.frame(0, 1))["order"] == "B"
            assert listener.silent(0.2)


def test_degrade(daemon: Process) -> None:
    with Connection(daemon.path) as client, Listener(daemon.path) as listener:
        client.call({"op": "limits", "min_accuracy": 90})
        event = listener.next("degrade")
        assert (event["model"], event["degraded"], event["relaxed"]) == ("net", ["min_accuracy"], {"min_accuracy": 70})
        assert client.call(client.frame(0, 1))["degraded"] == ["min_accuracy"]
        client.call({"op": "limits", "min_accuracy": 90})  # nothing new
        client.call({"op": "limits", "min_accuracy": None})
        assert listener.next("degrade")["degraded"] == []
        assert client.call(client.frame(0, 1))["degraded"] == []


def test_reload(daemon: Process) -> None:
    with Listener(daemon.path) as listener:
        daemon.popen.send_signal(signal.SIGHUP)
        event = listener.next("reload")
        assert event["done"] is True and event["models"] == ["net"] and "no bundle" in event["message"]
        policy = daemon.path.with_name("policy.toml")
        good = policy.read_text()
        policy.write_text(good.replace("latency", "lateness"))
        daemon.popen.send_signal(signal.SIGHUP)
        event = listener.next("reload")
        assert event["done"] is False and "lateness" in event["message"]
        policy.write_text(good.replace("latency", "power"))
        daemon.popen.send_signal(signal.SIGHUP)
        assert {listener.receive()["event"] for _ in range(2)} == {"reload", "switch"}
        with Connection(daemon.path) as client:
            assert client.call(client.frame(0, 1))["order"] == "L"


def test_only_what_was_subscribed_to(daemon: Process) -> None:
    with Connection(daemon.path) as client, Listener(daemon.path) as listener, Listener(daemon.path) as other:
        assert listener.call({"op": "subscribe", "events": ["reload"]})["ok"]
        assert other.call({"op": "subscribe", "events": []})["ok"]
        client.call({"op": "limits", "min_accuracy": 90})
        daemon.popen.send_signal(signal.SIGHUP)
        assert listener.next("reload")["done"]
        assert other.silent(0.2)


@pytest.fixture
def slowed(tmp_path: Path) -> Iterator[tuple[Process, Path]]:
    """A daemon and the file that says how long its processors take."""
    net = write(tmp_path / "net", "rk3399pro", ("G", "0-0", 4.0, 6000.0), ("B", "0", 12.0, 4000.0))
    delays = tmp_path / "delays.json"
    delays.write_text('{"gpu": 0.004, "cpu": 0.012}')
    path = tmp_path / "s"
    process = Process([str(SLOWED), str(path), str(net), str(delays)], path, tmp_path / "log")
    yield process, delays
    assert process.stop() == 0


def set_delays(path: Path, **delays: float) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(delays))
    os.replace(new, path)


class Camera:
    """Streams frames until the block ends, and keeps the replies that were errors."""

    def __init__(self, path: Path) -> None:
        self.path, self.lost = path, list[dict[str, Any]]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stream)

    def _stream(self) -> None:
        with Connection(self.path) as client:
            while not self._ended.is_set():
                reply = client.call(client.frame(0, 1))
                if not reply["ok"]:
                    self.lost.append(reply)

    def __enter__(self) -> "Camera":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def until(listener: Listener, order: str) -> dict[str, Any]:
    """What was told last of processor G, once that has been told and the order is this; which comes first is open."""
    throttle, switch = None, None
    while throttle is None or switch is None or switch["order"] != order:
        message = listener.receive()
        if message["event"] == "throttle":
            assert (message["model"], message["processor"]) == ("net", "G")
            throttle = message
        elif message["event"] == "switch":
            switch = message
    return throttle


def throttle(delays: Path, client: Connection, listening: Path) -> Listener:
    """Makes G slow and waits until it is left."""
    while client.call({"op": "status"})["models"]["net"]["point"] != FAST:
        time.sleep(0.01)
    listener = Listener(listening)
    set_delays(delays, gpu=0.05, cpu=0.012)
    event = until(listener, "B")
    assert event["throttled"] and event["factor"] > 1.3
    return listener


def test_a_throttled_processor_is_left_and_found_again(slowed: tuple[Process, Path]) -> None:
    """What is measured corrects what was predicted; a probe notices that the processor is well."""
    daemon, delays = slowed
    with Connection(daemon.path) as client, Camera(daemon.path) as camera:
        listener = throttle(delays, client, daemon.path)
        points = client.call({"op": "points"})["points"]
        assert points[FAST]["corrected_latency_ms"] > points[FRUGAL]["corrected_latency_ms"] == pytest.approx(12)
        assert not points[FAST]["quarantined"]  # slow is not broken
        set_delays(delays, gpu=0.004, cpu=0.012)
        event = until(listener, "G")
        assert not event["throttled"] and event["factor"] < 1.15
        status = client.call({"op": "status"})["models"]["net"]
        assert (status["point"], status["order"], status["faults"]) == (FAST, "G", 0)
        assert client.call({"op": "points"})["points"][FAST]["corrected_latency_ms"] < 6
        listener.close()
    assert camera.lost == []


def test_a_processor_that_a_probe_finds_slow_is_left_alone(slowed: tuple[Process, Path]) -> None:
    daemon, delays = slowed
    with Connection(daemon.path) as client, Camera(daemon.path) as camera:
        listener = throttle(delays, client, daemon.path)
        probes = delays.with_name("probes")
        assert wait_for(lambda: probes.exists() and probes.stat().st_size >= 9)  # three, of three frames each
        assert listener.silent(0.2)
        listener.close()
    assert camera.lost == []
