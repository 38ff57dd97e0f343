"""The container file: a model, or a partition of one, with its arrays ready to be mapped. No code, no pickle.

    offset  bytes
    0       4      magic "PIQI"
    4       4      version, little endian like all numbers
    8       8      size of the header
    16      8      size of the data
    24      8      zero
    32      32     SHA-256 of bytes 0..31, the header and the data, in this order
    64      ...    header: JSON, `Header` below, padded with spaces to a multiple of 64
    ...     ...    data: the constants, each at a multiple of 64, zeros between them

A file is checked as a whole before anything of it is used: sizes against its length, the digest, the header's
fields, each array's place. Arrays are then views of the mapped file: nothing is copied, and what is not
touched costs no memory.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_runtime.errors import PiqiError
from piqi_runtime.model import Array, Model, Operator, Tensor

MAGIC = b"PIQI"
VERSION = 1
ALIGNMENT = 64
PREFIX = struct.Struct("<4sIQQQ")  # followed by the digest
PREFIX_BYTES = 64
MAX_HEADER_BYTES = 64 << 20

Extent = Annotated[int, Field(ge=0, lt=1 << 31)]
DataTypeName = Literal["float32", "int8", "uint8", "int32"]


class ContainerError(PiqiError):
    """A container file that cannot be written or read. Names file, field and value."""


class PartitionFileError(ContainerError):
    """A partition file that is missing, truncated, corrupt, foreign or of another version."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", defer_build=True)


class ArrayPlace(_Strict):
    """Where a constant lies in the data."""

    offset: int = Field(ge=0, multiple_of=ALIGNMENT)
    size: int = Field(ge=0)


class TensorHeader(_Strict):
    """A `Tensor`."""

    name: str
    shape: list[Extent] = Field(max_length=8)
    dtype: DataTypeName
    scales: list[float] = []
    zero_point: int = 0
    data: ArrayPlace | None = None


class Attributes(_Strict):
    """The fields of OperatorParameters in graph.hpp; those that are missing have its defaults."""

    stride_height: Extent | None = None
    stride_width: Extent | None = None
    dilation_height: Extent | None = None
    dilation_width: Extent | None = None
    pad_top: Extent | None = None
    pad_left: Extent | None = None
    pad_bottom: Extent | None = None
    pad_right: Extent | None = None
    kernel_height: Extent | None = None
    kernel_width: Extent | None = None
    groups: Extent | None = None
    clamp_min: float | None = None
    clamp_max: float | None = None
    axis: Extent | None = None
    axes: list[Extent] | None = None
    alpha: float | None = None
    beta: float | None = None
    bias: float | None = None
    radius: Extent | None = None
    align_corners: bool | None = None
    half_pixel_centers: bool | None = None
    pad_before: list[Extent] | None = None
    pad_after: list[Extent] | None = None
    pad_value: float | None = None
    begin: list[Extent] | None = None
    size: list[Extent] | None = None
    strides: list[int] | None = None


class OperatorHeader(_Strict):
    """An `Operator`."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: Attributes
    layer: Extent


class ModelHeader(_Strict):
    """A `Model` but for its arrays."""

    name: str
    tensors: list[TensorHeader]
    operators: list[OperatorHeader]
    inputs: list[str]
    outputs: list[str]


class PartitionHeader(_Strict):
    """What a partition says of itself beside its model."""

    source_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    first_layer: Extent
    last_layer: Extent
    scheme: Literal["per_channel", "per_tensor"]


class Header(_Strict):
    """All that is not an array."""

    kind: Literal["model", "partition"]
    model: ModelHeader
    partition: PartitionHeader | None = None


def write_atomically(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file that is there as a whole or not at all, even if power fails. Raises OSError."""
    import tempfile  # here: who only reads does without

    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def content_hash(model: Model, layers: bool = True) -> str:
    """SHA-256 of what `model` computes, in hex: everything but its name; without `layers`, also not its
    layers."""
    header, arrays = _describe(model)
    operators = header.operators if layers else [op.model_copy(update={"layer": 0}) for op in header.operators]
    header = header.model_copy(update={"name": "", "operators": operators})
    digest = hashlib.sha256(header.model_dump_json(exclude_none=True).encode())
    for part in _laid_out(arrays):
        digest.update(part)
    return digest.hexdigest()


