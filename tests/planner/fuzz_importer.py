"""Fuzzes the `.tflite` importer: whatever the bytes, a Model or a ModelError, soon and in bounded memory.

python tests/planner/fuzz_importer.py --seconds 60 [--seed N]     mutates the corpus; needs nothing installed
python tests/planner/fuzz_importer.py --atheris -max_total_time=600 [libFuzzer options]     coverage-guided
python tests/planner/fuzz_importer.py --make-corpus     converts the seeds in corpus/ again (tensorflow)

A file that breaks the promise is written to the current folder as crash-<digest>.tflite.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import random
import struct
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

CORPUS = Path(__file__).parent / "corpus"
EXTREMES = (0, 1, 2, 3, 4, 7, 8, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
SECONDS_PER_FILE = 2.0
MEMORY_PER_FILE = 16 * 2**20  # bytes, beside 16 times the file


def load_corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.tflite"))]


def check(data: bytes) -> str:
    """Imports `data` and builds the native graph: "model", "rejected", or "no graph". Anything else raises."""
    import piqi_native
    from piqi_planner.importer import ModelError, import_tflite
    from piqi_planner.layers import assign_layers, describe_layers

    try:
        model = import_tflite(data, "fuzzed")
    except ModelError:
        return "rejected"
    describe_layers(assign_layers(model, "block"))
    try:
        model.to_graph()
    except piqi_native.Error:
        return "no graph"
    return "model"


def check_bounded(data: bytes) -> str:
    """`check`, with time and memory bounded. Raises AssertionError beyond the bounds."""
    tracemalloc.start()
    started = time.process_time()
    try:
        result = check(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    seconds = time.process_time() - started
    assert seconds < SECONDS_PER_FILE, f"{seconds:.1f} s for {len(data)} bytes"
    assert peak < MEMORY_PER_FILE + 16 * len(data), f"{peak} bytes for a file of {len(data)}"
    return result


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A broken relative of `data`: the fields of its tables changed, or its bytes, or both."""
    if rng.random() < 0.5:
        data = _mutate_fields(data, rng)
    mutable = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        rng.choice((_flip, _extreme_word, _extreme_word, _swap_words, _truncate, _copy_chunk))(mutable, rng)
    return bytes(mutable)


def _mutate_fields(data: bytes, rng: random.Random) -> bytes:
    """Sets a few fields of the file's tables to extreme or borrowed values and writes the file anew."""
    import flatbuffers

    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
        objects = list(_tables(model, 0))
        for _ in range(rng.choice((1, 1, 2, 3))):
            _set_field(*rng.choice(objects), rng)
        builder = flatbuffers.Builder(len(data))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
    except Exception:  # the seed was broken already, or the value does not fit its field
        return data


def _tables(table: Any, depth: int) -> Any:
    for name, value in vars(table).items():
        if isinstance(value, (int, float, list)) or hasattr(value, "dtype"):
            yield table, name
        for inner in value if isinstance(value, list) else [value]:
            if hasattr(inner, "Pack") and depth < 5:
                yield from _tables(inner, depth + 1)


