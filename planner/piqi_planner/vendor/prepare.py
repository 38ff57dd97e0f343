"""Prepares partitions for a vendor's NPU: converted, run on the vendor's simulator, compared with what we plan on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import piqi_native
from piqi_planner.quantise.partition import cut
from piqi_planner.vendor.errors import VendorError
from piqi_planner.vendor.onnx_writer import from_onnx_layout, onnx_name, onnx_shape, to_onnx_layout, write_onnx
from piqi_planner.vendor.rknn_reports import LayerCycles, LayerError
from piqi_planner.vendor.toolkit import TIMEOUT_S, Conversion, Method, convert, find_python, find_target
from piqi_runtime.container import content_hash, write_atomically
from piqi_runtime.model import Array, Model, Tensor
from piqi_runtime.partition import Partition

INSPECTED_FRAMES = 4


@dataclass(frozen=True)
class Agreement:
    """How near two outputs are over all inspected frames. `max_error`: in the output's own unit."""

    cosine: float
    max_error: float

    @classmethod
    def of(cls, got: Array, expected: Array) -> Agreement:
        """Of two arrays of one shape."""
        a, b = (np.asarray(array, np.float64).ravel() for array in (got, expected))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norms if norms else float(np.array_equal(a, b))
        return cls(cosine, float(np.abs(a - b).max(initial=0.0)))


@dataclass(frozen=True)
class OutputReport:
    """One output of a range. `span`: largest minus smallest float value, to judge errors by.

    `vendor_name`, `vendor_shape`: what it is in the vendor's form.
    """

    name: str
    vendor_name: str
    shape: tuple[int, ...]  # NHWC
    vendor_shape: tuple[int, ...]
    span: float
    simulator_to_emulated: Agreement
    simulator_to_float: Agreement
    emulated_to_float: Agreement


@dataclass(frozen=True)
class PreparedPartition:
    """A partition in the vendor's form, and what the vendor's toolkit says of it.

    `file`: the compiled partition; `onnx`: what it was compiled from; `log`: all that the toolkit printed;
    `frames`: how many quantised it; `inspected`: how many were compared; `inputs`: our name -> the vendor's, in the
    order of both.
    """

    first_layer: int
    last_layer: int
    checksum: str
    target: str
    toolkit: str
    file: Path
    onnx: Path
    log: Path
    frames: int
    inspected: int
    inputs: dict[str, str]
    outputs: tuple[OutputReport, ...]
    cycles: tuple[LayerCycles, ...]
    layer_errors: tuple[LayerError, ...]

    @property
    def total_cycles(self) -> int:
        """The compiler's estimate for the whole range; 0 where it gives none."""
        return sum(layer.total_cycles for layer in self.cycles)

    def to_json(self) -> dict[str, Any]:
        """The report; files by their names."""
        values = asdict(self)
        values.update({key: getattr(self, key).name for key in ("file", "onnx", "log")})
        return values


def prepare_partitions(
    model: Model,
    partitions: Sequence[Partition],
    frames: Mapping[str, Array],
    target: str,
    folder: str | os.PathLike[str],
    inspected: int = INSPECTED_FRAMES,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[PreparedPartition]:
    """Prepares each of `partitions` of the float network `model` for the platform `target`, one after the other.

    `frames`: inputs of the whole network, [frames, ...] each; the vendor's toolkit quantises by them, since it cannot
    be given our scales. Of each partition `<first>-<last>-<checksum>` gets its files in `folder`: `.rknn`, `.onnx`,
    `.log`. Raises VendorError.
    """
    source_hash = content_hash(model)
    for partition in partitions:
        if partition.source_hash != source_hash:
            raise VendorError(
                f"partition {partition.first_layer}-{partition.last_layer}: source_hash: "
                f"expected {source_hash} of '{model.name}', got {partition.source_hash}"
            )
    python = find_python(find_target(target))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name for partition in partitions for name in (*partition.model.inputs, *partition.model.outputs)}
    activations = run_frames(model, frames, wanted)
    for partition in partitions:
        yield _prepare(model, partition, activations, target, folder, inspected, timeout_s, python)


