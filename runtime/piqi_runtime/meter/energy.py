"""Energy of every layer, from a recording and the times at which layers ran."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_runtime.meter.base import MeterError, Recording, Times

_BLOCK = 8192  # samples in memory at a time
_RIDGE = 1e-3


@dataclass(frozen=True)
class LayerEnergy:
    """One run of a layer, the average over all its runs.

    `low_mj`, `high_mj`: as if power had been, wherever samples are missing, the lowest or the highest that any sample
    or layer has; they do not contain the noise of the samples that are there. `covered`: the part of the layer's time
    that samples tell of.
    """

    layer: int
    runs: int
    duration_ms: float
    power_mw: float
    energy_mj: float
    low_mj: float
    high_mj: float
    covered: float


def layer_energies(recording: Recording, layers: Times, began_ns: Times, ended_ns: Times) -> list[LayerEnergy]:
    """The energy of each layer that ran, in order of layers.

    `layers`, `began_ns`, `ended_ns`: int64 [runs], runs of layers in order of time that do not overlap; a layer may run
    many times. A sample that lies in one run counts for it as a whole. One that several runs share is divided
    as the powers demand that explain all samples best (least squares over all runs), so layers shorter than a
    sample are told apart when they ran often enough.
    Raises MeterError for runs that overlap, and for a layer of whose time no sample tells.
    """
    _check(layers, began_ns, ended_ns)
    numbers, column = np.unique(layers, return_inverse=True)
    idle = len(numbers)
    cuts = np.stack([began_ns, ended_ns], axis=1).ravel()
    starts, ends = recording.time_ns - recording.window_ns, recording.time_ns
    # Each window is cut at the runs' borders; piece -> sample, column, length.
    first, last = np.searchsorted(cuts, starts, side="right"), np.searchsorted(cuts, ends, side="left")
    pieces = np.maximum(last - first, 0) + 1
    sample = np.repeat(np.arange(len(starts)), pieces)
    number = np.arange(len(sample)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    slot = first[sample] + number  # the piece ends at cuts[slot]
    padded = np.concatenate([[np.iinfo(np.int64).min], cuts, [np.iinfo(np.int64).max]])
    length = np.minimum(ends[sample], padded[slot + 1]) - np.maximum(starts[sample], padded[slot])
    kept = length > 0
    sample, slot, length = sample[kept], slot[kept], length[kept].astype(float)
    owner = np.full(len(slot), idle)
    inside = slot % 2 == 1
    owner[inside] = column[slot[inside] // 2]

    power = recording.power_mw
    model = _powers(sample, owner, length, power, idle + 1)
    share = length / np.maximum(np.bincount(sample, length, len(power))[sample], 1.0)
    predicted = np.bincount(sample, share * model[owner], len(power))
    energy = (model[owner] + (power - predicted)[sample]) * length * 1e-9  # mW ns -> mJ
    total_mj = np.bincount(owner, energy, idle + 1)[:idle]
    covered_ns = np.bincount(owner, length, idle + 1)[:idle]
    duration_ns = np.bincount(column, (ended_ns - began_ns).astype(float), idle)
    runs = np.bincount(column, minlength=idle)
    if (unseen := numbers[covered_ns == 0]).size:
        raise MeterError(f"power meter: no sample in layer {', '.join(map(str, unseen))}: measure more frames")
    powers_mw = total_mj / covered_ns * 1e9
    low_mw = min(float(power.min()), float(powers_mw.min()))
    high_mw = max(float(power.max()), float(powers_mw.max()))
    result = []
    for i, layer in enumerate(numbers):
        power_mw = float(powers_mw[i])
        missing_mj = max(0.0, float(duration_ns[i] - covered_ns[i])) * 1e-9
        energies = [(float(total_mj[i]) + missing_mj * mw) / int(runs[i]) for mw in (power_mw, low_mw, high_mw)]
        result.append(
            LayerEnergy(
                layer=int(layer),
                runs=int(runs[i]),
                duration_ms=float(duration_ns[i]) / int(runs[i]) / 1e6,
                power_mw=power_mw,
                energy_mj=energies[0],
                low_mj=min(energies),
                high_mj=max(energies),
                covered=min(1.0, float(covered_ns[i] / duration_ns[i])),
            )
        )
    return result


def _check(layers: Times, began_ns: Times, ended_ns: Times) -> None:
    if not len(layers) == len(began_ns) == len(ended_ns) or len(layers) == 0:
        sizes = f"{len(layers)}, {len(began_ns)}, {len(ended_ns)}"
        raise MeterError(
            f"layer_energies: layers, began_ns, ended_ns: expected as many of each and one at least: {sizes}"
        )
    wrong = np.flatnonzero((ended_ns <= began_ns) | (np.concatenate([began_ns[1:], ended_ns[-1:]]) < ended_ns))
    if wrong.size:
        run = int(wrong[0])
        raise MeterError(
            f"layer_energies: run {run} (layer {layers[run]}): expected runs that end after they begin and before "
            f"the next begins, got {began_ns[run]} to {ended_ns[run]} ns"
        )


def _powers(
    sample: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    length: npt.NDArray[np.float64],
    power: npt.NDArray[np.float64],
    columns: int,
) -> npt.NDArray[np.float64]:
    """The powers [columns] that explain the samples best; what samples do not tell apart gets their mean."""
    known = np.bincount(owner, length, columns)
    mean = np.bincount(owner, length * power[sample], columns) / np.maximum(known, 1.0)
    window = np.maximum(np.bincount(sample, length, len(power)), 1.0)
    matrix, right = np.zeros((columns, columns)), np.zeros(columns)
    for low in range(0, len(power), _BLOCK):
        high = min(low + _BLOCK, len(power))
        begin, end = np.searchsorted(sample, [low, high])
        block = np.zeros((high - low, columns))
        rows = sample[begin:end]
        np.add.at(block, (rows - low, owner[begin:end]), length[begin:end] / window[rows])
        matrix += block.T @ block
        right += block.T @ (power[low:high] * (block.sum(axis=1) > 0) - block @ mean)
    ridge = _RIDGE * max(float(matrix.diagonal().mean()), 1e-12)
    return np.asarray(mean + np.linalg.solve(matrix + ridge * np.eye(columns), right), np.float64)
