"""Each operator by itself, with drawn parameters: converted by TensorFlow, imported, and compared with LiteRT."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piqi_planner.importer import ModelError, import_tflite
from piqi_runtime.model import Model

Function = Callable[..., Any]

#: Conversion takes a few tenths of a second, so there are few examples; derandomised: the same ones every time.
drawn = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sizes = st.integers(5, 12)
channels = st.integers(1, 6)
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.sampled_from(["SAME", "VALID"])
shapes = st.tuples(st.just(1), sizes, sizes, channels)


def constant(*shape: int, seed: int = 0) -> Any:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def convert(function: Function, *shapes: tuple[int | None, ...], half: bool = False) -> bytes:
    traced = tf.function(function).get_concrete_function(*(tf.TensorSpec(shape, tf.float32) for shape in shapes))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


@pytest.fixture(scope="module")
def check(litert: SimpleNamespace) -> Callable[..., Model]:
    """Converts a function of tensors of the given shapes, compares, and returns the imported model."""

    def run(function: Function, *shapes: tuple[int | None, ...], **options: bool) -> Model:
        data = convert(function, *shapes, **options)
        model = import_tflite(data, "operator")
        litert.compare(data, model)
        return model

    return run


def kinds(model: Model) -> list[str]:
    return [op.kind for op in model.operators]


@drawn
@given(st.data(), shapes, kernels, strides, paddings)
def test_conv2d(check: Any, data: Any, shape: Any, kernel: Any, stride: Any, padding: str) -> None:
    dilation = 1 if stride != (1, 1) else data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    groups = data.draw(st.sampled_from([1, shape[3]]))
    weights = constant(*kernel, shape[3] // groups, 2 * groups)
    activation = data.draw(st.sampled_from([tf.identity, tf.nn.relu, tf.nn.relu6, tf.tanh]))

    def function(x: Any) -> Any:
        return activation(tf.nn.conv2d(x, weights, stride, padding, dilations=dilation) + constant(2 * groups))

    assert "conv2d" in kinds(check(function, shape)) or groups > 1


@drawn
@given(shapes, kernels, st.integers(1, 3), st.integers(1, 2), paddings)
def test_depthwise_conv2d(check: Any, shape: Any, kernel: Any, stride: int, multiplier: int, padding: str) -> None:
    weights = constant(*kernel, shape[3], multiplier)
    model = check(lambda x: tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], padding), shape)
    assert {"depthwise_conv2d", "conv2d"} & set(kinds(model))


@drawn
@given(shapes, kernels, strides, paddings, channels, st.booleans())
def test_transpose_conv2d(
    check: Any, shape: Any, kernel: Any, stride: Any, padding: str, depth: int, bias: bool
) -> None:
    layer = tf.keras.layers.Conv2DTranspose(depth, kernel, stride, padding.lower(), use_bias=bias)
    layer.build(shape)
    layer.set_weights([constant(*weight.shape).numpy() for weight in layer.get_weights()])
    assert "transpose_conv2d" in kinds(check(layer, shape))


@drawn
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(2, 9), st.integers(1, 9), st.booleans())
def test_fully_connected(check: Any, outer: list[int], depth: int, width: int, bias: bool) -> None:
    layer = tf.keras.layers.Dense(width, use_bias=bias)
    layer.build((*outer, depth))
    layer.set_weights([constant(*weight.shape).numpy() for weight in layer.get_weights()])
    model = check(lambda x: tf.nn.relu6(layer(x) + 1.0), (*outer, depth))
    assert "fully_connected" in kinds(model)


@drawn
@given(st.data(), shapes, st.sampled_from([tf.add, tf.subtract, tf.multiply]))
def test_arithmetic_broadcasts(check: Any, data: Any, shape: Any, function: Function) -> None:
    other = [data.draw(st.sampled_from([1, size])) for size in shape][data.draw(st.integers(0, 3)) :]
    activation = data.draw(st.sampled_from([tf.identity, tf.nn.relu]))
    constants = constant(*other)
    check(lambda x: activation(function(x, constants)), shape)
    check(lambda x, y: activation(function(y, x)), shape, tuple(other))


@drawn
@given(shapes, st.sampled_from([tf.nn.max_pool2d, tf.nn.avg_pool2d]), kernels, strides, paddings)
def test_pools(check: Any, shape: Any, pool: Function, kernel: Any, stride: Any, padding: str) -> None:
    check(lambda x: pool(x, kernel, stride, padding), shape)


@pytest.mark.parametrize("axes", [(1, 2), (1,), (2,), (3,), (-1, -2), (1, 2, 3), (0, 1)])
@pytest.mark.parametrize("keep", [True, False])
def test_mean(check: Any, axes: tuple[int, ...], keep: bool) -> None:
    model = check(lambda x: tf.reduce_mean(x, axes, keep) * 2.0, (2, 6, 5, 4))
    assert "mean" in kinds(model)


ACTIVATIONS = {
    "relu": tf.nn.relu,
    "relu6": lambda x: tf.nn.relu6(5 * x),
    "relu_n1_to_1": lambda x: tf.maximum(-1.0, tf.minimum(2 * x, 1.0)),
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "hard_swish": lambda x: 5 * x * tf.nn.relu6(5 * x + 3) * (1 / 6),
    "logistic": tf.sigmoid,
    "tanh": tf.tanh,
    "softmax": tf.nn.softmax,
    "lrn": lambda x: tf.nn.local_response_normalization(x, 2, bias=1.5, alpha=0.7, beta=0.6),
    "prelu": tf.keras.layers.PReLU(tf.keras.initializers.Constant(0.2), shared_axes=[1, 2]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(check: Any, name: str) -> None:
    check(ACTIVATIONS[name], (1, 5, 7, 9))


@drawn
@given(st.data(), st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_concat_and_split(check: Any, data: Any, shape: list[int]) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    whole = [*shape]
    whole[axis] = sum(parts)

    def function(x: Any) -> Any:
        pieces = tf.split(x, parts, axis)
        return tf.concat([2.0 * pieces[-1], *pieces[:-1], pieces[0]], axis)

    check(function, tuple(whole))


@pytest.mark.parametrize("axis", [1, 3])
def test_even_split_with_an_unused_part(check: Any, axis: int) -> None:
    model = check(lambda x: tf.split(x, 3, axis)[1], (1, 6, 4, 9))
    assert len(model.operators[0].outputs) in (1, 3)  # the converter may make it a slice


SLICES = {
    "begin and end": lambda x: x[:, 1:5, 2:-1],
    "negative stride": lambda x: x[:, ::-1, 5:1:-2],
    "strides": lambda x: x[:, 1::3, :6:2, 1:],
    "lost axes": lambda x: x[0, 2, :, -1],
    "new axes": lambda x: x[:, tf.newaxis, 1:, ..., tf.newaxis],
    "ellipsis": lambda x: x[..., 1:3],
    "ellipsis first and lost axis": lambda x: x[..., 2, 1],
    "slice": lambda x: tf.slice(x, [0, 1, 2, 0], [1, 3, -1, 2]),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices(check: Any, name: str) -> None:
    assert "strided_slice" in kinds(check(SLICES[name], (1, 8, 7, 4)))


@drawn
@given(
    shapes,
    st.tuples(st.integers(2, 25), st.integers(2, 25)),
    st.sampled_from(["nearest", "bilinear"]),
    st.sampled_from([(False, False), (True, False), (False, True)]),
)
def test_resizes(check: Any, shape: Any, size: Any, method: str, flags: tuple[bool, bool]) -> None:
    resize = getattr(tf.compat.v1.image, f"resize_{method}_neighbor" if method == "nearest" else "resize_bilinear")
    align, centers = flags
    check(lambda x: resize(x, size, align_corners=align, half_pixel_centers=centers) + 0.5 * x[:, :1, :1], shape)


@drawn
@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_tile(check: Any, data: Any, shape: list[int]) -> None:
    multiples = [data.draw(st.integers(1, 3)) for _ in shape]
    shape[0] += 1
    check(lambda x: tf.tile(x, multiples) * 2.0, tuple(shape))


def test_up_sampling_of_keras_3(check: Any) -> None:
    model = check(tf.keras.layers.UpSampling2D((2, 3)), (1, 4, 5, 3))
    assert kinds(model).count("resize_nearest") == 2


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_pad(check: Any, value: float) -> None:
    paddings = [[0, 0], [2, 1], [0, 3], [1, 0]]
    assert kinds(check(lambda x: tf.pad(x, paddings, constant_values=value), (1, 4, 5, 3))) == ["pad"]


RESHAPES = {
    "reshape": lambda x: tf.reshape(x, (-1, 12)),
    "squeeze": lambda x: tf.squeeze(2.0 * x, [2]),
    "squeeze all": lambda x: tf.squeeze(2.0 * x),
    "expand": lambda x: tf.expand_dims(2.0 * x, 1),
    "there and elsewhere": lambda x: tf.reshape(tf.reshape(x, (-1,)), (3, 1, 16)),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_reshapes(check: Any, name: str) -> None:
    check(RESHAPES[name], (1, 4, 1, 12))


class TestFolding:
    weights = constant(3, 3, 4, 5)

    def padded_conv(self, pads: list[list[int]], value: float = 0.0) -> Function:
        def function(x: Any) -> Any:
            padded = tf.pad(x, pads, constant_values=value)
            return tf.nn.conv2d(padded, self.weights, 2, "VALID")

        return function

    def test_zero_padding_goes_into_the_convolution(self, check: Any) -> None:
        model = check(self.padded_conv([[0, 0], [1, 2], [3, 0], [0, 0]]), (1, 7, 6, 4))
        (op,) = model.operators
        assert [op.attributes[f"pad_{side}"] for side in ("top", "bottom", "left", "right")] == [1, 2, 3, 0]

    def test_other_padding_stays(self, check: Any) -> None:
        assert "pad" in kinds(check(self.padded_conv([[0, 0], [1, 2], [3, 0], [0, 0]], 2.0), (1, 7, 6, 4)))
        assert "pad" in kinds(check(self.padded_conv([[0, 0], [1, 1], [1, 1], [1, 0]]), (1, 7, 6, 3)))

    def test_padding_that_others_read_stays(self, check: Any) -> None:
        def function(x: Any) -> Any:
            padded = tf.pad(x, [[0, 0], [2, 1], [0, 3], [0, 0]])
            return tf.nn.conv2d(padded, self.weights, 1, "VALID"), padded

        assert kinds(check(function, (1, 6, 6, 4))) == ["pad", "conv2d"]

    def test_relu_that_is_alone_is_fused(self, check: Any) -> None:
        def function(x: Any) -> Any:
            y = tf.nn.conv2d(x, self.weights, 1, "SAME")
            return tf.nn.relu(y) + tf.reduce_mean(y, (1, 2), True)

        assert "clamp" in kinds(check(function, (1, 6, 6, 4)))  # since two read y
        model = check(lambda x: tf.nn.relu(tf.nn.conv2d(x, self.weights, 1, "SAME")), (1, 6, 6, 4))
        assert kinds(model) == ["conv2d"] and model.operators[0].attributes["clamp_min"] == 0

    def test_half_precision_weights(self, check: Any) -> None:
        model = check(lambda x: tf.nn.conv2d(x, self.weights, 1, "SAME"), (1, 6, 6, 4), half=True)
        assert kinds(model) == ["conv2d"]
        assert {t.dtype for t in model.tensors.values()} == {"float32"}

    def test_shape_arithmetic_of_an_open_batch(self, litert: SimpleNamespace) -> None:
        data = convert(lambda x: tf.reshape(x * 2.0, (tf.shape(x)[0], -1, 2)), (None, 4, 3, 2))
        model = import_tflite(data, "open")
        assert kinds(model) == ["multiply", "reshape"]
        assert model.tensors[model.inputs[0]].shape[0] == 1
        litert.compare(data, model)


def test_quantised_model(litert: SimpleNamespace) -> None:
    weights = constant(3, 3, 4, 8), constant(3, 3, 8, 1)

    def function(x: Any) -> Any:
        y = tf.nn.relu(tf.nn.conv2d(x, weights[0], 1, "SAME") + constant(8))
        return tf.nn.depthwise_conv2d(y, weights[1], [1, 2, 2, 1], "SAME")

    traced = tf.function(function).get_concrete_function(tf.TensorSpec((1, 8, 8, 4), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = np.random.default_rng(0)
    converter.representative_dataset = lambda: [[rng.uniform(-1, 1, (1, 8, 8, 4)).astype(np.float32)]]
    data = bytes(converter.convert())
    model = import_tflite(data, "quantised")
    assert kinds(model) == ["quantize", "conv2d", "depthwise_conv2d", "dequantize"]
    weight_tensors = [model.tensors[op.inputs[1]] for op in model.operators[1:3]]
    assert [(t.dtype, len(t.scales), t.zero_point) for t in weight_tensors] == [("int8", 8, 0)] * 2
    litert.compare(data, model, tolerance=2 / 255)  # a step of the output's 255, and rounding


class TestErrors:
    def test_unsupported_operator_is_named_with_tensor_and_place(self) -> None:
        data = convert(lambda x: tf.sin(tf.nn.relu(x), name="wave") * 2.0, (1, 4))
        with pytest.raises(ModelError, match=r"SIN \(subgraph 0, operator 1, output '.*'\) is not supported"):
            import_tflite(data, "model")

    def test_dynamic_range_weights(self) -> None:
        traced = tf.function(lambda x: tf.nn.conv2d(x, constant(3, 3, 16, 64), 1, "SAME")).get_concrete_function(
            tf.TensorSpec((1, 8, 8, 16), tf.float32)
        )
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with pytest.raises(ModelError, match=r"CONV_2D.*int8 weights .* float32 input"):
            import_tflite(bytes(converter.convert()), "model")

    def test_open_input_size(self) -> None:
        data = convert(tf.nn.relu, (1, None, None, 3))
        with pytest.raises(ModelError, match=r"leaves the size of its axes \[1, 2\] open"):
            import_tflite(data, "model")

    def test_input_of_another_type(self) -> None:
        traced = tf.function(lambda x: x + 1).get_concrete_function(tf.TensorSpec((1, 4), tf.int64))
        data = bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())
        with pytest.raises(ModelError, match=r"input '.*' is int64 \(1, 4\), which is not supported"):
            import_tflite(data, "model")

    def test_prelu_with_several_slopes(self) -> None:
        layer = tf.keras.layers.PReLU(shared_axes=[1, 2])
        layer.build((1, 4, 4, 3))
        layer.set_weights([np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 1, 3)])
        with pytest.raises(ModelError, match="slopes that differ"):
            import_tflite(convert(layer, (1, 4, 4, 3)), "model")

    def test_control_flow(self) -> None:
        data = convert(lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 9.0, lambda y: y + 1.0, [x])[0], (1, 4))
        with pytest.raises(ModelError, match=r"operator \w+ \(subgraph 0, operator \d+"):
            import_tflite(data, "model")
