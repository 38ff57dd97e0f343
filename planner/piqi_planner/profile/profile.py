"""A profile as a whole: the folder, its four tables, its models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from piqi_planner.profile.assemble import assemble_model, group_phases
from piqi_planner.profile.model import Floats, Hole, ModelProfile, ProfiledProcessor
from piqi_planner.profile.published import IDLE_POWER_MW
from piqi_runtime.boards import Board
from piqi_runtime.profile_tables import (
    DVFS_DELAY,
    LAYERS,
    TABLES,
    TRANSFER_FREQUENCY,
    TRANSFERS,
    ProfileError,
    ProfileFacts,
    Row,
    Table,
    Value,
    read_facts,
    read_table,
    write_facts,
    write_table,
)


@dataclass(frozen=True, eq=False)
class Profile:
    """Rows of the four tables, and what follows from them. `processors` in the order of their letters."""

    folder: Path
    rows: dict[str, list[Row]]
    processors: tuple[ProfiledProcessor, ...]
    idle_power_mw: float
    facts: ProfileFacts = field(default_factory=ProfileFacts)

    def models(self) -> list[str]:
        """Names of the models, in the file's order."""
        return list(self._phases)

    def model(self, name: str) -> ModelProfile:
        """One model's costs as arrays. Raises ProfileError where rows are missing."""
        if name not in self._phases:
            raise ProfileError(f"{self.folder}: no model {name!r}, only {', '.join(self._phases)}")
        if name not in self._models:
            self._models[name] = assemble_model(
                self.folder,
                name,
                self.processors,
                self._phases[name],
                [row for row in self.rows[TRANSFERS.name] if row.values[0] == name],
                self.rows[TRANSFER_FREQUENCY.name],
                self._delays,
                self.idle_power_mw,
                self.facts.npu_run_shrink.get(name),
            )
        return self._models[name]

    @property
    def holes(self) -> tuple[Hole, ...]:
        """What was not measured, in all models, and what stands in for it."""
        return tuple(hole for name in self.models() for hole in self.model(name).holes)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files as they were read; holes stay holes."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            write_table(table, target / table.file_name, self.rows[table.name])
        if self.facts != ProfileFacts():
            write_facts(target, self.facts)

    @cached_property
    def _models(self) -> dict[str, ModelProfile]:
        return {}

    @cached_property
    def _phases(self) -> dict[str, dict[tuple[str, int, int, int, str], tuple[float, float]]]:
        return group_phases(self.rows[LAYERS.name])

    @cached_property
    def _delays(self) -> dict[str, Floats]:
        """Letter -> mean delay [opp, opp]; NaN where there is none."""
        sums = {p.letter: np.zeros((2, p.opp_count, p.opp_count)) for p in self.processors}
        path = self.folder / DVFS_DELAY.file_name
        for row in self.rows[DVFS_DELAY.name]:
            letter, old, new, delay_ms = cast("tuple[str, int, int, float]", row.values)
            for column, index in (("from_freq_index", old), ("to_freq_index", new)):
                if index >= sums[letter].shape[1]:
                    raise ProfileError(f"{path}:{row.line}: {column}: {letter} has no frequency {index}")
            sums[letter][:, old, new] += delay_ms, 1
        with np.errstate(invalid="ignore"):
            means = {letter: total / count for letter, (total, count) in sums.items()}
        return means | {p.letter: means[p.host] for p in self.processors if p.kind == "npu" and p.host}


def load_profile(folder: str | os.PathLike[str], board: Board | None = None) -> Profile:
    """Reads and checks a profile's files.

    `board` names processors, hosts and idle power; without it they are taken from the files: a processor with
    npu_* phases is an NPU, another with host frequencies a GPU, and their host the CPU with as many of them.
    Raises ProfileError, with file, line, column and value.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ProfileError(f"{path}: no such folder")
    layers = read_table(LAYERS, path / LAYERS.file_name, board.letters if board else None)
    processors = tuple(_processors(path / LAYERS.file_name, layers, board))
    letters = "".join(processor.letter for processor in processors)
    rows = {table.name: read_table(table, path / table.file_name, letters) for table in _others()}
    facts = read_facts(path)
    idle_power_mw = facts.idle_power_mw or (board and board.idle_power_mw) or IDLE_POWER_MW
    profile = Profile(path, {LAYERS.name: layers, **rows}, processors, idle_power_mw, facts)
    known = profile.models()
    for row in rows[TRANSFERS.name]:
        if row.values[0] not in known:
            raise ProfileError(
                f"{path / TRANSFERS.file_name}:{row.line}: model: {row.values[0]!r} is not in {LAYERS.file_name}"
            )
    for name in known:
        profile.model(name)
    return profile


def _others() -> Iterator[Table]:
    return (table for table in TABLES if table is not LAYERS)


def _processors(path: Path, rows: list[Row], board: Board | None) -> Iterator[ProfiledProcessor]:
    """Those that occur in the rows: in the board's order, or CPUs, GPUs, NPUs, those with fewer OPPs first."""
    own: dict[str, int] = {}  # letter -> number of indices
    hosted: dict[str, int] = {}  # letter -> number of its host's indices
    npus = set()
    for row in rows:
        name, index, host, phase = cast("tuple[str, int, int | None, str]", (*row.values[1:4], row.values[5]))
        own[name] = max(own.get(name, 0), index + 1)
        if phase.startswith("npu_"):
            npus.add(name)
        if host is not None:
            hosted[name] = max(hosted.get(name, 0), host + 1)
    has_host: dict[Value, bool] = {}
    for row in rows:
        letter, host_value = row.values[1], row.values[3]
        if has_host.setdefault(letter, host_value is not None) != (host_value is not None):
            expected = "an index" if has_host[letter] else "none"
            raise ProfileError(
                f"{path}:{row.line}: host_freq_index: expected {expected}, as in {letter}'s first row, "
                f"got {host_value!r}"
            )
        if row.values[1] in npus and row.values[2] != row.values[3]:
            raise ProfileError(
                f"{path}:{row.line}: freq_index: an NPU's is its host's {row.values[3]}, got {row.values[2]}"
            )
    if board is not None:
        for processor in board.processors:
            if processor.letter in own:
                count = own[processor.letter]
                if (processor.kind == "cpu") == (processor.letter in hosted):
                    raise ProfileError(f"{path}: {processor.letter} is a {processor.kind} on board {board.name}")
                yield ProfiledProcessor(processor.letter, processor.kind, count, processor.host)
        return
    cpus = sorted(own.keys() - hosted.keys(), key=lambda letter: (own[letter], letter))
    for name in cpus:
        yield ProfiledProcessor(name, "cpu", own[name])
    for name in sorted(hosted, key=lambda name: (name in npus, own[name], name)):
        hosts = [cpu for cpu in cpus if own[cpu] == hosted[name]]
        if len(hosts) != 1:
            raise ProfileError(
                f"{path}: {name}'s host has {hosted[name]} frequencies, {len(hosts)} CPUs have as many: "
                "give a board file"
            )
        yield ProfiledProcessor(name, "npu" if name in npus else "gpu", own[name], hosts[0])
