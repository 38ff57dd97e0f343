"""Our additive model as tables: the published one without its quirks, and with what it leaves out.

A transfer reads the row of the layer before it, at the frequencies asked for, and is paid into every layer. What was
missing: layers are slower just after a switch; a residual around a border of an NPU run is copied besides; side
branches beside the main one cost time. Everything is linear in the time parameters and, these given, in those of power.
"""

from __future__ import annotations

import numpy as np

from piqi_planner.cost.parameters import CostParameters
from piqi_planner.cost.tables import CostTables
from piqi_planner.cost.transfers import transfer_scale
from piqi_planner.cost.transitions import change_delays, state_left, through_change
from piqi_planner.profile import ModelProfile
from piqi_planner.profile.model import Floats, Indices

QUEUED_MS = 1.0


def calibrated_tables(profile: ModelProfile, parameters: CostParameters) -> CostTables:
    """Costs of every pair of states. Raises ProfileError where transfer_frequency.csv lacks a row."""
    npu = profile.is_npu
    letters = [profile.processors[state.processor].letter for state in profile.states]
    run = np.array([parameters.run.get(letter, 1.0) for letter in letters])
    power = np.array([parameters.power.get(letter, 1.0) for letter in letters])
    rise = np.array([parameters.power_rise.get(letter, 0.0) for letter in letters])
    tops = np.array([profile.processors[state.processor].opp_count - 1 for state in profile.states])
    power = power + rise * (np.array([state.own for state in profile.states]) / np.maximum(tops, 1) - 0.5)
    run_mw = _above_idle(profile, power[:, None], profile.run_mw)
    input_mw = _above_idle(profile, power, profile.input_mw)

    ms, mj = np.empty((2, profile.layer_count, len(letters), len(letters)))
    aside: dict[int, tuple[Floats, Floats]] = {}
    side_layers = {side.layer for side in profile.constants.side_layers}
    extra = _Extra(profile, parameters)
    for layer in range(profile.layer_count):
        added_ms, load_ms = extra.cpu_gpu_ms(layer), extra.load_ms(layer)
        ms[layer] = run * profile.run_ms[:, layer] + added_ms + load_ms
        mj[layer] = ms[layer] * run_mw[:, layer] / 1e3
        if layer in side_layers:
            side_ms = parameters.side * profile.run_ms[:, layer] + load_ms
            aside[layer] = side_ms, side_ms * run_mw[:, layer] / 1e3
    tail_ms = parameters.npu_unload * profile.unload_ms
    saved_ms = np.where(npu[:, None], profile.constants.npu_run_shrink * run[:, None] * profile.run_ms, 0.0)

    def copied(layer: int, times_ms: Floats, factor: float) -> tuple[Floats, Floats]:
        return factor * times_ms, factor * times_ms * run_mw[:, layer] / 1e3

    def close(_: Indices, last: Indices, first: Indices) -> tuple[Floats, Floats]:
        input_ms, output_ms = profile.input_ms[first], profile.output_ms[last]
        return input_ms + output_ms, (input_ms * input_mw[first] + output_ms * input_mw[last]) / 1e3

    return CostTables(
        layer_count=profile.layer_count,
        processor_of=profile.processor_of,
        is_npu=npu,
        layer=(ms, mj),
        move=_move_tables(profile, parameters.move),
        tail=(tail_ms.T, (tail_ms * run_mw).T / 1e3),
        saved=(saved_ms.T.copy(), (saved_ms * run_mw).T / 1e3),
        close=close,
        side_layers=profile.constants.side_layers,
        side=aside,
        side_free=False,
        skip_load={
            (source, into): copied(into, profile.load_ms[:, source + 1], parameters.skip_load)
            for source, into in profile.constants.skips
        },
        skip_unload={
            (source, into): copied(source, profile.unload_ms[:, source], parameters.skip_unload)
            for source, into in profile.constants.skips
        },
    )


def _above_idle(profile: ModelProfile, factor: Floats, power_mw: Floats) -> Floats:
    """mW with the part above the idle board's scaled."""
    return profile.idle_power_mw + factor * (power_mw - profile.idle_power_mw)


class _Extra:
    """What a layer costs beside its running, given the state before: [S, S] in ms."""

    def __init__(self, profile: ModelProfile, parameters: CostParameters) -> None:
        self._profile, self._parameters = profile, parameters
        self._was = state_left(profile)
        self._delays = np.nan_to_num(change_delays(profile, self._was))
        self._switches = profile.processor_of[:, None] != profile.processor_of
        processors = [profile.processors[state.processor] for state in profile.states]
        self._cold = np.array([parameters.cold.get(p.letter, 0.0) for p in processors])
        self._gpu = np.array([p.kind == "gpu" for p in processors])

    def cpu_gpu_ms(self, layer: int) -> Floats:
        run_ms = self._profile.run_ms[:, layer]
        if layer == 0:  # the input phase has warmed it up
            return np.zeros(self._was.shape)
        now = np.arange(len(run_ms))
        changing_ms, _ = through_change(self._delays, run_ms, run_ms, self._was, now)
        later_ms = changing_ms - run_ms  # negative while a higher frequency lasts: at most that is gained
        slower_ms = np.where(later_ms > 0, self._parameters.dvfs, 1.0) * later_ms
        slower_ms = slower_ms + np.where(self._switches, self._cold * run_ms, 0.0)
        queued = self._gpu & ~self._switches
        slower_ms -= np.where(queued, self._parameters.queued * np.minimum(changing_ms, QUEUED_MS), 0.0)
        return np.where(self._profile.is_npu, 0.0, slower_ms)

    def load_ms(self, layer: int) -> Floats:
        begins = self._switches if layer else np.ones_like(self._switches)
        return np.where(begins, self._parameters.npu_load * self._profile.load_ms[:, layer], 0.0)


def _move_tables(profile: ModelProfile, factor: float) -> tuple[Floats, Floats]:
    count = len(profile.states)
    ratio, power_mw = np.zeros((2, count, count))
    ends = profile.processor_of
    own = np.array([state.own for state in profile.states])
    host = np.array([state.host for state in profile.states])
    for source, first in enumerate(profile.processors):
        for destination, second in enumerate(profile.processors):
            if source == destination:
                continue
            ratios, powers = transfer_scale(profile, source, destination)
            here = np.ix_(ends == source, ends == destination)
            # the index that was varied: a GPU's host's, else the destination's own
            if first.kind == "gpu":
                index = host[ends == source][:, None]
            else:
                index = (host if second.kind == "gpu" else own)[ends == destination][None]
            index = np.broadcast_to(np.minimum(index, len(ratios) - 1), ratio[here].shape)
            ratio[here], power_mw[here] = ratios[index], powers[index]
    move_ms = np.zeros((profile.layer_count, count, count))
    move_ms[1:] = factor * profile.move_ms[:, ends[:, None], ends] * ratio
    return move_ms, move_ms * power_mw / 1e3
