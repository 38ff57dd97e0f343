"""The metrics of classifiers, the user's own, and the one place where a metric is made by its name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from piqi_planner.evaluation.base import (
    AdditiveMetric,
    Array,
    Metric,
    MetricError,
    Records,
    Summary,
    frames_of,
    stacked,
)
from piqi_planner.evaluation.dataset import EvaluationSet
from piqi_planner.evaluation.detection import make_mean_average_precision
from piqi_runtime.model import Model

__all__ = ["METRICS", "Agreement", "Metric", "MetricError", "Records", "Summary", "TopK", "UserMetric", "make_metric"]

METRICS = ("top1", "top5", "agreement", "map", "map50", "MODULE:FUNCTION")
#: The user's function: outputs by name [n, ...], number of the first frame, labels of the frames [n] or None.
UserFunction = Callable[[Mapping[str, Array], int, "Array | None"], Any]


@dataclass(frozen=True)
class TopK(AdditiveMetric):
    """1 where the label is among the `k` best classes; of equal scores, the lower class is the better one."""

    k: int
    output: str
    labels: Array  # [frames]

    @property
    def name(self) -> str:  # type: ignore[override]
        """top1 or top5."""
        return f"top{self.k}"

    @property
    def key(self) -> str:
        """Name and output; labels belong to the evaluation set."""
        return f"{self.name} of {self.output}"

    def records(self, first_image: int, outputs: Mapping[str, Array]) -> list[Array]:
        """1 or 0 for each frame."""
        scores = _output(outputs, self.output)
        labels = self.labels[frames_of(first_image, scores, self.output, len(self.labels)), np.newaxis]
        own = np.take_along_axis(scores, labels, axis=1)
        better = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels))
        return list((better.sum(axis=1, keepdims=True) < self.k).astype(np.float32))


@dataclass(frozen=True)
class Agreement(AdditiveMetric):
    """1 where the best class is the float model's: needs no labels.

    A record is the best class, for the float model and for others alike. `value` needs `with_reference` first.
    """

    output: str
    reference: Records | None = None
    name = "agreement"

    @property
    def key(self) -> str:
        """The records' own name: they know no reference."""
        return f"best class of {self.output}"

    def records(self, first_image: int, outputs: Mapping[str, Array]) -> list[Array]:
        """The best class of each frame; of equal scores, the lower class."""
        scores = _output(outputs, self.output)
        frames_of(first_image, scores, self.output, None)
        return list(scores.argmax(axis=1)[:, np.newaxis].astype(np.float32))

    def with_reference(self, records: Records) -> Agreement:
        """Agreement with these records of the float model."""
        return replace(self, reference=records)

    def scores(self, records: Records, reference_records: Records) -> Array:
        """1 where both classes are the same."""
        same: Array = stacked(records) == stacked(reference_records)
        return same.astype(np.float64)

    def value(self, records: Records) -> float:
        """Percent of the frames. Raises MetricError without `with_reference`, or for another number of frames."""
        if self.reference is None or len(self.reference) < len(records):
            known = 0 if self.reference is None else len(self.reference)
            raise MetricError(f"agreement: {len(records)} frames, but the float model's records of {known}")
        return 100 * float(self.scores(records, self.reference[: len(records)]).mean())


@dataclass(frozen=True)
class UserMetric(AdditiveMetric):
    """A function of the user's: ``module:function`` or ``path/to/file.py:function``."""

    name: str
    labels: Array | None
    _loaded: list[tuple[UserFunction, str]] = field(default_factory=list, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": []}  # a function of a file cannot be pickled: the worker loads it

    @property
    def key(self) -> str:
        """Name and SHA-256 of the file that holds the function."""
        return f"{self.name} {self._load()[1]}"

    def records(self, first_image: int, outputs: Mapping[str, Array]) -> list[Array]:
        """The function's scores."""
        n = len(next(iter(outputs.values())))
        labels = None if self.labels is None else self.labels[first_image : first_image + n]
        try:
            scores = np.asarray(self._load()[0](outputs, first_image, labels), np.float32)
        except MetricError:
            raise
        except Exception as error:
            raise MetricError(f"metric {self.name}: {type(error).__name__}: {error}") from error
        if scores.shape != (n,):
            raise MetricError(f"metric {self.name}: expected one score a frame, shape ({n},), got {scores.shape}")
        if not np.isfinite(scores).all():
            frame = int(np.argmin(np.isfinite(scores)))
            raise MetricError(f"metric {self.name}: frame {first_image + frame}: the score is {scores[frame]}")
        return list(scores[:, np.newaxis])

    def _load(self) -> tuple[UserFunction, str]:
        if not self._loaded:
            place, _, attribute = self.name.rpartition(":")
            module = _import(self.name, place)
            function = getattr(module, attribute, None)
            if not callable(function):
                raise MetricError(f"metric {self.name}: {place} has no function '{attribute}'")
            file = getattr(module, "__file__", None)
            digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
            self._loaded.append((function, digest))
        return self._loaded[0]


def _import(name: str, place: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)  # a command does not have it there, `python -m` does
        return importlib.import_module(place)
    except Exception as error:  # the user's code may raise anything
        raise MetricError(f"metric {name}: cannot import {place}: {type(error).__name__}: {error}") from error


def _output(outputs: Mapping[str, Array], name: str) -> Array:
    """Scores [n, classes]. Raises MetricError."""
    if name not in outputs:
        raise MetricError(f"output '{name}' is missing, got {', '.join(outputs)}")
    scores = outputs[name]
    return scores.reshape(len(scores), -1)


def make_metric(
    name: str, data: EvaluationSet, model: Model, output: str | None = None, detector: str | Path | None = None
) -> Metric:
    """The metric `name`, one of METRICS, for frames of `data` through `model`.

    `output`: the one that holds a classifier's scores, where there are several. `detector`: see `load_detector`.
    Raises MetricError, naming file, field and value, if the three do not fit each other.
    """
    labels = None if data.labels is None else np.array(data.labels, np.int64)
    if ":" in name:
        if name.startswith(":") or name.endswith(":"):
            raise MetricError(f"metric: expected MODULE:FUNCTION, got '{name}'")
        place, _, function = name.rpartition(":")
        metric = UserMetric(f"{Path(place).resolve()}:{function}" if place.endswith(".py") else name, labels)
        _ = metric.key  # what cannot be imported is known before anything runs
        return metric
    if name in ("map", "map50"):
        return make_mean_average_precision(name, data, model, detector)
    if name not in METRICS:
        raise MetricError(f"metric must be one of {', '.join(METRICS)}, got '{name}'")
    if output is None:
        if len(model.outputs) != 1:
            raise MetricError(f"metric {name}: the model has outputs {', '.join(model.outputs)}: name one")
        output = model.outputs[0]
    if output not in model.outputs:
        raise MetricError(f"metric {name}: '{output}' is not one of the outputs {', '.join(model.outputs)}")
    classes = int(np.prod(model.tensors[output].shape[1:], dtype=np.int64))
    if name == "agreement":
        return Agreement(output)
    if labels is None:
        raise MetricError(f"metric {name}: {data.source} has no labels")
    k = int(name.removeprefix("top"))
    if classes < 2 or k > classes:
        raise MetricError(f"metric {name}: output '{output}' has {classes} classes")
    if labels.max() >= classes:
        image = int(np.argmax(labels >= classes))
        raise MetricError(
            f"{data.source}: label {labels[image]} of {data.paths[image].name}, but output '{output}' of the model "
            f"has {classes} classes"
        )
    return TopK(k, output, labels)
