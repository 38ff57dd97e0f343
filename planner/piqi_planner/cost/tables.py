"""What a cost model is made of: costs of a layer that depend on its own state and on that of the layer before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from piqi_planner.profile.model import Floats, Indices
from piqi_planner.profile.published import SideLayer

Bools = npt.NDArray[np.bool_]
#: States of layer L - 2, layer L - 1 and layer 0 (arrays that broadcast) -> ms and mJ of the output and input phases
Close = Callable[[Indices, Indices, Indices], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class CostTables:
    """L layers, S states, P processors, C frequency indices; every pair of tables is (ms, mJ).

    - `layer` [L, S, S]: of layer i in its state (last axis), given layer i - 1's. An NPU layer's is that of a run of
      one, with the load only where its run begins. Row 0 depends on layer 0's state alone.
    - `move` [L, S, S]: the transfer into layer i; row 0 is zero.
    - `tail` [L, S]: paid where an NPU run ends with layer i; zero for other processors.
    - `saved` [L, S]: what each other layer of its run saves an NPU layer; zero for other processors.
    - `late` [L, C, P, P], with `left_host` [S]: the transfer out of a GPU layer i - 1, which depends on the index at
      which layer i - 2 left the GPU's host. None: what layer i - 1 asked for counts, and is in `move`.
    - `side`: side layer -> [S, S] each: what stands for `layer` where it runs beside the main branch. `side_free`:
      beside it, it pays no tail, and on an NPU, or beside a main branch on one, nothing at all.
    - `skip_load`, `skip_unload`: (source layer, destination layer) -> [S] each: paid where an NPU run begins between
      the two and includes the destination, which has a second input then, by the destination's state; where one
      ends between them and includes the source, whose result leaves it too, by the source's state.
    - `close`: the output and input phases. `close_key` [S, S]: equal where it matters not in which of two states
      (first axis) layer L - 2 was; None: it never matters.
    """

    layer_count: int
    processor_of: Indices
    is_npu: Bools
    layer: tuple[Floats, Floats]
    move: tuple[Floats, Floats]
    tail: tuple[Floats, Floats]
    saved: tuple[Floats, Floats]
    close: Close
    close_key: Indices | None = None
    late: tuple[Floats, Floats] | None = None
    left_host: Indices | None = None
    side_layers: tuple[SideLayer, ...] = ()
    side: Mapping[int, tuple[Floats, Floats]] = field(default_factory=dict)
    side_free: bool = True
    skip_load: Mapping[tuple[int, int], tuple[Floats, Floats]] = field(default_factory=dict)
    skip_unload: Mapping[tuple[int, int], tuple[Floats, Floats]] = field(default_factory=dict)

    @cached_property
    def side_rules(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """Side layer -> (branch point, layer of the main branch), the first that holds counts."""
        return {side.layer: side.beside for side in self.side_layers}

    @cached_property
    def late_layers(self) -> Bools:
        """[L]: into which layers a transfer is in `late`."""
        if self.late is None:
            return np.zeros(self.layer_count, bool)
        return np.asarray((self.late[0] != 0).any(axis=(1, 2, 3)))

    @cached_property
    def processor_changes(self) -> Bools:
        """[S, S]: whether two states are on different processors."""
        return np.asarray(self.processor_of[:, None] != self.processor_of)

    @cached_property
    def pairs(self) -> tuple[Floats, Floats]:
        """[L, S, S]: all that layer i costs, with the tail of a run that layer i - 1 ends, given both states.

        Without `late`, without what side layers cost themselves; with the tail of the last layer.
        """
        return self._pairs(0), self._pairs(1)

    def whole_runs(self, configs: Indices) -> Indices:
        """Configurations [n, layers] with every layer of an NPU run in the state of its first."""
        configs = configs.copy()
        npu = self.is_npu[configs]
        for layer in range(1, self.layer_count):
            goes_on = npu[:, layer] & (self.processor_of[configs[:, layer]] == self.processor_of[configs[:, layer - 1]])
            configs[goes_on, layer] = configs[goes_on, layer - 1]
        return configs

    def _pairs(self, which: int) -> Floats:
        pairs = self.move[which] + self.layer[which]
        for layer in range(self.layer_count):
            if layer in self.side_rules:
                pairs[layer] = self.move[which][layer]
            if layer and layer - 1 not in self.side_rules:
                pairs[layer] += self.tail[which][layer - 1][:, None] * self.processor_changes
        if self.layer_count - 1 not in self.side_rules:
            pairs[-1] += self.tail[which][-1]
        return pairs
