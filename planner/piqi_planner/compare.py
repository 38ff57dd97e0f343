"""Searches side by side: each at each accuracy target, a front's file for each, hypervolumes, a report."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from piqi_planner.front import FrontError, read_front, write_front
from piqi_planner.search.front import hypervolume
from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError
from piqi_runtime.table import OperatingPoint

_COLUMNS = ("search", "target", "hypervolume", "points", "seconds")


class CompareError(PiqiError):
    """A comparison that cannot be made or gone on with; the message says what does not fit."""


@dataclass(frozen=True)
class Run:
    """A search at an accuracy target (percent): its points, hypervolume (s W) and time."""

    search: str
    target: float
    points: tuple[OperatingPoint, ...]
    hypervolume: float
    seconds: float


@dataclass
class Comparison:
    """Runs in a folder, which is where they are found again: `fronts/SEARCH_TARGET.csv` and hypervolumes.csv.

    `reference`: latency in ms, power in mW. `settings`: what must be the same for runs to be comparable.
    """

    folder: Path
    reference: tuple[float, float]
    settings: Mapping[str, object]
    runs: dict[tuple[str, float], Run] = field(default_factory=dict)

    def open(self) -> None:
        """Makes the folder, or takes up what is finished there. Raises CompareError, FrontError."""
        try:
            (self.folder / "fronts").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CompareError(f"{self.folder}: {error.strerror}") from error
        self._check_settings()
        for (search, target), seconds in self._read_seconds().items():
            path = self.front_path(search, target)
            if path.exists():
                self._take(search, target, read_front(path), seconds)

    def missing(self, searches: Sequence[str], targets: Sequence[float]) -> list[tuple[str, float]]:
        """The runs that are not finished."""
        return [(search, target) for search in searches for target in targets if (search, target) not in self.runs]

    def run(
        self, todo: Sequence[tuple[str, float]], find: Callable[[str, float], list[OperatingPoint]]
    ) -> Iterator[Run]:
        """Makes the runs, keeps each as soon as it is finished, and yields it."""
        for search, target in todo:
            begin = time.monotonic()
            points = find(search, target)
            seconds = time.monotonic() - begin
            write_front(self.front_path(search, target), points)
            self._take(search, target, points, seconds)
            self.write_hypervolumes()
            yield self.runs[search, target]

    def front_path(self, search: str, target: float) -> Path:
        """The file of a run's front."""
        return self.folder / "fronts" / f"{search}_{target!r}.csv"

    def write_hypervolumes(self) -> None:
        """hypervolumes.csv: a row for each finished run. Raises FrontError."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for run in self.runs.values():
            writer.writerow((run.search, run.target, run.hypervolume, len(run.points), round(run.seconds, 3)))
        write_atomically(self.folder / "hypervolumes.csv", [text.getvalue().encode()])

    def _take(self, search: str, target: float, points: Sequence[OperatingPoint], seconds: float) -> None:
        costs = np.array([(point.latency_ms, point.power_mw) for point in points]).reshape(-1, 2)
        volume = hypervolume(costs[:, 0], costs[:, 1], self.reference)
        self.runs[search, target] = Run(search, target, tuple(points), volume, seconds)

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        settings = json.loads(json.dumps(self.settings))
        if not path.exists():
            write_atomically(path, [json.dumps(settings, indent=1).encode(), b"\n"])
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CompareError(f"{path}: {error}") from error
        for name, value in settings.items():
            if not isinstance(found, dict) or found.get(name) != value:
                got = found.get(name) if isinstance(found, dict) else found
                raise CompareError(
                    f"{path}: {name}: this call has {value!r}, the runs there {got!r}; choose another folder"
                )

    def _read_seconds(self) -> dict[tuple[str, float], float]:
        path = self.folder / "hypervolumes.csv"
        if not path.exists():
            return {}
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            try:
                return {(row["search"], float(row["target"])): float(row["seconds"]) for row in reader}
            except (KeyError, TypeError, ValueError) as error:
                raise FrontError(f"{path}:{reader.line_num}: expected {','.join(_COLUMNS)}, got {error}") from error
