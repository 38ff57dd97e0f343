"""What the executor's benchmarks share: the network, its peer, interleaved timing, tables."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native as pn
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers
from piqi_runtime.model import Model
from piqi_runtime.report import SubGraphTimes

Array = npt.NDArray[Any]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def parser(text: str, rounds: int) -> argparse.ArgumentParser:
    """Options that all of them have; `text`: the script's docstring."""
    result = argparse.ArgumentParser(description=text.splitlines()[0])
    result.add_argument("--model", type=Path, default=DATA / "models" / "mobilenet_v1_0.75_224.tflite")
    result.add_argument("--rounds", type=int, default=rounds, help="interleaved repetitions (%(default)s)")
    return result


def mobilenet(path: Path) -> Path:
    """`path`, or where that is missing a MobileNet of the same shape with random weights, with a note."""
    if path.exists():
        return path
    from piqi_planner.zoo import build_tflite

    print(f"{path} is missing: a MobileNetV1 of the same shape with random weights in its place")
    made = Path(tempfile.mkdtemp()) / "mobilenet.tflite"
    made.write_bytes(build_tflite("mobilenet_v1", 224, 0.75))
    return made


def load(path: Path, mode: str = "block") -> Model:
    """The network with its layers assigned."""
    return assign_layers(import_model(path), mode)


def frame(model: Model) -> dict[str, Array]:
    """Noise for every input."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-1, 1, model.tensors[name].shape).astype(np.float32) for name in model.inputs}


def litert(path: Path, inputs: Mapping[str, Array], threads: int) -> Callable[[], object]:
    """Copies the inputs in, runs LiteRT's interpreter (XNNPACK delegate) and copies the first output out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    details = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    output = interpreter.get_output_details()[0]["index"]

    def run() -> object:
        for name, array in inputs.items():
            interpreter.set_tensor(details[name], array)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def board(processors: Mapping[str, Sequence[int]], threads: int = 1) -> pn.Board:
    """CPU processors on the CPUs given."""
    return pn.Board("bench", [pn.Processor(x, "cpu", "xnnpack", cpus, threads) for x, cpus in processors.items()])


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, block: int = 5) -> dict[str, Array]:
    """Milliseconds of each call: blocks of `block` in turn, after one block each to warm up.

    What disturbs the machine disturbs all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            for _ in range(block):
                started = time.perf_counter_ns()
                call()
                if turn:
                    times[name].append((time.perf_counter_ns() - started) / 1e6)
    return {name: np.array(values) for name, values in times.items()}


class FrameTimes:
    """The executor's own record of its last frames, in microseconds."""

    def __init__(self, executor: pn.GraphExecutor) -> None:
        times = executor.times()
        frames, self._rows = times["frames"], times["sub_graphs"]
        self._receivers = [len(names) for names in executor.receivers]
        count = min([len(frames), *(len(rows) for rows in self._rows)])
        self._rows = [rows[-count:] for rows in self._rows]
        self.latency: Array = np.diff(frames[-count:], axis=1)[:, 0] / 1e3
        steps = [SubGraphTimes.of(rows, n).steps for rows, n in zip(self._rows, self._receivers, strict=True)]
        self.kernels: Array = sum((s[:, :, 3].sum(axis=1) for s in steps), np.zeros(count)) / 1e3
        self.layers: Array = sum(((s[:, :, 2] - s[:, :, 1]).sum(axis=1) for s in steps), np.zeros(count)) / 1e3

    @property
    def hand_overs(self) -> Array:
        """From the last sender's publishing to the sub-graph having all of its inputs, one row a sub-graph."""
        result = []
        for rows, n in zip(self._rows, self._receivers, strict=True):
            arrivals = rows[:, : 3 * n].reshape(len(rows), n, 3)
            result.append((arrivals[:, -1, 1] - arrivals[:, :, 0].max(axis=1)) / 1e3)
        return np.array(result)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """First column to the left, the others to the right."""
    cells = [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in [list(head), *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))


def machine() -> str:
    """How many CPUs this process may use, and how busy they are."""
    return f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}"
