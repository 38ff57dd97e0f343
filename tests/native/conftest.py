"""Small networks and boards for the tests of the executor's Python face."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import piqi_native as pn
from piqi_runtime.model import Model, Operator, Tensor


class Network:
    """Builds a float32 `Model` whose operators carry the names of the tensors they make."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.inputs: list[str] = []

    def input(self, name: str, *shape: int) -> str:
        self.tensors[name] = Tensor(name, shape)
        self.inputs.append(name)
        return name

    def add(self, kind: str, name: str, inputs: list[str], layer: int, *shape: int, **attributes: Any) -> str:
        """`shape`: that of the first input unless given."""
        self.tensors[name] = Tensor(name, shape or self.tensors[inputs[0]].shape)
        self.operators.append(Operator(kind, name, tuple(inputs), (name,), attributes, layer))
        return name

    def conv(self, name: str, x: str, channels: int, layer: int) -> str:
        """3x3, stride 1, same padding, relu6."""
        n, h, w, c = self.tensors[x].shape
        weights = self.rng.uniform(-0.3, 0.3, (channels, 3, 3, c)).astype(np.float32)
        bias = self.rng.uniform(-1, 1, channels).astype(np.float32)
        self.tensors |= {
            f"{name}/w": Tensor(f"{name}/w", weights.shape, data=weights),
            f"{name}/b": Tensor(f"{name}/b", bias.shape, data=bias),
        }
        pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 1)
        inputs = [x, f"{name}/w", f"{name}/b"]
        return self.add("conv2d", name, inputs, layer, n, h, w, channels, clamp_min=0.0, clamp_max=6.0, **pads)

    def split(self, name: str, x: str, layer: int) -> tuple[str, str]:
        """Two halves of the channels."""
        *outer, channels = self.tensors[x].shape
        halves = (f"{name}_a", f"{name}_b")
        self.tensors |= {half: Tensor(half, (*outer, channels // 2)) for half in halves}
        self.operators.append(Operator("split", name, (x,), halves, {"axis": 3}, layer))
        return halves

    def model(self, *outputs: str) -> Model:
        return Model("network", self.tensors, tuple(self.operators), tuple(self.inputs), outputs)


def chain(kind: str, layers: int, *shape: int) -> Model:
    """`layers` operators of one kind in a row, named a0, a1, ..."""
    network = Network()
    x = network.input("x", *shape)
    for i in range(layers):
        x = network.add(kind, f"a{i}", [x], i)
    return network.model(x)


def branched() -> Model:
    """Eight layers: two inputs, skips over one and over six layers, a split, four outputs, one of them read too."""
    net = Network()
    x, y = net.input("x", 1, 10, 10, 3), net.input("y", 1, 10, 10, 4)
    c0 = net.conv("c0", x, 8, 0)
    c1 = net.conv("c1", c0, 8, 1)
    c2 = net.conv("c2", c1, 8, 2)
    total = net.add("add", "sum", [c2, c0], 2)
    left, right = net.split("split", total, 3)
    c4 = net.conv("c4", left, 6, 4)
    c5 = net.conv("c5", y, 4, 5)
    mixed = net.add("multiply", "mixed", [c5, right], 5)
    c6 = net.conv("c6", mixed, 8, 6)
    joined = net.add("concat", "joined", [c6, c0, c1], 7, 1, 10, 10, 24, axis=3)
    c7 = net.conv("c7", joined, 5, 7)
    return net.model(c1, c4, c7, mixed)


def board(letters: str = "LBG", backend: str = "xnnpack", threads: int = 1) -> pn.Board:
    """CPUs 0 and 1 in turn for L, B, ...; the lower-case letters' backend is `backend`."""
    return pn.Board(
        "test",
        [
            pn.Processor(letter, "cpu", backend if letter.islower() else "xnnpack", [i % 2], threads)
            for i, letter in enumerate(letters)
        ],
    )


def frame(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, model.tensors[name].shape).astype(np.float32) for name in model.inputs}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """The same tensors, bit for bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.fixture(scope="session")
def networks() -> SimpleNamespace:
    """`Network`, `chain`, `branched`, `board`, `frame` and `same`."""
    return SimpleNamespace(Network=Network, chain=chain, branched=branched, board=board, frame=frame, same=same)
