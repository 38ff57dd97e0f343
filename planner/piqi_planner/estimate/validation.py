"""How well the model predicts a network that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from piqi_planner.estimate.fit import Measurements, fit_processor
from piqi_planner.estimate.predict import powers, run_times
from piqi_planner.profile.model import Floats


@dataclass(frozen=True, eq=False)
class Unseen:
    """One model on one processor, predicted by parameters fitted to the other models.

    Relative errors: `layers` of each layer at each operating point, `totals` of the sum over the layers at each;
    `power` of each layer's power where it was measured.
    """

    model: str
    processor: str
    layers: Floats
    totals: Floats
    power: Floats


def leave_one_out(measurements: Measurements, letter: str) -> list[Unseen]:
    """For each model with rows on a processor, unless it is the only one."""
    samples = measurements.samples(letter, "run")
    models = samples.models
    return [
        _predict(measurements, letter, name, [m for m in models if m != name]) for name in models if len(models) > 1
    ]


def _predict(measurements: Measurements, letter: str, name: str, others: list[str]) -> Unseen:
    parameters = fit_processor(measurements, letter, others)
    samples = measurements.samples(letter, "run").of([name])
    works = measurements.works(letter, samples)
    guesses = [run_times(parameters, [work], point[None]) for work, point in zip(works, samples.points, strict=True)]
    times = np.array([time_ms[0, 0] for time_ms, _ in guesses])
    busy = np.array([share[0, 0] for _, share in guesses])
    states = sorted(set(samples.states), key=str)
    place = np.array([states.index(state) for state in samples.states])
    totals = np.bincount(place, times) / np.bincount(place, samples.time_ms) - 1
    power = powers(parameters.power, samples.points, busy) / samples.power_mw - 1
    return Unseen(name, letter, times / samples.time_ms - 1, totals, power[~np.isnan(power)])


def median_percent(errors: list[Floats]) -> float:
    """Median of absolute relative errors, in percent."""
    return float(100 * np.median(np.abs(np.concatenate(errors))))
