"""The C client's frames in two steps, policy and events: against a real daemon, a scripted one, one that misbehaves."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from c_client_helpers import (
    CLIENT,
    FLOAT32_RAW,
    PATIENT,
    RGB8,
    ROOT,
    SANITIZED,
    Daemon,
    Driver,
    FakeDaemon,
    compiled,
    encoded,
    good,
    output,
    refusal,
)
from daemon_helpers import Connection, scripted, wait_for

SWITCH, THROTTLE, DEGRADE, RELOAD, FAULT = 1, 2, 4, 8, 16
MOST = 16

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c_client") / "driver"
    return compiled(program, *SANITIZED, ROOT / "tests/runtime/c_client_driver.c")


@pytest.fixture
def run(driver: Path) -> Iterator[Driver]:
    """A driver that must end without a word of the sanitizers."""
    process = Driver(driver)
    yield process
    assert process.close() == 0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("piqid"))
    daemon.start()
    yield daemon
    daemon.stop()


def fill(run: Driver, slot: int, seconds: float) -> None:
    """A frame of the scripted daemon's: so long it takes."""
    run(f"fill {64 * slot} {struct.pack('4f', seconds, 0, 0, slot).hex()}")


def submit(run: Driver, slot: int, latest: bool = False) -> int:
    """Outputs 2048 bytes behind the frame."""
    reply = run(f"submit {FLOAT32_RAW} 0 0 0 {64 * slot} 0 1 {2048 + 64 * slot} 0 0 {int(latest)}")
    assert reply.startswith("ok "), reply
    return int(reply.split(" ")[1])


def slot_of(reply: str) -> int:
    """Of the frame whose result it is: its last value."""
    assert reply.startswith("ok net "), reply
    return int(struct.unpack("4f", bytes.fromhex(reply.rsplit(" ", 1)[1]))[3])


def test_frames_under_way_at_once(run: Driver, tmp_path: Path, bundle: Path) -> None:
    """Answers are had in any order of ids, also with other calls in between."""
    with scripted(tmp_path, bundle) as process:
        assert run(f"open {process.path} 60000 4096") == "ok"
        gate = process.gate()
        for slot in range(8):
            fill(run, slot, 0.01 if slot else gate.value)
        ids = [submit(run, slot) for slot in range(8)]
        assert len(set(ids)) == 8
        gate.wait()
        assert run("models").startswith("ok net")  # while they run
        gate.open()
        assert [slot_of(run(f"receive {ids[slot]}")) for slot in (0, 5, 1, 7)] == [0, 5, 1, 7]
        fill(run, 9, 0)
        assert slot_of(run(f"infer {FLOAT32_RAW} 0 0 0 {64 * 9} 0 1 {2048 + 64 * 9}")) == 9
        assert [slot_of(run(f"receive {ids[slot]}")) for slot in (6, 2, 4, 3)] == [6, 2, 4, 3]
        assert run(f"receive {ids[0]}") == f"argument id: nothing was submitted under {ids[0]}"  # it has been had
        assert run("receive 12345").startswith("argument id:") and run("receive -1").startswith("argument id:")


def test_at_most_so_many(run: Driver, tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle) as process:
        run(f"open {process.path} 60000 4096")
        for slot in range(MOST):
            fill(run, slot, 0.02)
        ids = [submit(run, slot) for slot in range(MOST)]  # more than the daemon's queue: the last ones wait
        assert run(f"submit {FLOAT32_RAW} 0 0 0 0").startswith(f"argument expected at most {MOST} requests under way")
        assert slot_of(run(f"receive {ids[0]}")) == 0
        ids.append(submit(run, 0))
        assert [slot_of(run(f"receive {id}")) for id in ids[1:]] == [*range(1, MOST), 0]


