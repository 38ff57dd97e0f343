"""Bundles: what is written is read back and runs, what is spoilt is named, a crash leaves one or the other whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_runtime import Engine, load_board
from piqi_runtime.bundle import (
    Bundle,
    BundleError,
    BundleInput,
    BundleOutput,
    add_files,
    load_bundle,
    verify_bundle,
    write_bundle,
)
from piqi_runtime.bundle_files import existing
from piqi_runtime.errors import PiqiError
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

BOARD = load_board("rk3399pro")
LABELS = ["cat", "dog", "fish", "owl", "übrige"]
INPUT = BundleInput(name="image", shape=(1, 8, 8, 3))
OUTPUTS = [BundleOutput(name="scores", shape=(1, 5), kind="classes")]
FRAME = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)


def network(seed: int = 0) -> Model:
    """Four layers: three convolutions, a fully connected one."""
    rng = np.random.default_rng(seed)
    tensors = {"image": Tensor("image", (1, 8, 8, 3))}
    operators = []

    def layer(kind: str, name: str, source: str, shape: tuple[int, ...], weights: tuple[int, ...], **more: Any) -> None:
        for suffix, size in (("w", weights), ("b", weights[:1])):
            data = rng.normal(0, 0.4, size).astype(np.float32)
            tensors[f"{name}/{suffix}"] = Tensor(f"{name}/{suffix}", size, "float32", data)
        tensors[name] = Tensor(name, shape)
        operators.append(Operator(kind, name, (source, f"{name}/w", f"{name}/b"), (name,), more, len(operators)))

    for name, source, channels in (("a", "image", 3), ("b", "a", 4), ("c", "b", 4)):
        layer("conv2d", name, source, (1, 8, 8, 4), (4, 1, 1, channels), clamp_min=0.0)
    tensors["flat"] = Tensor("flat", (1, 256))
    operators.append(Operator("reshape", "flat", ("c",), ("flat",), {}, 2))
    layer("fully_connected", "scores", "flat", (1, 5), (5, 256))
    operators[-1] = Operator("fully_connected", "scores", ("flat", "scores/w", "scores/b"), ("scores",), {}, 3)
    return Model("net", tensors, tuple(operators), ("image",), ("scores",))


def table(*orders: str, board: str = "rk3399pro") -> ParetoTable:
    figures = [(10.0 + i, 5000.0, 60.0 + i) for i in range(len(orders))]
    freqs = {"L": "5", "B": "7", "G": "4-7", "N": "7"}
    return ParetoTable(
        board=board,
        model="net",
        layers=TableLayers(count=4, letters="LBGN"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=tuple(
            OperatingPoint(
                order=order,
                freqs=" ".join(freqs[letter] for letter in order),
                latency_ms=latency,
                power_mw=power,
                energy_mj=latency * power / 1e3,
                accuracy=accuracy,
            )
            for order, (latency, power, accuracy) in zip(orders, figures, strict=True)
        ),
    )


TABLE = table("NNNN", "LNNL", "BNNN", "GNNB", "NLNN", "LLLL")
RANGES = ((0, 0), (0, 3), (1, 2), (1, 3), (2, 3))


@pytest.fixture(scope="module")
def quantised() -> QuantisedModel:
    model = network()
    frames = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
    return quantise(model, calibrate(model, [frames]), "per_channel")


@pytest.fixture
def write(quantised: QuantisedModel, tmp_path: Path) -> Callable[..., Bundle]:
    def function(name: str = "net", **changes: Any) -> Bundle:
        arguments = {
            "model": quantised.float_model,
            "table": TABLE,
            "partitions": quantised.partition,
            "input": INPUT,
            "outputs": OUTPUTS,
            "labels": LABELS,
            "how_built": {"seed": 3, "versions": {"b": "2", "a": "1"}},
            "extra_files": {"report/report.json": b"{}"},
        }
        return write_bundle(tmp_path / name, **{**arguments, **changes})

    return function


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_what_is_written_is_read_back(write: Callable[..., Bundle], quantised: QuantisedModel, tmp_path: Path) -> None:
    for bundle in (write(), load_bundle(tmp_path / "net", BOARD)):
        assert bundle.table == TABLE
        assert bundle.labels == tuple(LABELS)
        assert bundle.manifest.how_built == {"seed": 3, "versions": {"a": "1", "b": "2"}}
        assert bundle.manifest.input == INPUT
        assert bundle.ranges == RANGES
        assert bundle.partition(1, 2).checksum == quantised.partition(1, 2).checksum
        assert bundle.partition(1, 2) is bundle.partition(1, 2)
        np.testing.assert_array_equal(bundle.model.tensors["b/w"].data, quantised.float_model.tensors["b/w"].data)
    assert verify_bundle(tmp_path / "net", BOARD) == []
    assert [path.name for path in tmp_path.iterdir()] == ["net"], "nothing is left beside it"


def test_ranges_that_points_share_are_stored_once(write: Callable[..., Bundle]) -> None:
    root = write().root  # LNNL and GNNB share 1-2
    stored = sorted(path.name.rsplit("-", 1)[0] for path in (root / "partitions").iterdir())
    assert stored == sorted(f"{first}-{last}" for first, last in RANGES)


def test_the_engine_runs_it(write: Callable[..., Bundle], quantised: QuantisedModel) -> None:
    host = load_board("host")
    freqs = {letter: "-".join(["0"] * (2 if letter == "G" else 1)) for letter in "LBGN"}
    bundle = write()
    with Engine(bundle.model, host) as ours, Engine(quantised.float_model, host) as theirs:
        for point in bundle.table.points:
            tokens = " ".join(freqs[letter] for letter in point.order)
            a = ours.executor(point.order, tokens, bundle.partition)
            b = theirs.executor(point.order, tokens, quantised.partition)
            with a, b:
                np.testing.assert_array_equal(a(FRAME), b(FRAME))


def test_without_partitions_and_labels(write: Callable[..., Bundle]) -> None:
    bundle = write(table=table("LLLL", "BBBB"), labels=None, extra_files=None)
    assert sorted(content(bundle.root)) == ["manifest.json", "model.piqi", "table.json"]
    assert (bundle.labels, bundle.manifest.scheme) == ((), None)
    assert load_bundle(bundle.root).manifest == bundle.manifest


def test_the_same_inputs_give_the_same_bytes(
    write: Callable[..., Bundle], quantised: QuantisedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    write("one")
    write(
        "two",
        partitions=[quantised.partition(*r) for r in reversed(RANGES)] * 2,
        how_built={"versions": {"a": "1", "b": "2"}, "seed": 3},
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert write("three").manifest.created == "1970-01-02T00:00:00Z"
    assert add_files(tmp_path / "three", {"report/x": b""}).manifest.created == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BundleError, match=r"SOURCE_DATE_EPOCH.*'yesterday'"):
        write("four")
    assert not (tmp_path / "four").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(root: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file; of another file than the manifest the manifest then has the right digest."""
    values = json.loads((root / name).read_text())
    change(values)
    text = json.dumps(values).encode()
    (root / name).write_bytes(text)
    if name != "manifest.json":
        entry = {"sha256": hashlib.sha256(text).hexdigest(), "size_bytes": len(text)}
        edit(root, "manifest.json", lambda m: m["files"].update({name: entry}))


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: edit(root, "manifest.json", change)


