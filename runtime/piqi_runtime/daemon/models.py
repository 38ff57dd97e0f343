"""Bundles to runners: loading at the start, loading again later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle, BundleError, load_bundle
from piqi_runtime.bundle_manifest import MANIFEST
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.errors import PiqiError
from piqi_runtime.host.errors import HostFault

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A bundle that was read and its manifest's bytes, by which a change is noticed."""

    bundle: Bundle
    stamp: bytes


class HostEvents:
    """What a host tells, on whatever thread: its callbacks, made before there is anyone to listen."""

    def __init__(self) -> None:
        self.on_switch: Callable[[int, int, float], None] = lambda *_: None
        self.on_fault: Callable[[HostFault], None] = lambda _: None

    def switched(self, old: int, new: int, prepare_ms: float) -> None:
        """For `on_switch`."""
        self.on_switch(old, new, prepare_ms)

    def failed(self, fault: HostFault) -> None:
        """For `on_fault`."""
        self.on_fault(fault)


def read_bundles(config: DaemonConfig, board: Board, known: Mapping[str, Found] | None = None) -> dict[str, Found]:
    """All bundles that the configuration names, by model.

    Raises PiqiError for one of `bundles`; for a broken one of `bundle_folder` there is an error in the log, and what
    is `known` of its folder from before stays.
    """
    before = {each.bundle.root: (name, each) for name, each in (known or {}).items()}
    found: dict[str, Found] = {}
    for folder in config.bundles:
        _add(found, Path(folder), board)
    if config.bundle_folder:
        try:
            folders = sorted(path.parent for path in Path(config.bundle_folder).glob(f"*/{MANIFEST}"))
        except OSError as error:
            raise BundleError(f"{config.bundle_folder}: {error.strerror}") from error
        for path in folders:
            try:
                _add(found, path, board)
            except PiqiError as error:  # noqa: PERF203
                kept = before.get(path.resolve())
                if kept is not None and kept[0] not in found:
                    found[kept[0]] = kept[1]
                for line in str(error).split("\n"):
                    _logger.error("%s: %s", "what was there goes on" if kept else "left out", line)
    return found


def _add(found: dict[str, Found], folder: Path, board: Board) -> None:
    try:
        stamp = (folder / MANIFEST).read_bytes()
    except OSError:
        stamp = b""  # `load_bundle` says it better
    bundle = load_bundle(folder, board)
    name = bundle.manifest.model
    if name in found:
        raise BundleError(f"{folder}: model: expected another name than {found[name].bundle.root}'s, got {name!r}")
    found[name] = Found(bundle, stamp)
