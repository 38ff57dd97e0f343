"""Which mode holds: the policy's rules, with hysteresis and a minimum dwell, on a monotonic clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from piqi_runtime.policy.config import Policy
from piqi_runtime.policy.situation import Situation

#: Of each condition: the situation's field, its sense (-1 below, +1 above, 0 equal), its unit.
CONDITIONS = {
    "battery_below": ("battery_percent", -1, "%"),
    "on_mains": ("on_mains", 0, ""),
    "temperature_above": ("temperature_c", 1, "°C"),
    "power_above": ("power_mw", 1, "mW"),
    "idle_above": ("idle_s", 1, "s"),
}


@dataclass(frozen=True)
class ConditionState:
    """One condition as it was last judged. `held`: only hysteresis, or a silent sensor, keeps it."""

    name: str
    holds: bool
    held: bool
    text: str


@dataclass(frozen=True)
class ModeChoice:
    """A mode, the rule that chose it (None: the default, or by hand) and why, in words.

    `changed`: it is another than the time before. `waiting`: the mode that the rules ask for but dwell keeps out.
    """

    name: str
    rule: str | None
    reason: str
    changed: bool
    waiting: str | None = None


class ModeSelector:
    """Chooses a mode each time it is shown a situation. The same situations give the same modes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._margins = {**policy.margins.model_dump(), "on_mains": 0.0, "idle_s": 0.0}
        self._states: list[dict[str, ConditionState]] = [{} for _ in policy.rules]
        self._known_s: dict[str, float] = {}  # field -> when it was last known
        self._override: tuple[str, float] | None = None
        self._now_s = -math.inf
        self._since_s = -math.inf
        self._mode: str | None = None
        self._rule: str | None = None  # that chose the mode

    def override(self, mode: str | None, until_s: float | None = None) -> None:
        """Keeps `mode` until `until_s` (None: for good), whatever the rules say; None goes back to the rules.

        Raises PolicyError for a mode that the policy does not have.
        """
        if mode is None:
            if self._override is not None:
                self._since_s = -math.inf  # what was set by hand has no dwell
            self._override = None
        else:
            self.policy.mode(mode)
            self._override = mode, math.inf if until_s is None else until_s

    @property
    def overridden(self) -> tuple[str, float | None] | None:
        """The mode set by hand and until when (None: for good), or None."""
        if self._override is None:
            return None
        mode, until_s = self._override
        return mode, until_s if math.isfinite(until_s) else None

    @property
    def states(self) -> list[list[ConditionState]]:
        """For each rule its conditions, as `select` last judged them."""
        return [list(states.values()) for states in self._states]

    def select(self, situation: Situation) -> ModeChoice:
        """The mode for this situation. A clock that goes backwards stands still."""
        self._now_s = now_s = max(self._now_s, situation.now_s)
        for field, _, _ in CONDITIONS.values():
            if getattr(situation, field) is not None:
                self._known_s[field] = now_s
        wanted, rule, reason, urgent = self.policy.default, None, "no rule holds: the default", False
        found = False
        for i, candidate in enumerate(self.policy.rules):
            self._judge(i, situation)
            states = self._states[i].values()
            if not found and all(state.holds for state in states):
                found, wanted, rule, urgent = True, candidate.mode, candidate.name, candidate.urgent
                reason = f"rule '{rule}': " + ", ".join(state.text for state in states)
        if self._override is not None and now_s >= self._override[1]:
            self.override(None)
        if self._override is not None:
            mode, until_s = self._override
            left = f" for {until_s - now_s:.0f} s more" if math.isfinite(until_s) else ""
            return self._enter(mode, None, f"set by hand{left}")
        stay_s = self._dwell_s() - (now_s - self._since_s)
        if self._mode is not None and wanted != self._mode and stay_s > 0 and not urgent:
            return ModeChoice(self._mode, self._rule, f"dwell for {stay_s:.3g} s more, then {reason}", False, wanted)
        return self._enter(wanted, rule, reason)

    def _dwell_s(self) -> float:
        own = self.policy.modes[self._mode].dwell_s if self._mode is not None else None
        return self.policy.dwell_s if own is None else own

    def _enter(self, mode: str, rule: str | None, reason: str) -> ModeChoice:
        changed = mode != self._mode
        if changed:
            self._since_s = self._now_s
        self._mode, self._rule = mode, rule
        return ModeChoice(mode, rule, reason, changed)

    def _judge(self, rule: int, situation: Situation) -> None:
        states = self._states[rule]
        for name, limit in self.policy.rules[rule].when.given().items():
            before = name in states and states[name].holds
            states[name] = self._condition(name, limit, before, situation)

    def _condition(self, name: str, limit: float | bool, before: bool, situation: Situation) -> ConditionState:
        field, sense, unit = CONDITIONS[name]
        value = getattr(situation, field)
        what = "mains" if name == "on_mains" else name.split("_")[0]
        if value is None:
            silent_s = self._now_s - self._known_s.get(field, -math.inf)
            holds = before and silent_s <= self.policy.hold_s
            text = f"{what} unknown" + (f" for {silent_s:.0f} s, it held before" if holds else "")
            return ConditionState(name, holds, holds, text)
        if sense == 0:
            return ConditionState(name, value == limit, False, "on mains" if value else "not on mains")
        word = "below" if sense < 0 else "above"
        holds = sense * (value - limit) > 0
        end = limit - sense * self._margins[field]
        held = not holds and before and sense * (value - end) > 0
        if held:
            text = f"{what} {value:g} {unit}, was {word} {limit:g} and is held until {end:g}"
        else:
            text = f"{what} {value:g} {unit} {'is' if holds else 'is not'} {word} {limit:g}"
        return ConditionState(name, holds or held, held, text)
