"""SHA-256 of files, worked out ahead or not."""

import hashlib
import os
from pathlib import Path

import pytest

from piqi_runtime import digests


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files and a sub-folder of them; nothing was worked out before."""
    monkeypatch.setattr(digests, "_ahead", digests._Ahead())
    (tmp_path / "parts").mkdir()
    for name, content in (("a", b"1" * 3_000_000), ("parts/b", b"2"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    return tmp_path


def expected(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def work(folder: Path) -> None:
    """As the thread does it."""
    digests._work([folder / "missing", folder])


def test_without_working_ahead(folder: Path) -> None:
    assert all(digests.file_digest(folder / name) == expected(folder / name) for name in ("a", "parts/b", "empty"))


def test_what_was_worked_out_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(folder)
    expectations = {name: expected(folder / name) for name in ("a", "parts/b")}
    monkeypatch.setattr(hashlib, "sha256", None)  # nobody hashes a second time
    assert {name: digests.file_digest(folder / name) for name in expectations} == expectations


def test_by_a_thread(folder: Path) -> None:
    digests.work_ahead([folder])
    assert all(digests.file_digest(folder / name) == expected(folder / name) for name in ("a", "parts/b", "empty"))


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_what_changed_meanwhile_is_hashed_again(folder: Path, how: str) -> None:
    work(folder)
    path = folder / "a"
    content = b"3" * path.stat().st_size
    if how == "replaced":
        (folder / "new").write_bytes(content)
        os.utime(folder / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        os.replace(folder / "new", path)
    else:
        before = digests._key(path.stat())
        while digests._key(path.stat()) == before:  # the clock of files may tick some hundred times a second
            path.write_bytes(content)
    assert digests.file_digest(path) == hashlib.sha256(content).hexdigest()


def test_who_asks_first_does_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the thread has not come to is not waited for, and the thread leaves it out."""
    asked = []

    def begin_with(path: str, key: object) -> str:
        asked.append(path)
        assert digests.file_digest(folder / "parts/b") == expected(folder / "parts/b")
        return "of a"

    monkeypatch.setattr(digests, "_mapped_digest", begin_with)
    work(folder)
    assert asked == [str(folder / "a")]
    assert digests.file_digest(folder / "a") == "of a"
