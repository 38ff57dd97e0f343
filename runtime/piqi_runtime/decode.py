"""From a detector's raw outputs to boxes in the pixels of the original image. NumPy only.

A detection is a row of six numbers: class, score, x, y, width, height; x and y are the upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

#: Candidates of a frame that take part in the suppression, best first.
MAX_CANDIDATES = 1000
#: Widths and heights grow with the exponential of what the network says; e^10 anchors fill any image.
MAX_EXPONENT = 10.0


class DecodeError(PiqiError):
    """Outputs that are not those of the detector. Names output, expected and given shape."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input: resized to `width` x `height`, its corner at `left`, `top`.

    Both are negative where the image was cropped, positive where it was padded.
    """

    width: int
    height: int
    left: int
    top: int


def place(fit: str, width: int, height: int, input_width: int, input_height: int) -> Placement:
    """How `fit` (crop, letterbox; anything else stretches) places an image of `width` x `height` pixels."""
    across, down = input_width / width, input_height / height
    if fit == "crop":
        factor = max(across, down)
        size = (max(round(width * factor), input_width), max(round(height * factor), input_height))
        return Placement(*size, -((size[0] - input_width) // 2), -((size[1] - input_height) // 2))
    if fit == "letterbox":
        factor = min(across, down)
        size = (max(min(round(width * factor), input_width), 1), max(min(round(height * factor), input_height), 1))
        return Placement(*size, (input_width - size[0]) // 2, (input_height - size[1]) // 2)
    return Placement(input_width, input_height, 0, 0)


@dataclass(frozen=True)
class Head:
    """One output of the detector: a cell every `stride` pixels, a box for each anchor (width, height in pixels)."""

    stride: int
    anchors: tuple[tuple[float, float], ...]


YOLO_V3 = (
    Head(8, ((10, 13), (16, 30), (33, 23))),
    Head(16, ((30, 61), (62, 45), (59, 119))),
    Head(32, ((116, 90), (156, 198), (373, 326))),
)
#: The published weights were trained with anchors 1, 2, 3 of six on the fine grid, not 0, 1, 2
#: (github.com/pjreddie/darknet/issues/851).
YOLO_V3_TINY = (
    Head(16, ((23, 27), (37, 58), (81, 82))),
    Head(32, ((81, 82), (135, 169), (344, 319))),
)


@dataclass(frozen=True)
class YoloDecoder:
    """Boxes of a YOLOv3-like detector (Redmon and Farhadi 2018, section 2.1).

    Each output is [n, rows, columns, anchors * (5 + classes)]: x, y, w, h, objectness and a score for each class,
    all before the sigmoid or exponential. Defaults are those with which Darknet measures mAP.
    """

    heads: tuple[Head, ...]
    classes: int
    input_width: int
    input_height: int
    score_threshold: float = 0.005
    iou_threshold: float = 0.45
    max_detections: int = 100

    def arranged(self, shapes: Sequence[tuple[int, ...]]) -> list[int]:
        """Which of the outputs, of these shapes, belongs to each head. Raises DecodeError."""
        order = []
        for head in self.heads:
            rows, columns = self.input_height // head.stride, self.input_width // head.stride
            expected = (rows, columns, len(head.anchors) * (5 + self.classes))
            found = [i for i, shape in enumerate(shapes) if tuple(shape[1:]) == expected]
            if len(found) != 1:
                raise DecodeError(
                    f"stride {head.stride}: expected one output of shape [n, {rows}, {columns}, {expected[2]}] "
                    f"({len(head.anchors)} anchors, {self.classes} classes), got {[list(shape) for shape in shapes]}"
                )
            order += found
        if len(order) != len(shapes):
            raise DecodeError(f"expected {len(order)} outputs, one a head, got {len(shapes)}")
        return order

    def detect(
        self, outputs: Iterable[Array], placements: Sequence[Placement], sizes: Sequence[tuple[int, int]]
    ) -> list[Floats]:
        """Detections [k, 6] of each frame, best first, in pixels of the original image.

        `outputs`: one array [n, rows, columns, channels] a head, in any order. `placements` and `sizes` (width,
        height of the original image): one a frame. Raises DecodeError.
        """
        arrays = list(outputs)
        order = self.arranged([array.shape for array in arrays])
        parts = [self._candidates(arrays[i], head) for i, head in zip(order, self.heads, strict=True)]
        frame = np.concatenate([part[0] for part in parts])
        rows = np.concatenate([part[1] for part in parts])
        by_frame = np.argsort(frame, kind="stable")
        ends = np.searchsorted(frame[by_frame], np.arange(len(placements) + 1))
        return [
            self._frame(rows[by_frame[ends[i] : ends[i + 1]]], placement, size)
            for i, (placement, size) in enumerate(zip(placements, sizes, strict=True))
        ]

    def _candidates(self, output: Array, head: Head) -> tuple[Array, Floats]:
        """Frame [k] and detections [k, 6] in the input's pixels; x and y are the centre."""
        n, rows, columns, _ = output.shape
        cells = output.reshape(n, rows, columns, len(head.anchors), 5 + self.classes)
        # A class's score is at most the objectness: most cells are done here.
        possible = cells[..., 4] > np.log(self.score_threshold / (1 - self.score_threshold))
        frame, row, column, anchor = np.nonzero(possible)
        chosen = cells[frame, row, column, anchor].astype(np.float32)
        scores = sigmoid(chosen[:, 4:5]) * sigmoid(chosen[:, 5:])
        box, label = np.nonzero(scores > self.score_threshold)
        centre = (sigmoid(chosen[:, :2]) + np.stack([column, row], 1)) * head.stride
        size = np.exp(np.minimum(chosen[:, 2:4], MAX_EXPONENT)) * np.array(head.anchors, np.float32)[anchor]
        found = np.column_stack([label, scores[box, label], centre[box], size[box]])
        return frame[box], found.astype(np.float32)

    def _frame(self, rows: Floats, placement: Placement, size: tuple[int, int]) -> Floats:
        rows = rows[np.argsort(-rows[:, 1], kind="stable")[:MAX_CANDIDATES]]
        low, high = rows[:, 2:4] - rows[:, 4:6] / 2, rows[:, 2:4] + rows[:, 4:6] / 2
        kept = suppress(np.hstack([low, high]), rows[:, 0], self.iou_threshold, self.max_detections)
        corner = np.array([placement.left, placement.top], np.float32)
        scale = np.array([size[0] / placement.width, size[1] / placement.height], np.float32)
        low = np.clip((low[kept] - corner) * scale, 0, size)
        high = np.clip((high[kept] - corner) * scale, 0, size)
        found = np.hstack([rows[kept, :2], low, high - low]).astype(np.float32)
        return found[(found[:, 4:] > 0).all(axis=1)]


def suppress(corners: Array, classes: Array, iou_threshold: float, limit: int) -> Array:
    """Indices of at most `limit` boxes that stay when each box removes worse ones of its class that overlap it.

    `corners`: [k, 4], left, top, right, bottom, best first; `classes`: [k].
    """
    low, high = corners[:, :2], corners[:, 2:]
    area = np.prod(high - low, axis=1)
    left = np.arange(len(corners))
    kept: list[int] = []
    while len(left) and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        overlap = np.prod(
            np.clip(np.minimum(high[left], high[best]) - np.maximum(low[left], low[best]), 0, None), axis=1
        )
        union = area[left] + area[best] - overlap
        left = left[(classes[left] != classes[best]) | (overlap <= iou_threshold * union)]
    return np.array(kept, np.int64)


def sigmoid(x: Array) -> Floats:
    """1 / (1 + e^-x) without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(0.5 * x.astype(np.float32)))
    return result


def top_k(scores: Array, k: int) -> Array:
    """The `k` best classes [n, k] of `scores` [n, classes], best first; of equal ones, the lower number first."""
    order: Array = np.argsort(-scores, axis=1, kind="stable")
    return order[:, :k]
