"""Decoded forms through the socket: classes with labels and boxes, of two models whose outputs are known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S, Connection, Process

from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.client import Client, DaemonError
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

SCORES = ["zero", "one \u00e9\U0001f600", "two", "three"]
ANCHORS = ((8.0, 8.0), (10.0, 10.0))


def write(folder: Path, model: Model, **arguments: Any) -> None:
    point = OperatingPoint(order="B", freqs="0", latency_ms=1.0, power_mw=5e3, energy_mj=5.0, accuracy=70.0)
    table = ParetoTable(
        board="host",
        model=model.name,
        layers=TableLayers(count=1, letters="LBGN"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=(point,),
    )
    write_bundle(folder, model=model, table=table, partitions=(), **arguments)


def write_classifier(folder: Path) -> None:
    """Its scores are what goes in."""
    tensors = {"x": Tensor("x", (1, 4, 1)), "y": Tensor("y", (1, 4))}
    write(
        folder,
        Model("classifier", tensors, (Operator("reshape", "flat", ("x",), ("y",)),), ("x",), ("y",)),
        input=BundleInput(name="x", shape=(1, 4, 1), preprocessing="raw", fit="exact", colour=None),
        outputs=[BundleOutput(name="y", shape=(1, 4), kind="classes")],
        labels=SCORES,
    )


def write_detector(folder: Path) -> None:
    """2 x 2 cells with two anchors each. Red is an object, green of the first class, blue of the second.

    A cell looks at eight pixels of its row 12 alone: of a frame twice as wide as high the upper cells see the image,
    the lower ones what it was padded with. Boxes lie in the middle of their cells and are as large as their anchors.
    """
    weights = np.zeros((14, 16, 16, 3), np.float32)
    bias = np.zeros(14, np.float32)
    for anchor, gain in enumerate((20.0, 14.0)):
        weights[7 * anchor + 4 : 7 * anchor + 7, 12, 4:12] = np.diag([gain, 20, 20])[:, None] / 8
        bias[7 * anchor + 4 : 7 * anchor + 7] = [-12, -15, -16]
    tensors = {
        "image": Tensor("image", (1, 32, 32, 3)),
        "w": Tensor("w", weights.shape, "float32", weights),
        "b": Tensor("b", bias.shape, "float32", bias),
        "cells": Tensor("cells", (1, 2, 2, 14)),
    }
    strides = {"stride_height": 16, "stride_width": 16}
    write(
        folder,
        Model(
            "detector",
            tensors,
            (Operator("conv2d", "head", ("image", "w", "b"), ("cells",), strides),),
            ("image",),
            ("cells",),
        ),
        input=BundleInput(name="image", shape=(1, 32, 32, 3), preprocessing="unit", fit="letterbox"),
        outputs=[
            BundleOutput(
                name="cells",
                shape=(1, 2, 2, 14),
                kind="boxes",
                options={"stride": 16, "anchors": [list(anchor) for anchor in ANCHORS]},
            )
        ],
        labels=["yellow", "magenta"],
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The real command with both."""
    folder = tmp_path_factory.mktemp("decode")
    write_classifier(folder / "classifier")
    write_detector(folder / "detector")
    (folder / "daemon.toml").write_text(f'root = ""\ntimeout_s = {PATIENCE_S}\n')
    command = ["-m", "piqi_runtime.daemon.main", "--config", str(folder / "daemon.toml"), "--board", "host"]
    for name in ("classifier", "detector"):
        command += ["--bundle", str(folder / name)]
    path = folder / "piqid"
    process = Process([*command, "--socket", str(path)], path, folder / "log")
    yield process
    assert process.stop() == 0


def picture() -> np.ndarray:
    """64 x 32 pixels: yellow on the left, magenta on the right."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32], frame[:, 32:] = (255, 255, 0), (255, 0, 255)
    return frame


def score(objectness: float, label: float) -> float:
    """By the network's own values."""
    return float(1 / (1 + np.exp(-objectness)) / (1 + np.exp(-label)))


