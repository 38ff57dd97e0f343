"""Pictures of a characterisation and of active sampling, written to a binary stream."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.colors import TwoSlopeNorm

if TYPE_CHECKING:
    from piqi_planner.build.characterise import Characterisation, Floats


def draw_one_layer(target: IO[bytes], found: Characterisation) -> None:
    """Accuracy and power efficiency with one layer on the NPU, by layer; lines: with none."""
    singles = found.singles
    layers = np.arange(len(singles))
    figure, axes = pyplot.subplots(2, 1, figsize=(max(6.5, 0.16 * len(singles)), 5), sharex=True)
    axes[0].errorbar(
        layers, found.difference[singles], yerr=found.standard_error[singles], fmt="o", markersize=3.5, linewidth=0.8
    )
    axes[0].axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    axes[0].set_ylabel("accuracy: change (points)")
    axes[0].set_title(f"One layer on the NPU, the others on {found.base}", fontsize=10, loc="left")
    axes[1].bar(layers, found.frames_per_joule[singles], width=0.7, color="#2f6690")
    axes[1].axhline(found.frames_per_joule[0], color="0.5", linewidth=0.8, linestyle="--")
    axes[1].set_ylabel("frames per joule")
    axes[1].set_xlabel("layer")
    low, high = found.frames_per_joule[singles].min(), found.frames_per_joule[singles].max()
    axes[1].set_ylim(bottom=max(0.0, min(low, found.frames_per_joule[0]) - (high - low)))
    for axis in axes:
        axis.grid(visible=True, linewidth=0.3)
    _save(figure, target)


def draw_two_layers(target: IO[bytes], found: Characterisation) -> None:
    """Maps over pairs of layers: change of power efficiency, and of accuracy; single layers on the diagonal."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.8))
    efficiency = 100 * (found.frames_per_joule / found.frames_per_joule[0] - 1)
    for axis, values, title, label in (
        (axes[0], efficiency, "Power efficiency", "change (%)"),
        (axes[1], found.difference, "Accuracy", "change (points)"),
    ):
        shown = axis.imshow(_map(found, values), cmap="PiYG", norm=_norm(values), origin="lower")
        axis.set_title(f"{title}: two layers on the NPU, the others on {found.base}", fontsize=10, loc="left")
        axis.set_xlabel("layer")
        axis.set_ylabel("layer")
        figure.colorbar(shown, ax=axis, label=label, shrink=0.85)
    _save(figure, target)


def draw_rounds(target: IO[bytes], history: list[tuple[int, float]]) -> None:
    """The measured front's hypervolume against the number of masks that were measured."""
    figure, axis = pyplot.subplots(figsize=(6.5, 3.4))
    axis.plot([masks for masks, _ in history], [volume for _, volume in history], marker="o", markersize=4)
    axis.set_xlabel("masks measured")
    axis.set_ylabel("hypervolume of the measured front (s W)")
    axis.grid(visible=True, linewidth=0.3)
    _save(figure, target)


def draw_predicted(target: IO[bytes], predicted: Floats, measured: Floats) -> None:
    """Held-out predictions of the accuracy model against what was measured, both in percent."""
    figure, axis = pyplot.subplots(figsize=(4.8, 4.6))
    ends = (float(min(predicted.min(), measured.min())), float(max(predicted.max(), measured.max())))
    axis.plot(ends, ends, color="0.6", linewidth=0.8)
    axis.scatter(measured, predicted, s=8)
    axis.set_xlabel("measured accuracy (%)")
    axis.set_ylabel("predicted, held out (%)")
    axis.grid(visible=True, linewidth=0.3)
    _save(figure, target)


def _map(found: Characterisation, values: Floats) -> Floats:
    layers = found.masks.shape[1]
    picture = np.full((layers, layers), np.nan)
    for row in (*found.singles, *found.pairs):
        a, b = np.flatnonzero(found.masks[row])[[0, -1]]
        picture[a, b] = picture[b, a] = values[row]
    return picture


def _norm(values: Floats) -> TwoSlopeNorm:
    """White is no change."""
    span = max(float(np.abs(values).max()), 1e-9)
    return TwoSlopeNorm(0, -span, span)


def _save(figure: pyplot.Figure, target: IO[bytes]) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
