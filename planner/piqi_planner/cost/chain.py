"""The cost of all run configurations with one mask, as a first-order chain along the layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from piqi_planner.cost.tables import Bools, CostTables
from piqi_planner.profile.model import ConfigurationError, Floats, Indices

#: Steps with more entries are not kept for other masks: they would fill the memory.
MAX_CACHED_ENTRIES = 1 << 14


@dataclass(frozen=True, eq=False)
class Chain:
    """Costs along paths of nodes; a node is a state and what the cost must remember of the layers before.

    - `nodes[i]`: the state index of each node of layer i;
    - `time[i]`, `energy[i]` for i >= 1: ms and mJ paid for layer i [nodes of layer i - 1, nodes of layer i], inf
      where no node follows another; entry 0 is empty;
    - `first_time`, `first_energy` [nodes of layer 0];
    - `close_time`, `close_energy` [nodes of layer L - 1, nodes of layer 0]: output and input phases.

    The sum along a path is what `CostModel.evaluate` gives for its states.
    """

    nodes: list[Indices]
    time: list[Floats]
    energy: list[Floats]
    first_time: Floats
    first_energy: Floats
    close_time: Floats
    close_energy: Floats


@dataclass(frozen=True, eq=False)
class _Nodes:
    """`host`: index at which the layer before left a GPU's host; `bits`: at which branch points the order changed;
    `before`: a state of the layer before (of those with the same close_key)."""

    state: Indices
    host: Indices
    bits: Indices
    before: Indices


@dataclass(frozen=True, eq=False)
class _Step:
    """Of one layer, for an NPU run of one; `saved` for each other layer of the run."""

    nodes: _Nodes
    ms: Floats
    mj: Floats
    saved_ms: Floats
    saved_mj: Floats


class ChainBuilder:
    """Builds chains; keeps the parts that masks have in common."""

    def __init__(self, tables: CostTables) -> None:
        self._tables = tables
        self._points = sorted({p for rules in tables.side_rules.values() for p, _ in rules})
        self._steps: dict[tuple[object, ...], _Step] = {}
        self._closes: dict[tuple[object, ...], tuple[Floats, Floats]] = {}

    def build(self, mask: Bools, states: Indices | None) -> Chain:
        """See `CostModel.chain`."""
        tables = self._tables
        if mask.shape != (tables.layer_count,):
            raise ConfigurationError(f"expected a mask of {tables.layer_count} layers, got an array of {mask.shape}")
        usable = np.arange(len(tables.is_npu)) if states is None else np.unique(np.asarray(states, np.intp))
        sides = usable[~tables.is_npu[usable]], usable[tables.is_npu[usable]]
        if len(np.unique(tables.processor_of[sides[1]])) > 1:
            raise ConfigurationError("a chain has one NPU: where runs end would not follow from the mask")
        for masked, side in enumerate(sides):
            if (mask == bool(masked)).any() and not len(side):
                raise ConfigurationError(f"the mask needs states {'on' if masked else 'off'} the NPU, there is none")
        name = usable.tobytes()
        others = _other_run_layers(mask)
        skipped = self._skipped(mask)
        steps: list[_Step] = []
        for layer in range(tables.layer_count):
            key = (name, layer, mask[self._history(layer) : layer + 1].tobytes(), self._mains(layer, mask))
            step = self._steps.get(key)
            if step is None:
                step = self._step(layer, mask, sides[int(mask[layer])], steps[-1].nodes if steps else None)
                if step.ms.size <= MAX_CACHED_ENTRIES:
                    self._steps[key] = step
            if others[layer]:
                count = others[layer]
                step = replace(step, ms=step.ms - count * step.saved_ms, mj=step.mj - count * step.saved_mj)
            for skip_ms, skip_mj in skipped.get(layer, ()):
                state = step.nodes.state
                step = replace(step, ms=step.ms + skip_ms[state], mj=step.mj + skip_mj[state])
            steps.append(step)
        ends = (name, mask[-3:].tobytes(), bool(mask[0]))
        close = self._closes.get(ends)
        if close is None:
            close = self._close(steps[-1].nodes, steps[0].nodes)
            if close[0].size <= MAX_CACHED_ENTRIES:
                self._closes[ends] = close
        return Chain(
            nodes=[step.nodes.state for step in steps],
            time=[np.empty((0, 0)), *(step.ms for step in steps[1:])],
            energy=[np.empty((0, 0)), *(step.mj for step in steps[1:])],
            first_time=steps[0].ms[0],
            first_energy=steps[0].mj[0],
            close_time=close[0],
            close_energy=close[1],
        )

    def _skipped(self, mask: Bools) -> dict[int, list[tuple[Floats, Floats]]]:
        """Layer -> what is loaded or unloaded there beside the chain, by its state."""
        paid: dict[int, list[tuple[Floats, Floats]]] = {}
        for skips, place, inside in ((self._tables.skip_load, 1, -1), (self._tables.skip_unload, 0, 1)):
            for skip, costs in skips.items():
                end = skip[place]
                if mask[end] and mask[end + inside] and not mask[skip[0] : skip[1] + 1].all():
                    paid.setdefault(end, []).append(costs)
        return paid

    def _carried(self, layer: int) -> list[int]:
        """Branch points before a layer that a side layer behind it looks at."""
        rules = self._tables.side_rules
        return [p for p in self._points if p < layer and any(p in dict(rules[s]) for s in rules if s > layer)]

    def _history(self, layer: int) -> int:
        """The first layer whose mask decides which nodes a layer, and the one before, have."""
        return max(0, min([layer - 2, *self._carried(layer), *self._carried(layer - 1)]))

    def _mains(self, layer: int, mask: Bools) -> tuple[bool, ...]:
        """The masks ahead that decide what a layer costs."""
        rules = self._tables.side_rules
        if layer not in rules:
            return ()
        behind = mask[layer + 1] if layer + 1 < len(mask) else False
        return (bool(behind), *(bool(mask[main]) for _, main in rules[layer]))

    def _step(self, layer: int, mask: Bools, states: Indices, before: _Nodes | None) -> _Step:
        tables = self._tables
        if before is None:
            assert tables.left_host is not None or tables.late is None
            zero = np.zeros(len(states), np.intp)
            host = zero if tables.left_host is None else tables.left_host[states]
            nodes = _Nodes(states, host, zero, states)
            both = [pairs[0][states, states][None] for pairs in tables.pairs]
            saved = [table[0][states][None] for table in tables.saved]
            return _Step(nodes, both[0], both[1], saved[0], saved[1])
        nodes, possible = self._nodes(layer, states, before)
        pair = (before.state[:, None], nodes.state)
        ms, mj = (pairs[layer][pair] for pairs in tables.pairs)
        saved_ms, saved_mj = (np.broadcast_to(table[layer][nodes.state], ms.shape) for table in tables.saved)
        if tables.late is not None and tables.late_layers[layer]:
            left = before.host[:, None], tables.processor_of[before.state][:, None], tables.processor_of[nodes.state]
            ms, mj = ms + tables.late[0][layer][left], mj + tables.late[1][layer][left]
        if layer in tables.side_rules:
            beside, own_ms, own_mj = self._side_layer(layer, mask, before, nodes)
            ms, mj = ms + own_ms, mj + own_mj
            if tables.side_free:
                saved_ms, saved_mj = np.where(beside, 0.0, saved_ms), np.where(beside, 0.0, saved_mj)
        return _Step(nodes, np.where(possible, ms, np.inf), np.where(possible, mj, np.inf), saved_ms, saved_mj)

    def _nodes(self, layer: int, states: Indices, before: _Nodes) -> tuple[_Nodes, Bools]:
        """The nodes of a layer that follow any of the layer before, and which follow which."""
        tables = self._tables
        shape = (len(before.state), len(states))
        last = layer == tables.layer_count - 1
        host, bits, key = np.zeros((3, *shape), np.intp)
        if not last and tables.late is not None and tables.left_host is not None and tables.late_layers[layer + 1]:
            leaves_late = (tables.late[0][layer + 1] != 0).any(axis=(0, 2))[tables.processor_of[states]]
            host[:, leaves_late] = tables.left_host[before.state][:, None]
        for point in self._carried(layer):
            if point == layer - 1:
                bits |= tables.processor_changes[before.state[:, None], states].astype(np.intp) << self._bit(point)
            else:
                bits |= (before.bits & (1 << self._bit(point)))[:, None]
        if last and tables.close_key is not None:
            key = tables.close_key[before.state[:, None], states]
        columns = np.broadcast_to(np.arange(len(states)), shape)
        memory = np.ravel_multi_index(
            (columns, host, bits, key), [int(a.max()) + 1 for a in (columns, host, bits, key)]
        )
        codes, where = np.unique(memory, return_index=True)
        row, column = np.divmod(where, len(states))
        nodes = _Nodes(states[column], host.ravel()[where], bits.ravel()[where], before.state[row])
        return nodes, memory[:, column] == codes

    def _bit(self, point: int) -> int:
        return self._points.index(point)

    def _side_layer(self, layer: int, mask: Bools, before: _Nodes, nodes: _Nodes) -> tuple[Bools, Floats, Floats]:
        """Whether it runs beside the main branch, and its own ms and mJ: [nodes before, nodes]."""
        tables = self._tables
        pair = (before.state[:, None], nodes.state)
        beside = np.zeros((len(before.state), len(nodes.state)), bool)
        free = np.full_like(beside, mask[layer])
        for point, main in tables.side_rules[layer]:
            if point == layer - 1:
                changed = tables.processor_changes[pair] & ~beside
            else:
                changed = (before.bits >> self._bit(point) & 1).astype(bool)[:, None] & ~beside
            free |= changed & mask[main]
            beside |= changed
        ends = layer == tables.layer_count - 1 or not mask[layer + 1]
        own = []
        for which in (0, 1):
            tail = ends * tables.tail[which][layer][nodes.state]  # of another processor: zero
            aside = tables.side[layer][which][pair]
            aside = np.where(free, 0.0, aside) if tables.side_free else aside + tail
            own.append(np.where(beside, aside, tables.layer[which][layer][pair] + tail))
        return beside, own[0], own[1]

    def _close(self, last: _Nodes, first: _Nodes) -> tuple[Floats, Floats]:
        ms, mj = self._tables.close(last.before[:, None], last.state[:, None], first.state)
        if self._tables.layer_count == 1:  # first and last are one
            apart = ~np.eye(len(first.state), dtype=bool)
            ms, mj = np.where(apart, np.inf, ms), np.where(apart, np.inf, mj)
        return ms, mj


def _other_run_layers(mask: Bools) -> Indices:
    """[L]: how many other layers the run of masked layers around each has; 0 for those that are not masked."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    others = np.zeros(len(mask), np.intp)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        others[begin:end] = end - begin - 1
    return others
