"""Samples in CSV files, and the command that learns from them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from piqi_planner.accuracy import AccuracyError, load_accuracy_model, read_samples
from piqi_planner.commands import fit_accuracy


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_fractions_and_percent(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "which,top1,map", ",0.7,65.5", "0 2,0.6,64", "1,0.65,1")
    fractions = read_samples(path, 3)
    np.testing.assert_array_equal(fractions.masks, [[0, 0, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_allclose(fractions.accuracy_percent, [70, 60, 65])
    assert fractions.metric == "top1"
    np.testing.assert_allclose(read_samples(path, 3, "map").accuracy_percent, [65.5, 64, 1])


def test_the_same_sample_twice_counts_once(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path / "s.csv", "q,a", "0 1,50", "1 0,50", "2,49"), 3)
    np.testing.assert_allclose(samples.accuracy_percent, [50, 49])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"s\.csv: is empty"),
        (("q,a",), r"s\.csv: has no samples"),
        (("q", "1"), r"s\.csv:1: expected quantised layers and at least one metric"),
        (("q,a", "3,50"), r"s\.csv:2: q: expected layers from 0 to 2, got '3'"),
        (("q,a", "-1,50"), r"s\.csv:2: q: .*got '-1'"),
        (("q,a", "1.5,50"), r"s\.csv:2: q: .*got '1\.5'"),
        (("q,a", "1 1,50"), r"s\.csv:2: q: a layer occurs twice in '1 1'"),
        (("q,a", "0,50", "1,nan"), r"s\.csv:3: a: expected a number from 0 to 100, got 'nan'"),
        (("q,a", "1,"), r"s\.csv:2: a: .*got ''"),
        (("q,a", "1,101"), r"s\.csv:2: a: .*got '101'"),
        (("q,a", "1,-0.1"), r"s\.csv:2: a: .*got '-0\.1'"),
        (("q,a", "0 1,50", "1 0,51"), r"s\.csv:3: q '1 0': a is 51 here, but 50 in line 2"),
        (("q,a", "1,50,3"), r"s\.csv:2: expected 2 cells, got 3"),
    ],
)
def test_errors_name_file_line_and_value(lines: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match=message):
        read_samples(write(tmp_path / "s.csv", *lines), 3)


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match=r"none\.csv"):
        read_samples(tmp_path / "none.csv", 3)
    path = write(tmp_path / "s.csv", "q,a,b", "1,50,60")
    with pytest.raises(AccuracyError, match=r"metric 'c': expected one of a, b"):
        read_samples(path, 3, "c")
    with pytest.raises(AccuracyError, match="at least 1, got 0"):
        read_samples(path, 0)
    (tmp_path / "binary.csv").write_bytes(b"q,a\n\xff,1\n")
    with pytest.raises(AccuracyError, match="not UTF-8 text, byte 4"):
        read_samples(tmp_path / "binary.csv", 3)


def run(*options: str) -> None:
    parser = argparse.ArgumentParser()
    fit_accuracy.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["fit-accuracy", *options])
    arguments.function(arguments)


def make_csv(path: Path, seed: int, count: int = 80) -> Path:
    random = np.random.default_rng(seed)
    masks = np.unique(random.random((count, 8)) < 0.5, axis=0)
    accuracy = 0.7 - 0.01 * masks.sum(axis=1) + random.normal(0, 0.001, len(masks))
    rows = [f"{' '.join(map(str, np.flatnonzero(mask)))},{value}" for mask, value in zip(masks, accuracy, strict=True)]
    return write(path, "quantized_layers,top1", *rows)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = make_csv(tmp_path / "train.csv", 0), make_csv(tmp_path / "test.csv", 1)
    out = tmp_path / "model.json"
    options = ("--samples", str(train), "--layers", "8", "--test", str(test), "--confidence", "0.8")
    run(*options, "--json", "--out", str(out))
    printed = json.loads(capsys.readouterr().out)
    for part in ("cross_validation", "test"):
        assert 0.05 < printed[part]["mae_pp"] < 0.2  # the noise alone: 0.08
        assert abs(printed[part]["coverage"] - 0.8) < 0.2
    samples = read_samples(test, 8)
    error = np.abs(load_accuracy_model(out).predict(samples.masks) - samples.accuracy_percent).mean()
    assert error == pytest.approx(printed["test"]["mae_pp"], abs=1e-9)
    run(*options)
    text = capsys.readouterr().out
    assert f"{printed['test']['mae_pp']:.4f}" in text
    assert f"{printed['cross_validation']['coverage']:.1%}" in text


def test_command_without_test_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--samples", str(make_csv(tmp_path / "train.csv", 0)), "--layers", "8", "--json")
    assert json.loads(capsys.readouterr().out)["test"] is None


def test_command_says_where_it_extrapolates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [f"{i} {j},{69 - 0.01 * (i + j)}" for i in range(8) for j in range(i)]
    path = write(tmp_path / "pairs.csv", "q,map", *pairs)
    run("--samples", str(path), "--layers", "8")
    assert "at most 2 of 8 layers quantised" in capsys.readouterr().err


def test_command_draws_the_learning_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.setattr("piqi_planner.accuracy.network.STEPS", 50)
    path = tmp_path / "curve.png"
    run("--samples", str(make_csv(tmp_path / "train.csv", 0)), "--layers", "8", "--plot", str(path), "--json")
    curve = json.loads(capsys.readouterr().out)["learning_curve"]
    assert sorted(curve["mae_pp"]) == ["best", "published"]
    assert all(len(errors) == len(curve["samples"]) for errors in curve["mae_pp"].values())
    assert path.read_bytes().startswith(b"\x89PNG")
