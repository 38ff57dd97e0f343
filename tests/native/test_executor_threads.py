"""Threads: the GIL is free while frames run, and executors of one manager do not disturb each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import piqi_native as pn


def heavy(networks: SimpleNamespace) -> tuple[pn.Graph, dict[str, np.ndarray]]:
    """A network that takes a few milliseconds a frame."""
    network = networks.Network()
    x = network.input("x", 1, 96, 96, 16)
    for i in range(4):
        x = network.conv(f"c{i}", x, 48, i)
    model = network.model(x)
    return model.to_graph(), networks.frame(model)


def ticks_while(call: object, seconds: float) -> tuple[int, int]:
    """Calls `call` for so long; how often it returned, and how often another Python thread got to run."""
    assert callable(call)
    stop = threading.Event()
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    calls, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        call()
        calls += 1
    stop.set()
    thread.join()
    return calls, ticks


def test_the_gil_is_released_while_a_frame_runs(networks: SimpleNamespace) -> None:
    graph, inputs = heavy(networks)
    board = networks.board("LB")
    manager = pn.GraphManager(graph, board)
    executor = pn.GraphExecutor(manager, pn.Plan(board, 4, "LLBB"))
    interpreter = pn.Interpreter(graph, 1)
    for call in (lambda: executor.run(inputs), lambda: interpreter.run(inputs)):
        calls, ticks = ticks_while(call, 0.5)
        # With the GIL held, the other thread could run between two calls only.
        assert ticks > 2 * calls, (calls, ticks)


def test_the_gil_is_released_while_waiting(networks: SimpleNamespace) -> None:
    board = networks.board("L")
    manager = pn.GraphManager(networks.chain("tanh", 1, 4).to_graph(), board)
    executor = pn.GraphExecutor(manager, pn.Plan(board, 1, "L"), timeout_s=60)
    began = threading.Event()

    def receive() -> None:
        began.set()
        executor.receive()

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        began.wait(60)
        for _ in range(50):
            time.sleep(0.0005)
        executor.close()
        # With the GIL held, nobody could have closed it before the time was over.
        with pytest.raises(pn.ClosedError):
            received.result()


def test_several_executors_at_once(networks: SimpleNamespace) -> None:
    model = networks.branched()
    graph = model.to_graph()
    board = networks.board("LBG", threads=2)
    manager = pn.GraphManager(graph, board)
    inputs = [networks.frame(model, seed) for seed in range(4)]
    interpreter = pn.Interpreter(graph, 1)
    expected = [interpreter.run(frame) for frame in inputs]
    orders = ["LLLLLLLL", "LBGLBGLB", "LBGLBGLB", "GGGGBBBB"]

    def work(i: int) -> int:
        executor = pn.GraphExecutor(manager, pn.Plan(board, 8, orders[i]), frames_in_flight=1 + i % 3)
        return sum(networks.same(executor.run(inputs[(i + n) % 4]), expected[(i + n) % 4]) for n in range(40))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [40] * 4
