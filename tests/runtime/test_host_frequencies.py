"""Frequencies are given back: at the end, after a crash, by the next process, and never taken from another."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import piqi_native
from piqi_runtime.boards import Board, Processor, load_board
from piqi_runtime.bundle import load_bundle
from piqi_runtime.host import Frequencies, ModelHost
from piqi_runtime.host.restore import State, boot_id, main, read_state

AS_FOUND = ["schedutil", "schedutil", "userspace", "400000000"]


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("rk3399pro")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A /sys: two CPU clusters and a GPU that was at a speed of its user's."""
    cpufreq = tmp_path / "root/sys/devices/system/cpu/cpufreq"
    for policy in ("policy0", "policy4"):
        (cpufreq / policy).mkdir(parents=True)
        (cpufreq / policy / "scaling_governor").write_text("schedutil\n")
        (cpufreq / policy / "scaling_setspeed").write_text("<unsupported>\n")
    gpu = tmp_path / "root/sys/class/devfreq/ff9a0000.gpu"
    (gpu / "userspace").mkdir(parents=True)
    (gpu / "governor").write_text("userspace\n")
    (gpu / "userspace/set_freq").write_text("400000000\n")
    (gpu / "cur_freq").write_text("400000000\n")
    return tmp_path / "root"


def found(tree: Path) -> list[str]:
    names = ["cpu/cpufreq/policy0/scaling_governor", "cpu/cpufreq/policy4/scaling_governor"]
    files = [tree / "sys/devices/system" / name for name in names]
    gpu = tree / "sys/class/devfreq/ff9a0000.gpu"
    return [file.read_text().split()[0] for file in [*files, gpu / "governor", gpu / "userspace/set_freq"]]


FRAME = np.ones((1, 2, 2, 1), np.float32)


def test_frequencies_are_set_for_a_point_and_given_back(bundle: Path, board: Board, tree: Path) -> None:
    with ModelHost(load_bundle(bundle, board), board, root=tree, timeout_s=60) as host:
        host.run(FRAME)
        assert found(tree)[:3] == ["userspace"] * 3
        assert host.frequencies is not None and host.frequencies.freqs_khz()["L"] == 1_416_000
    assert found(tree) == AS_FOUND


def test_hosts_share_frequencies(bundle: Path, board: Board, tree: Path, tmp_path: Path) -> None:
    state = tmp_path / "frequencies.json"
    net = load_bundle(bundle, board)
    with Frequencies(board, tree, state) as frequencies:
        one, other = (ModelHost(net, board, frequencies=frequencies, timeout_s=60) for _ in range(2))
        assert state.exists()
        one.close()  # as a bundle that is replaced
        other.run(FRAME)
        assert frequencies.freqs_khz()["L"] == 1_416_000
        other.close()
        assert found(tree)[0] == "userspace"
    assert found(tree) == AS_FOUND and not state.exists()


def test_a_frequency_that_is_refused_costs_no_frame(bundle: Path, board: Board, tree: Path) -> None:
    with ModelHost(load_bundle(bundle, board), board, root=tree, timeout_s=60) as host:

        class Refuses:
            calls = 0

            def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                Refuses.calls += 1
                if Refuses.calls == 1:
                    raise piqi_native.DeviceError("L: scaling_setspeed: write: Input/output error")
                return executor.run(inputs)

        slot = host._switcher.slot
        executor, slot.executor = slot.executor, Refuses()  # type: ignore[assignment]
        np.testing.assert_array_equal(host.run(FRAME).outputs["y"], FRAME)
        slot.executor = executor
        assert found(tree) == AS_FOUND and "left alone" in host.frequencies.warnings[-1]  # type: ignore[union-attr]
        assert host.status()["faults"] == 0


