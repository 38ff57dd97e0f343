"""What a metric is: frames to records, records to a value in percent with confidence bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from piqi_planner.evaluation.bounds import difference_bound, mean_bound, standard_error
from piqi_runtime.errors import PiqiError

Array = npt.NDArray[Any]
Records = Sequence[Array]
MetricT = TypeVar("MetricT", bound="Metric")


class MetricError(PiqiError):
    """A metric that does not fit the model or the data, or records that cannot be judged."""


@dataclass(frozen=True)
class Summary:
    """A network's accuracy on `frames` frames. Percent and percentage points.

    `difference`: to the reference, the float model, paired frame by frame. Each bound holds with `confidence` by
    itself, for frames drawn as these were.
    """

    frames: int
    confidence: float
    value: float
    standard_error: float
    lower_bound: float
    difference: float
    difference_standard_error: float
    difference_lower_bound: float


class Metric(ABC):
    """Can be pickled. `records` depends on nothing but its arguments, so frames can be recorded anywhere."""

    name: str
    #: True if the value is the mean of a score for each frame.
    additive: bool

    @property
    def key(self) -> str:
        """What records depend on besides the network and the evaluation set: part of the key they are stored by."""
        return self.name

    @abstractmethod
    def records(self, first_image: int, outputs: Mapping[str, Array]) -> list[Array]:
        """One float32 array for each of the frames first_image, first_image + 1, ...

        `outputs`: the network's, by name, [n, ...]. Raises MetricError.
        """

    @abstractmethod
    def value(self, records: Records) -> float:
        """Percent, over the records of the frames 0, 1, ... in order. Raises MetricError."""

    @abstractmethod
    def summary(self, records: Records, reference_records: Records, confidence: float = 0.95) -> Summary:
        """Value and difference to the float model's records of the same frames, with bounds. Raises MetricError."""

    def with_reference(self: MetricT, records: Records) -> MetricT:
        """The metric whose values are relative to these records of the float model; most need none."""
        return self


class AdditiveMetric(Metric):
    """The mean of a score for each frame; a record is an array of shape (1,)."""

    additive = True

    def scores(self, records: Records, reference_records: Records) -> Array:
        """Float64 [n]: what each frame adds to the value, which is 100 times their mean."""
        return stacked(records)

    def value(self, records: Records) -> float:
        """100 times the mean score."""
        return 100 * float(self.scores(records, records).mean())

    def summary(self, records: Records, reference_records: Records, confidence: float = 0.95) -> Summary:
        """Bounds: see `mean_bound` and `difference_bound`."""
        check_summary(records, reference_records, confidence)
        scores = self.scores(records, reference_records)
        reference = self.scores(reference_records, reference_records)
        return Summary(
            len(records),
            confidence,
            value=100 * float(scores.mean()),
            standard_error=100 * standard_error(scores),
            lower_bound=100 * mean_bound(scores, confidence),
            difference=100 * float((scores - reference).mean()),
            difference_standard_error=100 * standard_error(scores - reference),
            difference_lower_bound=100 * difference_bound(scores, reference, confidence),
        )


def stacked(records: Records) -> Array:
    """Float64 [n] from n records of shape (1,). Raises MetricError."""
    if not records:
        raise MetricError("records: none, a metric needs at least one frame")
    values = np.concatenate(records)
    if values.shape != (len(records),):
        raise MetricError(f"records: expected {len(records)} of shape (1,), got {values.shape} in all")
    return values.astype(np.float64)


def check_summary(records: Records, reference_records: Records, confidence: float) -> None:
    """Raises MetricError for what `Metric.summary` cannot use."""
    if not 0.5 <= confidence < 1:
        raise MetricError(f"confidence must be at least 0.5 and below 1, got {confidence}")
    if len(records) != len(reference_records):
        raise MetricError(f"records: {len(records)} frames, but the float model has {len(reference_records)}")
    if len(records) < 2:
        raise MetricError(f"records: a bound needs at least 2 frames, got {len(records)}")


def frames_of(first_image: int, array: Array, name: str, known: int | None) -> slice:
    """The frames that the batch `array` [n, ...] holds. Raises MetricError if there are not so many, or for NaN."""
    end = first_image + len(array)
    if first_image < 0 or (known is not None and end > known):
        raise MetricError(f"output '{name}': frames {first_image} to {end - 1} of {known}")
    bad = np.isnan(array.reshape(len(array), -1)).any(axis=1)
    if bad.any():
        raise MetricError(f"output '{name}': frame {first_image + int(bad.argmax())} is not a number (NaN)")
    return slice(first_image, end)
