"""Stages that are done once: each leaves files, and is done again only if what it depends on has changed.

`stages.json` in the working folder has, for every stage, the key it was done with (options and the hashes of its
inputs) and the hash of each file that it left. It is written after the files, so a stage that was interrupted is
simply done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

_CHUNK = 1 << 20


class StageError(PiqiError):
    """A working folder that cannot be used. Names the file."""


class Stages:
    """The stages of one working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(f"{folder}: {error.strerror}") from error
        self._file = folder / "stages.json"
        self._done = self._read()

    def run(self, name: str, key: Mapping[str, Any], files: Sequence[str], make: Callable[[], None]) -> bool:
        """Calls `make`, which must leave `files`, unless they are there from the same `key`; whether it did."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        known = self._done.get(name)
        if known and known["key"] == digest and known["files"] == self._hashes(files):
            return False
        self._done.pop(name, None)
        make()
        self._done[name] = {"key": digest, "files": self._hashes(files)}
        text = json.dumps(self._done, indent=1, sort_keys=True)
        try:
            write_atomically(self._file, [text.encode(), b"\n"])
        except OSError as error:
            raise StageError(f"{self._file}: {error.strerror}") from error
        return True

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def _hashes(self, files: Sequence[str]) -> dict[str, str | None]:
        return {name: file_hash(self.folder / name) for name in files}

    def _read(self) -> dict[str, Any]:
        try:
            done = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StageError(f"{self._file}: cannot be read: {error}; remove it to start anew") from error
        if not isinstance(done, dict):
            raise StageError(f"{self._file}: expected an object; remove it to start anew")
        return done


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file or of all files of a folder; None where there is nothing."""
    if path.is_dir():
        parts = [f"{child.name} {file_hash(child)}" for child in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
