"""The calibrated cost model: fitting, judging on rows that were not seen, parameters in files, `planner validate`."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from piqi_planner.commands import validate as command
from piqi_planner.cost import (
    CostError,
    CostParameters,
    Costs,
    Measured,
    cost_errors,
    cross_validate,
    fit_cost,
    load_parameters,
    make_cost,
    read_measured,
    save_parameters,
    shipped_parameters,
)
from piqi_planner.cost.fit import FOLDS, split_by_group
from piqi_planner.profile import ModelProfile, Profile, load_profile
from piqi_runtime.errors import PiqiError
from piqi_runtime.profile_tables import ProfileError

FILES = {"MobileV1": "measured_mobilenet_v1.csv", "YOLOv3": "measured_yolov3.csv"}
HEAD = "order,freqs,latency_ms,power_mw\n"
ROW = "LLLLLLLL,0 0 0 0 0 0 0 0"


@pytest.fixture(scope="module")
def profile(data_dir: Path) -> Profile:
    return load_profile(data_dir / "rk3399pro")


@pytest.fixture(scope="module")
def yolo(profile: Profile, data_dir: Path) -> tuple[ModelProfile, Measured]:
    model = profile.model("YOLOv3")
    return model, read_measured(model, data_dir / "rk3399pro" / FILES["YOLOv3"])


def percent(costs: Costs, measured: Measured) -> tuple[float, float]:
    errors = cost_errors(costs, measured)
    return errors["latency"]["mae_percent"], errors["power"]["mae_percent"]


@pytest.mark.parametrize(("name", "limits"), [("YOLOv3", (4.0, 1.7)), ("MobileV1", (3.8, 5.3))])
def test_errors_on_rows_not_seen(profile: Profile, data_dir: Path, name: str, limits: tuple[float, float]) -> None:
    """Better than the published model, whatever the split."""
    model = profile.model(name)
    measured = read_measured(model, data_dir / "rk3399pro" / FILES[name])
    published = percent(make_cost("published", model).evaluate(measured.configs), measured)
    for seed in (0, 1):
        errors = percent(cross_validate(model, measured, seed), measured)
        assert errors[0] <= limits[0] and errors[1] <= limits[1]
        assert errors[0] < published[0] and errors[1] < published[1]
    shipped = percent(make_cost("calibrated", model).evaluate(measured.configs), measured)
    assert shipped[0] <= limits[0] and shipped[1] <= limits[1]


def test_published_errors_are_those_that_were_published(yolo: tuple[ModelProfile, Measured]) -> None:
    model, measured = yolo
    errors = cost_errors(make_cost("published", model).evaluate(measured.configs), measured)
    assert errors["latency"]["mae_percent"] == pytest.approx(9.8, abs=0.5)
    assert errors["power"]["mae_percent"] == pytest.approx(1.7, abs=0.1)
    assert -10 < errors["latency"]["bias_percent"] < -7


def test_fit_finds_the_parameters_behind_the_data(yolo: tuple[ModelProfile, Measured]) -> None:
    """Also when one row in ten is far off."""
    model, measured = yolo
    truth = shipped_parameters("MobileV1").model_copy(update={"skip_load": 3.0, "side": 2.0})
    costs = make_cost("calibrated", model, truth).evaluate(measured.configs)
    broken = np.where(np.arange(len(measured)) % 10 == 3, 0.6, 1.0)
    fitted = fit_cost(model, Measured(measured.configs, costs.latency_ms * broken, costs.power_mw / broken))
    again = make_cost("calibrated", model, fitted).evaluate(measured.configs)
    assert np.abs(again.latency_ms / costs.latency_ms - 1).mean() < 0.005
    assert np.abs(again.power_mw / costs.power_mw - 1).mean() < 0.005
    assert fitted.skip_load == pytest.approx(3, abs=0.3) and fitted.side == pytest.approx(2, abs=0.3)
    assert fitted.power["B"] == pytest.approx(truth.power["B"], abs=0.05)


def test_fit_without_evidence_keeps_to_expectation(yolo: tuple[ModelProfile, Measured]) -> None:
    """One row of one processor says nothing about the others."""
    model, measured = yolo
    fitted = fit_cost(model, measured.take(np.array([0])))
    assert fitted.run["G"] == fitted.power["N"] == 1.0 and fitted.skip_load == 1.0 and fitted.cold["B"] == 0.0


def test_splits_keep_configurations_together(yolo: tuple[ModelProfile, Measured]) -> None:
    _, measured = yolo
    groups = measured.groups
    assert len(np.unique(groups)) < len(measured)  # some were measured twice
    parts = split_by_group(groups, FOLDS, seed=5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(measured)))
    seen = [set(groups[part]) for part in parts]
    assert all(a.isdisjoint(b) for i, a in enumerate(seen) for b in seen[:i])
    assert max(map(len, parts)) < len(measured) / FOLDS + 8


def test_rows_copied_by_mistake_are_doubtful(yolo: tuple[ModelProfile, Measured]) -> None:
    _, measured = yolo
    doubtful = measured.take(~measured.trusted)
    assert 0 < len(doubtful) < len(measured) / 10
    assert len(np.unique(doubtful.latency_ms)) < len(np.unique(doubtful.configs, axis=0)) == len(doubtful)
    twice = Measured(measured.configs[[0, 0]], np.array([5.0, 5.0]), np.array([9.0, 9.0]))
    assert twice.trusted.all()  # the same configuration, the same values: nothing is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + f"{ROW},12,nan\n", "m.csv:2: power_mw: expected a finite number above zero, got nan"),
        (HEAD + f"{ROW},0,3000\n", "m.csv:2: latency_ms: expected a finite number above zero, got 0.0"),
        (HEAD + f"{ROW},12,\n", "m.csv:2: power_mw: expected a number, got ''"),
        (HEAD + f"{ROW},12,3000\n{ROW[:-1]}9,12,3000\n", "m.csv:3: layer 7: expected a frequency of L from 0 to 5"),
        (HEAD + "LLL,0 0 0,12,3000\n", "m.csv:2: LLL '0 0 0': expected 8 letters for Alex, got 3"),
        ("model," + HEAD + f"Google,{ROW},12,3000\n", "m.csv:2: model: expected Alex, got 'Google'"),
        ("order,freqs,power_mw\n", "m.csv:1: column latency_ms: is missing"),
        (HEAD, "m.csv: has no rows"),
    ],
)
def test_bad_measurements(profile: Profile, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        read_measured(profile.model("Alex"), path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_in_files(tmp_path: Path) -> None:
    path = tmp_path / "parameters.json"
    parameters = CostParameters(run={"L": 1.5}, side=2.5, provenance="a test")
    save_parameters(parameters, path)
    assert load_parameters(path) == parameters
    path.write_text(path.read_text().replace("2.5", "-2.5"))
    with pytest.raises(CostError, match=r"parameters\.json: side: .*greater than or equal to 0, got -2\.5"):
        load_parameters(path)
    with pytest.raises(CostError, match="nowhere"):
        load_parameters(tmp_path / "nowhere.json")
    assert shipped_parameters("a model that nobody measured").provenance.startswith("both models")


def run_command(*words: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["validate", *map(str, words)])
    arguments.function(arguments)


def test_validate_command(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_dir / "rk3399pro"
    words = ("--profile", folder, "--model", "MobileV1", "--measured", folder / FILES["MobileV1"])
    run_command(*words, "--json", "--plot", tmp_path / "plot.png", "--out", tmp_path / "fitted.json")
    values = json.loads(capsys.readouterr().out)
    assert set(values["latency"]) == {"mae_ms", "mae_percent", "bias_percent"}
    assert set(values["power"]) == {"mae_mw", "mae_percent", "bias_percent"}
    assert set(values["energy"]) == {"mae_mj", "mae_percent", "bias_percent"}
    assert "cross-validation" in values["method"] and values["rows"] == 36
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    run_command(*words, "--json", "--cost-parameters", tmp_path / "fitted.json")
    given = json.loads(capsys.readouterr().out)
    assert given["method"] == "given parameters"
    assert given["latency"]["mae_percent"] < values["latency"]["mae_percent"]  # these have seen the rows

    run_command(*words, "--cost", "published")
    text = capsys.readouterr().out
    assert "published model, nothing fitted" in text and "4.67" in text and "7.77" in text


def test_few_rows_are_judged_by_the_shipped_parameters(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_dir / "rk3399pro"
    few = tmp_path / "few.csv"
    few.write_text("".join((folder / FILES["MobileV1"]).read_text().splitlines(keepends=True)[:6]))
    run_command("--profile", folder, "--model", "MobileV1", "--measured", few, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["method"] == "shipped parameters" and values["rows"] == 5
    assert values["latency"] == values["shipped"]["latency"]


def test_validate_command_errors(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "rk3399pro"
    words = ("--profile", folder, "--model", "YOLOv3", "--measured")
    with pytest.raises(PiqiError, match="--cost published has no parameters"):
        run_command(*words, folder / FILES["YOLOv3"], "--cost", "published", "--out", tmp_path / "x.json")
    with pytest.raises(PiqiError, match=r"model: expected YOLOv3, got 'MobileV1'"):
        run_command(*words, folder / FILES["MobileV1"])
    assert not list(tmp_path.iterdir())
