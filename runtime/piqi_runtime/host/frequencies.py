"""A board's frequencies: taken once for all hosts of a process, given back at its end or after its crash."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import piqi_native
from piqi_runtime.backends import AnyBackend
from piqi_runtime.boards import Board
from piqi_runtime.dvfs import find_folders
from piqi_runtime.engine import Engine
from piqi_runtime.errors import PiqiError
from piqi_runtime.host.restore import (
    Original,
    State,
    boot_id,
    files_of,
    owner,
    read_original,
    read_state,
    restore,
    write_state,
)
from piqi_runtime.model import Model

_logger = logging.getLogger(__name__)


class Frequencies:
    """Controls the frequencies of a board until `close`, which puts them back as they were found.

    `state`: a file on a folder that a reboot empties (``/run/piqi/frequencies.json``). It tells
    ``python -m piqi_runtime.host.restore`` how they were, should this process not get to put them back; what a
    process that crashed left in it is put back first. What cannot be done (files that are missing or refuse,
    another process that has them) is logged, is in `warnings`, and is done without.
    """

    def __init__(self, board: Board, root: str | os.PathLike[str] = "/", state: Path | None = None) -> None:
        self.board = board
        self.warnings: list[str] = []
        self.governor: piqi_native.Governor | None = None
        self._root = Path(root)
        self._state = state
        self._held = ExitStack()
        native = board.to_native(root, {processor.backend for processor in board.processors})
        self._folders = {
            processor.letter: [folder.path for folder in find_folders(root, processor) if folder.path]
            for processor in board.processors
        }
        if self._own():
            self.governor = piqi_native.sysfs_governor(native, os.fspath(root))
            for warning in self.governor.warnings:
                self._warn(warning)

    def freqs_khz(self) -> dict[str, int]:
        """Letter -> what that processor was last set to, of those that tell."""
        result = {}
        for letter, folders in self._folders.items():
            for folder in folders[:1]:
                governor, speed = files_of(self._root / folder)
                with suppress(OSError, ValueError):
                    result[letter] = int(speed.read_text().split()[0]) // (1 if governor.name != "governor" else 1000)
        return result

    def give_up(self, reason: str) -> None:
        """Puts the frequencies back and does without: the board refuses to set one."""
        if self.governor is not None:
            self._warn(f"{reason}: frequencies are left alone from now on")
            self.governor.restore()

    def close(self) -> None:
        """Puts the frequencies back. Idempotent."""
        if self.governor is None:
            return
        self.governor.restore()
        self.governor = None
        if self._state is not None:
            try:
                for problem in restore(self._state):
                    self._warn(problem)
            except (OSError, PiqiError) as error:
                self._warn(str(error))
        self._held.close()

    def __enter__(self) -> Frequencies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own(self) -> bool:
        """Puts back what a crash left, and writes down how it is; False if another process has the frequencies."""
        if self._state is None:
            return True
        try:
            self._held.enter_context(owner(self._state))
        except PiqiError as error:
            self._warn(f"{error}: they are left alone")
            return False
        except OSError as error:
            self._warn(f"{self._state}: {error.strerror}: a crash would leave the frequencies as they are")
            self._state = None
            return True
        left: dict[str, Original] = {}
        try:
            for problem in restore(self._state):
                self._warn(problem)
            state = read_state(self._state)  # what could not be put back is still to be
            left = {original.folder: original for original in state.originals} if state else {}
        except (OSError, PiqiError) as error:
            self._warn(f"{error}: what it told of the frequencies is lost")
        folders = dict.fromkeys(folder for folders in self._folders.values() for folder in folders)
        found = [left.pop(folder, None) or read_original(self._root, folder) for folder in folders]
        originals = (*(original for original in found if original), *left.values())
        try:
            write_state(self._state, State(boot_id=boot_id(), root=str(self._root.resolve()), originals=originals))
        except OSError as error:
            self._warn(f"{self._state}: {error.strerror}: a crash would leave the frequencies as they are")
        return True

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _logger.warning(text)


class HostEngine(Engine):
    """An engine whose frequencies are not its own: several engines of a process share a governor."""

    def __init__(
        self,
        model: Model,
        board: Board,
        frequencies: Frequencies | None,
        backends: Mapping[str, AnyBackend] | None = None,
    ) -> None:
        super().__init__(model, board, backends=backends)
        self._governor = frequencies.governor if frequencies else None

    def close(self) -> None:
        """Frees what no executor uses."""
        self.trim()
