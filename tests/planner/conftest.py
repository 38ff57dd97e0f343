"""LiteRT as the judge of what the importer and the executor make of a network."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import piqi_native
from piqi_runtime.model import Model

TOLERANCE = 1e-4  # of the output's range


def inputs_for(model: Model, seed: int = 0) -> list[np.ndarray]:
    """Noise for every input of `model`, in its order."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, model.tensors[name].shape).astype(np.float32) for name in model.inputs]


def run_natively(model: Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    interpreter = piqi_native.Interpreter(model.to_graph(), threads=1)
    outputs = interpreter.run(dict(zip(model.inputs, inputs, strict=True)))
    return [np.asarray(outputs[name]) for name in model.outputs]


def run_litert(data: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
    """All outputs agree within `tolerance` of each output's range, which must not be empty."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.isfinite(b).all()
        span = float(np.ptp(b)) if b.size > 1 else abs(float(b.item()))
        assert span > 0, "the output is constant: it shows nothing"
        assert float(np.abs(a.astype(np.float64) - b).max()) <= tolerance * span


def compare(data: bytes, model: Model, tolerance: float = TOLERANCE) -> None:
    """`model`, imported from `data`, computes what LiteRT computes from `data`."""
    inputs = inputs_for(model)
    assert_same(run_natively(model, inputs), run_litert(data, inputs), tolerance)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that is not there is not waited for."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("piqi_planner.evaluation.workers.CLUSTER_S", 0.2)


@pytest.fixture(scope="session")
def litert() -> SimpleNamespace:
    """`compare` and its parts."""
    functions: list[Callable[..., object]] = [inputs_for, run_natively, run_litert, assert_same, compare]
    return SimpleNamespace(**{function.__name__: function for function in functions})
