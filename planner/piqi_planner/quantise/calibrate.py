"""Calibration: what the float network's tensors look like on real inputs. Streams: one frame at a time in
memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_planner.quantise.errors import CalibrationError
from piqi_planner.quantise.observers import OBSERVERS, ObserverName, observed_range
from piqi_planner.quantise.operators import compute_operators
from piqi_planner.quantise.statistics import ChannelStatistics, Floats
from piqi_runtime.container import content_hash
from piqi_runtime.model import Model, Operator

Array = npt.NDArray[Any]
Frame = Mapping[str, Array]


@dataclass(frozen=True)
class Calibration:
    """Statistics of a float model's tensors, and the rule that turns them into ranges.

    `statistics`: by tensor name. `tap_means`: by output tensor of a compute operator, the mean input value
    that each of its weights meets, padding included: [KH, KW, C], fully connected [I].
    """

    model_hash: str
    frames: int
    observer: ObserverName
    percentile: float
    statistics: Mapping[str, ChannelStatistics]
    tap_means: Mapping[str, Floats]

    def range_of(self, tensor: str) -> tuple[float, float]:
        """The real values that `tensor` should be able to take: low <= 0 <= high."""
        return observed_range(self.statistics[tensor], self.observer, self.percentile)

    def check(self, model: Model) -> None:
        """Raises CalibrationError unless it is `model` that was calibrated."""
        if content_hash(model, layers=False) != self.model_hash:
            raise CalibrationError(f"the calibration is of another model than '{model.name}'")

    def rescaled(self, model: Model, scales: Mapping[str, Floats], source: Model) -> Calibration:
        """That of `model`, which is `source` with channel c of tensor t divided by ``scales[t][c]``."""
        statistics = {
            name: known.rescaled(scales[name]) if name in scales else known for name, known in self.statistics.items()
        }
        inputs = {op.outputs[0]: op.inputs[0] for op in compute_operators(source)}
        tap_means = {
            name: means / scales[inputs[name]] if inputs[name] in scales else means
            for name, means in self.tap_means.items()
        }
        return replace(self, model_hash=content_hash(model, layers=False), statistics=statistics, tap_means=tap_means)


def calibrate(
    model: Model,
    batches: Iterable[Array | Frame],
    observer: ObserverName = "minmax",
    percentile: float = 99.99,
    threads: int = 1,
) -> Calibration:
    """Runs `model` on `batches` and keeps the statistics of all its tensors.

    A batch is an array [N, ...] for the model's only input, or a mapping from input name to array; N must be
    a multiple of the model's own batch. `percentile`: of the values of a tensor, inside of its range at
    either end, for `observer="percentile"`. Raises CalibrationError for no frames, wrong shapes and values
    that are not finite.
    """
    if observer not in OBSERVERS:
        raise CalibrationError(f"observer must be one of {', '.join(OBSERVERS)}, got {observer!r}")
    if not 50 < percentile <= 100:
        raise CalibrationError(f"percentile must be in (50, 100], got {percentile}")
    interpreter = piqi_native.Interpreter(model.to_graph(), threads, keep_all=True)
    names = [*model.inputs, *(name for op in model.operators for name in op.outputs)]
    compute = compute_operators(model)
    statistics: dict[str, ChannelStatistics] = {}
    tap_sums: dict[str, Floats] = {}
    frames = 0
    for frame in _frames(model, batches):
        interpreter.run(frame)
        for name in names:
            values = frame[name] if name in frame else interpreter.activation(name)
            if name not in statistics:
                channels = values.shape[-1] if values.ndim > 1 else 1
                statistics[name] = ChannelStatistics.empty(channels, observer != "minmax")
            try:
                statistics[name].update(values)
            except ValueError as error:
                raise CalibrationError(f"tensor '{name}' of '{model.name}': {error}") from error
        for op in compute:
            values = frame[op.inputs[0]] if op.inputs[0] in frame else interpreter.activation(op.inputs[0])
            tap_sums[op.outputs[0]] = tap_sums.get(op.outputs[0], 0.0) + _tap_means(model, op, values)
        frames += 1
    if not frames:
        raise CalibrationError("there is no frame to calibrate with")
    tap_means = {name: total / frames for name, total in tap_sums.items()}
    return Calibration(content_hash(model, layers=False), frames, observer, percentile, statistics, tap_means)


def _frames(model: Model, batches: Iterable[Array | Frame]) -> Iterable[dict[str, Array]]:
    for batch in batches:
        if not isinstance(batch, Mapping):
            if len(model.inputs) != 1:
                raise CalibrationError(
                    f"'{model.name}' has the inputs {', '.join(model.inputs)}: name each one's array"
                )
            batch = {model.inputs[0]: batch}
        steps = set()
        arrays: dict[str, Array] = {}
        for name in model.inputs:
            shape = model.tensors[name].shape
            if name not in batch:
                raise CalibrationError(f"input '{name}' is missing from a calibration batch")
            array = np.ascontiguousarray(batch[name], np.float32)
            if array.ndim != len(shape) or array.shape[1:] != shape[1:] or len(array) % shape[0]:
                raise CalibrationError(f"input '{name}' has shape {shape}, got a batch of {array.shape}")
            arrays[name] = array
            steps.add(len(array) // shape[0])
        if len(steps) != 1:
            raise CalibrationError("the inputs of a calibration batch differ in their number of frames")
        for i in range(steps.pop()):
            sizes = {name: model.tensors[name].shape[0] for name in arrays}
            yield {name: array[i * sizes[name] : (i + 1) * sizes[name]] for name, array in arrays.items()}


def _tap_means(model: Model, op: Operator, values: Array) -> Floats:
    """The mean over output positions of the input value that each weight of `op` meets."""
    shape = model.tensors[op.inputs[1]].shape
    if op.kind == "fully_connected":
        return np.asarray(values.reshape(-1, shape[-1]).mean(axis=0, dtype=np.float64))
    mean = values.mean(axis=0, dtype=np.float64)  # [H, W, C]
    _, rows, columns, _ = model.tensors[op.outputs[0]].shape
    if op.kind == "transpose_conv2d":  # each input value meets each weight once, but for a cropped border
        means = mean.sum(axis=(0, 1)) / (rows * columns)
        return np.broadcast_to(means, (*shape[1:3], len(means))).copy()
    a = op.attributes
    pads = [(int(a.get(f"pad_{i}", 0)), int(a.get(f"pad_{j}", 0))) for i, j in (("top", "bottom"), ("left", "right"))]
    mean = np.pad(mean, [*pads, (0, 0)])
    (sy, sx), (dy, dx) = (
        (int(a.get(f"{name}_height", 1)), int(a.get(f"{name}_width", 1))) for name in ("stride", "dilation")
    )
    means = np.empty((shape[1], shape[2], mean.shape[-1]))
    for y in range(shape[1]):
        for x in range(shape[2]):
            window = mean[y * dy :: sy, x * dx :: sx][:rows, :columns]
            means[y, x] = window.mean(axis=(0, 1))
    return means
