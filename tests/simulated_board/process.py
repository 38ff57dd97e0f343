"""A simulated board in a process of its own, as tests and benchmarks use it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from simulated_board.board import CONTROL
from simulated_board.build import FOLDER


class RunningBoard:
    """``python -m simulated_board`` below `root`. `environment` is that of processes on the board."""

    def __init__(self, root: Path, profile: Path, model: str, board: Path | str, seed: int = 0) -> None:
        self.root = root
        command = [sys.executable, "-m", "simulated_board", "--profile", profile, "--model", model]
        command += ["--board", board, "--root", root, "--seed", seed]
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulated board ended with {self._process.wait()}")
        ready = json.loads(line)
        self.meter: str = ready["meter"]
        self.marker: str = ready["marker"]
        self.environment: dict[str, str] = os.environ | ready["environment"]

    def control(self, **message: bool) -> None:
        """`meter=False` unplugs the meter, `npu_hangs=True` lets its runs never end, `stop=True`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(self.root / CONTROL))
            connection.send(json.dumps(message).encode())
            connection.recv(4096)

    def __enter__(self) -> "RunningBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
