"""Instructions of a frame: our sub-graphs on armcl_neon against the Arm Compute Library's own graph API, uncut.

Both run MobileNet v1 (float32, one thread) on arm64 under the same qemu, whose plugin counts instructions; time under
emulation would say little. What a frame takes is the difference between runs of few and of more frames. Needs what
`make test-arm64` makes, and a network there that was made of a published file; skipped otherwise.

    armcl_instructions.py [--network NAME] [--frames N]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from piqi_runtime.container import load_model
from piqi_runtime.model import Model

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/arm64"
SYSROOT = WORK / "root"
SOURCES = Path(__file__).parent / "armcl"
PACKAGES = ("qemu-user", "libcapstone4", "liburing2")  # Debian's static qemu takes no plugins
TARGET = 1.05

#: Runs frames on the executor, as an application does.
OURS = """
import sys
import numpy as np
import piqi_native as pn
from piqi_runtime.container import load_model
network, frame, output, order, frames = sys.argv[1:]
model = load_model(network)
cpus = [pn.Processor(letter, "cpu", "armcl_neon", [], 1) for letter in "AB"]
board = pn.Board("board", cpus)
manager = pn.GraphManager(model.to_graph(), board, {"armcl_neon": pn.armcl_neon_backend()})
order = order if len(order) > 1 else order * model.layer_count
executor = pn.GraphExecutor(manager, pn.Plan(board, model.layer_count, order))
inputs = {model.inputs[0]: np.fromfile(frame, np.float32).reshape(model.tensors[model.inputs[0]].shape)}
for _ in range(int(frames)):
    result = executor.run(inputs)
result[model.outputs[0]].tofile(output)
executor.close()
"""


def prepare_qemu(folder: Path) -> dict[str, str]:
    """The environment for a qemu that takes plugins: Debian's, unpacked into `folder`."""
    if not (folder / "usr/bin/qemu-aarch64").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "--quiet", *PACKAGES], cwd=folder, check=True, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder / "usr/lib/x86_64-linux-gnu")}


def describe(model: Model, folder: Path) -> None:
    """Writes the chain as graph.cpp reads it."""
    _, height, width, channels = model.tensors[model.inputs[0]].shape
    lines, weights, size = [f"input {channels} {width} {height}"], [], 0
    for op in model.operators:
        words: list[object] = [op.kind]
        if op.kind.endswith("conv2d"):
            values, bias = (model.tensors[name].data for name in op.inputs[1:3])
            assert values is not None and bias is not None
            p = op.attributes
            words += [values.shape[2], values.shape[1], bias.size, p["stride_width"], p["stride_height"]]
            words += [p["pad_left"], p["pad_right"], p["pad_top"], p["pad_bottom"], size, size + values.size]
            words += [int("clamp_max" in p)]
            weights += [values.ravel(), bias.ravel()]
            size += values.size + bias.size
        if op.kind == "reshape":
            words.append(model.tensors[op.outputs[0]].shape[-1])
        lines.append(" ".join(map(str, words)))
    (folder / "network.txt").write_text("\n".join(lines) + "\n")
    np.concatenate(weights).tofile(folder / "weights.bin")


def compile_all(folder: Path) -> None:
    """Compiles qemu's plugin and the graph program."""
    common = ["-std=c++17", "-O2", "-Wall"]
    plugin = ["g++", *common, "-shared", "-fPIC", "-o", folder / "counter.so", SOURCES / "instruction_counter.cpp"]
    graph = ["aarch64-linux-gnu-g++", *common, f"--sysroot={SYSROOT}", "-o", folder / "graph", SOURCES / "graph.cpp"]
    subprocess.run(plugin, check=True)
    subprocess.run([*graph, "-larm_compute_graph", "-larm_compute", "-larm_compute_core"], check=True)


class Counter:
    """Runs programs under qemu and counts."""

    def __init__(self, folder: Path) -> None:
        self.environment = prepare_qemu(WORK / "qemu")
        lib = SYSROOT / "usr/lib/aarch64-linux-gnu"
        path = ":".join(map(str, (lib, lib / "blas", lib / "lapack", SYSROOT / "lib/aarch64-linux-gnu")))
        qemu = WORK / "qemu/usr/bin/qemu-aarch64"
        plugin = ["-plugin", folder / "counter.so", "-d", "plugin"]
        self.command = [qemu, *plugin, "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={path}"]

    def count(self, *arguments: object) -> int:
        command = [str(argument) for argument in (*self.command, *arguments)]
        result = subprocess.run(command, env=self.environment, text=True, capture_output=True)
        counted = re.search(r"executed (\d+)", result.stderr)
        if result.returncode != 0 or counted is None:
            sys.exit(f"{arguments[0]} failed under qemu:\n{result.stdout}{result.stderr}")
        return int(counted[1])

    def a_frame(self, frames: int, *arguments: object) -> float:
        """Instructions of a frame once all is warm; the program's last argument is the number of frames."""
        few = self.count(*arguments, 2)
        return (self.count(*arguments, 2 + frames) - few) / frames


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="published", help="of build/arm64/networks (%(default)s)")
    parser.add_argument("--frames", type=int, default=2, help="counted (%(default)s)")
    arguments = parser.parse_args()
    network = WORK / f"networks/{arguments.network}.piqi"
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing or not network.is_file():
        print(f"skipped: {', '.join(missing) or network.relative_to(ROOT)} is missing (`make test-arm64` prepares it)")
        return
    model = load_model(network)
    with tempfile.TemporaryDirectory() as name, np.load(network.with_suffix(".npz")) as arrays:
        folder = Path(name)
        arrays["frame"].tofile(folder / "frame.bin")
        describe(model, folder)
        compile_all(folder)
        (folder / "ours.py").write_text(OURS)
        counter = Counter(folder)
        files = [folder / "network.txt", folder / "weights.bin", folder / "frame.bin", folder / "graph.bin"]
        peer = counter.a_frame(arguments.frames, folder / "graph", *files)
        python = ["-E", f"PYTHONHOME={SYSROOT / 'usr'}", "-E", "OPENBLAS_NUM_THREADS=1"]
        counter.command += [*python, "-E", f"PYTHONPATH={WORK / 'piqi'}:{WORK / 'python'}:{ROOT / 'runtime'}"]
        half = model.layer_count // 2
        ours = {}
        for label, order in (("uncut", "A"), ("cut in two", "A" * half + "B" * (model.layer_count - half))):
            run = [SYSROOT / "usr/bin/python3.11", folder / "ours.py", network, folder / "frame.bin"]
            ours[label] = counter.a_frame(arguments.frames, *run, folder / "ours.bin", order)
            off = np.abs(np.fromfile(folder / "ours.bin", np.float32) - np.fromfile(folder / "graph.bin", np.float32))
            print(f"{label}: output differs from the graph API's by {off.max():.1e}")
    print(f"\n{'a frame of ' + arguments.network:28}{'million instructions':>22}{'of the graph API':>18}")
    print(f"{'graph API of the library':28}{peer / 1e6:22.2f}{'':>18}")
    for label, value in ours.items():
        print(f"{'armcl_neon, ' + label:28}{value / 1e6:22.2f}{100 * value / peer:17.1f}%")
    if max(ours.values()) > TARGET * peer:
        sys.exit(f"above {100 * TARGET:.0f} %")


if __name__ == "__main__":
    main()
