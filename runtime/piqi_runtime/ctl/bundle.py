"""``piqictl bundle verify|show|pack|unpack``: bundles in folders and in archives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_runtime.boards import Board, BoardError, load_board
from piqi_runtime.bundle import Bundle, BundleError, load_bundle, verify_bundle
from piqi_runtime.bundle_archive import pack, unpack
from piqi_runtime.bundle_files import existing
from piqi_runtime.bundle_manifest import FileEntry, read_manifest
from piqi_runtime.bundle_verify import refuse
from piqi_runtime.report import format_table
from piqi_runtime.table import ParetoTable

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("bundle", help="verify, show, pack and unpack bundles")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("verify", help="check all of a bundle: files, table, model, partitions, board")
    action.add_argument("folder", type=Path, metavar="DIR")
    action.add_argument("--board", help="a board of configs/boards, or a file (default: the one the bundle names)")
    action.set_defaults(function=_verify)

    action = actions.add_parser("show", help="say what is in a bundle")
    action.add_argument("folder", type=Path, metavar="DIR")
    action.add_argument("--json", action="store_true", help="the manifest as it is")
    action.set_defaults(function=_show)

    action = actions.add_parser("pack", help="put a bundle into one file, after checking it")
    action.add_argument("folder", type=Path, metavar="DIR")
    action.add_argument("archive", type=Path, metavar="FILE", help="the archive, .tar.zst")
    action.set_defaults(function=_pack)

    action = actions.add_parser("unpack", help="take a bundle out of an archive and check it")
    action.add_argument("archive", type=Path, metavar="FILE", help="the archive, .tar.zst")
    action.add_argument("folder", type=Path, metavar="DIR", help="where to; a bundle that is there is replaced")
    action.set_defaults(function=_unpack)


def _verify(arguments: argparse.Namespace) -> None:
    board = load_board(arguments.board) if arguments.board else _named_board(arguments.folder)
    refuse(arguments.folder, verify_bundle(arguments.folder, board))
    manifest = read_manifest(existing(arguments.folder))
    print(f"{arguments.folder}: good: {len(manifest.files)} files, {_mebibytes(manifest.files.values())}")


def _show(arguments: argparse.Namespace) -> None:
    bundle = load_bundle(arguments.folder, verify=False, kits=True)
    if arguments.json:
        sys.stdout.write(bundle.manifest.to_json().decode())
    else:
        print(_to_text(bundle))


def _pack(arguments: argparse.Namespace) -> None:
    pack(arguments.folder, arguments.archive)
    print(f"{arguments.archive}: {arguments.archive.stat().st_size / 2**20:.1f} MiB")


def _unpack(arguments: argparse.Namespace) -> None:
    unpack(arguments.archive, arguments.folder)
    print(f"{arguments.folder}: {len(read_manifest(existing(arguments.folder)).files)} files")


def _named_board(folder: Path) -> Board | None:
    """The board that the manifest names, if this machine knows it."""
    try:
        name = read_manifest(existing(folder)).board
    except BundleError:
        return None  # the check will say it
    try:
        return load_board(name)
    except BoardError as error:
        print(f"piqictl: not checked against its board: {error}", file=sys.stderr)
        return None


def _to_text(bundle: Bundle) -> str:
    manifest = bundle.manifest
    lines = [
        f"{manifest.model} for {manifest.board}, {manifest.layer_count} layers, by {manifest.created_by}"
        + (f", {manifest.created}" if manifest.created else ""),
        f"input    {manifest.input.name} {list(manifest.input.shape)}, {manifest.input.preprocessing}, "
        f"{manifest.input.fit}, {manifest.input.colour or 'no image'}",
        *(f"output   {o.name} {list(o.shape)}, {o.kind}" for o in manifest.outputs),
        f"labels   {len(bundle.labels) or 'none'}",
        f"points   {'none: a kit for profiling' if manifest.kind == 'kit' else _points_to_text(bundle.table)}",
        f"files    {len(manifest.files)}, {_mebibytes(manifest.files.values())}",
    ]
    if manifest.partitions:
        rows = [("layers", "bytes", "vendor", "file")]
        for entry in manifest.partitions:
            size_bytes = manifest.files[entry.file].size_bytes
            layers = f"{entry.first_layer}-{entry.last_layer}"
            rows.append((layers, str(size_bytes), ", ".join(entry.vendor) or "-", entry.file))
        lines += ["", f"partitions, {manifest.scheme}:", format_table(rows, left=(0, 2, 3))]
    return "\n".join(lines)


def _points_to_text(table: ParetoTable) -> str:
    points = table.points
    powers, accuracies = [point.power_mw for point in points], [point.accuracy for point in points]
    return (
        f"{len(points)}: {points[0].latency_ms:.4g} to {points[-1].latency_ms:.4g} ms, {min(powers):.4g} to "
        f"{max(powers):.4g} mW, {table.accuracy_metric.name} {min(accuracies):.4g} to {max(accuracies):.4g} %"
    )


def _mebibytes(entries: Iterable[FileEntry]) -> str:
    return f"{sum(entry.size_bytes for entry in entries) / 2**20:.1f} MiB"