CRASH = """
import os, signal, sys
from pathlib import Path
from piqi_runtime.boards import load_board
from piqi_runtime.host import Frequencies
frequencies = Frequencies(load_board("rk3399pro"), sys.argv[1], Path(sys.argv[2]))
frequencies.governor.request(0, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(tree: Path, state: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH, str(tree), str(state)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert found(tree)[:2] == ["userspace", "userspace"] and state.exists()


def test_after_a_crash_the_command_puts_them_back(tree: Path, tmp_path: Path) -> None:
    state = tmp_path / "frequencies.json"
    crash(tree, state)
    (tree / "sys/class/devfreq/ff9a0000.gpu/userspace/set_freq").write_text("800000000\n")
    command = [sys.executable, "-m", "piqi_runtime.host.restore", str(state)]
    ended = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert found(tree) == AS_FOUND and not state.exists()
    assert main([str(state)]) == 0  # nothing to do
    assert main([]) == 2


def test_after_a_crash_the_next_one_puts_them_back(tree: Path, tmp_path: Path, board: Board) -> None:
    state = tmp_path / "frequencies.json"
    crash(tree, state)
    with Frequencies(board, tree, state) as frequencies:
        assert not frequencies.warnings
        originals = {original.folder: original.governor for original in read_state(state).originals}  # type: ignore[union-attr]
        assert list(originals.values()) == ["schedutil", "schedutil", "userspace"]
    assert found(tree) == AS_FOUND


def test_only_one_process_has_the_frequencies(tree: Path, tmp_path: Path, board: Board) -> None:
    state = tmp_path / "frequencies.json"
    with Frequencies(board, tree, state):
        other = Frequencies(board, tree, state)
        assert other.governor is None and "another process controls the frequencies" in other.warnings[0]
        assert main([str(state)]) == 1  # nor does the command take them from it
        other.close()
        assert found(tree)[0] == "userspace" and state.exists()
    assert found(tree) == AS_FOUND


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON"),
        ('{"version": 2}', "version: Input should be 1"),
        (
            '{"boot_id": "b", "root": "/", "originals": [{"folder": "etc/cron.d", "governor": "x"}]}',
            "originals.0.folder: .*below sys/",
        ),
        (
            '{"boot_id": "b", "root": "/", "originals": [{"folder": "sys/../etc", "governor": "x"}]}',
            "originals.0.folder: .*below sys/",
        ),
        (
            '{"boot_id": "b", "root": "/", "originals": [{"folder": "sys/a", "governor": "x\\ny"}]}',
            "originals.0.governor",
        ),
    ],
)
def test_a_broken_state_is_said_and_writes_nothing(
    tmp_path: Path, tree: Path, board: Board, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    state = tmp_path / "state"
    state.write_text(text)
    assert main([str(state)]) == 1
    printed = capsys.readouterr().err
    assert str(state) in printed and printed.count("\n") == 1
    assert re.search(message, printed)
    with Frequencies(board, tree, state) as frequencies:  # goes on, and writes its own
        assert any("is lost" in warning for warning in frequencies.warnings)
        assert read_state(state) is not None
    assert found(tree) == AS_FOUND


def test_another_boots_state_is_over(tmp_path: Path, tree: Path) -> None:
    state = tmp_path / "state"
    folder = "sys/devices/system/cpu/cpufreq/policy0"
    values = State(boot_id=boot_id(), root=str(tree), originals=[{"folder": folder, "governor": "powersave"}])  # type: ignore[arg-type]
    state.write_text(values.model_copy(update={"boot_id": "before"}).model_dump_json())
    assert main([str(state)]) == 0 and found(tree) == AS_FOUND and not state.exists()
    state.write_text(values.model_dump_json())
    assert main([str(state)]) == 0 and found(tree)[0] == "powersave"


def test_what_cannot_be_put_back_stays(tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    gone, refuses = "sys/class/devfreq/gone", "sys/class/devfreq/refuses"
    (tree / refuses / "governor").mkdir(parents=True)  # nobody can write that
    originals = [{"folder": folder, "governor": "simple_ondemand"} for folder in (gone, refuses)]
    state.write_text(json.dumps({"boot_id": boot_id(), "root": str(tree), "originals": originals}))
    assert main([str(state)]) == 1
    printed = capsys.readouterr().err
    assert "gone/governor: is gone" in printed and "refuses/governor: Is a directory" in printed
    left = read_state(state)
    assert left is not None and [original.folder for original in left.originals] == [refuses]


def test_a_folder_that_cannot_be_written_costs_only_the_safety(tmp_path: Path, tree: Path, board: Board) -> None:
    with Frequencies(board, tree, tmp_path / "missing" / "state") as frequencies:
        assert frequencies.governor is not None and "a crash would leave" in frequencies.warnings[0]
    assert found(tree) == AS_FOUND
    with Frequencies(board, tmp_path / "nothing") as nothing:  # no files at all
        assert len(nothing.warnings) == 3 and nothing.freqs_khz() == {}


def test_boards_without_frequencies_need_no_files(tmp_path: Path) -> None:
    plain = Board(name="plain", processors=(Processor(letter="L", name="l", kind="cpu", backend="xnnpack", cpus=(0,)),))
    with Frequencies(plain, tmp_path, tmp_path / "state") as frequencies:
        assert frequencies.warnings == [] and frequencies.freqs_khz() == {}
