"""What the Python face refuses, and how it says so."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import piqi_native as pn


@pytest.fixture
def executor(networks: SimpleNamespace) -> pn.GraphExecutor:
    board = networks.board("LB")
    manager = pn.GraphManager(networks.branched().to_graph(), board)
    return pn.GraphExecutor(manager, pn.Plan(board, 8, "LBLBLBLB"))


@pytest.fixture
def inputs(networks: SimpleNamespace) -> dict[str, np.ndarray]:
    return networks.frame(networks.branched())


def test_every_error_is_an_error_of_the_library() -> None:
    names = ["GraphError", "PlanError", "PartitionError", "BackendError", "TimeoutError", "ClosedError", "DeviceError"]
    for name in names:
        assert issubclass(getattr(pn, name), pn.Error), name
    assert issubclass(pn.UnsupportedError, pn.GraphError)
    assert issubclass(pn.TimeoutError, pn.BackendError)
    assert issubclass(pn.Error, RuntimeError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": np.zeros((1, 10, 10, 4), np.float32)},
            r"'x': expected dense float32 \[1, 10, 10, 3\], got float32 \(1, 10, 10, 4\)",
        ),
        ({"x": np.zeros((10, 10, 3), np.float32)}, r"got float32 \(10, 10, 3\)"),
        ({"x": np.zeros((1, 10, 10, 3))}, r"got float64"),
        ({"x": np.zeros((1, 10, 10, 3), np.uint8)}, r"got uint8"),
        ({"x": np.float32(0)}, r"got float32 \(\)"),
        ({"x": None}, r"tensor 'x': expected"),
        ({"x": [[1], [2, 3]]}, r"tensor 'x': expected"),
        ({"z": np.zeros(1, np.float32)}, r"network has 2 inputs, got 3"),
    ],
)
def test_inputs_that_do_not_fit(
    executor: pn.GraphExecutor, inputs: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    for call in (executor.run, executor.submit):
        with pytest.raises(pn.GraphError, match=message):
            call(inputs | change)
    assert executor.run(inputs)["c7"].shape == (1, 10, 10, 5)


def test_inputs_that_are_missing(executor: pn.GraphExecutor, inputs: dict[str, Any]) -> None:
    with pytest.raises(pn.GraphError, match="network has 2 inputs, got 1"):
        executor.run({"x": inputs["x"]})
    with pytest.raises(pn.GraphError, match="input 'y' is missing"):
        executor.run({"x": inputs["x"], "other": inputs["y"]})
    with pytest.raises(TypeError):
        executor.run([inputs["x"], inputs["y"]])  # type: ignore[arg-type]


def test_inputs_of_any_layout_are_read_as_they_look(
    executor: pn.GraphExecutor, inputs: dict[str, np.ndarray], networks: SimpleNamespace
) -> None:
    expected = executor.run(inputs)
    wide = np.repeat(inputs["x"], 2, axis=2)[:, :, ::2]
    flipped = np.ascontiguousarray(inputs["y"][:, ::-1])[:, ::-1]
    assert not wide.flags.c_contiguous and not flipped.flags.c_contiguous
    assert networks.same(executor.run({"x": wide, "y": flipped}), expected)
    read_only = {name: array.copy() for name, array in inputs.items()}
    for array in read_only.values():
        array.flags.writeable = False
    assert networks.same(executor.run(read_only), expected)


def test_inputs_may_change_once_they_are_submitted(networks: SimpleNamespace) -> None:
    model = networks.branched()
    board = networks.board("LB")
    executor = pn.GraphExecutor(
        pn.GraphManager(model.to_graph(), board), pn.Plan(board, 8, "LLLLBBBB"), frames_in_flight=2
    )
    frames = [networks.frame(model, seed) for seed in range(2)]
    expected = [executor.run(frame) for frame in frames]
    mutable = {name: array.copy() for name, array in frames[0].items()}
    executor.submit(mutable)
    for name, array in mutable.items():
        array[:] = frames[1][name]
    executor.submit(mutable)
    for array in mutable.values():
        array[:] = np.nan
    first, second = executor.receive(), executor.receive()
    assert networks.same(first, expected[0]) and networks.same(second, expected[1])


def test_results_are_the_caller_s_own(executor: pn.GraphExecutor, inputs: dict[str, np.ndarray]) -> None:
    first = executor.run(inputs)
    kept = {name: array.copy() for name, array in first.items()}
    other = {name: -array for name, array in inputs.items()}
    executor.run(other)
    assert all(np.array_equal(first[name], kept[name]) for name in first)
    first["c7"][:] = 0


@pytest.mark.parametrize(
    ("order", "freqs", "message"),
    [
        ("LBLBLBL", "", "order 'LBLBLBL' has 7 letters, the model has 8 layers"),
        ("LBLBLBLBL", "", "has 9 letters"),
        ("LBLXLBLB", "", "layer 3: board test has no processor 'X', only LB"),
        ("LBLB\u0141BLB", "", "letters"),
        ("LBLBLBLB", "0 0 0 0 0 1 0 0", "layer 5: frequency '1': B has indices 0 to 0"),
        ("LBLBLBLB", "0 0 0 zero 0 0 0 0", "layer 3: frequency 'zero': 'zero' is not a number"),
        ("LBLBLBLB", "0 0 0", "freqs '0 0 0' has 3 entries"),
    ],
)
def test_plans_that_do_not_fit(networks: SimpleNamespace, order: str, freqs: str, message: str) -> None:
    with pytest.raises(pn.PlanError, match=message):
        pn.Plan(networks.board("LB"), 8, order, freqs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_in_flight": 0}, "frames_in_flight must be between 1 and 1024, got 0"),
        ({"frames_in_flight": 10**9}, "frames_in_flight must be between"),
        ({"recorded_frames": 10**12}, "recorded_frames must be between"),
        ({"timeout_s": -1}, "timeout_s must be between"),
        ({"timeout_s": float("nan")}, "timeout_s must be between"),
        ({"timeout_s": 1e300}, "timeout_s must be between"),
    ],
)
def test_options_out_of_range(networks: SimpleNamespace, options: dict[str, Any], message: str) -> None:
    board = networks.board("L")
    manager = pn.GraphManager(networks.chain("tanh", 1, 4).to_graph(), board)
    with pytest.raises(pn.PlanError, match=message):
        pn.GraphExecutor(manager, pn.Plan(board, 1, "L"), **options)


def test_none_is_nothing_to_run(networks: SimpleNamespace) -> None:
    board = networks.board("L")
    graph = networks.chain("tanh", 1, 4).to_graph()
    nothing: Any = None
    with pytest.raises(TypeError):
        pn.GraphManager(nothing, board)
    with pytest.raises(TypeError):
        pn.GraphManager(graph, nothing)
    with pytest.raises(TypeError):
        pn.Interpreter(nothing)
    manager = pn.GraphManager(graph, board)
    with pytest.raises(TypeError):
        pn.GraphExecutor(nothing, pn.Plan(board, 1, "L"))
    executor = pn.GraphExecutor(manager, pn.Plan(board, 1, "L"), partitions=[nothing])
    assert executor.sub_graphs[0].partition is None


def test_processors_that_cannot_be() -> None:
    for letter in ("", "LL"):
        with pytest.raises(pn.PlanError, match="is not one letter"):
            pn.Processor(letter, "cpu", "xnnpack", [0], 1)
    with pytest.raises(pn.PlanError, match="kind 'tpu' is not cpu, gpu or npu"):
        pn.Processor("L", "tpu", "xnnpack", [0], 1)
    with pytest.raises(pn.BackendError, match="no backend is named 'rknn'"):
        graph = pn.Graph("g")
        ids = [graph.add_tensor(name, [4], "float32") for name in "xy"]
        graph.add_operator("tanh", "y", ids[:1], ids[1:], 0)
        graph.add_input(ids[0])
        graph.add_output(ids[1])
        graph.finish()
        pn.GraphManager(graph, pn.Board("b", [pn.Processor("N", "npu", "rknn", [0], 1)]))


def test_a_missing_partition(networks: SimpleNamespace) -> None:
    board = pn.Board("b", [pn.Processor("N", "npu", "xnnpack", [0], 1)])
    manager = pn.GraphManager(networks.chain("tanh", 2, 4).to_graph(), board)
    with pytest.raises(pn.PartitionError, match="no partition was given for layers 0 to 1"):
        pn.GraphExecutor(manager, pn.Plan(board, 2, "NN"))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": 3}, "attribute strides = 3 is not of its type"),
        ({"stride_height": -1}, "attribute stride_height = -1"),
        ({"stride_height": "2"}, "attribute stride_height = '2'"),
        ({"groups": 2**70}, "attribute groups"),
        ({"no_such": 1}, "unknown attribute 'no_such'"),
    ],
)
def test_attributes_that_cannot_be(attributes: dict[str, Any], message: str) -> None:
    graph = pn.Graph("g")
    ids = [graph.add_tensor(name, [4], "float32") for name in "xy"]
    with pytest.raises(pn.GraphError, match=message):
        graph.add_operator("tanh", "y", ids[:1], ids[1:], 0, **attributes)


def test_constants_must_fit_their_tensors() -> None:
    graph = pn.Graph("g")
    for data in (np.zeros(3, np.float32), np.zeros(4), np.zeros((2, 2), np.float32), np.zeros(8, np.float32)[::2]):
        with pytest.raises(pn.GraphError, match=r"tensor 'w': expected dense float32 \[4\]"):
            graph.add_tensor("w", [4], "float32", data)
    with pytest.raises(pn.GraphError, match="unknown data type 'float16'"):
        graph.add_tensor("w", [4], "float16")
    with pytest.raises(pn.GraphError, match="too many elements"):
        graph.add_tensor("w", [2**40, 2**40], "float32")
    with pytest.raises(pn.UnsupportedError, match="unknown operator kind 'einsum'"):
        graph.add_operator("einsum", "e", [0], [0], 0)


def test_activations_are_those_that_are_kept(networks: SimpleNamespace) -> None:
    graph = networks.chain("tanh", 3, 4).to_graph()
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    keeping = pn.Interpreter(graph, keep_all=True)
    keeping.run({"x": x})
    np.testing.assert_allclose(keeping.activation("a1"), np.tanh(np.tanh(x)), rtol=1e-5)
    assert np.array_equal(keeping.activation("x"), x)
    with pytest.raises(pn.GraphError, match="no tensor named 'nowhere'"):
        keeping.activation("nowhere")
