"""Fronts: what a search returns, which of its points count, and how good it is as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Configs = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Front:
    """Run configurations [n, layers] (state indices) with their predicted costs and accuracies (percent), each [n]."""

    configs: Configs
    latency_ms: Floats
    power_mw: Floats
    energy_mj: Floats
    accuracy: Floats

    def __len__(self) -> int:
        return len(self.configs)

    def take(self, chosen: npt.NDArray[np.intp]) -> Front:
        """The points at these places."""
        return Front(*(values[chosen] for values in vars(self).values()))


def join(fronts: list[Front]) -> Front:
    """All points of several fronts, dominated ones and all; there is at least one front."""
    return Front(*(np.concatenate(values) for values in zip(*(vars(front).values() for front in fronts), strict=True)))


def non_dominated(latency_ms: Floats, power_mw: Floats) -> npt.NDArray[np.intp]:
    """Places of the points that no other one beats in latency and power, by rising latency; of equals the first."""
    order = np.lexsort((power_mw, latency_ms))
    best = np.minimum.accumulate(power_mw[order])
    return order[np.concatenate([[True], best[1:] < best[:-1]])] if len(order) else order


def non_dominated_3d(latency_ms: Floats, power_mw: Floats, accuracy: Floats) -> npt.NDArray[np.intp]:
    """Places of the points that no other one beats in latency, power and accuracy together, by rising latency."""
    kept: list[int] = []
    order = np.lexsort((power_mw, latency_ms, -accuracy))  # a point can only be beaten by an earlier one
    front_latency, front_power = np.empty(0), np.empty(0)
    for place in order:
        # The points kept so far are at least as accurate; their front in latency and power decides.
        at = np.searchsorted(front_latency, latency_ms[place], side="right")
        if at and front_power[at - 1] <= power_mw[place]:
            continue
        kept.append(int(place))
        behind = at + np.searchsorted(-front_power[at:], -power_mw[place], side="right")
        front_latency = np.concatenate([front_latency[:at], latency_ms[[place]], front_latency[behind:]])
        front_power = np.concatenate([front_power[:at], power_mw[[place]], front_power[behind:]])
    return np.array(sorted(kept, key=lambda place: (latency_ms[place], power_mw[place])), np.intp)


def hypervolume(latency_ms: Floats, power_mw: Floats, reference: tuple[float, float]) -> float:
    """What the points dominate below `reference` (latency in ms, power in mW), in seconds x watts."""
    inside = (latency_ms < reference[0]) & (power_mw < reference[1])
    latency_ms, power_mw = latency_ms[inside], power_mw[inside]
    chosen = non_dominated(latency_ms, power_mw)
    edges = np.append(latency_ms[chosen], reference[0])
    return float(np.sum(np.diff(edges) * (reference[1] - power_mw[chosen])) / 1e6)
