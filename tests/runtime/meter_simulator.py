"""A power meter on a pseudo-terminal: plays a known trace as native/firmware would send it, faults included.

``python meter_simulator.py JSON`` prints the terminal's name and plays until it is ended. The trace is given on the
host's monotonic clock, which both processes share: `layers` of power that begin at the marks.
"""

import json
import os
import random
import sys
import termios
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from piqi_runtime.meter.line import WRAP, Line, format_line

PERIOD_US = 1120


@dataclass
class Trace:
    began_ns: list[int] = field(default_factory=list)  # of each run of a layer, one after the other
    ended_ns: list[int] = field(default_factory=list)
    power_mw: list[float] = field(default_factory=list)
    idle_mw: float = 2000.0
    drift_ppm: float = 0.0
    first_us: int = 0  # the meter's clock when it starts
    jitter_us: float = 0.0  # of conversions and, one-sided, of edges
    delay_ms: float = 0.0  # of lines, at most, in bursts
    drop: float = 0.0  # part of the lines that never arrives
    noise: float = 0.0  # part of the lines that a wrong bit spoils
    reset_ns: int = 0  # when the meter resets
    boot_ms: float = 300.0
    unplug_ns: int = 0
    silent_ns: int = 0
    baud: int = 921600  # of its own; garbles its bytes where the terminal is set to another
    seed: int = 0


def energy_nj(trace: Trace, begin: int, end: int, first: int) -> tuple[float, int]:
    """Between two times (mW ns), and the run to look from next time."""
    total, run = trace.idle_mw * (end - begin), first
    while run < len(trace.began_ns) and trace.began_ns[run] < end:
        overlap = min(end, trace.ended_ns[run]) - max(begin, trace.began_ns[run])
        total += max(0, overlap) * (trace.power_mw[run] - trace.idle_mw)
        if trace.ended_ns[run] > end:
            break
        run += 1
    return total, run


def lines(trace: Trace, start_ns: int, end_ns: int, rng: random.Random):
    """(host time, line) in order, from a start of the meter on."""
    rate = 1 + trace.drift_ppm * 1e-6
    edges = [ns + int(abs(rng.gauss(0, trace.jitter_us)) * 1e3) for ns in trace.began_ns if ns >= start_ns]
    sequence = marker = run = 0
    at = start_ns
    while at < end_ns:
        before = at
        at += int(1000 * (PERIOD_US + rng.uniform(-trace.jitter_us, trace.jitter_us)))
        total, run = energy_nj(trace, before, at, run)
        events = []
        while marker < len(edges) and edges[marker] < at:
            marker += 1
            events.append((edges[marker - 1], marker, None))
        for ns, count, power in [*events, (at, marker, total / (at - before))]:
            stamp = (trace.first_us + int((ns - start_ns) * rate / 1000)) % WRAP
            yield ns, format_line(Line(sequence, stamp, count, power))
            sequence += 1


def play(trace: Trace, end_ns: int):
    """(host time, bytes) of all lines, with noise and drops."""
    rng = random.Random(trace.seed)
    start = time.monotonic_ns()
    parts = [(start, trace.reset_ns or end_ns)]
    if trace.reset_ns:
        parts.append((trace.reset_ns + int(trace.boot_ms * 1e6), end_ns))
    for number, (begin, end) in enumerate(parts):
        if number:
            trace.first_us = 0
        yield begin, b"# piqi-meter 1 INA260\n"
        for ns, line in lines(trace, begin, end, rng):
            if rng.random() < trace.drop:
                continue
            if rng.random() < trace.noise:
                spoilt = bytearray(line)
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
                line = bytes(spoilt)
            yield ns, line


def at_other_baud(data: bytes, ratio: float) -> bytes:
    """What a receiver makes of bytes that come `ratio` times as fast as it samples."""
    bits = [bit for byte in data for bit in (0, *((byte >> i) & 1 for i in range(8)), 1)]
    received, at = bytearray(), 0.0
    while at + 10 * ratio < len(bits):
        if bits[int(at)]:
            at += min(1.0, ratio)
            continue
        sampled = [bits[int(at + (i + 1.5) * ratio)] for i in range(8)]
        received.append(sum(bit << i for i, bit in enumerate(sampled)))
        at += 9.5 * ratio
    return bytes(received)


def main() -> None:
    trace = Trace(**json.loads(sys.argv[1]))
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[0] = attributes[1] = attributes[3] = 0  # raw, no echo
    attributes[5] = attributes[4] = termios.B921600
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    print(os.ttyname(slave), flush=True)
    sys.stdin.close()
    threading.Timer(60, os._exit, [1]).start()
    os.set_blocking(master, False)
    rng = random.Random(trace.seed + 1)
    speeds = {getattr(termios, f"B{baud}"): baud for baud in (9600, 115200, 460800, 921600)}
    pending, due = b"", 0
    for ns, line in play(trace, time.monotonic_ns() + 60_000_000_000):
        if not pending:
            due = ns + int(rng.random() * trace.delay_ms * 1e6)
        pending += line
        if ns < due:
            continue
        if (wait := ns - time.monotonic_ns()) > 0:
            time.sleep(wait / 1e9)
        if trace.unplug_ns and ns > trace.unplug_ns:
            break
        data, pending = pending, b""
        if trace.silent_ns and ns > trace.silent_ns:
            continue
        ours = speeds.get(termios.tcgetattr(slave)[5], 0)
        if ours != trace.baud:
            data = at_other_baud(data, trace.baud / ours)
        with suppress(BlockingIOError):  # nobody reads
            os.write(master, data)
    os._exit(0)


def to_json(trace: Trace) -> str:
    return json.dumps(asdict(trace))


if __name__ == "__main__":
    main()
