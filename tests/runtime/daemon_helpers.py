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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).parent / "scripted_daemon.py"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Process:
    """A daemon that listens."""

    def __init__(self, command: list[str], path: Path, log: Path) -> None:
        self.path, self.log = path, log
        with log.open("wb") as output:
            self.popen = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
        deadline_s = time.monotonic() + 20
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                if probe.connect_ex(str(path)) == 0:
                    return
            assert self.popen.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.01)

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(10)
        finally:
            self.popen.kill()

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
        self.socket.settimeout(10)
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


def wait_for(condition: Any, timeout_s: float = 5.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True
