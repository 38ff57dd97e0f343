"""The daemon: real processes, real sockets."""

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S, Connection, Process, codes, memfd, scripted, wait_for

from piqi_runtime.daemon.protocol import MAX_MESSAGE_BYTES, MAX_POOL_BYTES, MAX_POOLS


@pytest.fixture
def daemon(tmp_path: Path, bundle: Path) -> Iterator[Process]:
    """It does not look at sensors, which would be a descriptor more for a moment."""
    with scripted(tmp_path, bundle, tick_s=3600.0) as process:
        yield process


@pytest.fixture
def client(daemon: Process) -> Iterator[Connection]:
    with Connection(daemon.path) as connection:
        # The one that only looked whether it listens may still be there.
        assert wait_for(lambda: connection.call({"op": "status"})["clients"] == 1)
        yield connection


def start(tmp_path: Path, bundle: Path, *options: str) -> Process:
    """The real command."""
    path = tmp_path / "piqid"
    command = ["-m", "piqi_runtime.daemon.main", "--bundle", str(bundle), "--board", "rk3399pro"]
    config = tmp_path / "daemon.toml"
    config.write_text(f'root = ""\ntimeout_s = {PATIENCE_S}\n')
    return Process([*command, "--config", str(config), "--socket", str(path), *options], path, tmp_path / "log")


def test_every_operation_of_the_real_daemon(tmp_path: Path, bundle: Path) -> None:
    process = start(tmp_path, bundle)
    try:
        with Connection(process.path) as client:
            hello = client.call({"op": "hello", "version": 1, "client": "test"})
            assert hello["ok"] and hello["models"] == ["net"] and hello["pid"] == process.popen.pid
            (model,) = client.call({"op": "models"})["models"]
            assert model["name"] == "net" and model["input"]["shape"] == [1, 2, 2, 1] and model["points"] == 1
            points = client.call({"op": "points", "model": "net"})
            assert points["total"] == 1 and points["points"][0]["order"] == "L"
            client.memory[:4] = [-1, 2, -3, 4]
            reply = client.call(client.frame(0, -1, output={"pool": client.pool, "offset": 64}))
            assert reply["ok"] and (reply["point"], reply["order"], reply["accuracy"]) == (0, "L", 70.0)
            assert reply["outputs"] == [
                {"name": "y", "dtype": "float32", "shape": [1, 2, 2, 1], "size_bytes": 16, "offset": 64}
            ]
            assert client.memory[16:20].tolist() == [0, 1, 2, 0]  # clamped at 0
            grey = {"pool": client.pool, "offset": 0, "format": "grey8", "width": 2, "height": 2, "stride": 8}
            client.memory.view(np.uint8)[[0, 1, 8, 9]] = [0, 255, 127, 128]
            reply = client.call({"op": "infer", "input": grey, "output": "inline"})
            tensor = np.frombuffer(base64.b64decode(reply["outputs"][0]["data"]), np.float32)
            assert np.allclose(tensor, [0, 1, 0, 128 / 127.5 - 1], atol=1e-6)
            limits = client.call({"op": "limits", "min_accuracy": 90.0})
            assert limits["degraded"] == ["min_accuracy"] and limits["point"] == 0
            assert client.call(client.frame(0, 1))["degraded"] == ["min_accuracy"]
            assert client.call({"op": "limits", "min_accuracy": None})["degraded"] == []
            policy = client.call({"op": "policy"})
            assert policy["mode"] in policy["modes"] and policy["override"] is None
            other = next(mode for mode in policy["modes"] if mode != policy["mode"])
            assert client.call({"op": "policy", "mode": other, "seconds": 60})["mode"] == other
            assert client.call({"op": "policy", "mode": None})["mode"] == policy["mode"]
            status = client.call({"op": "status"})
            assert status["clients"] == 1 and status["models"]["net"]["replies"] == 3
            assert status["models"]["net"]["latency_us"]["median"] > 0
            stats = client.call({"op": "stats"})
            assert stats["replies"] == 3 and stats["clients"][0]["client"] == "test"
            assert client.call({"op": "pool_close", "pool": client.pool})["ok"]
            assert client.code(client.frame(0, 1)) == "bad_pool"
    finally:
        assert process.stop() == 0
    assert not process.path.exists()