def exchange_partitions(root: Path) -> None:
    """Two partitions under each other's name, with digests that fit."""

    def exchange(manifest: dict[str, Any]) -> None:
        a, b = manifest["partitions"][:2]
        a["file"], b["file"] = b["file"], a["file"]

    edit(root, "manifest.json", exchange)


def rename_listed(old: str, new: str) -> Callable[[Path], None]:
    return edit_manifest(lambda m: m["files"].update({new: m["files"].pop(old)}))


def replace_by_link(root: Path) -> None:
    (root / "report/report.json").rename(root.parent / "outside.json")
    (root / "report/report.json").symlink_to(root.parent / "outside.json")


def replace_folder_by_link(root: Path) -> None:
    (root / "report").rename(root.parent / "outside")
    (root / "report").symlink_to(root.parent / "outside")


SPOILT: list[tuple[Callable[[Path], object], tuple[str, ...]]] = [
    (lambda root: (root / "manifest.json").unlink(), ("manifest.json", "No such file")),
    (lambda root: (root / "manifest.json").write_text("{"), ("manifest.json", "JSON")),
    (lambda root: (root / "manifest.json").write_text("[" * 100_000), ("manifest.json", "JSON")),
    (edit_manifest(lambda m: m.update(schema_version=2)), ("schema_version", "reads 1", "got 2")),
    (edit_manifest(lambda m: m.pop("schema_version")), ()),  # has a default
    (edit_manifest(lambda m: m.pop("input")), ("manifest.json: input", "required")),
    (edit_manifest(lambda m: m["input"].update(colour="cmyk")), ("input.colour", "cmyk")),
    (edit_manifest(lambda m: m["input"].update(colour="grey")), ("input", "[N, H, W, 1]", "grey")),
    (edit_manifest(lambda m: m["input"].update(name="picture")), ("model.piqi: inputs", "picture", "image")),
    (edit_manifest(lambda m: m["outputs"][0].update(shape=[1, 6])), ("model.piqi: outputs", "[1, 6]", "[1, 5]")),
    (edit_manifest(lambda m: m.update(source_hash="0" * 64)), ("model.piqi: source_hash", "0" * 64)),
    (edit_manifest(lambda m: m.update(board="rk3588")), ("table.json: board", "'rk3588'", "'rk3399pro'")),
    (edit_manifest(lambda m: m.update(scheme="per_tensor")), ("scheme", "per_tensor", "per_channel")),
    (edit_manifest(lambda m: m["partitions"][0].update(last_layer=4)), ("partitions[0]", "4 layers", "0-4")),
    (edit_manifest(lambda m: m["partitions"][0].update(checksum="0" * 64)), ("partitions/0-0", "checksum", "0" * 64)),
    (edit_manifest(lambda m: m["partitions"].pop(2)), ("table.json: points[1] and 1 more", "layers 1-2")),
    (edit_manifest(lambda m: m["partitions"].append(m["partitions"][0])), ("partitions[5]", "0-0", "twice")),
    (exchange_partitions, ("partitions/0-3", "layers", "(0, 0)", "(0, 3)")),
    (edit_manifest(lambda m: m["files"].pop("model.piqi")), ("files", "model.piqi")),
    (rename_listed("report/report.json", "../report.json"), ("files", "../report.json")),
    (rename_listed("report/report.json", "/report.json"), ("files", "/report.json")),
    (rename_listed("report/report.json", "report//x"), ("files", "report//x")),
    (edit_manifest(lambda m: m["partitions"][0].update(file="../x.piqi")), ("partitions.0.file", "../x.piqi")),
    (edit_manifest(lambda m: m["files"]["table.json"].update(size_bytes=-1)), ("files.table.json.size_bytes", "-1")),
    (lambda root: (root / "model.piqi").unlink(), ("model.piqi: is missing",)),
    (lambda root: flip(root / "model.piqi"), ("model.piqi: sha256: expected",)),
    (lambda root: (root / "table.json").write_text("{}"), ("table.json: size: expected", "got 2")),
    (lambda root: next((root / "partitions").glob("1-3-*")).unlink(), ("partitions/1-3", "is missing")),
    (lambda root: (root / "report/more.txt").write_text(""), ("report/more.txt: is not in the manifest",)),
    (lambda root: os.mkfifo(root / "pipe"), ("pipe: is not a regular file",)),
    (replace_by_link, ("report/report.json: is a symbolic link",)),
    (replace_folder_by_link, ("report: is a symbolic link",)),
    (lambda root: edit(root, "table.json", lambda t: t.update(model="other")), ("table.json: model", "'other'")),
    (lambda root: edit(root, "table.json", lambda t: t["points"].pop()), ()),  # fewer points are still a table
    (
        lambda root: edit(root, "table.json", lambda t: t["points"][0].update(freqs="7 7 7 9")),
        ("table.json: points[0].freqs: layer 3", "'9'"),
    ),
    (
        lambda root: edit(root, "table.json", lambda t: t["points"][0].update(order="NNNL", freqs="7 7 7 5")),
        ("table.json: points[0]: there is no partition of layers 0-2",),
    ),
    (lambda root: shutil.rmtree(root), ("net: is not a folder",)),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=range(len(SPOILT)))
