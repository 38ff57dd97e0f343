"""Power sensors of the kernel's iio (Documentation/ABI/testing/sysfs-bus-iio): INA2xx and others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from piqi_runtime.meter.sysfs import Reader, SysfsMeter, chip_name, read_number


class IioMeter(SysfsMeter):
    """Sensors named `ina226/power2`: `in_power*_input`, or (`in_power*_raw` + offset) x scale, in mW."""

    kind = "iio"

    @staticmethod
    def sensors(root: Path) -> dict[str, Reader]:
        found: dict[str, Reader] = {}
        for folder in sorted((root / "sys/bus/iio/devices").glob("*")):
            chip = chip_name(folder)
            for file in sorted(folder.glob("in_power*_input")):
                found[f"{chip}/{file.name.removesuffix('_input')[3:]}"] = partial(read_number, file)
            for file in sorted(folder.glob("in_power*_raw")):
                channel = file.name.removesuffix("_raw")
                scale, offset = (
                    next(
                        (path for path in (folder / f"{channel}_{kind}", folder / f"in_power_{kind}") if path.exists()),
                        None,
                    )
                    for kind in ("scale", "offset")
                )
                found[f"{chip}/{channel[3:]}"] = partial(_converted, file, scale, offset)
        return found


def _converted(raw: Path, scale: Path | None, offset: Path | None) -> float:
    value = read_number(raw) + (0.0 if offset is None else read_number(offset))
    return value * (1.0 if scale is None else read_number(scale))
