"""Estimated profiles: an analytic model of a board's processors, for networks that were never measured on it."""

from piqi_planner.estimate.board_file import format_estimate, replace_estimate
from piqi_planner.estimate.fit import Measurements, fit_board, fit_processor
from piqi_planner.estimate.networks import NETWORKS
from piqi_planner.estimate.parameters import EstimateError, board_estimate
from piqi_planner.estimate.profile import estimate_profile, read_measured_rows
from piqi_planner.estimate.validation import Unseen, leave_one_out, median_percent

__all__ = [
    "NETWORKS",
    "EstimateError",
    "Measurements",
    "Unseen",
    "board_estimate",
    "estimate_profile",
    "fit_board",
    "fit_processor",
    "format_estimate",
    "leave_one_out",
    "median_percent",
    "read_measured_rows",
    "replace_estimate",
]