def test_events(daemon: Process, client: Connection) -> None:
    with Connection(daemon.path) as listener:
        assert listener.call({"op": "subscribe", "events": ["fault", "degrade"]})["ok"]
        assert client.code(client.frame(0, float("nan"))) == "backend_failed"
        event = listener.receive()
        assert (event["event"], event["model"], event["code"]) == ("fault", "net", "backend_failed")
        client.call({"op": "limits", "min_accuracy": 99})
        event = listener.receive()
        assert (event["event"], event["model"], event["degraded"]) == ("degrade", "net", ["min_accuracy"])
        assert event["relaxed"]["min_accuracy"] == 70.0
        client.close()  # its limits go with it
        assert listener.receive()["degraded"] == []


def test_faults_are_answered_and_serving_goes_on(client: Connection) -> None:
    assert client.code(client.frame(0, float("nan"))) == "backend_failed"
    assert client.code(client.frame(0, -1)) == "backend_hung"
    assert client.code(client.frame(0, 0)) == "ok"
    assert client.call({"op": "stats"})["errors"] == {"backend_failed": 1, "backend_hung": 1}


def test_latest_drops_the_older_one_that_waits(daemon: Process, client: Connection) -> None:
    gate = daemon.gate()
    ids = [client.send(client.frame(0, gate.value, queue="latest"))]
    gate.wait()
    ids += [client.send(client.frame(i, 0, queue="latest", output="inline")) for i in (1, 2, 3)]
    replies = client.read_by_the_daemon()
    gate.open()
    replies |= client.replies([ids[0], ids[3]])
    assert codes(replies, ids) == ["ok", "dropped", "dropped", "ok"]
    last = np.frombuffer(base64.b64decode(replies[ids[3]]["outputs"][0]["data"]), np.float32)
    assert last[3] == 3


def test_all_keeps_order_and_loses_nothing(client: Connection) -> None:
    """More than the queue holds: the sender waits, not the daemon."""
    count = 60
    received: list[int] = []
    reader = threading.Thread(target=lambda: received.extend(client.receive()["id"] for _ in range(count)))
    frames = [client.frame(i, 0.002) for i in range(8)]
    reader.start()
    ids = [client.send(frames[i % 8]) for i in range(count)]
    reader.join(PATIENCE_S)
    assert received == ids


def test_back_pressure_reaches_the_sender(daemon: Process, client: Connection) -> None:
    gate = daemon.gate()
    client.send(client.frame(0, gate.value))
    client.socket.setblocking(False)
    frame = client.frame(1, 0)
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            client.send(frame)
    gate.open()


