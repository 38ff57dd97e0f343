"""The examples in the documentation run as they stand."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/python_api.md"])
def test_python_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks))
    runpy.run_path(str(script), run_name="__main__")
    accuracy = re.search(r"accuracy ([0-9.]+)", capsys.readouterr().out)
    assert accuracy and float(accuracy[1]) > 0.97
    assert (tmp_path / "layers_3_to_9.piqi").stat().st_size > 10_000
