"""Packed bundles: they come back as they were, the same every time; what is broken or hostile leaves nothing behind."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from piqi_runtime.bundle import BundleError, add_files, load_bundle
from piqi_runtime.bundle_archive import pack, unpack


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_archives(bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "net.tar.zst"
    pack(bundle, archive)
    unpack(archive, tmp_path / "copy")
    assert content(tmp_path / "copy") == content(bundle)
    add_files(bundle, {"report/more.txt": b""})
    unpack(archive, bundle)
    assert content(tmp_path / "copy") == content(bundle), "a bundle is replaced"
    pack(tmp_path / "copy", tmp_path / "again.tar.zst")
    assert archive.read_bytes() == (tmp_path / "again.tar.zst").read_bytes()
    if shutil.which("tar") and shutil.which("zstd"):
        (tmp_path / "theirs").mkdir()
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", tmp_path / "theirs"], check=True)
        assert content(tmp_path / "theirs") == content(bundle)
        subprocess.run(["tar", "--zstd", "-cf", archive, "-C", tmp_path / "theirs", "."], check=True)
        unpack(archive, tmp_path / "back")
        assert content(tmp_path / "back") == content(bundle)
    (bundle / "model.piqi").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.piqi: size"):
        pack(bundle, tmp_path / "bad.tar.zst")
    assert not (tmp_path / "bad.tar.zst").exists()


def archive_of(path: Path, *entries: tuple[str, bytes, bytes]) -> Path:
    """A .tar.zst of (name, type, data)."""
    zstandard = pytest.importorskip("zstandard")
    tar = b""
    for name, kind, data in entries:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(data), "target"
        tar += info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    path.write_bytes(zstandard.ZstdCompressor().compress(tar + bytes(1024)))
    return path


REGULAR = tarfile.REGTYPE
HOSTILE = [
    ([("../x", REGULAR, b"x")], "'../x': cannot be a file's path"),
    ([("/tmp/x", REGULAR, b"x")], "cannot be a file's path"),
    ([("a/../../x", REGULAR, b"x")], "cannot be a file's path"),
    ([("x", tarfile.SYMTYPE, b"")], "'x': expected only regular files"),
    ([("x", tarfile.LNKTYPE, b"")], "expected only regular files"),
    ([("x", tarfile.FIFOTYPE, b"")], "expected only regular files"),
    ([("x", tarfile.XHDTYPE, b"11 path=ab\n")], "expected only regular files"),
    ([("x", REGULAR, b"1"), ("x", REGULAR, b"2")], "is there twice"),
    ([("x", REGULAR, b"1"), ("x/y", REGULAR, b"2")], "x"),
    ([("x", REGULAR, bytes(1 << 20))], "size: expected at most 100000 bytes"),
    ([("x", REGULAR, b"1")], "manifest.json: No such file"),
]


@pytest.mark.parametrize(("entries", "said"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_archives(tmp_path: Path, entries: list[tuple[str, bytes, bytes]], said: str) -> None:
    (tmp_path / "in").mkdir()
    archive = archive_of(tmp_path / "in/x.tar.zst", *entries)
    before = {str(path) for path in tmp_path.rglob("*")}
    with pytest.raises(BundleError, match=said):
        unpack(archive, tmp_path / "in/net", max_bytes=100_000)
    assert {str(path) for path in tmp_path.rglob("*")} == before


def test_broken_archives(bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "net.tar.zst"
    pack(bundle, archive)
    data = archive.read_bytes()
    broken = {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello" * 200}
    middle = len(data) // 2
    broken["flipped"] = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for name, spoilt in broken.items():
        archive.write_bytes(spoilt)
        with pytest.raises(BundleError, match=r"net\.tar\.zst: "):
            unpack(archive, tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(BundleError, match=r"absent.*No such file"):
        unpack(tmp_path / "absent", tmp_path / "x")


def test_without_zstandard_folders_still_work(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("the standard library has zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert load_bundle(bundle)
    with pytest.raises(BundleError, match=r"zstandard: pip install 'piqi\[bundle\]'"):
        pack(bundle, tmp_path / "net.tar.zst")
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(BundleError, match="zstandard"):
        unpack(tmp_path / "x", tmp_path / "y")
