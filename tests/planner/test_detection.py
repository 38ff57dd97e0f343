"""Decoding of YOLO heads, and mean average precision against pycocotools."""

import contextlib
import io
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piqi_planner.evaluation.average_precision import COCO_THRESHOLDS, match
from piqi_planner.evaluation.base import MetricError
from piqi_planner.evaluation.coco import CocoError, GroundTruth, read_annotations
from piqi_planner.evaluation.detection import MeanAveragePrecision, load_detector
from piqi_runtime.config_files import ConfigError
from piqi_runtime.decode import YOLO_V3, YOLO_V3_TINY, DecodeError, Head, YoloDecoder, place, suppress, top_k
from piqi_runtime.model import Model, Tensor

CLASSES = 4


def logit(p):
    return np.log(p / (1 - p))


def empty_heads(decoder, frames=1):
    """Raw outputs that say: nothing anywhere."""
    return [
        np.full(
            (frames, decoder.input_height // h.stride, decoder.input_width // h.stride, 3 * (5 + decoder.classes)),
            -20,
            np.float32,
        )
        for h in decoder.heads
    ]


def put_box(decoder, heads, head, anchor, label, score, box, frame=0):
    """Writes what the network says for a box (centre x, y, width, height in the input's pixels)."""
    stride = decoder.heads[head].stride
    column, row = int(box[0] // stride), int(box[1] // stride)
    cell = heads[head][frame, row, column].reshape(3, 5 + decoder.classes)[anchor]
    cell[:2] = logit(np.clip([box[0] / stride - column, box[1] / stride - row], 1e-9, 1 - 1e-9))
    cell[2:4] = np.log(np.array(box[2:]) / decoder.heads[head].anchors[anchor])
    cell[4], cell[5 + label] = 20, logit(score)


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("heads", [YOLO_V3, YOLO_V3_TINY])
def test_boxes_come_back_in_the_original_image(fit, heads):
    decoder = YoloDecoder(heads, CLASSES, 416, 416)
    size = (640, 480)
    where = place(fit, *size, 416, 416)
    x, y, w, h = 250.0, 200.0, 90.0, 120.0  # in the original; its centre is inside of what a crop keeps
    across, down = where.width / size[0], where.height / size[1]
    box = ((x + w / 2) * across + where.left, (y + h / 2) * down + where.top, w * across, h * down)
    for head in range(len(heads)):
        outputs = empty_heads(decoder)
        put_box(decoder, outputs, head, 1, 2, 0.75, box)
        (found,) = decoder.detect(reversed(outputs), [where], [size])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, [[2, 0.75, x, y, w, h]], rtol=1e-4)


def test_frames_are_kept_apart_and_boxes_cut_at_the_border():
    decoder = YoloDecoder(YOLO_V3_TINY, CLASSES, 64, 64)
    outputs = empty_heads(decoder, frames=3)
    put_box(decoder, outputs, 0, 0, 0, 0.9, (8, 8, 40, 40), frame=2)
    put_box(decoder, outputs, 1, 0, 1, 0.5, (40, 40, 30, 30), frame=0)
    found = decoder.detect(outputs, [place("exact", 64, 64, 64, 64)] * 3, [(64, 64)] * 3)
    assert [len(part) for part in found] == [1, 0, 1]
    assert found[1].shape == (0, 6)
    np.testing.assert_allclose(found[2][0], [0, 0.9, 0, 0, 28, 28], rtol=1e-4)


def test_raw_values_that_are_far_out_give_boxes_that_are_finite():
    decoder = YoloDecoder(YOLO_V3_TINY, CLASSES, 64, 64)
    outputs = [np.full_like(output, 1e30) for output in empty_heads(decoder)]
    (found,) = decoder.detect(outputs, [place("exact", 64, 64, 64, 64)], [(64, 64)])
    assert len(found) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 2:], [[0, 0, 64, 64]] * len(found))
    assert set(found[:, 0]) == set(range(CLASSES))


