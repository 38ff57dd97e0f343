"""Every network of the zoo and the real MobileNet: imported, run natively, and compared with LiteRT."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from piqi_planner import zoo
from piqi_planner.importer import import_model, import_tflite
from piqi_planner.importer.keras import to_tflite
from piqi_planner.layers import assign_layers

# Keras itself calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: Name -> layers by `conv`, layers by `block`.
CASES = {
    "mobilenet_v1": (28, 14),
    "mobilenet_v2": (53, 35),
    "mobilenet_v3_small": (54, 24),
    "mobilenet_v3_large": (64, 32),
    "squeezenet": (26, 26),
    "googlenet": (58, 57),
    "resnet50": (54, 53),
    "alexnet": (8, 7),
    "yolo_v3": (75, 75),
    "yolo_v3_tiny": (13, 13),
}


@pytest.fixture(scope="module", params=CASES)
def network(request: pytest.FixtureRequest, zoo_tflite: Callable[..., bytes]) -> tuple[str, bytes]:
    return request.param, zoo_tflite(request.param)


def test_same_as_litert(network: tuple[str, bytes], litert: SimpleNamespace) -> None:
    name, data = network
    litert.compare(data, import_tflite(data, name))


def test_layers(network: tuple[str, bytes]) -> None:
    name, data = network
    model = import_tflite(data, name)
    assert (model.layer_count, assign_layers(model, "block").layer_count) == CASES[name]


def test_weights_depend_on_the_seed_only(litert: SimpleNamespace) -> None:
    one, same, other = (zoo.build_tflite("alexnet", 67, 0.05, seed) for seed in (1, 1, 2))
    assert len(one) == len(other) and one != other
    inputs = litert.inputs_for(import_tflite(one, "one"))
    assert np.array_equal(litert.run_litert(one, inputs)[0], litert.run_litert(same, inputs)[0])


@pytest.fixture(scope="module")
def mobilenet(data_dir: Path) -> Path:
    return data_dir / "models" / "mobilenet_v1_0.75_224.tflite"


def test_real_mobilenet(mobilenet: Path, litert: SimpleNamespace) -> None:
    model = import_model(mobilenet)
    assert (model.layer_count, assign_layers(model, "block").layer_count) == (28, 14)
    assert {op.kind for op in model.operators} == {"conv2d", "depthwise_conv2d", "mean", "reshape", "softmax"}
    litert.compare(mobilenet.read_bytes(), model)


def test_constants_are_views_of_the_file(mobilenet: Path) -> None:
    constants = [t.data for t in import_model(mobilenet).tensors.values() if t.data is not None]
    assert sum(c.nbytes for c in constants) > 10e6
    assert not any(c.flags.owndata or c.flags.writeable for c in constants)


def test_keras_file_gives_the_same_network(mobilenet: Path, litert: SimpleNamespace) -> None:
    a, b = import_model(mobilenet), import_model(mobilenet.with_suffix(".h5"))
    assert [(op.kind, op.attributes, op.layer) for op in a.operators] == [
        (op.kind, op.attributes, op.layer) for op in b.operators
    ]
    inputs = litert.inputs_for(a)
    litert.assert_same(litert.run_natively(b, inputs), litert.run_natively(a, inputs))


def test_keras_3_file(tmp_path: Path, litert: SimpleNamespace) -> None:
    model = zoo.build("yolo_v3_tiny", 32, 0.1)
    model.save(tmp_path / "model.keras")
    loaded, direct = import_model(tmp_path / "model.keras"), import_tflite(to_tflite(model), "direct")
    inputs = litert.inputs_for(direct)
    litert.assert_same(litert.run_natively(loaded, inputs), litert.run_natively(direct, inputs))


def test_several_inputs_keep_their_names_and_order(litert: SimpleNamespace) -> None:
    keras = pytest.importorskip("tensorflow").keras
    z, a = keras.Input((4, 4, 3), name="z"), keras.Input((4, 4, 3), name="a")
    data = to_tflite(keras.Model([z, a], [z - 2.0 * a, z + a]))
    model = import_tflite(data, "two")
    assert model.inputs == ("z", "a")
    inputs = litert.inputs_for(model)
    litert.assert_same(litert.run_natively(model, inputs), [inputs[0] - 2 * inputs[1], inputs[0] + inputs[1]])
