"""Whether a bundle is what its manifest says, and whether its parts fit each other and the board."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from piqi_runtime.boards import Board
from piqi_runtime.bundle_files import file_problem, held, kind_of, list_files
from piqi_runtime.bundle_manifest import (
    MANIFEST,
    MODEL,
    TABLE,
    BundleError,
    Manifest,
    PartitionEntry,
    read_manifest,
)
from piqi_runtime.container import content_hash, load_model
from piqi_runtime.errors import PiqiError
from piqi_runtime.model import Model
from piqi_runtime.partition import Partition
from piqi_runtime.table import ParetoTable, TableError, load_table

Range = tuple[int, int]


@dataclasses.dataclass
class Parts:
    """What was loaded to be verified."""

    manifest: Manifest | None = None
    table: ParetoTable | None = None
    model: Model | None = None
    partitions: dict[Range, Partition] = dataclasses.field(default_factory=dict)


def verify_bundle(folder: str | os.PathLike[str], board: Board | None = None, parts: Parts | None = None) -> list[str]:
    """All that is wrong with a bundle, a line each, paths relative to it; none for a good one.

    Every file is there, nothing else is, sizes and SHA-256 are right, nothing is a link; table, model, partitions,
    labels and manifest agree; every range of NPU layers in the table has its partition. With `board`: the bundle is
    of this board, which can set every point. `parts` is filled with what was loaded for it.
    """
    with held(folder) as root:
        if not root.is_dir():
            return [f"{root}: is not a folder"]
        return [line.removeprefix(f"{root}/") for line in _problems(root, board, parts or Parts())]


def refuse(folder: Path, problems: Iterable[str]) -> None:
    """Raises BundleError with a line for each of the problems of the bundle in `folder`, if there are any."""
    # Text, not paths: a Path would tidy up what is wrong with them.
    lines = [problem if problem.startswith("/") else f"{folder}/{problem}" for problem in problems]
    if lines:
        raise BundleError("\n".join(lines))


def _problems(root: Path, board: Board | None, parts: Parts) -> Iterator[str]:
    try:
        manifest = parts.manifest = read_manifest(root)
    except BundleError as error:
        yield from str(error).split("\n")
        return
    try:
        for path, status in list_files(root):
            if path != MANIFEST and path not in manifest.files:
                yield f"{path}: {'is not in the manifest' if stat.S_ISREG(status.st_mode) else kind_of(status)}"
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"
    bad = set()
    for path, expected in manifest.files.items():
        if problem := file_problem(root, path, expected):
            bad.add(path)
            yield problem
    if manifest.kind == "kit":
        yield from board_problems(manifest, board)
    elif TABLE not in bad:
        try:
            parts.table = load_table(root / TABLE)
            yield from table_problems(manifest, parts.table, board)
        except TableError as error:
            yield str(error)
    if MODEL not in bad:
        try:
            parts.model = load_model(root / MODEL, verified=True)
            yield from model_problems(manifest, parts.model)
        except PiqiError as error:
            yield str(error)
    for entry in manifest.partitions:
        if entry.file not in bad:
            try:
                parts.partitions[entry.range] = load_partition(root, manifest, entry, verified=True)
            except PiqiError as error:
                yield str(error)
    if manifest.labels and manifest.labels not in bad:
        try:
            read_labels(root, manifest)
        except BundleError as error:
            yield str(error)


def board_problems(manifest: Manifest, board: Board | None) -> Iterator[str]:
    """Why the bundle is not one of `board`'s."""
    if board is None:
        return
    letters = npu_letters(board)
    if board.name != manifest.board:
        yield f"{MANIFEST}: board: the bundle is for {manifest.board!r}, the board is {board.name!r}"
    elif letters != manifest.npu_letters:
        yield f"{MANIFEST}: npu_letters: board {board.name} has {letters!r}, got {manifest.npu_letters!r}"


