"""Board files: which processors a board has, how fast they can run, and how to tell them so."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

import piqi_native
from piqi_runtime.config_files import CONFIGS, ConfigError, load_config
from piqi_runtime.dvfs import CPU_FOLDER, find_folders
from piqi_runtime.dvfs import find_domain as find_domain

BOARDS = CONFIGS / "boards"

_logger = logging.getLogger(__name__)

Cpu = Annotated[int, Field(strict=True, ge=0)]
FreqKhz = Annotated[int, Field(strict=True, gt=0)]
DelayUs = Annotated[int, Field(strict=True, ge=0)]
Letter = Annotated[str, Field(pattern="^[A-Z]$")]


class BoardError(ConfigError):
    """A board file that is missing or wrong; the message names the file, the key and the value."""


class Processor(BaseModel):
    """One processor of a board.

    - `freqs_khz`: its OPP table, rising; empty: one operating point of unknown frequency.
    - `domains`: the sysfs folders that set its frequency (several clusters have several), each as candidates
      in order of preference, with wildcards, since kernels differ.
    - `delays_us`: [from][to] an index of `freqs_khz`, the measured time until a change takes effect (0: not known).
      A layer that is shorter is not worth the change (docs/dvfs.md).
    - `cpus`: a GPU or NPU that names none has its host's.
    - `threads`: by default one for each CPU.
    - `backend`: the library that runs it; where that is missing, `emulation` stands in (`xnnpack`: float32 on
      the CPUs, or int8 for an NPU).
    - `weights`: an NPU's scheme.
    - `core_mask`: the cores of an NPU (rknn2) that run a partition, 1, 2, 4 or a sum; by default the driver's choice.
    - `rknn_target`: the platform for which Rockchip's toolkit compiles an NPU's partitions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    letter: Letter
    name: str
    kind: Literal["cpu", "gpu", "npu"]
    backend: Literal["xnnpack", "armcl_neon", "armcl_cl", "rknn1", "rknn2"]
    emulation: Literal["xnnpack"] = "xnnpack"
    cpus: tuple[Cpu, ...] = ()
    threads: Annotated[int, Field(strict=True, gt=0)] | None = None
    host: Letter | None = None
    freqs_khz: tuple[FreqKhz, ...] = ()
    domains: tuple[tuple[str, ...], ...] = ()
    delays_us: tuple[tuple[DelayUs, ...], ...] = ()
    weights: Literal["per_channel", "per_tensor"] | None = None
    rknn_target: str | None = None
    core_mask: Annotated[int, Field(strict=True, ge=1, le=7)] | None = None

    @property
    def precision(self) -> Literal["float32", "int8"]:
        """What it computes in."""
        return "int8" if self.kind == "npu" else "float32"

    @property
    def opp_count(self) -> int:
        """How many frequency indices it has of its own."""
        return max(1, len(self.freqs_khz))

    @model_validator(mode="before")
    @classmethod
    def _fill_in_auto(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        root = Path((info.context or {}).get("root", "/"))
        if isinstance(values.get("cpus"), str):
            values["cpus"] = _auto_cpus(values["cpus"], root)
        if values.get("freqs_khz") == "auto" and isinstance(values.get("cpus"), tuple):
            values["freqs_khz"], values["domains"] = _auto_freqs(values["cpus"], root)
        return values

    @field_validator("cpus")
    @classmethod
    def _check_cpus(cls, cpus: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(cpus)) != len(cpus):
            raise ValueError("a CPU is named twice")
        return cpus

    @field_validator("freqs_khz")
    @classmethod
    def _check_freqs(cls, freqs_khz: tuple[int, ...]) -> tuple[int, ...]:
        if list(freqs_khz) != sorted(set(freqs_khz)):
            raise ValueError("frequencies must rise")
        return freqs_khz

    @model_validator(mode="after")
    def _check_kind(self) -> Processor:
        def expect(condition: bool, key: str, expectation: str) -> None:
            if not condition:
                raise ValueError(f"{key}: {expectation}, got {getattr(self, key)!r} ({self.letter} is a {self.kind})")

        is_cpu, is_npu = self.kind == "cpu", self.kind == "npu"
        expect(not is_cpu or len(self.cpus) > 0, "cpus", "a cpu names its CPUs")
        expect(
            (self.host is None) == is_cpu,
            "host",
            "a gpu or npu names the processor that feeds it, a cpu none",
        )
        expect(
            (self.weights is not None) == is_npu,
            "weights",
            "an npu has 'per_channel' or 'per_tensor', others none",
        )
        expect(is_npu or self.rknn_target is None, "rknn_target", "only an npu has one")
        expect(self.backend == "rknn2" or self.core_mask is None, "core_mask", "only backend rknn2 has one")
        expect(not is_npu or not self.freqs_khz, "freqs_khz", "an npu has no frequencies of its own")
        expect(not self.domains or bool(self.freqs_khz), "domains", "domains without freqs_khz cannot be set")
        expect(all(self.domains), "domains", "each domain has at least one candidate")
        size = len(self.freqs_khz)
        expect(
            not self.delays_us or [len(row) for row in self.delays_us] == [size] * size,
            "delays_us",
            f"a row of {size} for each of {size} frequencies",
        )
        return self


class Board(BaseModel):
    """A board: its processors in the file's order; `idle_power_mw` of the whole of it, where it is known.

    `estimate`: parameters of the analytic model that stands in for a profile: the planner's, which checks them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    description: str = ""
    idle_power_mw: Annotated[float, Field(gt=0)] | None = None
    processors: Annotated[tuple[Processor, ...], Field(min_length=1)]
    estimate: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_letters(self) -> Board:
        for i, processor in enumerate(self.processors):
            if processor.letter in self.letters[:i]:
                raise ValueError(f"processors[{i}].letter: two processors have it, got {processor.letter!r}")
            hosts = [p.letter for p in self.processors if p.kind == "cpu"]
            if processor.host is not None and processor.host not in hosts:
                raise ValueError(f"processors[{i}].host: must be a cpu of {hosts}, got {processor.host!r}")
        return self

    @property
    def letters(self) -> str:
        """The processors' letters, "LBGN"."""
        return "".join(processor.letter for processor in self.processors)

    def processor(self, letter: str) -> Processor:
        """The processor with this letter. Raises `BoardError`."""
        for processor in self.processors:
            if processor.letter == letter:
                return processor
        raise BoardError(f"board {self.name} has no processor {letter!r}, only {self.letters}")

    def cpus(self, letter: str) -> tuple[int, ...]:
        """The CPUs whose threads serve a processor: its own, or its host's. Raises `BoardError`."""
        processor = self.processor(letter)
        return processor.cpus or (self.cpus(processor.host) if processor.host else ())

    def to_native(
        self, root: str | os.PathLike[str] = "/", backends: Collection[str] = ("xnnpack",)
    ) -> piqi_native.Board:
        """The executor's view of the board, on this machine.

        `backends` are those that are there: a processor whose own is not among them is emulated, with one
        warning. No processor gets more threads than this machine has CPUs. `root` is where `sys/` is.
        """
        emulated = [p for p in self.processors if p.backend not in backends]
        if emulated:
            missing = ", ".join(dict.fromkeys(p.backend for p in emulated))
            letters = ", ".join(p.letter for p in emulated)
            _warn_once(f"board {self.name}: {missing} not available here: {letters} emulated by xnnpack")
        return piqi_native.Board(
            self.name,
            [
                piqi_native.Processor(
                    letter=p.letter,
                    kind=p.kind,
                    backend=p.backend if p.backend in backends else p.emulation,
                    cpus=list(self.cpus(p.letter)),
                    threads=min(p.threads or len(self.cpus(p.letter)), len(os.sched_getaffinity(0))),
                    host=p.host or "",
                    freqs_khz=list(p.freqs_khz),
                    # Not found: the governor gets a path all the same, to say what is missing.
                    sysfs_path=" ".join(folder.best for folder in find_folders(root, p)),
                    delays_us=[delay for row in p.delays_us for delay in row],
                )
                for p in self.processors
            ],
        )


def load_board(name_or_path: str | Path, root: str | os.PathLike[str] = "/") -> Board:
    """A board of `configs/boards` by its name ("rk3588"), or a board file by its path.

    `root` is where `sys/` is, for what a file leaves to the machine ("auto"). Raises `BoardError`.
    """
    return load_config(Board, name_or_path, BOARDS, BoardError, {"root": root})


def _auto_cpus(text: str, root: Path) -> tuple[int, ...]:
    """The CPUs this process may use, slowest first, or a half of them; a lone CPU is both halves."""

    def speed(cpu: int) -> tuple[int, int]:
        try:
            return int((root / CPU_FOLDER / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text()), cpu
        except (OSError, ValueError):
            return 0, cpu

    cpus = tuple(sorted(os.sched_getaffinity(0), key=speed))
    half = max(1, len(cpus) // 2)
    choices = {"auto:all": cpus, "auto:first-half": cpus[:half], "auto:second-half": cpus[-half:]}
    if text not in choices:
        raise ValueError(f"cpus: must be a list of numbers or one of {', '.join(choices)}, got {text!r}")
    return choices[text]


def _auto_freqs(cpus: tuple[int, ...], root: Path) -> tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """OPP table and domains of these CPUs; both empty without cpufreq or where it does not tell its table."""
    policies = [(root / CPU_FOLDER / f"cpu{cpu}/cpufreq").resolve() for cpu in cpus]
    try:
        freqs = tuple(sorted(map(int, (policies[0] / "scaling_available_frequencies").read_text().split())))
        domains = dict.fromkeys(str(policy.relative_to(root.resolve())) for policy in policies)
    except (OSError, ValueError):
        return (), ()
    return freqs, tuple((domain,) for domain in domains) if freqs else ()


@cache
def _warn_once(text: str) -> None:
    _logger.warning(text)
