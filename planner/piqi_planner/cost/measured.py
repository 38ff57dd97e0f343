"""Whole run configurations that were measured, to fit cost models to and to judge them by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_planner.profile import ConfigurationError, ModelProfile, ProfileError, parse_configurations
from piqi_planner.profile.model import Floats, Indices
from piqi_planner.profile.tables import parse_amount, read_lines


@dataclass(frozen=True, eq=False)
class Measured:
    """`configs` [n, layers], `latency_ms` [n], `power_mw` [n].

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
        return np.asarray(counts[which] == 1)


def read_measured(profile: ModelProfile, path: str | os.PathLike[str]) -> Measured:
    """Reads the columns order, freqs, latency_ms, power_mw; a column model, if any, must name the model.

    Raises ProfileError with file, line, column and value.
    """
    path = Path(path)
    rows = list(_rows(profile, path))
    if not rows:
        raise ProfileError(f"{path}: has no rows")
    configs, latencies, powers = zip(*rows, strict=True)
    return Measured(np.stack(configs), np.array(latencies), np.array(powers))


def _rows(profile: ModelProfile, path: Path) -> Iterator[tuple[Indices, float, float]]:
    columns = ["order", "freqs", "latency_ms", "power_mw"]
    for line, cells in read_lines(path, columns, ["model"]):
        if cells[4] not in ("", profile.name):
            raise ProfileError(f"{path}:{line}: model: expected {profile.name}, got {cells[4]!r}")
        amounts = [
            parse_amount(text, f"{path}:{line}: {column}") for column, text in zip(columns[2:], cells[2:4], strict=True)
        ]
        for column, amount in zip(columns[2:], amounts, strict=True):
            if amount == 0:
                raise ProfileError(f"{path}:{line}: {column}: expected a number above zero, got {amount}")
        try:
            config = parse_configurations(profile, cells[:1], cells[1:2])[0]
        except ConfigurationError as cause:
            raise ProfileError(f"{path}:{line}: {cause}") from cause
        yield config, amounts[0], amounts[1]
