"""The daemon's socket."""

from __future__ import annotations

import os
import socket
import stat

from piqi_runtime.errors import PiqiError


class ListenError(PiqiError):
    """A path where no socket can be made. Names it."""


def listen(path: str, mode: int = 0o660) -> socket.socket:
    """A listening socket at `path`; one that a dead daemon left is replaced. Raises ListenError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        _make_room(path)
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ListenError(f"socket: {path}: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _make_room(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(f"socket: {path}: exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # nobody listens any more
        else:
            raise ListenError(f"socket: {path}: in use by a daemon that is running")
