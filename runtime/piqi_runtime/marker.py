"""Layer markers by name: the line that tells a power meter where a layer begins."""

from __future__ import annotations

import piqi_native
from piqi_runtime.errors import PiqiError

EXPECTED = "'gpio:/dev/gpiochip1:7', 'sysfs:/sys/class/gpio/gpio39/value' or 'null'"


class MarkerError(PiqiError):
    """A marker that cannot be opened; the message names it and the cause."""


def open_marker(name: str) -> piqi_native.PowerMarker:
    """The marker of this name.

    - `gpio:DEVICE:LINE`: a line of a GPIO character device.
    - `sysfs:PATH`: the `value` file of a line that was exported as an output, for kernels before 4.8; or a FIFO.
    - `null`: none.

    Raises `MarkerError`.
    """
    kind, _, where = name.partition(":")
    device, _, line = where.rpartition(":")
    try:
        if kind == "gpio" and device and line.isascii() and line.isdecimal() and int(line) < 1 << 32:
            return piqi_native.gpio_marker(device, int(line))
        if kind == "sysfs" and where:
            return piqi_native.sysfs_gpio_marker(where)
        if name == "null":
            return piqi_native.null_marker()
    except piqi_native.DeviceError as error:
        raise MarkerError(f"marker {name}: {error}") from None
    raise MarkerError(f"marker: expected {EXPECTED}, got {name!r}")
