"""What a layer costs before it runs: marking it for the power meter and asking for its frequency, when nothing changes.

python benchmarks/layer_overhead.py [--layers N] [--rounds N]

A chain of tiny layers with and without a governor and a marker, on a tree of files; wanted: both together at most 2 us
a layer. `frame`: the latency that each layer adds, next to an executor without; `before the layer`: the executor's own
record, from asking to the layer's begin (the clock's reading included). Beside it: one write of one byte to the same
file, which is what a marker cannot do without, and a request that does change the frequency (two files, read back).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _executor import Array, interleaved, machine, table

import piqi_native as pn
from piqi_runtime.marker import open_marker
from piqi_runtime.report import SubGraphTimes

WANTED_US = 2.0
KHZ = [408_000, 816_000, 1_416_000]


def make_tree(root: Path) -> None:
    """A cpufreq policy and a GPIO line's value."""
    policy = root / "policy0"
    policy.mkdir()
    (policy / "scaling_governor").write_text("schedutil\n")
    (policy / "scaling_setspeed").write_text("<unsupported>\n")
    (root / "value").write_text("0\n")


def make_board() -> pn.Board:
    """One CPU processor, with measured delays so that changes are judged."""
    size = len(KHZ)
    delays_us = [int(i != j) for i in range(size) for j in range(size)]
    return pn.Board("bench", [pn.Processor("L", "cpu", "xnnpack", [0], 1, "", KHZ, "policy0", delays_us)])


def chain(layers: int) -> pn.Graph:
    """tanh of four numbers, over and over."""
    graph = pn.Graph("chain")
    last = graph.add_tensor("x", [4], "float32")
    graph.add_input(last)
    for layer in range(layers):
        tensor = graph.add_tensor(f"a{layer}", [4], "float32")
        graph.add_operator("tanh", f"a{layer}", [last], [tensor], layer)
        last = tensor
    graph.add_output(last)
    graph.finish()
    return graph


def before_us(executor: pn.GraphExecutor) -> float:
    """Median time from asking for a layer's frequency to its begin."""
    (rows,) = executor.times()["sub_graphs"]
    steps: Array = SubGraphTimes.of(rows, 1).steps[:, 1:]
    return float(np.median(steps[:, :, 1] - steps[:, :, 0])) / 1e3


def write_us(path: Path, count: int = 20_000) -> float:
    """Median time of a write of one byte, less that of a loop without."""
    file = os.open(path, os.O_WRONLY)
    calls: list[Callable[[], object]] = [lambda: os.pwrite(file, b"1", 0), lambda: None]
    medians = []
    for call in calls:
        times = np.empty(count)
        for i in range(count):
            started = time.perf_counter_ns()
            call()
            times[i] = time.perf_counter_ns() - started
        medians.append(float(np.median(times)) / 1e3)
    os.close(file)
    return medians[0] - medians[1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=40, help="interleaved repetitions (%(default)s)")
    arguments = parser.parse_args()
    layers: int = arguments.layers
    shm = Path("/dev/shm")  # like sysfs, no disk behind it
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        root = Path(folder)
        make_tree(root)
        board = make_board()
        manager = pn.GraphManager(chain(layers), board)
        governor = pn.sysfs_governor(board, str(root))
        marker = open_marker(f"sysfs:{root}/value")
        same, changing = " ".join(["1"] * layers), " ".join(str(i % 2) for i in range(layers))
        plans = {name: pn.Plan(board, layers, "L" * layers, freqs) for name, freqs in (("", same), ("c", changing))}
        executors = {
            "neither": pn.GraphExecutor(manager, plans[""]),
            "null governor and marker": pn.GraphExecutor(
                manager, plans[""], governor=pn.null_governor(board), marker=pn.null_marker()
            ),
            "governor": pn.GraphExecutor(manager, plans[""], governor=governor),
            "marker": pn.GraphExecutor(manager, plans[""], marker=marker),
            "governor and marker": pn.GraphExecutor(manager, plans[""], governor=governor, marker=marker),
            "governor, every layer changes": pn.GraphExecutor(
                manager, plans["c"], frames_in_flight=2, governor=governor
            ),
        }
        inputs = {"x": np.zeros(4, np.float32)}
        calls: dict[str, Callable[[], object]] = {
            name: lambda executor=executor: executor.run(inputs) for name, executor in executors.items()
        }
        times = interleaved(calls, arguments.rounds, 20)
        base = float(np.median(times["neither"]))
        rows: list[list[object]] = []
        for name, executor in executors.items():
            frame_ms = float(np.median(times[name]))
            rows.append([name, frame_ms, (frame_ms - base) * 1e3 / layers, before_us(executor)])
        print(f"{layers} layers, {machine()}, files in {root.parent}\n")
        table(["", "frame ms", "frame us a layer", "before the layer us"], rows)
        print(f"\none write of one byte to the marker's file: {write_us(root / 'value'):.2f} us")
        cost = rows[list(executors).index("governor and marker")]
        print(f"wanted: governor and marker at most {WANTED_US:g} us a layer; {cost[2]:.2f} us")
        governor.restore()


if __name__ == "__main__":
    main()