def table_problems(manifest: Manifest, table: ParetoTable, board: Board | None) -> Iterator[str]:
    """What of the table does not fit the rest of the bundle, or `board`."""
    facts = [
        ("board", manifest.board, table.board),
        ("model", manifest.model, table.model),
        ("layers.count", manifest.layer_count, table.layers.count),
    ]
    for field, expected, got in facts:
        if expected != got:
            yield f"{TABLE}: {field}: expected {expected!r} as in {MANIFEST}, got {got!r}"
    yield from board_problems(manifest, board)
    if board is not None and board.name == manifest.board:
        try:
            table.check_board(board)
        except TableError as error:
            yield f"{TABLE}: {error}"
    there = {entry.range for entry in manifest.partitions}
    for (first, last), points in npu_ranges(table, manifest.npu_letters).items():
        if (first, last) not in there:
            others = f" and {len(points) - 1} more" if len(points) > 1 else ""
            yield f"{TABLE}: points[{points[0]}]{others}: there is no partition of layers {first}-{last}"


def model_problems(manifest: Manifest, model: Model) -> Iterator[str]:
    """What of the model does not fit the manifest."""
    if (got := content_hash(model)) != manifest.source_hash:
        yield f"{MODEL}: source_hash: expected {manifest.source_hash} as in {MANIFEST}, got {got}"
    if model.layer_count != manifest.layer_count:
        yield f"{MODEL}: layer_count: expected {manifest.layer_count} as in {MANIFEST}, got {model.layer_count}"
    for field, listed, names in (
        ("inputs", (manifest.input,), model.inputs),
        ("outputs", manifest.outputs, model.outputs),
    ):
        expected = [(entry.name, list(entry.shape)) for entry in listed]
        got_tensors = [(name, list(model.tensors[name].shape)) for name in names]
        if expected != got_tensors:
            yield f"{MODEL}: {field}: expected {expected} as in {MANIFEST}, got {got_tensors}"


def load_partition(root: Path, manifest: Manifest, entry: PartitionEntry, verified: bool = False) -> Partition:
    """The partition of `entry`, checked against the manifest; `verified`: the file's SHA-256 is the manifest's.

    Raises PiqiError naming file, field and value.
    """
    partition = Partition.load(root / entry.file, verified=verified)
    facts = [
        ("layers", entry.range, (partition.first_layer, partition.last_layer)),
        ("source_hash", manifest.source_hash, partition.source_hash),
        ("scheme", manifest.scheme, partition.scheme),
        ("checksum", entry.checksum, partition.checksum),
    ]
    for field, expected, got in facts:
        if expected != got:
            raise BundleError(f"{root / entry.file}: {field}: expected {expected} as in {MANIFEST}, got {got}")
    return partition


def read_labels(root: Path, manifest: Manifest) -> tuple[str, ...]:
    """The classes' names, one for each score of every output of that kind; empty without any. Raises BundleError."""
    if manifest.labels is None:
        return ()
    path = root / manifest.labels
    try:
        labels = tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: {error}") from error
    for output in manifest.outputs:
        if output.kind == "classes" and output.shape[-1] != len(labels):
            raise BundleError(
                f"{path}: expected {output.shape[-1]} labels for output {output.name!r}, got {len(labels)}"
            )
    return labels


def npu_letters(board: Board) -> str:
    """The letters of those that need partitions."""
    return "".join(processor.letter for processor in board.processors if processor.kind == "npu")


def npu_ranges(table: ParetoTable, letters: str) -> dict[Range, list[int]]:
    """The maximal runs (first, last) of layers on one NPU -> the points that have them. In order of layers."""
    ranges: dict[Range, list[int]] = {}
    for place, point in enumerate(table.points):
        first = 0
        for layer, letter in enumerate(point.order):
            if layer + 1 == len(point.order) or point.order[layer + 1] != letter:
                if letter in letters:
                    ranges.setdefault((first, layer), []).append(place)
                first = layer + 1
    return dict(sorted(ranges.items()))
