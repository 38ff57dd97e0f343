"""A machine with systemd of its own: systemd-nspawn on this machine's root, whose changes are thrown away."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from piqi_runtime.boards import Board, load_board
from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

ROOT = Path(__file__).resolve().parents[2]
SHARE = Path("/srv/piqi-test")  # where the machine sees the folder of packages, bundles and so on
CPUFREQ = Path("/sys/devices/system/cpu/cpufreq")
SYSTEM_PYTHON = Path("/usr/bin/python3")
NSPAWN = [
    *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--volatile=overlay"),
    *("--private-network", "--capability=all", "--system-call-filter=bpf"),
]
# In a mount namespace of its own the bind mount of / goes away with it.
BIND = ["unshare", "--mount", "--propagation=private", "sh", "-ec", 'mount --bind / "$0"; exec "$@"']
CONFIG = f"""
board = "{SHARE}/board.toml"
bundle_folder = "{SHARE}/bundles"
frequency_state = "/run/piqid/frequencies.json"
"""


def board_text() -> str:
    """Two CPU clusters whose frequencies are those of the bound tree."""
    text = 'name = "testboard"\n'
    for letter, cpu, policy in (("L", min(os.sched_getaffinity(0)), 0), ("B", max(os.sched_getaffinity(0)), 4)):
        text += f"""
[[processors]]
letter = "{letter}"
name = "cluster {letter}"
kind = "cpu"
backend = "xnnpack"
cpus = [{cpu}]
freqs_khz = [408000, 1200000, 1800000]
domains = [["{CPUFREQ.relative_to("/")}/policy{policy}"]]
"""
    return text


def make_bundle(folder: Path, board: Board) -> None:
    """One layer, two operating points: fast on B, frugal on L."""
    tensors = {name: Tensor(name, (1, 2, 2, 1)) for name in ("x", "y")}
    operator = Operator("clamp", "relu", ("x",), ("y",), {"clamp_min": 0.0})
    points = (
        OperatingPoint(order="B", freqs="2", latency_ms=5.0, power_mw=6000.0, energy_mj=30.0, accuracy=70.0),
        OperatingPoint(order="L", freqs="0", latency_ms=10.0, power_mw=2000.0, energy_mj=20.0, accuracy=70.0),
    )
    write_bundle(
        folder,
        model=Model("net", tensors, (operator,), ("x",), ("y",)),
        table=ParetoTable(
            board="testboard",
            model="net",
            layers=TableLayers(count=1, letters="LB"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=points,
        ),
        partitions=(),
        input=BundleInput(name="x", shape=(1, 2, 2, 1), colour="grey"),
        outputs=[BundleOutput(name="y", shape=(1, 2, 2, 1))],
        board=board,
    )


def make_cpufreq(folder: Path) -> None:
    """As the kernel's, with files instead of a driver."""
    for policy in (0, 4):
        path = folder / f"policy{policy}"
        path.mkdir(parents=True)
        (path / "scaling_governor").write_text("schedutil\n")
        (path / "scaling_setspeed").write_text("<unsupported>\n")
        (path / "scaling_available_frequencies").write_text("408000 1200000 1800000\n")


