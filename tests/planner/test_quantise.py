"""Quantisation of whole networks: function, cuts, accuracy, odd data."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import piqi_native
from piqi_planner.importer import import_tflite
from piqi_planner.quantise import (
    CalibrationError,
    QuantisationError,
    calibrate,
    equalise,
    load_calibration,
    quantise,
    save_calibration,
)
from piqi_planner.quantise.equalise import clamp_margin, find_links
from piqi_planner.quantise.operators import WeightView
from piqi_runtime.model import COMPUTE_KINDS, Model, Operator, Tensor

SCHEMES = ("per_channel", "per_tensor")
CHANNELS = 8


class Builder:
    """Puts a network together; `add` returns the name of the operator's output."""

    def __init__(self, shape):
        self.tensors = {"image": Tensor("image", shape)}
        self.operators = []

    def constant(self, name, data):
        self.tensors[name] = Tensor(name, data.shape, "float32", np.ascontiguousarray(data, np.float32))
        return name

    def add(self, kind, inputs, shape, weights=None, bias=None, **attributes):
        name = f"{kind}_{len(self.operators)}"
        constants = [(f"{name}/w", weights), (f"{name}/b", bias)]
        inputs = [*inputs, *(self.constant(n, data) for n, data in constants if data is not None)]
        self.tensors[name] = Tensor(name, shape)
        layer = self.operators[-1].layer + (kind in COMPUTE_KINDS) if self.operators else 0
        self.operators.append(Operator(kind, name, tuple(inputs), (name,), attributes, layer))
        return name

    def model(self, *outputs):
        return Model("net", self.tensors, tuple(self.operators), ("image",), outputs)


def network(seed, spread=1.0):
    """Relu6 chains, a skip connection, a side branch that is an output, concat and a head.

    Depthwise weights and what feeds them differ between channels by up to 10^(2 spread), the function hardly.
    """
    rng = np.random.default_rng(seed)
    c = CHANNELS
    factors = 10.0 ** rng.uniform(-spread, spread, (2, c))
    b = Builder((1, 12, 12, 3))
    same = {"pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
    relu6 = {"clamp_min": 0.0, "clamp_max": 6.0}
    shape = (1, 12, 12, c)

    def normal(*size, gain=1.0):
        return rng.normal(0, gain * np.sqrt(2 / np.prod(size[1:])), size)

    w = normal(c, 3, 3, 3) / factors[0][:, None, None, None]
    x = b.add("conv2d", ["image"], shape, w, rng.normal(0.3, 0.2, c) / factors[0], **same, **relu6)
    w = rng.normal(0, 0.5, (1, 3, 3, c)) * factors[0] / factors[1]
    x = b.add("depthwise_conv2d", [x], shape, w, rng.normal(0.3, 0.2, c) / factors[1], **same, **relu6)
    w = normal(c, 1, 1, c) * factors[1]
    trunk = b.add("conv2d", [x], shape, w, rng.normal(0, 0.2, c), clamp_min=0.0)
    side = b.add("conv2d", [trunk], (1, 12, 12, 4), normal(4, 1, 1, c), rng.normal(0, 1, 4))
    y = b.add("conv2d", [trunk], shape, normal(c, 3, 3, c // 2), rng.normal(0, 0.2, c), groups=2, clamp_min=0.0, **same)
    y = b.add("conv2d", [y], shape, normal(c, 1, 1, c), None)
    y = b.add("add", [trunk, y], shape, clamp_min=0.0)
    y = b.add("concat", [y, side], (1, 12, 12, c + 4), axis=3)
    pool = {"kernel_height": 2, "kernel_width": 2, "stride_height": 2, "stride_width": 2}
    y = b.add("max_pool2d", [y], (1, 6, 6, c + 4), **pool)
    y = b.add("reshape", [y], (1, 36 * (c + 4)))
    y = b.add("fully_connected", [y], (1, 16), normal(16, 36 * (c + 4)), rng.normal(0, 0.2, 16), clamp_min=0.0)
    y = b.add("fully_connected", [y], (1, 10), normal(10, 16, gain=2), rng.normal(0, 0.2, 10))
    y = b.add("softmax", [y], (1, 10), beta=1.0)
    return b.model(side, y)


def images(seed, count):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 12, 12, 3)).astype(np.float32)


def run(model, inputs, keep_all=False):
    interpreter = piqi_native.Interpreter(model.to_graph(), 1, keep_all=keep_all)
    outputs = dict(interpreter.run(inputs))
    if keep_all:
        outputs.update({op.outputs[0]: interpreter.activation(op.outputs[0]) for op in model.operators})
    return outputs


def store(tensor, values):
    limits = np.iinfo(tensor.dtype)
    steps = np.rint(values / np.float32(tensor.scales[0])) + tensor.zero_point
    return np.clip(steps, limits.min, limits.max).astype(tensor.dtype)


def real(tensor, stored):
    return (stored.astype(np.float64) - tensor.zero_point) * tensor.scales[0]


def run_quantised(model, image, keep_all=False):
    outputs = run(model, {"image": store(model.tensors["image"], image)}, keep_all)
    return {name: real(model.tensors[name], values) for name, values in outputs.items()}


def output_error(model, quantised, seed=99, count=20):
    """Root mean square error of the side output, relative to the float output's deviation."""
    side = model.outputs[0]
    errors, values = [], []
    for image in images(seed, count)[:, None]:
        values.append(run(model, {"image": image})[side])
        errors.append(run_quantised(quantised.model, image)[side] - values[-1])
    return float(np.sqrt(np.mean(np.square(errors))) / np.std(values))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 3))
