"""The network as PiQi sees it: named tensors, operators in topological order, a layer number for each.

A `Model` is what the importer makes, the quantiser rewrites, a file stores and the executor is built from.
Operator kinds, their tensors and attributes are those of ``native/include/piqi/graph.hpp``: an attribute has
the name of the field of ``OperatorParameters`` that it fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native

Array = npt.NDArray[Any]

#: Operators that begin a layer; every other operator belongs to the layer it follows.
COMPUTE_KINDS = frozenset({"conv2d", "depthwise_conv2d", "transpose_conv2d", "fully_connected"})


@dataclass(frozen=True)
class Tensor:
    """A tensor: NHWC, dense. `data` makes it constant; `scales` (one, or one a channel) make it quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"  # float32, int8, uint8, int32
    data: Array | None = None
    scales: tuple[float, ...] = ()
    zero_point: int = 0

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Operator:
    """One node: `inputs` and `outputs` name tensors."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    layer: int = 0


@dataclass(frozen=True)
class Model:
    """A whole network. `operators` are in topological order and their layers never fall along an edge."""

    name: str
    tensors: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def layer_count(self) -> int:
        return 1 + max((op.layer for op in self.operators), default=-1)

    def with_layers(self, layers: Iterable[int]) -> Model:
        """The same network, operator i in layer ``layers[i]``."""
        operators = tuple(replace(op, layer=n) for op, n in zip(self.operators, layers, strict=True))
        return replace(self, operators=operators)

    def producers(self) -> dict[str, Operator]:
        """Tensor name -> the operator that makes it."""
        return {name: op for op in self.operators for name in op.outputs}

    def to_graph(self) -> piqi_native.Graph:
        """The native graph; constants are not copied. Raises `piqi_native.GraphError`."""
        graph = piqi_native.Graph(self.name)
        ids = {
            t.name: graph.add_tensor(t.name, t.shape, t.dtype, t.data, list(t.scales), t.zero_point)
            for t in self.tensors.values()
        }
        for op in self.operators:
            graph.add_operator(
                op.kind,
                op.name,
                [ids[name] for name in op.inputs],
                [ids[name] for name in op.outputs],
                op.layer,
                **op.attributes,
            )
        for name in self.inputs:
            graph.add_input(ids[name])
        for name in self.outputs:
            graph.add_output(ids[name])
        graph.finish()
        return graph
