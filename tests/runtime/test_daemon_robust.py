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
from daemon_helpers import PATIENCE_S, Connection, Process, codes, listens, scripted, wait_for

from piqi_runtime.config_files import CONFIGS


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
            looks = set[float]()
            while len(looks) < 4:  # each look at the sensors is another moment
                sensors = client.call({"op": "status"})["sensors"]
                looks.add(sensors["idle_s"])
            assert sensors.pop("idle_s") >= 0
            assert set(sensors.values()) == {None} and "temperature_c" in sensors
            policy = client.call({"op": "policy"})
            assert (policy["mode"], policy["rule"]) == ("balanced", None)
        assert wait_for(lambda: "WARNING" in process.log.read_text())
    finally:
        assert process.stop() == 0
    warnings = [line for line in process.log.read_text().splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1 and "policy0" in warnings[0], warnings


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
        assert wait_for(lambda: listens(path)), (tmp_path / "log").read_text()
        with Connection(path) as client:
            assert result(client) == [1, 1, 2, 0]
            assert client.call({"op": "status"})["frequencies"] == {}
        assert wait_for(lambda: "WARNING" in (tmp_path / "log").read_text())
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
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
                assert "late" not in client.call(client.frame(0, 0.005, deadline_ms=1e3 * PATIENCE_S))
            gate = process.gate()
            ids = [client.send(client.frame(0, gate.value)), client.send(client.frame(1, 0, deadline_ms=30))]
            gate.wait()
            client.read_by_the_daemon()
            time.sleep(0.04)
            gate.open()
            assert codes(client.replies(ids), ids) == ["ok", "deadline"]
            assert client.call({"op": "policy", "mode": "best", "seconds": PATIENCE_S})["mode"] == "best"
            for _ in range(9):  # also after looks at the clock
                assert client.call({"op": "policy"})["mode"] == "best"
            assert client.call({"op": "policy", "mode": "best", "seconds": 0.1})["mode"] == "best"
            assert wait_for(lambda: client.call({"op": "policy"})["override"] is None)
            started_s = time.monotonic()
            for _ in range(60):  # more than the allowance: held back for some tenths of a second, not for years
                client.call({"op": "hello", "version": 1})
            assert time.monotonic() - started_s > 0.05
            assert 0 < client.call({"op": "status"})["uptime_s"] < 3600
        assert process.stop() == 0


def test_a_full_disk_for_the_log(net: Path, tmp_path: Path) -> None:
    """Standard error refuses every byte: what would have been said is lost, nothing else."""
    arguments, path = command(tmp_path, bundles=[str(net)], tick_s=0.05)
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen([sys.executable, *arguments], stdout=full, stderr=full)
    try:
        assert wait_for(lambda: listens(path))
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
        assert process.wait(PATIENCE_S) == 0


def test_a_small_disk_for_the_log(net: Path, tmp_path: Path) -> None:
    """A file system that is full after some kilobytes, and has room again later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    try:
        filler = disk / "filler"
        # Nothing of what is sent below is held back.
        allowed = {"messages_per_s": 1e9, "message_burst": 1e9}
        arguments, path = command(tmp_path, bundles=[str(net)], **allowed)
        with open(disk / "log", "ab") as log:
            process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)
        assert wait_for(lambda: listens(path))
        with pytest.raises(OSError) as error, filler.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        assert error.value.errno == errno.ENOSPC
        with Connection(path) as client:
            # More than the disk has room for and the daemon keeps, however slowly it writes.
            for i in range(1500):
                client.call({"op": "limits", "min_accuracy": 99 if i % 2 else None})
            filler.unlink()

            def told() -> bool:
                """With what is said next."""
                for accuracy in (90, None):
                    client.call({"op": "limits", "min_accuracy": accuracy})
                return "entries lost" in (disk / "log").read_text()

            assert wait_for(told)
            assert client.code(client.frame(0, 1)) == "ok"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        subprocess.run(["umount", "--lazy", disk], check=False)


def test_a_log_that_nobody_reads(net: Path, tmp_path: Path) -> None:
    """A pipe that is full: a write to it would never return."""
    arguments, path = command(tmp_path, bundles=[str(net)])
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None and wait_for(lambda: listens(path))
        with Connection(path) as client:
            for i in range(1500):
                client.call({"op": "limits", "min_accuracy": 99 if i % 2 else None})
            assert client.code(client.frame(0, 1)) == "ok"
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        process.stderr.close()


def test_a_frame_that_is_longer_than_the_drain_gets_an_error(tmp_path: Path, bundle: Path) -> None:
    """Not silence: the one that runs, those that wait, and those that were not even read."""
    with scripted(tmp_path, bundle, drain_s=0.3) as process, Connection(process.path) as client:
        gate = process.gate()
        # Eight wait in the daemon's queue, the others in the socket.
        ids = [client.send(client.frame(i, 0 if i else gate.value)) for i in range(20)]
        gate.wait()
        process.popen.terminate()
        assert codes(client.replies(ids), ids) == ["shutting_down"] * 20
        assert client.socket.recv(100) == b""


def test_the_daemon_ends_though_a_backend_hangs(tmp_path: Path, bundle: Path) -> None:
    """The whole process: exit code 0 long before the frame would end, the error first."""
    script, runs = tmp_path / "hanging.py", tmp_path / "runs"
    script.write_text(
        "import sys, time\n"
        "from piqi_runtime.host.model_host import ModelHost\n"
        # No backend of this machine hangs when it is told to.
        f"ModelHost.run = lambda *_: (open({str(runs)!r}, 'w').close(), time.sleep(3600))\n"
        "from piqi_runtime.daemon.main import main\n"
        "sys.exit(main())\n"
    )
    arguments, path = command(tmp_path, "--board", "rk3399pro", bundles=[str(bundle)])
    process = Process([str(script), *arguments[2:]], path, tmp_path / "log")
    with Connection(path) as client:
        id = client.send(client.frame(0, 1))
        assert wait_for(runs.exists)
        process.popen.terminate()
        reply = client.receive()
        assert (reply["id"], reply["error"]["code"]) == (id, "shutting_down")
        assert process.popen.wait(PATIENCE_S) == 0
    assert not path.exists()


def test_a_driver_that_hangs_keeps_nobody_else_waiting(tmp_path: Path, bundle: Path) -> None:
    """Of a model whose frames are so short that the main thread would serve them itself, had it CPUs alone."""
    settings = {"npu": True, "short_us": 1e9}
    with scripted(tmp_path, bundle, **settings) as process, Connection(process.path) as client:
        gate = process.gate()
        client.send(client.frame(0, gate.value))
        gate.wait()
        with Connection(process.path) as other:
            assert other.code({"op": "status"}) == "ok"
        gate.open()
        assert client.receive()["ok"]


def test_the_drain_serves_what_it_can(tmp_path: Path, bundle: Path) -> None:
    """Frames that fit are answered, in order, and none twice."""

    def served(drain_s: float) -> int:
        with scripted(tmp_path, bundle, drain_s=drain_s) as process, Connection(process.path) as client:
            first, fifth = process.gate(), process.gate()
            values = [first.value, 0, 0, 0, fifth.value, 0, 0, 0]
            ids = [client.send(client.frame(slot, value)) for slot, value in enumerate(values)]
            first.wait()
            client.read_by_the_daemon()
            process.popen.terminate()
            first.open()
            replies = client.replies(ids)
            assert list(replies) == ids
            count = codes(replies, ids).count("ok")
            assert codes(replies, ids) == ["ok"] * count + ["shutting_down"] * (8 - count)
            assert client.socket.recv(100) == b""
            assert process.popen.wait(PATIENCE_S) == 0
            return count

    # A machine that stands still for a while gets more time.
    assert 4 in map(served, (0.3, 2.0, 10.0))


def test_a_reload_that_is_asked_for_too_early_is_done_later(net: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    os.mkfifo(policy)  # reading it waits for us
    text = (CONFIGS / "policies/default.toml").read_text()
    arguments, path = command(tmp_path, bundles=[str(net)], policy=str(policy))
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        with policy.open("w") as reader:
            process.send_signal(signal.SIGHUP)
            reader.write(text)
        assert wait_for(lambda: listens(path))
        with policy.open("w") as reader:  # opened again: it reloads
            reader.write(text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_what_starts_threads_is_loaded_after_signals_are_held() -> None:
    """A thread that was there before would take the signals as every process does: it would end."""
    script = "import sys, piqi_runtime.daemon.main; print(*{'numpy', 'piqi_native', 'pydantic'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("served", [True, False])
def test_signals_without_end(net: Path, tmp_path: Path, served: bool) -> None:
    """Impatient operators, and a service manager that reloads what ends: it ends as after one, whenever they come."""
    script = tmp_path / "told.py"
    script.write_text(
        "import sys\n"
        "from piqi_runtime.daemon import signals\n"
        "signals.hold()\n"  # as `main` does it, before what comes next loads NumPy
        "from piqi_runtime.daemon import process\n"
        "from piqi_runtime.errors import PiqiError\n"
        "def close(daemon, before=process.Daemon._close):\n"
        "    print('ending', flush=True)\n"
        "    before(daemon)\n"
        "    print('closed', flush=True)\n"
        "process.Daemon._close = close\n"
        "def read(*_):\n"
        "    raise PiqiError('no model today')\n"
        f"process.read_bundles = {'process.read_bundles' if served else 'read'}\n"
        "from piqi_runtime.daemon.main import main\n"
        "sys.exit(main())\n"
    )
    arguments, path = command(tmp_path, bundles=[str(net)])
    for _ in range(3):
        with (tmp_path / "log").open("w+") as log:
            threads = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}  # NumPy's take no signals either
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments[2:]], stdout=log, stderr=log, env=threads
            )
            # From when it holds them on; before, a signal ends it as it does any process.
            assert wait_for(lambda: listens(path) if served else "ending" in (tmp_path / "log").read_text())
            try:
                while process.poll() is None:
                    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                        process.send_signal(number)
                assert process.returncode == (0 if served else 1), (tmp_path / "log").read_text()
            finally:
                process.kill()
                process.wait()
            text = (tmp_path / "log").read_text()
            assert "closed" in text and "Traceback" not in text, text
            assert not path.exists()