def test_equalisation_leaves_the_function(seed, spread):
    model = network(seed, spread)
    equalised, _ = equalise(model, calibrate(model, [images(seed, 8)]))
    for image in images(seed + 1, 4)[:, None]:
        before, after = run(model, {"image": image}), run(equalised, {"image": image})
        for name in model.outputs:
            np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-4 * np.ptp(before[name]))


def test_equalisation_brings_ranges_together_and_converges():
    model = network(3, spread=2.0)
    calibration = calibrate(model, [images(3, 8)])
    equalised, known = equalise(model, calibration)

    def disparity(of):
        view = WeightView.of(of, of.operators[1])
        ranges = view.output_ranges(of.tensors[view.op.inputs[1]].data.astype(np.float64))
        return ranges.max() / ranges.min()

    assert disparity(model) > 100
    assert disparity(equalised) < disparity(model) / 10
    again, _ = equalise(equalised, known)
    for name, tensor in equalised.tensors.items():
        if tensor.data is not None:
            np.testing.assert_allclose(again.tensors[name].data, tensor.data, rtol=0.02, atol=1e-6)


def test_rescaled_calibration_is_that_of_the_equalised_model():
    model = network(4, spread=2.0)
    for observer in ("minmax", "mse"):
        frames = images(4, 8)
        equalised, known = equalise(model, calibrate(model, [frames], observer))
        measured = calibrate(equalised, [frames], observer)
        assert known.model_hash == measured.model_hash
        for name in known.statistics:
            low, high = measured.range_of(name)
            np.testing.assert_allclose(known.range_of(name), (low, high), rtol=1e-3, atol=0.02 * (high - low))
        for name, means in known.tap_means.items():
            np.testing.assert_allclose(means, measured.tap_means[name], rtol=1e-3, atol=1e-5)


def test_channels_at_the_clamp_keep_their_scale():
    model = network(5, spread=1.0)
    model.tensors["conv2d_0/b"].data[:3] = (7.0, 4.0, 0.01)  # above relu6's bound, near it, far from it
    calibration = calibrate(model, [images(5, 32)])
    _, known = equalise(model, calibration)
    scales = calibration.statistics["conv2d_0"].maximum / known.statistics["conv2d_0"].maximum
    assert scales[0] == 1 and scales[1] == 1
    assert (known.statistics["conv2d_0"].maximum[scales != 1] <= 6 / clamp_margin(32) + 1e-9).all()


