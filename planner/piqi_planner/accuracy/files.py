"""Accuracy models in files: our own JSON, and predictors trained with Keras."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_planner.accuracy.base import AccuracyError, Predictor
from piqi_planner.accuracy.fit import Figures, FittedModel
from piqi_planner.accuracy.gaussian_process import GaussianProcess
from piqi_planner.accuracy.network import DenseNetwork, read_network
from piqi_planner.accuracy.pairwise import PairwiseRidge
from piqi_planner.accuracy.samples import Samples
from piqi_runtime.container import write_atomically

READERS: dict[str, Callable[[dict[str, Any], Samples], Predictor]] = {
    "separate_gaussian_process": GaussianProcess.from_dict,
    "gaussian_process": GaussianProcess.from_dict,
    "pairwise_ridge": PairwiseRidge.from_dict,
    "network": DenseNetwork.from_dict,
}

Finite = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Samples(_Strict):
    metric: str
    masks: list[Annotated[str, Field(pattern="^[01]+$")]]
    accuracy_percent: list[Percent]


class _Figures(_Strict):
    mae_pp: Finite
    coverage: Finite
    samples: int


class _File(_Strict):
    """The whole file. What follows from samples and hyperparameters is computed anew."""

    format: Literal["piqi-accuracy-model"] = "piqi-accuracy-model"
    version: Literal[1] = 1
    kind: str
    layers: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    cross_validation: _Figures | None
    predictor: dict[str, Any]
    scores: list[Finite] | None
    samples: _Samples


def save_accuracy_model(model: FittedModel, path: str | os.PathLike[str]) -> None:
    """Writes a JSON file that `load_accuracy_model` reads. Raises AccuracyError, OSError."""
    samples, figures = model.samples, model.cross_validation
    if samples is None:
        raise AccuracyError("an accuracy model that was not fitted here stays in its own file")
    content = _File(
        kind=model.kind,
        layers=model.layers,
        confidence=model.confidence,
        cross_validation=_Figures(**vars(figures)) if figures else None,
        predictor=model.predictor.to_dict(),
        scores=None if model.scores is None else model.scores.tolist(),
        samples=_Samples(
            metric=samples.metric,
            masks=["".join("01"[int(bit)] for bit in mask) for mask in samples.masks],
            accuracy_percent=samples.accuracy_percent.tolist(),
        ),
    )
    write_atomically(path, [content.model_dump_json(indent=1).encode()])


def load_accuracy_model(path: str | os.PathLike[str]) -> FittedModel:
    """A model from our JSON, or a predictor from a Keras file (`.h5`, `.keras`), which has no bound.

    Raises AccuracyError.
    """
    path = Path(path)
    if path.suffix in (".h5", ".keras"):
        return FittedModel("network", read_network(path))
    if path.suffix != ".json":
        raise AccuracyError(f"{path}: expected a .json, .h5 or .keras file")
    try:
        content = _File.model_validate_json(path.read_bytes())
    except OSError as cause:
        raise AccuracyError(f"{path}: {cause.strerror}") from cause
    except ValidationError as cause:
        error = cause.errors()[0]
        field = ".".join(map(str, error["loc"])) or "content"
        raise AccuracyError(f"{path}: {field}: {error['msg']}, got {str(error['input'])[:60]!r}") from cause
    if content.kind not in READERS:
        raise AccuracyError(f"{path}: kind: expected one of {', '.join(READERS)}, got {content.kind!r}")
    samples = _samples(path, content)
    try:
        predictor = READERS[content.kind](content.predictor, samples)
    except (KeyError, TypeError, ValueError, OverflowError, np.linalg.LinAlgError) as cause:
        raise AccuracyError(f"{path}: predictor: {type(cause).__name__}: {cause}") from cause
    if predictor.layers != content.layers:
        raise AccuracyError(f"{path}: predictor: has {predictor.layers} layers, the file {content.layers}")
    figures = Figures(**dict(content.cross_validation)) if content.cross_validation else None
    scores = None if content.scores is None else np.array(content.scores)
    return FittedModel(content.kind, predictor, samples, scores, content.confidence, figures)


def _samples(path: Path, content: _File) -> Samples:
    masks, accuracy = content.samples.masks, content.samples.accuracy_percent
    if not masks or len(masks) != len(accuracy):
        raise AccuracyError(f"{path}: samples: {len(masks)} masks, but {len(accuracy)} accuracies")
    for number, mask in enumerate(masks):
        if len(mask) != content.layers:
            raise AccuracyError(f"{path}: samples.masks.{number}: expected {content.layers} layers, got {mask!r}")
    bits = np.array([list(mask) for mask in masks]) == "1"
    return Samples(bits, np.array(accuracy), content.samples.metric)
