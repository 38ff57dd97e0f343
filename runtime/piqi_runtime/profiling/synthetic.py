"""A network of two layers with one tensor between them, to see how a transfer follows the frequencies."""

from __future__ import annotations

import numpy as np

from piqi_runtime.model import Model, Operator, Tensor

SHAPE = (1, 128, 128, 16)  # 1 MiB


def synthetic_network() -> Model:
    """Two 1x1 convolutions; what crosses between them has `SHAPE`, float32."""
    channels = SHAPE[3]
    weights = np.eye(channels, dtype=np.float32).reshape(channels, 1, 1, channels)
    tensors = {name: Tensor(name, SHAPE) for name in ("x", "y", "z")}
    tensors["weights"] = Tensor("weights", weights.shape, data=weights)
    operators = tuple(
        Operator("conv2d", f"layer{layer}", (source, "weights"), (target,), {}, layer)
        for layer, (source, target) in enumerate((("x", "y"), ("y", "z")))
    )
    return Model("synthetic", tensors, operators, ("x",), ("z",))
