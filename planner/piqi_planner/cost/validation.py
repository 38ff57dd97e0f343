"""How far predicted costs are from measured ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from piqi_planner.cost.base import Costs
from piqi_planner.cost.fit import cross_validate
from piqi_planner.cost.make import CostName, make_cost
from piqi_planner.cost.measured import Measured
from piqi_planner.cost.parameters import CostParameters
from piqi_planner.profile import ModelProfile

#: With fewer rows the shipped parameters are judged: a fit to some of them would say little.
MIN_FITTED_ROWS = 20

Errors = dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Validation:
    """`costs` of each measured row by a model that has not seen it, if `method` does not say otherwise."""

    costs: Costs
    method: str


def validate(
    profile: ModelProfile, measured: Measured, name: CostName, parameters: CostParameters | None = None
) -> Validation:
    """Predicts each row. Ours, without `parameters`: by ten-fold cross-validation if there are rows enough."""
    if name == "published":
        return Validation(make_cost(name, profile).evaluate(measured.configs), "published model, nothing fitted")
    if parameters is not None:
        return Validation(make_cost(name, profile, parameters).evaluate(measured.configs), "given parameters")
    if len(measured) >= MIN_FITTED_ROWS:
        method = "10-fold cross-validation, split by run configuration: each row by parameters fitted without it"
        return Validation(cross_validate(profile, measured), method)
    return Validation(make_cost(name, profile).evaluate(measured.configs), "shipped parameters")


def cost_errors(predicted: Costs, measured: Measured) -> Errors:
    """Mean absolute error, mean of the relative errors, and their mean with sign, by quantity.

    `{"latency": {"mae_ms", "mae_percent", "bias_percent"}, "power": {"mae_mw", ...}, "energy": {"mae_mj", ...}}`, of
    the rows where it was measured; without what was measured in none.
    """
    quantities = {
        "latency": ("mae_ms", predicted.latency_ms, measured.latency_ms),
        "power": ("mae_mw", predicted.power_mw, measured.power_mw),
        "energy": ("mae_mj", predicted.energy_mj, measured.energy_mj),
    }
    errors = {}
    for quantity, (unit, values, truth) in quantities.items():
        known = np.isfinite(truth)
        if known.any():
            off, share = values[known] - truth[known], values[known] / truth[known] - 1
            errors[quantity] = {
                unit: float(np.abs(off).mean()),
                "mae_percent": float(np.abs(share).mean() * 100),
                "bias_percent": float(share.mean() * 100),
            }
    return errors
