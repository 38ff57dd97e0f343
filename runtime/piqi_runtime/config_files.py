"""Finding, reading and checking the TOML files of `configs/`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from piqi_runtime.errors import PiqiError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

M = TypeVar("M", bound=BaseModel)

_HERE = Path(__file__).resolve().parent
#: `configs/` of a checkout, or its copy inside an installed package.
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parents[1] / "configs"


class ConfigError(PiqiError):
    """A configuration file that is missing or wrong; the message names the file, the key and the value."""


def load_config(
    model: type[M],
    name_or_path: str | Path,
    folder: Path,
    error: type[ConfigError] = ConfigError,
    context: Mapping[str, Any] | None = None,
) -> M:
    """Reads a TOML file into `model`: a path, or the name of a file of `folder` (without its suffix).

    `context` is handed to the model's validators. Raises `error`, with one line for each problem.
    """
    path = _find(name_or_path, folder, error)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"{path}: {cause.strerror}") from cause
    except ValueError as cause:  # not TOML, not UTF-8
        raise error(f"{path}: {cause}") from cause
    try:
        return model.model_validate(values, context=dict(context or {}))
    except ValidationError as cause:
        raise error("\n".join(f"{path}: {problem}" for problem in _problems(cause))) from cause


def _find(name_or_path: str | Path, folder: Path, error: type[ConfigError]) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return Path(name_or_path)
    path = folder / f"{text}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise error(f"no '{text}' in {folder}: expected a path or one of {known}")
    return path


def _problems(error: ValidationError) -> list[str]:
    """ "processors[1].threads: input should be greater than 0, got -2" for each problem."""
    lines = []
    for problem in error.errors():
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        message = problem["msg"].removeprefix("Value error, ")
        message = {"missing": "is missing", "extra_forbidden": "is not a key"}.get(problem["type"], message)
        # A check that concerns several keys names them and their values itself.
        got = "" if problem["type"] == "missing" or isinstance(problem["input"], dict) else problem["input"]
        lines.append(": ".join(filter(None, (key, message))) + (f", got {got!r}" if got != "" else ""))
    return lines
