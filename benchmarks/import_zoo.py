"""Every network of the zoo at full size: the imported network beside LiteRT, in results and in latency.

python benchmarks/import_zoo.py [--networks NAME ...] [--repeat N] [--threads N]

The difference is the largest over all outputs, as a part of the output's range (wanted: at most 1e-4). Latencies are
medians over runs of the two in turn, in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import piqi_native
from piqi_planner.importer import import_tflite
from piqi_planner.zoo import NETWORKS, build_tflite

LARGEST_DIFFERENCE = 1e-4


def measure(name: str, repeat: int, threads: int) -> tuple[str, bool]:
    """A line of the table, and whether the difference is small enough."""
    data = build_tflite(name)
    started = time.perf_counter()
    model = import_tflite(data, name)
    import_ms = 1e3 * (time.perf_counter() - started)
    ours = piqi_native.Interpreter(model.to_graph(), threads=threads)
    theirs = Interpreter(model_content=data, num_threads=threads)
    theirs.allocate_tensors()
    shape = model.tensors[model.inputs[0]].shape
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    theirs.set_tensor(theirs.get_input_details()[0]["index"], x)
    our_times, their_times = [], []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        outputs = ours.run({model.inputs[0]: x})
        our_times.append(1e3 * (time.perf_counter() - started))
        started = time.perf_counter()
        theirs.invoke()
        their_times.append(1e3 * (time.perf_counter() - started))
    difference = 0.0
    for output, detail in zip(model.outputs, theirs.get_output_details(), strict=True):
        expected = theirs.get_tensor(detail["index"])
        difference = max(difference, float(np.abs(outputs[output] - expected).max() / np.ptp(expected)))
    our_ms, their_ms = median(our_times[1:]), median(their_times[1:])
    line = (
        f"{name:20} {shape[1]:5} {len(data) / 1e6:8.1f} {import_ms:10.1f} {model.layer_count:7} {difference:11.1e} "
        f"{our_ms:9.2f} {their_ms:10.2f} {our_ms / their_ms:6.2f}"
    )
    return line, difference <= LARGEST_DIFFERENCE


def main() -> None:
    """Prints the table; fails if a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{'network':20} {'input':>5} {'file MB':>8} {'import ms':>10} {'layers':>7} {'difference':>11} "
        f"{'PiQi ms':>9} {'LiteRT ms':>10} {'ratio':>6}"
    )
    wrong = []
    for name in arguments.networks:
        line, good = measure(name, arguments.repeat, arguments.threads)
        print(line, flush=True)
        if not good:
            wrong.append(name)
    if wrong:
        raise SystemExit(f"more than {LARGEST_DIFFERENCE} from LiteRT: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
