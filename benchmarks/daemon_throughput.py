"""Throughput with 8 clients beside one client's, and with a hostile ninth, on the same model.

The model is a real one, convolutions on the executor; each client keeps two frames
under way. Rounds alternate, so that what else the machine does hits all alike. Peer: one client's rate. Clients have
the first half of the CPUs, the model the second: who gets a CPU that both want is the kernel's doing, not the daemon's.
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
import time
from pathlib import Path

import numpy as np
from _daemon import daemon

from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.client import Client
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

SHAPE = (1, 56, 56, 32)
HOSTILE = ("garbage", "flood of frames", "never reads", "comes and goes")


def write_network(folder: Path, layers: int) -> None:
    """Convolutions of 56 x 56 x 32 in a row, on the big processor: some milliseconds."""
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": Tensor(f"t{i}", SHAPE) for i in range(layers + 1)}
    operators = []
    for i in range(layers):
        weights = rng.normal(0, 0.05, (32, 3, 3, 32)).astype(np.float32)
        tensors[f"w{i}"] = Tensor(f"w{i}", weights.shape, data=weights)
        tensors[f"b{i}"] = Tensor(f"b{i}", (32,), data=np.zeros(32, np.float32))
        attributes = {"pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
        operators.append(Operator("conv2d", f"c{i}", (f"t{i}", f"w{i}", f"b{i}"), (f"t{i + 1}",), attributes, i))
    point = OperatingPoint(
        order="B" * layers, freqs=" ".join(["0"] * layers), latency_ms=4.0, power_mw=5000.0, energy_mj=20.0, accuracy=70
    )
    write_bundle(
        folder,
        model=Model("net", tensors, tuple(operators), ("t0",), (f"t{layers}",)),
        table=ParetoTable(
            board="host",
            model="net",
            layers=TableLayers(count=layers, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=(point,),
        ),
        partitions=(),
        input=BundleInput(name="t0", shape=SHAPE, preprocessing="raw", fit="exact", colour=None),
        outputs=[BundleOutput(name=f"t{layers}", shape=SHAPE)],
    )


def stream(path: str, seconds: float) -> None:
    """A client: two frames under way for so long; prints how many came back."""
    frame = np.zeros(SHAPE, np.float32)
    with Client(path) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        end_s = time.monotonic() + seconds
        waiting = [client.submit(frame, outputs=False) for _ in range(2)]
        done = 0
        while time.monotonic() < end_s:
            client.receive(waiting.pop(0))
            done += 1
            waiting.append(client.submit(frame, outputs=False))
        print(json.dumps(done))


def annoy(path: str, kind: str) -> None:
    """The hostile one, until it is killed."""
    print("ready", flush=True)
    message = b"garbage"
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(path)
            if kind == "flood of frames":
                data = {"data": "AAAA", "dtype": "uint8", "shape": [1, 1, 3]}
                message = json.dumps({"id": 1, "op": "infer", "input": data, "queue": "latest"}).encode()
            elif kind == "never reads":
                message = b'{"id": 1, "op": "models"}'
            while kind != "comes and goes":
                connection.send(message)
                if kind != "never reads":
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            connection.recv(65536, socket.MSG_DONTWAIT)


def start(path: str, *arguments: str) -> subprocess.Popen[str]:
    """A client's process, ready to begin."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, "--as", *arguments, "--socket", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def measure(path: str, clients: int, seconds: float, hostile: str | None) -> tuple[float, list[int]]:
    """Frames a second of all clients, and each one's frames."""
    enemy = start(path, "annoy", hostile) if hostile else None
    processes = [start(path, "stream", str(seconds)) for _ in range(clients)]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(process.communicate()[0]) for process in processes]
    finally:
        if enemy:
            enemy.kill()
            enemy.wait()
    return sum(counts) / seconds, counts


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="a round of each row (%(default)s)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--as", dest="role", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[: max(1, len(cpus) // 2)])  # not where the model's processor is
        role, value = arguments.role
        stream(arguments.socket, float(value)) if role == "stream" else annoy(arguments.socket, value)
        return
    rows: dict[str, tuple[int, str | None]] = {"1 client": (1, None), "8 clients": (8, None)}
    rows |= {f"8 clients and one: {kind}": (8, kind) for kind in HOSTILE}
    rates: dict[str, list[float]] = {name: [] for name in rows}
    spread = 0.0
    with tempfile.TemporaryDirectory() as folder:
        bundle, path = Path(folder) / "net", f"{folder}/piqid.sock"
        write_network(bundle, arguments.layers)
        config = Path(folder) / "daemon.toml"
        config.write_text('root = ""\n')
        options = ["--config", str(config), "--bundle", str(bundle), "--board", "host", "--socket", path]
        with daemon(["-m", "piqi_runtime.daemon.main", *options], path):
            for _ in range(arguments.rounds):
                for name, (clients, hostile) in rows.items():
                    rate, counts = measure(path, clients, arguments.seconds, hostile)
                    rates[name].append(rate)
                    spread = max(spread, (max(counts) - min(counts)) / max(counts)) if clients > 1 else spread
    print(f"{'frames/s of the good clients':38} {'median':>8} {'min':>8} {'max':>8} {'to the first':>13}")
    base = float(np.median(rates["1 client"]))
    for name, values in rates.items():
        # Of each round on its own: the machine changes slower than a round takes.
        change = float(np.median(np.array(values) / np.array(rates["1 client"]))) - 1
        print(f"{name:38} {np.median(values):8.1f} {min(values):8.1f} {max(values):8.1f} {100 * change:+12.1f} %")
    print(f"fairness: the least served of 8 had at most {100 * spread:.1f} % less than the most served")
    print(f"wanted: within 5 % of one client's rate ({base:.1f})")


if __name__ == "__main__":
    main()
