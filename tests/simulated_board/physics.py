"""How long an activity takes on the board and at what power, by the profile that drives it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from piqi_planner.cost.transfers import transfer_scale
from piqi_planner.profile import ModelProfile, State

Indices = Mapping[str, int]
#: Processor's frequency indices in force -> ms, mW.
Phase = Callable[[Indices], tuple[float, float]]


class Piece(NamedTuple):
    """A stretch of constant power, on the host's clock."""

    begin_ns: int
    end_ns: int
    power_mw: float


class Physics:
    """Activities as phases. Raises ValueError for a layer or processor that the profile does not have."""

    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile
        self._places = {p.letter: i for i, p in enumerate(profile.processors)}
        self._states = {state: i for i, state in enumerate(profile.states)}
        self.npu = next((p.letter for p in profile.processors if p.kind == "npu"), "")
        self._scale = cache(lambda source, to: transfer_scale(profile, source, to))

    def bind(self, letter: str, first: int, source: str) -> list[Phase]:
        """What comes before a sub-graph: the input phase or a transfer from `source`, an NPU's load."""
        self._check(letter, first)
        phases = [self._input(letter) if first == 0 else self._transfer(source, letter, first - 1)]
        if letter == self.npu:
            phases.append(self._phase(letter, self.profile.load_ms, first))
        return phases

    def step(self, letter: str, first: int, last: int) -> list[Phase]:
        """A layer; on an NPU a run of them, the shorter each the more they are."""
        self._check(letter, last)
        shrink = self.profile.constants.npu_run_shrink if letter == self.npu else 0.0
        factor = 1 + shrink - shrink * (last + 1 - first)
        return [self._phase(letter, self.profile.run_ms, layer, factor) for layer in range(first, last + 1)]

    def finish(self, letter: str, last: int) -> list[Phase]:
        """What comes behind a sub-graph: an NPU's unload, the output phase."""
        self._check(letter, last)
        phases = [self._phase(letter, self.profile.unload_ms, last)] if letter == self.npu else []
        if last == self.profile.layer_count - 1:
            phases.append(self._output(letter))
        return phases

    def _check(self, letter: str, layer: int) -> None:
        if letter not in self._places or layer >= self.profile.layer_count:
            raise ValueError(f"layer {layer} on {letter!r} is not in the profile of {self.profile.name}")

    def _state(self, letter: str, indices: Indices) -> int:
        place = self._places[letter]
        processor = self.profile.processors[place]
        host = indices[processor.host] if processor.host else -1
        own = host if processor.kind == "npu" else indices.get(letter, 0)
        return self._states[State(place, own, host if processor.kind == "gpu" else -1)]

    def _phase(self, letter: str, times_ms: np.ndarray, layer: int, factor: float = 1.0) -> Phase:
        def phase(indices: Indices) -> tuple[float, float]:
            state = self._state(letter, indices)
            return factor * float(times_ms[state, layer]), float(self.profile.run_mw[state, layer])

        return phase

    def _input(self, letter: str) -> Phase:
        def phase(indices: Indices) -> tuple[float, float]:
            state = self._state(letter, indices)
            return float(self.profile.input_ms[state]), float(self.profile.input_mw[state])

        return phase

    def _output(self, letter: str) -> Phase:
        def phase(indices: Indices) -> tuple[float, float]:
            state = self._state(letter, indices)
            return float(self.profile.output_ms[state]), float(self.profile.input_mw[state])

        return phase

    def _transfer(self, source: str, letter: str, after: int) -> Phase:
        self._check(source, after)
        ends = self._places[source], self._places[letter]
        kinds = [self.profile.processors[end].kind for end in ends]
        # The index that the measurement of transfers varied: a GPU's host's, else the destination's.
        followed = source if kinds[0] == "gpu" else letter
        processor = self.profile.processors[self._places[followed]]
        varied = processor.host or followed

        def phase(indices: Indices) -> tuple[float, float]:
            if source == letter:
                return 0.0, self.profile.idle_power_mw
            ratios, powers = self._scale(*ends)
            index = min(indices[varied], len(ratios) - 1)
            return float(self.profile.move_ms[after][ends] * ratios[index]), float(powers[index])

        return phase


class SyntheticPhysics(Physics):
    """Of a network of two layers, both like the profiled one's first, whose transfers at the lowest frequencies all
    take as long.
    """

    MOVE_MS = 5.0

    def __init__(self, profile: ModelProfile) -> None:
        apart = 1.0 - np.eye(len(profile.processors))
        super().__init__(
            replace(
                profile,
                layer_count=2,
                run_ms=profile.run_ms[:, [0, 0]],
                run_mw=profile.run_mw[:, [0, 0]],
                move_ms=self.MOVE_MS * apart[np.newaxis],
            )
        )