def save_container(path: str | os.PathLike[str], model: Model, partition: PartitionHeader | None = None) -> None:
    """Writes `model`, or the partition that it is, atomically. Raises ContainerError."""
    described, arrays = _describe(model)
    header = Header(kind="partition" if partition else "model", model=described, partition=partition)
    text = header.model_dump_json(exclude_none=True).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ContainerError(f"{path}: the header would have {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    prefix = PREFIX.pack(MAGIC, VERSION, len(text), _padded_size(arrays), 0)
    digest = hashlib.sha256(prefix + text)
    for part in _laid_out(arrays):
        digest.update(part)
    try:
        write_atomically(path, [prefix, digest.digest(), text, *_laid_out(arrays)])
    except OSError as error:
        raise ContainerError(f"{path}: {error.strerror}") from error


def load_container(
    path: str | os.PathLike[str],
    kind: Literal["model", "partition"],
    error_type: type[ContainerError] = ContainerError,
    verified: bool = False,
) -> tuple[Model, PartitionHeader | None, str]:
    """The model (its constants views of the mapped file), the partition's header and the digest in hex.

    `verified`: the whole file's SHA-256 was found right, and its own digest needs no checking. Raises `error_type`
    naming file, field and value.
    """
    try:
        file = np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise error_type(f"{path}: {error.strerror}") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise error_type(f"{path}: size: expected at least {PREFIX_BYTES} bytes, got 0") from error
    try:
        header, data, digest = _read(file, verified)
        if header.kind != kind:
            raise ValueError(f"kind: expected {kind!r}, got {header.kind!r}")
        if (header.kind == "partition") != (header.partition is not None):
            raise ValueError(f"partition: does not go with kind {header.kind!r}")
        return _to_model(header.model, data), header.partition, digest
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise error_type(f"{path}: header.{field}: {first['msg']}, got {str(first['input'])[:80]}") from error
    except ValueError as error:
        raise error_type(f"{path}: {error}") from error


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes `model` with its layers, so that a board needs no reader of any other format. Raises
    ContainerError."""
    save_container(path, model)


def load_model(path: str | os.PathLike[str], verified: bool = False) -> Model:
    """Reads what `save_model` wrote; constants stay in the mapped file; `verified`: as `load_container` has it.

    Raises ContainerError.
    """
    return load_container(path, "model", verified=verified)[0]


def _describe(model: Model) -> tuple[ModelHeader, list[Array]]:
    """The header of `model`, and its arrays in the order of their places."""
    arrays: list[Array] = []
    tensors, offset = [], 0
    for tensor in model.tensors.values():
        place = None
        if tensor.data is not None:
            place = ArrayPlace(offset=offset, size=tensor.size_bytes)
            arrays.append(np.ascontiguousarray(tensor.data, tensor.dtype))
            offset += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
        tensors.append(
            TensorHeader(
                name=tensor.name,
                shape=list(tensor.shape),
                dtype=tensor.dtype,  # type: ignore[arg-type]  # pydantic checks it
                scales=list(tensor.scales),
                zero_point=tensor.zero_point,
                data=place,
            )
        )
    operators = [
        OperatorHeader(
            kind=op.kind,
            name=op.name,
            inputs=list(op.inputs),
            outputs=list(op.outputs),
            attributes=Attributes.model_validate(dict(op.attributes)),
            layer=op.layer,
        )
        for op in model.operators
    ]
    header = ModelHeader(
        name=model.name,
        tensors=tensors,
        operators=operators,
        inputs=list(model.inputs),
        outputs=list(model.outputs),
    )
    return header, arrays


def _laid_out(arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
    for array in arrays:
        yield array.reshape(-1).view(np.uint8).data
        yield bytes(-array.nbytes % ALIGNMENT)


def _padded_size(arrays: Iterable[Array]) -> int:
    return sum(array.nbytes + -array.nbytes % ALIGNMENT for array in arrays)


def _read(file: np.memmap[Any, np.dtype[np.uint8]], verified: bool) -> tuple[Header, Array, str]:
    """Header, data and digest of a file. Raises ValueError whose text begins with the field."""
    if len(file) < PREFIX_BYTES:
        raise ValueError(f"size: expected at least {PREFIX_BYTES} bytes, got {len(file)}")
    prefix = file[: PREFIX.size].tobytes()
    magic, version, header_size, data_size, _ = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ValueError(f"magic: expected {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise ValueError(f"version: expected {VERSION}, got {version}")
    if header_size > MAX_HEADER_BYTES or header_size % ALIGNMENT:
        raise ValueError(f"header_size: expected a multiple of {ALIGNMENT} up to {MAX_HEADER_BYTES}, got {header_size}")
    if PREFIX_BYTES + header_size + data_size != len(file):
        raise ValueError(f"size: expected {PREFIX_BYTES + header_size + data_size} bytes, got {len(file)}")
    expected = file[PREFIX.size : PREFIX_BYTES].tobytes()
    if not verified:
        digest = hashlib.sha256(prefix)
        digest.update(file[PREFIX_BYTES:].data)
        if digest.digest() != expected:
            raise ValueError(f"digest: expected {expected.hex()}, got {digest.hexdigest()}")
    body = file[PREFIX_BYTES:]
    return Header.model_validate_json(body[:header_size].tobytes()), body[header_size:], expected.hex()


def _to_model(header: ModelHeader, data: Array) -> Model:
    tensors: dict[str, Tensor] = {}
    for i, described in enumerate(header.tensors):
        if described.name in tensors:
            raise ValueError(f"model.tensors.{i}.name: {described.name!r} is there twice")
        tensor = Tensor(
            described.name,
            tuple(described.shape),
            described.dtype,
            _view(described, data, f"model.tensors.{i}.data"),
            tuple(described.scales),
            described.zero_point,
        )
        tensors[described.name] = tensor
    operators = []
    for i, op in enumerate(header.operators):
        _check_names(tensors, f"model.operators.{i}", [*op.inputs, *op.outputs])
        attributes: Mapping[str, Any] = op.attributes.model_dump(exclude_none=True)
        operators.append(Operator(op.kind, op.name, tuple(op.inputs), tuple(op.outputs), attributes, op.layer))
    _check_names(tensors, "model", [*header.inputs, *header.outputs])
    return Model(header.name, tensors, tuple(operators), tuple(header.inputs), tuple(header.outputs))


def _view(described: TensorHeader, data: Array, field: str) -> Array | None:
    if described.data is None:
        return None
    offset, size = described.data.offset, described.data.size
    count = 1
    for extent in described.shape:  # Python's integers: a product in NumPy's could wrap
        count *= extent
    expected = count * np.dtype(described.dtype).itemsize
    if size != expected:
        raise ValueError(f"{field}.size: expected {expected} for shape {described.shape}, got {size}")
    if offset + size > len(data):
        raise ValueError(f"{field}: bytes {offset}..{offset + size} are outside of the {len(data)} there are")
    return data[offset : offset + size].view(described.dtype).reshape(described.shape)


def _check_names(tensors: Mapping[str, Tensor], field: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in tensors:
            raise ValueError(f"{field}: there is no tensor {name!r}")