def test_only_exclusive_homogeneous_chains_are_links():
    model = network(6)
    links = [(link.first.name, link.second.name) for link in find_links(model)]
    # The trunk has several takers, the skip connection adds, softmax and the side output are the network's.
    assert links == [
        ("conv2d_0", "depthwise_conv2d_1"),
        ("depthwise_conv2d_1", "conv2d_2"),
        ("conv2d_4", "conv2d_5"),
        ("fully_connected_10", "fully_connected_11"),
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scheme=st.sampled_from(SCHEMES), data=st.data())
def test_cut_ranges_give_the_same_bits(seed, scheme, data):
    model = network(seed, spread=1.0)
    quantised = quantise(model, calibrate(model, [images(seed, 4)]), scheme)
    layers = model.layer_count
    cuts = sorted(data.draw(st.sets(st.integers(1, layers - 1))))
    image = {"image": store(quantised.model.tensors["image"], images(seed + 1, 1))}
    whole = run(quantised.full().model, image)
    known = dict(image)
    for first, end in itertools.pairwise([0, *cuts, layers]):
        part = quantised.partition(first, end - 1)
        known.update(run(part.model, {name: known[name] for name in part.model.inputs}))
    for name in model.outputs:
        np.testing.assert_array_equal(known[name], whole[name])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("name", "scale", "least_snr_db"),
    [
        ("squeezenet", (96, 0.5), 17),
        ("googlenet", (), 16),
        ("yolo_v3_tiny", (), 17),
        ("alexnet", (127, 0.25), 28),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_the_zoo(zoo_tflite, scheme, name, scale, least_snr_db):
    """Real structures: the same bits when cut, and outputs as near as 8 bits allow for random weights."""
    model = import_tflite(zoo_tflite(name, *scale), name)
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (20, *model.tensors[model.inputs[0]].shape[1:])).astype(np.float32)
    quantised = quantise(model, calibrate(model, [frames[:16]]), scheme)
    tensors = quantised.model.tensors
    interpreters = [piqi_native.Interpreter(m.to_graph()) for m in (model, quantised.model)]
    signal = noise = 0.0
    for frame in frames[16:, None]:
        expected = {n: v.copy() for n, v in interpreters[0].run({model.inputs[0]: frame}).items()}
        image = {model.inputs[0]: store(tensors[model.inputs[0]], frame)}
        whole = {n: v.copy() for n, v in interpreters[1].run(image).items()}
        for output, values in expected.items():
            signal += float(np.square(values - values.mean()).sum())
            noise += float(np.square(real(tensors[output], whole[output]) - values).sum())
    assert 10 * np.log10(signal / noise) > least_snr_db
    for _ in range(3):
        cuts = sorted(rng.choice(np.arange(1, model.layer_count), 3, replace=False).tolist())
        known = dict(image)
        for first, end in itertools.pairwise([0, *cuts, model.layer_count]):
            part = quantised.partition(first, end - 1).model
            known.update(run(part, {name: known[name] for name in part.inputs}))
        for output in model.outputs:
            np.testing.assert_array_equal(known[output], whole[output])


def test_range_borders():
    quantised = quantise(network(0), calibrate(network(0), [images(0, 2)]))
    part = quantised.partition(3, 4)
    assert part.model.inputs == ("conv2d_2",)
    assert part.model.outputs == ("conv2d_3", "conv2d_4")
    part = quantised.partition(5, 5)
    assert part.model.inputs == ("conv2d_4", "conv2d_2", "conv2d_3")
    for first, last in ((-1, 0), (2, 1), (0, 8)):
        with pytest.raises(QuantisationError, match="not a range of the 8 layers"):
            quantised.partition(first, last)


@pytest.mark.parametrize("seed", range(8))
def test_accuracy(seed):
    model = network(seed, spread=1.0)
    calibration = calibrate(model, [images(seed, 32)])
    assert output_error(model, quantise(model, calibration, "per_channel")) < 0.1
    plain = output_error(model, quantise(model, calibration, "per_tensor", equalise=False, correct_bias=False))
    default = output_error(model, quantise(model, calibration, "per_tensor"))
    assert default < 0.6 * plain
    assert default < 0.2


