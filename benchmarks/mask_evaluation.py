"""Cost of one more accuracy sample: masks evaluated together beside the executor, one by one, and LiteRT.

python benchmarks/mask_evaluation.py [--images N] [--masks N] [--rounds N] [--yolo]

MobileNetV1-0.75 of the reference data, 14 layers, on all CPUs. The evaluator runs through its store and its worker
processes, as `planner build` does. Its peers are charged for running frames alone: neither for making ready a
configuration (for LiteRT: converting it) nor for reading images. Wanted: 500 random masks (Monte Carlo) at least 4
times as cheap as the executor and 8 times as cheap as LiteRT's interpreter on partially quantised files; all masks of
at most two layers at least 5 times as cheap as the executor. ``--yolo``: besides, a frame of YOLOv3-608 on one CPU.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _executor import DATA, Array, load, machine, parser, table

import piqi_native
from piqi_planner.evaluation.batch import with_batch
from piqi_planner.evaluation.dataset import EvaluationSet, open_evaluation_set
from piqi_planner.evaluation.evaluator import Evaluator
from piqi_planner.evaluation.metrics import make_metric
from piqi_planner.evaluation.store import EvaluationStore
from piqi_planner.evaluation.tasks import BATCH, EvaluationContext, block_frames
from piqi_planner.evaluation.workers import LocalWorkers
from piqi_planner.importer import import_tflite
from piqi_planner.importer.keras import tensorflow
from piqi_planner.layers import assign_layers
from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_planner.zoo import build_tflite
from piqi_runtime.boards import Board, load_board
from piqi_runtime.engine import Engine

Masks = npt.NDArray[np.bool_]
MODEL = "mobilenet_v1_0.75_224"
CALIBRATION = 50
RANDOM_AIM, LITERT_AIM, PAIRS_AIM = 4.0, 8.0, 5.0
PEER_MASKS, PEER_FRAMES = 4, 16  # of the executor, each round; LiteRT has as many masks in all
YOLO_MASKS = 16


class Clock:
    """Seconds a mask and image of each contender: as they were, and as they would be with the CPUs to itself.

    The second is, for peers, the 10th percentile of each configuration's frames; for the evaluator, whose pieces are
    too long for that, CPU time shared out between the CPUs.
    """

    def __init__(self) -> None:
        self._measured: dict[str, list[float]] = defaultdict(list)
        self._alone: dict[str, list[float]] = defaultdict(list)

    @property
    def names(self) -> list[str]:
        return list(self._measured)

    def time_frames(self, name: str, run: Callable[[Array], object], frames: Array) -> None:
        """`run`: one frame through one configuration."""
        seconds = []
        for i in range(len(frames)):
            started = time.perf_counter()
            run(frames[i : i + 1])
            seconds.append(time.perf_counter() - started)
        self._measured[name].append(float(np.median(seconds)))
        self._alone[name].append(float(np.percentile(seconds, 10)))

    def time_all(self, name: str, count: int, cpus: int, run: Callable[[], object]) -> None:
        """`count`: masks times images of the call, which uses `cpus`."""
        started, cpu_started = time.perf_counter(), cpu_seconds()
        run()
        self._measured[name].append((time.perf_counter() - started) / count)
        self._alone[name].append((cpu_seconds() - cpu_started) / count / cpus)

    def measured(self, name: str) -> float:
        return float(np.mean(self._measured[name]))

    def alone(self, name: str) -> float:
        return float(np.mean(self._alone[name]))

    def best(self, prefix: str) -> str:
        return min((name for name in self.names if name.startswith(prefix)), key=self.alone)


def cpu_seconds() -> float:
    """CPU time of this process and its children."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def boards() -> dict[str, tuple[Board, str]]:
    """The host's board in several ways, and the letter that runs what is not quantised."""
    host = load_board("host")
    everything = tuple(sorted(os.sched_getaffinity(0)))

    def changed(**update: Any) -> Board:
        return host.model_copy(update={"processors": tuple(p.model_copy(update=update) for p in host.processors)})

    return {
        "one thread each": (changed(threads=1), "B"),
        "as the file says, B": (host, "B"),
        "as the file says, G": (host, "G"),
        "all threads each": (changed(cpus=everything, threads=len(everything)), "B"),
    }


@contextmanager
def executor(engine: Engine, letter: str, both: QuantisedModel, mask: Array) -> Iterator[Callable[[Array], Array]]:
    """What gives the output of a frame, the masked layers on the NPU; warmed up."""
    order = "".join("N" if bit else letter for bit in mask)
    (name,), (output,) = both.model.inputs, both.model.outputs
    with engine.executor(order, partitions=both.partition) as ready:

        def run(frame: Array) -> Array:
            return np.asarray(ready.run({name: frame})[output])

        run(np.zeros(both.model.tensors[name].shape, np.float32))
        yield run
    engine.trim()


