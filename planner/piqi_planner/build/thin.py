"""Fewer points of a front, spread over all of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piqi_planner.search import Front

_STEPS = 40


def thin(front: Front, most: int) -> Front:
    """At most `most` points: of those that differ little in latency, power and accuracy, the one of least energy.

    The fastest, the most frugal (in energy and in power) and the most accurate point stay.
    """
    if len(front) <= most:
        return front
    columns = np.stack([np.log(front.latency_ms), np.log(front.power_mw), front.accuracy], axis=1)
    spans = np.ptp(columns, axis=0)
    scaled = (columns - columns.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    ends = _ends(front)
    low, high = 0.0, 1.0  # cells of the upper size leave few enough points
    best = ends[:most]
    for _ in range(_STEPS):
        size = (low + high) / 2
        chosen = _one_a_cell(scaled, front.energy_mj, size, ends)
        if len(chosen) <= most:
            best, high = chosen, size
        else:
            low = size
    return front.take(np.sort(best))


def _ends(front: Front) -> npt.NDArray[np.intp]:
    places = [
        np.lexsort((front.power_mw, front.latency_ms))[0],
        np.argmin(front.energy_mj),
        np.argmin(front.power_mw),
        np.lexsort((front.energy_mj, -front.accuracy))[0],
    ]
    return np.unique(places)


def _one_a_cell(
    scaled: npt.NDArray[np.float64], energy: npt.NDArray[np.float64], size: float, ends: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    cells = np.floor(scaled / size).astype(np.int64)
    order = np.argsort(energy, kind="stable")
    _, first = np.unique(cells[order], axis=0, return_index=True)
    return np.union1d(order[first], ends)
