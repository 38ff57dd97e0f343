"""Annotations of detection data in COCO's format: images, boxes, categories."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class CocoError(PiqiError):
    """An annotation file that cannot be used. Names file, field and value."""


@dataclass(frozen=True)
class GroundTruth:
    """The true boxes of all frames: those of frame i are rows starts[i] to starts[i + 1]."""

    starts: Ints  # [frames + 1]
    boxes: Floats  # [rows, 4]: x, y, width, height in the original image's pixels
    classes: Ints  # [rows], numbered from 0 in the order of category ids
    crowd: Bools  # [rows]: a box around many objects, which counts neither for nor against
    categories: tuple[str, ...]

    @property
    def frames(self) -> int:
        return len(self.starts) - 1

    def frame(self, i: int) -> slice:
        """The rows of frame i."""
        return slice(int(self.starts[i]), int(self.starts[i + 1]))

    def select(self, frames: Sequence[int]) -> GroundTruth:
        """The truth of these frames, in this order."""
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in frames] or [np.zeros(0, int)])
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[list(frames)])]).astype(np.int64)
        return GroundTruth(starts, self.boxes[rows], self.classes[rows], self.crowd[rows], self.categories)

    def digest(self) -> str:
        """SHA-256 of everything in it."""
        digest = hashlib.sha256(json.dumps(self.categories).encode())
        for array in (self.starts, self.boxes, self.classes, self.crowd):
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Annotations:
    """What the file lists: images, in its order, and what is on each."""

    files: tuple[str, ...]
    sizes: tuple[tuple[int, int] | None, ...]  # width, height, where they are stated
    truth: GroundTruth


def read_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Reads a COCO file of boxes (images, annotations, categories). Raises CocoError."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not JSON, not UTF-8
        raise CocoError(f"{path}: {error}") from error
    images, annotations, categories = (_list(path, content, key) for key in ("images", "annotations", "categories"))
    if not images or not categories:
        raise CocoError(f"{path}: {'categories' if images else 'images'}: is empty")
    names = {_integer(path, "categories", i, c, "id"): str(c.get("name", "")) for i, c in enumerate(categories)}
    number = {category: i for i, category in enumerate(sorted(names))}
    frame: dict[int, int] = {}
    for i, image in enumerate(images):
        identity = _integer(path, "images", i, image, "id")
        if identity in frame:
            raise CocoError(f"{path}: images[{i}].id: {identity} occurs twice")
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise CocoError(f"{path}: images[{i}].file_name: expected a name, got {image.get('file_name')!r}")
        frame[identity] = i
    if len(names) != len(categories):
        raise CocoError(f"{path}: categories: ids occur twice")
    rows = []
    for i, annotation in enumerate(annotations):
        image_id = _integer(path, "annotations", i, annotation, "image_id", frame)
        category = _integer(path, "annotations", i, annotation, "category_id", number)
        rows.append(
            (frame[image_id], number[category], bool(annotation.get("iscrowd")), *_box(path, i, annotation.get("bbox")))
        )
    rows.sort(key=lambda row: row[0])  # stable: the file's order within a frame
    table = np.array(rows, np.float64).reshape(-1, 7)
    starts = np.searchsorted(table[:, 0], np.arange(len(images) + 1)).astype(np.int64)
    truth = GroundTruth(
        starts,
        np.ascontiguousarray(table[:, 3:]),
        table[:, 1].astype(np.int64),
        table[:, 2].astype(np.bool_),
        tuple(names[category] for category in sorted(names)),
    )
    return Annotations(tuple(image["file_name"] for image in images), tuple(map(_size, images)), truth)


def _list(path: Path, content: Any, key: str) -> list[dict[str, Any]]:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise CocoError(f"{path}: {key}: expected a list of objects, got {type(value).__name__}")
    return value


def _integer(path: Path, key: str, i: int, item: dict[str, Any], name: str, known: dict[int, int] | None = None) -> int:
    value = item.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CocoError(f"{path}: {key}[{i}].{name}: expected a whole number, got {value!r}")
    if known is not None and value not in known:
        raise CocoError(f"{path}: {key}[{i}].{name}: {value} is not listed")
    return value


def _box(path: Path, i: int, box: Any) -> tuple[float, float, float, float]:
    numbers = box if isinstance(box, list) and all(isinstance(x, int | float) for x in box) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or min(numbers[2:]) < 0:
        raise CocoError(f"{path}: annotations[{i}].bbox: expected x, y, width, height, got {box!r}")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3]))


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
