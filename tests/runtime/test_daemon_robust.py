"""What a board and its owner do to a daemon: taken paths, no sensors, clocks that jump, full disks, signals."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon_bundles import command, refused, result, start, write_net
from daemon_helpers import Connection, Process, scripted, wait_for


@pytest.fixture(scope="module")
def good_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("good") / "net")


@pytest.fixture
def net(good_net: Path, tmp_path: Path) -> Path:
    shutil.copytree(good_net, tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a file", "exists and is no socket"),
        ("a folder", "exists and is no socket"),
        ("a link to a file", "exists and is no socket"),
        ("another program's socket", "Protocol wrong type for socket"),
        ("a daemon's socket", "in use by a daemon that is running"),
    ],
)
def test_a_socket_path_that_is_taken(net: Path, tmp_path: Path, what: str, message: str) -> None:
    """What is there stays."""
    path = tmp_path / "piqid"
    kind = socket.SOCK_SEQPACKET if "daemon" in what else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as other:
        if "socket" in what:
            other.bind(str(path))
            other.listen()
        elif what == "a folder":
            path.mkdir()
        else:
            (tmp_path / "file").write_text("precious")
            path.symlink_to("file") if "link" in what else (tmp_path / "file").rename(path)
        before = path.lstat()
        assert refused(tmp_path, bundles=[str(net)]) == f"CRITICAL: socket: {path}: {message}\n"
        assert path.lstat().st_ino == before.st_ino
        if "file" in what:
            assert path.read_text() == "precious"


def test_a_socket_that_a_dead_daemon_left_is_replaced(net: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "piqid"))
        dead.listen()
    process = start(tmp_path, bundles=[str(net)])
    assert process.stop() == 0 and not process.path.exists()


BOARD = """
name = "host"
[[processors]]
letter = "B"
name = "a cluster"
kind = "cpu"
backend = "xnnpack"
cpus = [{cpu}]
freqs_khz = [408000, 1200000]
domains = [["sys/devices/system/cpu/cpufreq/policy0"]]
[[processors]]
letter = "N"
name = "emulated"
kind = "npu"
backend = "xnnpack"
cpus = [{cpu}]
host = "B"
weights = "per_channel"
"""


def test_a_sys_without_sensors_or_frequencies(net: Path, tmp_path: Path) -> None:
    """What is not known fulfils no rule, and the board is served as it is."""
    (tmp_path / "root/sys").mkdir(parents=True)
    (tmp_path / "board.toml").write_text(BOARD.format(cpu=min(os.sched_getaffinity(0))))
    board = str(tmp_path / "board.toml")
    process = start(tmp_path, bundles=[str(net)], root=str(tmp_path / "root"), board=board, tick_s=0.05)
    try:
        with Connection(process.path) as client:
            assert result(client) == [1, 1, 2, 0]
            time.sleep(0.3)  # several looks at the sensors
            status = client.call({"op": "status"})
            sensors = status["sensors"]
            assert sensors.pop("idle_s") >= 0
            assert set(sensors.values()) == {None} and "temperature_c" in sensors
            policy = client.call({"op": "policy"})
            assert (policy["mode"], policy["rule"]) == ("balanced", None)
        warnings = [line for line in process.log.read_text().splitlines() if line.startswith("WARNING")]
        assert len(warnings) == 1 and "policy0" in warnings[0], warnings
    finally:
        assert process.stop() == 0


def test_no_permission_on_frequency_files(net: Path, tmp_path: Path) -> None:
    """One warning; everything else works, and nothing was changed."""
    policy = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    for name, text in (("scaling_governor", "schedutil\n"), ("scaling_setspeed", "<unsupported>\n")):
        (policy / name).write_text(text)
        (policy / name).chmod(0o444)
    (tmp_path / "board.toml").write_text(BOARD.format(cpu=min(os.sched_getaffinity(0))))
    board = str(tmp_path / "board.toml")
    arguments, path = command(tmp_path, bundles=[str(net)], root=str(tmp_path / "root"), board=board)
    bounded: list[str] = []
    if os.geteuid() == 0:  # whom files do not keep from anything, but for this capability
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is missing")
        bounded = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*bounded, sys.executable, *arguments], stderr=log)
    try:
        assert wait_for(path.exists, 20), (tmp_path / "log").read_text()
        with Connection(path) as client:
            assert result(client) == [1, 1, 2, 0]
            assert client.call({"op": "status"})["frequencies"] == {}
    finally:
        process.terminate()
        assert process.wait(10) == 0
    warnings = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1 and "scaling_governor" in warnings[0] and "Permission denied" in warnings[0], warnings
    assert (policy / "scaling_governor").read_text() == "schedutil\n"


CLOCK = """
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* Ten years ahead, ten years behind, right: by turns. */
static time_t jump(void) {
  static unsigned calls;
  return (time_t[]){315360000, -315360000, 0}[__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) % 3];
}
int clock_gettime(clockid_t clock, struct timespec* now) {
  const long status = syscall(SYS_clock_gettime, clock, now);
  if (status == 0 && clock == CLOCK_REALTIME) now->tv_sec += jump();
  return (int)status;
}
int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  struct timespec precise;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}
time_t time(time_t* target) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (target) *target = now.tv_sec;
  return now.tv_sec;
}
"""


def test_a_clock_that_jumps(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines, overrides and pauses follow the monotonic clock, whatever somebody sets the other one to."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    shown = subprocess.run(
        [sys.executable, "-c", "import time; print(max(abs(time.time() - time.time()) for _ in range(9)))"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert float(shown.stdout) > 1e8
    with scripted(tmp_path, bundle, tick_s=0.05, messages_per_s=200.0, message_burst=20.0) as process:
        monkeypatch.delenv("LD_PRELOAD")
        with Connection(process.path) as client:
            for _ in range(20):
                assert "late" not in client.call(client.frame(0, 0.005, deadline_ms=1000))
            client.send(client.frame(0, 0.1))
            late = client.send(client.frame(1, 0, deadline_ms=30))
            replies = {reply["id"]: reply for reply in (client.receive() for _ in range(2))}
            assert replies[late]["error"]["code"] == "deadline"
            assert client.call({"op": "policy", "mode": "best", "seconds": 0.4})["mode"] == "best"
            time.sleep(0.2)
            assert client.call({"op": "policy"})["mode"] == "best"
            assert wait_for(lambda: client.call({"op": "policy"})["override"] is None, 2)
            started_s = time.monotonic()
            for _ in range(60):  # more than the allowance: held back for some tenths of a second, not for years
                client.call({"op": "hello", "version": 1})
            assert 0.05 < time.monotonic() - started_s < 2
            assert 0 < client.call({"op": "status"})["uptime_s"] < 60
        started_s = time.monotonic()
        assert process.stop() == 0 and time.monotonic() - started_s < 1


def test_a_full_disk_for_the_log(net: Path, tmp_path: Path) -> None:
    """Standard error refuses every byte: what would have been said is lost, nothing else."""
    arguments, path = command(tmp_path, bundles=[str(net)], tick_s=0.05)
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen([sys.executable, *arguments], stdout=full, stderr=full)
    try:
        assert wait_for(path.exists, 20)
        with Connection(path) as client:
            client.call({"op": "subscribe", "events": ["reload"]})
            for i in range(50):  # each says something
                client.call({"op": "limits", "min_accuracy": 99 if i % 2 else None})
                assert client.code(client.frame(0, 1)) == "ok"
            process.send_signal(signal.SIGHUP)
            while client.receive().get("event") != "reload":
                pass
            assert client.code(client.frame(0, 1)) == "ok"
    finally:
        process.terminate()
        assert process.wait(5) == 0


def test_a_small_disk_for_the_log(net: Path, tmp_path: Path) -> None:
    """A file system that is full after some kilobytes, and has room again later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    try:
        filler = disk / "filler"
        arguments, path = command(tmp_path, bundles=[str(net)])
        with open(disk / "log", "ab") as log:
            process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)
        assert wait_for(path.exists, 20)
        with pytest.raises(OSError) as error, filler.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        assert error.value.errno == errno.ENOSPC
        with Connection(path) as client:
            for i in range(200):
                client.call({"op": "limits", "min_accuracy": 99 if i % 2 else None})
            filler.unlink()
            assert wait_for(lambda: client.call({"op": "limits", "min_accuracy": 90})["ok"])
            client.call({"op": "limits", "min_accuracy": None})
            assert client.code(client.frame(0, 1)) == "ok"
        process.terminate()
        assert process.wait(5) == 0
        assert "entries lost" in (disk / "log").read_text()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=False)


