"""What quantising single layers and pairs of them does: accuracy, and power efficiency on the board."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.build.files import write
from piqi_planner.build.plots import draw_one_layer, draw_two_layers

if TYPE_CHECKING:
    from piqi_planner.cost import CostModel
    from piqi_planner.evaluation.evaluator import Evaluator
    from piqi_planner.profile import ModelProfile

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Characterisation:
    """Of n masks [n, layers]: measured accuracy in percent, its difference to the float model and standard error in
    points; frames a joule and latency in ms as predicted, with the layers that are not quantised on `base`, the NPU's
    host at its highest frequency. Row 0 is the mask of no layer.
    """

    base: str
    names: Sequence[str]
    masks: Masks
    accuracy: Floats
    difference: Floats
    standard_error: Floats
    frames_per_joule: Floats
    latency_ms: Floats

    @property
    def singles(self) -> npt.NDArray[np.intp]:
        """Rows of the masks of one layer, by layer."""
        return np.flatnonzero(self.masks.sum(axis=1) == 1)

    @property
    def pairs(self) -> npt.NDArray[np.intp]:
        """Rows of the masks of two layers."""
        return np.flatnonzero(self.masks.sum(axis=1) == 2)

    def worst(self, count: int) -> list[int]:
        """The layers whose quantisation alone loses most accuracy, the worst first."""
        order = np.argsort(self.difference[self.singles], kind="stable")
        return [int(np.flatnonzero(self.masks[self.singles[place]])[0]) for place in order[:count]]


def characterise(
    names: Sequence[str], profile: ModelProfile, cost: CostModel, masks: Masks, evaluator: Evaluator
) -> Characterisation:
    """Of the mask of no layer and `masks` [n, layers], all of which were evaluated; single layers in their order."""
    masks = np.concatenate([np.zeros((1, profile.layer_count), bool), masks])
    npu = next(place for place, p in enumerate(profile.processors) if p.kind == "npu")
    host = profile.processors[npu].host
    base = next(place for place, p in enumerate(profile.processors) if p.letter == host)
    # The last state of each is at the highest frequencies.
    exact, quantised = (int(np.flatnonzero(profile.processor_of == place)[-1]) for place in (base, npu))
    costs = cost.evaluate(np.where(masks, quantised, exact))
    summaries = [evaluator.summary(mask) for mask in masks]
    return Characterisation(
        profile.processors[base].letter,
        names,
        masks,
        np.array([summary.value for summary in summaries]),
        np.array([summary.difference for summary in summaries]),
        np.array([summary.difference_standard_error for summary in summaries]),
        1e3 / costs.energy_mj,
        costs.latency_ms,
    )


def write_characterisation(folder: Path, found: Characterisation) -> None:
    """characterisation.csv, one_layer.png and, where there are pairs, two_layers.png."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["quantised_layers", "accuracy", "difference", "difference_standard_error", "frames_per_joule", "latency_ms"]
    )
    for row, mask in enumerate(found.masks):
        columns = (
            found.accuracy,
            found.difference,
            found.standard_error,
            found.frames_per_joule,
            found.latency_ms,
        )
        layers = " ".join(str(layer) for layer in np.flatnonzero(mask))
        writer.writerow([layers, *(float(column[row]) for column in columns)])
    write(folder / "characterisation.csv", text.getvalue().encode())
    for name, draw in (("one_layer.png", draw_one_layer), ("two_layers.png", draw_two_layers)):
        picture = io.BytesIO()
        draw(picture, found)
        write(folder / name, picture.getvalue())
