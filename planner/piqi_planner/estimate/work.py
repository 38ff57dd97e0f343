"""Work: what an operator makes a processor do, in units that a rate can be given for.

- `layer`, `operator`: 1 for each: launch and synchronisation.
- `gemm`: MACs of a convolution as a matrix product; rows and columns padded to 4 on a CPU or GPU.
- `winograd`, `transform`: MACs of a 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3), elements it transforms.
- `gather`: elements that a larger kernel gathers (im2col).
- `activation`, `weight`: elements that a convolution reads and writes, elements of its weights.
- `vector`: weights of a matrix-vector product: fully connected, or a convolution of one pixel.
- `window`: elements that depthwise convolutions and pools read, each as often as it is read.
- `elementwise`, `transcendental`: elements read and written by all other operators; by those with exp or pow.

That a convolution is done by Winograd, by a matrix product, and so on, follows the Arm Compute Library's choice. An NPU
has fused what is inside a layer: its `activation` is what crosses the layer's border, `gemm` the plain MACs.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from piqi_planner.estimate.parameters import WorkKind
from piqi_planner.layers import LayerInfo, describe_layers, operator_macs
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

WORK_KINDS: tuple[WorkKind, ...] = WorkKind.__args__  # type: ignore[attr-defined]

_FREE = frozenset({"reshape"})
_TRANSCENDENTAL = frozenset({"local_response_normalization", "logistic", "softmax", "tanh", "hard_swish"})
_TILE, _WINDOW = 4, 6  # Winograd's outputs and inputs a side
_WINOGRAD_MIN_CHANNELS = 16


@dataclass(frozen=True)
class LayerWork:
    """`work`: units by kind. Elements that come in and go out; `bytes_sent`: float32, once for each later layer
    that reads them.
    """

    work: Counter[WorkKind]
    elements_in: int
    elements_out: int
    bytes_sent: int


def describe_work(model: Model, npu: bool = False) -> list[LayerWork]:
    """One entry for each layer of a model whose layers are assigned. `npu`: counts as an NPU works."""
    infos = describe_layers(model)
    works: list[Counter[WorkKind]] = [Counter({"layer": 1}) for _ in infos]
    for op in model.operators:
        if op.kind not in _FREE:
            works[op.layer].update(_npu_work(model, op) if npu else operator_work(model, op))
    if npu:
        for work, info in zip(works, infos, strict=True):
            work["activation"] = _elements(info, "input") + _elements(info, "output")
    sent = _bytes_sent(model)
    return [
        LayerWork(work, _elements(info, "input"), _elements(info, "output"), size)
        for work, info, size in zip(works, infos, sent, strict=True)
    ]


def _npu_work(model: Model, op: Operator) -> Counter[WorkKind]:
    if op.kind not in COMPUTE_KINDS:
        return Counter()
    macs: WorkKind = "window" if op.kind == "depthwise_conv2d" else "gemm"
    return Counter({macs: operator_macs(model, op), "weight": math.prod(model.tensors[op.inputs[1]].shape)})


def operator_work(model: Model, op: Operator) -> Counter[WorkKind]:
    """Units of work of one operator on a CPU or GPU."""
    tensors = model.tensors
    read = [tensors[name] for name in op.inputs if name and tensors[name].data is None]
    output = tensors[op.outputs[0]].shape
    moved = sum(math.prod(t.shape) for t in read) + sum(math.prod(tensors[name].shape) for name in op.outputs)
    work: Counter[WorkKind] = Counter({"operator": 1})
    pixels = math.prod(output[1:3]) if len(output) == 4 else 1
    if op.kind == "fully_connected" or (op.kind == "conv2d" and pixels == 1):
        work["vector"] = math.prod(tensors[op.inputs[1]].shape)
    elif op.kind in ("conv2d", "transpose_conv2d"):
        work["activation"] = moved
        work.update(_convolution(model, op))
    elif op.kind == "depthwise_conv2d":
        kernel = tensors[op.inputs[1]].shape
        work["window"] = math.prod(output) * kernel[1] * kernel[2]
        work["activation"], work["weight"] = moved, math.prod(kernel)
    elif op.kind in ("max_pool2d", "average_pool2d"):
        work["window"] = (
            math.prod(output) * op.attributes.get("kernel_height", 1) * op.attributes.get("kernel_width", 1)
        )
        work["elementwise"] = moved
    else:
        work["transcendental" if op.kind in _TRANSCENDENTAL else "elementwise"] = moved
    return work


def _convolution(model: Model, op: Operator) -> Counter[WorkKind]:
    filters, height, width, depth = model.tensors[op.inputs[1]].shape
    source, output = model.tensors[op.inputs[0]].shape, model.tensors[op.outputs[0]].shape
    groups = op.attributes.get("groups", 1)
    work: Counter[WorkKind] = Counter({"weight": filters * height * width * depth})
    steps = [op.attributes.get(f"{name}_{side}", 1) for name in ("stride", "dilation") for side in ("height", "width")]
    grid = source if op.kind == "transpose_conv2d" else output  # the pixels that meet the whole window
    rows, columns = grid[1] * grid[2], filters // groups
    if groups > 1:  # split, one convolution each, concatenated
        work["operator"] = groups - 1
        work["elementwise"] = 2 * (math.prod(source) + math.prod(output))
    if (height, width) == (3, 3) and max(steps) == 1 and depth >= _WINOGRAD_MIN_CHANNELS and grid is output:
        tiles = groups * math.ceil(output[1] / _TILE) * math.ceil(output[2] / _TILE)
        work["winograd"] = _padded(tiles // groups) * groups * _WINDOW**2 * depth * columns
        work["transform"] = tiles * _WINDOW**2 * (depth + columns)
        return work
    work["gemm"] = groups * _padded(rows) * _padded(columns) * height * width * depth
    if (height, width) != (1, 1):
        work["gather"] = groups * rows * height * width * depth
    return work


def _padded(count: int) -> int:
    return -(-count // 4) * 4


def _elements(info: LayerInfo, side: str) -> int:
    return sum(math.prod(shape) for shape in (info.input_shapes if side == "input" else info.output_shapes))


def _bytes_sent(model: Model) -> list[int]:
    sent = [0] * model.layer_count
    readers: dict[str, set[int]] = {}
    for op in model.operators:
        for name in op.inputs:
            readers.setdefault(name, set()).add(op.layer)
    for op in model.operators:
        for name in op.outputs:
            later = {layer for layer in readers.get(name, ()) if layer > op.layer}
            sent[op.layer] += len(later) * math.prod(model.tensors[name].shape) * 4
    return sent
