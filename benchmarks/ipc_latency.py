"""What a request and its reply cost around a model that does nothing, beside gRPC and a plain copy over a socket.

A frame of 150,528 bytes; client and daemon are two processes. Ours passes it in the pool. Rounds of the peers
alternate, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _daemon import SHAPE, NullHost, null_daemon, percentiles, write_null_bundle

from piqi_runtime.bundle import load_bundle
from piqi_runtime.client import Client
from piqi_runtime.client.messages import FramePool
from piqi_runtime.daemon import inference, protocol
from piqi_runtime.daemon.pools import Pool
from piqi_runtime.daemon.queue import FairQueue
from piqi_runtime.daemon.runner import HostEvents, Runner, Serving

FRAME = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
DATA = FRAME.tobytes()


HAND_OVER = "from the main thread to the model's (half of there and back)"


def raw_call(path: str, stack: contextlib.ExitStack) -> Callable[[], object]:
    """The protocol by hand: the frame is in the pool, as a camera would put it there."""
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    connection.connect(path)
    pool = FramePool(len(DATA), 0)
    stack.callback(pool.close)
    socket.send_fds(connection, [b'{"id":0,"op":"pool"}'], [pool.descriptor])
    number = json.loads(connection.recv(65536))["pool"]
    pool.put(0, FRAME)
    message = json.dumps(
        {"id": 1, "op": "infer", "input": {"pool": number, "offset": 0, "format": "float32_raw"}, "queue": "latest"}
    ).encode()

    def call() -> object:
        connection.send(message)
        reply = json.loads(connection.recv(65536))
        if not reply["ok"]:
            raise SystemExit(f"refused: {reply}")
        return reply

    return call


def client_call(path: str, stack: contextlib.ExitStack) -> Callable[[], object]:
    """The Python client: copies the frame into the pool each time."""
    client = stack.enter_context(Client(path))
    return lambda: client.infer(FRAME, outputs=False)


def floor_call(path: str, stack: contextlib.ExitStack) -> Callable[[], object]:
    """A message there and back to a process that answers it as it is: what the kernel and two wake-ups take."""
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    connection.connect(path)

    def call() -> object:
        connection.send(b"x" * 128)
        return connection.recv(65536)

    return call


def copy_call(path: str, stack: contextlib.ExitStack) -> Callable[[], object]:
    """The frame itself through a stream socket, 1 byte back."""
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    connection.connect(path)

    def call() -> object:
        connection.sendall(DATA)
        return connection.recv(1)

    return call


def grpc_call(path: str, stack: contextlib.ExitStack) -> Callable[[], object]:
    """A unary gRPC call with the frame as its bytes."""
    import grpc

    channel = stack.enter_context(grpc.insecure_channel(f"unix:{path}"))
    method = channel.unary_unary("/piqi/infer")
    return lambda: method(DATA, wait_for_ready=True)


def serve(kind: str, path: str) -> None:
    """The peers' servers."""
    if kind == "grpc":
        import grpc

        handler = grpc.unary_unary_rpc_method_handler(lambda frame, context: b"{}" if len(frame) == len(DATA) else b"")
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("piqi", {"infer": handler}),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        server.wait_for_termination()
        return
    kind_of_socket = socket.SOCK_STREAM if kind == "copy" else socket.SOCK_SEQPACKET
    listener = socket.socket(socket.AF_UNIX, kind_of_socket)
    listener.bind(path)
    listener.listen()
    connection, _ = listener.accept()
    frame = memoryview(bytearray(len(DATA)))
    while True:
        if kind == "floor":
            message = connection.recv(65536)
            if not message:
                return
            connection.send(message)
            continue
        got = 0
        while got < len(frame):
            size = connection.recv_into(frame[got:])
            if not size:
                return
            got += size
        connection.send(b"x")


