"""How long changes of frequency take on a board, out of a profile: the executor skips those that do not pay."""

from __future__ import annotations

from collections import defaultdict
from math import fsum
from pathlib import Path

from piqi_runtime.boards import Board

BUNDLED = "profile/dvfs_delay.csv"  # in a bundle


def with_delays(board: Board, path: Path) -> Board:
    """The board with the `delays_us` of a profile's dvfs_delay.csv, the mean of those measured several times.

    Without that file the board as it is. Raises ProfileError with file, line and value.
    """
    if not path.exists():
        return board
    # Here: most boards have no such file, and the daemon starts the sooner.
    from piqi_runtime.profile_tables import DVFS_DELAY, ProfileError, read_table

    measured: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for row in read_table(DVFS_DELAY, path, board.letters):
        letter, before, after, delay_ms = row.values
        size = len(board.processor(str(letter)).freqs_khz)
        for name, index in (("from_freq_index", before), ("to_freq_index", after)):
            if not isinstance(index, int) or index >= size:
                raise ProfileError(
                    f"{path}:{row.line}: {name}: expected an index below {size}, {letter}'s frequencies, got {index}"
                )
        measured[str(letter), int(str(before)), int(str(after))].append(float(str(delay_ms)))
    processors = []
    for processor in board.processors:
        size = len(processor.freqs_khz)
        delays = [list(row) for row in processor.delays_us] or [[0] * size for _ in range(size)]
        for (letter, before, after), delays_ms in measured.items():
            if letter == processor.letter:
                delays[before][after] = max(1, round(fsum(delays_ms) / len(delays_ms) * 1000))
        known = any(any(row) for row in delays)
        processors.append(processor.model_copy(update={"delays_us": tuple(map(tuple, delays)) if known else ()}))
    return board.model_copy(update={"processors": tuple(processors)})
