"""Lowerings of the operators with a window or a matrix: convolutions, fully connected, pools."""

from __future__ import annotations

import math

from piqi_planner.importer.lowering import Node, lowers
from piqi_runtime.model import Tensor

SAME, VALID = 0, 1


def _window(node: Node, size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int, int]:
    """Output size and the padding before and after, along one axis."""
    extent = (kernel - 1) * dilation + 1
    padding = node.option("Padding")
    if padding == VALID:
        output, before, after = (size - extent) // stride + 1, 0, 0
    elif padding == SAME:
        output = -(-size // stride)
        total = max((output - 1) * stride + extent - size, 0)
        before, after = total // 2, total - total // 2
    else:
        raise node.error(f"has the padding {padding}, which is neither SAME nor VALID")
    if output < 1:
        raise node.error(f"has a window of {extent} on an input of {size}")
    return output, before, after


def _windows(
    node: Node, spatial: tuple[int, ...], kernel: tuple[int, int], dilations: tuple[int, int] = (1, 1)
) -> tuple[tuple[int, int], dict[str, int]]:
    """Output height and width, and the attributes for strides and padding."""
    strides = node.positive("StrideH"), node.positive("StrideW")
    height, top, bottom = _window(node, spatial[0], kernel[0], strides[0], dilations[0])
    width, left, right = _window(node, spatial[1], kernel[1], strides[1], dilations[1])
    attributes = {
        "stride_height": strides[0],
        "stride_width": strides[1],
        "pad_top": top,
        "pad_left": left,
        "pad_bottom": bottom,
        "pad_right": right,
    }
    return (height, width), attributes


def _convolution(node: Node, x: Tensor, weights: Tensor, channels: int, kind: str, **more: int) -> None:
    dilations = node.positive("DilationHFactor"), node.positive("DilationWFactor")
    kernel = weights.shape[1], weights.shape[2]
    spatial, attributes = _windows(node, x.shape[1:3], kernel, dilations)
    inputs = (x, weights, *node.bias(2, x, channels))
    fused = node.option("FusedActivationFunction")
    dilation = {"dilation_height": dilations[0], "dilation_width": dilations[1]}
    shape = x.shape[0], *spatial, channels
    node.emit_activated(kind, inputs, shape, fused, **attributes, **dilation, **more)


@lowers("CONV_2D")
def _conv2d(node: Node) -> None:
    x = node.activation(0, rank=4)
    weights = node.weights(1, x, rank=4, channel_axis=0)
    channels, depth = weights.shape[0], weights.shape[3]
    groups = x.shape[3] // depth
    if x.shape[3] % depth or groups == 0 or channels % groups:
        raise node.error(f"has weights {weights.shape} for {x.shape[3]} input channels")
    _convolution(node, x, weights, channels, "conv2d", groups=groups)


@lowers("DEPTHWISE_CONV_2D")
def _depthwise_conv2d(node: Node) -> None:
    x = node.activation(0, rank=4)
    weights = node.weights(1, x, rank=4, channel_axis=3)
    channels = weights.shape[3]
    if weights.shape[0] != 1 or channels % x.shape[3]:
        raise node.error(f"has weights {weights.shape} for {x.shape[3]} input channels")
    _convolution(node, x, weights, channels, "depthwise_conv2d")


@lowers("TRANSPOSE_CONV")
def _transpose_conv2d(node: Node) -> None:
    shape = node.integers(0)
    x = node.activation(2, rank=4)
    weights = node.weights(1, x, rank=4, channel_axis=0)
    channels, depth = weights.shape[0], weights.shape[3]
    fits = len(shape) == 4 and min(shape) > 0 and shape[0] == x.shape[0] and shape[3] == channels
    if not fits or depth != x.shape[3]:
        raise node.error(f"has weights {weights.shape} that do not lead from {x.shape} to {tuple(shape)}")
    # The padding is that of the convolution that leads back.
    spatial, attributes = _windows(node, (shape[1], shape[2]), (weights.shape[1], weights.shape[2]))
    if spatial != x.shape[1:3]:
        raise node.error(f"leads from {spatial}, not from {x.shape[1:3]}, to {tuple(shape)}")
    inputs = (x, weights, *node.bias(3, x, channels))
    fused = node.option("FusedActivationFunction")
    node.emit_activated("transpose_conv2d", inputs, shape, fused, **attributes)


@lowers("FULLY_CONNECTED")
def _fully_connected(node: Node) -> None:
    x = node.activation(0)
    weights = node.weights(1, x, rank=2, channel_axis=0)
    channels, depth = weights.shape
    if node.option("WeightsFormat") != 0:
        raise node.error("has shuffled weights, which are not supported")
    if not x.shape or math.prod(x.shape) % depth:
        raise node.error(f"has weights {weights.shape} for an input {x.shape}")
    inputs = (x, weights, *node.bias(2, x, channels))
    shape: tuple[int, ...] = (math.prod(x.shape) // depth, channels)
    if node.option("KeepNumDims"):
        if x.shape[-1] != depth:
            raise node.error(f"keeps the dimensions of {x.shape} with weights {weights.shape}")
        shape = (*x.shape[:-1], channels)
    node.emit_activated("fully_connected", inputs, shape, node.option("FusedActivationFunction"))


@lowers("MAX_POOL_2D", "AVERAGE_POOL_2D")
def _pool(node: Node) -> None:
    x = node.activation(0, rank=4)
    kernel = node.positive("FilterHeight"), node.positive("FilterWidth")
    spatial, attributes = _windows(node, x.shape[1:3], kernel)
    kind = "max_pool2d" if node.kind == "MAX_POOL_2D" else "average_pool2d"
    attributes.update(kernel_height=kernel[0], kernel_width=kernel[1])
    shape = x.shape[0], *spatial, x.shape[3]
    node.emit_activated(kind, [x], shape, node.option("FusedActivationFunction"), **attributes)
