"""The process that is the board: answers how long things take, and keeps the power meter going."""

import json
import os
import selectors
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piqi_planner.profile import ModelProfile
from piqi_runtime.boards import Board
from simulated_board.meter import Activity, Meter
from simulated_board.physics import Frequencies, Physics, SyntheticPhysics
from simulated_board.tree import MARKER, Requests, make_tree

REQUEST = struct.Struct("=iiIIq32s")
ANSWER = struct.Struct("=q")
BIND, STEP, FINISH, ENDED = range(4)
SYNTHETIC = b"synthetic"  # the network by which `piqictl profile` sees how transfers follow frequencies
METER = "dev/ttyUSB0"
PACER = "pacer"
TICK_S = 0.004
CALLER_NS = 70_000  # about what handing a frame in, or out, takes on this host: it is part of those phases
HAND_OVER_NS = 2_000_000  # at most, from the end of a sub-graph to the begin of one that waits for it
EDGE_PATIENCE_NS = 4_000_000  # for the step that a marker's edge belongs to


@dataclass
class Client:
    """A connection: a thread of a process, and what it is at."""

    pid: int
    activity: Activity | None = None
    last_layer: int = -1


@dataclass
class Process:
    """A process: which processor ran the sub-graph that ends with a layer, and when it was last done."""

    letters: dict[int, str] = field(default_factory=dict)
    ended_ns: dict[int, int] = field(default_factory=dict)


class SimulatedBoard:
    """One model on one board, below `root`; serves until it is told to stop."""

    def __init__(self, root: Path, board: Board, profile: ModelProfile, seed: int = 0) -> None:
        make_tree(root, board)
        self._physics = Physics(profile)
        self._synthetic = SyntheticPhysics(profile)
        self._requests = Requests(root, board)
        self._frequencies = Frequencies(profile, self._requests.read())
        self._processes: dict[int, Process] = {}
        self._npu_hangs = False
        self._hung: list[tuple[socket.socket, bytes]] = []
        self._stopped = False
        self._meter = Meter(root / METER, profile.idle_power_mw, time.monotonic_ns(), seed)
        marker = root / MARKER
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.unlink(missing_ok=True)
        os.mkfifo(marker)
        self._marker = os.open(marker, os.O_RDWR | os.O_NONBLOCK)
        self._edges: list[int] = []
        path = root / PACER
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.bind(str(path))
        self._server.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._selector.register(self._marker, selectors.EVENT_READ, None)

    def serve(self) -> None:
        """Until a client says "stop"."""
        next_s = time.monotonic()
        while not self._stopped:
            for key, _ in self._selector.select(max(0.0, next_s - time.monotonic())):
                if key.fileobj is self._server:
                    self._accept()
                elif key.fileobj == self._marker:
                    self._read_marker()
                else:
                    self._receive(key.fileobj, key.data)
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + TICK_S
                now_ns = time.monotonic_ns()
                while self._edges and self._edges[0] < now_ns - EDGE_PATIENCE_NS:  # of no step of ours
                    self._meter.edge(self._edges.pop(0))
                self._meter.send(now_ns)

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._selector.register(connection, selectors.EVENT_READ, Client(pid))

    def _receive(self, connection: socket.socket, client: Client) -> None:
        try:
            data = connection.recv(4096)
            if data[:1] == b"{":
                connection.send(json.dumps(self._control(json.loads(data))).encode())
            elif data:
                self._pace(connection, client, *REQUEST.unpack(data))
        except OSError:
            data = b""
        if not data:
            if client.activity:
                client.activity.end_ns = time.monotonic_ns()
            self._selector.unregister(connection)
            connection.close()

    def _pace(
        self,
        connection: socket.socket,
        client: Client,
        kind: int,
        processor: int,
        first: int,
        last: int,
        at_ns: int,
        network: bytes,
    ) -> None:
        process = self._processes.setdefault(client.pid, Process())
        if client.activity:
            client.activity.end_ns = at_ns
            client.activity = None
            process.ended_ns[client.last_layer] = at_ns
        if kind == ENDED:
            return
        letter = chr(processor) if processor else self._physics.npu
        physics = self._synthetic if network.rstrip(b"\0") == SYNTHETIC else self._physics
        begin_ns = at_ns
        if kind == STEP:
            self._read_marker()  # was written just before
            if self._edges:
                self._edges.pop(0)
                self._meter.edge(at_ns)
        self._frequencies.ask(at_ns, self._requests.read())
        if kind == BIND:
            phases = physics.bind(letter, first, process.letters.get(first - 1, letter))
            process.letters[last] = letter
            # Handing over is part of the transfer, as where that was measured.
            ended_ns = process.ended_ns.get(first - 1, 0)
            begin_ns = ended_ns if at_ns - ended_ns < HAND_OVER_NS else at_ns
            if first == 0:
                begin_ns = at_ns - CALLER_NS
        elif kind == STEP:
            phases = physics.step(letter, first, last)
        else:
            phases = physics.finish(letter, last)
            if last == physics.profile.layer_count - 1:
                begin_ns = at_ns - CALLER_NS
        pieces = self._frequencies.run(phases, begin_ns)
        client.last_layer = last
        duration_ns = pieces[-1].end_ns - at_ns if pieces else 0
        answer = ANSWER.pack(duration_ns)
        if kind == STEP and letter == self._physics.npu and self._npu_hangs:
            self._hung.append((connection, answer))
        else:
            connection.send(answer)
        if pieces:
            client.activity = Activity(pieces)
            self._meter.add(client.activity)

    def _read_marker(self) -> None:
        try:
            count = sum(byte in b"01" for byte in os.read(self._marker, 4096))
        except BlockingIOError:
            return
        self._edges += [time.monotonic_ns()] * count

    def _control(self, message: dict[str, Any]) -> dict[str, Any]:
        """`{"meter": false}` unplugs it, `{"npu_hangs": true}`: its runs do not end, `{"stop": true}`."""
        if "meter" in message:
            self._meter.plug() if message["meter"] else self._meter.unplug()
        self._npu_hangs = message.get("npu_hangs", self._npu_hangs)
        while self._hung and not self._npu_hangs:
            connection, answer = self._hung.pop()
            with suppress(OSError):  # has gone meanwhile
                connection.send(answer)
        self._stopped = message.get("stop", False)
        return {"ok": True}
