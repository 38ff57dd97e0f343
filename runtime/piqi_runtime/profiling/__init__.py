"""Measuring a board: profiles of models, and whole operating points. docs/profiling.md describes how."""

from piqi_runtime.profiling.errors import LeftOutError, ProfilingError
from piqi_runtime.profiling.points import measure_points
from piqi_runtime.profiling.profile import Profiled, profile_board
from piqi_runtime.profiling.workbench import Conditions

__all__ = ["Conditions", "LeftOutError", "Profiled", "ProfilingError", "measure_points", "profile_board"]
