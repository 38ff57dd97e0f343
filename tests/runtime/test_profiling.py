"""`piqictl profile` and `piqictl measure` for real: on this machine's CPUs, its GPU and NPU emulated."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S, wait_for
from meter_simulator import Trace, simulator
from rknn_helpers import emulator, write_network

from piqi_planner.commands.kit import kit_ranges
from piqi_planner.cost import CostParameters, make_cost
from piqi_planner.demo import MODEL
from piqi_planner.estimate import read_measured_rows
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_planner.profile import load_profile, parse_configurations
from piqi_planner.quantise import calibrate, quantise
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import BundleError, BundleInput, BundleOutput, add_files, load_bundle, write_bundle, write_kit
from piqi_runtime.ctl.cli import main
from piqi_runtime.measured_points import read_measured
from piqi_runtime.profile_tables import LAYERS, PHASES, TABLES, TRANSFERS, ProfileError, read_facts, read_table
from piqi_runtime.profiling import Conditions, profile_board
from piqi_runtime.profiling.store import Store
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

LAYER_COUNT = 4
QUICK = ["--seconds", "0.02", "--repeats", "2"]
BOARD = """
name = "bench"
[[processors]]
letter = "L"
name = "a CPU"
kind = "cpu"
backend = "xnnpack"
cpus = [0]
[[processors]]
letter = "B"
name = "another"
kind = "cpu"
backend = "xnnpack"
cpus = [{last}]
[[processors]]
letter = "G"
name = "emulated GPU"
kind = "gpu"
backend = "xnnpack"
host = "B"
[[processors]]
letter = "N"
name = "NPU"
kind = "npu"
backend = "{npu}"
host = "B"
weights = "per_channel"
{target}
"""


@dataclass
class Bench:
    board: Path
    kit: Path
    quantised: Any

    def profile(self, out: Path, *more: object) -> int:
        return main(list(map(str, ["profile", self.kit, "--board", self.board, "--out", out, *QUICK, *more])))


def write_board(folder: Path, npu: str = "xnnpack") -> Path:
    target = "" if npu == "xnnpack" else 'rknn_target = "rk3399pro"'
    path = folder / f"bench-{npu}.toml"
    path.write_text(BOARD.format(last=max(os.sched_getaffinity(0)), npu=npu, target=target))
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    model = assign_layers(import_model(str(MODEL)), parse_layers("conv"))
    model = model.with_layers([min(op.layer // 3, LAYER_COUNT - 1) for op in model.operators])
    shape = model.tensors[model.inputs[0]].shape
    frame = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    quantised = quantise(model, calibrate(model, [frame]))
    board = write_board(folder)
    write_kit(
        folder / "kit",
        name="digits",
        board=load_board(board),
        model=quantised.float_model,
        partitions=[quantised.partition(*span) for span in kit_ranges(LAYER_COUNT)],
        input=BundleInput(name=model.inputs[0], shape=shape, colour="grey"),
        outputs=[BundleOutput(name=name, shape=model.tensors[name].shape) for name in model.outputs],
    )
    return Bench(board, folder / "kit", quantised)


@pytest.fixture(scope="module")
def bundle(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three operating points; the partitions of one of them, and of every single layer."""
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    kit = load_bundle(bench.kit, kits=True)
    points = [
        OperatingPoint(order=order, freqs=freqs, latency_ms=ms, power_mw=mw, energy_mj=ms * mw / 1e3, accuracy=90.0)
        for order, freqs, ms, mw in (
            ("GNNB", "0-0 0 0 0", 0.05, 5000.0),
            ("BBBB", "0 0 0 0", 0.1, 4000.0),
            ("LLLL", "0 0 0 0", 0.2, 3000.0),
        )
    ]
    write_bundle(
        folder,
        model=kit.model,
        table=ParetoTable(
            board="bench",
            model="digits",
            layers=TableLayers(count=LAYER_COUNT, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top1", float32=90.0, int8=90.0),
            points=tuple(points),
        ),
        partitions=[bench.quantised.partition(*span) for span in ((0, 0), (1, 1), (2, 2), (3, 3), (1, 2))],
        input=kit.manifest.input,
        outputs=kit.manifest.outputs,
        board=load_board(bench.board),
    )
    return folder


def blocks(out: Path) -> list[tuple[Any, ...]]:
    if not (out / "measurements.sqlite").exists():
        return []
    base = sqlite3.connect(f"file:{out / 'measurements.sqlite'}?mode=ro", uri=True)
    try:
        return base.execute("SELECT configuration, round, times FROM blocks ORDER BY rowid").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        base.close()


def test_a_profile_of_this_machine(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "profile"
    began_s = time.monotonic()
    assert bench.profile(out) == 0
    took_ms = 1e3 * (time.monotonic() - began_s)
    printed = capsys.readouterr().out
    assert "processors  LBGN" in printed and "s of frames" in printed and "power       none" in printed
    profile = load_profile(out, load_board(bench.board)).model("digits")
    assert profile.letters == "LBGN" and profile.layer_count == LAYER_COUNT
    assert (profile.run_ms > 0).all() and (profile.input_ms > 0).all()
    assert profile.constants.npu_run_shrink == read_facts(out).npu_run_shrink["digits"]
    configs = parse_configurations(profile, ["LLLL", "LNNB"], ["0 0 0 0", "0 0 0 0"])
    costs = make_cost("calibrated", profile, CostParameters()).evaluate(configs)
    assert (costs.latency_ms > 0).all()
    frames = re.search(r"frames +(\d+),", printed)
    assert frames is not None and costs.latency_ms.max() < 10 * took_ms / int(frames[1])  # of all, on average
    before = blocks(out)
    assert bench.profile(out) == 0  # nothing is left to do
    assert blocks(out) == before
    assert bench.profile(out, "--repeats", 3) == 0  # a round more
    assert len(blocks(out)) == len(before) * 3 // 2


def test_a_network_of_one_layer(bench: Bench, tmp_path: Path) -> None:
    kit, board = load_bundle(bench.kit, kits=True), load_board(bench.board)
    model = kit.model.with_layers([0] * len(kit.model.operators))
    frame = np.zeros(kit.manifest.input.shape, np.float32)
    partition = quantise(model, calibrate(model, [frame])).partition(0, 0)
    ends = {"input": kit.manifest.input, "outputs": kit.manifest.outputs}
    one = write_kit(tmp_path / "kit", name="one", board=board, model=model, partitions=[partition], **ends)
    conditions = Conditions(seconds=0.02, repeats=1)
    profiled = profile_board(one, board, tmp_path / "profile", conditions, "BN")
    assert profiled.left_out == {} and profiled.npu_run_shrink is None
    rows = read_table(LAYERS, tmp_path / "profile" / LAYERS.file_name)
    assert {row.values[5] for row in rows} == set(PHASES)
    assert read_measured_rows(tmp_path / "profile", board).rows[TRANSFERS.name] == []  # what the planner estimates
    with pytest.raises(ProfileError, match=r"transfers.csv: No such file"):
        load_profile(tmp_path / "profile", board)


def test_killed_and_started_again_it_goes_on(bench: Bench, tmp_path: Path) -> None:
    out, script = tmp_path / "profile", tmp_path / "stops.py"
    script.write_text(
        "import sys, time\n"
        "from piqi_runtime.ctl import cli\n"
        "from piqi_runtime.profiling import store\n"
        "add, left = store.Store.add, [0] * 5\n"
        "store.Store.add = lambda *block: left.pop() or add(*block) if left else time.sleep(3600)\n"
        "sys.exit(cli.main())\n"
    )
    arguments = ["profile", str(bench.kit), "--board", str(bench.board), "--out", str(out)]
    arguments += ["--processors", "LN", "--seconds", "0.05", "--repeats", "2"]
    process = subprocess.Popen([sys.executable, str(script), *arguments], stderr=subprocess.DEVNULL)
    assert wait_for(lambda: len(blocks(out)) == 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = blocks(out)
    assert not any((out / table.file_name).exists() for table in TABLES)
    command = [sys.executable, "-m", "piqi_runtime.ctl", *arguments]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert blocks(out)[: len(kept)] == kept
    load_profile(out, load_board(bench.board))


@pytest.mark.usefixtures("patient")
def test_a_meter_on_a_serial_port(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("serial")
    out = tmp_path / "profile"
    with simulator(Trace(idle_mw=4321.0)) as meter:
        assert bench.profile(out, "--meter", f"serial:{meter.port}", "--processors", "LN", "--repeats", 1) == 0
    profile = load_profile(out, load_board(bench.board))
    assert profile.idle_power_mw == pytest.approx(4321, rel=1e-3)
    model = profile.model("digits")
    assert model.letters == "LBN"  # the NPU's host was measured too
    assert model.run_mw == pytest.approx(4321, rel=1e-2) and model.holes == ()


@pytest.mark.usefixtures("patient")
def test_a_meter_that_is_unplugged(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("serial")
    out = tmp_path / "profile"
    options = ["--processors", "LB", "--repeats", 1, "--seconds", 0.4]
    add = Store.add
    with simulator(Trace()) as meter, monkeypatch.context() as patch:

        def add_and_unplug(store: Store, *block: Any) -> None:
            add(store, *block)
            if len(blocks(out)) == 2:
                meter.unplug()

        patch.setattr(Store, "add", add_and_unplug)
        assert bench.profile(out, *options, "--meter", f"serial:{meter.port}") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("piqictl:")]
    assert len(told) == 1 and "has gone (unplugged?)" in told[0]
    kept = blocks(out)
    assert len(kept) == 2 and not (out / "layers.csv").exists()
    with simulator(Trace()) as meter:
        assert bench.profile(out, *options, "--meter", f"serial:{meter.port}") == 0
    assert blocks(out)[: len(kept)] == kept
    assert bench.profile(out, *options) == 1  # not to be mixed with blocks without powers
    assert "meter: was begun with true, got false" in capsys.readouterr().err


def vendor_kit(bench: Bench, folder: Path, board: Path) -> Path:
    kit = load_bundle(bench.kit, kits=True)
    partitions = [kit.partition(*span) for span in kit.ranges]
    write_kit(
        folder / "kit",
        name="digits",
        board=load_board(board),
        model=kit.model,
        partitions=partitions,
        input=kit.manifest.input,
        outputs=kit.manifest.outputs,
    )
    files = {
        f"vendor/rk3399pro/{p.first_layer}-{p.last_layer}.rknn": write_network(
            p, folder / f"{p.first_layer}-{p.last_layer}.rknn", "rk3399pro"
        )
        for p in partitions
    }
    vendor = {
        (p.first_layer, p.last_layer): {"rk3399pro": f"vendor/rk3399pro/{p.first_layer}-{p.last_layer}.rknn"}
        for p in partitions
    }
    add_files(folder / "kit", files, vendor)
    return folder / "kit"


@pytest.mark.parametrize(
    ("calls", "told"), [("rknn_run=hang", "did not finish"), ("rknn_run=-1", "rknn_run"), (None, "not available here")]
)
def test_an_npu_that_hangs_fails_or_is_missing(bench: Bench, tmp_path: Path, calls: str | None, told: str) -> None:
    board = write_board(tmp_path, "rknn1")
    kit = vendor_kit(bench, tmp_path, board)
    command = [sys.executable, "-m", "piqi_runtime.ctl", "profile", str(kit), "--board", str(board)]
    timeout_s = 6 if calls and "hang" in calls else PATIENCE_S
    command += ["--out", str(tmp_path / "profile"), "--timeout", str(timeout_s), *QUICK]
    environment = {**os.environ, "PIQI_RKNN1_LIBRARY": str(tmp_path / "none.so")}
    if calls is not None:
        environment |= {"PIQI_RKNN1_LIBRARY": str(emulator(1)), "PIQI_RKNN_EMULATOR": calls}
    result = subprocess.run(command, text=True, capture_output=True, env=environment, timeout=2 * PATIENCE_S)
    assert result.returncode == 3, result.stderr
    assert "piqictl: N is left out: " in result.stderr and told in result.stderr
    profile = load_profile(tmp_path / "profile", load_board(board))
    assert profile.model("digits").letters == "LBG"
    if calls is not None:  # repaired: only the NPU is still to be measured
        del environment["PIQI_RKNN_EMULATOR"]
        result = subprocess.run(command, text=True, capture_output=True, env=environment, timeout=2 * PATIENCE_S)
        assert result.returncode == 0, result.stderr
        assert load_profile(tmp_path / "profile", load_board(board)).model("digits").letters == "LBGN"


def test_a_bundle_will_do_where_it_has_the_partitions(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    arguments = ["profile", str(bundle), "--board", str(bench.board), "--out", str(tmp_path / "profile"), *QUICK]
    assert main([*arguments, "--repeats", "1"]) == 0
    assert load_profile(tmp_path / "profile", load_board(bench.board)).model("digits").letters == "LBGN"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--processors", "LX"], "board bench has no processor 'X'"),
        (["--freqs", "L=1"], "--freqs: expected indices of LBGN, of L from 0 to 0, got L=1"),
        (["--freqs", "L"], "--freqs: expected a letter and indices (L=0,5), got 'L'"),
        (["--freqs", "N=0"], "--freqs: N has its host's frequencies"),
        (["--repeats", "0"], "--repeats: expected 1 to 1000, got 0"),
        (["--meter", "voltmeter"], "meter: expected serial:PORT"),
        (["--marker", "flag"], "marker: expected"),
        (["--board", "rk3588"], "the bundle is for 'bench', the board is 'rk3588'"),
    ],
)
def test_wrong_options(
    bench: Bench, tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.profile(tmp_path / "profile", *options) == 1
    assert told in capsys.readouterr().err


def test_frequencies_that_cannot_be_set_are_not_measured(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = bench.board.read_text()
    settable = text.replace("cpus = [0]\n", 'cpus = [0]\nfreqs_khz = [100, 200]\ndomains = [["sys/none"]]\n', 1)
    board = tmp_path / "bench.toml"
    board.write_text(settable)
    assert bench.profile(tmp_path / "profile", "--board", board, "--root", tmp_path, "--repeats", 1) == 3
    assert "L is left out: its frequency cannot be set: L: " in capsys.readouterr().err
    assert load_profile(tmp_path / "profile", load_board(board)).model("digits").letters == "BGN"


def test_points_are_measured_whole(
    bench: Bench, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "measured.csv"
    arguments = ["measure", str(bundle), "--board", str(bench.board), "--out", str(out), "--frames", "30"]
    began_s = time.monotonic()
    assert main([*arguments, "--points", "2,0"]) == 0
    took_ms = 1e3 * (time.monotonic() - began_s)
    assert "GNNB" in capsys.readouterr().out
    points = load_bundle(bundle).table.points
    measured = read_measured(out)
    assert [(row.order, row.freqs) for row in measured] == [(points[n].order, points[n].freqs) for n in (2, 0)]
    for row in measured:
        assert row.model == "digits" and 15 <= (row.frames or 0) <= 30 and row.power_mw is None
        assert 0 < row.latency_ms < took_ms / (row.frames or 0) and row.latency_std_ms is not None
    began = sqlite3.connect(out.with_suffix(".sqlite"))
    kept = began.execute("SELECT rowid, configuration, times FROM blocks").fetchall()
    assert main(arguments) == 0  # the third point is added
    assert len(read_measured(out)) == 3
    assert began.execute("SELECT rowid, configuration, times FROM blocks").fetchall()[: len(kept)] == kept
    began.close()


def test_points_of_a_table_file_run_with_a_kit(
    bench: Bench, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = bundle / "table.json", tmp_path / "measured.csv"
    arguments = ["measure", str(table), "--board", str(bench.board), "--out", str(out), "--frames", "10"]
    assert main(arguments) == 1
    assert "--kit: expected the model and partitions to run" in capsys.readouterr().err
    assert main([*arguments, "--kit", str(bench.kit), "--points", "0,1,2"]) == 0
    assert len(read_measured(out)) == 3
    assert main([*arguments, "--kit", str(bench.kit), "--points", "3"]) == 1
    assert "--points: expected 'all' or numbers from 0 to 2" in capsys.readouterr().err


def test_a_kit_cannot_be_run(bench: Bench) -> None:
    with pytest.raises(BundleError, match="is a kit for profiling, without a table"):
        load_bundle(bench.kit)
