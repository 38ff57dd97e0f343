"""Reads the tables of a `.tflite` file into plain Python, trusting nothing that the file says.

The schema classes do the decoding; this is the only module that sees them. Constants stay views of the file.
Everything that is copied out of the file is paid for from a budget proportional to the file's size, so that a
small file whose tables overlap cannot make the reader work or allocate without end.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_planner.importer.errors import ModelError

Array = npt.NDArray[Any]

SCHEMA_MODULES = (
    "ai_edge_litert.schema_py_generated",
    "tflite",
    "tensorflow.lite.python.schema_py_generated",
)
MAX_RANK = 6
MAX_DIMENSION = 2**31 - 1
MAX_TENSORS = 100_000
MAX_OPERATORS = 50_000

#: Element types of constants. Those of activations are fewer; the lowering checks them.
DTYPES = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "INT8": "int8",
    "BOOL": "bool",
}

_CONVOLUTION = "Padding StrideH StrideW DilationHFactor DilationWFactor FusedActivationFunction"
_POOL = "Padding StrideH StrideW FilterHeight FilterWidth FusedActivationFunction"

#: Operator -> the schema's class of its options and the fields that are read; ``*`` marks a vector.
OPTIONS: Mapping[str, tuple[str, str]] = {
    "CONV_2D": ("Conv2DOptions", _CONVOLUTION),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _CONVOLUTION),
    "TRANSPOSE_CONV": ("TransposeConvOptions", "Padding StrideH StrideW FusedActivationFunction"),
    "FULLY_CONNECTED": ("FullyConnectedOptions", "FusedActivationFunction WeightsFormat KeepNumDims"),
    "ADD": ("AddOptions", "FusedActivationFunction"),
    "SUB": ("SubOptions", "FusedActivationFunction"),
    "MUL": ("MulOptions", "FusedActivationFunction"),
    "CONCATENATION": ("ConcatenationOptions", "Axis FusedActivationFunction"),
    "MAX_POOL_2D": ("Pool2DOptions", _POOL),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
    "MEAN": ("ReducerOptions", "KeepDims"),
    "RESHAPE": ("ReshapeOptions", "*NewShape"),
    "SQUEEZE": ("SqueezeOptions", "*SqueezeDims"),
    "SOFTMAX": ("SoftmaxOptions", "Beta"),
    "LEAKY_RELU": ("LeakyReluOptions", "Alpha"),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", "AlignCorners HalfPixelCenters"),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", "AlignCorners HalfPixelCenters"),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        "BeginMask EndMask EllipsisMask NewAxisMask ShrinkAxisMask Offset",
    ),
    "LOCAL_RESPONSE_NORMALIZATION": ("LocalResponseNormalizationOptions", "Radius Bias Alpha Beta"),
    "PACK": ("PackOptions", "Axis"),
}


@dataclass(frozen=True)
class FileTensor:
    """A tensor as the file has it; an unknown batch is already 1.

    `channel_axis` goes with several `scales`; `unknown_axes` are those whose size the file leaves open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    channel_axis: int
    unknown_axes: tuple[int, ...]


@dataclass(frozen=True)
class FileOperator:
    """An operator as the file has it: tensor indices (-1: an optional one left out), and its options."""

    place: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileGraph:
    """The main sub-graph."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    budget: Budget


class Budget:
    """Bytes that may still be copied out of the file."""

    def __init__(self, file_bytes: int) -> None:
        self._left = 8 * file_bytes + 2**16

    def spend(self, size_bytes: int) -> None:
        """Raises ModelError once everything together is more than an honest file of this size can hold."""
        self._left -= size_bytes
        if self._left < 0:
            raise ModelError("corrupt: its tables overlap, or its constants expand beyond all measure")


@cache
def schema() -> Any:
    """The generated schema classes of the first package that has them. Raises ModelError if none has."""
    for name in SCHEMA_MODULES:
        with suppress(ImportError):
            return importlib.import_module(name)
    raise ModelError("reading .tflite files needs the file's schema: pip install ai-edge-litert")


#: What broken offsets make of the decoder, and values that nobody foresaw of the arithmetic.
DECODER_ERRORS = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    ArithmeticError,  # OverflowError too
)


@contextmanager
def corrupt_means_model_error(what: str = "") -> Iterator[None]:
    """Turns `DECODER_ERRORS` into ModelError."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise ModelError(f"corrupt{what}: {error}") from error


def read_graph(data: Any) -> FileGraph:
    """The main sub-graph of a `.tflite` file. `data`: a flat uint8 array or bytes. Raises ModelError."""
    raw = np.frombuffer(data, np.uint8)
    if len(raw) < 8 or bytes(raw[4:8]) != b"TFL3":
        raise ModelError("not a TensorFlow Lite file: it has no TFL3 mark")
    with corrupt_means_model_error():
        return _Reader(raw).read()


@cache
def _names(enumeration: str) -> Mapping[int, str]:
    return {v: k for k, v in vars(getattr(schema(), enumeration)).items() if isinstance(v, int)}


