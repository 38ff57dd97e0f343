"""The process that is the board: keeps the power meter going; what runs there paces itself (native/pacer.hpp)."""

import json
import os
import selectors
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from piqi_planner.profile import ModelProfile
from piqi_runtime.boards import Board
from simulated_board.memory import BEGAN, STRETCH, BoardMemory
from simulated_board.meter import Activity, Meter
from simulated_board.physics import Physics, Piece, SyntheticPhysics
from simulated_board.tree import MARKER, frequency_domains, make_tree

SYNTHETIC = b"synthetic"  # the network by which `piqictl profile` sees how transfers follow frequencies
METER = "dev/ttyUSB0"
PACER = "pacer"
CONTROL = "control"
TICK_S = 0.004
PATIENCE_NS = 50_000_000  # with what should have ended, and with marks of no step


class SimulatedBoard:
    """One model on one board, below `root`; serves until it is told to stop."""

    def __init__(self, root: Path, board: Board, profile: ModelProfile, seed: int = 0) -> None:
        make_tree(root, board)
        networks = [(b"", Physics(profile)), (SYNTHETIC, SyntheticPhysics(profile))]
        self._memory = BoardMemory(root / PACER, networks, frequency_domains(root, board))
        self._running: dict[int, Activity] = {}
        self._stopped = False
        self._meter = Meter(root / METER, profile.idle_power_mw, time.monotonic_ns(), seed)
        marker = root / MARKER
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.unlink(missing_ok=True)
        self._marker, written = os.pipe2(os.O_NONBLOCK)  # on a disk, a FIFO's times of access would be written
        marker.symlink_to(f"/proc/{os.getpid()}/fd/{written}")
        self._marks: list[int] = []  # those read whose step is not known yet: when that was
        path = root / CONTROL
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.bind(str(path))
        self._server.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until a client says "stop"."""
        next_s = time.monotonic()
        while not self._stopped:
            for _ in self._selector.select(max(0.0, next_s - time.monotonic())):
                self._answer()
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + TICK_S
                now_ns = time.monotonic_ns()
                self._read(now_ns)
                self._meter.send(now_ns)

    def _read(self, now_ns: int) -> None:
        """What ran since it was last called, or runs."""
        records = list(self._memory.records())
        with suppress(BlockingIOError):  # read after the steps: each made its mark before it told
            self._marks += [now_ns] * sum(byte in b"01" for byte in os.read(self._marker, 1 << 16))
        for record in records:
            if record.kind == BEGAN:
                if self._marks:
                    self._marks.pop(0)
                    self._meter.edge(record.begin_ns)
            elif record.kind == STRETCH:
                if record.activity not in self._running:
                    self._running[record.activity] = Activity(record.pid)
                    self._meter.add(self._running[record.activity])
                self._running[record.activity].pieces.append(Piece(record.begin_ns, record.end_ns, record.power_mw))
            elif record.activity in self._running:
                self._running.pop(record.activity).end_ns = record.end_ns
        while self._marks and self._marks[0] < now_ns - PATIENCE_NS:
            self._meter.edge(self._marks.pop(0))
        for number, activity in list(self._running.items()):
            if activity.pieces[-1].end_ns < now_ns - PATIENCE_NS and not Path(f"/proc/{activity.pid}").exists():
                self._running.pop(number).end_ns = now_ns

    def _answer(self) -> None:
        connection, _ = self._server.accept()
        with connection, suppress(OSError):
            connection.send(json.dumps(self._control(json.loads(connection.recv(4096)))).encode())

    def _control(self, message: dict[str, Any]) -> dict[str, Any]:
        """`{"meter": false}` unplugs it, `{"npu_hangs": true}`: its runs do not end, `{"stop": true}`."""
        if "meter" in message:
            self._meter.plug() if message["meter"] else self._meter.unplug()
        if "npu_hangs" in message:
            self._memory.hang_npu(message["npu_hangs"])
        self._stopped = message.get("stop", False)
        return {"ok": True}
