"""Backends that raise, answer wrongly or hang: typed errors at the right place, and an executor usable afterwards."""

import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import piqi_native as pn
from piqi_runtime.model import Model

Arrays = dict[str, np.ndarray]


class Tanh:
    """A backend for networks of tanh alone; `before` and `after` may do what real backends do wrong."""

    def __init__(self) -> None:
        self.before: Callable[[Arrays], None] = lambda inputs: None
        self.after: Callable[[Arrays], Any] = lambda outputs: outputs
        self.on_close: Callable[[], None] = lambda: None
        self.prepared: list[tuple[int, int, list[str], list[str]]] = []
        self.closed = 0

    def prepare(self, sub_graph: pn.SubGraph, inputs: list[str], outputs: list[str]) -> "TanhSubGraph":
        self.prepared.append((sub_graph.first_layer, sub_graph.last_layer, inputs, outputs))
        return TanhSubGraph(self, sub_graph.last_layer - sub_graph.first_layer + 1, outputs)


class TanhSubGraph:
    def __init__(self, backend: Tanh, layers: int, outputs: list[str]) -> None:
        self.backend, self.layers, self.outputs = backend, layers, outputs

    def run(self, inputs: Arrays) -> Any:
        self.backend.before(inputs)
        (x,) = inputs.values()
        for _ in range(self.layers):
            x = np.tanh(x)
        return self.backend.after(dict.fromkeys(self.outputs, x))

    def close(self) -> None:
        self.backend.on_close()
        self.backend.closed += 1


class Subject:
    """Six layers of tanh on 16 numbers; `p` runs on `Tanh` above, L and B on XNNPACK."""

    def __init__(self, networks: SimpleNamespace, order: str = "LLppBB", **options: Any) -> None:
        self.model: Model = networks.chain("tanh", 6, 1, 16)
        self.graph = self.model.to_graph()
        self.backend = Tanh()
        self.board = networks.board("LBp", "tanh")
        self.manager = pn.GraphManager(self.graph, self.board, {"tanh": self.backend})
        self.order = order
        self.executor = self.start(**options)

    def start(self, **options: Any) -> pn.GraphExecutor:
        return pn.GraphExecutor(self.manager, pn.Plan(self.board, 6, self.order), **options)

    def frame(self, value: float) -> Arrays:
        return {"x": np.full((1, 16), value, np.float32)}

    def check(self, value: float, result: Arrays | None = None) -> None:
        result = result or self.executor.run(self.frame(value))
        expected = value
        for _ in range(6):
            expected = np.tanh(expected)
        np.testing.assert_allclose(result["a5"], np.full((1, 16), expected), rtol=1e-5)


@pytest.fixture
def subject(networks: SimpleNamespace) -> Subject:
    return Subject(networks)


def test_a_python_backend_runs_its_layers_once(subject: Subject) -> None:
    assert subject.backend.prepared == [(2, 3, ["a1"], ["a3"])]
    calls = []
    subject.backend.before = lambda inputs: calls.append([(name, a.shape, a.dtype) for name, a in inputs.items()])
    for value in (0.5, -0.25):
        subject.check(value)
    assert calls == [[("a1", (1, 16), np.float32)]] * 2


def test_what_it_is_given_is_read_only(subject: Subject) -> None:
    def overwrite(inputs: Arrays) -> None:
        inputs["a1"][:] = 0

    subject.backend.before = overwrite
    with pytest.raises(pn.BackendError, match=r"layers 2 to 3: ValueError: .*read-only"):
        subject.executor.run(subject.frame(1))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda outputs: {}, r"layers 2 to 3: returned no 'a3'"),
        (lambda outputs: {"other": outputs["a3"]}, r"layers 2 to 3: returned no 'a3'"),
        (lambda outputs: {"a3": outputs["a3"].T}, r"'a3': expected dense float32 \[1, 16\], got float32 \(16, 1\)"),
        (lambda outputs: {"a3": outputs["a3"][0]}, r"got float32 \(16,\)"),
        (lambda outputs: {"a3": outputs["a3"].astype(np.float64)}, r"got float64 \(1, 16\)"),
        (lambda outputs: {"a3": None}, r"layers 2 to 3: tensor 'a3': expected"),
        (lambda outputs: {"a3": "text"}, r"layers 2 to 3: tensor 'a3': expected"),
        (lambda outputs: None, r"layers 2 to 3: "),
        (lambda outputs: 7, r"layers 2 to 3: "),
    ],
)
def test_a_wrong_answer_is_a_backend_error(subject: Subject, after: Callable[[Arrays], Any], message: str) -> None:
    subject.backend.after = after
    with pytest.raises(pn.BackendError, match=message):
        subject.executor.run(subject.frame(1))
    subject.backend.after = lambda outputs: outputs
    subject.check(0.5)
    assert len(subject.backend.prepared) == 1


