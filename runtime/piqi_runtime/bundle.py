"""Bundles: all that a board needs to run one model, in a folder that is checked before it is used.

    bundle = load_bundle("models/digits", board)
    with Engine(bundle.model, board) as engine:
        point = bundle.table.best("energy", min_accuracy=95)
        executor = engine.executor(point.order, point.freqs, bundle.partition)

docs/bundle.md describes the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle_files import describe, existing, held, link, list_files, locked, put, staged, take_place
from piqi_runtime.bundle_manifest import (
    LABELS,
    MANIFEST,
    MODEL,
    PARTITIONS,
    TABLE,
    BundleError,
    BundleInput,
    BundleOutput,
    Manifest,
    PartitionEntry,
    check_path,
    make_manifest,
    plain_json,
    read_manifest,
)
from piqi_runtime.bundle_verify import (
    Parts,
    Range,
    board_problems,
    load_partition,
    model_problems,
    npu_letters,
    npu_ranges,
    read_labels,
    refuse,
    table_problems,
    verify_bundle,
)
from piqi_runtime.container import content_hash, load_model, save_model
from piqi_runtime.model import Model
from piqi_runtime.partition import Partition
from piqi_runtime.table import ParetoTable, load_table, save_table

__all__ = [
    "Bundle",
    "BundleError",
    "BundleInput",
    "BundleOutput",
    "Manifest",
    "add_files",
    "load_bundle",
    "verify_bundle",
    "write_bundle",
    "write_kit",
]

Scheme = Literal["per_channel", "per_tensor"]
Partitions = Callable[[int, int], Partition] | Iterable[Partition]


class Bundle:
    """A loaded bundle. Model and partitions are mapped when they are asked for, and then kept."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        table: ParetoTable | None,
        labels: tuple[str, ...],
        parts: Parts | None = None,
    ) -> None:
        self.root = root
        self.manifest = manifest
        self._table = table
        self.labels = labels
        self._entries = {entry.range: entry for entry in manifest.partitions}
        self._partitions: dict[Range, Partition] = {}
        self._verified = parts or Parts()

    @property
    def table(self) -> ParetoTable:
        """Its operating points. Raises BundleError for a kit, which has none."""
        if self._table is None:
            raise _is_a_kit(self.root)
        return self._table

    @cached_property
    def model(self) -> Model:
        """The float model; constants stay in the mapped file. Raises PiqiError if it is not the manifest's."""
        if self._verified.model is not None:
            return self._verified.model
        model = load_model(self.root / MODEL)
        refuse(self.root, model_problems(self.manifest, model))
        return model

    @property
    def ranges(self) -> tuple[Range, ...]:
        """(first, last) of each partition."""
        return tuple(self._entries)

    def partition(self, first_layer: int, last_layer: int) -> Partition:
        """The partition of these layers, both included. Raises PiqiError if it is missing or not the manifest's."""
        wanted = (first_layer, last_layer)
        if wanted not in self._partitions:
            if wanted not in self._entries:
                known = ", ".join(f"{first}-{last}" for first, last in self.ranges) or "none"
                raise BundleError(
                    f"{self.root}: expected a partition of layers {known}, got {first_layer}-{last_layer}"
                )
            entry = self._entries[wanted]
            verified = self._verified.partitions.pop(wanted, None)
            self._partitions[wanted] = replace(
                verified or load_partition(self.root, self.manifest, entry),
                vendor_files={target: self.root / file for target, file in entry.vendor.items()},
            )
        return self._partitions[wanted]

    def vendor_file(self, first_layer: int, last_layer: int, target: str) -> Path | None:
        """The file that a vendor's tool prepared of a partition for `target`, if there is one."""
        entry = self._entries.get((first_layer, last_layer))
        return self.root / entry.vendor[target] if entry and target in entry.vendor else None


def load_bundle(
    folder: str | os.PathLike[str], board: Board | None = None, verify: bool = True, kits: bool = False
) -> Bundle:
    """The bundle in `folder`. Raises BundleError, or TableError, with a line for each problem.

    `board`: the board that it is to run on. Without `verify` only manifest, table and labels are read; model and
    partitions are then checked when they are used. `kits`: a kit for profiling will do, which has no table.
    """
    with held(folder) as root:
        parts = Parts()
        if verify:
            refuse(root, verify_bundle(root, board, parts))
        manifest = parts.manifest or read_manifest(root)
        if manifest.kind == "kit":
            if not kits:
                raise _is_a_kit(root)
            if not verify:
                refuse(root, board_problems(manifest, board))
            return Bundle(root, manifest, None, read_labels(root, manifest), parts)
        table = parts.table
        if table is None:
            table = load_table(root / TABLE)
            refuse(root, table_problems(manifest, table, board))
        return Bundle(root, manifest, table, read_labels(root, manifest), parts)


def write_bundle(
    folder: str | os.PathLike[str],
    *,
    model: Model,
    table: ParetoTable,
    partitions: Partitions,
    input: BundleInput,
    outputs: Sequence[BundleOutput],
    labels: Sequence[str] | None = None,
    how_built: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes | Path] | None = None,
    board: Board | None = None,
) -> Bundle:
    """Makes a bundle, verifies it, and only then gives it the name `folder`; a bundle of that name is replaced.

    - `model`: the float model that runs beside the partitions;
    - `partitions`: what makes one by its range (those of the table are asked for), or all of them; each range is
      stored once, however many points share it;
    - `labels`: the classes' names; `how_built`: JSON values; `extra_files`: by path (`report/...`, `calibration/...`);
    - `board`: by default that of `configs/boards` with the table's name.

    The same arguments give the same bytes: there is no time in a bundle but SOURCE_DATE_EPOCH's. Raises PiqiError.
    """
    board = board or load_board(table.board)
    # Said now: partitions may take long to make.
    for field, expected, got in (
        ("board", board.name, table.board),
        ("layers.count", model.layer_count, table.layers.count),
    ):
        if expected != got:
            raise BundleError(f"{TABLE}: {field}: expected {expected!r}, got {got!r}")
    table.check_board(board)
    if callable(partitions):
        partitions = starmap(partitions, npu_ranges(table, npu_letters(board)))
    return _write(
        folder, board, table.model, model, table, partitions, input, outputs, labels, how_built, extra_files or {}
    )


