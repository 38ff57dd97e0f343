"""Every operator by itself: what ONNX's reference makes of it is what the executor computes."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import piqi_native
from piqi_planner.importer import import_model
from piqi_planner.quantise.partition import cut
from piqi_planner.vendor.errors import VendorError
from piqi_planner.vendor.onnx_operators import writes
from piqi_planner.vendor.onnx_writer import (
    OPSET,
    WRITERS,
    from_onnx_layout,
    onnx_name,
    onnx_shape,
    to_onnx,
    to_onnx_layout,
    write_onnx,
)
from piqi_runtime.model import Model, Operator, Tensor

Shape = tuple[int, ...]


def network(
    kind: str,
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
    constants: Sequence[Any] = (),
    clamp: tuple[float, float] | None = None,
    **attributes: Any,
) -> Model:
    """One operator on float inputs and constants, the latter drawn where only a shape is given."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(c) if isinstance(c, tuple) else c for c in constants]
    tensors = [Tensor(f"x{i}", shape) for i, shape in enumerate(inputs)]
    tensors += [Tensor(f"c{i}", array.shape, data=np.array(array, np.float32)) for i, array in enumerate(arrays)]
    names = tuple(tensor.name for tensor in tensors)
    tensors += [Tensor(f"y{i}", shape) for i, shape in enumerate(outputs)]
    made = tuple(f"y{i}" for i in range(len(outputs)))
    if clamp:
        attributes |= {"clamp_min": clamp[0], "clamp_max": clamp[1]}
    operator = Operator(kind, "it", names, made, attributes)
    return Model("one", {t.name: t for t in tensors}, (operator,), names[: len(inputs)], made)


def window(stride: Shape = (1, 1), pads: Shape = (0, 0, 0, 0), kernel: Shape = ()) -> dict[str, int]:
    names = ["stride_height", "stride_width", "pad_top", "pad_left", "pad_bottom", "pad_right"]
    values = [*stride, *pads]
    if kernel:
        names += ["kernel_height", "kernel_width"]
        values += kernel
    return dict(zip(names, values, strict=True))


def dilated(height: int, width: int) -> dict[str, int]:
    return {"dilation_height": height, "dilation_width": width}


X = (1, 6, 5, 4)
INF = float("inf")
RESIZES: list[dict[str, bool]] = [
    {"align_corners": False, "half_pixel_centers": False},
    {"align_corners": True, "half_pixel_centers": False},
    {"align_corners": False, "half_pixel_centers": True},
]

