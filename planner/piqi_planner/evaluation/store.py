"""What every mask gave on every frame, in one SQLite file, so that nothing is evaluated twice.

A row holds the records (see `Metric`) of one mask on one block of frames. Each batch of rows is one transaction:
whatever ends the process, what was committed stays and what was not is simply evaluated again.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from collections.abc import Iterator

Records = Sequence[npt.NDArray[np.float32]]
Mask = npt.NDArray[np.bool_]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS key (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    mask BLOB NOT NULL, block INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (mask, block)
) WITHOUT ROWID;
"""


class StoreError(PiqiError):
    """A store that cannot be used: of another model or data set, damaged, or on a full disk. Names the file."""


class EvaluationStore:
    """Records by mask and block. `key`: what the records depend on; a store with another key is refused."""

    def __init__(self, path: str | os.PathLike[str], key: Mapping[str, str]) -> None:
        self.path = os.fspath(path)
        with self._errors():
            self._database = sqlite3.connect(self.path)
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.executescript(_SCHEMA)
                self._check(key)
            except BaseException:
                self._database.close()
                raise

    def _check(self, key: Mapping[str, str]) -> None:
        known = dict(self._database.execute("SELECT name, value FROM key"))
        for name, value in known.items():
            if key.get(name) != value:
                raise StoreError(
                    f"{self.path}: key.{name}: holds evaluations for {value}, these are for {key.get(name)}; "
                    "give another file or remove it"
                )
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO key VALUES (?, ?)", key.items())

    def blocks(self, mask: Mask) -> set[int]:
        """The blocks that are there for a mask."""
        with self._errors():
            found = self._database.execute("SELECT block FROM records WHERE mask = ?", (_packed(mask),))
            return {block for (block,) in found}

    def add(self, rows: Iterable[tuple[Mask, int, Records]]) -> None:
        """Adds (mask, block, records) in one transaction. Raises StoreError."""
        packed = [(_packed(mask), block, encode(records)) for mask, block, records in rows]
        with self._errors(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", packed)

    def records(self, mask: Mask) -> Records:
        """All records of a mask, in the order of the frames. Raises StoreError."""
        with self._errors():
            found = self._database.execute("SELECT data FROM records WHERE mask = ? ORDER BY block", (_packed(mask),))
            blobs = [data for (data,) in found]
        try:
            return [record for blob in blobs for record in decode(blob)]
        except (struct.error, ValueError) as error:
            raise StoreError(f"{self.path}: records.data: is damaged: {error}") from error

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error


def encode(records: Records) -> bytes:
    """Arrays of one or two dimensions, of equal width, as bytes."""
    dimensions = records[0].ndim
    rows = [np.atleast_2d(record) for record in records]
    head = struct.pack("<BII", dimensions, rows[0].shape[1], len(rows))
    counts = np.array([len(part) for part in rows], "<u4")
    return head + counts.tobytes() + np.concatenate(rows).astype("<f4").tobytes()


def decode(data: bytes) -> Records:
    """What `encode` was given. Raises struct.error or ValueError."""
    dimensions, width, frames = struct.unpack_from("<BII", data)
    at = struct.calcsize("<BII")
    counts = np.frombuffer(data, "<u4", frames, at)
    rows = np.frombuffer(data, "<f4", offset=at + counts.nbytes).reshape(int(counts.sum()), width)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    return [part[0] if dimensions == 1 else part for part in parts]


def _packed(mask: Mask) -> bytes:
    return np.packbits(mask).tobytes()
