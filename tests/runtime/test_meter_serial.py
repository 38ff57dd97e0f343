"""The serial meter over a pseudo-terminal, with a simulated meter in a process of its own."""

import time
from pathlib import Path

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S
from meter_simulator import Trace, simulator

from piqi_runtime.meter import MeterError, Recording, SerialMeter, background, layer_energies, open_meter

pytest.importorskip("serial")

LAYERS_MS = (4.1, 0.83, 2.3, 6.2, 0.61, 1.7, 3.3)
LAYERS_MW = (5200.0, 8100.0, 6400.0, 3900.0, 9000.0, 4700.0, 7300.0)
PAUSE_MS = 0.9


def trace_of(frames: int, **faults) -> tuple[Trace, np.ndarray]:
    """Frames from time 0 on, and the layer of each run."""
    rng = np.random.default_rng(faults.get("seed", 0))
    at = 0
    trace, layers = Trace(**faults), []
    for _ in range(frames):
        for layer, (ms, mw) in enumerate(zip(LAYERS_MS, LAYERS_MW, strict=True)):
            end = at + int(ms * 1e6 * rng.uniform(0.97, 1.03))
            trace.began_ns.append(at)
            trace.ended_ns.append(end)
            trace.power_mw.append(mw)
            layers.append(layer)
            at = end
        at += int(PAUSE_MS * 1e6)
    return trace, np.array(layers)


def fails(meter: SerialMeter) -> None:
    """Waits until it raises the MeterError."""
    for _ in range(3000):
        meter.check()
        time.sleep(0.02)


def whole_recording(meter: SerialMeter, trace: Trace, marks: np.ndarray | list[int]) -> Recording:
    """From `clear` to the end of the trace, however late the lines come."""
    while time.monotonic_ns() < trace.ended_ns[-1]:
        time.sleep(0.05)
        meter.check()
    # By arrival alone first: few lines do not tell which mark is which.
    while meter.recording().time_ns.max(initial=0) < trace.ended_ns[-1]:
        pass
    while (recording := meter.recording(marks)).time_ns[-1] < trace.ended_ns[-1]:
        pass
    return recording


def play(trace: Trace) -> tuple[Recording, np.ndarray]:
    """The recording of the whole trace and the marks, which the host makes a little before the line changes."""
    rng = np.random.default_rng(5)
    with simulator(trace) as source, SerialMeter(source.port) as meter:
        source.begin(trace)
        time.sleep(max(0.0, (trace.began_ns[0] - time.monotonic_ns()) / 2e9))
        meter.clear()  # before it began lines were lost whenever nobody read
        marks = np.array(trace.began_ns) - rng.integers(5_000, 40_000, len(trace.began_ns))
        return whole_recording(meter, trace, marks), marks


def check_energies(trace: Trace, layers: np.ndarray, recording: Recording, tolerance: float = 0.02) -> list:
    began, ended = np.array(trace.began_ns), np.array(trace.ended_ns)
    found = layer_energies(recording, layers, began, ended)
    assert [energy.layer for energy in found] == list(range(len(LAYERS_MS)))
    for energy in found:
        runs = layers == energy.layer
        truth_mj = LAYERS_MW[energy.layer] * float((ended - began)[runs].mean()) * 1e-9
        assert energy.energy_mj == pytest.approx(truth_mj, rel=tolerance), energy
        assert energy.low_mj <= energy.energy_mj <= energy.high_mj
    return found


@pytest.mark.usefixtures("patient")
def test_energy_of_every_layer() -> None:
    """Jitter of conversions, edges and lines, 5 % of the lines lost, 3 % spoilt, a clock 80 ppm off that wraps."""
    trace, layers = trace_of(
        100,
        drift_ppm=80.0,
        first_us=2**32 - 1_500_000,
        jitter_us=60.0,
        delay_ms=12.0,
        drop=0.05,
        noise=0.03,
    )
    recording, marks = play(trace)
    found = check_energies(trace, layers, recording)
    quality = recording.quality
    assert quality.resets == 0
    assert quality.lost_lines == pytest.approx(0.08 * (quality.lines + quality.lost_lines), rel=0.3)
    assert 0.3 < quality.bad_lines / (quality.lost_lines - quality.bad_lines + 1) < 1.2  # the spoilt are lost as well
    assert 0.85 * len(marks) < quality.marks_matched <= len(marks)
    assert quality.drift_ppm[0] == pytest.approx(80.0, abs=15.0)
    assert all(0.75 < energy.covered < 1.0 for energy in found)  # a busy machine loses some of its own
    truth_mj = [mw * ms * 1e-3 for mw, ms in zip(LAYERS_MW, LAYERS_MS, strict=True)]
    bounded = [i for i, mw in enumerate(LAYERS_MW) if mw < max(LAYERS_MW)]  # nothing is higher than the highest
    assert all(found[i].low_mj < truth_mj[i] < found[i].high_mj for i in bounded)


