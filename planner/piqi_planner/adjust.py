"""Measured costs into a table: the paper's last step. docs/adjusting.md says what is done, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from piqi_planner.commands.table import make_table
from piqi_planner.cost import CostModel, Costs, Measured, cost_errors, make_cost
from piqi_planner.cost.fit import fit_and_cross_validate
from piqi_planner.cost.measured import to_measured
from piqi_planner.cost.parameters import CostParameters
from piqi_planner.cost.validation import Errors
from piqi_planner.profile import ModelProfile, parse_configurations
from piqi_runtime.boards import Board
from piqi_runtime.measured_points import MeasuredPoint
from piqi_runtime.profile_tables import ProfileError
from piqi_runtime.table import OperatingPoint, ParetoTable

#: With fewer run configurations, a fit says more about them than about others.
MIN_CONFIGURATIONS = 5

#: A measured point, and where it was read.
Row = tuple[str, MeasuredPoint]
Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A cost model fitted to measured points. `before`: the costs that the model so far gives them; `after`: those by
    parameters that were fitted without their configuration."""

    profile: ModelProfile
    measured: Measured
    before: Costs
    after: Costs
    parameters: CostParameters

    @property
    def errors(self) -> tuple[Errors, Errors]:
        """Before and after."""
        return cost_errors(self.before, self.measured), cost_errors(self.after, self.measured)

    @property
    def better(self) -> frozenset[str]:
        """Which of "latency" and "power" it predicts better than before, where it has not seen the configuration."""
        before, after = self.errors
        return frozenset(
            name
            for name in ("latency", "power")
            if name in after and after[name]["mae_percent"] < before[name]["mae_percent"]
        )

    @property
    def model(self) -> CostModel:
        """With parameters fitted to all rows."""
        return make_cost("calibrated", self.profile, self.parameters)


@dataclass(frozen=True)
class Change:
    """A point before and after. `beaten_by`: the point that dominates it now, with which it leaves the table."""

    before: OperatingPoint
    after: OperatingPoint
    beaten_by: OperatingPoint | None


@dataclass(frozen=True, eq=False)
class Adjustment:
    """`table`: the new one. `changes`: what became of each point, of the table first, then of the front.

    `doubtful`: rows left out, since another configuration has the very same latency and power; `unplaced`: measured
    configurations that are in neither: without an accuracy they serve the calibration only.
    """

    table: ParetoTable
    changes: tuple[Change, ...]
    calibration: Calibration | None
    doubtful: tuple[Row, ...]
    unplaced: int

    @property
    def table_errors(self) -> tuple[int, Errors]:
        """Of how many points that are measured now, and how far their predictions in the table were off."""
        pairs = [(c.before, c.after) for c in self.changes if c.before.cost_provenance == "predicted"]
        pairs = [(before, after) for before, after in pairs if after.cost_provenance == "measured"]
        if not pairs:
            return 0, {}
        columns = [[(p.latency_ms, p.power_mw, p.energy_mj) for p in points] for points in zip(*pairs, strict=True)]
        before, after = (np.array(column).T for column in columns)
        truth = Measured(np.empty((len(pairs), 0), np.intp), after[0], after[1])
        return len(pairs), cost_errors(Costs(before[0], before[2]), truth)


def adjust_table(
    table: ParetoTable,
    board: Board,
    rows: Sequence[Row],
    profile: ModelProfile | None = None,
    before: CostModel | None = None,
    front: Iterable[OperatingPoint] = (),
) -> Adjustment:
    """Measured replaces predicted, other points are predicted anew if that is worth it, dominated ones leave.

    `profile`: of the model, to calibrate with; `before`: the cost model so far (default: the shipped one). `front`:
    further points, which the table may lack because they were dominated. Raises PiqiError.
    """
    _check(table, rows, (profile.name,) if profile else ())
    doubtful = _doubtful(rows)
    rows = [row for row in rows if row not in doubtful]
    calibration = calibrate_cost(profile, rows, before, (table.model,)) if profile else None
    points: dict[Key, OperatingPoint] = {}
    for point in [*table.points, *front]:
        points.setdefault((point.order, point.freqs), point)
    means = _means(rows)
    now = dict(zip(points, _predicted(list(points.values()), calibration), strict=True))
    for key, mean in means.items():
        if key in now:
            now[key] = _replaced(now[key], mean)
    adjusted = make_table(now.values(), board, table.model, table.accuracy_metric, table.layers.count)
    kept = {(point.order, point.freqs) for point in adjusted.points}
    changes = tuple(
        Change(point, now[key], None if key in kept else _dominator(now[key], adjusted.points))
        for key, point in points.items()
    )
    return Adjustment(adjusted, changes, calibration, doubtful, len(means.keys() - points.keys()))


