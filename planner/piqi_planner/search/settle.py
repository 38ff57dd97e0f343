"""Fronts of what is really run: without changes of frequency that do not pay."""

from __future__ import annotations

import numpy as np

from piqi_planner.cost import CostModel
from piqi_planner.cost.changes import really_run
from piqi_planner.profile import ModelProfile
from piqi_planner.search.front import Front, non_dominated, non_dominated_3d


def settle(front: Front, profile: ModelProfile, cost: CostModel, by_accuracy: bool = True) -> Front:
    """The front with each configuration as it is really run and what that costs; dominated ones are left out.

    `by_accuracy`: whether a point's accuracy counts beside latency and power. Masks, and with them accuracies, stay.
    """
    configs, first = np.unique(really_run(profile, front.configs), axis=0, return_index=True)
    costs = cost.evaluate(configs)
    settled = Front(configs, costs.latency_ms, costs.power_mw, costs.energy_mj, front.accuracy[first])
    kept = (
        non_dominated_3d(settled.latency_ms, settled.power_mw, settled.accuracy)
        if by_accuracy
        else non_dominated(settled.latency_ms, settled.power_mw)
    )
    return settled.take(kept)