def test_a_newer_frame_takes_the_place_of_one_that_waits(run: Driver, tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle) as process:
        run(f"open {process.path} 60000 4096")
        gate = process.gate()
        fill(run, 0, gate.value)
        ids = [submit(run, 0, latest=True)]
        gate.wait()
        for slot in (1, 2, 3):
            fill(run, slot, 0)
            ids.append(submit(run, slot, latest=True))
        assert run("models").startswith("ok net")  # the others have been read
        gate.open()
        replies = [run(f"receive {id}") for id in ids]
        assert [reply.split(" ")[0] for reply in replies] == ["ok", "dropped", "dropped", "ok"]
        assert slot_of(replies[3]) == 3


def test_what_is_late_can_be_asked_for_again(run: Driver, tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle) as process:
        assert run.patiently(f"open {process.path} 200 4096") == "ok"
        gate = process.gate()
        fill(run, 0, gate.value)
        fill(run, 1, 0)
        first, second = submit(run, 0), submit(run, 1)
        assert run(f"receive {first}").startswith("timeout ")
        assert run(f"receive {second}").startswith("timeout ")
        gate.open()
        assert slot_of(run.patiently(f"receive {second}")) == 1
        assert slot_of(run.patiently(f"receive {first}")) == 0


def test_an_error_is_of_the_frame_it_belongs_to(run: Driver, tmp_path: Path, bundle: Path) -> None:
    with scripted(tmp_path, bundle) as process:
        run(f"open {process.path} 60000 4096")
        for slot, seconds in enumerate((0, float("nan"), 0)):
            fill(run, slot, seconds)
        ids = [submit(run, slot) for slot in range(3)]
        assert slot_of(run(f"receive {ids[2]}")) == 2
        assert run(f"receive {ids[1]}").startswith("backend_failed backend_failed: as the frame says")
        assert slot_of(run(f"receive {ids[0]}")) == 0


def test_what_was_under_way_is_lost_with_the_daemon(run: Driver, tmp_path: Path) -> None:
    """The answers that had come are not."""
    daemon = Daemon(tmp_path)
    daemon.start()
    run(f"open {daemon.socket} 60000 4096")
    line = f"submit {RGB8} 2 2 0 0 1 1 1024"
    ids = [int(run(line).split(" ")[1]) for _ in range(2)]
    assert run(f"receive {ids[1]}").startswith("ok net ")  # puts the first one's aside
    assert daemon.process
    daemon.process.send_signal(signal.SIGSTOP)
    lost = int(run(line).split(" ")[1])
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert run(f"receive {lost}").startswith("lost ")
    assert run(f"receive {lost}").startswith("argument id:")
    assert run(f"receive {ids[0]}").startswith("ok net ")
    again = run(line)  # over a new connection
    assert again.startswith("ok ") and run(f"receive {again.split(' ')[1]}").startswith("ok net ")
    daemon.stop()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda id: b"{", "protocol"),
        (lambda id: good({"id": id}), "protocol"),  # without its outputs
        (lambda id: good({"id": id}, outputs=[output(4, 4094)]), "protocol"),
        (lambda id: refusal(id, "deadline"), "deadline"),
        (lambda id: refusal(None, "bad_message"), "bad_message"),
        (lambda id: encoded({"id": id + 7, "ok": True}), "protocol"),
    ],
)
def test_answers_that_are_wrong(run: Driver, tmp_path: Path, reply: object, expected: str) -> None:
    def answer(message: dict[str, object], _: int) -> list[bytes]:
        if message["op"] == "models":
            return [encoded({"id": message["id"], "ok": True, "models": []})]
        return [reply(message["id"])]  # type: ignore[operator]

    fake = FakeDaemon(tmp_path / "s", answer)
    run(f"open {fake.path} 60000 4096")
    id = run(f"submit {RGB8} 2 2 0 0 0 1 1024").split(" ")[1]
    assert run(f"receive {id}").startswith(expected)
    assert run(f"receive {id}").startswith("argument id:")
    assert run("models").startswith("ok")  # maybe over a new connection
    fake.close()


def test_a_second_answer_is_passed_over(run: Driver, tmp_path: Path) -> None:
    def answer(message: dict[str, object], _: int) -> list[bytes]:
        return [good(message, point=1, outputs=[output(4, 0)]), good(message, point=2, outputs=[output(4, 0)])]

    fake = FakeDaemon(tmp_path / "s", answer)
    run(f"open {fake.path} 60000 4096")
    ids = [run(f"submit {RGB8} 2 2 0 0 0 1 1024").split(" ")[1] for _ in range(3)]
    assert [run(f"receive {id}").split(" ")[2] for id in reversed(ids)] == ["1"] * 3
    fake.close()


