"""Transfers between processors: a line over the bytes, and how it follows the frequency of the CPU that copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from piqi_planner.estimate.parameters import PowerModel, TransferEstimate
from piqi_planner.estimate.predict import frequency_share, power_terms
from piqi_planner.estimate.solver import solve
from piqi_planner.estimate.work import LayerWork
from piqi_planner.profile import Profile
from piqi_runtime.boards import Board, Processor
from piqi_runtime.profile_tables import TRANSFER_FREQUENCY, TRANSFERS

MB = 1e6


def frequency_keys(board: Board, source: str, destination: str) -> Iterator[tuple[str, str, int]]:
    """Both ends' frequencies and the index that varies, of each row that transfer_frequency.csv has for a pair.

    A GPU is copied to and from by its host; otherwise the destination copies.
    """
    ends = [board.processor(source), board.processor(destination)]
    copier = copying_cpu(board, source, destination)
    for index in range(copier.opp_count):
        texts = []
        for end in ends:
            own = str(index) if end.letter == copier.letter else "0"
            texts.append(f"0-{index}" if end.kind == "gpu" else own)
        yield texts[0], texts[1], index


def copying_cpu(board: Board, source: str, destination: str) -> Processor:
    """The CPU whose frequency a transfer follows."""
    for letter in (source, destination):
        host = board.processor(letter).host
        if host is not None:
            return board.processor(host)
    return board.processor(destination)


def fit_transfers(
    profile: Profile, board: Board, works: Mapping[str, Sequence[LayerWork]]
) -> dict[str, TransferEstimate]:
    """By both letters. A pair without rows of its own in transfer_frequency.csv follows another with the same CPU."""
    sizes: dict[str, list[tuple[float, float]]] = {}
    for row in profile.rows[TRANSFERS.name]:
        model, layer, source, destination, time_ms = cast("tuple[str, int, str, str, float]", row.values)
        if model in works and works[model][layer].bytes_sent and time_ms > 0:
            sizes.setdefault(source + destination, []).append((works[model][layer].bytes_sent / MB, time_ms))
    scales = {
        cast("tuple[str, str, str, str]", row.values[:4]): row.values for row in profile.rows[TRANSFER_FREQUENCY.name]
    }
    found: dict[str, TransferEstimate] = {}
    for pair, samples in sizes.items():
        size, time_ms = np.array(samples).T
        call_ms, ms_per_mb = solve(np.column_stack([np.ones(len(size)), size]), time_ms)
        cpu = copying_cpu(board, *pair)
        same_cpu = [other for other in sizes if other != pair and copying_cpu(board, *other).letter == cpu.letter]
        # The way of a result from a GPU is that to its host.
        same_cpu.sort(key=lambda other: other[0] != pair[0])
        for like in (pair, *same_cpu):
            rows = [
                (frequency_share(cpu, index), cast(float, scales[key][6]), scales[key][5] or profile.idle_power_mw)
                for own, other, index in frequency_keys(board, *like)
                if (key := (*like, own, other)) in scales
            ]
            if rows:
                break
        fixed_share, power = (
            _fit_frequency(*np.array(rows).T) if rows else (1.0, PowerModel(base=board.idle_power_mw or 0))
        )
        found[pair] = TransferEstimate(
            call_ms=_short(call_ms), ms_per_mb=_short(ms_per_mb), fixed_share=fixed_share, power=power
        )
    return found


def _fit_frequency(share: np.ndarray, ratio: np.ndarray, power_mw: np.ndarray) -> tuple[float, PowerModel]:
    slowdown = share[0] / share
    moves = 1 - slowdown
    fixed = float(np.clip(((ratio - slowdown) @ moves) / max(moves @ moves, 1e-12), 0, 1))
    points = np.column_stack([share, np.ones(len(share))])
    base, linear, cubic = solve(power_terms(points, np.zeros(len(share)))[:, :3], power_mw)
    return _short(fixed), PowerModel(base=_short(base), linear=_short(linear), cubic=_short(cubic))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
