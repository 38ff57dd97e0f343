"""Container files: what goes in comes out, and nothing else is taken for one."""

import hashlib
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piqi_runtime import container
from piqi_runtime.container import ContainerError, content_hash, load_model, save_model
from piqi_runtime.model import Model, Operator, Tensor

names = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable())
dtypes = st.sampled_from(["float32", "int8", "uint8", "int32"])


def a_model(weights=None):
    weights = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) if weights is None else weights
    tensors = [
        Tensor("x", (1, 4, 4, 3)),
        Tensor("w", weights.shape, str(weights.dtype), weights),
        Tensor("b", (2,), "float32", np.array([0.5, -1], np.float32)),
        Tensor("y", (1, 3, 3, 2), "float32"),
        Tensor("q", (1, 3, 3, 2), "uint8", None, (0.25,), 7),
    ]
    attributes = {"stride_height": 1, "clamp_min": 0.0, "clamp_max": float("inf")}
    operators = (
        Operator("conv2d", "first", ("x", "w", "b"), ("y",), attributes, 0),
        Operator("quantize", "second", ("y",), ("q",), {}, 1),
    )
    return Model("tiny", {t.name: t for t in tensors}, operators, ("x",), ("q",))


def assert_same(a, b):
    assert (a.name, a.operators, a.inputs, a.outputs) == (b.name, b.operators, b.inputs, b.outputs)
    assert list(a.tensors) == list(b.tensors)
    for left, right in zip(a.tensors.values(), b.tensors.values(), strict=True):
        assert (left.name, left.shape, left.dtype, left.scales, left.zero_point) == (
            right.name,
            right.shape,
            right.dtype,
            right.scales,
            right.zero_point,
        )
        assert (left.data is None) == (right.data is None)
        if left.data is not None:
            np.testing.assert_array_equal(left.data, right.data)


@st.composite
def models(draw):
    tensors = {}
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
        dtype = draw(dtypes)
        data = None
        if draw(st.booleans()):
            data = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 100, shape).astype(dtype)
        scales = tuple(draw(st.lists(st.floats(1e-9, 1e9), max_size=3)))
        tensors[name] = Tensor(name, shape, dtype, data, scales, draw(st.integers(-128, 255)))
    known = st.lists(st.sampled_from(sorted(tensors)), max_size=3).map(tuple)
    attributes = st.fixed_dictionaries(
        {},
        optional={
            "clamp_max": st.floats(allow_nan=False),
            "axes": st.lists(st.integers(0, 3), max_size=2),
            "align_corners": st.booleans(),
            "strides": st.lists(st.integers(-3, 3), max_size=3),
        },
    )
    operators = draw(
        st.lists(st.builds(Operator, st.just("add"), names, known, known, attributes, st.integers(0, 9)), max_size=4)
    )
    return Model(draw(names), tensors, tuple(operators), draw(known), draw(known))


@settings(max_examples=100, deadline=None)
@given(model=models())
def test_round_trip(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("container") / "m.piqi"
    save_model(model, path)
    assert_same(load_model(path), model)
    assert content_hash(load_model(path)) == content_hash(model)


def test_arrays_are_aligned_views_of_the_file(tmp_path):
    path = tmp_path / "m.piqi"
    save_model(a_model(), path)
    for name in ("w", "b"):
        data = load_model(path).tensors[name].data
        base = data
        while not isinstance(base, np.memmap):
            base = base.base
        assert not data.flags.owndata and not data.flags.writeable
        assert data.ctypes.data % 64 == 0


def test_layout_does_not_matter(tmp_path):
    weights = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2).T
    save_model(a_model(weights), tmp_path / "m.piqi")
    assert_same(load_model(tmp_path / "m.piqi"), a_model(weights))


