"""The options of a build, from the command line or a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from piqi_planner.cost import CostName
from piqi_planner.images import Fit, Preprocessing
from piqi_planner.quantise import ObserverName
from piqi_runtime.config_files import CONFIGS, ConfigError, load_config

Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1)]


class BuildError(ConfigError):
    """Options that are wrong or do not fit each other. Names file, field and value."""

    exit_code = 2


class BuildOptions(BaseModel):
    """What `planner build` is told. Paths of a TOML file are relative to the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Path
    board: str = "rk3399pro"
    calibrate: Path
    evaluate: Path
    out: Path
    labels: Path | None = None
    annotations: Path | None = None
    detector: Path | None = None
    class_names: Path | None = None
    metric: str = "top1"
    output: str | None = None
    name: str | None = None
    layers: str = "conv"
    preprocess: Preprocessing = "signed"
    fit: Fit = "crop"
    calibration_frames: Count = 100
    observer: ObserverName = "minmax"
    limit: Count | None = None
    profile: Path | None = None
    cost: CostName = "calibrated"
    samples: Annotated[int, Field(ge=0)] = 100
    pairs: Annotated[int, Field(ge=0)] = 300
    min_accuracy: Percent | None = None
    max_loss: Percent | None = None
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    points: Count = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    jobs: Count | None = None
    memory: str | None = None
    dask: str | None = None
    work: Path | None = None

    @field_validator("model", "calibrate", "evaluate", "out", "labels", "annotations", "profile", "work", "detector")
    @classmethod
    def _beside_the_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return path if path is None else (info.context or {}).get("folder", Path()) / path

    @model_validator(mode="after")
    def _check(self) -> BuildOptions:
        if self.labels is not None and self.annotations is not None:
            raise ValueError(f"labels, annotations: expected one of them, got {self.labels} and {self.annotations}")
        return self

    @property
    def model_name(self) -> str:
        """The model's name in profile and table."""
        return self.name or self.model.stem

    @property
    def work_folder(self) -> Path:
        """Where the stages leave their files."""
        return self.work or self.out.with_name(f"{self.out.name}.work")

    def plain(self, *names: str) -> dict[str, Any]:
        """Some of the options, fit for JSON."""
        return self.model_dump(mode="json", include=set(names))


def read_options(path: Path, given: dict[str, Any]) -> BuildOptions:
    """The options of a TOML file, but for those that are `given`. Raises BuildError."""
    # Given paths are relative to where the command runs, those of the file to the file.
    absolute = {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}
    return load_config(
        _Merged, path, CONFIGS, BuildError, context={"folder": path.absolute().parent, "given": absolute}
    ).options


def make_options(given: dict[str, Any]) -> BuildOptions:
    """The options that are `given`. Raises BuildError."""
    from pydantic import ValidationError

    try:
        return BuildOptions.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "".join(f"--{str(part).replace('_', '-')}" for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        got = f", got {problem['input']!r}" if problem["type"] not in ("missing", "value_error") else ""
        raise BuildError(": ".join(filter(None, (name, message))) + got) from error


class _Merged(BaseModel):
    """A file's options under those of the command line."""

    options: BuildOptions

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, values: Any, info: ValidationInfo) -> Any:
        return {
            "options": BuildOptions.model_validate({**values, **(info.context or {})["given"]}, context=info.context)
        }
