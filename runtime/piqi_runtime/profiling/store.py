"""What was measured so far, in a file that survives a crash at any time: a row for each block."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from piqi_runtime.profiling.block import Block
from piqi_runtime.profiling.errors import ProfilingError

VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
  configuration TEXT NOT NULL, round INTEGER NOT NULL, ended TEXT NOT NULL, temperature_c REAL, frames INTEGER NOT NULL,
  columns INTEGER NOT NULL, measured_s REAL NOT NULL, spent_s REAL NOT NULL, waited_s REAL NOT NULL,
  mean_mw REAL, times BLOB NOT NULL, latencies BLOB NOT NULL, powers BLOB NOT NULL, PRIMARY KEY (configuration, round));
"""


@dataclass(frozen=True)
class Effort:
    """s: of the frames that count, of all that it took to measure them, and of waiting for the board to cool."""

    measured_s: float
    spent_s: float
    waited_s: float


class Store:
    """The blocks of one measurement. Use as a context manager."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Opens or makes the file; `facts` say what is measured. Raises ProfilingError if it was begun with others."""
        self.path = path
        try:
            self._base = sqlite3.connect(path)
            self._base.execute("PRAGMA synchronous = FULL")
            with self._base:
                self._base.executescript(_TABLES)
            self._check({"version": VERSION, **facts})
        except sqlite3.Error as error:
            raise ProfilingError(f"{path}: {error}") from error

    def has(self, configuration: object, round_number: int) -> bool:
        """Whether this block was measured."""
        query = "SELECT 1 FROM blocks WHERE configuration = ? AND round = ?"
        return self._base.execute(query, (str(configuration), round_number)).fetchone() is not None

    def add(
        self,
        configuration: object,
        round_number: int,
        block: Block,
        temperature_c: float | None,
        spent_s: float,
        waited_s: float,
    ) -> None:
        """Keeps a block; it is on the disk when this returns. Raises ProfilingError."""
        row = (
            str(configuration),
            round_number,
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            temperature_c,
            *block.times_ms.shape,
            block.seconds,
            spent_s,
            waited_s,
            block.mean_mw,
            *(values.astype("<f4").tobytes() for values in (block.times_ms, block.latency_ms, block.power_mw)),
        )
        try:
            with self._base:
                self._base.execute(f"INSERT INTO blocks VALUES ({','.join('?' * len(row))})", row)
        except sqlite3.Error as error:
            raise ProfilingError(f"{self.path}: {error}") from error

    def blocks(self, configuration: object) -> list[Block]:
        """Those of a configuration, by round."""
        query = (
            "SELECT frames, columns, mean_mw, times, latencies, powers FROM blocks "
            "WHERE configuration = ? ORDER BY round"
        )
        found = []
        for frames, columns, mean_mw, *blobs in self._base.execute(query, (str(configuration),)):
            times, latencies, powers = (np.frombuffer(blob, "<f4").astype(np.float64) for blob in blobs)
            mean = float("nan") if mean_mw is None else float(mean_mw)
            found.append(Block(times.reshape(frames, columns), latencies, powers, mean))
        return found

    def temperatures_c(self, configuration: object) -> list[float]:
        """At the ends of the blocks of a configuration, where it was known."""
        query = "SELECT temperature_c FROM blocks WHERE configuration = ? AND temperature_c IS NOT NULL"
        return [float(row[0]) for row in self._base.execute(query, (str(configuration),))]

    def effort(self) -> Effort:
        """Of all blocks, those of earlier runs included."""
        query = "SELECT TOTAL(measured_s), TOTAL(spent_s), TOTAL(waited_s) FROM blocks"
        return Effort(*self._base.execute(query).fetchone())

    def close(self) -> None:
        """Closes the file."""
        self._base.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, facts: Mapping[str, Any]) -> None:
        texts = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
        known = dict(self._base.execute("SELECT name, value FROM facts"))
        for name, text in texts.items():
            if known and known.get(name) != text:
                raise ProfilingError(
                    f"{self.path}: {name}: was begun with {known.get(name, 'none')[:100]}, got {text[:100]}: "
                    "remove the file or choose another --out"
                )
        with self._base:
            self._base.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", texts.items())
