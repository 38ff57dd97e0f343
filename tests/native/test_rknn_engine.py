"""Rockchip's NPUs from the runtime: found by the engine, from a bundle, and through the package `rknnlite`."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rknn_helpers import SOURCES, TARGETS, configure, counters, emulator, write_network

import piqi_native as pn
from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_runtime.backends import RknnLite, available_backends
from piqi_runtime.backends.rknnlite import RknnLiteError
from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import BundleInput, BundleOutput, add_files, write_bundle
from piqi_runtime.engine import Engine
from piqi_runtime.host import HostFault, ModelHost
from piqi_runtime.partition import Partition
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

BOARDS = {1: "rk3399pro", 2: "rk3588"}
ORDER = "LLNNNLLL"


@pytest.fixture(autouse=True)
def forget_the_stand_in() -> Iterator[None]:
    """The stand-in for rknnlite must not be found by other tests."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "rknnlite"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def quantised(networks: SimpleNamespace) -> QuantisedModel:
    model = networks.branched()
    return quantise(model, calibrate(model, [networks.frame(model)]), equalise=False)


def prepared(quantised: QuantisedModel, folder: Path, generation: int) -> Partition:
    partition = quantised.partition(2, 4)
    target = TARGETS[generation]
    return replace(partition, vendor_files={target: write_network(partition, folder / "part.rknn", target)})


def small(board: Board) -> Board:
    """On the CPUs of any machine."""
    processors = tuple(p.model_copy(update={"cpus": (0,), "threads": 1}) for p in board.processors)
    return board.model_copy(update={"processors": processors})


