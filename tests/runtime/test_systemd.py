"""Notifications, socket activation and log handlers, against sockets and streams made here."""

import importlib
import io
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_helpers import PATIENCE_S, wait_for

from piqi_runtime.daemon import systemd
from piqi_runtime.daemon.systemd import MESSAGE_IDS, Notifier, fields, journal_handler, listen_fds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        yield listener


def received(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_notifications(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environment)
    assert environment == {}  # children are not to speak for us
    assert notifier.active
    assert notifier.watchdog_interval_s == 1.5
    notifier.ready("serves net")
    assert received(manager) == ["READY=1", "STATUS=serves net"]
    notifier.status("serves net")  # nothing new
    notifier.status("point 3\nREADY=0")
    assert received(manager) == ["STATUS=point 3 READY=0"]
    notifier.watchdog()
    assert received(manager) == ["WATCHDOG=1"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, when = received(manager)
    assert reloading == "RELOADING=1"
    assert before <= int(when.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert received(manager) == ["STOPPING=1"]
    notifier.close()
    notifier.ready()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1)


def test_abstract_socket() -> None:
    name = f"piqi-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "nonsense"}])
def test_silent_without_systemd(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert not notifier.active
    assert notifier.watchdog_interval_s is None
    notifier.ready("x")
    notifier.watchdog()


def test_manager_that_is_away_or_does_not_read(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(2000):  # more than a queue holds: to wait for each would take half an hour
        notifier.watchdog()
    os.unlink(manager.getsockname())
    notifier.ready()


@pytest.mark.parametrize("pid, usec", [("1", "3000000"), (None, "0"), (None, "soon")])
def test_watchdog_that_is_not_ours(pid: str | None, usec: str) -> None:
    environment = {"WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": pid} if pid else {})
    assert Notifier(environment).watchdog_interval_s is None


ACTIVATED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from piqi_runtime.daemon.systemd import ActivationError, listen_fds
try:
    sockets = listen_fds()
except ActivationError as error:
    sys.exit(str(error))
print(*(s.getsockname() for s in sockets), os.get_inheritable(3), sorted(k for k in os.environ if "LISTEN" in k))
"""


def activate(listener: socket.socket) -> subprocess.CompletedProcess[str]:
    """A process that finds `listener` as descriptor 3, as systemd hands it over."""
    command = f'exec 3<&{listener.fileno()} {listener.fileno()}<&-; exec "$0" -c "$1"'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, ACTIVATED],
        env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "piqid.socket"},
        pass_fds=[listener.fileno()],
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )


def test_listening_socket_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "piqid.sock"))
        listener.listen()
        result = activate(listener)
    assert (result.returncode, result.stdout) == (0, f"{tmp_path}/piqid.sock False []\n"), result.stderr


@pytest.mark.parametrize("kind, listening", [(socket.SOCK_STREAM, True), (socket.SOCK_SEQPACKET, False)])
def test_other_sockets_are_refused(tmp_path: Path, kind: socket.SocketKind, listening: bool) -> None:
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(tmp_path / "piqid.sock"))
        if listening:
            listener.listen()
        result = activate(listener)
    assert result.returncode == 1
    assert "descriptor 3 (piqid.socket): expected a listening AF_UNIX SOCK_SEQPACKET" in result.stderr


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_sockets_of_others_are_left(environment: dict[str, str]) -> None:
    assert listen_fds(environment) == []
    assert environment == {}


def test_fields() -> None:
    made = fields("switch", model="net", point=0, client_pid=7, latency_us=12.6)
    assert made == {
        "journal": {
            "MESSAGE_ID": MESSAGE_IDS["switch"],
            "MODEL": "net",
            "POINT": "0",
            "CLIENT_PID": "7",
            "LATENCY_US": "13",
        }
    }
    assert fields() == {"journal": {}}
    assert all(len(value) == 32 and int(value, 16) for value in MESSAGE_IDS.values())
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("piqi_runtime.test")  # no parent
    yield logger
    for handler in logger.handlers:
        handler.close()


def close(handler: logging.Handler) -> None:
    """Waits until all is written: by itself it does not wait for long."""
    handler.close()
    handler._thread.join(PATIENCE_S)  # type: ignore[attr-defined]


def test_without_systemd_to_stderr(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    handler = journal_handler()
    logger.addHandler(handler)
    logger.warning("switched\nagain", extra=fields("switch", model="net", point=3))
    close(handler)
    assert capsys.readouterr().err == "WARNING: switched\nWARNING: again MODEL=net POINT=3\n"


class Journal:
    """Stands in for systemd-python, which is not in every environment."""

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self.reads = threading.Event()
        self.reads.set()

    def send(self, message: str, **entry: str | int) -> None:
        self.reads.wait()
        assert f"{entry.pop('CODE_LINE', 0):d}"  # as systemd-python formats it
        if "refuse" in message:
            raise OSError(message)
        self.entries.append({"MESSAGE": message, **{key: str(value) for key, value in entry.items()}})


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    journal = Journal()
    module = types.ModuleType("systemd.journal")
    module.send = journal.send  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", types.ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd.journal", module)
    monkeypatch.setattr(systemd, "_stderr_is_journal", lambda: True)
    return journal


def test_entries_have_fields(logger: logging.Logger, journal: Journal) -> None:
    handler = journal_handler()
    logger.addHandler(handler)
    logger.error("point %d", 3, extra=fields("fault", model="net", point=3))
    close(handler)
    (entry,) = journal.entries
    assert entry["MESSAGE"] == "point 3"
    assert (entry["PRIORITY"], entry["MODEL"], entry["POINT"]) == ("3", "net", "3")
    assert entry["MESSAGE_ID"] == MESSAGE_IDS["fault"]
    assert entry["CODE_FUNC"] == "test_entries_have_fields"


def test_refused_entry_is_said_and_the_next_one_goes(
    logger: logging.Logger, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = journal_handler()
    logger.addHandler(handler)
    logger.info("refuse this")
    logger.info("and take that")
    close(handler)
    messages = [entry["MESSAGE"] for entry in journal.entries]
    assert messages == ["1 entries lost: nobody took them", "and take that"]
    assert "the journal refuses an entry: refuse this" in capsys.readouterr().err


def test_journald_that_does_not_read_blocks_nobody(logger: logging.Logger, journal: Journal) -> None:
    journal.reads.clear()
    logger.addHandler(journal_handler())
    for i in range(3000):
        logger.warning("%d", i)
    assert journal.entries == []
    journal.reads.set()
    assert wait_for(lambda: any("entries lost" in entry["MESSAGE"] for entry in journal.entries))
    assert len(journal.entries) < 1100


def test_without_systemd_python_lines_carry_the_priority(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_stderr_is_journal", lambda: True)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handler = journal_handler()
    logger.addHandler(handler)
    logger.critical("x", extra=fields(latency_us=5))
    close(handler)
    assert sys.stderr.getvalue() == "<2>x LATENCY_US=5\n"  # type: ignore[attr-defined]


def test_a_stderr_that_is_full_or_not_read_blocks_nobody(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a log on a full disk, and a reader that is stopped: what can be written later says what is missing."""
    reader, writer = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    with open(os.dup(full), "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        handler = journal_handler()
        logger.addHandler(handler)
        logger.warning("lost")
        assert wait_for(lambda: handler._queue.empty() and handler._lost == 1)
        os.dup2(writer, stream.fileno())  # as if somebody had made room
        for _ in range(900):
            logger.warning("x" * 200)  # more than a pipe holds
        lost = b"WARNING: 1 entries lost: nobody took them\n"
        assert os.read(reader, len(lost)) == lost
        written = b""
        while written.count(b"\n") < 900:
            written += os.read(reader, 1 << 20)
        close(handler)
    for descriptor in (reader, writer, full):
        os.close(descriptor)


def test_stderr_is_the_journal_only_if_systemd_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "stream", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert systemd._stderr_is_journal()
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not systemd._stderr_is_journal()
