"""The units use nothing that systemd 247 does not know: an unknown setting is a warning there, and no protection."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDEST = 247
#: What systemd 239's parser knows (src/core/load-fragment-gperf.gperf.m4 of Red Hat Enterprise Linux 8).
KNOWN_BY_239 = {
    "Unit": "Description Documentation Requires After StartLimitIntervalSec StartLimitBurst",
    "Service": (
        "Type NotifyAccess ExecStartPre ExecStart ExecReload ExecStopPost WatchdogSec TimeoutStartSec TimeoutStopSec "
        "Restart RestartSec User Group RuntimeDirectory UMask Environment TasksMax LimitNOFILE DevicePolicy "
        "DeviceAllow ProtectKernelTunables ReadWritePaths ProtectSystem ProtectHome PrivateTmp PrivateNetwork "
        "IPAddressDeny RestrictAddressFamilies NoNewPrivileges CapabilityBoundingSet AmbientCapabilities "
        "ProtectKernelModules ProtectControlGroups PrivateUsers RestrictNamespaces RestrictRealtime LockPersonality "
        "MemoryDenyWriteExecute KeyringMode RemoveIPC SystemCallArchitectures SystemCallFilter SystemCallErrorNumber"
    ),
    "Socket": "ListenSequentialPacket SocketGroup SocketMode Backlog RemoveOnStop",
    "Install": "Also WantedBy",
}
#: What came later, and when, as systemd.exec(5) says ("Added in version"). test_systemd_247.py asks 247 itself.
ADDED = {
    "Service": {
        "ProtectHostname": 242,
        "RestrictSUIDSGID": 242,
        "ProtectKernelLogs": 244,
        "ProtectClock": 245,
        "ProtectProc": 247,
        "ProcSubset": 247,
        # Not to be used: for a message that says why.
        "PrivateIPC": 248,
        "ExecPaths": 248,
        "NoExecPaths": 248,
        "RestrictFileSystems": 250,
        "MemoryKSM": 254,
        "PrivatePIDs": 257,
    }
}
#: Settings whose values have grown, and those that 247 takes.
VALUES = {
    "Type": "simple exec forking oneshot dbus notify idle",  # notify-reload: 253
    "ProtectSystem": "yes no full strict",
    "ProtectHome": "yes no read-only tmpfs",
    "ProtectProc": "noaccess invisible ptraceable default",
    "ProtectControlGroups": "yes no",  # private, strict: 257
    "ProtectHostname": "yes no",  # private: 258
    "PrivateTmp": "yes no",  # disconnected: 257
    "PrivateUsers": "yes no",  # self, identity: 257
    "Restart": "no on-success on-failure on-abnormal on-watchdog on-abort always",
    "DevicePolicy": "auto closed strict",
    "KeyringMode": "inherit private shared",
}
#: Groups of system calls that systemd 239 has (src/shared/seccomp-util.c).
GROUPS = (
    "@aio @basic-io @chown @clock @cpu-emulation @debug @default @file-system @io-event @ipc @keyring @memlock @module "
    "@mount @network-io @obsolete @privileged @process @raw-io @reboot @resources @setuid @signal @swap @sync "
    "@system-service @timer"
)


def settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Section, name and value of each line."""
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and line[0] not in "#;":
            name, separator, value = line.partition("=")
            assert separator, line
            yield section, name, value


def problems(text: str) -> list[str]:
    """Lines that systemd 247 does not know."""
    found = []
    for section, name, value in settings(text):
        added = 239 if name in KNOWN_BY_239.get(section, "").split() else ADDED.get(section, {}).get(name)
        if added is None:
            found.append(f"[{section}] {name}: look up since when systemd has it, and add it to the table")
        elif added > OLDEST:
            found.append(f"[{section}] {name}: only since systemd {added}")
        if name in VALUES and value not in VALUES[name].split():
            found.append(f"[{section}] {name}={value}: expected one of {VALUES[name]}")
        if name == "SystemCallFilter":
            groups = [word for word in value.removeprefix("~").split() if word.startswith("@")]
            found += [f"SystemCallFilter: {group}" for group in groups if group not in GROUPS.split()]
    return found


@pytest.mark.parametrize("name", ["piqid.service", "piqid.socket"])
def test_units_are_for_systemd_247(name: str) -> None:
    assert problems((ROOT / "systemd" / name).read_text()) == []


def test_drop_ins_of_the_documentation() -> None:
    blocks = re.findall(r"```\n(\[Service\]\n.*?)```", (ROOT / "docs/systemd.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert problems(block) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("PrivateIPC=yes", "[Service] PrivateIPC: only since systemd 248"),
        ("Type=notify-reload", "[Service] Type=notify-reload: expected one of simple"),
        ("ProtectEverything=yes", "[Service] ProtectEverything: look up since when"),
        ("SystemCallFilter=~@sandbox", "SystemCallFilter: @sandbox"),
    ],
)
def test_what_is_newer_is_found(line: str, said: str) -> None:
    text = (ROOT / "systemd/piqid.service").read_text()
    (problem,) = problems(text.replace("\nUser=piqi\n", f"\nUser=piqi\n{line}\n"))
    assert problem.startswith(said)
