"""Where a board's frequencies are set in sysfs, and what can be set there: cpufreq policies and devfreq devices."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from piqi_runtime.boards import Board, Processor

CPU_FOLDER = "sys/devices/system/cpu"
DEVFREQ_FOLDER = "sys/class/devfreq"
GPU_NAMES = ("*.gpu*", "*mali*", "gpu*")
USERSPACE = "userspace"

FoundBy = Literal["board file", "related_cpus", "name"]


@dataclass(frozen=True)
class Folder:
    """One that sets a frequency, `path` below the root; `by`: how it was found. Nothing found: both None.

    `candidates`: where the board file has it.
    """

    candidates: tuple[str, ...]
    path: str | None = None
    by: FoundBy | None = None

    @property
    def best(self) -> str:
        """Where to look for it: not found, the first candidate, to say what is missing."""
        return self.path or self.candidates[0]


@dataclass
class Control:
    """What a folder can do. `problems`: why it cannot be set; `notes`: what else is not as the board file has it."""

    folder: Folder
    governor: str | None = None
    freq_khz: int | None = None
    min_khz: int | None = None
    max_khz: int | None = None
    available_khz: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def controllable(self) -> bool:
        """Whether a frequency can be set here."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": self.folder.path, "found_by": self.folder.by, "controllable": self.controllable} | {
            name: value for name, value in asdict(self).items() if name != "folder"
        }


@dataclass(frozen=True)
class Device:
    """A devfreq device that is left to its own governor: memory, NPU, buses."""

    path: str
    governor: str | None
    freq_khz: int | None


def find_domain(root: str | os.PathLike[str], candidates: Sequence[str]) -> str | None:
    """The first of `candidates` that can set a frequency: a cpufreq policy or a devfreq device.

    Candidates, which may have wildcards, and the answer are relative to `root`. None if there is none.
    """
    for candidate in candidates:
        for folder in sorted(Path(root).glob(candidate)):
            if (folder / "scaling_governor").exists() or (folder / "governor").exists():
                return str(folder.relative_to(root))
    return None


def find_folders(root: str | os.PathLike[str], processor: Processor) -> list[Folder]:
    """A folder for each of a processor's domains.

    Where none of a domain's candidates is there: a CPU's is a policy that controls only CPUs of its own, a GPU's a
    devfreq device that is called like one.
    """
    root = Path(root)
    paths = [find_domain(root, candidates) for candidates in processor.domains]
    others = [path for path in _fallbacks(root, processor) if path not in paths] if None in paths else []
    folders = []
    for candidates, path in zip(processor.domains, paths, strict=True):
        by: FoundBy | None = "board file" if path else None
        if path is None and others:
            path, by = others.pop(0), "related_cpus" if processor.kind == "cpu" else "name"
        folders.append(Folder(candidates, path, by))
    return folders


def inspect(root: str | os.PathLike[str], processor: Processor) -> list[Control]:
    """What can be set of a processor's frequency and why not, a line for each of its domains. Writes nothing."""
    return [_inspect(Path(root), processor, folder) for folder in find_folders(root, processor)]


def left_alone(root: str | os.PathLike[str], board: Board) -> list[Device]:
    """The devfreq devices that no processor of the board has: their own governors keep them."""
    root = Path(root)
    used = {
        os.path.realpath(root / folder.path)
        for processor in board.processors
        for folder in find_folders(root, processor)
        if folder.path
    }
    return [
        Device(str(path.relative_to(root)), _line(path / "governor"), _khz(path / "cur_freq", 1000))
        for path in sorted((root / DEVFREQ_FOLDER).glob("*"))
        if os.path.realpath(path) not in used
    ]


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPUs of sysfs's lists, "0-3 5" or "0 1 2 3". Raises ValueError."""
    cpus: list[int] = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def speed_file(folder: Path) -> Path:
    """That tells what a policy or device runs at: of the hardware, where that may be read."""
    if not (folder / "scaling_governor").exists():
        return folder / "cur_freq"
    hardware = folder / "cpuinfo_cur_freq"
    return hardware if os.access(hardware, os.R_OK) else folder / "scaling_cur_freq"


def read_khz(folder: Path) -> int | None:
    """What a policy or device runs at; None where it does not tell."""
    path = speed_file(folder)
    return _khz(path, 1000 if path.name == "cur_freq" else 1)


def _fallbacks(root: Path, processor: Processor) -> Iterator[str]:
    if processor.kind == "cpu":
        places = [*sorted((root / CPU_FOLDER / "cpufreq").glob("policy*")), *_cpu_places(root, processor.cpus)]
        seen = set()
        for path in places:
            cpus = _policy_cpus(path)
            if cpus and set(cpus) <= set(processor.cpus) and cpus not in seen and (path / "scaling_governor").exists():
                seen.add(cpus)
                yield str(path.relative_to(root))
    else:
        for pattern in GPU_NAMES:
            for path in sorted((root / DEVFREQ_FOLDER).glob(pattern)):
                if (path / "governor").exists():
                    yield str(path.relative_to(root))


