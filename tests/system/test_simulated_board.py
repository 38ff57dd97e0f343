"""The simulated board (tests/simulated_board): it is what its profile says."""

import ctypes
import errno
import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

import piqi_native as pn  # noqa: E402
from piqi_planner.profile import ModelProfile, load_profile  # noqa: E402
from piqi_planner.quantise import QuantisedModel, calibrate, quantise  # noqa: E402
from piqi_runtime.backends import available_backends  # noqa: E402
from piqi_runtime.boards import Board, load_board  # noqa: E402
from piqi_runtime.engine import Engine  # noqa: E402
from piqi_runtime.marker import open_marker  # noqa: E402
from piqi_runtime.meter import MeterError, layer_energies, open_meter  # noqa: E402
from piqi_runtime.partition import Partition  # noqa: E402
from simulated_board import kit, scenario  # noqa: E402
from simulated_board.board import SYNTHETIC  # noqa: E402
from simulated_board.build import environment, observer  # noqa: E402
from simulated_board.memory import BEGAN, ENDED, STRETCH, BoardMemory, Record  # noqa: E402
from simulated_board.physics import Physics, SyntheticPhysics  # noqa: E402
from simulated_board.process import RunningBoard  # noqa: E402
from simulated_board.tree import domains, frequency_domains, make_tree  # noqa: E402
from simulated_board.undisturbed import OFF, undisturbed  # noqa: E402

QUIET = True
FRAMES = 30
ATTEMPTS = 3


def patient(test: Callable[..., None]) -> Callable[..., None]:
    """Times are those of this machine: what another program disturbed is measured once more."""

    @functools.wraps(test)
    def attempts(*arguments: object, **named: object) -> None:
        with undisturbed():
            for _ in range(ATTEMPTS - 1):
                with suppress(*OFF):
                    return test(*arguments, **named)
            test(*arguments, **named)

    return attempts


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board(scenario.BOARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, board: Board) -> Path:
    environment(Path())
    folder = tmp_path_factory.mktemp("board")
    scenario.driving_profile(scenario.network(), board).save(folder / "driving")
    return folder


@pytest.fixture(scope="module")
def driving(folder: Path, board: Board) -> ModelProfile:
    return load_profile(folder / "driving", board).model(scenario.NAME)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RunningBoard]:
    with RunningBoard(folder / "root", folder / "driving", scenario.NAME, scenario.BOARD) as running:
        yield running


@pytest.fixture
def on_board(running: RunningBoard, monkeypatch: pytest.MonkeyPatch) -> RunningBoard:
    """This process runs on the board."""
    for name in ("PIQI_PACER", "PIQI_OBSERVER", "PIQI_RKNN1_LIBRARY"):
        monkeypatch.setenv(name, running.environment[name])
    return running


@pytest.fixture(scope="module")
def quantised() -> QuantisedModel:
    model = scenario.network()
    return quantise(model, calibrate(model, [random_frame(model)]), "per_tensor", equalise=False)


def random_frame(model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-1, 1, model.tensors[name].shape).astype(np.float32) for name in model.inputs}


@pytest.fixture
def partitions(quantised: QuantisedModel, tmp_path: Path) -> Callable[[int, int], Partition]:
    return lambda first, last: kit.prepared(quantised.partition(first, last), tmp_path)