def test_classes_come_with_scores_and_labels(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client:
        scores = np.array([[0.25, 3.5, -1, 3.5]], np.float32)
        result = client.infer(scores, model="classifier", top_k=3)
        assert result.outputs == {}
        assert result.decoded == [
            {"class": 1, "score": 3.5, "label": "one \u00e9\U0001f600"},
            {"class": 3, "score": 3.5, "label": "three"},  # of equal ones the lower number first
            {"class": 0, "score": 0.25, "label": "zero"},
        ]
        result = client.infer(scores, model="classifier", top_k=9, outputs=True)  # more than there are
        assert [row["class"] for row in result.decoded] == [1, 3, 0, 2]
        np.testing.assert_array_equal(result.outputs["y"], scores)


def test_a_score_that_is_no_number_is_null(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client:
        scores = np.array([[np.inf, 2, np.nan, 1]], np.float32)
        rows = client.infer(scores, model="classifier", top_k=4).decoded
        assert {row["label"]: row["score"] for row in rows} == {SCORES[0]: None, SCORES[1]: 2, "two": None, "three": 1}


def test_boxes_are_in_the_frames_pixels(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client:
        result = client.infer(picture(), model="detector", boxes=True)
        assert [(row["class"], row["label"], row["box"]) for row in result.decoded] == [
            # In the network's input 8 pixels around (8, 8), where the frame begins at y = 8 at half its size.
            (0, "yellow", [8.0, 0.0, 16.0, 8.0]),
            (1, "magenta", [40.0, 0.0, 16.0, 8.0]),
        ]
        scores = [score(8, 5), score(8, 4)]
        assert [row["score"] for row in result.decoded] == pytest.approx(scores, abs=2e-6)
        turned = client.infer(picture()[:, ::-1], model="detector", boxes=True)
        assert [(row["label"], row["box"][0]) for row in turned.decoded] == [("yellow", 40.0), ("magenta", 8.0)]
        swapped = client.infer(picture()[..., ::-1], model="detector", format="bgr8", boxes=True)
        assert swapped.decoded == result.decoded
        assert client.infer(np.zeros((32, 64, 3), np.uint8), model="detector", boxes=True).decoded == []


def test_overlap_and_score_are_the_requests(daemon: Process) -> None:
    """The second anchor's boxes overlap the first's by 64 of 100 pixels and have a lower score."""
    with Client(daemon.path, PATIENCE_S) as client:

        def widths(**boxes: float) -> list[float]:
            rows = client.infer(picture(), model="detector", boxes=boxes or True).decoded
            assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
            return [row["box"][2] for row in rows]

        assert widths() == [16, 16]
        assert widths(iou=0.7) == [16, 16, 20, 20]
        assert widths(iou=0.6) == [16, 16]
        assert widths(iou=0.7, score=score(2, 4) - 0.001) == [16, 16, 20, 20]
        assert widths(iou=0.7, score=score(2, 4) + 0.001) == [16, 16, 20]
        assert widths(iou=0.7, score=score(2, 5) + 0.001) == [16, 16]
        assert widths(score=1.0) == []


def test_what_a_model_does_not_have(daemon: Process) -> None:
    with Client(daemon.path, PATIENCE_S) as client:
        scores = np.zeros((1, 4), np.float32)
        for frame, options, message in (
            (scores, {"model": "classifier", "boxes": True}, "decode.kind: expected a model with boxes"),
            (picture(), {"model": "detector", "top_k": 1}, "decode.kind: expected a model with classes"),
            (picture(), {"model": "detector", "boxes": {"iou": 0.0}}, "decode.iou"),
            (scores, {"model": "classifier", "top_k": 0}, "decode.k"),
        ):
            with pytest.raises(DaemonError, match=message) as error:
                client.infer(frame, **options)
            assert error.value.code == "bad_argument"
        assert [row["class"] for row in client.infer(scores, model="classifier", top_k=1).decoded] == [0]


def test_one_model_of_several_must_be_named(daemon: Process) -> None:
    with Connection(daemon.path) as client:
        assert client.code(client.frame(0, 0)) == "unknown_model"
        models = {model["name"]: model for model in client.call({"op": "models"})["models"]}
        assert models["detector"]["labels"] and models["detector"]["outputs"][0]["kind"] == "boxes"
        assert client.code(client.frame(0, 0, model="classifier")) == "ok"
