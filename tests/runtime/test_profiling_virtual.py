"""Measuring on a board on a virtual clock: the profile that drives it comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profiling_board import VirtualBoard, VirtualEngine, VirtualGovernor, VirtualMeter, backend_error

import piqi_native
from piqi_planner.cost import CostParameters, make_cost
from piqi_planner.demo import MODEL
from piqi_planner.estimate import estimate_profile
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_planner.profile import load_profile, parse_configurations
from piqi_runtime.boards import load_board
from piqi_runtime.meter import MeterError
from piqi_runtime.profile_tables import (
    DVFS_DELAY,
    LAYERS,
    TABLES,
    TRANSFER_FREQUENCY,
    TRANSFERS,
    ProfileFacts,
    write_facts,
    write_table,
)
from piqi_runtime.profiling import ProfilingError
from piqi_runtime.profiling.configurations import IDLE, Space, plan
from piqi_runtime.profiling.guard import TemperatureGuard
from piqi_runtime.profiling.progress import Progress
from piqi_runtime.profiling.results import Results
from piqi_runtime.profiling.session import Session
from piqi_runtime.profiling.store import Store
from piqi_runtime.profiling.synthetic import synthetic_network
from piqi_runtime.profiling.tables import Tables

BOARD = load_board("rk3399pro")
NAME = "digits"
LAYER_COUNT = 5
RANGES = [*((layer, layer) for layer in range(LAYER_COUNT)), (0, 4), (0, 1), (2, 4)]
SHRINK = 0.05


@pytest.fixture(scope="module")
def network() -> Any:
    model = assign_layers(import_model(str(MODEL)), parse_layers("conv"))
    return model.with_layers([min(op.layer // 2, LAYER_COUNT - 1) for op in model.operators])


@pytest.fixture
def virtual(network: Any) -> VirtualBoard:
    """Estimates, each off by a random factor, and layers of some milliseconds."""
    profile = estimate_profile(network, BOARD, NAME)
    generator = np.random.default_rng(1)
    rows = {}
    for table in TABLES:
        rows[table.name] = []
        for row in profile.rows[table.name]:
            values = [
                value * generator.uniform(0.8, 1.25) * (4 if column == "time_ms" else 1)
                if column in ("time_ms", "power_mw") and isinstance(value, float)
                else value
                for column, value in zip(table.columns, row.values, strict=True)
            ]
            rows[table.name].append(replace(row, values=tuple(values)))
    lowest: dict[Any, float] = {}
    for place, row in enumerate(rows[TRANSFER_FREQUENCY.name]):
        *key, time_ms, power_mw, _ = row.values
        ratio = time_ms / lowest.setdefault(key[0] + key[1], time_ms)
        rows[TRANSFER_FREQUENCY.name][place] = replace(row, values=(*key, time_ms, power_mw, ratio))
    return VirtualBoard(BOARD, replace(profile, rows=rows), SHRINK)


class Bench:
    """A session on a virtual board."""

    def __init__(self, virtual: VirtualBoard, network: Any, folder: Path, letters: str = "LBGN", **more: Any) -> None:
        self.virtual, self.folder = virtual, folder
        self.meter = VirtualMeter(virtual)
        self.space = Space(BOARD, letters, {})
        self.store = Store(folder / "measurements.sqlite", {"model": NAME})
        self.session = Session(
            engines={
                "model": VirtualEngine(virtual, network),
                "synthetic": VirtualEngine(virtual, synthetic_network(), True),
            },  # type: ignore[arg-type]
            partitions=lambda first, last: None,  # type: ignore[arg-type, return-value]
            store=self.store,
            guard=TemperatureGuard(folder, 75.0),
            seconds=0.02,
            governor=VirtualGovernor(virtual),  # type: ignore[arg-type]
            **{"meter": self.meter, **more},
        )

    def run(self, rounds: int = 2) -> None:
        self.session.run(plan(self.space, LAYER_COUNT, RANGES), rounds, Progress(1000))

    def tables(self, letters: str = "LBGN") -> Tables:
        return Tables(NAME, LAYER_COUNT, Space(BOARD, letters, {}), Results(self.store))


def errors(tables: Tables, virtual: VirtualBoard) -> dict[str, list[float]]:
    """Relative errors by kind of value."""
    rows = {name: [row.values for row in table] for name, table in tables.rows().items()}
    found: dict[str, list[float]] = {}

    def compare(kind: str, got: Any, expected: float) -> None:
        found.setdefault(kind, []).append(abs(float(got) / expected - 1))

    costs = {values[1:6]: values[6:] for values in rows[LAYERS.name]}

    def both(key: Any, *phases: str) -> tuple[float, float]:
        """ms of some phases together, as measured and in truth."""
        keys = [(*key[:4], phase) for phase in phases]
        return sum(costs[key][0] for key in keys), sum(virtual.phases[key][0] for key in keys)

    for key, (time_ms, power_mw) in costs.items():
        letter, _, _, layer, phase = key
        if phase == "run":
            compare("run", time_ms, virtual.phases[key][0])
            if power_mw is not None:
                compare("power" if time_ms > 2 else "short power", power_mw, virtual.phases[key][1])
            if letter == "N":  # the input phase is told from the first load by a rule, the output phase likewise
                compare("load", *both(key, "npu_load", *(["input"] if layer == 0 else [])))
                last = layer == LAYER_COUNT - 1
                phases = ("npu_run_and_get", "npu_fill_tensor", *(["output"] if last else []))
                got, expected = (a - b for a, b in zip(both(key, *phases), both(key, "run"), strict=True))
                compare("unload", got, expected)
        elif letter != "N":
            compare(phase, time_ms, virtual.phases[key][0])
    for values in rows[TRANSFERS.name]:
        compare("transfers", values[4], virtual.moves[values[1:4]])
    for values in rows[TRANSFER_FREQUENCY.name]:
        compare("ratios", values[6], virtual.scales[values[:4]][2])
    delays: dict[Any, list[float]] = {}
    for values in rows[DVFS_DELAY.name]:
        delays.setdefault(values[:3], []).append(float(values[3]))
    for key, times_ms in delays.items():
        if virtual.delays[key] > 1:
            compare("delays", np.mean(times_ms), virtual.delays[key])
    return found


KINDS = {"run", "input", "output", "load", "unload", "transfers", "ratios", "delays"}


def test_every_value_comes_back_exactly_from_exact_times(virtual: VirtualBoard, network: Any, tmp_path: Path) -> None:
    bench = Bench(virtual, network, tmp_path)
    bench.run()
    found = errors(bench.tables(), virtual)
    worst = {kind: max(values) for kind, values in found.items()}
    assert set(worst) == KINDS | {"power", "short power"}
    assert max(worst[kind] for kind in KINDS) < 1e-3, worst
    assert worst["power"] < 0.02 and np.median(found["short power"]) < 0.02, worst
    assert bench.tables().npu_run_shrink(RANGES) == pytest.approx(SHRINK, rel=1e-3)
    assert Results(bench.store)[IDLE].power_mw[0] == pytest.approx(virtual.idle_mw)


def test_noise_and_disturbed_frames_do_not_get_into_the_profile(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    virtual.noise, virtual.outliers = 0.01, 0.04
    bench = Bench(virtual, network, tmp_path, letters="LBN", meter=None)
    bench.run(3)
    tables = bench.tables("LBN")
    found = errors(tables, virtual)
    medians = {kind: np.median(found[kind]) for kind in KINDS}
    assert max(medians[kind] for kind in KINDS - {"delays"}) < 0.01, medians
    assert medians["delays"] < 0.05
    assert max(found["run"]) < 0.03
    results = tables._results
    assert 0.02 * results.frames < results.outliers < 0.08 * results.frames


def test_what_it_writes_is_a_profile_that_the_planner_reads(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    bench = Bench(virtual, network, tmp_path)
    bench.run(1)
    tables = bench.tables()
    for table in TABLES:
        write_table(table, tmp_path / table.file_name, tables.rows()[table.name])
    shrink = tables.npu_run_shrink(RANGES)
    assert shrink is not None
    write_facts(tmp_path, ProfileFacts(idle_power_mw=2800.0, npu_run_shrink={NAME: shrink}))
    profile = load_profile(tmp_path, BOARD).model(NAME)
    assert profile.constants.npu_run_shrink == pytest.approx(SHRINK, rel=1e-3)
    assert profile.idle_power_mw == 2800.0 and profile.holes == ()
    # The cost models take a processor that the layer before did not use to be at its lowest frequency.
    orders = ["LLLLL", "NNNNN", "BNNBB", "GGLLB", "LNLNL"]
    freqs = ["3 3 3 3 3", "7 7 7 7 7", "4 4 4 4 4", "0-0 0-0 0 0 0", "5 7 5 7 5"]
    for order, tokens in zip(orders, freqs, strict=True):
        executor = bench.session.engines["model"].executor(order, tokens, None)  # type: ignore[arg-type]
        for _ in range(3):
            executor.run({})
        frames = executor._native.times()["frames"]
        truth_ms = float(frames[-1, 1] - frames[-1, 0]) / 1e6
        config = parse_configurations(profile, [order], [tokens])
        predicted_ms = float(make_cost("calibrated", profile, CostParameters()).evaluate(config).latency_ms[0])
        assert predicted_ms == pytest.approx(truth_ms, rel=0.03), order


def test_some_frequencies_only(virtual: VirtualBoard, network: Any, tmp_path: Path) -> None:
    bench = Bench(virtual, network, tmp_path, letters="LBN")
    bench.space = Space(BOARD, "LBN", {"L": [1, 5], "B": [3]})
    bench.run(1)
    tables = Tables(NAME, LAYER_COUNT, bench.space, Results(bench.store))
    found = errors(tables, virtual)
    assert max(max(found[kind]) for kind in ("run", "input", "load", "unload", "transfers", "delays")) < 1e-3
    assert {row.values[1:3] for row in tables.rows()[LAYERS.name]} == {("L", 1), ("L", 5), ("B", 3), ("N", 3)}
    assert {row.values[:3] for row in tables.rows()[DVFS_DELAY.name]} >= {("L", 1, 5), ("L", 5, 1)}


def test_a_processor_that_fails_is_left_out_and_the_rest_goes_on(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    virtual.failure = lambda order: backend_error("rknn_run: -1") if "N" in order and virtual.now_ns > 3e9 else None
    bench = Bench(virtual, network, tmp_path, letters="LBN")
    bench.run(1)
    assert list(bench.session.left_out) == ["N"] and "rknn_run: -1" in bench.session.left_out["N"]
    rows = bench.tables("LB").rows()[LAYERS.name]
    assert {row.values[1] for row in rows} == {"L", "B"}
    virtual.failure = lambda order: None  # it is back: only what is missing is measured
    again = Bench(virtual, network, tmp_path, letters="LBN")
    kept = again.store.effort().measured_s
    again.run(1)
    assert not again.session.left_out
    assert again.store.effort().measured_s > kept
    assert {row.values[1] for row in again.tables("LBN").rows()[LAYERS.name]} == {"L", "B", "N"}


def test_a_cpu_that_fails_ends_it(virtual: VirtualBoard, network: Any, tmp_path: Path) -> None:
    virtual.failure = lambda order: backend_error("layer 3 on L: broken") if set(order) == {"L"} else None
    with pytest.raises(piqi_native.BackendError, match="layer 3 on L: broken"):
        Bench(virtual, network, tmp_path, letters="LB").run(1)


def test_a_meter_that_goes_ends_it_and_what_was_measured_is_kept(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    bench = Bench(virtual, network, tmp_path, letters="L")
    frames = 0

    def unplug(order: str) -> None:
        nonlocal frames
        frames += 1
        bench.meter.unplugged |= frames == 100

    virtual.failure = unplug  # type: ignore[assignment]
    with pytest.raises(MeterError, match=r"has gone \(unplugged\?\)"):
        bench.run(2)
    done = bench.store._base.execute("SELECT COUNT(*) FROM blocks").fetchone()[0]
    assert done > 3
    again = Bench(virtual, network, tmp_path, letters="L")
    again.run(2)
    count = len(plan(again.space, LAYER_COUNT, RANGES))
    assert again.store._base.execute("SELECT COUNT(*) FROM blocks").fetchone()[0] == 2 * count
    assert frames < 100 + (2 * count - done + 1) * 12  # nothing was measured twice


def test_a_frequency_that_is_not_what_was_asked_for_is_measured_again(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    bench = Bench(virtual, network, tmp_path, letters="L")
    governor = bench.session.governor
    lies = iter([["L: asked for 1416000 kHz, runs at 1200000 kHz (1 time)"]])

    def throttle(order: str) -> None:
        if virtual.set["L"] == 5 and (told := next(lies, None)):
            governor.warnings = told  # type: ignore[union-attr, misc]

    virtual.failure = throttle  # type: ignore[assignment]
    bench.run(1)
    assert errors(bench.tables("L"), virtual)["run"]
    counter = iter(range(100_000))
    virtual.failure = lambda order: setattr(governor, "warnings", [f"L: runs at 1 kHz ({next(counter)} times)"])  # type: ignore[assignment, func-returns-value]
    with pytest.raises(ProfilingError, match=r"L: runs at 1 kHz \(\d+ times\), 3 times"):
        bench.run(2)


def test_every_round_has_another_order_and_all_configurations(
    virtual: VirtualBoard, network: Any, tmp_path: Path
) -> None:
    bench = Bench(virtual, network, tmp_path, letters="LB", meter=None)
    bench.run(2)
    rows = bench.store._base.execute("SELECT configuration, round FROM blocks ORDER BY rowid").fetchall()
    rounds = [[name for name, number in rows if number == which] for which in (0, 1)]
    assert sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1]
    assert [number for _, number in rows] == sorted(number for _, number in rows)
    assert len(rounds[0]) == len(set(rounds[0])) == len(plan(bench.space, LAYER_COUNT, RANGES))


def test_a_measurement_of_something_else_is_not_mixed_in(tmp_path: Path) -> None:
    Store(tmp_path / "m.sqlite", {"model": "a", "seconds": 1.0}).close()
    with pytest.raises(ProfilingError, match=r'm.sqlite: model: was begun with "a", got "b"'):
        Store(tmp_path / "m.sqlite", {"model": "b", "seconds": 1.0})
    (tmp_path / "n.sqlite").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(ProfilingError, match=r"n.sqlite: file is not a database"):
        Store(tmp_path / "n.sqlite", {})


def test_a_hot_board_rests(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    readings = iter([80_000, 78_000, 71_000, 69_000])
    said: list[str] = []

    def rest(seconds: float) -> None:
        (zone / "temp").write_text(str(next(readings)))

    rest(0)
    guard = TemperatureGuard(tmp_path, 75.0, said.append, rest)
    assert guard.wait() == 3.0 and len(said) == 3
    assert guard.wait() == 0.0 and guard.temperature_c() == 69.0
    (zone / "temp").write_text("90000")
    stuck = TemperatureGuard(tmp_path, 75.0, sleep=lambda _: None)
    with pytest.raises(ProfilingError, match=r"expected less than 70 degrees after 900 s of rest, got 90.0"):
        stuck.wait()