def values(profile: ModelProfile, array: np.ndarray, order: str, freqs: str) -> list[float]:
    """An entry of `array` [S, L] for each layer of a configuration."""
    states = {profile.state_text(state): index for index, state in enumerate(profile.states)}
    pairs = zip(order, freqs.split(), strict=True)
    return [float(array[states[pair], layer]) for layer, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("order", "freqs"), [("LLLLL", "0 0 0 0 0"), ("BBBBB", "1 1 1 1 1"), ("GGGGG", "1-1 1-1 1-1 1-1 1-1")]
)
@patient
def test_times_and_energies_are_the_profiles(
    order: str, freqs: str, on_board: RunningBoard, driving: ModelProfile, board: Board, quantised: QuantisedModel
) -> None:
    model = quantised.float_model
    frame = random_frame(model)
    with Engine(model, board, root=on_board.root) as engine, open_meter(on_board.meter) as meter:
        executor = engine.executor(order, freqs, marker=open_marker(on_board.marker))
        executor.run(frame)
        executor.run(frame)
        executor.clear_report()
        meter.clear()
        for _ in range(FRAMES):
            executor.run(frame)
        report = executor.report()
        began, ended = (np.stack([getattr(work, end) for work in report.works]) for end in ("began", "ended"))
        recording = meter.recording(began.T.ravel())
        executor.close()
    layers = np.tile(np.arange(len(began)), began.shape[1])
    energies = layer_energies(recording, layers, began.T.ravel(), ended.T.ravel())
    assert recording.quality.marks_matched > 0.9 * recording.quality.marks
    run_ms, run_mw = (values(driving, array, order, freqs) for array in (driving.run_ms, driving.run_mw))
    measured_ms = [step.time_us.median / 1e3 for step in report.layers]
    assert measured_ms == pytest.approx(run_ms, rel=0.02)
    assert [energy.power_mw for energy in energies] == pytest.approx(run_mw, rel=0.03)
    # What is late on this machine is late in the meter's eyes too.
    mean_ms = (ended - began).mean(axis=1) / 1e6
    assert [energy.energy_mj for energy in energies] == pytest.approx(list(mean_ms * run_mw / 1e3), rel=0.03)
    (end,) = report.ends
    state = [driving.state_text(s) for s in driving.states].index((order[0], freqs.split()[0]))
    assert end.load_us.median / 1e3 == pytest.approx(driving.input_ms[state], rel=0.02)
    assert end.unload_us.median / 1e3 == pytest.approx(driving.output_ms[state], rel=0.02)


@patient
def test_an_npu_between_cpus(
    on_board: RunningBoard,
    driving: ModelProfile,
    board: Board,
    quantised: QuantisedModel,
    partitions: Callable[[int, int], Partition],
) -> None:
    order, freqs = "LNNBL", "0 1 1 1 0"
    frame = random_frame(quantised.float_model)
    with Engine(quantised.float_model, board, root=on_board.root) as engine:
        executor = engine.executor(order, freqs, partitions, measure_kernels=True)
        for _ in range(FRAMES):
            executor.run(frame)
        report = executor.report()
        executor.close()
    run_ms = values(driving, driving.run_ms, order, freqs)
    load_ms, unload_ms = (values(driving, array, order, freqs) for array in (driving.load_ms, driving.unload_ms))
    together_ms = (run_ms[1] + run_ms[2]) * (1 - scenario.NPU_RUN_SHRINK)
    npu = report.layers[1]
    assert (npu.layer, npu.last_layer) == (1, 2)
    assert npu.kernel_us is not None
    assert npu.kernel_us.median / 1e3 == pytest.approx(together_ms, rel=0.02)
    assert npu.time_us.median / 1e3 == pytest.approx(together_ms + unload_ms[2], rel=0.02)
    places = {p.letter: i for i, p in enumerate(driving.processors)}
    steps = report.works  # layer 0, the NPU's two, layer 3
    between_ms = [float(np.median(b.began - a.ended)) / 1e6 for a, b in pairwise(steps)]
    ratio = driving.move_ratio["L", "B", "0", "1"]
    moved_ms = driving.move_ms[0][places["L"], places["N"]] * ratio
    assert between_ms[0] == pytest.approx(moved_ms + load_ms[1], rel=0.03)
    moved_ms = driving.move_ms[2][places["N"], places["B"]] * driving.move_ratio["B", "L", "0", "1"]
    assert between_ms[1] == pytest.approx(moved_ms, rel=0.03)