def test_an_answer_that_is_not_dense_is_made_so(subject: Subject) -> None:
    subject.backend.after = lambda outputs: {"a3": np.repeat(outputs["a3"], 2, axis=1)[:, ::2]}
    subject.check(0.5)


@pytest.mark.parametrize(
    "error", [ValueError("bus error 7"), KeyboardInterrupt("bus error 7"), SystemExit("bus error 7")]
)
def test_what_it_raises_becomes_a_backend_error(subject: Subject, error: BaseException) -> None:
    def fail(_: Arrays) -> None:
        raise error

    subject.backend.before = fail
    with pytest.raises(pn.BackendError, match=rf"layers 2 to 3: {type(error).__name__}: bus error 7"):
        subject.executor.run(subject.frame(1))
    subject.backend.before = lambda inputs: None
    subject.check(0.5)


@pytest.mark.parametrize("frames_in_flight", [1, 2, 5])
def test_errors_reach_exactly_the_frame_they_belong_to(networks: SimpleNamespace, frames_in_flight: int) -> None:
    subject = Subject(networks, "LpBpLp", frames_in_flight=frames_in_flight)
    bad = {3: 1, 4: 2, 11: 3}  # frame -> which of the three sub-graphs on p fails

    def fail(inputs: Arrays) -> None:
        (name,) = inputs
        depth = {"a0": 1, "a2": 2, "a4": 3}[name]
        value = float(next(iter(inputs.values()))[0, 0])
        for _ in range(2 * depth - 1):
            value = np.arctanh(value)
        number = round(value * 100)
        if bad.get(number) == depth:
            raise RuntimeError(f"frame {number} at {name}")

    subject.backend.before = fail
    submitted = 0
    for received in range(16):
        while submitted < 16 and submitted - received < frames_in_flight:
            subject.executor.submit(subject.frame(submitted / 100))
            submitted += 1
        if received in bad:
            with pytest.raises(pn.BackendError, match=f"frame {received} at a{2 * bad[received] - 2}"):
                subject.executor.receive()
        else:
            subject.check(received / 100, subject.executor.receive())


def test_a_hang_is_a_timeout_that_names_its_layers(networks: SimpleNamespace) -> None:
    subject = Subject(networks, timeout_s=3.0)
    subject.check(0.5)
    memory = subject.manager.memory_bytes
    release = threading.Event()
    subject.backend.before = lambda inputs: release.wait(300) and None
    with pytest.raises(pn.TimeoutError, match=r"no result within 3000 ms: layers 2 to 3 on p did not finish"):
        subject.executor.run(subject.frame(1))
    subject.backend.before = lambda inputs: None
    subject.check(0.25)
    assert len(subject.backend.prepared) == 2  # what hung, anew; the others' weights and arenas are kept
    assert subject.manager.memory_bytes == memory
    assert subject.backend.closed == 0
    release.set()
    deadline = time.monotonic() + 60
    while subject.backend.closed < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert subject.backend.closed == 1  # what was given up is closed when it comes back
    subject.check(0.75)


def test_a_hang_on_closing_costs_only_the_patience_given(subject: Subject) -> None:
    release = threading.Event()
    subject.backend.on_close = lambda: release.wait(300) and None
    subject.executor.close()
    start = time.monotonic()
    with pytest.raises(pn.TimeoutError, match=r"did not close in 200 ms: layers 2 to 3 on tanh"):
        subject.manager.trim(patience_s=0.2)
    assert time.monotonic() - start < 60
    subject.manager.trim(patience_s=0.2)  # given up
    subject.executor = subject.start()
    subject.check(0.5)
    release.set()


