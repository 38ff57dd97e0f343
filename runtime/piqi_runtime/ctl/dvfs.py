"""``piqictl dvfs``: which frequencies of a board can be set, why not, and how long a change takes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piqi_runtime.boards import Board, Processor, load_board
from piqi_runtime.dvfs import Control, Device, find_folders, inspect, left_alone, read_khz
from piqi_runtime.errors import PiqiError
from piqi_runtime.host.frequencies import Frequencies
from piqi_runtime.report import format_table

READ_BACK_TIMEOUT_S = 0.5
TOLERANCE = 0.02  # clock dividers do not hit every OPP exactly

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


class DvfsError(PiqiError):
    """A frequency that cannot be set; the message names the processor and the cause."""


@dataclass(frozen=True)
class Trial:
    """A frequency that was asked for and what became of it. `delay_ms`: until it read back so; None: it never did."""

    processor: str
    path: str
    index: int
    asked_khz: int
    got_khz: int | None
    delay_ms: float | None


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "dvfs",
        help="show which frequencies can be set, and why not",
        description="Shows, for each processor, where its frequency is set, what that stands at and why it cannot be "
        "set. Nothing is written without --set.",
        epilog="Exit codes: 0 every processor with a table of frequencies can be set, and what --set asked for was "
        "reached; 1 one cannot, or was not (a line for each), or another error; 2 a wrong command line.",
    )
    parser.add_argument("--board", default="host", help="a board of configs/boards, or a file (default: host)")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="where sys/ is (default: /)")
    parser.add_argument(
        "--set",
        nargs="+",
        metavar="LETTER=INDEX",
        help="try these frequencies, measure how long until they read back, put back what was found",
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="with --set: the daemon's frequency_state, if any")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Prints the report; raises DvfsError with a line for each problem."""
    board = load_board(arguments.board, arguments.root)
    wanted = [_parse(board, text) for text in arguments.set or ()]
    if len({processor.letter for processor, _ in wanted}) < len(wanted):
        raise DvfsError(f"--set: expected each processor once, got {' '.join(arguments.set)}")
    controls = {processor.letter: inspect(arguments.root, processor) for processor in board.processors}
    problems = [
        ": ".join(text for text in (letter, control.folder.path, problem) if text)
        for letter, found in controls.items()
        for control in found
        for problem in control.problems
    ]
    trials: list[Trial] = []
    if wanted:
        trials, failed = _try(board, arguments.root, arguments.state, wanted)
        problems += [problem for problem in failed if problem not in problems]
    devices = left_alone(arguments.root, board)
    if arguments.json:
        print(json.dumps(_to_dict(board, controls, devices, trials), indent=1, ensure_ascii=False))
    else:
        print(_to_text(board, controls, devices, trials))
        sys.stdout.flush()
    if problems:
        raise DvfsError("\n".join(problems))


def _parse(board: Board, text: str) -> tuple[Processor, int]:
    letter, _, index = text.partition("=")
    if not index.isascii() or not index.isdecimal():
        raise DvfsError(f"--set: expected LETTER=INDEX, got {text!r}")
    processor = board.processor(letter)
    if not processor.freqs_khz:
        raise DvfsError(f"--set: {letter} has no table of frequencies, got {text!r}")
    if int(index) >= len(processor.freqs_khz):
        raise DvfsError(f"--set: {letter}: expected an index from 0 to {len(processor.freqs_khz) - 1}, got {index}")
    return processor, int(index)


