"""The files of a profile: reading, checking and writing their rows, without knowing what they mean.

Four CSV files, and beside them, optional, what is known of the board and the models as a whole: `profile.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

Value = str | int | float | None
Kind = Literal["name", "letter", "phase", "index", "index?", "freq", "amount", "amount?"]

PHASES = ("input", "run", "output", "npu_load", "npu_run_and_get", "npu_fill_tensor")


class ProfileError(PiqiError):
    """A profile, or a list of measurements, that cannot be used. Names file, line, column and value."""


@dataclass(frozen=True)
class Table:
    """`columns`: name -> kind of value ("?": may be empty). The first `key_count` columns identify a row;
    0: rows may repeat.
    """

    name: str
    columns: dict[str, Kind]
    key_count: int

    @property
    def file_name(self) -> str:
        """The file in the profile's folder."""
        return f"{self.name}.csv"


LAYERS = Table(
    "layers",
    {
        "model": "name",
        "processor": "letter",
        "freq_index": "index",
        "host_freq_index": "index?",
        "layer": "index",
        "phase": "phase",
        "time_ms": "amount",
        "power_mw": "amount?",
    },
    6,
)
TRANSFERS = Table(
    "transfers",
    {"model": "name", "after_layer": "index", "source": "letter", "destination": "letter", "time_ms": "amount"},
    4,
)
TRANSFER_FREQUENCY = Table(
    "transfer_frequency",
    {
        "source": "letter",
        "destination": "letter",
        "source_freq": "freq",
        "destination_freq": "freq",
        "time_ms": "amount",
        "power_mw": "amount?",
        "time_ratio": "amount",
    },
    4,
)
DVFS_DELAY = Table(
    "dvfs_delay",
    {"processor": "letter", "from_freq_index": "index", "to_freq_index": "index", "delay_ms": "amount"},
    0,  # measured several times, the mean counts
)
FACTS = "profile.json"
TABLES = (LAYERS, TRANSFERS, TRANSFER_FREQUENCY, DVFS_DELAY)


@dataclass(frozen=True)
class Row:
    """One line of a file; `values` in the order of the table's columns."""

    line: int
    values: tuple[Value, ...]


def read_table(table: Table, path: Path, letters: str | None = None) -> list[Row]:
    """The rows of one file, checked one by one. `letters`: the processors that may occur (None: any).

    Columns may come in any order, others than the table's are ignored. Raises ProfileError.
    """
    rows = []
    seen: dict[tuple[Value, ...], int] = {}
    lines = read_lines(path, tuple(table.columns))
    for line, cells in lines:
        values = tuple(
            _convert(kind, text, f"{path}:{line}: {column}", letters)
            for (column, kind), text in zip(table.columns.items(), cells, strict=True)
        )
        key = values[: table.key_count]
        if key and seen.setdefault(key, line) != line:
            named = ", ".join(f"{c}={v}" for c, v in zip(table.columns, key, strict=False) if v is not None)
            raise ProfileError(f"{path}:{line}: {named}: a second row, the first is in line {seen[key]}")
        rows.append(Row(line, values))
    if not rows:
        raise ProfileError(f"{path}: has no rows")
    return rows


def read_lines(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, list[str]]]:
    """(line number, the cells of `columns` and of `optional`, "" for one that is not there) of each row of a CSV file.

    Raises ProfileError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as cause:
        raise ProfileError(f"{path}: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise ProfileError(f"{path}: is not UTF-8 text, byte {cause.start}") from cause
    reader = csv.reader(io.StringIO(text))
    head = next(reader, [])
    for column in columns:
        if head.count(column) != 1:
            problem = "is missing" if column not in head else "occurs twice"
            raise ProfileError(f"{path}:1: column {column}: {problem}, got {','.join(head)!r}")
    places = [head.index(column) if column in head else len(head) for column in (*columns, *optional)]
    found = []
    try:
        for cells in reader:
            if cells and len(cells) != len(head):
                raise ProfileError(f"{path}:{reader.line_num}: expected {len(head)} cells, got {len(cells)}")
            if cells:
                found.append((reader.line_num, [[*cells, ""][place] for place in places]))
    except csv.Error as cause:
        raise ProfileError(f"{path}:{reader.line_num}: {cause}") from cause
    return found


def write_table(table: Table, path: Path, rows: Iterable[Row]) -> None:
    """Writes rows so that `read_table` gives the same values; the file is there as a whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if value is None else value for value in row.values] for row in rows)
    write_atomically(path, [text.getvalue().encode()])


@dataclass(frozen=True)
class ProfileFacts:
    """`idle_power_mw`: of the whole board when nothing runs; None: not measured.

    `npu_run_shrink`: model -> s, when each layer of a run of k on the NPU takes 1 + s - s k of its time alone.
    """

    idle_power_mw: float | None = None
    npu_run_shrink: Mapping[str, float] = field(default_factory=dict)


def read_facts(folder: Path) -> ProfileFacts:
    """What profile.json says; without the file, nothing. Raises ProfileError."""
    path = folder / FACTS
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ProfileFacts()
    except (OSError, ValueError) as cause:
        raise ProfileError(f"{path}: {cause}") from cause
    if not isinstance(values, dict) or not isinstance(shrinks := values.get("npu_run_shrink", {}), dict):
        raise ProfileError(f"{path}: expected an object with npu_run_shrink, an object, got {str(values)[:80]}")
    if unknown := values.keys() - {"idle_power_mw", "npu_run_shrink"}:
        raise ProfileError(f"{path}: {min(unknown)}: is not a key")
    idle = values.get("idle_power_mw")
    return ProfileFacts(
        None if idle is None else parse_amount(str(idle), f"{path}: idle_power_mw"),
        {name: parse_amount(str(value), f"{path}: npu_run_shrink.{name}") for name, value in shrinks.items()},
    )


def write_facts(folder: Path, facts: ProfileFacts) -> None:
    """Writes profile.json, as a whole or not at all."""
    values: dict[str, object] = {"npu_run_shrink": dict(facts.npu_run_shrink)}
    if facts.idle_power_mw is not None:
        values["idle_power_mw"] = facts.idle_power_mw
    write_atomically(folder / FACTS, [json.dumps(values, indent=1, sort_keys=True).encode(), b"\n"])


def parse_amount(text: str, where: str) -> float:
    """A finite number that is not negative. Raises ProfileError, which begins with `where`."""
    try:
        value = float(text)
    except ValueError:
        raise ProfileError(f"{where}: expected a number, got {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise ProfileError(f"{where}: expected a finite number that is not negative, got {text!r}")
    return value


def _convert(kind: Kind, text: str, where: str, letters: str | None) -> Value:
    if kind.endswith("?") and text == "":
        return None
    if kind.startswith("amount"):
        return parse_amount(text, where)
    if kind.startswith("index"):
        if not (text.isascii() and text.isdecimal() and len(text) < 5):
            raise ProfileError(f"{where}: expected an index, got {text!r}")
        return int(text)
    if kind == "name" and not text:
        raise ProfileError(f"{where}: expected a name, got {text!r}")
    if kind == "letter" and (len(text) != 1 or not "A" <= text <= "Z" or text not in (letters or text)):
        raise ProfileError(f"{where}: expected a processor's letter{f' of {letters}' if letters else ''}, got {text!r}")
    if kind == "phase" and text not in PHASES:
        raise ProfileError(f"{where}: expected one of {', '.join(PHASES)}, got {text!r}")
    if kind == "freq" and not all(part.isascii() and part.isdecimal() for part in text.split("-")):
        raise ProfileError(f"{where}: expected an index or 'own-host', got {text!r}")
    return text