@contextlib.contextmanager
def peer(kind: str) -> Iterator[str]:
    """A peer's server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/peer.sock"
        process = subprocess.Popen([sys.executable, __file__, "--serve", kind, path])
        try:
            while not os.path.exists(path):
                time.sleep(0.02)
            time.sleep(0.2)
            yield path
        finally:
            process.terminate()
            process.wait(10)


def costs(folder: str) -> dict[str, float]:
    """Microseconds of the daemon's own steps, one by one, in this process."""
    write_null_bundle(Path(folder) / "null")
    bundle = load_bundle(Path(folder) / "null")
    memory = FramePool(len(DATA), 0)
    pool = Pool(0, memory.descriptor)
    memory.close()
    session: Any = SimpleNamespace(closed=False, find_pool=lambda number: pool)
    message = b'{"id": 1, "op": "infer", "input": {"pool": 0, "offset": 0, "format": "float32_raw"}, "queue": "latest"}'
    serving = Serving(bundle, NullHost(2), HostEvents())
    runner = Runner("null", serving, FairQueue())
    parsed = inference.parse(session, 1, protocol.decode(message))
    there: FairQueue[int, Any] = FairQueue()
    back: FairQueue[int, Any] = FairQueue()

    def echo() -> None:
        while (popped := there.pop()) is not None:
            back.push(0, popped[1])

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()

    def hand_over() -> None:
        there.push(0, parsed)
        back.pop()

    steps: dict[str, Callable[[], object]] = {
        "reading the message's JSON": lambda: protocol.decode(message),
        "checking its arguments": lambda: inference.parse(session, 1, {"input": {"pool": 0, "format": "float32_raw"}}),
        "the frame as a tensor, the null model, the reply's JSON": lambda: runner._serve(serving, parsed),
        HAND_OVER: hand_over,
    }
    result = {}
    for name, step in steps.items():
        times = []
        for _ in range(3000):
            started_s = time.perf_counter()
            step()
            times.append(time.perf_counter() - started_s)
        result[name] = float(np.median(times)) * 1e6 / (2 if step is hand_over else 1)
    there.close()
    thread.join()
    return result


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each peer, in turn (%(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="a round (%(default)s)")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    with contextlib.ExitStack() as stack:
        daemon_path, _ = stack.enter_context(null_daemon())
        calls: dict[str, Callable[[], object]] = {
            "piqid, frame in the pool": raw_call(daemon_path, stack),
            "piqid, Python client (copies into the pool)": client_call(daemon_path, stack),
            "gRPC over a Unix socket": grpc_call(stack.enter_context(peer("grpc")), stack),
            "copy over a stream socket": copy_call(stack.enter_context(peer("copy")), stack),
            "128 bytes there and back, two processes": floor_call(stack.enter_context(peer("floor")), stack),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for round_number in range(arguments.rounds + 1):  # the first warms up
            for name, call in calls.items():
                for _ in range(arguments.calls):
                    started_s = time.perf_counter()
                    call()
                    if round_number:
                        times[name].append(time.perf_counter() - started_s)
    print(f"{'request and reply, 150,528-byte frame':45} {'median':>9} {'p99':>9} {'max':>9}  us")
    for name, values in times.items():
        print(f"{name:45} {'{:9.1f} {:9.1f} {:9.1f}'.format(*percentiles(values))}")
    with tempfile.TemporaryDirectory() as folder:
        parts = costs(folder)
    floor = float(np.median(times["128 bytes there and back, two processes"])) * 1e6
    parts["the kernel and two wake-ups of processes (last row above)"] = floor
    total = float(np.median(times["piqid, frame in the pool"])) * 1e6
    hand_over_us = parts.pop(HAND_OVER)
    parts["the rest: epoll, the interpreter's lock, the client's JSON"] = total - sum(parts.values())
    print()
    for name, cost_us in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{name:62} {cost_us:7.1f}  us")
    print(f"{HAND_OVER:62} {hand_over_us:7.1f}  us, which models this short are spared")
    print("wanted: median <= 60 us, p99 <= 400 us for the first row")


if __name__ == "__main__":
    main()
