"""The backends for Rockchip's NPUs, over emulated libraries: real files, real `dlopen`, real calls."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rknn_helpers import LIBRARIES, TARGETS, configure, counters, emulator, write_network

import piqi_native as pn
from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_runtime.model import Model

Arrays = dict[str, np.ndarray]
ORDERS = ["LLNNNLLL", "NNNNNNNN", "LNLNLNLN", "NLLLLLLN", "LLLLLNNN"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No test leaves a fault behind."""
    yield
    for generation in LIBRARIES:
        configure(generation)


@pytest.fixture(scope="module", params=LIBRARIES)
def generation(request: pytest.FixtureRequest) -> int:
    emulator(request.param)
    return int(request.param)


@pytest.fixture(scope="module")
def model(networks: SimpleNamespace) -> Model:
    result: Model = networks.branched()
    return result


@pytest.fixture(scope="module")
def quantised(networks: SimpleNamespace, model: Model) -> dict[int, QuantisedModel]:
    frames = [networks.frame(model, seed) for seed in range(4)]
    calibration = calibrate(model, frames)
    return {
        1: quantise(model, calibration, "per_tensor", equalise=False),
        2: quantise(model, calibration, "per_channel", equalise=False),
    }


def make_board(backend: str) -> pn.Board:
    return pn.Board(
        "test", [pn.Processor("L", "cpu", "xnnpack", [0], 1), pn.Processor("N", "npu", backend, [1], 1, host="L")]
    )


class Subject:
    """A network whose partitions were prepared for an emulated library."""

    def __init__(self, model: Model, quantised: QuantisedModel, generation: int, folder: Path, **options: Any) -> None:
        self.model, self.quantised, self.folder = model, quantised, folder
        self.generation, self.name = generation, f"rknn{generation}"
        make = pn.rknn1_backend if generation == 1 else pn.rknn2_backend
        self.backend = make(str(emulator(generation)), **options)
        self.board = make_board(self.name)
        self.manager = pn.GraphManager(model.to_graph(), self.board, {self.name: self.backend})
        self.emulated = pn.GraphManager(model.to_graph(), make_board("xnnpack"))
        self.partitions: dict[tuple[int, int], pn.Partition] = {}

    def partition(self, first: int, last: int) -> pn.Partition:
        if (first, last) not in self.partitions:
            made = self.quantised.partition(first, last)
            target = TARGETS[self.generation]
            file = write_network(made, self.folder / f"{first}-{last}.rknn", target)
            partition = made.__class__(**{**vars_of(made), "vendor_files": {target: file}})
            self.partitions[first, last] = partition.to_native(target)
        return self.partitions[first, last]

    def executor(self, order: str, manager: pn.GraphManager | None = None, **options: Any) -> pn.GraphExecutor:
        board = self.board if manager is None else make_board("xnnpack")
        plan = pn.Plan(board, self.model.layer_count, order)
        partitions = [self.partition(*layers) for layers in plan.npu_ranges]
        return pn.GraphExecutor(manager or self.manager, plan, partitions, **options)


def vars_of(partition: Any) -> dict[str, Any]:
    names = ("model", "first_layer", "last_layer", "scheme", "source_hash")
    return {name: getattr(partition, name) for name in names}


Make = Callable[..., Subject]


@pytest.fixture
def make(model: Model, quantised: dict[int, QuantisedModel], generation: int, tmp_path: Path) -> Make:
    return lambda **options: Subject(model, quantised[generation], generation, tmp_path, **options)


@pytest.fixture
def make2(model: Model, quantised: dict[int, QuantisedModel], tmp_path: Path) -> Make:
    return lambda **options: Subject(model, quantised[2], 2, tmp_path, **options)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("frames_in_flight", [1, 3])
def test_computes_what_the_emulated_npu_does(
    make: Make, networks: SimpleNamespace, order: str, frames_in_flight: int
) -> None:
    subject = make()
    executor = subject.executor(order, frames_in_flight=frames_in_flight)
    expected = subject.executor(order, subject.emulated)
    frames = [networks.frame(subject.model, seed) for seed in range(frames_in_flight + 3)]
    runs = counters(subject.generation)["runs"]
    for frame in frames[:frames_in_flight]:
        executor.submit(frame)
    for i, frame in enumerate(frames):
        assert networks.same(executor.receive(), expected.run(frame)), f"frame {i}"
        if i + frames_in_flight < len(frames):
            executor.submit(frames[i + frames_in_flight])
    ranges = len(re.findall("N+", order))
    assert counters(subject.generation)["runs"] - runs == ranges * len(frames)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("frames_in_flight", [1, 3])
