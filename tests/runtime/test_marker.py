"""Markers by name."""

import os
from pathlib import Path

import pytest

from piqi_runtime.marker import MarkerError, open_marker


def test_a_line_of_the_older_sysfs(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text("1")
    marker = open_marker(f"sysfs:{value}")
    levels = [value.read_text()]
    for layer in range(3):
        marker.mark(layer)
        levels.append(value.read_text())
    assert levels == ["0", "1", "0", "1"]


def test_a_fifo_gets_a_byte_a_mark(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "line")
    marker = open_marker(f"sysfs:{tmp_path}/line")
    reader = os.open(tmp_path / "line", os.O_RDONLY | os.O_NONBLOCK)
    for layer in range(5):
        marker.mark(layer)
    assert os.read(reader, 100) == b"10101"
    del marker
    assert os.read(reader, 100) == b""  # the end: its writer is gone
    os.close(reader)


def test_no_marker() -> None:
    open_marker("null").mark(0)


@pytest.mark.parametrize("name", ["", "gpio", "gpio:/dev/gpiochip0", "gpio::1", "gpio:/dev/x:-1", "sysfs:", "null:1"])
def test_other_names_are_errors(name: str) -> None:
    with pytest.raises(MarkerError, match=r"marker: expected 'gpio:/dev/gpiochip1:7', .*got"):
        open_marker(name)


def test_errors_name_the_marker_and_the_cause() -> None:
    with pytest.raises(MarkerError, match=r"^marker gpio:/dev/null:3: /dev/null line 3: request as output: "):
        open_marker("gpio:/dev/null:3")
    with pytest.raises(MarkerError, match=r"gpio39/value: open: No such file.*echo 39 > /nowhere/export; echo out > "):
        open_marker("sysfs:/nowhere/gpio39/value")
