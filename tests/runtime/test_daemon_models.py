"""Which bundles a daemon serves, and what stays when one breaks."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from piqi_runtime.boards import load_board
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.models import read_bundles


def test_a_bundle_that_breaks_stays_as_it_was(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = load_board("rk3399pro")
    folder = tmp_path / "bundles"
    shutil.copytree(bundle, folder / "one")
    config = DaemonConfig(bundle_folder=str(folder))
    found = read_bundles(config, board)
    assert list(found) == ["net"]
    (folder / "one" / "manifest.json").write_bytes(b"{")
    with caplog.at_level(logging.ERROR):
        assert read_bundles(config, board, found) == found
        assert read_bundles(config, board) == {}
    assert "what was there goes on: " in caplog.text and "left out: " in caplog.text
    shutil.rmtree(folder / "one")
    assert read_bundles(config, board, found) == {}