def test_a_log_that_nobody_reads(net: Path, tmp_path: Path) -> None:
    """A pipe that is full: a write to it would never return."""
    arguments, path = command(tmp_path, bundles=[str(net)])
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None and wait_for(path.exists, 20)
        with Connection(path) as client:
            for i in range(1500):
                client.call({"op": "limits", "min_accuracy": 99 if i % 2 else None})
            assert client.code(client.frame(0, 1)) == "ok"
    finally:
        started_s = time.monotonic()
        process.terminate()
        assert process.wait(5) == 0
        assert time.monotonic() - started_s < 2
        process.stderr.close()


def test_a_frame_that_is_longer_than_the_drain_gets_an_error(tmp_path: Path, bundle: Path) -> None:
    """Not silence: the one that runs, those that wait, and those that were not even read."""
    with scripted(tmp_path, bundle, drain_s=0.3) as process, Connection(process.path) as client:
        count = 20  # eight wait in the daemon's queue, the others in the socket
        ids = [client.send(client.frame(i, 30 if i == 0 else 0)) for i in range(count)]
        time.sleep(0.1)
        started_s = time.monotonic()
        process.popen.terminate()
        replies = {reply["id"]: reply for reply in (client.receive() for _ in range(count))}
        assert time.monotonic() - started_s < 1
        assert [replies[i]["error"]["code"] for i in ids] == ["shutting_down"] * count
        assert client.socket.recv(100) == b""
        process.popen.kill()  # the script's interpreter waits for its thread; the daemon's does not, see below


