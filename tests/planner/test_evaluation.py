"""The parts of the accuracy evaluation: batches, masks that share beginnings, and the store."""

import functools
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import piqi_native
from piqi_planner.demo import MODEL
from piqi_planner.evaluation.batch import with_batch
from piqi_planner.evaluation.store import EvaluationStore, StoreError, decode, encode
from piqi_planner.importer import import_model, import_tflite
from piqi_planner.layers import assign_layers
from piqi_planner.quantise import calibrate, quantise
from piqi_runtime.boards import Board
from piqi_runtime.engine import Engine
from piqi_runtime.model import Model, Operator, Tensor

# Keras itself calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCHEMES = ("per_channel", "per_tensor")
NETWORKS = ("digits", "mobilenet_v3_small", "squeezenet", "googlenet", "alexnet", "yolo_v3_tiny")
KEY = {"model": "m1", "images": "i1"}


@pytest.fixture(scope="module")
def quantised(zoo_tflite):
    """Both forms of a network, its layers assigned, and frames for it; by name and scheme, made once."""

    @functools.cache
    def network(name):
        model = assign_layers(import_model(MODEL) if name == "digits" else import_tflite(zoo_tflite(name), name))
        shape = model.tensors[model.inputs[0]].shape
        frames = np.random.default_rng(0).uniform(-1, 1, (7, *shape[1:])).astype(np.float32)
        return model, calibrate(model, [frames]), frames

    @functools.cache
    def make(name, scheme):
        model, calibration, frames = network(name)
        return quantise(model, calibration, scheme), frames

    return make


def one_by_one(model, frames):
    interpreter = piqi_native.Interpreter(model.to_graph(), threads=1)
    results = [
        {name: values.copy() for name, values in interpreter.run({model.inputs[0]: frame[np.newaxis]}).items()}
        for frame in frames
    ]
    return {name: np.concatenate([result[name] for result in results]) for name in model.outputs}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_batches_give_the_bits_of_single_frames(quantised, name, scheme):
    both, frames = quantised(name, scheme)
    stored = np.random.default_rng(1).integers(0, 100, frames.shape)
    for model, inputs in ((both.float_model, frames), (both.model, stored)):
        inputs = inputs.astype(model.tensors[model.inputs[0]].dtype)
        expected = one_by_one(model, inputs)
        assert with_batch(model, 1) is model
        for count in (2, 4, 7):
            batch = with_batch(model, count)
            outputs = piqi_native.Interpreter(batch.to_graph(), threads=1).run({model.inputs[0]: inputs[:count]})
            for output, values in expected.items():
                assert outputs[output].tobytes() == values[:count].tobytes(), (output, count)


def single(kind, shapes, shape, constants=(), **attributes):
    """A network of one operator; `constants`: places of the inputs that are constant."""
    rng = np.random.default_rng(0)
    tensors = {
        f"x{i}": Tensor(f"x{i}", s, data=rng.uniform(size=s).astype(np.float32) if i in constants else None)
        for i, s in enumerate(shapes)
    }
    inputs = tuple(tensors)
    operator = Operator(kind, "op", inputs, ("y",), attributes)
    active = tuple(name for name in inputs if tensors[name].data is None)
    return Model("single", {**tensors, "y": Tensor("y", shape)}, (operator,), active, ("y",))


@pytest.mark.parametrize(
    "model",
    [
        single("reshape", [(1, 2, 3, 4)], (2, 12)),
        single("concat", [(1, 2, 3), (1, 2, 3)], (2, 2, 3), axis=0),
        single("concat", [(1, 2, 3), (1, 2, 1)], (1, 2, 4), constants=[1], axis=2),
        single("mean", [(1, 2, 3)], (1, 2, 3), axes=(0,)),
        single("pad", [(1, 2, 3)], (2, 2, 3), pad_before=(0, 0, 0), pad_after=(1, 0, 0)),
        single("add", [(1, 4), (1, 2, 4)], (1, 2, 4)),  # the first has the frames where the other has rows
        single("add", [(1, 4), (1, 1, 4)], (1, 1, 4), constants=[1]),
    ],
    ids=["reshape", "concat-frames", "concat-constant", "mean", "pad", "add-ranks", "add-constant"],
)
def test_networks_without_a_batch_dimension(model):
    model.to_graph()
    assert with_batch(model, 4) is None


