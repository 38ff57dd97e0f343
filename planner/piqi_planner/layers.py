"""Layers: the units that are mapped to processors.

A layer is a *compute* operator (`COMPUTE_KINDS`: convolutions and fully connected) and the cheap ones behind
it. The layer number never falls along an edge of the network, however it branches, so that any run of layers
can be cut out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from piqi_runtime.errors import PiqiError
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

Cut = int | str


class LayerError(PiqiError):
    """Cut points that do not fit the network."""

    exit_code = 2


@dataclass(frozen=True)
class LayerInfo:
    """What a layer is and costs. Inputs and outputs are the activations that cross its border."""

    number: int
    name: str
    operators: tuple[str, ...]  # their kinds
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    macs: int
    parameters: int
    bytes_in: int
    bytes_out: int


def parse_layers(text: str) -> str | list[Cut]:
    """What ``--layers`` means: ``conv``, ``block``, or cut points (numbers or names) between commas."""
    if text in ("conv", "block"):
        return text
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.isdecimal() else part for part in parts if part]


def assign_layers(model: Model, mode: str | Sequence[Cut] = "conv") -> Model:
    """The same network with its operators in layers, numbered in file order.

    ``conv``: every compute operator starts a layer; every other operator joins the highest layer among those
    it reads from (layer 0 before the first).
    ``block``: besides, a depthwise convolution and the pointwise one behind it are one layer, with a
    squeeze-and-excite between them, and a classifier head joins the last block.
    Cut points: a layer starts at each. A number n is the layer n of ``conv``, a string is the name of an
    operator, from which on (in file order) all belong behind the cut. Raises LayerError.
    """
    if isinstance(mode, str):
        if mode not in ("conv", "block"):
            raise LayerError(f"layers {mode!r}: expected conv, block or a list of cut points")
        return model.with_layers(_by_compute(model, join_blocks=mode == "block"))
    return model.with_layers(_by_cuts(model, mode))


def describe_layers(model: Model) -> list[LayerInfo]:
    """One entry for each layer of a model whose layers are assigned, in order."""
    members: list[list[Operator]] = [[] for _ in range(model.layer_count)]
    for op in model.operators:
        members[op.layer].append(op)
    layer_of = {name: op.layer for op in model.operators for name in op.outputs}
    crossing = set(model.outputs)
    for op in model.operators:
        crossing.update(name for name in op.inputs if layer_of.get(name, op.layer) != op.layer)
    return [_describe(model, number, ops, layer_of, crossing) for number, ops in enumerate(members)]


def operator_macs(model: Model, op: Operator) -> int:
    """Multiply-accumulates of a compute operator; 0 for any other."""
    if op.kind not in COMPUTE_KINDS:
        return 0
    weights = model.tensors[op.inputs[1]].shape
    output = math.prod(model.tensors[op.outputs[0]].shape)
    if op.kind == "depthwise_conv2d":
        return output * weights[1] * weights[2]
    if op.kind == "transpose_conv2d":  # every input element meets the whole window of every output channel
        return math.prod(model.tensors[op.inputs[0]].shape) * weights[0] * weights[1] * weights[2]
    return output * math.prod(weights[1:])


def _describe(
    model: Model, number: int, ops: list[Operator], layer_of: dict[str, int], crossing: set[str]
) -> LayerInfo:
    read = dict.fromkeys(name for op in ops for name in op.inputs)
    constants = [model.tensors[name] for name in read if model.tensors[name].data is not None]
    inputs = [
        model.tensors[name] for name in read if model.tensors[name].data is None and layer_of.get(name, -1) != number
    ]
    outputs = [model.tensors[name] for op in ops for name in op.outputs if name in crossing]
    leader = next((op for op in ops if op.kind in COMPUTE_KINDS), ops[0])
    return LayerInfo(
        number,
        leader.name,
        tuple(op.kind for op in ops),
        tuple(t.shape for t in inputs),
        tuple(t.shape for t in outputs),
        sum(operator_macs(model, op) for op in ops),
        sum(math.prod(t.shape) for t in constants),
        sum(t.size_bytes for t in inputs),
        sum(t.size_bytes for t in outputs),
    )


def _by_compute(model: Model, join_blocks: bool) -> list[int]:
    layers: list[int] = []
    layer_of: dict[str, int] = {}
    blocks = _Blocks(model) if join_blocks else None
    count = 0
    for op in model.operators:
        layer = max((layer_of.get(name, 0) for name in op.inputs), default=0)
        if op.kind in COMPUTE_KINDS and not (blocks and count and blocks.joins(op, layer)):
            layer = count
            count += 1
            if blocks and op.kind == "depthwise_conv2d":
                blocks.open(layer, op)
        layers.append(layer)
        layer_of.update(dict.fromkeys(op.outputs, layer))
    return layers


class _Blocks:
    """Decides which compute operators belong to the layer they read from."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._heads = _heads(model)
        self._open: dict[int, bool] = {}  # layer without its pointwise convolution yet -> its output is 1x1

    def open(self, layer: int, depthwise: Operator) -> None:
        """`layer` starts with this depthwise convolution."""
        self._open[layer] = _spatial(self._model, depthwise.outputs[0]) == (1, 1)

    def joins(self, op: Operator, layer: int) -> bool:
        """True if `op`, whose highest producer is in `layer`, belongs there."""
        if op.name in self._heads:
            return True
        if layer not in self._open or op.kind == "depthwise_conv2d":
            return False
        if not self._open[layer] and _spatial(self._model, op.inputs[0]) == (1, 1):
            return True  # squeeze and excite
        pointwise = op.kind == "conv2d" and self._model.tensors[op.inputs[1]].shape[1:3] == (1, 1)
        if pointwise:
            del self._open[layer]
        return pointwise


