"""The command line as a user meets it: output, JSON, files, errors, exit codes."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piqi_planner.build.options import BuildOptions
from piqi_planner.cli import main
from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import load
from piqi_runtime.bundle import load_bundle


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits as PNG files with labels."""
    folder = tmp_path_factory.mktemp("digits")
    _, _, frames, labels = load()
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        for i in range(60):
            Image.fromarray(np.uint8(np.rint((frames[i, :, :, 0] + 1) * 127.5))).save(folder / f"{i:02}.png")
            writer.writerow([f"{i:02}.png", labels[i]])
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([str(a) for a in ("run", MODEL, "--json", *arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_layers_lists_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", str(MODEL), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["number"] for layer in layers] == list(range(10))
    assert layers[0]["input_shapes"] == [[1, 96, 96, 1]]
    assert layers[0]["macs"] == 48 * 48 * 16 * 9
    assert layers[-1]["bytes_out"] == 40
    assert main(["layers", str(MODEL), "--layers", "block"]) == 0
    table = capsys.readouterr().out
    assert "depthwise_conv2d conv2d" in table and "96x96x1" in table


def test_run_reports_accuracy_latency_and_layers(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "--order", "LLLLLBBBBB", "--images", images, "--labels", images / "labels.csv")
    assert result["accuracy"] > 0.95
    assert 0 < result["latency_ms"]["median"] <= result["latency_ms"]["p99"]
    assert [layer["processor"] for layer in result["layers"]] == list("LLLLLBBBBB")
    assert sum(layer["time_us"]["min"] for layer in result["layers"]) < 1e3 * result["latency_ms"]["max"]
    (cut,) = (t for t in result["transfers"] if t["source"])
    assert (cut["source"], cut["destination"], cut["into_layer"]) == ("L", "B", 5)
    assert result["frames"] == 60 and result["sub_graphs"] == 2


def test_run_quantises_the_layers_on_n(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "--order", "LLNNNNNNNB", "--images", images, "--calibrate", images)
    assert result["accuracy"] > 0.95
    assert [(layer["layer"], layer["last_layer"]) for layer in result["layers"]] == [(0, 0), (1, 1), (2, 8), (9, 9)]


def test_run_says_when_it_calibrates_on_the_images_themselves(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(MODEL), "--order", "N" * 10, "--images", str(images)]) == 0
    captured = capsys.readouterr()
    assert "--calibrate" in captured.err
    assert "layer 0-9" in captured.out and "top-1" in captured.out


def test_run_per_tensor_board(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "--order", "N" * 10, "--images", images, "--board", "rk3399pro", "--freqs", "7 " * 10)
    assert result["accuracy"] > 0.9
    assert result["freqs"] == " ".join("7" * 10)


def test_pipeline_and_repeat(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "--order", "LLLLLBBBBB", "--images", images, "--pipeline", 3, "--repeat", 2)
    assert result["frames"] == 120
    assert result["accuracy"] > 0.95


def test_trace_shows_sub_graphs_on_their_processors(images: Path, tmp_path: Path, capsys) -> None:
    trace = tmp_path / "out.json"
    run_json(capsys, "--order", "LLLBBBBGGG", "--images", images, "--limit", 7, "--trace", trace)
    events = json.loads(trace.read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    sub_graphs = [e for e in spans if e["name"] in ("L 0-2", "B 3-6", "G 7-9")]
    assert len(sub_graphs) == 3 * 7
    assert all(tracks[e["tid"]] == e["name"][0] for e in sub_graphs)
    assert all(e["ts"] >= 0 and e["dur"] > 0 for e in sub_graphs)
    starts = {e["id"] for e in events if e["ph"] == "s"}
    assert starts == {e["id"] for e in events if e["ph"] == "f"} and len(starts) == 3 * 7


@pytest.mark.parametrize(
    ("order", "freqs", "said"),
    [
        ("LLLLLLLLLX", "", "layer 9"),
        ("LLL", "", "3 letters, the model has 10"),
        ("L" * 11, "", "11 letters, the model has 10"),
        ("L" * 10, "0 0 0", "3 entries"),
        ("L" * 10, "0 0 0 0 0 6 0 0 0 0", "layer 5"),
        ("L" * 10, "0 0 0 0 x 0 0 0 0 0", "layer 4"),
        ("G" * 10, "0 " * 10, "own-host"),
    ],
)
def test_wrong_run_configurations(images: Path, capsys, order: str, freqs: str, said: str) -> None:
    board = ("--board", "rk3399pro")
    error = fails(capsys, 2, "run", MODEL, "--order", order, "--freqs", freqs, "--images", images, *board)
    assert said in error


def test_wrong_files(images: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(MODEL.read_bytes()[:5000])
    assert str(broken) in fails(capsys, 3, "layers", broken)
    assert "nowhere" in fails(capsys, 1, "run", MODEL, "--images", tmp_path / "nowhere")
    assert "atlantis" in fails(capsys, 1, "run", MODEL, "--images", images, "--board", "atlantis")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n00.png,77\n")
    assert "label 77" in fails(capsys, 1, "run", MODEL, "--images", images, "--labels", labels)
    labels.write_text("file,label\nmissing.png,7\n")
    assert "missing.png" in fails(capsys, 1, "run", MODEL, "--images", images, "--labels", labels)
    assert "--pipeline" in fails(capsys, 2, "run", MODEL, "--images", images, "--pipeline", 0)
    assert "cut point" in fails(capsys, 2, "layers", MODEL, "--layers", "99")


def test_demo_runs_configurations_and_builds_a_bundle(tmp_path: Path, capsys, monkeypatch) -> None:
    few = partial(BuildOptions, samples=10, limit=96, jobs=1)
    monkeypatch.setattr("piqi_planner.commands.demo.BuildOptions", few)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    executed, built = text.split("building a bundle", 1)
    rows = [line.split() for line in executed.splitlines() if "%" in line]
    orders = [next(word for word in row if set(word) <= set("LBGN") and len(word) == 10) for row in rows]
    assert {"LLLLLLLLLL", "NNNNNNNNNN"} < set(orders) and len(orders) >= 5
    accuracies = [float(word[:-1]) for row in rows for word in row if word.endswith("%")]
    assert min(accuracies) > 95
    recognised = [line.split()[-2:] for line in built.splitlines() if " mJ " in line and " ms, " in line]
    assert len(recognised) == 3 and all(digit == expected for digit, expected in recognised)
    for picture in ("timeline.png", "front.png"):
        assert Image.open(tmp_path / picture).size > (800, 500)
    bundle = load_bundle(tmp_path / "bundle")
    assert {point.accuracy_provenance for point in bundle.table.points} == {"measured"}
    assert (tmp_path / "bundle/report/report.html").stat().st_size > 100_000
