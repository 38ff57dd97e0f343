"""Installation: the files, and the Debian package on a machine of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_EXPOSURE = 1.5


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install PREFIX=/opt/piqi DESTDIR=...` makes."""
    folder = tmp_path_factory.mktemp("staged")
    script = ROOT / "scripts/install_files.py"
    command = [sys.executable, script, "--prefix", "/opt/piqi", "--destdir", folder]
    subprocess.run(command, check=True, timeout=240)
    return folder


def test_layout(staged: Path) -> None:
    for name in (
        "bin/piqid",
        "bin/piqictl",
        "lib/piqi/frequency-access",
        "lib/systemd/system/piqid.service",
        "lib/systemd/system/piqid.socket",
        "lib/sysusers.d/piqi.conf",
        "lib/tmpfiles.d/piqi.conf",
        "lib/udev/rules.d/99-piqi.rules",
        "include/piqi.h",
        "share/piqi/client/piqi.c",
        "share/piqi/client/examples/piqi_file.c",
    ):
        path = staged / "opt/piqi" / name
        assert path.is_file(), name
        assert not re.search(r"/usr/(bin|lib)/piqi", path.read_text()), f"{name} names another prefix"
        assert os.access(path, os.X_OK) == ("bin/" in name or name.endswith("access"))
    assert "/var/lib/piqi/bundles" in (staged / "etc/piqi/daemon.toml").read_text()
    outside = {path.name for path in staged.iterdir()} | {path.name for path in (staged / "opt").iterdir()}
    assert outside == {"opt", "etc", "piqi"}


def test_runs_from_its_own_packages(staged: Path) -> None:
    """On this machine, from where it was staged."""
    packages = staged / "opt/piqi/lib/piqi/python"
    code = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "import piqi_native, numpy, pydantic, piqi_runtime.daemon.main, piqi_runtime.config_files as c\n"
        "print(piqi_native.__file__, numpy.__file__, pydantic.__file__, c.CONFIGS)\n"
        "print(*{'tensorflow', 'piqi_planner', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], text=True, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    used, heavy = result.stdout.split("\n")[:2]
    assert all(path.startswith(str(packages)) for path in used.split())
    assert heavy == ""
    assert not (packages / "piqi_planner").exists()


def test_second_installation_replaces_the_first(staged: Path) -> None:
    old = staged / "opt/piqi/lib/piqi/python/piqi_runtime/no_longer_there.py"
    old.write_text("")
    command = [sys.executable, ROOT / "scripts/install_files.py", "--prefix", "/opt/piqi", "--destdir", staged]
    subprocess.run(command, check=True, timeout=240)
    assert not old.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [(["--prefix", "usr"], "absolute path, got usr"), (["--prefix", "/x", "--python"], "expected one argument")],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts/install_files.py", *arguments], text=True, capture_output=True, timeout=120
    )
    assert result.returncode == 2
    assert message in result.stderr


def test_exposure() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", ROOT / "systemd/piqid.service"]
    result = subprocess.run(command, text=True, capture_output=True, timeout=120)
    if "offline" in result.stderr:
        pytest.skip("systemd-analyze is older than 250")
    exposure = re.search(r"exposure level for piqid.service: ([\d.]+)", result.stdout)
    assert exposure is not None, result.stdout + result.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_units_have_no_mistakes(installed: Any) -> None:
    for command in (
        ["systemd-analyze", "verify", "piqid.service", "piqid.socket"],
        ["systemd-tmpfiles", "--create", "piqi.conf"],
        ["systemd-sysusers", "piqi.conf"],
    ):
        assert installed.run(*command).stdout == ""


def test_package_upgrades_and_purges(installed: Any) -> None:
    """Last of this file: afterwards it is installed as before."""
    from_share = Path("/srv/piqi-test")
    environment = os.environ | {"PIQI_DEB": str(installed.share / "newer.deb"), "PIQI_DEB_VERSION": "1.0.1"}
    subprocess.run([ROOT / "scripts/build_deb", sys.executable, "-Znone"], env=environment, check=True, timeout=240)
    settings = installed.path("/etc/piqi/daemon.toml").read_text()
    installed.fresh()
    pid = installed.pid()

    installed.run("dpkg", "--install", "--force-confold", from_share / "newer.deb")
    assert installed.run("dpkg-query", "--show", "--showformat=${Version}", "piqi").stdout == "1.0.1"
    assert installed.path("/etc/piqi/daemon.toml").read_text() == settings
    installed.wait("piqid.service", "ActiveState", "active")
    assert installed.pid() != pid, "still the old program"
    with installed.connect() as client:
        assert client.ask("hello", version=1)["ok"]

    installed.run("dpkg", "--remove", "piqi")  # and change one's mind
    assert not installed.path("/run/piqi/piqid.sock").exists()
    assert installed.path("/etc/piqi/daemon.toml").read_text() == settings
    installed.run("dpkg", "--install", "--force-confold", from_share / "newer.deb")
    installed.wait("piqid.service", "ActiveState", "active")
    installed.run("systemctl", "disable", "--now", "piqid.socket", "piqid.service")
    installed.run("dpkg", "--install", "--force-confold", from_share / "newer.deb")
    assert installed.show("piqid.service", "ActiveState") == "inactive", "the administrator had disabled it"

    bundle = installed.path("/var/lib/piqi/bundles/mine")
    bundle.write_text("a user's")
    installed.run("dpkg", "--purge", "piqi")
    found = installed.run("find", "/usr", "/etc", "/run", "/var", "-name", "*piqi*", "-not", "-path", "/run/piqi-*")
    leftovers = [line for line in found.stdout.splitlines() if line not in ("/var/lib/piqi",)]
    assert leftovers == []
    assert installed.show("piqid.service", "LoadState") == installed.show("piqid.socket", "LoadState") == "not-found"
    assert installed.run("systemctl", "list-units", "--failed", "--quiet", "piqi*").stdout == ""
    assert bundle.read_text() == "a user's"
    bundle.unlink()

    installed.run("dpkg", "--install", from_share / "piqi.deb")
    installed.wait("piqid.service", "ActiveState", "active")
    installed.path("/etc/piqi/daemon.toml").write_text(settings)
    installed.run("systemctl", "restart", "piqid.service")
    assert installed.show("piqid.socket", "UnitFileState") == "enabled"
