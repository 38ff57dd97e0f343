"""The firmware's logic, compiled for this machine, against the host's parser."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from piqi_runtime.meter.line import MAX_LENGTH, WRAP, Line, format_line, parse_line

NO_POWER = WRAP - 1


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory):
    """Runs commands through the firmware's logic; returns a result a command."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    program = tmp_path_factory.mktemp("firmware") / "meter"
    source = Path(__file__).with_name("firmware_meter.cpp")
    # -std=c++11: what Arduino's oldest cores have.
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)

    def run(commands: list[str]) -> list[str]:
        result = subprocess.run([program], input="\n".join(commands), text=True, capture_output=True, check=True)
        lines = result.stdout.splitlines()
        assert len(lines) == len(commands)
        return lines

    return run


def test_lines_are_the_same(firmware) -> None:
    rng = random.Random(1)
    edges = [0, 1, 9, 10, 65535, 65536, WRAP - 2, WRAP - 1]
    values = [[rng.choice([*edges, rng.randrange(WRAP)]) for _ in range(3)] for _ in range(500)]
    powers = [rng.choice([0, 1, 99, 100, 655_350, 6_553_500, rng.randrange(10**7), NO_POWER]) for _ in values]
    lines = firmware([f"line {a} {b} {c} {power}" for (a, b, c), power in zip(values, powers, strict=True)])
    for (a, b, c), power, text in zip(values, powers, lines, strict=True):
        line = Line(a, b, c, None if power == NO_POWER else power / 10)
        assert parse_line(text.encode()) == line
        assert format_line(line) == text.encode() + b"\n"
        assert len(text) < MAX_LENGTH


def test_sensors_and_their_power(firmware) -> None:
    """Identities, configurations and units of the data sheets."""
    results = firmware(
        [
            "power 5449 2270 500",  # INA260: 10 mW a count
            "power 5449 2260 500",  # INA226 with 0.1 mA a count: 2.5 mW
            "power 5449 2261 65535",  # another revision
            "power 5449 2390 1",
            "power ffff 2270 1",  # nothing on the bus
            "power 5449 2270 65535",
        ]
    )
    assert results == ["6207 50000", "4207 12500", "4207 1638375", "none", "none", "6207 6553500"]


def test_calibration_of_shunts(firmware) -> None:
    """0.00512 / (0.1 mA x shunt); 0: the register cannot hold it."""
    assert firmware([f"calibration {uohm}" for uohm in (100_000, 10_000, 2_000, 1_500, 0)]) == [
        "512",
        "5120",
        "25600",
        "0",
        "0",
    ]


def test_the_queue_keeps_order_and_shows_what_it_lost(firmware) -> None:
    results = firmware(["pop", "push 10 1", "push 20 0", "push 30 1", "pop", "pop", "pop", "pop"])
    assert results == ["empty", "-", "sample", "sample", "0 10 1 1", "1 20 1 0", "2 30 2 1", "empty"]
    overflow = firmware([*(f"push {i} 1" for i in range(12)), *["pop"] * 8, "push 99 0", "pop", "pop"])
    assert overflow[12:20] == [f"{i} {i} {i + 1} 1" for i in range(8)]
    assert overflow[21:] == ["12 99 12 0", "empty"]  # four lines and four edges later
    laps = firmware([command for i in range(100) for command in (f"push {i} 0", "pop")])
    assert laps[1::2] == [f"{i} {i} 0 0" for i in range(100)]


@pytest.mark.parametrize(
    ("sensor", "registers", "unit"), [("INA260", "6207 0 400", 10.0), ("INA226", "4207 1400 400", 2.5)]
)
def test_the_sketch_itself(tmp_path: Path, sensor: str, registers: str, unit: float) -> None:
    """Against as much of Arduino as it uses: start-up, conversions, edges, a late loop, a full port."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    folder = Path(__file__).with_name("arduino")
    program = tmp_path / "sketch"
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{folder}", "-fsanitize=address,undefined"]
    subprocess.run([compiler, *flags, str(folder / "sketch.cpp"), "-o", str(program)], check=True)
    output = subprocess.run([program, sensor], capture_output=True, check=True, text=True).stdout.splitlines()
    assert output[:3] == ["baud 921600", f"# piqi-meter 1 {sensor}", f"registers {registers}"]
    lines = [parse_line(text.encode()) for text in output[3:]]
    sample = {i: round((500 + i) * unit, 1) for i in range(6)}
    # Sequence 5 is the late conversion's, 7 the edge that found no room.
    assert lines == [
        Line(0, 0, 0, sample[0]),
        Line(1, 400, 1, None),
        Line(2, 1120, 1, sample[1]),
        Line(3, 2240, 1, sample[2]),
        Line(4, 2640, 2, None),
        Line(6, 4480, 2, sample[4]),
        Line(8, 5600, 3, sample[5]),
    ]
