"""Whole networks on the Arm Compute Library: LiteRT's outputs, any cut, the emulated NPU beside it, two clusters.

Runs on arm64 only. PIQI_NETWORKS names the folder that prepare_networks.py filled.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import piqi_native as pn
from piqi_runtime.container import load_model
from piqi_runtime.model import Model
from piqi_runtime.partition import Partition

FOLDER = Path(os.environ.get("PIQI_NETWORKS", "."))
TOLERANCE = 1e-4  # of the output's range
SMALL = ("mobilenet_v1", "mobilenet_v2")


class Network:
    """One of the prepared networks on L (XNNPACK), A and B (the library; CPUs 0 and 1) and N (the emulated NPU)."""

    def __init__(self, name: str) -> None:
        path = FOLDER / f"{name}.piqi"
        if not path.is_file():
            pytest.skip(f"{path.name} was not prepared")
        self.model: Model = load_model(path)
        self.layers = self.model.layer_count
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.frame, self.litert = arrays["frame"], arrays["litert"]
        self.partitions = {}
        for file in FOLDER.glob(f"{name}-*.piqi"):
            partition = Partition.load(file, self.model).to_native()
            self.partitions[partition.first_layer, partition.last_layer] = partition
        self.board = pn.Board(
            "test",
            [
                pn.Processor("L", "cpu", "xnnpack", [], 1),
                pn.Processor("A", "cpu", "armcl_neon", [0], 2),
                pn.Processor("B", "cpu", "armcl_neon", [1 % (os.cpu_count() or 1)], 2),
                pn.Processor("N", "npu", "xnnpack", [], 1, "L"),
            ],
        )
        self.backend = pn.armcl_neon_backend(2)
        self.manager = pn.GraphManager(self.model.to_graph(), self.board, {"armcl_neon": self.backend})

    def executor(self, order: str, frames_in_flight: int = 1) -> pn.GraphExecutor:
        plan = pn.Plan(self.board, self.layers, order)
        partitions = [self.partitions[first, last] for first, last in plan.npu_ranges]
        return pn.GraphExecutor(self.manager, plan, partitions, frames_in_flight)

    def run(self, order: str) -> np.ndarray:
        executor = self.executor(order)
        output = executor.run({self.model.inputs[0]: self.frame})[self.model.outputs[0]]
        executor.close()
        return output

    def off(self, output: np.ndarray, expected: np.ndarray) -> float:
        return float(np.abs(output - expected).max() / np.ptp(expected))


network = cache(Network)


@pytest.mark.parametrize("name", [*SMALL, "published"])
def test_it_computes_what_litert_and_xnnpack_compute(name: str) -> None:
    net = network(name)
    neon, xnnpack = net.run("A" * net.layers), net.run("L" * net.layers)
    assert net.off(neon, net.litert) <= TOLERANCE
    assert net.off(xnnpack, net.litert) <= TOLERANCE
    assert net.off(neon, xnnpack) <= TOLERANCE
    assert net.backend.elsewhere == []


@pytest.mark.parametrize("name", SMALL)
def test_cuts_do_not_matter(name: str) -> None:
    net = network(name)
    uncut = net.run("A" * net.layers)
    rng = random.Random(name)
    for _ in range(8):
        ends = sorted(rng.sample(range(1, net.layers), rng.randint(1, 5)))
        letters = [rng.choice("AB") for _ in range(len(ends) + 1)]
        order = "".join(letters[sum(end <= i for end in ends)] for i in range(net.layers))
        assert net.run(order).tobytes() == uncut.tobytes(), order
        mixed = "".join(letter if rng.random() < 0.7 else "L" for letter in order)
        assert net.off(net.run(mixed), net.litert) <= TOLERANCE, mixed


@pytest.mark.parametrize("name", SMALL)
def test_beside_the_emulated_npu(name: str) -> None:
    net = network(name)
    ranges = sorted(net.partitions)
    assert len(ranges) == 3

    def order(quantised: tuple[int, int], letter: str) -> str:
        first, last = quantised
        return letter * first + "N" * (last - first + 1) + letter * (net.layers - last - 1)

    # From the same input the NPU makes the same integers, and what follows differs by rounding alone.
    head = ranges[0]
    assert net.off(net.run(order(head, "A")), net.run(order(head, "L"))) <= TOLERANCE
    # Before it, a difference in rounding may become a step of the quantisation.
    for quantised in ranges[1:]:
        assert net.off(net.run(order(quantised, "A")), net.run(order(quantised, "L"))) <= 0.02


def test_configurations_share_packed_weights() -> None:
    net = Network("mobilenet_v2")
    held = [net.executor("A" * net.layers)]
    before = net.manager.memory_bytes
    held += [net.executor("A" * cut + "L" + "A" * (net.layers - cut - 1)) for cut in range(4, net.layers, 8)]
    constants = sum(t.size_bytes for t in net.model.tensors.values() if t.data is not None)
    assert len(held) == 8
    assert net.manager.memory_bytes - before < 2 * constants  # 7 more configurations
    for executor in held:
        executor.close()


def threads() -> dict[int, tuple[float, frozenset[int]]]:
    """Of each thread of the process: the time on a CPU, and the CPUs that it may run on."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            time_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(folder.name)] = (time_s, frozenset(os.sched_getaffinity(int(folder.name))))
    return found


def stream(net: Network, executor: pn.GraphExecutor, frames: int, in_flight: int) -> Iterator[np.ndarray]:
    submitted = 0
    for received in range(frames):
        while submitted < min(frames, received + in_flight):
            executor.submit({net.model.inputs[0]: net.frame * np.float32(1 - submitted / 100)})
            submitted += 1
        yield executor.receive()[net.model.outputs[0]].copy()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU has no two clusters")
def test_two_clusters_in_a_pipeline_do_not_disturb_each_other() -> None:
    net = Network("mobilenet_v2")
    order = "A" * (net.layers // 4) + "B" * (net.layers - net.layers // 4)
    frames = 30
    before = set(threads())
    pools = len(before) - 1  # the second thread of A and of B among them
    alone = net.executor(order)
    expected = list(stream(net, alone, frames, 1))
    alone.close()
    executor = net.executor(order, 3)
    start = threads()
    got = list(stream(net, executor, frames, 3))
    end = threads()
    executor.close()
    assert pools >= 2
    assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]
    busy = {tid: end[tid][1] for tid in end if end[tid][0] - start.get(tid, (0.0,))[0] >= 0.05}
    workers = [cpus for tid, cpus in busy.items() if tid != os.getpid()]
    # The library has started no thread: those that worked are of a cluster and stay on its CPUs.
    assert set(workers) == {frozenset({0}), frozenset({1})}
    assert len(set(end) - before) == 2, "one thread a sub-graph, and no other"


def test_two_executors_at_a_time_share_the_functions() -> None:
    net = network("mobilenet_v1")
    expected = net.run("A" * net.layers).tobytes()
    wrong: list[str] = []

    def work(letter: str) -> None:
        executor = net.executor(letter * net.layers)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            output = executor.run({net.model.inputs[0]: net.frame})[net.model.outputs[0]]
            if output.tobytes() != expected:
                wrong.append(letter)
        executor.close()

    running = [threading.Thread(target=work, args=(letter,)) for letter in "AB"]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []
