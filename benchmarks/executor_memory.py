"""Peak memory of MobileNet: one configuration, ten of them, and LiteRT, each in a process of its own.

python benchmarks/executor_memory.py [--model FILE]

`used` is the peak resident set less what the process had before it loaded the model, in MB. Wanted: at most 3 times the
network's weights and largest live activations, for one configuration and for ten (they share the weights).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _executor import load, mobilenet, parser, table

from piqi_runtime.model import Model

WANTED = 3.0
CONFIGURATIONS = ("executor, 1 configuration", "executor, 10 configurations", "interpreter", "LiteRT")


def resident_mb(peak: bool) -> float:
    """This process's resident set now, or at most so far."""
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def child(name: str, path: Path) -> None:
    """Loads and runs in this process; prints what it had before and at most."""
    import numpy as np
    from _executor import board, frame, litert

    import piqi_native as pn

    if name == "LiteRT":
        import ai_edge_litert.interpreter  # noqa: F401

        inputs = {load_input_name(path): np.zeros((1, 224, 224, 3), np.float32)}
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = resident_mb(peak=False)
        run = litert(path, inputs, 1)
        for _ in range(3):
            run()
    else:
        import piqi_planner.importer.flatfile as flatfile

        flatfile.schema()  # modules are loaded before the model is
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_mb(peak=False)
        model = load(path)
        inputs = frame(model)
        if name == "interpreter":
            interpreter = pn.Interpreter(model.to_graph(), 1)
            for _ in range(3):
                interpreter.run(inputs)
        else:
            on = board({"L": [0], "B": [1]})
            manager = pn.GraphManager(model.to_graph(), on)
            cuts = range(10 if "10" in name else 1)
            orders = ["L" * cut + "B" * (model.layer_count - cut) for cut in cuts]
            executors = [pn.GraphExecutor(manager, pn.Plan(on, model.layer_count, order)) for order in orders]
            for executor in executors * 3:
                executor.run(inputs)
    print(before, resident_mb(peak=True))


def load_input_name(path: Path) -> str:
    """The name of the file's first input, without keeping the model."""
    from ai_edge_litert.interpreter import Interpreter

    return str(Interpreter(model_path=str(path)).get_input_details()[0]["name"])


def needed_mb(model: Model) -> tuple[float, float]:
    """Weights, and the most that is alive at a time between operators."""
    weights = sum(t.size_bytes for t in model.tensors.values() if t.data is not None)
    last = {name: i for i, op in enumerate(model.operators) for name in op.inputs}
    alive, most = {name: model.tensors[name].size_bytes for name in model.inputs}, 0
    for i, op in enumerate(model.operators):
        alive |= {name: model.tensors[name].size_bytes for name in op.outputs}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > i or name in model.outputs}
    return weights / 2**20, most / 2**20


def main() -> None:
    """Prints the table."""
    options = parser(__doc__, 1)
    options.add_argument("--child", choices=CONFIGURATIONS, help="for this script's own use")
    arguments = options.parse_args()
    if arguments.child:
        child(arguments.child, arguments.model)
        return
    path = mobilenet(arguments.model)
    weights, activations = needed_mb(load(path))
    rows: list[list[object]] = []
    for name in CONFIGURATIONS:
        command = [sys.executable, __file__, "--model", str(path), "--child", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        before, peak = map(float, output.split()[-2:])
        rows.append([name, peak, peak - before, (peak - before) / (weights + activations)])
    print(f"{path.stem}: weights {weights:.1f} MB, activations {activations:.1f} MB\n")
    table(["", "peak MB", "used MB", "ratio"], rows)
    print(f"wanted: at most {WANTED:.0f}")


if __name__ == "__main__":
    main()
