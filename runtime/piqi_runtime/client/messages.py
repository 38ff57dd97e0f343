"""What both clients share: errors, results, the messages of an inference and the memory its frames lie in."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

Array = npt.NDArray[Any]
Format = Literal["rgb8", "bgr8", "grey8", "float32", "float32_raw"]
Queue = Literal["latest", "all"]

SOCKET = "/run/piqi/piqid.sock"
VERSION = 1
MAX_MESSAGE_BYTES = 65_536
SLOTS = 4
_PAGE = 4096
_CHANNELS = {"rgb8": 3, "bgr8": 3, "grey8": 1}


class ClientError(PiqiError):
    """What can go wrong in a client. Names the field and the value."""


class ConnectionLost(ClientError):  # noqa: N818  # it is what happened
    """The daemon is not there, or went away and did not come back in time."""


class TimedOut(ClientError):  # noqa: N818  # as above
    """No reply in time."""


class DaemonError(ClientError):
    """The daemon refused; `code` is one of docs/protocol.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Result:
    """One frame's result.

    - `outputs`: arrays by name, empty unless asked for; `decoded`: classes or boxes, best first, if asked for;
    - `point`, `order`, `accuracy`: of the operating point that ran it (-1, None: a fallback that is in no table);
    - `latency_us`: of the executor; `queue_us`: before it; `degraded`: the limits that could not be kept;
    - `late`: it came after its deadline.
    """

    model: str
    point: int
    order: str | None
    accuracy: float | None
    latency_us: float
    queue_us: float
    degraded: tuple[str, ...] = ()
    outputs: dict[str, Array] = field(default_factory=dict)
    decoded: list[dict[str, Any]] = field(default_factory=list)
    late: bool = False


def connect(path: str, timeout_s: float) -> socket.socket:
    """A connection. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        # Not `settimeout`: a connect that does not block fails at once where many others connect.
        seconds = max(timeout_s, 0.001)
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        connection.connect(path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except BaseException:
        connection.close()
        raise
    return connection


class FramePool:
    """A sealed memfd of `SLOTS` slots; each holds a frame and behind it the outputs of its inference."""

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        self.input_bytes, self.output_bytes = input_bytes, output_bytes
        self.output_offset = -(-input_bytes // _PAGE) * _PAGE
        self.slot_bytes = self.output_offset + -(-output_bytes // _PAGE) * _PAGE
        size_bytes = max(self.slot_bytes, _PAGE) * SLOTS
        self.descriptor = os.memfd_create("piqi", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size_bytes)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.bytes = np.frombuffer(mmap.mmap(self.descriptor, size_bytes), np.uint8)
        self.number: int | None = None  # the daemon's
        self.free = list(range(SLOTS))

    def fits(self, input_bytes: int, output_bytes: int) -> bool:
        """Whether its slots are large enough."""
        return input_bytes <= self.input_bytes and output_bytes <= self.output_bytes

    def put(self, slot: int, frame: Array) -> None:
        """Copies a frame, of any strides, into a slot."""
        start = slot * self.slot_bytes
        target = self.bytes[start : start + frame.nbytes].view(frame.dtype).reshape(frame.shape)
        np.copyto(target, frame)

    def take(self, row: Mapping[str, Any]) -> Array:
        """A copy of the output that a reply describes."""
        start = int(row["offset"])
        data = self.bytes[start : start + int(row["size_bytes"])]
        tensor: Array = data.view(row["dtype"]).reshape(row["shape"]).copy()
        return tensor

    def close(self) -> None:
        """The descriptor goes now, the mapping with its last user."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True)
