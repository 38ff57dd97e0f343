"""Uncut latency of MobileNet: the interpreter and the executor beside LiteRT's interpreter (XNNPACK delegate).

python benchmarks/executor_latency.py [--model FILE] [--rounds N] [--operators]

Wanted: at most 1.15 times LiteRT's latency with as many threads. The second table says where the time goes; with
``--operators`` the third runs each operator of the network alone, in LiteRT and here.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _executor import Array, board, frame, interleaved, litert, load, machine, mobilenet, parser, table

import piqi_native as pn
from piqi_planner.importer import import_model
from piqi_runtime.model import Model, Operator
from piqi_runtime.report import SubGraphTimes

WANTED = 1.15


def executor(model: Model, threads: int) -> pn.GraphExecutor:
    """The whole network on one processor."""
    on = board({"L": list(range(threads))}, threads)
    manager = pn.GraphManager(model.to_graph(), on)
    return pn.GraphExecutor(manager, pn.Plan(on, model.layer_count, "L" * model.layer_count), measure_kernels=True)


def by_kind(model: Model, times: pn.Times, executor: pn.GraphExecutor) -> dict[str, float]:
    """Median milliseconds of each kind of layer (named by its operators)."""
    (rows,) = times["sub_graphs"]
    steps = SubGraphTimes.of(rows, len(executor.receivers[0])).steps
    kinds: dict[str, float] = defaultdict(float)
    for layer in range(model.layer_count):
        names = [op.kind for op in model.operators if op.layer == layer]
        kinds[names[0]] += float(np.median(steps[:, layer, 3])) / 1e6
    return kinds


def alone(model: Model, op: Operator) -> tuple[bytes, str]:
    """A `.tflite` of one convolution like `op`, and what to call it."""
    import tensorflow as tf

    from piqi_planner.importer.keras import to_tflite

    x, w = model.tensors[op.inputs[0]].shape, model.tensors[op.inputs[1]].shape
    stride = op.attributes.get("stride_height", 1)
    inputs = tf.keras.Input(x[1:], batch_size=1)
    relu = tf.keras.layers.ReLU(6.0)
    if op.kind == "depthwise_conv2d":
        layer = tf.keras.layers.DepthwiseConv2D(w[1], stride, "same")
    else:
        layer = tf.keras.layers.Conv2D(w[0], w[1], stride, "same")
    kind = "1x1" if w[1] == 1 else f"{'depthwise ' if op.kind.startswith('depth') else ''}{w[1]}x{w[1]}/{stride}"
    return to_tflite(
        tf.keras.Model(inputs, relu(layer(inputs)))
    ), f"{kind} {x[1]}x{x[2]}x{x[3]}->{w[0] if w[0] > 1 else w[3]}"


def operators(model: Model, rounds: int) -> list[list[object]]:
    """Each distinct convolution alone: its count, LiteRT's and our microseconds, their ratio and share."""
    found: dict[tuple[Any, ...], tuple[Operator, int]] = {}
    for op in model.operators:
        if op.kind in ("conv2d", "depthwise_conv2d"):
            shapes = tuple(model.tensors[name].shape for name in (*op.inputs, *op.outputs))
            first, count = found.get((op.kind, *shapes), (op, 0))
            found[(op.kind, *shapes)] = first, count + 1
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for op, count in found.values():
            data, name = alone(model, op)
            path = Path(folder) / "one.tflite"
            path.write_bytes(data)
            single = import_model(path)
            inputs = frame(single)
            interpreter = pn.Interpreter(single.to_graph(), 1)

            def ours(i: pn.Interpreter = interpreter, x: dict[str, Array] = inputs) -> object:
                return i.run(x)

            times = interleaved({"LiteRT": litert(path, inputs, 1), "ours": ours}, rounds, 10)
            theirs_us, ours_us = (1e3 * float(np.median(times[who])) for who in ("LiteRT", "ours"))
            rows.append([name, count, theirs_us, ours_us, ours_us / theirs_us, count * (ours_us - theirs_us)])
    return rows


def main() -> None:
    """Prints the tables."""
    options = parser(__doc__, 40)
    options.add_argument("--operators", action="store_true", help="also each operator alone (needs tensorflow)")
    arguments = options.parse_args()
    path = mobilenet(arguments.model)
    model = load(path)
    inputs = frame(model)
    rows: list[list[object]] = []
    print(f"{path.stem}, {machine()}\n")
    for threads in (1, 2):
        interpreter = pn.Interpreter(model.to_graph(), threads)
        whole = executor(model, threads)
        calls: dict[str, Callable[[], object]] = {
            "LiteRT": litert(path, inputs, threads),
            "interpreter": lambda interpreter=interpreter: interpreter.run(inputs),
            "executor": lambda whole=whole: whole.run(inputs),
        }
        times = interleaved(calls, arguments.rounds)
        reference = np.median(times["LiteRT"])
        for name, values in times.items():
            ratio = float(np.median(values) / reference)
            rows.append([name, threads, float(np.median(values)), float(np.percentile(values, 10)), ratio])
        whole.close()
    table(["", "threads", "median ms", "10 % ms", "ratio"], rows)
    print(f"wanted: at most {WANTED:.2f}\n")

    conv = load(path, "conv")
    layers = executor(conv, 1)
    for _ in range(5 * arguments.rounds):
        layers.run(inputs)
    kinds = by_kind(conv, layers.times(), layers)
    total = sum(kinds.values())
    table(["kernels of", "ms", "part"], [[k, v, f"{100 * v / total:.0f} %"] for k, v in kinds.items()])
    if arguments.operators:
        print()
        rows = operators(model, arguments.rounds // 4 + 1)
        table(["alone", "count", "LiteRT us", "ours us", "ratio", "more us a frame"], rows)


if __name__ == "__main__":
    main()