def test_bias_correction_removes_the_mean_error():
    rng = np.random.default_rng(0)
    b = Builder((1, 12, 12, 3))
    w = rng.normal(0, 1, (CHANNELS, 3, 3, 3))
    w[0] *= 40  # one scale for all: the others lose resolution
    y = b.add("conv2d", ["image"], (1, 12, 12, CHANNELS), w, np.zeros(CHANNELS), pad_top=2, pad_left=1, pad_right=1)
    model = b.model(y)
    frames = np.abs(images(0, 16))
    calibration = calibrate(model, [frames])

    def mean_error(correct_bias):
        quantised = quantise(model, calibration, "per_tensor", correct_bias=correct_bias)
        errors = [run_quantised(quantised.model, x)[y] - run(model, {"image": x})[y] for x in frames[:, None]]
        return np.abs(np.mean(errors, axis=(0, 1, 2, 3)))[1:].max() / quantised.model.tensors[y].scales[0]

    assert mean_error(False) > 0.3  # steps of the output
    assert mean_error(True) < 0.1


geometry = st.fixed_dictionaries(
    {f"{name}_{side}": st.integers(1, 2) for name in ("stride", "dilation") for side in ("height", "width")}
    | {f"pad_{side}": st.integers(0, 2) for side in ("top", "left", "bottom", "right")}
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), kind=st.sampled_from(["conv", "grouped", "depthwise", "features"]), attributes=geometry)
def test_tap_means_predict_mean_outputs(seed, kind, attributes):
    """Convolution is linear: its mean output is its weights times the mean input that each one meets."""
    rng = np.random.default_rng(seed)
    b = Builder((1, 12, 12, 4))
    a = attributes
    rows = (12 + a["pad_top"] + a["pad_bottom"] - 2 * a["dilation_height"] - 1) // a["stride_height"] + 1
    columns = (12 + a["pad_left"] + a["pad_right"] - a["dilation_width"] - 1) // a["stride_width"] + 1
    w = {"conv": (6, 3, 2, 4), "grouped": (6, 3, 2, 2), "depthwise": (1, 3, 2, 8), "features": (5, 576)}[kind]
    w = rng.normal(0, 1, w)
    if kind == "features":
        y = b.add("fully_connected", ["image"], (1, 5), w)
    elif kind == "depthwise":
        y = b.add("depthwise_conv2d", ["image"], (1, rows, columns, 8), w, **a)
    else:
        y = b.add("conv2d", ["image"], (1, rows, columns, 6), w, **a, groups=2 if kind == "grouped" else 1)
    model = b.model(y)
    frames = rng.normal(0.5, 1, (3, 12, 12, 4)).astype(np.float32)
    means = calibrate(model, [frames[:1], frames[1:]]).tap_means[y]
    view = WeightView.of(model, model.operators[0])
    predicted = (w * view.along_inputs(means)).sum(axis=tuple(i for i in range(w.ndim) if i != view.output_axis))
    outputs = np.concatenate([run(model, {"image": x})[y] for x in frames[:, None]])
    np.testing.assert_allclose(predicted, outputs.reshape(-1, outputs.shape[-1]).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dead_channels_and_constant_tensors(scheme):
    model = network(1)
    model.tensors["conv2d_0/w"].data[:2] = 1e-30
    model.tensors["conv2d_0/b"].data[:2] = (-3.0, 0.7)  # always zero, always the same
    model.tensors["depthwise_conv2d_1/w"].data[..., 0] = 1e4
    model.tensors["conv2d_4/w"].data[:] = 0
    model.tensors["conv2d_4/b"].data[:] = 0
    quantised = quantise(model, calibrate(model, [images(1, 32)]), scheme)
    side = model.outputs[0]
    image = images(2, 1)
    expected, got = run(model, {"image": image}), run_quantised(quantised.model, image)
    assert np.isfinite(got[side]).all()
    assert np.abs(got["softmax_12"] - expected["softmax_12"]).max() < 0.5
    tensors = quantised.model.tensors.values()
    assert all(np.isfinite(t.scales).all() and min(t.scales) > 0 for t in tensors)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("frames", [images(7, 1), np.zeros((1, 12, 12, 3), np.float32)], ids=["one", "black"])
def test_one_calibration_frame(scheme, frames):
    model = network(2)
    quantised = quantise(model, calibrate(model, [frames], "percentile"), scheme)
    error = run_quantised(quantised.model, frames)["softmax_12"] - run(model, {"image": frames})["softmax_12"]
    assert np.abs(error).max() < 0.2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scales_far_apart_are_brought_into_reach(scheme):
    """Each of these would be refused by XNNPACK if every tensor had its own range."""
    b = Builder((1, 4, 4, 2))
    eye = np.eye(2).reshape(2, 1, 1, 2)
    tiny = b.add("conv2d", ["image"], (1, 4, 4, 2), eye * 1e-7, np.zeros(2))
    huge = b.add("conv2d", ["image"], (1, 4, 4, 2), eye * 1e5, np.zeros(2))
    total = b.add("add", [tiny, huge], (1, 4, 4, 2))
    product = b.add("multiply", [tiny, tiny], (1, 4, 4, 2))
    shrunk = b.add("conv2d", [huge], (1, 4, 4, 2), eye, np.full(2, -1e5), clamp_min=0.0, clamp_max=1e-3)
    model = b.model(total, product, shrunk)
    frames = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 2)).astype(np.float32)
    quantised = quantise(model, calibrate(model, [frames]), scheme)
    got, expected = run_quantised(quantised.model, frames[:1]), run(model, {"image": frames[:1]})
    np.testing.assert_allclose(got[total], expected[total], atol=2e5 / 100)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_operators_that_share_or_fix_parameters(scheme):
    b = Builder((1, 8, 8, 4))
    x = b.add("conv2d", ["image"], (1, 8, 8, 4), np.eye(4).reshape(4, 1, 1, 4) * 3, np.zeros(4))
    relu = b.add("clamp", [x], (1, 8, 8, 4), clamp_min=0.0)
    up = b.add("resize_nearest", [relu], (1, 16, 16, 4))
    pads = {"pad_before": [0, 1, 1, 0], "pad_after": [0, 1, 1, 0], "pad_value": -2.0}
    padded = b.add("pad", [up], (1, 18, 18, 4), **pads)
    odds = b.add("logistic", [padded], (1, 18, 18, 4))
    tanh = b.add("tanh", [padded], (1, 18, 18, 4))
    both = b.add("concat", [odds, tanh], (1, 18, 18, 8), axis=3)
    swish = b.add("hard_swish", [both], (1, 18, 18, 8))
    leaky = b.add("leaky_relu", [swish], (1, 18, 18, 8), alpha=0.1)
    mean = b.add("mean", [leaky], (1, 1, 1, 8), axes=[1, 2])
    shift = b.constant("shift", np.arange(8).reshape(1, 1, 1, 8) / 8)
    y = b.add("subtract", [mean, shift], (1, 1, 1, 8))
    w = np.random.default_rng(0).normal(0, 1, (4, 2, 2, 8))
    wide = b.add("transpose_conv2d", [y], (1, 2, 2, 4), w, np.ones(4), stride_height=2, stride_width=2)
    model = b.model(wide)
    frames = np.random.default_rng(1).uniform(-1, 1, (8, 8, 8, 4)).astype(np.float32)
    quantised = quantise(model, calibrate(model, [frames]), scheme)
    tensors = quantised.model.tensors
    affine = {name: (tensor.scales, tensor.zero_point) for name, tensor in tensors.items()}
    assert affine[x] == affine[relu] == affine[up] == affine[padded]
    assert affine[odds][0] == (1 / 256,) and affine[tanh][0] == (1 / 128,)
    lowest = np.iinfo(tensors[odds].dtype).min
    assert affine[odds][1] == lowest and affine[tanh][1] == lowest + 128
    assert real(tensors[x], np.array([lowest]))[0] == pytest.approx(-2, abs=0.05)  # the padding, not relu's input
    got = run_quantised(quantised.model, frames[:1])[wide]
    expected = run(model, {"image": frames[:1]})[wide]
    np.testing.assert_allclose(got, expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clamp_that_shares_parameters_with_a_negative_tensor(scheme):
    b = Builder((1, 4, 4, 2))
    eye = np.eye(2).reshape(2, 1, 1, 2)
    dead = b.add("conv2d", ["image"], (1, 4, 4, 2), eye, np.full(2, -2.0), clamp_min=0.0)
    negative = b.add("conv2d", ["image"], (1, 4, 4, 2), eye, np.full(2, -2.0))
    y = b.add("concat", [dead, negative], (1, 4, 4, 4), axis=3)
    model = b.model(y)
    frames = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 2)).astype(np.float32)
    quantised = quantise(model, calibrate(model, [frames]), scheme)
    got, expected = run_quantised(quantised.model, frames[:1])[y], run(model, {"image": frames[:1]})[y]
    np.testing.assert_allclose(got, expected, atol=0.05)


