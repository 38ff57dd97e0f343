"""From a model to a measured table by commands, as on hardware: kit, profile, build, daemon, measure, adjust."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from piqi_planner.demo.digits import load, write_images  # noqa: E402
from piqi_planner.profile import load_profile  # noqa: E402
from piqi_runtime.boards import load_board  # noqa: E402
from piqi_runtime.bundle import load_bundle  # noqa: E402
from piqi_runtime.client import Client  # noqa: E402
from piqi_runtime.measured_points import read_measured  # noqa: E402
from simulated_board import kit, scenario  # noqa: E402
from simulated_board.build import environment  # noqa: E402
from simulated_board.compare import compare, to_text  # noqa: E402
from simulated_board.process import RunningBoard  # noqa: E402
from simulated_board.undisturbed import undisturbed  # noqa: E402

QUIET = True
POINTS = 16
#: Of a phase's values, the median and the mean of their relative errors are at most so much.
MEDIAN, MEAN = 0.03, 0.03
TIMEOUT_S = 600

# What one test makes the next one uses, as on a board: they are run together.
pytestmark = [pytest.mark.timeout(1800)]


class Bench:
    """A folder with a board that runs; commands are run there."""

    def __init__(self, folder: Path, running: RunningBoard) -> None:
        self.folder, self.running = folder, running
        self.board = folder / "board.toml"
        self.conditions = ["--board", self.board, "--root", running.root]
        self.conditions += ["--meter", running.meter, "--marker", running.marker]
        self.model = [scenario.NETWORK, "--name", scenario.NAME, "--layers", scenario.CUTS, "--fit", "exact"]
        self.model += ["--board", self.board, "--calibrate", folder / "train"]

    def start(self, module: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=self.folder,
            env=self.running.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, module: str, *arguments: object, code: int = 0) -> str:
        """What it prints; of one that is to fail, its errors."""
        process = self.start(module, *arguments)
        out, error = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, f"exit code {process.returncode}:\n{out}\n{error}"
        return error if code else out

    def planner(self, *arguments: object) -> str:
        return self.run("piqi_planner.cli", *arguments)

    def piqictl(self, *arguments: object, code: int = 0) -> str:
        return self.run("piqi_runtime.ctl", *arguments, code=code)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    environment(Path())
    folder = tmp_path_factory.mktemp("simulated")
    frames, labels, test_frames, test_labels = load()
    write_images(folder / "train", frames, labels, count=20)
    write_images(folder / "test", test_frames[:48], test_labels[:48])
    board = scenario.write_board(folder / "board.toml")
    scenario.driving_profile(scenario.network(), load_board(board)).save(folder / "driving")
    with RunningBoard(folder / "root", folder / "driving", scenario.NAME, board) as running:
        bench = Bench(folder, running)
        bench.planner("kit", *bench.model, "--out", folder / "kit")
        kit.prepare(folder / "kit", folder)
        yield bench


def profile(bench: Bench, out: Path, *more: object) -> list[object]:
    """The command: one short round."""
    return ["profile", bench.folder / "kit", *bench.conditions, "--out", out, "--repeats", 1, "--seconds", 0.4, *more]


def blocks(out: Path) -> int:
    """How many configurations have been measured."""
    try:
        with sqlite3.connect(f"file:{out / 'measurements.sqlite'}?mode=ro", uri=True) as base:
            return int(base.execute("SELECT COUNT(*) FROM blocks").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for_blocks(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline_s = time.monotonic() + 300
    while blocks(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_profile_is_recovered_through_a_kill_and_an_unplugged_meter(bench: Bench) -> None:
    out = bench.folder / "profile"
    # More than are wanted in the end: none is done before it is ended, however late that is.
    process = bench.start("piqi_runtime.ctl", *profile(bench, out), "--repeats", 1000)
    wait_for_blocks(process, out, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(out.glob("*.csv"))
    kept = blocks(out)

    process = bench.start("piqi_runtime.ctl", *profile(bench, out), "--repeats", 1000)
    wait_for_blocks(process, out, kept + 8)
    bench.running.control(meter=False)
    _, error = process.communicate(timeout=TIMEOUT_S)
    bench.running.control(meter=True)
    assert process.returncode == 1
    assert "unplugged" in error.splitlines()[-1] and "Traceback" not in error
    assert not list(out.glob("*.csv"))
    kept = blocks(out)

    board = load_board(bench.board)
    driving = load_profile(bench.folder / "driving", board).model(scenario.NAME)
    with undisturbed():
        for repeats in (1, 3):  # another round or two where something else shows
            text = bench.piqictl(*profile(bench, out), "--repeats", repeats)
            recovered = load_profile(out, board).model(scenario.NAME)
            differences = compare(driving, recovered)
            print(to_text(differences), text, sep="\n")
            near = [d.median <= MEDIAN and d.mean <= MEAN for name, d in differences.items() if name != "delays"]
            if all(near):
                break
        assert all(near), to_text(differences)
        for letter in "LBG":
            assert recovered.delay_ms[letter] == pytest.approx(driving.delay_ms[letter], rel=0.05, abs=0.02)
        assert recovered.constants.npu_run_shrink == pytest.approx(scenario.NPU_RUN_SHRINK, abs=0.005)
    assert blocks(out) > kept
    assert recovered.idle_power_mw == pytest.approx(driving.idle_power_mw, rel=0.005)


def test_an_npu_that_never_returns_is_left_out(bench: Bench) -> None:
    out = bench.folder / "hung"
    bench.running.control(npu_hangs=True)
    try:
        error = bench.piqictl(*profile(bench, out, "--processors", "N", "--freqs", "B=1", "--timeout", 5), code=3)
    finally:
        bench.running.control(npu_hangs=False)
    assert "N is left out" in error and "did not finish" in error
    assert {line.split(",")[1] for line in (out / "layers.csv").read_text().splitlines()[1:]} == {"B"}


def test_a_bundle_of_that_profile_serves_at_its_predicted_times(bench: Bench, tmp_path: Path) -> None:
    built = ["--evaluate", bench.folder / "test", "--profile", bench.folder / "profile", "--samples", 10]
    built += ["--pairs", 10, "--points", POINTS, "--jobs", 1, "--out", bench.folder / "bundle"]
    bench.planner("build", *bench.model, *built)
    assert kit.prepare(bench.folder / "bundle", bench.folder) > 0
    assert "good" in bench.piqictl("bundle", "verify", bench.folder / "bundle")
    config, socket = tmp_path / "daemon.toml", tmp_path / "piqid.sock"
    config.write_text(f'root = "{bench.running.root}"\n')
    daemon = ["--config", config, "--bundle", bench.folder / "bundle", "--board", bench.board, "--socket", socket]
    process = bench.start("piqi_runtime.daemon.main", *daemon)
    try:
        with Client(socket, timeout_s=60) as client:
            points = client.points()
            _, _, frames, labels = load()
            client.policy("fast")
            with undisturbed():
                results = [client.infer(frame) for frame in frames[:30]]
                point = points[results[-1].point]
                served_ms = [result.latency_us / 1e3 for result in results if result.point == results[-1].point]
                assert np.median(served_ms) == pytest.approx(point["latency_ms"], rel=0.05)
    finally:
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "emulated" not in error
    right = [next(iter(r.outputs.values())).argmax() == label for r, label in zip(results, labels, strict=False)]
    assert np.mean(right) > 0.8


def test_points_cost_what_the_calibrated_model_says(bench: Bench) -> None:
    measured, bundle = bench.folder / "measured.csv", bench.folder / "bundle"
    count = len(load_bundle(bundle).table.points)
    command = ["adjust", bundle, "--board", bench.board, "--measured", measured, "--profile", bench.folder / "profile"]
    with undisturbed():
        bench.piqictl("measure", bundle, *bench.conditions, "--frames", 20, "--repeats", 1, "--out", measured)
        report = json.loads(bench.planner(*command, "--json"))
        print(json.dumps({when: report[when] for when in ("before", "after")}, indent=1))
        assert report["after"].keys() == {"latency", "power", "energy"}
        for error in report["after"].values():  # each point predicted by a model fitted to the others
            assert error["mae_percent"] <= 3.0
    rows = read_measured(measured)
    assert len(rows) == count
    table = load_bundle(bundle).table
    assert all(point.cost_provenance == "measured" for point in table.points)
    by_configuration = {(row.order, row.freqs): row for row in rows}
    for point in table.points:
        row = by_configuration[point.order, point.freqs]
        assert (point.latency_ms, point.power_mw) == pytest.approx((row.latency_ms, row.power_mw))