@dataclasses.dataclass
class Machine:
    """A booted machine. `share` is our side of `SHARE`, `cpufreq` of the frequency files."""

    leader: int
    share: Path
    cpufreq: Path | None

    def run(self, *command: object, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine, as root."""
        result = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", *map(str, command)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            log = self.log() if command[0] == "systemctl" else ""
            pytest.fail(f"{' '.join(map(str, command))}:\n{result.stdout}\n{log}")
        return result

    def path(self, path: str | Path) -> Path:
        """Our path of one of the machine's files."""
        return Path(f"/proc/{self.leader}/root{path}")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value").stdout.strip()

    def pid(self) -> int:
        """The daemon's process, by the machine's numbers."""
        pid = int(self.show("piqid.service", "MainPID"))
        assert pid, self.log()  # nothing may be sent to process 0: that is the sender's group
        return pid

    def wait(self, unit: str, name: str, *values: str, timeout: float = 60) -> str:
        """Until a property is one of `values`."""
        deadline = time.monotonic() + timeout
        while (value := self.show(unit, name)) not in values:
            assert time.monotonic() < deadline, f"{unit}: {name} is {value}, not {values}\n{self.log()}"
            time.sleep(0.05)
        return value

    def log(self) -> str:
        """What the daemon and systemd have said of it."""
        return self.run("journalctl", "--no-pager", "--unit", "piqid.service", check=False).stdout[-4000:]

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries that match all of these."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "--output=json", "--all", *matches).stdout
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def connect(self) -> Connection:
        """A client of the daemon."""
        return Connection(self.path("/run/piqi/piqid.sock"))

    def fresh(self) -> None:
        """The daemon as after installation: running, nothing counted against it."""
        self.run("systemctl", "reset-failed", "piqid.service", "piqid.socket", check=False)
        self.run("systemctl", "start", "piqid.socket", "piqid.service")


class Connection:
    """A client's connection, by hand: one JSON object a message."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(60)
        # A path below /proc/PID/root may be longer than an address can be.
        folder = os.open(path.parent, os.O_PATH)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One request and its reply. Raises ConnectionError when the daemon has gone."""
        self._socket.send(json.dumps({"id": 1, "op": op, **arguments}).encode())
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """The next message."""
        message = self._socket.recv(1 << 16)
        if not message:
            raise ConnectionResetError("the daemon has gone")
        reply: dict[str, Any] = json.loads(message)
        return reply


def reason_to_skip() -> str:
    """Why there can be no machine here; "" if there can."""
    if os.geteuid() != 0:
        return "systemd-nspawn needs root"
    for program in ("systemd-nspawn", "nsenter", "unshare", "dpkg-deb"):
        if shutil.which(program) is None:
            return f"{program} is missing"
    if not SYSTEM_PYTHON.exists():
        return f"{SYSTEM_PYTHON} is missing"
    code = "import sys, systemd.journal; print(*sys.version_info[:2])"
    result = subprocess.run([SYSTEM_PYTHON, "-c", code], text=True, capture_output=True)
    if result.returncode != 0:
        return f"{SYSTEM_PYTHON}: {result.stderr.strip().splitlines()[-1]} (python3-systemd)"
    if result.stdout.split() != [str(number) for number in sys.version_info[:2]]:
        return f"{SYSTEM_PYTHON} is not of the version that the extension was built for"
    return ""


def build_package(path: Path, version: str) -> Path:
    """The Debian package, of this version, fast to make."""
    subprocess.run(
        [ROOT / "scripts/build_deb", sys.executable, "-Znone"],
        env=os.environ | {"PIQI_DEB": str(path), "PIQI_DEB_VERSION": version},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=240,
    )
    return path


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the machine will see as `SHARE`: package, board, bundles."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    share = tmp_path_factory.mktemp("machine")
    share.chmod(0o755)
    build_package(share / "piqi.deb", "1.0.0")
    (share / "board.toml").write_text(board_text())
    (share / "bundles").mkdir()
    make_bundle(share / "bundles/net", load_board(share / "board.toml"))
    for path in (share / "bundles", *(share / "bundles").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return share


@pytest.fixture(scope="session")
def bare_machine(share: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine without PiQi."""
    folder = tmp_path_factory.mktemp("nspawn")
    root = folder / "root"
    root.mkdir()
    with booted("piqi-machine", folder, share, [*BIND, root, *NSPAWN, f"--directory={root}"]) as machine:
        yield machine


@contextmanager
def booted(name: str, folder: Path, share: Path, command: Sequence[object]) -> Iterator[Machine]:
    """The machine that this command of systemd-nspawn starts, as long as it is needed. Skips where it does not boot."""
    name = f"{name}-{os.getpid()}"
    frequencies = share / f"{name}-cpufreq"
    groups = make_cgroups(name)
    join = ["sh", "-ec", 'for group in $0; do echo $$ > "$group/cgroup.procs"; done; exec "$@"', " ".join(groups)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*join, *map(str, command), f"--machine={name}", f"--bind={share}:{SHARE}", "systemd.unit=basic.target"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(folder), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
    try:
        leader = wait_for_boot(process)
        if leader is None:
            pytest.skip(f"systemd-nspawn cannot boot {name} here: {(folder / 'log').read_text()[-400:]}")
        machine = Machine(leader, share, frequencies if CPUFREQ.is_dir() else None)
        if machine.cpufreq:  # now: nspawn would hide it behind the sysfs that it mounts last
            make_cpufreq(machine.cpufreq)
            machine.run("mount", "--bind", SHARE / frequencies.name, CPUFREQ)
        yield machine
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # halts the machine; SIGKILL would leave its mounts and cgroups
        process.wait(120)
        for group in groups:
            for path in (*sorted(Path(group).glob("**/"), reverse=True), Path(group)):
                with suppress(OSError):
                    path.rmdir()


def make_cgroups(name: str) -> list[str]:
    """New ones, below this process's, in the hierarchies that systemd uses.

    Machines in the same one would have the same for each of their services, and end each other's.
    """
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchies = {"": ("unified", "."), "name=systemd": ("systemd",)}.get(controllers, ())
        for folder in (Path("/sys/fs/cgroup", hierarchy) / path.lstrip("/") for hierarchy in hierarchies):
            if os.access(folder / "cgroup.procs", os.W_OK):
                (folder / name).mkdir(exist_ok=True)
                made.append(str(folder / name))
                break
    return made


def is_init(pid: str) -> bool:
    """Whether it is the first of a PID namespace: what nspawn runs before still sees this machine's systemd."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"


def wait_for_boot(process: subprocess.Popen[bytes]) -> int | None:
    """The process number of the machine's init, once it has booted; None if that fails."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in filter(is_init, children):
            command = ["nsenter", "--target", child, "--all", "systemctl", "is-system-running"]
            state = subprocess.run(command, text=True, capture_output=True, timeout=60).stdout.strip()
            if state in ("running", "degraded"):
                return int(child)
        time.sleep(0.1)
    return None


@pytest.fixture(scope="session")
def installed(bare_machine: Machine) -> Machine:
    """The machine, with the package, which serves `net`."""
    bare_machine.run("dpkg", "--install", SHARE / "piqi.deb")
    bare_machine.path("/etc/piqi/daemon.toml").write_text(CONFIG)
    bare_machine.run("systemctl", "restart", "piqid.service")
    return bare_machine


@pytest.fixture
def machine(installed: Machine) -> Machine:
    """The machine, its daemon running."""
    installed.fresh()
    return installed
