"""Partitions for a vendor's NPU: what is missing is said, what the toolkit makes is near what we plan on."""

import json
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_planner import cli
from piqi_planner.importer import import_model
from piqi_planner.quantise import QuantisedModel, calibrate, quantise
from piqi_planner.vendor.errors import VendorError
from piqi_planner.vendor.onnx_writer import MAX_NAME, onnx_name, write_onnx
from piqi_planner.vendor.prepare import Agreement, emulate, prepare_partitions, run_frames
from piqi_planner.vendor.rknn_reports import last_complaint, read_cycles, read_errors
from piqi_planner.vendor.toolkit import TOOLKIT_1, TOOLKIT_2, convert, find_python, find_target
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import BundleInput, BundleOutput, load_bundle, verify_bundle, write_bundle
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

FRAMES = 6


@pytest.fixture(scope="module")
def digits(project_root: Path) -> Model:
    return import_model(project_root / "planner/piqi_planner/demo/digits.tflite")


def frames_for(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0, 1, (FRAMES, *model.tensors[name].shape[1:])).astype("f") for name in model.inputs}


def quantised(model: Model, scheme: Any = "per_channel") -> QuantisedModel:
    (frames,) = frames_for(model).values()
    return quantise(model, calibrate(model, [frames]), scheme)


def branching() -> Model:
    """Three layers; the second's output is the third's and, past it, the network's."""
    rng = np.random.default_rng(3)
    tensors = {"image": Tensor("image", (1, 8, 6, 3))}
    operators = []

    def add(kind: str, name: str, inputs: tuple[str, ...], shape: tuple[int, ...], layer: int, **more: Any) -> None:
        tensors[name] = Tensor(name, shape)
        operators.append(Operator(kind, name, inputs, (name,), more, layer))

    def conv(name: str, source: str, inner: int, outer: int, layer: int) -> None:
        weights = rng.normal(0, 0.4, (outer, 1, 1, inner)).astype(np.float32)
        tensors[f"{name}/w"] = Tensor(f"{name}/w", weights.shape, "float32", weights)
        add("conv2d", name, (source, f"{name}/w"), (1, 8, 6, outer), layer)

    conv("stem", "image", 3, 8, 0)
    conv("left", "stem", 8, 8, 1)
    add("add", "sum", ("left", "stem"), (1, 8, 6, 8), 1)
    add("resize_nearest", "large", ("sum",), (1, 16, 12, 8), 1)
    conv("right", "sum", 8, 4, 2)
    add("softmax", "scores", ("right",), (1, 8, 6, 4), 2)
    return Model("branching", tensors, tuple(operators), ("image",), ("large", "scores"))


CYCLES = """\
D RKNN: [20:52:04.457]                   Network Layer Information Table
D RKNN: [20:52:04.457] ---------------------------------------------------
D RKNN: [20:52:04.457] ID   OpType   DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB)   FullName
D RKNN: [20:52:04.457] ---------------------------------------------------
D RKNN: [20:52:04.457] 0    InputOperator  INT8  CPU  \\   (1,3,64,64)   0/0/0     0    InputOperator:a b;c
D RKNN: [20:52:04.457] 1    Conv           INT8  NPU  (1,3,64,64),(3,3,1,1),(3)  (1,3,64,64)  3299/16384/16384  12
D RKNN: [20:52:04.457] ---------------------------------------------------
D RKNN: [20:52:04.457] 2    Conv           INT8  NPU  (1,3,64,64)  (1,3,64,64)   1/1/1             1    another table's
"""
ERRORS = """\
layer_name                          simulator_error
-----------------------------------------------------
[Input] x                           1.00000 | 0.00000   1.00000 | 0.00000
[Conv] conv_1
[Clip] name with blanks;b           0.99998 | 0.87039   \x1b[1;33m0.99829\x1b[0m | 6.00000
[Mul] y                 \x1b[1;33m0.95\x1b[0m | \x1b[1;33m404929.25\x1b[0m0.99987 | \x1b[1;33m21223.19\x1b[0m
"""


