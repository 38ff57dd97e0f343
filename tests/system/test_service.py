"""The service on a machine of its own: activation, supervision, reload, journal, frequencies, hardening."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_runtime.client import Client
from piqi_runtime.daemon.systemd import MESSAGE_IDS

ROOT = Path(__file__).resolve().parents[2]
FRAME = {"data": "AACAvwAAAAAAAIA/AAAAQg==", "dtype": "float32", "shape": [1, 2, 2, 1]}  # -1, 0, 1, 32


def infer(client: Any) -> dict[str, Any]:
    reply = client.ask("infer", model="net", input=FRAME, output="inline")
    assert reply["ok"], reply
    return reply  # type: ignore[no-any-return]


def until(condition: Callable[[], Any], what: str, timeout: float = 60) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in {timeout} s not: {what}"
        time.sleep(0.05)
    return value


def governors(machine: Any) -> list[str]:
    if machine.cpufreq is None:
        pytest.skip("no cpufreq in this kernel's sysfs to bind a tree over")
    return [(machine.cpufreq / f"policy{policy}/scaling_governor").read_text().strip() for policy in (0, 4)]


def reconnected(machine: Any, old_pid: int) -> int:
    """A client that re-connects is served by another process; its number."""

    def served() -> int:
        try:
            with machine.connect() as client:
                pid: int = client.ask("hello", version=1)["pid"]
                return pid if pid != old_pid and infer(client) else 0
        except (ConnectionError, FileNotFoundError):
            return 0

    pid: int = until(served, "served again")
    return pid


def test_ready(machine: Any) -> None:
    assert machine.show("piqid.service", "ActiveState") == "active"
    assert machine.show("piqid.service", "Type") == "notify"
    assert "net at point" in machine.show("piqid.service", "StatusText")
    with machine.connect() as client:
        hello = client.ask("hello", version=1)
        assert (hello["pid"], hello["models"]) == (machine.pid(), ["net"])
        infer(client)


def test_serves_as_its_own_user(machine: Any) -> None:
    status = machine.run("cat", f"/proc/{machine.pid()}/status").stdout
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user = int(machine.run("id", "-u", "piqi").stdout)
    assert {int(number) for number in values["Uid"].split()} == {user} != {0}
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")
    assert {int(values[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_socket_starts_the_service(machine: Any) -> None:
    machine.run("systemctl", "stop", "piqid.service")
    assert machine.show("piqid.socket", "ActiveState") == "active"
    with machine.connect() as client:
        assert client.ask("hello", version=1)["models"] == ["net"]
    machine.wait("piqid.service", "ActiveState", "active")


def test_socket_is_for_the_group(machine: Any) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('/run/piqi/piqid.sock'); "
        's.send(b\'{"id": 1, "op": "hello", "version": 1}\'); print(s.recv(65536))'
    )
    client = ("/usr/bin/python3", "-c", code)
    stranger = machine.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *client, check=False)
    assert "PermissionError" in stranger.stdout
    group = machine.run("id", "-g", "piqi").stdout.strip()
    member = machine.run("setpriv", "--reuid=65534", f"--regid={group}", "--clear-groups", *client)
    assert '"ok":true' in member.stdout.replace(" ", "")


def is_left_alone(machine: Any) -> bool:
    """Whether a daemon that is well goes on after five times of telling so."""
    machine.wait("piqid.service", "ActiveState", "active")
    pid, told = machine.show("piqid.service", "MainPID"), set[str]()
    while len(told) < 6 and machine.show("piqid.service", "MainPID") == pid:
        told.add(machine.show("piqid.service", "WatchdogTimestampMonotonic"))
        time.sleep(0.05)
    return bool(machine.show("piqid.service", "MainPID") == pid)


def test_watchdog_ends_a_process_that_is_stopped(machine: Any) -> None:
    drop_in = machine.path("/run/systemd/system/piqid.service.d/watchdog.conf")
    drop_in.parent.mkdir(exist_ok=True)
    # However often: a machine that stands still has it ended, too.
    drop_in.write_text("[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec=1\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "piqid.service")
        # Not if the whole machine stands still for more than that second.
        assert any(is_left_alone(machine) for _ in range(5)), machine.log()
        machine.wait("piqid.service", "ActiveState", "active")
        pid, restarts = machine.pid(), int(machine.show("piqid.service", "NRestarts"))
        machine.run("kill", "-STOP", pid, check=False)
        reconnected(machine, pid)
        assert int(machine.show("piqid.service", "NRestarts")) > restarts
        until(lambda: "watchdog" in machine.log().lower(), "watchdog in the journal")
        if machine.cpufreq:  # given back to the first, taken by the second
            until(lambda: governors(machine) == ["userspace"] * 2, "frequencies taken again")
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "stop", "piqid.service")


@pytest.mark.parametrize("number", ["SEGV", "KILL"])
def test_crash_is_followed_by_a_restart(machine: Any, number: str) -> None:
    pid = machine.pid()
    with machine.connect() as client:
        infer(client)
        machine.run("kill", f"-{number}", pid)
        with pytest.raises((ConnectionError, TimeoutError)):
            client.ask("hello", version=1)
            client.receive()
    assert reconnected(machine, pid) == machine.pid()


def test_client_library_re_connects(machine: Any) -> None:
    frame = np.array([-1, 0, 1, 32], np.float32).reshape(1, 2, 2, 1)
    with Client(machine.path("/run/piqi/piqid.sock"), timeout_s=60) as client:
        before = client.infer(frame, format="float32_raw").outputs["y"]
        machine.run("kill", "-SEGV", machine.pid())
        after = client.infer(frame, format="float32_raw").outputs["y"]
    assert before.tolist() == after.tolist() == np.maximum(frame, 0).tolist()


def test_stops_at_once_in_mid_stream(machine: Any) -> None:
    with machine.connect() as client:
        infer(client)
        machine.run("systemctl", "stop", "piqid.service")
    assert machine.show("piqid.service", "Result") == "success"  # and not "timeout"
    assert machine.show("piqid.service", "ExecMainStatus") == "0"


def test_reload_keeps_clients(machine: Any) -> None:
    pid = machine.pid()
    with machine.connect() as client:
        infer(client)
        machine.run("systemctl", "reload", "piqid.service")
        machine.wait("piqid.service", "ActiveState", "active")
        infer(client)
    assert machine.pid() == pid
    assert until(lambda: machine.entries(f"MESSAGE_ID={MESSAGE_IDS['reload']}", f"_PID={pid}"), "reload in the journal")


def test_reload_of_a_broken_bundle_leaves_the_old_one(machine: Any) -> None:
    pid, manifest = machine.pid(), next((machine.share / "bundles/net").glob("manifest*"))
    good = manifest.read_bytes()
    try:
        with machine.connect() as client:
            infer(client)
            manifest.write_bytes(b"{")
            machine.run("systemctl", "reload", "piqid.service")
            machine.wait("piqid.service", "ActiveState", "active")
            infer(client)
            assert machine.pid() == pid
    finally:
        manifest.write_bytes(good)
        machine.run("systemctl", "restart", "piqid.service")


def test_journal_has_fields(machine: Any) -> None:
    pid = machine.pid()
    with machine.connect() as client:
        for power in (3000, None):
            assert client.ask("limits", model="net", max_power_mw=power)["ok"]
            until(lambda: infer(client)["order"] == "L", "at the frugal point")  # it begins at the fallback
    match = (f"MESSAGE_ID={MESSAGE_IDS['switch']}", f"_PID={pid}")
    entries = until(lambda: machine.entries(*match), "a switch in the journal")
    assert entries[-1]["MODEL"] == "net"
    assert {entry["POINT"] for entry in entries} <= {"0", "1"}
    assert entries[-1]["_SYSTEMD_UNIT"] == "piqid.service"
    assert entries[-1]["PRIORITY"] == "6"
    (ready, *_) = machine.entries(f"MESSAGE_ID={MESSAGE_IDS['ready']}", f"_PID={pid}")
    assert "net" in ready["MESSAGE"]


def test_journald_restart(machine: Any) -> None:
    pid = machine.pid()
    with machine.connect() as client:
        infer(client)
        machine.run("systemctl", "restart", "systemd-journald.service")
        infer(client)
        before = len(machine.entries(f"MESSAGE_ID={MESSAGE_IDS['reload']}", f"_PID={pid}"))
        machine.run("systemctl", "reload", "piqid.service")
        match = (f"MESSAGE_ID={MESSAGE_IDS['reload']}", f"_PID={pid}")
        until(lambda: len(machine.entries(*match)) > before, "an entry after the restart")
        infer(client)
    assert machine.pid() == pid


def test_journald_that_does_not_read(machine: Any) -> None:
    """As with a full disk: the daemon goes on, and says what it can later."""
    pid = machine.pid()
    journald = machine.show("systemd-journald.service", "MainPID")
    machine.run("kill", "-STOP", journald)
    try:
        with machine.connect() as client:
            for i in range(100):  # each says something
                assert client.ask("limits", model="net", max_power_mw=3000 if i % 2 else None)["ok"]
                infer(client)
    finally:
        machine.run("kill", "-CONT", journald)
    assert machine.pid() == pid
    assert machine.show("piqid.service", "ActiveState") == "active"


def test_frequencies_are_set_and_given_back(machine: Any) -> None:
    governors(machine)
    machine.run("systemctl", "stop", "piqid.service")
    assert governors(machine) == ["schedutil"] * 2
    machine.run("systemctl", "start", "piqid.service")
    assert governors(machine) == ["userspace"] * 2
    with machine.connect() as client:
        infer(client)
        order = infer(client)["order"]
    policy = machine.cpufreq / ("policy4" if order == "B" else "policy0")
    assert (policy / "scaling_setspeed").read_text().split()[0] == ("1800000" if order == "B" else "408000")
    assert policy.joinpath("scaling_governor").stat().st_gid == int(machine.run("id", "-g", "piqi").stdout)
    # A process that cannot clean up: ExecStopPost does.
    machine.run("kill", "-KILL", machine.pid())
    machine.run("systemctl", "stop", "piqid.service")
    assert governors(machine) == ["schedutil"] * 2
    assert not machine.path("/run/piqi/frequencies").exists()


def test_without_permission_on_frequencies_it_serves(machine: Any) -> None:
    governors(machine)
    machine.run("systemctl", "stop", "piqid.service")
    drop_in = machine.path("/run/systemd/system/piqid.service.d/no-frequencies.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nExecStartPre=\nReadWritePaths=\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "piqid.service")
        with machine.connect() as client:
            infer(client)
        assert governors(machine) == ["schedutil"] * 2
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "stop", "piqid.service")


def test_hardening_is_enforced(machine: Any) -> None:
    """A process with the service's settings tries what is not for it."""
    shutil.copy(Path(__file__).parent / "probe.py", machine.share / "probe.py")
    text = machine.path("/usr/lib/systemd/system/piqid.service").read_text()
    lines = []
    for line in text.replace("Type=notify", "Type=oneshot").splitlines():
        if line.startswith("ExecStart="):
            line = "ExecStart=/usr/bin/python3 -I /srv/piqi-test/probe.py\nSyslogIdentifier=piqi-probe"
        if not line.startswith(("Requires", "After", "Watchdog", "Restart", "NotifyAccess", "ExecReload", "Also")):
            lines.append(line)
    machine.run("systemctl", "stop", "piqid.service")
    unit = machine.path("/run/systemd/system/piqi-probe.service")
    unit.write_text("\n".join(lines))
    machine.run("systemctl", "daemon-reload")
    started = machine.run("systemctl", "start", "piqi-probe.service", check=False)
    unit.unlink()
    assert started.returncode == 0, machine.run("journalctl", "--no-pager", "--unit=piqi-probe").stdout

    def printed() -> list[str]:
        messages = [entry["MESSAGE"] for entry in machine.entries("SYSLOG_IDENTIFIER=piqi-probe")]
        return [line for line in messages if line.startswith("{")]

    result = json.loads(until(printed, "what the probe printed")[0])
    assert set(result["allowed"].values()) == {"ok"}, result["allowed"]
    if machine.cpufreq:
        assert "frequency_file" in result["allowed"]
    unexpected = {name: error for name, error in result["refused"].items() if error not in result["expected"][name]}
    assert unexpected == {}
    match = (f"MESSAGE_ID={MESSAGE_IDS['client']}", "MODEL=probe")
    (entry,) = until(lambda: machine.entries(*match), "the probe's entry")
    assert (entry["POINT"], entry["CLIENT_PID"], entry["LATENCY_US"]) == ("3", "4711", "123")
    assert entry["PRIORITY"] == "6"
