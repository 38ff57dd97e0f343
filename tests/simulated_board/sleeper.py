"""Run beside a measurement: how late one wakes up who only sleeps. Prints that, and of how much time, in s."""

import os
import select
import sys
import time
from contextlib import suppress

PRIORITY = 11  # above the threads that native/pacer.cpp paces: what it measures is not their doing
PERIOD_S = 0.005
USUAL_S = 0.0005


def main() -> None:
    """Until its input ends."""
    with suppress(PermissionError):  # as they do: where that is not allowed, others' work delays them all
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    print("ready", flush=True)
    began_s = now_s = time.monotonic()
    late_s = 0.0
    ended: list[object] = []
    while not ended:
        due_s = now_s + PERIOD_S
        ended, _, _ = select.select([sys.stdin], [], [], PERIOD_S)
        now_s = time.monotonic()
        late_s += max(0.0, now_s - due_s - USUAL_S)
    print(late_s, now_s - began_s)


if __name__ == "__main__":
    main()
