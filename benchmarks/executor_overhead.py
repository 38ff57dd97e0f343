"""What the executor itself costs: time outside of the kernels, and the price of changing the processor.

python benchmarks/executor_overhead.py [--model FILE] [--rounds N]

Overhead: a frame's latency less the time inside its kernels (wanted: at most 2 %). A switch: the latency outside of the
kernels that each further sub-graph adds (wanted: at most 30 us besides its copy at 3 GB/s; the tensors that cross are
handed over in place, so there is no copy). `hand-over` is from the sender's publishing to the receiver having it.
`apart`: processors on CPUs 0 and 1; `together`: both on CPU 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _executor import FrameTimes, board, frame, interleaved, load, machine, mobilenet, parser, table

import piqi_native as pn

WANTED_PART, WANTED_SWITCH_US = 0.02, 30


def main() -> None:
    """Prints the tables."""
    arguments = parser(__doc__, 15).parse_args()
    path = mobilenet(arguments.model)
    model = load(path)
    count = model.layer_count
    inputs = frame(model)
    orders = {"uncut": "L" * count, "1 switch": "L" * (count // 2) + "B" * (count - count // 2)}
    orders["3 switches"] = ("LLLLBBBB" * count)[: count - 2] + "LL"
    orders[f"{count - 1} switches"] = ("LB" * count)[:count]
    boards = {"apart": board({"L": [0], "B": [1]}), "together": board({"L": [0], "B": [0]})}
    executors = {
        (place, name): pn.GraphExecutor(manager, pn.Plan(on, count, order), measure_kernels=True)
        for place, on, manager in ((p, b, pn.GraphManager(model.to_graph(), b)) for p, b in boards.items())
        for name, order in orders.items()
    }
    calls: dict[str, Callable[[], object]] = {
        f"{place}, {name}": lambda executor=executor: executor.run(inputs)
        for (place, name), executor in executors.items()
    }
    interleaved(calls, arguments.rounds, 20)
    rows: list[list[object]] = []
    base: dict[str, float] = {}
    for (place, name), executor in executors.items():
        times = FrameTimes(executor)
        rest = times.latency - times.kernels
        switches = len(executor.sub_graphs) - 1
        middle = float(np.median(rest))
        base.setdefault(place, middle)
        row: list[object] = [f"{place}, {name}", float(np.median(times.latency)) / 1e3]
        row += [middle, float(np.percentile(rest, 10)), f"{100 * middle / float(np.median(times.kernels)):.1f} %"]
        row += [(middle - base[place]) / switches if switches else "", ""]
        if switches:
            row[-1] = "{:.1f} / {:.1f}".format(*np.percentile(times.hand_overs[1:], [10, 50]))
        rows.append(row)
    print(f"{path.stem}, {machine()}\n")
    head = ["", "latency ms", "not kernels us", "10 %", "part", "a switch us", "hand-over us (10 %, median)"]
    table(head, rows)
    print(f"wanted: uncut at most {100 * WANTED_PART:.0f} %, a switch at most {WANTED_SWITCH_US} us")


if __name__ == "__main__":
    main()
