"""From work and parameters to times and powers, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piqi_planner.estimate.parameters import Copy, PowerModel, ProcessorEstimate, Rate, TransferEstimate
from piqi_planner.estimate.work import WORK_KINDS, LayerWork
from piqi_planner.profile.model import Floats
from piqi_runtime.boards import Board, Processor

NS_PER_MS = 1e6


def frequency_share(processor: Processor, index: int) -> float:
    """An operating point's share of the highest frequency; 1 for a processor without an OPP table."""
    freqs = processor.freqs_khz
    return freqs[index] / freqs[-1] if freqs else 1.0


def shares(board: Board, letter: str, own: int, host: int | None) -> tuple[float, float]:
    """Own and host's frequency as shares of the highest. An NPU's own is 1, a CPU's host's too."""
    processor = board.processor(letter)
    host_share = 1.0
    if processor.host is not None and host is not None:
        host_share = frequency_share(board.processor(processor.host), host)
    return (1.0 if processor.kind == "npu" else frequency_share(processor, own)), host_share


def inverse(points: Floats) -> Floats:
    """[n, 2] shares of own and host's frequency -> [n, 3] factors of `Rate`: own, host, fixed."""
    return np.column_stack([1 / points, np.ones(len(points))])


def work_matrix(works: Sequence[LayerWork]) -> Floats:
    """[layers, kinds] units of work."""
    return np.array([[work.work[kind] for kind in WORK_KINDS] for work in works], float)


def rate_matrix(rates: Sequence[Rate]) -> Floats:
    """[rates, 3] in ns: own, host, fixed."""
    return np.array([[rate.own, rate.host, rate.fixed] for rate in rates], float)


def run_times(parameters: ProcessorEstimate, works: Sequence[LayerWork], points: Floats) -> tuple[Floats, Floats]:
    """ms of each layer at each point, and the share of it that is work rather than launch: [n, layers] each."""
    units = work_matrix(works)
    rates = rate_matrix([parameters.work.get(kind, Rate()) for kind in WORK_KINDS])
    launches = np.array([kind in ("layer", "operator") for kind in WORK_KINDS])
    factors = inverse(points).T
    total = units @ rates @ factors
    launch = units[:, launches] @ rates[launches] @ factors
    with np.errstate(invalid="ignore"):
        busy = np.where(total > 0, 1 - launch / total, 0.0)
    return total.T / NS_PER_MS, busy.T


def copy_times(copy: Copy, elements: Sequence[int], points: Floats) -> Floats:
    """[n, copies] in ms."""
    units = np.column_stack([np.ones(len(elements)), np.asarray(elements, float)])
    return (units @ rate_matrix([copy.call, copy.element]) @ inverse(points).T).T / NS_PER_MS


def power_terms(points: Floats, busy: Floats) -> Floats:
    """[n, 7]: what the fields of `PowerModel` are multiplied by, in their order. `points` [n, 2], `busy` [n]."""
    own, host = points.T
    return np.column_stack(
        [np.ones(len(own)), own, own**3, busy * own, busy * own**3, host, host**3],
    )


def powers(model: PowerModel, points: Floats, busy: Floats) -> Floats:
    """[n] in mW."""
    factors = np.array([getattr(model, name) for name in PowerModel.model_fields], float)
    return np.asarray(power_terms(points, busy) @ factors)


def transfer_ratio(transfer: TransferEstimate, slowdown: Floats) -> Floats:
    """Factor on the time at the lowest frequencies; `slowdown`: lowest / actual frequency of the CPU that copies."""
    return transfer.fixed_share + (1 - transfer.fixed_share) * slowdown
