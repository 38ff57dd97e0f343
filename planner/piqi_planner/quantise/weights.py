"""Weights and biases: floats to stored integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_planner.quantise.operators import Floats, WeightView
from piqi_planner.quantise.schemes import Scheme

MIN_SCALE = 1e-20  # of weights that are all zero
CANDIDATES = 36  # ranges that are tried
MAX_BIAS = 2**30  # leaves as much again for the products
MIN_RATIO = 2.0**-31  # input scale * weight scale / output scale; XNNPACK's limit is 2^-32


@dataclass(frozen=True)
class StoredWeights:
    """`stored` int8 or uint8; `scales` [O] or [1], single precision; `zero_point` 0 for int8."""

    stored: npt.NDArray[Any]
    scales: npt.NDArray[np.float32]
    zero_point: int

    def real(self, view: WeightView) -> Floats:
        """The weights that the stored ones stand for."""
        scales = self.scales.astype(np.float64)
        return (self.stored.astype(np.float64) - self.zero_point) * view.along_outputs(scales)


def weight_range(view: WeightView, weights: Floats, scheme: Scheme) -> tuple[float, Floats]:
    """The lowest weight that can be stored, and the scales, [O] or [1].

    Scales for each channel cut nothing off. One for all leaves out what costs the others more resolution than it
    is worth: the range with the least squared error.
    """
    if scheme.per_channel:
        scales = np.maximum(view.output_ranges(weights) / 127, MIN_SCALE)
        return 0.0, scales
    lowest, highest = min(float(weights.min()), 0.0), max(float(weights.max()), 0.0)
    best = (np.inf, lowest, MIN_SCALE)
    for fraction in np.linspace(1.0, 0.3, CANDIDATES):
        reach = fraction * max(-lowest, highest)
        low, high = max(lowest, -reach), min(highest, reach)
        scale = max((high - low) / 255, MIN_SCALE)
        zero_point = np.rint(-low / scale)
        real = (np.clip(np.rint(weights / scale) + zero_point, 0, 255) - zero_point) * scale
        error = float(np.square(real - weights).sum())
        if error < best[0]:
            best = (error, low, scale)
    return best[1], np.array([best[2]])


def least_weight_scales(view: WeightView, bias: Floats, input_scale: float, output_scale: float) -> Floats:
    """The scales, [O], below which a bias does not fit int32, or the ratio of scales XNNPACK's fixed
    point."""
    for_bias = np.abs(bias) / (input_scale * MAX_BIAS)
    return np.maximum(for_bias, MIN_RATIO * output_scale / input_scale) * np.ones(view.output_channels)


def store_weights(view: WeightView, weights: Floats, low: float, scales: Floats, scheme: Scheme) -> StoredWeights:
    """Rounds `weights` to the nearest stored values; `low`, `scales`: as `weight_range` gives them, or wider."""
    single = scales.astype(np.float32)
    steps = weights / view.along_outputs(single.astype(np.float64))
    if scheme.per_channel:
        return StoredWeights(np.clip(np.rint(steps), -127, 127).astype(np.int8, order="C"), single, 0)
    zero_point = int(np.clip(np.rint(-low / float(single[0])), 0, 255))
    stored = np.clip(np.rint(steps) + zero_point, 0, 255).astype(np.uint8, order="C")
    return StoredWeights(stored, single, zero_point)


def store_bias(bias: Floats, input_scale: float, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Bias in units of input scale times weight scale, [O]."""
    steps = np.rint(bias / (input_scale * scales.astype(np.float64)))
    return np.clip(steps, -MAX_BIAS, MAX_BIAS).astype(np.int32)
