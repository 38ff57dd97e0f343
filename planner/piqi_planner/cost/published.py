"""The published additive model (ISLPED '24, section 5), quirks included, as tables.

A frequency is requested just before a layer and takes effect after a delay; until then the processor runs as the
layer before left it. The transfer into layer i reads the row of layer i, at the frequencies before both ends'
requests, and none is paid into the last layer.
"""

from __future__ import annotations

import numpy as np

from piqi_planner.cost.tables import CostTables
from piqi_planner.cost.transfers import transfer_scale
from piqi_planner.cost.transitions import change_delays, host_left, layer_tables, state_left, through_change
from piqi_planner.profile import ModelProfile
from piqi_planner.profile.model import Floats, Indices


def published_tables(profile: ModelProfile) -> CostTables:
    """The published cost of every pair of states. Raises ProfileError where transfer_frequency.csv lacks a row."""
    was = state_left(profile)
    layer = layer_tables(profile, was)
    npu = profile.is_npu[:, None]
    saved_ms = np.where(npu, profile.constants.npu_run_shrink * profile.run_ms, 0.0)
    beside_mw = np.where(npu, 0.0, profile.run_mw - profile.idle_power_mw)
    move, late = _move_tables(profile, was)
    delays = change_delays(profile, was)

    def close(before_last: Indices, last: Indices, first: Indices) -> tuple[Floats, Floats]:
        out_ms = profile.output_ms[was[before_last, last] if profile.layer_count > 1 else last]
        delay = delays[last, first] - out_ms  # the change begins while the output is fetched
        time_ms, energy_mj = through_change(
            np.where(delay > 0, delay, 0.0), profile.input_ms, profile.input_mw, was[last, first], first
        )
        return time_ms + out_ms, energy_mj + out_ms * profile.input_mw[last] / 1e3

    return CostTables(
        layer_count=profile.layer_count,
        processor_of=profile.processor_of,
        is_npu=profile.is_npu,
        layer=layer,
        move=move,
        tail=(profile.unload_ms.T, (profile.unload_ms * profile.run_mw).T / 1e3),
        saved=(saved_ms.T.copy(), (saved_ms * profile.run_mw).T / 1e3),
        close=close,
        close_key=np.unique(profile.output_ms[was], return_inverse=True)[1].reshape(was.shape),
        late=late,
        left_host=host_left(profile),
        side_layers=profile.constants.side_layers,
        side={
            s.layer: (np.zeros_like(layer[0][s.layer]), layer[0][s.layer] * beside_mw[:, s.layer] / 1e3)
            for s in profile.constants.side_layers
        },
    )


def _move_tables(profile: ModelProfile, was: Indices) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """`CostTables.move` and `.late`."""
    count, kinds = len(profile.states), [p.kind for p in profile.processors]
    inner = range(1, profile.layer_count - 1)
    ratio, power = np.zeros((2, count, count))
    ends = profile.processor_of
    hosts = max(p.opp_count for p in profile.processors)
    late_ratio, late_mw = np.zeros((2, hosts, len(kinds), len(kinds)))
    for source in range(len(kinds)):
        for destination in range(len(kinds)):
            if source == destination:
                continue
            scale = transfer_scale(profile, source, destination)
            if kinds[source] == "gpu":
                late_ratio[: len(scale[0]), source, destination], late_mw[: len(scale[0]), source, destination] = scale
                continue
            for i in np.flatnonzero(ends == source):
                for j in np.flatnonzero(ends == destination):
                    state = profile.states[was[i, j]]
                    index = state.host if kinds[destination] == "gpu" else min(state.own, len(scale[0]) - 1)
                    ratio[i, j], power[i, j] = scale[0][index], scale[1][index]
    move_ms = np.zeros((profile.layer_count, count, count))
    late_ms = np.zeros((profile.layer_count, *late_ratio.shape))
    for layer in inner:
        move_ms[layer] = profile.move_ms[layer][ends[:, None], ends] * ratio
        late_ms[layer] = profile.move_ms[layer] * late_ratio
    return (move_ms, move_ms * power / 1e3), (late_ms, late_ms * late_mw / 1e3)