def check_bits(both: QuantisedModel, engines: Mapping[str, tuple[Engine, str]], masks: Masks, frames: Array) -> None:
    """Evaluator and executors must give the same bits."""
    batch = [with_batch(model, len(frames)) for model in (both.float_model, both.model)]
    assert batch[0] is not None and batch[1] is not None
    found: dict[int, Array] = {}
    (name,), (output,) = both.model.inputs, both.model.outputs
    evaluator = piqi_native.MaskEvaluator(batch[0].to_graph(), batch[1].to_graph())
    evaluator.evaluate({name: frames}, masks, lambda mask, outputs: found.update({mask: outputs[output]}))
    for title, (engine, letter) in engines.items():
        for number, mask in enumerate(masks):
            with executor(engine, letter, both, mask) as run:
                outputs = np.concatenate([run(frames[i : i + 1]).copy() for i in range(len(frames))])
            if outputs.tobytes() != found[number].tobytes():
                raise SystemExit(f"{title}: mask {number}: not the evaluator's bits")
    print(f"the same bits from evaluator and executors: {len(masks)} masks, {len(frames)} images")


class PartialLiteRT:
    """LiteRT files of the Keras model in which only the layers of a mask are quantised."""

    def __init__(self, file: Path, frames: Array) -> None:
        tf = tensorflow()
        keras = tf.keras.models.load_model(file, compile=False)
        call = tf.function(lambda x: keras(x, training=False))
        function = call.get_concrete_function(tf.TensorSpec((1, *frames.shape[1:]), tf.float32))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

        def representative() -> Iterator[list[Array]]:
            for i in range(len(frames)):
                yield [frames[i : i + 1]]

        converter.representative_dataset = representative
        self._options = tf.lite.experimental.QuantizationDebugOptions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._debugger = tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=representative, debug_options=self._options()
            )
        self._nodes = self._outputs(self._debugger.calibrated_model)

    def convert(self, mask: Array) -> bytes:
        """The file of `mask`; checks that exactly its layers compute in int8."""
        kept = [name for name in self._nodes if not mask[layer_of(name)]]
        self._debugger.options = self._options(denylisted_nodes=kept)
        data = bytes(self._debugger.get_nondebug_quantized_model())
        found = self._outputs(data)
        for name, dtype in found.items():
            if "conv" in name and (dtype == np.int8) != mask[layer_of(name)]:
                raise SystemExit(f"LiteRT: {name} is {dtype}, in layer {layer_of(name)} of mask {mask.astype(int)}")
        return data

    @staticmethod
    def _outputs(data: bytes) -> dict[str, Any]:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(
            model_content=data, experimental_op_resolver_type=_resolver(), experimental_preserve_all_tensors=True
        )
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        operators = interpreter._get_ops_details()
        outputs = [details[op["outputs"][0]] for op in operators if op["op_name"] not in ("QUANTIZE", "DEQUANTIZE")]
        return {detail["name"]: detail["dtype"] for detail in outputs}


def _resolver() -> Any:
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def layer_of(name: str) -> int:
    """The layer of a node of the Keras model: the first convolution, 13 blocks, the head in the last."""
    match = re.search(r"conv_(?:dw|pw)_(\d+)", name)
    return int(match[1]) if match else 0 if "conv1" in name else 13


