"""A host switches between frames and loses no more than the frame that failed."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import piqi_native
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import Bundle, BundleInput, BundleOutput, load_bundle, write_bundle
from piqi_runtime.host import FALLBACK, HostError, HostFault, ModelHost
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

Arrays = dict[str, np.ndarray]
ORDERS = ("GGG", "GGB", "BBB", "LLL")
GGG, GGB, BBB, LLL = range(4)
FRAME = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)


class Gpu:
    """A GPU that does as it is told: relu, but late, never or with an error."""

    def __init__(self) -> None:
        self.fails = self.fails_to_prepare = False
        self.delay_s = 0.0
        self.hangs = threading.Event()
        self.hangs.set()  # clear: runs hang until it is set
        self.prepares = threading.Event()
        self.prepares.set()
        self.asked = self.prepared = self.runs = self.closed = 0

    def prepare(self, sub_graph: piqi_native.SubGraph, inputs: list[str], outputs: list[str]) -> "GpuSubGraph":
        self.asked += 1
        self.prepares.wait(60)
        if self.fails_to_prepare:
            raise RuntimeError("no driver")
        self.prepared += 1
        return GpuSubGraph(self, outputs)


class GpuSubGraph:
    def __init__(self, gpu: Gpu, outputs: list[str]) -> None:
        self.gpu, self.outputs = gpu, outputs

    def run(self, inputs: Arrays) -> Arrays:
        self.gpu.runs += 1
        if self.gpu.fails:
            raise RuntimeError("bus error")
        self.gpu.hangs.wait(60)
        time.sleep(self.gpu.delay_s)
        (x,) = inputs.values()
        return dict.fromkeys(self.outputs, np.maximum(x, 0))

    def close(self) -> None:
        self.gpu.closed += 1


def write(folder: Path, orders: tuple[str, ...] = ORDERS) -> Bundle:
    names = ["x", "a", "b", "y"]
    tensors = {name: Tensor(name, (1, 8, 8, 1)) for name in names}
    operators = tuple(
        Operator("clamp", f"relu{i}", (names[i],), (names[i + 1],), {"clamp_min": 0.0}, i) for i in range(3)
    )
    points = []
    for i, order in enumerate(orders):
        freqs = " ".join({"G": "0-0", "B": "0", "L": "0"}[letter] for letter in order)
        latency_ms, power_mw = 2.0 * 2**i, 4000.0 - 500 * i
        energy_mj = latency_ms * power_mw / 1e3
        points.append(
            OperatingPoint(
                order=order, freqs=freqs, latency_ms=latency_ms, power_mw=power_mw, energy_mj=energy_mj, accuracy=70.0
            )
        )
    return write_bundle(
        folder,
        model=Model("net", tensors, operators, ("x",), ("y",)),
        table=ParetoTable(
            board="rk3399pro",
            model="net",
            layers=TableLayers(count=3, letters="LBG"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=tuple(points),
        ),
        partitions=(),
        input=BundleInput(name="x", shape=(1, 8, 8, 1), colour="grey"),
        outputs=[BundleOutput(name="y", shape=(1, 8, 8, 1))],
    )


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("rk3399pro")


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    gpu = Gpu()
    yield gpu
    gpu.hangs.set()
    gpu.prepares.set()


@pytest.fixture
def net(tmp_path: Path) -> Bundle:
    return write(tmp_path / "net")


@pytest.fixture
def make(net: Bundle, board: Board, gpu: Gpu) -> Iterator[Callable[..., ModelHost]]:
    hosts = []

    def make(**options: Any) -> ModelHost:
        options = {"timeout_s": 60, "probe_s": 0.05, "backends": {"armcl_cl": gpu}} | options
        hosts.append(ModelHost(options.pop("bundle", net), board, **options))
        return hosts[-1]

    yield make
    gpu.hangs.set()
    gpu.prepares.set()
    for host in hosts:
        host.close()


def check(host: ModelHost, point: int | None = None) -> None:
    result = host.run(FRAME)
    np.testing.assert_array_equal(result.outputs["y"], np.maximum(FRAME, 0))
    assert result.latency_us > 0
    if point is not None:
        assert result.point == point


def go(host: ModelHost, point: int) -> None:
    assert host.request(point) and host.wait(60)
    assert host.current == point
    assert host.cpus_alone == ("G" not in host.configuration.order)


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.005)


def test_it_begins_at_the_fallback_and_goes_where_it_is_told(make: Callable[..., ModelHost]) -> None:
    switches: list[tuple[int, int]] = []
    host = make(on_switch=lambda old, new, ms: switches.append((old, new)))
    assert host.current == BBB  # the fastest point of CPUs alone
    check(host, BBB)
    for point in (GGG, LLL, GGB, BBB):
        go(host, point)
        check(host, point)
    until(lambda: len(switches) == 4)  # the last is told after it took effect
    assert switches == [(BBB, GGG), (GGG, LLL), (LLL, GGB), (GGB, BBB)]
    status = json.loads(json.dumps(host.status()))
    assert status["switches"] == 4 and status["frames"] == 5 and status["order"] == "BBB"


def test_a_table_without_a_point_of_cpus_alone_has_a_fallback(
    make: Callable[..., ModelHost], tmp_path: Path, gpu: Gpu
) -> None:
    host = make(bundle=write(tmp_path / "g", ("GGG", "GGB")))
    assert host.current == FALLBACK and host.configuration.order == "BBB" and host.configuration.freqs == "7 7 7"
    check(host, FALLBACK)
    go(host, 0)
    gpu.fails = True
    with pytest.raises(HostFault):
        host.run(FRAME)
    check(host, FALLBACK)


def test_frames_are_answered_all_the_time_while_points_change(make: Callable[..., ModelHost], gpu: Gpu) -> None:
    host = make(max_resident=2)
    seen, stop = set(), threading.Event()
    errors: list[BaseException] = []

    def stream() -> None:
        try:
            while not stop.is_set():
                result = host.run(FRAME)
                np.testing.assert_array_equal(result.outputs["y"], np.maximum(FRAME, 0))
                seen.add(result.point)
        except BaseException as error:
            errors.append(error)

    runner = threading.Thread(target=stream)
    runner.start()
    until(lambda: seen or errors)
    rng = np.random.default_rng(0)
    for point in rng.integers(0, 4, 150):
        assert host.request(int(point))
        time.sleep(0.002)
    go(host, LLL)
    until(lambda: LLL in seen or errors)
    stop.set()
    runner.join(60)
    assert not errors and LLL in seen and len(seen) > 1
    until(lambda: len(host.status()["resident"]) == 2)
    assert host.status()["faults"] == 0


def test_the_last_request_counts(make: Callable[..., ModelHost], gpu: Gpu) -> None:
    host = make()
    gpu.prepares.clear()
    host.request(GGG)
    until(lambda: gpu.asked)
    assert host.request(LLL)
    check(host, BBB)  # the one in use goes on meanwhile
    gpu.prepares.set()
    until(lambda: host.current == LLL)
    assert host.status()["switches"] == 1


def test_residents_are_bounded_in_number_and_bytes(
    make: Callable[..., ModelHost], caplog: pytest.LogCaptureFixture
) -> None:
    host = make(max_resident=3)
    for point in (GGG, LLL, GGB):
        go(host, point)
    until(lambda: len(host.status()["resident"]) == 3)
    assert host.status()["resident"] == [BBB, LLL, GGB]  # GGG was used longest ago; the fallback stays
    with caplog.at_level(logging.WARNING):
        small = make(max_bytes=1)
        go(small, LLL)
        go(small, GGG)
        until(lambda: small.status()["resident"] == [BBB, GGG])
        check(small, GGG)
    # Python's part of the memory is not counted: that of the point in use is nothing here.
    assert small.status()["memory_bytes"] < 1 << 20


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_processor_that_fails_costs_one_frame_and_comes_back(
    make: Callable[..., ModelHost], gpu: Gpu, how: str
) -> None:
    faults: list[HostFault] = []
    host = make(on_fault=faults.append)
    go(host, LLL)
    go(host, GGG)
    check(host, GGG)
    if how == "fails":
        gpu.fails = True
    else:  # one executor alone is impatient, and it never ends a frame
        slot = host._switcher.slot
        slot.executor.close()
        slot.executor = host.engine.executor("GGG", slot.configuration.freqs, timeout_s=1, recorded_frames=0)
        gpu.hangs.clear()
    with pytest.raises(HostFault, match=r"net: point 0 \(GGG\): ") as caught:
        host.run(FRAME)
    assert caught.value.code == ("backend_failed" if how == "fails" else "backend_hung")
    assert caught.value.processors == "G" and caught.value.point == GGG
    assert faults == [caught.value]
    runs = gpu.runs
    check(host, LLL)  # at once: the one that was used before
    assert host.excluded.tolist() == [True, True, False, False]
    assert not host.request(GGB)
    go(host, BBB)
    until(lambda: gpu.runs > runs + (how == "fails"))  # probes fail, or hang, and disturb nobody
    check(host, BBB)
    assert host.excluded[GGG]
    gpu.fails = False
    gpu.hangs.set()
    until(lambda: not host.excluded.any())
    go(host, GGG)
    check(host, GGG)


def test_a_point_that_cannot_be_prepared_is_left_alone(make: Callable[..., ModelHost], gpu: Gpu) -> None:
    faults: list[HostFault] = []
    host = make(on_fault=faults.append)
    gpu.fails_to_prepare = True
    assert host.request(GGG) and host.wait(60)
    until(lambda: faults)
    assert host.current == BBB and host.excluded.tolist() == [True, True, False, False]
    assert "no driver" in str(faults[0]) and faults[0].code == "backend_failed"
    gpu.fails_to_prepare = False
    until(lambda: not host.excluded.any())


def test_a_preparation_that_hangs_is_given_up(make: Callable[..., ModelHost], gpu: Gpu) -> None:
    faults: list[HostFault] = []
    host = make(on_fault=faults.append)
    patient = host._switcher._options
    host._switcher._options = replace(patient, timeout_s=2)
    gpu.prepares.clear()
    host.request(GGG)
    until(lambda: faults)
    host._switcher._options = patient
    assert faults[0].code == "backend_hung" and "not prepared within 2 s" in str(faults[0])
    go(host, LLL)
    check(host, LLL)
    gpu.prepares.set()
    until(lambda: not host.excluded.any())
    until(lambda: gpu.prepared > 0)


def test_a_file_that_is_missing_condemns_the_point_not_the_processor(
    make: Callable[..., ModelHost], net: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make()
    make_executor = host.engine.executor

    def executor(order: str, *arguments: Any, **options: Any) -> Any:
        if order == "GGG":
            raise piqi_native.PartitionError("0-2.piqi: is missing")
        return make_executor(order, *arguments, **options)

    monkeypatch.setattr(host.engine, "executor", executor)
    host.request(GGG)
    assert host.wait(60)
    assert host.excluded.tolist() == [True, False, False, False]
    go(host, GGB)


def test_a_slow_processor_is_seen_at_all_of_its_points(
    make: Callable[..., ModelHost], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piqi_runtime.host.switcher.SLOW_PAUSE_S", 0.3)
    host = make()
    np.testing.assert_array_equal(host.latency_factor, 1)
    go(host, GGG)
    gpu.delay_s = 0.012  # at least 6 times what the table says
    for _ in range(60):
        host.run(FRAME)
    factor = host.latency_factor
    assert factor.dtype == np.float32
    assert factor[GGG] > 5
    assert 1.5 < factor[GGB] < factor[GGG]  # two of its three layers are there
    assert factor[LLL] == 1
    go(host, BBB)
    gpu.delay_s = 0.0

    def measured_again() -> bool:  # in the background, while frames run
        check(host, BBB)
        return bool(host.latency_factor[GGG] < 1.3)

    until(measured_again)


def test_arguments_are_checked(make: Callable[..., ModelHost], net: Bundle, board: Board) -> None:
    host = make()
    for point in (-1, 4):
        with pytest.raises(HostError, match=f"point: expected 0 to 3, got {point}"):
            host.request(point)
    with pytest.raises(HostError, match=r"frame: expected float32 \[1, 8, 8, 1\], got float64 \[8, 8, 1\]"):
        host.run(np.zeros((8, 8, 1)))
    for name, value in {"max_resident": 1, "max_bytes": 0, "timeout_s": 0, "probe_s": float("nan")}.items():
        with pytest.raises(HostError, match=f"{name}: expected .*got {value}"):
            make(**{name: value})


def test_a_closed_host_answers_so(make: Callable[..., ModelHost]) -> None:
    before = set(threading.enumerate())
    host = make()
    threads = set(threading.enumerate()) - before
    assert threads
    host.close()
    host.close()
    until(lambda: not any(thread.is_alive() for thread in threads))
    with pytest.raises(HostFault, match="closed") as caught:
        host.run(FRAME)
    assert caught.value.code == "unavailable"
    assert not host.request(GGG)


def test_the_fixture_bundle_runs(bundle: Path, board: Board) -> None:
    with ModelHost(load_bundle(bundle, board), board, timeout_s=60) as host:
        result = host.run(np.full((1, 2, 2, 1), -3, np.float32))
    assert result.point == 0 and not result.outputs["y"].any()


def test_power_is_learnt_while_it_is_busy(make: Callable[..., ModelHost], board: Board) -> None:
    host = make()
    host.observe_power(9000)  # idle: says nothing of the point
    assert (host.power_factor == 1).all()

    def learnt() -> bool:
        host._count(host._switcher.slot, 100e6)  # as busy as can be
        host.observe_power(6000)  # twice what the table says of BBB
        return abs(host.power_factor[BBB] - 2) < 0.1

    until(learnt)
    assert host.power_factor[GGG] == 1
