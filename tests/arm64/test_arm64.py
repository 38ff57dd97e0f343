"""The Arm Compute Library's backends, cross-compiled and run under qemu: the tests in board_*.py."""

import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from elf_helpers import functions_left_out

import piqi_native
from piqi_runtime.backends import available_backends
from piqi_runtime.boards import load_board

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [str(ROOT / "scripts/test_arm64"), sys.executable, "-q"]
TOOLS = ("mmdebstrap", "qemu-aarch64-static", "aarch64-linux-gnu-g++", "cmake", "ninja")


@pytest.mark.skipif(platform.machine() == "aarch64", reason="the library may be here")
def test_a_build_without_the_library_says_so() -> None:
    for make in (piqi_native.armcl_neon_backend, piqi_native.armcl_cl_backend):
        with pytest.raises(piqi_native.BackendError, match=r"armcl_\w+: this build has no Arm Compute Library"):
            make()
    assert available_backends(load_board("rk3399pro")) == {}


def early(items: list[pytest.Item]) -> list[list[str]]:
    """The whole of it."""
    return [COMMAND] if any(item.name == "test_arm64" for item in items) and not hindrance() else []


def hindrance() -> str:
    """Why it cannot run; empty: it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{missing} not found: `make test` installs them"
    if os.geteuid() != 0 and not (ROOT / "build/arm64/.root").is_file():
        return "only root can make the arm64 root"
    return ""


@pytest.mark.timeout(3600)  # the first time it makes the root and builds everything
def test_arm64(early: Any) -> None:
    if reason := hindrance():
        pytest.skip(reason)
    result = early.result(COMMAND)
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None and int(passed[1]) >= 60, result.stdout
    # XNNPACK there has kernels for microarchitectures, which qemu does not show it.
    work = ROOT / "build/arm64"
    (extension,) = work.glob("piqi/piqi_native/_native*.so")
    assert functions_left_out(work / "root/usr/lib/aarch64-linux-gnu/libXNNPACK.so.0", extension) == []
