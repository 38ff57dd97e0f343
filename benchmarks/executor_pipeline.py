"""Throughput of a pipeline of two balanced halves on two CPUs, beside switching mode and a pipeline of LiteRTs.

python benchmarks/executor_pipeline.py [--model FILE] [--rounds N] [--frames N]

Wanted: at least 1.7 times the frames a second of switching mode with the same cut. `two copies` runs whole frames on
both CPUs at once, which is what the machine can give at best; LiteRT's pipeline is two interpreters of whole networks
in threads, a frame each in turn, for want of a cut network.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _executor import FrameTimes, board, frame, litert, load, machine, mobilenet, parser, table

import piqi_native as pn
from piqi_runtime.model import Model
from piqi_runtime.report import SubGraphTimes

WANTED = 1.7


def balanced_cut(model: Model, on: pn.Board, manager: pn.GraphManager, inputs: dict[str, np.ndarray]) -> int:
    """The cut whose slower half is the fastest, by the times of the layers of an uncut run."""
    executor = pn.GraphExecutor(manager, pn.Plan(on, model.layer_count, "L" * model.layer_count))
    for _ in range(30):
        executor.run(inputs)
    (rows,) = executor.times()["sub_graphs"]
    steps = SubGraphTimes.of(rows, len(executor.receivers[0])).steps
    layers = np.median(steps[:, :, 2] - steps[:, :, 1], axis=0)
    executor.close()
    halves = [max(layers[:cut].sum(), layers[cut:].sum()) for cut in range(1, len(layers))]
    return 1 + int(np.argmin(halves))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    options = parser(__doc__, 15)
    options.add_argument("--frames", type=int, default=30, help="frames a repetition (%(default)s)")
    arguments = options.parse_args()
    path = mobilenet(arguments.model)
    model = load(path, "conv")
    inputs = frame(model)
    on = board({"L": [0], "B": [1]})
    manager = pn.GraphManager(model.to_graph(), on)
    cut = balanced_cut(model, on, manager, inputs)
    plan = pn.Plan(on, model.layer_count, "L" * cut + "B" * (model.layer_count - cut))
    uncut = [pn.Plan(on, model.layer_count, letter * model.layer_count) for letter in "LB"]
    frames = arguments.frames

    switching = pn.GraphExecutor(manager, plan)
    pipelines = {n: pn.GraphExecutor(manager, plan, frames_in_flight=n) for n in (2, 3, 4)}
    # Of managers of their own: kernels that are shared are not run by two at once.
    copies = [pn.GraphExecutor(pn.GraphManager(model.to_graph(), on), one) for one in uncut]
    peers = [litert(path, inputs, 1) for _ in range(2)]
    pool = ThreadPoolExecutor(2)

    def stream(executor: pn.GraphExecutor, in_flight: int) -> None:
        feeder = threading.Thread(target=lambda: [executor.submit(inputs) for _ in range(frames)])
        feeder.start()
        for _ in range(frames):
            executor.receive()
        feeder.join()

    def repeat(run: Callable[[], object], count: int) -> None:
        for _ in range(count):
            run()

    def both(runs: list[Callable[[], object]]) -> None:
        list(pool.map(lambda run: repeat(run, frames // 2), runs))

    calls: dict[str, Callable[[], object]] = {"switching": lambda: repeat(lambda: switching.run(inputs), frames)}
    for n, executor in pipelines.items():
        calls[f"pipeline, {n} in flight"] = lambda executor=executor, n=n: stream(executor, n)
    calls["two copies"] = lambda: both([lambda c=c: c.run(inputs) for c in copies])
    calls["LiteRT, one"] = lambda: repeat(peers[0], frames)
    calls["LiteRT, two in threads"] = lambda: both(list(peers))
    for call in calls.values():
        call()
    switching.clear_times()
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            rates[name].append(frames / seconds(call))
    print(f"{path.stem}, cut before layer {cut} of {model.layer_count}, {machine()}\n")
    rows = []
    for name, values in rates.items():
        ratios = np.array(values) / np.array(rates["switching"])
        rows.append([name, float(np.median(values)), float(np.median(ratios)), float(np.max(ratios))])
    table(["", "frames/s", "ratio", "best"], rows)
    halves = FrameTimes(switching)
    print(f"switching: {np.median(halves.latency) / 1e3:.2f} ms, in layers {np.median(halves.layers) / 1e3:.2f} ms")
    print(f"wanted: pipeline at least {WANTED} of switching")


if __name__ == "__main__":
    main()