def test_nothing_is_copied_beyond_the_channels(
    make2: Make, networks: SimpleNamespace, order: str, frames_in_flight: int
) -> None:
    subject = make2()
    executor = subject.executor(order, frames_in_flight=frames_in_flight)
    before = counters(2)
    for seed in range(5):
        executor.run(networks.frame(subject.model, seed))
    after = counters(2)
    assert (subject.backend.copied_bytes, after["copied_bytes"] - before["copied_bytes"]) == (0, 0)
    assert after["io_memories_set"] > before["io_memories_set"] and after["runs"] > before["runs"]


def test_what_is_copied_without_zero_copy(make2: Make, networks: SimpleNamespace) -> None:
    subject = make2(zero_copy=False)
    executor = subject.executor("LLNNNLLL")
    before = counters(2)
    executor.run(networks.frame(subject.model))
    sub_graph = 1
    elements = [size // 4 for _, size in executor.receivers[sub_graph] + executor.senders[sub_graph]]
    assert subject.backend.copied_bytes == sum(elements)  # int8, and all that the partition has
    assert counters(2)["copied_bytes"] - before["copied_bytes"] >= sum(elements)
    assert counters(2)["passed_through"] - before["passed_through"] == len(executor.receivers[sub_graph])


@pytest.mark.parametrize("configuration", ["stride=16", "old=1", "rknn_create_mem=-4"])
def test_where_the_channels_cannot_be_used(make2: Make, networks: SimpleNamespace, configuration: str) -> None:
    """Padded rows, an older library, no more memory for the channels: copied then, and as right."""
    subject = make2()
    configure(2, configuration)
    executor = subject.executor("LLNNNLLL")
    configure(2)
    frame = networks.frame(subject.model)
    assert networks.same(executor.run(frame), subject.executor("LLNNNLLL", subject.emulated).run(frame))
    assert subject.backend.copied_bytes > 0


def test_a_tensor_between_two_partitions_is_shared(make2: Make, networks: SimpleNamespace) -> None:
    """c0 goes from the first layer to the last: memory of one partition, imported into the other by descriptor."""
    subject = make2()
    executor = subject.executor("NLLLLLLN")
    before = counters(2)
    for seed in range(4):
        executor.run(networks.frame(subject.model, seed))
    assert counters(2)["imports"] - before["imports"] == 1
    assert counters(2)["io_memories_set"] - before["io_memories_set"] <= 2 + 4 + 2  # once, not for each frame


def test_a_second_context_shares_the_weights(make2: Make, networks: SimpleNamespace) -> None:
    subject = make2()
    before = counters(2)["twins"]
    executors = [subject.executor("LLNNNLLL") for _ in range(2)]
    assert counters(2)["twins"] == before + 1
    frame = networks.frame(subject.model)
    assert networks.same(*(executor.run(frame) for executor in executors))


def test_all_is_given_back(make: Make, networks: SimpleNamespace) -> None:
    before = counters(make().generation)
    subject = make()
    executor = subject.executor("LNLNLNLN", frames_in_flight=2)
    executor.run(networks.frame(subject.model))
    assert counters(subject.generation)["contexts"] - before["contexts"] == 4
    executor.close()
    subject.manager.trim()
    after = counters(subject.generation)
    assert (after["contexts"], after["memories"]) == (before["contexts"], before["memories"])


def test_time_of_the_npu_alone(make: Make, networks: SimpleNamespace) -> None:
    subject = make()
    configure(subject.generation, "run_us=3000")
    executor = subject.executor("LLNNNLLL", measure_kernels=True)
    executor.run(networks.frame(subject.model))
    (row,) = executor.times()["sub_graphs"][1]
    _, begin, end, kernels = row[-5:-1]
    assert 3_000_000 <= kernels <= end - begin


def test_versions_are_known_once_something_was_loaded(make: Make) -> None:
    subject = make()
    assert subject.backend.library == str(emulator(subject.generation))
    assert subject.backend.version == ""
    subject.executor("NNNNNNNN")
    expected = {1: "API 1.7.5 (emulated), driver 1.7.5", 2: "API 2.3.2 (emulated), driver 0.9.8"}
    assert subject.backend.version == expected[subject.generation]


def test_core_masks(make2: Make, networks: SimpleNamespace) -> None:
    subject = make2(core_mask=3)
    subject.executor("LLNNNLLL").run(networks.frame(subject.model))
    with pytest.raises(pn.BackendError, match=r"rknn_set_core_mask: RKNN_ERR_PARAM_INVALID \(-5\)"):
        make2(core_mask=5).executor("LLNNNLLL")


CODES = {
    -1: ("BackendError", "RKNN_ERR_FAIL", "newer toolkit"),
    -2: ("TimeoutError", "RKNN_ERR_TIMEOUT", "did not finish"),
    -3: ("BackendError", "RKNN_ERR_DEVICE_UNAVAILABLE", "npu_transfer_proxy|rknpu"),
    -4: ("BackendError", "RKNN_ERR_MALLOC_FAIL", "not enough memory"),
    -5: ("BackendError", "RKNN_ERR_PARAM_INVALID", "too old"),
    -6: ("PartitionError", "RKNN_ERR_MODEL_INVALID", "damaged, or of a newer toolkit"),
    -7: ("BackendError", "RKNN_ERR_CTX_INVALID", "restarted"),
    -8: ("BackendError", "RKNN_ERR_INPUT_INVALID", "inputs"),
    -9: ("BackendError", "RKNN_ERR_OUTPUT_INVALID", "outputs"),
    -10: ("BackendError", "RKNN_ERR_DEVICE_UNMATCH", "update both"),
    -11: ("PartitionError", "RKNN_ERR_INCOMPATILE_PRE_COMPILE_MODEL", "another driver"),
    -12: ("PartitionError", "RKNN_ERR_INCOMPATILE_OPTIMIZATION_LEVEL_VERSION", "same version"),
    -13: ("PartitionError", "RKNN_ERR_TARGET_PLATFORM_UNMATCH", "rknn_target"),
    -14: ("PartitionError", "RKNN_ERR_NON_PRE_COMPILED_MODEL_ON_MINI_DRIVER", "pre-compil"),
    -99: ("BackendError", "unknown error -99", "newer than this program"),
}


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_says_its_usual_cause(make: Make, networks: SimpleNamespace, code: int) -> None:
    subject = make()
    kind, name, cause = CODES[code]
    configure(subject.generation, f"rknn_init={code}")
    with pytest.raises(getattr(pn, kind), match=rf"layers 2 to 4 \(.*2-4.rknn\): rknn_init: {name}.*({cause})"):
        subject.executor("LLNNNLLL")
    configure(subject.generation)
    executor = subject.executor("LLNNNLLL")
    configure(subject.generation, f"rknn_run={code}")
    with pytest.raises(getattr(pn, kind), match=rf"layers 2 to 4 \(.*2-4.rknn\): rknn_run: {name}"):
        executor.run(networks.frame(subject.model))
    configure(subject.generation)
    executor.run(networks.frame(subject.model))


@pytest.mark.parametrize("call", ["rknn_inputs_set", "rknn_outputs_get", "rknn_outputs_release"])
def test_an_error_of_any_call_costs_only_its_frame(make: Make, networks: SimpleNamespace, call: str) -> None:
    subject = make(zero_copy=False) if make().generation == 2 else make()
    executor = subject.executor("LLNNNLLL")
    configure(subject.generation, f"{call}=-1")
    with pytest.raises(pn.BackendError, match=f"{call}: RKNN_ERR_FAIL"):
        executor.run(networks.frame(subject.model))
    configure(subject.generation)
    executor.run(networks.frame(subject.model))


@pytest.mark.parametrize("call", ["rknn_query", "rknn_set_io_mem"])
def test_an_error_while_preparing(make2: Make, networks: SimpleNamespace, call: str) -> None:
    subject = make2()
    configure(2, f"{call}=-7")
    with pytest.raises(pn.BackendError, match=f"{call}: RKNN_ERR_CTX_INVALID"):
        subject.executor("LLNNNLLL").run(networks.frame(subject.model))
    configure(2)
    subject.executor("LLNNNLLL").run(networks.frame(subject.model))


def in_time(make: Callable[[], Any]) -> Any:
    """What `make` gives as soon as it is done within its limit, which a busy machine may exceed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(pn.TimeoutError):
            return make()
    return make()


def test_a_run_that_hangs(make: Make, networks: SimpleNamespace) -> None:
    subject = make()
    before = counters(subject.generation)["contexts"]
    executor = subject.executor("LLNNNLLL", timeout_s=1.0)
    frame = networks.frame(subject.model)
    expected = in_time(lambda: executor.run(frame))
    configure(subject.generation, "rknn_run=hang")
    with pytest.raises(pn.TimeoutError, match=r"no result within 1000 ms: layers 2 to 4 on N did not finish"):
        executor.run(frame)
    # A second one meanwhile: prepared anew, not as a twin of the one that hangs.
    twins = counters(subject.generation)["twins"]
    with pytest.raises(pn.TimeoutError):
        executor.run(frame)
    assert counters(subject.generation)["twins"] == twins
    configure(subject.generation)
    assert networks.same(in_time(lambda: executor.run(frame)), expected)
    executor.close()
    deadline = time.monotonic() + 60
    while counters(subject.generation)["contexts"] > before and time.monotonic() < deadline:
        subject.manager.trim()
        time.sleep(0.01)
    assert counters(subject.generation)["contexts"] == before  # what was given up, too, when it came back


@pytest.mark.parametrize("call", ["rknn_init", "rknn_query"])
def test_loading_that_hangs(make: Make, networks: SimpleNamespace, call: str) -> None:
    subject = make(prepare_timeout_s=1.0)
    configure(subject.generation, f"{call}=hang")
    with pytest.raises(pn.TimeoutError, match=r"layers 2 to 4 \(.*\): not loaded within 1000 ms"):
        subject.executor("LLNNNLLL")
    configure(subject.generation)
    in_time(lambda: subject.executor("LLNNNLLL")).run(networks.frame(subject.model))


def test_closing_that_hangs(make: Make, networks: SimpleNamespace) -> None:
    subject = make()
    executor = subject.executor("LLNNNLLL")
    executor.run(networks.frame(subject.model))
    executor.close()
    configure(subject.generation, "rknn_destroy=hang")
    with pytest.raises(pn.TimeoutError, match=r"did not close in 200 ms: layers 2 to 4 on rknn"):
        subject.manager.trim(0.2)
    configure(subject.generation)


class TestFiles:
    """What `vendor_file` may be."""

    def expect(self, subject: Subject, partition: pn.Partition, error: type[Exception], message: str) -> None:
        subject.partitions[2, 4] = partition
        with pytest.raises(error, match=message):
            subject.executor("LLNNNLLL")

    def native(self, subject: Subject, file: str, names: dict[str, str] | None = None) -> pn.Partition:
        graph = subject.quantised.partition(2, 4).model.to_graph()
        return pn.Partition(graph, 2, 4, "checksum", file, names or {})

    def test_none(self, make: Make) -> None:
        subject = make()
        self.expect(
            subject, self.native(subject, ""), pn.PartitionError, "layers 2 to 4: no file was prepared.*planner"
        )

    def test_missing(self, make: Make, tmp_path: Path) -> None:
        subject = make()
        message = r"layers 2 to 4 \(.*none.rknn\): cannot be read"
        self.expect(subject, self.native(subject, str(tmp_path / "none.rknn")), pn.PartitionError, message)

    @pytest.mark.parametrize("content", [b"", b"RKNN", b"\0" * 1000])
    def test_damaged(self, make: Make, tmp_path: Path, content: bytes) -> None:
        subject = make()
        (tmp_path / "bad.rknn").write_bytes(content)
        message = "is empty" if not content else "RKNN_ERR_MODEL_INVALID"
        self.expect(subject, self.native(subject, str(tmp_path / "bad.rknn")), pn.PartitionError, message)

    def test_of_another_chip(self, make: Make, tmp_path: Path) -> None:
        subject = make()
        other = TARGETS[3 - subject.generation]
        file = write_network(subject.quantised.partition(2, 4), tmp_path / "other.rknn", other)
        self.expect(subject, self.native(subject, str(file)), pn.PartitionError, "RKNN_ERR_TARGET_PLATFORM_UNMATCH")

    def test_of_a_newer_toolkit(self, make: Make, tmp_path: Path) -> None:
        subject = make()
        target = TARGETS[subject.generation]
        file = write_network(subject.quantised.partition(2, 4), tmp_path / "new.rknn", target, version=7)
        self.expect(subject, self.native(subject, str(file)), pn.BackendError, "RKNN_ERR_FAIL.*update the library")

    def test_of_other_layers(self, make: Make, tmp_path: Path) -> None:
        subject = make()
        target = TARGETS[subject.generation]
        file = write_network(subject.quantised.partition(1, 1), tmp_path / "one.rknn", target)
        message = r"layers 2 to 4 .*: has (1 inputs, 2 tensors|no input)"
        self.expect(subject, self.native(subject, str(file)), pn.PartitionError, message)

    def test_with_other_names(self, make: Make, tmp_path: Path) -> None:
        subject = make()
        file = write_network(subject.quantised.partition(2, 4), tmp_path / "2-4.rknn", TARGETS[subject.generation])
        partition = self.native(subject, str(file), {"c1": "elsewhere"})
        self.expect(subject, partition, pn.PartitionError, r"has no input 'elsewhere', only .*'c1'")


def test_long_names(networks: SimpleNamespace, generation: int, tmp_path: Path) -> None:
    net = networks.Network()
    x = net.input("x" * 100, 1, 6, 6, 3)
    y = net.conv("block/" + "y" * 100, x, 4, 0)
    model = net.model(net.conv("z" * 70, y, 4, 1))
    frame = networks.frame(model)
    subject = Subject(model, quantise(model, calibrate(model, [frame])), generation, tmp_path)
    assert networks.same(subject.executor("NN").run(frame), subject.executor("NN", subject.emulated).run(frame))
    assert networks.same(subject.executor("LN").run(frame), subject.executor("LN", subject.emulated).run(frame))
