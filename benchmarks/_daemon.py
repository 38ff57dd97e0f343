"""What the daemon's benchmarks share: a bundle, a daemon around a null or a real model in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.boards import load_board
from piqi_runtime.bundle import BundleInput, BundleOutput, load_bundle, write_bundle
from piqi_runtime.daemon import signals
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.listening import listen
from piqi_runtime.daemon.runner import HostEvents, Serving
from piqi_runtime.daemon.server import Server
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.policy.config import load_policy
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

Array = npt.NDArray[Any]
#: 150,528 bytes of float32, as many as a frame of 224 x 224 pixels has in uint8.
SHAPE = (1, 112, 112, 3)


def write_null_bundle(folder: Path, shape: tuple[int, int, int, int] = SHAPE) -> None:
    """A bundle of one layer that the host board can run, with two operating points."""
    points = tuple(
        OperatingPoint(
            order=order,
            freqs="0",
            latency_ms=latency_ms,
            power_mw=power_mw,
            energy_mj=latency_ms * power_mw / 1e3,
            accuracy=accuracy,
        )
        for order, latency_ms, power_mw, accuracy in (("B", 1.0, 5000.0, 70.0), ("L", 2.0, 3000.0, 69.0))
    )
    tensors = {name: Tensor(name, shape) for name in ("x", "y")}
    write_bundle(
        folder,
        model=Model("null", tensors, (Operator("clamp", "relu", ("x",), ("y",), {"clamp_min": 0.0}),), ("x",), ("y",)),
        table=ParetoTable(
            board="host",
            model="null",
            layers=TableLayers(count=1, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=points,
        ),
        partitions=(),
        input=BundleInput(name="x", shape=shape),
        outputs=[BundleOutput(name="y", shape=shape)],
    )  # fmt: skip


class NullResult:
    """What a null model gives: its input."""

    point, latency_us = 0, 0.0

    def __init__(self, outputs: dict[str, Array]) -> None:
        self.outputs = outputs


class NullHost:
    """A host whose `run` returns at once, or after `sleep_s`."""

    current, cpus_alone = 0, True

    def __init__(self, points: int, sleep_s: float = 0.0) -> None:
        self.latency_factor = self.power_factor = np.ones(points, np.float32)
        self.excluded = np.zeros(points, np.bool_)
        self._sleep_s = sleep_s

    def request(self, point: int) -> bool:
        return True

    def run(self, frame: Array) -> NullResult:
        if self._sleep_s:
            time.sleep(self._sleep_s)
        return NullResult({"y": frame})

    def status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def serve_null(path: str, bundle: Path, sleep_s: float = 0.0) -> None:
    """A daemon around a null model, until SIGTERM."""
    signals.hold()
    sys.setswitchinterval(0.0005)
    loaded = load_bundle(bundle)
    host = NullHost(len(loaded.table.points), sleep_s)
    servings = {"null": Serving(loaded, host, HostEvents())}
    server = Server(DaemonConfig(root=""), load_board("host"), load_policy("default"), listen(path), servings)
    signals.deliver(lambda _: server.loop.call_soon(server.stop))
    server.run()


@contextlib.contextmanager
def daemon(command: Sequence[str], path: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a daemon until the block ends; yields as soon as it listens."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 30
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                if probe.connect_ex(path) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"the daemon did not start: {' '.join(command)}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def null_daemon(sleep_s: float = 0.0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A daemon around a null model: its socket and its process."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, path = Path(folder) / "null", f"{folder}/piqid.sock"
        write_null_bundle(bundle)
        with daemon([__file__, path, str(bundle), str(sleep_s)], path) as process:
            yield path, process


def percentiles(values_s: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and greatest in microseconds."""
    array = np.asarray(values_s) * 1e6
    return float(np.median(array)), float(np.percentile(array, 99)), float(array.max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("sleep_s", type=float)
    arguments = parser.parse_args()
    serve_null(arguments.socket, arguments.bundle, arguments.sleep_s)
