"""A Gaussian process over masks: additive effects of layers, and interactions of any order.

The covariance of two masks m, m' is a sum of
- a constant;
- an additive part: what quantising one layer costs, its scale learnt for each layer, and their common mean;
- a product part, amplitude * exp(-sum of decay_i over the layers in which m and m' differ): masks that differ in
  few layers, or in layers of small decay, behave alike. It is the product kernel of all interactions.
Scales and decays are learnt by maximum marginal likelihood with a weak log-normal prior (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, 5.4) on a subset of the samples; the additive part is then fitted
to all of them exactly, the product part projected on the subset, its anchors (op. cit., 8.3, subset of regressors).

The product part alone can stand for effects of single layers too, which then level off for masks that have more
layers quantised than any sample. A *separate* process leaves to it only what no sum of effects explains on the
samples: it extrapolates better, from few samples it interpolates worse.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, lapack, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]

from piqi_planner.accuracy.base import Floats, Masks, Predictor
from piqi_planner.accuracy.samples import Samples

MAX_ANCHORS = 700  # marginal likelihood costs their third power, a prediction is linear in them
SPREAD_ANCHORS = 200  # the spread costs their square; it is calibrated afterwards, whatever it leaves out
MAX_ITERATIONS = 100
CONSTANT_VARIANCE = 10.0  # of accuracy in units of its standard deviation: the mean is all but free
#: Of logarithms. Effects of layers differ widely, most are next to nothing and a few large.
SCALE_DEVIATION, DECAY_DEVIATION, GLOBAL_DEVIATION = 2.0, 0.5, 2.0
JITTER = 1e-8
RANK_LIMIT = 1e-8
CHUNK = 2048  # masks: their covariances with the anchors stay in the cache


@dataclass(frozen=True)
class Hyperparameters:
    """Variances in units of the samples' variance; `scale` and `decay` have a value a layer."""

    scale: list[float]
    decay: list[float]
    common: float
    amplitude: float
    noise: float

    @classmethod
    def typical(cls, layers: int) -> Hyperparameters:
        """Where learning begins, and what it is drawn to."""
        return cls([4 / layers] * layers, [1.5 / layers] * layers, 0.3, 0.3, 0.05)

    def logarithms(self) -> Floats:
        """As one vector, the values of layers first."""
        return np.asarray(np.log(np.concatenate([np.atleast_1d(getattr(self, f.name)) for f in fields(self)])))

    @classmethod
    def from_logarithms(cls, vector: Floats) -> Hyperparameters:
        """The inverse of `logarithms`."""
        layers = (len(vector) - 3) // 2
        values = np.exp(vector).tolist()
        return cls(values[:layers], values[layers : 2 * layers], *values[2 * layers :])


