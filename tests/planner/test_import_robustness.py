"""Broken and hostile model files: always a ModelError, soon, and in bounded memory."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from piqi_planner.importer import ModelError, flatfile, import_model, import_tflite
from piqi_runtime.errors import PiqiError

HERE = Path(__file__).parent
MUTATIONS = 800


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_importer", HERE / "fuzz_importer.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(fuzzer: ModuleType) -> list[bytes]:
    seeds: list[bytes] = fuzzer.load_corpus()
    assert len(seeds) >= 5
    return seeds


def test_corpus_is_sound(fuzzer: ModuleType, corpus: list[bytes]) -> None:
    assert [fuzzer.check_bounded(seed) for seed in corpus] == ["model"] * len(corpus)


def test_fuzzed(fuzzer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a file that breaks the promise is written to the current folder
    results: Counter[str] = fuzzer.fuzz(20240805, count=MUTATIONS)
    assert results["rejected"] > results.total() / 10 and results["model"] > results.total() / 10


def test_every_truncation_is_rejected(corpus: list[bytes]) -> None:
    seed = min(corpus, key=len)
    for size in range(0, len(seed) - 64, 7):
        with pytest.raises(ModelError):
            import_tflite(seed[:size], "truncated")


def overlapping_file(operators: int, inputs: int) -> bytes:
    """A file with `operators` operators that all are the same table, with a list of `inputs` inputs."""
    builder = flatbuffers.Builder(0)
    builder.StartVector(4, inputs, 4)
    for _ in range(inputs):
        builder.PrependInt32(0)
    input_list = builder.EndVector()
    schema.OperatorStart(builder)
    schema.OperatorAddInputs(builder, input_list)
    operator = schema.OperatorEnd(builder)
    tensor = schema.TensorT().Pack(builder)

    def vector(table: int, count: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(table)
        return int(builder.EndVector())

    buffers = vector(schema.BufferT().Pack(builder), 1)
    codes = vector(schema.OperatorCodeT().Pack(builder), 1)
    operator_list, tensor_list = vector(operator, operators), vector(tensor, 1)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensor_list)
    schema.SubGraphAddOperators(builder, operator_list)
    subgraphs = vector(schema.SubGraphEnd(builder), 1)
    schema.ModelStart(builder)
    schema.ModelAddOperatorCodes(builder, codes)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_overlapping_tables(fuzzer: ModuleType) -> None:
    """100 KB that would otherwise become 100 million list entries."""
    data = overlapping_file(operators=5000, inputs=20000)
    with pytest.raises(ModelError, match="overlap"):
        import_tflite(data, "overlapping")
    assert fuzzer.check_bounded(data) == "rejected"


def test_too_many_operators() -> None:
    with pytest.raises(ModelError, match="60000 operators; at most"):
        import_tflite(overlapping_file(operators=60000, inputs=1), "long")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tflite", None, "is not a file"),
        ("empty.tflite", b"", "is empty"),
        ("model.onnx", b"x", "neither .tflite nor"),
        ("text.tflite", b"this is not a model", "no TFL3 mark"),
        ("head.tflite", b"\x1c\x00\x00\x00TFL3", "corrupt"),
        ("text.h5", b"this is not a model", "Keras cannot load it"),
        ("text.keras", b"this is not a model", "Keras cannot load it"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        import_model(path)
    assert str(error.value).startswith(str(path))
    assert isinstance(error.value, PiqiError) and error.value.exit_code == 3


@pytest.mark.parametrize("module", flatfile.SCHEMA_MODULES)
def test_every_schema_package_serves(corpus: list[bytes], module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [import_tflite(seed, "seed").operators for seed in corpus]
    monkeypatch.setattr(flatfile, "SCHEMA_MODULES", (module,))
    flatfile.schema.cache_clear()
    try:
        assert [import_tflite(seed, "seed").operators for seed in corpus] == expected
        assert module in str(flatfile.schema())
    finally:
        flatfile.schema.cache_clear()


def test_no_schema_package(corpus: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatfile, "SCHEMA_MODULES", ("no_such_package",))
    flatfile.schema.cache_clear()
    try:
        with pytest.raises(ModelError, match="pip install ai-edge-litert"):
            import_tflite(corpus[0], "seed")
    finally:
        flatfile.schema.cache_clear()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_keras_file_is_not_run(tmp_path: Path, suffix: str) -> None:
    keras = pytest.importorskip("tensorflow").keras
    inputs = keras.Input((4, 4, 3))
    path = tmp_path / f"model{suffix}"
    keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs)).save(path)
    with pytest.raises(ModelError, match=r"(?s)Keras cannot load it: .*Lambda"):
        import_model(path)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a file"):
        import_model(tmp_path)
