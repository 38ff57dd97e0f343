"""Programs of the C client, the real daemon for them, and one that answers as a test says."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from daemon_helpers import PATIENCE_S, listens, wait_for

from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "native/client"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
SANITIZED = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
#: For programs that have the client's own: a busy machine may stand still for longer than that.
PATIENT = f"-DPIQI_DEFAULT_TIMEOUT_MS={1000 * PATIENCE_S:.0f}"
RGB8, BGR8, GREY8, FLOAT32_RAW = range(4)


def compiled(target: Path, *arguments: object) -> Path:
    command = ["gcc", "-std=c99", *WARNINGS, f"-I{CLIENT}", *map(str, arguments), "-o", str(target)]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


class Driver:
    """The driver's process: a line in, a line out."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def patiently(self, line: str) -> str:
        """Again, until it has not timed out: a time that is short may pass before the other side has been on a CPU."""
        replies: list[str] = []

        def answered() -> bool:
            replies.append(self(line))
            return not replies[-1].startswith("timeout ")

        assert wait_for(answered), line
        return replies[-1]

    def close(self) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)


class Daemon:
    """A real piqid on a bundle of one layer: what goes in comes out. Two points: L is slow, B exact."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "piqid.sock"
        (folder / "root/sys").mkdir(parents=True)  # without sensors: this machine may be hot
        (folder / "daemon.toml").write_text(f'root = "{folder}/root"\ntimeout_s = {PATIENCE_S}\n')
        shapes = {"bytes": (1, 2, 2, 3), "clamped": (1, 2, 2, 3), "scores": (1, 12)}
        operators = (
            Operator("clamp", "relu", ("bytes",), ("clamped",), {"clamp_min": 0.0}),
            Operator("reshape", "flat", ("clamped",), ("scores",)),
        )
        tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
        points = [
            OperatingPoint(
                order=order, freqs="0", latency_ms=latency, power_mw=power, energy_mj=latency * power / 1e3, accuracy=a
            )
            for order, latency, power, a in (("B", 5.0, 5000.0, 70.0), ("L", 9.0, 1000.0, 69.0))
        ]
        write_bundle(
            folder / "net",
            model=Model("net", tensors, operators, ("bytes",), ("scores",)),
            table=ParetoTable(
                board="host",
                model="net",
                layers=TableLayers(count=1, letters="LBGN"),
                accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
                points=tuple(points),
            ),
            partitions=(),
            input=BundleInput(name="bytes", shape=(1, 2, 2, 3), preprocessing="raw", fit="stretch"),
            outputs=[BundleOutput(name="scores", shape=(1, 12), kind="classes")],
            labels=[f"class {i} \u00e9\u6f22\U0001f600" for i in range(12)],
        )
        self.command = [sys.executable, "-m", "piqi_runtime.daemon.main", "--config", str(folder / "daemon.toml")]
        self.command += ["--bundle", str(folder / "net"), "--socket", str(self.socket)]
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        process = self.process
        assert wait_for(lambda: listens(self.socket) or process.poll() is not None), self.log.read_text()
        assert process.poll() is None, self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)


Answer = Callable[[dict[str, object], int], list[bytes] | None]


class FakeDaemon:
    """Greets as it should, then answers as a test says: messages to send, None: hang up."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path, self.answer = path, answer
        self.seals: list[int] = []
        self.connections = 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(128)  # also while nobody accepts clients may give up and come again
        self._accepting = threading.Thread(target=self._serve, daemon=True)
        self._accepting.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        count = 0
        with connection:
            while True:
                try:
                    data, descriptors, _, _ = socket.recv_fds(connection, 70000, 4)
                except ConnectionResetError:  # the client left answers unread
                    return
                if not data:
                    return
                message = json.loads(data)
                for descriptor in descriptors:
                    os.close(descriptor)
                if message["op"] in ("hello", "pool") and count < 2:
                    answers: list[bytes] | None = [encoded({"id": message["id"], "ok": True, "version": 1, "pool": 3})]
                else:
                    answers = self.answer(message, count)
                count += 1
                if answers is None:
                    return
                for answer in answers:
                    with contextlib.suppress(OSError):  # the client has heard enough
                        connection.send(answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_S)  # else it may accept on a descriptor that is another's by then
        self.listener.close()


def encoded(message: object) -> bytes:
    return json.dumps(message).encode()


def good(message: dict[str, object], **values: object) -> bytes:
    head = {"id": message["id"], "ok": True, "model": "m", "point": 4, "order": "L", "accuracy": 5e1}
    return encoded({**head, "latency_us": 1.5, "queue_us": 0, "degraded": [], **values})


def output(size_bytes: float, offset: float) -> object:
    return {"name": "y", "dtype": "float32", "shape": [1], "size_bytes": size_bytes, "offset": offset}


def refusal(id: object, code: str) -> bytes:
    return encoded({"id": id, "ok": False, "error": {"code": code, "message": "x"}})
