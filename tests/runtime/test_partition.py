"""Partitions as files."""

import numpy as np
import pytest

import piqi_native
from piqi_runtime.container import content_hash, load_model, save_model
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.partition import Partition, PartitionFileError


def float_model():
    tensors = {name: Tensor(name, (1, 2, 2, 2)) for name in ("x", "y")}
    return Model("net", tensors, (Operator("clamp", "relu", ("x",), ("y",), {"clamp_min": 0.0}, 0),), ("x",), ("y",))


def a_partition():
    affine = {"dtype": "int8", "scales": (0.5,), "zero_point": 1}
    tensors = {name: Tensor(name, (1, 2, 2, 2), **affine) for name in ("x", "y")}
    rng = np.random.default_rng(0)
    tensors["w"] = Tensor("w", (2, 1, 1, 2), "int8", rng.integers(-9, 9, (2, 1, 1, 2), np.int8), (0.5, 0.25))
    tensors["b"] = Tensor("b", (2,), "int32", np.array([100, -100], np.int32), (0.25, 0.125))
    operators = (Operator("conv2d", "conv", ("x", "w", "b"), ("y",), {"clamp_min": 0.0}, 3),)
    model = Model("net", tensors, operators, ("x",), ("y",))
    return Partition(model, 3, 3, "per_channel", content_hash(float_model()))


def test_round_trip(tmp_path):
    partition = a_partition()
    partition.save(tmp_path / "p.piqi")
    loaded = Partition.load(tmp_path / "p.piqi", float_model())
    assert (loaded.first_layer, loaded.last_layer, loaded.scheme) == (3, 3, "per_channel")
    assert loaded.source_hash == partition.source_hash
    assert loaded.checksum == partition.checksum
    image = {"x": np.arange(-4, 4, dtype=np.int8).reshape(1, 2, 2, 2)}
    results = [piqi_native.Interpreter(p.model.to_graph()).run(image)["y"] for p in (partition, loaded)]
    np.testing.assert_array_equal(*results)


def test_native_form():
    native = a_partition().to_native()
    assert (native.first_layer, native.last_layer) == (3, 3)
    assert native.checksum == a_partition().checksum


def test_native_form_outlives_the_file(tmp_path):
    path = tmp_path / "p.piqi"
    a_partition().save(path)
    graph = Partition.load(path).model.to_graph()
    path.unlink()
    image = {"x": np.ones((1, 2, 2, 2), np.int8)}
    expected = piqi_native.Interpreter(a_partition().model.to_graph()).run(image)["y"]
    np.testing.assert_array_equal(piqi_native.Interpreter(graph).run(image)["y"], expected)


def test_of_another_network(tmp_path):
    a_partition().save(tmp_path / "p.piqi")
    other = float_model().with_layers([1])
    with pytest.raises(PartitionFileError, match=r"p\.piqi: partition\.source_hash: expected [0-9a-f]{64} of 'net'"):
        Partition.load(tmp_path / "p.piqi", other)


def test_files_that_are_no_partition(tmp_path):
    path = tmp_path / "p.piqi"
    save_model(float_model(), path)
    with pytest.raises(PartitionFileError, match=r"p\.piqi: kind: expected 'partition', got 'model'"):
        Partition.load(path)
    a_partition().save(path)
    with pytest.raises(Exception, match=r"p\.piqi: kind: expected 'model', got 'partition'"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PartitionFileError, match=r"p\.piqi: size: expected \d+ bytes, got \d+"):
        Partition.load(path)
    with pytest.raises(PartitionFileError, match=r"absent\.piqi: No such file"):
        Partition.load(tmp_path / "absent.piqi")
    with pytest.raises(PartitionFileError, match="No such file"):
        a_partition().save(tmp_path / "absent" / "p.piqi")


def test_ranges_that_are_none(tmp_path):
    p = a_partition()
    Partition(p.model, 4, 3, p.scheme, p.source_hash).save(tmp_path / "p.piqi")
    with pytest.raises(PartitionFileError, match=r"partition\.last_layer: expected at least 4, got 3"):
        Partition.load(tmp_path / "p.piqi")