def test_suppression_is_greedy_and_per_class():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [0, 0, 10, 10], [40, 40, 50, 50]], float)
    classes = np.array([0, 0, 0, 1, 0])
    assert suppress(boxes, classes, 0.45, 10).tolist() == [0, 2, 3, 4]  # 1 overlaps 0 by 9/11, 2 by 5/15
    assert suppress(boxes, classes, 0.3, 10).tolist() == [0, 3, 4]
    assert suppress(boxes, classes, 0.45, 2).tolist() == [0, 2]
    assert suppress(boxes[:0], classes[:0], 0.45, 2).tolist() == []


def test_top_k():
    assert top_k(np.array([[0.1, 0.5, 0.5, 0.2]]), 3).tolist() == [[1, 2, 3]]


def test_outputs_that_are_no_heads():
    decoder = YoloDecoder(YOLO_V3_TINY, CLASSES, 64, 64)
    outputs = empty_heads(decoder)
    with pytest.raises(DecodeError, match=r"stride 32: expected one output of shape \[n, 2, 2, 27\]"):
        decoder.detect(outputs[:1], [], [])
    with pytest.raises(DecodeError, match="expected 2 outputs, one a head, got 3"):
        decoder.detect([*outputs, np.zeros((1, 3))], [], [])


def random_case(rng, images=12, crowd=0.1):
    """Boxes, and detections that find most of them more or less well; scores have equals."""
    boxes, classes, crowds, records = [], [], [], []
    for _ in range(images):
        n = int(rng.integers(0, 7))
        own = np.hstack([rng.uniform(0, 60, (n, 2)), rng.uniform(5, 40, (n, 2))])
        label = rng.integers(0, CLASSES, n)
        found = [
            [c, rng.integers(1, 20) / 20, *(b + rng.normal(0, rng.uniform(0.1, 3), 4))]
            for b, c in zip(own, label, strict=True)
            for _ in range(int(rng.integers(0, 3)))
        ]
        found += [
            [rng.integers(0, CLASSES), rng.integers(1, 20) / 20, *rng.uniform(5, 40, 4)]
            for _ in range(int(rng.integers(0, 4)))
        ]
        record = np.array(found, np.float32).reshape(-1, 6)
        records.append(record[np.argsort(-record[:, 1], kind="stable")])
        boxes.append(own)
        classes.append(label)
        crowds.append(rng.random(n) < crowd)
    starts = np.concatenate([[0], np.cumsum([len(b) for b in boxes])]).astype(np.int64)
    names = tuple(f"c{i}" for i in range(CLASSES))
    return GroundTruth(starts, np.vstack(boxes), np.concatenate(classes), np.concatenate(crowds), names), records


def pycocotools_value(truth, records):
    coco = COCO()
    annotations = [
        {
            "id": row + 1,
            "image_id": i,
            "category_id": int(truth.classes[row]),
            "bbox": truth.boxes[row].tolist(),
            "area": float(truth.boxes[row, 2:].prod()),
            "iscrowd": int(truth.crowd[row]),
        }
        for i in range(truth.frames)
        for row in range(truth.starts[i], truth.starts[i + 1])
    ]
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(truth.frames)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(truth.categories)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = [
            {"image_id": i, "category_id": int(row[0]), "score": float(row[1]), "bbox": row[2:].astype(float).tolist()}
            for i, record in enumerate(records)
            for row in record
        ]
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0], judge.stats[1]


