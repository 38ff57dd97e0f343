"""Limits that a point must keep, and in which order they give way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from piqi_runtime.config_files import ConfigError

Limit = Literal["max_energy_mj", "max_latency_ms", "max_power_mw", "min_accuracy"]
#: What gives way first when no point keeps all limits. Accuracy, which applications rely on, gives way last.
RELAX_ORDER: tuple[Limit, ...] = get_args(Limit)
UNITS = {"max_energy_mj": "mJ", "max_latency_ms": "ms", "max_power_mw": "mW", "min_accuracy": "%"}


class PolicyError(ConfigError):
    """A policy, a limit or a trace that is missing or wrong; the message names the file, the key and the value."""


@dataclass(frozen=True)
class Constraints:
    """Limits of one frame; None is none. Raises PolicyError for one that no point could have."""

    min_accuracy: float | None = None
    max_power_mw: float | None = None
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if name == "min_accuracy":
                if not 0 <= value <= 100:
                    raise PolicyError(f"min_accuracy: expected 0 to 100 %, got {value!r}")
            elif not (value > 0 and math.isfinite(value)):
                raise PolicyError(f"{name}: expected more than 0 {UNITS[name]}, got {value!r}")

    def given(self) -> dict[str, float]:
        """The limits that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def merged(self, other: Constraints) -> Constraints:
        """The stricter of both, limit by limit."""
        limits = self.given()
        for name, value in other.given().items():
            stricter = max if name == "min_accuracy" else min
            limits[name] = stricter(limits.get(name, value), value)
        return Constraints(**limits)

    def __str__(self) -> str:
        texts = [
            f"{name.split('_')[1]} {'at least' if name == 'min_accuracy' else 'at most'} {value:g} {UNITS[name]}"
            for name, value in self.given().items()
        ]
        return ", ".join(texts) or "none"
