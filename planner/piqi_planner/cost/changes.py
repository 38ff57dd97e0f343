"""Changes of frequency that do not pay, as the executor judges them in switching mode (docs/dvfs.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from piqi_planner.cost.transitions import frequencies_left
from piqi_planner.profile import ModelProfile, State
from piqi_planner.profile.model import ConfigurationError, Indices

PASSES = 8  # frames after which what is in force at a frame's begin has settled, or never does


def really_run(profile: ModelProfile, configs: Indices) -> Indices:
    """What becomes of run configurations [n, layers] when the executor skips the changes that do not pay.

    A change of a processor's frequency is skipped if its measured delay is not shorter than the layers (an NPU's with
    load and unload) until that processor is next asked for another one, at the frequency in force. Frames follow one
    another, so that stay goes on over the end. A run on an NPU asks once, before its first layer: the others
    are in its state.
    """
    configs = np.asarray(configs)
    if configs.ndim != 2 or configs.shape[1] != profile.layer_count:
        raise ConfigurationError(f"expected configurations [n, {profile.layer_count}], got {configs.shape}")
    runner = _Runner(profile)
    distinct, places = np.unique(configs, axis=0, return_inverse=True)
    run = np.array([runner.run(config.tolist()) for config in distinct], np.intp).reshape(-1, profile.layer_count)
    return run[places.reshape(-1)]


class _Runner:
    def __init__(self, profile: ModelProfile) -> None:
        self._profile = profile
        self._place = {state: index for index, state in enumerate(profile.states)}
        self._asks = [frequencies_left(profile, state) for state in profile.states]
        self._time_ms: list[list[float]] = profile.run_ms.tolist()
        self._delay_ms = {letter: delays.tolist() for letter, delays in profile.delay_ms.items()}

    def run(self, config: list[int]) -> list[int]:
        """State indices [layers] -> those that are really run."""
        processors = [self._profile.states[state].processor for state in config]
        npu = [bool(self._profile.is_npu[state]) for state in config]
        inside = [i > 0 and npu[i] and processors[i] == processors[i - 1] for i in range(len(config))]
        asks: list[Mapping[str, int]] = [
            {} if again else self._asks[state] for state, again in zip(config, inside, strict=True)
        ]
        in_force: dict[str, int] = {}
        for layer_asks in asks:
            in_force |= layer_asks  # what the frame before leaves, if it makes all changes
        for _ in range(PASSES):
            before = dict(in_force)
            made = self._frame(config, asks, in_force)
            if in_force == before:
                break
        return made

    def _frame(self, config: list[int], asks: list[Mapping[str, int]], in_force: dict[str, int]) -> list[int]:
        """One frame; changes what is in force."""
        made: list[int] = []
        for layer, state in enumerate(config):
            if self._profile.is_npu[state] and not asks[layer]:
                made.append(made[-1])  # the run has asked before its first layer
                continue
            for letter, wanted in asks[layer].items():
                found = in_force[letter]
                if found != wanted:
                    stay_ms = self._stay_ms(config, asks, layer, letter, found)
                    # false for a delay that was not measured, which is NaN
                    if not self._delay_ms[letter][found][wanted] >= stay_ms:
                        in_force[letter] = wanted
            for letter in asks[layer]:
                state = self._at(state, letter, in_force[letter])
            made.append(state)
        return made

    def _stay_ms(self, config: list[int], asks: list[Mapping[str, int]], layer: int, letter: str, found: int) -> float:
        """What the layers take, at the index found, until a processor is asked for another one than this layer does."""
        wanted, count = asks[layer][letter], len(config)
        total_ms = 0.0
        for i in range(count):
            at = (layer + i) % count
            if asks[at].get(letter, wanted) != wanted:
                return total_ms
            state = config[at]
            total_ms += self._layer_ms(config, at, self._at(state, letter, found))
        return float("inf")

    def _layer_ms(self, config: list[int], layer: int, state: int) -> float:
        """In `state`; of an NPU with load and unload, where its run begins and ends."""
        time_ms = self._time_ms[state][layer]
        if self._profile.is_npu[state]:
            own = self._profile.states[state].processor
            first = layer == 0 or self._profile.states[config[layer - 1]].processor != own
            last = layer + 1 == len(config) or self._profile.states[config[layer + 1]].processor != own
            time_ms += float(self._profile.load_ms[state, layer]) * first
            time_ms += float(self._profile.unload_ms[state, layer]) * last
        return time_ms

    def _at(self, index: int, letter: str, frequency: int) -> int:
        """The state with one processor's frequency replaced, if it sets it."""
        if letter not in self._asks[index]:
            return index
        state = self._profile.states[index]
        processor = self._profile.processors[state.processor]
        if letter == processor.letter or processor.kind == "npu":
            return self._place[State(state.processor, frequency, state.host)]
        return self._place[State(state.processor, state.own, frequency)]