def test_policy(run: Driver, daemon: Daemon) -> None:
    run(f"open {daemon.socket} 60000 0")
    state = run("policy")
    assert state.startswith("ok default balanced rule= overridden=0 left=0 modes=balanced,best,"), state
    state = run("set_policy saver 30")
    assert state.startswith("ok default saver rule= overridden=1 left=30 modes=")
    assert run("set_policy best 0").startswith("ok default best rule= overridden=1 left=0 ")
    with Connection(daemon.socket, pool=False) as other:
        assert other.call({"op": "policy"})["mode"] == "best"
    assert run("set_policy - 0").startswith("ok default balanced rule= overridden=0 ")
    assert run('set_policy no"such 0').startswith("bad_argument ")
    assert run("set_policy best -1").startswith("argument seconds: expected 0 to 1e+09, got -1")
    assert run("set_policy - 5").startswith("argument seconds: expected 0 without a mode, got 5")
    assert run("policy").startswith("ok default balanced")


def test_events(run: Driver, daemon: Daemon) -> None:
    with Connection(daemon.socket, pool=False) as other:  # else there may be nothing to switch from
        assert wait_for(lambda: other.call({"op": "status"})["models"]["net"]["point"] == 1)
    run(f"open {daemon.socket} 60000 4096")
    assert run("event 50").startswith("timeout ")
    assert run("subscribe 32").startswith("argument kinds: unknown, 0x20")
    assert run(f"subscribe {SWITCH}") == "ok"
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok net")
    run("limits 69.5")  # to B
    event = run("event 60000")
    while ">0 B timed=1 " not in event:  # the switch to L may be told late
        assert event.startswith(f"ok {SWITCH} missed=0 net "), event
        event = run("event 60000")
    run("limits 0")
    assert run("event 60000").startswith(f"ok {SWITCH} missed=0 net 0>1 L timed=1 ")
    assert run(f"subscribe {DEGRADE | RELOAD}") == "ok"
    run("limits 90")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok net")  # the event came before
    assert run("event 60000") == f"ok {DEGRADE} missed=0 net 0>0  timed=0  0 active=1 [min_accuracy]  "
    run("limits 0")
    assert " active=0 [] " in run("event 60000")
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    event = run("event 60000")
    assert event.startswith(f"ok {RELOAD} ") and " active=1 " in event and event.endswith("or changed: no bundle")
    assert run("subscribe 0") == "ok"
    run("limits 90")
    run("limits 0")
    assert run("event 100").startswith(f"timeout {daemon.socket}: no event in 100 ms")
    assert run("event -1").startswith("argument ")


def test_subscriptions_outlive_the_daemon(run: Driver, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    run(f"open {daemon.socket} 60000 0")
    run(f"subscribe {RELOAD}")
    daemon.stop(signal.SIGKILL)

    told = threading.Event()

    def restart() -> None:
        time.sleep(0.3)
        daemon.start()
        assert daemon.process
        while not told.wait(0.2):  # when it has subscribed again, only it knows
            daemon.process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=restart)
    thread.start()
    event = run("event 60000")
    told.set()
    thread.join()
    assert event.startswith(f"ok {RELOAD} "), event
    daemon.stop()
    while event.startswith("ok "):  # those of the other signals
        began_s = time.monotonic()
        event = run("event 300")
    assert event.split(" ")[0] in ("connect", "lost")
    assert time.monotonic() - began_s > 0.1