def test_weights_and_biases_that_operators_share():
    b = Builder((1, 4, 4, 2))
    w = np.random.default_rng(0).normal(0, 1, (2, 1, 1, 2))
    x = b.add("conv2d", ["image"], (1, 4, 4, 2), w, np.ones(2))
    y = b.add("conv2d", [x, "conv2d_0/w", "conv2d_0/b"], (1, 4, 4, 2))
    model = b.model(y)
    frames = np.random.default_rng(1).uniform(-1, 1, (4, 4, 4, 2)).astype(np.float32)
    assert not find_links(model)
    for scheme in SCHEMES:
        quantised = quantise(model, calibrate(model, [frames]), scheme)
        got, expected = run_quantised(quantised.model, frames[:1])[y], run(model, {"image": frames[:1]})[y]
        np.testing.assert_allclose(got, expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_calibration_file_round_trip(tmp_path, observer):
    model = network(0)
    calibration = calibrate(model, [images(0, 3)], observer)
    save_calibration(calibration, tmp_path / "c.json")
    loaded = load_calibration(tmp_path / "c.json")
    assert (loaded.model_hash, loaded.frames, loaded.observer) == (calibration.model_hash, 3, observer)
    for scheme in SCHEMES:
        a, b = quantise(model, calibration, scheme), quantise(model, loaded, scheme)
        assert a.full().checksum == b.full().checksum


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "Invalid JSON"),
        ('{"frames": 0}', "frames"),
        ('{"observer": "best"}', "observer"),
        ('{"statistics": {"x": {"minimum": [0], "maximum": [0, 1]}}}', "channels"),
        ('{"statistics": {"x": {"minimum": [0], "maximum": [1], "low": [0]}}}', "histogram"),
        ('{"tap_means": {"x": {"shape": [2, 2], "values": [1]}}}', "reshape"),
    ],
)
def test_broken_calibration_files(tmp_path, text, field):
    path = tmp_path / "c.json"
    good = '"model_hash": "", "frames": 1, "observer": "minmax", "percentile": 99, "statistics": {}, "tap_means": {}'
    path.write_text("{" + good + ", " + text[1:] if text else text)
    with pytest.raises(CalibrationError, match=f"c.json.*{field}"):
        load_calibration(path)
    with pytest.raises(CalibrationError, match=r"absent\.json: No such file"):
        load_calibration(tmp_path / "absent.json")


