"""A bundle with a convolution and a quantised partition, and the real daemon serving it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from daemon_helpers import PATIENCE_S, Connection, Process

from piqi_planner.quantise import calibrate, quantise
from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers


def write_net(folder: Path, gain: float = 1.0) -> Path:
    """A convolution that multiplies by `gain`, on B or, quantised, on N."""
    weights, bias = np.full((1, 1, 1, 1), gain, np.float32), np.zeros(1, np.float32)
    tensors = {
        "x": Tensor("x", (1, 2, 2, 1)),
        "w": Tensor("w", weights.shape, "float32", weights),
        "b": Tensor("b", bias.shape, "float32", bias),
        "y": Tensor("y", (1, 2, 2, 1)),
    }
    model = Model("net", tensors, (Operator("conv2d", "conv", ("x", "w", "b"), ("y",)),), ("x",), ("y",))
    frames = np.linspace(-4, 4, 16, dtype=np.float32).reshape(4, 2, 2, 1)
    points = [
        OperatingPoint(order=order, freqs="0", latency_ms=ms, power_mw=5e3, energy_mj=5 * ms, accuracy=accuracy)
        for order, ms, accuracy in (("N", 1.0, 69.0), ("B", 2.0, 70.0))
    ]
    write_bundle(
        folder,
        model=model,
        table=ParetoTable(
            board="host",
            model="net",
            layers=TableLayers(count=1, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=tuple(points),
        ),
        partitions=quantise(model, calibrate(model, [frames]), "per_channel").partition,
        input=BundleInput(name="x", shape=(1, 2, 2, 1), colour="grey"),
        outputs=[BundleOutput(name="y", shape=(1, 2, 2, 1))],
    )
    return folder


def command(folder: Path, *options: object, **config: Any) -> tuple[list[str], Path]:
    """The real command with these settings, and its socket."""
    path, settings = folder / "piqid", folder / "daemon.toml"
    values = {"root": "", "board": "host", "socket": str(path), "timeout_s": PATIENCE_S, **config}
    settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return ["-m", "piqi_runtime.daemon.main", "--config", str(settings), *map(str, options)], path


def start(folder: Path, *options: object, **config: Any) -> Process:
    return Process(*command(folder, *options, **config), folder / "log")


def refused(folder: Path, *options: object, **config: Any) -> str:
    """What a daemon says that does not start."""
    result = subprocess.run(
        [sys.executable, *command(folder, *options, **config)[0]], text=True, capture_output=True, timeout=PATIENCE_S
    )
    assert result.returncode == 1 and result.stdout == "" and "Traceback" not in result.stderr, result.stderr
    return result.stderr


def result(client: Connection) -> list[float]:
    """Of 1, 1, 2, 0."""
    reply = client.call(client.frame(0, 1, output={"pool": client.pool, "offset": 64}))
    assert reply["ok"], reply
    return [round(float(value), 1) for value in client.memory[16:20]]