def begun_in_time(client: Connection, frame: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The reply to a frame that was not refused for being late already, and how often it was: on a busy machine."""
    refused = 0
    while (reply := client.call(frame)).get("error", {}).get("code") == "deadline":
        refused += 1
        assert refused < 100
    return reply, refused


def test_deadlines(daemon: Process, client: Connection) -> None:
    gate = daemon.gate()
    first = client.send(client.frame(0, gate.value))
    gate.wait()
    late = client.send(client.frame(1, 0, deadline_ms=20))
    in_time = client.send(client.frame(2, 0, deadline_ms=1e3 * PATIENCE_S))
    assert client.read_by_the_daemon().keys().isdisjoint([first, late, in_time])
    time.sleep(0.03)
    gate.open()
    replies = client.replies([first, late, in_time])
    assert codes(replies, [first, late, in_time]) == ["ok", "deadline", "ok"]
    misses = 1
    reply, refused = begun_in_time(client, client.frame(0, 0.15, deadline_ms=100))
    assert reply["late"] is True
    misses += refused + 1
    client.call({"op": "limits", "deadline_ms": 100})
    reply, refused = begun_in_time(client, client.frame(0, 0.15))
    assert reply["late"] is True
    misses += refused + 1
    client.call({"op": "limits", "deadline_ms": None})
    assert "late" not in client.call(client.frame(0, 0.15))
    assert client.call({"op": "stats"})["deadline_misses"] == misses


def test_clients_take_turns(daemon: Process, client: Connection) -> None:
    first, others = daemon.gate(), daemon.gate()
    ids = [client.send(client.frame(i, 0 if i else first.value)) for i in range(8)]
    first.wait()
    assert client.read_by_the_daemon().keys().isdisjoint(ids)
    with Connection(daemon.path) as other:
        theirs = other.send(other.frame(0, others.value))
        other.read_by_the_daemon()
        first.open()
        others.wait()  # behind two frames, not behind eight
        assert client.read_by_the_daemon().keys() & set(ids) == set(ids[:2])
        others.open()
        assert codes(other.replies([theirs]), [theirs]) == ["ok"]
    client.replies(ids[2:])


def test_queue_full(tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle, queue_total=2) as process, Connection(process.path) as client:
        gate = process.gate()
        first = client.send(client.frame(0, gate.value))
        gate.wait()
        ids = [client.send(client.frame(1, 0)) for _ in range(3)]
        replies = client.read_by_the_daemon()
        assert replies[ids[2]]["error"]["code"] == "queue_full"
        gate.open()
        assert codes(client.replies([first, *ids[:2]]), [first, *ids[:2]]) == ["ok"] * 3


def test_what_is_refused(client: Connection) -> None:
    frame = client.frame(0, 0)
    source = frame["input"]
    size = 1 << 16

    def infer(**changes: object) -> dict:
        return {**frame, "input": {**source, **changes}}

    image = {"format": "rgb8", "width": 4, "height": 4}
    assert [
        client.code(message)
        for message in (
            infer(offset=size),
            infer(offset=size - 12),
            infer(offset=-4),
            infer(offset=2),
            infer(offset=1 << 70),
            infer(pool=1),
            infer(pool=True),
            infer(format="rgb16"),
            infer(**image, stride=11),
            infer(**image, stride=size),
            infer(**image, stride=12, offset=size - 47),
            infer(**{**image, "width": 0}),
            infer(**{**image, "height": 1 << 40}),
            infer(**{**image, "width": 2.0}),
            {**frame, "output": {"pool": 0, "offset": 32}},
            {**frame, "output": {"pool": 0, "offset": size}},
            {**frame, "decode": {"kind": "topk"}},
            {**frame, "queue": "first"},
            {**frame, "deadline_ms": 0},
            {**frame, "extra": 1},
            {**frame, "model": "other"},
            {"op": "infer", "input": {"data": "AAAA", "dtype": "float32", "shape": [1]}},
            {"op": "hello", "version": 2},
            {"op": "nothing"},
            {"op": ["hello"]},
            {"op": "points", "offset": -1},
            {"op": "limits", "min_accuracy": "high"},
            {"op": "limits", "max_power_mw": 0},
            {"op": "subscribe", "events": ["all"]},
            {"op": "policy", "mode": "no such"},
            {"op": "policy", "seconds": 3},
            {"op": "pool_close", "pool": 7},
            {"op": "pool"},
        )
    ] == [
        *["bad_pool"] * 2,
        *["bad_argument"] * 3,
        *["bad_pool"] * 2,
        *["bad_argument"] * 2,
        *["bad_pool"] * 2,
        *["bad_argument"] * 4,
        "bad_pool",
        *["bad_argument"] * 4,
        "unknown_model",
        "bad_argument",
        "version",
        *["unknown_op"] * 2,
        *["bad_argument"] * 6,
        *["bad_pool"] * 2,
    ]
    assert client.code(frame) == "ok"


def test_garbage(client: Connection) -> None:
    for data in (
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"id": 1e999}',
        b'{"id": NaN}',
        b'{"id": -1}',
        b'{"op": "hello"}',
    ):
        assert client.code(data) == "bad_message"
    assert client.code(b"[" * 60_000) == "bad_message"
    assert client.code(b'{"id":' + b"1" * 60_000 + b"}") == "bad_message"
    assert client.code(b'{"id": "\\ud800", "op": "\\ud800"}') == "unknown_op"
    assert client.code(b" " * (MAX_MESSAGE_BYTES + 1)) == "too_large"
    assert client.code(b'{"id": 3, "op": "models"}' + b" " * (MAX_MESSAGE_BYTES - 25)) == "ok"


def test_descriptors(daemon: Process, client: Connection) -> None:
    before = daemon.descriptors
    sealed, unsealed, half = memfd(4096), memfd(4096, 0), memfd(4096, 2)
    huge, empty, null = memfd(MAX_POOL_BYTES + 1), memfd(0), os.open("/dev/null", os.O_RDWR)
    pipe = os.pipe()
    pool = {"op": "pool"}
    try:
        assert [client.code(pool, [each]) for each in (unsealed, half, null, *pipe)] == ["unsealed_pool"] * 5
        assert [client.code(pool, [each]) for each in (huge, empty)] == ["bad_pool"] * 2
        for count in (2, 3, 250):
            assert client.code(pool, [sealed] * count) == "too_many_descriptors"
        assert client.code({"op": "models"}, [sealed]) == "bad_argument"
        assert wait_for(lambda: daemon.descriptors == before)
        codes = [client.code(pool, [sealed]) for _ in range(MAX_POOLS)]
        assert codes == ["ok"] * (MAX_POOLS - 1) + ["bad_pool"]  # one it has already
        client.close()
        assert wait_for(lambda: daemon.descriptors == before - 2)  # its socket and its first pool's mapping
    finally:
        for each in (sealed, unsealed, half, huge, empty, null, *pipe):
            os.close(each)


def test_a_pool_cannot_be_taken_away(daemon: Process) -> None:
    descriptor = memfd(1 << 16)
    with Connection(daemon.path, pool=False) as client:
        number = client.call({"op": "pool"}, [descriptor])["pool"]
        for size in (0, 4096, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        source = {"pool": number, "offset": (1 << 16) - 16, "format": "float32_raw"}
        client.send({"op": "infer", "input": source})
        client.send({"op": "pool_close", "pool": number})  # while it may be in use
        assert {client.receive()["ok"] for _ in range(2)} == {True}
    os.close(descriptor)


def test_read_only_pool(daemon: Process) -> None:
    descriptor = memfd(4096, 2 | 4 | 8)  # also against writing
    with Connection(daemon.path, pool=False) as client:
        source = {"pool": client.call({"op": "pool"}, [descriptor])["pool"], "format": "float32_raw"}
        assert client.code({"op": "infer", "input": source}) == "ok"
        output = {"pool": source["pool"], "offset": 64}
        assert client.code({"op": "infer", "input": source, "output": output}) == "bad_pool"
    os.close(descriptor)


def test_flood_of_garbage_is_held_back(tmp_path: Path, bundle: Path) -> None:
    ended = threading.Event()

    def flood() -> None:
        with Connection(process.path, pool=False) as hostile:
            hostile.socket.settimeout(0.05)
            while not ended.is_set():
                try:
                    hostile.send(b"garbage")
                    hostile.socket.recv(1 << 16)
                except TimeoutError:  # noqa: PERF203
                    pass

    thread = threading.Thread(target=flood)
    # So few that the slowest machine sends more.
    options = {"messages_per_s": 10.0, "message_burst": 100.0}
    with scripted(tmp_path, bundle, **options) as process, Connection(process.path) as client:
        thread.start()
        try:
            assert wait_for(lambda: client.call({"op": "stats"})["throttled"] >= 1)
            assert client.code(client.frame(0, 0)) == "ok"
        finally:
            ended.set()
            thread.join()


def test_a_client_that_never_reads_is_disconnected(daemon: Process, client: Connection) -> None:
    lazy = Connection(daemon.path, pool=False)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(5000):
            lazy.send({"op": "points"})
    assert client.code(client.frame(0, 0)) == "ok"
    assert client.call({"op": "stats"})["hung_up"] == 1
    lazy.close()


def test_clients_that_die(daemon: Process, client: Connection) -> None:
    before = daemon.descriptors
    gate = daemon.gate()
    for number in range(20):
        other = Connection(daemon.path)
        if number == 0:
            other.send(other.frame(0, gate.value))
            gate.wait()
        for i in range(1, 6):
            other.send(other.frame(i, float("nan")))
        other.close()
    assert wait_for(lambda: client.call({"op": "status"})["clients"] == 1)
    gate.open()
    assert client.code(client.frame(0, 0)) == "ok"
    assert client.call({"op": "stats"})["errors"] == {}  # what the dead had asked for is gone, but for what ran
    assert wait_for(lambda: daemon.descriptors == before)


def test_too_many_clients(tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle, max_clients=2) as process:
        # The helper's own probe may still count.
        first = Connection(process.path)
        assert wait_for(lambda: first.call({"op": "status"})["clients"] == 1)
        with Connection(process.path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as third:
            third.connect(str(process.path))
            assert json.loads(third.recv(4096))["error"]["code"] == "unavailable"
            assert third.recv(10) == b""
        assert wait_for(lambda: first.call({"op": "status"})["clients"] == 1)
        Connection(process.path).close()
        first.close()


def test_who_only_connects_is_held_back(tmp_path: Path, bundle: Path) -> None:
    # A connection in a quarter of an hour, beside those at once: however long it takes.
    options = {"tick_s": 3600.0, "connections_per_s": 1e-3, "connection_burst": 64.0}
    with scripted(tmp_path, bundle, **options) as process, Connection(process.path) as client:
        assert wait_for(lambda: client.call({"op": "status"})["clients"] == 1)
        before = process.descriptors
        for _ in range(200):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hostile:
                hostile.connect(str(process.path))
        assert client.code(client.frame(0, 0)) == "ok"
        # With the helper's probe and this client; some waited in the backlog.
        assert wait_for(lambda: client.call({"op": "stats"})["refused"] == 202 - 64)
        assert client.call({"op": "stats"})["accepted"] == 64
        assert wait_for(lambda: process.descriptors == before)


def test_the_frame_that_runs_is_answered_before_the_end(tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle, drain_s=PATIENCE_S) as process, Connection(process.path) as client:
        gate = process.gate()
        ids = [client.send(client.frame(0, gate.value)), client.send(client.frame(1, 0))]
        gate.wait()
        client.read_by_the_daemon()
        process.popen.terminate()
        replies: dict[int, dict[str, Any]] = {}
        while "shutting_down" not in codes(replies, replies):  # until the signal has come, one takes another's place
            client.send(client.frame(2, 0, queue="latest"))
            replies |= client.read_by_the_daemon()
        assert replies.keys().isdisjoint(ids)
        gate.open()
        assert codes(client.replies(ids), ids) == ["ok"] * 2
        assert process.popen.wait(PATIENCE_S / 2) == 0  # not only when the drain ends


def test_ends_in_time_though_frames_wait(tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle, drain_s=0.2) as process, Connection(process.path) as client:
        gate = process.gate()
        ids = [client.send(client.frame(i, gate.value if i == 1 else 0)) for i in range(8)]
        gate.wait()
        replies = client.read_by_the_daemon()
        assert process.stop() == 0
        replies |= client.replies(ids[1:])  # also of the one that ran
        assert codes(replies, ids) == ["ok"] + ["shutting_down"] * 7


def test_reload(tmp_path: Path, bundle: Path) -> None:
    process = start(tmp_path, bundle)
    try:
        with Connection(process.path) as client:
            client.call({"op": "subscribe", "events": ["reload"]})
            manifest = bundle / "manifest.json"
            good = manifest.read_bytes()
            manifest.write_bytes(good[:-10])
            process.popen.send_signal(signal.SIGHUP)
            event = client.receive()
            assert not event["done"] and "manifest.json" in event["message"]
            assert client.code(client.frame(0, 1)) == "ok"
            manifest.write_bytes(good.replace(b'"how_built": {}', b'"how_built": {"again": 1}'))
            assert manifest.read_bytes() != good
            process.popen.send_signal(signal.SIGHUP)
            event = client.receive()
            assert event["done"] and "net" in event["message"]
            assert [client.code(client.frame(0, 1)) for _ in range(3)] == ["ok"] * 3
    finally:
        assert process.stop() == 0


def test_reload_adds_and_takes_away_models(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "served"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "manifest.json").write_text("{}")
    path, config = tmp_path / "piqid", tmp_path / "daemon.toml"
    settings = f'root = ""\nboard = "rk3399pro"\nbundle_folder = "{folder}"\ntimeout_s = {PATIENCE_S}\n'
    config.write_text(settings)
    command = ["-m", "piqi_runtime.daemon.main", "--config", str(config), "--socket", str(path)]
    process = Process(command, path, tmp_path / "log")
    try:
        with Connection(path) as client:
            client.call({"op": "subscribe", "events": ["reload"]})
            assert client.call({"op": "hello", "version": 1})["models"] == []
            assert client.code(client.frame(0, 1)) == "unknown_model"
            os.rename(bundle, folder / "net")
            process.popen.send_signal(signal.SIGHUP)
            assert client.receive()["models"] == ["net"]
            assert client.code(client.frame(0, 1)) == "ok"
            os.rename(folder / "net", bundle)
            process.popen.send_signal(signal.SIGHUP)
            assert client.receive()["models"] == []
            assert client.code(client.frame(0, 1)) == "unknown_model"
    finally:
        assert process.stop() == 0


def test_what_keeps_it_from_starting(tmp_path: Path, bundle: Path) -> None:
    process = start(tmp_path, bundle)
    try:
        for options, expected in (
            ([], "in use"),
            (["--board", "rk3588"], "board: the bundle is for 'rk3399pro'"),
            (["--bundle", str(tmp_path / "none")], "none"),
            (["--policy", "no such"], "no such"),
            (["--socket", str(tmp_path / "no" / "folder")], "No such file"),
        ):
            with pytest.raises(AssertionError, match=expected):
                (tmp_path / "other").mkdir(exist_ok=True)
                other = Process(
                    [*process.popen.args[1:], *options],
                    tmp_path / "never",
                    tmp_path / "other" / "log",  # type: ignore[index, misc]
                )
                other.stop()
    finally:
        process.popen.kill()
        process.popen.wait()
    assert process.path.exists()  # killed: it is left, and the next one takes it over
    assert start(tmp_path, bundle).stop() == 0
