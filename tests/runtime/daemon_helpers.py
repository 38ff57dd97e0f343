"""Processes and raw connections for the daemon's tests."""

import contextlib
import fcntl
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).parent / "scripted_daemon.py"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
#: Ends what hangs, and nothing else: a busy machine may stand still for seconds.
PATIENCE_S = 60.0
#: A frame of a scripted daemon whose first value is this and a number waits at the gate of that number.
GATES = 1e6


class Gate:
    """Where a frame of a scripted daemon waits until the test says so; its first value is `value`."""

    def __init__(self, file: Path, number: int) -> None:
        self.value = GATES + number
        self._closed, self._reached = file, file.with_name(f"{file.name}.reached")
        self._reached.unlink(missing_ok=True)
        file.touch()

    def wait(self) -> None:
        """Until the frame is there: it runs."""
        assert wait_for(self._reached.exists), "no frame came to the gate"

    def open(self) -> None:
        """Lets the frame go on, and those that come later pass."""
        self._closed.unlink()


class Process:
    """A daemon that listens."""

    def __init__(self, command: list[str], path: Path, log: Path) -> None:
        self.path, self.log = path, log
        self._gates = 0
        with log.open("wb") as output:
            self.popen = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
        assert wait_for(lambda: listens(path) or self.popen.poll() is not None), log.read_text()
        assert self.popen.poll() is None, log.read_text()

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(PATIENCE_S)
        finally:
            self.popen.kill()

    def gate(self) -> Gate:
        """A new one, closed."""
        self._gates += 1
        return Gate(self.path.with_name(f"{self.path.name}.gate{self._gates}"), self._gates)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))

    @property
    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * mmap.PAGESIZE


@contextlib.contextmanager
def scripted(folder: Path, bundle: Path, **config: Any) -> Iterator[Process]:
    """A daemon around a `ScriptedHost`."""
    path = folder / "s"
    process = Process([str(SCRIPT), str(path), str(bundle), json.dumps(config)], path, folder / "log")
    try:
        yield process
    finally:
        process.stop()
        assert "Traceback" not in process.log.read_text(), process.log.read_text()


class Connection:
    """A connection that speaks the protocol by hand, with a pool of 64 frames of `net`."""

    def __init__(self, path: Path, pool: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(str(path))
        self.socket.settimeout(PATIENCE_S)
        self.number = 0
        if pool:
            descriptor = memfd(1 << 16)
            self.memory = np.frombuffer(mmap.mmap(descriptor, 1 << 16), np.float32)
            self.pool = self.call({"op": "pool"}, [descriptor])["pool"]
            os.close(descriptor)

    def send(self, message: dict[str, Any] | bytes, descriptors: list[int] | None = None) -> int:
        if isinstance(message, dict):
            self.number += 1
            message = json.dumps({"id": self.number, **message}).encode()
        if descriptors:
            socket.send_fds(self.socket, [message], descriptors)
        else:
            self.socket.send(message)
        return self.number

    def receive(self) -> dict[str, Any]:
        data = self.socket.recv(1 << 17)
        assert data, "the daemon closed the connection"
        return dict(json.loads(data))

    def replies(self, ids: Collection[int]) -> dict[int, dict[str, Any]]:
        """All that comes until each of these has been answered."""
        found: dict[int, dict[str, Any]] = {}
        while not found.keys() >= set(ids):
            reply = self.receive()
            found[reply["id"]] = reply
        return found

    def read_by_the_daemon(self) -> dict[int, dict[str, Any]]:
        """Waits until all that was sent before has been read; the replies that came meanwhile."""
        return self.replies([self.send({"op": "status"})])

    def call(self, message: dict[str, Any] | bytes, descriptors: list[int] | None = None) -> dict[str, Any]:
        self.send(message, descriptors)
        return self.receive()

    def code(self, message: dict[str, Any] | bytes, descriptors: list[int] | None = None) -> str:
        """The error's code, or "ok"."""
        reply = self.call(message, descriptors)
        return "ok" if reply["ok"] else str(reply["error"]["code"])

    def frame(self, slot: int, seconds: float, **options: Any) -> dict[str, Any]:
        """A request whose frame takes so long."""
        self.memory[slot * 16 : slot * 16 + 4] = [seconds, 1, 2, slot]
        source = {"pool": self.pool, "offset": slot * 64, "format": "float32_raw"}
        return {"op": "infer", "input": source, **options}

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def memfd(size: int, seals: int = SEALS) -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def codes(replies: dict[int, dict[str, Any]], ids: Collection[int]) -> list[str]:
    """What became of each request: an error's code, or "ok"."""
    return [replies[id].get("error", {}).get("code", "ok") for id in ids]


def listens(path: Path) -> bool:
    """Whether a daemon takes connections there: its file alone may be of one that is about to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_for(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True
