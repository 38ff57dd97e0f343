"""Fitting the calibrated model's parameters to whole configurations that were measured, and judging the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piqi_planner.cost.base import CostModel, Costs
from piqi_planner.cost.calibrated import calibrated_tables
from piqi_planner.cost.measured import Measured
from piqi_planner.cost.parameters import CostParameters, Term, power_terms, priors, time_terms, with_values
from piqi_planner.profile import ModelProfile
from piqi_planner.profile.model import Floats, Indices

#: Relative errors beyond this count linearly: some measurements are far off, and must not steer the fit. A parameter
#: off by its scale weighs as much as one row off by this.
ROBUST_ERROR = 0.01
FOLDS = 10
REWEIGHTINGS = 20


def fit_cost(profile: ModelProfile, measured: Measured) -> CostParameters:
    """Parameters that explain the measured latencies and powers best and are close to what is expected of them.

    Robust ridge regression of relative errors, of latency first, then of power. Rows that are not trusted are left
    out; those without a power count for latency only.
    """
    return _Fitter([(profile, measured)]).fit(np.arange(len(measured)))


def fit_common(parts: Sequence[tuple[ModelProfile, Measured]]) -> CostParameters:
    """The same for several models of one board, each of the same weight: for models that were not measured."""
    return _Fitter(parts).fit(np.arange(sum(len(measured) for _, measured in parts)))


def cross_validate(profile: ModelProfile, measured: Measured, seed: int = 0) -> Costs:
    """Each row's costs by parameters that were fitted without it, and without any row of its configuration."""
    return _cross_validate(_Fitter([(profile, measured)]), profile, measured, seed)


def fit_and_cross_validate(profile: ModelProfile, measured: Measured, seed: int = 0) -> tuple[CostParameters, Costs]:
    """What `fit_cost` and `cross_validate` give, in the time of one."""
    fitter = _Fitter([(profile, measured)])
    return fitter.fit(np.arange(len(measured))), _cross_validate(fitter, profile, measured, seed)


def split_by_group(groups: Indices, folds: int, seed: int) -> list[Indices]:
    """Row numbers in up to `folds` parts of about the same size; rows of one group stay together."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(names, min(folds, len(names)))]


class _Fitter:
    """Works on what each term adds to each row, which is computed once.

    Latency is linear in the time terms; energy is linear in the power terms for any time terms, and the reverse.
    """

    def __init__(self, parts: Sequence[tuple[ModelProfile, Measured]]) -> None:
        self._time = _united([time_terms(profile) for profile, _ in parts])
        self._power = _united([power_terms(profile) for profile, _ in parts])
        self._latency_ms = np.concatenate([measured.latency_ms for _, measured in parts])
        self._power_mw = np.concatenate([measured.power_mw for _, measured in parts])
        trusted = np.concatenate([measured.trusted for _, measured in parts])
        shares = np.concatenate([np.full(len(measured), 1 / len(measured)) for _, measured in parts])
        self._weights = trusted * shares * len(shares) / len(parts)  # models count alike
        features = [_features(profile, measured, self._time, self._power) for profile, measured in parts]
        self._ms = np.concatenate([ms for ms, _ in features])  # [rows, 1 + time terms]
        self._mj = np.concatenate([mj for _, mj in features])  # [rows, 1 + time terms, 1 + power terms]

    def fit(self, rows: Indices) -> CostParameters:
        time = np.concatenate([[1], self._fit_values(rows, self._time, self._ms, self._latency_ms)])
        mw = np.einsum("rtp,t->rp", self._mj, time) / (self._ms @ time)[:, None] * 1e3
        power = self._fit_values(rows, self._power, mw, self._power_mw)
        return with_values(with_values(CostParameters(), self._time, time[1:]), self._power, power)

    def _fit_values(self, rows: Indices, terms: Sequence[Term], features: Floats, target: Floats) -> Floats:
        """[terms] for which features @ (1, values) is close to the target, relatively."""
        rows = rows[np.isfinite(target[rows])]
        matrix, wanted = features[:, 1:] / target[:, None], 1 - features[:, 0] / target
        return _robust_ridge(matrix[rows], wanted[rows], self._weights[rows], terms)


def _cross_validate(fitter: _Fitter, profile: ModelProfile, measured: Measured, seed: int) -> Costs:
    latency_ms, energy_mj = np.empty((2, len(measured)))
    for unseen in split_by_group(measured.groups, FOLDS, seed):
        seen = np.setdiff1d(np.arange(len(measured)), unseen)
        costs = CostModel(calibrated_tables(profile, fitter.fit(seen))).evaluate(measured.configs[unseen])
        latency_ms[unseen], energy_mj[unseen] = costs.latency_ms, costs.energy_mj
    return Costs(latency_ms, energy_mj)


def _united(lists: Sequence[list[Term]]) -> list[Term]:
    return list(dict.fromkeys(term for terms in lists for term in terms))


def _features(
    profile: ModelProfile, measured: Measured, time: Sequence[Term], power: Sequence[Term]
) -> tuple[Floats, Floats]:
    """What a value of one of each term adds to ms [rows, 1 + time] and mJ [rows, 1 + time, 1 + power]; first: none."""

    def costs(time_values: Floats, power_values: Floats) -> Costs:
        parameters = with_values(with_values(CostParameters(), time, time_values), power, power_values)
        return CostModel(calibrated_tables(profile, parameters)).evaluate(measured.configs)

    time_units = np.vstack([np.zeros(len(time)), np.eye(len(time))])
    power_units = np.vstack([np.zeros(len(power)), np.eye(len(power))])
    both = [[costs(t, p) for p in power_units] for t in time_units]
    ms = np.stack([row[0].latency_ms for row in both], axis=1)
    mj = np.stack([np.stack([cell.energy_mj for cell in row], axis=1) for row in both], axis=1)
    ms[:, 1:] -= ms[:, :1]
    mj[:, 1:] -= mj[:, :1]
    mj[:, :, 1:] -= mj[:, :, :1]
    return ms, mj


def _robust_ridge(matrix: Floats, wanted: Floats, weights: Floats, terms: Sequence[Term]) -> Floats:
    """Values [terms] within their bounds for which matrix @ values is close to `wanted`, reweighted (pseudo-Huber)."""
    pull = (ROBUST_ERROR / np.array([term.scale for term in terms])) ** 2
    values = priors(terms)
    for _ in range(REWEIGHTINGS):
        errors = matrix @ values - wanted
        rows = weights / np.sqrt(1 + (errors / ROBUST_ERROR) ** 2)
        values = _bounded_ridge(matrix, wanted, rows, terms, pull)
    return values


def _bounded_ridge(matrix: Floats, wanted: Floats, rows: Floats, terms: Sequence[Term], pull: Floats) -> Floats:
    lower, upper = (np.array([getattr(term, end) for term in terms]) for end in ("lower", "upper"))
    normal = (matrix * rows[:, None]).T @ matrix + np.diag(pull)
    right = (matrix * rows[:, None]).T @ wanted + pull * priors(terms)
    values = np.zeros(len(terms))
    free = np.ones(len(terms), bool)
    while free.any():
        values[free] = np.linalg.solve(
            normal[np.ix_(free, free)], right[free] - normal[np.ix_(free, ~free)] @ values[~free]
        )
        outside = free & ((values < lower) | (values > upper))
        if not outside.any():
            break
        values[outside] = np.clip(
            values[outside], lower[outside], upper[outside]
        )  # once at a bound, a value stays there
        free &= ~outside
    return values
