"""What Rockchip's toolkit prints, read: cycles of each layer, and its error on the simulator."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(r"^[A-Z] RKNN: \[[0-9:.]+\] ?")
_CYCLES = re.compile(
    r"^(?P<number>\d+)\s+(?P<operator>\S+)\s+(?P<type>\S+)\s+(?P<target>\S+)\s+(?P<inputs>\S+)\s+(?P<output>\S+)\s+"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+)\s+(?P<rw_kb>\d+)(?P<name>.*)$"
)
_ERRORS = re.compile(
    r"^\[(?P<operator>[^]]+)\] (?P<name>.*?)\s+(?P<entire>[-0-9.naif]+)\s+\|\s+(?P<entire_distance>[-0-9.naif]+)\s+"
    r"(?P<single>[-0-9.naif]+)\s+\|\s+(?P<single_distance>[-0-9.naif]+)\s*$"
)


@dataclass(frozen=True)
class LayerCycles:
    """A layer as the compiler placed it. Cycles are its estimate for memory, for the NPU, and the larger of them."""

    operator: str
    data_type: str
    target: str  # NPU or CPU
    output_shape: str
    ddr_cycles: int
    npu_cycles: int
    total_cycles: int
    read_written_kb: int
    name: str


@dataclass(frozen=True)
class LayerError:
    """A layer's output on the simulator against the toolkit's own float run, from frame 0.

    `entire`: with the errors of all layers before it; `single`: with exact inputs. Distances are Euclidean.
    """

    operator: str
    name: str
    entire_cosine: float
    entire_distance: float
    single_cosine: float
    single_distance: float


def plain_lines(log: str) -> list[str]:
    """The lines of a log, without colours, progress bars and prefixes."""
    lines = []
    for line in _ESCAPE.sub("", log).splitlines():
        line = _PREFIX.sub("", line.split("\r")[-1]).rstrip()
        if line and "it/s]" not in line:
            lines.append(line)
    return lines


def read_cycles(log: str) -> tuple[LayerCycles, ...]:
    """The "Network Layer Information Table" in what the toolkit printed; empty if it printed none."""
    lines = plain_lines(log)
    starts = [i for i, line in enumerate(lines) if "Network Layer Information Table" in line]
    if not starts:
        return ()
    layers: list[LayerCycles] = []
    for line in lines[starts[-1] + 1 :]:
        match = _CYCLES.match(line)
        if match:
            layers.append(
                LayerCycles(
                    match["operator"],
                    match["type"],
                    match["target"],
                    match["output"],
                    int(match["ddr"]),
                    int(match["npu"]),
                    int(match["total"]),
                    int(match["rw_kb"]),
                    match["name"].strip(),
                )
            )
        elif layers:
            break  # the table's last rule
    return tuple(layers)


def read_errors(table: str) -> tuple[LayerError, ...]:
    """The layers of an `error_analysis.txt`; those that the toolkit fused into the next have no line of their own."""
    # A colour is at times all that is between two columns.
    matches = (_ERRORS.match(line) for line in _ESCAPE.sub(" ", table).splitlines())
    return tuple(
        LayerError(
            match["operator"],
            match["name"],
            *(float(match[key]) for key in ("entire", "entire_distance", "single", "single_distance")),
        )
        for match in matches
        if match
    )


def last_complaint(log: str) -> str:
    """The toolkit's own last word on what went wrong, or its last line; empty for an empty log."""
    lines = plain_lines(log)
    complaints = [line for line in lines if line.startswith("E ") or re.match(r"^\w+(Error|Exception): ", line)]
    return (complaints or lines or [""])[-1]
