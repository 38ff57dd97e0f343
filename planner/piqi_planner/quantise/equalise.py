"""Cross-layer equalisation: the same float function with weights that one scale can quantise.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.1: if
channel i of the tensor between two compute operators is divided by s_i > 0, in the first one's weights and
bias, and the second one's weights for that channel are multiplied by s_i, the function stays as it is as long
as all between them is positively homogeneous (f(s x) = s f(x)). s_i is chosen to make the ranges of both
channels' weights equal.

An upper clamp (relu6) is not homogeneous, and its bound is one number for all channels. A channel that comes
near the bound on the calibration data keeps its scale; any other may take scales with which it stays as far
away from it, by `clamp_margin`, so that the clamp does nothing to it before and after. The scale is chosen
relative to the channels that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piqi_planner.quantise.calibrate import Calibration
from piqi_planner.quantise.operators import Floats, WeightView, clamp_bounds, compute_operators, consumers
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator

MAX_SWEEPS = 50
CONVERGED = 1e-3  # largest change of a log scale in a sweep
SCALE_LIMIT = 2.0**30  # keeps what is dead from running away

#: Positively homogeneous and channel by channel; clamp is so by its lower bound, its upper one is dealt with.
TRANSPARENT_KINDS = frozenset(
    {
        "clamp",
        "max_pool2d",
        "average_pool2d",
        "mean",
        "leaky_relu",
        "pad",
        "reshape",
        "resize_nearest",
        "resize_bilinear",
    }
)


@dataclass(frozen=True)
class Link:
    """Two compute operators, the tensors between them and the upper bounds (tensor, bound) of the clamps on
    the way."""

    first: Operator
    second: Operator
    tensors: tuple[str, ...]
    clamps: tuple[tuple[str, float], ...]


def clamp_margin(frames: int) -> float:
    """How far above its calibrated maximum a channel that is rescaled must have its clamp.

    The fewer frames, the less they show of what a channel can do. On MobileNetV1 (1000 images) no probability
    changes by 1e-5 with a margin of 8 after 10 frames, 3 after 20, 2 after 100; with less, some do by 1e-2.
    """
    return max(3.0, 80 / frames)


def find_links(model: Model) -> list[Link]:
    """The pairs of operators that can be equalised, in the model's order."""
    takers = consumers(model)
    return [link for op in compute_operators(model) if (link := _link(model, takers, op)) is not None]


def _link(model: Model, takers: Mapping[str, list[Operator]], first: Operator) -> Link | None:
    if not _own_weights(model, takers, first):
        return None
    op, tensors, clamps = first, [], []
    while True:
        if clamp_bounds(op)[0] not in (0.0, -np.inf):
            return None
        name = op.outputs[0]
        tensors.append(name)
        if np.isfinite(clamp_bounds(op)[1]):
            clamps.append((name, clamp_bounds(op)[1]))
        if name in model.outputs or len(takers[name]) != 1:
            return None
        op = takers[name][0]
        if op.kind in COMPUTE_KINDS:
            if op.inputs[0] != name or not _own_weights(model, takers, op):
                return None
            return Link(first, op, tuple(tensors), tuple(clamps))
        if not _is_transparent(model, op):
            return None


def _own_weights(model: Model, takers: Mapping[str, list[Operator]], op: Operator) -> bool:
    return all(model.tensors[name].data is not None and len(takers[name]) == 1 for name in op.inputs[1:])


def _is_transparent(model: Model, op: Operator) -> bool:
    if op.kind not in TRANSPARENT_KINDS:
        return False
    before, after = model.tensors[op.inputs[0]].shape, model.tensors[op.outputs[0]].shape
    a = op.attributes
    if op.kind == "mean":
        return len(before) - 1 not in a["axes"]
    if op.kind == "pad":
        return not (a.get("pad_value", 0.0) or a["pad_before"][-1] or a["pad_after"][-1])
    if op.kind == "reshape":  # channels stay the fastest dimension; flattening repeats them
        return len(after) > 1 and after[-1] % before[-1] == 0 and after[0] == before[0]
    return True