def _try(
    board: Board, root: Path, state: Path | None, wanted: Sequence[tuple[Processor, int]]
) -> tuple[list[Trial], list[str]]:
    """Sets them one after the other, reads back, and puts all back; also gives what did not work."""
    trials: list[Trial] = []
    with Frequencies(board, root, state) as frequencies:
        governor = frequencies.governor
        if governor is None:
            return [], frequencies.warnings
        domains = [p.letter for p in board.processors if p.freqs_khz and p.domains]
        problems = list(governor.warnings)
        for processor, index in wanted:
            domain = domains.index(processor.letter) if processor.letter in domains else None
            if domain is None or not governor.controls(domain):
                if domain is None:
                    problems.append(f"{processor.letter}: the board file names no folder that sets it")
                continue
            paths = [folder.path for folder in find_folders(root, processor) if folder.path]
            began = time.monotonic()
            governor.request(domain, index)
            trials += [_read_back(root, processor, path, index, began) for path in paths]
    problems += [
        f"{trial.processor}: {trial.path}: asked for {trial.asked_khz} kHz, runs at {trial.got_khz} kHz "
        f"after {READ_BACK_TIMEOUT_S:g} s"
        for trial in trials
        if trial.delay_ms is None
    ]
    return trials, problems


def _read_back(root: Path, processor: Processor, path: str, index: int, began: float) -> Trial:
    asked_khz = processor.freqs_khz[index]
    while True:
        got_khz = read_khz(root / path)
        elapsed_s = time.monotonic() - began
        if got_khz is not None and abs(got_khz - asked_khz) <= TOLERANCE * asked_khz:
            return Trial(processor.letter, path, index, asked_khz, got_khz, round(elapsed_s * 1e3, 3))
        if elapsed_s > READ_BACK_TIMEOUT_S:
            return Trial(processor.letter, path, index, asked_khz, got_khz, None)
        time.sleep(0.0001)


def _to_dict(
    board: Board, controls: dict[str, list[Control]], devices: Sequence[Device], trials: Sequence[Trial]
) -> dict[str, Any]:
    return {
        "board": board.name,
        "processors": {
            processor.letter: {
                "name": processor.name,
                "freqs_khz": processor.freqs_khz,
                "controllable": bool(controls[processor.letter])
                and all(c.controllable for c in controls[processor.letter]),
                "domains": [control.to_dict() for control in controls[processor.letter]],
            }
            for processor in board.processors
        },
        "left_alone": [asdict(device) for device in devices],
        "set": [asdict(trial) for trial in trials],
    }


def _to_text(
    board: Board, controls: dict[str, list[Control]], devices: Sequence[Device], trials: Sequence[Trial]
) -> str:
    rows: list[tuple[str, ...]] = [("", "can be set", "governor", "now MHz", "limits MHz", "folder")]
    notes = []
    for processor in board.processors:
        found = controls[processor.letter]
        if not found:
            rows.append((processor.letter, _why_not(processor), "-", "-", "-", "-"))
        for control in found:
            limits = "-" if control.max_khz is None else f"{_mhz(control.min_khz)}-{_mhz(control.max_khz)}"
            state = ("yes" if control.controllable else "NO", control.governor or "-", _mhz(control.freq_khz), limits)
            rows.append((processor.letter, *state, control.folder.path or "not found"))
            notes += [f"{processor.letter}: {text}" for text in (*control.problems, *control.notes)]
    lines = [f"board {board.name}", "", format_table(rows, left=(0, 1, 2, 5))]
    lines += ["", *dict.fromkeys(notes)] if notes else []
    lines += [
        f"{device.path}: left alone ({device.governor or 'no governor'}, {_mhz(device.freq_khz)} MHz)"
        for device in devices
    ]
    if trials:
        tried: list[tuple[str, ...]] = [("", "index", "asked MHz", "read back MHz", "after ms", "folder")]
        for trial in trials:
            delay = "never" if trial.delay_ms is None else f"{trial.delay_ms:.3f}"
            asked, got = _mhz(trial.asked_khz), _mhz(trial.got_khz)
            tried.append((trial.processor, str(trial.index), asked, got, delay, trial.path))
        lines += ["", format_table(tried, left=(0, 5)), "What was found was put back."]
    return "\n".join(lines)


def _why_not(processor: Processor) -> str:
    if processor.kind == "npu":
        return "no: its host's frequency is set"
    return "no folder in the board file" if processor.freqs_khz else "no table of frequencies"


def _mhz(freq_khz: int | None) -> str:
    return "-" if freq_khz is None else f"{freq_khz / 1000:g}"
