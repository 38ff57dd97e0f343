"""From the bytes of a serial port to epochs: lines between two resets, their stamps and counts unwrapped."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

from piqi_runtime.meter.line import MAX_LENGTH, WRAP, Line, parse_line

_NS = 1_000_000_000
MAX_LEAD_NS = 2 * _NS  # by how much a stamp may run ahead of when lines arrive
STALL_NS = _NS // 4
FEW_STEPS = 4


@dataclass
class Epoch:
    """Lines since a start of the meter; all lists have an entry a line."""

    stamp_us: list[int] = field(default_factory=list)  # unwrapped
    arrival_ns: list[int] = field(default_factory=list)  # host
    marker: list[int] = field(default_factory=list)  # unwrapped
    power_mw: list[float | None] = field(default_factory=list)  # None: an edge


class LineStream:
    """Collects epochs from chunks of bytes, and counts what is bad, lost and reset."""

    def __init__(self) -> None:
        self.epochs = [Epoch()]
        self.good = self.bad = self.lost = self.resets = 0
        self._rest = b""
        self._joined = False  # the first line is the rest of one that began before
        self._last: tuple[Line, int] | None = None  # and when it arrived
        self._suspect: tuple[Line, int] | None = None  # out of order: a reset, if the next line goes on from there

    def feed(self, data: bytes, arrival_ns: int) -> None:
        """Takes what was read at `arrival_ns`."""
        *lines, rest = (self._rest + data).split(b"\n")
        if lines and not self._joined:
            self._joined = True
            del lines[0]
        for text in lines:
            self._add(text.rstrip(b"\r"), arrival_ns)
        if len(rest) > MAX_LENGTH:  # noise without an end
            self.bad += 1
            rest = b""
        self._rest = rest

    def _add(self, text: bytes, arrival_ns: int) -> None:
        if not text or text.startswith(b"#"):
            return
        line = parse_line(text)
        if line is None:
            self.bad += 1
            return
        entry = (line, arrival_ns)
        if self._last is None or _follows(self._last, entry):
            if self._suspect is not None:
                self._suspect = None
                self.bad += 1
            self._append(entry)
        elif self._suspect is not None and _follows(self._suspect, entry):
            first, self._suspect = self._suspect, None
            self.resets += 1
            self._last = None
            self.epochs.append(Epoch())
            self._append(first)
            self._append(entry)
        else:
            if self._suspect is not None:
                self.bad += 1
            self._suspect = entry

    def _append(self, entry: tuple[Line, int]) -> None:
        line, arrival_ns = entry
        epoch = self.epochs[-1]
        stamp_us, marker = line.stamp_us, line.marker
        if self._last is not None:
            last = self._last[0]
            self.lost += (line.sequence - last.sequence) % WRAP - 1
            if epoch.stamp_us:
                stamp_us = epoch.stamp_us[-1] + (line.stamp_us - last.stamp_us) % WRAP
                marker = epoch.marker[-1] + (line.marker - last.marker) % WRAP
        epoch.stamp_us.append(stamp_us)
        epoch.arrival_ns.append(arrival_ns)
        epoch.marker.append(marker)
        epoch.power_mw.append(line.power_mw)
        self.good += 1
        self._last = entry

    def copy(self) -> LineStream:
        """What has come so far; this stream goes on."""
        other = copy(self)
        other.epochs = [Epoch(*(list(values) for values in vars(epoch).values())) for epoch in self.epochs]
        return other

    def clear(self) -> None:
        """Forgets all lines and counts, but not where the stream is."""
        self.epochs = [Epoch()]
        self.good = self.bad = self.lost = self.resets = 0


def _follows(last: tuple[Line, int], entry: tuple[Line, int]) -> bool:
    """Whether a line can come after another without a reset between them."""
    steps = (entry[0].sequence - last[0].sequence) % WRAP
    marks = (entry[0].marker - last[0].marker) % WRAP
    stamp_ns = 1000 * ((entry[0].stamp_us - last[0].stamp_us) % WRAP)
    arrival_ns = entry[1] - last[1]
    if not 0 < steps < WRAP // 2 or marks >= WRAP // 2 or stamp_ns > arrival_ns + MAX_LEAD_NS:
        return False
    # After a stall of the host the lines that were buffered go on where the last one ended, but for some that may be
    # spoilt; only a meter that was reset leaves more out and yet is behind.
    return steps <= FEW_STEPS or arrival_ns <= stamp_ns + stamp_ns // 50 + STALL_NS