@pytest.mark.parametrize(
    "model",
    [
        single("strided_slice", [(1, 4, 3)], (1, 2, 3), begin=(0, 1, 0), size=(1, 2, 3), strides=(1, 1, 1)),
        single("pad", [(1, 2, 3)], (1, 4, 3), pad_before=(0, 1, 0), pad_after=(0, 1, 0)),
        single("multiply", [(1, 2, 4), (4,)], (1, 2, 4), constants=[1]),
        single("mean", [(1, 2, 3, 4)], (1, 4), axes=(1, 2)),
    ],
    ids=["slice", "pad", "multiply-constant", "mean"],
)
def test_operators_with_a_batch_dimension(model):
    frames = np.random.default_rng(2).uniform(-1, 1, (3, *model.tensors["x0"].shape[1:])).astype(np.float32)
    outputs = piqi_native.Interpreter(with_batch(model, 3).to_graph(), threads=1).run({"x0": frames})
    assert outputs["y"].tobytes() == one_by_one(model, frames)["y"].tobytes()


def board(weights):
    processors = [
        {"letter": "B", "name": "CPUs", "kind": "cpu", "backend": "xnnpack", "cpus": [0]},
        {"letter": "N", "name": "NPU", "kind": "npu", "backend": "xnnpack", "host": "B", "weights": weights},
    ]
    return Board.model_validate({"name": "test", "processors": processors})


def executed(both, scheme, mask, frames):
    """The executor's outputs of each frame, the masked layers on the emulated NPU."""
    model = both.float_model
    order = "".join("BN"[bit] for bit in mask.astype(int))
    with Engine(model, board(scheme)) as engine, engine.executor(order, partitions=both.partition) as executor:
        return [
            {n: v.copy() for n, v in executor.run({model.inputs[0]: frame[np.newaxis]}).items()} for frame in frames
        ]


def random_masks(rng, count, layers):
    """Some with few layers, some with runs, some with anything."""
    masks = rng.random((count, layers)) < rng.random((count, 1))
    masks[0], masks[1], masks[2] = False, True, np.arange(layers) == rng.integers(layers)
    return masks


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_masks_give_the_bits_of_the_executor(quantised, name, scheme):
    both, frames = quantised(name, scheme)
    frames = frames[:2]
    layers = both.model.layer_count
    masks = random_masks(np.random.default_rng(5), 10, layers)
    batch = with_batch(both.float_model, 2), with_batch(both.model, 2)
    evaluator = piqi_native.MaskEvaluator(*(model.to_graph() for model in batch))
    assert evaluator.memory_bytes > 0
    found = {}
    for _ in range(2):  # nothing of a first run is left over in a second
        found.clear()
        evaluator.evaluate({both.model.inputs[0]: frames}, masks, lambda mask, outputs: found.update({mask: outputs}))
        assert sorted(found) == list(range(len(masks)))
    for number, mask in enumerate(masks):
        for frame, expected in enumerate(executed(both, scheme, mask, frames)):
            for output, values in expected.items():
                assert found[number][output][frame].tobytes() == values[0].tobytes(), (mask, output)
    assert len({b"".join(a.tobytes() for a in found[n].values()) for n in range(3)}) == 3  # masks make a difference


def test_mask_evaluator_arguments(quantised):
    both, frames = quantised("digits", "per_channel")
    graphs = both.float_model.to_graph(), both.model.to_graph()
    evaluator = piqi_native.MaskEvaluator(*graphs)
    name = both.model.inputs[0]
    with pytest.raises(piqi_native.GraphError, match=r"masks must have the shape \[n, 10\]"):
        evaluator.evaluate({name: frames[:1]}, np.zeros((2, 9), bool), print)
    with pytest.raises(piqi_native.Error, match=name):
        evaluator.evaluate({name: frames[:2]}, np.zeros((1, 10), bool), print)
    evaluator.evaluate({name: frames[:1]}, np.zeros((0, 10), bool), print)
    with pytest.raises(ZeroDivisionError):
        evaluator.evaluate({name: frames[:1]}, np.zeros((2, 10), bool), lambda mask, outputs: mask / 0)
    with pytest.raises(piqi_native.GraphError, match="operator 0 is"):
        first = replace(both.model.operators[0], name="another")
        other = replace(both.model, operators=(first, *both.model.operators[1:]))
        piqi_native.MaskEvaluator(graphs[0], other.to_graph())


