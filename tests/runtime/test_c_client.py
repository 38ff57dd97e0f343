"""The C client: against the real daemon, against one that misbehaves, its JSON against Python's; under sanitizers."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from c_client_helpers import (
    BGR8,
    CLIENT,
    FLOAT32_RAW,
    GREY8,
    PATIENT,
    RGB8,
    ROOT,
    SANITIZED,
    WARNINGS,
    Answer,
    Daemon,
    Driver,
    FakeDaemon,
    compiled,
    encoded,
    good,
    output,
    refusal,
)
from daemon_helpers import PATIENCE_S, wait_for

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c_client")


@pytest.fixture(scope="session")
def driver(folder: Path) -> Path:
    return compiled(folder / "driver", *SANITIZED, ROOT / "tests/runtime/c_client_driver.c")


@pytest.fixture(scope="session")
def examples(folder: Path) -> dict[str, Path]:
    return {
        name: compiled(folder / name, *SANITIZED, PATIENT, CLIENT / f"examples/{name}.c", CLIENT / "piqi.c")
        for name in ("piqi_file", "piqi_v4l2")
    }


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


@pytest.mark.parametrize("standard", ["c++11", "c++17"])
@pytest.mark.parametrize("file", ["piqi.c", "examples/piqi_file.c", "examples/piqi_v4l2.c"])
def test_compiles_as_cpp(file: str, standard: str) -> None:
    command = [
        "g++",
        f"-std={standard}",
        "-x",
        "c++",
        *WARNINGS,
        f"-I{CLIENT}",
        "-c",
        str(CLIENT / file),
        "-o",
        os.devnull,
    ]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_cpp_program_links_the_c_object(folder: Path) -> None:
    compiled(folder / "piqi.o", "-c", CLIENT / "piqi.c")
    source = folder / "main.cpp"
    source.write_text(
        '#include <cstdio>\n#include "piqi.h"\nint main() { std::puts(piqi_status_name(PIQI_DROPPED)); }\n'
    )
    program = folder / "cpp"
    command = ["g++", f"-I{CLIENT}", str(source), str(folder / "piqi.o"), "-o", str(program)]
    subprocess.run(command, check=True)
    assert subprocess.run([program], text=True, capture_output=True, check=True).stdout == "dropped\n"


def test_hello_and_models(run: Driver, daemon: Daemon) -> None:
    assert run(f"open {daemon.socket} 60000 4096") == "ok"
    assert daemon.process
    assert run("hello").startswith("ok 1 piqid ") and run("hello").endswith(f" host {daemon.process.pid}")
    assert run("models") == "ok net host bytes 2x2x3 raw stretch rgb 1:scores 2 70 60"


def test_infer(run: Driver, daemon: Daemon) -> None:
    run(f"open {daemon.socket} 60000 4096")
    pixels = bytes(range(10, 130, 10))
    run(f"fill 0 {pixels.hex()}")
    reply = run(f"infer {RGB8} 2 2 0 0 2 1 1024")
    assert reply.startswith("ok net ") and " late=0 " in reply and " timed=1 " in reply
    assert "[11 class 11 \u00e9\u6f22\U0001f600 120 0 0 0 0] [10 class 10 " in reply
    name, data = reply.rsplit(" ", 2)[1:]
    assert name == "scores:float32:2:12"
    assert np.frombuffer(bytes.fromhex(data), np.float32).astype(np.uint8).tobytes() == pixels
    # Another order of colours, a stride, an offset.
    run(f"fill 100 {pixels[:6].hex()}ffff{pixels[6:].hex()}")
    data = run(f"infer {BGR8} 2 2 8 100 0 1 1024").rsplit(" ", 1)[1]
    swapped = np.frombuffer(pixels, np.uint8).reshape(4, 3)[:, ::-1].tobytes()
    assert np.frombuffer(bytes.fromhex(data), np.float32).astype(np.uint8).tobytes() == swapped
    # The tensor itself.
    tensor = np.linspace(-1, 1, 12, dtype=np.float32)
    run(f"fill 64 {tensor.tobytes().hex()}")
    data = run(f"infer {FLOAT32_RAW} 0 0 0 64 0 1 1024").rsplit(" ", 1)[1]
    assert np.array_equal(np.frombuffer(bytes.fromhex(data), np.float32), np.maximum(tensor, 0))
    # Nothing but run.
    assert run(f"infer {GREY8} 30 20 0 0 0 0 0").endswith("timed=1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"infer {RGB8} 0 2 0 0", "argument width, height, stride"),
        (f"infer {RGB8} 2 2 5 0", "argument width, height, stride"),
        (f"infer {RGB8} 2 2 0 4090", "argument a frame of 2x2 pixels at offset 4090 does not fit"),
        (f"infer {RGB8} 4294967295 4294967295 0 0", "argument a frame of"),
        (f"infer {RGB8} 1 4294967295 4096 0", "argument a frame of"),
        (f"infer {RGB8} 2 2 0 18446744073709551615", "argument a frame of"),
        ("infer 9 2 2 0 0", "argument format"),
        (f"infer {RGB8} 2 2 0 0 101", "argument top_k: expected 0 to 100"),
        (f"infer {RGB8} 2 2 0 0 0 0 0 -1", "argument deadline_ms: expected 0 to 1e+09, got -1"),
        (f"infer {RGB8} 2 2 0 0 0 0 0 nan", "argument deadline_ms"),
        (f"infer {RGB8} 2 2 0 0 0 0 0 0 1.5", "argument score: expected 0 to 1, got 1.5"),
        (f"infer {RGB8} 2 2 0 0 0 0 0 0 0.5", "bad_argument bad_argument: decode.kind"),
        (f"infer {RGB8} 2 2 0 0 0 1 63", "bad_argument bad_argument: output.offset"),
        (f"infer {RGB8} 2 2 0 0 0 1 4096", "bad_pool bad_pool: output.offset"),
        (f"infer {FLOAT32_RAW} 0 0 0 4092", "bad_pool bad_pool: input.offset"),
        ("limits 101", "argument min_accuracy: expected 0 to 100, got 101"),
    ],
)
def test_what_is_refused_and_that_it_goes_on(run: Driver, daemon: Daemon, line: str, expected: str) -> None:
    run(f"open {daemon.socket} 60000 4096")
    assert run(line).startswith(expected)
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok ")


def test_models_by_name(run: Driver, daemon: Daemon) -> None:
    run(f"open {daemon.socket} 60000 4096")
    run('model no"such\\')
    assert run(f"infer {RGB8} 2 2 0 0").startswith("unknown_model unknown_model: model:")
    run("model net")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok net")


def test_limits(run: Driver, daemon: Daemon) -> None:
    run(f"open {daemon.socket} 60000 0")
    assert run("limits 69.5") == "ok 0 "
    assert run("limits 0 2000.5") == "ok 1 "
    point, degraded = run("limits 99.5").removeprefix("ok ").split(" ")
    assert int(point) in (0, 1) and degraded
    assert run("limits 0 0 0 0").startswith("ok ")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("argument a frame needs a pool")


def test_a_deadline(run: Driver, daemon: Daemon) -> None:
    run(f"open {daemon.socket} 60000 4096")
    assert run(f"infer {RGB8} 2 2 0 0 0 0 0 0.000001").startswith("deadline deadline: ")
    assert run(f"infer {RGB8} 2 2 0 0 0 0 0 60000").startswith("ok ")


def test_the_daemon_comes_back(run: Driver, tmp_path: Path) -> None:
    """After a crash a call waits, and finds pool and limits as they were."""
    daemon = Daemon(tmp_path)
    assert run(f"open {daemon.socket} 60000 4096").startswith("connect ")
    pool = run("pool")
    assert pool.endswith(" 4096") and not pool.startswith("(nil)")
    run("fill 0 010203040506070809aabbcc")
    daemon.start()
    assert run("limits 69.5").startswith("ok 0")
    # The first frames may still run at the point before, while this one is prepared.
    assert wait_for(lambda: run(f"infer {RGB8} 2 2 0 0").startswith("ok net 0 B "))
    first = run(f"infer {RGB8} 2 2 0 0 1 1 1024")
    assert first.startswith("ok net 0 B ")
    daemon.stop(signal.SIGKILL)
    starter = threading.Timer(0.5, daemon.start)
    starter.start()
    again = run(f"infer {RGB8} 2 2 0 0 1 1 1024")
    starter.join()
    assert again.startswith("ok net ") and again.rsplit(" ", 1)[1] == first.rsplit(" ", 1)[1]
    assert wait_for(lambda: run(f"infer {RGB8} 2 2 0 0").startswith("ok net 0 B "))
    assert run("pool") == pool
    assert run("reconnect") == "ok"
    assert run(f"infer {RGB8} 2 2 0 0 1 1 1024").rsplit(" ", 1)[1] == first.rsplit(" ", 1)[1]
    descriptors = len(os.listdir(f"/proc/{run.process.pid}/fd"))
    for _ in range(20):
        assert run("reconnect") == "ok"
    assert len(os.listdir(f"/proc/{run.process.pid}/fd")) == descriptors
    daemon.stop()
    assert run("open /nowhere/at/all 300 0").startswith("connect /nowhere/at/all: No such file")
    began = time.monotonic()
    assert run("hello").startswith("connect ")
    assert time.monotonic() - began > 0.1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda m, n: [b"\xff\xfe"], "protocol"),
        (lambda m, n: [b"[]"], "protocol"),
        (lambda m, n: [b" "], "protocol"),
        (lambda m, n: [b'{"id":1' + b" " * 66000 + b"}"], "protocol"),
        (lambda m, n: [b'{"a":' * 13000], "protocol"),
        (lambda m, n: [encoded({"id": 999, "ok": True})], "protocol"),
        (lambda m, n: [encoded({"id": "7", "ok": True})], "protocol"),
        (lambda m, n: [encoded({"id": m["id"]})], "protocol"),
        (lambda m, n: [encoded({"id": m["id"], "ok": 1})], "protocol"),
        (lambda m, n: [encoded({"id": m["id"], "ok": False})], "protocol"),
        (lambda m, n: [encoded({"id": None, "ok": True})], "protocol"),
        (lambda m, n: [good(m, point="x")], "protocol"),
        (lambda m, n: [good(m, point=1e300)], "protocol"),
        (lambda m, n: [good(m)], "protocol"),  # the outputs that were asked for are missing
        (lambda m, n: [good(m, outputs=[{"name": "y"}])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(4097, 0)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(8, 4090)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(4, -4)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(-4, 8)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(4.5, 0)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(1e19, 0)])], "protocol"),
        (lambda m, n: [good(m, outputs=[output(4, 0)] * 17)], "protocol"),
        (lambda m, n: [good(m, outputs=[], decoded=[{"class": 1, "score": 1, "box": [1, 2, 3]}])], "protocol"),
        (lambda m, n: [good(m, outputs=[], decoded=[{"class": 1, "score": 1, "box": [1, 2, 3, []]}])], "protocol"),
        (lambda m, n: [good(m, outputs=[], decoded=[3])], "protocol"),
        (lambda m, n: [refusal(None, "too_large")], "too_large"),
        (lambda m, n: [refusal(m["id"], "new")], "unknown new: x"),
        (lambda m, n: [], "timeout"),
        (lambda m, n: None, "lost"),
    ],
)  # fmt: skip
def test_a_daemon_that_misbehaves(run: Driver, tmp_path: Path, answer: Answer, expected: str) -> None:
    fake = FakeDaemon(tmp_path / "s", answer)
    infer = f"infer {RGB8} 2 2 0 0 5 1 1024"
    if expected in ("timeout", "lost"):  # after the time that it has
        assert run.patiently(f"open {fake.path} 300 4096") == "ok"
        reply = run(infer) if expected == "timeout" else run.patiently(infer)
    else:
        assert run(f"open {fake.path} 60000 4096") == "ok"
        reply = run(infer)
    assert reply.startswith(expected)
    fake.close()


def test_answers_that_are_well_but_strange(run: Driver, tmp_path: Path) -> None:
    extra = {"new": [{"deep": [1, {"x": None}]}], "\u00e9": "\ud83d\ude00\\u"}
    boxes = [
        {
            "class": i,
            "score": None if i == 2 else 0.5,
            "label": "\u00e9" * (200 if i < 9 else 2),
            "box": [1, 2.5, 3e1, 4],
        }
        for i in range(150)
    ]

    def answer(message: dict[str, object], _: int) -> list[bytes]:
        events = [encoded({"event": "switch", "model": "m"})]
        return [
            *events,
            good(message, decoded=boxes, **extra, degraded=["min_accuracy", "max_power_mw"], accuracy=None, late=True),
        ]

    fake = FakeDaemon(tmp_path / "s", answer)
    run(f"open {fake.path} 60000 4096")
    reply = run(f"infer {RGB8} 2 2 0 0 5")
    assert reply.startswith("ok m 4 L 0 late=1 degraded=min_accuracy,max_power_mw timed=1 ")
    label = "\u00e9" * 127  # what fits into 256 bytes
    assert f"[1 {label} 0.5 1 2.5 30 4] [2 {label} nan 1 2.5 30 4]" in reply
    assert reply.count("[") == 100
    fake.close()


def test_a_late_answer_is_waited_for_before_the_next_request(run: Driver, tmp_path: Path) -> None:
    """Until then the daemon may use the pool."""
    late: list[dict[str, object]] = []
    comes = threading.Event()

    def answer(message: dict[str, object], _: int) -> list[bytes]:
        if not late:
            late.append(message)
            comes.wait(PATIENCE_S)
            return [good(message, point=1)]
        return [good(message, point=2)]

    fake = FakeDaemon(tmp_path / "s", answer)
    assert run.patiently(f"open {fake.path} 250 4096") == "ok"
    connections = fake.connections
    assert run(f"infer {RGB8} 2 2 0 0").startswith("timeout ")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("timeout ")  # the answer to the first has still not come
    comes.set()
    assert run.patiently(f"infer {RGB8} 2 2 0 0").startswith("ok m 2 ")
    assert fake.connections == connections
    fake.close()


def test_a_lost_connection_is_made_again(run: Driver, tmp_path: Path) -> None:
    asked: list[object] = []

    def answer(message: dict[str, object], _: int) -> list[bytes] | None:
        asked.append(message)
        return None if len(asked) < 3 else [good(message)]

    fake = FakeDaemon(tmp_path / "s", answer)
    run(f"open {fake.path} 60000 4096")
    assert run(f"infer {RGB8} 2 2 0 0").startswith("ok m 4 ")
    assert fake.connections == 3 and len(asked) == 3
    fake.close()


def python_accepts(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data.decode("utf-8"), parse_constant=lambda _: 1 / 0), dict)
    except (ValueError, ZeroDivisionError, RecursionError):
        return False


def test_json_as_python_reads_it(run: Driver) -> None:
    texts = ["", "\u00e9\u6f22\U0001f600", 'q"\\/\b\f\n\r\t\x01', "\ud7ff\ue000", "x" * 63]
    for text in texts:
        for ascii_only in (True, False):
            data = json.dumps({"b": [1, {}, []], "a": text}, ensure_ascii=ascii_only).encode()
            assert run(f"json {data.hex()}").split(" ") == ["yes", text.encode().hex()], text
    assert run(f"json {encoded({'a': 'x' * 64}).hex()}") == "yes"  # more than the place it has
    for number in (0, -1, 1.5, 0.1, 123456.789, 1e-7, 2.5e-300, 1e22, 65536, 98.6531, 2**53):
        assert float(run(f"json {encoded({'a': number}).hex()}").split(" ")[1]) == pytest.approx(number, rel=1e-14)
    for number in ("1e400", "1" * 400, "9e999999999999"):
        text = '{"a":%s}' % number  # noqa: UP031
        assert run(f"json {text.encode().hex()}") == "yes"  # JSON, but no number we take
    lone = rb'{"a":"\ud800x\u0000"}'
    assert run(f"json {lone.hex()}") == "yes efbfbd78efbfbd"


def test_json_mutated(run: Driver) -> None:
    """Accepts what Python does and nothing else, whatever the bytes."""
    rng = random.Random(7)
    seeds = [
        encoded({"id": 7, "ok": True, "a": [1.5e3, -0, None, False, {"k": '\u00e9\\"\n'}], "z": {}}),
        '{"a":"\u00e9\u6f22\U0001f600","b":[[],{}],"c":-0.5E+2}'.encode(),
        b' {"a" : [ 1 , 2 ] , "b":"\\u00e9\\ud83d\\ude00" } ',
    ]
    alphabet = b'{}[]:,"\\ue0E+-.19tfn \x00\x1f\x7f\x80\xc0\xc3\xa9\xed\xa0\xf0\xf4\x90\xff'
    accepted = 0
    for _ in range(6000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.choice(alphabet)
            elif kind == 1:
                data.insert(at, rng.choice(alphabet))
            elif kind == 2 and len(data) > 1:
                del data[at]
            else:
                data = data[:at] or data
        expected = python_accepts(bytes(data))
        accepted += expected
        assert run(f"json {data.hex()}").startswith("yes" if expected else "no"), bytes(data)
    assert 100 < accepted < 5900


def test_another_locale(driver: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are JSON's, also where people write a comma."""
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(driver.with_name("de_DE.UTF-8"))]
    if shutil.which(command[0]) is None or not os.path.exists("/usr/share/i18n/locales/de_DE"):
        pytest.skip("no localedef, or no source of a locale with a decimal comma")
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("LOCPATH", str(driver.parent))
    # The driver does not call setlocale: a program that does is made of it.
    source = driver.with_name("locale.c")
    source.write_text(
        "#define _GNU_SOURCE\n#include <locale.h>\n#define main driver_main\n"
        f'#include "{ROOT}/tests/runtime/c_client_driver.c"\n#undef main\n'
        'int main(void) { return setlocale(LC_ALL, "de_DE.UTF-8") ? driver_main() : 9; }\n'
    )
    process = Driver(compiled(driver.with_name("locale"), *SANITIZED, source))
    assert process(f"open {daemon.socket} 60000 4096") == "ok"
    assert process("limits 69,5").startswith("ok 0")
    assert process(f"json {encoded({'a': 1.5}).hex()}") == "yes 1,5"  # read as one and a half, printed as there
    assert process(f"infer {RGB8} 2 2 0 0 0 0 0 60000,5").startswith("ok ")
    assert process.close() == 0


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.ppm"
    path.write_bytes(b"P6 # a comment\n2 2\n# and one more\n255\n" + bytes(range(12)))
    return path


