"""Compiles the observer; the environment in which processes run on the board."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from simulated_board.board import PACER

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.append(str(ROOT / "tests/runtime"))

import rknn_helpers  # noqa: E402


def observer() -> Path:
    """The library that paces CPUs and GPU, compiled if its sources have changed."""
    made = ROOT / "build/simulated_board/libpiqi_pacer.so"
    made.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted((FOLDER / "native").glob("*.cpp"))
    headers = [*(FOLDER / "native").glob("*.hpp"), ROOT / "native/include/piqi/observer.h"]
    with open(made.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in [*sources, *headers]):
            scratch = made.with_suffix(".new")
            flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
            include = ["-I", str(ROOT / "native/include")]
            subprocess.run(["g++", *flags, *include, *map(str, sources), "-o", str(scratch)], check=True)
            scratch.replace(made)
    return made


def environment(root: Path) -> dict[str, str]:
    """Variables of a process that runs on the board below `root`; skips a test where there is no compiler."""
    path = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PIQI_RKNN1_LIBRARY": str(rknn_helpers.emulator(1)),
        "PIQI_PACER": str(root / PACER),
        "PIQI_OBSERVER": str(observer()),
        "PYTHONPATH": os.pathsep.join(path),
    }
