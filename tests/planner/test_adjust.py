"""Measured points: their files, `planner adjust` on tables and bundles, calibration on the reference measurements."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_planner.adjust import MIN_CONFIGURATIONS, Adjustment, adjust_table
from piqi_planner.commands import adjust as command
from piqi_planner.cost import CostModel, CostParameters, load_parameters, make_cost, save_parameters
from piqi_planner.demo import MODEL
from piqi_planner.estimate import estimate_profile
from piqi_planner.front import write_front
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers
from piqi_planner.profile import ModelProfile, format_configuration, load_profile, parse_configurations
from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import BundleInput, BundleOutput, load_bundle, verify_bundle, write_bundle
from piqi_runtime.bundle_table import replace_table
from piqi_runtime.errors import PiqiError
from piqi_runtime.measured_points import MeasuredPoint, read_measured, read_measured_lines, write_measured
from piqi_runtime.profile_tables import ProfileError
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers, load_table, save_table

BOARD = load_board("rk3399pro")
HEAD = "model,order,freqs,latency_ms,power_mw,energy_mj,frames,latency_std_ms,temperature_c\n"
FREQS = {"L": "5", "B": "7", "G": "4-7", "N": "7"}


def point(order: str, latency_ms: float, power_mw: float, accuracy: float, **more: Any) -> OperatingPoint:
    return OperatingPoint(
        order=order,
        freqs=" ".join(FREQS[letter] for letter in order),
        latency_ms=latency_ms,
        power_mw=power_mw,
        energy_mj=latency_ms * power_mw / 1e3,
        accuracy=accuracy,
        **more,
    )


def table(*points: OperatingPoint, model: str = "net") -> ParetoTable:
    return ParetoTable(
        board="rk3399pro",
        model=model,
        layers=TableLayers(count=len(points[0].order), letters="LBGN"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=points,
    )


def row(order: str, latency_ms: float, power_mw: float | None = None, **more: Any) -> tuple[str, MeasuredPoint]:
    freqs = " ".join(FREQS[letter] for letter in order)
    return f"m.csv: {order}", MeasuredPoint("net", order, freqs, latency_ms, power_mw, **more)


FAST = point("NNN", 10.0, 6000.0, 60.0, accuracy_lower_bound=59.0, search="piqi", seed=3)
MIXED = point("BNN", 20.0, 5500.0, 65.0)
EXACT = point("LLL", 40.0, 5000.0, 70.0, accuracy_provenance="measured")
TABLE = table(FAST, MIXED, EXACT)


def after(adjustment: Adjustment, order: str) -> OperatingPoint:
    return next(change.after for change in adjustment.changes if change.before.order == order)


# The file


def test_measured_points_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    points = [
        MeasuredPoint("net", "GLN", "4-7 5 7", 12.5, 5000.0, frames=30, latency_std_ms=0.1, temperature_c=51.5),
        MeasuredPoint("net", "LLL", "0 0 0", 40.25),
        MeasuredPoint("net", "LLL", "0 0 0", 1 / 3, energy_mj=0.1),
    ]
    write_measured(path, points)
    assert path.read_text().startswith(HEAD)
    assert read_measured(path) == points
    assert points[0].energy_mj == 62.5 and points[2].power_mw == pytest.approx(300)
    assert points[1].power_mw is None and points[1].energy_mj is None
    with pytest.raises(ProfileError, match=r"nowhere/m\.csv: No such file"):
        write_measured(tmp_path / "nowhere" / "m.csv", points)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order,freqs\n", "m.csv:1: column latency_ms: is missing"),
        (HEAD, "m.csv: has no rows"),
        (HEAD + "net,L,0,5,,,,\n", "m.csv:2: expected 9 cells, got 8"),
        (HEAD + "net,L,0,5,,,,,\nnet,L,0,,,,,,\n", "m.csv:3: latency_ms: expected a number, got ''"),
        (HEAD + "net,L,0,inf,,,,,\n", "m.csv:2: latency_ms: expected a finite number above zero, got inf"),
        (HEAD + "net,L,0,5,-3,,,,\n", "m.csv:2: power_mw: expected a finite number above zero, got -3"),
        (HEAD + "net,L,0,5,1000,6,,,\n", "m.csv:2: energy_mj: expected latency x power, 5, within 1%, got 6"),
        (HEAD + "net,L,0,5,,,1.5,,\n", "m.csv:2: frames: expected a number, got '1.5'"),
        (HEAD + "net,L,0,5,,,,-1,\n", "m.csv:2: latency_std_ms: expected a finite number that is not negative"),
        (HEAD + "net,L,0,5,,,,,hot\n", "m.csv:2: temperature_c: expected a number, got 'hot'"),
        (HEAD + "net,l,0,5,,,,,\n", "m.csv:2: order: expected a letter for each layer, got 'l'"),
        (HEAD + "net,LL,0,5,,,,,\n", "m.csv:2: freqs: expected 2 indices for order LL, got '0'"),
        (HEAD + "net,L,x,5,,,,,\n", "m.csv:2: freqs: expected 1 indices for order L, got 'x'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        read_measured(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "count"), [("mobilenet_v1", 36), ("yolov3", 158)])
def test_reference_lists_are_such_files(data_dir: Path, tmp_path: Path, name: str, count: int) -> None:
    points = read_measured(data_dir / "rk3399pro" / f"measured_{name}.csv")
    assert len(points) == count and all(point.power_mw and point.energy_mj for point in points)
    write_measured(tmp_path / "again.csv", points)
    assert read_measured(tmp_path / "again.csv") == points


# Without a profile


def test_measured_replaces_predicted() -> None:
    adjustment = adjust_table(TABLE, BOARD, [row("BNN", 22.0, 5400.0)])
    costs = {"latency_ms": 22.0, "power_mw": 5400.0, "energy_mj": 118.8, "cost_provenance": "measured"}
    assert adjustment.table.points == (FAST, MIXED.model_copy(update=costs), EXACT)
    assert adjustment.calibration is None and adjustment.unplaced == 0
    count, errors = adjustment.table_errors
    assert count == 1 and errors["latency"]["mae_ms"] == 2.0 and errors["power"]["mae_mw"] == 100.0
    assert errors["energy"]["bias_percent"] == pytest.approx((110 / 118.8 - 1) * 100)
    again = adjust_table(adjustment.table, BOARD, [row("BNN", 22.0, 5400.0)])
    assert again.table == adjustment.table and again.table_errors == (0, {})  # a measurement is no prediction


def test_dominated_points_leave() -> None:
    adjustment = adjust_table(TABLE, BOARD, [row("LLL", 19.0, 5000.0)])
    assert [point.order for point in adjustment.table.points] == ["NNN", "LLL"]
    beaten = [change.beaten_by and change.beaten_by.order for change in adjustment.changes]
    assert beaten == [None, "LLL", None]


def test_accuracies_and_what_found_a_point_stay() -> None:
    adjustment = adjust_table(TABLE, BOARD, [row("NNN", 11.0, 6100.0), row("LLL", 41.0, 4900.0)])
    for before, now in zip(TABLE.points, adjustment.table.points, strict=True):
        fields = set(OperatingPoint.model_fields) - {"latency_ms", "power_mw", "energy_mj", "cost_provenance"}
        assert before.model_dump(include=fields) == now.model_dump(include=fields)


def test_repeated_rows_count_by_their_frames() -> None:
    rows = [row("NNN", 10.0, 6000.0, frames=30), row("NNN", 14.0, 7000.0, frames=10), row("NNN", 11.0, frames=40)]
    now = after(adjust_table(TABLE, BOARD, rows), "NNN")
    assert now.latency_ms == pytest.approx((300 + 140 + 440) / 80)
    assert now.power_mw == pytest.approx((30 * 60 + 10 * 98) / (30 * 10 + 10 * 14) * 1e3)  # energy over time


def test_latency_alone_makes_no_measured_point() -> None:
    now = after(adjust_table(TABLE, BOARD, [row("NNN", 12.0)]), "NNN")
    assert (now.latency_ms, now.power_mw, now.energy_mj) == (12.0, 6000.0, 72.0)
    assert now.cost_provenance == "predicted"


def test_copied_values_are_left_out() -> None:
    rows = [row("NNN", 12.0, 6000.0), row("BNN", 12.0, 6000.0), row("LLL", 41.0, 5100.0), row("LLL", 41.0, 5100.0)]
    adjustment = adjust_table(TABLE, BOARD, rows)
    assert adjustment.doubtful == (rows[0], rows[1])
    assert [point.cost_provenance for point in adjustment.table.points] == ["predicted", "predicted", "measured"]


def test_a_front_brings_points_back() -> None:
    beaten = point("GNN", 21.0, 5600.0, 65.0)  # by MIXED, as long as that is thought to be fast
    front = [beaten, MIXED.model_copy(update={"latency_ms": 1.0})]
    unchanged = adjust_table(TABLE, BOARD, [row("LLL", 40.0, 5000.0)], front=front)
    assert [point.order for point in unchanged.table.points] == ["NNN", "BNN", "LLL"]
    adjustment = adjust_table(TABLE, BOARD, [row("BNN", 24.0, 5550.0), row("GGG", 30.0, 5200.0)], front=front)
    assert [point.order for point in adjustment.table.points] == ["NNN", "GNN", "BNN", "LLL"]
    assert adjustment.unplaced == 1  # GGG: of no known accuracy


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("NN", 5.0), "m.csv: NN: order: expected 3 letters of LBGN, got 'NN'"),
        (("m.csv:4", MeasuredPoint("net", "LLX", "0 0 0", 5.0)), "m.csv:4: order: expected 3 letters of LBGN"),
        (("m.csv:4", MeasuredPoint("other", "LLL", "0 0 0", 5.0)), "m.csv:4: model: expected net, got 'other'"),
    ],
)
def test_rows_of_something_else(bad: tuple[str, MeasuredPoint], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        adjust_table(TABLE, BOARD, [bad])


# With a profile


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return estimate_profile(assign_layers(import_model(MODEL)), BOARD, "net").model("net")


def predicted(profile: ModelProfile, cost: CostModel, configs: np.ndarray) -> ParetoTable:
    """A table of these configurations; accuracies rise with latency, so that no point dominates another."""
    costs = cost.evaluate(configs)
    points = [
        OperatingPoint(
            order=order,
            freqs=freqs,
            latency_ms=float(costs.latency_ms[place]),
            power_mw=float(costs.power_mw[place]),
            energy_mj=float(costs.energy_mj[place]),
            accuracy=50 + number * 0.01,
        )
        for number, place in enumerate(np.argsort(costs.latency_ms))
        for order, freqs in [format_configuration(profile, configs[place])]
    ]
    return table(*points, model=profile.name)


def measurements(profile: ModelProfile, cost: CostModel, configs: np.ndarray, power: bool = True) -> list:
    costs = cost.evaluate(configs)
    return [
        (f"m.csv:{i + 2}", MeasuredPoint(profile.name, *format_configuration(profile, config), float(ms), float(mw)))
        if power
        else (f"m.csv:{i + 2}", MeasuredPoint(profile.name, *format_configuration(profile, config), float(ms)))
        for i, (config, ms, mw) in enumerate(zip(configs, costs.latency_ms, costs.power_mw, strict=True))
    ]


TRUTH = CostParameters(run={"L": 1.2, "B": 1.15, "G": 0.9, "N": 1.3}, power={"L": 1.1, "B": 0.9, "G": 1.1, "N": 1.0})


@pytest.fixture(scope="module")
def configs(profile: ModelProfile) -> np.ndarray:
    """A state for all layers, or one for the first half and another for the second."""
    states = np.random.default_rng(4).integers(0, len(profile.states), (60, 2))
    half = profile.layer_count // 2
    return np.unique(np.repeat(states, [half, profile.layer_count - half], axis=1), axis=0)


def test_other_points_are_predicted_anew(profile: ModelProfile, configs: np.ndarray) -> None:
    truth, neutral = (make_cost("calibrated", profile, parameters) for parameters in (TRUTH, CostParameters()))
    seen, unseen = configs[::2], configs[1::2]
    adjustment = adjust_table(
        predicted(profile, neutral, configs), BOARD, measurements(profile, truth, seen), profile, neutral
    )
    assert adjustment.calibration is not None and adjustment.calibration.better == {"latency", "power"}
    before, after_errors = adjustment.calibration.errors
    assert after_errors["latency"]["mae_percent"] < 0.3 * before["latency"]["mae_percent"]
    known = {format_configuration(profile, config) for config in seen}
    others = [change for change in adjustment.changes if (change.before.order, change.before.freqs) not in known]
    parsed = parse_configurations(profile, [c.before.order for c in others], [c.before.freqs for c in others])
    costs = truth.evaluate(parsed)
    assert len(others) == len(unseen) and all(c.after.cost_provenance == "predicted" for c in others)

    def error(name: str, values: np.ndarray, which: str) -> float:
        return float(np.abs([getattr(getattr(c, which), name) for c in others] / values - 1).mean())

    for name, values in (("latency_ms", costs.latency_ms), ("power_mw", costs.power_mw)):
        assert error(name, values, "after") < min(0.02, 0.5 * error(name, values, "before"))


def test_without_powers_only_latencies_are_predicted_anew(profile: ModelProfile, configs: np.ndarray) -> None:
    truth, neutral = (make_cost("calibrated", profile, parameters) for parameters in (TRUTH, CostParameters()))
    rows = measurements(profile, truth, configs[::2], power=False)
    adjustment = adjust_table(predicted(profile, neutral, configs), BOARD, rows, profile, neutral)
    assert adjustment.calibration is not None and adjustment.calibration.better == {"latency"}
    assert set(adjustment.calibration.errors[1]) == {"latency"}
    for change in adjustment.changes:
        assert change.after.power_mw == change.before.power_mw
        assert change.after.latency_ms != change.before.latency_ms
        assert change.after.cost_provenance == "predicted"


def test_a_fit_that_is_no_better_changes_nothing(profile: ModelProfile, configs: np.ndarray) -> None:
    truth = make_cost("calibrated", profile, TRUTH)
    made = predicted(profile, truth, configs)
    adjustment = adjust_table(made, BOARD, measurements(profile, truth, configs[::2]), profile, truth)
    assert adjustment.calibration is not None and adjustment.calibration.better == frozenset()
    for change in adjustment.changes:
        assert change.after.latency_ms == pytest.approx(change.before.latency_ms, rel=1e-12)


def test_few_configurations_calibrate_nothing(profile: ModelProfile, configs: np.ndarray) -> None:
    truth = make_cost("calibrated", profile, TRUTH)
    rows = measurements(profile, truth, configs[: MIN_CONFIGURATIONS - 1])
    made = predicted(profile, make_cost("calibrated", profile, CostParameters()), configs)
    assert adjust_table(made, BOARD, rows * 3, profile).calibration is None


@pytest.mark.parametrize(
    ("name", "file", "limits"), [("MobileV1", "mobilenet_v1", (3.5, 3.5)), ("YOLOv3", "yolov3", (4.0, 2.0))]
)
def test_half_of_the_reference_predicts_the_other(
    data_dir: Path, name: str, file: str, limits: tuple[float, float]
) -> None:
    """Real measurements: a table of predictions, adjusted by half of the configurations, judged by the other half."""
    folder = data_dir / "rk3399pro"
    profile = load_profile(folder, BOARD).model(name)
    path = folder / f"measured_{file}.csv"
    rows = [(f"{path}:{line}", point) for line, point in read_measured_lines(path)]
    keys = list(dict.fromkeys((row.order, row.freqs) for _, row in rows))
    configs = parse_configurations(profile, [order for order, _ in keys], [freqs for _, freqs in keys])
    published = make_cost("published", profile)
    half = {keys[place] for place in np.random.default_rng(0).permutation(len(keys))[::2]}
    seen = [row for row in rows if (row[1].order, row[1].freqs) in half]
    adjustment = adjust_table(predicted(profile, published, configs), BOARD, seen, profile, published)
    truth = {(row.order, row.freqs): row for _, row in rows}
    others = [change for change in adjustment.changes if (change.before.order, change.before.freqs) not in half]
    assert len(others) == len(keys) // 2

    def error(which: str, field: str) -> float:
        shares = [
            getattr(getattr(c, which), field) / getattr(truth[c.before.order, c.before.freqs], field) - 1
            for c in others
        ]
        return float(np.abs(shares).mean() * 100)

    assert error("after", "latency_ms") < limits[0] < error("before", "latency_ms")
    assert error("after", "power_mw") < limits[1]


# The command


def run(*words: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["adjust", *map(str, words)])
    arguments.function(arguments)


@pytest.fixture
def files(tmp_path: Path, profile: ModelProfile, configs: np.ndarray) -> dict[str, Path]:
    estimate_profile(assign_layers(import_model(MODEL)), BOARD, "net").save(tmp_path / "profile")
    truth, neutral = (make_cost("calibrated", profile, parameters) for parameters in (TRUTH, CostParameters()))
    save_table(predicted(profile, neutral, configs), tmp_path / "table.json")
    save_parameters(CostParameters(), tmp_path / "neutral.json")
    rows = [row for _, row in measurements(profile, truth, configs[::2])]
    write_measured(tmp_path / "a.csv", rows[:10])
    write_measured(tmp_path / "b.csv", rows[10:])
    names = {"table": "table.json", "a": "a.csv", "b": "b.csv", "profile": "profile", "neutral": "neutral.json"}
    return {key: tmp_path / name for key, name in names.items()}


def test_command_on_a_table(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untouched = files["table"].read_bytes()
    words = (files["table"], "--measured", files["a"], files["b"], "--out", tmp_path / "new.json")
    fit = ("--profile", files["profile"], "--cost-parameters", files["neutral"])
    more = ("--plot", tmp_path / "plot.png", "--save-parameters", tmp_path / "fitted.json")
    run(*words, *fit, *more, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["after"]["latency"]["mae_percent"] < values["before"]["latency"]["mae_percent"]
    assert values["better"] == ["latency", "power"]
    new = load_table(tmp_path / "new.json")
    assert len(new.points) == values["points_after"] == values["points_before"] - values["points_dropped"]
    assert sum(point.cost_provenance == "measured" for point in new.points) == values["points_measured"] > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert load_parameters(tmp_path / "fitted.json").run["N"] == pytest.approx(1.3, abs=0.1)
    assert files["table"].read_bytes() == untouched

    first = (tmp_path / "new.json").read_bytes()
    run(*words, *fit)
    text = capsys.readouterr().out
    assert (tmp_path / "new.json").read_bytes() == first  # a run that was stopped is simply run again
    assert "calibrated, each row unseen" in text and "is better" in text and "latency and power predicted anew" in text
    run(*words)
    assert "Not calibrated (no --profile)" in capsys.readouterr().out


def test_command_errors(files: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    words = (files["table"], "--measured", files["a"])
    out = ("--out", tmp_path / "new.json")
    with pytest.raises(PiqiError, match="--out is missing"):
        run(*words)
    with pytest.raises(PiqiError, match="--plot needs --profile"):
        run(*words, *out, "--plot", tmp_path / "x.png")
    with pytest.raises(PiqiError, match="board: expected 'rk3588', got 'rk3399pro'"):
        run(*words, *out, "--board", "rk3588")
    with pytest.raises(PiqiError, match="no model 'other'"):
        run(*words, *out, "--profile", files["profile"], "--model", "other")
    write_measured(files["a"], read_measured(files["a"])[: MIN_CONFIGURATIONS - 1])
    with pytest.raises(PiqiError, match=f"at least {MIN_CONFIGURATIONS} measured"):
        run(*words, *out, "--profile", files["profile"], "--plot", tmp_path / "x.png")
    files["a"].write_text(files["a"].read_text().replace("net,", "net,X", 1))
    with pytest.raises(PiqiError, match=r"a\.csv:2: freqs: expected"):
        run(*words, *out)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def quantised() -> QuantisedModel:
    model = assign_layers(import_model(MODEL))
    frames = np.random.default_rng(0).uniform(-1, 1, (8, *model.tensors[model.inputs[0]].shape[1:]))
    return quantise(model, calibrate(model, [frames.astype(np.float32)]), "per_tensor")


@pytest.fixture
def bundle(quantised: QuantisedModel, tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        count = quantised.float_model.layer_count
        points = [
            point(order, *figures)
            for order, figures in (
                ("N" * count, (10.0, 6000.0, 60.0)),
                ("B" + "N" * (count - 1), (20.0, 5500.0, 65.0)),
                ("L" * count, (40.0, 5000.0, 70.0)),
            )
        ]
        tensors, model = quantised.float_model.tensors, quantised.float_model
        write_bundle(
            tmp_path / "bundle",
            model=model,
            table=table(*points),
            partitions=quantised.partition,
            input=BundleInput(name=model.inputs[0], shape=tensors[model.inputs[0]].shape, colour="grey"),
            outputs=[BundleOutput(name=name, shape=tensors[name].shape) for name in model.outputs],
            how_built={"seed": 3},
        )
        return tmp_path / "bundle"

    return make


def test_command_on_a_bundle(bundle: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle()
    old = load_bundle(folder, BOARD)
    count = old.table.layers.count
    measured = [row("B" + "N" * (count - 1), 22.0, 5800.0)[1], row("L" * count, 41.0, 4900.0)[1]]
    write_measured(tmp_path / "m.csv", measured)
    write_front(  # the first has its partition in the bundle, the second has not
        tmp_path / "front.csv",
        [point("G" + "N" * (count - 1), 21.0, 5600.0, 65.0), point("GG" + "N" * (count - 2), 21.5, 5000.0, 69.0)],
    )
    run(folder, "--measured", tmp_path / "m.csv", "--front", tmp_path / "front.csv", "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["front_without_partitions"] == 1 and values["points_from_front"] == 1
    assert values["points_dropped"] == 1  # BNN..., which GNN... beats now
    new = load_bundle(folder, BOARD)
    assert [(p.order[:2], p.cost_provenance) for p in new.table.points] == [
        ("NN", "predicted"),
        ("GN", "predicted"),
        ("LL", "measured"),
    ]
    assert verify_bundle(folder, BOARD) == []
    assert new.manifest.how_built["seed"] == 3
    assert new.manifest.how_built["adjusted"]["measured"][0]["file"] == "m.csv"
    assert new.ranges == old.ranges  # what no point needs any more stays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "front.csv", "m.csv"]

    run(folder, "--measured", tmp_path / "m.csv", "--out", tmp_path / "table.json")
    assert load_table(tmp_path / "table.json") == new.table


def test_a_table_that_does_not_fit_leaves_the_bundle_alone(bundle: Callable[[], Path]) -> None:
    folder = bundle()
    old = load_bundle(folder, BOARD)
    count = old.table.layers.count
    wanting = table(point("LL" + "N" * (count - 2), 5.0, 5000.0, 69.0))
    with pytest.raises(PiqiError, match=rf"there is no partition of layers 2-{count - 1}"):
        replace_table(folder, wanting, BOARD)
    with pytest.raises(PiqiError, match=r"model: expected 'net' as in manifest\.json, got 'other'"):
        replace_table(folder, old.table.model_copy(update={"model": "other"}), BOARD)
    assert load_bundle(folder, BOARD).table == old.table
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
