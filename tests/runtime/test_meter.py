"""Lines, streams, clocks and energies on given data; the kernel's sensors on trees of files."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piqi_runtime.meter import (
    HwmonMeter,
    IioMeter,
    MeterError,
    NullMeter,
    Recording,
    SerialMeter,
    layer_energies,
    open_meter,
)
from piqi_runtime.meter.align import align, arrival_clock
from piqi_runtime.meter.base import covered_windows
from piqi_runtime.meter.line import WRAP, Line, format_line, parse_line
from piqi_runtime.meter.stream import LineStream

MS = 1_000_000
numbers = st.integers(0, WRAP - 1)


@given(numbers, numbers, numbers, st.none() | st.integers(0, 10**9 - 1))
def test_a_line_comes_back(sequence: int, stamp_us: int, marker: int, tenths: int | None) -> None:
    line = Line(sequence, stamp_us, marker, None if tenths is None else tenths / 10)
    assert parse_line(format_line(line)[:-1]) == line


@given(st.integers(0, 40), st.integers(1, 255))
def test_a_spoilt_line_is_none(at: int, bits: int) -> None:
    data = bytearray(format_line(Line(123456, 7890123, 42, 5321.5))[:-1])
    data[at % len(data)] ^= bits
    assert parse_line(bytes(data)) is None


@given(st.binary(max_size=80))
def test_noise_is_no_line(data: bytes) -> None:
    assert parse_line(data) is None


def test_lines_that_do_not_fit() -> None:
    for line in (Line(-1, 0, 0, 1.0), Line(0, WRAP, 0, 1.0), Line(0, 0, 0, -0.1), Line(0, 0, 0, 1e8)):
        with pytest.raises(MeterError, match=r"^meter line: \w+: expected 0 to "):
            format_line(line)


def feed(stream: LineStream, lines: list[Line], arrival_ms: int = 0) -> None:
    """A line a millisecond."""
    for i, line in enumerate(lines):
        stream.feed(format_line(line), (arrival_ms + i) * MS)


def run(first: int, count: int, stamp_us: int = 0, marker: int = 0) -> list[Line]:
    return [Line((first + i) % WRAP, (stamp_us + 1000 * i) % WRAP, marker, 1.0) for i in range(count)]


def test_counters_wrap() -> None:
    stream = LineStream()
    feed(stream, run(WRAP - 5, 11, stamp_us=WRAP - 5500))
    (epoch,) = stream.epochs
    assert np.diff(epoch.stamp_us).tolist() == [1000] * 9  # the first line may be half of one
    assert (stream.good, stream.bad, stream.lost, stream.resets) == (10, 0, 0, 0)


def test_lost_lines_are_counted() -> None:
    stream = LineStream()
    lines = run(0, 20)
    feed(stream, lines[:8])
    feed(stream, lines[11:], 11)
    assert (stream.good, stream.lost, stream.resets) == (16, 3, 0)


def test_chunks_need_not_be_lines() -> None:
    data = b"".join(map(format_line, run(0, 50)))
    stream = LineStream()
    for i in range(0, len(data), 7):
        stream.feed(data[i : i + 7], i * 10_000)
    assert (stream.good, stream.bad, stream.lost) == (49, 0, 0)


def test_noise_costs_the_lines_it_touches() -> None:
    stream = LineStream()
    lines = run(0, 30)
    feed(stream, lines[:10])
    stream.feed(random.Random(0).randbytes(3000).replace(b"\n", b"") + b"\n", 10 * MS)  # not a comment, as #...
    feed(stream, lines[10:], 11)
    assert (stream.good, stream.lost, stream.resets) == (29, 0, 0)
    assert stream.bad >= 1


def test_resets() -> None:
    stream = LineStream()
    feed(stream, run(0, 100, marker=7))
    feed(stream, run(0, 50), 400)
    assert [len(epoch.stamp_us) for epoch in stream.epochs] == [99, 50]
    assert (stream.resets, stream.lost, stream.bad) == (1, 0, 0)
    assert stream.epochs[1].marker[0] == 0
    late = LineStream()  # a meter that was just on, and whose first lines after the reset are lost
    feed(late, run(0, 20))
    feed(late, run(200, 50, stamp_us=200_000), 900)
    assert late.resets == 1


def test_one_line_out_of_order_is_not_a_reset() -> None:
    """A checksum holds by chance once in 65536 bad lines."""
    stream = LineStream()
    lines = run(1000, 40, stamp_us=5_000_000)
    feed(stream, lines[:20])
    stream.feed(format_line(Line(3, 17, 0, 1.0)), 20 * MS)
    feed(stream, lines[20:], 20)
    assert (stream.good, stream.bad, stream.resets, stream.lost) == (39, 1, 0, 0)


def test_a_stalled_host_is_not_a_reset() -> None:
    stream = LineStream()
    lines = run(0, 2000)
    feed(stream, lines[:100])
    stream.feed(b"".join(map(format_line, lines[100:200])), 1500 * MS)  # what the buffer held
    feed(stream, lines[1500:], 1500)
    assert (stream.resets, stream.lost, len(stream.epochs)) == (0, 1300, 1)
    torn = LineStream()  # nothing but a line that was spoilt is missing, and that just where it stalled
    feed(torn, lines[:100])
    feed(torn, lines[101:], 1500)
    assert (torn.resets, torn.lost, len(torn.epochs)) == (0, 1, 1)


def layered_marks(rng: np.random.Generator, frames: int) -> np.ndarray:
    gaps = np.tile(np.array([4.1, 0.8, 2.3, 6.2, 0.6, 1.7, 4.2]), frames) * rng.uniform(0.97, 1.03, 7 * frames)
    return (10**12 + np.cumsum(gaps * 1e6)).astype(np.int64)


@pytest.mark.parametrize("drift_ppm", [0.0, 150.0, -4000.0])
@pytest.mark.parametrize("seed", range(4))
def test_clock_from_markers(drift_ppm: float, seed: int) -> None:
    """Edges that are lost, missed (the count does not show it) and too many; a host that is late at times."""
    rng = np.random.default_rng(seed)
    marks = layered_marks(rng, 150)
    rate = 1 + drift_ppm * 1e-6
    edge_ns = marks + rng.integers(5_000, 30_000, len(marks))
    edge_ns += (rng.random(len(marks)) < 0.05) * rng.integers(0, 3 * MS, len(marks))  # preempted before it toggled
    edge_ns = np.delete(edge_ns, rng.choice(len(edge_ns), 8, replace=False))
    edge_ns = np.sort(np.concatenate([edge_ns, rng.integers(marks[0], marks[-1], 5)]))
    counts = np.arange(len(edge_ns))
    edge_us = ((edge_ns - marks[0]) * rate / 1000).astype(np.int64) + 77_000_000
    kept = rng.random(len(edge_us)) > 0.1
    stamp_us = np.sort(np.concatenate([edge_us[kept], np.arange(edge_us[0] - 500_000, edge_us[-1], 1120)]))
    true_ns = marks[0] + (stamp_us - 77_000_000) * 1000 / rate
    arrival_ns = np.maximum.accumulate(true_ns + 2 * MS + rng.exponential(3 * MS, len(true_ns))).astype(np.int64)
    clock = align(edge_us[kept], counts[kept], marks, arrival_clock(stamp_us, arrival_ns))
    error_ns = clock.to_host(stamp_us) - true_ns
    assert np.abs(error_ns).max() < 60_000
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=25)
    assert clock.matched > 0.8 * kept.sum()


def test_clock_by_arrival_alone() -> None:
    rng = np.random.default_rng(2)
    stamp_us = np.arange(0, 5_000_000, 1120)
    arrival_ns = (stamp_us * 1000 * 1.001 + 3 * MS + rng.exponential(2 * MS, len(stamp_us))).astype(np.int64)
    clock = arrival_clock(stamp_us, arrival_ns)
    assert np.abs(clock.to_host(stamp_us) - stamp_us * 1001 - 3 * MS).max() < 0.5 * MS


@pytest.mark.parametrize("from_s", [0.0, 0.3, 0.6, 1.1])
def test_clock_of_a_host_that_stood_still(from_s: float) -> None:
    """For nearly half of the time: all lines that came in between are read at once."""
    rng = np.random.default_rng(3)
    stamp_us = np.arange(0, 2_000_000, 1120)
    true_ns = stamp_us * 1002 + 3 * MS
    arrival_ns = true_ns + rng.exponential(2 * MS, len(stamp_us))
    slept = (stamp_us >= from_s * 1e6) & (stamp_us < from_s * 1e6 + 900_000)
    arrival_ns[slept] = arrival_ns[slept].max()
    clock = arrival_clock(stamp_us, np.maximum.accumulate(arrival_ns).astype(np.int64))
    assert np.abs(clock.to_host(stamp_us) - true_ns).max() < 2 * MS


def test_edges_that_are_not_ours() -> None:
    rng = np.random.default_rng(0)
    marks = layered_marks(rng, 20)
    edge_us = np.sort(rng.integers(0, 400_000, 140))
    arrival = arrival_clock(edge_us, marks[0] + edge_us * 1000)
    with pytest.raises(MeterError, match=r"\d+ of 140 marker edges fit 140 marks"):
        align(edge_us, np.arange(140), marks, arrival)
    with pytest.raises(MeterError, match="expected 2 marker edges at least, got 1 of 140"):
        align(edge_us[:1], np.arange(1), marks, arrival)


def recording_of(power, period_ns: int, until_ns: int, rng: np.random.Generator, kept: float = 1.0) -> Recording:
    """Samples of the averages of `power`, the integral in mW ns."""
    times = np.arange(period_ns, until_ns, period_ns)
    times += rng.integers(-period_ns // 10, period_ns // 10, len(times))
    borders = np.concatenate([[0], times])
    values = np.diff(power(borders)) / np.diff(borders)
    there = rng.random(len(times)) < kept
    return Recording(times[there], covered_windows(times[there]), values[there], np.zeros(there.sum(), np.int64))


def energies_of(runs: int, kept: float, seed: int):
    rng = np.random.default_rng(seed)
    ms, mw = np.array([3.0, 0.4, 1.2, 0.7]), np.array([4000.0, 9000.0, 2500.0, 7000.0])
    lengths = (np.tile(ms, runs) * rng.uniform(0.95, 1.05, 4 * runs) * 1e6).astype(np.int64)
    ended = np.cumsum(lengths)
    began = ended - lengths
    totals = np.concatenate([[0.0], np.cumsum(lengths * np.tile(mw, runs))])
    borders = np.concatenate([[0], ended])
    recording = recording_of(
        lambda t: np.interp(t, borders, totals), 1_120_000, int(ended[-1]) // 1_120_000 * 1_120_000, rng, kept
    )
    layers = np.tile(np.arange(4), runs)
    truth = [float(mw[i] * lengths[layers == i].mean() * 1e-9) for i in range(4)]
    return layer_energies(recording, layers, began, ended), truth


@pytest.mark.parametrize("kept", [1.0, 0.8])
def test_layers_shorter_than_a_sample(kept: float) -> None:
    found, truth = energies_of(400, kept, 1)
    for energy, true_mj in zip(found, truth, strict=True):
        assert energy.energy_mj == pytest.approx(true_mj, rel=0.01)
        assert energy.runs == 400
        if kept < 1:
            assert energy.covered == pytest.approx(kept, abs=0.05)
            if energy.layer in (0, 3):  # of the others nothing is lower, nothing higher
                assert energy.low_mj < true_mj < energy.high_mj


def test_energy_is_conserved() -> None:
    """Whole samples count as they are, whatever the layers' usual power."""
    rng = np.random.default_rng(3)
    time_ns = np.arange(1, 101) * MS
    power = rng.uniform(1000, 9000, 100)
    recording = Recording(time_ns, np.full(100, MS), power, np.zeros(100, np.int64))
    began, ended = np.array([0, 30 * MS + 400_000]), np.array([30 * MS + 400_000, 100 * MS])
    first, second = layer_energies(recording, np.array([4, 2]), began, ended)[::-1]
    assert (first.layer, second.layer) == (4, 2)
    assert first.energy_mj + second.energy_mj == pytest.approx(power.sum() * 1e-3)
    assert first.covered == second.covered == 1.0


