"""Measures configurations in rounds, one after another, and keeps every block at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.engine import Engine
from piqi_runtime.errors import PiqiError
from piqi_runtime.meter import MeterError, PowerMeter
from piqi_runtime.partition import Partition
from piqi_runtime.profiling.block import Block, measure_block
from piqi_runtime.profiling.configurations import IDLE, Configuration, Network, steps_of
from piqi_runtime.profiling.errors import ProfilingError
from piqi_runtime.profiling.guard import TemperatureGuard
from piqi_runtime.profiling.processors import settable
from piqi_runtime.profiling.progress import Progress
from piqi_runtime.profiling.store import Store

RECORDED_FRAMES = 4096
TRIES = 3

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass
class Session:
    """What a measurement works with; `run` measures what the store does not have yet.

    - `engines`: by the configurations' networks; `partitions`: of the model, by range;
    - `governor`: the engines'; None: frequencies are left alone;
    - `meter`: started; None: no powers. `marker`: what it sees of the executor's marks; None: nothing;
    - `seconds`: of frames in a block, or `frames`: how many of them; `timeout_s`: for a frame.

    Afterwards `left_out` has the processors that failed, with the reason.
    """

    engines: Mapping[Network, Engine]
    partitions: Callable[[int, int], Partition]
    store: Store
    guard: TemperatureGuard
    seconds: float
    frames: int | None = None
    timeout_s: float = 30.0
    governor: piqi_native.Governor | None = None
    meter: PowerMeter | None = None
    marker: piqi_native.PowerMarker | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self, configurations: Sequence[Configuration], rounds: int, progress: Progress) -> None:
        """Each configuration once in each round, in another order each time.

        A GPU or NPU that fails is left out from then on. Raises ProfilingError, MeterError, `piqi_native.Error`.
        """
        inputs = {network: example_inputs(engine) for network, engine in self.engines.items()}
        since_s = time.monotonic()
        for number in range(rounds):
            order = list(configurations)
            random.Random(number).shuffle(order)
            for configuration in order:
                if self.store.has(configuration, number) or self._is_left_out(configuration):
                    progress.skip()
                    continue
                waited_s = self.guard.wait()
                try:
                    block = self._measure(configuration, inputs[configuration.network])
                except (piqi_native.Error, PiqiError) as error:
                    self._blame(configuration, error, progress)
                    progress.skip()
                    continue
                now_s = time.monotonic()
                temperature_c = self.guard.temperature_c()
                self.store.add(configuration, number, block, temperature_c, now_s - since_s - waited_s, waited_s)
                since_s = now_s
                progress.advance(f"round {number + 1} of {rounds}, {configuration}")

    def _measure(self, configuration: Configuration, inputs: Inputs) -> Block:
        """Again, where the frequency was not what was asked for, or too few samples came."""
        problem = ""
        for _ in range(TRIES):
            before = self._warnings()
            self._rest()
            try:
                block = self._measure_once(configuration, inputs)
            except MeterError as error:
                if self.meter is not None:
                    self.meter.check()  # a meter that has gone stays away
                problem = str(error)
                continue
            changed = [warning for warning in self._warnings() if warning not in before]
            if not changed:
                return block
            problem = changed[0]
        raise ProfilingError(f"{configuration}: {problem}, {TRIES} times")

    def _measure_once(self, configuration: Configuration, inputs: Inputs) -> Block:
        if configuration == IDLE:
            return self._idle()
        engine = self.engines[configuration.network]
        executor = engine.executor(
            configuration.order,
            configuration.freqs,
            self.partitions,
            timeout_s=self.timeout_s,
            recorded_frames=RECORDED_FRAMES,
            marker=self.marker,
            measure_kernels=any(letter in configuration.order for letter in self._letters("npu")),
        )
        steps = steps_of(configuration.order, self._letters("npu"))
        with executor:
            return measure_block(
                executor, inputs, steps, self.seconds, self.meter, self.marker is not None, self.frames
            )

    def _idle(self) -> Block:
        """Nothing runs."""
        mean_mw = float("nan")
        if self.meter is not None:
            self.meter.clear()
            time.sleep(self.seconds)
            mean_mw = self.meter.recording().mean_mw
        took_ms = np.array([1e3 * self.seconds if self.meter is not None else 0.0])
        return Block(took_ms[:, np.newaxis], took_ms, np.array([mean_mw]), mean_mw)

    def _rest(self) -> None:
        """All frequencies at their lowest, so that those which a configuration does not use are always the same."""
        if self.governor is None:
            return
        for domain, _ in enumerate(settable(self.engines["model"].board)):
            if self.governor.controls(domain):
                self.governor.request(domain, 0)

    def _warnings(self) -> list[str]:
        return list(self.governor.warnings) if self.governor is not None else []

    def _letters(self, kind: str) -> str:
        return "".join(p.letter for p in self.engines["model"].board.processors if p.kind == kind)

    def _is_left_out(self, configuration: Configuration) -> bool:
        return any(letter in self.left_out for letter in configuration.order)

    def _blame(self, configuration: Configuration, error: Exception, progress: Progress) -> None:
        """Leaves out the processor that the error is most likely of. Raises the error where that is a CPU."""
        ours = isinstance(error, MeterError | ProfilingError | piqi_native.DeviceError)
        suspects = [
            letter for kind in ("npu", "gpu") for letter in self._letters(kind) if letter in configuration.order
        ]
        if ours or not suspects:
            raise error
        self.left_out[suspects[0]] = f"{configuration}: {error}"
        progress.say(f"{suspects[0]} is left out: {error}")


def example_inputs(engine: Engine) -> Inputs:
    """Noise for every input of a network, always the same."""
    generator = np.random.default_rng(0)
    tensors = engine.model.tensors
    return {
        name: generator.uniform(-1, 1, tensors[name].shape).astype(tensors[name].dtype) for name in engine.model.inputs
    }
