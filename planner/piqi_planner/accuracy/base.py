"""The interfaces of accuracy models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

Masks = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class AccuracyError(PiqiError):
    """Samples or an accuracy model that cannot be used. Names file, line or field, and value."""


class AccuracyModel(ABC):
    """Accuracy in percent of networks of which some layers are quantised."""

    layers: int

    @abstractmethod
    def predict(self, masks: npt.ArrayLike) -> Floats:
        """Accuracy in percent, [n], of masks [n, layers]: true where a layer is quantised. Raises AccuracyError."""

    @abstractmethod
    def lower_bound(self, masks: npt.ArrayLike) -> Floats:
        """What accuracy, in percent [n], does not fall below, with the model's confidence. Raises AccuracyError."""


class Predictor(ABC):
    """What has been learnt from samples, without a bound: accuracy in percent, and how sure it is."""

    layers: int

    @abstractmethod
    def mean(self, masks: Masks) -> Floats:
        """Accuracy in percent, [n], of masks [n, layers]."""

    def spread(self, masks: Masks) -> Floats:
        """How far off the mean may be, [n], up to a factor common to all masks."""
        return np.ones(len(masks))

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` of its class needs, besides the samples, to give the same predictor; fit for JSON."""


def checked_masks(masks: npt.ArrayLike, layers: int) -> Masks:
    """The masks as an array of bool [n, layers]. Raises AccuracyError for another shape or other values."""
    array = np.asarray(masks)
    if array.ndim != 2 or array.shape[1] != layers:
        raise AccuracyError(f"masks: expected the shape (n, {layers}), got {array.shape}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise AccuracyError("masks: expected zeros and ones only")
    return array.astype(np.bool_, copy=False)
