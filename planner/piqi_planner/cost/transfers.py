"""Transfers: how their time and power follow the frequencies of their two ends."""

from __future__ import annotations

import numpy as np

from piqi_planner.profile import ModelProfile, ProfileError
from piqi_planner.profile.assemble import other_cpu
from piqi_planner.profile.model import Floats


def transfer_scale(profile: ModelProfile, source: int, destination: int) -> tuple[Floats, Floats]:
    """Factor on the time at the lowest frequencies, and power in mW, of a transfer between two processors.

    Arrays over the index that was varied in the measurement: the GPU's host's where one end is a GPU, else the
    destination's own. An NPU is its host, and another CPU towards it. Raises ProfileError.
    """
    by_letter = {p.letter: p for p in profile.processors}
    ends = [profile.processors[source], profile.processors[destination]]
    for i, end in enumerate(ends):
        if end.kind == "npu" and end.host:
            ends[i] = by_letter[end.host]
    if ends[0] is ends[1]:
        other = other_cpu(profile.processors, ends[0].letter)
        if other is None:
            return np.ones(ends[1].opp_count), np.full(ends[1].opp_count, profile.idle_power_mw)
        ends[1] = by_letter[other]
    a, b = ends
    if a.kind == "gpu" and a.host:  # the result is fetched by its host, wherever it goes from there
        b = by_letter[a.host]
        keys = [(a.letter, b.letter, f"0-{k}", str(k)) for k in range(b.opp_count)]
    elif b.kind == "gpu" and b.host:
        host = by_letter[b.host]
        keys = [(a.letter, b.letter, str(k) if a is host else "0", f"0-{k}") for k in range(host.opp_count)]
    else:
        keys = [(a.letter, b.letter, "0", str(k)) for k in range(b.opp_count)]
    for key in keys:
        if key not in profile.move_ratio:
            raise ProfileError(
                "transfer_frequency.csv: no row with "
                f"source={key[0]}, destination={key[1]}, source_freq={key[2]}, destination_freq={key[3]}"
            )
    return np.array([profile.move_ratio[k] for k in keys]), np.array([profile.move_mw[k] for k in keys])
