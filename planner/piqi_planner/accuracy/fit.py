"""Accuracy models from samples: the best of several predictors, and a bound that holds with stated confidence.

Every candidate is trained on each choice of all folds but one. Its errors on the fold left out choose between
candidates and, divided by the predictor's own spread, are the conformity scores of the bound: accuracy >= mean - q *
spread, with q the ceil((n + 1) confidence)-th smallest score (cross-conformal prediction, Vovk 2015; with the final
predictor in place of the folds', which has more samples and errs less). It is a promise for masks that
are drawn like the samples; elsewhere only the growth of the spread protects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from piqi_planner.accuracy.base import AccuracyError, AccuracyModel, Floats, Predictor, checked_masks
from piqi_planner.accuracy.gaussian_process import GaussianProcess
from piqi_planner.accuracy.network import DenseNetwork
from piqi_planner.accuracy.pairwise import PairwiseRidge
from piqi_planner.accuracy.samples import Samples

Candidates = Mapping[str, Callable[[Samples, int], Predictor]]

FOLDS = 5
MIN_SAMPLES = 20
DEFAULT_CONFIDENCE = 0.9

#: Those that extrapolate better come first: a later one must be better by more than TIE to be chosen.
BEST: Candidates = {
    "separate_gaussian_process": partial(GaussianProcess.fit, separate=True),
    "gaussian_process": GaussianProcess.fit,
    "pairwise_ridge": PairwiseRidge.fit,
}
TIE = 0.02
MODELS: dict[str, Candidates] = {"best": BEST, "published": {"network": DenseNetwork.fit}}


@dataclass(frozen=True)
class Figures:
    """Mean absolute error in percentage points, share of samples above the bound, number of samples."""

    mae_pp: float
    coverage: float
    samples: int


@dataclass(frozen=True, eq=False)
class FittedModel(AccuracyModel):
    """A predictor and, where there were samples to calibrate on, the scores of its bound."""

    kind: str
    predictor: Predictor
    samples: Samples | None = None  # what it was trained on
    scores: Floats | None = None
    confidence: float = DEFAULT_CONFIDENCE
    cross_validation: Figures | None = None

    @property
    def layers(self) -> int:  # type: ignore[override]
        """Number of layers."""
        return self.predictor.layers

    def predict(self, masks: npt.ArrayLike) -> Floats:
        """Accuracy in percent, [n]."""
        return self.predictor.mean(checked_masks(masks, self.layers))

    def lower_bound(self, masks: npt.ArrayLike) -> Floats:
        """What accuracy, in percent [n], does not fall below, with the model's confidence. Raises AccuracyError."""
        if self.scores is None:
            raise AccuracyError("this accuracy model has no bound: it needs samples to be calibrated on")
        checked = checked_masks(masks, self.layers)
        factor = score_quantile(self.scores, self.confidence)
        return self.predictor.mean(checked) - factor * self.predictor.spread(checked)


def fit_accuracy(
    samples: Samples, model: str = "best", seed: int = 0, confidence: float = DEFAULT_CONFIDENCE
) -> FittedModel:
    """Trains `model`, one of MODELS, and calibrates its bound. Raises AccuracyError."""
    candidates = _candidates(model)
    _check_count(samples)
    score_quantile(np.zeros(len(samples)), confidence)  # enough of them for this confidence?
    held_out = _cross_validate(samples, candidates, seed)
    kind = held_out.choose()
    predictor = candidates[kind](samples, seed)
    return FittedModel(kind, predictor, samples, held_out.scores[kind], confidence, held_out.figures(confidence))


def held_out(samples: Samples, seed: int = 0) -> tuple[Floats, Figures]:
    """What the best model predicts (percent, [n]) of each sample when it was trained without it, and its figures.

    Raises AccuracyError.
    """
    _check_count(samples)
    found = _cross_validate(samples, BEST, seed)
    return samples.accuracy_percent + found.errors[found.choose()], found.figures(DEFAULT_CONFIDENCE)


def fit_predictor(samples: Samples, model: str, seed: int) -> Predictor:
    """The same without a bound. Raises AccuracyError."""
    candidates = _candidates(model)
    _check_count(samples)
    kind = next(iter(candidates)) if len(candidates) == 1 else _cross_validate(samples, candidates, seed).choose()
    return candidates[kind](samples, seed)


def with_bound(model: FittedModel, samples: Samples, confidence: float = DEFAULT_CONFIDENCE) -> FittedModel:
    """The same model with a bound calibrated on samples that it was not trained on. Raises AccuracyError."""
    masks = checked_masks(samples.masks, model.layers)
    scores = (model.predictor.mean(masks) - samples.accuracy_percent) / model.predictor.spread(masks)
    score_quantile(scores, confidence)
    return FittedModel(model.kind, model.predictor, model.samples, scores, confidence, model.cross_validation)


def score_quantile(scores: Floats, confidence: float) -> float:
    """The smallest factor that conforms with that many scores. Raises AccuracyError."""
    if not 0 < confidence < 1:
        raise AccuracyError(f"confidence: expected more than 0 and less than 1, got {confidence:g}")
    rank = math.ceil((len(scores) + 1) * confidence)
    if rank > len(scores):
        raise AccuracyError(f"{len(scores)} samples are too few for a confidence of {confidence:g}")
    return float(np.partition(scores, rank - 1)[rank - 1])


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Errors and scores of each candidate on samples that it had not seen, and the fold of each sample."""

    fold: npt.NDArray[np.intp]
    errors: dict[str, Floats]
    scores: dict[str, Floats]

    def choose(self, among: npt.NDArray[np.bool_] | None = None) -> str:
        """The best candidate by the samples `among` (default: all)."""
        errors = {kind: float(np.abs(e if among is None else e[among]).mean()) for kind, e in self.errors.items()}
        return next(kind for kind, error in errors.items() if error <= (1 + TIE) * min(errors.values()))

    def figures(self, confidence: float) -> Figures:
        """Of the whole procedure: what a fold is judged by was chosen and calibrated on the others."""
        errors, covered = [], []
        for number in range(FOLDS):
            inside = self.fold == number
            kind = self.choose(~inside)
            factor = score_quantile(self.scores[kind][~inside], confidence)
            errors.append(np.abs(self.errors[kind][inside]))
            covered.append(self.scores[kind][inside] <= factor)
        mae, coverage = float(np.concatenate(errors).mean()), float(np.concatenate(covered).mean())
        return Figures(mae, coverage, len(self.fold))


def _cross_validate(samples: Samples, candidates: Candidates, seed: int) -> _HeldOut:
    count = len(samples)
    fold = np.random.default_rng(seed).permutation(count) % FOLDS
    errors = {kind: np.empty(count) for kind in candidates}
    scores = {kind: np.empty(count) for kind in candidates}
    for number in range(FOLDS):
        inside = fold == number
        seen, unseen = samples.take(np.flatnonzero(~inside)), samples.take(np.flatnonzero(inside))
        for kind, fit in candidates.items():
            predictor = fit(seen, seed)
            errors[kind][inside] = predictor.mean(unseen.masks) - unseen.accuracy_percent
            scores[kind][inside] = errors[kind][inside] / predictor.spread(unseen.masks)
    return _HeldOut(fold, errors, scores)


def _candidates(model: str) -> Candidates:
    if model not in MODELS:
        raise AccuracyError(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
    return MODELS[model]


def _check_count(samples: Samples) -> None:
    if len(samples) < MIN_SAMPLES:
        raise AccuracyError(f"at least {MIN_SAMPLES} samples are needed, got {len(samples)}")
