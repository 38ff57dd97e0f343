"""What is done to biases: rounding weights shifts the mean of what they compute, and the bias takes it back."""

from __future__ import annotations

import numpy as np

from piqi_planner.quantise.operators import Floats, WeightView


def mean_error(view: WeightView, weights: Floats, stored: Floats, tap_means: Floats) -> Floats:
    """E[stored * x] - E[weights * x] of each output channel, [O], x being the float network's activations.

    Nagel et al. 2019, section 4.2. The statistics are of the float network, so that the result is the same
    however the network is cut. `tap_means`: mean input of each weight, see `Calibration`.
    """
    error = (stored - weights) * view.along_inputs(tap_means)
    total: Floats = error.sum(axis=tuple(i for i in range(error.ndim) if i != view.output_axis))
    return total


def limit_bias(
    view: WeightView, bias: Floats, weights: Floats, inputs: tuple[float, float], outputs: tuple[float, float]
) -> Floats:
    """`bias` [O] no further outside of the `outputs` that can be stored than the weights can bring it back.

    Such a bias saturates the output whatever the input, as a smaller one does; dead channels that equalisation
    has scaled up have them, and would not fit int32. `inputs`: what can be stored of x.
    """
    axes = tuple(i for i in range(weights.ndim) if i != view.output_axis)
    reach = np.abs(weights).sum(axis=axes) * max(map(abs, inputs))
    return np.asarray(np.clip(bias, outputs[0] - reach, outputs[1] + reach), np.float64)
