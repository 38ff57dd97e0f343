"""How good accuracy models are: errors and coverage on samples, and errors against the number of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from piqi_planner.accuracy.base import AccuracyError, AccuracyModel, Floats
from piqi_planner.accuracy.fit import MIN_SAMPLES, MODELS, Figures, fit_predictor
from piqi_planner.accuracy.samples import Samples

TEST_SHARE = 0.2
SHARES = (0.05, 0.1, 0.2, 0.4, 1.0)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Mean absolute errors in percentage points, for each model an array [repeats, counts]."""

    counts: tuple[int, ...]
    mae_pp: dict[str, Floats]


def evaluate(model: AccuracyModel, samples: Samples) -> Figures:
    """Error of the model, and coverage of its bound, on samples that it has not seen. Raises AccuracyError."""
    error = np.abs(model.predict(samples.masks) - samples.accuracy_percent)
    covered = model.lower_bound(samples.masks) <= samples.accuracy_percent
    return Figures(float(error.mean()), float(covered.mean()), len(samples))


def learning_curve(
    samples: Samples, seed: int = 0, repeats: int = 1, models: Sequence[str] = tuple(MODELS)
) -> Iterator[LearningCurve]:
    """Curves of `models`, more complete each time: after each of len(models) * len(counts) * repeats trainings.

    In each repeat a fifth of the samples, drawn anew, is for testing; the smaller trainings see parts of the larger
    ones' samples. What has not been measured yet is NaN. Raises AccuracyError.
    """
    test_count = int(len(samples) * TEST_SHARE)
    train_count = len(samples) - test_count
    counts = tuple(n for share in SHARES if (n := round(share * train_count)) >= MIN_SAMPLES)
    if not counts or not test_count:
        raise AccuracyError(f"{len(samples)} samples are too few for a learning curve")
    curve = LearningCurve(counts, {model: np.full((repeats, len(counts)), np.nan) for model in models})
    for repeat in range(repeats):
        places = np.random.default_rng((seed, repeat)).permutation(len(samples))
        test, train = samples.take(places[:test_count]), places[test_count:]
        for column, count in enumerate(counts):
            for model in models:
                predictor = fit_predictor(samples.take(train[:count]), model, seed)
                error = np.abs(predictor.mean(test.masks) - test.accuracy_percent).mean()
                curve.mae_pp[model][repeat, column] = error
                yield curve


def trainings(samples: Samples, repeats: int = 1, models: Sequence[str] = tuple(MODELS)) -> int:
    """How many curves `learning_curve` yields."""
    train_count = len(samples) - int(len(samples) * TEST_SHARE)
    return repeats * len(models) * sum(round(share * train_count) >= MIN_SAMPLES for share in SHARES)
