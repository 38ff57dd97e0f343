"""Puts a board's frequencies back after a crash: ``python -m piqi_runtime.host.restore STATE``.

STATE is the file that `Frequencies` keeps while it controls them. Exit code 0: all is as it was, or there is
nothing to do; 1: something could not be put back, and stays in the file; 2: wrong usage.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from piqi_runtime.container import write_atomically
from piqi_runtime.errors import PiqiError

USERSPACE = "userspace"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RestoreError(PiqiError):
    """A state file that cannot be read, or is in use. Names the file."""


class Original(BaseModel):
    """How a cpufreq policy or devfreq device (`folder`, below the root) was found.

    `speed`: the file's own unit (kHz, or Hz of a devfreq device), where its governor was `userspace`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    folder: str
    governor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,31}$")]
    speed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: str) -> str:
        # The file may be read with more rights than it was written with: nothing but sysfs is touched.
        parts = PurePosixPath(folder).parts
        if not parts or parts[0] != "sys" or ".." in parts:
            raise ValueError("expected a folder below sys/")
        return folder


class State(BaseModel):
    """What the state file holds. `root`: where the board's ``sys/`` is; `boot_id`: of the boot it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    version: Literal[1] = 1
    boot_id: str
    root: str
    originals: tuple[Original, ...]


def boot_id() -> str:
    """Of the running kernel; "" where it does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def files_of(folder: Path) -> tuple[Path, Path]:
    """Those that set the governor and the speed."""
    if (folder / "scaling_governor").exists():
        return folder / "scaling_governor", folder / "scaling_setspeed"
    return folder / "governor", folder / "userspace" / "set_freq"


def read_original(root: Path, folder: str) -> Original | None:
    """How a folder is now. None: it is not there, may not be read, or holds what no governor's name is."""
    governor, speed = files_of(root / folder)
    try:
        name = _first_line(governor)
        return Original(folder=folder, governor=name, speed=_speed(root / folder, speed) if name == USERSPACE else None)
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def read_state(path: Path) -> State | None:
    """The state file; None if there is none. Raises RestoreError."""
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RestoreError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RestoreError(f"{path}: {key}: {first['msg']}, got {str(first['input'])[:80]!r}") from error


def write_state(path: Path, state: State) -> None:
    """Writes it atomically. Raises OSError."""
    write_atomically(path, [state.model_dump_json(indent=1).encode(), b"\n"])


def restore(path: Path) -> list[str]:
    """Puts back what `path` tells and removes it; what cannot be put back stays in it.

    The caller holds `owner`'s lock. Returns a line for each problem. Raises RestoreError, OSError.
    """
    state = read_state(path)
    if state is None:
        return []
    problems: list[str] = []
    # Another boot's state is over: the kernel has begun anew.
    originals = state.originals if state.boot_id == boot_id() else ()
    left = tuple(original for original in originals if not _put_back(Path(state.root), original, problems))
    if left:
        write_state(path, state.model_copy(update={"originals": left}))
    else:
        path.unlink(missing_ok=True)
    return problems


@contextmanager
def owner(path: Path) -> Iterator[None]:
    """Holds the state file for this process alone. Raises RestoreError if another has it, OSError."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RestoreError(f"{path}: another process controls the frequencies") from error
        yield
    finally:
        os.close(lock)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m piqi_runtime.host.restore STATE", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    if not path.exists():
        return 0
    try:
        with owner(path):
            problems = restore(path)
    except PiqiError as error:
        problems = [str(error)]
    except OSError as error:
        problems = [f"{error.filename or path}: {error.strerror or error}"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _put_back(root: Path, original: Original, problems: list[str]) -> bool:
    """False if it is still to be done."""
    governor, speed = files_of(root / original.folder)
    try:
        _write(governor, original.governor)
        if original.speed is not None:
            _write(speed, str(original.speed))
        if (now := _first_line(governor)) != original.governor:
            raise OSError(0, f"is {now!r} after writing {original.governor!r}", str(governor))
    except FileNotFoundError as error:
        problems.append(f"{error.filename}: is gone")
        return True  # a device that comes back does so as the kernel has it
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
        return False
    return True


def _write(path: Path, text: str) -> None:
    # sysfs takes a value in one write; O_CREAT would be wrong there.
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, f"{text}\n".encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(file)


def _first_line(path: Path) -> str:
    return path.read_text().split("\n", 1)[0].strip()


def _speed(folder: Path, path: Path) -> int | None:
    # devfreq's set_freq reads as nothing before anything was asked: then what it runs at.
    for candidate in (path, folder / "cur_freq"):
        with suppress(OSError, ValueError):
            return int(_first_line(candidate))
    return None


if __name__ == "__main__":
    sys.exit(main())
