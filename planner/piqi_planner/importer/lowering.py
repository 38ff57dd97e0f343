"""Turns the file's operators, one by one, into those of the Model.

Every operator has a *lowering*: a function of a `Node` that checks what the file claims and emits operators.
Shapes are inferred from the inputs on; what the file says of inner tensors' shapes is not trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from piqi_planner.importer.errors import ModelError
from piqi_planner.importer.flatfile import (
    Array,
    FileGraph,
    FileOperator,
    FileTensor,
    corrupt_means_model_error,
)
from piqi_runtime.model import Model, Operator, Tensor

ACTIVATION_DTYPES = ("float32", "int8", "uint8")
CHANGES_DTYPE = ("quantize", "dequantize")
MAX_TENSOR_BYTES = 2**31 - 1

#: The schema's fused activations as bounds; TANH becomes an operator of its own.
CLAMPS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
FUSED_TANH = 4

Lowering = Callable[["Node"], None]
_LOWERINGS: dict[str, Lowering] = {}


def lowers(*kinds: str) -> Callable[[Lowering], Lowering]:
    """Registers the lowering of the file's operators `kinds`."""

    def register(lowering: Lowering) -> Lowering:
        _LOWERINGS.update(dict.fromkeys(kinds, lowering))
        return lowering

    return register


def lower(file: FileGraph, name: str) -> Model:
    """The network of `file`, operator for operator, before any simplification. Raises ModelError."""
    state = _State(file)
    for index in file.inputs:
        state.add_input(index)
    for op in file.operators:
        node = Node(state, op)
        if op.kind not in _LOWERINGS:
            raise node.error("is not supported")
        with corrupt_means_model_error(f" {node}"):
            _LOWERINGS[op.kind](node)
    outputs = tuple(state.value(index, "the model's output").name for index in file.outputs)
    if not outputs:
        raise ModelError("has no outputs")
    if len(set(outputs)) < len(outputs):
        raise ModelError("has the same output twice")
    inputs = tuple(state.values[index].name for index in file.inputs)
    return Model(name, state.tensors, tuple(state.operators), inputs, outputs)


class _State:
    """What has been made so far."""

    def __init__(self, file: FileGraph) -> None:
        self.file = file
        self.values: dict[int, Tensor] = {}  # by index in the file
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.unique_tensor_name = UniqueNames()
        self.unique_operator_name = UniqueNames()

    def add_input(self, index: int) -> None:
        if index < 0 or index in self.values or self.file.tensors[index].data is not None:
            raise ModelError(f"corrupt: tensor {index} cannot be an input of the model")
        tensor = self.file.tensors[index]
        if tensor.dtype not in ACTIVATION_DTYPES or 0 in tensor.shape:
            raise ModelError(f"input {tensor.name!r} is {tensor.dtype} {tensor.shape}, which is not supported")
        if tensor.unknown_axes:
            raise ModelError(
                f"input {tensor.name!r} leaves the size of its axes {list(tensor.unknown_axes)} open: "
                "convert the model for a fixed input size"
            )
        self.define(index, tensor.shape, tensor.dtype)

    def define(self, index: int, shape: Sequence[int], dtype: str, data: Array | None = None) -> Tensor:
        """Gives the file's tensor `index` its value."""
        if index in self.values:
            raise ModelError(f"corrupt: tensor {self.values[index].name!r} is made twice")
        file_tensor = self.file.tensors[index]
        self.values[index] = self.add_tensor(file_tensor, file_tensor.name, shape, dtype, data)
        return self.values[index]

    def add_tensor(
        self, like: FileTensor, name: str, shape: Sequence[int], dtype: str, data: Array | None = None
    ) -> Tensor:
        """A new tensor under a name of its own, quantised as `like` is if it is an integer one."""
        shape = tuple(int(size) for size in shape)
        if math.prod(shape) * np.dtype(dtype).itemsize > MAX_TENSOR_BYTES:
            raise ModelError(f"tensor {like.name!r} {shape} is larger than {MAX_TENSOR_BYTES} bytes")
        quantized = dtype in ("int8", "uint8", "int32")
        zero_point = _zero_point(like) if quantized else 0
        scales = like.scales if quantized else ()
        tensor = Tensor(self.unique_tensor_name(name), shape, dtype, data, scales, zero_point)
        self.tensors[tensor.name] = tensor
        return tensor

    def value(self, index: int, what: str) -> Tensor:
        if index < 0:
            raise ModelError(f"corrupt: {what} is left out")
        if index not in self.values:
            tensor = self.file.tensors[index]
            if tensor.data is None:
                raise ModelError(f"corrupt: {what}, tensor {tensor.name!r}, is used before anything makes it")
            self.define(index, tensor.shape, tensor.dtype, tensor.data)
        return self.values[index]


