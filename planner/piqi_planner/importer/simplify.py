"""Rewrites that make the network smaller and leave what it computes as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from piqi_planner.importer.errors import ModelError
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

TAKES_PADDING = frozenset({"conv2d", "depthwise_conv2d"})
TAKES_CLAMP = COMPUTE_KINDS | {"add", "subtract", "multiply"}


def simplify(model: Model) -> Model:
    """Folds zero padding and clamps into convolutions; drops needless reshapes and what no output needs."""
    operators = needed_operators(model, merge_reshapes(model))
    operators = fuse_clamps(model, fold_pads(model, operators))
    used = {name for op in operators for name in (*op.inputs, *op.outputs)} | {*model.inputs, *model.outputs}
    tensors = {name: tensor for name, tensor in model.tensors.items() if name in used}
    return replace(model, operators=tuple(operators), tensors=tensors)


def merge_reshapes(model: Model) -> list[Operator]:
    """A chain of reshapes becomes its last one, and none where that one changes nothing."""
    source: dict[str, str] = {}  # a reshaped tensor -> what it was before all reshapes
    same: dict[str, str] = {}  # the same, where the shape is as before
    result = []
    for op in model.operators:
        op = replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        if op.kind == "reshape":
            first = source.get(op.inputs[0], op.inputs[0])
            before, after = model.tensors[first], model.tensors[op.outputs[0]]
            if (before.scales, before.zero_point) == (after.scales, after.zero_point):
                source[after.name] = first
                op = replace(op, inputs=(first,))
                if before.shape == after.shape and after.name not in model.outputs:
                    same[after.name] = first
                    continue
        result.append(op)
    return result


def needed_operators(model: Model, operators: list[Operator]) -> list[Operator]:
    """The operators that an output depends on. Raises ModelError for an output that no operator makes."""
    needed = set(model.outputs)
    kept = []
    for op in reversed(operators):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    missing = needed.intersection(model.outputs) - {name for op in kept for name in op.outputs}
    if missing:
        raise ModelError(f"output {sorted(missing)[0]!r} is an input or a constant: no operator makes it")
    return kept[::-1]


def fold_pads(model: Model, operators: list[Operator]) -> list[Operator]:
    """A pad with zeros in height and width becomes padding of the one convolution that reads it."""
    uses = _uses(model, operators)
    pads = {op.outputs[0]: op for op in operators if op.kind == "pad" and _is_spatial_zero(op)}
    folded: set[str] = set()
    result = []
    for op in operators:
        pad = pads.get(op.inputs[0])
        if pad and op.kind in TAKES_PADDING and uses[pad.outputs[0]] == 1:
            folded.add(pad.outputs[0])
            op = replace(op, inputs=(pad.inputs[0], *op.inputs[1:]), attributes=_padded(op, pad))
        result.append(op)
    return [op for op in result if op.outputs[0] not in folded]


def _is_spatial_zero(op: Operator) -> bool:
    around = [*op.attributes["pad_before"], *op.attributes["pad_after"]]
    return len(around) == 8 and op.attributes["pad_value"] == 0 and not any(around[i] for i in (0, 3, 4, 7))


def _padded(op: Operator, pad: Operator) -> dict[str, Any]:
    attributes = dict(op.attributes)
    sides = ("pad_top", 1, "pad_before"), ("pad_left", 2, "pad_before"), ("pad_bottom", 1, "pad_after")
    for side, axis, end in (*sides, ("pad_right", 2, "pad_after")):
        attributes[side] = attributes.get(side, 0) + pad.attributes[end][axis]
    return attributes


def fuse_clamps(model: Model, operators: list[Operator]) -> list[Operator]:
    """A clamp behind the one operator that feeds it, of a kind that can clamp, becomes that operator's."""
    uses = _uses(model, operators)
    producer = {name: position for position, op in enumerate(operators) for name in op.outputs}
    result: list[Operator | None] = list(operators)
    for position, op in enumerate(operators):
        if op.kind != "clamp" or op.inputs[0] not in producer:
            continue
        source = producer[op.inputs[0]]
        before = result[source]
        inner, outer = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
        same = (inner.scales, inner.zero_point) == (outer.scales, outer.zero_point)
        if before is None or before.kind not in TAKES_CLAMP or uses[inner.name] != 1 or not same:
            continue
        if "clamp_min" in before.attributes or "clamp_max" in before.attributes:
            continue
        result[source] = replace(before, outputs=op.outputs, attributes={**before.attributes, **op.attributes})
        result[position] = None
    return [op for op in result if op is not None]


def _uses(model: Model, operators: Iterable[Operator]) -> Counter[str]:
    """How often each tensor is read, the world outside included."""
    return Counter([*(name for op in operators for name in op.inputs), *model.outputs])
