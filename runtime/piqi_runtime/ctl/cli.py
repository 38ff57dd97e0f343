"""The command ``piqictl``: what is done by hand on a board.

Exit codes: 0 done; 1 an error, or problems that were found (each is a line that names file, field and value); 2 a
wrong command line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import piqi_native
from piqi_runtime.ctl import bundle, daemon, dvfs, measure, policy, profile, watch
from piqi_runtime.errors import PiqiError

COMMANDS = (daemon, watch, policy, bundle, dvfs, profile, measure)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the command, turns errors into lines and an exit code."""
    parser = argparse.ArgumentParser(
        "piqictl",
        description="Looks after the daemon and its bundles on a board.",
        epilog="Exit codes: 0 done; 1 an error or problems that were found; 2 a wrong command line; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {piqi_native.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        arguments.function(arguments)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except (PiqiError, piqi_native.Error, OSError) as error:
        if arguments.debug:
            raise
        for line in str(error).split("\n"):
            print(f"piqictl: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, PiqiError) else 1
    except KeyboardInterrupt:
        print("piqictl: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