CASES: dict[str, Callable[[], Model]] = {
    "conv2d": lambda: network("conv2d", [X], [(1, 3, 5, 8)], [(8, 3, 2, 4), (8,)], **window((2, 1), (1, 1, 0, 0))),
    "conv2d, groups, relu6": lambda: network(
        "conv2d", [X], [(1, 4, 3, 6)], [(6, 3, 3, 2)], (0.0, 6.0), groups=2, **window()
    ),
    "conv2d, dilated, relu": lambda: network(
        "conv2d", [X], [(1, 2, 1, 3)], [(3, 3, 3, 4), (3,)], (0.0, INF), **dilated(2, 2), **window()
    ),
    "depthwise_conv2d": lambda: network(
        "depthwise_conv2d", [X], [(1, 3, 3, 8)], [(1, 3, 3, 8), (8,)], **window((2, 2), (1, 1, 1, 1))
    ),
    "depthwise_conv2d, batch": lambda: network(
        "depthwise_conv2d", [(3, 6, 5, 4)], [(3, 4, 3, 4)], [(1, 3, 3, 4)], (-1.0, 1.0), **window()
    ),
    "transpose_conv2d": lambda: network(
        "transpose_conv2d", [X], [(1, 12, 10, 3)], [(3, 3, 3, 4), (3,)], **window((2, 2), (0, 0, 1, 1))
    ),
    "transpose_conv2d, rest": lambda: network(
        "transpose_conv2d", [X], [(1, 18, 14, 3)], [(3, 2, 2, 4)], (0.0, INF), **window((3, 3))
    ),
    "fully_connected": lambda: network("fully_connected", [(2, 12)], [(2, 5)], [(5, 12), (5,)], (0.0, INF)),
    "fully_connected, of a picture": lambda: network("fully_connected", [X], [(1, 7)], [(7, 120), (7,)]),
    "fully_connected, of a pixel": lambda: network("fully_connected", [(1, 1, 1, 9)], [(1, 7)], [(7, 9)]),
    "fully_connected, keeps dimensions": lambda: network("fully_connected", [X], [(1, 6, 5, 3)], [(3, 4), (3,)]),
    "add": lambda: network("add", [X, X], [X], clamp=(0.0, INF)),
    "add, a vector": lambda: network("add", [X], [X], [(4,)]),
    "add, a wider one": lambda: network("add", [(5, 4), X], [X]),
    "add, vectors": lambda: network("add", [(3, 4), (4,)], [(3, 4)]),
    "subtract": lambda: network("subtract", [X], [X], [(5, 1)]),
    "multiply": lambda: network("multiply", [X, (1, 1, 1, 4)], [X]),
    "multiply, a number": lambda: network("multiply", [X], [X], [np.float32(2.5).reshape(())]),
    "concat": lambda: network("concat", [X, (1, 6, 5, 2)], [(1, 6, 5, 6)], axis=3),
    "concat, rows, a constant": lambda: network("concat", [X], [(1, 8, 5, 4)], [(1, 2, 5, 4)], axis=1),
    "concat, flat": lambda: network("concat", [(2, 3), (2, 5)], [(2, 8)], axis=1),
    "split": lambda: network("split", [X], [(1, 6, 5, 1), (1, 6, 5, 3)], axis=3),
    "split, columns": lambda: network("split", [X], [(1, 6, 2, 4), (1, 6, 3, 4)], axis=2),
    "max_pool2d": lambda: network("max_pool2d", [X], [(1, 3, 3, 4)], **window((2, 2), (0, 1, 1, 1), (3, 3))),
    "average_pool2d": lambda: network(
        "average_pool2d", [X], [(1, 3, 3, 4)], clamp=(0.0, INF), **window((2, 2), (0, 1, 1, 1), (3, 3))
    ),
    "mean, picture": lambda: network("mean", [X], [(1, 4)], axes=[1, 2]),
    "mean, kept": lambda: network("mean", [X], [(1, 1, 1, 4)], axes=[1, 2]),
    "mean, channels": lambda: network("mean", [X], [(1, 6, 5, 1)], axes=[3]),
    "mean, rows": lambda: network("mean", [X], [(1, 5, 4)], axes=[1]),
    "mean, flat": lambda: network("mean", [(3, 4)], [(3,)], axes=[1]),
    "pad": lambda: network("pad", [X], [(1, 9, 6, 5)], pad_before=[0, 1, 0, 1], pad_after=[0, 2, 1, 0], pad_value=-1.5),
    "pad, flat": lambda: network("pad", [(2, 3)], [(3, 5)], pad_before=[1, 0], pad_after=[0, 2]),
    "reshape": lambda: network("reshape", [X], [(1, 120)]),
    "reshape, to a picture": lambda: network("reshape", [(2, 60)], [X]),
    "reshape, of pictures": lambda: network("reshape", [X], [(1, 10, 3, 4)]),
    "reshape, a pixel": lambda: network("reshape", [(1, 1, 1, 8)], [(1, 8)]),
    "softmax": lambda: network("softmax", [(2, 9)], [(2, 9)], beta=1.0),
    "softmax, pictures, beta": lambda: network("softmax", [X], [X], beta=0.5),
    "logistic": lambda: network("logistic", [X], [X]),
    "tanh": lambda: network("tanh", [X], [X]),
    "clamp": lambda: network("clamp", [X], [X], clamp=(-0.5, 0.75)),
    "clamp, relu": lambda: network("clamp", [X], [X], clamp_min=0.0),
    "clamp, from above": lambda: network("clamp", [X], [X], clamp_max=0.25),
    "leaky_relu": lambda: network("leaky_relu", [X], [X], alpha=0.3),
    "hard_swish": lambda: network("hard_swish", [X], [X]),
    "local_response_normalization": lambda: network(
        "local_response_normalization", [(1, 3, 2, 9)], [(1, 3, 2, 9)], radius=2, bias=1.5, alpha=0.7, beta=0.6
    ),
    "strided_slice": lambda: network(
        "strided_slice", [X], [(1, 3, 2, 4)], begin=[0, 5, 1, 0], size=[1, 3, 2, 4], strides=[1, -2, 3, 1]
    ),
    "strided_slice, reversed": lambda: network(
        "strided_slice", [X], [X], begin=[0, 5, 0, 0], size=list(X), strides=[1, -1, 1, 1]
    ),
    "strided_slice, lost axes": lambda: network(
        "strided_slice", [X], [(5, 2)], begin=[0, 2, 0, 1], size=[1, 1, 5, 2], strides=[1, 1, 1, 1]
    ),
    "strided_slice, all": lambda: network(
        "strided_slice", [(2, 3)], [(2, 3)], begin=[0, 0], size=[2, 3], strides=[1, 1]
    ),
}
for number, flags in enumerate(RESIZES):
    for method in ("nearest", "bilinear"):
        for size in ((12, 10), (3, 5), (9, 7)):
            CASES[f"resize_{method}, {number}, {size}"] = lambda method=method, size=size, flags=flags: network(
                f"resize_{method}", [X], [(1, *size, 4)], **flags
            )


