"""Sensors, on trees of files as kernels make them: several supplies, files that vanish, files that lie."""

import logging
from pathlib import Path

import pytest

from piqi_runtime.policy import Sensors, Situation

Files = dict[str, str]
POWER = "sys/class/power_supply"
BATTERY: Files = {
    f"{POWER}/BAT0/type": "Battery",
    f"{POWER}/BAT0/status": "Discharging",
    f"{POWER}/BAT0/capacity": "80",
}
MAINS: Files = {f"{POWER}/AC/type": "Mains", f"{POWER}/AC/online": "0"}


def put(root: Path, *trees: Files) -> None:
    for tree in trees:
        for name, text in tree.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")


def read(root: Path, *trees: Files, now_s: float = 0.0) -> Situation:
    put(root, *trees)
    return Sensors(root).read(now_s)


def test_nothing_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sensors = Sensors(tmp_path / "none")
    assert sensors.read(5.0, 3.0) == Situation(now_s=5.0, idle_s=3.0)
    assert sensors.sources == {"battery": [], "mains": [], "temperature": [], "power": []}
    assert not caplog.records


def test_battery_and_mains(tmp_path: Path) -> None:
    situation = read(tmp_path, BATTERY, MAINS)
    assert (situation.battery_percent, situation.on_mains) == (80.0, False)
    put(tmp_path, {f"{POWER}/AC/online": "1"})
    assert Sensors(tmp_path).read(0.0).on_mains is True


@pytest.mark.parametrize(
    ("status", "on_mains"),
    [("Discharging", False), ("Charging", True), ("Full", True), ("Not charging", True), ("Unknown", None), ("", None)],
)
def test_mains_by_the_battery_alone(tmp_path: Path, status: str, on_mains: bool | None) -> None:
    assert read(tmp_path, BATTERY, {f"{POWER}/BAT0/status": status}).on_mains is on_mains


def test_several_supplies(tmp_path: Path) -> None:
    """Two batteries of different size, two plugs, and a mouse."""
    trees: list[Files] = [
        {**BATTERY, f"{POWER}/BAT0/capacity": "90", f"{POWER}/BAT0/energy_full": "10000000"},
        {
            f"{POWER}/BAT1/type": "Battery",
            f"{POWER}/BAT1/energy_full": "30000000",
            f"{POWER}/BAT1/energy_now": "15000000",
        },
        {
            f"{POWER}/mouse/type": "Battery",
            f"{POWER}/mouse/scope": "Device",
            f"{POWER}/mouse/capacity": "1",
            f"{POWER}/mouse/status": "Charging",
        },
        {f"{POWER}/gone/type": "Battery", f"{POWER}/gone/present": "0", f"{POWER}/gone/capacity": "0"},
        MAINS,
        {f"{POWER}/usb/type": "USB_C", f"{POWER}/usb/online": "1"},
    ]
    situation = read(tmp_path, *trees)
    assert situation.battery_percent == pytest.approx((90 * 10 + 50 * 30) / 40)
    assert situation.on_mains is True
    assert Sensors(tmp_path).sources["battery"] == [str(tmp_path / POWER / name) for name in ("BAT0", "BAT1", "gone")]


def test_charging_from_a_plug_that_says_it_is_out(tmp_path: Path) -> None:
    assert read(tmp_path, BATTERY, MAINS, {f"{POWER}/BAT0/status": "Charging"}).on_mains is True


def test_hottest_zone(tmp_path: Path) -> None:
    zones = {"0/temp": "45000", "1/temp": "71500", "2/temp": "-273000", "3/temp": "999000", "4/type": "cpu"}
    situation = read(tmp_path, {f"sys/class/thermal/thermal_zone{name}": text for name, text in zones.items()})
    assert situation.temperature_c == 71.5


@pytest.mark.parametrize("lie", ["", "abc", "nan", "-1", "101", "1e400", "\N{DIGIT FIVE}\N{FULLWIDTH SOLIDUS}"])
def test_a_battery_that_lies(tmp_path: Path, lie: str, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, BATTERY, {f"{POWER}/BAT0/capacity": lie})
    sensors = Sensors(tmp_path)
    assert [sensors.read(float(now)).battery_percent for now in range(3)] == [None] * 3
    (record,) = caplog.records  # once
    assert f"{POWER}/BAT0/capacity: expected" in record.getMessage()
    put(tmp_path, BATTERY)
    assert sensors.read(4.0).battery_percent == 80.0


