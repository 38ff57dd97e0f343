"""The part of sysfs that a board file names, as plain files."""

from dataclasses import dataclass
from pathlib import Path

from piqi_runtime.boards import Board, Processor

MARKER = "sys/class/gpio/gpio39/value"
THERMAL = "sys/class/thermal/thermal_zone0"


def make_tree(root: Path, board: Board) -> None:
    """cpufreq policies, devfreq devices and a thermal zone; what is there is put back to where a board starts."""
    for processor in board.processors:
        for folder in domains(root, processor):
            freqs = processor.freqs_khz
            if processor.kind == "cpu":
                cpus = " ".join(map(str, processor.cpus))
                write(folder / "scaling_governor", "ondemand")
                write(folder / "scaling_available_governors", "ondemand performance userspace")
                write(folder / "scaling_available_frequencies", " ".join(map(str, freqs)))
                write(folder / "scaling_setspeed", freqs[-1])
                for name in ("related_cpus", "affected_cpus"):
                    write(folder / name, cpus)
                for name, freq in (("min", freqs[0]), ("max", freqs[-1])):
                    write(folder / f"cpuinfo_{name}_freq", freq)
                    write(folder / f"scaling_{name}_freq", freq)
                link(folder / "scaling_cur_freq", "scaling_setspeed")
            else:
                write(folder / "governor", "simple_ondemand")
                write(folder / "available_governors", "simple_ondemand performance userspace")
                write(folder / "available_frequencies", " ".join(str(1000 * freq) for freq in freqs))
                write(folder / "userspace/set_freq", 1000 * freqs[-1])
                write(folder / "min_freq", 1000 * freqs[0])
                write(folder / "max_freq", 1000 * freqs[-1])
                link(folder / "cur_freq", "userspace/set_freq")
    write(root / THERMAL / "type", "soc-thermal")
    write(root / THERMAL / "temp", 45000)


def domains(root: Path, processor: Processor) -> list[Path]:
    """The folders that set a processor's frequency: the first candidate of each domain."""
    return [root / candidates[0] for candidates in processor.domains]


@dataclass(frozen=True)
class Domain:
    """The files that ask for a processor's frequency, and the frequencies as they have them."""

    governor: Path
    speed: Path
    freqs: tuple[int, ...]


def frequency_domains(root: Path, board: Board) -> dict[str, Domain]:
    """By letter, the first domain of all processors with a frequency of their own."""
    found = {}
    for processor in board.processors:
        for folder in domains(root, processor)[:1]:
            if processor.kind == "cpu":
                names, unit = ("scaling_governor", "scaling_setspeed"), 1
            else:
                names, unit = ("governor", "userspace/set_freq"), 1000
            freqs = tuple(unit * freq for freq in processor.freqs_khz)
            found[processor.letter] = Domain(folder / names[0], folder / names[1], freqs)
    return found


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
