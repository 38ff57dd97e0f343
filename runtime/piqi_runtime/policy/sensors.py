"""What the kernel knows of battery, mains, temperature and power.

Sources: Documentation/ABI/testing/sysfs-class-power, sysfs-class-thermal, sysfs-class-hwmon, sysfs-bus-iio of the
kernel. Sensors come, go and lie: a value that cannot be is left out, with one warning for its file.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from piqi_runtime.policy.situation import Situation

_logger = logging.getLogger(__name__)

RESCAN_S = 30.0
TEMPERATURE_C = (-40.0, 150.0)
POWER_MW = (1.0, 1e6)
EXTERNAL = ("Mains", "USB", "Wireless")  # also USB_C, USB_PD...


@dataclass(frozen=True)
class _Power:
    name: str
    path: Path
    scale: Path | None  # iio: milliwatts a count
    offset: Path | None
    factor: float  # to milliwatts


@dataclass
class _Sources:
    batteries: list[Path] = field(default_factory=list)
    supplies: list[Path] = field(default_factory=list)
    zones: list[Path] = field(default_factory=list)
    powers: list[_Power] = field(default_factory=list)


class Sensors:
    """Reads what there is below `root`; looks for new sensors every half minute.

    `power_sensors`: names of the power sensors whose sum is the board's. By default it is the one that reads most,
    which is the one before all others, and without any what the batteries give.
    """

    def __init__(self, root: str | os.PathLike[str] = "/", power_sensors: Sequence[str] = ()) -> None:
        self._root = Path(root)
        self._power_sensors = tuple(power_sensors)
        self._warned: set[Path] = set()
        self._scanned_s: float | None = None
        self._found = self._scan()
        for name in self._power_sensors:
            if name not in {sensor.name for sensor in self._found.powers}:
                known = ", ".join(sorted({sensor.name for sensor in self._found.powers})) or "none"
                _logger.warning("power sensor %s: not found, there are: %s", name, known)

    @property
    def sources(self) -> dict[str, list[str]]:
        """The folders and files that were found, by what they tell."""
        found = self._found
        return {
            "battery": [str(path) for path in found.batteries],
            "mains": [str(path) for path in found.supplies],
            "temperature": [str(path) for path in found.zones],
            "power": [f"{sensor.name}: {sensor.path}" for sensor in found.powers],
        }

    def read(self, now_s: float, idle_s: float = 0.0) -> Situation:
        """The situation at `now_s` (monotonic). Never raises for what a sensor does."""
        if self._scanned_s is None:
            self._scanned_s = now_s
        elif now_s - self._scanned_s >= RESCAN_S:
            self._scanned_s, self._found = now_s, self._scan()
        statuses = [_text(path / "status") for path in self._found.batteries]
        return Situation(
            now_s=now_s,
            battery_percent=self._battery_percent(),
            on_mains=self._on_mains(statuses),
            temperature_c=self._temperature_c(),
            power_mw=self._power_mw(statuses),
            idle_s=idle_s,
        )

    def _scan(self) -> _Sources:
        found = _Sources()
        for path in _folders(self._root / "sys/class/power_supply"):
            kind = _text(path / "type")
            if _text(path / "scope") == "Device":  # of a mouse, not of the board
                continue
            if kind in ("Battery", "UPS"):
                found.batteries.append(path)
            elif kind is not None and kind.startswith(EXTERNAL):
                found.supplies.append(path)
        found.zones = [
            path / "temp"
            for path in _folders(self._root / "sys/class/thermal")
            if path.name.startswith("thermal_zone") and (path / "temp").exists()
        ]
        for path in _folders(self._root / "sys/class/hwmon"):
            if "power_supply" in path.resolve().parts:  # a battery's own, which may be charging
                continue
            name = _text(path / "name") or path.name
            for channel in sorted({file.name.split("_")[0] for file in path.glob("power[0-9]*_*")}):
                inputs = (path / f"{channel}_{kind}" for kind in ("input", "average"))
                if (file := next(filter(Path.exists, inputs), None)) is not None:
                    found.powers.append(_Power(f"{name}/{channel}", file, None, None, 1e-3))
        for path in _folders(self._root / "sys/bus/iio/devices"):
            name = _text(path / "name") or path.name
            for file in sorted(path.glob("in_power*_raw")):
                channel = file.name.removesuffix("_raw")
                scales = (path / f"{channel}_scale", path / "in_power_scale")
                scale, offset = next(filter(Path.exists, scales), None), path / f"{channel}_offset"
                sensor = _Power(f"{name}/{channel[3:]}", file, scale, offset if offset.exists() else None, 1.0)
                found.powers.append(sensor)
            for file in sorted(path.glob("in_power*_input")):
                channel = file.name.removesuffix("_input")
                if not (path / f"{channel}_raw").exists():
                    found.powers.append(_Power(f"{name}/{channel[3:]}", file, None, None, 1.0))
        return found

    def _battery_percent(self) -> float | None:
        levels: list[tuple[float, float | None]] = []  # percent, and what the battery holds when it is full
        for path in self._found.batteries:
            if _text(path / "present") == "0":
                continue
            full = next((path / name for name in ("energy_full", "charge_full") if (path / name).exists()), None)
            full_value = self._number(full, 1, math.inf) if full is not None else None
            if (path / "capacity").exists():
                percent = self._number(path / "capacity", 0, 100)
            else:
                now = full.with_name(full.name.replace("full", "now")) if full is not None else None
                percent = None
                if now is not None and full_value is not None:
                    value = self._number(now, 0, math.inf)
                    percent = None if value is None else min(100.0, 100 * value / full_value)
            if percent is not None:
                levels.append((percent, full_value))
        if not levels:
            return None
        weights = [weight for _, weight in levels if weight is not None]
        if len(weights) < len(levels):
            weights = [1.0] * len(levels)
        return sum(percent * weight for (percent, _), weight in zip(levels, weights, strict=True)) / sum(weights)

    def _on_mains(self, statuses: Sequence[str | None]) -> bool | None:
        online = [text for path in self._found.supplies if (text := _text(path / "online")) is not None]
        if any(text in ("1", "2") for text in online) or "Charging" in statuses:
            return True
        if online or "Discharging" in statuses:
            return False
        return True if any(status in ("Full", "Not charging") for status in statuses) else None

    def _temperature_c(self) -> float | None:
        values = (self._number(path, 1e3 * TEMPERATURE_C[0], 1e3 * TEMPERATURE_C[1]) for path in self._found.zones)
        hottest = max((value for value in values if value is not None), default=None)
        return None if hottest is None else hottest / 1e3

    def _power_mw(self, statuses: Sequence[str | None]) -> float | None:
        wanted = self._power_sensors
        sensors = [sensor for sensor in self._found.powers if not wanted or sensor.name in wanted]
        values = [value for sensor in sensors if (value := self._read_power(sensor)) is not None]
        if wanted:
            return sum(values) if len(values) == len(wanted) else None
        return max(values) if values else self._battery_power_mw(statuses)

    def _read_power(self, sensor: _Power) -> float | None:
        raw = self._number(sensor.path, -math.inf, math.inf)
        scale = 1.0 if sensor.scale is None else self._number(sensor.scale, 0, math.inf)
        offset = 0.0 if sensor.offset is None else self._number(sensor.offset, -math.inf, math.inf)
        if raw is None or scale is None or offset is None:
            return None
        return self._plausible(sensor.path, (raw + offset) * scale * sensor.factor, *POWER_MW)

    def _battery_power_mw(self, statuses: Sequence[str | None]) -> float | None:
        """What the batteries give while all of them discharge: then it is what the board takes."""
        total_mw = 0.0
        for path, status in zip(self._found.batteries, statuses, strict=True):
            if status != "Discharging":
                return None
            if (path / "power_now").exists():
                value = self._number(path / "power_now", -math.inf, math.inf)
                power_mw = None if value is None else abs(value) / 1e3  # some drivers sign it
            else:
                names = ("current_now", "voltage_now")
                if not all((path / name).exists() for name in names):
                    return None
                current, voltage = (self._number(path / name, -math.inf, math.inf) for name in names)
                power_mw = None if current is None or voltage is None else abs(current * voltage) / 1e9
            if power_mw is None:
                return None
            total_mw += power_mw
        return total_mw if POWER_MW[0] <= total_mw <= POWER_MW[1] else None

    def _number(self, path: Path, low: float, high: float) -> float | None:
        text = _text(path)
        if text is None:
            self._warn(path, "cannot be read")
            return None
        try:
            value = float(text)
        except ValueError:
            self._warn(path, f"expected a number, got {text[:40]!r}")
            return None
        return self._plausible(path, value, low, high)

    def _plausible(self, path: Path, value: float, low: float, high: float) -> float | None:
        if math.isfinite(value) and low <= value <= high:
            return value
        self._warn(path, f"expected {low:g} to {high:g}, got {value:g}")
        return None

    def _warn(self, path: Path, problem: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            _logger.warning("%s: %s: left out", path, problem)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    """The file's one line, or None where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(4096) or b"").decode(errors="replace").strip()
    except OSError:
        return None
