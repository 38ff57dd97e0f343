"""Estimated profiles: work, prediction, what was measured winning, fitting, the board file, both commands."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from piqi_planner.cli import main
from piqi_planner.cost import make_cost, shipped_parameters
from piqi_planner.demo import MODEL
from piqi_planner.estimate import (
    NETWORKS,
    EstimateError,
    Measurements,
    board_estimate,
    estimate_profile,
    fit_board,
    fit_processor,
    leave_one_out,
    median_percent,
    read_measured_rows,
    replace_estimate,
)
from piqi_planner.estimate.predict import run_times
from piqi_planner.estimate.solver import solve
from piqi_planner.estimate.work import describe_work
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, describe_layers
from piqi_planner.profile import ModelProfile, Profile, load_profile
from piqi_runtime.boards import BOARDS, Board, load_board
from piqi_runtime.model import Model
from piqi_runtime.profile_tables import TABLES, Row

HEAD = "model,processor,freq_index,host_freq_index,layer,phase,time_ms,power_mw"


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("rk3399pro")


@pytest.fixture(scope="module")
def squeezenet() -> Model:
    return NETWORKS["SqueezeV1"]()


@pytest.fixture(scope="module")
def reference(data_dir: Path, board: Board) -> Measurements:
    profile = load_profile(data_dir / "rk3399pro", board)
    return Measurements(profile, board, {name: build() for name, build in NETWORKS.items()})


def saved(profile: Profile, folder: Path, name: str, board: Board) -> ModelProfile:
    profile.save(folder)
    loaded = load_profile(folder, board)
    assert loaded.processors == profile.processors
    for table in TABLES:
        ours, theirs = ([row.values for row in p.rows[table.name]] for p in (profile, loaded))
        assert ours == theirs
    return loaded.model(name)


def run_ms(profile: ModelProfile, letter: str) -> np.ndarray:
    return profile.run_ms[profile.processor_of == profile.letters.index(letter)]


@pytest.mark.parametrize(
    ("name", "layers", "gmacs", "parameters"),
    [
        ("Alex", 8, 0.724, 60.95e6),
        ("Google", 11, 1.58, 6.99e6),
        ("MobileV1", 14, 0.569, 4.21e6),
        ("ResV1_50", 18, 3.48, 25.5e6),
        ("SqueezeV1", 10, 0.82, 1.24e6),
        ("YOLOv3", 75, 70.3, 61.9e6),
    ],
)
def test_networks_have_their_published_size(name: str, layers: int, gmacs: float, parameters: float) -> None:
    infos = describe_layers(NETWORKS[name]())
    assert len(infos) == layers
    assert sum(info.macs for info in infos) == pytest.approx(gmacs * 1e9, rel=0.01)
    assert sum(info.parameters for info in infos) == pytest.approx(parameters, rel=0.01)


def test_work_of_known_layers() -> None:
    works = describe_work(NETWORKS["YOLOv3"]())
    pointwise, spatial, strided = works[2], works[3], works[4]
    assert pointwise.work["gemm"] == 304 * 304 * 64 * 32 and not pointwise.work["winograd"]
    assert spatial.work["winograd"] == 76 * 76 * 36 * 32 * 64 and not spatial.work["gemm"]
    assert strided.work["gather"] == 152 * 152 * 9 * 64 and not strided.work["winograd"]
    assert works[1].bytes_sent == 2 * 4 * 304 * 304 * 64  # to the next layer and past it
    assert works[74].bytes_sent == 0
    head = describe_work(NETWORKS["Alex"]())[7].work
    assert head["vector"] == 4096 * 1000 and not head["gemm"]
    npu = describe_work(NETWORKS["MobileV1"](), npu=True)[1]
    assert npu.work["activation"] == npu.elements_in + npu.elements_out == 112 * 112 * (32 + 64)
    assert npu.work["gemm"] == 112 * 112 * 32 * 64 and npu.work["window"] == 112 * 112 * 32 * 9


@pytest.mark.parametrize("board_name", ["rk3399pro", "rk3588"])
def test_an_estimate_is_a_profile_that_cost_models_use(board_name: str, tmp_path: Path) -> None:
    board = load_board(board_name)
    model = assign_layers(import_model(MODEL), "block")
    profile = saved(estimate_profile(model, board, "digits"), tmp_path, "digits", board)
    assert profile.letters == board.letters and profile.layer_count == model.layer_count
    assert not profile.holes
    everywhere = np.repeat(np.arange(len(profile.states))[:, None], profile.layer_count, axis=1)
    for name in ("published", "calibrated"):
        costs = make_cost(name, profile).evaluate(everywhere)
        assert (costs.latency_ms > 0).all() and (costs.power_mw > board.idle_power_mw).all()
    mixed = np.array([[0, len(profile.states) - 1] * profile.layer_count])[:, : profile.layer_count]
    assert make_cost("calibrated", profile).evaluate(mixed).latency_ms[0] > 0


def test_higher_frequencies_are_faster_and_hungrier(board: Board, squeezenet: Model, tmp_path: Path) -> None:
    profile = saved(estimate_profile(squeezenet, board, "S"), tmp_path, "S", board)
    for letter in "LB":
        assert (np.diff(run_ms(profile, letter), axis=0) < 0).all()
        power = profile.run_mw[profile.processor_of == profile.letters.index(letter)]
        assert (np.diff(power, axis=0) > 0).all()
    gpu = run_ms(profile, "G").reshape(5, 8, -1)  # own, host
    assert (np.diff(gpu, axis=0) < 0).all() and (np.diff(gpu, axis=1) < 0).all()
    ratios = [profile.move_ratio["B", "L", "0", str(i)] for i in range(6)]
    assert ratios[0] == 1 and (np.diff(ratios) < 0).all()


def test_estimate_of_a_known_network_is_near_what_was_measured(reference: Measurements) -> None:
    board = reference.board
    for name in ("ResV1_50", "SqueezeV1"):
        guess = estimate_profile(NETWORKS[name](), board, name).rows["layers"]
        found = {row.values[:6]: row.values[6] for row in guess}
        pairs = [
            (found[row.values[:6]], row.values[6])
            for row in reference.profile.rows["layers"]
            if row.values[0] == name and row.values[5] == "run"
        ]
        estimated, measured = np.array(pairs, float).T
        assert np.median(np.abs(estimated / measured - 1)) < 0.15


def test_what_was_measured_wins_row_by_row(board: Board, squeezenet: Model, tmp_path: Path) -> None:
    rows = ["S,L,2,,3,run,123.5,", "S,G,1,4,0,run,77,4321", "other,L,2,,3,run,1,1"]
    (tmp_path / "layers.csv").write_text("\n".join([HEAD, *rows]))
    (tmp_path / "dvfs_delay.csv").write_text("processor,from_freq_index,to_freq_index,delay_ms\nL,0,1,5\nL,0,1,7\n")
    plain = saved(estimate_profile(squeezenet, board, "S"), tmp_path / "plain", "S", board)
    measured = read_measured_rows(tmp_path, board)
    result = estimate_profile(squeezenet, board, "S", measured)
    assert result.models() == ["S"]
    profile = saved(result, tmp_path / "out", "S", board)
    little, gpu = 2, profile.states.index((profile.letters.index("G"), 1, 4))
    assert profile.run_ms[little, 3] == 123.5 and profile.run_mw[little, 3] == plain.run_mw[little, 3]
    assert profile.run_ms[gpu, 0] == 77 and profile.run_mw[gpu, 0] == 4321
    changed = profile.run_ms != plain.run_ms
    assert changed.sum() == 2 and changed[little, 3] and changed[gpu, 0]
    assert profile.delay_ms["L"][0, 1] == 6 and profile.delay_ms["L"][0, 2] == plain.delay_ms["L"][0, 2]


def test_a_whole_measured_model_is_left_as_it_is(reference: Measurements, tmp_path: Path) -> None:
    board, name = reference.board, "MobileV1"
    estimated = estimate_profile(NETWORKS[name](), board, name, reference.profile)
    ours, theirs = saved(estimated, tmp_path, name, board), reference.profile.model(name)
    for field in ("run_ms", "run_mw", "load_ms", "unload_ms", "input_ms", "input_mw", "output_ms", "move_ms"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    np.testing.assert_array_equal(ours.delay_ms["B"], theirs.delay_ms["B"])
    assert theirs.move_ratio.items() <= ours.move_ratio.items()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("S,L,2,,10,run,1,1", "layers.csv:2: layer: S has 10 layers here, got layer 10"),
        ("S,L,6,,0,run,1,1", "layers.csv:2: freq_index: expected an index below 6 of L, got 6"),
        ("S,G,0,8,0,run,1,1", "layers.csv:2: host_freq_index: expected an index below 8 of B, got 8"),
        ("S,L,0,1,0,run,1,1", "layers.csv:2: host_freq_index: expected none, got 1"),
    ],
)
def test_measured_rows_must_fit(row: str, problem: str, board: Board, squeezenet: Model, tmp_path: Path) -> None:
    (tmp_path / "layers.csv").write_text(f"{HEAD}\n{row}\n")
    with pytest.raises(EstimateError) as error:
        estimate_profile(squeezenet, board, "S", read_measured_rows(tmp_path, board))
    assert problem in str(error.value)


def test_a_board_without_parameters_is_refused(board: Board, squeezenet: Model, tmp_path: Path) -> None:
    with pytest.raises(EstimateError, match=r"board host: its file has no section \[estimate\].*fit-board"):
        estimate_profile(squeezenet, load_board("host"), "S")
    some = {letter: values for letter, values in board_estimate(board).processors.items() if letter != "G"}
    partial = board.model_copy(
        update={"estimate": board_estimate(board).model_copy(update={"processors": some}).model_dump()}
    )
    with pytest.raises(EstimateError, match=r"no section \[estimate.processors.G\]"):
        estimate_profile(squeezenet, partial, "S")
    with pytest.raises(EstimateError, match=r"expected one of layers\.csv"):
        read_measured_rows(tmp_path, board)


def made_up(board: Board, names: Sequence[str]) -> Profile:
    """A profile that is exactly as the board's parameters say."""
    profiles = [estimate_profile(NETWORKS[name](), board, name) for name in names]
    rows: dict[str, list[Row]] = {table: list(rows) for table, rows in profiles[0].rows.items()}
    for profile in profiles[1:]:
        for table in ("layers", "transfers"):
            rows[table] += profile.rows[table]
    return replace(profiles[0], rows=rows)