def calibrate_cost(
    profile: ModelProfile, rows: Sequence[Row], before: CostModel | None = None, names: Collection[str] = ()
) -> Calibration | None:
    """A cost model fitted to `rows`; None if these have fewer than MIN_CONFIGURATIONS. `names`: as in `to_measured`."""
    measured = to_measured(profile, rows, names)
    if len(np.unique(measured.groups)) < MIN_CONFIGURATIONS:
        return None
    before = before or make_cost("calibrated", profile)
    text = f"{len(measured)} measurements of {profile.name}, {int(np.isfinite(measured.power_mw).sum())} with power"
    parameters, after = fit_and_cross_validate(profile, measured)
    parameters = parameters.model_copy(update={"provenance": text})
    return Calibration(profile, measured, before.evaluate(measured.configs), after, parameters)


def _check(table: ParetoTable, rows: Sequence[Row], names: Collection[str]) -> None:
    for where, row in rows:
        if row.model not in ("", table.model, *names):
            raise ProfileError(f"{where}: model: expected {table.model}, got {row.model!r}")
        if len(row.order) != table.layers.count or set(row.order) - set(table.layers.letters):
            raise ProfileError(
                f"{where}: order: expected {table.layers.count} letters of {table.layers.letters}, got {row.order!r}"
            )


def _doubtful(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows with a copy of another configuration's values: a mistake, nobody knows in which of them."""
    owners: dict[tuple[float, float | None], set[Key]] = defaultdict(set)
    for _, row in rows:
        owners[row.latency_ms, row.power_mw].add((row.order, row.freqs))
    return tuple(
        (where, row)
        for where, row in rows
        if row.power_mw is not None and len(owners[row.latency_ms, row.power_mw]) > 1
    )


def _means(rows: Sequence[Row]) -> dict[Key, tuple[float, float | None]]:
    """Latency and, where it was measured, power of each configuration: means over all frames."""
    together: dict[Key, list[MeasuredPoint]] = defaultdict(list)
    for _, row in rows:
        together[row.order, row.freqs].append(row)
    means = {}
    for key, same in together.items():
        latency_ms = np.average([row.latency_ms for row in same], weights=[row.frames or 1 for row in same])
        known = [(row.frames or 1, row.latency_ms, row.power_mw) for row in same if row.power_mw is not None]
        frames, times, powers = np.array(known).T if known else np.empty((3, 0))
        # of all the time that the frames took
        power_mw = float(np.average(powers, weights=frames * times)) if known else None
        means[key] = float(latency_ms), power_mw
    return means


def _predicted(points: Sequence[OperatingPoint], calibration: Calibration | None) -> list[OperatingPoint]:
    """Points with what the calibrated model gives; those that were measured, and what it does not do better, stay."""
    if calibration is None or not calibration.better:
        return list(points)
    orders, freqs = [point.order for point in points], [point.freqs for point in points]
    costs = calibration.model.evaluate(parse_configurations(calibration.profile, orders, freqs))
    return [
        point
        if point.cost_provenance == "measured"
        else _with_costs(
            point,
            float(costs.latency_ms[i]) if "latency" in calibration.better else point.latency_ms,
            float(costs.power_mw[i]) if "power" in calibration.better else point.power_mw,
        )
        for i, point in enumerate(points)
    ]


def _replaced(point: OperatingPoint, mean: tuple[float, float | None]) -> OperatingPoint:
    """Without a measured power the point stays a predicted one: so does its power, which follows latency little."""
    latency_ms, power_mw = mean
    if power_mw is None:
        return _with_costs(point, latency_ms, point.power_mw)
    return _with_costs(point, latency_ms, power_mw).model_copy(update={"cost_provenance": "measured"})


def _with_costs(point: OperatingPoint, latency_ms: float, power_mw: float) -> OperatingPoint:
    costs = {"latency_ms": latency_ms, "power_mw": power_mw, "energy_mj": latency_ms * power_mw / 1e3}
    return point.model_copy(update=costs)


def _dominator(point: OperatingPoint, kept: Iterable[OperatingPoint]) -> OperatingPoint:
    return next(
        other
        for other in kept
        if other.latency_ms <= point.latency_ms
        and other.power_mw <= point.power_mw
        and other.accuracy >= point.accuracy
    )
