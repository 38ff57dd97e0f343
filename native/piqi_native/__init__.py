"""The C++ graph executor. Every array is NHWC and dense; every error derives from `Error`.

A graph (`Graph`) is cut by a run configuration (`Plan`) for a `Board`; the `GraphManager` prepares the pieces on their
backends and a `GraphExecutor` runs frames through them. The GIL is released while they run.
"""

from piqi_native._native import (
    BackendError,
    Board,
    ClosedError,
    DeviceError,
    Error,
    Governor,
    Graph,
    GraphError,
    GraphExecutor,
    GraphManager,
    Interpreter,
    Partition,
    PartitionError,
    Plan,
    PlanError,
    PowerMarker,
    Processor,
    SubGraph,
    TimeoutError,
    UnsupportedError,
    __version__,
    gpio_marker,
    null_governor,
    null_marker,
    sysfs_governor,
)
from piqi_native.backend import Backend, PreparedSubGraph

__all__ = [
    "Backend",
    "BackendError",
    "Board",
    "ClosedError",
    "DeviceError",
    "Error",
    "Governor",
    "Graph",
    "GraphError",
    "GraphExecutor",
    "GraphManager",
    "Interpreter",
    "Partition",
    "PartitionError",
    "Plan",
    "PlanError",
    "PowerMarker",
    "PreparedSubGraph",
    "Processor",
    "SubGraph",
    "TimeoutError",
    "UnsupportedError",
    "__version__",
    "gpio_marker",
    "null_governor",
    "null_marker",
    "sysfs_governor",
]
