"""Profiles: reading, checking, filling, writing; run configurations as text and as arrays."""

import csv
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from piqi_planner.profile import (
    ConfigurationError,
    ProfileError,
    State,
    format_configuration,
    load_profile,
    parse_configurations,
    published_constants,
)
from piqi_runtime.boards import load_board

MODEL, LAYERS, LITTLE, BIG, GPU = "tiny", 3, 2, 3, 2  # and the numbers of frequencies
Edit = Callable[[list[list[str]]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A profile of a board with the CPUs C and D, the GPU M and the NPU T, both hosted by D."""
    numbers = itertools.count(1)
    layers = [["model", "processor", "freq_index", "host_freq_index", "layer", "phase", "time_ms", "power_mw"]]
    states = [("C", f, "") for f in range(LITTLE)] + [("D", f, "") for f in range(BIG)]
    states += [("M", f, h) for f in range(GPU) for h in range(BIG)] + [("T", h, h) for h in range(BIG)]
    for letter, freq, host in states:
        phases = [("input", 0), *(("run", layer) for layer in range(LAYERS)), ("output", LAYERS - 1)]
        for phase, layer in phases:
            power = "" if phase == "output" or (letter, layer, phase) == ("T", 1, "run") else f"{3000 + next(numbers)}"
            layers.append([MODEL, letter, f"{freq}", f"{host}", f"{layer}", phase, f"{next(numbers) / 8}", power])
        if letter == "T":
            for layer, (phase, time) in itertools.product(
                range(LAYERS), [("npu_load", 5), ("npu_run_and_get", 900), ("npu_fill_tensor", 7)]
            ):
                layers.append([MODEL, letter, f"{freq}", f"{host}", f"{layer}", phase, f"{time}", ""])
    pairs = list(itertools.permutations("CDM", 2))
    moves = [["model", "after_layer", "source", "destination", "time_ms"]]
    moves += [[MODEL, f"{n}", a, b, f"{next(numbers) / 4}"] for n in range(LAYERS - 1) for a, b in pairs]
    scales = [["source", "destination", "source_freq", "destination_freq", "time_ms", "power_mw", "time_ratio"]]
    keys = [("C", "D", "0", f"{k}") for k in range(BIG)] + [("D", "C", "0", f"{k}") for k in range(LITTLE)]
    keys += [("M", "D", f"0-{k}", f"{k}") for k in range(BIG)] + [("D", "M", f"{k}", f"0-{k}") for k in range(BIG)]
    keys += [("C", "M", "0", f"0-{k}") for k in range(BIG)]
    scales += [[*key, "9", "3500", f"{1 / (1 + i)}"] for i, key in enumerate(keys)]
    delays = [["processor", "from_freq_index", "to_freq_index", "delay_ms"]]
    delays += [["D", "0", "1", "2"], ["D", "0", "1", "4"], ["C", "0", "1", "0.5"]]
    tables = {"layers": layers, "transfers": moves, "transfer_frequency": scales, "dvfs_delay": delays}
    for name, rows in tables.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return tmp_path


def edit(folder: Path, table: str, change: Edit) -> None:
    path = folder / f"{table}.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_processors_follow_from_the_files(folder: Path) -> None:
    profile = load_profile(folder)
    model = profile.model(MODEL)
    assert (profile.models(), model.letters, model.layer_count) == ([MODEL], "CDMT", LAYERS)
    assert [(p.kind, p.host) for p in model.processors] == [("cpu", None), ("cpu", None), ("gpu", "D"), ("npu", "D")]
    assert len(model.states) == LITTLE + BIG + GPU * BIG + BIG
    assert model.states[-1] == State(3, BIG - 1, -1) and model.is_npu.sum() == BIG
    published = {model.state_text(model.states[i]) for i in model.states_for("published")}
    assert ("M", f"1-{BIG - 1}") in published and ("M", "1-0") not in published
    assert len(published) == LITTLE + BIG + GPU + BIG


def test_times_are_where_they_belong(folder: Path) -> None:
    model = load_profile(folder).model(MODEL)
    npu = model.states.index(State(3, 0, -1))
    np.testing.assert_allclose(model.unload_ms[npu], 900 - model.run_ms[npu] + 7)
    assert (model.load_ms[npu] == 5).all() and not model.load_ms[~model.is_npu].any()
    # the NPU is transferred to as its host, and between it and its host as between the host and the other CPU
    np.testing.assert_array_equal(model.move_ms[:, 0, 3], model.move_ms[:, 0, 1])
    np.testing.assert_array_equal(model.move_ms[:, 3, 1], model.move_ms[:, 1, 0])
    assert model.delay_ms["D"][0, 1] == model.delay_ms["T"][0, 1] == 3  # the mean of what was measured twice
    assert np.isnan(model.delay_ms["M"]).all()


def test_holes_are_named_and_filled(folder: Path) -> None:
    profile = load_profile(folder)
    assert [(h.processor, h.freqs, h.layer) for h in profile.holes] == [("T", str(k), 1) for k in range(BIG)]
    model = profile.model(MODEL)
    for hole, state in zip(profile.holes, np.flatnonzero(model.is_npu), strict=True):
        assert hole.value == model.run_mw[state, 1] == model.run_mw[state, [0, 2]].mean()
        assert "mean of the other layers" in hole.rule


def test_written_profile_is_the_same(folder: Path, tmp_path: Path) -> None:
    profile = load_profile(folder)
    profile.save(tmp_path / "copy")
    copy = load_profile(tmp_path / "copy")
    assert {t: [r.values for r in rows] for t, rows in copy.rows.items()} == {
        t: [r.values for r in rows] for t, rows in profile.rows.items()
    }
    assert copy.holes == profile.holes


def remove(*cells: str) -> Edit:
    def change(rows: list[list[str]]) -> None:
        rows[:] = [row for row in rows if not set(cells) <= set(row)]

    return change


def put(line: int, column: int, text: str) -> Edit:
    def change(rows: list[list[str]]) -> None:
        rows[line - 1][column] = text

    return change


BAD = {
    "layers": [
        (put(4, 6, "-1.5"), "layers.csv:4: time_ms: expected a finite number that is not negative, got '-1.5'"),
        (put(4, 6, "nan"), "layers.csv:4: time_ms: expected a finite number that is not negative, got 'nan'"),
        (put(4, 7, "inf"), "layers.csv:4: power_mw: expected a finite number that is not negative, got 'inf'"),
        (put(4, 6, ""), "layers.csv:4: time_ms: expected a number, got ''"),
        (put(4, 1, "?"), "layers.csv:4: processor: expected a processor's letter, got '?'"),
        (put(4, 5, "walk"), "layers.csv:4: phase: expected one of input, run"),
        (put(4, 4, "-1"), "layers.csv:4: layer: expected an index, got '-1'"),
        (put(4, 4, "99999"), "layers.csv:4: layer: expected an index, got '99999'"),
        (put(4, 0, ""), "layers.csv:4: model: expected a name, got ''"),
        (put(4, 3, "1"), "layers.csv:4: host_freq_index: expected none, as in C's first row, got 1"),
        (put(1, 6, "seconds"), "layers.csv:1: column time_ms: is missing"),
        (lambda rows: rows.append(rows[3]), "a second row, the first is in line 4"),
        (lambda rows: rows.append(["x"]), "expected 8 cells, got 1"),
        (lambda rows: rows.__delitem__(slice(1, None)), "layers.csv: has no rows"),
        (lambda rows: rows.pop(3), "no row with model=tiny, processor=C, freq_index=0, layer=1, phase=run"),
        (remove("T", "npu_load", "2"), "processor=T, freq_index=0, host_freq_index=0, layer=2, phase=npu_load"),
    ],
    "transfers": [
        (put(3, 2, "T"), "transfers.csv:3: source: tiny has no rows of CPU or GPU 'T'"),
        (put(3, 1, "2"), "transfers.csv:3: after_layer: expected 0 to 1 for tiny, got 2"),
        (put(3, 0, "huge"), "transfers.csv:3: model: 'huge' is not in layers.csv"),
        (put(3, 3, "Z"), "transfers.csv:3: destination: expected a processor's letter of CDMT, got 'Z'"),
        (lambda rows: rows.pop(), "no row with model=tiny, after_layer=1, source=M, destination=D"),
    ],
    "transfer_frequency": [(put(2, 3, "fast"), "destination_freq: expected an index or 'own-host', got 'fast'")],
    "dvfs_delay": [(put(2, 1, "3"), "dvfs_delay.csv:2: from_freq_index: D has no frequency 3")],
}


@pytest.mark.parametrize(
    ("table", "change", "message"), [(table, *case) for table, cases in BAD.items() for case in cases]
)
def test_bad_profiles(folder: Path, table: str, change: Edit, message: str) -> None:
    load_profile(folder)
    edit(folder, table, change)
    with pytest.raises(ProfileError) as caught:
        load_profile(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert f"{table}.csv" in str(caught.value)


def test_missing_files_and_models(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no model 'huge', only tiny"):
        load_profile(folder).model("huge")
    with pytest.raises(ProfileError, match="nowhere: no such folder"):
        load_profile(tmp_path / "nowhere")
    (folder / "transfers.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match=r"transfers\.csv: is not UTF-8"):
        load_profile(folder)
    (folder / "transfers.csv").unlink()
    with pytest.raises(ProfileError, match=r"transfers\.csv: No such file"):
        load_profile(folder)


def test_letters_that_the_board_does_not_have(folder: Path) -> None:
    with pytest.raises(ProfileError, match=r"layers\.csv:2: processor: expected a processor's letter of LBGN, got 'C'"):
        load_profile(folder, load_board("rk3399pro"))


def test_host_that_cannot_be_told(folder: Path) -> None:
    edit(folder, "layers", lambda rows: rows.extend([[r[0], "A", *r[2:]] for r in rows if r[1] == "D"]))
    with pytest.raises(ProfileError, match="M's host has 3 frequencies, 2 CPUs have as many: give a board file"):
        load_profile(folder)


def test_configurations_as_text(folder: Path) -> None:
    model = load_profile(folder).model(MODEL)
    configs = parse_configurations(model, ["CMT", "DDD"], ["1 0-2 2", "0 1 2"])
    assert configs.shape == (2, LAYERS)
    assert [format_configuration(model, config) for config in configs] == [("CMT", "1 0-2 2"), ("DDD", "0 1 2")]


@pytest.mark.parametrize(
    ("order", "freqs", "message"),
    [
        ("CXT", "1 0 2", "layer 1: expected a processor of CDMT, got 'X'"),
        ("CDT", "1 3 2", "layer 1: expected a frequency of D from 0 to 2, got '3'"),
        ("CDM", "1 1 1", "layer 2: expected a frequency of M from 0-0 to 1-2, got '1'"),
        ("CD", "1 1", "expected 3 letters for tiny, got 2"),
        ("CDT", "1 1", "expected 3 frequencies for tiny, got 2"),
    ],
)
def test_bad_configurations(folder: Path, order: str, freqs: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configurations(load_profile(folder).model(MODEL), [order], [freqs])
    assert message in str(caught.value)


def test_the_published_profile(data_dir: Path, tmp_path: Path) -> None:
    """Without a board file it is read as with it; written, it is the same."""
    profile = load_profile(data_dir / "rk3399pro")
    with_board = load_profile(data_dir / "rk3399pro", load_board("rk3399pro"))
    assert profile.processors == with_board.processors
    assert [p.letter for p in profile.processors] == list("LBGN")
    sizes = {name: profile.model(name).layer_count for name in profile.models()}
    assert sizes == {"Alex": 8, "Google": 11, "MobileV1": 14, "ResV1_50": 18, "SqueezeV1": 10, "YOLOv3": 75}
    assert profile.model("Alex").letters == "LBG" and len(profile.model("YOLOv3").states) == 6 + 8 + 5 * 8 + 8
    assert {(h.model, h.layer, h.value) for h in profile.holes} == {("YOLOv3", n, 5707.0) for n in (57, 58, 65, 66)}
    profile.save(tmp_path / "copy")
    again = load_profile(tmp_path / "copy")
    for name in profile.models():
        for field in ("run_ms", "run_mw", "load_ms", "unload_ms", "input_ms", "input_mw", "output_ms", "move_ms"):
            np.testing.assert_array_equal(getattr(again.model(name), field), getattr(profile.model(name), field))


def test_a_layer_missing_in_the_published_profile(data_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data_dir / "rk3399pro", tmp_path / "profile"))
    edit(
        folder,
        "layers",
        lambda rows: rows.remove(next(r for r in rows if r[:6] == ["YOLOv3", "G", "2", "3", "40", "run"])),
    )
    with pytest.raises(ProfileError, match="model=YOLOv3, processor=G, freq_index=2, host_freq_index=3, layer=40"):
        load_profile(folder)


def test_constants_of_another_cut_do_not_apply() -> None:
    """Numbers of side layers and skips mean the paper's cut into 75 layers."""
    assert published_constants("YOLOv3", 75).side_layers and len(published_constants("YOLOv3", 75).skips) == 23
    other = published_constants("YOLOv3", 52)
    assert (other.side_layers, other.skips, other.npu_run_shrink) == ((), (), 0.0117)
    assert published_constants("mine", 5).npu_run_shrink == 0
