"""The command piqictl: what it prints, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from piqi_runtime.ctl.cli import main


def test_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(bundle)]) == 0
    assert capsys.readouterr().out.startswith(f"{bundle}: good: 3 files")
    assert main(["bundle", "verify", str(bundle), "--board", "rk3588"]) == 1
    assert "is for 'rk3399pro', the board is 'rk3588'" in capsys.readouterr().err
    (bundle / "model.piqi").write_bytes(b"")
    (bundle / "extra").write_bytes(b"")
    assert main(["bundle", "verify", str(bundle)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"piqictl: {bundle}/extra: is not in the manifest"
    assert lines[1].startswith(f"piqictl: {bundle}/model.piqi: size: expected ")


def test_verify_says_which_board_it_does_not_know(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (bundle / "manifest.json").read_text().replace('"rk3399pro"', '"unheard"')
    (bundle / "manifest.json").write_text(text)
    assert main(["bundle", "verify", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert "not checked against its board: no 'unheard'" in error
    assert "table.json: board: expected 'unheard'" in error


def test_show(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "net for rk3399pro, 1 layers" in text and "x [1, 2, 2, 1], signed, crop, grey" in text
    assert main(["bundle", "show", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((bundle / "manifest.json").read_text())


def test_pack_and_unpack(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, copy = bundle.parent / "net.tar.zst", bundle.parent / "copy"
    assert main(["bundle", "pack", str(bundle), str(archive)]) == 0
    assert main(["bundle", "unpack", str(archive), str(copy)]) == 0
    assert (copy / "table.json").read_bytes() == (bundle / "table.json").read_bytes()
    archive.write_bytes(b"nothing")
    assert main(["bundle", "unpack", str(archive), str(copy)]) == 1
    assert f"piqictl: {archive}: " in capsys.readouterr().err
    assert main(["bundle", "verify", str(copy)]) == 0


@pytest.mark.parametrize("arguments", [[], ["bundle"], ["bundle", "verify"], ["bundle", "mend", "x"], ["sing"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No such file"):
        main(["--debug", "bundle", "show", str(tmp_path / "absent")])


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "piqi_runtime.ctl", "--help"], text=True, capture_output=True, check=False
    )
    assert result.returncode == 0
    assert "bundle" in result.stdout and "Exit codes: 0 done; 1" in result.stdout
