"""Fitting the analytic model's parameters to measured profiles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import cast

import numpy as np

from piqi_planner.estimate.parameters import (
    BoardEstimate,
    Copy,
    Delays,
    EstimateError,
    PowerModel,
    ProcessorEstimate,
    Rate,
    WorkKind,
)
from piqi_planner.estimate.predict import inverse, power_terms, run_times, shares, work_matrix
from piqi_planner.estimate.solver import solve
from piqi_planner.estimate.transfers import fit_transfers
from piqi_planner.estimate.work import WORK_KINDS, LayerWork, describe_work
from piqi_planner.profile import Profile
from piqi_planner.profile.model import Floats
from piqi_runtime.boards import Board
from piqi_runtime.model import Model
from piqi_runtime.profile_tables import DVFS_DELAY, LAYERS

_OWN, _HOST, _FIXED = range(3)
_POWER_FIELDS = tuple(PowerModel.model_fields)


@dataclass(frozen=True, eq=False)
class Samples:
    """Measured rows of one processor and phase: model and layer, shares of frequency [n, 2], ms and mW (NaN) [n]."""

    where: list[tuple[str, int]]
    states: list[tuple[int, int | None]]
    points: Floats
    time_ms: Floats
    power_mw: Floats

    def of(self, models: Collection[str]) -> Samples:
        """Those of some models."""
        keep = [i for i, (model, _) in enumerate(self.where) if model in models]
        where, states = [self.where[i] for i in keep], [self.states[i] for i in keep]
        return Samples(where, states, self.points[keep], self.time_ms[keep], self.power_mw[keep])

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for model, _ in self.where))

    @cached_property
    def weights(self) -> Floats:
        """[n]: a model of many layers counts for more than one of few, but not for as much more."""
        layers = {model: len({where for where in self.where if where[0] == model}) for model in self.models}
        return np.array([layers[model] ** -0.5 for model, _ in self.where])


class Measurements:
    """A profile's rows beside the work of its models' layers. Raises EstimateError where the two do not fit."""

    def __init__(self, profile: Profile, board: Board, networks: Mapping[str, Model]) -> None:
        self.profile, self.board = profile, board
        self.models = [name for name in profile.models() if name in networks]
        if not self.models:
            raise EstimateError(
                f"{profile.folder}: models {', '.join(profile.models())}: the structure of none is known, "
                f"only of {', '.join(networks)}"
            )
        self._works = {name: {npu: describe_work(networks[name], npu) for npu in (False, True)} for name in self.models}
        counts: dict[str, int] = {}
        for row in profile.rows[LAYERS.name]:
            model, layer = cast(str, row.values[0]), cast(int, row.values[4])
            counts[model] = max(counts.get(model, 0), layer + 1)
        for name in self.models:
            if counts[name] != networks[name].layer_count:
                raise EstimateError(
                    f"{profile.folder / LAYERS.file_name}: {name}: expected {networks[name].layer_count} layers, "
                    f"as its structure has, got {counts[name]}"
                )

    def is_npu(self, letter: str) -> bool:
        return self.board.processor(letter).kind == "npu"

    def works(self, letter: str, samples: Samples) -> list[LayerWork]:
        """The work of each sample's layer [n]."""
        return [self._works[model][self.is_npu(letter)][layer] for model, layer in samples.where]

    def network_works(self, model: str) -> list[LayerWork]:
        """The work of a model's layers on a CPU or GPU."""
        return self._works[model][False]

    def samples(self, letter: str, phase: str) -> Samples:
        """All rows of a processor and phase; of the input before the first layer, the output behind the last."""
        where, states, points, times, powers = [], [], [], [], []
        for row in self.profile.rows[LAYERS.name]:
            model, processor, own, host, layer, name, time_ms, power_mw = cast(
                "tuple[str, str, int, int | None, int, str, float, float | None]", row.values
            )
            if (processor, name) != (letter, phase) or model not in self.models or time_ms <= 0:
                continue
            last = len(self._works[model][False]) - 1
            if (name == "input" and layer != 0) or (name == "output" and layer != last):
                continue
            where.append((model, layer))
            states.append((own, host))
            points.append(shares(self.board, letter, own, host))
            times.append(time_ms)
            powers.append(np.nan if power_mw is None else power_mw)
        return Samples(where, states, np.array(points).reshape(-1, 2), np.array(times), np.array(powers))


def fit_board(measurements: Measurements, provenance: str) -> BoardEstimate:
    """All parameters of the board, fitted to all models. Raises EstimateError where a processor has no rows."""
    profile, board = measurements.profile, measurements.board
    letters = [p.letter for p in profile.processors]
    return BoardEstimate(
        basis="fitted",
        provenance=provenance,
        processors={letter: fit_processor(measurements, letter, measurements.models) for letter in letters},
        transfers=fit_transfers(profile, board, {n: measurements.network_works(n) for n in measurements.models}),
    )


