"""The Python clients: one suite for both, against real daemons."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S, Process, scripted

import piqi_runtime
from piqi_runtime.client import AsyncClient, Client, ClientError, ConnectionLost, DaemonError, TimedOut
from piqi_runtime.ctl import daemon as ctl_daemon
from piqi_runtime.ctl.cli import main as piqictl


class Blocking:
    """An `AsyncClient` with the methods of a `Client`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(*arguments, **options)
        self.loop.run_until_complete(self.client.connect())

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if not callable(attribute):
            return attribute
        return lambda *arguments, **options: self.loop.run_until_complete(attribute(*arguments, **options))

    @property
    def timeout_s(self) -> float:
        return self.client.timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self.client.timeout_s = seconds

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


@pytest.fixture
def daemon(tmp_path: Path, bundle: Path) -> Iterator[Process]:
    with scripted(tmp_path, bundle) as process:
        yield process


@pytest.fixture(params=[Client, Blocking])
def connect(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda path, timeout_s=PATIENCE_S, **options: request.param(path, timeout_s, **options)


def frame(seconds: float = 0.0, value: float = 0.0) -> np.ndarray:
    return np.array([seconds, value, 2, 3], np.float32).reshape(1, 2, 2, 1)


def test_all_calls(daemon: Process, connect: Callable[..., Any]) -> None:
    with connect(daemon.path, name="test") as client:
        assert client.daemon["models"] == ["net"]
        assert client.models()[0]["name"] == "net"
        assert [point["order"] for point in client.points()] == ["L"]
        result = client.infer(frame(0, 5))
        assert np.array_equal(result.outputs["y"], frame(0, 5))
        assert (result.model, result.point, result.order, result.accuracy) == ("net", 0, "L", 70.0)
        assert client.infer(frame(), outputs=False).outputs == {}
        # Two pixels of each value, as the bundle's input is normalised: -1 would hang, so all are bright.
        grey = client.infer(np.full((2, 2), 255, np.uint8))
        assert np.array_equal(grey.outputs["y"], np.ones((1, 2, 2, 1), np.float32))
        large = np.full((300, 200, 3), 255, np.uint8)[::-1, 10:150]  # another pool; not contiguous
        assert np.array_equal(client.infer(large).outputs["y"], np.ones((1, 2, 2, 1), np.float32))
        assert client.limits(min_accuracy=99)["degraded"] == ["min_accuracy"]
        assert client.infer(frame()).degraded == ("min_accuracy",)
        assert client.limits(min_accuracy=None)["degraded"] == []
        mode = client.policy("best", seconds=1000)
        assert mode["mode"] == "best" and mode["override"]["seconds"] > 900
        assert client.policy(None)["override"] is None
        assert client.status()["models"]["net"]["replies"] == 5
        assert client.stats()["clients"][0]["client"] == "test"


def test_errors(daemon: Process, connect: Callable[..., Any], tmp_path: Path) -> None:
    with connect(daemon.path) as client:
        for options, code in (({"top_k": 3}, "bad_argument"), ({"model": "other"}, "unknown_model")):
            with pytest.raises(DaemonError) as caught:
                client.infer(frame(), **options)
            assert caught.value.code == code
        with pytest.raises(DaemonError) as caught:
            client.infer(frame(float("nan")))
        assert caught.value.code == "backend_failed"
        for bad, options in (
            (np.zeros(4, np.int16), {}),
            (np.zeros((2, 2, 4), np.uint8), {}),
            (np.zeros((2, 2), np.uint8), {"format": "rgb8"}),
            (frame(), {"format": "rgb8"}),
            (frame(), {"top_k": 1, "boxes": True}),
        ):
            with pytest.raises(ClientError):
                client.infer(bad, **options)
        assert client.infer(frame()).point == 0
    with pytest.raises(ConnectionLost, match="none"):
        connect(tmp_path / "none", 0.2)


def test_a_call_that_times_out_spoils_nothing(daemon: Process, connect: Callable[..., Any]) -> None:
    with connect(daemon.path) as client:
        client.infer(frame())  # it has all that is asked for once
        for i in range(6):  # more than there are slots
            gate = daemon.gate()
            client.timeout_s = 0.2
            with pytest.raises(TimedOut):
                client.infer(frame(gate.value))
            client.timeout_s = PATIENCE_S
            gate.open()
            assert client.infer(frame(0, i)).outputs["y"].flat[1] == i


def test_reconnects(tmp_path: Path, bundle: Path, connect: Callable[..., Any]) -> None:
    with scripted(tmp_path, bundle) as process:
        client = connect(process.path)
        client.limits(min_accuracy=99)
        assert client.infer(frame(0, 1)).degraded == ("min_accuracy",)
        process.popen.kill()
        process.popen.wait()
    restarted: list[Process] = []
    ended = threading.Event()

    def restart() -> None:
        time.sleep(0.2)
        with scripted(tmp_path, bundle) as again:
            restarted.append(again)
            ended.wait()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        result = client.infer(frame(0, 2))  # sent while there is no daemon
        assert result.outputs["y"].flat[1] == 2 and result.degraded == ("min_accuracy",)
        assert client.reconnections == 1
    finally:
        with client:
            pass
        ended.set()
        thread.join()


def test_a_reconnection_that_times_out_is_begun_again(daemon: Process, connect: Callable[..., Any]) -> None:
    """One that was cut short has no limits yet."""
    with connect(daemon.path) as client:
        client.limits(min_accuracy=99)
        daemon.popen.send_signal(signal.SIGSTOP)
        try:
            client._socket.shutdown(socket.SHUT_RDWR)
            client.timeout_s = 0.5
            with pytest.raises(ClientError):
                client.infer(frame())
        finally:
            daemon.popen.send_signal(signal.SIGCONT)
        client.timeout_s = PATIENCE_S
        assert client.infer(frame()).degraded == ("min_accuracy",)


def test_submit_and_receive(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client:
        gate = daemon.gate()
        first = client.submit(frame(gate.value), queue="latest")
        gate.wait()
        second, third = (client.submit(frame(0, i), queue="latest") for i in (2, 3))
        client.status()  # they have been read
        gate.open()
        assert client.receive(third).outputs["y"].flat[1] == 3
        with pytest.raises(DaemonError) as caught:
            client.receive(second)
        assert caught.value.code == "dropped"
        assert client.receive(first).point == 0
        with pytest.raises(ClientError, match="id"):
            client.receive(first)
        ids = [client.submit(frame(0, i)) for i in range(4)]
        assert [client.receive(id).outputs["y"].flat[1] for id in ids] == [0, 1, 2, 3]


def test_events(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client, Client(daemon.path, PATIENCE_S) as other:
        client.subscribe(["fault"])
        for _ in range(2):
            with pytest.raises(DaemonError):
                other.infer(frame(-1))
        assert [event["code"] for event in client.events(0.2)] == ["backend_hung"] * 2


def test_many_coroutines(daemon: Process) -> None:
    async def run() -> None:
        async with AsyncClient(daemon.path, PATIENCE_S) as client:
            results = await asyncio.gather(*(client.infer(frame(0.001, i)) for i in range(50)), client.status())
            assert [result.outputs["y"].flat[1] for result in results[:-1]] == list(range(50))
            await client.subscribe(["fault"])
            events = client.events()
            with pytest.raises(DaemonError):
                await client.infer(frame(-1))
            assert (await asyncio.wait_for(anext(events), PATIENCE_S))["event"] == "fault"
            gate = daemon.gate()
            cancelled = asyncio.create_task(client.infer(frame(gate.value)))
            await asyncio.to_thread(gate.wait)
            cancelled.cancel()
            gate.open()
            assert (await client.infer(frame(0, 7))).outputs["y"].flat[1] == 7

    asyncio.run(run())


def test_exported_lazily() -> None:
    assert piqi_runtime.Client is Client and piqi_runtime.AsyncClient is AsyncClient


def test_piqictl(
    daemon: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl_daemon, "Client", lambda path, _, **options: Client(path, PATIENCE_S, **options))
    (tmp_path / "white.pgm").write_bytes(b"P5\n# comment\n4 3\n255\n" + b"\xff" * 12)
    np.save(tmp_path / "frame.npy", frame(0, 4))
    (tmp_path / "short.ppm").write_bytes(b"P6 4 3 255\n" + b"\xff" * 12)
    options = ["--socket", str(daemon.path)]

    def run(*arguments: str) -> str:
        code = piqictl([*arguments, *options])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    assert "net" in run("status") and '"uptime_s"' in run("status", "--json")
    assert "[1, 2, 2, 1] grey" in run("models")
    assert "*" in run("points", "net")
    assert "1 to 1" in run("infer", str(tmp_path / "white.pgm"))
    assert "0 to 4" in run("infer", str(tmp_path / "frame.npy"), "--repeat", "3")
    assert "replies" in run("stats")
    for arguments, message in (
        (["infer", str(tmp_path / "short.ppm")], "the file ends before"),
        (["infer", str(tmp_path / "none.ppm")], "No such file"),
        (["infer", str(tmp_path / "white.pgm"), "--model", "other"], "--model"),
    ):
        assert piqictl([*arguments, *options]) == 1
        assert message in capsys.readouterr().err
    pytest.importorskip("rich")
    assert "point 0 (L)" in run("watch", "--count", "2", "--interval", "0.05")