def _set_field(table: Any, name: str, rng: random.Random) -> None:
    value = getattr(table, name)
    if isinstance(value, float):
        setattr(table, name, rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf"))))
    elif isinstance(value, int):
        setattr(table, name, rng.choice((value + 1, value - 1, -1, 0, 1, 2, 3, 100, 2**31 - 1, -(2**31))))
    elif len(value) == 0:
        setattr(table, name, [rng.choice((-1, 0, 1, 5)) for _ in range(rng.choice((1, 4, 9)))])
    else:
        items = list(value)
        place = rng.randrange(len(items))
        action = rng.randrange(4)
        if action == 0:
            del items[place]
        elif action == 1:
            items.insert(place, items[rng.randrange(len(items))])
        elif action == 2:
            items[place] = items[rng.randrange(len(items))]
        elif not hasattr(items[place], "Pack"):
            items[place] = rng.choice((-1, 0, 1, 2, 3, 1000, 65536, 2**31 - 1, -(2**31)))
        setattr(table, name, items)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _words(data: bytearray, rng: random.Random, count: int) -> list[int]:
    return [4 * rng.randrange(len(data) // 4) for _ in range(count)] if len(data) >= 4 else []


def _extreme_word(data: bytearray, rng: random.Random) -> None:
    for place in _words(data, rng, 1):
        value = rng.choice((*EXTREMES, len(data), rng.randrange(len(data))))
        struct.pack_into("<I", data, place, value)


def _swap_words(data: bytearray, rng: random.Random) -> None:
    places = _words(data, rng, 2)
    if places:
        a, b = (data[place : place + 4] for place in places)
        data[places[0] : places[0] + 4], data[places[1] : places[1] + 4] = b, a


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _copy_chunk(data: bytearray, rng: random.Random) -> None:
    if data:
        start, size = rng.randrange(len(data)), rng.choice((4, 8, 16, 64))
        target = rng.randrange(len(data))
        data[target : target + size] = data[start : start + size]


def fuzz(seed: int, seconds: float = math.inf, count: float = math.inf) -> Counter[str]:
    """Checks `count` mutations of the corpus, or for `seconds`: how many ended how. Raises what a check raised."""
    rng = random.Random(seed)
    seeds = load_corpus()
    results: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end and results.total() < count:
        data = mutate(rng.choice(seeds), rng)
        try:
            results[check_bounded(data)] += 1
        except BaseException:
            Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}.tflite").write_bytes(data)
            raise
    return results


def fuzz_with_atheris(arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["piqi_planner", "flatbuffers"]):
        import piqi_planner.importer  # noqa: F401

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return (mutate(data, rng) if rng.random() < 0.5 else atheris.Mutate(data, len(data)))[:max_size]

    def one_input(data: bytes) -> None:
        started = time.process_time()
        check(data)
        assert time.process_time() - started < 10 * SECONDS_PER_FILE  # the instrumented code is slow

    found = tempfile.mkdtemp(prefix="fuzz_importer_")  # the first folder is where libFuzzer adds what it finds
    atheris.Setup([sys.argv[0], *arguments, found, str(CORPUS)], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


def make_corpus() -> None:
    """Small networks that have every operator between them."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)

    def constant(*shape: int) -> Any:
        return tf.constant(rng.standard_normal(shape), tf.float32)

    def convolutions(x: Any) -> Any:
        y = tf.nn.relu6(tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), constant(3, 3, 4, 8), 2, "VALID"))
        y = tf.nn.depthwise_conv2d(y, constant(3, 3, 8, 1), [1, 1, 1, 1], "SAME") + constant(8)
        y = tf.tanh(tf.nn.conv2d(y, constant(1, 1, 4, 8), 1, "SAME"))
        y = tf.nn.conv2d_transpose(y, constant(2, 2, 4, 8), (1, 8, 8, 4), 2) + constant(4)
        return tf.nn.softmax(tf.reshape(y, (1, -1)) @ constant(256, 5) + constant(5))

    def pools(x: Any) -> Any:
        a = tf.nn.max_pool2d(x, 3, 2, "SAME") * constant(1, 1, 1, 4)
        b = tf.nn.local_response_normalization(tf.nn.avg_pool2d(x, 2, 2, "VALID"), 2) - a
        y = tf.concat([a, tf.nn.leaky_relu(b, 0.1), x[:, 1::2, ::-2]], -1)
        y, z = tf.split(y, [8, 4], -1)
        y = tf.tile(tf.sigmoid(y), (1, 2, 1, 1))
        return tf.reduce_mean(y, (1, 2)), tf.squeeze(tf.expand_dims(z[0], 2)), x[0, :, 1:3, tf.newaxis]

    def resizes(x: Any) -> Any:
        a = tf.image.resize(x, (5, 5))
        b = tf.image.resize(tf.maximum(x, 0.0), (5, 5), "nearest")
        y = tf.pad(a * tf.nn.relu6(b + 3.0) * (1 / 6), [[0, 0], [0, 1], [2, 0], [1, 1]], constant_values=0.5)
        return tf.reshape(y, (tf.shape(x)[0], -1, 3))

    def write(name: str, function: Any, batch: int | None = 1, quantized: bool = False, half: bool = False) -> None:
        traced = tf.function(function).get_concrete_function(tf.TensorSpec((batch, 8, 8, 4), tf.float32))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        if quantized or half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if half:
            converter.target_spec.supported_types = [tf.float16]
        if quantized:
            converter.representative_dataset = lambda: [[constant(1, 8, 8, 4)]]
        (CORPUS / f"{name}.tflite").write_bytes(converter.convert())

    write("convolutions", convolutions)
    write("pools", pools)
    write("resizes", resizes, batch=None)
    write("half", convolutions, half=True)
    write("quantized", convolutions, quantized=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzzes the .tflite importer.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--make-corpus", action="store_true")
    arguments, rest = parser.parse_known_args()
    if arguments.make_corpus:
        make_corpus()
    elif arguments.atheris:
        fuzz_with_atheris(rest)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            print(dict(fuzz(arguments.seed, arguments.seconds)))


if __name__ == "__main__":
    main()
