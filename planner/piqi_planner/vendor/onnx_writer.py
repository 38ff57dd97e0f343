"""A network, or a range of its layers, as an ONNX model.

Tensors keep their names, but for long ones (`onnx_name`). ONNX convolves NCHW, so every tensor of four dimensions is
NCHW there, those at the border too: vendors' toolkits expect that and their libraries convert. All others keep the
order of their dimensions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from piqi_planner.vendor.errors import VendorError
from piqi_runtime.container import write_atomically
from piqi_runtime.model import Array, Model, Operator, Tensor
from piqi_runtime.partition import MAX_VENDOR_NAME, vendor_name

#: What is written means the same in 11 and 12. RKNN-Toolkit 1.7 takes 8 to 12 (ONNX 1.6, IR 6), RKNN-Toolkit2 12 to 19.
OPSET = 12
IR_VERSION = 6

#: RKNN-Toolkit2 cuts names off at 128 characters and then does not find its own tensors.
MAX_NAME = MAX_VENDOR_NAME
#: The name that a tensor has in ONNX: what the board will look for.
onnx_name = vendor_name

TO_NCHW = (0, 3, 1, 2)
TO_NHWC = (0, 2, 3, 1)
#: Of NHWC's axes in NCHW.
NCHW_AXES = (0, 2, 3, 1)

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
}

#: Kind -> function that adds its nodes and returns the output's name; empty if it has named the outputs itself.
Writer = Callable[["OnnxWriter", Operator], str]
WRITERS: dict[str, Writer] = {}


def writes(*kinds: str) -> Callable[[Writer], Writer]:
    """Registers a function for these operator kinds."""

    def register(function: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def to_onnx(model: Model, opset: int = OPSET) -> onnx.ModelProto:
    """`model` in ONNX; inputs and outputs are in its order.

    Raises VendorError naming an operator that is quantised or has no equivalent.
    """
    from piqi_planner.vendor import onnx_operators  # noqa: F401  registers the operators

    proto = OnnxWriter(model).write(opset)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VendorError(f"{model.name}: not valid in ONNX: {error}") from error
    return proto


def write_onnx(model: Model, path: str | os.PathLike[str], opset: int = OPSET) -> None:
    """Writes `to_onnx` atomically. Raises VendorError and OSError."""
    write_atomically(path, [to_onnx(model, opset).SerializeToString()])


def onnx_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a tensor of `shape` has in ONNX."""
    return tuple(shape[axis] for axis in TO_NCHW) if len(shape) == 4 else tuple(shape)


def to_onnx_layout(array: Array) -> Array:
    """NHWC to NCHW, if there are four dimensions."""
    return np.ascontiguousarray(array.transpose(TO_NCHW) if array.ndim == 4 else array)


def from_onnx_layout(array: Array) -> Array:
    """NCHW to NHWC, if there are four dimensions."""
    return np.ascontiguousarray(array.transpose(TO_NHWC) if array.ndim == 4 else array)


class OnnxWriter:
    """Collects the nodes and constants of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._taken = set(map(onnx_name, model.tensors))

    def write(self, opset: int) -> onnx.ModelProto:
        """The whole model."""
        for op in self.model.operators:
            if op.kind not in WRITERS:
                raise VendorError(f"{op.kind} '{op.name}' has no equivalent in ONNX")
            self._check_types(op)
            name = WRITERS[op.kind](self, op)
            if name:
                name = self._clamped(op, name)
                (made,) = op.outputs
                assert self._nodes[-1].output[0] == name
                self._nodes[-1].output[0] = onnx_name(made)
        model = self.model
        graph = helper.make_graph(
            self._nodes,
            model.name or "model",
            [self._value(model.tensors[name]) for name in model.inputs],
            [self._value(model.tensors[name]) for name in model.outputs],
            list(self._constants.values()),
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION, producer_name="piqi"
        )

    def tensor(self, name: str) -> Tensor:
        """A tensor of the model."""
        return self.model.tensors[name]

    def read(self, name: str) -> str:
        """The ONNX name of an activation, or of a constant that is used like one."""
        tensor, name = self.tensor(name), onnx_name(name)
        if tensor.data is not None and name not in self._constants:
            self._constants[name] = numpy_helper.from_array(to_onnx_layout(tensor.data), name)
        return name

    def emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output, whose new name is returned."""
        output = self._fresh(kind.lower())
        self.emit_named(kind, inputs, [output], **attributes)
        return output

    def emit_named(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """A node whose outputs have names already."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), list(outputs), name, **attributes))

    def constant(self, array: Any, dtype: str = "float32") -> str:
        """A new constant, stored as it is."""
        name = self._fresh("constant")
        self._constants[name] = numpy_helper.from_array(np.array(array, dtype, order="C"), name)
        return name

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """A value, without regard to layouts, in another shape."""
        return self.emit("Reshape", [name, self.constant(shape, "int64")])

    def nhwc(self, name: str, shape: Sequence[int]) -> str:
        """A value in NHWC, if its `shape` (in NHWC) has four dimensions."""
        return self._moved(name, shape, TO_NHWC, shape)

    def nchw(self, name: str, shape: Sequence[int]) -> str:
        """The way back of `nhwc`."""
        return self._moved(name, shape, TO_NCHW, onnx_shape(shape))

    def axis(self, rank: int, axis: int) -> int:
        """An axis of a tensor in ONNX."""
        return NCHW_AXES[axis] if rank == 4 else axis

    def _moved(self, name: str, shape: Sequence[int], permutation: Sequence[int], target: Sequence[int]) -> str:
        if len(shape) != 4:
            return name
        if shape[3] == 1 or shape[1] * shape[2] == 1:  # no element moves
            return self.reshaped(name, target)
        return self.emit("Transpose", [name], perm=permutation)

    def _clamped(self, op: Operator, name: str) -> str:
        low, high = (float(op.attributes.get(f"clamp_{end}", default)) for end, default in CLAMP_DEFAULTS)
        if low == 0 and math.isinf(high):
            return self.emit("Relu", [name])
        if math.isinf(low) and math.isinf(high):
            return self.emit("Identity", [name]) if op.kind == "clamp" else name
        bounds = ["" if math.isinf(bound) else self.constant(bound) for bound in (low, high)]
        return self.emit("Clip", [name, *bounds])

    def _check_types(self, op: Operator) -> None:
        if op.kind in ("quantize", "dequantize"):
            return
        for name in (*op.inputs, *op.outputs):
            if self.tensor(name).dtype != "float32":
                raise VendorError(
                    f"{op.kind} '{op.name}': '{name}' is {self.tensor(name).dtype}, expected float32: "
                    "a vendor's toolkit takes the float network and quantises it by itself"
                )

    def _value(self, tensor: Tensor) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            onnx_name(tensor.name), ELEMENT_TYPES[tensor.dtype], onnx_shape(tensor.shape)
        )

    def _fresh(self, hint: str) -> str:
        name = f"{hint}_{len(self._taken)}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


CLAMP_DEFAULTS = (("min", -math.inf), ("max", math.inf))
