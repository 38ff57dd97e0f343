"""Weights of the compute operators, whatever their layout, seen as [output channels] and [input channels]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

INFINITY = float("inf")


def clamp_bounds(op: Operator) -> tuple[float, float]:
    """The activation fused into `op`: lower and upper bound."""
    return float(op.attributes.get("clamp_min", -INFINITY)), float(op.attributes.get("clamp_max", INFINITY))


def compute_operators(model: Model) -> list[Operator]:
    """The operators with weights, in the model's order."""
    return [op for op in model.operators if op.kind in COMPUTE_KINDS]


def consumers(model: Model) -> dict[str, list[Operator]]:
    """Tensor name -> the operators that take it, once for each time they do."""
    result: dict[str, list[Operator]] = {name: [] for name in model.tensors}
    for op in model.operators:
        for name in op.inputs:
            result[name].append(op)
    return result


@dataclass(frozen=True)
class WeightView:
    """How an operator's weights [O, KH, KW, I], depthwise [1, KH, KW, C * multiplier] or [O, I] meet its
    channels."""

    op: Operator
    shape: tuple[int, ...]
    input_channels: int  # of x; of a fully connected operator: features

    @classmethod
    def of(cls, model: Model, op: Operator) -> WeightView:
        shape = model.tensors[op.inputs[1]].shape
        features = op.kind == "fully_connected"
        return cls(op, shape, shape[-1] if features else model.tensors[op.inputs[0]].shape[-1])

    @property
    def is_depthwise(self) -> bool:
        return self.op.kind == "depthwise_conv2d"

    @property
    def output_axis(self) -> int:
        return len(self.shape) - 1 if self.is_depthwise else 0

    @property
    def output_channels(self) -> int:
        return self.shape[self.output_axis]

    def along_outputs(self, values: Array) -> Array:
        """`values` [O] in a shape that broadcasts with the weights."""
        shape = [1] * len(self.shape)
        shape[self.output_axis] = -1
        return values.reshape(shape)

    def along_inputs(self, values: Array) -> Array:
        """`values` [..., C] of the input channels, [C] or [KH, KW, C], in a shape that broadcasts with the
        weights."""
        if self.is_depthwise:
            return np.repeat(values, self.shape[-1] // self.input_channels, axis=-1)[None]
        groups = int(self.op.attributes.get("groups", 1))
        if groups == 1:
            return values[None]
        split = np.moveaxis(values.reshape(*values.shape[:-1], groups, -1), -2, 0)  # [G, ..., I]
        split = np.repeat(split, self.shape[0] // groups, axis=0)
        return split.reshape(self.shape[0], *((1, 1) if values.ndim == 1 else ()), *split.shape[1:])

    def output_ranges(self, weights: Floats) -> Floats:
        """Largest magnitude of the weights that make each output channel, [O]."""
        axes = tuple(i for i in range(weights.ndim) if i != self.output_axis)
        return np.asarray(np.abs(weights).max(axis=axes), np.float64)

    def input_ranges(self, weights: Floats) -> Floats:
        """Largest magnitude of the weights that each input channel meets, [C]."""
        magnitudes = (
            np.abs(weights).max(axis=tuple(range(1, weights.ndim - 1))) if weights.ndim > 2 else np.abs(weights)
        )
        if self.is_depthwise:
            ranges = magnitudes.reshape(self.input_channels, -1).max(axis=1)
        else:
            groups = int(self.op.attributes.get("groups", 1))
            ranges = magnitudes.reshape(groups, -1, magnitudes.shape[-1]).max(axis=1).ravel()
        return np.asarray(ranges, np.float64)
