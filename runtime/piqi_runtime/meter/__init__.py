"""Power meters behind one interface: `serial`, `hwmon`, `iio`, `null` (docs/power_meter.md).

with open_meter("serial:/dev/ttyUSB0") as meter:
    ...  # run, and note when each layer began and ended
    energies = layer_energies(meter.recording(marks_ns), layers, began_ns, ended_ns)
"""

from piqi_runtime.meter.base import MeterError, PowerMeter, Quality, Recording
from piqi_runtime.meter.energy import LayerEnergy, layer_energies
from piqi_runtime.meter.hwmon import HwmonMeter
from piqi_runtime.meter.iio import IioMeter
from piqi_runtime.meter.null import NullMeter
from piqi_runtime.meter.serial_meter import SerialMeter

__all__ = [
    "HwmonMeter",
    "IioMeter",
    "LayerEnergy",
    "MeterError",
    "NullMeter",
    "PowerMeter",
    "Quality",
    "Recording",
    "SerialMeter",
    "layer_energies",
    "open_meter",
]


def open_meter(text: str) -> PowerMeter:
    """The meter that a command line names, not yet started.

    ``serial:/dev/ttyUSB0``, ``serial:/dev/ttyUSB0@921600``, ``hwmon``, ``hwmon:ina226/power1+ina226/power2``, ``iio``,
    ``iio:ina226/power2``, ``null``. Raises MeterError for anything else, and where there is no sensor.
    """
    kind, _, rest = text.partition(":")
    if kind == "serial" and rest:
        port, at, baud = rest.partition("@")
        if not at:
            return SerialMeter(port)
        if not baud.isascii() or not baud.isdecimal():
            raise MeterError(f"meter {text}: baud rate: expected a number, got {baud!r}")
        return SerialMeter(port, int(baud))
    names = rest.split("+") if rest else []
    if kind == "hwmon":
        return HwmonMeter(names)
    if kind == "iio":
        return IioMeter(names)
    if text == "null":
        return NullMeter()
    raise MeterError(f"meter: expected serial:PORT[@BAUD], hwmon[:NAMES], iio[:NAMES] or null, got {text!r}")
