"""Changes of frequency: what a layer leaves behind, and a phase through which a change takes effect."""

from __future__ import annotations

import numpy as np

from piqi_planner.profile import ModelProfile, State
from piqi_planner.profile.model import Floats, Indices


def state_left(profile: ModelProfile) -> Indices:
    """[S, S]: as which state the second one's processor is found, after a layer in the first.

    At the frequencies that the layer before used or, on a processor it did not use, at the lowest.
    """
    place = {state: index for index, state in enumerate(profile.states)}
    found = np.empty((len(place), len(place)), np.intp)
    for before, i in place.items():
        left = frequencies_left(profile, before)
        for after, j in place.items():
            processor = profile.processors[after.processor]
            host = left.get(processor.host or "", 0)
            own = host if processor.kind == "npu" else left.get(processor.letter, 0)
            found[i, j] = place[State(after.processor, own, -1 if after.host < 0 else host)]
    return found


def frequencies_left(profile: ModelProfile, state: State) -> dict[str, int]:
    """Letter -> index, of the processors whose frequency a layer in `state` sets."""
    processor = profile.processors[state.processor]
    if processor.kind == "cpu" or processor.host is None:
        return {processor.letter: state.own}
    if processor.kind == "npu":
        return {processor.host: state.own}
    return {processor.letter: state.own, processor.host: state.host}


def host_left(profile: ModelProfile) -> Indices:
    """[S]: the index at which a state's layer leaves the CPU that hosts the GPU; 0 if it does not use it."""
    hosts = [p.host for p in profile.processors if p.kind == "gpu" and p.host]
    return np.array([max([frequencies_left(profile, s).get(h, 0) for h in hosts], default=0) for s in profile.states])


def change_delays(profile: ModelProfile, was: Indices) -> Floats:
    """[S, S]: ms until the second state's frequency is there, after a layer in the first; NaN if not measured."""
    own = np.array([state.own for state in profile.states])
    delays = np.empty(was.shape)
    for index, processor in enumerate(profile.processors):
        here = profile.processor_of == index
        delays[:, here] = profile.delay_ms[processor.letter][own[was[:, here]], own[here]]
    return delays


def through_change(
    delay_ms: Floats, time_ms: Floats, power_mw: Floats, was: Indices, now: Indices
) -> tuple[Floats, Floats]:
    """ms and mJ of a phase of `time_ms` [S] and `power_mw` [S] that begins in state `was` and ends in `now`.

    The other arguments broadcast. Without a measured delay it runs as it was.
    """
    old_ms, new_ms = time_ms[was], time_ms[now]
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = old_ms > delay_ms
        total_ms = np.where(reached, new_ms - delay_ms / old_ms * new_ms + delay_ms, old_ms)
        energy = np.where(
            total_ms > delay_ms,
            delay_ms * power_mw[was] + (total_ms - delay_ms) * power_mw[now],
            total_ms * power_mw[was],
        )
    return total_ms, energy / 1e3


def layer_tables(profile: ModelProfile, was: Indices) -> tuple[Floats, Floats]:
    """`CostTables.layer`: a CPU's or GPU's layer through its change of frequency; an NPU's with its load."""
    count = len(profile.states)
    now = np.broadcast_to(np.arange(count), (count, count))
    delays = change_delays(profile, was)
    npu = profile.is_npu
    first_of_run = ~(npu[:, None] & (profile.processor_of[:, None] == profile.processor_of))
    times, energies = np.empty((2, profile.layer_count, count, count))
    for layer in range(profile.layer_count):
        run_ms, run_mw = profile.run_ms[:, layer], profile.run_mw[:, layer]
        if layer == 0:
            times[0], energies[0] = run_ms, run_ms * run_mw / 1e3
        else:
            times[layer], energies[layer] = through_change(delays, run_ms, run_mw, was, now)
        start = np.ones_like(first_of_run) if layer == 0 else first_of_run
        npu_ms = run_ms + np.where(start, profile.load_ms[:, layer], 0)
        times[layer] = np.where(npu, npu_ms, times[layer])
        energies[layer] = np.where(npu, npu_ms * run_mw / 1e3, energies[layer])
    return times, energies