def test_a_fit_finds_what_made_the_profile(board: Board) -> None:
    names = ("Alex", "MobileV1", "ResV1_50", "SqueezeV1")
    measurements = Measurements(made_up(board, names), board, {name: NETWORKS[name]() for name in names})
    points = np.array([[0.3, 0.4], [0.7, 1.0], [1.0, 0.6]])
    for letter in "LG":
        works = describe_work(NETWORKS["Google"]())
        fitted, _ = run_times(fit_processor(measurements, letter, names), works, points)
        true, _ = run_times(board_estimate(board).processors[letter], works, points)
        np.testing.assert_allclose(fitted, true, rtol=0.02)
    found = fit_board(measurements, "test").transfers["BG"]
    assert found.ms_per_mb == pytest.approx(board_estimate(board).transfers["BG"].ms_per_mb, rel=0.01)
    assert found.fixed_share == pytest.approx(board_estimate(board).transfers["BG"].fixed_share, rel=0.01)


def test_solver_is_robust_and_never_negative() -> None:
    rng = np.random.default_rng(1)
    columns = rng.uniform(0, 5, (200, 3))
    values = columns @ [2.0, 0.0, 0.5] * rng.lognormal(0, 0.02, 200)
    values[::10] *= 5
    found = solve(columns, values)
    assert (found >= 0).all()
    np.testing.assert_allclose(found, [2, 0, 0.5], atol=0.05)


