"""Labelled images as they are used to measure accuracy: checked, decoded once, known by their content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import __version__ as pillow_version

from piqi_planner.evaluation.coco import GroundTruth, read_annotations
from piqi_planner.images import (
    MODES,
    SUFFIXES,
    Bytes,
    Fit,
    Floats,
    ImageError,
    Preprocessing,
    check_choice,
    load_image_set,
    load_pixels,
    preprocess,
)
from piqi_planner.progress import progress
from piqi_runtime.container import write_atomically

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

#: Images that are named where some cannot be used.
NAMED = 5
#: Images that are read ahead.
CHUNK = 64


class DatasetError(ImageError):
    """Evaluation data that cannot be used. Names files."""


@dataclass(frozen=True)
class EvaluationSet:
    """Images that can be used, with labels or boxes. Can be pickled; the pixels stay in a file that is mapped."""

    source: Path  # what lists the images: labels, annotations or the folder
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]  # width, height of the files
    labels: tuple[int, ...] | None
    truth: GroundTruth | None
    shape: tuple[int, int, int]  # of a frame: height, width, channels
    preprocessing: Preprocessing
    fit: Fit
    left_out: tuple[str, ...]  # a line for each image that cannot be used
    content_hash: str  # SHA-256 of all that the outputs and the metrics depend on
    pixels_file: Path
    rows: tuple[int, ...]  # of the frames in that file

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pixels"}

    def frames(self, first: int, count: int) -> Floats:
        """Frames first to first + count - 1, [count, H, W, C] float32, as the network takes them. Raises ImageError."""
        if first < 0 or count < 1 or first + count > len(self):
            raise DatasetError(f"{self.source}: frames {first} to {first + count - 1} of {len(self)}")
        return preprocess(self._pixels[list(self.rows[first : first + count])], self.preprocessing)

    @cached_property
    def _pixels(self) -> Bytes:
        pixels = _map(self.pixels_file, self.shape)
        if pixels is None:
            raise DatasetError(f"{self.pixels_file}: is missing or damaged: prepare the images again")
        return pixels


def open_evaluation_set(
    folder: str | os.PathLike[str],
    shape: Sequence[int],
    cache: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing = "signed",
    fit: Fit = "crop",
    limit: int | None = None,
    max_bad_share: float = 0.05,
) -> EvaluationSet:
    """The images of `folder` for an input of `shape` [N, H, W, C], with the labels of a CSV or COCO annotations.

    `labels` defaults to ``folder/labels.csv`` where that exists. `limit`: only so many, evenly spread. Images that
    have no label, are corrupt or of a wrong size (fit "exact"; a size other than the annotations say) are left out
    with one warning. `cache`: a folder for the decoded pixels, H * W * C bytes an image. Raises ImageError, for
    more than `max_bad_share` of bad images too.
    """
    if len(shape) != 4 or shape[3] not in MODES:
        raise DatasetError(f"images fill an input of shape [N, H, W, 1 or 3], not {list(shape)}")
    check_choice("preprocessing", preprocessing, Preprocessing)
    check_choice("fit", fit, Fit)
    if not 0 <= max_bad_share < 1:
        raise DatasetError(f"max_bad_share must be at least 0 and below 1, got {max_bad_share}")
    if limit is not None and limit < 1:
        raise DatasetError(f"limit must be at least 1, got {limit}")
    if labels is not None and annotations is not None:
        raise DatasetError(f"{labels}, {annotations}: expected labels or annotations, not both")
    size = (int(shape[1]), int(shape[2]), int(shape[3]))
    listed = _listed(Path(folder), labels, annotations)
    unlabelled = len(listed.unlabelled) / (len(listed.paths) + len(listed.unlabelled))
    _check_share(listed.source, listed.unlabelled, unlabelled, max_bad_share)
    if limit is not None:
        step = max(len(listed.paths) // limit, 1)
        listed = listed.select(range(0, min(limit, len(listed.paths)) * step, step))
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    digests = list(_threaded(_digest, listed.paths, "reading"))
    key = _hash([1, pillow_version, size, fit, digests, listed.sizes])[:32]
    stored = _read_index(cache / f"{key}.json")
    if stored is None or _map(cache / f"{key}.npy", size) is None:
        stored = _decode(listed, size, fit, cache / key, max_bad_share)
    reasons = [f"{path}: {reason}" for path, (_, reason) in zip(listed.paths, stored, strict=True) if reason]
    left_out = (*listed.unlabelled, *reasons)
    bad_share = unlabelled + (1 - unlabelled) * len(reasons) / len(stored)
    _check_share(listed.source, left_out, bad_share, max_bad_share)
    used = [i for i, (_, reason) in enumerate(stored) if not reason]
    if left_out:
        logger.warning(
            "%s: left out %d of %d images: %s",
            listed.source,
            len(left_out),
            len(stored) + len(listed.unlabelled),
            _first(left_out),
        )
    chosen = listed.select(used)
    truth = chosen.truth.digest() if chosen.truth else None
    return EvaluationSet(
        listed.source,
        chosen.paths,
        tuple(stored[i][0] for i in used),
        chosen.labels,
        chosen.truth,
        size,
        preprocessing,
        fit,
        left_out,
        _hash([1, size, fit, preprocessing, chosen.labels, truth, [digests[i] for i in used]]),
        cache / f"{key}.npy",
        tuple(used),
    )


@dataclass(frozen=True)
class _Listed:
    source: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None = None
    truth: GroundTruth | None = None
    sizes: tuple[tuple[int, int] | None, ...] | None = None  # as annotated
    unlabelled: tuple[str, ...] = ()

    def select(self, chosen: Sequence[int]) -> _Listed:
        return _Listed(
            self.source,
            tuple(self.paths[i] for i in chosen),
            self.labels and tuple(self.labels[i] for i in chosen),
            self.truth and self.truth.select(chosen),
            self.sizes and tuple(self.sizes[i] for i in chosen),
            self.unlabelled,
        )


def _listed(folder: Path, labels: str | os.PathLike[str] | None, annotations: str | os.PathLike[str] | None) -> _Listed:
    if annotations is not None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: is not a folder")
        coco = read_annotations(annotations)
        paths = tuple(folder / file for file in coco.files)
        return _Listed(Path(annotations), paths, None, coco.truth, coco.sizes)
    images = load_image_set(folder, labels)
    if images.labels is None:
        return _Listed(folder, images.paths)
    source = Path(labels) if labels is not None else folder / "labels.csv"
    known = set(images.paths)
    others = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path not in known)
    return _Listed(
        source, images.paths, images.labels, unlabelled=tuple(f"{path}: has no label in {source}" for path in others)
    )


def _decode(
    listed: _Listed, shape: tuple[int, int, int], fit: Fit, stem: Path, max_bad_share: float
) -> list[tuple[tuple[int, int], str]]:
    """Writes the pixels of all images, zeros for a bad one, and the index: size and what is wrong with each."""
    index: list[tuple[tuple[int, int], str]] = []
    bad: list[str] = []
    sizes = listed.sizes or (None,) * len(listed.paths)

    def load(item: tuple[Path, tuple[int, int] | None]) -> tuple[Bytes | None, tuple[int, int], str]:
        path, stated = item
        try:
            pixels, size = load_pixels(path, shape, fit)
        except ImageError as error:
            return None, (0, 0), str(error).removeprefix(f"{path}: ")
        if stated is not None and size != stated:
            return None, size, f"has {size[0]}x{size[1]} pixels, {stated[0]}x{stated[1]} in {listed.source}"
        return pixels, size, ""

    def parts() -> Iterator[bytes]:
        yield _header((len(listed.paths), *shape))
        nothing = bytes(int(np.prod(shape)))
        for pixels, size, reason in _threaded(load, list(zip(listed.paths, sizes, strict=True)), "decoding"):
            if reason:
                bad.append(f"{listed.paths[len(index)]}: {reason}")
                _check_share(listed.source, bad, len(bad) / len(listed.paths), max_bad_share)
            index.append((size, reason))
            yield nothing if pixels is None else pixels.tobytes()

    write_atomically(stem.with_suffix(".npy"), parts())
    write_atomically(stem.with_suffix(".json"), [json.dumps(index).encode()])
    return index


def _header(shape: tuple[int, ...]) -> bytes:
    """What precedes the data of a .npy file of bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(128 - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _map(path: Path, shape: tuple[int, int, int]) -> Bytes | None:
    """The mapped file, None if it is missing or not what was written."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.dtype == np.uint8 and pixels.shape[1:] == shape else None


def _read_index(path: Path) -> list[tuple[tuple[int, int], str]] | None:
    try:
        return [((int(w), int(h)), str(reason)) for (w, h), reason in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None


def _check_share(source: Path, bad: Sequence[str], share: float, allowed: float) -> None:
    if share > allowed:
        raise DatasetError(
            f"{source}: {share:.1%} of the images cannot be used, at most {allowed:.1%} may: {_first(bad)}"
        )


def _first(lines: Sequence[str]) -> str:
    return "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"missing: {error.strerror}"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _threaded(function: Callable[[T], R], items: Sequence[T], title: str) -> Iterator[R]:
    """The function of each item, in order, by several threads; only a few results wait."""

    def results() -> Iterator[R]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(items), CHUNK):
                yield from pool.map(function, items[start : start + CHUNK])

    return progress(results(), len(items), title)
