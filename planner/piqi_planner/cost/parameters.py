"""The parameters of the calibrated cost model: what they mean, what is expected of them, where they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_planner.profile import ModelProfile
from piqi_planner.profile.model import Floats
from piqi_runtime.config_files import CONFIGS, ConfigError, load_config
from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

COST_CONFIGS = CONFIGS / "cost"

Factor = Annotated[float, Field(ge=0, le=100)]
Letter = Annotated[str, Field(pattern="^[A-Z]$")]
ByLetter = dict[Letter, Factor]


class CostError(PiqiError):
    """Cost parameters, or measurements to fit them to, that cannot be used. Names file, field and value."""


class CostParameters(BaseModel):
    """Factors on what the profile says; by processor where they are dictionaries.

    Times:
    - `run`: of layers; `cold`: added share where the layer before ran on another processor, whose caches have its
      data; `queued`: share of up to 1 ms that a GPU layer behind another does not wait for the device;
    - `npu_load`, `npu_unload`: copies into and out of an NPU run; `skip_load`, `skip_unload`: of a residual's tensor
      when only one of its ends is in the run, on top of those;
    - `move`: transfers; `dvfs`: time lost while a new frequency is not there yet;
    - `side`: of side layers that run beside the main branch, and slow it down.
    Power above the idle board's, of layers and of the input and output phases: `power`, in the middle of a processor's
    frequencies (an NPU's host's), and `power_rise`, what that factor gains from the lowest to the highest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provenance: str = ""
    run: ByLetter = {}
    cold: ByLetter = {}
    queued: Annotated[float, Field(ge=0, le=1)] = 0.0
    npu_load: Factor = 1.0
    npu_unload: Factor = 1.0
    skip_load: Factor = 1.0
    skip_unload: Factor = 1.0
    move: Factor = 1.0
    dvfs: Factor = 1.0
    side: Factor = 1.0
    power: ByLetter = {}
    power_rise: dict[Letter, Annotated[float, Field(ge=-1, le=1)]] = {}


@dataclass(frozen=True)
class Term:
    """One number of the parameters: its expectation before any measurement, and how far it may well be off."""

    name: str
    letter: str | None
    prior: float
    scale: float
    lower: float = 0.0
    upper: float = 100.0


def time_terms(profile: ModelProfile) -> list[Term]:
    """Those that a model's latency depends on."""
    return list(_time_terms(profile))


def power_terms(profile: ModelProfile) -> list[Term]:
    """Those that, besides, its energy depends on."""
    factors = [Term("power", processor.letter, 1.0, 0.2) for processor in profile.processors]
    rises = [
        Term("power_rise", processor.letter, 0.0, 0.2, lower=-1.0, upper=1.0)
        for processor in profile.processors
        if processor.opp_count > 1
    ]
    return factors + rises


def _time_terms(profile: ModelProfile) -> Iterator[Term]:
    for processor in profile.processors:
        yield Term("run", processor.letter, 1.0, 0.1)
        if processor.kind != "npu":
            yield Term("cold", processor.letter, 0.0, 0.15)
    yield Term("move", None, 1.0, 0.5)
    yield Term("dvfs", None, 1.0, 1.0)
    if any(p.kind == "gpu" for p in profile.processors):
        yield Term("queued", None, 0.0, 0.5, upper=1.0)
    if profile.is_npu.any():
        yield Term("npu_load", None, 1.0, 0.3)
        yield Term("npu_unload", None, 1.0, 0.3)
        if profile.constants.skips:
            yield Term("skip_load", None, 1.0, 2.0)
            yield Term("skip_unload", None, 1.0, 0.5)
    if profile.constants.side_layers:
        yield Term("side", None, 1.0, 1.0)


def with_values(parameters: CostParameters, terms: Sequence[Term], values: Floats) -> CostParameters:
    """A copy with these values of `terms`."""
    changes: dict[str, Any] = {}
    for term, value in zip(terms, values, strict=True):
        if term.letter is None:
            changes[term.name] = float(value)
        else:
            changes[term.name] = {**changes.get(term.name, getattr(parameters, term.name)), term.letter: float(value)}
    return parameters.model_copy(update=changes)


def priors(terms: Sequence[Term]) -> Floats:
    """[terms]."""
    return np.array([term.prior for term in terms])


class ShippedParameters(BaseModel):
    """The file of `configs/cost`: parameters by model, and `default` for any other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: CostParameters
    models: dict[str, CostParameters] = {}


def shipped_parameters(model: str, board: str = "rk3399pro") -> CostParameters:
    """What was fitted to this model on a board of `configs/cost`, or to all models there are.

    For a board on which nothing was measured: what is expected of the parameters before any measurement.
    """
    if not (COST_CONFIGS / f"{board}.toml").is_file():
        return CostParameters(provenance=f"none, no configuration was measured on {board}")
    shipped = load_config(ShippedParameters, board, COST_CONFIGS, ConfigError)
    return shipped.models.get(model, shipped.default)


def load_parameters(path: str | os.PathLike[str]) -> CostParameters:
    """Reads a JSON file that `save_parameters` wrote. Raises CostError."""
    try:
        return CostParameters.model_validate_json(Path(path).read_bytes())
    except OSError as cause:
        raise CostError(f"{path}: {cause.strerror}") from cause
    except ValidationError as cause:
        problem = cause.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise CostError(f"{path}: {field}: {problem['msg']}, got {problem['input']!r}"[:500]) from cause


def save_parameters(parameters: CostParameters, path: str | os.PathLike[str]) -> None:
    """Writes them as JSON."""
    write_atomically(path, [parameters.model_dump_json(indent=1).encode() + b"\n"])
