"""The daemon's protocol, version 1: limits, error codes, messages, arguments. docs/protocol.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_runtime.errors import PiqiError

VERSION = 1
MAX_MESSAGE_BYTES = 65_536
MAX_POOLS = 4
MAX_POOL_BYTES = 256 << 20
MAX_SIDE = 16_384
#: Raw outputs begin at multiples of this in a pool.
ALIGNMENT = 64
MAX_ID_LENGTH = 64
MAX_POINTS = 100

Code = Literal[
    "bad_message",
    "too_large",
    "version",
    "unknown_op",
    "bad_argument",
    "unknown_model",
    "bad_pool",
    "unsealed_pool",
    "too_many_descriptors",
    "dropped",
    "deadline",
    "queue_full",
    "unavailable",
    "backend_failed",
    "backend_hung",
    "shutting_down",
    "internal",
]
CODES: tuple[str, ...] = get_args(Code)

EventName = Literal["switch", "throttle", "degrade", "reload", "fault"]
EVENTS: tuple[str, ...] = get_args(EventName)

MessageId = int | str | None
Message = dict[str, Any]


class ProtocolError(PiqiError):
    """A request that is refused or failed; `code` is for programs, the message for people."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode
#: A value as compact JSON text. Raises ValueError for NaN and infinity.
to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def decode(data: bytes | bytearray | memoryview) -> Message:
    """The object that a message is. Raises ProtocolError (bad_message)."""
    try:
        message = _decode(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, numbers of thousands of digits
        raise ProtocolError("bad_message", f"expected a JSON object in UTF-8: {str(error)[:200]}") from None
    if type(message) is not dict:
        raise ProtocolError("bad_message", f"expected a JSON object, got {type(message).__name__}")
    return message


def encode(message: Mapping[str, Any]) -> bytes:
    """A message's bytes. Raises ProtocolError (too_large)."""
    # Lone surrogates can come in by escapes; they must not keep a reply from going out.
    data = to_json(message).encode("utf-8", "backslashreplace")
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError("too_large", f"the reply has {len(data)} bytes, a message has at most {MAX_MESSAGE_BYTES}")
    return data


def message_id(message: Message) -> int | str:
    """The request's id. Raises ProtocolError (bad_message)."""
    value = message.get("id")
    if (type(value) is int and 0 <= value < 1 << 53) or (type(value) is str and len(value) <= MAX_ID_LENGTH):
        return value
    raise ProtocolError(
        "bad_message",
        f"id: expected an integer >= 0 or a text of at most {MAX_ID_LENGTH} characters, got {_short(value)}",
    )


def ok(id: MessageId, **values: Any) -> bytes:
    """The reply to a request that was done. Raises ProtocolError (too_large)."""
    return encode({"id": id, "ok": True, **values})


def error(id: MessageId, code: str, message: str) -> bytes:
    """The reply to a request that was not."""
    return encode({"id": id, "ok": False, "error": {"code": code, "message": message[:2000]}})


def event(name: EventName, **values: Any) -> bytes:
    """A message that no request asked for."""
    return encode({"event": name, **values})


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


Name = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Index = Annotated[int, Field(ge=0, lt=1 << 31)]


class NoArguments(_Arguments):
    """Of models, status and stats."""


class HelloArguments(_Arguments):
    """Who asks, in which version."""

    version: int
    client: Annotated[str, Field(max_length=200)] | None = None


class PointsArguments(_Arguments):
    """Which points of a model's table."""

    model: Name | None = None
    offset: Index = 0
    limit: Annotated[int, Field(ge=1, le=MAX_POINTS)] = MAX_POINTS


class PoolCloseArguments(_Arguments):
    """Which pool."""

    pool: Index


class LimitsArguments(_Arguments):
    """What one client wants at least; a key that is null clears its limit, one that is absent leaves it."""

    model: Name | None = None
    min_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    max_power_mw: Positive | None = None
    max_latency_ms: Positive | None = None
    deadline_ms: Positive | None = None


class PolicyArguments(_Arguments):
    """A mode, for how long; nothing: only tell."""

    mode: Name | None = None
    seconds: Positive | None = None


class SubscribeArguments(_Arguments):
    """Which events; replaces what was subscribed to before."""

    events: tuple[EventName, ...]


A = TypeVar("A", bound=_Arguments)


def arguments(kind: type[A], message: Message) -> A:
    """The arguments of an operation, checked. Raises ProtocolError (bad_argument), one line for each problem."""
    values = {key: value for key, value in message.items() if key not in ("id", "op")}
    if isinstance(values.get("events"), list):
        values["events"] = tuple(values["events"])
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        lines = []
        for item in problem.errors()[:5]:
            key = ".".join(str(part) for part in item["loc"])
            text = {"missing": "is missing", "extra_forbidden": "is not an argument"}.get(item["type"], item["msg"])
            got = "" if item["type"] == "missing" else f", got {_short(item['input'])}"
            lines.append(f"{key}: {text}{got}")
        raise ProtocolError("bad_argument", "\n".join(lines)) from None


def _short(value: object) -> str:
    try:
        text = to_json(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def bad(field: str, expected: str, got: object) -> ProtocolError:
    """The error for an argument that is not as expected."""
    return ProtocolError("bad_argument", f"{field}: expected {expected}, got {_short(got)}")