class Inference:
    """A frame with all that is asked of it."""

    frame: Array
    format: Format
    model: str | None
    outputs: bool
    decode: dict[str, Any] | None
    queue: Queue
    deadline_ms: float | None

    def message(self, pool: FramePool, slot: int) -> dict[str, Any]:
        """The request, for a frame that was put into a slot."""
        start = slot * pool.slot_bytes
        source: dict[str, Any] = {"pool": pool.number, "offset": start, "format": self.format}
        if self.format != "float32_raw":
            height, width = self.frame.shape[:2]
            source |= {"width": width, "height": height, "stride": self.frame.nbytes // height}
        message: dict[str, Any] = {"op": "infer", "input": source, "queue": self.queue}
        if self.model is not None:
            message["model"] = self.model
        if self.outputs:
            message["output"] = {"pool": pool.number, "offset": start + pool.output_offset}
        if self.decode is not None:
            message["decode"] = self.decode
        if self.deadline_ms is not None:
            message["deadline_ms"] = self.deadline_ms
        return message


def inference(
    frame: Array,
    *,
    model: str | None = None,
    format: Format | None = None,
    outputs: bool | None = None,
    top_k: int | None = None,
    boxes: bool | Mapping[str, float] = False,
    queue: Queue = "all",
    deadline_ms: float | None = None,
) -> Inference:
    """Checks a frame and its options.

    `frame`: uint8 [H, W, 3] (rgb8, or bgr8 by `format`), uint8 [H, W] or [H, W, 1] (grey8), or float32: exactly the
    model's input tensor, or pixels from 0 to 255 of the model's size with `format` "float32". `outputs`: whether the
    raw tensors are wanted (default: unless a decoded form is); `boxes`: True, or {"score", "iou"}. Raises ClientError.
    """
    if frame.dtype == np.uint8:
        channels = frame.shape[2] if frame.ndim == 3 else 1
        format = format or ("rgb8" if channels == 3 else "grey8")
        if frame.ndim not in (2, 3) or _CHANNELS.get(format) != channels or not frame.size:
            raise ClientError(f"frame: expected uint8 [H, W, 3] or [H, W] that is {format}, got {list(frame.shape)}")
    elif frame.dtype == np.float32:
        format = format or "float32_raw"
        if format not in ("float32", "float32_raw") or not frame.size:
            raise ClientError(f"format: expected float32 or float32_raw for a float32 frame, got {format!r}")
    else:
        raise ClientError(f"frame: expected uint8 or float32, got {frame.dtype}")
    if top_k is not None and boxes:
        raise ClientError("top_k, boxes: expected one of them, got both")
    decode: dict[str, Any] | None = None
    if top_k is not None:
        decode = {"kind": "topk", "k": top_k}
    elif boxes:
        decode = {"kind": "boxes", **(boxes if isinstance(boxes, Mapping) else {})}
    outputs = decode is None if outputs is None else outputs
    return Inference(frame, format, model, outputs, decode, queue, deadline_ms)


def output_bytes(models: list[dict[str, Any]], name: str | None) -> int:
    """What a model's outputs (of all models the largest, where it is None) take in a pool."""
    sizes = [
        sum(-(-int(np.prod(output["shape"])) * 4 // 64) * 64 for output in model["outputs"])
        for model in models
        if name in (None, model["name"])
    ]
    return max(sizes, default=0)


def result(reply: Mapping[str, Any], pool: FramePool) -> Result:
    """What a reply says, with the outputs copied out of the pool."""
    return Result(
        model=reply["model"],
        point=reply["point"],
        order=reply["order"],
        accuracy=reply["accuracy"],
        latency_us=reply["latency_us"],
        queue_us=reply["queue_us"],
        degraded=tuple(reply["degraded"]),
        outputs={row["name"]: pool.take(row) for row in reply["outputs"]},
        decoded=reply.get("decoded", []),
        late=reply.get("late", False),
    )


def checked(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The reply, if it is no error. Raises DaemonError."""
    if not reply.get("ok"):
        error = reply.get("error", {})
        raise DaemonError(str(error.get("code", "internal")), str(error.get("message", "")))
    return reply


encode = json.JSONEncoder(separators=(",", ":")).encode
