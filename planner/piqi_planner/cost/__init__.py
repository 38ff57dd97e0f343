"""Cost models: latency, energy and average power of run configurations, in bulk."""

from piqi_planner.cost.base import Chain, CostModel, Costs
from piqi_planner.cost.make import CostName, make_cost
from piqi_planner.cost.published import published_tables

__all__ = ["Chain", "CostModel", "CostName", "Costs", "make_cost", "published_tables"]
