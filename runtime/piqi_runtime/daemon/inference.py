"""The operation `infer`: from a message to a request for a model's runner. Checked by hand: it is the hot path."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.daemon.pools import Pool
from piqi_runtime.daemon.protocol import MAX_SIDE, Message, bad
from piqi_runtime.daemon.session import Session

Array = npt.NDArray[Any]

#: Channels of the pixel formats of one byte a channel.
BYTE_FORMATS = {"rgb8": 3, "bgr8": 3, "grey8": 1}
_FORMATS = frozenset({*BYTE_FORMATS, "float32", "float32_raw"})
_KEYS = frozenset({"id", "op", "model", "input", "output", "decode", "queue", "deadline_ms"})
_POOL_KEYS = frozenset({"pool", "offset", "format", "width", "height", "stride"})
_INLINE_KEYS = frozenset({"data", "dtype", "shape"})
_OUTPUT_KEYS = frozenset({"pool", "offset"})
_MAX_DEADLINE_MS = 1e9
MAX_TOP_K = 1000


@dataclass(slots=True)
class Source:
    """Where a frame is: a pool from `offset` on, or `data` that came with the message.

    `width`, `height`, `stride` (bytes) are 0 where the format is float32_raw: the tensor, of `shape` if it came inline.
    """

    format: str
    width: int = 0
    height: int = 0
    stride: int = 0
    offset: int = 0
    pool: Pool | None = None
    data: npt.NDArray[np.uint8] | None = None
    shape: tuple[int, ...] | None = None

    def bytes(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """The first `size_bytes` of it. Raises ProtocolError."""
        if self.pool is not None:
            return self.pool.read("input.offset", self.offset, size_bytes)
        assert self.data is not None
        if len(self.data) < size_bytes:
            raise bad("input.data", f"{size_bytes} bytes", len(self.data))
        return self.data[:size_bytes]


@dataclass(slots=True)
class Decoding:
    """A decoded form that is asked for: `topk` with `k`, or `boxes` with `score` and `iou` (None: the bundle's)."""

    kind: str
    k: int = 5
    score: float | None = None
    iou: float | None = None


@dataclass(slots=True)
class Request:
    """A frame that waits for a model. Times: `perf_counter_ns`."""

    session: Session
    id: int | str
    source: Source
    output: Pool | str | None  # a pool, "inline", None
    output_offset: int
    decoding: Decoding | None
    latest: bool
    received_ns: int
    deadline_ns: int | None


def parse(session: Session, id: int | str, message: Message) -> Request:
    """The request that a message is. Raises ProtocolError."""
    received_ns = perf_counter_ns()
    if not message.keys() <= _KEYS:
        raise bad("infer", f"only {', '.join(sorted(_KEYS))}", sorted(message.keys() - _KEYS)[:5])
    queue = message.get("queue", "all")
    if queue not in ("latest", "all"):
        raise bad("queue", '"latest" or "all"', queue)
    output, output_offset = _output(session, message.get("output"))
    decode = message.get("decode")
    deadline_ms = message.get("deadline_ms")
    return Request(
        session,
        id,
        _source(session, message.get("input")),
        output,
        output_offset,
        None if decode is None else _decoding(decode),
        queue == "latest",
        received_ns,
        None if deadline_ms is None else received_ns + int(_number("deadline_ms", deadline_ms, _MAX_DEADLINE_MS) * 1e6),
    )


def _source(session: Session, value: object) -> Source:
    if type(value) is not dict:
        raise bad("input", "an object with a pool or data", value)
    if "pool" not in value:
        return _inline(value)
    if not value.keys() <= _POOL_KEYS:
        raise bad("input", f"only {', '.join(sorted(_POOL_KEYS))}", sorted(value.keys() - _POOL_KEYS)[:5])
    pool = session.find_pool(value["pool"])
    offset = _integer("input.offset", value.get("offset", 0), 0, pool.size_bytes)
    format = value.get("format")
    if type(format) is not str or format not in _FORMATS:
        raise bad("input.format", f"one of {', '.join(sorted(_FORMATS))}", format)
    if format == "float32_raw":
        if offset % 4:
            raise bad("input.offset", "a multiple of 4 for floats", offset)
        return Source(format, offset=offset, pool=pool)
    width = _integer("input.width", value.get("width"), 1, MAX_SIDE)
    height = _integer("input.height", value.get("height"), 1, MAX_SIDE)
    if format == "float32":
        stride = _integer("input.stride", value.get("stride", 0), 0, pool.size_bytes)
        if offset % 4 or stride % 4:
            raise bad("input.offset, input.stride", "multiples of 4 for floats", [offset, stride])
        return Source(format, width, height, stride, offset, pool)
    row_bytes = width * BYTE_FORMATS[format]
    stride = _integer("input.stride", value.get("stride", row_bytes), row_bytes, pool.size_bytes)
    source = Source(format, width, height, stride, offset, pool)
    source.bytes(stride * (height - 1) + row_bytes)  # refused now, not behind all that waits
    return source


def _inline(value: dict[str, Any]) -> Source:
    if not value.keys() <= _INLINE_KEYS:
        raise bad("input", f"only {', '.join(sorted(_INLINE_KEYS))}", sorted(value.keys() - _INLINE_KEYS)[:5])
    text, dtype, shape = value.get("data"), value.get("dtype"), value.get("shape")
    if dtype not in ("float32", "uint8"):
        raise bad("input.dtype", '"float32" or "uint8"', dtype)
    if type(shape) is not list or not 1 <= len(shape) <= 8:
        raise bad("input.shape", "1 to 8 sizes", shape)
    sizes = tuple(_integer("input.shape", size, 1, MAX_SIDE * MAX_SIDE) for size in shape)
    try:
        if type(text) is not str:
            raise ValueError
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (ValueError, binascii.Error):
        raise bad("input.data", "base64", text) from None
    expected = math.prod(sizes) * (4 if dtype == "float32" else 1)
    if len(data) != expected:
        raise bad("input.data", f"{expected} bytes for {dtype} {list(sizes)}", len(data))
    if dtype == "float32":
        return Source("float32_raw", data=data, shape=sizes)
    if len(sizes) == 4 and sizes[0] == 1:
        sizes = sizes[1:]
    channels = sizes[2] if len(sizes) == 3 else 1
    if len(sizes) not in (2, 3) or channels not in (1, 3) or max(sizes) > MAX_SIDE:
        raise bad("input.shape", "[height, width], [height, width, 1 or 3] for uint8", shape)
    format = "rgb8" if channels == 3 else "grey8"
    return Source(format, sizes[1], sizes[0], sizes[1] * channels, data=data)


def _output(session: Session, value: object) -> tuple[Pool | str | None, int]:
    if value is None or value == "inline":
        return value, 0
    if type(value) is not dict or not value.keys() <= _OUTPUT_KEYS:
        raise bad("output", 'absent, "inline" or an object with pool and offset', value)
    pool = session.find_pool(value.get("pool"))
    offset = _integer("output.offset", value.get("offset", 0), 0, pool.size_bytes)
    if offset % 64:
        raise bad("output.offset", "a multiple of 64", offset)
    return pool, offset


def _decoding(value: object) -> Decoding:
    kind = value.get("kind") if type(value) is dict else None
    if type(value) is dict and kind == "topk" and value.keys() <= {"kind", "k"}:
        return Decoding(kind, k=_integer("decode.k", value.get("k", 5), 1, MAX_TOP_K))
    if type(value) is dict and kind == "boxes" and value.keys() <= {"kind", "score", "iou"}:
        score, iou = value.get("score"), value.get("iou")
        return Decoding(
            kind,
            score=None if score is None else _number("decode.score", score, 1),
            iou=None if iou is None else _number("decode.iou", iou, 1),
        )
    raise bad("decode", '{"kind": "topk", "k"} or {"kind": "boxes", "score", "iou"}', value)


def _integer(field: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise bad(field, f"an integer from {low} to {high}", value)
    return value


def _number(field: str, value: object, high: float) -> float:
    if (type(value) is not float and type(value) is not int) or not 0 < value <= high:
        raise bad(field, f"a number above 0, at most {high:g}", value)
    return float(value)
