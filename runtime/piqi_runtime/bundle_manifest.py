"""The manifest of a bundle: what is in it, what it is for and how it was made. docs/bundle.md describes it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator

from piqi_runtime.errors import PiqiError
from piqi_runtime.table import CREATED_BY

MANIFEST = "manifest.json"
MODEL = "model.piqi"
TABLE = "table.json"
LABELS = "labels.txt"
PARTITIONS = "partitions"
MAX_MANIFEST_BYTES = 16 << 20

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*"  # no part is hidden, "." or ".."

#: A file's path inside of a bundle: it cannot leave it, and every file system and archive can hold it.
RelativePath = Annotated[str, Field(pattern=f"^{_PART}(/{_PART})*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Layer = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Shape = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)]


class BundleError(PiqiError):
    """A bundle that is missing, damaged, of another board or version, or not writable. Names file, field, value."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class BundleInput(_Strict):
    """The network's input, and how a frame becomes one.

    `preprocessing`: how bytes become floats: `signed` [-1, 1], `unit` [0, 1], `raw` [0, 255]. `fit`: what to do with
    a frame of another size: `crop` the centre after resizing the shorter side, `stretch`, `letterbox`, or `exact`:
    refuse it. `colour`: the order of channels; None: not an image, taken as it is.
    """

    name: Name
    shape: Shape
    preprocessing: Literal["signed", "unit", "raw"] = "signed"
    fit: Literal["crop", "stretch", "letterbox", "exact"] = "crop"
    colour: Literal["rgb", "bgr", "grey"] | None = "rgb"

    @model_validator(mode="after")
    def _check(self) -> BundleInput:
        if self.colour is None:
            if (self.preprocessing, self.fit) != ("raw", "exact"):
                raise ValueError(
                    f"preprocessing, fit: expected raw, exact without a colour, got {self.preprocessing}, {self.fit}"
                )
        elif len(self.shape) != 4 or self.shape[3] != (1 if self.colour == "grey" else 3):
            expected = "[N, H, W, 1]" if self.colour == "grey" else "[N, H, W, 3]"
            raise ValueError(f"shape: expected {expected} for colour {self.colour}, got {list(self.shape)}")
        return self


class BundleOutput(_Strict):
    """An output and what it means: scores of `classes`, a head that gives `boxes`, or `raw`.

    `options`: what its decoder needs (anchors, strides...).
    """

    name: Name
    shape: Shape
    kind: Literal["classes", "boxes", "raw"] = "raw"
    options: dict[str, JsonValue] = {}


class FileEntry(_Strict):
    """What a file must be."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class PartitionEntry(_Strict):
    """Where the partition of a range of layers is. `checksum`: of its content; `vendor`: target -> prepared file."""

    first_layer: Layer
    last_layer: Layer
    file: RelativePath
    checksum: Sha256
    vendor: dict[Name, RelativePath] = {}

    @property
    def range(self) -> tuple[int, int]:
        """(first, last), both included."""
        return self.first_layer, self.last_layer


class Manifest(_Strict):
    """All that a bundle says of itself. `source_hash`: the `content_hash` of its float model.

    `kind`: "kit" for what a board needs to be profiled: a bundle without a table.
    """

    schema_version: Literal[1] = 1
    kind: Literal["kit"] | None = None
    created_by: Name = CREATED_BY
    created: str | None = None
    model: Name
    board: Name
    layer_count: Annotated[int, Field(ge=1)]
    npu_letters: Annotated[str, Field(pattern="^[A-Z]*$")]
    scheme: Literal["per_channel", "per_tensor"] | None = None
    source_hash: Sha256
    input: BundleInput
    outputs: Annotated[tuple[BundleOutput, ...], Field(min_length=1)]
    labels: RelativePath | None = None
    how_built: dict[str, JsonValue] = {}
    partitions: tuple[PartitionEntry, ...] = ()
    files: dict[RelativePath, FileEntry]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        ranges: set[tuple[int, int]] = set()
        for i, entry in enumerate(self.partitions):
            if not entry.first_layer <= entry.last_layer < self.layer_count:
                raise ValueError(
                    f"partitions[{i}]: expected a range of the {self.layer_count} layers, "
                    f"got {entry.first_layer}-{entry.last_layer}"
                )
            if entry.range in ranges:
                raise ValueError(f"partitions[{i}]: layers {entry.first_layer}-{entry.last_layer} are there twice")
            ranges.add(entry.range)
        if (self.scheme is None) != (not self.partitions):
            raise ValueError(f"scheme: goes with partitions, got {self.scheme!r} and {len(self.partitions)} of them")
        unlisted = [file for file in self.named_files() if file not in self.files]
        if unlisted or MANIFEST in self.files:
            raise ValueError(f"files: expected every file but {MANIFEST}, got none for {', '.join(unlisted) or 'it'}")
        return self

    def named_files(self) -> list[str]:
        """The files that have a role, each once."""
        names = [MODEL, *([] if self.kind == "kit" else [TABLE]), *([self.labels] if self.labels else [])]
        for entry in self.partitions:
            names += [entry.file, *entry.vendor.values()]
        return list(dict.fromkeys(names))

    def updated(self, **fields: Any) -> Manifest:
        """The same with other `fields`, checked. Raises BundleError."""
        return _parsed(self.model_copy(update=fields).to_json(), MANIFEST)

    def to_json(self) -> bytes:
        """The file; the same manifest always gives the same bytes."""
        values = {key: value for key, value in self.model_dump(mode="json").items() if value is not None}
        return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle in `root`. Raises BundleError, with a line for each problem."""
    path = root / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: size: expected at most {MAX_MANIFEST_BYTES} bytes")
    return _parsed(text, str(path))


def make_manifest(**values: Any) -> Manifest:
    """A manifest of these fields; `created` is what SOURCE_DATE_EPOCH says, if it does. Raises BundleError."""
    try:
        return Manifest(created=_source_date(), **values)
    except ValidationError as error:
        raise BundleError("\n".join(f"{MANIFEST}: {line}" for line in _problems(error))) from error


def plain_json(field: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as JSON gives it back, keys sorted. Raises BundleError where it is not JSON."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST}: {field}: {error}") from error
    return plain


def check_path(path: str) -> str:
    """`path`, if a bundle can have a file of that name. Raises BundleError."""
    try:
        return TypeAdapter(RelativePath).validate_python(path)
    except ValidationError as error:
        raise BundleError(f"{path[:200]!r}: cannot be a file's path in a bundle: {error.errors()[0]['msg']}") from error


def _parsed(text: bytes, path: str) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError("\n".join(f"{path}: {line}" for line in _problems(error))) from error


def _problems(error: ValidationError) -> list[str]:
    """ "files.model.piqi.sha256: String should match..., got 'x'" for each; of another version only that."""
    lines = []
    for problem in error.errors():
        if problem["loc"] == ("schema_version",):
            got = "none" if problem["type"] == "missing" else repr(problem["input"])
            return [f"schema_version: this program reads 1, got {got}"]
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] not in ("missing", "json_invalid", "value_error"):
            message += f", got {str(problem['input'])[:80]!r}"
        lines.append(f"{key}: {message}" if key else message)
    return lines


def _source_date() -> str | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise BundleError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {text!r}") from error