@patient
def test_a_frequency_takes_effect_when_its_delay_is_over(
    on_board: RunningBoard, driving: ModelProfile, board: Board, quantised: QuantisedModel
) -> None:
    frame = random_frame(quantised.float_model)
    with Engine(quantised.float_model, board, root=on_board.root) as engine:
        executor = engine.executor("LLLLL", "0 0 1 0 0")
        for _ in range(FRAMES):
            executor.run(frame)
        report = executor.report()
        executor.close()
    (low, high), delay_ms = (values(driving, driving.run_ms, "LLLLL", f"{i} {i} {i} {i} {i}") for i in (0, 1)), 0.0
    delay_ms = float(driving.delay_ms["L"][0, 1])
    assert 0.3 < delay_ms < low[2]
    expected = [delay_ms + (1 - delay_ms / low[2]) * high[2]]
    delay_ms = float(driving.delay_ms["L"][1, 0])
    expected += [delay_ms + (1 - delay_ms / high[3]) * low[3]]
    assert [report.layers[i].time_us.median / 1e3 for i in (2, 3)] == pytest.approx(expected, rel=0.02)


class Moment(ctypes.Structure):
    """PiqiMoment of piqi/observer.h."""

    _fields_ = (
        ("activity", ctypes.c_int),
        ("network", ctypes.c_char_p),
        ("layer_count", ctypes.c_size_t),
        ("processor", ctypes.c_char),
        ("first_layer", ctypes.c_size_t),
        ("last_layer", ctypes.c_size_t),
    )


