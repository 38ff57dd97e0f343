"""Cost models: latency, energy and average power of run configurations, in bulk."""

from piqi_planner.cost.base import CostModel, Costs
from piqi_planner.cost.chain import Chain
from piqi_planner.cost.fit import cross_validate, fit_common, fit_cost
from piqi_planner.cost.make import CostName, make_cost
from piqi_planner.cost.measured import Measured, read_measured
from piqi_planner.cost.parameters import (
    CostError,
    CostParameters,
    load_parameters,
    save_parameters,
    shipped_parameters,
)
from piqi_planner.cost.validation import Validation, cost_errors, validate

__all__ = [
    "Chain",
    "CostError",
    "CostModel",
    "CostName",
    "CostParameters",
    "Costs",
    "Measured",
    "Validation",
    "cost_errors",
    "cross_validate",
    "fit_common",
    "fit_cost",
    "load_parameters",
    "make_cost",
    "read_measured",
    "save_parameters",
    "shipped_parameters",
    "validate",
]
