"""Bias correction: rounding weights shifts the mean of what they compute; the bias takes the shift back."""

from __future__ import annotations

from piqi_planner.quantise.operators import Floats, WeightView


def mean_error(view: WeightView, weights: Floats, stored: Floats, tap_means: Floats) -> Floats:
    """E[stored * x] - E[weights * x] of each output channel, [O], x being the float network's activations.

    Nagel et al. 2019, section 4.2. The statistics are of the float network, so that the result is the same
    however the network is cut. `tap_means`: mean input of each weight, see `Calibration`.
    """
    error = (stored - weights) * view.along_inputs(tap_means)
    total: Floats = error.sum(axis=tuple(i for i in range(error.ndim) if i != view.output_axis))
    return total
