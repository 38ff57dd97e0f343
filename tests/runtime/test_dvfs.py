"""`piqictl dvfs` and the governor on boards' trees: what is found, what is wrong, what is set and put back."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sysfs_trees
from daemon_helpers import PATIENCE_S, wait_for
from sysfs_trees import (
    CPU,
    DEVFREQ,
    LAYOUTS,
    Device,
    Kernel,
    add_device,
    first_line,
    make_tree,
    set_offline,
    set_online,
)

import piqi_native
from piqi_runtime.boards import load_board
from piqi_runtime.ctl import dvfs as command
from piqi_runtime.ctl.cli import main
from piqi_runtime.dvfs import find_folders, inspect, left_alone, parse_cpus

SIGNALS = pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
TREES = {name: name.split("-")[0] for name in LAYOUTS}


def run(capsys: pytest.CaptureFixture[str], tree: Path, board: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the report and what stands on stderr."""
    code = main(["dvfs", "--json", "--board", board, "--root", str(tree), *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def governors(tree: Path) -> dict[str, str]:
    files = [*(tree / CPU / "cpufreq").glob("*/scaling_governor"), *(tree / DEVFREQ).glob("*/governor")]
    return {file.parent.name: first_line(file) for file in files}


@pytest.mark.parametrize("name", LAYOUTS)
def test_boards_are_found_and_left_as_they_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = governors(make_tree(tmp_path, name))
    code, report, err = run(capsys, tmp_path, TREES[name])
    assert (code, err) == (0, "")
    processors = report["processors"]
    assert [processors[letter]["controllable"] for letter in "LBGN"] == [True, True, True, False]
    layout = LAYOUTS[name]
    found = [domain for letter in "LBG" for domain in processors[letter]["domains"]]
    assert len(found) == len(layout.policies) + 1
    assert {domain["found_by"] for domain in found} == {"board file"}
    assert found[0]["governor"] == layout.cpu_governor
    assert found[0]["freq_khz"] == found[0]["min_khz"] == layout.policies[0].opps_mhz[0] * 1000
    assert found[-1]["max_khz"] == layout.devices[0].opps_mhz[-1] * 1000
    assert [Path(device["path"]).name for device in report["left_alone"]] == [d.name for d in layout.devices[1:]]
    assert governors(tmp_path) == before


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_governor_sets_them_all_and_puts_them_back(name: str, tmp_path: Path) -> None:
    before = governors(make_tree(tmp_path, name))
    board = load_board(TREES[name])
    with Kernel(tmp_path):
        governor = piqi_native.sysfs_governor(board.to_native(tmp_path), str(tmp_path))
        assert governor.warnings == []
        for domain in range(3):
            assert governor.controls(domain) and governor.in_force(domain) is None
            governor.request(domain, 4)
            assert governor.in_force(domain) == 4
    assert {value for key, value in governors(tmp_path).items() if "policy" in key or "gpu" in key} == {"userspace"}
    assert governors(tmp_path).get("dmc", "dmc_ondemand") == "dmc_ondemand"
    governor.restore()
    assert governors(tmp_path) == before


def test_opps_that_differ_are_told(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3588-mainline")
    board = load_board("rk3588")
    (little,) = inspect(tmp_path, board.processor("L"))
    assert little.controllable
    assert little.notes == [
        "OPPs of the board file that the kernel lacks: 408 600 816 MHz",
        "the kernel's limits keep it from indices 0 1 2: 1008 to 1800 MHz",
    ]
    make_tree(tmp_path / "pro", "rk3399pro-mainline")
    (gpu,) = inspect(tmp_path / "pro", load_board("rk3399pro").processor("G"))
    assert gpu.notes[0] == "OPPs of the board file that the kernel lacks: 300 MHz"
    assert gpu.notes[1] == "OPPs of the kernel that the board file lacks: 297 500 MHz"


def test_limits_that_someone_set_are_told(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    (tmp_path / CPU / "cpufreq/policy4/scaling_max_freq").write_text("1200000\n")
    (big,) = inspect(tmp_path, load_board("rk3399pro").processor("B"))
    assert big.notes == ["the kernel's limits keep it from indices 5 6 7: 408 to 1200 MHz"]


def test_policies_of_other_names_are_found_by_their_cpus(tmp_path: Path) -> None:
    """CPU 0 was offline at boot: its cluster's policy is called after CPU 1."""
    make_tree(tmp_path, "rk3588-6.1")
    cpufreq = tmp_path / CPU / "cpufreq"
    (cpufreq / "policy0").rename(cpufreq / "policy1")
    (cpufreq / "policy6").rename(cpufreq / "policy7")
    board = load_board("rk3588")
    (little,) = find_folders(tmp_path, board.processor("L"))
    assert (little.path, little.by) == (f"{CPU}/cpufreq/policy1", "related_cpus")
    first, second = find_folders(tmp_path, board.processor("B"))
    assert (first.path, first.by) == (f"{CPU}/cpufreq/policy4", "board file")
    assert (second.path, second.by) == (f"{CPU}/cpufreq/policy7", "related_cpus")
    (control,) = inspect(tmp_path, board.processor("L"))
    assert control.controllable and control.notes[0].startswith("found by its CPUs: none of the board file's")
    governor = piqi_native.sysfs_governor(board.to_native(tmp_path), str(tmp_path))
    assert governor.controls(0) and governor.controls(1)


def test_a_policy_of_foreign_cpus_is_not_taken(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    folder = tmp_path / CPU / "cpufreq/policy0"
    for name in ("related_cpus", "affected_cpus"):
        (folder / name).write_text("0 1 2 3 4\n")
    folder.rename(folder.with_name("policy1"))
    (control,) = inspect(tmp_path, load_board("rk3399pro").processor("L"))
    assert control.problems == [f"none of {CPU}/cpufreq/policy0 is there"]


def test_kernels_before_policies_are_found_too(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    link = tmp_path / CPU / "cpu4/cpufreq"
    link.unlink()
    (tmp_path / CPU / "cpufreq/policy4").rename(link)
    (big,) = find_folders(tmp_path, load_board("rk3399pro").processor("B"))
    assert (big.path, big.by) == (f"{CPU}/cpu4/cpufreq", "related_cpus")


def test_a_gpu_of_another_name_is_found(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    (tmp_path / DEVFREQ / "ff9a0000.gpu").unlink()
    (tmp_path / "sys/devices/platform/ff9a0000.gpu").rename(tmp_path / "elsewhere")
    gpu = load_board("rk3399pro").processor("G")
    assert inspect(tmp_path, gpu)[0].problems[0].startswith("none of sys/class/devfreq/ff9a0000.gpu, ")
    add_device(tmp_path, Device("ffa30000.mali", "simple_ondemand", "userspace simple_ondemand", (200, 800)))
    (control,) = inspect(tmp_path, gpu)
    assert control.folder.path == f"{DEVFREQ}/ffa30000.mali" and control.controllable
    assert control.notes[0].startswith("found by its name: ")
    assert [device.path for device in left_alone(tmp_path, load_board("rk3399pro"))] == [f"{DEVFREQ}/dmc"]


def test_what_is_wrong_is_told_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    cpufreq = tmp_path / CPU / "cpufreq"
    (cpufreq / "policy0/scaling_available_governors").write_text("performance schedutil\n")
    (cpufreq / "policy4/scaling_setspeed").unlink()
    gpu = tmp_path / DEVFREQ / "ff9a0000.gpu"
    (gpu / "governor").unlink()
    (gpu / "governor").mkdir()
    code, report, err = run(capsys, tmp_path, "rk3399pro")
    assert code == 1
    assert not any(report["processors"][letter]["controllable"] for letter in "LBG")
    assert err.splitlines() == [
        f"piqictl: L: {CPU}/cpufreq/policy0: scaling_available_governors: expected userspace (the kernel's "
        "CONFIG_CPU_FREQ_GOV_USERSPACE), got performance schedutil",
        f"piqictl: B: {CPU}/cpufreq/policy4: scaling_setspeed: No such file or directory",
        f"piqictl: G: {DEVFREQ}/ff9a0000.gpu: governor: Is a directory",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="permissions are tried as another user, which only root can become")
def test_no_permission_is_told(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    folder = tmp_path
    while folder != folder.parent:  # pytest's folders are its user's alone
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    os.seteuid(65534)
    try:
        (little,) = inspect(tmp_path, load_board("rk3399pro").processor("L"))
    finally:
        os.seteuid(0)
    assert little.problems == ["scaling_governor: Permission denied", "scaling_setspeed: Permission denied"]


def test_offline_cpus_are_told(tmp_path: Path) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    big = load_board("rk3399pro").processor("B")
    set_offline(tmp_path, "rk3399pro-4.4", [5])
    (control,) = inspect(tmp_path, big)
    assert control.controllable
    assert control.notes == [f"CPUs 5 are offline (echo 1 > /{CPU}/cpu5/online)"]
    set_offline(tmp_path, "rk3399pro-4.4", [4])
    (control,) = inspect(tmp_path, big)
    assert control.problems[0] == f"CPUs 4 5 are offline (echo 1 > /{CPU}/cpu4/online)"
    set_online(tmp_path, "rk3399pro-4.4", [4, 5])
    assert inspect(tmp_path, big)[0].controllable


def on_one_clock(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    """The kernel looks at its files whenever the command sleeps, and time passes then only."""
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += 10 * seconds  # a look at all files takes long
        kernel.step()

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=sleep)
    monkeypatch.setattr(command, "time", clock)
    monkeypatch.setattr(sysfs_trees, "time", clock)


def test_frequencies_are_tried_timed_and_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = governors(make_tree(tmp_path, "rk3588-6.1"))
    on_one_clock(monkeypatch, Kernel(tmp_path, delay_s=0.02))
    code, report, err = run(capsys, tmp_path, "rk3588", "--set", "B=3", "G=5")
    assert (code, err) == (0, "")
    tried = report["set"]
    assert [(trial["processor"], trial["asked_khz"]) for trial in tried] == [
        ("B", 1_008_000),
        ("B", 1_008_000),
        ("G", 800_000),
    ]
    assert all(trial["got_khz"] == trial["asked_khz"] for trial in tried)
    # The second policy of B was asked with the first one, and is looked at behind it.
    assert [trial["delay_ms"] for trial in tried] == pytest.approx([20, 20, 20], abs=3)
    assert governors(tmp_path) == before
    assert main(["dvfs", "--board", "rk3588", "--root", str(tmp_path)]) == 0
    assert "left alone (dmc_ondemand" in capsys.readouterr().out


@SIGNALS
def test_a_command_that_is_ended_puts_them_back(tmp_path: Path, number: signal.Signals) -> None:
    before = governors(make_tree(tmp_path, next(name for name in LAYOUTS if TREES[name] == "rk3399pro")))
    script, waits = tmp_path / "waiting.py", tmp_path / "waits"
    script.write_text(
        "import sys, time\n"
        "from piqi_runtime.ctl import cli, dvfs\n"
        f"dvfs._read_back = lambda *_: (open({str(waits)!r}, 'w').close(), time.sleep(3600))\n"
        "sys.exit(cli.main())\n"
    )
    arguments = ["dvfs", "--board", "rk3399pro", "--root", str(tmp_path), "--set", "B=3"]
    # Whoever started the tests may ignore some, and all that they start with them.
    command = ["env", "--default-signal", sys.executable, str(script), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert wait_for(waits.exists) and governors(tmp_path) != before
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S)[1] == "piqictl: interrupted\n"
    assert process.returncode == 128 + number
    assert governors(tmp_path) == before


def test_a_frequency_that_is_not_reached_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, "rk3399pro-4.4")
    (tmp_path / CPU / "cpufreq/policy0/scaling_max_freq").write_text("600000\n")
    on_one_clock(monkeypatch, Kernel(tmp_path))
    code, report, err = run(capsys, tmp_path, "rk3399pro", "--set", "L=4")
    assert code == 1 and report["set"][0]["delay_ms"] is None and report["set"][0]["got_khz"] == 600_000
    assert err == f"piqictl: L: {CPU}/cpufreq/policy0: asked for 1200000 kHz, runs at 600000 kHz after 0.5 s\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["L"], "--set: expected LETTER=INDEX, got 'L'"),
        (["L=x"], "--set: expected LETTER=INDEX, got 'L=x'"),
        (["X=1"], "board rk3399pro has no processor 'X', only LBGN"),
        (["L=6"], "--set: L: expected an index from 0 to 5, got 6"),
        (["N=1"], "--set: N has no table of frequencies, got 'N=1'"),
        (["L=1", "L=2"], "--set: expected each processor once, got L=1 L=2"),
    ],
)
def test_wrong_arguments_are_errors(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = governors(make_tree(tmp_path, "rk3399pro-4.4"))
    assert main(["dvfs", "--board", "rk3399pro", "--root", str(tmp_path), "--set", *arguments]) == 1
    assert capsys.readouterr().err == f"piqictl: {message}\n"
    assert governors(tmp_path) == before


def test_lists_of_cpus() -> None:
    assert parse_cpus("0-3 5") == (0, 1, 2, 3, 5)
    assert parse_cpus("4,6-7") == (4, 6, 7)
    assert parse_cpus("") == ()