def fit_processor(measurements: Measurements, letter: str, models: Sequence[str]) -> ProcessorEstimate:
    """One processor's parameters, fitted to some models. Raises EstimateError where these have no rows on it."""
    run = measurements.samples(letter, "run").of(models)
    if not run.where:
        raise EstimateError(f"{measurements.profile.folder / LAYERS.file_name}: no rows of {letter} to fit to")
    works = measurements.works(letter, run)
    kind = measurements.board.processor(letter).kind
    rates = _fit_work(kind, run, works)

    def fit_copy(phase: str) -> Copy:
        samples = measurements.samples(letter, phase).of(models)
        ends = measurements.works(letter, samples)
        elements = [w.elements_in if phase in ("input", "npu_load") else w.elements_out for w in ends]
        if phase == "npu_run_and_get":  # the wall time of run and fetch
            samples = _without_run(samples, run)
        return _fit_copy(kind, samples, elements)

    partial = ProcessorEstimate(
        work=rates, power=PowerModel(base=0), input=Copy(), input_power=PowerModel(base=0), output=Copy()
    )
    busy = np.array([_busy_share(partial, work, point) for work, point in zip(works, run.points, strict=True)])
    host = () if kind == "cpu" else ("host_linear", "host_cubic")
    own = {"cpu": ("linear", "cubic", "busy_linear", "busy_cubic"), "gpu": _POWER_FIELDS[1:5], "npu": ("busy_linear",)}
    before = measurements.samples(letter, "input").of(models)
    npu = kind == "npu"
    return partial.model_copy(
        update={
            "power": _fit_power(run, busy, ("base", *own[kind], *host)),
            "input": fit_copy("input"),
            "input_power": _fit_power(before, np.zeros(len(before.where)), ("base", "linear", "cubic", *host)),
            "output": fit_copy("output"),
            "delays": Delays() if npu else _delays(measurements.profile, letter),
            **({"load": fit_copy("npu_load"), "get": fit_copy("npu_run_and_get")} if npu else {}),
            **({"fill": fit_copy("npu_fill_tensor")} if npu else {}),
        }
    )


def _fit_work(kind: str, run: Samples, works: Sequence[LayerWork]) -> dict[WorkKind, Rate]:
    """A CPU's and GPU's work follows its own frequency, launches of a GPU that of its host as well.

    An NPU's launch is in its copies: `run` is the time on the NPU itself.
    """
    allowed = np.zeros((len(WORK_KINDS), 3), bool)
    allowed[:, _FIXED] = True
    allowed[:, _OWN] = kind != "npu"
    launches = [index for index, name in enumerate(WORK_KINDS) if name in ("layer", "operator")]
    allowed[launches, _HOST] = kind == "gpu"
    allowed[launches, _FIXED] = kind != "npu"
    rates = _fit_rates(work_matrix(works), run, allowed)
    return {name: _rate(values) for name, values in zip(WORK_KINDS, rates, strict=True) if values.any()}


def _fit_copy(kind: str, samples: Samples, elements: Sequence[int]) -> Copy:
    """Made by the CPU: a GPU's or NPU's follow their host."""
    if not samples.where:
        return Copy()
    allowed = np.ones((2, 3), bool)
    allowed[:, _HOST if kind == "cpu" else _OWN] = False
    rates = _fit_rates(np.column_stack([np.ones(len(elements)), np.asarray(elements, float)]), samples, allowed)
    return Copy(call=_rate(rates[0]), element=_rate(rates[1]))


def _fit_rates(units: Floats, samples: Samples, allowed: Floats) -> Floats:
    """[kinds, 3] in ns."""
    columns = (units[:, :, None] * inverse(samples.points)[:, None, :])[:, allowed]
    rates = np.zeros(allowed.shape)
    rates[allowed] = solve(columns, samples.time_ms * 1e6, samples.weights)
    return rates


def _fit_power(samples: Samples, busy: Floats, fields: Sequence[str]) -> PowerModel:
    known = ~np.isnan(samples.power_mw)
    chosen = [_POWER_FIELDS.index(name) for name in fields]
    columns = power_terms(samples.points, busy)[:, chosen]
    found = solve(columns[known], samples.power_mw[known], samples.weights[known])
    return PowerModel(**{"base": 0.0, **{name: _short(value) for name, value in zip(fields, found, strict=True)}})


def _busy_share(parameters: ProcessorEstimate, work: LayerWork, point: Floats) -> float:
    return float(run_times(parameters, [work], point[None])[1][0, 0])


def _without_run(samples: Samples, run: Samples) -> Samples:
    times = dict(zip(zip(run.where, run.states, strict=True), run.time_ms, strict=True))
    found = np.array([times[key] for key in zip(samples.where, samples.states, strict=True)])
    left = np.maximum(samples.time_ms - found, 1e-3)
    return Samples(samples.where, samples.states, samples.points, left, samples.power_mw)


def _delays(profile: Profile, letter: str) -> Delays:
    kinds: dict[str, list[float]] = {"up_ms": [], "down_ms": [], "same_ms": []}
    for row in profile.rows[DVFS_DELAY.name]:
        processor, old, new, delay_ms = cast("tuple[str, int, int, float]", row.values)
        if processor == letter:
            kinds["up_ms" if new > old else "down_ms" if new < old else "same_ms"].append(delay_ms)
    return Delays(**{name: _short(median(values)) for name, values in kinds.items() if values})


def _rate(values: Floats) -> Rate:
    return Rate(own=_short(values[_OWN]), host=_short(values[_HOST]), fixed=_short(values[_FIXED]))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