class Paced:
    """A board of which there is the memory alone; `run` tells it what begins and ends in a thread of its own."""

    BIND, STEP, FINISH = range(3)

    def __init__(self, root: Path, board: Board, profile: ModelProfile) -> None:
        make_tree(root, board)
        for processor in board.processors:
            for folder in domains(root, processor):
                (folder / ("scaling_governor" if processor.kind == "cpu" else "governor")).write_text("userspace\n")
        self.domains = frequency_domains(root, board)
        networks = [(b"", Physics(profile)), (SYNTHETIC, SyntheticPhysics(profile))]
        self.memory = BoardMemory(root / "pacer", networks, self.domains)
        self._library = ctypes.CDLL(str(observer()))

    def activity(self, kind: int, letter: str, first: int, last: int) -> list[int]:
        """What its begin and its end answer."""
        moment = Moment(kind, b"digits", 5, letter.encode(), first, last)
        calls = self._library.piqi_observe_begin, self._library.piqi_observe_end
        return [call(ctypes.byref(moment)) for call in calls]

    def run(self, work: Callable[[], object]) -> list[Record]:
        """What the board was told while `work` ran."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(work).result()
        return list(self.memory.records())


@pytest.fixture
def paced(tmp_path: Path, board: Board, driving: ModelProfile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Paced:
    monkeypatch.setenv("PIQI_PACER", str(tmp_path / "pacer"))
    return Paced(tmp_path, board, driving)


@patient
def test_changes_on_their_way_are_worked_through_exactly(paced: Paced, driving: ModelProfile) -> None:
    def frame() -> None:
        speed = paced.domains["B"].speed
        speed.write_text("816000\n")
        paced.activity(Paced.BIND, "B", 0, 4)
        for layer in range(5):
            if layer == 1:
                speed.write_text("1800000\n")
            assert paced.activity(Paced.STEP, "B", layer, layer) == [0, 0]

    records = paced.run(frame)
    steps = [record.activity for record in records if record.kind == BEGAN]
    ends_ns = [record.end_ns for record in records if record.kind == ENDED]
    assert len(steps) == 5 and len(ends_ns) == 6
    pieces = [record for record in records if record.kind == STRETCH and record.activity in steps]
    # Each goes on where the last one ended: writing the file takes no time of its own.
    assert [a.end_ns for a in pieces[:-1]] == [b.begin_ns for b in pieces[1:]]
    change_ns = ends_ns[1] + int(1e6 * driving.delay_ms["B"][0, 1])
    (change,) = [i for i, piece in enumerate(pieces) if piece.end_ns == change_ns]
    slow, fast = (values(driving, driving.run_ms, "BBBBB", f"{i} {i} {i} {i} {i}") for i in (0, 1))
    done = dict.fromkeys(steps, 0.0)
    for number, piece in enumerate(pieces):
        layer = steps.index(piece.activity)
        done[piece.activity] += (piece.end_ns - piece.begin_ns) / 1e6 / (slow if number <= change else fast)[layer]
    assert list(done.values()) == pytest.approx([1.0] * 5, abs=1e-5)


def test_what_the_profile_does_not_have_is_refused(paced: Paced) -> None:
    answers: list[list[int]] = []
    for letter, layer in (("X", 0), ("L", 5)):
        paced.run(lambda letter=letter, layer=layer: answers.append(paced.activity(Paced.STEP, letter, layer, layer)))
    assert answers == [[errno.EINVAL, 0]] * 2
    assert not list(paced.memory.records())


def test_one_that_is_killed_leaves_the_board_usable(paced: Paced) -> None:
    script = f"import fcntl, os, signal; file = open({str(paced.memory.path)!r}, 'r+b'); "
    script += "fcntl.flock(file, fcntl.LOCK_EX); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert paced.run(lambda: paced.activity(Paced.STEP, "B", 0, 0))


def test_an_npu_that_hangs_and_comes_back(
    on_board: RunningBoard, board: Board, quantised: QuantisedModel, partitions: Callable[[int, int], Partition]
) -> None:
    frame = random_frame(quantised.float_model)
    with Engine(quantised.float_model, board, root=on_board.root) as engine:
        executor = engine.executor("LLNLL", "1 1 1 1 1", partitions, timeout_s=3.0)
        executor.run(frame)
        on_board.control(npu_hangs=True)
        try:
            with pytest.raises(pn.TimeoutError, match="layers 2 to 2 on N did not finish"):
                executor.run(frame)
        finally:
            on_board.control(npu_hangs=False)
        executor.run(frame)
        executor.close()


def test_a_meter_that_is_unplugged_and_plugged_in_again(on_board: RunningBoard) -> None:
    meter = open_meter(on_board.meter)
    with meter:
        on_board.control(meter=False)
        try:
            with pytest.raises(MeterError, match="unplugged"):
                end_s = time.monotonic() + 60
                while time.monotonic() < end_s:  # the meter's thread sees it when it reads
                    meter.check()
                    time.sleep(0.01)
            with pytest.raises(MeterError, match="cannot be opened"):
                open_meter(on_board.meter).start()
        finally:
            on_board.control(meter=True)
    with open_meter(on_board.meter) as again:
        again.clear()
        time.sleep(0.1)
        assert again.recording().mean_mw == pytest.approx(2750, abs=10)


def test_frequencies_are_given_back(on_board: RunningBoard, board: Board, quantised: QuantisedModel) -> None:
    governor = on_board.root / "sys/devices/system/cpu/cpufreq/policy4/scaling_governor"
    with Engine(quantised.float_model, board, root=on_board.root) as engine:
        engine.executor("BBBBB", "0 0 0 0 0").run(random_frame(quantised.float_model))
        assert governor.read_text() == "userspace\n"
    assert governor.read_text().split() == ["ondemand"]


def test_plug_ins_serve_what_no_library_does(
    on_board: RunningBoard, board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert available_backends(board).keys() == {"armcl_neon", "armcl_cl", "rknn1"}
    monkeypatch.setenv("PIQI_OBSERVER", os.devnull)
    with caplog.at_level(logging.WARNING):
        assert available_backends(board).keys() == {"rknn1"}
    assert "plug-in simulated_board.plugin:backend for backend armcl_" in caplog.text
    monkeypatch.delenv("PIQI_PACER")
    caplog.clear()
    assert available_backends(board).keys() == {"rknn1"}
    assert not caplog.text
