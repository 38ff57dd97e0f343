"""From results to the rows of a profile's tables. The parts of a frame add up to its latency, as the planner adds them.

What lies between two layers cannot be told apart on the board, so it is divided as the planner's cost models put it
together again: between CPUs and GPUs all of it is the transfer; at an NPU the transfer is its host's to another
CPU, and the rest is load or unload; at an NPU's first and last layer the input and the output phase are its host's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from piqi_runtime.profile_tables import DVFS_DELAY, LAYERS, TRANSFER_FREQUENCY, TRANSFERS, Row, Value
from piqi_runtime.profiling.configurations import (
    Range,
    Space,
    State,
    alternating,
    changed,
    changes,
    frequency_rows,
    layer_configurations,
    long_runs,
    pairs,
    run_configuration,
    steps_of,
)
from piqi_runtime.profiling.delays import infer_delay_ms
from piqi_runtime.profiling.results import Result, Results

Values = tuple[Value, ...]


class Tables:
    """The rows for one model, of the processors of a space."""

    def __init__(self, name: str, layer_count: int, space: Space, results: Results) -> None:
        self._name, self._count, self._space, self._results = name, layer_count, space, results
        self._moves = {values[1:4]: values[4] for values in self._transfer_rows()}
        self._ratios = {values[:4]: values[6] for values in self._frequency_rows()}
        self.unseen_changes = 0  # of frequencies that do not differ in time

    def rows(self) -> dict[str, list[Row]]:
        """By the tables' names."""
        tables = {
            LAYERS.name: [row for letter in self._space.letters for row in self._layer_rows(letter)],
            TRANSFERS.name: list(self._transfer_rows()),
            TRANSFER_FREQUENCY.name: list(self._frequency_rows()),
            DVFS_DELAY.name: list(self._delay_rows()),
        }
        return {name: [Row(line, values) for line, values in enumerate(rows, start=2)] for name, rows in tables.items()}

    def npu_run_shrink(self, ranges: Sequence[Range]) -> float | None:
        """s, when a layer in a run of k on the NPU takes 1 + s - s k of its time alone; None without an NPU or runs."""
        npus = [letter for letter in self._space.letters if self._space.kind(letter) == "npu"]
        runs = long_runs(ranges)
        if not npus or not runs:
            return None
        top = self._space.states(npus[0])[-1]
        alone = np.array([self._at_layer(top, layer)[0].times_ms[2 * layer + 1] for layer in range(self._count)])
        longer, shorter = [], []
        for span in runs:
            configuration = run_configuration(self._space, npus[0], span, self._count)
            step = steps_of(configuration.order, npus[0]).index(span)
            together = self._results[configuration].times_ms[2 * step + 1] / alone[span[0] : span[1] + 1].sum()
            longer.append(span[1] - span[0])
            shorter.append(1 - together)
        fitted = float(np.dot(longer, shorter) / np.dot(longer, longer))
        return _short(float(np.clip(fitted, 0.0, 0.95 / max(self._count - 1, 1))))

    def _layer_rows(self, letter: str) -> Iterator[Values]:
        for state in self._space.states(letter):
            npu = self._space.kind(letter) == "npu"
            key = (self._name, letter, state.own, state.host)
            first, _ = self._at_layer(state, 0)
            last, place = self._at_layer(state, self._count - 1)
            input_ms, output_ms = first.times_ms[0], last.times_ms[-1]
            if npu:
                host = self._host_result(state)
                input_ms, output_ms = min(input_ms, host.times_ms[0]), min(output_ms, host.times_ms[-1])
            yield *key, 0, "input", _short(input_ms), _power(first.power_mw[0])
            for layer in range(self._count):
                result, place = self._at_layer(state, layer)
                run_ms = result.times_ms[place]
                yield *key, layer, "run", _short(run_ms), _power(result.power_mw[place])
                if npu:
                    before_ms = input_ms if layer == 0 else self._npu_move_ms(letter, layer - 1, state)
                    behind_ms = output_ms if layer == self._count - 1 else self._npu_move_ms(letter, layer, state)
                    load_ms = max(0.0, result.times_ms[place - 1] - before_ms)
                    unload_ms = max(0.0, result.times_ms[place + 1] - behind_ms)
                    yield *key, layer, "npu_load", _short(load_ms), None
                    yield *key, layer, "npu_run_and_get", _short(run_ms + unload_ms), None
                    yield *key, layer, "npu_fill_tensor", 0.0, None
            yield *key, self._count - 1, "output", _short(output_ms), None

    def _at_layer(self, state: State, layer: int) -> tuple[Result, int]:
        """What has this layer in this state, and the layer's phase in it."""
        configurations = layer_configurations(self._space, state, self._count)
        return self._results[configurations[layer % len(configurations)]], 2 * layer + 1

    def _host_result(self, state: State) -> Result:
        """Of an NPU's host alone, at the same index."""
        host = self._space.host(state.letter)
        same = next(other for other in self._space.states(host) if other.own == state.own)
        return self._results[layer_configurations(self._space, same, self._count)[0]]

    def _npu_move_ms(self, npu: str, border: int, state: State) -> float:
        """What the planner takes for the transfer behind layer `border` between an NPU and its host."""
        host = self._space.host(npu)
        other = next((p for p in self._space.movers() if self._space.kind(p) == "cpu" and p != host), None)
        if other is None:
            return 0.0
        index = min(state.own, self._space.board.processor(other).opp_count - 1)
        ratio = self._ratios.get((host, other, "0", str(index)), 1.0)
        return float(self._moves[border, host, other]) * float(ratio)  # type: ignore[arg-type]

    def _transfer_rows(self) -> Iterator[Values]:
        for source, destination in pairs(self._space):
            for border in range(self._count - 1):
                ends = (source, destination) if border % 2 == 0 else (destination, source)
                result = self._results[alternating(self._space, *ends, self._count)]
                yield self._name, border, source, destination, _short(result.times_ms[2 * border + 2])

    def _frequency_rows(self) -> Iterator[Values]:
        lowest_ms: dict[str, float] = {}
        for key, configuration in frequency_rows(self._space):
            result = self._results[configuration]
            time_ms = float(result.times_ms[2])
            ratio = time_ms / lowest_ms.setdefault(key[0] + key[1], time_ms or 1e-6)
            yield *key, _short(time_ms), _power(result.power_mw[2]), _short(ratio)

    def _delay_rows(self) -> Iterator[Values]:
        self.unseen_changes = 0
        for letter in self._space.movers():
            states = {state.own: state for state in self._space.states(letter)}
            steady = {own: self._at_layer(state, 0)[0].times_ms for own, state in states.items()}
            for own, times_ms in steady.items():
                between = times_ms[2:-1:2]
                yield letter, own, own, _short(float(between.mean()) if len(between) else 0.0)
            there, back = changed(self._count)
            behind = slice(back, None) if back < self._count else slice(0, there)
            for configuration, a, b in changes(self._space, letter, self._count):
                for times_ms in self._results[configuration].rounds_ms:
                    for old, new, layers in ((a, b, slice(there, back)), (b, a, behind)):
                        parts = (_pieces(values)[layers] for values in (times_ms, steady[old], steady[new]))
                        delay_ms = infer_delay_ms(*parts)
                        if delay_ms is None:
                            self.unseen_changes += 1
                        else:
                            yield letter, old, new, _short(delay_ms)


def _pieces(times_ms: np.ndarray) -> np.ndarray:
    """Each layer with what lies before it: the first with the input phase."""
    return np.asarray(times_ms[:-1].reshape(-1, 2).sum(axis=1))


def _power(value: float) -> float | None:
    return None if math.isnan(value) else _short(value)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