def test_what_is_wrong_is_named(write: Callable[..., Bundle], spoil: Callable, said: tuple[str, ...]) -> None:
    root = write().root
    spoil(root)
    text = "\n".join(verify_bundle(root, BOARD))
    assert [word for word in said if word not in text] == [], text
    assert bool(text) == bool(said), text
    if said:
        with pytest.raises(BundleError) as caught:
            load_bundle(root, BOARD)
        assert [word for word in said if word not in str(caught.value)] == [], caught.value
        assert all(line.startswith(str(root)) for line in str(caught.value).split("\n"))


def test_all_problems_are_named_at_once(write: Callable[..., Bundle]) -> None:
    root = write().root
    flip(root / "model.piqi")
    (root / "labels.txt").unlink()
    (root / "extra").write_text("")
    next((root / "partitions").glob("0-0-*")).write_text("")
    edit(root, "table.json", lambda t: t.update(board="rk3588"))
    lines = verify_bundle(root)
    for word in ("model.piqi: sha256", "labels.txt", "extra", "partitions/0-0", "table.json: board"):
        assert sum(line.startswith(word) for line in lines) == 1, lines
    assert len(lines) == 5


def test_partitions_of_another_network(write: Callable[..., Bundle], quantised: QuantisedModel) -> None:
    other = network(7)
    calibration = calibrate(other, [FRAME])
    with pytest.raises(BundleError, match=r"net/partitions/0-0-\w+\.piqi: source_hash: expected \w{64} .* got \w{64}"):
        write(partitions=quantise(other, calibration, "per_channel").partition)
    per_tensor = quantise(
        quantised.float_model, calibrate(quantised.float_model, [FRAME]), "per_tensor", equalise=False
    )
    both = [quantised.partition(*r) for r in RANGES[:-1]] + [per_tensor.partition(*RANGES[-1])]
    with pytest.raises(BundleError, match="scheme: expected"):
        write(partitions=both)


