"""Which of a board's processors can be measured on this machine, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import piqi_native
from piqi_runtime.boards import Board


def settable(board: Board) -> list[str]:
    """The letters whose frequencies the board file says how to set, in the order of a governor's domains."""
    return [p.letter for p in board.processors if p.freqs_khz and p.domains]


def unusable(
    board: Board,
    letters: str,
    backends: Collection[str],
    governor: piqi_native.Governor | None,
    warnings: Sequence[str],
) -> dict[str, str]:
    """Letter -> why it cannot be measured: its library is missing, its frequency cannot be set, its host is unusable.

    `backends`: those that are there; `governor`: None where frequencies are left alone, which only processors of
    one operating point can be; `warnings`: what it says of those it does not control.
    """
    domains = settable(board)
    reasons: dict[str, str] = {}
    for letter in sorted(letters, key=lambda letter: board.processor(letter).host is not None):
        processor = board.processor(letter)
        if processor.backend not in backends:
            reasons[letter] = f"its library, {processor.backend}, is not available here"
        elif processor.opp_count > 1 and (
            governor is None or letter not in domains or not governor.controls(domains.index(letter))
        ):
            told = [warning for warning in warnings if warning.startswith(f"{letter}:")]
            reasons[letter] = f"its frequency cannot be set: {'; '.join(told) or 'frequencies are left alone'}"
        elif processor.host in reasons:
            reasons[letter] = f"its host {processor.host} cannot be measured"
    return reasons


def with_hosts(board: Board, letters: str) -> str:
    """The letters and their hosts', in the board's order."""
    hosts = {board.processor(letter).host for letter in letters}
    return "".join(letter for letter in board.letters if letter in letters or letter in hosts)
