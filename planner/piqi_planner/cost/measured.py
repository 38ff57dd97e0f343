"""Whole run configurations that were measured, to fit cost models to and to judge them by."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_planner.profile import ConfigurationError, ModelProfile, parse_configurations
from piqi_planner.profile.model import Floats, Indices
from piqi_runtime.measured_points import MeasuredPoint, read_measured_lines
from piqi_runtime.profile_tables import ProfileError


@dataclass(frozen=True, eq=False)
class Measured:
    """`configs` [n, layers], `latency_ms` [n], `power_mw` [n] (NaN: not measured).

    `groups` [n]: rows of the same configuration have the same number. `trusted` [n]: false where another
    configuration has the very same latency and power, which tells of a row copied by mistake, not of which.
    """

    configs: Indices
    latency_ms: Floats
    power_mw: Floats

    def __len__(self) -> int:
        return len(self.configs)

    def take(self, rows: npt.NDArray[Any]) -> Measured:
        """Some of the rows."""
        return Measured(self.configs[rows], self.latency_ms[rows], self.power_mw[rows])

    @property
    def energy_mj(self) -> Floats:
        """[n]."""
        return self.latency_ms * self.power_mw / 1e3

    @property
    def groups(self) -> Indices:
        """[n]."""
        return np.unique(self.configs, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def trusted(self) -> npt.NDArray[np.bool_]:
        """[n]."""
        values, which = np.unique(np.stack([self.latency_ms, self.power_mw], axis=1), axis=0, return_inverse=True)
        which, groups = which.reshape(-1), self.groups
        counts = np.array([len(np.unique(groups[which == value])) for value in range(len(values))])
        return np.asarray((counts[which] == 1) | np.isnan(self.power_mw))


def read_measured(profile: ModelProfile, path: str | os.PathLike[str]) -> Measured:
    """The rows of a file of `piqi_runtime.measured_points`; each needs a power.

    Raises PiqiError with file, line, column and value.
    """
    rows = [(f"{path}:{line}", point) for line, point in read_measured_lines(path)]
    for where, point in rows:
        if point.power_mw is None:
            raise ProfileError(f"{where}: power_mw: expected a number, got ''")
    return to_measured(profile, rows)


def to_measured(
    profile: ModelProfile, rows: Sequence[tuple[str, MeasuredPoint]], names: Collection[str] = ()
) -> Measured:
    """Measured points, each with where it comes from, as arrays; powers that nothing measured are NaN.

    A point that names a model must name the profile's, or one of `names`. Raises ProfileError.
    """
    configs = np.empty((len(rows), profile.layer_count), np.intp)
    for place, (where, point) in enumerate(rows):
        if point.model not in ("", profile.name, *names):
            raise ProfileError(f"{where}: model: expected {profile.name}, got {point.model!r}")
        try:
            configs[place] = parse_configurations(profile, [point.order], [point.freqs])[0]
        except ConfigurationError as cause:
            raise ProfileError(f"{where}: {cause}") from cause
    powers = [math.nan if point.power_mw is None else point.power_mw for _, point in rows]
    return Measured(configs, np.array([point.latency_ms for _, point in rows]), np.array(powers))
