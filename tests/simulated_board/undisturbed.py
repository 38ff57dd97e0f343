"""Times that a virtual machine could not keep, because its host took the processor away, prove nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Of a machine's processor time; more than that shows in a twentieth of milliseconds.
MOST_STOLEN = 0.02


@contextmanager
def undisturbed() -> Iterator[None]:
    """Skips a test whose assertion fails while the host had more than `MOST_STOLEN` of the processors' time."""
    before = _ticks()
    try:
        yield
    except AssertionError as error:
        stolen, total = (now - then for now, then in zip(_ticks(), before, strict=True))
        if stolen <= MOST_STOLEN * total:
            raise
        pytest.skip(f"the host took {100 * stolen / total:.0f} % of the processor time away: {str(error)[:300]}")


def _ticks() -> tuple[int, int]:
    """Time that the host took, and time that could have been used, in ticks since the start."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return steal, user + nice + system + irq + softirq + steal
