"""The picture of a simulation. Needs matplotlib, which a board need not have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from piqi_runtime.policy.constraints import PolicyError
from piqi_runtime.policy.simulate import SimulatedRow
from piqi_runtime.policy.situation import Situation

_INPUTS = (
    ("battery_percent", "battery (%)"),
    ("temperature_c", "temperature (°C)"),
    ("power_mw", "measured (mW)"),
    ("idle_s", "idle (s)"),
)
_OUTPUTS = (("latency_ms", "latency (ms)"), ("power_mw", "power (mW)"), ("accuracy", "accuracy (%)"))


def plot_simulation(
    rows: Sequence[SimulatedRow], trace: Sequence[Situation], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Inputs, modes and the chosen points over time, one below the other. Raises PolicyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PolicyError(f"{path}: a plot needs matplotlib, which is not installed") from error
    hours = trace[-1].now_s - trace[0].now_s > 2 * 3600
    times = [row.time_s / (3600 if hours else 1) for row in rows]
    inputs = [entry for entry in _INPUTS if any(getattr(situation, entry[0]) for situation in trace)]
    count = len(inputs) + 1 + len(_OUTPUTS)
    figure = Figure(figsize=(9, 1.25 * count + 0.6), layout="constrained")
    axes: list[Any] = list(figure.subplots(count, 1, sharex=True))
    for axis, (name, label) in zip(axes, inputs, strict=False):
        axis.plot(times, [getattr(situation, name) for situation in trace], color="#555555", linewidth=1.2)
        axis.set_ylabel(label, fontsize=8)
    _draw_modes(axes[len(inputs)], rows, times)
    for axis, (name, label) in zip(axes[len(inputs) + 1 :], _OUTPUTS, strict=True):
        values = [getattr(row, name) for row in rows]
        axis.step(times, [float("nan") if value is None else value for value in values], where="post", color="#2f6690")
        axis.set_ylabel(label, fontsize=8)
        degraded = [
            value if row.degraded and value is not None else float("nan")
            for row, value in zip(rows, values, strict=True)
        ]
        axis.step(times, degraded, where="post", color="#b23a48", linewidth=2.5)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("time (h)" if hours else "time (s)", fontsize=8)
    note = "; red: a limit had to give way" if any(row.degraded for row in rows) else ""
    axes[0].set_title(title + note, fontsize=9, loc="left")
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:  # no such folder; a suffix that is no format
        raise PolicyError(f"{path}: {error}") from error


def _draw_modes(axis: Any, rows: Sequence[SimulatedRow], times: Sequence[float]) -> None:
    modes = list(dict.fromkeys(row.mode for row in rows))
    axis.step(times, [modes.index(row.mode) for row in rows], where="post", color="#d98e04", linewidth=1.8)
    axis.set_yticks(range(len(modes)), modes)
    axis.set_ylim(-0.5, len(modes) - 0.5)
    axis.set_ylabel("mode", fontsize=8)
