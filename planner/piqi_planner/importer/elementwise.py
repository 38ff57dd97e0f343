"""Lowerings of the operators that work element by element, or nearly so: sums, activations, quantisation."""

from __future__ import annotations

import numpy as np

from piqi_planner.importer.flatfile import Array
from piqi_planner.importer.lowering import CLAMPS, Node, lowers

ARITHMETIC = {"ADD": "add", "SUB": "subtract", "MUL": "multiply"}
UNARY = {"LOGISTIC": "logistic", "TANH": "tanh", "HARD_SWISH": "hard_swish"}
RELUS = {"RELU": CLAMPS[1], "RELU6": CLAMPS[3], "RELU_N1_TO_1": CLAMPS[2], "RELU_0_TO_1": (0.0, 1.0)}


@lowers(*ARITHMETIC)
def _arithmetic(node: Node) -> None:
    a, b = node.activation(0), node.activation(1)
    if a.dtype != b.dtype:
        raise node.error(f"mixes types: {a.dtype} and {b.dtype}")
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise node.error(f"cannot broadcast {a.shape} and {b.shape}") from None
    node.emit_activated(ARITHMETIC[node.kind], [a, b], shape, node.option("FusedActivationFunction"))


@lowers(*UNARY)
def _unary(node: Node) -> None:
    x = node.activation(0)
    node.emit(UNARY[node.kind], [x], x.shape)


@lowers(*RELUS)
def _relu(node: Node) -> None:
    x = node.activation(0)
    low, high = RELUS[node.kind]
    bounds = {"clamp_min": low} if np.isinf(high) else {"clamp_min": low, "clamp_max": high}
    node.emit("clamp", [x], x.shape, **bounds)


@lowers("LEAKY_RELU")
def _leaky_relu(node: Node) -> None:
    x = node.activation(0)
    node.emit("leaky_relu", [x], x.shape, alpha=_finite(node, "Alpha"))


@lowers("PRELU")
def _prelu(node: Node) -> None:
    x, alpha = node.activation(0), node.constant(1)
    if x.dtype != "float32" or alpha.dtype != np.float32 or alpha.size == 0:
        raise node.error(f"has {x.dtype} input and {alpha.dtype} slopes, which is not supported")
    slope = float(alpha.flat[0])
    if not np.isfinite(slope) or np.any(alpha != alpha.flat[0]):
        raise node.error("has slopes that differ between channels: only one slope (leaky relu) is supported")
    if np.broadcast_shapes(x.shape, alpha.shape) != x.shape:
        raise node.error(f"has slopes {alpha.shape} for an input {x.shape}")
    node.emit("leaky_relu", [x], x.shape, alpha=slope)


@lowers("SOFTMAX")
def _softmax(node: Node) -> None:
    x = node.activation(0)
    if not x.shape:
        raise node.error("has an input without dimensions")
    node.emit("softmax", [x], x.shape, beta=_finite(node, "Beta"))


@lowers("LOCAL_RESPONSE_NORMALIZATION")
def _local_response_normalization(node: Node) -> None:
    x = node.activation(0, rank=4)
    radius = int(node.option("Radius"))
    if not 0 <= radius <= 2**16:
        raise node.error(f"has the radius {radius}")
    attributes = {name.lower(): _finite(node, name) for name in ("Bias", "Alpha", "Beta")}
    node.emit("local_response_normalization", [x], x.shape, radius=radius, **attributes)


@lowers("QUANTIZE")
def _quantize(node: Node) -> None:
    x = node.activation(0)
    node.emit("quantize", [x], x.shape)


@lowers("DEQUANTIZE")
def _dequantize(node: Node) -> None:
    x = node.input(0)
    if x.data is None:
        x = node.activation(0)
        node.emit("dequantize", [x], x.shape)
    elif x.dtype == "float16":
        node.fold(x.data.astype(np.float32))
    else:
        node.fold(_dequantized(node, x.data))


def _dequantized(node: Node, stored: Array) -> Array:
    x = node.input(0)
    if x.dtype not in ("int8", "uint8") or not x.scales:
        raise node.error(f"has a {x.dtype} constant with {len(x.scales)} scales, which is not supported")
    scales = np.array(x.scales, np.float32)
    if scales.size > 1:
        shape = [1] * stored.ndim
        shape[node.axis(node.channel_axis(0), stored.ndim)] = scales.size
        scales = scales.reshape(shape)
    values: Array = (stored.astype(np.int32) - x.zero_point) * scales
    if values.shape != stored.shape:
        raise node.error(f"has {scales.size} scales for a constant {stored.shape}")
    return values.astype(np.float32)


def _finite(node: Node, name: str) -> float:
    value = float(node.option(name))
    if not np.isfinite(value):
        raise node.error(f"has {name} {value}, which is not finite")
    return value