@dataclass
class _Scaling:
    """A link in the making: what each of the C channels has been divided by, and what its clamps allow."""

    link: Link
    first: WeightView
    second: WeightView
    total: Floats
    least: Floats
    fixed: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, model: Model, calibration: Calibration, link: Link) -> _Scaling:
        first, second = WeightView.of(model, link.first), WeightView.of(model, link.second)
        channels = first.output_channels
        margin = clamp_margin(calibration.frames)
        least, fixed = np.full(channels, 1 / SCALE_LIMIT), np.zeros(channels, np.bool_)
        for name, bound in link.clamps:
            highest = calibration.statistics[name].maximum.reshape(-1, channels).max(axis=0)
            fixed |= highest * margin >= bound
            least = np.maximum(least, highest * margin / bound)
        return cls(link, first, second, np.ones(channels), least, fixed)

    def step(self, weights: dict[str, Floats], biases: dict[str, Floats]) -> float:
        """Scales the weights on both sides once; returns the largest change of a log scale."""
        w1, w2 = weights[self.link.first.outputs[0]], weights[self.link.second.outputs[0]]
        made = np.maximum(self.first.output_ranges(w1), 1e-30)
        met = self.second.input_ranges(w2).reshape(-1, len(self.total)).max(axis=0)
        met = np.maximum(met, 1e-30)
        scales = np.sqrt(made / met)
        if self.fixed.any():
            scales /= np.sqrt(made[self.fixed].max() / met[self.fixed].max())
        else:
            scales /= np.exp(np.log(scales).mean())
        scales = np.clip(scales * self.total, self.least, SCALE_LIMIT) / self.total
        scales[self.fixed] = 1.0
        self.total *= scales
        weights[self.link.first.outputs[0]] = w1 / self.first.along_outputs(scales)
        weights[self.link.second.outputs[0]] = w2 * self.second.along_inputs(self._tiled(scales, self.second))
        if self.link.first.outputs[0] in biases:
            biases[self.link.first.outputs[0]] = biases[self.link.first.outputs[0]] / scales
        return float(np.abs(np.log(scales)).max())

    def _tiled(self, scales: Floats, view: WeightView) -> Floats:
        return np.tile(scales, view.input_channels // len(scales))


def equalise(model: Model, calibration: Calibration) -> tuple[Model, Calibration]:
    """`model` with equalised weights, and what its calibration is then: see the module's text.

    Names, shapes and function stay; tensors between equalised operators are scaled channel by channel. Raises
    CalibrationError if `calibration` is not that of `model`.
    """
    calibration.check(model)
    scalings = [_Scaling.of(model, calibration, link) for link in find_links(model)]
    weights: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    for op in compute_operators(model):
        weights[op.outputs[0]] = _constant(model, op.inputs[1])
        if len(op.inputs) > 2:
            biases[op.outputs[0]] = _constant(model, op.inputs[2])
    for _ in range(MAX_SWEEPS):
        if max((scaling.step(weights, biases) for scaling in scalings), default=0.0) < CONVERGED:
            break
    tensors = dict(model.tensors)
    changed = {op.outputs[0] for s in scalings for op in (s.link.first, s.link.second)}
    for op in compute_operators(model):
        if op.outputs[0] in changed:
            parts = [weights[op.outputs[0]], *([biases[op.outputs[0]]] if len(op.inputs) > 2 else [])]
            for name, values in zip(op.inputs[1:], parts, strict=True):
                tensors[name] = replace(tensors[name], data=np.ascontiguousarray(values, np.float32))
    equalised = replace(model, tensors=tensors)
    scales = {
        name: np.tile(s.total, model.tensors[name].shape[-1] // len(s.total))
        for s in scalings
        for name in s.link.tensors
    }
    return equalised, calibration.rescaled(equalised, scales, model)


def _constant(model: Model, name: str) -> Floats:
    return np.asarray(model.tensors[name].data, np.float64)