def _heads(model: Model) -> set[str]:
    """Names of the compute operators on a 1x1 input that no compute operator follows."""
    followed: set[str] = set()  # tensors on a way to a compute operator
    heads = set()
    for op in reversed(model.operators):
        if op.kind in COMPUTE_KINDS:
            if followed.isdisjoint(op.outputs) and _spatial(model, op.inputs[0]) == (1, 1):
                heads.add(op.name)
            followed.update(op.inputs)
        elif not followed.isdisjoint(op.outputs):
            followed.update(op.inputs)
    return heads


def _spatial(model: Model, name: str) -> tuple[int, ...]:
    """Height and width; a flat tensor is one pixel."""
    shape = model.tensors[name].shape
    return shape[1:3] if len(shape) == 4 else (1, 1)


def _by_cuts(model: Model, cuts: Sequence[Cut]) -> list[int]:
    conv_layers = np.array(_by_compute(model, join_blocks=False), np.int64)
    positions = {op.name: position for position, op in enumerate(model.operators)}
    count = int(conv_layers.max(initial=-1)) + 1
    layers = np.zeros(len(conv_layers), np.int64)
    for cut in cuts:
        if isinstance(cut, bool) or not isinstance(cut, int | str):
            raise LayerError(f"cut point {cut!r}: expected a layer number or an operator's name")
        if isinstance(cut, int) and not 0 < cut < count:
            raise LayerError(f"cut point {cut}: expected a layer from 1 to {count - 1}")
        if isinstance(cut, str) and not positions.get(cut, 0) > 0:
            raise LayerError(f"cut point {cut!r}: no such operator behind the first")
        # Both rise along every edge, and so does their sum.
        behind = conv_layers >= cut if isinstance(cut, int) else np.arange(len(layers)) >= positions[cut]
        layers += behind
    present = np.unique(layers)
    if len(present) != len(cuts) + 1:
        raise LayerError(f"cut points {list(cuts)}: two of them cut at the same place")
    return [int(n) for n in layers]