def _cpu_places(root: Path, cpus: Iterable[int]) -> list[Path]:
    """Kernels before 4.3 have a policy in the folder of its first CPU."""
    return [root / CPU_FOLDER / f"cpu{cpu}" / "cpufreq" for cpu in cpus]


def _policy_cpus(folder: Path) -> tuple[int, ...]:
    for name in ("related_cpus", "affected_cpus"):
        with suppress(ValueError):
            if cpus := parse_cpus(_line(folder / name) or ""):
                return cpus
    return ()


def _inspect(root: Path, processor: Processor, folder: Folder) -> Control:
    control = Control(folder)
    offline = _offline(root, processor.cpus)
    if offline:
        cpus = " ".join(map(str, offline))
        say = control.problems if len(offline) == len(processor.cpus) else control.notes
        say.append(f"CPUs {cpus} are offline (echo 1 > /{CPU_FOLDER}/cpu{offline[0]}/online)")
    if folder.path is None:
        control.problems.append(f"none of {', '.join(folder.candidates)} is there")
        return control
    if folder.by != "board file":
        why = f"found by {'its CPUs' if folder.by == 'related_cpus' else 'its name'}"
        control.notes.append(f"{why}: none of the board file's {', '.join(folder.candidates)} is there")
    path = root / folder.path
    is_cpu = (path / "scaling_governor").exists()
    prefix, unit = ("scaling_", 1) if is_cpu else ("", 1000)
    control.governor = _line(path / f"{prefix}governor")
    control.freq_khz = read_khz(path)
    control.min_khz = _khz(path / f"{prefix}min_freq", unit)
    control.max_khz = _khz(path / f"{prefix}max_freq", unit)
    control.cpus = _policy_cpus(path) if is_cpu else ()
    names = ["available_frequencies", "boost_frequencies"] if is_cpu else ["available_frequencies"]
    control.available_khz = tuple(sorted({khz for name in names for khz in _khz_list(path / f"{prefix}{name}", unit)}))
    _check_files(path, is_cpu, control)
    _check_table(processor, control)
    return control


def _check_files(path: Path, is_cpu: bool, control: Control) -> None:
    """Whether the governor and the speed can be set."""
    prefix = "scaling_" if is_cpu else ""
    if problem := _unwritable(path / f"{prefix}governor"):
        control.problems.append(problem)
    governors = _line(path / f"{prefix}available_governors")
    if governors is not None and USERSPACE not in governors.split():
        option = "CONFIG_CPU_FREQ_GOV_USERSPACE" if is_cpu else "CONFIG_DEVFREQ_GOV_USERSPACE"
        control.problems.append(
            f"{prefix}available_governors: expected {USERSPACE} (the kernel's {option}), got {governors}"
        )
    speed = path / ("scaling_setspeed" if is_cpu else "userspace/set_freq")
    # devfreq has it only while its governor is `userspace`.
    if (is_cpu or control.governor == USERSPACE) and (problem := _unwritable(speed)):
        control.problems.append(problem)


def _check_table(processor: Processor, control: Control) -> None:
    """The board file's OPPs against the kernel's, and limits."""
    known = set(control.available_khz)
    if known:
        missing, further = sorted(set(processor.freqs_khz) - known), sorted(known - set(processor.freqs_khz))
        if missing:
            control.notes.append(f"OPPs of the board file that the kernel lacks: {_mhz(missing)} MHz")
        if further:
            control.notes.append(f"OPPs of the kernel that the board file lacks: {_mhz(further)} MHz")
    low, high = control.min_khz or 0, control.max_khz or float("inf")
    beyond = [index for index, khz in enumerate(processor.freqs_khz) if not low <= khz <= high]
    if beyond:
        control.notes.append(
            f"the kernel's limits keep it from indices {' '.join(map(str, beyond))}: "
            f"{_mhz([low])} to {_mhz([high])} MHz"
        )


def _offline(root: Path, cpus: Iterable[int]) -> list[int]:
    """Those that are there and offline; CPU 0 often has no file to say so."""
    return [cpu for cpu in cpus if _line(root / CPU_FOLDER / f"cpu{cpu}" / "online") == "0"]


def _unwritable(path: Path) -> str | None:
    """Why not. To open a file of sysfs changes nothing."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return None


def _line(path: Path) -> str | None:
    """The first line; None where it cannot be read."""
    try:
        return path.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        return None


def _khz(path: Path, per_khz: int) -> int | None:
    with suppress(ValueError):
        return int(_line(path) or "") // per_khz
    return None


def _khz_list(path: Path, per_khz: int) -> list[int]:
    with suppress(ValueError):
        return [int(text) // per_khz for text in (_line(path) or "").split()]
    return []


def _mhz(freqs_khz: Iterable[float]) -> str:
    return " ".join(f"{khz / 1000:g}" for khz in freqs_khz)
