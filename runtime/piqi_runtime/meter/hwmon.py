"""Power sensors of the kernel's hwmon (Documentation/ABI/testing/sysfs-class-hwmon): INA2xx, INA3221 and others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from piqi_runtime.meter.sysfs import Reader, SysfsMeter, chip_name, read_number


class HwmonMeter(SysfsMeter):
    """Sensors named `ina226/power1`: `power*_input`, `power*_average`, or voltage times current of one channel."""

    kind = "hwmon"

    @staticmethod
    def sensors(root: Path) -> dict[str, Reader]:
        found: dict[str, Reader] = {}
        for folder in sorted((root / "sys/class/hwmon").glob("*")):
            if "power_supply" in folder.resolve().parts:  # a battery's, which may be charging
                continue
            chip = chip_name(folder)
            for kind in ("average", "input"):  # the second wins
                for file in sorted(folder.glob(f"power[0-9]*_{kind}")):
                    found[f"{chip}/{file.name.split('_')[0]}"] = partial(_scaled, file)
            for current in sorted(folder.glob("curr[0-9]*_input")):
                channel = current.name.removeprefix("curr").removesuffix("_input")
                voltage, name = folder / f"in{channel}_input", f"{chip}/power{channel}"
                # The INA2xx have power1 and their own numbers: in0 shunt, in1 bus.
                if voltage.exists() and name not in found:
                    found[name] = partial(_product, voltage, current)
        return found


def _scaled(file: Path) -> float:
    return read_number(file) / 1e3  # uW


def _product(voltage: Path, current: Path) -> float:
    return read_number(voltage) * read_number(current) / 1e3  # mV mA
