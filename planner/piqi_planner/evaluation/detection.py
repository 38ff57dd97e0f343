"""Mean average precision of detectors: raw outputs to boxes in the original image, boxes to percent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from piqi_planner.evaluation.average_precision import COCO_THRESHOLDS, Floats, Matches, match
from piqi_planner.evaluation.base import Array, Metric, MetricError, Records, Summary, check_summary, frames_of
from piqi_planner.evaluation.bounds import estimate_bound
from piqi_planner.evaluation.coco import GroundTruth
from piqi_runtime.config_files import ConfigError, load_config
from piqi_runtime.decode import YOLO_V3, YOLO_V3_TINY, Head, YoloDecoder, place
from piqi_runtime.model import Model

if TYPE_CHECKING:
    from piqi_planner.evaluation.dataset import EvaluationSet

#: Groups of frames that are left out in turn for the standard error.
GROUPS = 25
#: Evaluations that are kept, so that the float model's is not made again for each mask.
REMEMBERED = 4


class HeadConfig(BaseModel):
    """One output."""

    model_config = ConfigDict(extra="forbid")
    stride: int = Field(gt=0)
    anchors: list[tuple[float, float]] = Field(min_length=1)


class DetectorConfig(BaseModel):
    """A detector's file: ``[[heads]]`` with stride and anchors, and how boxes are chosen."""

    model_config = ConfigDict(extra="forbid")
    heads: list[HeadConfig] = Field(min_length=1)
    score_threshold: float = Field(0.005, gt=0, lt=1)
    iou_threshold: float = Field(0.45, gt=0, le=1)
    max_detections: int = Field(100, gt=0, le=100)


