"""Ridge regression on layers and on pairs of layers.

In its dual form: the product of two masks' features is s + rho s (s - 1) / 2, where s is the number of layers
quantised in both, and what has been learnt is a constant, an effect a layer and an effect a pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from piqi_planner.accuracy.base import Floats, Masks, Predictor
from piqi_planner.accuracy.samples import Samples

PAIR_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)  # rho; 0: no interactions
PENALTIES = tuple(10.0**k for k in np.arange(-2, 3.5, 0.5))
MAX_CHOOSING = 700  # samples that weight and penalty are chosen on: it costs their third power


class PairwiseRidge(Predictor):
    """Accuracy in percent: constant + sum of effects + sum of effects of pairs."""

    def __init__(self, samples: Samples, pair_weight: float, penalty: float) -> None:
        self.layers = samples.layers
        self._pair_weight, self._penalty = pair_weight, penalty
        points = samples.masks.astype(np.float64)
        kernel = _kernel(points, pair_weight)
        kernel[np.diag_indices_from(kernel)] += penalty
        # The constant is free: generalised least squares.
        both = np.linalg.solve(kernel, np.column_stack([samples.accuracy_percent, np.ones(len(points))]))
        self._constant = float(both[:, 0].sum() / both[:, 1].sum())
        dual = both[:, 0] - self._constant * both[:, 1]
        self._effects = points.T @ dual
        self._pairs = pair_weight / 2 * (points.T @ (dual[:, np.newaxis] * points))
        np.fill_diagonal(self._pairs, 0)

    @classmethod
    def fit(cls, samples: Samples, seed: int) -> PairwiseRidge:
        """Chooses pair weight and penalty by leave-one-out errors, in closed form."""
        chosen = samples.take(np.random.default_rng(seed).permutation(len(samples))[:MAX_CHOOSING])
        errors = {
            (pair_weight, penalty): error
            for pair_weight in PAIR_WEIGHTS
            for penalty, error in zip(PENALTIES, _leave_one_out(chosen, pair_weight), strict=True)
        }
        return cls(samples, *min(errors, key=errors.__getitem__))

    @classmethod
    def from_dict(cls, values: dict[str, Any], samples: Samples) -> PairwiseRidge:
        """What `to_dict` described. Raises KeyError, TypeError or ValueError."""
        pair_weight, penalty = float(values["pair_weight"]), float(values["penalty"])
        if not (pair_weight >= 0 and 0 < penalty < np.inf):
            raise ValueError(f"pair_weight {pair_weight}, penalty {penalty}")
        return cls(samples, pair_weight, penalty)

    def to_dict(self) -> dict[str, Any]:
        """Pair weight and penalty: the rest follows from the samples."""
        return {"pair_weight": self._pair_weight, "penalty": self._penalty}

    def mean(self, masks: Masks) -> Floats:
        """Accuracy in percent."""
        points = masks.astype(np.float64)
        linear = self._constant + points @ self._effects
        return np.asarray(linear + np.einsum("ni,ni->n", points @ self._pairs, points))


def _kernel(points: Floats, pair_weight: float) -> Floats:
    shared = points @ points.T
    return np.asarray(shared + pair_weight / 2 * shared * (shared - 1))


def _leave_one_out(samples: Samples, pair_weight: float) -> list[float]:
    """Mean absolute error for each of PENALTIES."""
    targets = samples.accuracy_percent
    values, vectors = np.linalg.eigh(_kernel(samples.masks.astype(np.float64), pair_weight))
    errors = []
    for penalty in PENALTIES:
        inverse_values = 1 / (np.maximum(values, 0) + penalty)
        ones = vectors @ (inverse_values * vectors.sum(axis=0))
        dual = vectors @ (inverse_values * (vectors.T @ targets))
        dual -= ones * (dual.sum() / ones.sum())
        diagonal = np.einsum("ni,i,ni->n", vectors, inverse_values, vectors) - ones**2 / ones.sum()
        errors.append(float(np.abs(dual / diagonal).mean()))
    return errors
