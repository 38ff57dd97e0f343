"""A board on a virtual clock: executors that take as long as a known profile says, and a meter that sees their power.

Stands in for `Engine` and `PowerMeter` where measuring is tested: nothing of it runs in real time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

import piqi_native
from piqi_planner.profile import Profile
from piqi_runtime.boards import Board
from piqi_runtime.meter import MeterError, PowerMeter, Quality, Recording
from piqi_runtime.profiling.configurations import steps_of

PERIOD_NS = 1_120_000


class VirtualBoard:
    """The truth: a profile's rows, the run-length constant, noise; and the state: time, frequencies, power so far."""

    def __init__(
        self, board: Board, profile: Profile, shrink: float, noise: float = 0.0, outliers: float = 0.0
    ) -> None:
        self.board, self.shrink, self.noise, self.outliers = board, shrink, noise, outliers
        rows = {name: [row.values for row in table] for name, table in profile.rows.items()}
        self.phases: dict[Any, Any] = {values[1:6]: values[6:] for values in rows["layers"]}
        self.moves: dict[Any, float] = {values[1:4]: values[4] for values in rows["transfers"]}
        self.scales: dict[Any, Any] = {values[:4]: values[4:] for values in rows["transfer_frequency"]}
        self.delays: dict[Any, float] = {values[:3]: values[3] for values in rows["dvfs_delay"]}
        self.layer_count = 1 + max(key[3] for key in self.phases)
        self.now_ns = 1_000_000_000
        self.set: dict[str, int] = {p.letter: 0 for p in board.processors}
        self.changing: dict[str, tuple[int, int]] = {}  # letter -> (old index, when the new one takes effect)
        self.segments: list[tuple[int, int, float]] = []  # began, ended, mW
        self.random = np.random.default_rng(0)
        self.idle_mw = 2800.0
        self.failure: Callable[[str], Exception | None] = lambda order: None

    def request(self, letter: str, index: int) -> None:
        """Asks for a frequency; it takes effect after its delay."""
        old = self.effective(letter)
        if self.set[letter] != index:
            self.changing[letter] = old, self.now_ns + round(1e6 * self.delays.get((letter, old, index), 0.0))
            self.set[letter] = index

    def effective(self, letter: str) -> int:
        """The index in force."""
        old, when = self.changing.get(letter, (0, 0))
        return old if self.now_ns < when else self.set[letter]

    def work(self, letter: str, layer: int, phase: str, factor: float = 1.0) -> None:
        """A phase of a processor at the frequencies in force, through changes of them."""
        left = max(0.1, 1 + self.noise * float(self.random.standard_normal()))
        while left > 0:
            time_ms, power_mw = self.phase(letter, layer, phase)
            whole_ns = max(1, round(1e6 * time_ms * factor))
            events = [when for _, when in self.changing.values() if when > self.now_ns]
            until = min([self.now_ns + round(left * whole_ns), *events])
            left -= (until - self.now_ns) / whole_ns
            self.spend(until - self.now_ns, power_mw or self.idle_mw)
            if left * whole_ns < 1:
                break

    def phase(self, letter: str, layer: int, phase: str) -> tuple[float, float | None]:
        """Time and power at the frequencies in force."""
        processor = self.board.processor(letter)
        host = None if processor.host is None else self.effective(processor.host)
        own = host if processor.kind == "npu" else self.effective(letter)
        return self.phases[letter, own, host, layer, phase]

    def spend(self, ns: int, power_mw: float) -> None:
        """Time passes."""
        if ns > 0:
            self.segments.append((self.now_ns, self.now_ns + ns, power_mw))
            self.now_ns += ns

    def move(self, source: str, destination: str, border: int, synthetic: bool) -> None:
        """A transfer, at the frequencies asked for."""
        kind = {p.letter: p.kind for p in self.board.processors}
        host = {p.letter: p.host or p.letter for p in self.board.processors}
        a, b = (host[end] if kind[end] == "npu" else end for end in (source, destination))
        if a == b:
            b = next(p.letter for p in self.board.processors if p.kind == "cpu" and p.letter != a)
            key = (a, b, "0", str(min(self.set[a], self.board.processor(b).opp_count - 1)))
        elif kind[a] == "gpu":
            key = (a, host[a], f"0-{self.set[host[a]]}", str(self.set[host[a]]))
        elif kind[b] == "gpu":
            key = (a, b, str(self.set[a]) if a == host[b] else "0", f"0-{self.set[host[b]]}")
        else:
            key = (a, b, "0", str(self.set[b]))
        time_ms, power_mw, ratio = self.scales[key]
        whole_ms = time_ms if synthetic else ratio * self.moves[border, a, b]
        self.spend(round(1e6 * whole_ms * (1 + self.noise * float(self.random.standard_normal()))), power_mw)


