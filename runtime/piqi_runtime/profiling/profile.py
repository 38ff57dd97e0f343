"""Measures a profile: every layer on every processor at every operating point, and all that lies between layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle
from piqi_runtime.profile_tables import TABLES, ProfileFacts, write_facts, write_table
from piqi_runtime.profiling.configurations import IDLE, Space, plan
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.profiling.processors import with_hosts
from piqi_runtime.profiling.progress import Progress
from piqi_runtime.profiling.results import Results
from piqi_runtime.profiling.store import Effort, Store
from piqi_runtime.profiling.tables import Tables
from piqi_runtime.profiling.workbench import Conditions, board_facts, opened

MEASUREMENTS = "measurements.sqlite"


@dataclass(frozen=True)
class Profiled:
    """What `profile_board` did. `left_out`: letter -> why; `rows`: of each file."""

    letters: str
    left_out: dict[str, str]
    rows: dict[str, int]
    configurations: int
    frames: int
    outliers: int
    unseen_changes: int
    npu_run_shrink: float | None
    idle_power_mw: float | None
    effort: Effort


def profile_board(
    kit: Bundle,
    board: Board,
    out: Path,
    conditions: Conditions,
    letters: str | None = None,
    indices: Mapping[str, Sequence[int]] | None = None,
) -> Profiled:
    """Measures what is not in `out` yet, then writes the profile's files there.

    `kit`: or a bundle with a partition of every single layer; `letters`: of the processors to measure (default: all;
    hosts are added); `indices`: by letter, where not all frequency indices are wanted. Raises PiqiError.
    """
    letters = with_hosts(board, board.letters if letters is None else letters)
    _check_choice(board, letters, indices or {})
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": kit.manifest.model,
        "source_hash": kit.manifest.source_hash,
        "board": board_facts(board),
        **conditions.facts(),
    }
    layer_count = kit.manifest.layer_count
    with Store(out / MEASUREMENTS, facts) as store:
        everything = plan(Space(board, letters, indices or {}), layer_count, kit.ranges)
        progress = Progress(len(everything) * conditions.repeats)
        try:
            with opened(kit, board, letters, conditions, store, progress) as session:
                if not set(letters) - session.left_out.keys():
                    reasons = "; ".join(f"{letter}: {why}" for letter, why in session.left_out.items())
                    raise ProfilingError(f"board {board.name}: no processor can be measured: {reasons}")
                session.run(everything, conditions.repeats, progress)
        finally:
            progress.close()
        left_out = {letter: why for letter, why in session.left_out.items() if letter in letters}
        left_out |= {
            letter: f"its host {host} is left out"
            for letter in letters
            if letter not in left_out and (host := board.processor(letter).host) in left_out
        }
        space = Space(board, set(letters) - left_out.keys(), indices or {})
        results = Results(store)
        tables = Tables(kit.manifest.model, layer_count, space, results)
        rows = tables.rows()
        shrink = tables.npu_run_shrink(kit.ranges)
        idle_mw = float(results[IDLE].power_mw[0])
        idle_power_mw = None if math.isnan(idle_mw) else idle_mw
        for table in TABLES:
            if rows[table.name]:
                write_table(table, out / table.file_name, rows[table.name])
            else:  # one processor, or one layer: there are no transfers
                (out / table.file_name).unlink(missing_ok=True)
        shrinks = {} if shrink is None else {kit.manifest.model: shrink}
        write_facts(out, ProfileFacts(idle_power_mw=idle_power_mw, npu_run_shrink=shrinks))
        return Profiled(
            letters=space.letters,
            left_out=left_out,
            rows={table.file_name: len(rows[table.name]) for table in TABLES},
            configurations=len(plan(space, layer_count, kit.ranges)),
            frames=results.frames,
            outliers=results.outliers,
            unseen_changes=tables.unseen_changes,
            npu_run_shrink=shrink,
            idle_power_mw=idle_power_mw,
            effort=store.effort(),
        )


def _check_choice(board: Board, letters: str, indices: Mapping[str, Sequence[int]]) -> None:
    for letter, chosen in indices.items():
        count = board.processor(letter).opp_count
        if board.processor(letter).kind == "npu":
            raise ProfilingError(f"--freqs: {letter} has its host's frequencies: choose those")
        if letter not in letters or not chosen or not all(0 <= index < count for index in chosen):
            raise ProfilingError(
                f"--freqs: expected indices of {letters}, of {letter} from 0 to {count - 1}, "
                f"got {letter}={','.join(map(str, chosen))}"
            )
