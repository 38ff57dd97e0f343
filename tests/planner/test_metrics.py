"""Metrics of classifiers, the user's own, and confidence bounds."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from piqi_planner.evaluation.bounds import difference_bound, mean_bound
from piqi_planner.evaluation.coco import GroundTruth
from piqi_planner.evaluation.dataset import EvaluationSet
from piqi_planner.evaluation.detection import MeanAveragePrecision
from piqi_planner.evaluation.metrics import Agreement, MetricError, TopK, UserMetric, make_metric
from piqi_runtime.decode import top_k
from piqi_runtime.model import Model, Tensor

FRAMES = 6


def dataset(labels=(0, 1, 2, 3, 4, 5), truth=None, shape=(8, 8, 3)):
    paths = tuple(Path(f"{i}.png") for i in range(FRAMES))
    sizes = ((8, 8),) * FRAMES
    file = Path("labels.csv")
    return EvaluationSet(
        file, paths, sizes, labels, truth, shape, "unit", "crop", (), "", Path("x.npy"), tuple(range(FRAMES))
    )


def model(*outputs, size=8):
    tensors = {"in": Tensor("in", (1, size, size, 3))}
    tensors |= {f"out{i}": Tensor(f"out{i}", shape) for i, shape in enumerate(outputs)}
    return Model("net", tensors, (), ("in",), tuple(tensors)[1:])


def flat(records):
    assert all(record.shape == (1,) and record.dtype == np.float32 for record in records)
    return [float(record[0]) for record in records]


@pytest.mark.parametrize("name", ["top1", "top5"])
def test_top_k_is_what_sorting_gives(name):
    rng = np.random.default_rng(0)
    labels = tuple(int(x) for x in rng.integers(0, 12, FRAMES))
    metric = make_metric(name, dataset(labels), model((1, 1, 1, 12)))
    assert isinstance(metric, TopK) and metric.name == name and metric.additive
    for _ in range(20):
        scores = rng.integers(0, 6, (FRAMES, 12)).astype(np.float32)  # equals abound, as in quantised networks
        best = top_k(scores, int(name[3:]))
        expected = [float(label in row) for label, row in zip(labels, best, strict=True)]
        assert flat(metric.records(0, {"out0": scores.reshape(FRAMES, 1, 1, 12)})) == expected
        assert flat(metric.records(2, {"out0": scores[2:4]})) == expected[2:4]
        assert metric.value(metric.records(0, {"out0": scores})) == pytest.approx(100 * np.mean(expected))


def test_a_constant_output_is_not_right():
    metric = make_metric("top1", dataset((1, 2, 3, 4, 5, 0)), model((1, 12)))
    assert flat(metric.records(0, {"out0": np.ones((FRAMES, 12), np.float32)})) == [0, 0, 0, 0, 0, 1]


def test_agreement_needs_no_labels():
    metric = make_metric("agreement", dataset(None), model((1, 4)))
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    reference = metric.records(0, {"out0": scores})
    other = metric.records(0, {"out0": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1, 2]]})
    bound = pickle.loads(pickle.dumps(metric)).with_reference(reference)
    assert isinstance(bound, Agreement) and bound.key == metric.key
    assert bound.value(reference) == 100
    assert bound.value(other) == pytest.approx(100 * 4 / 6)
    summary = metric.summary(other, reference)  # it is given the reference
    assert summary.value == bound.value(other) and summary.difference == pytest.approx(-100 / 3)
    with pytest.raises(MetricError, match="agreement: 6 frames, but the float model's records of 0"):
        metric.value(other)


def test_labels_that_do_not_fit_the_model():
    with pytest.raises(MetricError, match=r"labels\.csv: label 1003 of 4\.png, but output 'out0' .* has 1000 classes"):
        make_metric("top1", dataset((0, 1, 2, 3, 1003, 4)), model((1, 1000)))
    with pytest.raises(MetricError, match=r"labels\.csv has no labels"):
        make_metric("top5", dataset(None), model((1, 1000)))
    with pytest.raises(MetricError, match=r"labels\.csv has no boxes"):
        make_metric("map", dataset(), model((1, 1000)))
    with pytest.raises(MetricError, match="has 4 classes"):
        make_metric("top5", dataset(), model((1, 4)))
    with pytest.raises(MetricError, match="has outputs out0, out1: name one"):
        make_metric("top1", dataset(), model((1, 9), (1, 9)))
    with pytest.raises(MetricError, match="'out2' is not one of the outputs out0, out1"):
        make_metric("top1", dataset(), model((1, 9), (1, 9)), output="out2")
    assert make_metric("top1", dataset(), model((1, 9), (1, 6)), output="out1").key == "top1 of out1"
    with pytest.raises(MetricError, match=r"metric must be one of top1, .*, got 'top3'"):
        make_metric("top3", dataset(), model((1, 9)))


def test_boxes_that_do_not_fit_the_model():
    names = tuple(f"c{i}" for i in range(4))
    one = np.arange(FRAMES + 1)
    truth = GroundTruth(one, np.ones((FRAMES, 4)), np.zeros(FRAMES, int), np.zeros(FRAMES, bool), names)
    heads = ((1, 2, 2, 27), (1, 4, 4, 27))
    data = dataset(None, truth, (64, 64, 3))
    metric = make_metric("map50", data, model(*heads, size=64))
    assert isinstance(metric, MeanAveragePrecision) and metric.thresholds == (0.5,) and not metric.additive
    assert metric.key == make_metric("map", data, model(*heads, size=64)).key
    with pytest.raises(MetricError, match="has 4 categories, but the model has 80 classes"):
        make_metric("map", data, model((1, 2, 2, 255), (1, 4, 4, 255), size=64))
    with pytest.raises(MetricError, match="images of"):
        make_metric("map", dataset(None, truth, (32, 32, 3)), model(*heads, size=64))
    crowd = GroundTruth(one, np.ones((FRAMES, 4)), np.zeros(FRAMES, int), np.ones(FRAMES, bool), names)
    with pytest.raises(MetricError, match="no image that is used has a box"):
        make_metric("map", dataset(None, crowd, (64, 64, 3)), model(*heads, size=64))


def test_outputs_that_cannot_be_judged():
    metric = make_metric("top1", dataset(), model((1, 9)))
    scores = np.zeros((2, 9), np.float32)
    with pytest.raises(MetricError, match="'out0' is missing, got other"):
        metric.records(0, {"other": scores})
    with pytest.raises(MetricError, match="frames 5 to 6 of 6"):
        metric.records(5, {"out0": scores})
    scores[1, 3] = np.nan
    for either in (metric, make_metric("agreement", dataset(), model((1, 9)))):
        with pytest.raises(MetricError, match=r"'out0': frame 3 is not a number \(NaN\)"):
            either.records(2, {"out0": scores})
    with pytest.raises(MetricError, match="at least one frame"):
        metric.value([])
    with pytest.raises(MetricError, match=r"expected 2 of shape \(1,\), got \(4,\)"):
        metric.value([np.zeros(2, np.float32)] * 2)


USER = """
import numpy as np
def margin(outputs, first_image, labels):
    assert labels is None or len(labels) == len(outputs["out0"])
    return outputs["out0"].max(axis=1) / (first_image + 1)
