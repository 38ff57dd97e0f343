"""Cuts a range of layers out of a network."""

from __future__ import annotations

from piqi_planner.quantise.errors import QuantisationError
from piqi_runtime.model import Model


def cut(model: Model, first_layer: int, last_layer: int) -> Model:
    """The operators of layers first..last as a model of their own, layer numbers kept.

    All tensors that cross the range's border are its inputs (made before it) and outputs (taken behind it, or
    the model's), under their own names. Raises QuantisationError for a range outside of the model or without
    operators.
    """
    if not 0 <= first_layer <= last_layer < model.layer_count:
        raise QuantisationError(
            f"layers {first_layer}..{last_layer} are not a range of the {model.layer_count} layers of '{model.name}'"
        )
    inside = [op for op in model.operators if first_layer <= op.layer <= last_layer]
    if not inside:
        raise QuantisationError(f"layers {first_layer}..{last_layer} of '{model.name}' have no operators")
    made = {name for op in inside for name in op.outputs}
    used = dict.fromkeys(name for op in inside for name in op.inputs)
    wanted = {name for op in model.operators if op.layer > last_layer for name in op.inputs} | set(model.outputs)
    inputs = tuple(name for name in used if name not in made and model.tensors[name].data is None)
    outputs = tuple(name for op in inside for name in op.outputs if name in wanted)
    tensors = {name: tensor for name, tensor in model.tensors.items() if name in made or name in used}
    return Model(model.name, tensors, tuple(inside), inputs, outputs)