def run_frames(model: Model, frames: Mapping[str, Array], wanted: set[str]) -> dict[str, list[Array]]:
    """The tensors `wanted` of the float network, for each frame. Raises VendorError for frames that do not fit."""
    if set(frames) != set(model.inputs):
        raise VendorError(f"frames: expected inputs {', '.join(model.inputs)}, got {', '.join(frames) or 'none'}")
    counts = {len(array) for array in frames.values()}
    if len(counts) != 1 or not min(counts):
        raise VendorError(f"frames: expected as many of each input, at least one, got {sorted(counts)}")
    for name, array in frames.items():
        expected = model.tensors[name].shape
        if expected[:1] != (1,) or array.shape[1:] != expected[1:]:
            raise VendorError(f"frames: '{name}': expected [frames, ...] of {expected}, got {array.shape}")
    interpreter = piqi_native.Interpreter(model.to_graph(), threads=1, keep_all=True)
    values: dict[str, list[Array]] = {name: [] for name in wanted}
    for i in range(min(counts)):
        inputs = {name: np.ascontiguousarray(array[i : i + 1], np.float32) for name, array in frames.items()}
        interpreter.run(inputs)
        for name, kept in values.items():
            kept.append(inputs[name] if name in inputs else interpreter.activation(name))
    return values


def emulate(partition: Partition, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the emulated NPU makes of float inputs, as floats."""
    tensors = partition.model.tensors
    interpreter = piqi_native.Interpreter(partition.model.to_graph(), threads=1)
    outputs = interpreter.run({name: _store(tensors[name], inputs[name]) for name in partition.model.inputs})
    return {name: _real(tensors[name], np.asarray(outputs[name])) for name in partition.model.outputs}


def _prepare(
    model: Model,
    partition: Partition,
    activations: Mapping[str, Sequence[Array]],
    target: str,
    folder: Path,
    inspected: int,
    timeout_s: float,
    python: Path,
) -> PreparedPartition:
    first, last = partition.first_layer, partition.last_layer
    part = cut(model, first, last)
    stem = folder / f"{first}-{last}-{partition.checksum[:12]}"
    onnx, file, log = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("onnx", "rknn", "log"))
    write_onnx(part, onnx, find_target(target).opset)
    count = len(next(iter(activations.values())))
    inspected = min(inspected, count)
    frames = [[to_onnx_layout(activations[name][i]) for name in part.inputs] for i in range(count)]
    with tempfile.TemporaryDirectory(prefix="piqi-vendor-") as scratch:
        made = Path(scratch) / file.name
        method: Method = "channel" if partition.scheme == "per_channel" else "layer"
        done = convert(
            target, onnx, made, frames, log, Path(scratch), method, inspected, timeout_s=timeout_s, python=python
        )
        write_atomically(file, [made.read_bytes()])
    return PreparedPartition(
        first,
        last,
        partition.checksum,
        target,
        f"{find_target(target).name} {done.toolkit_version}",
        file,
        onnx,
        log,
        count,
        inspected,
        {name: onnx_name(name) for name in part.inputs},
        _compare(part, partition, activations, done, inspected),
        done.cycles,
        done.layer_errors,
    )


def _compare(
    part: Model,
    partition: Partition,
    activations: Mapping[str, Sequence[Array]],
    done: Conversion,
    inspected: int,
) -> tuple[OutputReport, ...]:
    emulated = [emulate(partition, {name: activations[name][i] for name in part.inputs}) for i in range(inspected)]
    reports = []
    for place, name in enumerate(part.outputs):
        shape = part.tensors[name].shape
        simulated = np.stack([_as_ours(outputs, place, name, shape) for outputs in done.outputs])
        exact = np.stack(activations[name][:inspected])
        ours = np.stack([outputs[name] for outputs in emulated])
        reports.append(
            OutputReport(
                name,
                onnx_name(name),
                shape,
                onnx_shape(shape),
                float(np.ptp(exact)),
                Agreement.of(simulated, ours),
                Agreement.of(simulated, exact),
                Agreement.of(ours, exact),
            )
        )
    return tuple(reports)


def _as_ours(outputs: Sequence[Array], place: int, name: str, shape: tuple[int, ...]) -> Array:
    expected = onnx_shape(shape)
    if place >= len(outputs) or outputs[place].size != int(np.prod(expected)):
        got = [output.shape for output in outputs]
        raise VendorError(f"output '{name}': expected {expected} from the simulator, got {got}")
    return from_onnx_layout(outputs[place].reshape(expected))


def _store(tensor: Tensor, values: Array) -> Array:
    limits = np.iinfo(tensor.dtype)
    steps = np.rint(values / np.float32(tensor.scales[0])) + tensor.zero_point
    stored: Array = np.clip(steps, limits.min, limits.max).astype(tensor.dtype)
    return stored


def _real(tensor: Tensor, stored: Array) -> Array:
    return ((stored.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scales[0])).astype(np.float32)
