"""The end of the demo: the daemon serves the bundle that was built, a camera streams to it, the policy changes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from piqi_planner.demo.digits import Array
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import Bundle
from piqi_runtime.client import Client, ConnectionLost
from piqi_runtime.errors import PiqiError
from piqi_runtime.report import format_table

#: The policy's modes, one after the other, each for so many frames.
MODES = ("balanced", "fast", "best")
FRAMES = 100
START_S = 30.0


class DemoError(PiqiError):
    """The daemon did not come up; says where its log is."""


def stream(bundle: Bundle, frames: Array, labels: Array, log: Path) -> str:
    """What was chosen in each mode, and what that costs on the board, as a table."""
    rows: list[tuple[str, ...]] = [("mode", "point", "order", "ms", "mW", "mJ", "recognised")]
    with _daemon(bundle, log) as socket, Client(socket, timeout_s=START_S) as client:
        points = client.points()
        for number, mode in enumerate(MODES):
            client.policy(mode)
            chosen = slice(number * FRAMES, (number + 1) * FRAMES)
            rows += _rows(mode, client, points, frames[chosen], labels[chosen])
    return format_table(rows, left=(0, 2))


def _rows(
    mode: str, client: Client, points: Sequence[dict[str, object]], frames: Array, labels: Array
) -> Iterator[tuple[str, ...]]:
    """One row for each point that ran some of the frames."""
    frames_of: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for frame, label in zip(frames, labels, strict=True):
        result = client.infer(frame)
        frames_of[result.point] += 1
        right[result.point] += int(next(iter(result.outputs.values())).argmax() == label)
    for number, count in frames_of.items():
        point = points[number]
        costs = (f"{point['latency_ms']:.2f}", f"{point['power_mw']:.0f}", f"{point['energy_mj']:.2f}")
        yield (mode, str(number), str(point["order"]), *costs, f"{right[number]} of {count}")


@contextmanager
def _daemon(bundle: Bundle, log: Path) -> Iterator[Path]:
    """A daemon on the emulated board; yields its socket."""
    with tempfile.TemporaryDirectory(prefix="piqi") as folder, log.open("wb") as output:
        socket = Path(folder) / "piqid.sock"
        config = Path(folder) / "daemon.toml"
        config.write_text('root = ""\n', encoding="utf-8")  # no frequencies: the board is emulated
        command = [sys.executable, "-m", "piqi_runtime.daemon.main", "--config", config, "--bundle", bundle.root]
        command += ["--board", load_board(bundle.table.board).name, "--socket", socket]
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT)
        try:
            yield socket
        except ConnectionLost as error:
            raise DemoError(f"{error}; the daemon's log: {log}") from error
        finally:
            process.terminate()
            process.wait(START_S)
