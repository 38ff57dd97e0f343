"""`piqictl policy get` and `set`, to a daemon that serves a bundle."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_helpers import PATIENCE_S, Process

from piqi_runtime.ctl import policy
from piqi_runtime.ctl.cli import main


@pytest.fixture
def socket(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(policy, "TIMEOUT_S", PATIENCE_S)
    path, settings = tmp_path / "piqid.sock", tmp_path / "daemon.toml"
    (tmp_path / "root/sys").mkdir(parents=True)  # no sensors: this machine may be hot
    settings.write_text(f'root = "{tmp_path}/root"\n')
    options = ["--config", settings, "--bundle", bundle, "--board", "rk3399pro", "--socket", path]
    daemon = Process(["-m", "piqi_runtime.daemon.main", *map(str, options)], path, tmp_path / "log")
    yield str(path)
    assert daemon.stop() == 0


def test_get_and_set(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "get", "--socket", socket]) == 0
    text = capsys.readouterr().out
    assert text.startswith("policy default, mode balanced: no rule holds: the default\n")
    assert "too hot -> cool" in text
    assert main(["policy", "set", "cool", "--for", "1", "--socket", socket]) == 0
    assert capsys.readouterr().out.startswith("policy default, mode cool: set by hand for 1 s more\n")
    deadline_s, state = time.monotonic() + PATIENCE_S, {"mode": "cool"}
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
