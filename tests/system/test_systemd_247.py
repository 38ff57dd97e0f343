"""The units under systemd 247, the oldest that they are for: Debian 11's, with this machine's Python bound into it."""

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.conftest import CONFIG, NSPAWN, SHARE, SYSTEM_PYTHON, Machine, booted
from tests.system.test_package import MAX_EXPOSURE
from tests.system.test_service import (  # noqa: F401 - run here too, on the machine below
    governors,
    test_crash_is_followed_by_a_restart,
    test_hardening_is_enforced,
    test_journal_has_fields,
    test_ready,
    test_reload_keeps_clients,
    test_serves_as_its_own_user,
    test_socket_is_for_the_group,
    test_socket_starts_the_service,
    test_stops_at_once_in_mid_stream,
    test_watchdog_ends_a_process_that_is_stopped,
)
from tests.system.test_unit_versions import ADDED, GROUPS, KNOWN_BY_239, OLDEST, VALUES

pytestmark = pytest.mark.timeout(3600)  # the first test waits until the root is made
ROOT = Path(__file__).resolve().parents[2]
MAKE_ROOT = [str(ROOT / "scripts/make_systemd_247")]
MACHINE_ROOT = ROOT / "build/systemd247/root"
HOST = "/opt/host"  # where the machine sees this machine's /usr
NEWER_VALUES = ("Type=notify-reload", "ProtectControlGroups=strict", "PrivateTmp=disconnected", "PrivateUsers=identity")
# Debian 11's C library is too old for this machine's Python and the extension: they run with their own.
PYTHON = f"""#!/bin/sh
exec {HOST}/usr/lib/MULTIARCH/LOADER --library-path {HOST}/usr/lib/MULTIARCH {HOST}{SYSTEM_PYTHON} "$@"
"""


def early(items: list[pytest.Item]) -> list[list[str]]:
    """The root that the machine starts from."""
    return [] if hindrance() else [MAKE_ROOT]


def hindrance() -> str:
    """Why the root cannot be made; empty: it can."""
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is missing"
    return "" if os.geteuid() == 0 else "only root can make a root"


