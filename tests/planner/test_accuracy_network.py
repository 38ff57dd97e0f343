"""Dense networks as accuracy models: those given in Keras files and the published one, trained."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from piqi_planner.accuracy import (
    AccuracyError,
    Samples,
    fit_accuracy,
    load_accuracy_model,
    save_accuracy_model,
)
from piqi_planner.accuracy.network import DenseNetwork, KerasNetwork

GIVEN = {"mobilenet_v1": 14, "yolov3": 75}
LAYERS = 6


@pytest.fixture(scope="module")
def keras() -> Any:
    return pytest.importorskip("tensorflow").keras


def masks(layers: int, count: int = 500) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.random((count, layers)) < random.random((count, 1))


@pytest.mark.parametrize("name", GIVEN)
def test_given_predictors_as_keras_evaluates_them(name: str, keras: Any, data_dir: Path) -> None:
    path = data_dir / "rk3399pro" / f"accuracy_model_{name}.h5"
    model = load_accuracy_model(path)
    assert isinstance(model.predictor, DenseNetwork)
    assert model.layers == GIVEN[name]
    some = masks(model.layers)
    expected = keras.models.load_model(path, compile=False).predict(some.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(model.predict(some), expected, atol=1e-4)


def test_given_predictors_do_not_need_tensorflow(data_dir: Path) -> None:
    paths = [str(data_dir / "rk3399pro" / f"accuracy_model_{name}.h5") for name in GIVEN]
    code = (
        "import sys, numpy as np; from piqi_planner.accuracy import load_accuracy_model\n"
        f"for m in map(load_accuracy_model, {paths}): m.predict(np.zeros((1, m.layers), bool))\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def network(keras: Any, *layers: Any) -> Any:
    """With weights that are not zero anywhere."""
    model = keras.Sequential([keras.layers.Input((LAYERS,)), *layers, keras.layers.Dense(1)])
    random = np.random.default_rng(1)
    model.set_weights([np.abs(random.normal(0.5, 0.3, w.shape)) + 0.1 for w in model.get_weights()])
    return model


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_layers_that_are_read_without_keras(suffix: str, keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    model = network(
        keras,
        k.Flatten(),
        k.Dense(9, activation="tanh"),
        k.BatchNormalization(),
        k.Dropout(0.5),
        k.Dense(7, use_bias=False),
        k.BatchNormalization(scale=False, center=False),
        k.Activation("sigmoid"),
        k.Dense(5),
        k.ReLU(),
    )
    path = tmp_path / f"model{suffix}"
    model.save(path)
    loaded = load_accuracy_model(path)
    assert isinstance(loaded.predictor, DenseNetwork)
    some = masks(LAYERS)
    expected = model.predict(some.astype(np.float32), verbose=0)[:, 0]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(loaded.predict(some), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_other_layers_are_left_to_keras(suffix: str, keras: Any, tmp_path: Path) -> None:
    model = network(keras, keras.layers.Dense(4, activation="softplus"), keras.layers.LayerNormalization())
    path = tmp_path / f"model{suffix}"
    model.save(path)
    loaded = load_accuracy_model(path)
    assert isinstance(loaded.predictor, KerasNetwork)
    some = masks(LAYERS)
    expected = model.predict(some.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(loaded.predict(some), expected, atol=1e-5)
    with pytest.raises(AccuracyError, match="own file"):
        save_accuracy_model(loaded, tmp_path / "model.json")


def test_two_outputs(keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((LAYERS,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.h5")
    with pytest.raises(AccuracyError, match=r"model\.h5.*one output"):
        load_accuracy_model(tmp_path / "model.h5")


def test_spoilt_weights(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    model = network(keras, keras.layers.Dense(3))
    model.set_weights([np.full(w.shape, np.nan) for w in model.get_weights()])
    model.save(path)
    with pytest.raises(AccuracyError, match=r"model\.h5.*not finite"):
        load_accuracy_model(path)
    with h5py.File(path, "a") as file:
        del file["model_weights"]
    with pytest.raises(AccuracyError, match=r"model\.h5"):
        load_accuracy_model(path)


def test_published_network_learns(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piqi_planner.accuracy.network.STEPS", 400)  # enough for sums of effects
    monkeypatch.setattr("piqi_planner.accuracy.fit.FOLDS", 3)
    every = np.array([[n >> i & 1 for i in range(LAYERS)] for n in range(1 << LAYERS)], np.bool_)
    samples = Samples(every, 70 - every @ np.linspace(0.1, 1, LAYERS))
    model = fit_accuracy(samples, "published")
    assert model.cross_validation is not None
    assert model.cross_validation.mae_pp < 0.2 * samples.accuracy_percent.std()
    save_accuracy_model(model, tmp_path / "model.json")
    loaded = load_accuracy_model(tmp_path / "model.json")
    np.testing.assert_array_equal(loaded.lower_bound(every), model.lower_bound(every))
