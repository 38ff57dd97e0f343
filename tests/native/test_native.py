"""The C++ tests, one file at a time: as they are, and under the address, undefined and thread sanitizers."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in Path(__file__).parent.glob("test_*.cpp"))
SANITIZERS = {"plain": "", "address": "address", "thread": "thread"}
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"halt_on_error=1:suppressions={ROOT / 'tests/native/tsan.supp'}",
}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def early(items: list[pytest.Item]) -> list[list[str]]:
    """The builds of the flavours that are tested."""
    flavours = dict.fromkeys(item.callspec.params["flavour"] for item in items)
    return [[sys.executable, __file__, flavour] for flavour in flavours]


@cache
def build(flavour: str) -> tuple[Path | None, str]:
    """The test program and what the compiler said; no program if it does not compile. Remembered, since a
    failure is every test's."""
    folder = ROOT / "build" / f"native-{flavour}"
    folder.mkdir(parents=True, exist_ok=True)
    commands = [
        ["cmake", "-S", "native", "-B", str(folder), "-G", "Ninja", f"-DPIQI_SANITIZE={SANITIZERS[flavour]}"],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ]
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in commands:
            result = run(command)
            if result.returncode != 0:
                return None, result.stdout
    return folder / "piqi_tests", result.stdout


@pytest.mark.timeout(3600)  # the first test of a flavour builds it
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("flavour", SANITIZERS)
def test_native(flavour: str, file: str) -> None:
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    assert not missing, f"{missing} not found: `make test` installs them"
    program, output = build(flavour)
    assert program is not None, f"the {flavour} build failed:\n{output}"
    # Without address space randomisation: GCC's thread sanitizer does not know today's kernels' layouts.
    command = ["setarch", platform.machine(), "--addr-no-randomize"] if flavour == "thread" else []
    result = run([*command, str(program), f"--source-file=*{file}", "--no-version"], **OPTIONS)
    assert result.returncode == 0, result.stdout
    summary = re.search(r"test cases: +(\d+)", result.stdout)
    assert summary is not None and int(summary[1]) > 0, f"no test case ran:\n{result.stdout}"


if __name__ == "__main__":
    build(sys.argv[1])
