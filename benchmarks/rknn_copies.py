"""rknn2 without copies: MobileNet's bytes a frame, beside the copying calls of the same library and beside rknn1.

python benchmarks/rknn_copies.py [--model FILE]

Over the emulated libraries (tests/native/rknn_emulator); both sides count: the backend what it copies between channels
and library, the library what it copies inside. The channels' own conversion, float32 to int8 and back, is the same for
all and not counted. Wanted: 0 and 0 with zero copy, the same outputs everywhere.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from _executor import frame, load, mobilenet, parser, table

import piqi_native as pn
from piqi_planner.quantise import calibrate, quantise

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runtime"))
import rknn_helpers as emulated

ORDERS = ("NNNNNNNNNNNNNN", "LNNNNNNNNNNNNL", "LNLNLNLNLNLNLN")


def main() -> None:
    """Runs each order over each library and prints the table."""
    arguments = parser(__doc__ or "", 3).parse_args()
    model = load(mobilenet(arguments.model))
    inputs = frame(model)
    quantised = quantise(model, calibrate(model, [inputs]), "per_tensor")
    rows = []
    missed = False
    for order in ORDERS:
        order = (order * 2)[: model.layer_count]
        outputs = []
        for name, generation, zero_copy in (("rknn2", 2, True), ("rknn2, copying", 2, False), ("rknn1", 1, False)):
            library = str(emulated.emulator(generation))
            backend = pn.rknn2_backend(library, zero_copy=zero_copy) if generation == 2 else pn.rknn1_backend(library)
            processors = [
                pn.Processor("L", "cpu", "xnnpack", [0], 1),
                pn.Processor("N", "npu", "rknn", [0], 1, host="L"),
            ]
            board = pn.Board("bench", processors)
            manager = pn.GraphManager(quantised.float_model.to_graph(), board, {"rknn": backend})
            plan = pn.Plan(board, model.layer_count, order)
            target = emulated.TARGETS[generation]
            with tempfile.TemporaryDirectory() as folder:
                partitions = []
                for first, last in plan.npu_ranges:
                    part = quantised.partition(first, last)
                    file = emulated.write_network(part, Path(folder) / f"{first}-{last}.rknn", target)
                    partitions.append(replace(part, vendor_files={target: file}).to_native(target))
                executor = pn.GraphExecutor(manager, plan, partitions)
            before = emulated.counters(generation)["copied_bytes"]
            for _ in range(arguments.rounds):
                result = executor.run(inputs)
            inside = (emulated.counters(generation)["copied_bytes"] - before) // arguments.rounds
            outside = backend.copied_bytes // arguments.rounds
            outputs.append(b"".join(array.tobytes() for array in result.values()))
            missed |= zero_copy and (outside, inside) != (0, 0)
            rows.append((f"{order} {name}", len(re.findall("N+", order)), outside, inside, outputs[-1] == outputs[0]))
            executor.close()
    table(("", "partitions", "backend, bytes", "library, bytes", "same outputs"), rows)
    if missed or not all(row[-1] for row in rows):
        raise SystemExit("missed")


if __name__ == "__main__":
    main()
