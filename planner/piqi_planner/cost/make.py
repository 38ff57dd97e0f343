"""Choosing a cost model by its name."""
from __future__ import annotations

from typing import Literal

from piqi_planner.cost.base import CostModel
from piqi_planner.cost.published import published_tables
from piqi_planner.profile import ModelProfile

CostName = Literal["published", "calibrated"]


def make_cost(name: CostName, profile: ModelProfile, parameters: None = None) -> CostModel:
    return CostModel(published_tables(profile))