def test_runs_that_make_no_sense() -> None:
    recording = Recording(np.array([MS]), np.array([MS]), np.array([1.0]), np.array([0]))
    one, two = np.array([0]), np.array([0, 1])
    with pytest.raises(MeterError, match=r"run 0 \(layer 0\): expected runs that end after they begin"):
        layer_energies(recording, two, np.array([0, 5]), np.array([6, 10]))
    with pytest.raises(MeterError, match="run 0"):
        layer_energies(recording, one, np.array([5]), np.array([5]))
    with pytest.raises(MeterError, match="as many of each"):
        layer_energies(recording, two, one, one)
    with pytest.raises(MeterError, match="no sample in layer 1: measure more frames"):
        layer_energies(recording, two, np.array([0, 2 * MS]), np.array([MS, 3 * MS]))
    with pytest.raises(MeterError, match="no sample in layer 0"):
        layer_energies(NullMeter().recording(), one, np.array([0]), np.array([5]))


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_hwmon(tmp_path: Path) -> None:
    """A meter that follows its file; the INA3221 has no power of its own."""
    sensor = tmp_path / "sys/class/hwmon/hwmon3"
    put(sensor, name="ina226", power1_input="5000000")
    put(tmp_path / "sys/class/hwmon/hwmon4", name="ina3221", in2_input="5000", curr2_input="300")
    meter = HwmonMeter(root=tmp_path, interval_s=0.002)
    assert meter.name == "hwmon power meter ina226/power1"
    began_ns = time.monotonic_ns()
    with meter:  # which has read once now
        put(sensor, power1_input="7000000")
        while len((recording := meter.recording()).time_ns) <= 10:
            pass
    assert set(recording.power_mw) == {5000.0, 7000.0}
    assert recording.quality.lines == len(recording.time_ns)
    assert began_ns < recording.time_ns.min() and recording.time_ns.max() < time.monotonic_ns()
    assert np.median(recording.window_ns[1:]) == pytest.approx(np.median(np.diff(recording.time_ns)), rel=0.5)
    with HwmonMeter(["ina226/power1", "ina3221/power2"], root=tmp_path) as both:
        assert both.recording().mean_mw == 8500.0


