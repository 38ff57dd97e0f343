"""Policy files, `configs/policies/*.toml`: named modes, and rules that choose one. docs/policy.md describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from piqi_runtime.config_files import CONFIGS, load_config
from piqi_runtime.policy.constraints import RELAX_ORDER, Constraints, Limit, PolicyError
from piqi_runtime.table import Objective, ParetoTable

POLICIES = CONFIGS / "policies"

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class Mode(_Strict):
    """Limits and an objective.

    - `max_accuracy_drop`: points below the float32 model; `max_slowdown`: times the latency of the table's fastest
      point. They let one policy serve every model; the absolute limits are for one model.
    - `relax`: what gives way first when no point keeps all limits; what is not named gives way last, in the usual
      order.
    - `dwell_s`: how long the mode is kept at least, instead of the policy's.
    """

    objective: Objective = "energy"
    min_accuracy: Percent | None = None
    max_accuracy_drop: Percent | None = None
    max_power_mw: Positive | None = None
    max_latency_ms: Positive | None = None
    max_slowdown: Annotated[float, Field(ge=1)] | None = None
    max_energy_mj: Positive | None = None
    relax: Annotated[tuple[Limit, ...], Field(strict=False)] = RELAX_ORDER
    dwell_s: NotNegative | None = None

    @field_validator("relax")
    @classmethod
    def _complete(cls, relax: tuple[Limit, ...]) -> tuple[Limit, ...]:
        if len(set(relax)) != len(relax):
            raise ValueError("a limit is named twice")
        return relax + tuple(limit for limit in RELAX_ORDER if limit not in relax)

    def constraints(self, table: ParetoTable) -> Constraints:
        """The limits for one table."""
        floor, ceiling = self.min_accuracy, self.max_latency_ms
        if self.max_accuracy_drop is not None:
            floor = max(floor or 0.0, table.accuracy_metric.float32 - self.max_accuracy_drop)
        if self.max_slowdown is not None:  # points are sorted by latency
            slowest_ms = self.max_slowdown * table.points[0].latency_ms
            ceiling = slowest_ms if ceiling is None else min(ceiling, slowest_ms)
        return Constraints(floor, self.max_power_mw, ceiling, self.max_energy_mj)


class Conditions(_Strict):
    """All that are given must hold. An unknown value holds nothing."""

    battery_below: Percent | None = None  # percent
    on_mains: bool | None = None
    temperature_above: float | None = None  # degrees Celsius
    power_above: NotNegative | None = None  # milliwatts
    idle_above: NotNegative | None = None  # seconds without clients

    @model_validator(mode="after")
    def _check(self) -> Conditions:
        if not self.given():
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}")
        return self

    def given(self) -> dict[str, float | bool]:
        """The conditions that there are, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class Rule(_Strict):
    """`mode` is chosen while all of `when` holds. An `urgent` rule waits for no mode's dwell."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    mode: Name
    when: Conditions
    urgent: bool = False


class Margins(_Strict):
    """How far behind its limit a value must return before a condition no longer holds."""

    battery_percent: NotNegative = 3.0
    temperature_c: NotNegative = 5.0
    power_mw: NotNegative = 300.0


class Policy(_Strict):
    """Modes, and rules in order: the first that holds chooses; where none does, `default`.

    - `dwell_s`: how long a mode is kept at least;
    - `hold_s`: how long a condition stays as it was when its sensor falls silent;
    - `hysteresis`: a point is left only for one better by this fraction (0.05: 5 %).
    """

    name: Name
    description: str = ""
    default: Name
    dwell_s: NotNegative = 10.0
    hold_s: NotNegative = 30.0
    hysteresis: Annotated[float, Field(ge=0, lt=1)] = 0.05
    margins: Margins = Margins()
    modes: Annotated[dict[Name, Mode], Field(min_length=1)]
    rules: Annotated[tuple[Rule, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Policy:
        known = f"one of {', '.join(self.modes)}"
        if self.default not in self.modes:
            raise ValueError(f"default: expected {known}, got {self.default!r}")
        names: set[str] = set()
        for i, rule in enumerate(self.rules):
            if rule.mode not in self.modes:
                raise ValueError(f"rules[{i}].mode: expected {known}, got {rule.mode!r}")
            if rule.name in names:
                raise ValueError(f"rules[{i}].name: two rules have it, got {rule.name!r}")
            names.add(rule.name)
        return self

    def mode(self, name: str) -> Mode:
        """The mode of this name. Raises PolicyError."""
        if name not in self.modes:
            raise PolicyError(f"policy {self.name}: mode: expected one of {', '.join(self.modes)}, got {name!r}")
        return self.modes[name]


def load_policy(name_or_path: str | Path = "default") -> Policy:
    """Reads a policy: a path, or the name of a file of `configs/policies`. Raises PolicyError, a line a problem."""
    return load_config(Policy, name_or_path, POLICIES, PolicyError)
