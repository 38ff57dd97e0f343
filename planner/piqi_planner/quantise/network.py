"""Post-training quantisation of a whole network, from which partitions are cut.

Every parameter (scales, zero points, stored weights and biases) is computed once, for the whole network and
from float statistics alone. Ranges of layers only select from the result, so the quantised network gives the
same bits however it is cut: a tensor at a cut has the same scale and zero point on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from piqi_planner.quantise.bias_correction import limit_bias, mean_error
from piqi_planner.quantise.calibrate import Calibration
from piqi_planner.quantise.equalise import equalise as equalise_model
from piqi_planner.quantise.errors import QuantisationError
from piqi_planner.quantise.operators import Floats, WeightView, clamp_bounds, compute_operators, consumers
from piqi_planner.quantise.parameters import Affine, choose_parameters
from piqi_planner.quantise.partition import cut
from piqi_planner.quantise.schemes import Scheme, SchemeName, find_scheme
from piqi_planner.quantise.weights import (
    StoredWeights,
    least_weight_scales,
    store_bias,
    store_weights,
    weight_range,
)
from piqi_runtime.container import content_hash
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.partition import Partition


@dataclass(frozen=True)
class QuantisedModel:
    """A network in 8 bits beside the float network that it goes with.

    `float_model` is what full-precision processors must run next to partitions of `model`: with equalisation,
    tensors inside of the network are scaled channel by channel, and both sides of a cut must agree. Its
    function is that of the network that was quantised. Without equalisation it is that network itself.
    """

    float_model: Model
    model: Model
    scheme: SchemeName

    def partition(self, first_layer: int, last_layer: int) -> Partition:
        """Layers first..last for an NPU. Raises QuantisationError for a range outside of the model."""
        part = cut(self.model, first_layer, last_layer)
        return Partition(part, first_layer, last_layer, self.scheme, content_hash(self.float_model))

    def full(self) -> Partition:
        """All layers."""
        return self.partition(0, self.model.layer_count - 1)


def quantise(
    model: Model,
    calibration: Calibration,
    scheme: SchemeName = "per_channel",
    equalise: bool | None = None,
    correct_bias: bool = True,
) -> QuantisedModel:
    """`model` in 8 bits. `equalise`: by default where one scale serves all weights of an operator
    (`per_tensor`).

    Raises CalibrationError if `calibration` is of another model, QuantisationError naming the operator or
    tensor that cannot be quantised.
    """
    rules = find_scheme(scheme)
    _check(model)
    calibration.check(model)
    if rules.equalises if equalise is None else equalise:
        model, calibration = equalise_model(model, calibration)
    views = {op.outputs[0]: WeightView.of(model, op) for op in compute_operators(model)}
    ranges = {
        name: weight_range(view, _floats(model.tensors[view.op.inputs[1]]), rules) for name, view in views.items()
    }
    parameters = choose_parameters(
        model, calibration, rules, {name: float(scales.max()) for name, (_, scales) in ranges.items()}
    )
    tensors: dict[str, Tensor] = {
        name: _stored(model.tensors[name], affine, rules) for name, affine in parameters.items()
    }
    uses = consumers(model)
    operators = []
    for op in model.operators:
        if op.outputs[0] in views:
            view = views[op.outputs[0]]
            constants = _quantise_weights(
                model, view, calibration if correct_bias else None, parameters, ranges[op.outputs[0]], rules
            )
            constants = [
                constant
                if len(uses.get(constant.name, [])) <= 1
                else replace(constant, name=f"{constant.name}@{op.outputs[0]}")
                for constant in constants
            ]
            tensors.update((constant.name, constant) for constant in constants)
            op = replace(op, inputs=(op.inputs[0], *(constant.name for constant in constants)))
        operators.append(_with_open_clamp(op, parameters[op.outputs[0]], rules))
    quantised = Model(model.name, tensors, tuple(operators), model.inputs, model.outputs)
    return QuantisedModel(model, quantised, rules.name)


def _check(model: Model) -> None:
    for op in model.operators:
        for name in (*op.inputs, *op.outputs):
            if model.tensors[name].dtype != "float32":
                raise QuantisationError(
                    f"{op.kind} '{op.name}': tensor '{name}' is {model.tensors[name].dtype}, expected float32"
                )
    for op in compute_operators(model):
        for name in op.inputs[1:]:
            if model.tensors[name].data is None:
                raise QuantisationError(f"{op.kind} '{op.name}': weights '{name}' are not constant")


def _floats(tensor: Tensor) -> Floats:
    values = np.asarray(tensor.data, np.float64)
    if not np.isfinite(values).all():
        raise QuantisationError(f"'{tensor.name}' has values that are not finite")
    return values


def _stored(tensor: Tensor, affine: Affine, scheme: Scheme) -> Tensor:
    data = None
    if tensor.data is not None:
        steps = np.rint(_floats(tensor) / affine.scale) + affine.zero_point
        stored = np.clip(steps, scheme.activation_min, scheme.activation_max)
        data = np.array(stored, scheme.dtype, order="C")  # of a scalar too, which NumPy's functions unwrap
    return Tensor(tensor.name, tensor.shape, scheme.dtype, data, (affine.scale,), affine.zero_point)


def _with_open_clamp(op: Operator, output: Affine, scheme: Scheme) -> Operator:
    """`op` with a clamp that leaves two stored values at least, which XNNPACK wants.

    One that leaves a single value stands where the output is zero on all calibration data, but shares its parameters
    with tensors that are large or negative.
    """
    least, most = scheme.activation_min, scheme.activation_max
    bounds = np.array(clamp_bounds(op)) / output.scale + output.zero_point
    low, high = np.clip(np.rint(bounds), least, most)
    if low < high:
        return op
    low = min(low, most - 1)
    stored = {"clamp_min": low, "clamp_max": low + 1}
    clamp = {name: output.scale * (float(value) - output.zero_point) for name, value in stored.items()}
    return replace(op, attributes={**op.attributes, **clamp})


def _quantise_weights(
    model: Model,
    view: WeightView,
    calibration: Calibration | None,
    parameters: dict[str, Affine],
    limits: tuple[float, Floats],
    scheme: Scheme,
) -> list[Tensor]:
    """Weights and bias; the bias corrected if there is a `calibration`."""
    op: Operator = view.op
    source = model.tensors[op.inputs[1]]
    weights = _floats(source)
    bias = _floats(model.tensors[op.inputs[2]]) if len(op.inputs) > 2 else np.zeros(view.output_channels)
    x, y = parameters[op.inputs[0]], parameters[op.outputs[0]]
    bias = limit_bias(view, bias, weights, x.limits(scheme), y.limits(scheme))
    least = least_weight_scales(view, bias, x.scale, y.scale)
    low, scales = limits
    scales = np.maximum(scales, least if scheme.per_channel else least.max())
    stored: StoredWeights = store_weights(view, weights, low, scales, scheme)
    if calibration is not None:
        bias = bias - mean_error(view, weights, stored.real(view), calibration.tap_means[op.outputs[0]])
    bias_name = op.inputs[2] if len(op.inputs) > 2 else f"{op.outputs[0]}:bias"
    per_bias = tuple(x.scale * float(scale) for scale in stored.scales)
    return [
        Tensor(
            source.name,
            source.shape,
            scheme.dtype,
            stored.stored,
            tuple(map(float, stored.scales)),
            stored.zero_point,
        ),
        Tensor(
            bias_name,
            (view.output_channels,),
            "int32",
            store_bias(bias, x.scale, stored.scales),
            per_bias,
        ),
    ]