@pytest.mark.parametrize("generation", BOARDS)
def test_an_engine_uses_the_library_that_is_there(
    networks: SimpleNamespace,
    quantised: QuantisedModel,
    generation: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, board = quantised.float_model, small(load_board(BOARDS[generation]))
    partition = prepared(quantised, tmp_path, generation)
    frame = networks.frame(model)
    with Engine(model, board) as engine:
        emulated = engine.executor(ORDER, partitions=[partition]).run(frame)
    monkeypatch.setenv(f"PIQI_RKNN{generation}_LIBRARY", str(emulator(generation)))
    runs = counters(generation)["runs"]
    caplog.clear()
    with Engine(model, board) as engine:
        executor = engine.executor(ORDER, partitions=[partition])
        assert networks.same(executor.run(frame), emulated)
        assert counters(generation)["runs"] == runs + 1
        assert f"rknn{generation} not available" not in caplog.text
        with pytest.raises(pn.PartitionError, match=r"no file was prepared.*planner prepare"):
            engine.executor("LLLLLNLL", partitions=[quantised.partition(5, 5)])
        executor.close()


def test_the_cores_of_a_board_file(quantised: QuantisedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIQI_RKNN2_LIBRARY", str(emulator(2)))
    board, partition = small(load_board("rk3588")), prepared(quantised, tmp_path, 2)
    for mask, error in ((3, None), (5, "rknn_set_core_mask: RKNN_ERR_PARAM_INVALID")):
        npu = board.processor("N").model_copy(update={"core_mask": mask})
        on = board.model_copy(update={"processors": tuple(npu if p.letter == "N" else p for p in board.processors)})
        with Engine(quantised.float_model, on) as engine:
            if error is None:
                engine.executor(ORDER, partitions=[partition]).close()
                continue
            with pytest.raises(pn.BackendError, match=error):
                engine.executor(ORDER, partitions=[partition])


def test_a_library_that_cannot_be_used_is_said_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PIQI_RKNN2_LIBRARY", str(emulator(1)))
    with caplog.at_level(logging.WARNING):
        assert available_backends(load_board("rk3588")) == {}
    assert "librknn_api.so: has no 'rknn_set_io_mem'" in caplog.text


def test_a_machine_without_libraries_says_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert available_backends(load_board("rk3588")) == {}
        assert available_backends(load_board("host")) == {}
    assert caplog.text == ""


def test_a_host_leaves_an_npu_that_hangs(
    networks: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the bundle's file to the daemon's host: the NPU runs, hangs, costs one frame, and others take over."""
    net = networks.Network()
    x = net.input("x", 1, 8, 8, 3)
    model = net.model(net.conv("c2", net.conv("c1", net.conv("c0", x, 4, 0), 4, 1), 4, 2))
    board = small(load_board("rk3588"))
    frame = networks.frame(model)
    quantised = quantise(model, calibrate(model, [frame]), equalise=False)
    points = tuple(
        OperatingPoint(
            order=order,
            freqs="0 0 0",
            latency_ms=latency,
            power_mw=power,
            energy_mj=latency * power / 1e3,
            accuracy=70.0,
        )
        for order, latency, power in (("LNN", 1.0, 4000.0), ("LLL", 5.0, 3000.0))
    )
    layers = TableLayers(count=3, letters=board.letters)
    metric = AccuracyMetric(name="top-1", float32=70.0, int8=60.0)
    write_bundle(
        tmp_path / "net",
        model=model,
        table=ParetoTable(board=board.name, model="net", layers=layers, accuracy_metric=metric, points=points),
        partitions=quantised.partition,
        input=BundleInput(name="x", shape=(1, 8, 8, 3), colour="rgb"),
        outputs=[BundleOutput(name="c2", shape=(1, 8, 8, 4))],
        board=board,
    )
    file = write_network(quantised.partition(1, 2), tmp_path / "made", TARGETS[2])
    path = "vendor/rk3588/1-2.rknn"
    bundle = add_files(tmp_path / "net", {path: file}, {(1, 2): {"rk3588": path}})
    monkeypatch.setenv("PIQI_RKNN2_LIBRARY", str(emulator(2)))
    runs = counters(2)["runs"]
    host = ModelHost(bundle, board, timeout_s=3.0, root=None)
    try:
        assert host.request(0) and host.wait(60)
        assert host.run(frame["x"]).point == 0
        assert counters(2)["runs"] > runs
        configure(2, "rknn_run=hang")
        with pytest.raises(HostFault, match="layers 1 to 2 on N did not finish"):
            host.run(frame["x"])
        assert host.run(frame["x"]).point != 0
        assert host.excluded[0]
    finally:
        configure(2)
        host.close()


class TestRknnLite:
    """Over the stand-in for Rockchip's package."""

    @pytest.fixture
    def engine(self, quantised: QuantisedModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
        monkeypatch.syspath_prepend(str(SOURCES))
        monkeypatch.setenv("PIQI_RKNN2_LIBRARY", str(emulator(2)))
        return Engine(quantised.float_model, small(load_board("rk3588")), backends={"rknn2": RknnLite(core_mask=1)})

    def test_computes_what_the_emulated_npu_does(
        self, engine: Engine, networks: SimpleNamespace, quantised: QuantisedModel, tmp_path: Path
    ) -> None:
        model = quantised.float_model
        partition = prepared(quantised, tmp_path, 2)
        board = small(load_board("rk3588"))
        emulation = tuple(p.model_copy(update={"backend": "xnnpack"}) for p in board.processors)
        with Engine(model, board.model_copy(update={"processors": emulation})) as other:
            frame = networks.frame(model)
            runs = counters(2)["runs"]
            results = engine.executor(ORDER, partitions=[partition]).run(frame)
            assert counters(2)["runs"] == runs + 1
            for name, expected in other.executor(ORDER, partitions=[partition]).run(frame).items():
                # It rounds ties of the input another way.
                np.testing.assert_allclose(results[name], expected, atol=0.02 * np.ptp(expected))

    def test_what_it_swallows_is_an_error(
        self, engine: Engine, networks: SimpleNamespace, quantised: QuantisedModel, tmp_path: Path
    ) -> None:
        partition = prepared(quantised, tmp_path, 2)
        frame = networks.frame(quantised.float_model)
        configure(2, "rknn_init=-6")
        with pytest.raises(pn.BackendError, match=r"part.rknn: init_runtime: failed with -1: is the file"):
            engine.executor(ORDER, partitions=[partition])
        configure(2)
        executor = engine.executor(ORDER, partitions=[partition])
        configure(2, "rknn_run=-1")
        with pytest.raises(pn.BackendError, match=r"part.rknn: inference: failed .*returned None"):
            executor.run(frame)
        configure(2)
        executor.run(frame)
        missing = replace(partition, model=replace(partition.model, name="other"), vendor_files={"rk3588": tmp_path})
        missing.__dict__["checksum"] = "other"
        with pytest.raises(pn.BackendError, match="load_rknn: failed with -1"):
            engine.executor(ORDER, partitions=[missing])

    def test_no_file(self, engine: Engine, quantised: QuantisedModel) -> None:
        with pytest.raises(pn.BackendError, match="no file was prepared"):
            engine.executor(ORDER, partitions=[quantised.partition(2, 4)])

    def test_no_package(self, quantised: QuantisedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "rknnlite.api", None)
        native = prepared(quantised, tmp_path, 2).to_native("rk3588")
        with pytest.raises(RknnLiteError, match="rknnlite: "):
            RknnLite().prepare(SimpleNamespace(partition=native), ["c1"], ["split_a"])  # type: ignore[arg-type]

    def test_takes_the_place_of_a_library_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(SOURCES))
        (backend,) = available_backends(load_board("rk3588")).values()
        assert isinstance(backend, RknnLite)


class TestLibraries:
    """What may be found in the library's place."""

    def test_missing(self) -> None:
        for make, name in ((pn.rknn1_backend, "librknn_api.so"), (pn.rknn2_backend, "librknnrt.so")):
            with pytest.raises(pn.BackendError, match=f"{name}: cannot open shared object file"):
                make(f"/nowhere/{name}")

    def test_not_a_library(self, tmp_path: Path) -> None:
        (tmp_path / "librknnrt.so").write_text("text")
        with pytest.raises(pn.BackendError, match=r"rknn2: .*librknnrt.so: (file too short|invalid ELF header)"):
            pn.rknn2_backend(str(tmp_path / "librknnrt.so"))

    def test_of_the_other_generation(self) -> None:
        with pytest.raises(pn.BackendError, match=r"librknnrt.so: has 'rknn_set_io_mem'.*backend rknn2"):
            pn.rknn1_backend(str(emulator(2)))
        with pytest.raises(pn.BackendError, match=r"librknn_api.so: has no 'rknn_set_io_mem'.*backend rknn1"):
            pn.rknn2_backend(str(emulator(1)))

    @pytest.mark.parametrize("generation", BOARDS)
    def test_without_a_function(self, generation: int, tmp_path: Path) -> None:
        functions = ["rknn_init", "rknn_destroy", "rknn_query"]
        functions += ["rknn_create_mem", "rknn_set_io_mem"] if generation == 2 else []
        source = tmp_path / "half.c"
        source.write_text("".join(f"int {name}(void) {{ return -1; }}\n" for name in functions))
        library = tmp_path / "half.so"
        subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        make = pn.rknn1_backend if generation == 1 else pn.rknn2_backend
        with pytest.raises(pn.BackendError, match=r"half.so: has no 'rknn_inputs_set': is it the library of this"):
            make(str(library))