def test_iio(tmp_path: Path) -> None:
    put(tmp_path / "sys/bus/iio/devices/iio:device0", name="ina226", in_power2_raw="168", in_power2_scale="25.0")
    with IioMeter(root=tmp_path) as meter:
        assert meter.recording().mean_mw == 4200.0


def test_a_sensor_that_vanishes(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/hwmon/hwmon0"
    put(folder, name="ina226", power1_input="5000000")
    with HwmonMeter(root=tmp_path) as meter:
        assert meter.recording().mean_mw == 5000.0
        (folder / "power1_input").unlink()
        with pytest.raises(MeterError, match=r"hwmon power meter ina226/power1: cannot be read: .*power1_input"):
            meter.recording()
        assert meter.recording(partial=True).mean_mw == 5000.0
    put(folder, power1_input="-5")
    with pytest.raises(MeterError, match="expected 0 to 1e"):
        HwmonMeter(root=tmp_path).start()
    assert "power-meter" not in {thread.name for thread in threading.enumerate()}


def test_meters_by_name(tmp_path: Path) -> None:
    assert isinstance(open_meter("null"), NullMeter)
    assert isinstance(open_meter("serial:/dev/ttyUSB0@115200"), SerialMeter)
    for text in ("", "serial", "serial:", "volts", "null:1"):
        with pytest.raises(MeterError, match=r"^meter: expected serial:PORT\[@BAUD\]"):
            open_meter(text)
    with pytest.raises(MeterError, match="baud rate: expected a number, got 'fast'"):
        open_meter("serial:/dev/ttyUSB0@fast")
    with pytest.raises(MeterError, match="baud rate: expected a positive number, got 0"):
        open_meter("serial:/dev/ttyUSB0@0")
    with pytest.raises(MeterError, match="no power sensor found"):
        IioMeter(root=tmp_path)
    put(tmp_path / "sys/class/hwmon/hwmon0", name="ina226", power1_input="1")
    with pytest.raises(MeterError, match="sensor ina226/power9: expected one of ina226/power1"):
        HwmonMeter(["ina226/power9"], root=tmp_path)
    with pytest.raises(MeterError, match="no samples"), NullMeter() as meter:
        _ = meter.recording().mean_mw
