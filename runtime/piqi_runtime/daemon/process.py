"""The daemon's process: loads what is to be served, serves it, and reads it again when it is told to."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import piqi_native
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import Bundle
from piqi_runtime.daemon import signals, systemd
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.listening import listen
from piqi_runtime.daemon.models import Found, HostEvents, read_bundles
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from piqi_runtime.daemon.runner import Serving
    from piqi_runtime.daemon.server import Server
    from piqi_runtime.host.frequencies import Frequencies
    from piqi_runtime.host.model_host import ModelHost
    from piqi_runtime.policy.config import Policy

_logger = logging.getLogger("piqid")

T = TypeVar("T")

_END_S = 0.5
_LOOK_S = 0.05


class _LeftError(Exception):
    """A signal came before there was a server."""


class _Meanwhile(Generic[T]):
    """Calls a function on a thread, while the caller imports what it needs next."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._work, name="piqi-start", daemon=True).start()

    def result(self, look: Callable[[], None]) -> T:
        """What it returned, or raises what it raised; calls `look` from time to time, which may raise too."""
        while not self._done.wait(_LOOK_S):
            look()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def wait(self, patience_s: float) -> None:
        """Until it has ended, or for so long."""
        self._done.wait(patience_s)

    def _work(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()


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
        self._own_socket = ""
        self._left = False
        self._begun = False  # there is a server that a signal can be told to
        self._begins = threading.Lock()
        self._started: _Meanwhile[Any] | None = None

    def run(self) -> None:
        """Until SIGTERM or SIGINT, which have to be held. Raises PiqiError, OSError.

        Threads may be left that hang in a backend: the process is to end by `os._exit`.
        """
        signals.deliver(self._signalled)
        try:
            self._serve()
        except _LeftError:
            pass
        finally:
            self._close()

    def _signalled(self, number: signal.Signals) -> None:
        """On the signals' thread."""
        reload = number == signal.SIGHUP
        with self._begins:
            if self._begun:
                self._server.loop.call_soon(self._reload if reload else self._stop)
            elif reload:
                self._reload_again = True
            else:
                self._left = True

    def _serve(self) -> None:
        config = self.config
        board = load_board(config.board, config.root or "/")
        reading = self._meanwhile(lambda: read_bundles(config, board))
        from piqi_runtime.host.frequencies import Frequencies
        from piqi_runtime.host.model_host import ModelHost  # noqa: F401  # for `_host`
        from piqi_runtime.policy.config import load_policy

        policy = load_policy(config.policy)
        self._found = reading.result(self._check_left)
        listener = self._listen()
        state = Path(config.frequency_state) if config.frequency_state else None
        self._frequencies = Frequencies(board, config.root, state) if config.root else None
        preparing = self._meanwhile(lambda: [self._host(found.bundle, board) for found in self._found.values()])
        from piqi_runtime.daemon.runner import Serving
        from piqi_runtime.daemon.server import Server

        hosts = zip(self._found.items(), preparing.result(self._check_left), strict=True)
        servings = {name: Serving(found.bundle, *host) for (name, found), host in hosts}
        server = Server(config, board, policy, listener, servings)
        server.on_tick = self._tick
        with self._begins:
            self._server, self._begun = server, True
        self._check_left()
        if self._reload_again:
            server.loop.call_soon(self._reload)
        self._watch()
        if not servings:
            _logger.warning("no bundles: nothing is served yet")
        _logger.info("serving %s", ", ".join(servings) or "nothing", extra=systemd.fields("ready"))
        gc.freeze()  # what is there now stays: it is not to be searched again and again
        gc.enable()
        self.notifier.ready(self._status())
        server.run()

    def _listen(self) -> socket.socket:
        if listeners := systemd.listen_fds():
            return listeners[0]
        listener = listen(self.config.socket)
        self._own_socket = self.config.socket
        return listener

    def _check_left(self) -> None:
        if self._left:
            raise _LeftError

    def _meanwhile(self, function: Callable[[], T]) -> _Meanwhile[T]:
        started = self._started = _Meanwhile(function)
        return started

    def _host(self, bundle: Bundle, board: Board) -> tuple[ModelHost, HostEvents]:
        from piqi_runtime.host.model_host import ModelHost

        events = HostEvents()
        host = ModelHost(
            bundle,
            board,
            frequencies=self._frequencies,
            max_resident=self.config.max_resident,
            max_bytes=self.config.max_resident_bytes,
            timeout_s=self.config.timeout_s,
            on_switch=events.switched,
            on_fault=events.failed,
        )
        return host, events

    def _close(self) -> None:
        """Ends the hosts, as far as they do so in time, and puts the frequencies back."""
        if self._own_socket:
            with suppress(OSError):
                os.unlink(self._own_socket)
        if self._started is not None:
            self._started.wait(_END_S)
        server = getattr(self, "_server", None)
        runners = list(server.runners.values()) if server else []
        closing = threading.Thread(target=lambda: [runner.close() for runner in runners], daemon=True)
        closing.start()
        closing.join(_END_S)
        if self._frequencies is not None:
            self._frequencies.close()
        self.notifier.close()

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
        self._reloading, self._reload_again = True, False
        self.notifier.reloading()
        threading.Thread(target=self._read_again, name="reload", daemon=True).start()

    def _read_again(self) -> None:
        """In a thread: what is served goes on meanwhile."""
        from piqi_runtime.daemon.runner import Serving
        from piqi_runtime.policy.config import load_policy

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
                    fresh[name] = Serving(each.bundle, *self._host(each.bundle, server.board))
        except (PiqiError, piqi_native.Error, OSError) as error:
            problems.append(str(error))
            for serving in fresh.values():
                serving.host.close()
            fresh, found = {}, self._found
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
            self._reload()
