"""Fuzzes the daemon: whatever comes, it answers the next client, and neither memory nor descriptors grow.

python tests/runtime/fuzz_protocol.py [--messages 1000000] [--seed N]

Messages are valid ones, mutated as bytes and as JSON, some with descriptors of all kinds; replies are read, or not.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from daemon_helpers import PATIENCE_S, Connection, Process, memfd, scripted, wait_for

SEEDS: tuple[dict[str, Any], ...] = (
    {"op": "hello", "version": 1, "client": "fuzz"},
    {"op": "models"},
    {"op": "points", "model": "net", "offset": 0, "limit": 10},
    {"op": "pool"},
    {"op": "pool_close", "pool": 0},
    {"op": "infer", "input": {"pool": 0, "offset": 0, "format": "float32_raw"}, "output": {"pool": 0, "offset": 64}},
    {
        "op": "infer",
        "model": "net",
        "input": {"pool": 0, "offset": 0, "format": "rgb8", "width": 8, "height": 8, "stride": 24},
        "output": "inline",
        "queue": "latest",
        "deadline_ms": 5.0,
    },
    {"op": "infer", "input": {"pool": 0, "offset": 0, "format": "float32", "width": 2, "height": 2, "stride": 8}},
    {
        "op": "infer",
        "input": {"data": "AAAAAAAAAAAAAAAAAAAAAA==", "dtype": "float32", "shape": [1, 2, 2, 1]},
        "decode": {"kind": "topk", "k": 3},
    },
    {
        "op": "infer",
        "input": {"data": "AAAA", "dtype": "uint8", "shape": [1, 1, 3]},
        "decode": {"kind": "boxes", "score": 0.2, "iou": 0.5},
    },
    {"op": "limits", "model": "net", "min_accuracy": 50, "max_power_mw": None, "deadline_ms": 3},
    {"op": "policy", "mode": "best", "seconds": 0.01},
    {"op": "policy", "mode": None},
    {"op": "status"},
    {"op": "subscribe", "events": ["switch", "fault"]},
    {"op": "stats"},
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308, 5e-324, "", "net", "a" * 300,
    "\ud800", "\0", "float32_raw", "rgb8", [], [[]], [1] * 20, {}, {"pool": 0}, {"kind": "topk", "k": 1},
)  # fmt: skip
GROWTH_BYTES = 8 << 20


def mutated(rng: random.Random, number: int) -> bytes:
    """A message: valid, with other values, or with other bytes."""
    message = json.loads(json.dumps({"id": number, **rng.choice(SEEDS)}))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        target = message
        while True:
            key = rng.choice([*target] or ["x"])
            if isinstance(target.get(key), dict) and rng.random() < 0.6:
                target = target[key]
                continue
            break
        action = rng.random()
        if action < 0.6:
            target[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.8:
            target.pop(key, None)
        else:
            target[rng.choice(("id", "op", "model", "extra", "input"))] = copy.deepcopy(rng.choice(VALUES))
    data = bytearray(json.dumps(message).encode())
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 8)):
            position = rng.randrange(len(data) + 1)
            action = rng.randrange(4)
            if action == 0:
                data[position : position + 1] = bytes([rng.randrange(256)])
            elif action == 1:
                del data[position : position + rng.randrange(1, 20)]
            elif action == 2:
                data[position:position] = rng.choice(
                    (b"[" * 2000, b'{"a":', b"1" * 400, b"\xff", b"NaN", b'"', b" " * 70_000)
                )
            else:
                data[position:position] = data[: rng.randrange(1, 50)]
            data = data or bytearray(b"{")
    return bytes(data)


class Descriptors:
    """One of each kind."""

    def __init__(self) -> None:
        directory = os.open("/", os.O_RDONLY)
        self.all = [
            memfd(1 << 16), memfd(4096), memfd(4096, 0), memfd(4096, 2), memfd(4096, 15), memfd(0), directory,
            os.open("/dev/null", os.O_RDWR), *os.pipe(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(),
        ]  # fmt: skip

    def choose(self, rng: random.Random) -> list[int]:
        """Mostly none."""
        if rng.random() < 0.95:
            return []
        return [rng.choice(self.all) for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 200)))]

    def close(self) -> None:
        for each in self.all:
            os.close(each)


def fuzz(process: Process, messages: int, seed: int) -> Counter[str]:
    """Sends so many; the replies' codes. Raises AssertionError where the daemon does not hold."""
    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    descriptors = Descriptors()
    pool = next(fd for fd in descriptors.all)
    with Connection(process.path) as client:
        assert wait_for(lambda: client.call({"op": "status"})["clients"] == 1)
        count_before = process.descriptors
    connection = Connection(process.path, pool=False)
    warm_up = min(messages // 10, 50_000)
    rss_bytes = process.rss_bytes
    try:
        for number in range(messages):
            if number % 997 == 0 or rng.random() < 0.0005:
                connection.close()
                connection = Connection(process.path, pool=False)
                connection.send({"op": "pool"}, [pool])
            if number == warm_up:
                rss_bytes = process.rss_bytes
            data, passed = mutated(rng, number), descriptors.choose(rng)
            try:
                connection.send(data, passed)
            except OSError as error:
                codes[f"not sent: {error.strerror}"] += 1
                if not isinstance(error, BlockingIOError) and len(data) < 65_536:
                    connection.close()
                    connection = Connection(process.path, pool=False)
            if number % 4 == 3:
                drain(connection, codes)
            if number % 50_000 == 49_999:
                print(f"{number + 1} messages", flush=True)
        drain(connection, codes)
        connection.close()
        with Connection(process.path) as client:
            assert client.call({"op": "hello", "version": 1})["ok"]
            assert client.code(client.frame(0, 0)) == "ok"
            assert wait_for(lambda: client.call({"op": "status"})["clients"] == 1)
            # Sensors are read now and then: a descriptor for a moment.
            assert wait_for(lambda: process.descriptors <= count_before), (count_before, process.descriptors)
        growth = process.rss_bytes - rss_bytes
        assert growth <= GROWTH_BYTES, f"grew by {growth} bytes"
        codes["bytes grown"] = growth
    finally:
        connection.close()
        descriptors.close()
    return codes


def drain(connection: Connection, codes: Counter[str]) -> None:
    """Reads what is there."""
    connection.socket.setblocking(False)
    while True:
        try:
            data = connection.socket.recv(1 << 17)
        except (BlockingIOError, ConnectionResetError):
            data = b""
        if not data:
            connection.socket.settimeout(PATIENCE_S)
            return
        reply = json.loads(data)
        codes[reply["event"] if "event" in reply else "ok" if reply["ok"] else reply["error"]["code"]] += 1
        assert reply.get("error", {}).get("code") != "internal", reply


#: Nothing holds a client back, so that every message is looked at.
CONFIG = {"messages_per_s": 1e9, "message_burst": 1e9, "connections_per_s": 1e9, "connection_burst": 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from conftest import write_small_bundle

    with tempfile.TemporaryDirectory() as folder:
        bundle = write_small_bundle(Path(folder))
        started_s = time.monotonic()
        with scripted(Path(folder), bundle, **CONFIG) as process:
            codes = fuzz(process, arguments.messages, arguments.seed)
        print(f"{arguments.messages} messages in {time.monotonic() - started_s:.0f} s, seed {arguments.seed}")
        for code, count in codes.most_common():
            print(f"{count:9}  {code}")


if __name__ == "__main__":
    main()
