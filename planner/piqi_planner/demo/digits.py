"""The handwritten digits that come with scikit-learn, as a camera would give them: larger, in [-1, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 96  # pixels a side; the originals have 8

Array = npt.NDArray[Any]


def load() -> tuple[Array, Array, Array, Array]:
    """Training frames and labels, test frames and labels: float32 [n, 96, 96, 1] and int64 [n].

    Every third digit is in the test split; people wrote them in turn, so that all are in both.
    """
    from sklearn.datasets import load_digits  # only here: it takes a second to load

    digits = load_digits()
    frames = np.stack([_enlarge(image) for image in digits.images])
    is_test = np.arange(len(frames)) % 3 == 2
    labels = digits.target
    return frames[~is_test], labels[~is_test], frames[is_test], labels[is_test]


def write_images(folder: Path, frames: Array, labels: Array, count: int | None = None) -> None:
    """`count` of the frames, evenly spread (all if None), as PNG files with their labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file,label"]
    for number in range(0, len(frames), 1 if count is None else len(frames) // count):
        pixels = np.rint((frames[number, ..., 0] + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
        rows.append(f"{number:04}.png,{labels[number]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _enlarge(image: Array) -> Array:
    large = Image.fromarray(image.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels: Array = np.clip(np.asarray(large, np.float32), 0, 16) / 8 - 1
    return pixels[..., np.newaxis]