def example(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], text=True, capture_output=True, check=False, timeout=60)


def test_the_file_example(examples: dict[str, Path], daemon: Daemon, picture: Path, tmp_path: Path) -> None:
    program = examples["piqi_file"]
    result = example(program, "-s", daemon.socket, "-k", 3, picture)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("net: point ") and len(lines) == 4
    assert lines[1].split() == ["11.0000", "11", "class", "11", "\u00e9\u6f22\U0001f600"]
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(range(12)))
    result = example(program, "-s", daemon.socket, "-k", 1, "-n", 2, "-r", "2x2:bgr8", raw)
    assert result.stdout.splitlines()[1].split()[0] == "11.0000" and result.stdout.count("net: point") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P3 2 2 255\n", "is not a binary PPM or PGM"),
        (b"P6 2 2 65535\n" + bytes(24), "has not 255 as its highest value"),
        (b"P6 2 -2 255\n", "has a damaged header"),
        (b"P6 2", "has a damaged header"),
        (b"P6 2 2 255\n" + bytes(11), "ends before its last pixel"),
        (b"P6 0 2 255\n", "has no pixels"),
        (b"P6 999999999 999999999 255\n", "has no pixels, or more"),
    ],
)
def test_the_file_example_refuses(
    examples: dict[str, Path], daemon: Daemon, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "broken.ppm"
    path.write_bytes(content)
    result = example(examples["piqi_file"], "-s", daemon.socket, path)
    assert result.returncode == 1 and f"{path}: {message}" in result.stderr


def test_the_examples_without_what_they_need(examples: dict[str, Path], picture: Path) -> None:
    result = example(examples["piqi_file"], "-s", "/nowhere/at/all", picture)
    assert result.returncode == 1 and result.stderr == "piqi_file: /nowhere/at/all: No such file or directory\n"
    assert example(examples["piqi_file"]).returncode == 2
    result = example(examples["piqi_v4l2"], "-d", "/dev/no-such-camera")
    assert result.returncode == 1
    assert result.stderr == "piqi_v4l2: /dev/no-such-camera: cannot be opened as a camera: No such file or directory\n"
    result = example(examples["piqi_v4l2"], "-d", "/dev/null")
    assert result.returncode == 1 and "/dev/null: is no V4L2 device" in result.stderr
    assert example(examples["piqi_v4l2"], "-g", "wide").returncode == 2


def test_yuyv(folder: Path) -> None:
    """The camera example's colours, by BT.601."""
    source = folder / "yuyv.c"
    source.write_text(
        f'#define main unused_main\n#include "{CLIENT}/examples/piqi_v4l2.c"\n#undef main\n'
        "int main(void) {\n"
        "  /* white, black; red twice, at a stride of 6 */\n"
        "  const uint8_t s[] = {235, 128, 16, 128, 9, 9, 81, 90, 81, 240};\n"
        "  uint8_t t[12];\n  int i;\n  (void)unused_main;\n  yuyv_to_rgb(s, 6, 2, 2, t);\n"
        '  for (i = 0; i < 12; ++i) printf("%d ", t[i]);\n  return 0;\n}\n'
    )
    program = compiled(folder / "yuyv", *SANITIZED, source, CLIENT / "piqi.c")
    values = [int(x) for x in example(program).stdout.split()]
    expected = [255, 255, 255, 0, 0, 0, 255, 0, 0, 255, 0, 0]
    assert all(abs(a - b) <= 1 for a, b in zip(values, expected, strict=True)), values
