"""Costs of run configurations in bulk, by tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_planner.cost.chain import Chain, ChainBuilder
from piqi_planner.cost.tables import CostTables
from piqi_planner.profile import ConfigurationError
from piqi_planner.profile.model import Floats, Indices

#: Configurations that are worked on together: their states and one layer's tables fit the second-level cache.
BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Costs:
    """Of n run configurations: latency in ms, energy in mJ, average power in mW, each [n]."""

    latency_ms: Floats
    energy_mj: Floats

    @property
    def power_mw(self) -> Floats:
        """Energy over latency."""
        return self.energy_mj / self.latency_ms * 1e3


class CostModel:
    """Latency and energy as sums over layers, transfers, input and output (see CostTables)."""

    def __init__(self, tables: CostTables) -> None:
        self.tables = tables
        self._states = len(tables.is_npu)
        self._rules = {side.layer: side for side in tables.side_layers}
        self._pairs = (self._fold(0), self._fold(1))
        self._late = tables.late is not None and any(values.any() for values in tables.late)
        self._chains = ChainBuilder(tables)

    def evaluate(self, configs: npt.NDArray[np.integer]) -> Costs:
        """Costs of configurations given as state indices [n, layers]. Raises ConfigurationError."""
        configs = np.asarray(configs)
        if configs.ndim != 2 or configs.shape[1] != self.tables.layer_count:
            raise ConfigurationError(
                f"expected configurations of {self.tables.layer_count} layers, got an array of {configs.shape}"
            )
        latency_ms, energy_mj = np.empty((2, len(configs)))
        for begin in range(0, len(configs), BLOCK):
            block = np.ascontiguousarray(configs[begin : begin + BLOCK].T, np.intp)
            if block.min() < 0 or block.max() >= self._states:
                raise ConfigurationError(f"expected states below {self._states}, got {block.min()} to {block.max()}")
            latency_ms[begin : begin + BLOCK], energy_mj[begin : begin + BLOCK] = self._evaluate(block)
        return Costs(latency_ms, energy_mj)

    def chain(self, mask: npt.NDArray[np.bool_] | Sequence[bool], states: Indices | None = None) -> Chain:
        """All configurations with an NPU exactly on the layers of `mask` [layers], as a first-order chain.

        `states`: the state indices that may be used (default: all). Raises ConfigurationError.
        """
        return self._chains.build(np.asarray(mask, bool), states)

    def _fold(self, which: int) -> Floats:
        """[L, S * S]: layer, transfer and the tail of the NPU run that ends before; without side layers' own."""
        tables = self.tables
        pairs = tables.move[which] + tables.layer[which]
        for layer in range(tables.layer_count):
            if layer in self._rules:
                pairs[layer] = tables.move[which][layer]
            if layer and layer - 1 not in self._rules:
                pairs[layer] += tables.tail[which][layer - 1][:, None] * ends_run(tables)
        if tables.layer_count - 1 not in self._rules:
            pairs[-1] += tables.tail[which][-1]
        return pairs.reshape(tables.layer_count, -1)

    def _evaluate(self, states: Indices) -> tuple[Floats, Floats]:
        """ms and mJ of configurations [L, n]."""
        tables = self.tables
        pair = states[:-1] * self._states + states[1:]
        time_ms, energy_mj = tables.close(states[-2 if len(states) > 1 else -1], states[-1], states[0])
        ms, mj = (pairs[0, :: self._states + 1].take(states[0]) for pairs in self._pairs)
        time_ms, energy_mj = time_ms + ms, energy_mj + mj
        for layer in range(1, tables.layer_count):
            time_ms += self._pairs[0][layer].take(pair[layer - 1])
            energy_mj += self._pairs[1][layer].take(pair[layer - 1])
        beside = self._beside(states, pair, time_ms, energy_mj) if self._rules else {}
        self._add_runs(states, beside, time_ms, energy_mj)
        if self._late:
            self._add_late(states, time_ms, energy_mj)
        return time_ms, energy_mj

    def _add_runs(
        self, states: Indices, beside: dict[int, npt.NDArray[np.bool_]], time_ms: Floats, energy_mj: Floats
    ) -> None:
        """What is saved in NPU runs: for each pair of layers of a run, once what either saves."""
        if not any(values.any() for values in self.tables.shrinking):
            return
        npus = self.tables.is_npu.astype(float).take(states)
        length, run_ms, run_mj = np.zeros((3, states.shape[1]))
        for layer, npu in enumerate(npus):
            length *= npu
            for total, run, table in ((time_ms, run_ms, 0), (energy_mj, run_mj, 1)):
                own = self.tables.shrinking[table][layer].take(states[layer])
                if layer in beside:
                    own[beside[layer]] = 0
                run *= npu
                total -= run
                total -= length * own
                run += own
            length += npu
