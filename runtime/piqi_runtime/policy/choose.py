"""Which point of a table holds: feasible first, then the objective, with hysteresis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from piqi_runtime.policy.constraints import RELAX_ORDER, Constraints, Limit, PolicyError
from piqi_runtime.table import Objective, ParetoTable

__all__ = ["Constraints", "Costs", "Decision", "PointChooser"]

Costs64 = npt.NDArray[np.float64]
Factors = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Decision:
    """A point, and what it took.

    - `point`: its index in the table; None: none is available;
    - `degraded`: the limits that had to give way; `relaxed`: the limits as they were kept in the end;
    - `counts`: of all `points` how many are `unavailable`, break each limit, and are `allowed` in the end;
    - `kept`: the current point stays although another is better, by less than the hysteresis.
    """

    point: int | None
    degraded: tuple[str, ...]
    relaxed: Constraints
    counts: dict[str, int]
    kept: bool = False


class Costs(NamedTuple):
    """What the points cost, corrected by what was measured; float64 [points] each. `accuracy` is in percent."""

    latency_ms: Costs64
    power_mw: Costs64
    energy_mj: Costs64
    accuracy: Costs64

    def of(self, name: str) -> Costs64:
        """The figure that a limit or an objective is about."""
        return self[_COLUMNS[name]]

    def keep(self, name: str, limit: float) -> Flags:
        """Which points keep a limit; bool [points]."""
        return _keep(self[_COLUMNS[name]], name, limit)


_COLUMNS = {"latency": 0, "power": 1, "energy": 2, "accuracy": 3} | {
    "max_latency_ms": 0,
    "max_power_mw": 1,
    "max_energy_mj": 2,
    "min_accuracy": 3,
}


class PointChooser:
    """Chooses points of one table. Its arrays are made once, so that a decision costs some microseconds."""

    def __init__(self, table: ParetoTable) -> None:
        names = Costs._fields
        columns = [[getattr(point, name) for point in table.points] for name in names]
        self._predicted = Costs(*(np.array(column, dtype=np.float64) for column in columns))
        self._count = len(table.points)

    def costs(self, latency_factor: Factors | None = None, power_factor: Factors | None = None) -> Costs:
        """The predictions times what was measured over what was predicted, [points] each. Raises PolicyError."""
        if latency_factor is None and power_factor is None:
            return self._predicted
        latency_ms, power_mw, _, accuracy = self._predicted
        if latency_factor is not None:
            latency_ms = self._corrected(latency_ms, "latency_factor", latency_factor)
        if power_factor is not None:
            power_mw = self._corrected(power_mw, "power_factor", power_factor)
        energy_mj = latency_ms * power_mw
        energy_mj /= 1e3  # as tables have it, to the last bit
        return Costs(latency_ms, power_mw, energy_mj, accuracy)

    def choose(
        self,
        constraints: Constraints,
        objective: Objective = "energy",
        *,
        latency_factor: Factors | None = None,
        power_factor: Factors | None = None,
        excluded: Flags | None = None,
        current: int | None = None,
        hysteresis: float = 0.0,
        relax: Sequence[Limit] = RELAX_ORDER,
    ) -> Decision:
        """The available point with the best objective among those that keep the limits.

        Limits are taken in reverse order of `relax`. One that no remaining point keeps is loosened to the nearest
        that one of them reaches (and `hysteresis` beyond, or every fluctuation would change the point), and is
        named in `degraded`; those behind it are still kept if they can be. Of equals the one with least energy,
        then the fastest. Another point than `current` must be better by the fraction `hysteresis` (for accuracy:
        by so many percentage points).

        `latency_factor`, `power_factor`: measured over predicted, floating [points]; `excluded`: bool [points].
        Raises PolicyError for arrays that do not fit the table.
        """
        costs = self.costs(latency_factor, power_factor)
        count = self._count
        allowed = self._available(excluded)
        left = int(np.count_nonzero(allowed))
        counts = {"points": count, "unavailable": count - left}
        if not left:
            return Decision(None, (), constraints, {**counts, "allowed": 0})
        limits = constraints.given()
        relaxed: dict[str, float] = {}
        degraded: list[str] = []
        # Those that are left: by `allowed`, from the first limit that gives way on by `indices`, which are few.
        indices: Indices | None = None
        for name in reversed(relax):
            if name not in limits:
                continue
            limit, values = limits[name], costs.of(name)
            keeps = _keep(values, name, limit)
            keeping = int(np.count_nonzero(keeps))
            counts[name] = count - keeping
            if keeping:
                keeps = keeps & allowed if indices is None else keeps.take(indices)
                keeping = int(np.count_nonzero(keeps))
            if not keeping:
                degraded.append(name)
                if indices is not None:
                    limit = _nearest(values.take(indices), name, hysteresis)
                elif allowed[_best_of(values, name)]:
                    limit = _nearest(values, name, hysteresis)
                else:
                    limit = _nearest(values.take(allowed.nonzero()[0]), name, hysteresis)
                keeps = _keep(values, name, limit)
                indices = (keeps & allowed).nonzero()[0] if indices is None else indices[keeps.take(indices)]
            elif indices is None:
                allowed = keeps
            else:
                indices = indices[keeps]
            relaxed[name] = limit
        if indices is None:
            indices = allowed.nonzero()[0]
        counts["allowed"] = len(indices)
        point = self._best(costs, objective, indices)
        kept = (
            current is not None
            and current != point
            and 0 <= current < self._count
            and current in indices
            and not _is_better(costs.of(objective), objective, point, current, hysteresis)
        )
        if kept and current is not None:
            point = current
        kept_limits = constraints if relaxed == limits else Constraints(**relaxed)
        return Decision(point, tuple(degraded), kept_limits, counts, kept)

    def _best(self, costs: Costs, objective: Objective, indices: Indices) -> int:
        values = costs.of(objective).take(indices)
        if objective == "energy":
            return int(indices[values.argmin()])
        equals = indices[values == values[_best_of(values, objective)]]
        return int(equals[costs.energy_mj[equals].argmin()])

    def _available(self, excluded: Flags | None) -> Flags:
        if excluded is None:
            return np.ones(self._count, dtype=np.bool_)
        if excluded.shape != (self._count,) or excluded.dtype != np.bool_:
            raise PolicyError(f"excluded: expected bool [{self._count}], got {excluded.dtype} {list(excluded.shape)}")
        return ~excluded

    def _corrected(self, predicted: Costs64, name: str, factor: Factors) -> Costs64:
        if factor.shape != (self._count,):
            raise PolicyError(f"{name}: expected [{self._count}], got {list(factor.shape)}")
        if not factor[factor.argmin()] > 0:  # or NaN, which counts as the least
            raise PolicyError(f"{name}: expected more than 0, got {float(factor.min())!r}")
        product = factor.astype(np.float64)  # faster than a product of two types
        product *= predicted
        return product


def _keep(values: Costs64, name: str, limit: float) -> Flags:
    flags: Flags = values >= limit if name == "min_accuracy" else values <= limit
    return flags


def _best_of(values: Costs64, name: str) -> int:
    """Where the best is: faster than the best itself."""
    return int(values.argmax() if name in ("accuracy", "min_accuracy") else values.argmin())


def _nearest(values: Costs64, name: str, slack: float) -> float:
    """The strictest limit that one of `values` keeps; a cost's with `slack` (a fraction) beyond it."""
    nearest = float(values[_best_of(values, name)])
    return nearest if name == "min_accuracy" else nearest * (1 + slack)


def _is_better(values: Costs64, objective: Objective, point: int, current: int, hysteresis: float) -> bool:
    if objective == "accuracy":
        return bool(values[point] > values[current] + hysteresis)
    return bool(values[point] < values[current] * (1 - hysteresis))