@pytest.mark.parametrize("seed", range(8))
def test_value_is_that_of_pycocotools(seed):
    truth, records = random_case(np.random.default_rng(seed), images=25, crowd=0.15 if seed % 2 else 0)
    expected = pycocotools_value(truth, records)
    found = [match(records, truth, thresholds).mean_average_precision() for thresholds in (COCO_THRESHOLDS, (0.5,))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert 0.05 < found[0] < found[1] < 0.95  # the case shows something


def test_leaving_frames_out_is_evaluating_the_others():
    truth, records = random_case(np.random.default_rng(3), images=20)
    without = match(records, truth, COCO_THRESHOLDS).leaving_out(5)
    for group in range(5):
        others = [i for i in range(20) if i % 5 != group]
        direct = match([records[i] for i in others], truth.select(others), COCO_THRESHOLDS).mean_average_precision()
        assert without[group] == pytest.approx(direct, rel=1e-12)


def metric_of(truth, decoder=None):
    decoder = decoder or YoloDecoder(YOLO_V3_TINY, CLASSES, 64, 64)
    return MeanAveragePrecision("map", truth, decoder, ((64, 64),) * truth.frames, "exact", ("coarse", "fine"))


def test_metric_from_outputs_to_percent():
    decoder = YoloDecoder(YOLO_V3_TINY, CLASSES, 64, 64)
    box = np.array([[20.0, 16, 24, 20]])
    truth = GroundTruth(np.array([0, 1, 2]), box.repeat(2, 0), np.array([1, 1]), np.zeros(2, bool), tuple("abcd"))
    fine, coarse = empty_heads(decoder, frames=2)
    put_box(decoder, [fine, coarse], 0, 2, 1, 0.9, (32, 26, 24, 20), frame=1)
    metric = pickle.loads(pickle.dumps(metric_of(truth)))
    records = metric.records(0, {"coarse": coarse, "fine": fine})
    assert [len(record) for record in records] == [0, 1]
    assert metric.value(records) == pytest.approx(100 * 51 / 101)  # all recalls up to a half
    assert metric.value(records[1:] * 2) == pytest.approx(100)
    outputs = {"coarse": coarse, "fine": np.where(np.arange(2)[:, None, None, None] == 1, np.nan, fine)}
    with pytest.raises(MetricError, match="'fine': frame 1 is not a number"):
        metric.records(0, outputs)
    with pytest.raises(MetricError, match="frames 1 to 2 of 2"):
        metric.records(1, {"coarse": coarse, "fine": fine})
    with pytest.raises(MetricError, match="'fine' is missing, got coarse"):
        metric.records(0, {"coarse": coarse})
    with pytest.raises(MetricError, match="at most 2 frames"):
        metric.value(records * 2)


def test_summary_pairs_the_frames():
    truth, records = random_case(np.random.default_rng(5), images=120)
    metric = metric_of(truth)
    worse = [record[:-1] if i % 10 == 0 else record for i, record in enumerate(records)]
    summary = metric.summary(worse, records)
    assert summary.difference == pytest.approx(metric.value(worse) - metric.value(records)) and summary.difference < 0
    assert 0 < summary.difference_standard_error < summary.standard_error / 2
    assert summary.difference_lower_bound < summary.difference
    assert 0 < summary.lower_bound < summary.value
    assert summary == metric_of(truth).summary(worse, records)
    same = metric.summary(records, records)
    assert same.difference == same.difference_standard_error == 0
    assert -300 / 120 < same.difference_lower_bound < 0  # the rule of three


def test_bound_of_the_map_holds_about_as_often_as_it_says():
    """Small samples of one large population, whose value is the truth."""
    rng = np.random.default_rng(11)
    truth, records = random_case(rng, images=4000, crowd=0)
    worse = [record[1:] if rng.random() < 0.15 else record for record in records]
    whole = metric_of(truth)
    value, difference = whole.value(worse), whole.value(worse) - whole.value(records)
    holds = []
    for _ in range(60):
        chosen = rng.choice(4000, 100, replace=False)
        metric = metric_of(truth.select(chosen))
        summary = metric.summary([worse[i] for i in chosen], [records[i] for i in chosen], 0.9)
        holds.append((summary.lower_bound <= value, summary.difference_lower_bound <= difference))
    rates = np.mean(holds, axis=0)
    assert (rates >= 0.82).all() and rates.min() < 1


def model_of(*outputs, size=64):
    tensors = {"in": Tensor("in", (1, size, size, 3))}
    tensors |= {f"out{i}": Tensor(f"out{i}", shape) for i, shape in enumerate(outputs)}
    return Model("net", tensors, (), ("in",), tuple(tensors)[1:])


def test_detectors_by_outputs_and_by_file(tmp_path):
    tiny = model_of((1, 2, 2, 255), (1, 4, 4, 255))
    assert load_detector(tiny) == YoloDecoder(YOLO_V3_TINY, 80, 64, 64)
    assert load_detector(model_of(*((1, n, n, 27) for n in (2, 4, 8)))).heads == YOLO_V3
    file = tmp_path / "own.toml"
    file.write_text("score_threshold = 0.1\n[[heads]]\nstride = 16\nanchors = [[10, 14], [23, 27]]\n")
    own = load_detector(model_of((1, 4, 4, 12)), file)
    assert own.heads == (Head(16, ((10, 14), (23, 27))),) and own.classes == 1 and own.score_threshold == 0.1
    file.write_text("[[heads]]\nstride = 0\nanchors = [[10, 14]]\n")
    with pytest.raises(ConfigError, match=r"own\.toml: heads\[0\]\.stride: .* got 0"):
        load_detector(tiny, file)
    with pytest.raises(MetricError, match="has 1 outputs: no known detector"):
        load_detector(model_of((1, 1000)))
    with pytest.raises(MetricError, match=r"expected \[n, rows, columns, 3 \* \(5 \+ classes\)\], got \[1, 4, 4, 20\]"):
        load_detector(model_of((1, 4, 4, 20), (1, 2, 2, 20)))
    with pytest.raises(DecodeError, match="stride 16"):
        load_detector(model_of((1, 5, 5, 27), (1, 2, 2, 27)))


GOOD = """{"images": [{"id": 7, "file_name": "b.jpg", "width": 8, "height": 6}, {"id": 3, "file_name": "a.jpg"}],
 "categories": [{"id": 90, "name": "last"}, {"id": 5, "name": "first"}],
 "annotations": [{"image_id": 3, "category_id": 90, "bbox": [1, 2, 3, 4.5], "iscrowd": 1},
                 {"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]}"""


def test_annotations(tmp_path):
    (tmp_path / "c.json").write_text(GOOD)
    coco = read_annotations(tmp_path / "c.json")
    assert coco.files == ("b.jpg", "a.jpg") and coco.sizes == ((8, 6), None)
    assert coco.truth.categories == ("first", "last")
    assert coco.truth.classes.tolist() == [0, 1] and coco.truth.crowd.tolist() == [False, True]
    swapped = coco.truth.select([1, 0, 1])
    assert swapped.classes.tolist() == [1, 0, 1] and swapped.starts.tolist() == [0, 1, 2, 3]
    assert swapped.boxes[0].tolist() == [1, 2, 3, 4.5]
    assert swapped.digest() != coco.truth.digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"file_name": "a.jpg"', '"name": "a.jpg"', r"images\[1\]\.file_name: expected a name, got None"),
        ('"image_id": 3', '"image_id": 4', r"annotations\[0\]\.image_id: 4 is not listed"),
        ('"category_id": 5', '"category_id": 6', r"annotations\[1\]\.category_id: 6 is not listed"),
        ("[0, 0, 1, 1]", "[0, 0, 1]", r"annotations\[1\]\.bbox: expected x, y, width, height, got \[0, 0, 1\]"),
        ("[0, 0, 1, 1]", "[0, 0, NaN, 1]", r"annotations\[1\]\.bbox"),
        ('"id": 7', '"id": "7"', r"images\[0\]\.id: expected a whole number, got '7'"),
        ('"id": 7', '"id": 3', r"images\[1\]\.id: 3 occurs twice"),
        ('"annotations"', '"boxes"', "annotations: expected a list of objects, got NoneType"),
        ('{"images"', '"images"', r"c\.json: "),
    ],
)
def test_broken_annotations(tmp_path, old, new, message):
    (tmp_path / "c.json").write_text(GOOD.replace(old, new))
    with pytest.raises(CocoError, match=message):
        read_annotations(tmp_path / "c.json")


def test_annotations_that_are_missing(tmp_path):
    with pytest.raises(CocoError, match=r"absent\.json: No such file"):
        read_annotations(tmp_path / "absent.json")
