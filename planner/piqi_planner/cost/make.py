"""Choosing a cost model by its name."""

from __future__ import annotations

from typing import Literal

from piqi_planner.cost.base import CostModel
from piqi_planner.cost.calibrated import calibrated_tables
from piqi_planner.cost.parameters import CostParameters, shipped_parameters
from piqi_planner.cost.published import published_tables
from piqi_planner.profile import ModelProfile

CostName = Literal["published", "calibrated"]


def make_cost(name: CostName, profile: ModelProfile, parameters: CostParameters | None = None) -> CostModel:
    """The published additive model, or ours with `parameters` (default: those shipped).

    A search under ours gives an NPU run one state, as the executor does; the published one frees each layer's.
    """
    if name == "published":
        return CostModel(published_tables(profile))
    return CostModel(calibrated_tables(profile, parameters or shipped_parameters(profile.name)), whole_runs=True)
