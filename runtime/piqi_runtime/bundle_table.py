"""Giving a bundle another table, for example with costs that were measured on the board."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle, load_bundle
from piqi_runtime.bundle_files import describe, existing, link, locked, put, staged, take_place
from piqi_runtime.bundle_manifest import MANIFEST, TABLE, plain_json, read_manifest
from piqi_runtime.bundle_verify import refuse, table_problems
from piqi_runtime.table import ParetoTable, save_table


def replace_table(
    folder: str | os.PathLike[str], table: ParetoTable, board: Board | None = None, how: Mapping[str, Any] | None = None
) -> Bundle:
    """Replaces the table: the bundle is the new one or, after an error or a crash, the old one.

    The table must be of the bundle's model and board, and need no partitions that it lacks; those that it does not
    need any more stay. `how`: JSON values that join the manifest's `how_built`. Raises PiqiError.
    """
    target = Path(os.path.realpath(folder))
    with locked(target), staged(target) as root:
        source = existing(target)
        manifest = read_manifest(source)
        refuse(target, table_problems(manifest, table, board))
        for path in manifest.files:
            if path != TABLE:
                link(source / path, root / path)
        save_table(table, root / TABLE)
        manifest = manifest.updated(
            files={**manifest.files, TABLE: describe(root / TABLE)},
            how_built=plain_json("how_built", {**manifest.how_built, **(how or {})}),
        )
        put(root, MANIFEST, manifest.to_json())
        take_place(root, target)
    return load_bundle(target, board, verify=False)
