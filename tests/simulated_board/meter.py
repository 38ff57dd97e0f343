"""The power meter: integrates the board's power and speaks native/firmware's protocol on a pseudo-terminal."""

import os
import random
import termios
from collections import deque
from contextlib import suppress
from pathlib import Path

from piqi_runtime.meter.line import WRAP, Line, format_line
from simulated_board.physics import Piece

PERIOD_NS = 1_120_000
BEHIND_NS = 8_000_000  # lines come that late, as through an adapter: until then a board may tell what ran
NOISE_MW = 5.0
DRIFT_PPM = 40.0


class Activity:
    """What a processor does for process `pid`; open until it is known when it ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pieces: list[Piece] = []
        self.end_ns: int | None = None

    def energy(self, begin_ns: int, end_ns: int, idle_mw: float) -> float:
        """mW ns above the idle board's between two times."""
        total = 0.0
        for number, (first, last, power_mw) in enumerate(self.pieces):
            if number == len(self.pieces) - 1:  # late, or not known to have ended
                last = end_ns if self.end_ns is None else self.end_ns
            total += max(0, min(last, end_ns) - max(first, begin_ns)) * (power_mw - idle_mw)
        return total


class Meter:
    """Lines for windows of about PERIOD_NS, and for each edge of the marker. `link`: the port's name."""

    def __init__(self, link: Path, idle_mw: float, now_ns: int, seed: int) -> None:
        self._link, self._idle_mw = link, idle_mw
        self._rng = random.Random(seed)
        self._start_ns = self._at_ns = now_ns
        self._activities: deque[Activity] = deque()
        self._edges: deque[int] = deque()
        self._sequence = self._marker = 0
        self._ends: tuple[int, int] | None = None
        self.plug()

    def plug(self) -> None:
        """A new terminal under the old name."""
        if self._ends:
            return
        master, slave = os.openpty()  # ours of the slave stays open: the line does not hang up between two readers
        attributes = termios.tcgetattr(slave)
        attributes[0] = attributes[1] = attributes[3] = 0  # raw, no echo
        attributes[4] = attributes[5] = termios.B921600
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.set_blocking(master, False)
        self._ends = master, slave
        self._link.parent.mkdir(parents=True, exist_ok=True)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(slave))

    def unplug(self) -> None:
        """Its reader gets an end of file, others find no port."""
        self._link.unlink(missing_ok=True)
        for end in self._ends or ():
            os.close(end)
        self._ends = None

    def add(self, activity: Activity) -> None:
        """Begins now, or has just begun."""
        self._activities.append(activity)

    def edge(self, at_ns: int) -> None:
        """The marker line changed."""
        self._edges.append(at_ns)

    def send(self, now_ns: int) -> None:
        """Sends what was measured until a little before now."""
        text = b""
        while self._at_ns + PERIOD_NS <= now_ns - BEHIND_NS:
            begin_ns = self._at_ns
            self._at_ns += int(PERIOD_NS + self._rng.gauss(0, 2000))
            while self._edges and self._edges[0] < self._at_ns:
                self._marker += 1
                text += self._line(max(begin_ns, self._edges.popleft()), None)
            energy = sum(a.energy(begin_ns, self._at_ns, self._idle_mw) for a in self._activities)
            power_mw = self._idle_mw + energy / (self._at_ns - begin_ns) + self._rng.gauss(0, NOISE_MW)
            text += self._line(self._at_ns, max(0.0, power_mw))
            while self._activities and (end_ns := self._activities[0].end_ns) is not None and end_ns < self._at_ns:
                self._activities.popleft()
        if text and self._ends:
            with suppress(BlockingIOError):  # nobody reads
                os.write(self._ends[0], text)

    def _line(self, at_ns: int, power_mw: float | None) -> bytes:
        stamp_us = int((at_ns - self._start_ns) * (1 + DRIFT_PPM * 1e-6) / 1000) % WRAP
        line = format_line(Line(self._sequence % WRAP, stamp_us, self._marker % WRAP, power_mw))
        self._sequence += 1
        return line
