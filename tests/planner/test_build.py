"""`planner build` on the shipped digits network: whole, interrupted, wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from piqi_planner.build.masks import one_layer_masks, random_masks, start_masks, two_layer_masks
from piqi_planner.build.options import BuildError, make_options, read_options
from piqi_planner.build.stages import StageError, Stages
from piqi_planner.build.thin import thin
from piqi_planner.cli import main
from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import load, write_images
from piqi_planner.search import Front, non_dominated_3d
from piqi_runtime.bundle import load_bundle, verify_bundle

FRAMES = 48
CUTS, LAYERS = "2,4,5,6,7,8", 7  # of ten layers: every build takes half the time
BLOCKS = 2  # of at most 32 frames: records of a mask
STARTED = BLOCKS * len(start_masks(LAYERS, 10, 10))  # records that a build begins with


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    frames, labels, test_frames, test_labels = load()
    write_images(folder / "train", frames, labels, count=20)
    write_images(folder / "test", test_frames[:FRAMES], test_labels[:FRAMES])
    return folder


def arguments(images: Path, out: Path, *more: object) -> list[str]:
    options = [MODEL, "--name", "digits", "--layers", CUTS, "--fit", "exact", "--samples", 10, "--pairs", 10]
    options += ["--calibrate", images / "train", "--evaluate", images / "test", "--out", out, "--jobs", 1, *more]
    return [str(option) for option in options]


@pytest.fixture(scope="module")
def built(images: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "bundle"
    assert main(["build", *arguments(images, out, "--jobs", 2)]) == 0
    return out


def records(work: Path) -> int:
    """How many a build has measured by now."""
    name = f"{(work / 'evaluations.sqlite').as_uri()}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(name, uri=True)) as store:
        return int(store.execute("SELECT count(*) FROM records").fetchone()[0])
    return 0


def test_a_bundle_is_whole_and_every_accuracy_was_measured(built: Path) -> None:
    assert verify_bundle(built) == []
    bundle = load_bundle(built)
    assert bundle.table.accuracy_metric.frames == FRAMES
    for point in bundle.table.points:
        assert point.accuracy_provenance == "measured" and point.accuracy_standard_error is not None
        assert point.accuracy_lower_bound is not None and point.accuracy_lower_bound <= point.accuracy
        hits = point.accuracy * FRAMES / 100
        assert hits == pytest.approx(round(hits))
    compared = json.loads((built.with_name("bundle.work") / "verification.json").read_bytes())
    assert len(compared) > 1 and all(entry["frames"] > 0 for entry in compared)
    assert STARTED < records(built.with_name("bundle.work")) < BLOCKS * 2**LAYERS


def test_a_second_run_does_nothing_again_and_gives_the_same_bytes(built: Path, images: Path, tmp_path: Path) -> None:
    work = shutil.copytree(built.with_name("bundle.work"), tmp_path / "bundle.work")
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir() if path.suffix in (".piqi", ".csv")}
    assert main(["build", *arguments(images, tmp_path / "bundle")]) == 0
    for name in ("model.piqi", "samples.csv", "front.csv"):
        assert (work / name).stat().st_mtime_ns == before[name]
    for name in ("manifest.json", "table.json", "model.piqi"):
        assert (tmp_path / "bundle" / name).read_bytes() == (built / name).read_bytes()


def test_stages_one_by_one_come_to_the_same_table(built: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    for stage in ("sample", "front"):
        assert main([stage, *arguments(images, out)]) == 0
        assert not out.exists()
    assert main(["build", *arguments(images, out)]) == 0
    assert (out / "table.json").read_bytes() == (built / "table.json").read_bytes()


def test_killed_in_every_stage_it_comes_to_the_same_table(built: Path, images: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "bundle", tmp_path / "bundle.work"
    moments: list[Callable[[], bool]] = [
        (work / "calibration.json").exists,
        lambda: records(work) > 0,
        lambda: records(work) > STARTED,
        *((work / name).exists for name in ("samples.csv", "front.csv", "report.html")),
    ]
    # Processes that have the planner imported: most of a command's time is that.
    forks = get_context("forkserver")
    forks.set_forkserver_preload(["piqi_planner.cli"])
    for reached in moments:
        process = forks.Process(target=main, args=(["build", *arguments(images, out)],))
        process.start()
        while process.is_alive() and not reached():
            time.sleep(0.005)
        process.kill()
        process.join()
        assert not out.exists() or verify_bundle(out) == []
    assert main(["build", *arguments(images, out)]) == 0
    assert (out / "table.json").read_bytes() == (built / "table.json").read_bytes()


def test_options_of_a_file_and_of_the_command_line(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text('model = "m.tflite"\ncalibrate = "c"\nevaluate = "e"\nout = "o"\nsamples = 5\nmetric = "top5"\n')
    options = read_options(file, {"samples": 7, "out": Path("elsewhere")})
    assert options.model == tmp_path / "m.tflite" and options.calibrate == tmp_path / "c"
    assert (options.samples, options.metric, options.out) == (7, "top5", Path.cwd() / "elsewhere")
    file.write_text(file.read_text() + "sample = 5\n")
    with pytest.raises(BuildError, match=r"build.toml: .*sample: is not a key"):
        read_options(file, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": -1}, "--samples.*-1"),
        ({"confidence": 1.5}, "--confidence.*1.5"),
        ({"labels": Path("a"), "annotations": Path("b")}, "labels, annotations"),
        ({"model": None}, "--model"),
    ],
)
def test_wrong_options(given: dict, message: str) -> None:
    right = {"model": Path("m"), "calibrate": Path("c"), "evaluate": Path("e"), "out": Path("o")}
    with pytest.raises(BuildError, match=message):
        make_options({**right, **given})


def fails(capsys, images: Path, out: Path, *more: object) -> str:
    assert main(["build", *arguments(images, out, *more)]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()
    assert not out.exists()
    return error[-1]


def test_one_clear_error(images: Path, built: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(built.with_name("bundle.work"), tmp_path / "bundle.work")
    assert "no measured mask keeps an accuracy of 100 %" in fails(capsys, images, out, "--min-accuracy", 100)
    assert "nothing-there" in fails(capsys, images, out, "--evaluate", tmp_path / "nothing-there")
    assert "top7" in fails(capsys, images, out, "--metric", "top7")
    assert "evaluations.sqlite: key.metric" in fails(capsys, images, out, "--metric", "agreement")
    assert "no section [estimate]" in fails(capsys, images, out, "--board", "host")
    assert "--memory" in fails(capsys, images, tmp_path / "other", "--memory", "10M")
    (tmp_path / "labels.csv").write_text("file,label\n0000.png,77\n")
    more = ("--labels", tmp_path / "labels.csv", "--work", tmp_path / "third")
    assert "0000.png" in fails(capsys, images, out, *more) or "label" in fails(capsys, images, out, *more)


@pytest.mark.usefixtures("no_cluster")
def test_no_cluster(images: Path, tmp_path: Path, capsys) -> None:
    assert "--dask: no scheduler" in fails(capsys, images, tmp_path / "bundle", "--dask", "tcp://127.0.0.1:9")


def test_a_floor_is_kept_by_the_bound(images: Path, tmp_path: Path, built: Path) -> None:
    shutil.copytree(built.with_name("bundle.work"), tmp_path / "bundle.work")
    bounds = [point.accuracy_lower_bound for point in load_bundle(built).table.points]
    floor = max(bound for bound in bounds if bound is not None)
    out = tmp_path / "bundle"
    assert main(["build", *arguments(images, out, "--min-accuracy", floor)]) == 0
    assert min(point.accuracy_lower_bound or 0 for point in load_bundle(out).table.points) >= floor


def test_stages_are_done_again_when_what_they_depend_on_changes(tmp_path: Path) -> None:
    done: list[str] = []

    def make(text: str) -> None:
        done.append(text)
        (tmp_path / "file").write_text(text)

    for key, text in ((1, "a"), (1, "b"), (2, "c")):
        Stages(tmp_path).run("stage", {"key": key}, ["file"], lambda text=text: make(text))
    assert done == ["a", "c"]
    (tmp_path / "file").write_text("changed by somebody")
    Stages(tmp_path).run("stage", {"key": 2}, ["file"], lambda: make("d"))
    assert done == ["a", "c", "d"]
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(StageError, match=r"stages\.json"):
        Stages(tmp_path)


def test_masks_to_begin_with() -> None:
    assert len(two_layer_masks(6)) == 15 and len(two_layer_masks(6, 4)) == 4
    assert (two_layer_masks(6).sum(axis=1) == 2).all()
    masks = random_masks(9, 50, seed=3)
    assert len(np.unique(masks, axis=0)) == 50 and (masks.sum(axis=1) >= 3).all()
    assert (masks == random_masks(9, 50, seed=3)).all() and not (masks == random_masks(9, 50, seed=4)).all()
    assert len(random_masks(3, 50)) == 1
    found = start_masks(5, None, 4)
    known = {mask.tobytes() for mask in found}
    assert {mask.tobytes() for mask in one_layer_masks(5)} < known and len(known) == len(found)


def test_thinning_keeps_the_ends() -> None:
    random = np.random.default_rng(0)
    latency, power, accuracy = random.uniform(1, 9, 4000), random.uniform(1, 9, 4000), random.uniform(50, 60, 4000)
    kept = non_dominated_3d(latency, power, accuracy)
    columns = (latency[kept], power[kept], latency[kept] * power[kept], accuracy[kept])
    front = Front(np.arange(len(kept))[:, np.newaxis], *columns)
    few = thin(front, 20)
    assert 10 <= len(few) <= 20
    for column in ("latency_ms", "power_mw", "energy_mj"):
        assert getattr(few, column).min() == getattr(front, column).min()
    assert few.accuracy.max() == front.accuracy.max()
    assert thin(front, 10_000) is front
