"""Confidence bounds of means and of differences between two networks on the same frames. All are one-sided."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

# SciPy is imported where it is needed: it takes a second to load, and workers need none of this.

Scores = npt.NDArray[np.floating[Any]]


def standard_error(scores: Scores) -> float:
    """Of the mean of `scores` [n], n > 1."""
    return float(scores.std(ddof=1)) / math.sqrt(len(scores))


def is_binary(scores: Scores) -> bool:
    """True if every score is 0 or 1."""
    return bool(np.isin(scores, (0, 1)).all())


def mean_bound(scores: Scores, confidence: float) -> float:
    """What the mean of all frames is not below, from `scores` [n], n > 1.

    Right or wrong: Clopper and Pearson's exact bound. Other scores: `estimate_bound`.
    """
    from scipy import stats  # type: ignore[import-untyped]

    n = len(scores)
    if is_binary(scores):
        right = int(scores.sum())
        return float(stats.beta.ppf(1 - confidence, right, n - right + 1)) if right else 0.0
    low, high = min(float(scores.min()), 0.0), float(scores.max())
    return estimate_bound(float(scores.mean()), standard_error(scores), n, (high - low) / n, confidence)


def difference_bound(scores: Scores, reference: Scores, confidence: float) -> float:
    """What the mean of scores - reference over all frames is not below, from [n] frames of each, n > 1.

    Right or wrong: Tango's score bound for paired proportions (Statistics in Medicine 17, 1998), which holds
    where few frames or none differ. Other scores: `estimate_bound`.
    """
    n, difference = len(scores), scores - reference
    if is_binary(scores) and is_binary(reference):
        return _paired_bound(int((difference > 0).sum()), int((difference < 0).sum()), n, confidence)
    both = np.concatenate([scores, reference])
    span = max(float(both.max()), 0.0) - min(float(both.min()), 0.0)
    return estimate_bound(float(difference.mean()), standard_error(difference), n, span / n, confidence)


def estimate_bound(value: float, error: float, groups: int, worst: float, confidence: float) -> float:
    """Student's bound for `value` with standard error `error` from `groups` independent parts.

    As if one more frame had been seen that goes as wrong as can be and changes the value by `worst`: so a bound is
    no better than the number of frames allows where nothing varies (3 / n, by the rule of three).
    """
    from scipy import stats

    t = float(stats.t.ppf(confidence, groups - 1))
    return value - worst - t * math.hypot(error, worst)


def _paired_bound(gains: int, losses: int, n: int, confidence: float) -> float:
    from scipy import stats
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    z = float(stats.norm.ppf(confidence))
    difference = (gains - losses) / n

    def excess(delta: float) -> float:
        """Tango's statistic for a true difference `delta`, less its critical value."""
        b = (2 * n - gains + losses) * delta - gains - losses
        c = -losses * delta * (1 - delta)
        lost = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * lost + delta * (1 - delta))
        return (gains - losses - n * delta) / math.sqrt(variance) - z if variance > 0 else math.inf

    low, high = -1 + 1e-12, difference - 1e-12
    if high <= low or excess(low) <= 0:
        return -1.0
    return float(brentq(excess, low, high, xtol=1e-9)) if excess(high) < 0 else difference
