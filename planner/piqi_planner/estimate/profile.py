"""A profile of a model that was never measured, by the board's analytic model; what was measured wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from piqi_planner.estimate.parameters import BoardEstimate, EstimateError, ProcessorEstimate, board_estimate
from piqi_planner.estimate.predict import (
    copy_times,
    frequency_share,
    powers,
    run_times,
    shares,
    transfer_ratio,
)
from piqi_planner.estimate.transfers import MB, copying_cpu, frequency_keys
from piqi_planner.estimate.work import LayerWork, describe_work
from piqi_planner.profile import Profile, ProfiledProcessor
from piqi_planner.profile.model import Floats
from piqi_planner.profile.published import IDLE_POWER_MW
from piqi_runtime.boards import Board
from piqi_runtime.model import Model
from piqi_runtime.profile_tables import (
    DVFS_DELAY,
    LAYERS,
    TRANSFER_FREQUENCY,
    TRANSFERS,
    ProfileFacts,
    Row,
    Table,
    Value,
    read_facts,
    read_table,
)

#: Bytes of the synthetic layer that transfer_frequency.csv's times are of; only their ratios count.
_SYNTHETIC_BYTES = 16e6

Values = tuple[Value, ...]


def estimate_profile(model: Model, board: Board, name: str, measured: Profile | None = None) -> Profile:
    """The four tables for one model, its layers assigned, on all processors and operating points of a board.

    `measured`: rows that win, one by one, over estimated ones: those of the model `name` and those of the board
    (frequency changes, how transfers follow frequencies); other models' are left out. Raises EstimateError: the
    board file has no parameters, or `measured` was cut into other layers or has operating points that the board lacks.
    """
    estimate = _parameters(board)
    if model.layer_count == 0:
        raise EstimateError(f"model {model.name}: has no layers")
    works = {npu: describe_work(model, npu) for npu in (False, True)}
    rows: dict[str, list[Values]] = {table.name: [] for table in (LAYERS, TRANSFERS, TRANSFER_FREQUENCY, DVFS_DELAY)}
    for processor in board.processors:
        parameters = estimate.processors[processor.letter]
        rows[LAYERS.name] += _layer_rows(board, processor.letter, parameters, works[processor.kind == "npu"], name)
        rows[DVFS_DELAY.name] += _delay_rows(board, processor.letter, parameters)
    for pair in _pairs(board):
        rows[TRANSFERS.name] += _transfer_rows(estimate, pair, works[False], name)
        rows[TRANSFER_FREQUENCY.name] += _frequency_rows(board, estimate, pair)
    if measured is not None:
        _check_measured(measured, board, name, model.layer_count)
        rows = {
            LAYERS.name: _override(LAYERS, rows[LAYERS.name], measured, name),
            TRANSFERS.name: _override(TRANSFERS, rows[TRANSFERS.name], measured, name),
            TRANSFER_FREQUENCY.name: _override(TRANSFER_FREQUENCY, rows[TRANSFER_FREQUENCY.name], measured),
            DVFS_DELAY.name: _override_delays(rows[DVFS_DELAY.name], measured),
        }
    processors = tuple(
        ProfiledProcessor(p.letter, p.kind, _opp_count(board, p.letter), p.host) for p in board.processors
    )
    numbered = {key: [Row(line, values) for line, values in enumerate(table, start=2)] for key, table in rows.items()}
    facts = measured.facts if measured is not None else ProfileFacts()
    idle_power_mw = facts.idle_power_mw or board.idle_power_mw or IDLE_POWER_MW
    return Profile(Path(f"estimate of {name}"), numbered, processors, idle_power_mw, facts)


def read_measured_rows(folder: Path, board: Board) -> Profile:
    """A measured profile that may be partial: tables and rows may be missing. Raises ProfileError."""
    tables = (LAYERS, TRANSFERS, TRANSFER_FREQUENCY, DVFS_DELAY)
    rows = {
        table.name: read_table(table, folder / table.file_name, board.letters)
        if (folder / table.file_name).exists()
        else []
        for table in tables
    }
    if not any(rows.values()):
        raise EstimateError(f"{folder}: expected one of {', '.join(table.file_name for table in tables)}, got none")
    facts = read_facts(folder)
    return Profile(folder, rows, (), facts.idle_power_mw or board.idle_power_mw or IDLE_POWER_MW, facts)


def _parameters(board: Board) -> BoardEstimate:
    missing = "its file has no section [estimate]"
    estimate = board_estimate(board)
    if estimate is not None:
        absent = [f"processors.{p.letter}" for p in board.processors if p.letter not in estimate.processors]
        absent += [f"transfers.{pair}" for pair in _pairs(board) if pair not in estimate.transfers]
        if not absent:
            return estimate
        missing = f"its file has no section [estimate.{absent[0]}]"
    raise EstimateError(f"board {board.name}: {missing}; `planner fit-board` writes it from a measured profile")


def _pairs(board: Board) -> list[str]:
    """The transfers that a profile has: between CPUs and GPUs; an NPU's are its host's."""
    letters = [p.letter for p in board.processors if p.kind != "npu"]
    return [source + destination for source in letters for destination in letters if source != destination]


def _opp_count(board: Board, letter: str) -> int:
    processor = board.processor(letter)
    return (
        board.processor(processor.host).opp_count if processor.kind == "npu" and processor.host else processor.opp_count
    )


def _states(board: Board, letter: str) -> list[tuple[int, int | None]]:
    """(own index, host's index) of each operating point, as the columns of layers.csv have them."""
    processor = board.processor(letter)
    if processor.host is None:
        return [(own, None) for own in range(processor.opp_count)]
    hosts = range(board.processor(processor.host).opp_count)
    if processor.kind == "npu":
        return [(host, host) for host in hosts]
    return [(own, host) for own in range(processor.opp_count) for host in hosts]


def _layer_rows(
    board: Board, letter: str, parameters: ProcessorEstimate, works: Sequence[LayerWork], name: str
) -> Iterator[Values]:
    states = _states(board, letter)
    points = np.array([shares(board, letter, *state) for state in states])
    run_ms, busy = run_times(parameters, works, points)
    idle = np.zeros(len(states))
    input_ms = copy_times(parameters.input, [works[0].elements_in], points)[:, 0]
    output_ms = copy_times(parameters.output, [works[-1].elements_out], points)[:, 0]
    phases: list[tuple[int, str, Floats, Floats | None]] = [
        (0, "input", input_ms, powers(parameters.input_power, points, idle)),
        (len(works) - 1, "output", output_ms, None),
    ]
    phases += [
        (layer, "run", run_ms[:, layer], powers(parameters.power, points, busy[:, layer]))
        for layer in range(len(works))
    ]
    if board.processor(letter).kind == "npu":
        load_ms = copy_times(parameters.load, [work.elements_in for work in works], points)
        outs = [work.elements_out for work in works]
        get_ms = run_ms + copy_times(parameters.get, outs, points)
        fill_ms = copy_times(parameters.fill, outs, points)
        named = (("npu_load", load_ms), ("npu_run_and_get", get_ms), ("npu_fill_tensor", fill_ms))
        phases += [(layer, phase, times[:, layer], None) for phase, times in named for layer in range(len(works))]
    for layer, phase, times, powers_mw in phases:
        for index, (own, host) in enumerate(states):
            power_mw = None if powers_mw is None else _short(powers_mw[index])
            yield name, letter, own, host, layer, phase, _short(times[index]), power_mw


def _delay_rows(board: Board, letter: str, parameters: ProcessorEstimate) -> Iterator[Values]:
    processor = board.processor(letter)
    if processor.kind == "npu":
        return
    delays = parameters.delays
    for old in range(processor.opp_count):
        for new in range(processor.opp_count):
            delay_ms = delays.up_ms if new > old else delays.down_ms if new < old else delays.same_ms
            yield letter, old, new, delay_ms


def _transfer_rows(estimate: BoardEstimate, pair: str, works: Sequence[LayerWork], name: str) -> Iterator[Values]:
    line = estimate.transfers[pair]
    for layer, work in enumerate(works[:-1]):
        time_ms = line.call_ms + line.ms_per_mb * work.bytes_sent / MB if work.bytes_sent else 0.0
        yield name, layer, pair[0], pair[1], _short(time_ms)


def _frequency_rows(board: Board, estimate: BoardEstimate, pair: str) -> Iterator[Values]:
    source, destination = pair[0], pair[1]
    if board.processor(source).kind == "gpu" and board.processor(source).host != destination:
        return  # its host fetches the result, wherever it goes from there
    transfer = estimate.transfers[pair]
    cpu = copying_cpu(board, source, destination)
    share = np.array([frequency_share(cpu, index) for index in range(cpu.opp_count)])
    ratio = transfer_ratio(transfer, share[0] / share)
    points = np.column_stack([share, np.ones(len(share))])
    power_mw = powers(transfer.power, points, np.zeros(len(share)))
    lowest_ms = transfer.call_ms + transfer.ms_per_mb * _SYNTHETIC_BYTES / MB
    for own, other, index in frequency_keys(board, source, destination):
        times = (_short(lowest_ms * ratio[index]), _short(power_mw[index]), _short(ratio[index]))
        yield source, destination, own, other, *times


def _check_measured(measured: Profile, board: Board, name: str, layer_count: int) -> None:
    """Raises EstimateError where rows do not fit the model or the board."""
    counts = {p.letter: _opp_count(board, p.letter) for p in board.processors}
    path = measured.folder / LAYERS.file_name
    for row in measured.rows[LAYERS.name]:
        model, letter, own, host, layer = cast("tuple[str, str, int, int | None, int]", row.values[:5])
        if model != name:
            continue
        processor = board.processor(letter)
        if layer >= layer_count:
            raise EstimateError(f"{path}:{row.line}: layer: {name} has {layer_count} layers here, got layer {layer}")
        for column, index, owner in (("freq_index", own, letter), ("host_freq_index", host, processor.host)):
            if (index is None) != (owner is None) or (index is not None and owner and index >= counts[owner]):
                expected = "none" if owner is None else f"an index below {counts[owner]} of {owner}"
                raise EstimateError(f"{path}:{row.line}: {column}: expected {expected}, got {index}")


def _override(table: Table, estimated: list[Values], measured: Profile, name: str | None = None) -> list[Values]:
    """Measured rows in the place of estimated ones with the same key; others of the model `name` behind them.

    A measured row without a power has the estimated one's.
    """
    found = {values[: table.key_count]: values for values in estimated}
    for row in measured.rows[table.name]:
        key = row.values[: table.key_count]
        if name is None or row.values[0] == name:
            guess = found.get(key, row.values)
            found[key] = tuple(g if value is None else value for value, g in zip(row.values, guess, strict=True))
    return list(found.values())


def _override_delays(estimated: list[Values], measured: Profile) -> list[Values]:
    """Changes of frequency may be measured several times: all of them count, and no estimate beside them."""
    rows = [row.values for row in measured.rows[DVFS_DELAY.name]]
    known = {values[:3] for values in rows}
    return [values for values in estimated if values[:3] not in known] + rows


def _short(value: float) -> float:
    return float(f"{value:.6g}")