def inputs_for(model: Model, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-4, 4, model.tensors[name].shape).astype(np.float32) for name in model.inputs}


class LRN(OpRun):
    """As ONNX defines it; the reference's own counts batches where it should count channels."""

    def _run(self, x: Any, alpha: float, beta: float, bias: float, size: int) -> tuple[Any]:
        reach = (size - 1) // 2
        squares = np.pad(x**2, [(0, 0), (reach, size - 1 - reach), (0, 0), (0, 0)])
        sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
        return ((x / (bias + alpha / size * sums) ** beta).astype(x.dtype),)


def assert_same(model: Model, tolerance: float = 2e-5, opset: int = OPSET) -> None:
    inputs = inputs_for(model)
    ours = piqi_native.Interpreter(model.to_graph()).run(inputs)
    proto = to_onnx(model, opset)
    assert [value.name for value in proto.graph.input] == list(map(onnx_name, model.inputs))
    fed = {onnx_name(name): to_onnx_layout(array) for name, array in inputs.items()}
    theirs = ReferenceEvaluator(proto, new_ops=[LRN]).run(list(map(onnx_name, model.outputs)), fed)
    for name, output in zip(model.outputs, theirs, strict=True):
        assert output.shape == onnx_shape(model.tensors[name].shape)
        expected = np.asarray(ours[name])
        assert np.ptp(expected) > 0, "the output is constant: it shows nothing"
        np.testing.assert_allclose(from_onnx_layout(output), expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    assert_same(CASES[name]())


def test_every_kind_of_the_executor_is_written_and_tested(project_root: Path) -> None:
    header = (project_root / "native/src/graph.cpp").read_text()
    kinds = set(re.findall(r'"([a-z0-9_]+)"', header.split("kind_names", 1)[-1].split("}", 1)[0]))
    assert len(kinds) == 26 and kinds == set(WRITERS)
    assert kinds - {"quantize", "dequantize"} == {re.split(", ", name)[0] for name in CASES}


def test_quantisation_there_and_back() -> None:
    tensors = [Tensor("x", X), Tensor("q", X, "int8", None, (0.03,), 3)]
    tensors += [Tensor("r", X, "int8", None, (0.11,), -9), Tensor("y", X)]
    steps = (("quantize", "x", "q"), ("quantize", "q", "r"), ("dequantize", "r", "y"))
    operators = tuple(Operator(kind, made, (read,), (made,)) for kind, read, made in steps)
    model = Model("quantised", {t.name: t for t in tensors}, operators, ("x",), ("y",))
    assert_same(model, opset=19)  # the reference has these operators from there on


@pytest.fixture(scope="module")
def digits(project_root: Path) -> Model:
    return import_model(project_root / "planner/piqi_planner/demo/digits.tflite")


def test_ranges_of_a_network(digits: Model) -> None:
    assert_same(digits)
    for first in range(digits.layer_count):
        assert_same(cut(digits, first, digits.layer_count - 1))
        assert_same(cut(digits, 0, first))


def test_file(digits: Model, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    write_onnx(digits, path, 11)
    proto = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 11)]
    assert to_onnx(digits).opset_import[0].version == OPSET
    write_onnx(digits, tmp_path / "again.onnx", 11)
    assert path.read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_quantised_operator_is_refused() -> None:
    model = CASES["add"]()
    tensors = {name: Tensor(name, t.shape, "int8", None, (0.1,), 0) for name, t in model.tensors.items()}
    with pytest.raises(VendorError, match=r"add 'it': 'x0' is int8, expected float32"):
        to_onnx(Model("one", tensors, model.operators, model.inputs, model.outputs))


def test_unknown_operator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert writes  # the operators are registered
    monkeypatch.delitem(WRITERS, "tanh")
    with pytest.raises(VendorError, match="tanh 'it' has no equivalent"):
        to_onnx(CASES["tanh"]())
