"""COCO's mean average precision, fast enough to be asked for every mask.

Same matching, same interpolation as `pycocotools.cocoeval.COCOeval` (area "all", 100 detections an image, its
overlap function); but matches are found once for all thresholds, so that leaving frames out, for a standard error,
costs no second matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from piqi_planner.evaluation.base import Array, MetricError
from piqi_planner.evaluation.coco import GroundTruth

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COCO_THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
RECALLS = np.linspace(0, 1, 101)
TINY = float(np.spacing(1))


@dataclass(frozen=True)
class Matches:
    """Detections of all frames, sorted by class, in each the best first. An ignored one is neither right nor wrong."""

    frame: npt.NDArray[np.int64]  # [detections]
    right: Bools  # [detections, thresholds]
    wrong: Bools  # [detections, thresholds]
    ends: npt.NDArray[np.int64]  # [classes + 1]: class c has rows ends[c] to ends[c + 1]
    objects: npt.NDArray[np.int64]  # [frames, classes]: how many there are to find

    def mean_average_precision(self, kept: Bools | None = None) -> float:
        """Share of 1, mean over thresholds and classes that occur, over the frames `kept` [frames]; NaN without any."""
        rows = np.ones(len(self.frame), np.bool_) if kept is None else kept[self.frame]
        counts = self.objects.sum(axis=0) if kept is None else self.objects[kept].sum(axis=0)
        found = []
        for c in np.flatnonzero(counts):
            own = slice(self.ends[c], self.ends[c + 1])
            found.append(_average_precision(self.right[own][rows[own]], self.wrong[own][rows[own]], int(counts[c])))
        return float(np.mean(found)) if found else float("nan")

    def leaving_out(self, groups: int) -> Floats:
        """The value without each of `groups` interleaved groups of frames, [groups]."""
        group = np.arange(len(self.objects)) % groups
        return np.array([self.mean_average_precision(group != g) for g in range(groups)])


def match(records: Sequence[Array], truth: GroundTruth, thresholds: Sequence[float]) -> Matches:
    """Which detections (records [k, 6] of frames 0, 1, ...) are right. Raises MetricError."""
    if not 1 <= len(records) <= truth.frames:
        raise MetricError(f"records: expected at most {truth.frames} frames and one at least, got {len(records)}")
    if any(record.ndim != 2 or record.shape[1] != 6 for record in records):
        raise MetricError("records: expected the shape (k, 6) for each frame")
    limits = np.minimum(np.array(thresholds), 1 - 1e-10)
    sorted_records = [record[np.argsort(-record[:, 1], kind="stable")] for record in records]
    parts = [_match_frame(record, truth, i, limits) for i, record in enumerate(sorted_records)]
    rows = np.concatenate(sorted_records)
    frame = np.repeat(np.arange(len(records)), [len(record) for record in records])
    right, ignored = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.lexsort((-rows[:, 1], rows[:, 0]))  # stable: equal scores stay in the order of frames
    any_right: Bools = np.asarray(right[order].any(axis=1))
    order = order[_matters(rows[order, 0], any_right)]
    classes = len(truth.categories)
    objects = np.zeros((len(records), classes), np.int64)
    counted = ~truth.crowd[: truth.starts[len(records)]]
    owner = np.repeat(np.arange(len(records)), np.diff(truth.starts[: len(records) + 1]))
    np.add.at(objects, (owner[counted], truth.classes[: len(counted)][counted]), 1)
    return Matches(
        frame[order],
        (right & ~ignored)[order],
        (~right & ~ignored)[order],
        np.searchsorted(rows[order, 0], np.arange(classes + 1)),
        objects,
    )


def _matters(labels: Array, right: Bools) -> Bools:
    """True down to the last of each class that is right; what is wrong after that changes no precision."""
    later = np.cumsum(right[::-1])[::-1]  # right ones from here on, of this class and those that follow
    ends = np.searchsorted(labels, labels, side="right")
    return later > np.append(later, 0)[ends]


def _match_frame(record: Array, truth: GroundTruth, frame: int, limits: Floats) -> tuple[Bools, Bools]:
    """Matched and ignored, [k, thresholds]: the best first takes the box it overlaps most that is still free."""
    own = truth.frame(frame)
    matched = np.zeros((len(record), len(limits)), np.bool_)
    ignored = np.zeros_like(matched)
    boxes, classes, crowd = truth.boxes[own], truth.classes[own], truth.crowd[own]
    if not len(record) or not len(boxes):
        return matched, ignored
    overlaps = coco_mask.iou(record[:, 2:].astype(np.float64), boxes, crowd.astype(np.uint8))
    overlaps = np.where(record[:, :1] == classes, overlaps, -1.0)  # [k, boxes]
    free = np.ones((len(limits), len(boxes)), np.bool_)
    thresholds = np.arange(len(limits))
    for i in np.flatnonzero((overlaps >= limits[0]).any(axis=1)):
        possible = free & (overlaps[i] >= limits[:, np.newaxis])  # [thresholds, boxes]
        # A crowd is taken only where nothing else is left; of equal overlaps, the last box.
        worth = np.where(possible, overlaps[i] + np.where(crowd, 0.0, 2.0), -1.0)[:, ::-1]
        best = len(boxes) - 1 - worth.argmax(axis=1)
        matched[i] = possible[thresholds, best]
        ignored[i] = matched[i] & crowd[best]
        taken = matched[i] & ~crowd[best]
        free[thresholds[taken], best[taken]] = False
    return matched, ignored


def _average_precision(right: Bools, wrong: Bools, objects: int) -> float:
    """Mean over thresholds of the precision at 101 recalls; detections [k, thresholds], best first."""
    if not len(right):
        return 0.0
    hits = right.cumsum(axis=0, dtype=np.int64)
    precision = hits / (hits + wrong.cumsum(axis=0, dtype=np.int64) + TINY)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / objects
    total = 0.0
    for t in range(right.shape[1]):
        first = np.searchsorted(recall[:, t], RECALLS, side="left")
        total += precision[first[first < len(recall)], t].sum()
    return float(total / (len(RECALLS) * right.shape[1]))
