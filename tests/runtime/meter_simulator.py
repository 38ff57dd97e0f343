"""A power meter on a pseudo-terminal: plays a known trace as native/firmware would send it, faults included.

``python meter_simulator.py JSON`` prints the terminal's name and plays until its input ends. Layers' runs come with a
line of JSON on it, in ns from then on; what time that was, on the host's monotonic clock, it prints. From then on no
line is lost but those that the trace says: what nobody reads waits.
"""

import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from piqi_runtime.meter.line import WRAP, Line, format_line

PERIOD_US = 1120
#: From the line that brings the runs to the first of them: lines are under way.
LEAD_NS = 100_000_000
#: Held while runs are added: no line may go past them meanwhile.
ADDING = threading.Lock()
#: Their times in a trace.
RUNS, MOMENTS = ("began_ns", "ended_ns"), ("reset_ns", "unplug_ns", "silent_ns")


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


def lines(trace: Trace, start_ns: int, rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """(host time, line) in order, from a start of the meter on. Runs may be added to `trace` on the way."""
    rate = 1 + trace.drift_ppm * 1e-6
    edges: list[int] = []
    sequence = marker = run = known = 0
    at = start_ns
    while True:
        before = at
        at += int(1000 * (PERIOD_US + rng.uniform(-trace.jitter_us, trace.jitter_us)))
        with ADDING:
            total, run = energy_nj(trace, before, at, run)
            new, known = trace.began_ns[known:], len(trace.began_ns)
        edges += [ns + int(abs(rng.gauss(0, trace.jitter_us)) * 1e3) for ns in new if ns >= start_ns]
        events = []
        while marker < len(edges) and edges[marker] < at:
            marker += 1
            events.append((edges[marker - 1], marker, None))
        for ns, count, power in [*events, (at, marker, total / (at - before))]:
            stamp = (trace.first_us + int((ns - start_ns) * rate / 1000)) % WRAP
            yield ns, format_line(Line(sequence, stamp, count, power))
            sequence += 1


def play(trace: Trace) -> Iterator[tuple[int, bytes]]:
    """(host time, bytes) of all lines, with noise and drops."""
    rng = random.Random(trace.seed)
    begin = time.monotonic_ns()
    while True:
        yield begin, b"# piqi-meter 1 INA260\n"
        for ns, line in lines(trace, begin, rng):
            if begin < trace.reset_ns <= ns:
                break
            if rng.random() < trace.drop:
                continue
            if rng.random() < trace.noise:
                spoilt = bytearray(line)
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
                line = bytes(spoilt)
            yield ns, line
        begin = trace.reset_ns + int(trace.boot_ms * 1e6)
        trace.first_us = 0


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


def shift(trace: Trace, by_ns: int) -> None:
    """All its times."""
    for name in RUNS:
        setattr(trace, name, [ns + by_ns for ns in getattr(trace, name)])
    for name in MOMENTS:
        if getattr(trace, name):
            setattr(trace, name, getattr(trace, name) + by_ns)


def take_runs(trace: Trace, taken: threading.Event) -> None:
    """Adds the runs that come on standard input; the process ends with it."""
    for text in sys.stdin:
        new = Trace(**json.loads(text))
        with ADDING:
            base_ns = time.monotonic_ns() + LEAD_NS
            shift(new, base_ns)
            for name in ("power_mw", *MOMENTS, *RUNS):
                setattr(trace, name, getattr(new, name))
        taken.set()
        print(base_ns, flush=True)
    os._exit(0)


def write(master: int, data: bytes, patient: bool) -> None:
    """All of it, or, without patience, as much as there is room for."""
    while data:
        _, ready, _ = select.select([], [master], [], None if patient else 0)
        if not ready:
            return
        with suppress(BlockingIOError):
            data = data[os.write(master, data) :]


def wait_until_read(slave: int) -> None:
    """What is still in the terminal when it is closed is lost."""
    quiet = 0
    while quiet < 50:
        (waiting,) = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, bytes(4)))
        quiet = 0 if waiting else quiet + 1
        time.sleep(0.002)


def main() -> None:
    trace = Trace(**json.loads(sys.argv[1]))
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[0] = attributes[1] = attributes[3] = 0  # raw, no echo
    attributes[5] = attributes[4] = termios.B921600
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    print(os.ttyname(slave), flush=True)
    taken = threading.Event()
    threading.Thread(target=take_runs, args=(trace, taken), daemon=True).start()
    os.set_blocking(master, False)
    rng = random.Random(trace.seed + 1)
    speeds = {getattr(termios, f"B{baud}"): baud for baud in (9600, 115200, 460800, 921600)}
    pending, due = b"", 0
    for ns, line in play(trace):
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
        write(master, data, taken.is_set())
    wait_until_read(slave)
    os._exit(0)


class Simulator:
    """The meter's process; `port` is its terminal."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = self._line()

    def begin(self, trace: Trace) -> None:
        """Has the runs happen from now on, and puts the times of `trace` on the host's clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(asdict(trace))}\n")
        self._process.stdin.flush()
        shift(trace, int(self._line()))

    def unplug(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def simulator(trace: Trace) -> Iterator[Simulator]:
    """A meter with the faults of a trace; its runs come with `Simulator.begin`."""
    later = {key: [] if key in (*RUNS, "power_mw") else 0 for key in (*RUNS, "power_mw", *MOMENTS)}
    faults = asdict(trace) | (later if trace.began_ns else {})
    command = [sys.executable, __file__, json.dumps(faults)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Simulator(process)
        finally:
            process.kill()


if __name__ == "__main__":
    main()
