"""Bundles that are broken when the daemon starts, or change while it runs."""

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_bundles import refused, result, start, write_net
from daemon_helpers import Connection, Process, wait_for

from piqi_runtime.bundle_files import describe
from piqi_runtime.bundle_manifest import read_manifest


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """As a tool does it: another file takes its place."""
    content = path.read_bytes()
    changed = change(content)
    assert changed != content
    new = path.with_name(path.name + ".new")
    new.write_bytes(changed)
    new.replace(path)


def flipped(content: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def with_manifest(net: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Changes a file and says so in the manifest: the checksums are right."""
    rewrite(net / name, change)
    manifest = read_manifest(net)
    files = {**manifest.files, name: describe(net / name)}
    (net / "manifest.json").write_bytes(manifest.updated(files=files).to_json())


def spoil_partition(net: Path) -> None:
    next((net / "partitions").iterdir()).unlink()


def forget_partition(net: Path) -> None:
    """As if the table had been made for more partitions than were copied: nothing but the table knows of it."""
    spoil_partition(net)
    manifest = read_manifest(net)
    files = {name: entry for name, entry in manifest.files.items() if not name.startswith("partitions/")}
    (net / "manifest.json").write_bytes(manifest.updated(files=files, partitions=(), scheme=None).to_json())


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a wrong checksum of the table": (lambda net: rewrite(net / "table.json", flipped), r"table\.json: sha256: exp"),
    "a wrong checksum of the model": (lambda net: rewrite(net / "model.piqi", flipped), r"model\.piqi: sha256: exp"),
    "a table that is cut": (lambda net: rewrite(net / "table.json", lambda b: b[:-9]), r"table\.json: size: expected"),
    "a corrupt table": (lambda net: with_manifest(net, "table.json", lambda b: b[:-9]), r"table\.json: .*EOF"),
    "a table with a figure that is none": (
        lambda net: with_manifest(net, "table.json", lambda b: b.replace(b'"latency_ms": 1.0', b'"latency_ms": -1')),
        r"table\.json: points\[0\]\.latency_ms: .*got '-1'",
    ),
    "a missing partition": (spoil_partition, r"partitions/0-0-\w+\.piqi: is missing"),
    "a partition that the table needs": (forget_partition, r"table\.json: points\[0\]: there is no partition of lay"),
    "another schema version": (
        lambda net: rewrite(net / "manifest.json", lambda b: b.replace(b'_version": 1', b'_version": 2')),
        r"manifest\.json: schema_version: this program reads 1, got 2",
    ),
    "another board": (
        lambda net: rewrite(net / "manifest.json", lambda b: b.replace(b'"board": "host"', b'"board": "rk3588"')),
        r"board: expected 'rk3588' as in manifest\.json, got 'host'",
    ),
    "a file too many": (lambda net: (net / "notes.txt").write_text(""), r"notes\.txt: is not in the manifest"),
    "a link": (
        lambda net: ((net / "table.json").unlink(), (net / "table.json").symlink_to("/etc/hostname")),
        r"table\.json: is a symbolic link",
    ),
}


@pytest.fixture(scope="module")
def good_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("good") / "net")


@pytest.fixture
def net(good_net: Path, tmp_path: Path) -> Path:
    shutil.copytree(good_net, tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle(net: Path, tmp_path: Path, name: str) -> None:
    """The daemon does not start with it; where it is one of a folder, the others are served."""
    spoil, message = BROKEN[name]
    shutil.copytree(net, tmp_path / "all/whole")
    spoil(net)
    error = refused(tmp_path, bundles=[str(net)])
    assert all(line.startswith(f"CRITICAL: {net}") for line in error.splitlines())
    assert re.search(message, error), error
    net.rename(tmp_path / "all/broken")
    process = start(tmp_path, bundle_folder=str(tmp_path / "all"))
    try:
        with Connection(process.path) as client:
            assert client.call({"op": "hello", "version": 1})["models"] == ["net"]
            assert client.code(client.frame(0, 1)) == "ok"
        assert wait_for(lambda: f"ERROR: left out: {tmp_path}/all/broken/" in process.log.read_text())
    finally:
        assert process.stop() == 0


@pytest.fixture
def served(net: Path, tmp_path: Path) -> Iterator[tuple[Process, Connection, Path]]:
    """A daemon, a client that has subscribed to reloads, and the bundle."""
    process = start(tmp_path, bundles=[str(net)])
    with Connection(process.path) as client:
        client.call({"op": "subscribe", "events": ["reload"]})
        yield process, client, net
    assert process.stop() == 0


def reload(process: Process, client: Connection) -> dict[str, Any]:
    process.popen.send_signal(signal.SIGHUP)
    return client.receive()


def test_a_reload_notices_whatever_file_has_changed(served: tuple[Process, Connection, Path], tmp_path: Path) -> None:
    """The manifest's own bytes may be what they were: the bundle is broken, and the old one goes on."""
    process, client, net = served
    shutil.copytree(net, tmp_path / "good")
    for name, (spoil, message) in BROKEN.items():
        spoil(net)
        event = reload(process, client)
        assert not event["done"] and re.search(message, event["message"]), (name, event)
        for line in event["message"].splitlines():
            logged = f"ERROR: reload: {line}: what was there goes on"
            assert wait_for(lambda logged=logged: logged in process.log.read_text()), logged
        assert result(client) == [1, 1, 2, 0], name
        shutil.rmtree(net)
        shutil.copytree(tmp_path / "good", net)
        event = reload(process, client)
        assert event["done"] and "no bundle" in event["message"], name  # as it was: nothing is loaded again
    assert result(client) == [1, 1, 2, 0]


def test_a_reload_takes_a_bundle_of_which_one_file_is_another(served: tuple[Process, Connection, Path]) -> None:
    process, client, net = served
    with_manifest(net, "table.json", lambda b: b.replace(b'"accuracy": 69.0', b'"accuracy": 69.5'))
    event = reload(process, client)
    assert event["done"] and event["message"].endswith("net")
    assert client.call({"op": "points"})["points"][0]["accuracy"] == 69.5
    write_net(net, gain=3.0)
    assert reload(process, client)["done"]
    assert result(client) == [3, 3, 6, 0]
