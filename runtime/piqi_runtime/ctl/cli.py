"""The command ``piqictl``: what is done by hand on a board.

Exit codes: 0 done; 1 an error, or problems that were found (each is a line that names file, field and value); 2 a
wrong command line; 129, 130, 143 ended by SIGHUP, SIGINT, SIGTERM, with all put back.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import piqi_native
from piqi_runtime.ctl import bundle, daemon, dvfs, measure, policy, profile, watch
from piqi_runtime.errors import PiqiError

COMMANDS = (daemon, watch, policy, bundle, dvfs, profile, measure)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the command, turns errors into lines and an exit code."""
    parser = argparse.ArgumentParser(
        "piqictl",
        description="Looks after the daemon and its bundles on a board.",
        epilog="Exit codes: 0 done; 1 an error or problems that were found; 2 a wrong command line; 128 + N: signal N.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {piqi_native.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        with _ending_as_interrupted():
            arguments.function(arguments)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except (PiqiError, piqi_native.Error, OSError) as error:
        if arguments.debug:
            raise
        for line in str(error).split("\n"):
            print(f"piqictl: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, PiqiError) else 1
    except KeyboardInterrupt as interrupt:
        print("piqictl: interrupted", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    return 0


@contextmanager
def _ending_as_interrupted() -> Iterator[None]:
    """A terminal that is closed and a `kill` end a command as Ctrl-C does: frequencies are put back, lines written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal ended
        if not ended:  # nothing disturbs what the first one has put back
            ended = True
            raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
