"""What a backend written in Python offers, to be named in `GraphManager(backends=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from piqi_native._native import SubGraph

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class PreparedSubGraph(Protocol):
    """A sub-graph on a processor. Whatever its methods raise becomes a `BackendError`."""

    def run(self, inputs: dict[str, Floats]) -> Mapping[str, Array]:
        """One frame: float32 NHWC by tensor name. The input arrays are only valid until it returns."""

    def close(self) -> None:
        """Frees what it holds."""


class Backend(Protocol):
    """Prepares the sub-graphs of a kind of processor."""

    def prepare(self, sub_graph: SubGraph, input_names: list[str], output_names: list[str]) -> PreparedSubGraph:
        """Makes a sub-graph ready to run."""