class TestReports:
    def test_cycles(self) -> None:
        first, second = read_cycles("before\n" + CYCLES)
        assert (first.operator, first.target, first.name) == ("InputOperator", "CPU", "InputOperator:a b;c")
        assert (second.ddr_cycles, second.npu_cycles, second.total_cycles) == (3299, 16384, 16384)
        assert (second.read_written_kb, second.name, second.data_type) == (12, "", "INT8")
        assert read_cycles("nothing of the kind") == ()

    def test_errors(self) -> None:
        layers = read_errors(ERRORS)
        assert [layer.operator for layer in layers] == ["Input", "Clip", "Mul"]
        assert layers[1].name == "name with blanks;b" and layers[1].single_cosine == 0.99829
        assert layers[2].entire_distance == 404929.25 and layers[2].single_cosine == 0.99987

    def test_complaint(self) -> None:
        log = "I fine\n\x1b[31mE load_onnx: no such file\x1b[0m\nI bye\nW unsure\n"
        assert last_complaint(log) == "E load_onnx: no such file"
        assert last_complaint("Traceback\n  File x\nKeyError: 'a'\n") == "KeyError: 'a'"
        assert (last_complaint("only this"), last_complaint("")) == ("only this", "")

    def test_agreement(self) -> None:
        values = np.array([1.0, -2.0, 3.0])
        assert Agreement.of(values, values) == Agreement(pytest.approx(1.0), 0.0)
        assert Agreement.of(values, -values) == Agreement(pytest.approx(-1.0), 6.0)
        assert Agreement.of(0 * values, 0 * values) == Agreement(1.0, 0.0)
        assert Agreement.of(0 * values, values) == Agreement(0.0, 3.0)


