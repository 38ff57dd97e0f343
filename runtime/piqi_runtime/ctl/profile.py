"""piqictl profile: what every layer of a model costs on every processor of this board."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from piqi_runtime.boards import load_board
from piqi_runtime.bundle import load_bundle
from piqi_runtime.profiling import Conditions, LeftOutError, Profiled, ProfilingError, profile_board

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "profile",
        help="measure what every layer costs on every processor",
        epilog="Exit code 3: the profile is written, but for processors that could not be measured. "
        "What was measured before an error or a kill is kept: the same command goes on.",
    )
    parser.add_argument("kit", type=Path, metavar="KIT", help="what `planner kit` made, or a bundle")
    parser.add_argument("--board", help="a board of configs/boards, or a file (default: the kit's)")
    parser.add_argument("--processors", metavar="LETTERS", help="LBGN... (default: all; hosts are added)")
    parser.add_argument(
        "--freqs", nargs="+", default=[], metavar="L=0,5", help="frequency indices of a processor (default: all)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the profile")
    add_conditions(parser)
    parser.add_argument(
        "--repeats", type=int, default=Conditions.repeats, metavar="N", help="rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=Conditions.seconds,
        metavar="S",
        help="of frames of each configuration in a round, 8 frames at least (default: %(default)g)",
    )
    parser.set_defaults(function=_profile)


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """The options that say how to measure."""
    parser.add_argument("--root", default="/", metavar="DIR", help="where sys/ is; '' leaves frequencies alone")
    parser.add_argument("--meter", default="null", help="serial:/dev/ttyUSB0, hwmon, iio, null (default: %(default)s)")
    parser.add_argument("--marker", default="null", help="gpio:/dev/gpiochip1:7, sysfs:PATH (default: %(default)s)")
    parser.add_argument(
        "--max-temperature",
        type=float,
        default=Conditions.max_temperature_c,
        metavar="C",
        help="wait above it (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout", type=float, default=Conditions.timeout_s, metavar="S", help="for a frame (default: %(default)g)"
    )
    parser.add_argument(
        "--emulated", action="store_true", help="measure processors whose library is missing as they are emulated"
    )


def conditions_of(arguments: argparse.Namespace, repeats: int, seconds: float, frames: int | None = None) -> Conditions:
    """From the options. Raises ProfilingError."""
    return Conditions(
        root=Path(arguments.root) if arguments.root else None,
        meter=arguments.meter,
        marker=arguments.marker,
        repeats=repeats,
        seconds=seconds,
        frames=frames,
        max_temperature_c=arguments.max_temperature,
        timeout_s=arguments.timeout,
        emulated=arguments.emulated,
    )


def _profile(arguments: argparse.Namespace) -> None:
    kit = load_bundle(arguments.kit, kits=True)
    board = load_board(arguments.board or kit.manifest.board, arguments.root or "/")
    kit = load_bundle(arguments.kit, board, verify=False, kits=True)
    if arguments.processors is not None:
        for letter in arguments.processors:
            board.processor(letter)  # or a BoardError
        if not arguments.processors:
            raise ProfilingError(f"--processors: expected letters of {board.letters}, got none")
    profiled = profile_board(
        kit,
        board,
        arguments.out,
        conditions_of(arguments, arguments.repeats, arguments.seconds),
        arguments.processors,
        _indices(arguments.freqs),
    )
    print(to_text(profiled, arguments.out))
    if profiled.left_out:
        raise LeftOutError("\n".join(f"{letter} is left out: {why}" for letter, why in profiled.left_out.items()))


def to_text(profiled: Profiled, out: Path) -> str:
    """What was measured, how long it took, where it is."""
    effort = profiled.effort
    ratio = effort.spent_s / effort.measured_s if effort.measured_s else float("nan")
    lines = [
        f"processors  {profiled.letters}, {profiled.configurations} configurations",
        f"frames      {profiled.frames}, {profiled.outliers} outliers left out",
        f"time        {effort.measured_s:.1f} s of frames, {effort.spent_s:.1f} s in all ({ratio:.2f} x), "
        f"{effort.waited_s:.0f} s of waiting for the board to cool",
        f"wrote       {', '.join(f'{out / name} ({count} rows)' for name, count in profiled.rows.items())}",
    ]
    if profiled.npu_run_shrink is not None:
        lines.append(f"NPU runs    each further layer shortens a run by {profiled.npu_run_shrink:.2%}")
    if profiled.idle_power_mw is not None:
        lines.append(f"idle board  {profiled.idle_power_mw:.0f} mW")
    else:
        lines.append("power       none: there was no meter")
    if profiled.unseen_changes:
        lines.append(f"delays      {profiled.unseen_changes} could not be seen: no difference in time")
    return "\n".join(lines)


def _indices(texts: Sequence[str]) -> dict[str, list[int]]:
    """Of L=0,5 and the like. Raises ProfilingError."""
    found: dict[str, list[int]] = {}
    for text in texts:
        letter, equals, numbers = text.partition("=")
        parts = numbers.split(",")
        if not equals or len(letter) != 1 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise ProfilingError(f"--freqs: expected a letter and indices (L=0,5), got {text!r}")
        found[letter] = [int(part) for part in parts]
    return found
