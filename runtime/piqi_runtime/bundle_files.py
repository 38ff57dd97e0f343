"""How bundles get to where they are: a folder is replaced as a whole, and what is in it can be trusted or is named.

A new bundle grows in a hidden folder beside the old one. When it is complete and on the disk, the old one is renamed
to `.NAME.previous`, the new one takes its name, and the previous one is removed. A crash between the two renames
leaves only the previous one; readers then find that (`existing`).

Readers and writers keep each other waiting through a lock on the folder that the bundle is in.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from piqi_runtime.bundle_manifest import MANIFEST, MODEL, BundleError, FileEntry
from piqi_runtime.container import write_atomically
from piqi_runtime.digests import file_digest

CHUNK_BYTES = 1 << 20


def existing(folder: str | os.PathLike[str]) -> Path:
    """Where the bundle of this name is: `folder`, or what a crash while it was replaced has left of it."""
    path = Path(os.path.realpath(folder))
    if not path.exists() and _previous(path).is_dir():
        return _previous(path)
    return path


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, to fill and hand to `take_place`. Raises BundleError for an OSError too."""
    import secrets  # here, as `shutil` below: who only reads does without
    import shutil

    if not folder.name:
        raise BundleError(f"{folder}: cannot be a bundle")
    _check_replaceable(folder)
    new = folder.with_name(f".{folder.name[:64]}.{secrets.token_hex(4)}.new")
    try:
        new.mkdir()
        yield new
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other writers of bundles beside `folder`, and readers, waiting. Raises BundleError."""
    try:
        descriptor = os.open(folder.parent, os.O_RDONLY)
    except OSError as error:
        raise BundleError(f"{folder.parent}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Where the bundle of this name is, which nobody replaces meanwhile."""
    path = Path(os.path.realpath(folder))
    descriptor = -1
    with suppress(OSError):  # without the lock a reader may find two bundles mixed, and says so
        descriptor = os.open(path.parent, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield existing(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def take_place(new: Path, folder: Path) -> None:
    """Gives `new` the name of `folder`, whatever bundle had it; to be called while it is `locked`."""
    import shutil

    _check_replaceable(folder)
    for place, _, _ in os.walk(new):
        _sync(Path(place))
    previous = _previous(folder)
    if folder.exists():
        if previous.exists():
            shutil.rmtree(previous)
        os.rename(folder, previous)
    os.rename(new, folder)
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def put(root: Path, path: str, content: bytes | Path) -> None:
    """Writes a file of a bundle that is being made. Raises BundleError if `content` cannot be read."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_atomically(target, [content])
        return
    try:
        with content.open("rb") as file:
            write_atomically(target, iter(lambda: file.read(CHUNK_BYTES), b""))
    except OSError as error:
        raise BundleError(f"{error.filename or content}: {error.strerror}") from error


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy of it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        put(target.parent, target.name, source)


def describe(path: Path) -> FileEntry:
    """Size and SHA-256 of a file. Raises OSError."""
    return FileEntry(sha256=file_digest(path), size_bytes=path.stat().st_size)


def list_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is in `root` but folders, by name; links are not followed. Raises OSError."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            for path, status in list_files(root / entry.name):
                yield f"{entry.name}/{path}", status
        else:
            yield entry.name, entry.stat(follow_symlinks=False)


def file_problem(root: Path, path: str, expected: FileEntry) -> str | None:
    """What is wrong with a file of the manifest, or None."""
    try:
        status = (root / path).lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path}: {kind_of(status)}"
        if status.st_size != expected.size_bytes:
            return f"{path}: size: expected {expected.size_bytes} bytes, got {status.st_size}"
        sha256 = file_digest(root / path)
    except FileNotFoundError:
        return f"{path}: is missing"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if sha256 == expected.sha256 else f"{path}: sha256: expected {expected.sha256}, got {sha256}"


def kind_of(status: os.stat_result) -> str:
    """Why something that is no regular file is refused."""
    return "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is not a regular file"


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _check_replaceable(folder: Path) -> None:
    """Nobody's home shall be replaced by a bundle."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BundleError(f"{folder}: is not a folder")
    if any(folder.iterdir()) and not all((folder / name).is_file() for name in (MANIFEST, MODEL)):
        raise BundleError(f"{folder}: is neither empty nor a bundle: it is not replaced")


def _sync(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
