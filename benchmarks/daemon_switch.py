"""Switching MobileNet-0.75 between operating points while frames run: how long preparation takes, what frames notice.

python benchmarks/daemon_switch.py [--model FILE] [--rounds N]

Frames run one after the other; meanwhile points are asked for, whose executors the host prepares in the background.
Wanted: a switch is prepared in 100 ms, and the swap delays no frame by more than 1 ms. The peer prepares the same
executor where the frame is waiting for it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _executor import Array, load, machine, mobilenet, parser, table

from piqi_planner.quantise import calibrate, quantise
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import Bundle, BundleInput, BundleOutput, load_bundle, write_bundle
from piqi_runtime.engine import Engine
from piqi_runtime.host import ModelHost
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

WANTED_PREPARE_MS, WANTED_SWAP_MS = 100.0, 1.0
FRAMES_BETWEEN = 12


def make_bundle(path: Path, folder: Path, board: Board) -> Bundle:
    """MobileNet on the host board at points that differ in all that a switch has to prepare."""
    model = load(path)
    (name,) = model.inputs
    n, shape = model.layer_count, model.tensors[name].shape
    noise = np.random.default_rng(0).uniform(-1, 1, (4, *shape[1:])).astype(np.float32)
    orders = ["N" * n, "BBB" + "N" * (n - 3), "G" * n, "B" * n, "L" * 4 + "B" * (n - 4), "L" * n]
    points = [
        OperatingPoint(
            order=order,
            freqs=" ".join("0-0" if letter == "G" else "0" for letter in order),
            latency_ms=10.0 + i,
            power_mw=1000.0 - i,
            energy_mj=(10.0 + i) * (1000.0 - i) / 1e3,
            accuracy=70.0,
        )
        for i, order in enumerate(orders)
    ]
    write_bundle(
        folder,
        model=model,
        table=ParetoTable(
            board=board.name,
            model=path.stem,
            layers=TableLayers(count=n, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="none", float32=70.0, int8=70.0),
            points=tuple(points),
        ),
        partitions=quantise(model, calibrate(model, [noise])).partition,
        input=BundleInput(name=name, shape=shape, preprocessing="signed", fit="crop", colour="rgb"),
        outputs=[BundleOutput(name=x, shape=model.tensors[x].shape) for x in model.outputs],
        board=board,
    )
    return load_bundle(folder, board)


class Stream:
    """Frames one after the other on a thread: when each began, took, was outside of the executor, and its point."""

    def __init__(self, host: ModelHost, frame: Array) -> None:
        self.rows: list[tuple[float, float, float, int]] = []
        self._host, self._frame, self._ends = host, frame, False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            began_s = time.perf_counter()
            result = self._host.run(self._frame)
            took_ms = 1e3 * (time.perf_counter() - began_s)
            self.rows.append((began_s, took_ms, took_ms - result.latency_us / 1e3, result.point))

    def wait_for(self, frames: int) -> None:
        """Until so many more were run."""
        until = len(self.rows) + frames
        while len(self.rows) < until:
            time.sleep(0.002)

    def close(self) -> None:
        """Ends it."""
        self._ends = True
        self._thread.join()


def main() -> None:
    """Prints the tables."""
    options = parser(__doc__, 8).parse_args()
    board = load_board("host")
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(mobilenet(options.model), Path(folder) / "bundle", board)
        inline_ms = prepared_inline(bundle, board)
        (name,) = bundle.model.inputs
        frame = np.random.default_rng(1).uniform(-1, 1, bundle.model.tensors[name].shape).astype(np.float32)
        switches: list[tuple[float, int, float]] = []
        note = lambda old, new, ms: switches.append((time.perf_counter(), new, ms))  # noqa: E731
        # Two residents: the fallback and the one in use, so that every switch but that to the fallback prepares.
        started_s = time.perf_counter()
        with ModelHost(bundle, board, max_resident=2, on_switch=note) as host:
            start_ms = 1e3 * (time.perf_counter() - started_s)
            stream = Stream(host, frame)
            asked = []
            stream.wait_for(3 * FRAMES_BETWEEN)
            for _ in range(options.rounds):
                for point in range(len(bundle.table.points)):
                    asked.append(time.perf_counter())
                    host.request(point)
                    host.wait(10)
                    stream.wait_for(FRAMES_BETWEEN)
            stream.close()
            used_mb = host.status()["memory_bytes"] / 2**20
        report(bundle, inline_ms, stream.rows, asked, switches)
    print(
        f"a host is there in {start_ms:.0f} ms, with its fallback prepared; it had prepared {used_mb:.1f} MB at the end"
    )


def prepared_inline(bundle: Bundle, board: Board) -> list[float]:
    """Milliseconds that a frame waits if its executor is made when it has come: weights are shared here too."""
    times = []
    with Engine(bundle.model, board) as engine:
        kept = engine.executor(bundle.table.points[3].order, "", bundle.partition)
        for point in bundle.table.points:
            started_s = time.perf_counter()
            executor = engine.executor(point.order, point.freqs, bundle.partition)
            times.append(1e3 * (time.perf_counter() - started_s))
            executor.close()
        kept.close()
    return times


def report(
    bundle: Bundle,
    inline_ms: Sequence[float],
    rows: Sequence[tuple[float, float, float, int]],
    asked: Sequence[float],
    switches: Sequence[tuple[float, int, float]],
) -> None:
    """Prints what there is to see."""
    began, took, outside, points = (np.array(column) for column in zip(*rows, strict=True))
    first = np.flatnonzero(np.diff(points, prepend=points[0]))
    preparing = np.zeros(len(rows), bool)
    for from_s, (until_s, _, _) in zip(asked, switches, strict=False):
        preparing |= (began + took / 1e3 > from_s) & (began < until_s)
    steady = ~preparing
    steady[first] = False
    print(f"{bundle.table.model} on {machine()}; {len(switches)} switches, {len(rows)} frames\n")
    lines: list[list[object]] = []
    for i, point in enumerate(bundle.table.points):
        prepared = [ms for _, new, ms in switches if new == i]
        here = points == i
        usual, slow = (float(v) for v in np.percentile(took[here & steady], (50, 99)))
        late = float(np.median(took[np.intersect1d(first, np.flatnonzero(here))]))
        lines.append(
            [point.order, inline_ms[i], prepared[0], float(np.median(prepared)), max(prepared), usual, slow, late]
        )
    head = ["order", "inline ms", "first ms", "median ms", "most ms", "frame ms", "p99 ms", "first frame ms"]
    table(head, lines)
    swap = outside[first]
    print()
    table(
        ["host's own part of a frame, ms", "median", "p99", "most"],
        [
            ["steady", *(float(v) for v in np.percentile(outside[steady], (50, 99, 100)))],
            ["first after a swap", *(float(v) for v in np.percentile(swap, (50, 99, 100)))],
        ],
    )
    there = [points == i for i in range(len(lines)) if any((points == i) & preparing)]
    busy, quiet = (np.mean([np.median(took[here & which]) for here in there]) for which in (preparing, steady))
    print(
        f"\nframes while another point is prepared: {busy:.2f} ms, else {quiet:.2f} ms (means of the points' medians)"
    )
    worst, delay, other = max(ms for _, _, ms in switches), max(swap), max(outside[steady])
    print(f"prepared in at most {worst:.1f} ms (wanted {WANTED_PREPARE_MS:.0f})")
    print(f"host's part after a swap: at most {delay:.3f} ms (wanted {WANTED_SWAP_MS:.0f}), else {other:.3f} ms")


if __name__ == "__main__":
    main()
