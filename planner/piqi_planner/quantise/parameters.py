"""Quantisation parameters of activations: one scale and zero point a tensor, chosen for the whole network.

The rules are TensorFlow Lite's. Zero has an exact stored value. What only moves, picks or interpolates values
shares the parameters of its input, and so does a clamp whose input nobody else takes (saturation then is the
clamp). A concat's inputs share its output's where nothing else takes them. Softmax and logistic give [0, 1)
in steps of 1/256, tanh [-1, 1) in steps of 1/128.

XNNPACK, like the vendors' NPUs, multiplies by a ratio of scales in fixed point; `LIMITS` says which ratios it
takes. A tensor whose scale makes a ratio too large or too small is given a wider range: a little resolution
is lost where tensors differ by many orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from piqi_planner.quantise.calibrate import Calibration
from piqi_planner.quantise.errors import QuantisationError
from piqi_planner.quantise.operators import compute_operators, consumers
from piqi_planner.quantise.schemes import Scheme
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

SAME_SCALE_KINDS = frozenset(
    {
        "reshape",
        "pad",
        "strided_slice",
        "split",
        "max_pool2d",
        "average_pool2d",
        "resize_nearest",
        "resize_bilinear",
    }
)
#: Kind -> (scale, lowest value) of an output that is the same whatever the data.
FIXED_OUTPUTS = {"softmax": (1 / 256, 0.0), "logistic": (1 / 256, 0.0), "tanh": (1 / 128, -1.0)}
#: Kind -> [least, bound) of the ratio: product of input scales / output scale; add and subtract: of each input.
LIMITS = {
    **dict.fromkeys(COMPUTE_KINDS, (2.0**-32, 2.0**8)),
    **dict.fromkeys(("add", "subtract"), (2.0**-10, 2.0**8)),
    "multiply": (2.0**-16, 2.0**8),
}
MIN_RANGE = 1e-6  # of a tensor that is always zero
SLACK = 1 + 2.0**-20  # scales are rounded to single precision


@dataclass(frozen=True)
class Affine:
    """real = scale * (stored - zero_point); `scale` is a single-precision number."""

    scale: float
    zero_point: int

    def limits(self, scheme: Scheme) -> tuple[float, float]:
        """The lowest and the highest real value that can be stored."""
        stored = (scheme.activation_min, scheme.activation_max)
        low, high = (self.scale * (value - self.zero_point) for value in stored)
        return low, high


class _Groups:
    """Tensors that share parameters: disjoint sets."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self._parents = {name: name for name in names}

    def find(self, name: str) -> str:
        while (parent := self._parents[name]) != name:
            self._parents[name] = name = self._parents[parent]
        return name

    def join(self, a: str, b: str) -> None:
        self._parents[self.find(a)] = self.find(b)


def choose_parameters(
    model: Model, calibration: Calibration, scheme: Scheme, weight_scales: Mapping[str, float]
) -> dict[str, Affine]:
    """Parameters of every tensor but weights and biases, constant operands included, by name.

    `weight_scales`: the largest scale of a compute operator's weights, by its output. Raises
    QuantisationError naming the operator whose scales XNNPACK cannot bring together.
    """
    takers = consumers(model)
    makers = model.producers()
    groups, hidden = _form_groups(model, takers)
    names = [name for name in groups if makers.get(name) or takers[name] or name in model.outputs]
    ranges: dict[str, tuple[float, float]] = {}
    fixed: dict[str, tuple[float, float]] = {}
    for name in names:
        root = groups[name]
        maker = makers.get(name)
        if maker is not None and maker.kind in FIXED_OUTPUTS:
            fixed[root] = FIXED_OUTPUTS[maker.kind]
        if name not in hidden:
            low, high = ranges.get(root, (0.0, 0.0))
            least, most = _range_of(model, calibration, name)
            ranges[root] = min(low, least), max(high, most)
        if maker is not None and maker.kind == "pad":
            value = float(maker.attributes.get("pad_value", 0.0))
            ranges[root] = min(ranges[root][0], value), max(ranges[root][1], value)
    scales = {}
    for root, (low, high) in ranges.items():
        scales[root] = fixed[root][0] if root in fixed else max(high - low, MIN_RANGE) / scheme.steps
    _widen(model, groups, scales, weight_scales)
    result = {}
    for name in names:
        root = groups[name]
        scale = float(np.float32(scales[root]))
        low, high = (fixed[root][1], 0.0) if root in fixed else ranges[root]
        if root not in fixed and low < 0:
            low *= scale * scheme.steps / (high - low)  # ranges are widened about zero
        zero_point = round(scheme.activation_min - low / scale)
        result[name] = Affine(scale, int(np.clip(zero_point, scheme.activation_min, scheme.activation_max)))
    return result


def _form_groups(model: Model, takers: Mapping[str, list[Operator]]) -> tuple[dict[str, str], set[str]]:
    """Root of each activation's group, and the tensors whose own range does not count."""
    weights = {name for op in compute_operators(model) for name in op.inputs[1:]}
    activations = {name: None for name in model.tensors if name not in weights}
    groups, hidden = _Groups(activations), set()

    def sole(name: str) -> bool:
        return len(takers[name]) == 1 and name not in model.outputs

    for op in model.operators:
        if op.kind in SAME_SCALE_KINDS:
            for name in op.outputs:
                groups.join(name, op.inputs[0])
        elif op.kind == "clamp" and sole(op.inputs[0]):
            groups.join(op.outputs[0], op.inputs[0])
            hidden.add(op.inputs[0])
    fixed = {groups.find(name) for op in model.operators if op.kind in FIXED_OUTPUTS for name in op.outputs}
    for op in model.operators:
        if op.kind != "concat":
            continue
        for name in op.inputs:
            if sole(name) and groups.find(name) not in fixed and groups.find(op.outputs[0]) not in fixed:
                groups.join(name, op.outputs[0])
    return {name: groups.find(name) for name in activations}, hidden


def _range_of(model: Model, calibration: Calibration, name: str) -> tuple[float, float]:
    data = model.tensors[name].data
    if data is None:
        return calibration.range_of(name)
    return min(float(data.min()), 0.0), max(float(data.max()), 0.0)


def _widen(
    model: Model,
    groups: Mapping[str, str],
    scales: dict[str, float],
    weight_scales: Mapping[str, float],
) -> None:
    """Raises scales until every operator's ratios are within `LIMITS`; each step only raises one, so it
    ends."""
    for _ in range(len(model.operators) + 2):
        before = dict(scales)
        for op in model.operators:
            if op.kind not in LIMITS:
                continue
            least, bound = LIMITS[op.kind]
            output = groups[op.outputs[0]]
            inputs = [groups[name] for name in op.inputs[: 1 if op.kind in COMPUTE_KINDS else 2]]
            factor = weight_scales[op.outputs[0]] if op.kind in COMPUTE_KINDS else 1.0
            terms = [[i] for i in inputs] if op.kind in ("add", "subtract") else [inputs]
            for term in terms:
                ratio = factor * float(np.prod([scales[i] for i in term])) / scales[output]
                if ratio * SLACK >= bound:
                    scales[output] *= ratio * SLACK**2 / bound
                elif ratio < least * SLACK and op.kind not in COMPUTE_KINDS:  # there, weights are widened
                    scales[term[0]] *= least * SLACK**2 / ratio
        if scales == before:
            return
        if max(scales.values()) > 1e30:
            break
    raise QuantisationError(f"'{model.name}': the scales of its tensors are too far apart for 8-bit arithmetic")