def test_calibration_errors():
    model = network(0)
    with pytest.raises(CalibrationError, match="no frame"):
        calibrate(model, [])
    with pytest.raises(CalibrationError, match=r"'image' has shape \(1, 12, 12, 3\), got a batch of \(2, 9, 9, 3\)"):
        calibrate(model, [np.zeros((2, 9, 9, 3), np.float32)])
    with pytest.raises(CalibrationError, match="'image' is missing"):
        calibrate(model, [{"picture": images(0, 1)}])
    with pytest.raises(CalibrationError, match=r"'image' of 'net': takes values that are not finite"):
        calibrate(model, [images(0, 1), np.full((1, 12, 12, 3), np.nan, np.float32)])
    with pytest.raises(CalibrationError, match="observer must be one of"):
        calibrate(model, [images(0, 1)], "median")
    with pytest.raises(CalibrationError, match="percentile must be in"):
        calibrate(model, [images(0, 1)], "percentile", 20)
    calibration = calibrate(model, [images(0, 1)])
    quantise(model.with_layers([0] * len(model.operators)), calibration)  # layers may change after calibration
    with pytest.raises(CalibrationError, match="another model"):
        quantise(network(1), calibration)
    with pytest.raises(QuantisationError, match="scheme must be one of per_channel, per_tensor, got 'int4'"):
        quantise(model, calibration, "int4")
    quantised = quantise(model, calibration).model
    with pytest.raises(QuantisationError, match="'image' is int8, expected float32"):
        quantise(quantised, calibration)
