"""Times that this machine could not keep, because something else had its processors, prove nothing."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from piqi_runtime.meter import MeterError

SLEEPER = Path(__file__).with_name("sleeper.py")
#: Of a machine's processor time, taken by its host; more than that shows in a twentieth of milliseconds.
MOST_STOLEN = 0.02
#: Of the time, by which one who sleeps is late: hosts do not tell of all that they take, nor other programs.
MOST_LATE = 0.01
#: What is raised by a test whose times are off.
OFF = (AssertionError, MeterError)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Skips a test whose times are off while this machine did not have its processors for itself."""
    before = _ticks()
    sleeper = subprocess.Popen([sys.executable, "-S", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    try:
        yield
    except OFF as error:
        late_s, total_s = map(float, sleeper.communicate()[0].split())
        stolen, total = (now - then for now, then in zip(_ticks(), before, strict=True))
        if stolen <= MOST_STOLEN * total and late_s <= MOST_LATE * total_s:
            raise
        why = f"the host took {100 * stolen / total:.0f} % of the processor time away, a sleeper was {late_s:.1f} s "
        pytest.skip(f"{why}late in {total_s:.0f} s: {str(error)[:300]}")
    finally:
        sleeper.communicate()


def _ticks() -> tuple[int, int]:
    """Time that the host took, and time that could have been used, in ticks since the start."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return steal, user + nice + system + irq + softirq + steal
