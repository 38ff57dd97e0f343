"""`planner kit`: a bundle without a table, with what profiling a board needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from piqi_planner.cli import main
from piqi_planner.commands.kit import kit_ranges
from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import load, write_images
from piqi_planner.profile import load_profile
from piqi_planner.profile.published import published_constants
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import BundleError, add_files, load_bundle, verify_bundle
from piqi_runtime.bundle_archive import pack, unpack
from piqi_runtime.ctl.cli import main as piqictl
from piqi_runtime.engine import Engine
from piqi_runtime.profile_tables import ProfileError, ProfileFacts, read_facts, write_facts


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    frames, labels, _, _ = load()
    write_images(folder, frames, labels, count=8)
    return folder


@pytest.fixture(scope="module")
def kit(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kits") / "kit"
    arguments = [
        "kit",
        MODEL,
        "--board",
        "rk3588",
        "--calibrate",
        images,
        "--fit",
        "exact",
        "--name",
        "d",
        "--out",
        out,
    ]
    assert main(list(map(str, arguments))) == 0
    return out


def test_a_kit_has_the_model_and_the_partitions(kit: Path) -> None:
    assert verify_bundle(kit, load_board("rk3588")) == []
    loaded = load_bundle(kit, load_board("rk3588"), kits=True)
    manifest = loaded.manifest
    assert (manifest.kind, manifest.model, manifest.board, manifest.scheme) == ("kit", "d", "rk3588", "per_channel")
    assert not (kit / "table.json").exists()
    assert loaded.ranges == tuple(sorted(kit_ranges(loaded.model.layer_count)))
    board = load_board("rk3588")
    frame = np.load(kit / "calibration/frames.npz")[loaded.model.inputs[0]][:1]
    with Engine(loaded.model, board) as engine, engine.executor("NBNBNBNBNB", "", loaded.partition) as executor:
        assert executor(frame).shape == (1, 10)


def test_a_kit_is_no_bundle_that_could_run(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError, match=r"kit: is a kit for profiling, without a table: `planner build`"):
        load_bundle(kit)
    with pytest.raises(BundleError, match="is a kit for profiling"):
        load_bundle(kit, kits=True).table  # noqa: B018
    assert piqictl(["policy", "explain", "--bundle", str(kit)]) == 1
    assert "is a kit for profiling" in capsys.readouterr().err
    assert piqictl(["bundle", "show", str(kit)]) == 0
    assert "points   none: a kit for profiling" in capsys.readouterr().out


def test_a_kit_of_another_board_is_refused(kit: Path) -> None:
    with pytest.raises(BundleError, match="the bundle is for 'rk3588', the board is 'rk3399pro'"):
        load_bundle(kit, load_board("rk3399pro"), kits=True)


def test_a_kit_takes_what_the_vendor_tool_prepared_and_travels_as_an_archive(kit: Path, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    pack(kit, tmp_path / "kit.tar.zst")
    unpack(tmp_path / "kit.tar.zst", tmp_path / "kit")
    file = "vendor/rk3588/0-0.rknn"
    changed = add_files(tmp_path / "kit", {file: b"compiled"}, {(0, 0): {"rk3588": file}})
    assert changed.partition(0, 0).vendor_files == {"rk3588": changed.root / file}
    assert verify_bundle(tmp_path / "kit") == []


def test_prepare_takes_a_kit(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to where the vendor's toolkit would be needed."""
    arguments = ["prepare", str(kit), "--npu", "rknn", "--frames", str(kit / "model.piqi")]
    assert main(arguments) == 1
    assert "model.piqi: expected arrays of frames" in capsys.readouterr().err


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 14, 75])
def test_ranges_cover_every_layer_and_some_runs(layers: int) -> None:
    ranges = kit_ranges(layers)
    assert len(ranges) == len(set(ranges)) and {(i, i) for i in range(layers)} <= set(ranges)
    assert all(0 <= first <= last < layers for first, last in ranges)
    assert (0, layers - 1) in ranges and len(ranges) <= layers + 11
    lengths = {last - first + 1 for first, last in ranges}
    assert layers < 8 or {1, 2, layers // 2, layers} <= lengths


def test_what_is_known_of_a_board_as_a_whole(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == ProfileFacts()
    facts = ProfileFacts(idle_power_mw=2100.0, npu_run_shrink={"d": 0.03})
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts
    for text, told in (
        ('{"npu_run_shrink": {"d": -1}}', "profile.json: npu_run_shrink.d: expected a finite number"),
        ('{"idle": 1}', "profile.json: idle: is not a key"),
        ("[]", "profile.json: expected an object"),
        ("{", "profile.json: Expecting"),
    ):
        (tmp_path / "profile.json").write_text(text)
        with pytest.raises(ProfileError, match=told):
            read_facts(tmp_path)


def test_the_measured_run_length_effect_wins_over_the_published(data_dir: Path, tmp_path: Path) -> None:
    published = load_profile(data_dir / "rk3399pro")
    assert published.model("MobileV1").constants.npu_run_shrink == 0.0615
    published.save(tmp_path)
    write_facts(tmp_path, ProfileFacts(npu_run_shrink={"MobileV1": 0.04}))
    changed = load_profile(tmp_path)
    assert changed.model("MobileV1").constants.npu_run_shrink == 0.04
    assert changed.model("YOLOv3").constants == published_constants("YOLOv3", 75)
    changed.save(tmp_path / "again")
    assert read_facts(tmp_path / "again").npu_run_shrink == {"MobileV1": 0.04}