class GaussianProcess(Predictor):
    """The process given samples. Accuracy in percent; its spread is a predictive standard deviation."""

    def __init__(self, samples: Samples, hyperparameters: Hyperparameters, separate: bool, seed: int) -> None:
        self.layers = samples.layers
        self._hyper, self._separate, self._seed = hyperparameters, separate, seed
        self._centre, self._unit = _standard(samples.accuracy_percent)
        chosen = anchors(len(samples), seed)
        points = samples.masks.astype(np.float64)
        self._anchors = points[chosen]
        self._decay = np.array(hyperparameters.decay)
        targets = (samples.accuracy_percent - self._centre) / self._unit
        self._fit_mean(points, targets)
        self._fit_spread(self._anchors[:SPREAD_ANCHORS])

    @classmethod
    def fit(cls, samples: Samples, seed: int, separate: bool = False) -> GaussianProcess:
        """Learns hyperparameters, then the accuracy."""
        return cls(samples, learn(samples.take(anchors(len(samples), seed)), separate), separate, seed)

    @classmethod
    def from_dict(cls, values: dict[str, Any], samples: Samples) -> GaussianProcess:
        """What `to_dict` described. Raises KeyError, TypeError or ValueError."""
        hyper = Hyperparameters(**values["hyperparameters"])
        if len(hyper.scale) != samples.layers or len(hyper.decay) != samples.layers:
            raise ValueError(f"hyperparameters of {len(hyper.scale)} layers, samples of {samples.layers}")
        if not np.isfinite(hyper.logarithms()).all():
            raise ValueError("hyperparameters that are not positive")
        return cls(samples, hyper, bool(values["separate"]), int(values["seed"]))

    def to_dict(self) -> dict[str, Any]:
        """Hyperparameters and seed: the rest follows from the samples."""
        return {"hyperparameters": asdict(self._hyper), "separate": self._separate, "seed": self._seed}

    def mean(self, masks: Masks) -> Floats:
        """Accuracy in percent."""
        result = np.empty(len(masks))
        for start in range(0, len(masks), CHUNK):
            points = masks[start : start + CHUNK].astype(np.float64)
            products = _product_part(points, self._anchors, self._decay, self._hyper.amplitude)
            result[start : start + CHUNK] = self._constant + points @ self._effects + products @ self._weights
        return result

    def spread(self, masks: Masks) -> Floats:
        """Predictive standard deviation in percent, given some of the samples only (so rather too large)."""
        result = np.empty(len(masks))
        anchor, factor = self._spread_anchors, self._spread_factor
        for start in range(0, len(masks), CHUNK):
            points = masks[start : start + CHUNK].astype(np.float64)
            own = _additive_variance(points, self._hyper) + self._hyper.amplitude + self._hyper.noise
            explained = _covariance(points, anchor, self._hyper) @ factor
            variance = own - np.einsum("ij,ij->i", explained, explained)
            result[start : start + CHUNK] = np.sqrt(np.maximum(variance, self._hyper.noise))
        return result * self._unit

    def _fit_mean(self, points: Floats, targets: Floats) -> None:
        hyper = self._hyper
        inner = _product_part(self._anchors, self._anchors, self._decay, hyper.amplitude)
        inner[np.diag_indices_from(inner)] += JITTER * max(hyper.amplitude, 1.0)
        root = cholesky(inner, lower=True)
        products = _product_part(points, self._anchors, self._decay, hyper.amplitude)
        whitened = solve_triangular(root, products.T, lower=True).T
        sums = _sums_of_effects(points)
        explained = np.zeros((sums.shape[1], whitened.shape[1]))
        if self._separate:
            explained = np.linalg.lstsq(sums, whitened, rcond=None)[0]
            whitened = whitened - sums @ explained
        centred = points - 0.5
        roots = np.sqrt(np.array([CONSTANT_VARIANCE, hyper.common / self.layers, *hyper.scale]))
        additive = np.column_stack([np.ones(len(points)), centred.sum(axis=1), centred]) * roots
        design = np.concatenate([additive, whitened], axis=1)
        normal = design.T @ design
        normal[np.diag_indices_from(normal)] += hyper.noise
        factor = cholesky(normal, lower=True)
        solved = solve_triangular(factor, design.T @ targets, lower=True)
        solved = solve_triangular(factor, solved, lower=True, trans="T")
        linear = solved[: self.layers + 2] * roots
        effects, weights = linear[2:] + linear[1], solved[self.layers + 2 :]
        removed = explained @ weights
        self._effects = self._unit * (effects - removed[1:])
        self._constant = self._centre + self._unit * (linear[0] - effects.sum() / 2 - removed[0])
        self._weights = self._unit * solve_triangular(root, weights, lower=True, trans="T")

    def _fit_spread(self, points: Floats) -> None:
        covariance = _covariance(points, points, self._hyper)
        covariance[np.diag_indices_from(covariance)] += self._hyper.noise
        root = cholesky(covariance, lower=True)
        self._spread_anchors = points
        self._spread_factor = solve_triangular(root, np.eye(len(points)), lower=True).T


def anchors(count: int, seed: int) -> npt.NDArray[np.intp]:
    """Places of at most MAX_ANCHORS of `count` samples, drawn at random."""
    return np.random.default_rng(seed).permutation(count)[:MAX_ANCHORS]


def learn(samples: Samples, separate: bool) -> Hyperparameters:
    """The hyperparameters of highest posterior density. O(n^3)."""
    start = Hyperparameters.typical(samples.layers).logarithms()
    centre, unit = _standard(samples.accuracy_percent)
    points = samples.masks.astype(np.float64)
    left, values, _ = np.linalg.svd(_sums_of_effects(points), full_matrices=False)
    basis = left[:, values > RANK_LIMIT * values[0]] if separate else np.zeros((len(points), 0))
    found = minimize(
        _negative_log_posterior,
        start,
        args=(start, points, (samples.accuracy_percent - centre) / unit, basis),
        jac=True,
        method="L-BFGS-B",
        bounds=[(value - 12, value + 12) for value in start],
        options={"maxiter": MAX_ITERATIONS},
    )
    return Hyperparameters.from_logarithms(found.x)


