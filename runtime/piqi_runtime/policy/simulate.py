"""Replays a trace of battery, temperature and load through a policy: which modes and points it would have chosen."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from piqi_runtime.container import write_atomically
from piqi_runtime.policy.choose import Constraints, PointChooser
from piqi_runtime.policy.config import Policy
from piqi_runtime.policy.constraints import PolicyError
from piqi_runtime.policy.modes import ModeSelector
from piqi_runtime.policy.situation import Situation
from piqi_runtime.table import ParetoTable

#: Least and most of each column of a trace; `time_s` must be there, an empty cell is unknown.
COLUMNS = {
    "time_s": (0.0, math.inf),
    "battery_percent": (0.0, 100.0),
    "on_mains": (0.0, 1.0),
    "temperature_c": (-100.0, 250.0),
    "power_mw": (0.0, math.inf),
    "idle_s": (0.0, math.inf),
}
BOOLEANS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}


@dataclass(frozen=True)
class SimulatedRow:
    """What holds from `time_s` until the next row. `point` is None where none is available."""

    time_s: float
    mode: str
    rule: str
    point: int | None
    order: str
    latency_ms: float | None
    power_mw: float | None
    energy_mj: float | None
    accuracy: float | None
    degraded: str
    mode_changed: bool
    switched: bool
    reason: str


def read_trace(path: str | os.PathLike[str]) -> list[Situation]:
    """The situations of a CSV file with `time_s` and any other of COLUMNS. Raises PolicyError: file, line, column."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: expected text in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise PolicyError(f"{path}: line {reader.line_num}: {error}") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    unknown = [name for name in header if name not in COLUMNS]
    if "time_s" not in header or unknown or len(set(header)) != len(header):
        raise PolicyError(f"{path}: expected columns time_s and some of {', '.join(COLUMNS)}, got {', '.join(header)}")
    if len(lines) == 1:
        raise PolicyError(f"{path}: there are no rows")
    trace: list[Situation] = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise PolicyError(f"{path}: line {number}: expected {len(header)} cells, got {len(cells)}")
        values = {name: _cell(f"{path}: line {number}", name, cell) for name, cell in zip(header, cells, strict=True)}
        time_s = values.pop("time_s")
        if time_s is None or (trace and time_s <= trace[-1].now_s):
            raise PolicyError(
                f"{path}: line {number}: time_s: expected rising times, got {cells[header.index('time_s')]!r}"
            )
        on_mains = values.pop("on_mains", None)
        idle_s = values.pop("idle_s", None) or 0.0
        mains = None if on_mains is None else bool(on_mains)
        trace.append(Situation(now_s=time_s, on_mains=mains, idle_s=idle_s, **values))
    return trace


def simulate(
    table: ParetoTable, policy: Policy, trace: Iterable[Situation], limits: Constraints | None = None
) -> list[SimulatedRow]:
    """One row for each situation, as the daemon would have decided with the table's predictions. Deterministic."""
    selector, chooser = ModeSelector(policy), PointChooser(table)
    merged = {name: mode.constraints(table).merged(limits or Constraints()) for name, mode in policy.modes.items()}
    rows: list[SimulatedRow] = []
    current: int | None = None
    for situation in trace:
        choice = selector.select(situation)
        mode = policy.modes[choice.name]
        decision = chooser.choose(
            merged[choice.name], mode.objective, current=current, hysteresis=policy.hysteresis, relax=mode.relax
        )
        point = None if decision.point is None else table.points[decision.point]
        rows.append(
            SimulatedRow(
                time_s=situation.now_s,
                mode=choice.name,
                rule=choice.rule or "",
                point=decision.point,
                order=point.order if point else "",
                latency_ms=point.latency_ms if point else None,
                power_mw=point.power_mw if point else None,
                energy_mj=point.energy_mj if point else None,
                accuracy=point.accuracy if point else None,
                degraded=" ".join(decision.degraded),
                mode_changed=choice.changed,
                switched=bool(rows) and decision.point != current,
                reason=choice.reason,
            )
        )
        current = decision.point
    return rows


def write_rows(rows: Sequence[SimulatedRow], path: str | os.PathLike[str]) -> None:
    """Writes the rows as a CSV file, atomically. Raises PolicyError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(SimulatedRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: int(value) if isinstance(value, bool) else value for name, value in asdict(row).items()})
    try:
        write_atomically(path, [text.getvalue().encode()])
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from error


@dataclass(frozen=True)
class ModeShare:
    """How long a mode held, how often it was entered, and its points' means over time."""

    mode: str
    seconds: float
    entries: int
    latency_ms: float
    power_mw: float
    accuracy: float
    degraded_s: float


def shares(rows: Sequence[SimulatedRow]) -> list[ModeShare]:
    """A summary for each mode, in order of appearance. The last row has no length."""
    found: list[ModeShare] = []
    spans = [(row, after.time_s - row.time_s) for row, after in zip(rows, [*rows[1:], rows[-1]], strict=True)]
    for mode in dict.fromkeys(row.mode for row in rows):
        own = [(row, seconds) for row, seconds in spans if row.mode == mode]
        weighed = [(row, seconds) for row, seconds in own if row.point is not None]
        total_s = sum(seconds for _, seconds in weighed)
        if not total_s:  # only the last row: each counts the same
            weighed, total_s = [(row, 1.0) for row, _ in weighed], float(len(weighed))
        latency_ms, power_mw, accuracy = (
            sum(getattr(row, name) * seconds for row, seconds in weighed) / total_s if total_s else math.nan
            for name in ("latency_ms", "power_mw", "accuracy")
        )
        entries = sum(row.mode_changed for row, _ in own)
        degraded_s = sum(seconds for row, seconds in own if row.degraded)
        found.append(ModeShare(mode, sum(s for _, s in own), entries, latency_ms, power_mw, accuracy, degraded_s))
    return found


def _cell(where: str, name: str, text: str) -> float | None:
    text = text.strip()
    if not text:
        return None
    low, high = COLUMNS[name]
    try:
        value = BOOLEANS[text.lower()] if name == "on_mains" else float(text)
    except (ValueError, KeyError):
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        expected = "0 or 1" if name == "on_mains" else f"a number from {low:g} to {high:g}"
        raise PolicyError(f"{where}: {name}: expected {expected}, got {text!r}")
    return value
