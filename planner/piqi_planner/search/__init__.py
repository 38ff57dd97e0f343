"""Searches for Pareto-optimal run configurations under accuracy floors.

fronts = search("piqi", cost, accuracy, [66.0, 67.0], states=profile.states_for("all"))
hypervolume(fronts[66.0].latency_ms, fronts[66.0].power_mw, (20320, 7200))
"""

from piqi_planner.search.front import Front, hypervolume, non_dominated, non_dominated_3d
from piqi_planner.search.piqi import solve_masks
from piqi_planner.search.problem import Archive, Problem, SearchError
from piqi_planner.search.run import SEARCHES, search

__all__ = [
    "SEARCHES",
    "Archive",
    "Front",
    "Problem",
    "SearchError",
    "hypervolume",
    "non_dominated",
    "non_dominated_3d",
    "search",
    "solve_masks",
]
