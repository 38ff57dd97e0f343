"""The command ``planner``: what is done on a workstation, before the board.

Exit codes: 0 done; 1 an error in what was given (the message names file, field and value); 2 a wrong command
line, run configuration or cut; 3 a model file that cannot be used; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import piqi_native
from piqi_planner.commands import (
    adjust,
    build,
    compare,
    demo,
    estimate,
    fit_accuracy,
    fit_board,
    kit,
    layers,
    prepare,
    run,
    search,
    show,
    table,
    validate,
)
from piqi_runtime.errors import PiqiError

COMMANDS = (
    build,
    layers,
    run,
    validate,
    fit_board,
    estimate,
    fit_accuracy,
    search,
    table,
    adjust,
    kit,
    prepare,
    show,
    compare,
    demo,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the command, turns errors into one line and an exit code."""
    parser = argparse.ArgumentParser("planner", description="Plans partially quantised inference.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {piqi_native.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        arguments.function(arguments)
    except PiqiError as error:
        return _fail(arguments, error, error.exit_code)
    except piqi_native.PlanError as error:
        return _fail(arguments, error, 2)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except (piqi_native.Error, OSError) as error:
        return _fail(arguments, error, 1)
    except KeyboardInterrupt:
        print("planner: interrupted", file=sys.stderr)
        return 130
    return 0


def _fail(arguments: argparse.Namespace, error: Exception, exit_code: int) -> int:
    if arguments.debug:
        raise error
    print(f"planner: {error}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
