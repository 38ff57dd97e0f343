"""The same network for several frames at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from piqi_runtime.model import COMPUTE_KINDS, Model, Operator, Tensor

#: Attributes that hold one value for each dimension, and what a batch of one must have in the first.
_PER_DIMENSION = {"pad_before": 0, "pad_after": 0, "begin": 0, "size": 1, "strides": 1}
_BROADCASTING = ("add", "subtract", "multiply")


def with_batch(model: Model, frames: int) -> Model | None:
    """`model`, whose tensors hold one frame each, for `frames` at once; None where that cannot be done.

    Every frame's outputs are bit for bit those of `model`: kernels treat the rows of a batch alike.
    """
    if frames == 1:
        return model
    active = {name: t for name, t in model.tensors.items() if t.data is None}
    if any(not t.shape or t.shape[0] != 1 for t in active.values()):
        return None
    if not all(_keeps_frames(op, [model.tensors[name] for name in op.inputs]) for op in model.operators):
        return None
    tensors = {name: replace(t, shape=(frames, *t.shape[1:])) for name, t in active.items()}
    operators = tuple(replace(op, attributes=_attributes(op.attributes, frames)) for op in model.operators)
    return replace(model, tensors={**model.tensors, **tensors}, operators=operators)


def _keeps_frames(op: Operator, inputs: Sequence[Tensor]) -> bool:
    """True if the operator treats the first dimension as a batch."""
    active = [tensor for tensor in inputs if tensor.data is None]
    if not active or (op.kind in COMPUTE_KINDS and len(active) > 1):
        return False
    if op.kind == "concat" and len(active) < len(inputs):
        return False  # what is constant holds one frame
    rank = max(len(tensor.shape) for tensor in inputs)
    if op.kind in _BROADCASTING and any(len(tensor.shape) < rank for tensor in active):
        return False
    if op.kind in ("concat", "split") and op.attributes.get("axis", 0) == 0:
        return False
    if op.kind == "mean" and 0 in op.attributes.get("axes", ()):
        return False
    return all(op.attributes[name][0] == value for name, value in _PER_DIMENSION.items() if op.attributes.get(name))


def _attributes(attributes: Mapping[str, Any], frames: int) -> Mapping[str, Any]:
    if not attributes.get("size"):
        return attributes
    return {**attributes, "size": [frames, *attributes["size"][1:]]}
