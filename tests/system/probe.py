"""Run inside the service's sandbox: tries what the daemon needs and what it must not be able to do, prints JSON."""

import ctypes
import errno
import json
import logging
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

POLICY = "/sys/devices/system/cpu/cpufreq/policy0"


def attempt(action: Callable[[], object]) -> str:
    """ "ok", or the name of the error's number."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def call(name: str, *arguments: object) -> None:
    """A function of libc. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def main() -> None:
    """Prints what came of each attempt."""
    sys.path.insert(0, "/usr/lib/piqi/python")
    from piqi_runtime.daemon.systemd import fields, journal_handler

    logging.basicConfig(level=logging.INFO, handlers=[journal_handler()])
    values = fields("client", model="probe", point=3, client_pid=4711, latency_us=123.4)
    logging.getLogger("probe").info("a probe", extra=values)
    logging.shutdown()

    libc_calls = {
        "unshare_user": ("unshare", 0x10000000),
        "unshare_net": ("unshare", 0x40000000),
        "mount": ("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "setuid": ("setuid", 0),
        "chroot": ("chroot", b"/"),
        "personality": ("personality", 0x0004000),
        "settimeofday": ("settimeofday", bytes(16), None),
        "sethostname": ("sethostname", b"x", 1),
        "ptrace": ("ptrace", 16, 1, None, None),
    }
    allowed = {
        "pin_thread": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "shared_memory": lambda: os.ftruncate(os.memfd_create("pool", os.MFD_ALLOW_SEALING), 4096),
        "runtime_directory": lambda: Path("/run/piqid/probe").write_text(""),
        "private_tmp": lambda: Path("/tmp/probe").write_text(""),
        "unix_socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "cpuinfo": lambda: Path("/proc/cpuinfo").read_text(),
    }
    if os.path.exists(POLICY):
        allowed["frequency_file"] = lambda: Path(POLICY, "scaling_governor").write_text("userspace\n")
    refused: dict[str, tuple[str, Callable[[], object]]] = {
        "internet": ("EAFNOSUPPORT", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "netlink": ("EAFNOSUPPORT", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "write_etc": ("EROFS", lambda: Path("/etc/piqi/probe").write_text("")),
        "write_usr": ("EROFS", lambda: Path("/usr/lib/piqi/probe").write_text("")),
        "write_bundles": ("EROFS", lambda: Path("/var/lib/piqi/bundles/probe").write_text("")),
        "write_kernel_setting": ("EROFS EACCES", lambda: os.open("/proc/sys/kernel/randomize_va_space", os.O_WRONLY)),
        "write_other_sysfs": ("EROFS", lambda: os.open("/sys/devices/system/cpu/uevent", os.O_WRONLY)),
        "read_home": ("EACCES", lambda: os.listdir("/root")),
        "read_kernel_log": ("ENOENT EACCES EPERM", lambda: os.open("/dev/kmsg", os.O_RDONLY)),
        "read_memory": ("ENOENT EACCES EPERM", lambda: os.open("/dev/mem", os.O_RDONLY)),
        "other_processes": ("ENOENT", lambda: Path("/proc/1/status").read_text()),
        "write_and_execute": ("EPERM", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
        "set_uid_file": ("EPERM", lambda: os.chmod("/tmp/probe", 0o4755)),
        "realtime": ("EPERM", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        **{name: ("EPERM", lambda line=line: call(*line)) for name, line in libc_calls.items()},
    }
    result = {
        "allowed": {name: attempt(action) for name, action in allowed.items()},
        "refused": {name: attempt(action) for name, (_, action) in refused.items()},
        "expected": {name: expected.split() for name, (expected, _) in refused.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