def test_events_that_nobody_asks_for(run: Driver, tmp_path: Path) -> None:
    """The newest 32 are kept, whatever they hold."""

    def answer(message: dict[str, object], _: int) -> list[bytes]:
        if message["op"] != "infer":
            return [encoded({"id": message["id"], "ok": True})]
        events = [encoded({"event": "switch", "model": "m", "old": i, "new": i + 1, "order": "L"}) for i in range(40)]
        odd = [
            encoded({"event": "later version's", "model": [1]}),
            encoded({"event": 3}),
            encoded({"event": "throttle", "model": 7, "processor": "\u00e9" * 90, "factor": 2.5, "throttled": True}),
            encoded({"event": "fault", "processors": "GN", "code": "backend_hung", "message": "x" * 2000, "point": 3}),
        ]
        return [*events, *odd, good(message)]

    fake = FakeDaemon(tmp_path / "s", answer)
    run(f"open {fake.path} 60000 4096")
    run("subscribe 31")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok ")
    assert run("event 0").startswith("ok 1 missed=10 m 10>11 L ")
    for i in range(11, 40):
        assert run("event 0").startswith(f"ok 1 missed=0 m {i}>{i + 1} L ")
    throttle = run("event 0")
    assert throttle.startswith("ok 2 missed=0  0>0  timed=0 ") and throttle.endswith(f" {'é' * 15} 2.5 active=1 []  ")
    assert run("event 0") == f"ok 16 missed=0  0>3  timed=0 GN 0 active=0 [] backend_hung {'x' * 511}"
    assert run("event 0").startswith("timeout ")
    fake.close()


def test_the_examples_of_the_documentation(daemon: Daemon, tmp_path: Path) -> None:
    """Both compile; the first is a program that classifies, the second a loop that ours fills with three frames."""
    program, loop = re.findall("```c\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    (tmp_path / "program.c").write_text(program)
    (tmp_path / "loop.c").write_text(
        loop + "#include <stdio.h>\n#include <string.h>\n"
        "static int left = 3;\n"
        "int next_frame(void *place, size_t size) { memset(place, 10 * left, size); return left-- > 0; }\n"
        "int main(void) {\n"
        "  static piqi_result result;\n  piqi_client *client;\n  piqi_options options;\n  piqi_request request;\n"
        "  int status;\n"
        "  memset(&options, 0, sizeof options);\n  memset(&request, 0, sizeof request);\n"
        "  options.pool_bytes = 24;\n  request.width = request.height = 2;\n  request.top_k = 1;\n"
        "  piqi_open(&options, &client);\n  status = stream(client, request, 12, &result);\n"
        '  printf("%s %g\\n", piqi_status_name(status), result.decoded[0].score);\n'
        "  piqi_close(client);\n  return 0;\n}\n"
    )
    outputs = []
    for name in ("program", "loop"):
        executable = compiled(tmp_path / name, *SANITIZED, PATIENT, tmp_path / f"{name}.c", CLIENT / "piqi.c")
        environment = {**os.environ, "PIQI_SOCKET": str(daemon.socket)}
        outputs.append(subprocess.run([executable], text=True, capture_output=True, env=environment, check=True).stdout)
    assert outputs == ["class 0 \u00e9\u6f22\U0001f600 128.000\n", "ok 10\n"]


def test_what_is_installed_compiles(tmp_path: Path) -> None:
    """piqi.h where compilers look, piqi.c beside the examples, as an application would use them."""
    script = ROOT / "scripts/install_files.py"
    prefix = tmp_path / "prefix"
    subprocess.run(
        [sys.executable, script, "--prefix", "/prefix", "--destdir", tmp_path],
        check=True,
        timeout=120,
    )
    assert (prefix / "include/piqi.h").read_bytes() == (ROOT / "native/client/piqi.h").read_bytes()
    source = tmp_path / "application"
    text = "#include <piqi.h>\nint main(void) { return piqi_status_name(PIQI_OK)[0] != 'o'; }\n"
    for compiler, suffix in (("gcc", ["-std=c99"]), ("g++", ["-std=c++17", "-x", "c++"])):
        source.with_suffix(".c").write_text(text)
        command = [compiler, *suffix, "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{prefix}/include"]
        command += [str(source.with_suffix(".c")), str(prefix / "share/piqi/client/piqi.c"), "-o", str(source)]
        subprocess.run(command, check=True)
        assert subprocess.run([source], check=False).returncode == 0