@pytest.mark.usefixtures("patient")
def test_reset_in_the_middle() -> None:
    """What the meter missed while it booted is bounded, not ignored."""
    trace, layers = trace_of(100, drift_ppm=-300.0, jitter_us=30.0, delay_ms=4.0, drop=0.02, seed=3)
    trace.reset_ns = trace.began_ns[300]
    recording, _ = play(trace)
    found = check_energies(trace, layers, recording)
    assert recording.quality.resets == 1
    assert len(recording.quality.drift_ppm) == 2
    booted = np.diff(recording.time_ns).max()
    assert booted > 250e6
    covered = sum(energy.covered * energy.duration_ms for energy in found) / sum(energy.duration_ms for energy in found)
    assert covered == pytest.approx(1 - 0.3 / 1.99 - 0.02, abs=0.03)


@pytest.mark.usefixtures("patient")
def test_unplugged_in_the_middle() -> None:
    trace, layers = trace_of(60)
    trace.unplug_ns = trace.began_ns[250]
    with simulator(trace) as source, SerialMeter(source.port) as meter:
        source.begin(trace)
        with pytest.raises(MeterError, match=rf"^serial power meter {source.port}: has gone \(unplugged\?\)"):
            fails(meter)
        with pytest.raises(MeterError, match="has gone"):
            meter.recording(trace.began_ns)
        partial = meter.recording(trace.began_ns, partial=True)
    kept = np.array(trace.ended_ns) < trace.unplug_ns - 30_000_000
    part = Trace(
        *(list(np.array(values)[kept]) for values in (trace.began_ns, trace.ended_ns, trace.power_mw)),
    )
    check_energies(part, layers[kept], partial)


def test_silence_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "START_S", PATIENCE_S)
    trace, _ = trace_of(20)
    trace.silent_ns = trace.began_ns[10]
    with simulator(trace) as source, SerialMeter(source.port) as meter:
        source.begin(trace)
        with pytest.raises(MeterError, match="says nothing: is it powered"):
            fails(meter)


@pytest.mark.parametrize("baud", [115200, 460800])
def test_wrong_baud_rate(baud: int) -> None:
    with simulator(Trace()) as source:
        told = rf"{source.port}: \d+ bytes came and no valid line: wrong baud rate\?.*{baud}"
        with pytest.raises(MeterError, match=told):
            open_meter(f"serial:{source.port}@{baud}").start()
    assert background.START_S < 2.0


def test_a_port_that_says_nothing_is_not_there_or_is_in_use(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=r"none: cannot be opened at 921600 baud"):
        SerialMeter(str(tmp_path / "none")).start()
    (tmp_path / "file").write_text("1,2,3\n")
    with pytest.raises(MeterError, match="file: cannot be opened"):
        SerialMeter(str(tmp_path / "file")).start()
    with simulator(Trace(silent_ns=1)) as source:
        with pytest.raises(MeterError, match="says nothing"):
            SerialMeter(source.port).start()
        with pytest.raises(MeterError, match="says nothing"):  # it was closed, and can be opened again
            SerialMeter(source.port).start()


@pytest.mark.usefixtures("patient")
def test_used_twice_and_cleared() -> None:
    trace, layers = trace_of(60, drift_ppm=40.0)
    with simulator(trace) as source:
        meter = SerialMeter(source.port)
        with meter:
            with pytest.raises(MeterError, match="is recording already"):
                meter.start()
            assert meter.recording().mean_mw == pytest.approx(trace.idle_mw)
        assert meter.recording().quality.lines > 0  # still there
        with meter:
            meter.clear()
            source.begin(trace)
            check_energies(trace, layers, whole_recording(meter, trace, trace.began_ns))