def load_detector(model: Model, file: str | Path | None = None) -> YoloDecoder:
    """The decoder for `model`'s outputs: by a TOML file, or YOLOv3's (three outputs) and YOLOv3-tiny's (two) own.

    Raises MetricError if the model is not one of those, ConfigError for the file.
    """
    if len(model.inputs) != 1 or len(model.tensors[model.inputs[0]].shape) != 4:
        raise MetricError(f"{model.name}: a detector has one input [n, height, width, channels]")
    _, height, width, _ = model.tensors[model.inputs[0]].shape
    shapes = [model.tensors[name].shape for name in model.outputs]
    options: dict[str, Any] = {}
    heads = {len(YOLO_V3): YOLO_V3, len(YOLO_V3_TINY): YOLO_V3_TINY}.get(len(shapes), ())
    if file is not None:
        config = load_config(DetectorConfig, Path(file), Path(), ConfigError)
        heads = tuple(Head(head.stride, tuple(head.anchors)) for head in config.heads)
        options = config.model_dump(exclude={"heads"})
    if not heads:
        raise MetricError(f"{model.name}: has {len(shapes)} outputs: no known detector, describe it in a file")
    channels, boxes = shapes[0][-1], len(heads[0].anchors)
    if len(shapes[0]) != 4 or channels % boxes or channels // boxes <= 5:
        raise MetricError(
            f"{model.name}: output '{model.outputs[0]}': expected [n, rows, columns, {boxes} * (5 + classes)], "
            f"got {list(shapes[0])}"
        )
    decoder = YoloDecoder(heads, channels // boxes - 5, width, height, **options)
    decoder.arranged(shapes)
    return decoder


def make_mean_average_precision(
    name: str, data: EvaluationSet, model: Model, detector: str | Path | None = None
) -> MeanAveragePrecision:
    """See `make_metric`: the metric map or map50."""
    if data.truth is None:
        raise MetricError(f"metric {name}: {data.source} has no boxes")
    if data.truth.crowd.all():
        raise MetricError(f"metric {name}: {data.source}: no image that is used has a box")
    decoder = load_detector(model, detector)
    if len(data.truth.categories) != decoder.classes:
        raise MetricError(
            f"{data.source}: has {len(data.truth.categories)} categories, but the model has {decoder.classes} classes"
        )
    if data.shape[:2] != (decoder.input_height, decoder.input_width):
        raise MetricError(
            f"metric {name}: images of {data.shape}, but the model takes {decoder.input_height, decoder.input_width}"
        )
    thresholds = COCO_THRESHOLDS if name == "map" else COCO_THRESHOLDS[:1]
    return MeanAveragePrecision(name, data.truth, decoder, data.sizes, data.fit, tuple(model.outputs), thresholds)


class _Evaluation:
    """One network's matches, and what is derived from them when it is asked for."""

    def __init__(self, matches: Matches) -> None:
        self.matches = matches
        self.value = 100 * matches.mean_average_precision()

    @cached_property
    def without(self) -> Floats:
        """The value without each group of frames."""
        return 100 * self.matches.leaving_out(min(GROUPS, len(self.matches.objects)))


@dataclass(frozen=True, eq=False)
class MeanAveragePrecision(Metric):
    """COCO's mAP (thresholds 0.5, 0.55, ... 0.95) or another mean over thresholds; a record is [k, 6] detections.

    Standard errors by the jackknife over at most 25 groups of frames; bounds by `estimate_bound`, less the bias.
    """

    name: str
    truth: GroundTruth
    decoder: YoloDecoder
    sizes: Sequence[tuple[int, int]]  # width, height of each frame's original image
    fit: str
    outputs: tuple[str, ...]
    thresholds: tuple[float, ...] = COCO_THRESHOLDS
    _seen: dict[bytes, _Evaluation] = field(default_factory=dict, repr=False)
    additive = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": {}}

    @property
    def key(self) -> str:
        """The decoder and how it is set. map and map50 record the same."""
        return f"detections {self.decoder}"

    def records(self, first_image: int, outputs: Mapping[str, Array]) -> list[Array]:
        """Class, score, x, y, width, height, [k, 6], best first, in the original image's pixels."""
        missing = set(self.outputs) - set(outputs)
        if missing:
            raise MetricError(f"output '{min(missing)}' is missing, got {', '.join(outputs)}")
        arrays = [outputs[name] for name in self.outputs]
        for name, array in zip(self.outputs, arrays, strict=True):
            frames = frames_of(first_image, array, name, len(self.sizes))
        sizes = self.sizes[frames]
        width, height = self.decoder.input_width, self.decoder.input_height
        placements = [place(self.fit, *size, width, height) for size in sizes]
        return list(self.decoder.detect(arrays, placements, sizes))

    def value(self, records: Records) -> float:
        """Mean average precision in percent."""
        return self._evaluate(records).value

    def summary(self, records: Records, reference_records: Records, confidence: float = 0.95) -> Summary:
        """See the class."""
        check_summary(records, reference_records, confidence)
        own, reference = self._evaluate(records), self._evaluate(reference_records)
        if not np.isfinite(own.without).all():
            raise MetricError(f"metric {self.name}: boxes on too few of the {len(records)} frames for a bound")
        difference = own.value - reference.value
        error, lower = _jackknife(own.value, own.without, len(records), confidence)
        differences = own.without - reference.without
        difference_error, difference_lower = _jackknife(difference, differences, len(records), confidence)
        return Summary(
            len(records),
            confidence,
            value=own.value,
            standard_error=error,
            lower_bound=max(lower, 0.0),
            difference=difference,
            difference_standard_error=difference_error,
            difference_lower_bound=difference_lower,
        )

    def _evaluate(self, records: Records) -> _Evaluation:
        digest = hashlib.blake2b()
        for record in records:
            digest.update(len(record).to_bytes(4, "little"))
            digest.update(np.ascontiguousarray(record).tobytes())
        key = digest.digest()
        if key not in self._seen:
            evaluation = _Evaluation(match(records, self.truth, self.thresholds))
            if np.isnan(evaluation.value):
                raise MetricError(f"metric {self.name}: none of the first {len(records)} frames has a box")
            while len(self._seen) >= REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = evaluation
        else:
            self._seen[key] = self._seen.pop(key)  # the last used is the last to go
        return self._seen[key]


def _jackknife(value: float, without: Floats, frames: int, confidence: float) -> tuple[float, float]:
    """Standard error and lower bound of `value`, from the values without each of g groups of the frames.

    The precision that is interpolated is the best at no less recall, a maximum: from few frames it comes out too
    high. The bound is lowered by what the jackknife says of that.
    """
    g = len(without)
    error = float(np.sqrt((g - 1) / g * np.square(without - without.mean()).sum()))
    bias = max((g - 1) * (float(without.mean()) - value), 0.0)
    return error, estimate_bound(value - bias, error, g, 100 / frames, confidence)
