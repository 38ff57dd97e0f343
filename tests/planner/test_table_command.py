"""The commands `table` and `show`."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from piqi_planner.commands import show, table
from piqi_planner.front import FrontError, write_front
from piqi_runtime import PiqiError
from piqi_runtime.table import OperatingPoint, TableError, load_table


def run(module: ModuleType, *arguments: object) -> None:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    parsed = parser.parse_args([module.__name__.split(".")[-1], *map(str, arguments)])
    parsed.function(parsed)


def point(order: str, freq: int, latency_ms: float, power_mw: float, accuracy: float, **more: object) -> OperatingPoint:
    figures = {"latency_ms": latency_ms, "power_mw": power_mw, "energy_mj": latency_ms * power_mw / 1e3}
    return OperatingPoint(order=order, freqs=" ".join([str(freq)] * len(order)), accuracy=accuracy, **figures, **more)


FIRST = [
    point("LLL", 5, 40.0, 5500.0, 70.0),
    point("NNN", 7, 10.0, 6000.0, 60.0),
    point("NNL", 5, 41.0, 5600.0, 69.0),  # dominated by LLL
]
SECOND = [
    point("LLL", 5, 42.0, 5400.0, 70.0, cost_provenance="measured", search="piqi", seed=1),
    point("BBB", 7, 39.0, 7000.0, 70.0),
]
OPTIONS = ("--board", "rk3399pro", "--model", "small", "--metric", "top-1")
ACCURACIES = ("--float-accuracy", 70, "--int8-accuracy", 60)


@pytest.fixture
def fronts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    write_front(paths[0], FIRST)
    write_front(paths[1], SECOND)
    return paths


@pytest.fixture
def table_file(fronts: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    run(table, *fronts, "--out", path, *OPTIONS, *ACCURACIES)
    return path


def test_fronts_are_merged(table_file: Path) -> None:
    made = load_table(table_file)
    # What was measured replaces the prediction, so that NNL is not dominated in latency any more.
    assert made.points == (FIRST[1], SECOND[1], FIRST[2], SECOND[0])
    assert (made.board, made.model, made.layers.count, made.layers.letters) == ("rk3399pro", "small", 3, "LBGN")
    assert made.accuracy_metric.model_dump(exclude_none=True) == {"name": "top-1", "float32": 70.0, "int8": 60.0}


def test_what_is_dominated_is_dropped(fronts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(table, fronts[0], "--out", tmp_path / "table.json", *OPTIONS, *ACCURACIES)
    assert load_table(tmp_path / "table.json").points == (FIRST[1], FIRST[0])
    assert "2 operating points of the 3 given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        (FIRST[0], ("--layers", 4, *ACCURACIES), r"points\[0\]\.order: expected 4 letters, got 3"),
        (point("XXX", 0, 1.0, 1.0, 1.0), ACCURACIES, r"points\[0\]\.order: layer 0.*'X'"),
        (point("LLL", 6, 1.0, 1.0, 1.0), ACCURACIES, r"points\[0\]\.freqs: layer 0.*'6'"),
        (FIRST[0], ("--float-accuracy", 0.7, "--int8-accuracy", 60), "--float-accuracy: expected percent.*0.7"),
        (FIRST[0], ("--float-accuracy", 70, "--int8-accuracy", 160), r"int8: .*160"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, row: OperatingPoint, options: tuple[object, ...], said: str) -> None:
    write_front(tmp_path / "front.csv", [row])
    with pytest.raises(PiqiError, match=said):
        run(table, tmp_path / "front.csv", "--out", tmp_path / "table.json", *OPTIONS, *options)
    assert not (tmp_path / "table.json").exists()


def test_no_points(tmp_path: Path) -> None:
    write_front(tmp_path / "front.csv", [])
    with pytest.raises(FrontError, match=r"front\.csv: expected operating points, got none"):
        run(table, tmp_path / "front.csv", "--out", tmp_path / "table.json", *OPTIONS, *ACCURACIES)


def test_show_prints_ranges_and_best_points(table_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run(show, table_file)
    lines = capsys.readouterr().out.splitlines()
    assert any("4: 3 cost predicted, accuracy predicted; 1 cost measured" in line for line in lines)
    words = {line.rsplit(maxsplit=5)[0]: line.split()[-5:] for line in lines if line and line.split()[-1].isupper()}
    assert words["fastest"] == ["10.000", "6000.000", "60.000", "60.000", "NNN"]
    assert words["least power"] == ["42.000", "5400.000", "226.800", "70.000", "LLL"]
    assert words["most accurate"][-1] == "BBB"


def test_show_as_json(table_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run(show, table_file, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["points"] == 4
    assert shown["ranges"]["latency_ms"] == [10.0, 42.0]
    assert shown["best"]["energy"]["order"] == "NNN"


def test_show_draws_the_front(table_file: Path, tmp_path: Path) -> None:
    run(show, table_file, "--plot", tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.width > 600


def test_show_draws_single_processors_beside_it(table_file: Path, tmp_path: Path, data_dir: Path) -> None:
    profile = ("--profile", data_dir / "rk3399pro", "--cost", "published")
    with pytest.raises(TableError, match="--plot"):
        run(show, table_file, *profile)
    plain, beside = tmp_path / "plain.png", tmp_path / "beside.png"
    with pytest.raises(TableError, match=r"layers\.count: .*14 in the profile, got 3"):
        run(show, table_file, *profile, "--model", "MobileV1", "--plot", beside)
    write_front(tmp_path / "front.csv", [point("L" * 14, 5, 135.0, 4900.0, 68.0)])
    run(table, tmp_path / "front.csv", "--out", table_file, *OPTIONS, *ACCURACIES)
    run(show, table_file, "--plot", plain)
    run(show, table_file, *profile, "--model", "MobileV1", "--plot", beside)
    assert beside.stat().st_size > plain.stat().st_size
