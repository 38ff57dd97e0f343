"""Fixtures of all tests."""

import os
import signal
from pathlib import Path

# Before NumPy is loaded: its threads would spin for each other on what the tests give them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Whoever starts this in the background has it ignore Ctrl-C, and all that it starts; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