def _negative_log_posterior(
    vector: Floats, prior: Floats, points: Floats, targets: Floats, basis: Floats
) -> tuple[float, Floats]:
    """And its gradient. The product part is without what lies in the span of `basis` (orthonormal, [n, k]).

    The derivatives for all layers together take two products of matrices.
    """
    hyper = Hyperparameters.from_logarithms(vector)
    layers = points.shape[1]
    centred = points - 0.5
    product = _product_part(points, points, np.array(hyper.decay), hyper.amplitude)
    count = centred.sum(axis=1)
    common = np.outer(count, count) * (hyper.common / layers)
    covariance = (centred * hyper.scale) @ centred.T + common + _without(basis, product) + CONSTANT_VARIANCE
    covariance[np.diag_indices_from(covariance)] += hyper.noise
    root, failed = lapack.dpotrf(covariance, lower=1)
    if failed:
        return np.inf, np.zeros_like(vector)
    inverse, _ = lapack.dpotri(root, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse @ targets
    value = 0.5 * float(targets @ weights) + float(np.log(np.diag(root)).sum())
    slope = inverse - np.outer(weights, weights)  # of the value by the covariance, twice
    gradient = np.empty_like(vector)
    gradient[:layers] = np.array(hyper.scale) * np.einsum("ni,ni->i", centred, slope @ centred)
    by_product = _without(basis, slope) * product
    differing = by_product.sum(axis=1) @ points - np.einsum("ni,ni->i", points, by_product @ points)
    gradient[layers : 2 * layers] = -2 * np.array(hyper.decay) * differing
    gradient[2 * layers :] = (slope * common).sum(), by_product.sum(), hyper.noise * np.trace(slope)
    deviation = np.repeat((SCALE_DEVIATION, DECAY_DEVIATION, GLOBAL_DEVIATION), (layers, layers, 3))
    distance = (vector - prior) / deviation
    return value + 0.5 * float(distance @ distance), gradient / 2 + distance / deviation


def _without(basis: Floats, matrix: Floats) -> Floats:
    """The symmetric matrix projected, from both sides, on what is orthogonal to `basis`."""
    if not basis.shape[1]:
        return matrix
    half = matrix - basis @ (basis.T @ matrix)
    return np.asarray(half - (half @ basis) @ basis.T)


def _sums_of_effects(points: Floats) -> Floats:
    """The design matrix of a constant and an effect a layer, [n, 1 + layers]."""
    return np.column_stack([np.ones(len(points)), points])


def _product_part(left: Floats, right: Floats, decay: Floats, amplitude: float) -> Floats:
    """amplitude * exp(-weighted Hamming distance), [n, m]."""
    exponent = left @ (2 * decay * right).T
    exponent -= (left @ decay)[:, np.newaxis]
    exponent -= right @ decay - np.log(amplitude)
    return np.asarray(np.exp(exponent, out=exponent))


def _covariance(left: Floats, right: Floats, hyper: Hyperparameters) -> Floats:
    """All parts but the noise, [n, m]."""
    a, b = left - 0.5, right - 0.5
    common = np.outer(a.sum(axis=1), b.sum(axis=1)) * (hyper.common / left.shape[1])
    product = _product_part(left, right, np.array(hyper.decay), hyper.amplitude)
    return np.asarray((a * hyper.scale) @ b.T + common + product + CONSTANT_VARIANCE)


def _additive_variance(points: Floats, hyper: Hyperparameters) -> Floats:
    """The diagonal of all parts but product and noise, [n]."""
    centred_sum = (points - 0.5).sum(axis=1)
    common: Floats = centred_sum**2 * (hyper.common / points.shape[1])
    return CONSTANT_VARIANCE + sum(hyper.scale) / 4 + common


def _standard(accuracy_percent: Floats) -> tuple[float, float]:
    """Mean and standard deviation; the latter is never 0."""
    return float(accuracy_percent.mean()), float(accuracy_percent.std()) or 1.0
