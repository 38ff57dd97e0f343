"""The daemon's settings: `configs/daemon.toml`, over which the command line goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from piqi_runtime.config_files import CONFIGS, ConfigError, load_config

SOCKET = "/run/piqi/piqid.sock"
Seconds = Annotated[float, Field(gt=0, le=3600)]
Count = Annotated[int, Field(ge=1, le=1 << 40)]


class DaemonConfigError(ConfigError):
    """A configuration of the daemon that is missing or wrong; the message names the file, the key and the value."""


class DaemonConfig(BaseModel):
    """What the daemon serves, where, and how much of it.

    - `socket`: the path of its socket, unless systemd hands one over;
    - `board`, `policy`: a name (of `configs/boards`, `configs/policies`) or a path;
    - `bundles`: folders, each of which must load; `bundle_folder`: every bundle in it is served, broken ones are left
      out with an error in the journal;
    - `root`: where the board's ``sys/`` is, "" leaves frequencies alone; `frequency_state`: the file that tells how
      the frequencies were, should the daemon crash ("": none);
    - `power_sensors`: names of the sensors whose sum is the board's power (default: the largest reading);
    - `tick_s`: how often the policy looks at the sensors;
    - `max_clients`; `queue_per_client`, `queue_total`: requests that wait for one model;
    - `messages_per_s`, `message_burst`: what a client may send that leads to no inference, before it has to wait;
    - `connections_per_s`, `connection_burst`: that one process may make;
    - `max_resident`, `max_resident_bytes`: executors kept ready for one model;
    - `timeout_s`: after which a frame counts as hung; `drain_s`: how long requests are still served at the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    socket: Annotated[str, Field(min_length=1, max_length=100)] = SOCKET
    board: Annotated[str, Field(min_length=1)] = "host"
    policy: Annotated[str, Field(min_length=1)] = "default"
    bundles: Annotated[tuple[str, ...], Field(strict=False)] = ()
    bundle_folder: str = ""
    root: str = "/"
    frequency_state: str = ""
    power_sensors: Annotated[tuple[str, ...], Field(strict=False)] = ()
    tick_s: Seconds = 1.0
    max_clients: Annotated[int, Field(ge=1, le=10_000)] = 128
    queue_per_client: Annotated[int, Field(ge=1, le=1000)] = 8
    queue_total: Annotated[int, Field(ge=1, le=100_000)] = 256
    messages_per_s: Annotated[float, Field(gt=0)] = 500.0
    message_burst: Annotated[float, Field(ge=1)] = 1000.0
    connections_per_s: Annotated[float, Field(gt=0)] = 20.0
    connection_burst: Annotated[float, Field(ge=1)] = 64.0
    max_resident: Annotated[int, Field(ge=2, le=1000)] = 4
    max_resident_bytes: Count = 512 << 20
    timeout_s: Seconds = 5.0
    drain_s: Annotated[float, Field(ge=0, le=60)] = 1.0


def load_daemon_config(path: str | Path | None = None) -> DaemonConfig:
    """Reads a configuration; None: all defaults. Raises DaemonConfigError, a line for each problem."""
    return DaemonConfig() if path is None else load_config(DaemonConfig, Path(path), CONFIGS, DaemonConfigError)