def write_kit(
    folder: str | os.PathLike[str],
    *,
    name: str,
    board: Board,
    model: Model,
    partitions: Iterable[Partition],
    input: BundleInput,
    outputs: Sequence[BundleOutput],
    how_built: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes | Path] | None = None,
) -> Bundle:
    """Makes a kit: what `piqictl profile` needs on the board. A bundle without a table; else as `write_bundle`.

    `name`: the model's name in the profile. Raises PiqiError.
    """
    return _write(folder, board, name, model, None, partitions, input, outputs, None, how_built, extra_files or {})


def _write(
    folder: str | os.PathLike[str],
    board: Board,
    name: str,
    model: Model,
    table: ParetoTable | None,
    partitions: Iterable[Partition],
    input: BundleInput,
    outputs: Sequence[BundleOutput],
    labels: Sequence[str] | None,
    how_built: Mapping[str, Any] | None,
    extra_files: Mapping[str, bytes | Path],
) -> Bundle:
    target = Path(os.path.realpath(folder))
    for path in extra_files:
        _check_extra(path)
    if labels is not None and any("\n" in label or "\r" in label for label in labels):
        raise BundleError("labels: expected one line each")
    with staged(target) as root:
        save_model(model, root / MODEL)
        if table is not None:
            save_table(table, root / TABLE)
        entries, schemes = _save_partitions(partitions, root)
        if labels is not None:
            put(root, LABELS, "".join(f"{label}\n" for label in labels).encode())
        for path, content in extra_files.items():
            put(root, path, content)
        manifest = make_manifest(
            kind=None if table else "kit",
            model=name,
            board=board.name,
            layer_count=model.layer_count,
            npu_letters=npu_letters(board),
            scheme=min(schemes, default=None),
            source_hash=content_hash(model),
            input=input,
            outputs=tuple(outputs),
            labels=LABELS if labels is not None else None,
            how_built=plain_json("how_built", how_built or {}),
            partitions=tuple(sorted(entries, key=lambda entry: entry.range)),
            files={path: describe(root / path) for path, _ in list_files(root)},
        )
        put(root, MANIFEST, manifest.to_json())
        refuse(target, verify_bundle(root, board))
        with locked(target):
            take_place(root, target)
    return load_bundle(target, board, verify=False, kits=True)


def add_files(
    folder: str | os.PathLike[str],
    files: Mapping[str, bytes | Path],
    vendor: Mapping[Range, Mapping[str, str]] | None = None,
) -> Bundle:
    """Adds files to a bundle, or replaces those it has: all of them or, after an error or a crash, none.

    `files`: content by path; not those that make the bundle what it is. `vendor`: range of a partition -> target
    -> path of the file prepared of it. Raises PiqiError.
    """
    target = Path(os.path.realpath(folder))
    for path in files:
        _check_extra(path)
    with locked(target), staged(target) as root:
        source = existing(target)
        manifest = read_manifest(source)
        for path in manifest.files:
            if path not in files:
                link(source / path, root / path)
        for path, content in files.items():
            put(root, path, content)
        entries = {**manifest.files, **{path: describe(root / path) for path in files}}
        manifest = manifest.updated(
            partitions=_with_vendor(manifest, vendor or {}), files=dict(sorted(entries.items()))
        )
        put(root, MANIFEST, manifest.to_json())
        take_place(root, target)
    return load_bundle(target, verify=False, kits=True)


def _is_a_kit(root: Path) -> BundleError:
    return BundleError(f"{root}: is a kit for profiling, without a table: `planner build` makes what can be run")


def _save_partitions(partitions: Iterable[Partition], root: Path) -> tuple[list[PartitionEntry], set[Scheme]]:
    (root / PARTITIONS).mkdir()
    entries: list[PartitionEntry] = []
    schemes: set[Scheme] = set()
    for partition in partitions:
        first, last = partition.first_layer, partition.last_layer
        file = f"{PARTITIONS}/{first}-{last}-{partition.checksum[:12]}.piqi"
        entry = PartitionEntry(first_layer=first, last_layer=last, file=file, checksum=partition.checksum)
        if entry not in entries:
            partition.save(root / file)
            entries.append(entry)
        schemes.add(partition.scheme)
    if not entries:
        (root / PARTITIONS).rmdir()
    return entries, schemes


def _with_vendor(manifest: Manifest, vendor: Mapping[Range, Mapping[str, str]]) -> tuple[PartitionEntry, ...]:
    unknown = vendor.keys() - {entry.range for entry in manifest.partitions}
    if unknown:
        raise BundleError(f"vendor: there is no partition of layers {'-'.join(map(str, min(unknown)))}")
    return tuple(
        entry.model_copy(update={"vendor": dict(sorted({**entry.vendor, **vendor.get(entry.range, {})}.items()))})
        for entry in manifest.partitions
    )


def _check_extra(path: str) -> None:
    if check_path(path) in (MANIFEST, MODEL, TABLE, LABELS) or path.split("/")[0] == PARTITIONS:
        raise BundleError(f"{path}: cannot be added: a bundle has its own")
