"""Layers: numbered in file order, never falling along an edge, joined to blocks or cut by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piqi_planner.layers import LayerError, LayerInfo, assign_layers, describe_layers, parse_layers
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator, Tensor

CHANNELS = 4


class Net:
    """Builds a model of 1xSxSx4 tensors, an operator at a time."""

    def __init__(self, size: int = 8) -> None:
        self.tensors = {"x": Tensor("x", (1, size, size, CHANNELS))}
        self.operators: list[Operator] = []

    def add(self, kind: str, name: str, *inputs: str, kernel: int = 1, size: int | None = None) -> str:
        shape = self.tensors[inputs[0]].shape
        if size:
            shape = (1, size, size, CHANNELS)
        if kind in COMPUTE_KINDS:
            weights = {
                "depthwise_conv2d": (1, kernel, kernel, CHANNELS),
                "fully_connected": (CHANNELS, CHANNELS),
            }.get(kind, (CHANNELS, kernel, kernel, CHANNELS))
            inputs = (*inputs, f"{name}/weights", f"{name}/bias")
            for tensor, extent in zip(inputs[-2:], (weights, (CHANNELS,)), strict=True):
                self.tensors[tensor] = Tensor(tensor, extent, data=np.zeros(extent, np.float32))
        self.tensors[name] = Tensor(name, shape)
        self.operators.append(Operator(kind, name, inputs, (name,)))
        return name

    def model(self, *outputs: str) -> Model:
        return Model("net", self.tensors, tuple(self.operators), ("x",), outputs or (self.operators[-1].name,))


def layers(model: Model) -> dict[str, int]:
    return {op.name: op.layer for op in model.operators}


def assert_rising(model: Model) -> None:
    made = {"x": 0}
    for op in model.operators:
        assert all(made.get(name, 0) <= op.layer for name in op.inputs)
        made.update(dict.fromkeys(op.outputs, op.layer))
    assert {op.layer for op in model.operators} == set(range(model.layer_count))


@pytest.fixture()
def residual() -> Model:
    """pad, conv a, relu, (conv b, conv c) + relu, softmax."""
    net = Net()
    net.add("pad", "pad", "x")
    net.add("conv2d", "a", "pad", kernel=3)
    net.add("clamp", "relu", "a")
    net.add("conv2d", "b", "relu", kernel=3)
    net.add("tanh", "tanh", "relu")
    net.add("conv2d", "c", "b")
    net.add("add", "sum", "c", "relu")
    net.add("softmax", "softmax", "sum")
    return net.model()


@pytest.fixture()
def mobile() -> Model:
    """A stem, two separable blocks (the second with squeeze and excite between), a head."""
    net = Net()
    net.add("conv2d", "stem", "x", kernel=3)
    net.add("depthwise_conv2d", "dw1", "stem", kernel=3)
    net.add("conv2d", "pw1", "dw1")
    net.add("depthwise_conv2d", "dw2", "pw1", kernel=3)
    net.add("mean", "squeeze", "dw2", size=1)
    net.add("conv2d", "se1", "squeeze")
    net.add("conv2d", "se2", "se1")
    net.add("multiply", "excite", "dw2", "se2")
    net.add("conv2d", "pw2", "excite")
    net.add("conv2d", "expand", "pw2")
    net.add("mean", "pool", "expand", size=1)
    net.add("fully_connected", "head", "pool")
    return net.model()


def test_by_compute_operator(residual: Model) -> None:
    model = assign_layers(residual, "conv")
    expected = {"pad": 0, "a": 0, "relu": 0, "b": 1, "tanh": 0, "c": 2, "sum": 2, "softmax": 2}
    assert layers(model) == expected
    assert_rising(model)


def test_blocks(mobile: Model) -> None:
    model = assign_layers(mobile, "block")
    assert layers(model) == {
        "stem": 0, "dw1": 1, "pw1": 1, "dw2": 2, "squeeze": 2, "se1": 2, "se2": 2, "excite": 2, "pw2": 2,
        "expand": 3, "pool": 3, "head": 3,
    }  # fmt: skip
    assert_rising(model)


def test_pointwise_convolution_on_another_branch_joins_no_block() -> None:
    net = Net()
    net.add("conv2d", "stem", "x", kernel=3)
    net.add("depthwise_conv2d", "dw", "stem", kernel=3)
    net.add("conv2d", "side", "stem")
    net.add("conv2d", "pw", "dw")
    net.add("add", "sum", "pw", "side")
    model = assign_layers(net.model(), "block")
    assert layers(model) == {"stem": 0, "dw": 1, "side": 2, "pw": 1, "sum": 2}
    assert_rising(model)


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ([], [0, 0, 0, 0, 0, 0, 0, 0]),
        ([1], [0, 0, 0, 1, 0, 1, 1, 1]),
        ([2], [0, 0, 0, 0, 0, 1, 1, 1]),
        ([1, 2], [0, 0, 0, 1, 0, 2, 2, 2]),
        (["tanh"], [0, 0, 0, 0, 1, 1, 1, 1]),
        (["relu", 2], [0, 0, 1, 1, 1, 2, 2, 2]),
    ],
)
def test_cuts(residual: Model, cuts: Sequence[int | str], expected: list[int]) -> None:
    model = assign_layers(residual, cuts)
    assert [op.layer for op in model.operators] == expected
    assert_rising(model)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ([0], "cut point 0: expected a layer from 1 to 2"),
        ([3], "cut point 3"),
        ([-1], "cut point -1"),
        (["nowhere"], "no such operator"),
        (["pad"], "no such operator behind the first"),
        ([1, 1], "two of them cut at the same place"),
        ([2, "c"], "two of them"),
        ([True], "cut point True"),
        ([1.5], "cut point 1.5"),
        ("blocks", "layers 'blocks': expected conv, block or"),
    ],
)
def test_wrong_cuts(residual: Model, cuts: Sequence[int | str] | str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        assign_layers(residual, cuts)


def test_parse_layers() -> None:
    assert parse_layers("conv") == "conv"
    assert parse_layers("block") == "block"
    assert parse_layers("3, conv/Relu6,12") == [3, "conv/Relu6", 12]


KINDS = ["conv2d", "depthwise_conv2d", "clamp", "add"]


@st.composite
def networks(draw: st.DrawFn) -> Model:
    net = Net()
    names = ["x"]
    for i in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        inputs = [draw(st.sampled_from(names[-4:])) for _ in range(2 if kind == "add" else 1)]
        kernel = draw(st.sampled_from([1, 3]))
        names.append(net.add(kind, f"t{i}", *inputs, kernel=kernel))
    return net.model()


@given(networks(), st.data())
def test_layers_never_fall_in_any_network(model: Model, data: st.DataObject) -> None:
    for mode in ("conv", "block"):
        assert_rising(assign_layers(model, mode))
    count = assign_layers(model, "conv").layer_count
    names = [op.name for op in model.operators[1:]]
    choices = [*range(1, count), *names]
    cuts = data.draw(st.lists(st.sampled_from(choices), unique=True, max_size=4)) if choices else []
    try:
        cut = assign_layers(model, cuts)
    except LayerError as error:
        assert "same place" in str(error)
    else:
        assert_rising(cut)
        assert cut.layer_count == len(cuts) + 1


def test_description(residual: Model) -> None:
    pixels, size_bytes = 64, 64 * CHANNELS * 4
    shape = (1, 8, 8, CHANNELS)
    assert describe_layers(assign_layers(residual, "conv")) == [
        LayerInfo(
            0, "a", ("pad", "conv2d", "clamp", "tanh"), (shape,), (shape,),
            pixels * CHANNELS * 9 * CHANNELS, 9 * CHANNELS**2 + CHANNELS, size_bytes, size_bytes,
        ),
        LayerInfo(
            1, "b", ("conv2d",), (shape,), (shape,),
            pixels * CHANNELS * 9 * CHANNELS, 9 * CHANNELS**2 + CHANNELS, size_bytes, size_bytes,
        ),
        LayerInfo(
            2, "c", ("conv2d", "add", "softmax"), (shape, shape), (shape,),
            pixels * CHANNELS * CHANNELS, CHANNELS**2 + CHANNELS, 2 * size_bytes, size_bytes,
        ),
    ]  # fmt: skip


def test_macs() -> None:
    net = Net(size=6)
    net.add("depthwise_conv2d", "depthwise", "x", kernel=3)
    net.add("transpose_conv2d", "transposed", "depthwise", kernel=2, size=12)
    net.add("mean", "mean", "transposed", size=1)
    net.add("fully_connected", "dense", "mean")
    macs = [layer.macs for layer in describe_layers(assign_layers(net.model(), "conv"))]
    assert macs == [36 * CHANNELS * 9, 36 * CHANNELS * 4 * CHANNELS, CHANNELS * CHANNELS]