@pytest.mark.parametrize(
    "records",
    [
        [np.array([0.5]), np.array([-1.0])],
        [np.ones((2, 6)), np.zeros((0, 6)), np.full((1, 6), np.nan)],
        [np.zeros((0, 6)), np.zeros((0, 6))],
    ],
    ids=["scores", "detections", "none"],
)
def test_records_are_kept_as_they_are(records):
    records = [record.astype(np.float32) for record in records]
    found = decode(encode(records))
    assert [record.shape for record in found] == [record.shape for record in records]
    for one, other in zip(found, records, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError):
        decode(encode(records)[:-1])


def rows(masks, block):
    return [(mask, block, [np.array([i + 100 * block], np.float32)] * 3) for i, mask in enumerate(masks)]


MASKS = np.array([[False] * 10, [True] * 10, [False, True] * 5])


def test_store_goes_on_where_it_was(tmp_path):
    path = tmp_path / "store.sqlite"
    with EvaluationStore(path, KEY) as store:
        store.add(rows(MASKS, 1))
        store.add(rows(MASKS[:1], 0))
    with EvaluationStore(path, KEY) as store:
        assert [store.blocks(mask) for mask in MASKS] == [{0, 1}, {1}, {1}]
        assert np.concatenate(store.records(MASKS[0])).tolist() == [0, 0, 0, 100, 100, 100]
        store.add(rows(MASKS, 0))
        store.add(rows(MASKS, 0))  # again: the same rows
        assert np.concatenate(store.records(MASKS[2])).tolist() == [2, 2, 2, 102, 102, 102]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({**KEY, "images": "i2"}, r"store\.sqlite: key\.images: holds evaluations for i1, these are for i2"),
        ({"model": "m1"}, r"key\.images: .* for i1, these are for None"),
    ],
)
def test_store_of_something_else_is_refused(tmp_path, key, message):
    path = tmp_path / "store.sqlite"
    with EvaluationStore(path, KEY) as store:
        store.add(rows(MASKS, 0))
    with pytest.raises(StoreError, match=message):
        EvaluationStore(path, key)
    with EvaluationStore(path, KEY) as store:
        assert store.blocks(MASKS[1]) == {0}


def test_damaged_store(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match=r"store\.sqlite: file is not a database"):
        EvaluationStore(path, KEY)
    path.unlink()
    with EvaluationStore(path, KEY) as store:
        for block in range(100):
            store.add([(mask, block, [np.arange(300, dtype=np.float32)]) for mask in MASKS])
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite: "), EvaluationStore(path, KEY) as store:
        store.records(MASKS[0])
    with pytest.raises(StoreError, match="unable to open"):
        EvaluationStore(tmp_path, KEY)


def test_damaged_records(tmp_path):
    path = tmp_path / "store.sqlite"
    with EvaluationStore(path, KEY) as store:
        store.add(rows(MASKS, 0))
    for wrong in (b"", b"\x01\x00", encode([np.zeros(3, np.float32)])[:-1]):
        with sqlite3.connect(path) as database:
            database.execute("UPDATE records SET data = ?", (wrong,))
        with EvaluationStore(path, KEY) as store, pytest.raises(StoreError, match=r"records\.data: is damaged"):
            store.records(MASKS[0])


FILL = """
import resource, sys
import numpy as np
from piqi_planner.evaluation.store import EvaluationStore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
with EvaluationStore(sys.argv[1], {"model": "m1", "images": "i1"}) as store:
    for block in range(10000):
        store.add([(np.ones(10, bool), block, [np.full(2000, block, np.float32)])])
        print(block, flush=True)
"""


def test_full_disk(tmp_path):
    """No file may grow beyond a limit: one error, and all that was added before is there."""
    path = tmp_path / "store.sqlite"
    limit = 1 << 20
    run = subprocess.run(
        [sys.executable, "-c", FILL, str(path), str(limit)],
        capture_output=True,
        text=True,
        timeout=240,  # each row waits for the disk
    )
    assert run.returncode == 1 and f"StoreError: {path}: " in run.stderr.splitlines()[-1]
    added = len(run.stdout.split())
    assert added > 30
    with EvaluationStore(path, KEY) as store:
        blocks = store.blocks(np.ones(10, bool))
        assert blocks >= set(range(added)) and len(blocks) <= added + 1
        assert [record[0] for record in store.records(np.ones(10, bool))] == sorted(blocks)
        store.add(rows(np.ones((1, 10), bool), 10000))