def test_the_daemon_ends_though_a_backend_hangs(tmp_path: Path, bundle: Path) -> None:
    """The whole process: exit code 0 within two seconds, the error first."""
    script = tmp_path / "hanging.py"
    script.write_text(
        "import sys, time\n"
        "from piqi_runtime.host.model_host import ModelHost\n"
        "ModelHost.run = lambda *_: time.sleep(60)\n"  # no backend of this machine hangs when it is told to
        "from piqi_runtime.daemon.main import main\n"
        "sys.exit(main())\n"
    )
    arguments, path = command(tmp_path, "--board", "rk3399pro", bundles=[str(bundle)])
    process = Process([str(script), *arguments[2:]], path, tmp_path / "log")
    with Connection(path) as client:
        id = client.send(client.frame(0, 1))
        time.sleep(0.1)
        started_s = time.monotonic()
        process.popen.terminate()
        reply = client.receive()
        assert (reply["id"], reply["error"]["code"]) == (id, "shutting_down")
        assert process.popen.wait(5) == 0
        assert time.monotonic() - started_s < 2
    assert not path.exists()


def test_the_drain_serves_what_it_can(tmp_path: Path, bundle: Path) -> None:
    """Frames that fit are answered, in order, and none twice."""
    with scripted(tmp_path, bundle, drain_s=0.5) as process, Connection(process.path) as client:
        ids = [client.send(client.frame(i, 0.1)) for i in range(8)]
        time.sleep(0.05)
        process.popen.terminate()
        replies = [client.receive() for _ in ids]
        assert [reply["id"] for reply in replies] == ids
        codes = [reply.get("error", {}).get("code", "ok") for reply in replies]
        served = codes.count("ok")
        assert 4 <= served <= 6 and codes == ["ok"] * served + ["shutting_down"] * (8 - served)
        assert client.socket.recv(100) == b""
        assert process.popen.wait(5) == 0
