"""Dense networks: the published accuracy predictor (128-64-8), trained with Keras, evaluated without it."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from piqi_planner.accuracy.base import AccuracyError, Floats, Masks, Predictor
from piqi_planner.accuracy.samples import Samples

UNITS = (128, 64, 8)
LEARNING_RATE, BATCH, STEPS = 1e-3, 32, 3500  # after which more training does not help, whatever the samples
CHUNK = 4096
BATCH_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")

ACTIVATIONS: dict[str, Any] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


class _UnsupportedError(Exception):
    """A network that only Keras itself can evaluate."""


@dataclass(frozen=True, eq=False)
class Stage:
    """activation(x @ kernel + bias)."""

    kernel: Floats
    bias: Floats
    activation: str


class DenseNetwork(Predictor):
    """Dense stages, evaluated in float64: within float32's rounding of what Keras says."""

    def __init__(self, stages: list[Stage]) -> None:
        for before, after in itertools.pairwise(stages):
            if before.kernel.shape[1] != after.kernel.shape[0]:
                raise ValueError(f"a stage of {before.kernel.shape[1]} units feeds {after.kernel.shape[0]} inputs")
        if not stages or stages[-1].kernel.shape[1] != 1:
            raise ValueError("expected one output")
        for stage in stages:
            if stage.activation not in ACTIVATIONS or stage.bias.shape != stage.kernel.shape[1:]:
                raise ValueError(f"activation {stage.activation!r}, {stage.bias.shape} biases")
            if not (np.isfinite(stage.kernel).all() and np.isfinite(stage.bias).all()):
                raise ValueError("weights that are not finite")
        self._stages = stages
        self.layers = int(stages[0].kernel.shape[0])

    @classmethod
    def fit(cls, samples: Samples, seed: int) -> DenseNetwork:
        """Trains the published network. Raises AccuracyError without tensorflow."""
        keras = _keras()
        keras.utils.set_random_seed(seed)
        network = keras.Sequential([keras.layers.Input((samples.layers,))])
        for units in UNITS:
            network.add(keras.layers.Dense(units, activation="relu"))
        network.add(keras.layers.Dense(1))
        network.compile(keras.optimizers.Adam(LEARNING_RATE), "mse", steps_per_execution=50)
        centre, unit = samples.accuracy_percent.mean(), samples.accuracy_percent.std() or 1.0
        # One epoch of all repetitions: between epochs Keras spends more time than within so short ones.
        rows = np.arange(STEPS * BATCH) % len(samples)
        targets = ((samples.accuracy_percent - centre) / unit).astype(np.float32)
        network.fit(samples.masks.astype(np.float32)[rows], targets[rows], batch_size=BATCH, verbose=0)
        weights = [np.asarray(array, np.float64) for array in network.get_weights()]
        weights[-2], weights[-1] = weights[-2] * unit, weights[-1] * unit + centre
        names = [*["relu"] * len(UNITS), "linear"]
        return cls([Stage(*parts) for parts in zip(weights[::2], weights[1::2], names, strict=True)])

    @classmethod
    def from_dict(cls, values: dict[str, Any], samples: Samples | None) -> DenseNetwork:
        """What `to_dict` described. Raises KeyError, TypeError or ValueError."""
        return cls(
            [
                Stage(np.array(s["kernel"], np.float64), np.array(s["bias"], np.float64), s["activation"])
                for s in values["stages"]
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """All weights."""
        return {
            "stages": [
                {"kernel": s.kernel.tolist(), "bias": s.bias.tolist(), "activation": s.activation} for s in self._stages
            ]
        }

    def mean(self, masks: Masks) -> Floats:
        """Accuracy in percent."""
        result = np.empty(len(masks))
        for start in range(0, len(masks), CHUNK):
            values = masks[start : start + CHUNK].astype(np.float64)
            for stage in self._stages:
                values = ACTIVATIONS[stage.activation](values @ stage.kernel + stage.bias)
            result[start : start + CHUNK] = values[:, 0]
        return result


class KerasNetwork(Predictor):
    """Any Keras network from [n, layers] to [n, 1], evaluated by Keras."""

    def __init__(self, network: Any) -> None:
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise ValueError(f"has {len(network.inputs)} inputs and {len(network.outputs)} outputs, expected one each")
        shapes = tuple(network.inputs[0].shape), tuple(network.outputs[0].shape)
        if len(shapes[0]) != 2 or shapes[0][1] is None or shapes[1][1:] not in ((), (1,)):
            raise ValueError(f"maps {shapes[0]} to {shapes[1]}, expected (n, layers) to (n, 1)")
        self._network = network
        self.layers = int(shapes[0][1])

    def mean(self, masks: Masks) -> Floats:
        """Accuracy in percent."""
        if not len(masks):
            return np.zeros(0)
        values = self._network.predict(masks.astype(np.float32), batch_size=CHUNK, verbose=0)
        return np.asarray(values, np.float64).reshape(len(masks))

    def to_dict(self) -> dict[str, Any]:
        """Raises AccuracyError: such a network stays in its own file."""
        raise AccuracyError("a network with layers other than dense ones can only be kept in its Keras file")


def read_network(path: Path) -> DenseNetwork | KerasNetwork:
    """A trained predictor from a Keras file: zeros and ones (1: quantised) -> accuracy in percent.

    Networks of dense layers are read without Keras. Raises AccuracyError.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                    return DenseNetwork(_stages(config, _KerasWeights(file)))
        with h5py.File(path) as file:
            return DenseNetwork(_stages(json.loads(file.attrs["model_config"]), _H5Weights(file["model_weights"])))
    except _UnsupportedError:
        pass
    except (OSError, zipfile.BadZipFile) as cause:
        detail = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else "is not a Keras file"
        raise AccuracyError(f"{path}: {detail}") from cause
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as cause:
        raise AccuracyError(f"{path}: is not a usable accuracy predictor: {cause}") from cause
    try:
        return KerasNetwork(_keras().models.load_model(path, compile=False, safe_mode=True))
    except AccuracyError:
        raise
    except Exception as cause:  # Keras raises whatever its layers raise
        raise AccuracyError(f"{path}: is not a usable accuracy predictor: {str(cause).splitlines()[0]}") from cause


class _H5Weights:
    """The variables of each layer in an `.h5` file, by the layer's name."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __call__(self, class_name: str, name: str) -> list[Floats]:
        names = self._group[name].attrs["weight_names"]
        return [np.asarray(self._group[name][key], np.float64) for key in names]


class _KerasWeights:
    """The variables of each layer in a `.keras` file: there layers are numbered by class, in order."""

    def __init__(self, file: Any) -> None:
        self._layers = file["layers"]
        self._seen: dict[str, int] = {}

    def __call__(self, class_name: str, name: str) -> list[Floats]:
        stem = "".join("_" + c.lower() if c.isupper() else c for c in class_name).lstrip("_")
        count = self._seen.get(stem, 0)
        self._seen[stem] = count + 1
        variables = self._layers[f"{stem}_{count}" if count else stem]["vars"]
        return [np.asarray(variables[str(i)], np.float64) for i in range(len(variables))]


def _stages(config: dict[str, Any], weights: _H5Weights | _KerasWeights) -> list[Stage]:
    """Dense stages of a sequential network; everything else that is linear is folded into them."""
    if config["class_name"] != "Sequential":
        raise _UnsupportedError(config["class_name"])
    stages: list[Stage] = []
    for layer in config["config"]["layers"]:
        kind, options = layer["class_name"], layer["config"]
        if kind in ("InputLayer", "Flatten", "Dropout"):
            continue
        if kind == "Dense":
            kernel, *bias = weights(kind, options["name"])
            bias_vector = bias[0] if bias else np.zeros(kernel.shape[1])
            stages.append(Stage(kernel, bias_vector, _activation(options["activation"])))
        elif kind == "BatchNormalization" and stages:
            width = stages[-1].kernel.shape[1]
            scale, shift = _normalisation(options, weights(kind, options["name"]), width)
            stages.append(Stage(np.diag(scale), shift, "linear"))
        elif kind in ("Activation", "ReLU") and stages:
            if kind == "ReLU" and (options.get("max_value"), options.get("negative_slope")) not in (
                (None, 0),
                (None, None),
            ):
                raise _UnsupportedError(kind)
            name = "relu" if kind == "ReLU" else _activation(options["activation"])
            width = stages[-1].kernel.shape[1]
            stages.append(Stage(np.eye(width), np.zeros(width), name))
        else:
            raise _UnsupportedError(kind)
    return stages


def _activation(name: Any) -> str:
    if name not in ACTIVATIONS:
        raise _UnsupportedError(f"activation {name}")
    return str(name)


def _normalisation(options: dict[str, Any], variables: list[Floats], width: int) -> tuple[Floats, Floats]:
    """Scale and shift of a batch normalisation at rest."""
    present = [options.get("scale", True), options.get("center", True), True, True]
    names = [name for name, there in zip(BATCH_NORM_VARIABLES, present, strict=True) if there]
    by_name = dict(zip(names, variables, strict=True))
    scale = by_name.get("gamma", np.ones(width)) / np.sqrt(by_name["moving_variance"] + options["epsilon"])
    return scale, by_name.get("beta", np.zeros(width)) - by_name["moving_mean"] * scale


def _keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow").keras
    except ImportError as cause:
        raise AccuracyError("this needs tensorflow, which is not installed: pip install tensorflow") from cause
