"""`piqictl policy get` and `set`, to a daemon that serves a bundle."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piqi_runtime.ctl.cli import main

PIQID = "import sys; from piqi_runtime.daemon.main import main; sys.exit(main())"


@pytest.fixture
def socket(bundle: Path, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "piqid.sock"
    options = ["--bundle", str(bundle), "--board", "rk3399pro", "--socket", str(path)]
    with subprocess.Popen([sys.executable, "-c", PIQID, *options], text=True, stderr=subprocess.PIPE) as daemon:
        try:
            deadline_s = time.monotonic() + 30
            while not path.exists() and daemon.poll() is None and time.monotonic() < deadline_s:
                time.sleep(0.02)
            assert path.exists(), f"it did not start: {daemon.poll()}"
            yield str(path)
        finally:
            daemon.terminate()
            daemon.communicate(timeout=10)


def test_get_and_set(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "get", "--socket", socket]) == 0
    text = capsys.readouterr().out
    assert text.startswith("policy default, mode balanced: no rule holds: the default\n")
    assert "too hot -> cool" in text
    assert main(["policy", "set", "cool", "--for", "1", "--socket", socket]) == 0
    assert capsys.readouterr().out.startswith("policy default, mode cool: set by hand for 1 s more\n")
    deadline_s, state = time.monotonic() + 10, {"mode": "cool"}
    while state["mode"] == "cool" and time.monotonic() < deadline_s:
        time.sleep(0.1)
        assert main(["policy", "get", "--json", "--socket", socket]) == 0
        state = json.loads(capsys.readouterr().out)
    assert (state["mode"], state["override"]) == ("balanced", None)
    assert main(["policy", "set", "saver", "--socket", socket]) == 0
    assert main(["policy", "set", "--rules", "--socket", socket]) == 0
    assert "mode balanced: no rule holds" in capsys.readouterr().out
    assert main(["policy", "set", "quick", "--socket", socket]) == 1
    assert "mode: expected one of balanced, saver" in capsys.readouterr().err


def test_what_cannot_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "set", "--rules", "--for", "3"]) == 1
    assert "--for: expected a mode with it, got 3" in capsys.readouterr().err
    assert main(["policy", "get", "--socket", str(tmp_path / "none.sock")]) == 1
    assert "none.sock" in capsys.readouterr().err
