"""Partitions: a range of layers as an NPU runs it, in a file that the board loads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import piqi_native
from piqi_runtime.container import (
    ContainerError,
    PartitionFileError,
    PartitionHeader,
    content_hash,
    load_container,
    save_container,
)
from piqi_runtime.model import Model

__all__ = ["MAX_VENDOR_NAME", "Partition", "PartitionFileError", "vendor_name"]

MAX_VENDOR_NAME = 64


def vendor_name(name: str) -> str:
    """The name of a tensor in vendors' files: its own, or the beginning of a long one and a digest of the whole."""
    if len(name) <= MAX_VENDOR_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_VENDOR_NAME - len(digest) - 1]}_{digest}"


@dataclass(frozen=True)
class Partition:
    """Layers first..last of a network, quantised.

    `model`: their operators; its inputs and outputs are all tensors that cross the range's border, under the
    names that they have in the float network. `source_hash`: the `content_hash` of the float network that
    must run beside it. `vendor_files`: what vendors' tools made of it, by target ("rk3588").
    """

    model: Model
    first_layer: int
    last_layer: int
    scheme: Literal["per_channel", "per_tensor"]
    source_hash: str
    vendor_files: Mapping[str, Path] = field(default_factory=dict, compare=False)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the content, in hex."""
        return content_hash(self.model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file atomically. Raises PartitionFileError."""
        header = PartitionHeader(
            source_hash=self.source_hash,
            first_layer=self.first_layer,
            last_layer=self.last_layer,
            scheme=self.scheme,
        )
        try:
            save_container(path, self.model, header)
        except ContainerError as error:
            raise PartitionFileError(str(error)) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], source: Model | None = None, verified: bool = False) -> Partition:
        """Reads what `save` wrote; constants stay in the mapped file.

        `source`: the float network, if the partition is to be checked against it; `verified`: as `load_container`
        has it. Raises PartitionFileError
        naming file, field and value for a file that is missing, truncated, corrupt, foreign or of another
        network.
        """
        model, header, _ = load_container(path, "partition", PartitionFileError, verified)
        assert header is not None
        if not header.first_layer <= header.last_layer:
            raise PartitionFileError(
                f"{path}: partition.last_layer: expected at least {header.first_layer}, got {header.last_layer}"
            )
        if source is not None and (expected := content_hash(source)) != header.source_hash:
            raise PartitionFileError(
                f"{path}: partition.source_hash: expected {expected} of '{source.name}', got {header.source_hash}"
            )
        return cls(model, header.first_layer, header.last_layer, header.scheme, header.source_hash)

    def to_native(self, target: str | None = None) -> piqi_native.Partition:
        """What the executor takes; an NPU's library loads the file for `target`.

        Raises `piqi_native.GraphError` if the model contradicts itself.
        """
        ends = (*self.model.inputs, *self.model.outputs)
        return piqi_native.Partition(
            self.model.to_graph(),
            self.first_layer,
            self.last_layer,
            self.checksum,
            os.fspath(self.vendor_files.get(target or "", "")),
            {name: vendor_name(name) for name in ends if vendor_name(name) != name},
        )
