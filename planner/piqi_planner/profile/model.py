"""What a profile says of one model, as arrays over the states that a layer can be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from piqi_planner.profile.published import PublishedConstants
from piqi_runtime.errors import PiqiError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Genes = Literal["all", "published"]


class ConfigurationError(PiqiError):
    """A run configuration that does not fit the model; the message names the layer and the value."""

    exit_code = 2


class State(NamedTuple):
    """Processor (its place in `letters`), own frequency index, host's index.

    CPU: host -1. GPU: both. NPU: it has no frequency, `own` is its host's index, host -1.
    """

    processor: int
    own: int
    host: int


@dataclass(frozen=True)
class ProfiledProcessor:
    """`host`: the letter of the processor that feeds a GPU or NPU. `opp_count`: the NPU's is its host's."""

    letter: str
    kind: Literal["cpu", "gpu", "npu"]
    opp_count: int
    host: str | None = None


@dataclass(frozen=True)
class Hole:
    """A value that was not measured, and what stands in for it."""

    model: str
    processor: str
    freqs: str
    layer: int
    column: str
    value: float
    rule: str


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """Costs of one model. S states, L layers, P processors; times in ms, powers in mW.

    - `run_ms`, `run_mw` [S, L]; for an NPU without load and unload, which are `load_ms`, `unload_ms` [S, L] (zero
      for the others);
    - `input_ms`, `input_mw` [S]: the phase before layer 0; `output_ms` [S]: the phase behind the last layer;
    - `move_ms` [L - 1, P, P]: a transfer behind layer i at the lowest frequencies, zero within a processor;
    - `move_ratio`, `move_mw`: (source, destination, source's frequency, destination's) -> factor on that time, and
      power; NPUs are not there, since they are transferred to and from as their hosts;
    - `delay_ms`: letter -> [opp, opp] until a change of frequency takes effect, NaN where not measured.
    """

    name: str
    layer_count: int
    processors: tuple[ProfiledProcessor, ...]
    states: tuple[State, ...]
    run_ms: Floats
    run_mw: Floats
    load_ms: Floats
    unload_ms: Floats
    input_ms: Floats
    input_mw: Floats
    output_ms: Floats
    move_ms: Floats
    move_ratio: Mapping[tuple[str, str, str, str], float]
    move_mw: Mapping[tuple[str, str, str, str], float]
    delay_ms: Mapping[str, Floats]
    idle_power_mw: float
    constants: PublishedConstants
    holes: tuple[Hole, ...]

    @property
    def letters(self) -> str:
        """The processors' letters, "LBGN"."""
        return "".join(processor.letter for processor in self.processors)

    @cached_property
    def processor_of(self) -> Indices:
        """[S]: each state's processor."""
        return np.array([state.processor for state in self.states], np.intp)

    @cached_property
    def is_npu(self) -> npt.NDArray[np.bool_]:
        """[S]: which states are on an NPU."""
        return np.array([self.processors[state.processor].kind == "npu" for state in self.states])

    def state_text(self, state: State) -> tuple[str, str]:
        """Letter and frequency token: ("G", "4-7")."""
        token = str(state.own) if state.host < 0 else f"{state.own}-{state.host}"
        return self.processors[state.processor].letter, token

    def states_for(self, genes: Genes) -> Indices:
        """Indices of the states that a search may use; "published": a GPU's host only at its highest index."""
        tops = {p.letter: p.opp_count - 1 for p in self.processors}
        return np.array(
            [
                index
                for index, state in enumerate(self.states)
                if genes == "all" or state.host in (-1, tops.get(self.processors[state.processor].host or ""))
            ],
            np.intp,
        )