class VirtualExecutor:
    """Runs frames of one configuration on a virtual board."""

    def __init__(self, board: VirtualBoard, order: str, freqs: str, synthetic: bool) -> None:
        self._board, self._synthetic, self._freqs = board, synthetic, freqs.split()
        self.plan = SimpleNamespace(order=order)
        npus = "".join(p.letter for p in board.board.processors if p.kind == "npu")
        self._steps, self._rows, self._frames = steps_of(order, npus), [], []
        self._native = SimpleNamespace(
            sub_graphs=[
                SimpleNamespace(steps=steps, partition=order[steps[0][0]] in npus or None)
                for steps in self._sub_graphs()
            ],
            receivers=[[("x", 4)] for _ in self._sub_graphs()],
            times=self._times,
        )

    def __enter__(self) -> VirtualExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def clear_report(self) -> None:
        self._rows, self._frames = [], []

    def run(self, inputs: Any) -> None:
        board, order = self._board, self.plan.order
        if (error := board.failure(order)) is not None:
            raise error
        submitted = board.now_ns
        steps = []
        last = len(order) - 1 if not self._synthetic else -1
        for place, (first, end) in enumerate(self._steps):
            letter = order[first]
            self._request(letter, first)
            npu = board.board.processor(letter).kind == "npu"
            if first == 0 and not self._synthetic:
                board.work(letter, 0, "input")
            if place and letter != order[first - 1]:
                board.move(order[first - 1], letter, first - 1, self._synthetic)
            if npu:
                board.work(letter, first, "npu_load")
            began = board.now_ns
            for layer in range(first, end + 1):
                factor = 1 + board.shrink - board.shrink * (end - first + 1) if npu else 1.0
                board.work(letter, layer, "run", factor)
            inside = board.now_ns - began if npu else 0
            if npu:  # the library fetches the outputs before it returns
                run_ms = board.phase(letter, end, "run")[0]
                board.work(letter, end, "npu_run_and_get", 1 - run_ms / board.phase(letter, end, "npu_run_and_get")[0])
            steps.append((began, board.now_ns, inside))
            if npu:
                board.work(letter, end, "npu_fill_tensor")
            if end == last:
                board.work(letter, end, "output")
        if board.outliers and board.random.random() < board.outliers:
            board.spend(30_000_000, board.idle_mw)
        self._rows.append(steps)
        self._frames.append((submitted, board.now_ns))

    def _request(self, letter: str, layer: int) -> None:
        processor = self._board.board.processor(letter)
        own, _, host = self._freqs[layer].partition("-")
        if processor.kind == "npu":
            self._board.request(processor.host or "", int(own))
            return
        self._board.request(letter, int(own))
        if host:
            self._board.request(processor.host or "", int(host))

    def _sub_graphs(self) -> list[list[tuple[int, int]]]:
        parts: list[list[tuple[int, int]]] = []
        for step in self._steps:
            if parts and self.plan.order[step[0]] == self.plan.order[parts[-1][-1][0]]:
                parts[-1].append(step)
            else:
                parts.append([step])
        return parts

    def _times(self) -> dict[str, Any]:
        sub_graphs, place = [], 0
        for steps in self._sub_graphs():
            rows = []
            for frame in self._rows:
                mine = frame[place : place + len(steps)]
                rows.append(
                    [
                        0,
                        0,
                        0,
                        0,
                        0,
                        *(value for began, ended, inside in mine for value in (began, began, ended, inside)),
                        0,
                    ]
                )
            sub_graphs.append(np.array(rows, np.int64))
            place += len(steps)
        return {"sub_graphs": sub_graphs, "frames": np.array(self._frames, np.int64)}


class VirtualEngine:
    """Stands in for an `Engine`."""

    def __init__(self, board: VirtualBoard, model: Any, synthetic: bool = False) -> None:
        self._virtual, self._synthetic = board, synthetic
        self.board, self.model = board.board, model

    def executor(self, order: str, freqs: str, partitions: Any, **_: object) -> VirtualExecutor:
        return VirtualExecutor(self._virtual, order, freqs, self._synthetic)


class VirtualGovernor:
    """Stands in for a `piqi_native.Governor`."""

    warnings: Sequence[str] = ()

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self._letters = [p.letter for p in board.board.processors if p.freqs_khz]

    def controls(self, domain: int) -> bool:
        return True

    def request(self, domain: int, index: int) -> bool:
        self._board.request(self._letters[domain], index)
        return True


class VirtualMeter(PowerMeter):
    """Averages the board's power over samples of 1.12 ms."""

    name = "virtual power meter"

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self.unplugged = False

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def clear(self) -> None:
        self._board.segments.clear()

    def check(self) -> None:
        if self.unplugged:
            raise MeterError(f"{self.name}: has gone (unplugged?)")

    def recording(self, marks_ns: Any = None, *, partial: bool = False) -> Recording:
        self.check()
        if not self._board.segments:
            self._board.spend(20 * PERIOD_NS, self._board.idle_mw)
        began, ended, power = np.array(self._board.segments).T
        edges = np.arange(began[0], ended[-1] + 2 * PERIOD_NS, PERIOD_NS)
        times = np.concatenate([began[:1], ended])
        energy = np.concatenate([[0.0], np.cumsum((ended - began) * power)])
        beyond = np.maximum(edges - ended[-1], 0) * self._board.idle_mw
        means = np.diff(np.interp(edges, times, energy) + beyond) / PERIOD_NS
        count = len(means)
        return Recording(
            edges[1:].astype(np.int64),
            np.full(count, PERIOD_NS),
            means,
            np.zeros(count, np.int64),
            Quality(lines=count),
        )


def backend_error(text: str) -> Exception:
    """What an executor raises where a processor fails."""
    return piqi_native.BackendError(text)
