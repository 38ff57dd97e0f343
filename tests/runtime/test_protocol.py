"""Messages, queues and pools without a daemon, and a short run of the fuzzer with one."""

import os
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_protocol
import pytest
from daemon_helpers import PATIENCE_S, memfd, scripted, wait_for

from piqi_runtime.daemon import protocol
from piqi_runtime.daemon.loop import Loop
from piqi_runtime.daemon.pools import Pool
from piqi_runtime.daemon.protocol import ProtocolError
from piqi_runtime.daemon.queue import FairQueue
from piqi_runtime.daemon.runner import Runner
from piqi_runtime.daemon.session import Allowance, Session

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Item:
    name: str
    latest: bool = False


def names(queue: FairQueue[str, Item], count: int) -> list[str]:
    result = []
    for _ in range(count):
        popped = queue.pop()
        assert popped is not None
        result.append(popped[1].name)
    return result


def test_clients_in_turn_each_in_order() -> None:
    queue: FairQueue[str, Item] = FairQueue()
    for client, count in (("a", 4), ("b", 2), ("c", 1)):
        for i in range(count):
            assert queue.push(client, Item(f"{client}{i}")).accepted
    assert len(queue) == 7
    assert names(queue, 7) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert len(queue) == 0


def test_latest_takes_the_place_of_latest_only() -> None:
    queue: FairQueue[str, Item] = FairQueue()
    queue.push("a", Item("a0"))
    assert queue.push("a", Item("a1", True)).dropped is None
    assert queue.push("a", Item("a2", True)).dropped == Item("a1", True)
    assert queue.push("b", Item("b0", True)).dropped is None
    assert names(queue, 3) == ["a0", "b0", "a2"]


def test_bounds() -> None:
    queue: FairQueue[str, Item] = FairQueue(per_client=2, total=3)
    assert [queue.push("a", Item("x")).full for _ in range(2)] == [False, True]
    assert queue.is_full("a") and not queue.is_full("b")
    assert not queue.push("a", Item("x")).accepted
    assert queue.push("b", Item("y")).accepted
    assert not queue.push("c", Item("z")).accepted
    assert queue.remove("a") == [Item("x")] * 2 and len(queue) == 1
    assert queue.take_all() == [("b", Item("y"))]
    queue.close()
    assert not queue.push("a", Item("x")).accepted and queue.pop() is None


def test_pop_waits_and_can_be_interrupted() -> None:
    queue: FairQueue[str, Item] = FairQueue(per_client=10_000, total=100_000)
    got: list[str | None] = []

    def take() -> None:
        while True:
            popped = queue.pop()
            got.append(popped[1].name if popped else None)
            if queue.finished:
                return

    thread = threading.Thread(target=take)
    thread.start()
    pushers = [
        threading.Thread(target=lambda k=k: [queue.push(f"c{k}", Item(f"{k}:{i}")) for i in range(2000)])  # type: ignore[misc]
        for k in range(4)
    ]
    for each in pushers:
        each.start()
    for each in pushers:
        each.join()
    assert wait_for(lambda: queue.idle)
    queue.interrupt()
    assert wait_for(lambda: None in got)
    queue.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and queue.idle
    for k in range(4):
        assert [name for name in got if name and name.startswith(f"{k}:")] == [f"{k}:{i}" for i in range(2000)]


def test_what_waits_is_popped_though_it_is_interrupted_and_closed() -> None:
    queue: FairQueue[str, Item] = FairQueue()
    queue.push("a", Item("x"))
    queue.interrupt()
    queue.close()
    assert queue.pop() is None and not queue.finished
    assert names(queue, 1) == ["x"] and not queue.finished
    assert queue.pop() is None and queue.finished and queue.idle


def test_at_the_end_a_request_waits_or_runs() -> None:
    """Whether or not the thread that popped it has begun."""
    queue: FairQueue[Any, Any] = FairQueue()
    runner = Runner("net", None, queue)  # type: ignore[arg-type]
    for name in "xyz":
        queue.push("a", Item(name))
    queue.pop()
    assert [item.name for item in runner.take_all()] == ["x", "y", "z"]
    assert runner.take_all() == []


def test_a_queue_that_is_full_again_keeps_its_client_back() -> None:
    """Though the thread that took from it tells so late."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        buffer = memoryview(bytearray(10))
        session = Session(1, near, Loop(), Allowance(1, 1), buffer, lambda *_: None, lambda _: None)
        queue: FairQueue[Session, Item] = FairQueue(per_client=1)
        far.send(b"more")
        queue.push(session, Item("x"))
        queue.pop()
        queue.push(session, Item("y"))
        for _ in range(2):
            session.look_at("net", queue)
            assert not session.read()
        queue.pop()
        session.look_at("net", queue)
        assert session.read()


def test_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    allowance = Allowance(rate=10, burst=4)
    assert [allowance.spend() for _ in range(4)] == [0.0] * 4
    assert allowance.spend() == pytest.approx(0.2)  # until one and a bit of them is back
    now[0] += 0.2
    assert allowance.spend() == 0.0
    now[0] += 100
    assert [allowance.spend() for _ in range(4)] == [0.0] * 4


def test_pool_bounds() -> None:
    descriptor = memfd(4096)
    pool = Pool(3, descriptor)
    os.close(descriptor)
    assert len(pool.read("x", 0, 4096)) == 4096 and len(pool.read("x", 4096, 0)) == 0
    for offset, size in ((0, 4097), (1, 4096), (4096, 1), (-1, 1), (1 << 80, 1), (0, 1 << 80)):
        with pytest.raises(ProtocolError, match="pool 3, which has 4096") as caught:
            pool.read("x", offset, size)
        assert caught.value.code == "bad_pool"


def test_replies_that_do_not_fit() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.ok(1, text="x" * protocol.MAX_MESSAGE_BYTES)
    assert caught.value.code == "too_large"
    assert len(protocol.error(1, "internal", "x" * 100_000)) < protocol.MAX_MESSAGE_BYTES
    assert protocol.decode(protocol.ok("\ud800"))["ok"] is True


def test_the_document_lists_every_code_and_operation() -> None:
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    operations = ("hello", "models", "points", "pool", "pool_close", "infer", "limits", "policy", "status", "subscribe")
    for word in (*protocol.CODES, *protocol.EVENTS, *operations, "stats"):
        assert f"`{word}`" in text, word
    for number in (protocol.MAX_MESSAGE_BYTES, protocol.MAX_SIDE):
        assert f"{number:,}" in text


def test_mutations_are_reproducible() -> None:
    import random

    rngs = random.Random(7), random.Random(7)
    first, second = ([fuzz_protocol.mutated(rng, i) for i in range(50)] for rng in rngs)
    assert first == second and len(set(first)) > 40


def test_fuzzed(tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle, **fuzz_protocol.CONFIG) as process:
        codes: Counter[str] = fuzz_protocol.fuzz(process, 15_000, seed=20261121)
    seen = {"ok", "bad_message", "bad_argument", "bad_pool", "unknown_op", "unsealed_pool", "too_many_descriptors"}
    assert seen <= codes.keys()