class Node:
    """One operator of the file, for its lowering to ask and to emit through."""

    def __init__(self, state: _State, op: FileOperator) -> None:
        self._state = state
        self._op = op
        self.kind = op.kind
        self.output_count = len(op.outputs)

    def __str__(self) -> str:
        index = next(iter(self._op.outputs), -1)
        output = self._state.file.tensors[index].name if index >= 0 else ""
        return f"operator {self.kind} ({self._op.place}, output {output!r})"

    def error(self, message: str) -> ModelError:
        """An error that names this operator, its output and its place."""
        return ModelError(f"{self} {message}")

    @property
    def input_count(self) -> int:
        return len(self._op.inputs)

    def has_input(self, position: int) -> bool:
        """False for an optional input that is left out."""
        return position < len(self._op.inputs) and self._op.inputs[position] >= 0

    def input(self, position: int) -> Tensor:
        """Input `position`: a constant or an activation."""
        if position >= len(self._op.inputs):
            raise self.error(f"has no input {position}")
        return self._state.value(self._op.inputs[position], f"input {position} of {self}")

    def activation(self, position: int, rank: int | None = None) -> Tensor:
        """Input `position`, of a type and (if given) rank that can be computed with."""
        tensor = self.input(position)
        if tensor.dtype not in ACTIVATION_DTYPES:
            raise self.error(f"has an input {tensor.name!r} of type {tensor.dtype}, which is not supported")
        if tensor.dtype != "float32" and len(tensor.scales) != 1:
            raise self.error(f"has an input {tensor.name!r} ({tensor.dtype}) without one scale")
        if rank is not None and len(tensor.shape) != rank:
            raise self.error(f"has an input {tensor.name!r} {tensor.shape} that is not of rank {rank}")
        return tensor

    def constant(self, position: int) -> Array:
        """The values of input `position`. Raises ModelError if they are not in the file."""
        tensor = self.input(position)
        if tensor.data is None:
            raise self.error(f"computes its input {tensor.name!r}, which must be a constant")
        return tensor.data

    def integers(self, position: int, most: int = 64) -> list[int]:
        """The values of a small integer constant, flattened."""
        values = self.constant(position)
        if values.dtype.kind != "i" or values.size > most:
            raise self.error(f"has {values.size} {values.dtype} as input {position}, not a few integers")
        return [int(value) for value in values.reshape(-1)]

    def weights(self, position: int, x: Tensor, rank: int, channel_axis: int) -> Tensor:
        """Constant weights that go with the activation `x`."""
        self.constant(position)
        tensor = self.input(position)
        if tensor.dtype != x.dtype:
            raise self.error(
                f"has {tensor.dtype} weights {tensor.name!r} and a {x.dtype} input: "
                "convert the model to float32, PiQi quantises it itself"
            )
        file_tensor = self._state.file.tensors[self._op.inputs[position]]
        if len(tensor.shape) != rank or 0 in tensor.shape:
            raise self.error(f"has weights {tensor.name!r} {tensor.shape} that are not of rank {rank}")
        if tensor.dtype != "float32" and len(tensor.scales) not in (1, tensor.shape[channel_axis]):
            raise self.error(f"has {len(tensor.scales)} scales for weights {tensor.shape}")
        if len(tensor.scales) > 1 and file_tensor.channel_axis != channel_axis:
            raise self.error(f"has scales along axis {file_tensor.channel_axis} of its weights")
        return tensor

    def bias(self, position: int, x: Tensor, channels: int) -> tuple[Tensor, ...]:
        """The constant bias, or nothing."""
        if not self.has_input(position):
            return ()
        self.constant(position)
        tensor = self.input(position)
        dtype = "float32" if x.dtype == "float32" else "int32"
        if tensor.dtype != dtype or tensor.shape != (channels,):
            raise self.error(f"has a bias {tensor.dtype} {tensor.shape}, not {dtype} ({channels},)")
        return (tensor,)

    def option(self, name: str) -> Any:
        """The value of the schema's field `name`."""
        if name not in self._op.options:
            raise self.error(f"lacks its option {name}")
        return self._op.options[name]

    def positive(self, name: str) -> int:
        """An option that counts something."""
        value = int(self.option(name))
        if value < 1:
            raise self.error(f"has {name} {value}, which is not positive")
        return value

    def optional_vector(self, name: str) -> list[int]:
        """A vector option; empty where the operator has no options."""
        return [int(value) for value in self._op.options.get(name, [])]

    def axis(self, value: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= value < rank:
            raise self.error(f"has axis {value} of a tensor of rank {rank}")
        return value % rank

    def emit(self, kind: str, inputs: Sequence[Tensor], shape: Sequence[int], **attributes: Any) -> None:
        """Adds the operator that makes the one output."""
        self.emit_many(kind, inputs, [shape], **attributes)

    def emit_many(
        self, kind: str, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]], **attributes: Any
    ) -> None:
        """Adds the operator that makes all outputs."""
        outputs = []
        for index, shape in zip(self._op.outputs, shapes, strict=True):
            outputs.append(self._state.define(index, shape, self._output_dtype(index)))
        self._add(kind, inputs, outputs, attributes)

    def emit_inner(
        self, kind: str, inputs: Sequence[Tensor], shape: Sequence[int], suffix: str, **attributes: Any
    ) -> Tensor:
        """Adds an operator whose output only the next one needs; `suffix` ends its name."""
        index = self._output_index()
        like = self._state.file.tensors[index]
        tensor = self._state.add_tensor(like, f"{like.name}:{suffix}", shape, self._output_dtype(index))
        self._add(kind, inputs, [tensor], attributes)
        return tensor

    def emit_activated(
        self, kind: str, inputs: Sequence[Tensor], shape: Sequence[int], fused: int, **attributes: Any
    ) -> None:
        """Adds an operator with the file's fused activation as a clamp, or as an operator behind it."""
        if fused == FUSED_TANH:
            inner = self.emit_inner(kind, inputs, shape, "linear", **attributes)
            self.emit("tanh", [inner], shape)
        else:
            self.emit(kind, inputs, shape, **self.clamp(fused), **attributes)

    def clamp(self, fused: int) -> dict[str, float]:
        """The bounds of a fused activation, those that are none left out."""
        if fused not in CLAMPS:
            raise self.error(f"has the fused activation {fused}, which is not supported")
        low, high = CLAMPS[fused]
        return {k: v for k, v in (("clamp_min", low), ("clamp_max", high)) if math.isfinite(v)}

    def fold(self, values: Array) -> None:
        """Makes the output a constant."""
        values = np.array(values, order="C")
        self._state.file.budget.spend(values.nbytes)
        self._state.define(self._output_index(), values.shape, values.dtype.name, values)

    def channel_axis(self, position: int) -> int:
        """The axis that an input's several scales go along."""
        return self._state.file.tensors[self._op.inputs[position]].channel_axis

    def _output_index(self) -> int:
        if not self._op.outputs or self._op.outputs[0] < 0:
            raise self.error("has no output")
        return self._op.outputs[0]

    def _output_dtype(self, index: int) -> str:
        if index < 0:
            raise self.error("leaves an output out")
        dtype = self._state.file.tensors[index].dtype
        if dtype not in ACTIVATION_DTYPES:
            raise self.error(f"makes a tensor of type {dtype}, which is not supported")
        return dtype

    def _add(self, kind: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], attributes: dict[str, Any]) -> None:
        if not outputs:
            raise self.error("has no output")
        dtypes = {tensor.dtype for tensor in [inputs[0], *outputs]}
        if kind not in CHANGES_DTYPE and len(dtypes) > 1:
            raise self.error(f"mixes types: {' and '.join(sorted(dtypes))}")
        for tensor in outputs:
            if 0 in tensor.shape:
                raise self.error(f"makes an empty tensor {tensor.shape}")
            if tensor.dtype != "float32" and len(tensor.scales) != 1:
                raise self.error(f"makes a {tensor.dtype} tensor without one scale")
        # The converter joins the names of all the operators it fused by semicolons; the first is enough here.
        name = self._state.unique_operator_name(outputs[0].name.split(";")[0])
        names = tuple(t.name for t in inputs), tuple(t.name for t in outputs)
        self._state.operators.append(Operator(kind, name, *names, attributes))


class UniqueNames:
    """Hands out each name once; later askers get a number behind it."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        candidate = name
        while candidate in self._taken:
            self._taken[name] += 1
            candidate = f"{name}#{self._taken[name]}"
        self._taken[candidate] = 1
        return candidate


def _zero_point(tensor: FileTensor) -> int:
    zero_points = set(tensor.zero_points)
    if len(tensor.scales) > 1 and zero_points - {0}:
        raise ModelError(f"tensor {tensor.name!r} has a scale and a zero point for each channel")
    zero_point = next(iter(zero_points), 0)
    if len(zero_points) > 1 or not -(2**31) <= zero_point < 2**31:
        raise ModelError(f"tensor {tensor.name!r} has zero points {sorted(zero_points)[:4]}")
    return zero_point
