"""What a cost model is made of: costs of a layer that depend on its own state and on that of the layer before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_planner.profile import SideLayer
from piqi_planner.profile.model import Floats, Indices

#: States of layer L - 2, layer L - 1 and layer 0 (arrays that broadcast) -> ms and mJ of the output and input phases
Close = Callable[[Indices, Indices, Indices], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class CostTables:
    """L layers, S states, P processors, C indices of a host; every pair of tables is (ms, mJ).

    - `layer` [L, S, S]: of layer i in its state (last axis), given layer i - 1's; NPU: the first of its run, alone.
      Row 0 depends on layer 0's own state only.
    - `move` [L, S, S]: the transfer into layer i; row 0 is zero.
    - `tail` [L, S]: paid where an NPU run ends behind layer i.
    - `shrinking` [L, S]: what is saved of an NPU layer's cost for each other layer of its run.
    - `late` [L, C, P, P], with `left_host` [S]: a transfer from a GPU layer i - 1 into layer i, which depends on the
      host index that layer i - 2 left; None: the host index requested by layer i - 1 counts, and is in `move`.
    - `side_mj` layer -> [S, S]: energy of a side layer where it runs beside the main branch, at no time.
    - `close`: input and output phases. `close_key` [S, S]: two states of layer L - 2 (first axis) with the same key
      cost the same; None: it does not matter.
    """

    layer_count: int
    processor_of: Indices
    is_npu: npt.NDArray[np.bool_]
    layer: tuple[Floats, Floats]
    move: tuple[Floats, Floats]
    tail: tuple[Floats, Floats]
    shrinking: tuple[Floats, Floats]
    close: Close
    close_key: Indices | None = None
    late: tuple[Floats, Floats] | None = None
    left_host: Indices | None = None
    own_host: Indices | None = None
    side_layers: tuple[SideLayer, ...] = ()
    side_mj: dict[int, Floats] | None = None
