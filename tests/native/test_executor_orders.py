"""Any order over full-precision processors computes, bit for bit, what the uncut graph computes."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import piqi_native as pn
from piqi_planner import layers, zoo
from piqi_planner.importer import import_model, import_tflite
from piqi_runtime.model import Model

# Keras itself calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Subject:
    """A network on L, B and G (`threads` of it), and frames with their uncut results."""

    def __init__(self, networks: SimpleNamespace, model: Model, threads: int = 1) -> None:
        self.networks = networks
        self.layer_count = model.layer_count
        graph = model.to_graph()
        cpu = [pn.Processor("L", "cpu", "xnnpack", [0], 1), pn.Processor("B", "cpu", "xnnpack", [1], 1)]
        self.board = pn.Board("test", [*cpu, pn.Processor("G", "gpu", "xnnpack", [0, 1], threads, "B")])
        self.manager = pn.GraphManager(graph, self.board)
        interpreter = pn.Interpreter(graph, 1)
        self.frames = [networks.frame(model, seed) for seed in range(4)]
        self.expected = [interpreter.run(frame) for frame in self.frames]
        for result in self.expected:
            assert all(np.isfinite(array).all() and np.ptp(array) > 0 for array in result.values())

    def check(self, order: str, frames_in_flight: int) -> None:
        plan = pn.Plan(self.board, self.layer_count, order)
        executor = pn.GraphExecutor(self.manager, plan, frames_in_flight=frames_in_flight)
        submitted = 0
        for received in range(len(self.frames)):
            while submitted < len(self.frames) and submitted - received < frames_in_flight:
                executor.submit(self.frames[submitted])
                submitted += 1
            assert self.networks.same(executor.receive(), self.expected[received])
        executor.close()


def orders(layer_count: int) -> st.SearchStrategy[str]:
    """Random letters, and random runs of one letter (as planners make them)."""
    letters = st.text("LBG", min_size=layer_count, max_size=layer_count)
    runs = st.lists(st.tuples(st.sampled_from("LBG"), st.integers(1, layer_count)), min_size=1, max_size=6).map(
        lambda pairs: "".join(letter * count for letter, count in pairs)
    )
    return letters | runs.map(lambda order: (order * layer_count)[:layer_count])


def check_random_orders(subject: Subject, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )
    @given(orders(subject.layer_count), st.integers(1, 8))
    def check(order: str, frames_in_flight: int) -> None:
        subject.check(order, frames_in_flight)

    check()


def test_branches_skips_several_inputs_and_outputs(networks: SimpleNamespace) -> None:
    check_random_orders(Subject(networks, networks.branched(), threads=2), 400)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_networks(networks: SimpleNamespace, zoo_tflite: Callable[..., bytes], name: str) -> None:
    model = layers.assign_layers(import_tflite(zoo_tflite(name), name))
    check_random_orders(Subject(networks, model), 200)


def test_real_mobilenet(networks: SimpleNamespace, data_dir: Path) -> None:
    model = layers.assign_layers(import_model(data_dir / "models" / "mobilenet_v1_0.75_224.tflite"), "block")
    check_random_orders(Subject(networks, model, threads=2), 20)
