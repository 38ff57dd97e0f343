"""``python -m simulated_board --profile DIR --model M --board B --root DIR [-- COMMAND]`` (docs/simulated_board.md)."""

import argparse
import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from piqi_planner.profile import load_profile
from piqi_runtime.boards import load_board
from simulated_board.board import METER, SimulatedBoard
from simulated_board.build import environment
from simulated_board.tree import MARKER

PRIORITY = 5  # below that of the threads that native/pacer.cpp paces

AWAKE = "/dev/cpu_dma_latency"  # while it is open with 0, idle CPUs poll: to wake one up takes some 0.05 ms


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulated_board")
    parser.add_argument("--profile", type=Path, required=True, help="what the board is to be like")
    parser.add_argument("--model", required=True, help="its model, the one that is run")
    parser.add_argument("--board", required=True)
    parser.add_argument("--root", type=Path, required=True, help="where its sys/ and dev/ will be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="*", help="runs on the board, and ends it")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    board = load_board(arguments.board)
    profile = load_profile(arguments.profile, board).model(arguments.model)
    variables = environment(root)
    simulated = SimulatedBoard(root, board, profile, arguments.seed)
    print(
        json.dumps({"environment": variables, "meter": f"serial:{root / METER}", "marker": f"sysfs:{root / MARKER}"}),
        flush=True,
    )
    if not arguments.command:
        serve(simulated)
        return 0
    threading.Thread(target=serve, args=(simulated,), daemon=True).start()
    return subprocess.run(arguments.command, env=os.environ | variables, check=False).returncode


def serve(simulated: SimulatedBoard) -> None:
    """In this thread."""
    with suppress(PermissionError):  # others' work here would delay the meter's lines
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(open(AWAKE, "wb", buffering=0)).write(struct.pack("i", 0))
        simulated.serve()


if __name__ == "__main__":
    sys.exit(main())