def test_unseen_networks_are_predicted_within_the_aims(reference: Measurements) -> None:
    unseen = [one for letter in "LBG" for one in leave_one_out(reference, letter)]
    assert {one.model for one in unseen} == set(NETWORKS)
    assert median_percent([one.layers for one in unseen]) <= 25
    assert median_percent([one.totals for one in unseen]) <= 15
    for letter in "LBG":
        some = [one for one in unseen if one.processor == letter]
        assert median_percent([one.layers for one in some]) <= 25
        assert median_percent([one.totals for one in some]) <= 15
    assert median_percent([one.power for one in unseen]) <= 8


def test_the_shipped_parameters_are_the_fit(reference: Measurements) -> None:
    shipped = board_estimate(reference.board)
    assert shipped is not None and shipped.basis == "fitted"
    fitted = fit_board(reference, shipped.provenance)
    works = describe_work(NETWORKS["Google"]())
    points = np.array([[0.5, 0.5], [1.0, 1.0]])
    for letter, parameters in shipped.processors.items():
        ours, theirs = (run_times(p, works, points)[0] for p in (parameters, fitted.processors[letter]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2)


def test_a_board_files_other_lines_are_kept(board: Board, tmp_path: Path) -> None:
    text = (BOARDS / "rk3399pro.toml").read_text()
    before = text.split("[estimate]")[0]
    assert replace_estimate(text, board_estimate(board)) == text
    odd = board_estimate(board).model_copy(update={"provenance": 'a "quoted" \\ line\nand another'})
    path = tmp_path / "board.toml"
    path.write_text(replace_estimate((BOARDS / "host.toml").read_text(), odd))
    assert path.read_text().startswith((BOARDS / "host.toml").read_text().rstrip())
    assert board_estimate(load_board(path)) == odd
    assert replace_estimate(text, odd).startswith(before.rsplit("\n", 2)[0])


def test_the_rk3588_is_marked_as_never_measured() -> None:
    estimate = board_estimate(load_board("rk3588"))
    assert estimate is not None and estimate.basis == "public figures" and "never measured" in estimate.provenance


def test_estimate_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / "layers.csv").write_text(f"{HEAD}\ntiny,B,7,,1,run,2.5,5000\n")
    out = tmp_path / "out"
    common = ["estimate", str(MODEL), "--board", "rk3399pro", "--out", str(out)]
    assert main([*common, "--profile", str(measured), "--name", "tiny"]) == 0
    assert "1 of " in capsys.readouterr().out
    with open(out / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = (r for r in rows if (r["processor"], r["freq_index"], r["layer"], r["phase"]) == ("B", "7", "1", "run"))
    assert (row["time_ms"], row["power_mw"]) == ("2.5", "5000.0")
    assert main(["estimate", str(MODEL), "--board", "host", "--out", str(out)]) == 1
    assert "[estimate]" in capsys.readouterr().err


def test_fit_board_command(board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(board, ("SqueezeV1", "MobileV1")).save(tmp_path / "profile")
    out = tmp_path / "new.toml"
    common = ["fit-board", "--profile", str(tmp_path / "profile"), "--board", "rk3399pro"]
    assert main([*common, "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["models"] == ["SqueezeV1", "MobileV1"] and set(values["median_percent"]) == set("LBGN")
    assert values["median_percent"]["L"]["layer"] < 15
    fitted = board_estimate(load_board(out))
    assert fitted is not None and fitted.basis == "fitted" and "SqueezeV1, MobileV1" in fitted.provenance
    assert main([*common, "--model", "SqueezeV1"]) == 1
    assert "expected NAME=FILE" in capsys.readouterr().err
    assert main([*common, "--model", f"SqueezeV1={MODEL}", "--layers", "4"]) == 1
    assert "expected 2 layers" in capsys.readouterr().err


@pytest.mark.parametrize("board", ["rk3399pro", "rk3588"])
@pytest.mark.parametrize("cost", ["published", "calibrated"])
def test_costs_of_small_layers_are_positive_whatever_changes(board: str, cost: str, tmp_path: Path) -> None:
    estimate_profile(assign_layers(import_model(MODEL)), load_board(board), "digits").save(tmp_path)
    profile = load_profile(tmp_path, load_board(board)).model("digits")
    model = make_cost(cost, profile, shipped_parameters("digits"))  # of another board: the worst that may come
    configs = np.random.default_rng(0).integers(0, len(profile.states), (20_000, profile.layer_count))
    found = model.evaluate(configs)
    assert found.latency_ms.min() > 0 and found.power_mw.min() > 0
    assert (model.tables.layer[0] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": "guess"}, r"board rk3399pro: estimate\.basis: .*'guess'"),
        ({"transfers": {"XB": {}}}, r"board rk3399pro: estimate\.transfers\.XB"),
    ],
)
def test_a_wrong_section_is_one_clear_error(board: Board, change: dict, message: str) -> None:
    wrong = board.model_copy(update={"estimate": {**board.estimate, **change}})
    with pytest.raises(EstimateError, match=message):
        board_estimate(wrong)