def test_an_error_on_closing_is_reported_and_harmless(
    subject: Subject, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    def fail() -> None:
        raise OSError("device is gone")

    subject.backend.on_close = fail
    subject.executor.close()
    subject.manager.trim()
    assert [str(r.exc_value) for r in reported] == ["device is gone"]


def test_a_backend_that_cannot_prepare(networks: SimpleNamespace) -> None:
    class Broken:
        def prepare(self, *_: Any) -> Any:
            raise MemoryError("no room for layer 3")

    model = networks.chain("tanh", 2, 1, 4)
    board = networks.board("Lp", "broken")
    manager = pn.GraphManager(model.to_graph(), board, {"broken": Broken()})
    with pytest.raises(pn.BackendError, match="prepare: MemoryError: no room for layer 3"):
        pn.GraphExecutor(manager, pn.Plan(board, 2, "Lp"))
    executor = pn.GraphExecutor(manager, pn.Plan(board, 2, "LL"))
    assert executor.run({"x": np.zeros((1, 4), np.float32)})["a1"].shape == (1, 4)


def test_closed_while_another_thread_waits(subject: Subject) -> None:
    release, running = threading.Event(), threading.Event()

    def wait(_: Arrays) -> None:
        running.set()
        release.wait(300)

    subject.backend.before = wait
    errors: list[BaseException] = []

    def run() -> None:
        try:
            subject.executor.run(subject.frame(1))
        except pn.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    running.wait(60)
    time.sleep(0.05)
    subject.executor.close()
    for thread in threads:
        thread.join(60)
    release.set()
    assert [type(error) for error in errors] == [pn.ClosedError] * 3
    with pytest.raises(pn.ClosedError, match="the executor was closed"):
        subject.executor.run(subject.frame(1))
    subject.executor.close()


def test_collected_with_frames_in_flight(networks: SimpleNamespace) -> None:
    subject = Subject(networks, frames_in_flight=4)
    subject.backend.before = lambda inputs: time.sleep(0.02)
    for i in range(4):
        subject.executor.submit(subject.frame(i))
    del subject.executor
    gc.collect()
    subject.backend.before = lambda inputs: None
    subject.executor = subject.start()
    subject.check(0.5)


def test_all_is_closed_when_all_is_gone(networks: SimpleNamespace) -> None:
    subject = Subject(networks)
    subject.check(0.5)
    backend = subject.backend
    del subject
    gc.collect()
    deadline = time.monotonic() + 60
    while backend.closed < 1 and time.monotonic() < deadline:  # closing is waited for, but not for ever
        time.sleep(0.01)
    assert (len(backend.prepared), backend.closed) == (1, 1)


@pytest.mark.parametrize("when", ["run", "close"])
def test_a_hang_does_not_keep_the_process_from_ending(when: str) -> None:
    """A thread that is lost in a backend ends with the process, without a crash."""
    program = f"""
        import sys
        import threading
        import time
        import numpy as np
        import piqi_native as pn

        hang = threading.Lock()
        hang.acquire()

        class Backend:
            def prepare(self, sub_graph, inputs, outputs):
                return self
            def run(self, inputs):
                if {when == "run"}:
                    hang.acquire()
                return {{"a0": inputs["x"]}}
            def close(self):
                if {when == "close"}:
                    hang.acquire()

        class Slow:
            def __del__(self, end=hang.release, sleep=time.sleep):  # the hang ends while the interpreter shuts down
                end()
                sleep(0.5)
                print("late", flush=True)

        sys.modules["slow"] = Slow()
        graph = pn.Graph("g")
        x, a = graph.add_tensor("x", [4], "float32"), graph.add_tensor("a0", [4], "float32")
        graph.add_operator("tanh", "a0", [x], [a], 0)
        graph.add_input(x)
        graph.add_output(a)
        graph.finish()
        board = pn.Board("b", [pn.Processor("p", "cpu", "py", [0], 1)])
        manager = pn.GraphManager(graph, board, {{"py": Backend()}})
        executor = pn.GraphExecutor(manager, pn.Plan(board, 1, "p"), timeout_s=0.2)
        try:
            executor.run({{"x": np.zeros(4, np.float32)}})
            executor.close()
            manager.trim(0.1)
        except pn.TimeoutError as error:
            print("timeout", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["timeout", "late"]
