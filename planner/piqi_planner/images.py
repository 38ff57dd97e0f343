"""Labelled photographs in a folder, as the arrays that a network takes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from piqi_runtime.decode import place
from piqi_runtime.errors import PiqiError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: How bytes become floats: `signed` [-1, 1], `unit` [0, 1], `raw` [0, 255].
Preprocessing = Literal["signed", "unit", "raw"]
#: What to do with another size: `crop` the centre after resizing the shorter side, `stretch`, `letterbox` (resize the
#: longer side, pad with grey), or `exact`: an error.
Fit = Literal["crop", "stretch", "letterbox", "exact"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
MAX_PIXELS = 1 << 26
MODES = {1: "L", 3: "RGB"}
GREY = 128


class ImageError(PiqiError):
    """An image, folder or list of labels that cannot be used. Names the file."""


@dataclass(frozen=True)
class ImageSet:
    """Files and, where they are known, labels; nothing is read before it is asked for."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, count: int) -> ImageSet:
        """`count` of the images, evenly spread (every (len / count)-th); all if there are no more than
        that."""
        if count < 1:
            raise ImageError(f"a sample needs at least one image, got {count}")
        chosen = slice(0, count * max(len(self) // count, 1), max(len(self) // count, 1))
        return replace(self, paths=self.paths[chosen], labels=self.labels and self.labels[chosen])

    def batches(
        self,
        shape: tuple[int, ...],
        preprocessing: Preprocessing = "signed",
        fit: Fit = "crop",
        batch: int = 1,
    ) -> Iterator[Floats]:
        """Arrays [<= batch, H, W, C] for a network whose input has `shape` [N, H, W, C]. Raises
        ImageError."""
        if len(shape) != 4 or shape[3] not in MODES:
            raise ImageError(f"images fill an input of shape [N, H, W, 1 or 3], not {list(shape)}")
        if batch < 1:
            raise ImageError(f"a batch needs at least one image, got {batch}")
        size = (shape[1], shape[2], shape[3])
        for start in range(0, len(self), batch):
            yield np.stack([load_image(path, size, preprocessing, fit) for path in self.paths[start : start + batch]])


def load_image_set(folder: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None) -> ImageSet:
    """The images that `labels`, a CSV with the columns file and label, lists; without it, all of `folder`, by
    name.

    `labels` defaults to ``folder/labels.csv`` where that exists. Raises ImageError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: is not a folder")
    if labels is None and not (folder / "labels.csv").is_file():
        paths = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES))
        if not paths:
            raise ImageError(f"{folder}: has no images ({', '.join(sorted(SUFFIXES))})")
        return ImageSet(paths)
    return _read_labels(folder, Path(labels) if labels is not None else folder / "labels.csv")


def _read_labels(folder: Path, labels: Path) -> ImageSet:
    paths, numbers = [], []
    try:
        with open(labels, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise ImageError(f"{labels}: needs the columns file and label, got {reader.fieldnames}")
            for row in reader:
                name, label = row["file"], row["label"]
                if not name or label is None or not label.isdecimal():
                    raise ImageError(
                        f"{labels}:{reader.line_num}: expected a file and a label >= 0, got {name!r}, {label!r}"
                    )
                paths.append(folder / name)
                numbers.append(int(label))
    except OSError as error:
        raise ImageError(f"{labels}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{labels}: {error}") from error
    if not paths:
        raise ImageError(f"{labels}: lists no images")
    return ImageSet(tuple(paths), tuple(numbers))


def load_image(
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    preprocessing: Preprocessing = "signed",
    fit: Fit = "crop",
) -> Floats:
    """One image as [H, W, C]. Raises ImageError naming the file if it is missing, corrupt or of a wrong
    size."""
    pixels, _ = load_pixels(path, shape, fit)
    return preprocess(pixels, preprocessing)


def preprocess(pixels: Bytes, preprocessing: Preprocessing) -> Floats:
    """Pixels of any shape as the floats that a network takes. Raises ImageError."""
    check_choice("preprocessing", preprocessing, Preprocessing)
    floats = pixels.astype(np.float32)
    if preprocessing == "signed":
        return floats / np.float32(127.5) - np.float32(1)
    return floats / np.float32(255) if preprocessing == "unit" else floats


def load_pixels(
    path: str | os.PathLike[str], shape: tuple[int, int, int], fit: Fit = "crop", content: bytes | None = None
) -> tuple[Bytes, tuple[int, int]]:
    """One image as uint8 [H, W, C], and the width and height that it had. Raises ImageError as `load_image` does.

    `content`: the file's bytes, where they have been read.
    """
    height, width, channels = shape
    check_choice("fit", fit, Fit)
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            size = image.size
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{path}: {image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            if fit == "exact" and image.size != (width, height):
                raise ImageError(f"{path}: expected {width}x{height} pixels, got {image.width}x{image.height}")
            pixels = np.asarray(_fitted(image.convert(MODES[channels]), width, height, fit), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: is not an image that can be read") from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all of these for broken files
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return pixels.reshape(shape), size


def check_choice(name: str, value: str, known: object) -> None:
    """Raises ImageError if `value` is not one of the literals of the type `known`."""
    if value not in get_args(known):
        raise ImageError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")


def _fitted(image: Image.Image, width: int, height: int, fit: Fit) -> Image.Image:
    if image.size == (width, height):
        return image
    placement = place(fit, image.width, image.height, width, height)
    image = image.resize((placement.width, placement.height), Image.Resampling.BILINEAR)
    if fit == "letterbox":
        canvas = Image.new(image.mode, (width, height), (GREY,) * len(image.getbands()))
        canvas.paste(image, (placement.left, placement.top))
        return canvas
    return image.crop((-placement.left, -placement.top, width - placement.left, height - placement.top))
