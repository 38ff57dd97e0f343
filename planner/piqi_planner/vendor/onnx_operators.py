"""How each operator of the executor is said in ONNX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from piqi_planner.vendor.onnx_writer import OnnxWriter, onnx_name, writes
from piqi_runtime.model import Operator, Tensor

ARITHMETIC = {"add": "Add", "subtract": "Sub", "multiply": "Mul"}
UNARY = {"logistic": "Sigmoid", "tanh": "Tanh"}
#: Before the first element, for a slice that runs down to it.
LEAST = int(np.iinfo(np.int32).min)


def _pads(attributes: Mapping[str, Any]) -> list[int]:
    return [int(attributes.get(f"pad_{side}", 0)) for side in ("top", "left", "bottom", "right")]


def _pair(attributes: Mapping[str, Any], name: str) -> list[int]:
    return [int(attributes.get(f"{name}_{side}", 1)) for side in ("height", "width")]


def _window(attributes: Mapping[str, Any], kernel: Sequence[int]) -> dict[str, list[int]]:
    return {"kernel_shape": list(kernel), "strides": _pair(attributes, "stride"), "pads": _pads(attributes)}


def _bias(writer: OnnxWriter, op: Operator) -> list[str]:
    return [writer.constant(np.ravel(writer.tensor(name).data)) for name in op.inputs[2:]]  # type: ignore[arg-type]


def _weights(writer: OnnxWriter, op: Operator) -> Any:
    return np.asarray(writer.tensor(op.inputs[1]).data)


@writes("conv2d", "depthwise_conv2d")
def _convolution(writer: OnnxWriter, op: Operator) -> str:
    weights, attributes = _weights(writer, op), op.attributes
    if op.kind == "conv2d":  # [O, KH, KW, I / groups]
        group, kernel, weights = attributes.get("groups", 1), weights.shape[1:3], weights.transpose(0, 3, 1, 2)
    else:  # [1, KH, KW, C * multiplier]
        group, kernel = writer.tensor(op.inputs[0]).shape[3], weights.shape[1:3]
        weights = weights.transpose(3, 0, 1, 2)
    inputs = [writer.read(op.inputs[0]), writer.constant(weights), *_bias(writer, op)]
    window = _window(attributes, kernel)
    return writer.emit("Conv", inputs, group=group, dilations=_pair(attributes, "dilation"), **window)


@writes("transpose_conv2d")
def _transpose_convolution(writer: OnnxWriter, op: Operator) -> str:
    weights = _weights(writer, op)  # [O, KH, KW, I]
    x, y = (writer.tensor(name).shape for name in (op.inputs[0], op.outputs[0]))
    window = _window(op.attributes, weights.shape[1:3])
    kernel, strides, pads = window["kernel_shape"], window["strides"], window["pads"]
    # What the forward convolution, whose padding this is, leaves over at the ends.
    rest = [y[i + 1] - ((x[i + 1] - 1) * strides[i] - pads[i] - pads[i + 2] + kernel[i]) for i in (0, 1)]
    inputs = [writer.read(op.inputs[0]), writer.constant(weights.transpose(3, 0, 1, 2)), *_bias(writer, op)]
    return writer.emit("ConvTranspose", inputs, output_padding=rest, **window)


@writes("fully_connected")
def _fully_connected(writer: OnnxWriter, op: Operator) -> str:
    weights = _weights(writer, op)  # [O, I]
    x, y = writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0])
    rows, name = math.prod(x.shape) // weights.shape[1], writer.read(x.name)
    if x.shape != (rows, weights.shape[1]):
        name = writer.reshaped(writer.nhwc(name, x.shape), (rows, weights.shape[1]))
    name = writer.emit("Gemm", [name, writer.constant(weights), *_bias(writer, op)], transB=1)
    return name if y.shape == (rows, weights.shape[0]) else _reshape_to(writer, name, y)


@writes(*ARITHMETIC)
def _arithmetic(writer: OnnxWriter, op: Operator) -> str:
    rank = len(writer.tensor(op.outputs[0]).shape)
    operands = [_operand(writer, writer.tensor(name), rank) for name in op.inputs]
    return writer.emit(ARITHMETIC[op.kind], operands)


def _operand(writer: OnnxWriter, tensor: Tensor, rank: int) -> str:
    """A tensor as it broadcasts in NHWC to `rank` dimensions."""
    if len(tensor.shape) == rank or rank < 4:
        return writer.read(tensor.name)
    wide = (*[1] * (rank - len(tensor.shape)), *tensor.shape)
    if tensor.data is not None:
        data = tensor.data.reshape(wide)
        return writer.constant(data.transpose(0, 3, 1, 2) if rank == 4 else data)
    name = writer.nhwc(writer.read(tensor.name), tensor.shape)
    return writer.nchw(writer.reshaped(name, wide), wide)


@writes("concat")
def _concat(writer: OnnxWriter, op: Operator) -> str:
    rank = len(writer.tensor(op.outputs[0]).shape)
    axis = writer.axis(rank, int(op.attributes.get("axis", 0)))
    return writer.emit("Concat", [writer.read(name) for name in op.inputs], axis=axis)


@writes("split")
def _split(writer: OnnxWriter, op: Operator) -> str:
    x, axis = writer.tensor(op.inputs[0]), int(op.attributes.get("axis", 0))
    sizes = [writer.tensor(name).shape[axis] for name in op.outputs]
    outputs, axis = [onnx_name(name) for name in op.outputs], writer.axis(len(x.shape), axis)
    writer.emit_named("Split", [writer.read(x.name)], outputs, axis=axis, split=sizes)
    return ""


@writes("max_pool2d", "average_pool2d")
def _pool(writer: OnnxWriter, op: Operator) -> str:
    kind = "MaxPool" if op.kind == "max_pool2d" else "AveragePool"
    window = _window(op.attributes, [int(op.attributes[f"kernel_{side}"]) for side in ("height", "width")])
    return writer.emit(kind, [writer.read(op.inputs[0])], **window)


@writes("mean")
def _mean(writer: OnnxWriter, op: Operator) -> str:
    x, y = writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0])
    axes = sorted(int(axis) for axis in op.attributes.get("axes", ()))
    name, keeps = writer.read(x.name), len(x.shape) == len(y.shape)
    if len(x.shape) == 4 and axes == [1, 2]:
        name = writer.emit("GlobalAveragePool", [name])
        return name if keeps else writer.reshaped(name, y.shape)
    if len(x.shape) == 4 and keeps:
        axes = sorted(writer.axis(4, axis) for axis in axes)
        return writer.emit("ReduceMean", [name], axes=axes, keepdims=1)
    name = writer.emit("ReduceMean", [writer.nhwc(name, x.shape)], axes=axes, keepdims=int(keeps))
    return writer.nchw(name, y.shape)


@writes("pad")
def _pad(writer: OnnxWriter, op: Operator) -> str:
    x, attributes = writer.tensor(op.inputs[0]), op.attributes
    pads = np.array([attributes["pad_before"], attributes["pad_after"]], np.int64)
    if len(x.shape) == 4:
        pads = pads[:, [0, 3, 1, 2]]
    inputs = [writer.read(x.name), writer.constant(pads.ravel(), "int64")]
    return writer.emit("Pad", [*inputs, writer.constant(attributes.get("pad_value", 0.0))], mode="constant")


@writes("reshape")
def _reshape(writer: OnnxWriter, op: Operator) -> str:
    x = writer.tensor(op.inputs[0])
    return _reshape_to(writer, writer.nhwc(writer.read(x.name), x.shape), writer.tensor(op.outputs[0]))


def _reshape_to(writer: OnnxWriter, name: str, y: Tensor) -> str:
    """A value in NHWC as the tensor `y`."""
    return writer.nchw(writer.reshaped(name, y.shape), y.shape)


@writes("softmax")
def _softmax(writer: OnnxWriter, op: Operator) -> str:
    x = writer.tensor(op.inputs[0])
    # Before opset 13 it normalises all axes from the one that is named, hence the last.
    name = writer.nhwc(writer.read(x.name), x.shape)
    beta = float(op.attributes.get("beta", 1.0))
    if beta != 1:
        name = writer.emit("Mul", [name, writer.constant(beta)])
    return writer.nchw(writer.emit("Softmax", [name], axis=len(x.shape) - 1), x.shape)


@writes(*UNARY)
def _unary(writer: OnnxWriter, op: Operator) -> str:
    return writer.emit(UNARY[op.kind], [writer.read(op.inputs[0])])


@writes("clamp")
def _clamp(writer: OnnxWriter, op: Operator) -> str:
    return writer.read(op.inputs[0])  # every operator's clamp is written behind it


@writes("leaky_relu")
def _leaky_relu(writer: OnnxWriter, op: Operator) -> str:
    return writer.emit("LeakyRelu", [writer.read(op.inputs[0])], alpha=float(op.attributes.get("alpha", 0.0)))


@writes("hard_swish")
def _hard_swish(writer: OnnxWriter, op: Operator) -> str:
    x = writer.read(op.inputs[0])
    return writer.emit("Mul", [x, writer.emit("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])


@writes("local_response_normalization")
def _local_response_normalization(writer: OnnxWriter, op: Operator) -> str:
    attributes, size = op.attributes, 2 * int(op.attributes.get("radius", 0)) + 1
    factors = {
        "alpha": float(attributes.get("alpha", 0.0)) * size,  # ONNX takes the mean of the squares
        "beta": float(attributes.get("beta", 1.0)),
        "bias": float(attributes.get("bias", 0.0)),
    }
    return writer.emit("LRN", [writer.read(op.inputs[0])], size=size, **factors)


@writes("resize_nearest", "resize_bilinear")
def _resize(writer: OnnxWriter, op: Operator) -> str:
    x, y = writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0])
    align, centers = (bool(op.attributes.get(name)) for name in ("align_corners", "half_pixel_centers"))
    mode = {"coordinate_transformation_mode": "asymmetric"}
    if align or centers:
        mode["coordinate_transformation_mode"] = "align_corners" if align else "half_pixel"
    if op.kind == "resize_bilinear":
        mode["mode"] = "linear"
    else:  # TensorFlow's nearest pixel of a centre: rounded down before half a pixel is taken away
        mode |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil" if align or centers else "floor"}
    factors = [y.shape[axis] / x.shape[axis] for axis in (0, 3, 1, 2)]
    exact = all(factor == int(factor) for factor in factors)
    inputs = [writer.read(x.name), writer.constant([]), writer.constant(factors if exact else [])]
    if not exact:
        inputs.append(writer.constant([y.shape[axis] for axis in (0, 3, 1, 2)], "int64"))
    return writer.emit("Resize", inputs, **mode)


@writes("strided_slice")
def _strided_slice(writer: OnnxWriter, op: Operator) -> str:
    x, y = writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0])
    begin, size, strides = (op.attributes[name] for name in ("begin", "size", "strides"))
    cuts = []
    for axis, extent in enumerate(x.shape):
        last = begin[axis] + (size[axis] - 1) * strides[axis]
        end = last + 1 if strides[axis] > 0 else last - 1 if last else LEAST
        if (begin[axis], size[axis], strides[axis]) != (0, extent, 1):
            cuts.append((begin[axis], end, writer.axis(len(x.shape), axis), strides[axis]))
    name = writer.read(x.name)
    if cuts:
        name = writer.emit("Slice", [name, *(writer.constant(column, "int64") for column in zip(*cuts, strict=True))])
    elif tuple(size) == y.shape:
        name = writer.emit("Identity", [name])
    return name if tuple(size) == y.shape else _reshape_to(writer, writer.nhwc(name, size), y)


@writes("quantize")
def _quantize(writer: OnnxWriter, op: Operator) -> str:
    x, y = writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0])
    name = writer.read(x.name) if x.dtype == "float32" else _dequantized(writer, x)
    return writer.emit("QuantizeLinear", [name, *_parameters(writer, y)])


@writes("dequantize")
def _dequantize(writer: OnnxWriter, op: Operator) -> str:
    return _dequantized(writer, writer.tensor(op.inputs[0]))


def _dequantized(writer: OnnxWriter, tensor: Tensor) -> str:
    return writer.emit("DequantizeLinear", [writer.read(tensor.name), *_parameters(writer, tensor)])


def _parameters(writer: OnnxWriter, tensor: Tensor) -> list[str]:
    return [writer.constant(tensor.scales[0]), writer.constant(tensor.zero_point, tensor.dtype)]
