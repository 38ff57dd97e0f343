"""SHA-256 of files, and a thread that works them out before somebody asks.

A daemon that starts imports NumPy and pydantic for longer than it takes to hash its bundles: with `work_ahead` both
happen at once. Nothing but the standard library is imported here, for that reason.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress

_CHUNK_BYTES = 1 << 20

#: What no two contents share: device, inode, size, times of the last changes.
_Key = tuple[int, int, int, int, int]


class _Ahead:
    """What the thread is to do, does and has done. Each digest is taken once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[_Key] = set()
        self._running: _Key | None = None
        self._known: dict[_Key, str] = {}

    def expect(self, keys: Iterable[_Key]) -> None:
        with self._changed:
            self._waiting.update(keys)

    def begin(self, key: _Key) -> bool:
        """False if somebody did not want to wait for it."""
        with self._changed:
            if key not in self._waiting:
                return False
            self._waiting.remove(key)
            self._running = key
            return True

    def end(self, key: _Key, digest: str | None) -> None:
        with self._changed:
            self._running = None
            if digest is not None:
                self._known[key] = digest
            self._changed.notify_all()

    def take(self, key: _Key) -> str | None:
        """None: the caller works it out, and the thread does not."""
        with self._changed:
            self._waiting.discard(key)
            self._changed.wait_for(lambda: self._running != key)
            return self._known.pop(key, None)


_ahead = _Ahead()


def work_ahead(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Begins to hash all files below `folders`, on a thread; what cannot be read is left to those who ask for it."""
    threading.Thread(target=_work, args=(list(folders),), name="piqi-digests", daemon=True).start()


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    with open(path, "rb") as file:
        known = _ahead.take(_key(os.fstat(file.fileno())))
        if known is not None:
            return known
        state = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
        return state.hexdigest()


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _work(folders: list[str | os.PathLike[str]]) -> None:
    for folder in folders:
        files = []
        with suppress(OSError):
            files += [(_key(entry.stat(follow_symlinks=False)), entry.path) for entry in _files(folder)]
        _ahead.expect(key for key, _ in files)
        for key, path in files:
            if _ahead.begin(key):
                digest = None
                try:
                    digest = _mapped_digest(path, key)
                finally:
                    _ahead.end(key, digest)


def _files(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Those that are regular and not empty, in the order in which a bundle's are checked."""
    for entry in sorted(os.scandir(os.fspath(folder)), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
            yield entry


def _mapped_digest(path: str, key: _Key) -> str | None:
    # Mapped, since after each call of `update` the thread waits for the interpreter, which is busy importing.
    with suppress(OSError, ValueError), open(path, "rb", buffering=0) as file:
        if _key(os.fstat(file.fileno())) == key:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                return hashlib.sha256(mapped).hexdigest()
    return None