def test_binary_and_endless_files(tmp_path: Path) -> None:
    put(tmp_path, BATTERY)
    (tmp_path / POWER / "BAT0/capacity").write_bytes(b"\xff\x00" * 1_000_000)
    (tmp_path / POWER / "BAT0/status").write_bytes(b"\x80")
    assert Sensors(tmp_path).read(0.0) == Situation(0.0)


def test_files_that_vanish_and_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zone = {"sys/class/thermal/thermal_zone0/temp": "50000"}
    put(tmp_path, BATTERY, zone)
    sensors = Sensors(tmp_path)
    assert sensors.read(0.0).temperature_c == 50.0
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").unlink()
    assert [sensors.read(now).temperature_c for now in (1.0, 2.0)] == [None, None]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    put(tmp_path, zone, {"sys/class/thermal/thermal_zone1/temp": "60000"})
    assert sensors.read(3.0).temperature_c == 50.0
    assert sensors.read(31.0).temperature_c == 60.0  # what is new is found after half a minute
    assert sensors.read(2.0).temperature_c == 60.0  # a clock that goes back


def hwmon(number: int, name: str, power_uw: str, file: str = "power1_input") -> Files:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {f"{folder}/name": name, f"{folder}/{file}": power_uw}


def test_hwmon(tmp_path: Path) -> None:
    assert read(tmp_path, hwmon(0, "ina226", "4200000")).power_mw == 4200.0
    assert read(tmp_path, hwmon(1, "ina231", "5100000", "power2_average")).power_mw == 5100.0  # the one before all
    assert read(tmp_path, hwmon(2, "broken", "-5000000"), hwmon(3, "zero", "0")).power_mw == 5100.0
    assert read(tmp_path, {"sys/class/hwmon/hwmon4/power1_cap": "99000000"}).power_mw == 5100.0


def test_named_power_sensors_are_summed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, hwmon(0, "cpu", "2000000"), hwmon(1, "gpu", "1500000"), hwmon(2, "all", "9000000"))
    sensors = Sensors(tmp_path, power_sensors=["cpu/power1", "gpu/power1"])
    assert sensors.read(0.0).power_mw == 3500.0
    (tmp_path / "sys/class/hwmon/hwmon1/power1_input").unlink()
    assert sensors.read(1.0).power_mw is None  # a part is not the sum
    Sensors(tmp_path, power_sensors=["npu/power1"])
    assert "power sensor npu/power1: not found, there are: all/power1, cpu/power1" in caplog.messages


def iio(**files: str) -> Files:
    folder = "sys/bus/iio/devices/iio:device0"
    return {f"{folder}/name": "ina226"} | {f"{folder}/{name}": text for name, text in files.items()}


def test_iio(tmp_path: Path) -> None:
    assert read(tmp_path / "a", iio(in_power2_raw="168", in_power2_scale="25.0")).power_mw == 4200.0
    assert read(tmp_path / "b", iio(in_power_raw="100", in_power_scale="2", in_power_offset="50")).power_mw == 300.0
    assert read(tmp_path / "c", iio(in_power0_input="1234.5")).power_mw == 1234.5
    assert read(tmp_path / "d", iio(in_power2_raw="168", in_power2_scale="none")).power_mw is None
    shared = iio(in_power0_raw="10", in_power1_raw="20", in_power_scale="3")
    assert read(tmp_path / "e", shared).power_mw == 60.0
    assert Sensors(tmp_path / "e").sources["power"][0].startswith("ina226/power0: ")


def test_power_by_the_battery(tmp_path: Path) -> None:
    assert read(tmp_path, BATTERY, {f"{POWER}/BAT0/power_now": "-7500000"}).power_mw == 7500.0
    assert read(tmp_path, {f"{POWER}/BAT0/status": "Charging"}).power_mw is None
    other = {"current_now": "1000000", "voltage_now": "3700000", "type": "Battery", "status": "Discharging"}
    assert read(tmp_path / "b", {f"{POWER}/BAT1/{name}": text for name, text in other.items()}).power_mw == 3700.0
    put(tmp_path / "b", hwmon(0, "ina226", "4200000"))
    assert Sensors(tmp_path / "b").read(0.0).power_mw == 4200.0  # a meter counts more


def test_hwmon_of_a_battery_is_not_the_board(tmp_path: Path) -> None:
    device = tmp_path / "sys/devices/platform/power_supply/BAT0/hwmon0"
    put(
        tmp_path,
        {
            str((device / name).relative_to(tmp_path)): text
            for name, text in (("name", "BAT0"), ("power1_input", "9000000"))
        },
    )
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    (tmp_path / "sys/class/hwmon/hwmon0").symlink_to(device)
    assert Sensors(tmp_path).read(0.0).power_mw is None
