"""Executors that are kept ready, and the configuration that is there when all else fails."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import piqi_native
from piqi_runtime.boards import Board
from piqi_runtime.engine import Engine, Executor
from piqi_runtime.table import ParetoTable

#: The index of the fallback where the table has no point like it.
FALLBACK = -1
#: How long to wait for a processor that failed to free what it holds.
TRIM_PATIENCE_S = 0.2

_LAYERS = re.compile(r"layers (\d+) to (\d+)(?: on ([A-Z]))?")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """What a host can run: a point of the table, or the fallback. `cpus_alone`: no driver can hang in it."""

    point: int
    order: str
    freqs: str
    accuracy: float
    cpus_alone: bool


@dataclass(eq=False)
class Slot:
    """A resident executor. `users`: frames that it is running; `retired`: to be closed when there are none."""

    configuration: Configuration
    executor: Executor
    users: int = 0
    retired: bool = False
    frames: int = 0

    @property
    def point(self) -> int:
        return self.configuration.point


def configurations(table: ParetoTable, board: Board) -> list[Configuration]:
    """Those of the table's points."""
    cpus = {processor.letter for processor in board.processors if processor.kind == "cpu"}
    return [Configuration(i, p.order, p.freqs, p.accuracy, set(p.order) <= cpus) for i, p in enumerate(table.points)]


def fallback(table: ParetoTable, board: Board) -> Configuration:
    """What runs when a processor fails: CPUs alone, at full precision.

    The fastest point of the table that is so, else all layers on the last CPU of the board file (the biggest) at its
    highest frequency.
    """
    for configuration in configurations(table, board):
        if configuration.cpus_alone:
            return configuration
    letter = [processor.letter for processor in board.processors if processor.kind == "cpu"][-1]
    top = str(board.processor(letter).opp_count - 1)
    count = table.layers.count
    return Configuration(FALLBACK, letter * count, " ".join([top] * count), table.accuracy_metric.float32, True)


def blame(error: Exception, order: str, board: Board) -> str:
    """The letters of the processors that an error speaks of; those that are no CPUs where it does not tell."""
    found = {
        match[3] or order[int(match[1])] for match in _LAYERS.finditer(str(error)) if int(match[1]) < len(order)
    } & set(order)
    if isinstance(error, piqi_native.DeviceError) and str(error)[:2] in {f"{letter}:" for letter in order}:
        found = {str(error)[0]}
    if not found and len(set(order)) > 1:
        found = {letter for letter in order if board.processor(letter).kind != "cpu"}
    return "".join(letter for letter in board.letters if letter in (found or set(order)))


class Residents:
    """Executors that are kept, the last used last: at most `most`, and `most_bytes` of memory.

    Memory is weights, activations and channels. The fallback and the slot in use are never given up. `lock` is the
    host's: methods take it, but for those that say that it is held.
    """

    def __init__(self, engine: Engine, first: Slot, most: int, most_bytes: int, lock: threading.Lock) -> None:
        self.slots = [first]
        self._first = first
        self._engine, self._most, self._most_bytes, self._lock = engine, most, most_bytes, lock
        self._doomed: list[Slot] = []
        self._warned = False

    @property
    def memory_bytes(self) -> int:
        """What the engine and all executors that are not closed hold."""
        with self._lock:
            slots = self.slots + self._doomed
        return self._engine.memory_bytes + sum(slot.executor.memory_bytes for slot in slots)

    def find(self, point: int) -> Slot | None:
        """That point's. The lock is held."""
        return next((slot for slot in self.slots if slot.point == point), None)

    def use(self, slot: Slot) -> None:
        """It is the last used. The lock is held."""
        if slot in self.slots:
            self.slots.remove(slot)
        self.slots.append(slot)

    def next_best(self, allowed: Callable[[Slot], bool]) -> Slot:
        """The last used that is allowed, else the fallback. The lock is held."""
        return next((slot for slot in reversed(self.slots) if allowed(slot)), self._first)

    def retire(self, doomed: Callable[[Slot], bool]) -> None:
        """Gives up all such slots but the fallback. The lock is held."""
        for slot in [slot for slot in self.slots if slot is not self._first and doomed(slot)]:
            self._give_up(slot)

    def tidy(self, current: Callable[[], Slot]) -> None:
        """Closes what was given up, and gives up the last recently used of what exceeds the bounds."""
        with self._lock:
            while len(self.slots) > self._most and self._give_up_oldest(current()):
                pass
        self._close_doomed()
        if self.memory_bytes <= self._most_bytes:
            return
        self.trim()
        while self.memory_bytes > self._most_bytes:
            with self._lock:
                given_up = self._give_up_oldest(current())
            if not given_up:
                return self._warn()
            self._close_doomed()
            self.trim()

    def trim(self) -> None:
        """Frees what no executor uses: what was prepared on a processor that failed is not used again."""
        self._close_doomed()
        try:
            self._engine.trim(TRIM_PATIENCE_S)
        except piqi_native.TimeoutError as error:
            _logger.warning("%s: %s", self._engine.model.name, error)

    def close(self) -> None:
        """Closes all."""
        with self._lock:
            slots, self.slots, self._doomed = self.slots + self._doomed, [], []
        for slot in slots:
            slot.executor.close()

    def _give_up_oldest(self, current: Slot) -> bool:
        oldest = next((slot for slot in self.slots if slot is not self._first and slot is not current), None)
        if oldest:
            self._give_up(oldest)
        return oldest is not None

    def _give_up(self, slot: Slot) -> None:
        self.slots.remove(slot)
        slot.retired = True
        self._doomed.append(slot)

    def _close_doomed(self) -> None:
        with self._lock:
            ready = [slot for slot in self._doomed if slot.users == 0]
            self._doomed = [slot for slot in self._doomed if slot.users > 0]
        for slot in ready:
            slot.executor.close()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            name, used = self._engine.model.name, self.memory_bytes
            _logger.warning("%s: max_bytes: the executors in use need %d, got %d", name, used, self._most_bytes)