def litert_run(data: bytes, threads: int) -> Callable[[Array], Array]:
    """What gives the output of a frame by LiteRT's interpreter (XNNPACK delegate); warmed up."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(frame: Array) -> Array:
        interpreter.set_tensor(source["index"], frame)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target["index"]))

    run(np.zeros(source["shape"], np.float32))
    return run


def up_to_two_layers(layers: int) -> Masks:
    """The mask without layers, those of one and those of two."""
    chosen = [c for size in range(3) for c in itertools.combinations(range(layers), size)]
    return np.array([[layer in c for layer in range(layers)] for c in chosen])


def mobilenet(images: int, mask_count: int, rounds: int) -> bool:
    """Prints the table; True if all aims are met."""
    model = load(DATA / "models" / f"{MODEL}.tflite")
    layers, cpus = model.layer_count, len(os.sched_getaffinity(0))
    shape = model.tensors[model.inputs[0]].shape
    rng = np.random.default_rng(0)
    sets = {"random": rng.random((mask_count, layers)) < 0.5, "pairs": up_to_two_layers(layers)}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        opened: Callable[[int], EvaluationSet] = lambda count: open_evaluation_set(  # noqa: E731
            DATA / "images" / "imagenet1000", shape, folder, limit=count
        )
        data, calibration = opened(images), opened(CALIBRATION)
        frames = calibration.frames(0, CALIBRATION)
        both = quantise(model, calibrate(model, [frames], threads=cpus))
        metric = make_metric("top1", data, both.float_model)
        context = EvaluationContext(both.float_model, both.model, metric, data, data.content_hash)
        engines = {title: (Engine(both.float_model, on), letter) for title, (on, letter) in boards().items()}
        check_bits(both, engines, sets["random"][:3], frames[:BATCH])
        converter = PartialLiteRT(DATA / "models" / f"{MODEL}.h5", frames[:8])
        started = time.perf_counter()
        files = [converter.convert(mask) for mask in sets["random"][:PEER_MASKS]]
        converting = (time.perf_counter() - started) / len(files)
        litert = {t: [litert_run(data, t) for data in files] for t in (1, cpus)}
        with LocalWorkers(context) as workers:
            for turn in range(-1, rounds):
                for title, masks in sets.items():
                    with EvaluationStore(Path(folder) / f"{title}{turn}.sqlite", context.key) as store:
                        evaluator = Evaluator(context, store, workers)
                        if turn < 0:  # processes start and prepare the networks
                            evaluator.evaluate(masks[:2])
                            continue
                        evaluate = partial(evaluator.evaluate, masks)
                        clock.time_all(f"{title}: evaluator", len(masks) * images, cpus, evaluate)
                    some = np.random.default_rng(turn).choice(len(masks), PEER_MASKS, replace=False)
                    for mask, (way, (engine, letter)) in itertools.product(masks[some], engines.items()):
                        with executor(engine, letter, both, mask) as run:
                            clock.time_frames(f"{title}: executor, {way}", run, frames[:PEER_FRAMES])
                if turn >= 0:
                    for threads, runs in litert.items():
                        for run in runs:
                            clock.time_frames(f"random: LiteRT, {threads} threads", run, frames[:PEER_FRAMES])
        for engine, _ in engines.values():
            engine.close()
    print(f"\n{MODEL}, {layers} layers, {images} images, {rounds} rounds, {machine()}")
    print(f"LiteRT took {converting:.1f} s to convert a configuration, which is not counted\n")
    rows: list[list[object]] = []
    met = True
    for title, aims in (("random", {"executor": RANDOM_AIM, "LiteRT": LITERT_AIM}), ("pairs", {"executor": PAIRS_AIM})):
        own = f"{title}: evaluator"
        best = {clock.best(f"{title}: {peer}"): aim for peer, aim in aims.items()}
        for name in (name for name in clock.names if name.startswith(title)):
            measured, alone = clock.measured(name), clock.alone(name)
            ratio, aim = alone / clock.alone(own), best.get(name)
            count = f"{len(sets[title])} masks of " if name == own else ""
            measured_ratio = measured / clock.measured(own)
            wanted = "" if aim is None else f">= {aim:g}"
            rows.append([count + name, 1e3 * measured, measured_ratio, 1e3 * alone, ratio, wanted])
            met = met and (aim is None or ratio >= aim)
    table(["", "ms a mask and image", "ratio", "alone", "ratio", "wanted"], rows)
    print("\nalone: without what else the machine does, see Clock; wanted: of the fastest way of each peer")
    block = min(block_frames(model), images)
    task_s = clock.alone("random: evaluator") * block * min(mask_count, 512) * cpus
    print(f"a task ({min(mask_count, 512)} random masks, {block} images) takes one CPU {task_s:.1f} s")
    return met


def yolo() -> None:
    """A frame of YOLOv3-608 on one CPU, and what follows for a cluster."""
    model = assign_layers(import_tflite(build_tflite("yolo_v3", 608), "yolo_v3"))
    (name,) = model.inputs
    frame = np.random.default_rng(0).uniform(-1, 1, model.tensors[name].shape).astype(np.float32)
    both = quantise(model, calibrate(model, [frame], threads=len(os.sched_getaffinity(0))))
    evaluator = piqi_native.MaskEvaluator(both.float_model.to_graph(), both.model.to_graph())
    layers = model.layer_count
    random = np.random.default_rng(1).random((YOLO_MASKS, layers)) < 0.5
    sets = {"float32": np.zeros((1, layers), bool), "quantised": np.ones((1, layers), bool), "random masks": random}
    print(f"\nYOLOv3-608, {layers} layers, one frame on one CPU, {evaluator.memory_bytes >> 20} MiB, {machine()}")
    clock = Clock()
    evaluator.evaluate({name: frame}, sets["quantised"], lambda mask, outputs: None)
    for title, masks in sets.items():
        run = partial(evaluator.evaluate, {name: frame}, masks, lambda mask, outputs: None)
        clock.time_all(title, len(masks), 1, run)
    table(["", "masks", "CPU s a mask"], [[title, len(masks), clock.alone(title)] for title, masks in sets.items()])
    hours = clock.alone("random masks") * 500 * 5000 / 1000 / 3600
    print(f"500 random masks on 5,000 images by 1,000 such CPUs, from that alone: {hours:.1f} hours")


def main() -> None:
    """Prints the tables; fails if a figure is missed."""
    options = parser(__doc__, 3)
    options.add_argument("--images", type=int, default=64, help="images that are evaluated (%(default)s)")
    options.add_argument("--masks", type=int, default=500, help="random masks (%(default)s)")
    options.add_argument("--yolo", action="store_true", help="also a frame of YOLOv3-608 (needs 4 GiB)")
    arguments = options.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no reference data in {DATA}")
        return
    met = mobilenet(arguments.images, arguments.masks, arguments.rounds)
    if arguments.yolo:
        yolo()
    if not met:
        raise SystemExit("a figure is missed")


if __name__ == "__main__":
    main()
