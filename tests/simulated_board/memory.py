"""The memory that the board shares with what runs on it (native/board_memory.hpp)."""

import math
import mmap
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulated_board.physics import Indices, Phase, Physics
from simulated_board.tree import Domain

PROCESSORS, OPPS, LAYERS, PROCESSES, RING, NAME_BYTES = 8, 32, 256, 32, 1 << 14, 512
NONE = -1
STRETCH, BEGAN, ENDED = range(3)
INPUT, OUTPUT, LOAD, UNLOAD, RUN, TRANSFERS = range(6)

PROCESSOR = np.dtype(
    [
        *((name, "i8") for name in ("letter", "opps", "stride", "in_force", "asked", "pending", "pending_at_ns")),
        ("freqs", "i8", OPPS),
        ("delay_ns", "f8", (OPPS, OPPS)),
        ("governor", f"S{NAME_BYTES}"),
        ("speed", f"S{NAME_BYTES}"),
    ]
)
NETWORK = np.dtype([("name", "S32"), ("layers", "i8"), ("tables", "i8")])
PROCESS = np.dtype([("pid", "i8"), ("used_ns", "i8"), ("source", "i8", LAYERS), ("ended_ns", "i8", LAYERS)])
RECORD = np.dtype([*((name, "i8") for name in ("kind", "activity", "pid", "begin_ns", "end_ns")), ("power_mw", "f8")])
HEADER = np.dtype(
    [
        *((name, "i8") for name in ("size_bytes", "board_pid", "npu_hangs", "processor_count", "npu", "frequencies")),
        ("npu_run_shrink", "f8"),
        ("activities", "i8"),
        ("head", "i8"),
        ("processors", PROCESSOR, PROCESSORS),
        ("networks", NETWORK, 2),
        ("processes", PROCESS, PROCESSES),
        ("ring", RECORD, RING),
    ]
)


class Record(NamedTuple):
    """What a process tells: `kind` STRETCH, BEGAN (a step) or ENDED (an activity)."""

    kind: int
    activity: int
    pid: int
    begin_ns: int
    end_ns: int
    power_mw: float


class BoardMemory:
    """Is to be had under the name `path` as long as this process lives.

    `networks`: name and physics of two; the first one's is every other name. `domains`: of processors with a frequency.
    """

    def __init__(self, path: Path, networks: list[tuple[bytes, Physics]], domains: dict[str, Domain]) -> None:
        physics = networks[0][1]
        letters = [processor.letter for processor in physics.profile.processors]
        counts = [len(domains[letter].freqs) if letter in domains else 1 for letter in letters]
        strides = [math.prod(counts[place + 1 :]) for place in range(len(counts))]
        tables = [_tables(network, dict(zip(letters, counts, strict=True))) for _, network in networks]
        size = HEADER.itemsize + sum(table.nbytes for table in tables)
        # In no file: what writes to one now and then waits for the disk.
        self._file = os.memfd_create("simulated_board")
        os.ftruncate(self._file, size)
        self._mapped = mmap.mmap(self._file, size)
        header = np.ndarray((), HEADER, self._mapped)
        header["board_pid"] = os.getpid()
        header["processor_count"] = len(letters)
        header["npu"] = letters.index(physics.npu) if physics.npu else NONE
        header["frequencies"] = math.prod(counts)
        header["npu_run_shrink"] = physics.profile.constants.npu_run_shrink
        for place, letter in enumerate(letters):
            processor = header["processors"][place]
            processor["letter"], processor["stride"] = ord(letter), strides[place]
            processor["pending"] = NONE
            if letter in domains:
                domain, count = domains[letter], counts[place]
                processor["opps"] = count
                processor["in_force"] = processor["asked"] = count - 1
                processor["freqs"][:count] = domain.freqs
                processor["delay_ns"][:count, :count] = 1e6 * physics.profile.delay_ms[letter]
                processor["governor"], processor["speed"] = _name(domain.governor), _name(domain.speed)
        at = HEADER.itemsize
        for number, ((name, network), table) in enumerate(zip(networks, tables, strict=True)):
            header["networks"][number] = (name, network.profile.layer_count, at)
            np.ndarray(table.shape, table.dtype, self._mapped, at)[...] = table
            at += table.nbytes
        header["size_bytes"] = HEADER.itemsize
        # Plain views: their elements are read and written as a whole.
        self._head, self._npu_hangs, self._ring = header["head"], header["npu_hangs"], header["ring"]
        self._read = 0
        self.path = path
        path.unlink(missing_ok=True)
        path.symlink_to(f"/proc/{os.getpid()}/fd/{self._file}")

    def records(self) -> Iterator[Record]:
        """Those that came since the last call."""
        head = int(self._head[()])
        self._read = max(self._read, head - RING)
        numbers = np.arange(self._read, head) % RING
        self._read = head
        return (Record(*record) for record in self._ring[numbers].tolist())

    def hang_npu(self, hangs: bool) -> None:
        """From now on its runs do not end; or they all do."""
        self._npu_hangs[...] = hangs


def _name(path: Path) -> bytes:
    name = os.fsencode(path)
    if len(name) >= NAME_BYTES:
        raise ValueError(f"{path}: expected less than {NAME_BYTES} bytes, got {len(name)}")
    return name


def _tables(physics: Physics, counts: dict[str, int]) -> np.ndarray:
    """[5 + processors, processors, layers, frequencies, 2]: ns and mW, NaN for what there is not."""
    layers = physics.profile.layer_count
    everywhere: list[Indices] = [
        dict(zip(counts, indices, strict=True)) for indices in product(*map(range, counts.values()))
    ]
    tables = np.full((TRANSFERS + len(counts), len(counts), layers, len(everywhere), 2), np.nan)

    def fill(row: int, place: int, layer: int, phase: Phase) -> None:
        tables[row, place, layer] = [phase(indices) for indices in everywhere]

    for place, letter in enumerate(counts):
        for layer in range(layers):
            fill(RUN, place, layer, *physics.step(letter, layer, layer))
            before, *loads = physics.bind(letter, layer, letter)
            if layer == 0:
                fill(INPUT, place, layer, before)
            for phase in loads:
                fill(LOAD, place, layer, phase)
            phases = physics.finish(letter, layer)
            if layer == layers - 1:
                fill(OUTPUT, place, layer, phases.pop())
            for phase in phases:
                fill(UNLOAD, place, layer, phase)
        for number, source in enumerate(counts):
            for layer in range(layers - 1):
                fill(TRANSFERS + number, place, layer, physics.bind(letter, layer + 1, source)[0])
    tables[..., 0] *= 1e6
    return tables
