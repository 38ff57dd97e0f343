"""Measures what whole operating points really cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle
from piqi_runtime.measured_points import MeasuredPoint, write_measured
from piqi_runtime.profiling.configurations import Configuration
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.profiling.processors import with_hosts
from piqi_runtime.profiling.progress import Progress
from piqi_runtime.profiling.results import ordinary
from piqi_runtime.profiling.store import Effort, Store
from piqi_runtime.profiling.workbench import Conditions, board_facts, opened
from piqi_runtime.table import OperatingPoint


def measure_points(
    model: Bundle, board: Board, points: Sequence[OperatingPoint], out: Path, conditions: Conditions
) -> tuple[list[MeasuredPoint], Effort]:
    """Runs each point as a whole, in rounds, and writes `out`; what it has measured is kept beside it, in .sqlite.

    `model`: a bundle or kit with the partitions of the points. Raises PiqiError, `piqi_native.Error`.
    """
    configurations = [Configuration("model", point.order, point.freqs) for point in points]
    letters = with_hosts(board, "".join({letter for point in points for letter in point.order}))
    facts: Mapping[str, Any] = {
        "points_of": model.manifest.model,
        "source_hash": model.manifest.source_hash,
        "board": board_facts(board),
        **conditions.facts(),
    }
    with Store(out.with_suffix(".sqlite"), facts) as store:
        progress = Progress(len(points) * conditions.repeats)
        try:
            with opened(model, board, letters, conditions, store, progress) as session:
                _refuse(session.left_out)
                session.run(configurations, conditions.repeats, progress)
        finally:
            progress.close()
        _refuse(session.left_out)
        measured = [_measured(model.manifest.model, configuration, store) for configuration in configurations]
        write_measured(out, measured)
        return measured, store.effort()


def _refuse(left_out: Mapping[str, str]) -> None:
    if left_out:
        raise ProfilingError("\n".join(f"processor {letter}: {why}" for letter, why in left_out.items()))


def _measured(model: str, configuration: Configuration, store: Store) -> MeasuredPoint:
    blocks = store.blocks(configuration)
    kept = ordinary([block.latency_ms for block in blocks])
    latency_ms = np.concatenate([block.latency_ms[rows] for block, rows in zip(blocks, kept, strict=True)])
    power_mw = float(np.median([block.mean_mw for block in blocks]))
    temperatures_c = store.temperatures_c(configuration)
    return MeasuredPoint(
        model=model,
        order=configuration.order,
        freqs=configuration.freqs,
        latency_ms=round(float(latency_ms.mean()), 6),
        power_mw=None if np.isnan(power_mw) else round(power_mw, 3),
        frames=len(latency_ms),
        latency_std_ms=round(float(latency_ms.std()), 6),
        temperature_c=max(temperatures_c, default=None),
    )
