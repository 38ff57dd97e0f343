"""From a profile's rows to one model's arrays; every row that a model needs must be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from piqi_planner.profile.model import Floats, Hole, ModelProfile, ProfiledProcessor, State
from piqi_planner.profile.published import published_constants
from piqi_runtime.profile_tables import LAYERS, TRANSFERS, ProfileError, Row

#: (letter, own index, host's index or -1, layer, phase) -> time in ms, power in mW (NaN: not measured)
Phases = Mapping[tuple[str, int, int, int, str], tuple[float, float]]


def group_phases(rows: Sequence[Row]) -> dict[str, dict[tuple[str, int, int, int, str], tuple[float, float]]]:
    """The rows of layers.csv by model."""
    models: dict[str, dict[tuple[str, int, int, int, str], tuple[float, float]]] = {}
    for row in rows:
        model, letter, own, host, layer, phase, time_ms, power_mw = cast(
            "tuple[str, str, int, int | None, int, str, float, float | None]", row.values
        )
        key = (letter, own, -1 if host is None else host, layer, phase)
        models.setdefault(model, {})[key] = (time_ms, np.nan if power_mw is None else power_mw)
    return models


def assemble_model(
    folder: Path,
    name: str,
    board: Sequence[ProfiledProcessor],
    phases: Phases,
    transfers: Sequence[Row],
    scales: Sequence[Row],
    delays: Mapping[str, Floats],
    idle_power_mw: float,
    npu_run_shrink: float | None = None,
) -> ModelProfile:
    """The arrays of `ModelProfile`. `npu_run_shrink`: as measured. Raises ProfileError that names the missing row."""
    processors = tuple(p for p in board if any(key[0] == p.letter for key in phases))
    layer_count = 1 + max(key[3] for key in phases)
    states = tuple(
        State(index, own, host)
        for index, p in enumerate(processors)
        for own in range(p.opp_count)
        for host in (range(_opp_count(board, p.host)) if p.kind == "gpu" else (-1,))
    )
    source = _Phases(folder / LAYERS.file_name, name, phases, processors)
    layers = range(layer_count)
    run = np.array([[source.find(state, layer, "run") for layer in layers] for state in states])
    first = np.array([source.find(state, 0, "input") for state in states])
    last = np.array([source.find(state, layer_count - 1, "output") for state in states])
    load_ms, unload_ms = np.zeros((2, len(states), layer_count))
    for index, state in enumerate(states):
        if processors[state.processor].kind == "npu":
            for layer in layers:
                load_ms[index, layer] = source.find(state, layer, "npu_load")[0]
                wall_ms = (
                    source.find(state, layer, "npu_run_and_get")[0] + source.find(state, layer, "npu_fill_tensor")[0]
                )
                unload_ms[index, layer] = wall_ms - run[index, layer, 0]
    constants = published_constants(name, layer_count)
    if npu_run_shrink is not None:
        constants = replace(constants, npu_run_shrink=npu_run_shrink)
    unmeasured_mw = idle_power_mw if all(np.isnan(power_mw) for _, power_mw in phases.values()) else None
    filled = _Filler(name, processors, states, unmeasured_mw)
    run_mw = filled.powers(run[..., 1], "run", constants.npu_power_mw)
    input_mw = filled.powers(first[:, 1:], "input", None, run_mw)[:, 0]
    keys = [cast("tuple[str, str, str, str]", row.values[:4]) for row in scales]
    return ModelProfile(
        name=name,
        layer_count=layer_count,
        processors=processors,
        states=states,
        run_ms=run[..., 0],
        run_mw=run_mw,
        load_ms=load_ms,
        unload_ms=unload_ms,
        input_ms=first[:, 0],
        input_mw=input_mw,
        output_ms=last[:, 0],
        move_ms=_moves(folder / TRANSFERS.file_name, name, processors, layer_count, transfers),
        move_ratio={key: cast(float, row.values[6]) for key, row in zip(keys, scales, strict=True)},
        move_mw={
            key: idle_power_mw if row.values[5] is None else cast(float, row.values[5])
            for key, row in zip(keys, scales, strict=True)
        },
        delay_ms={p.letter: delays[p.letter] for p in processors},
        idle_power_mw=idle_power_mw,
        constants=constants,
        holes=tuple(filled.holes),
    )


def _opp_count(processors: Sequence[ProfiledProcessor], letter: str | None) -> int:
    return next((p.opp_count for p in processors if p.letter == letter), 1)


class _Phases:
    """Looks rows of layers.csv up, or says which is missing."""

    def __init__(self, path: Path, model: str, phases: Phases, processors: Sequence[ProfiledProcessor]) -> None:
        self._path, self._model, self._phases, self._processors = path, model, phases, processors

    def find(self, state: State, layer: int, phase: str) -> tuple[float, float]:
        processor = self._processors[state.processor]
        host = state.own if processor.kind == "npu" else state.host
        try:
            return self._phases[processor.letter, state.own, host, layer, phase]
        except KeyError:
            host_text = "" if host < 0 else f", host_freq_index={host}"
            raise ProfileError(
                f"{self._path}: no row with model={self._model}, processor={processor.letter}, "
                f"freq_index={state.own}{host_text}, layer={layer}, phase={phase}"
            ) from None


class _Filler:
    """Fills powers that were not measured, by a rule, and notes each."""

    def __init__(
        self,
        model: str,
        processors: Sequence[ProfiledProcessor],
        states: Sequence[State],
        unmeasured_mw: float | None,
    ) -> None:
        self._model, self._processors, self._states = model, processors, states
        self._unmeasured_mw = unmeasured_mw  # None: some powers of the model are known
        self.holes: list[Hole] = []

    def powers(self, measured: Floats, phase: str, npu_power_mw: float | None, like: Floats | None = None) -> Floats:
        """[S, layers] without holes: the NPU's published power, or the mean of the state's other layers.

        `like`: whose mean, where it is not that of `measured` itself.
        """
        filled = measured.copy()
        for index, layer in np.argwhere(np.isnan(measured)):
            state = self._states[index]
            processor = self._processors[state.processor]
            others = (measured if like is None else like)[index]
            if processor.kind == "npu" and npu_power_mw is not None:
                value, rule = npu_power_mw, "the model's published NPU power"
            elif not np.isnan(others).all():
                value, rule = float(np.nanmean(others)), "mean of the other layers at the same frequencies"
            elif self._unmeasured_mw is not None:
                value, rule = self._unmeasured_mw, "no power was measured: the idle board's"
            else:
                raise ProfileError(
                    f"{LAYERS.file_name}: {self._model} on {processor.letter}, freq_index={state.own}: "
                    f"no layer has a power_mw"
                )
            filled[index, layer] = value
            freqs = str(state.own) if state.host < 0 else f"{state.own}-{state.host}"
            self.holes.append(
                Hole(self._model, processor.letter, freqs, int(layer), f"power_mw of {phase}", value, rule)
            )
        return filled


def _moves(
    path: Path, name: str, processors: Sequence[ProfiledProcessor], layer_count: int, rows: Sequence[Row]
) -> Floats:
    """[L - 1, P, P]; those of an NPU are its host's, and those between it and its host the host's to another CPU."""
    places = {p.letter: index for index, p in enumerate(processors)}
    moves = np.full((layer_count - 1, len(processors), len(processors)), np.nan)
    for row in rows:
        _, layer, source, destination, time_ms = cast("tuple[str, int, str, str, float]", row.values)
        for column, letter in (("source", source), ("destination", destination)):
            if letter not in places or processors[places[letter]].kind == "npu":
                raise ProfileError(f"{path}:{row.line}: {column}: {name} has no rows of CPU or GPU {letter!r}")
        if layer >= layer_count - 1:
            raise ProfileError(
                f"{path}:{row.line}: after_layer: expected 0 to {layer_count - 2} for {name}, got {layer}"
            )
        moves[layer, places[source], places[destination]] = time_ms
    for index, p in enumerate(processors):
        moves[:, index, index] = 0
        if p.kind == "npu" and p.host in places:
            host = places[p.host]
            moves[:, index], moves[:, :, index] = moves[:, host], moves[:, :, host]
            other = other_cpu(processors, p.host)
            moves[:, index, host] = moves[:, host, places[other]] if other else 0
            moves[:, host, index] = moves[:, host, places[other]] if other else 0
            moves[:, index, index] = 0
    missing = np.argwhere(np.isnan(moves))
    if len(missing):
        layer, source, destination = missing[0]
        raise ProfileError(
            f"{path}: no row with model={name}, after_layer={layer}, source={processors[source].letter}, "
            f"destination={processors[destination].letter}"
        )
    return moves


def other_cpu(processors: Sequence[ProfiledProcessor], host: str) -> str | None:
    """The first CPU that is not `host`: its transfers stand for those between an NPU and its host."""
    return next((p.letter for p in processors if p.kind == "cpu" and p.letter != host), None)
