"""The command ``piqid``: the daemon.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 an error, a line that names file, field and value; 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import piqi_native
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import Bundle
from piqi_runtime.daemon import systemd
from piqi_runtime.daemon.config import DaemonConfig, DaemonConfigError, load_daemon_config
from piqi_runtime.daemon.models import Found, read_bundles
from piqi_runtime.daemon.runner import Host, HostEvents, Serving
from piqi_runtime.daemon.server import Server, listen
from piqi_runtime.errors import PiqiError
from piqi_runtime.host.frequencies import Frequencies
from piqi_runtime.host.model_host import ModelHost
from piqi_runtime.policy.config import Policy, load_policy

_logger = logging.getLogger("piqid")

CONFIG = Path("/etc/piqi/daemon.toml")
#: How long a thread may keep the interpreter from those that serve; Python's own 5 ms would show in every latency.
_SWITCH_INTERVAL_S = 0.0005
_END_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and serves until a signal says to stop."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        format="%(message)s",
        level=logging.DEBUG if arguments.debug else logging.INFO,
        handlers=[systemd.journal_handler()],
    )
    try:
        return Daemon(_config(arguments)).run()
    except (PiqiError, piqi_native.Error, OSError) as error:
        if arguments.debug:
            raise
        for line in str(error).split("\n"):
            _logger.critical("%s", line)
        return error.exit_code if isinstance(error, PiqiError) else 1
    finally:
        logging.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "piqid",
        description="Serves models to applications.",
        epilog="Exit codes: 0 stopped by a signal; 1 an error; 2 a wrong command line.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {piqi_native.__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {CONFIG} if it exists)")
    parser.add_argument("--bundle", action="append", metavar="DIR", help="a bundle to serve; may be given often")
    parser.add_argument("--board", metavar="FILE", help="a board of configs/boards, or a file")
    parser.add_argument("--policy", metavar="FILE", help="a policy of configs/policies, or a file")
    parser.add_argument("--socket", metavar="PATH", help="where to listen, unless systemd hands a socket over")
    parser.add_argument("--debug", action="store_true", help="log more, show tracebacks")
    return parser


def _config(arguments: argparse.Namespace) -> DaemonConfig:
    config = load_daemon_config(arguments.config or (CONFIG if CONFIG.exists() else None))
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


def _leave(*_: object) -> None:
    raise SystemExit(0)


class Daemon:
    """The process: settings, models, frequencies, signals and systemd around a `Server`."""

    _server: Server

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        self.notifier = systemd.Notifier()
        self._found: dict[str, Found] = {}
        self._reloading = False
        self._reload_again = False
        self._frequencies: Frequencies | None = None

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Raises PiqiError, OSError."""
        config = self.config
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)  # until there is a loop
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        board = load_board(config.board, config.root or "/")
        policy = load_policy(config.policy)
        self._found = read_bundles(config, board)
        listeners = systemd.listen_fds()
        listener = listeners[0] if listeners else listen(config.socket)
        state = Path(config.frequency_state) if config.frequency_state else None
        self._frequencies = Frequencies(board, config.root, state) if config.root else None
        try:
            servings = {name: self._serving(found.bundle, board) for name, found in self._found.items()}
            server = self._server = Server(config, board, policy, listener, servings)
            server.on_tick = self._tick
            for number in (signal.SIGTERM, signal.SIGINT):
                server.loop.on_signal(number, self._stop)
            server.loop.on_signal(signal.SIGHUP, self._reload)
            self._watch()
            if not servings:
                _logger.warning("no bundles: nothing is served yet")
            _logger.info("serving %s", ", ".join(servings) or "nothing", extra=systemd.fields("ready"))
            self.notifier.ready(self._status())
            server.run()
        finally:
            if not listeners:
                with suppress(OSError):
                    os.unlink(config.socket)
            ended = self._close()
        if not ended:
            # A backend hangs in a thread that cannot be ended: destructors would wait for it.
            logging.shutdown()
            os._exit(0)
        return 0

    def _serving(self, bundle: Bundle, board: Board) -> Serving:
        events = HostEvents()
        host: Host = ModelHost(
            bundle,
            board,
            frequencies=self._frequencies,
            max_resident=self.config.max_resident,
            max_bytes=self.config.max_resident_bytes,
            timeout_s=self.config.timeout_s,
            on_switch=events.switched,
            on_fault=events.failed,
        )
        return Serving(bundle, host, events)

    def _close(self) -> bool:
        """Ends the hosts and puts the frequencies back; False if a host did not end in time."""
        server = getattr(self, "_server", None)
        runners = list(server.runners.values()) if server else []
        closing = threading.Thread(target=lambda: [runner.close() for runner in runners], daemon=True)
        closing.start()
        closing.join(_END_S)
        if self._frequencies is not None:
            self._frequencies.close()
        self.notifier.close()
        return not closing.is_alive()

    def _stop(self) -> None:
        if self._server.stopping:
            return
        _logger.info("stopping")
        self.notifier.stopping("stopping")
        self._server.stop()

    def _tick(self) -> None:
        self.notifier.status(self._status())

    def _watch(self) -> None:
        interval_s = self.notifier.watchdog_interval_s
        if interval_s is not None:
            self.notifier.watchdog()
            self._server.loop.call_later(interval_s, self._watch)

    def _status(self) -> str:
        server = self._server
        if server.stopping:
            return "stopping"
        parts = []
        for name, runner in server.runners.items():
            point = runner.serving.host.current
            order = runner.serving.bundle.table.points[point].order if point >= 0 else "fallback"
            parts.append(f"{name} at point {point} ({order})")
        mode = server.steering.choice.name
        return f"mode {mode}, {len(server.sessions)} clients; " + ("; ".join(parts) or "no models")

    def _reload(self) -> None:
        if self._reloading or self._server.stopping:
            self._reload_again = self._reloading
            return
        self._reloading = True
        self.notifier.reloading()
        threading.Thread(target=self._read_again, name="reload", daemon=True).start()

    def _read_again(self) -> None:
        """In a thread: what is served goes on meanwhile."""
        server = self._server
        problems: list[str] = []
        policy: Policy | None = None
        fresh: dict[str, Serving] = {}
        found = self._found
        try:
            policy = load_policy(self.config.policy)
        except PiqiError as error:
            problems.append(str(error))
        try:
            found = read_bundles(self.config, server.board, self._found)
            for name, each in found.items():
                if name not in self._found or each.stamp != self._found[name].stamp:
                    fresh[name] = self._serving(each.bundle, server.board)
        except (PiqiError, piqi_native.Error, OSError) as error:
            problems.append(str(error))
            for serving in fresh.values():
                serving.host.close()
            fresh, found = {}, self._found
        with suppress(OSError):  # the loop has ended meanwhile
            server.loop.call_soon(lambda: self._take(policy, found, fresh, problems))

    def _take(
        self, policy: Policy | None, found: dict[str, Found], fresh: dict[str, Serving], problems: list[str]
    ) -> None:
        server = self._server
        if policy is not None:
            server.steering.replace_policy(policy)
            server.steering.select(server.steering.situation.now_s)
        for name in [name for name in server.runners if name not in found]:
            server.remove_model(name)
        for name, serving in fresh.items():
            if name in server.runners:
                server.attach(name, serving)
                server.runners[name].replace(serving)
            else:
                server.add_model(name, serving)
        self._found = found
        server.steer()
        message = "\n".join(problems)
        for line in message.split("\n") if message else ():
            _logger.error("reload: %s: what was there goes on", line, extra=systemd.fields("reload"))
        done = f"policy {server.steering.policy.name}, new or changed: {', '.join(fresh) or 'no bundle'}"
        _logger.info("reloaded: %s", done, extra=systemd.fields("reload"))
        server.publish("reload", done=not problems, message=message or done, models=sorted(server.runners))
        self.notifier.ready(self._status())
        self._reloading = False
        if self._reload_again:
            self._reload_again = False
            self._reload()


if __name__ == "__main__":
    sys.exit(main())