def wrong(outputs, first_image, labels):
    return np.zeros(1)
def nan(outputs, first_image, labels):
    return [0, float("nan"), 0, 0, 0, 0]
def fails(outputs, first_image, labels):
    return outputs["absent"]
number = 3
"""


@pytest.mark.parametrize("by_file", [True, False])
def test_user_metric(tmp_path, monkeypatch, by_file):
    name = f"user_metric_{by_file}"
    (tmp_path / f"{name}.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    prefix = f"{name}.py" if by_file else name
    outputs = {"out0": np.arange(FRAMES * 2, dtype=np.float32).reshape(FRAMES, 2)}
    metric = make_metric(f"{prefix}:margin", dataset(), model((1, 2)))
    assert isinstance(metric, UserMetric)
    monkeypatch.chdir("/")
    metric = pickle.loads(pickle.dumps(metric))
    assert flat(metric.records(0, outputs)) == [1, 3, 5, 7, 9, 11]
    assert flat(metric.records(3, {"out0": outputs["out0"][:2]})) == [0.25, 0.75]
    assert metric.value(metric.records(0, outputs)) == 600
    key = metric.key
    monkeypatch.chdir(tmp_path)
    for function, message in (
        ("wrong", r"expected one score a frame, shape \(6,\), got \(1,\)"),
        ("nan", "frame 1: the score is nan"),
        ("fails", "KeyError: 'absent'"),
    ):
        metric = make_metric(f"{prefix}:{function}", dataset(), model((1, 2)))
        with pytest.raises(MetricError, match=message):
            metric.records(0, outputs)
    for function in ("absent", "number"):
        with pytest.raises(MetricError, match=f"has no function '{function}'"):
            make_metric(f"{prefix}:{function}", dataset(), model((1, 2)))
    if by_file:
        (tmp_path / f"{name}.py").write_text(USER + "# changed\n")
        assert make_metric(f"{prefix}:margin", dataset(), model((1, 2))).key != key


def test_user_metric_that_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:\n")
    for name, message in (
        ("absent_module:f", "cannot import absent_module: ModuleNotFoundError"),
        ("absent.py:f", "cannot import .*absent.py: FileNotFoundError"),
        ("broken.py:f", "cannot import .*broken.py: SyntaxError"),
        ("broken:", "expected MODULE:FUNCTION, got 'broken:'"),
    ):
        with pytest.raises(MetricError, match=message):
            make_metric(name, dataset(), model((1, 2)))


def records(values):
    return list(np.asarray(values, np.float32)[:, np.newaxis])


def test_summary_of_paired_frames():
    metric = TopK(1, "out0", np.zeros(1000, np.int64))
    reference = np.ones(1000)
    reference[:200] = 0
    scores = reference.copy()
    scores[[200, 201, 202]] = 0
    scores[0] = 1
    summary = metric.summary(records(scores), records(reference), 0.95)
    assert summary.frames == 1000 and summary.value == pytest.approx(79.8)
    assert summary.standard_error == pytest.approx(100 * math.sqrt(0.798 * 0.202 / 999), rel=1e-6)
    assert summary.difference == pytest.approx(-0.2)
    assert summary.difference_standard_error == pytest.approx(0.2, rel=0.01)  # far below 1.27, the value's own
    assert summary.lower_bound == pytest.approx(100 * stats.beta.ppf(0.05, 798, 203))
    assert -0.8 < summary.difference_lower_bound < -0.5
    assert metric.summary(records(scores), records(reference), 0.99).difference_lower_bound < -0.7
    for confidence in (0.4, 1.0):
        with pytest.raises(MetricError, match="confidence must be"):
            metric.summary(records(scores), records(reference), confidence)
    with pytest.raises(MetricError, match="1000 frames, but the float model has 999"):
        metric.summary(records(scores), records(reference[1:]))
    with pytest.raises(MetricError, match="at least 2 frames, got 1"):
        metric.summary(records(scores[:1]), records(reference[:1]))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_bounds_where_nothing_varies(confidence):
    """Near the rule of three: -ln(1 - confidence) / n, never zero for sure."""
    n = 500
    ones, halves = np.ones(n), np.full(n, 0.5)
    assert mean_bound(ones, confidence) == pytest.approx((1 - confidence) ** (1 / n))
    assert mean_bound(ones * 0, confidence) == 0
    assert mean_bound(halves, confidence) < 0.5
    bound = difference_bound(ones, ones, confidence)
    assert bound == pytest.approx(-(stats.norm.ppf(confidence) ** 2) / n, rel=0.05, abs=1e-9)
    assert difference_bound(halves, halves, confidence) < 0
    assert difference_bound(ones * 0, ones, confidence) == -1
    assert 0.9 < difference_bound(ones, ones * 0, confidence) <= 1


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize(("gain", "loss"), [(0.0, 0.004), (0.005, 0.02), (0.03, 0.05), (0.0005, 0.001)])
def test_bounds_hold_about_as_often_as_they_say(confidence, gain, loss):
    """Seeded simulation: right or wrong, the float model at 80 %."""
    rng = np.random.default_rng(7)
    n, runs = 1000, 1500
    frames = rng.random((runs, n))
    # Of a frame: gained, lost, right for both, wrong for both.
    scores = (frames < gain) | ((frames >= gain + loss) & (frames < 0.8 + gain))
    reference = (frames >= gain) & (frames < 0.8 + gain)
    value, holds = 0.8 + gain - loss, []
    pairs = {}
    for own, other in zip(scores.astype(float), reference.astype(float), strict=True):
        key = (own.sum(), other.sum(), (own != other).sum())
        if key not in pairs:
            pairs[key] = (mean_bound(own, confidence) <= value, difference_bound(own, other, confidence) <= gain - loss)
        holds.append(pairs[key])
    rates = np.mean(holds, axis=0)
    slack = 3 * math.sqrt(confidence * (1 - confidence) / runs)
    assert confidence - slack <= rates[0] <= confidence + (1 - confidence) * 0.6 + slack
    assert rates[1] >= confidence - slack - 0.01  # a score bound may miss its level by a little


def test_bounds_of_scores_that_are_no_counts():
    rng = np.random.default_rng(8)
    holds = []
    for _ in range(1500):
        reference = rng.beta(4, 1, 300)
        scores = reference - 0.05 * rng.exponential(size=300) * (rng.random(300) < 0.1)
        holds.append((mean_bound(scores, 0.9) <= 0.8 - 0.005, difference_bound(scores, reference, 0.9) <= -0.005))
    rates = np.mean(holds, axis=0)
    assert rates[0] == pytest.approx(0.93, abs=0.04) and rates[1] >= 0.88


def test_real_photographs_are_scored(data_dir, tmp_path):
    """The labels of the reference photographs fit a network with a thousand classes."""
    from piqi_planner.evaluation.dataset import open_evaluation_set

    folder = data_dir / "images" / "imagenet1000"
    images = open_evaluation_set(folder, (1, 32, 32, 3), tmp_path, limit=20)
    assert len(images) == 20
    metric = make_metric("top1", images, model((1, 1000), size=32))
    perfect = np.eye(1000, dtype=np.float32)[list(images.labels)]
    assert metric.value(metric.records(0, {"out0": perfect})) == 100
    with Image.open(images.paths[3]) as image:
        assert images.sizes[3] == image.size