class TestToolkits:
    def test_of_targets_and_boards(self) -> None:
        assert find_target(load_board("rk3588").processor("N").rknn_target or "") is TOOLKIT_2
        assert find_target(load_board("rk3399pro").processor("N").rknn_target or "") is TOOLKIT_1
        with pytest.raises(VendorError, match=r"target: expected one of .*rk3588.*, got 'rk42'"):
            find_target("rk42")

    @pytest.mark.parametrize("kind", [TOOLKIT_1, TOOLKIT_2])
    def test_missing_one_says_what_to_install(self, kind: Any, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv(kind.variable, str(tmp_path / "none"))
        hint = "not on PyPI.*releases" if kind is TOOLKIT_1 else "make rknn-env"
        with pytest.raises(VendorError, match=rf"{kind.name}: no virtual environment in .*none: .*{hint}"):
            find_python(kind)

    def test_folder_before_variable(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv(TOOLKIT_2.variable, "/nowhere")
        python = program(tmp_path / "bin" / "python", "exit 0")
        assert find_python(TOOLKIT_2, tmp_path) == python
        monkeypatch.setenv(TOOLKIT_2.variable, str(tmp_path))
        assert find_python(TOOLKIT_2) == python


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def runs(number: int) -> bool:
    """Whether there is such a process, and not only nobody who has asked how it ended."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes() != b""
    except OSError:
        return False


def run_program(tmp_path: Path, text: str, timeout_s: float = 60.0) -> Any:
    python = program(tmp_path / "python", text)
    frames = [[np.zeros((1, 2), np.float32)]]
    files = [tmp_path / name for name in ("a.onnx", "a.rknn")]
    return convert("rk3588", *files, frames, tmp_path / "log", tmp_path, timeout_s=timeout_s, python=python)


class TestFailures:
    def test_program_that_dies(self, tmp_path: Path) -> None:
        with pytest.raises(VendorError, match=r"RKNN-Toolkit2, a.onnx for rk3588: died with status 3: E boom \(log: "):
            run_program(tmp_path, "echo I fine; echo E boom; exit 3")

    def test_program_that_hangs_is_ended_with_its_children(self, tmp_path: Path) -> None:
        numbers = tmp_path / "numbers"
        for timeout_s in (0.5, 5.0, 60.0):  # a busy machine may not have started it so soon
            with pytest.raises(VendorError, match=rf"a.onnx for rk3588.*did not finish in {timeout_s:g} s"):
                run_program(tmp_path, f"sleep 3600 & echo $$ $! > {numbers}; sleep 3600", timeout_s=timeout_s)
            if numbers.exists() and len(numbers.read_text().split()) == 2:
                break
        program, child = map(int, numbers.read_text().split())
        for _ in range(3000):
            if not runs(program) and not runs(child):
                return
            time.sleep(0.02)
        raise AssertionError("they go on")

    def test_no_program(self, tmp_path: Path) -> None:
        with pytest.raises(VendorError, match=r"nowhere: No such file"):
            convert("rk3588", tmp_path, tmp_path, [], tmp_path / "log", tmp_path, python=Path("/nowhere"))

    def test_partition_of_another_network(self, digits: Model, tmp_path: Path) -> None:
        partition = quantised(branching()).partition(1, 2)
        with pytest.raises(VendorError, match=r"partition 1-2: source_hash: expected \w+ of 'digits', got \w+"):
            next(prepare_partitions(digits, [partition], frames_for(digits), "rk3588", tmp_path))

    def test_frames_that_do_not_fit(self, digits: Model) -> None:
        (name,) = digits.inputs
        with pytest.raises(VendorError, match=rf"expected inputs {name}, got other"):
            run_frames(digits, {"other": np.zeros((1, 96, 96, 1))}, set())
        with pytest.raises(VendorError, match=r"expected \[frames, ...\] of \(1, 96, 96, 1\), got \(2, 96, 96, 3\)"):
            run_frames(digits, {name: np.zeros((2, 96, 96, 3))}, set())
        with pytest.raises(VendorError, match="at least one"):
            run_frames(digits, {name: np.zeros((0, 96, 96, 1))}, set())


def test_emulation_is_near_float(digits: Model) -> None:
    partition = quantised(digits).partition(2, 5)
    wanted = {*partition.model.inputs, *partition.model.outputs}
    values = run_frames(digits, frames_for(digits), wanted)
    assert all(len(arrays) == FRAMES for arrays in values.values())
    outputs = emulate(partition, {name: values[name][1] for name in partition.model.inputs})
    for name, output in outputs.items():
        agreement = Agreement.of(output, values[name][1])
        assert agreement.cosine > 0.999 and 0 < agreement.max_error < 0.05 * np.ptp(values[name][1])


STAND_IN = """\
import json
import numpy as np

class RKNN:
    def __init__(self, verbose): self.calls = []
    def config(self, **options): self.calls.append(["config", options])
    def load_onnx(self, model): self.calls.append(["load_onnx", model]); return 0
    def build(self, do_quantization, dataset): self.calls.append([do_quantization, open(dataset).read()]); return 0
    def export_rknn(self, path): open(path, "w").write("file"); return 0
    def init_runtime(self): return 0
    def inference(self, inputs, data_format): self.calls.append([data_format]); return [2 * inputs[0]]
    def accuracy_analysis(self, inputs, output_dir): self.calls.append([open(inputs).read()]); return 0
    def release(self): print("CALLS " + json.dumps(self.calls))
"""


def test_calls_of_the_old_toolkit(tmp_path: Path) -> None:
    """RKNN-Toolkit 1.7 is not on PyPI: a stand-in with its signatures shows what it would be called with."""
    package = tmp_path / "rknn"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "api.py").write_text(STAND_IN)
    python = program(tmp_path / "python", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    frames = [[np.full((1, 2, 3, 4), i, np.float32)] for i in range(3)]
    log = tmp_path / "log"
    done = convert(
        "rk3399pro", tmp_path / "a.onnx", tmp_path / "a.rknn", frames, log, tmp_path, inspected=2, python=python
    )
    assert [float(output.max()) for (output,) in done.outputs] == [0.0, 2.0]
    assert (tmp_path / "a.rknn").exists() and done.cycles == () and done.layer_errors == ()
    calls = json.loads(log.read_text().split("CALLS ")[1])
    lines = [f"{tmp_path}/frame_{i}_0.npy\n" for i in range(3)]
    assert calls == [
        ["config", {"target_platform": ["rk3399pro"], "quantized_dtype": "asymmetric_quantized-u8"}],
        ["load_onnx", str(tmp_path / "a.onnx")],
        [True, "".join(lines)],
        ["nchw"],
        ["nchw"],
        [lines[0]],
    ]


@pytest.fixture(scope="module")
def toolkit() -> Path:
    """The interpreter of RKNN-Toolkit2's environment."""
    try:
        return find_python(TOOLKIT_2)
    except VendorError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def prepared(toolkit: Path, digits: Model, tmp_path_factory: Any) -> Iterator[Any]:
    whole = quantised(digits)
    folder = tmp_path_factory.mktemp("prepared")
    yield list(prepare_partitions(digits, [whole.partition(2, 5)], frames_for(digits), "rk3588", folder, 2))


class TestWithToolkit:
    def test_partition(self, prepared: Any) -> None:
        (one,) = prepared
        assert one.file.read_bytes()[:4] == b"RKNN" and one.toolkit == "RKNN-Toolkit2 2.5.0"
        assert (one.frames, one.inspected) == (FRAMES, 2)
        (output,) = one.outputs
        assert len(output.name) > MAX_NAME and output.vendor_name == onnx_name(output.name)
        assert output.shape == (1, 12, 12, 64) and output.vendor_shape == (1, 64, 12, 12)
        for agreement in (output.simulator_to_float, output.simulator_to_emulated, output.emulated_to_float):
            assert agreement.cosine > 0.999 and 0 < agreement.max_error < 0.05 * output.span
        assert [layer.operator for layer in one.cycles] == ["InputOperator", *["ConvClip"] * 4, "OutputOperator"]
        assert one.total_cycles == sum(layer.total_cycles for layer in one.cycles) > 0
        assert one.layer_errors[-1].name == output.vendor_name and one.layer_errors[-1].single_cosine > 0.999
        assert "rknn building done" in one.log.read_text()
        assert json.loads(json.dumps(one.to_json()))["file"] == one.file.name

    def test_several_inputs_and_outputs(self, toolkit: Path, tmp_path: Path) -> None:
        model = branching()
        whole = quantised(model, "per_tensor")
        partitions = [whole.partition(1, 1), whole.partition(1, 2)]
        inner, tail = prepare_partitions(
            whole.float_model, partitions, frames_for(model), "rk3566", tmp_path, inspected=2
        )
        assert (list(inner.inputs), [output.name for output in inner.outputs]) == (["stem"], ["sum", "large"])
        assert [output.name for output in tail.outputs] == ["large", "scores"]
        for output in (*inner.outputs, *tail.outputs):
            assert output.simulator_to_float.cosine > 0.995 and output.simulator_to_emulated.cosine > 0.995
            assert output.simulator_to_float.max_error < 0.1 * output.span

    def test_failure_names_step_and_cause(self, toolkit: Path, digits: Model, tmp_path: Path) -> None:
        onnx = tmp_path / "broken.onnx"
        write_onnx(digits, onnx)
        onnx.write_bytes(onnx.read_bytes()[:1000])
        frames = [[np.zeros((1, 1, 96, 96), np.float32)]]
        with pytest.raises(VendorError, match=r"RKNN-Toolkit2, broken.onnx for rk3588: load: .+\(log: ") as caught:
            convert("rk3588", onnx, tmp_path / "a.rknn", frames, tmp_path / "log", tmp_path)
        assert "\n" not in str(caught.value) and not (tmp_path / "a.rknn").exists()


@pytest.fixture
def bundle(digits: Model, tmp_path: Path) -> Path:
    whole = quantised(digits)
    board, order, (name,) = load_board("rk3588"), "GG" + "N" * 4 + "B" * 4, digits.inputs
    point = OperatingPoint(
        order=order,
        freqs=" ".join({"G": "7-7", "N": "7", "B": "7"}[letter] for letter in order),
        latency_ms=1.0,
        power_mw=1000.0,
        energy_mj=1.0,
        accuracy=90.0,
    )
    table = ParetoTable(
        board="rk3588",
        model="digits",
        layers=TableLayers(count=digits.layer_count, letters=board.letters),
        accuracy_metric=AccuracyMetric(name="top-1", float32=91.0, int8=89.0),
        points=(point,),
    )
    folder = tmp_path / "bundle"
    write_bundle(
        folder,
        model=digits,
        table=table,
        partitions=whole.partition,
        input=BundleInput(name=name, shape=(1, 96, 96, 1), preprocessing="unit", fit="exact", colour="grey"),
        outputs=[BundleOutput(name=digits.outputs[0], shape=(1, 10), kind="classes")],
    )
    return folder


class TestCommand:
    def test_bundle_without_frames(self, bundle: Path, capsys: Any) -> None:
        assert cli.main(["prepare", str(bundle), "--npu", "rknn"]) == 1
        assert (
            "frames.npz: No such file or directory: no frames to quantise by; see --frames" in capsys.readouterr().err
        )

    def test_board_without_target(self, bundle: Path, capsys: Any) -> None:
        assert cli.main(["prepare", str(bundle), "--npu", "rknn", "--board", "host"]) == 1
        assert "board host: expected an NPU with rknn_target, got none" in capsys.readouterr().err

    def test_prepares_once(self, toolkit: Path, bundle: Path, digits: Model, tmp_path: Path, capsys: Any) -> None:
        np.savez(tmp_path / "frames.npz", image=frames_for(digits)[digits.inputs[0]])
        command = ["prepare", str(bundle), "--npu", "rknn", "--frames", str(tmp_path / "frames.npz"), "--inspect", "1"]
        assert cli.main(command) == 0
        printed = capsys.readouterr().out
        assert "RKNN-Toolkit2 2.5.0, rk3588; quantised by 6 frames" in printed
        assert "1 partitions prepared, 0 had been" in printed and "2-5" in printed
        assert list(verify_bundle(bundle)) == []
        loaded = load_bundle(bundle)
        file = loaded.vendor_file(2, 5, "rk3588")
        assert file is not None and file.read_bytes()[:4] == b"RKNN"
        report = json.loads((bundle / f"report/vendor/rk3588/{file.stem}.json").read_text())
        assert report["checksum"] == loaded.partition(2, 5).checksum and report["cycles"]
        assert cli.main(command) == 0
        assert "0 partitions prepared, 1 had been" in capsys.readouterr().out
