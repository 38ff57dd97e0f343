"""Frequencies are asked for just before each layer, in a tree of files that stands for /sys."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import piqi_native as pn
from piqi_runtime.report import SubGraphTimes

KHZ = [400_000, 800_000, 1_200_000]


class Watch:
    """Tanh on a backend that notes, as it runs a layer, the frequencies in force."""

    def __init__(self, speeds: dict[str, Path]) -> None:
        self.speeds = speeds
        self.seen: list[tuple[int, dict[str, int]]] = []
        self.layer = 0
        self.outputs: list[str] = []

    def prepare(self, sub_graph: pn.SubGraph, inputs: list[str], outputs: list[str]) -> "Watch":
        watch = Watch(self.speeds)
        watch.seen, watch.layer, watch.outputs = self.seen, sub_graph.first_layer, outputs
        return watch

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (x,) = inputs.values()
        self.seen.append((self.layer, read(self.speeds)))
        return {name: np.tanh(x) for name in self.outputs}

    def close(self) -> None:
        pass


def read(speeds: dict[str, Path]) -> dict[str, int]:
    """kHz by processor; what an ordinary file keeps behind the first line does not count."""
    return {letter: int(path.read_text().split()[0]) for letter, path in speeds.items()}


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    """cpufreq policies of L and B below `tmp_path`; the files that hold their speeds."""
    speeds = {}
    for letter, policy in (("L", "policy0"), ("B", "policy4")):
        folder = tmp_path / policy
        folder.mkdir()
        (folder / "scaling_governor").write_text("schedutil\n")
        (folder / "scaling_setspeed").write_text("400000\n")
        (folder / "scaling_min_freq").write_text("400000\n")
        (folder / "scaling_max_freq").write_text("1200000\n")
        speeds[letter] = folder / "scaling_setspeed"
    return speeds


def make_board(backend: str = "watch") -> pn.Board:
    return pn.Board(
        "test",
        [
            pn.Processor("L", "cpu", backend, [0], 1, "", KHZ, "policy0"),
            pn.Processor("B", "cpu", backend, [1], 1, "", KHZ, "policy4"),
        ],
    )


def test_each_layer_runs_at_its_frequency(networks: SimpleNamespace, tmp_path: Path, tree: dict[str, Path]) -> None:
    board = make_board()
    watch = Watch(tree)
    manager = pn.GraphManager(networks.chain("tanh", 6, 4).to_graph(), board, {"watch": watch})
    governor = pn.sysfs_governor(board, str(tmp_path))
    assert governor.warnings == []
    plan = pn.Plan(board, 6, "LBLBLB", "2 0 1 1 0 2")
    executor = pn.GraphExecutor(manager, plan, governor=governor)
    inputs = {"x": np.zeros(4, np.float32)}
    executor.run(inputs)
    executor.run(inputs)
    layers = [layer for layer, _ in watch.seen]
    assert layers == [0, 1, 2, 3, 4, 5] * 2
    speeds = [(seen["L"], seen["B"]) for _, seen in watch.seen]
    low, middle, high = KHZ
    # The first frame finds B as it was, the second as the first left it.
    first = [(high, low), (high, low), (middle, low), (middle, middle), (low, middle), (low, high)]
    second = [(high, high), (high, low), (middle, low), (middle, middle), (low, middle), (low, high)]
    assert speeds == first + second
    governor.restore()
    assert [(tmp_path / p / "scaling_governor").read_text().split()[0] for p in ("policy0", "policy4")] == [
        "schedutil"
    ] * 2


def test_the_time_of_asking_is_told(networks: SimpleNamespace, tmp_path: Path, tree: dict[str, Path]) -> None:
    board = make_board("xnnpack")
    manager = pn.GraphManager(networks.chain("tanh", 3, 4).to_graph(), board)
    governor = pn.sysfs_governor(board, str(tmp_path))
    executor = pn.GraphExecutor(manager, pn.Plan(board, 3, "LLL", "0 2 2"), governor=governor)
    for _ in range(20):
        executor.run({"x": np.zeros(4, np.float32)})
    (rows,) = executor.times()["sub_graphs"]
    times = SubGraphTimes.of(rows, receivers=1)
    asked = np.median(times.steps[:, :, 1] - times.steps[:, :, 0], axis=0)
    assert asked[1] > 5 * asked[2]  # a write, and a request for what is already in force
    assert int(tree["L"].read_text().split()[0]) == KHZ[2]


def test_without_permission_it_runs_at_the_frequency_there_is(networks: SimpleNamespace, tmp_path: Path) -> None:
    board = make_board("xnnpack")
    manager = pn.GraphManager(networks.chain("tanh", 2, 4).to_graph(), board)
    governor: Any = pn.sysfs_governor(board, str(tmp_path))  # an empty tree
    assert len(governor.warnings) == 2 and not governor.controls(0)
    executor = pn.GraphExecutor(manager, pn.Plan(board, 2, "LB", "0 2"), governor=governor, marker=pn.null_marker())
    result = executor.run({"x": np.ones(4, np.float32)})
    np.testing.assert_allclose(result["a1"], np.tanh(np.tanh(np.ones(4))), rtol=1e-5)


@pytest.fixture
def speed_that_goes() -> Iterator[Path]:
    """A number in a file of the kernel's, which answers as sysfs does once its folder is gone: a cgroup's."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        folder = root / f"piqi-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / "cgroup.max.descendants").exists():
                break
            folder.rmdir()
    else:
        pytest.skip("no cgroup (version 2) can be made here")
    yield folder / "cgroup.max.descendants"
    with suppress(OSError):
        folder.rmdir()


def test_a_run_goes_on_while_a_processor_is_gone(
    networks: SimpleNamespace, tmp_path: Path, tree: dict[str, Path], speed_that_goes: Path
) -> None:
    tree["B"].unlink()
    tree["B"].symlink_to(speed_that_goes)
    board = make_board("xnnpack")
    manager = pn.GraphManager(networks.chain("tanh", 4, 4).to_graph(), board)
    governor = pn.sysfs_governor(board, str(tmp_path))
    executor = pn.GraphExecutor(manager, pn.Plan(board, 4, "LBBL", "0 1 2 1"), governor=governor)
    inputs = {"x": np.ones(4, np.float32)}
    expected = executor.run(inputs)["a3"]
    assert governor.warnings == [] and read(tree) == {"L": KHZ[1], "B": KHZ[2]}

    speed_that_goes.parent.rmdir()
    for _ in range(20):
        np.testing.assert_array_equal(executor.run(inputs)["a3"], expected)
    assert governor.controls(0) and not governor.controls(1)
    (warning,) = governor.warnings
    assert "policy4/scaling_setspeed: " in warning and warning.endswith("(lost 1 time)")
    assert read({"L": tree["L"]}) == {"L": KHZ[1]}

    speed_that_goes.parent.mkdir()
    deadline = time.monotonic() + 60
    while not governor.controls(1) and time.monotonic() < deadline:
        np.testing.assert_array_equal(executor.run(inputs)["a3"], expected)
    assert read(tree) == {"L": KHZ[1], "B": KHZ[2]}
    assert governor.warnings[0].endswith("(lost 1 time, taken again)")