def test_content_hash_is_of_the_content():
    model = a_model()
    same = Model("other", model.tensors, model.operators, model.inputs, model.outputs)
    assert content_hash(same) == content_hash(model)
    moved = model.with_layers([0, 0])
    assert content_hash(moved) != content_hash(model)
    assert content_hash(moved, layers=False) == content_hash(model, layers=False)
    changed = model.tensors["w"].data.copy()
    changed[1, 1, 1, 1] += 1
    assert content_hash(a_model(changed)) != content_hash(model)


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_changed_byte_is_noticed(tmp_path_factory, place, flip):
    path = tmp_path_factory.mktemp("container") / "m.piqi"
    save_model(a_model(), path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    with pytest.raises(ContainerError, match=r"m\.piqi: (magic|version|header_size|size|digest): expected"):
        load_model(path)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_files(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("container") / "m.piqi"
    save_model(a_model(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ContainerError, match=r"m\.piqi: size: expected"):
        load_model(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ContainerError, match=r"m\.piqi: size: expected"):
        load_model(path)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), magic=st.booleans())
def test_foreign_files(tmp_path_factory, content, magic):
    path = tmp_path_factory.mktemp("container") / "m.piqi"
    path.write_bytes(b"PIQI" + content if magic else content)
    with pytest.raises(ContainerError):
        load_model(path)


def forge(path, change, data=None, version=1):
    """A file with a right digest and a header that `change` has been at."""
    save_model(a_model(), path)
    content = path.read_bytes()
    header_size = struct.unpack_from("<Q", content, 8)[0]
    header = json.loads(content[64 : 64 + header_size])
    data = content[64 + header_size :] if data is None else data
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    prefix = struct.pack("<4sIQQQ", b"PIQI", version, len(text), len(data), 0)
    path.write_bytes(prefix + hashlib.sha256(prefix + text + data).digest() + text + data)


def set_in(*keys, value):
    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("kind", value="partition"), "kind: expected 'model', got 'partition'"),
        (set_in("partition", value={}), r"header\.partition\.source_hash: Field required"),
        (set_in("extra", value=1), r"header\.extra: Extra inputs"),
        (set_in("model", "tensors", 1, "shape", value=[2**30] * 4), r"tensors\.1\.data\.size: expected"),
        (set_in("model", "tensors", 1, "shape", value=[2**32, 1, 1, 1]), r"shape\.0: Input should be less"),
        (set_in("model", "tensors", 1, "shape", value=[-2, -2, 2, 3]), r"shape\.0: Input should be greater"),
        (set_in("model", "tensors", 1, "dtype", value="object"), r"tensors\.1\.dtype: Input should be"),
        (set_in("model", "tensors", 1, "data", "offset", value=1 << 40), r"tensors\.1\.data: bytes \d+"),
        (set_in("model", "tensors", 1, "data", "offset", value=4), r"offset: Input should be a multiple of 64"),
        (set_in("model", "tensors", 1, "data", "offset", value=-64), r"offset: Input should be greater"),
        (set_in("model", "tensors", 1, "name", value="x"), r"tensors\.1\.name: 'x' is there twice"),
        (set_in("model", "operators", 0, "inputs", value=["z"]), r"operators\.0: there is no tensor 'z'"),
        (set_in("model", "operators", 0, "attributes", "run", value="rm"), r"attributes\.run: Extra inputs"),
        (set_in("model", "operators", 0, "layer", value=1 << 40), r"layer: Input should be less"),
        (set_in("model", "outputs", value=["z"]), "model: there is no tensor 'z'"),
    ],
)
def test_forged_headers(tmp_path, change, message):
    path = tmp_path / "m.piqi"
    forge(path, lambda header: None)
    assert_same(load_model(path), a_model())
    forge(path, change)
    with pytest.raises(ContainerError, match=rf"m\.piqi: .*{message}"):
        load_model(path)


def test_other_versions_and_missing_files(tmp_path):
    path = tmp_path / "m.piqi"
    forge(path, lambda header: None, version=2)
    with pytest.raises(ContainerError, match=r"m\.piqi: version: expected 1, got 2"):
        load_model(path)
    with pytest.raises(ContainerError, match=r"absent\.piqi: No such file"):
        load_model(tmp_path / "absent.piqi")
    with pytest.raises(ContainerError, match="Is a directory"):
        load_model(tmp_path)
    with pytest.raises(ContainerError, match="No such file"):
        save_model(a_model(), tmp_path / "absent" / "m.piqi")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "m.piqi"
    save_model(a_model(), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ContainerError, match=r"m\.piqi: No space left"):
        save_model(a_model(np.zeros((2, 2, 2, 3), np.float32)), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.piqi"]


def test_files_have_the_users_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        container.write_atomically(tmp_path / "f", [b"text"])
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
