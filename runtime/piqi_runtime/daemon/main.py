"""The command ``piqid``: the daemon.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 an error, a line that names file, field and value; 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from piqi_runtime.daemon import signals, systemd
from piqi_runtime.digests import work_ahead
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from piqi_runtime.daemon.config import DaemonConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_logger = logging.getLogger("piqid")

CONFIG = Path("/etc/piqi/daemon.toml")
#: How long a thread may keep the interpreter from those that serve; Python's own 5 ms would show in every latency.
_SWITCH_INTERVAL_S = 0.0005


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, serves until a signal says to stop, and ends the process."""
    signals.hold()
    gc.disable()  # until it serves: hardly anything is garbage before
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    arguments = _parser().parse_args(argv)
    arguments.config = arguments.config or (CONFIG if CONFIG.exists() else None)
    logging.basicConfig(
        format="%(message)s",
        level=logging.DEBUG if arguments.debug else logging.INFO,
        handlers=[systemd.journal_handler()],
    )
    work_ahead(_bundles(arguments))
    # Most of the start is this import, during which the bundles' files are hashed.
    import piqi_native
    from piqi_runtime.daemon.process import Daemon

    try:
        Daemon(_config(arguments)).run()
        _end(0)
    except (PiqiError, piqi_native.Error, OSError) as error:
        if arguments.debug:
            raise
        for line in str(error).split("\n"):
            _logger.critical("%s", line)
        _end(error.exit_code if isinstance(error, PiqiError) else 1)


def _end(code: int) -> NoReturn:
    # Not Python's own way, which waits for a backend that hangs.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "piqid",
        description="Serves models to applications.",
        epilog="Exit codes: 0 stopped by a signal; 1 an error; 2 a wrong command line.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {CONFIG} if it exists)")
    parser.add_argument("--bundle", action="append", metavar="DIR", help="a bundle to serve; may be given often")
    parser.add_argument("--board", metavar="FILE", help="a board of configs/boards, or a file")
    parser.add_argument("--policy", metavar="FILE", help="a policy of configs/policies, or a file")
    parser.add_argument("--socket", metavar="PATH", help="where to listen, unless systemd hands a socket over")
    parser.add_argument("--debug", action="store_true", help="log more, show tracebacks")
    return parser


class _Version(argparse.Action):
    """As argparse's own, but that the version is looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from piqi_native import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


def _bundles(arguments: argparse.Namespace) -> list[str]:
    """Where bundles will be looked for, if all is well; what is not will be said when the settings are checked."""
    try:
        settings = tomllib.loads(arguments.config.read_text(encoding="utf-8")) if arguments.config else {}
        folders = [*(arguments.bundle or settings.get("bundles", ())), settings.get("bundle_folder")]
        return [folder for folder in folders if folder and isinstance(folder, str)]
    except (OSError, ValueError, TypeError):
        return []


def _config(arguments: argparse.Namespace) -> DaemonConfig:
    from piqi_runtime.daemon.config import DaemonConfig, DaemonConfigError, load_daemon_config

    config = load_daemon_config(arguments.config)
    given = {
        "bundles": tuple(arguments.bundle) if arguments.bundle else None,
        "board": arguments.board,
        "policy": arguments.policy,
        "socket": arguments.socket,
    }
    values = {**config.model_dump(), **{key: value for key, value in given.items() if value is not None}}
    try:
        return DaemonConfig.model_validate(values)
    except ValueError as error:
        raise DaemonConfigError(f"command line: {error}") from error


if __name__ == "__main__":
    main()
