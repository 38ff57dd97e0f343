"""Why this point: which rule chose the mode, which limits excluded how many points, what would have been better."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from piqi_runtime.policy.choose import Constraints, Costs, Decision, Factors, Flags, PointChooser
from piqi_runtime.policy.config import Mode, Policy
from piqi_runtime.policy.modes import ConditionState, ModeChoice, ModeSelector
from piqi_runtime.policy.situation import Situation
from piqi_runtime.report import format_table
from piqi_runtime.table import ParetoTable

UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class ExplainedPoint:
    """A point with its corrected costs, and what excludes it (of the limits as they were kept in the end)."""

    index: int
    order: str
    freqs: str
    latency_ms: float
    power_mw: float
    energy_mj: float
    accuracy: float
    excluded_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExplainedRule:
    """A rule, its conditions as they were judged, and whether all of them hold."""

    name: str
    mode: str
    urgent: bool
    holds: bool
    conditions: tuple[ConditionState, ...]


@dataclass(frozen=True)
class Explanation:
    """A decision with all that led to it.

    - `limits`: the mode's and the client's merged; `excludes`: of each limit, and of "unavailable", how many points
      it excludes, and how many of them nothing else does;
    - `better`: excluded points with a better objective, the best first; `next`: allowed ones behind the chosen.
    """

    policy: str
    model: str
    situation: Situation
    rules: tuple[ExplainedRule, ...]
    choice: ModeChoice
    mode: Mode
    mode_limits: Constraints
    client_limits: Constraints
    limits: Constraints
    decision: Decision
    excludes: dict[str, tuple[int, int]]
    chosen: ExplainedPoint | None
    better: tuple[ExplainedPoint, ...]
    next: tuple[ExplainedPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {name: value for name, value in vars(self).items() if name != "mode"}
        return {name: value if isinstance(value, str) else _plain(value) for name, value in values.items()} | {
            "mode": self.mode.model_dump()
        }

    def to_text(self) -> str:
        """Some paragraphs for people."""
        known = {name: value for name, value in asdict(self.situation).items() if name != "now_s" and value is not None}
        lines = [
            f"{self.model} by policy {self.policy}, known: " + ", ".join(f"{k} {_short(v)}" for k, v in known.items())
        ]
        lines += ["", "rules:" if self.rules else "rules: none"]
        for rule in self.rules:
            states = ", ".join(state.text for state in rule.conditions)
            lines.append(f"  {'*' if rule.holds else '-'} {rule.name} -> {rule.mode}: {states}")
        lines += ["", f"mode {self.choice.name}: {self.choice.reason}"]
        verb = "highest" if self.mode.objective == "accuracy" else "lowest"
        lines += [f"  objective: {verb} {self.mode.objective}", f"  limits of the mode: {self.mode_limits}"]
        if self.client_limits.given():
            lines.append(f"  limits of the client: {self.client_limits}")
        counts = self.decision.counts
        lines += ["", f"points: {counts['allowed']} of {counts['points']} allowed"]
        for name, (count, alone) in self.excludes.items():
            lines.append(f"  {name} excludes {count}, {alone} of them alone")
        for name in self.decision.degraded:
            asked, got = self.limits.given()[name], self.decision.relaxed.given()[name]
            lines.append(f"  DEGRADED: no point keeps {name} {asked:g} besides what weighs more; it is now {got:.6g}")
        if self.chosen is None:
            return "\n".join([*lines, "", "no point is available"])
        kept = "the current point stays, no other is better by the hysteresis" if self.decision.kept else "the best"
        rows = [
            ("", "point", "order", "freqs", "ms", "mW", "mJ", "accuracy", "excluded by"),
            _row("chosen", self.chosen),
        ]
        rows += [_row("next", point) for point in self.next]
        rows += [_row("better", point) for point in self.better]
        return "\n".join([*lines, "", f"point {self.chosen.index}: {kept}", "", format_table(rows, left=(0, 2, 3, 8))])


def explain(
    table: ParetoTable,
    policy: Policy,
    situation: Situation,
    *,
    limits: Constraints | None = None,
    mode: str | None = None,
    selector: ModeSelector | None = None,
    latency_factor: Factors | None = None,
    power_factor: Factors | None = None,
    excluded: Flags | None = None,
    current: int | None = None,
    shown: int = 3,
) -> Explanation:
    """Decides and says why. `limits`: a client's; `mode`: instead of the rules'; `selector`: with what it remembers.

    `shown`: how many points before and behind the chosen one are listed. Raises PolicyError.
    """
    selector = selector or ModeSelector(policy)
    if mode is not None:
        selector.override(mode)
    choice = selector.select(situation)
    chosen_mode = policy.mode(choice.name)
    mode_limits, client_limits = chosen_mode.constraints(table), limits or Constraints()
    merged = mode_limits.merged(client_limits)
    chooser = PointChooser(table)
    decision = chooser.choose(
        merged,
        chosen_mode.objective,
        latency_factor=latency_factor,
        power_factor=power_factor,
        excluded=excluded,
        current=current,
        hysteresis=policy.hysteresis,
        relax=chosen_mode.relax,
    )
    costs = chooser.costs(latency_factor, power_factor)
    broken = {name: ~costs.keep(name, limit) for name, limit in merged.given().items()}
    still = {name: ~costs.keep(name, limit) for name, limit in decision.relaxed.given().items()}
    if excluded is not None and excluded.any():
        broken[UNAVAILABLE] = still[UNAVAILABLE] = excluded
    how_many = sum((flags.astype(np.int64) for flags in broken.values()), np.zeros(len(table.points), np.int64))
    excludes = {name: (int(flags.sum()), int((flags & (how_many == 1)).sum())) for name, flags in broken.items()}
    better, behind = _neighbours(costs, chosen_mode, decision, still)

    def explained(index: int) -> ExplainedPoint:
        point = table.points[index]
        latency_ms, power_mw, energy_mj, accuracy = (round(float(column[index]), 6) for column in costs)
        names = tuple(name for name, flags in still.items() if flags[index])
        return ExplainedPoint(index, point.order, point.freqs, latency_ms, power_mw, energy_mj, accuracy, names)

    rules = tuple(
        ExplainedRule(rule.name, rule.mode, rule.urgent, all(state.holds for state in states), tuple(states))
        for rule, states in zip(policy.rules, selector.states, strict=True)
    )
    return Explanation(
        policy=policy.name,
        model=table.model,
        situation=situation,
        rules=rules,
        choice=choice,
        mode=chosen_mode,
        mode_limits=mode_limits,
        client_limits=client_limits,
        limits=merged,
        decision=decision,
        excludes=excludes,
        chosen=None if decision.point is None else explained(decision.point),
        better=tuple(explained(index) for index in better[:shown]),
        next=tuple(explained(index) for index in behind[:shown]),
    )


def _neighbours(costs: Costs, mode: Mode, decision: Decision, broken: dict[str, Flags]) -> tuple[list[int], list[int]]:
    """Excluded points that are better than the chosen one, and allowed others; the best first."""
    if decision.point is None:
        return [], []
    values = -costs.accuracy if mode.objective == "accuracy" else costs.of(mode.objective)
    out = np.zeros(len(values), dtype=np.bool_)
    for flags in broken.values():
        out |= flags
    ranked = np.lexsort((costs.energy_mj, values))
    better = [int(i) for i in ranked if out[i] and values[i] < values[decision.point]]
    return better, [int(i) for i in ranked if not out[i] and i != decision.point]


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value


def _short(value: float | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"


def _row(what: str, point: ExplainedPoint) -> tuple[str, ...]:
    figures = (f"{value:.4g}" for value in (point.latency_ms, point.power_mw, point.energy_mj))
    return (
        what,
        str(point.index),
        _cut(point.order, 24),
        _cut(point.freqs, 24),
        *figures,
        f"{point.accuracy:.2f}",
        ", ".join(point.excluded_by) or "-",
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