class _Reader:
    def __init__(self, raw: Array) -> None:
        self._raw = raw
        self._budget = Budget(len(raw))
        self._model = schema().Model.GetRootAs(raw.data, 0)

    def read(self) -> FileGraph:
        if self._model.SubgraphsLength() < 1:
            raise ModelError("has no sub-graph")
        graph = self._model.Subgraphs(0)
        tensor_count = self._count(graph.TensorsLength(), MAX_TENSORS, "tensors")
        operator_count = self._count(graph.OperatorsLength(), MAX_OPERATORS, "operators")
        tensors = tuple(self._tensor(graph.Tensors(i), i) for i in range(tensor_count))
        operators = tuple(self._operator(graph.Operators(i), i, tensor_count) for i in range(operator_count))
        inputs = self._indices(graph, "Inputs", tensor_count, "the model")
        outputs = self._indices(graph, "Outputs", tensor_count, "the model")
        return FileGraph(tensors, operators, inputs, outputs, self._budget)

    def _count(self, count: int, most: int, what: str) -> int:
        if count > most:
            raise ModelError(f"has {count} {what}; at most {most} are read")
        self._budget.spend(4 * count)
        return count

    def _vector(self, table: Any, field: str) -> list[Any]:
        # An absent vector is the number 0 to the schema classes.
        count = getattr(table, f"{field}Length")()
        self._budget.spend(4 * count)
        return list(getattr(table, f"{field}AsNumpy")().tolist()) if count else []

    def _indices(self, table: Any, field: str, tensor_count: int, where: str) -> tuple[int, ...]:
        indices = tuple(self._vector(table, field))
        for index in indices:
            if not -1 <= index < tensor_count:
                raise ModelError(f"corrupt: {where} has tensor {index} of {tensor_count}")
        return indices

    def _text(self, value: bytes | None) -> str:
        text = value or b""
        self._budget.spend(len(text))
        return text.decode("utf-8", "replace")

    def _tensor(self, tensor: Any, index: int) -> FileTensor:
        name = self._text(tensor.Name()) or f"tensor_{index}"
        rank = tensor.ShapeLength()
        if rank > MAX_RANK or tensor.ShapeSignatureLength() > MAX_RANK:
            raise ModelError(f"tensor {name!r} has {rank} dimensions; at most {MAX_RANK} are read")
        shape = self._vector(tensor, "Shape")
        signature = self._vector(tensor, "ShapeSignature")
        if shape and (shape[0] == -1 or signature[:1] == [-1]):
            shape[0] = 1
        if any(not 0 <= size <= MAX_DIMENSION for size in shape):
            raise ModelError(f"tensor {name!r} has shape {tuple(shape)}")
        type_name = _names("TensorType").get(tensor.Type(), str(tensor.Type()))
        dtype = DTYPES.get(type_name, type_name.lower())
        data = self._constant(tensor.Buffer(), name, tuple(shape), dtype)
        if tensor.IsVariable():
            raise ModelError(f"tensor {name!r} is a variable: networks with a state are not supported")
        if tensor.Sparsity() is not None:
            raise ModelError(f"tensor {name!r} is sparse, which is not supported")
        unknown_axes = tuple(axis for axis, size in enumerate(signature) if size == -1 and axis > 0)
        quantization = self._quantization(tensor.Quantization(), name)
        return FileTensor(name, tuple(shape), dtype, data, *quantization, unknown_axes)

    def _quantization(self, table: Any, name: str) -> tuple[tuple[float, ...], tuple[int, ...], int]:
        if table is None:
            return (), (), 0
        scales = tuple(self._vector(table, "Scale"))
        zero_points = tuple(self._vector(table, "ZeroPoint"))
        if any(not 0 < scale < float("inf") for scale in scales):
            raise ModelError(f"tensor {name!r} has a scale that is not positive and finite")
        return scales, zero_points, int(table.QuantizedDimension())

    def _constant(self, index: int, name: str, shape: tuple[int, ...], dtype: str) -> Array | None:
        if not index < self._model.BuffersLength():
            raise ModelError(f"corrupt: tensor {name!r} has buffer {index} of {self._model.BuffersLength()}")
        buffer = self._model.Buffers(index)
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:  # files beyond 2 GB keep their buffers behind the tables
            if offset + size > len(self._raw):
                raise ModelError(f"corrupt: tensor {name!r} ends at byte {offset + size} of {len(self._raw)}")
            stored = self._raw[offset : offset + size]
        elif buffer.DataLength():
            stored = buffer.DataAsNumpy()
        else:
            return None
        if dtype not in DTYPES.values():
            raise ModelError(f"constant {name!r} has type {dtype}, which is not supported")
        expected = _product(shape) * np.dtype(dtype).itemsize
        if len(stored) != expected:
            raise ModelError(f"constant {name!r} {shape} has {len(stored)} bytes, not {expected}")
        array: Array = stored.view(dtype).reshape(shape)
        if not array.flags.aligned:
            self._budget.spend(expected)
            array = array.copy()
        array.flags.writeable = False
        return array

    def _operator(self, operator: Any, index: int, tensor_count: int) -> FileOperator:
        place = f"subgraph 0, operator {index}"
        code_count, code_index = self._model.OperatorCodesLength(), operator.OpcodeIndex()
        if not code_index < code_count:
            raise ModelError(f"corrupt: {place} has operator code {code_index} of {code_count}")
        code = self._model.OperatorCodes(code_index)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = _names("BuiltinOperator").get(builtin, f"BUILTIN_{builtin}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {self._text(code.CustomCode())}"
        return FileOperator(
            place,
            kind,
            self._indices(operator, "Inputs", tensor_count, place),
            self._indices(operator, "Outputs", tensor_count, place),
            self._options(operator, kind),
        )

    def _options(self, operator: Any, kind: str) -> Mapping[str, Any]:
        class_name, fields = OPTIONS.get(kind, ("", ""))
        table = operator.BuiltinOptions() if class_name else None
        if table is None or operator.BuiltinOptionsType() != getattr(schema().BuiltinOptions, class_name):
            return {}
        options = getattr(schema(), class_name)()
        options.Init(table.Bytes, table.Pos)
        values: dict[str, Any] = {}
        for name in fields.split():
            if name.startswith("*"):
                values[name[1:]] = self._vector(options, name[1:])
            else:
                values[name] = getattr(options, name)()
        return values


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
