"""Fixtures of all tests."""

import functools
import importlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# Before NumPy is loaded: its threads would spin for each other on what the tests give them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Whoever starts this in the background has it ignore Ctrl-C, and all that it starts; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# An example that a busy machine takes long for says nothing.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


#: Networks of the zoo as tests share them -> input size, width.
ZOO = {
    "mobilenet_v1": (64, 0.25),
    "mobilenet_v2": (64, 0.35),
    "mobilenet_v3_small": (64, 0.75),
    "mobilenet_v3_large": (64, 0.75),
    "squeezenet": (75, 0.25),
    "googlenet": (96, 0.25),
    "resnet50": (64, 0.25),
    "alexnet": (99, 0.25),
    "yolo_v3": (64, 0.25),
    "yolo_v3_tiny": (64, 0.25),
}


class Early:
    """Long commands that run beside the tests, one after another: most tests leave a CPU idle."""

    def __init__(self) -> None:
        self._commands: list[tuple[str, ...]] = []
        self._results: dict[tuple[str, ...], subprocess.CompletedProcess[str]] = {}
        self._done = threading.Condition()
        self._running: subprocess.Popen[str] | None = None

    def start(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = [tuple(command) for command in commands]
        threading.Thread(target=self._run, daemon=True).start()

    def result(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Of one that was started; waits for it."""
        with self._done:
            self._done.wait_for(lambda: tuple(command) in self._results)
            return self._results[tuple(command)]

    def stop(self) -> None:
        self._commands.clear()
        if self._running and self._running.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGTERM)

    def _run(self) -> None:
        while self._commands:
            command = self._commands.pop(0)
            self._running = subprocess.Popen(
                ["nice", *command],
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            output, _ = self._running.communicate()
            with self._done:
                self._results[command] = subprocess.CompletedProcess(command, self._running.returncode, output)
                self._done.notify_all()


EARLY = Early()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with a function `early` come late: it names the commands that they wait for. Last those with QUIET, whose
    tests want the machine for themselves.
    """

    def place(item: pytest.Item) -> tuple[bool, bool]:
        module = item.getparent(pytest.Module).obj
        return hasattr(module, "QUIET"), hasattr(module, "early")

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    by_module: dict[pytest.Module, list[pytest.Item]] = {}
    for item in session.items:
        by_module.setdefault(item.getparent(pytest.Module), []).append(item)
    waiting = {module.obj: items for module, items in by_module.items() if hasattr(module.obj, "early")}
    EARLY.start([command for module, items in waiting.items() for command in module.early(items)])


def pytest_unconfigure() -> None:
    EARLY.stop()


@pytest.fixture(scope="session")
def early() -> Early:
    return EARLY


@pytest.fixture(scope="session")
def zoo_tflite() -> Callable[..., bytes]:
    """The `.tflite` form of a network by name, size and width (default: those in ZOO); built once, it takes seconds."""

    @functools.cache
    def build(*arguments: object) -> bytes:
        pytest.importorskip("tensorflow")
        return importlib.import_module("piqi_planner.zoo").build_tflite(*arguments)

    return lambda name, *scale: build(name, *(scale or ZOO[name]))


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The reference measurements, models and images that lie beside the project on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} is missing")
    return folder
