"""Costs of run configurations in bulk, by tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_planner.cost.chain import Chain, ChainBuilder
from piqi_planner.cost.tables import Bools, CostTables
from piqi_planner.profile.model import ConfigurationError, Floats, Indices

#: Configurations that are worked on together: what is known of them and one layer's tables stay in the cache.
BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Costs:
    """Of n run configurations: latency in ms and energy in mJ, each [n]."""

    latency_ms: Floats
    energy_mj: Floats

    @property
    def power_mw(self) -> Floats:
        """Average power in mW [n]: energy over latency."""
        return self.energy_mj / self.latency_ms * 1e3

    def take(self, rows: npt.NDArray[Any]) -> Costs:
        """Of some of the run configurations."""
        return Costs(self.latency_ms[rows], self.energy_mj[rows])


class CostModel:
    """Latency and energy as sums over layers, transfers, the input and the output phase; see `CostTables`.

    `whole_runs`: a search is to give all layers of an NPU run one state, since the executor asks for its host's
    frequency once for each run.
    """

    def __init__(self, tables: CostTables, whole_runs: bool = False) -> None:
        self.tables = tables
        self.whole_runs = whole_runs
        self._state_count = len(tables.is_npu)
        self._pairs = [pairs.reshape(tables.layer_count, -1) for pairs in tables.pairs]
        self._saves = any(values.any() for values in tables.saved)
        self._chains = ChainBuilder(tables)

    def evaluate(self, configs: npt.NDArray[np.integer]) -> Costs:
        """Costs of run configurations, state indices [n, layers]. Raises ConfigurationError."""
        configs = np.asarray(configs)
        if configs.ndim != 2 or configs.shape[1] != self.tables.layer_count:
            raise ConfigurationError(f"expected configurations [n, {self.tables.layer_count}], got {configs.shape}")
        latency_ms, energy_mj = np.empty((2, len(configs)))
        for begin in range(0, len(configs), BLOCK):
            block = np.ascontiguousarray(configs[begin : begin + BLOCK].T, np.intp)
            if block.min() < 0 or block.max() >= self._state_count:
                raise ConfigurationError(
                    f"expected states from 0 to {self._state_count - 1}, got {block.min()} to {block.max()}"
                )
            latency_ms[begin : begin + BLOCK], energy_mj[begin : begin + BLOCK] = self._evaluate(block)
        return Costs(latency_ms, energy_mj)

    def chain(self, mask: Bools | Sequence[bool], states: Indices | None = None) -> Chain:
        """All configurations with an NPU on exactly the layers of `mask` [layers], as a first-order chain.

        `states`: indices of the states that may be used (default: all). Raises ConfigurationError.
        """
        return self._chains.build(np.asarray(mask, bool), states)

    def _evaluate(self, states: Indices) -> tuple[Floats, Floats]:
        """ms and mJ of configurations [L, n]."""
        tables = self.tables
        ms, mj = (pairs[0, :: self._state_count + 1].take(states[0]) for pairs in self._pairs)
        close_ms, close_mj = tables.close(states[-2 if len(states) > 1 else -1], states[-1], states[0])
        ms, mj = ms + close_ms, mj + close_mj
        pair = states[:-1] * self._state_count + states[1:]
        for layer in range(1, tables.layer_count):
            ms += self._pairs[0][layer].take(pair[layer - 1])
            mj += self._pairs[1][layer].take(pair[layer - 1])
        processors = tables.processor_of.take(states)
        beside = {layer: self._add_side_layer(layer, states, processors, ms, mj) for layer in tables.side_rules}
        if self._saves:
            self._subtract_saved(states, processors, beside if tables.side_free else {}, ms, mj)
        if tables.skip_load or tables.skip_unload:
            self._add_skips(states, processors, ms, mj)
        if tables.late_layers.any():
            self._add_late(states, processors, ms, mj)
        return ms, mj

    def _add_side_layer(self, layer: int, states: Indices, processors: Indices, ms: Floats, mj: Floats) -> Bools:
        """Adds a side layer's own cost; gives where it runs beside the main branch [n]."""
        tables = self.tables
        beside = np.zeros(len(ms), bool)
        npu = tables.is_npu.take(states[layer])
        free = npu.copy()
        for point, main in tables.side_rules[layer]:
            changed = (processors[point] != processors[point + 1]) & ~beside
            free |= changed & tables.is_npu.take(states[main])
            beside |= changed
        pair = (states[layer - 1], states[layer])
        ends = npu if layer == tables.layer_count - 1 else npu & (processors[layer] != processors[layer + 1])
        for total, which in ((ms, 0), (mj, 1)):
            tail = np.where(ends, tables.tail[which][layer].take(states[layer]), 0.0)
            aside = tables.side[layer][which][pair]
            aside = np.where(free, 0.0, aside) if tables.side_free else aside + tail
            total += np.where(beside, aside, tables.layer[which][layer][pair] + tail)
        return beside

    def _add_skips(self, states: Indices, processors: Indices, ms: Floats, mj: Floats) -> None:
        """What is loaded and unloaded beside the chain, at the borders of NPU runs."""
        npus = self.tables.is_npu.take(states)
        joins = npus[1:] & (processors[1:] == processors[:-1])  # layer i + 1 continues layer i's run
        for skips, place, inside in ((self.tables.skip_load, 1, -1), (self.tables.skip_unload, 0, 0)):
            for skip, costs in skips.items():
                around = joins[skip[0] : skip[1]]
                paid = around[inside] & ~around.all(axis=0)
                state = states[skip[place]][paid]
                ms[paid] += costs[0].take(state)
                mj[paid] += costs[1].take(state)

    def _subtract_saved(
        self, states: Indices, processors: Indices, beside: dict[int, Bools], ms: Floats, mj: Floats
    ) -> None:
        """What NPU runs save: for each layer, once for each other layer of its run."""
        joins = (processors[1:] == processors[:-1]).astype(np.int16)
        others = np.zeros(states.shape, np.int16)  # before it in its run, and then behind it too
        behind = np.zeros(len(ms), np.int16)
        for layer, join in enumerate(joins, start=1):
            np.multiply(others[layer - 1] + np.int16(1), join, out=others[layer])
        for layer in range(len(joins) - 1, -1, -1):
            behind = (behind + np.int16(1)) * joins[layer]
            others[layer] += behind
        index = states + np.arange(len(states))[:, None] * self._state_count
        for total, table in zip((ms, mj), self.tables.saved, strict=True):
            own = table.ravel().take(index)
            for layer, where in beside.items():
                own[layer, where] = 0
            total -= np.einsum("ln,ln->n", own, others)

    def _add_late(self, states: Indices, processors: Indices, ms: Floats, mj: Floats) -> None:
        assert self.tables.late is not None and self.tables.left_host is not None
        count = self.tables.late[0].shape[-1]
        ends = processors[:-1] * count + processors[1:]
        left = self.tables.left_host.take(states) * count**2
        for layer in np.flatnonzero(self.tables.late_layers):
            index = left[max(layer - 2, 0)] + ends[layer - 1]
            ms += self.tables.late[0][layer].take(index)
            mj += self.tables.late[1][layer].take(index)