def test_another_board(write: Callable[..., Bundle]) -> None:
    root = write().root
    for verify in (True, False):
        with pytest.raises(BundleError, match="is for 'rk3399pro', the board is 'rk3588'"):
            load_bundle(root, load_board("rk3588"), verify)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partitions": []}, "there is no partition of layers 0-0"),
        ({"labels": LABELS[:-1]}, "labels.txt: expected 5 labels for output 'scores', got 4"),
        ({"labels": ["a\nb", *LABELS[1:]]}, "labels: expected one line each"),
        ({"how_built": {"x": float("nan")}}, "how_built"),
        ({"how_built": {"x": Path()}}, "how_built"),
        ({"extra_files": {"../x": b""}}, "'../x': cannot be a file's path in a bundle"),
        ({"extra_files": {"a/.hidden": b""}}, "cannot be a file's path"),
        ({"extra_files": {"table.json": b""}}, "table.json: cannot be added"),
        ({"extra_files": {"x": Path("nowhere")}}, "nowhere: No such file"),
        ({"table": table("NNNN", board="unheard")}, "no 'unheard'"),
        ({"input": BundleInput(name="image", shape=(1, 9, 9, 3))}, "model.piqi: inputs"),
        ({"model": network().with_layers([0, 0, 0, 0, 1])}, "table.json: layers.count: expected 2, got 4"),
    ],
)
def test_what_does_not_make_a_bundle(
    write: Callable[..., Bundle], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PiqiError) as caught:
        write(**changes)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_only_bundles_are_replaced(write: Callable[..., Bundle], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/diary.txt").write_text("dear")
    with pytest.raises(BundleError, match="home: is neither empty nor a bundle"):
        write("home")
    assert (tmp_path / "home/diary.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    assert write("empty").labels
    assert write("empty", labels=None).labels == ()
    with pytest.raises(BundleError, match="No such file"):
        write("nowhere/net")


def test_what_is_asked_for_and_missing(write: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match=r"net: expected a partition of layers 0-0, 0-3, .*, got 0-1"):
        write().partition(0, 1)


def test_without_verification_parts_are_checked_when_used(write: Callable[..., Bundle]) -> None:
    root = write().root
    flip(root / "model.piqi")
    flip(next((root / "partitions").glob("0-0-*")))
    bundle = load_bundle(root, BOARD, verify=False)
    with pytest.raises(PiqiError, match=r"model\.piqi: digest"):
        _ = bundle.model
    with pytest.raises(PiqiError, match=r"0-0-\w+\.piqi: digest"):
        bundle.partition(0, 0)
    assert bundle.partition(0, 3)


def test_files_are_added_all_or_none(write: Callable[..., Bundle], tmp_path: Path) -> None:
    root = write().root
    before = content(root)
    (tmp_path / "source.rknn").write_bytes(b"prepared")
    files = {"vendor/1-2.rknn": tmp_path / "source.rknn", "report/report.json": b"[]"}
    bundle = add_files(root, files, {(1, 2): {"rk3588": "vendor/1-2.rknn"}})
    assert verify_bundle(root, BOARD) == []
    path = bundle.vendor_file(1, 2, "rk3588")
    assert path is not None and path.read_bytes() == b"prepared"
    assert bundle.vendor_file(1, 2, "rk3566") is None and bundle.vendor_file(0, 0, "rk3588") is None
    after = content(root)
    assert after["report/report.json"] == b"[]"
    assert {path for path in before if after[path] != before[path]} == {"manifest.json", "report/report.json"}
    more = add_files(root, {"vendor/b.rknn": b"b"}, {(1, 2): {"rk3566": "vendor/b.rknn"}})
    assert more.manifest.partitions[2].vendor == {"rk3566": "vendor/b.rknn", "rk3588": "vendor/1-2.rknn"}

    after = content(root)
    for spoilt, said in (
        (({"vendor/c": b"", "vendor/d": Path("nowhere")},), "nowhere: No such file"),
        (({"vendor/c": b""}, {(0, 1): {"rk3588": "vendor/c"}}), "no partition of layers 0-1"),
        (({}, {(1, 2): {"rk3588": "vendor/c"}}), "files: .* vendor/c"),
        (({"manifest.json": b""},), "cannot be added"),
    ):
        with pytest.raises(BundleError, match=said):
            add_files(root, *spoilt)
        assert content(root) == after


def test_parts_of_two_bundles_are_never_mixed(write: Callable[..., Bundle], quantised: QuantisedModel) -> None:
    old = write()
    early, early_model = old.partition(1, 2), load_bundle(old.root).model
    assert early_model.tensors["b/w"].data is not None
    other = network(7)
    new = write(model=other, partitions=quantise(other, calibrate(other, [FRAME]), "per_channel").partition)
    assert new.partition(1, 2).checksum != early.checksum
    assert old.partition(1, 2).checksum == early.checksum, "mapped files stay"
    np.testing.assert_array_equal(early_model.tensors["b/w"].data, quantised.float_model.tensors["b/w"].data)
    with pytest.raises(PiqiError, match=r"0-0-\w+\.piqi: No such file"):
        old.partition(0, 0)
    with pytest.raises(PiqiError, match=r"model\.piqi: source_hash"):
        _ = old.model


CRASHING = ("rename", "replace", "mkdir", "link", "unlink", "rmdir", "fsync")


def crash_at(step: int, function: Callable[[], object]) -> bool:
    """Runs `function` in a process that dies just before its step-th change to the disk; whether it died."""
    child = os.fork()
    if not child:
        left = step

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return original(*arguments, **more)

            return call

        for name in CRASHING:
            setattr(os, name, dying(getattr(os, name)))
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("action", ["write", "add"])
def test_a_crash_leaves_the_old_or_the_new(
    write: Callable[..., Bundle], tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # processes die here, disks do not
    new_table = table("LLLL", "BBBB")
    changes = {
        "write": lambda: write(table=new_table, extra_files={"x": b"new"}),
        "add": lambda: add_files(tmp_path / "net", {"x": b"new"}),
    }
    old = content(write().root)
    changes[action]()
    new = content(tmp_path / "net")
    seen = []
    for step in range(1000):
        write()
        died = crash_at(step, changes[action])
        found = content(existing(tmp_path / "net"))
        assert found in (old, new), step
        assert verify_bundle(tmp_path / "net", BOARD) == []
        seen.append((found == new, existing(tmp_path / "net").name))
        if not died:
            break
        for path in tmp_path.glob(".net.*.new"):
            shutil.rmtree(path)
    assert {(False, "net"), (False, ".net.previous"), (True, "net")} <= set(seen)
    write()
    assert [path.name for path in tmp_path.iterdir()] == ["net"], "the next writer tidies up"
