"""Bundles as one file, `.tar.zst`: the same bundle gives the same bytes, and nothing gets out of the folder."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from piqi_runtime.bundle_files import CHUNK_BYTES, held, locked, staged, take_place
from piqi_runtime.bundle_manifest import MANIFEST, BundleError, check_path, read_manifest
from piqi_runtime.bundle_verify import refuse, verify_bundle
from piqi_runtime.container import write_atomically

LEVEL = 10
BLOCK_BYTES = 512
MAX_BYTES = 8 << 30
MAX_FILES = 100_000


def pack(folder: str | os.PathLike[str], archive: str | os.PathLike[str]) -> None:
    """Writes the bundle in `folder`, which must be a good one, to a `.tar.zst`. Raises BundleError."""
    with held(folder) as root:
        refuse(root, verify_bundle(root))
        compressor = _compressor()
        try:
            write_atomically(archive, _compressed(compressor, _tar(root)))
        except OSError as error:
            raise BundleError(f"{error.filename or archive}: {error.strerror}") from error


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
    """Writes the bundle of an archive to `folder` once it is verified; a bundle of that name is replaced.

    Only regular files with paths that a manifest allows are taken; more than `max_bytes` are refused. Raises
    BundleError.
    """
    target = Path(os.path.realpath(folder))
    with staged(target) as root:
        try:
            with open(archive, "rb") as file:
                _extract(_Reader(_decompressor(file), max_bytes), root)
        except _FormatError as error:
            raise BundleError(f"{archive}: {error}") from error
        problems = verify_bundle(root)
        if problems:
            raise BundleError("\n".join(f"{archive}: {problem}" for problem in problems))
        with locked(target):
            take_place(root, target)


class _FormatError(Exception):
    """What is wrong with an archive."""


class _Reader:
    """Reads just as much as is asked for, and no more than `max_bytes` in all."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes
        self._max_bytes = max_bytes

    def read(self, size: int) -> bytes:
        """`size` bytes. Raises _FormatError."""
        if size > self._left:
            raise _FormatError(f"size: expected at most {self._max_bytes} bytes when unpacked")
        self._left -= size
        parts = []
        while size:
            try:
                part = self._stream.read(size)
            except (_zstd_error(), EOFError) as error:
                raise _FormatError(str(error)) from error
            if not part:
                raise _FormatError("ends too early")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _extract(reader: _Reader, root: Path) -> None:
    # tarfile would read the names and attributes of its extended headers into memory, whatever their size.
    seen: set[str] = set()
    while any(block := reader.read(BLOCK_BYTES)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _FormatError(f"entry {len(seen)}: {error}") from error
        if info.isdir() and not info.size:
            continue
        if not info.isreg():
            raise _FormatError(f"{info.name!r}: expected only regular files, got type {info.type!r}")
        try:
            path = check_path(info.name.removeprefix("./"))
        except BundleError as error:
            raise _FormatError(str(error)) from error
        if path in seen or info.size < 0 or len(seen) >= MAX_FILES:
            raise _FormatError(f"{path}: is there twice, has a negative size or is beyond {MAX_FILES} files")
        seen.add(path)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / path, _content(reader, info.size))
        reader.read(-info.size % BLOCK_BYTES)


def _content(reader: _Reader, size: int) -> Iterator[bytes]:
    while size:
        part = reader.read(min(size, CHUNK_BYTES))
        yield part
        size -= len(part)


def _tar(root: Path) -> Iterator[bytes]:
    """The tar archive, manifest first."""
    manifest = read_manifest(root)
    for path in [MANIFEST, *sorted(manifest.files)]:
        info = tarfile.TarInfo(path)  # no owner, no time
        info.mode = 0o644
        with (root / path).open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            yield info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
            left = info.size
            while left:
                part = file.read(min(left, CHUNK_BYTES))
                if not part:
                    raise BundleError(f"{root / path}: changed while it was packed")
                yield part
                left -= len(part)
        yield bytes(-info.size % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def _compressed(compressor: Any, parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield compressor.compress(part)
    yield compressor.flush()


if sys.version_info >= (3, 14):
    from compression import zstd

    def _compressor() -> Any:
        options = {zstd.CompressionParameter.compression_level: LEVEL, zstd.CompressionParameter.checksum_flag: 1}
        return zstd.ZstdCompressor(options=options)

    def _decompressor(file: BinaryIO) -> Any:
        return zstd.ZstdFile(file, "rb")

    def _zstd_error() -> type[Exception]:
        return zstd.ZstdError

else:

    def _zstandard() -> Any:
        try:
            import zstandard
        except ImportError as error:
            raise BundleError("packed bundles need the Python package zstandard: pip install 'piqi[bundle]'") from error
        return zstandard

    def _compressor() -> Any:
        return _zstandard().ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()

    def _decompressor(file: BinaryIO) -> Any:
        return _zstandard().ZstdDecompressor().stream_reader(file, read_across_frames=True)

    def _zstd_error() -> type[Exception]:
        return _zstandard().ZstdError  # type: ignore[no-any-return]
