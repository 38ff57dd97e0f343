"""The line that the meter sends: ``sequence,stamp_us,marker,power,checksum``. native/firmware writes the same.

``sequence`` counts lines and ``stamp_us`` microseconds, both from the meter's start and modulo 2^32; ``marker``
counts edges of the marker line, modulo 2^32; ``power`` is in mW with one decimal place. Where ``power`` is empty the
line tells of an edge, and its stamp is the edge's. The checksum is CRC-16/CCITT-FALSE over all before the last comma,
four upper-case hexadecimal digits. Lines that begin with ``#`` are comments.
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from piqi_runtime.meter.base import MeterError

MAX_LENGTH = 64
WRAP = 1 << 32
_PATTERN = re.compile(rb"(0|[1-9]\d{0,9}),(0|[1-9]\d{0,9}),(0|[1-9]\d{0,9}),((?:0|[1-9]\d{0,7})\.\d)?,([0-9A-F]{4})")


class Line(NamedTuple):
    """One line; `power_mw` is None for an edge of the marker."""

    sequence: int
    stamp_us: int
    marker: int
    power_mw: float | None


def checksum(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: polynomial 0x1021, from 0xFFFF."""
    return binascii.crc_hqx(data, 0xFFFF)


def parse_line(data: bytes) -> Line | None:
    """A line without its end; None unless form, ranges and checksum are right."""
    match = _PATTERN.fullmatch(data)
    if match is None or int(match[5], 16) != checksum(data[:-5]):
        return None
    sequence, stamp_us, marker = int(match[1]), int(match[2]), int(match[3])
    if max(sequence, stamp_us, marker) >= WRAP:
        return None
    return Line(sequence, stamp_us, marker, None if match[4] is None else float(match[4]))


def format_line(line: Line) -> bytes:
    """The line with its end. Raises MeterError for what does not fit."""
    for field in ("sequence", "stamp_us", "marker"):
        if not 0 <= (value := getattr(line, field)) < WRAP:
            raise MeterError(f"meter line: {field}: expected 0 to {WRAP - 1}, got {value}")
    power = ""
    if line.power_mw is not None:
        tenths = round(line.power_mw * 10)
        if not 0 <= tenths < 1_000_000_000:
            raise MeterError(f"meter line: power_mw: expected 0 to 99999999.9, got {line.power_mw}")
        power = f"{tenths // 10}.{tenths % 10}"
    body = f"{line.sequence},{line.stamp_us},{line.marker},{power}".encode()
    return body + b",%04X\n" % checksum(body)