@pytest.fixture(scope="module")
def bare_machine(share: Path, early: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with systemd 247, without PiQi."""
    if reason := hindrance():
        pytest.skip(reason)
    made = early.result(MAKE_ROOT)
    if made.returncode != 0:
        pytest.skip(f"Debian 11 cannot be had here: {made.stdout.strip()[-400:]}")
    folder = tmp_path_factory.mktemp("nspawn")
    outside = [f"--bind-ro=/usr:{HOST}/usr", f"--bind-ro={python(folder)}:{SYSTEM_PYTHON}"]
    command = [*NSPAWN, f"--directory={MACHINE_ROOT}", *outside]
    with booted("piqi-machine-247", folder, share, command) as machine:
        yield machine


def python(folder: Path) -> Path:
    """The program that is the machine's `SYSTEM_PYTHON`."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    (loader,) = Path("/usr/lib", multiarch).glob("ld-linux*.so.*")
    path = folder / "python3"
    path.write_text(PYTHON.replace("MULTIARCH", multiarch).replace("LOADER", loader.name))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def installed(bare_machine: Machine) -> Machine:
    """The machine, with the package, which serves `net`. Its dependencies are those of another release."""
    bare_machine.run("dpkg", "--force-depends", "--install", SHARE / "piqi.deb")
    bare_machine.path("/etc/piqi/daemon.toml").write_text(CONFIG)
    bare_machine.run("systemctl", "restart", "piqid.service")
    return bare_machine


def test_is_systemd_247(installed: Machine) -> None:
    assert installed.run("systemctl", "--version").stdout.startswith(f"systemd {OLDEST} ")


def test_frequencies_are_given_back_after_a_crash(machine: Machine) -> None:
    machine.run("systemctl", "restart", "piqid.service")
    assert governors(machine) == ["userspace"] * 2
    machine.run("kill", "-KILL", machine.pid())
    machine.run("systemctl", "stop", "piqid.service")
    assert governors(machine) == ["schedutil"] * 2


def test_nothing_is_unknown(installed: Machine) -> None:
    assert installed.run("systemd-analyze", "verify", "piqid.service", "piqid.socket").stdout == ""
    assert installed.run("systemd-sysusers", "piqi.conf").stdout == ""
    assert installed.run("systemd-tmpfiles", "--create", "piqi.conf").stdout == ""
    assert installed.path("/var/lib/piqi/bundles").is_dir()
    assert installed.run("id", "-Gn", "piqi").stdout.split() == ["piqi", "video", "render"]
    for block in re.findall(r"```\n(\[Service\]\n.*?)```", (ROOT / "docs/systemd.md").read_text(), re.DOTALL):
        assert verified(installed, block) == ""


def test_what_is_unknown_is_said(installed: Machine) -> None:
    assert "PrivateIPC" in verified(installed, "[Service]\nPrivateIPC=yes\n")


def verified(machine: Machine, drop_in: str) -> str:
    """What systemd says of the service with it."""
    path = machine.path("/run/systemd/system/piqid.service.d/try.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text(drop_in)
    try:
        return machine.run("systemd-analyze", "verify", "piqid.service").stdout
    finally:
        path.unlink()


def test_udev_runs_what_shares_the_frequencies(installed: Machine) -> None:
    """Whenever a CPU's files are new; and nothing is wrong with the rules."""

    def said(action: str) -> list[str]:
        """What udev says that concerns us."""
        output = installed.run("udevadm", "test", f"--action={action}", "/devices/system/cpu/cpu0").stdout
        return [line for line in output.splitlines() if "piqi" in line]

    rules = "/usr/lib/udev/rules.d/99-piqi.rules"
    (program,) = set(re.findall(r'RUN\+="(\S+) share"', installed.path(rules).read_text()))
    assert os.access(installed.path(program), os.X_OK)
    for action in ("add", "change", "online"):
        read, run = said(action)
        assert read == f"Reading rules file: {rules}" and run == f"run: '{program} share'"
    assert len(said("offline")) == 1


def test_exposure(installed: Machine) -> None:
    text = installed.run("systemd-analyze", "security", "--no-pager", "piqid.service", check=False).stdout
    exposure = re.search(r"exposure level for piqid.service: ([\d.]+)", text)
    assert exposure is not None, text
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_tables_of_values(installed: Machine) -> None:
    """test_unit_versions.py, which needs no machine, is right about the values that this version takes."""
    unit = (ROOT / "systemd/piqid.service").read_text().splitlines()
    lines = [f"{name}={value}" for name, values in VALUES.items() for value in values.split()]
    last = [line for line in unit if line.partition("=")[0] in VALUES]  # what a unit says last is valid
    assert verified(installed, "\n".join(["[Service]", *lines, *last, ""])) == ""
    said = verified(installed, "\n".join(["[Service]", *NEWER_VALUES, ""]))
    assert [line for line in NEWER_VALUES if line.partition("=")[2] not in said] == []


def test_the_tables_of_versions(bare_machine: Machine) -> None:
    """It is right about settings and groups of system calls, too."""
    listed = bare_machine.run("/lib/systemd/systemd", "--dump-configuration-items").stdout
    known: dict[str, set[str]] = {}
    section = ""
    for line in listed.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line:
            known.setdefault(section, set()).add(line.partition("=")[0])
    for section, names in KNOWN_BY_239.items():
        if section != "Install":  # systemctl's, not the manager's
            assert set(names.split()) <= known[section]
    for section, versions in ADDED.items():
        assert {name: version <= OLDEST for name, version in versions.items()} == {
            name: name in known[section] for name in versions
        }
    groups = bare_machine.run("systemd-analyze", "syscall-filter", "--no-pager").stdout
    assert set(GROUPS.split()) <= set(re.findall(r"^(@\S+)", groups, re.MULTILINE))
