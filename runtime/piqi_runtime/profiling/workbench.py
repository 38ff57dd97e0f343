"""What `piqictl profile` and `piqictl measure` share: engines, meter, frequencies, from their options."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import piqi_native
from piqi_runtime.backends import available_backends
from piqi_runtime.boards import Board
from piqi_runtime.bundle import Bundle
from piqi_runtime.engine import Engine
from piqi_runtime.host.frequencies import Frequencies, HostEngine
from piqi_runtime.marker import open_marker
from piqi_runtime.meter import NullMeter, PowerMeter, open_meter
from piqi_runtime.profiling.configurations import Network
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.profiling.guard import TemperatureGuard
from piqi_runtime.profiling.processors import unusable
from piqi_runtime.profiling.progress import Progress
from piqi_runtime.profiling.session import Session
from piqi_runtime.profiling.store import Store
from piqi_runtime.profiling.synthetic import synthetic_network

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """How to measure.

    - `root`: where the board's ``sys/`` is; None leaves frequencies alone;
    - `meter`, `marker`: as `open_meter` and `open_marker` take them;
    - `repeats`: rounds; in each, every configuration runs for `seconds` (8 frames at least), or `frames` frames;
    - `max_temperature_c`: above it, the measurement waits; `timeout_s`: for a frame;
    - `emulated`: processors whose library is missing are emulated, and measured all the same.

    Raises ProfilingError: field, what is expected, value.
    """

    root: Path | None = Path("/")
    meter: str = "null"
    marker: str = "null"
    repeats: int = 3
    seconds: float = 1.0
    frames: int | None = None
    max_temperature_c: float = 75.0
    timeout_s: float = 30.0
    emulated: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("repeats", 1, 1000),
            ("seconds", 0.001, 3600),
            ("frames", 1, 4000),
            ("max_temperature_c", 0, 150),
            ("timeout_s", 0.01, 3600),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                option = name.removesuffix("_c").removesuffix("_s").replace("_", "-")
                raise ProfilingError(f"--{option}: expected {low:g} to {high:g}, got {value:g}")

    def facts(self) -> dict[str, Any]:
        """What blocks must have in common to be put together."""
        return {
            "meter": self.meter != "null",
            "seconds": self.seconds,
            "frames": self.frames,
            "emulated": self.emulated,
        }


@contextmanager
def opened(
    bundle: Bundle, board: Board, letters: str, conditions: Conditions, store: Store, progress: Progress
) -> Iterator[Session]:
    """A session whose `left_out` has those of the letters that cannot be measured here. Raises PiqiError."""
    with ExitStack() as stack:
        meter: PowerMeter | None = open_meter(conditions.meter)
        if isinstance(meter, NullMeter):
            meter = None
        marker = open_marker(conditions.marker) if conditions.marker != "null" else None
        frequencies: Frequencies | None = None
        governor: piqi_native.Governor | None = None
        warnings: list[str] = []
        if conditions.root is not None:
            state = store.path.with_suffix(".frequencies.json")
            frequencies = stack.enter_context(Frequencies(board, conditions.root, state))
            governor, warnings = frequencies.governor, frequencies.warnings
        backends: set[str] = {processor.backend for processor in board.processors}
        if not conditions.emulated:
            backends = {"xnnpack", *available_backends(board)}
        left_out = unusable(board, letters, backends, governor, warnings)
        board = without_delays(board)
        engines: dict[Network, Engine] = {
            "model": HostEngine(bundle.model, board, frequencies),
            "synthetic": HostEngine(synthetic_network(), board, frequencies),
        }
        for engine in engines.values():
            stack.callback(_close, engine)
        if meter is not None:
            stack.enter_context(meter)
        yield Session(
            engines=engines,
            partitions=bundle.partition,
            store=store,
            guard=TemperatureGuard(conditions.root or "/", conditions.max_temperature_c, progress.say),
            seconds=conditions.seconds,
            frames=conditions.frames,
            timeout_s=conditions.timeout_s,
            governor=governor,
            meter=meter,
            marker=marker,
            left_out=left_out,
        )


def _close(engine: Engine) -> None:
    try:
        engine.close()
    except piqi_native.TimeoutError as error:  # of what was left out already
        _logger.warning(error)


def board_facts(board: Board) -> Mapping[str, Any]:
    """What of a board measured values depend on."""
    return without_delays(board).model_dump(mode="json", exclude={"description", "estimate", "idle_power_mw"})


def without_delays(board: Board) -> Board:
    """The executor leaves out changes that do not pay, by the delays it is told; what is measured must be made."""
    processors = tuple(processor.model_copy(update={"delays_us": ()}) for processor in board.processors)
    return board.model_copy(update={"processors": processors})
