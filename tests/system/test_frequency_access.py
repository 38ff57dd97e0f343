"""systemd/frequency-access on a tree of files."""

import grp
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "systemd/frequency-access"
CPU = "devices/system/cpu/cpufreq"
GPU = "class/devfreq/fb000000.gpu"


@pytest.fixture
def sys_folder(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    for name, text in {
        f"{CPU}/policy0/scaling_governor": "schedutil\n",
        f"{CPU}/policy0/scaling_setspeed": "<unsupported>\n",
        f"{CPU}/policy4/scaling_governor": "userspace\n",
        f"{CPU}/policy4/scaling_setspeed": "1200000\n",
        f"{GPU}/governor": "simple_ondemand\n",
        "class/devfreq/fdab0000.npu/governor": "rknpu_ondemand\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def run(command: str, sys_folder: Path, code: int = 0) -> str:
    record = sys_folder.parent / "run/frequencies"
    result = subprocess.run([SCRIPT, command, sys_folder, record], text=True, capture_output=True, timeout=60)
    assert result.returncode == code, result.stderr
    return result.stderr


def texts(sys_folder: Path) -> dict[str, str]:
    return {str(path.relative_to(sys_folder)): path.read_text() for path in sys_folder.rglob("*") if path.is_file()}


def test_taken_and_restored(sys_folder: Path) -> None:
    before = texts(sys_folder)
    run("take", sys_folder)
    assert texts(sys_folder) == before | {f"{GPU}/governor": "userspace\n"}
    # What the daemon does, and what a crash leaves behind.
    for policy in ("policy0", "policy4"):
        (sys_folder / CPU / policy / "scaling_governor").write_text("userspace\n")
        (sys_folder / CPU / policy / "scaling_setspeed").write_text("408000\n")
    run("take", sys_folder)  # the next start without a restore: the first record counts
    run("restore", sys_folder)
    after = texts(sys_folder)
    assert (
        after.pop(f"{CPU}/policy0/scaling_setspeed") == "408000\n"
    )  # nothing to write back: its governor was not userspace
    before.pop(f"{CPU}/policy0/scaling_setspeed")
    assert after == before
    assert not (sys_folder.parent / "run/frequencies").exists()
    run("restore", sys_folder)  # nothing left to do
    assert texts(sys_folder).items() >= before.items()


def test_governor_that_has_gone(sys_folder: Path) -> None:
    run("take", sys_folder)
    path = sys_folder / CPU / "policy0/scaling_governor"
    path.unlink()
    path.mkdir()
    (sys_folder / CPU / "policy4/scaling_governor").write_text("performance\n")
    assert f"{path}: cannot write schedutil" in run("restore", sys_folder)
    assert (sys_folder / CPU / "policy4/scaling_governor").read_text() == "userspace\n", "the others are restored"


def test_only_what_the_daemon_sets_is_shared(sys_folder: Path) -> None:
    try:
        group = grp.getgrnam("piqi").gr_gid
    except KeyError:
        pytest.skip("no group piqi here; the installed service is tested with one")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    run("share", sys_folder)
    shared = {str(path.relative_to(sys_folder)) for path in sys_folder.rglob("*") if path.stat().st_gid == group}
    assert f"{GPU}/governor" in shared
    assert not any("npu" in name for name in shared)


def test_nothing_there(tmp_path: Path) -> None:
    for command in ("share", "take", "restore"):
        assert run(command, tmp_path / "sys") == ""


def test_usage(sys_folder: Path) -> None:
    message = run("grant", sys_folder, code=2)
    assert message.startswith("Lets group piqi set the frequencies")
    assert "restore" in message
