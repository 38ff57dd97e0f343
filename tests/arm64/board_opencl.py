"""The Arm Compute Library's OpenCL functions, on PoCL behind opencl_device.cpp. Runs on arm64 only.

Compiling a kernel takes about a second under emulation: few kinds are tested unless PIQI_OPENCL is "all".
"""

import os

import numpy as np
import operator_cases
import pytest

import piqi_native as pn
from piqi_runtime.model import Model, Operator, Tensor

TOLERANCE = 1e-5  # of the largest value
TOLERANCE_FLOAT16 = 1e-2  # sums of hundreds of products, each rounded to 11 bits
ALL = os.environ.get("PIQI_OPENCL") == "all"
#: (kind, float16) of the cases.
KINDS = [(kind, half) for half in (False, True) for kind in operator_cases.KINDS]
QUICK = [("add", False), ("concat", False), ("clamp", False), ("resize_nearest", False), ("add", True), ("pad", True)]
#: Why the library refuses some parameters of these.
REFUSED = {"transpose_conv2d": ("a rest", "Deconvolution"), "strided_slice": ("backwards",), "pad": ("CLPadLayer",)}

with_opencl = pytest.mark.skipif("PIQI_OPENCL" not in os.environ, reason="libOpenCL.so is not in the library path")


def board() -> pn.Board:
    cpu = [pn.Processor("L", "cpu", "xnnpack", [], 1), pn.Processor("A", "cpu", "armcl_neon", [], 1)]
    return pn.Board("test", [*cpu, pn.Processor("G", "gpu", "armcl_cl", [], 1, "L")])


@pytest.mark.skipif("PIQI_OPENCL" in os.environ, reason="libOpenCL.so is in the library path")
def test_no_opencl_library() -> None:
    with pytest.raises(pn.BackendError, match=r"armcl_cl: no OpenCL library \(libOpenCL.so\)"):
        pn.armcl_cl_backend()


@with_opencl
@pytest.mark.parametrize(
    ("variable", "message"),
    [("PIQI_NO_PLATFORM", "-1001 .no driver is installed"), ("PIQI_PLAIN_DEVICE", "needs OpenCL 2.0 or work groups")],
)
def test_no_device_that_will_do(monkeypatch: pytest.MonkeyPatch, variable: str, message: str) -> None:
    """Before the tests that find one: the library looks for it once."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pn.BackendError, match=message):
        pn.armcl_cl_backend()


@with_opencl
def test_no_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    pn.armcl_cl_backend(half=True)  # the library asks the device once
    monkeypatch.setenv("PIQI_NO_FLOAT16", "1")
    with pytest.raises(pn.BackendError, match=r"has no float16 \(cl_khr_fp16\)"):
        pn.armcl_cl_backend(half=True)


@with_opencl
@pytest.mark.parametrize(("kind", "half"), KINDS if ALL else QUICK)
def test_it_computes_what_xnnpack_computes(kind: str, half: bool) -> None:
    off: list[float] = []
    count = 4 if ALL or kind == "pad" else 2  # of the pads it refuses the others
    for number, model in enumerate(operator_cases.models(kind, count)):
        processors, backend = board(), pn.armcl_cl_backend(half=half)
        backends = {"armcl_cl": backend, "armcl_neon": pn.armcl_neon_backend()}
        manager = pn.GraphManager(model.to_graph(), processors, backends)
        outputs = []
        for letter in "LG":
            try:
                executor = pn.GraphExecutor(manager, pn.Plan(processors, 1, letter))
            except pn.UnsupportedError as error:
                assert letter == "G" and any(why in str(error) for why in REFUSED.get(kind, ())), error
                break
            outputs.append(executor.run(operator_cases.frame(model)))
            executor.close()
        else:
            for name, a in outputs[0].items():
                off.append(float(np.abs(a - outputs[1][name]).max()) / max(1e-6, float(np.abs(a).max())))
                tolerance = TOLERANCE_FLOAT16 if half else TOLERANCE
                assert off[-1] <= tolerance, f"case {number}, {model.operators[0]}: off by {off[-1]}"
    assert off
    if half:
        assert max(off) > TOLERANCE, "that was float32"
    print(f"{kind}, {'float16' if half else 'float32'}: off by {max(off):.1e}")


def small_network() -> Model:
    """Six layers as MobileNet's: convolutions 3x3 and 1x1, depthwise, a skip, pool, fully connected, softmax."""
    rng = np.random.default_rng(0)
    shapes = {"x": (1, 16, 16, 3), "a": (1, 8, 8, 8), "b": (1, 8, 8, 8), "c": (1, 8, 8, 8), "sum": (1, 8, 8, 8)}
    shapes |= {"d": (1, 8, 8, 16), "mean": (1, 1, 1, 16), "flat": (1, 16), "e": (1, 10), "y": (1, 10)}
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    operators: list[Operator] = []

    def add(
        kind: str, name: str, inputs: tuple[str, ...], layer: int, weights: tuple[int, ...] = (), **attributes: object
    ) -> None:
        if weights:
            channels = weights[3] if kind == "depthwise_conv2d" else weights[0]
            for suffix, shape in (("w", weights), ("b", (channels,))):
                data = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
                tensors[f"{name}/{suffix}"] = Tensor(f"{name}/{suffix}", shape, data=data)
                inputs = (*inputs, f"{name}/{suffix}")
        operators.append(Operator(kind, name, inputs, (name,), attributes, layer))

    relu6 = {"clamp_min": 0.0, "clamp_max": 6.0}
    same = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    halved = {"stride_height": 2, "stride_width": 2, "pad_bottom": 1, "pad_right": 1}
    add("conv2d", "a", ("x",), 0, (8, 3, 3, 3), **relu6, **halved)
    add("depthwise_conv2d", "b", ("a",), 1, (1, 3, 3, 8), **relu6, **same)
    add("conv2d", "c", ("b",), 2, (8, 1, 1, 8))
    add("add", "sum", ("c", "a"), 2)
    add("conv2d", "d", ("sum",), 3, (16, 1, 1, 8), **relu6)
    add("average_pool2d", "mean", ("d",), 3, kernel_height=8, kernel_width=8)
    add("reshape", "flat", ("mean",), 3)
    add("fully_connected", "e", ("flat",), 4, (10, 16))
    add("softmax", "y", ("e",), 4, beta=1.0)
    return Model("small", tensors, tuple(operators), ("x",), ("y",))


@with_opencl
@pytest.mark.parametrize("half", [False, True] if ALL else [False])
def test_a_network_beside_other_processors(half: bool) -> None:
    model, processors, backend = small_network(), board(), pn.armcl_cl_backend(half=half)
    backends = {"armcl_cl": backend, "armcl_neon": pn.armcl_neon_backend()}
    manager = pn.GraphManager(model.to_graph(), processors, backends)
    frames = [operator_cases.frame(model, seed) for seed in range(4)]
    expected: list[np.ndarray] = []
    for order in ("LLLLL", "GGGGG", "LGGAA", "AAGGL"):
        executor = pn.GraphExecutor(manager, pn.Plan(processors, 5, order), frames_in_flight=2)
        copied = backend.copied_bytes
        executor.submit(frames[0])
        outputs = []
        for number in range(len(frames)):
            if number + 1 < len(frames):
                executor.submit(frames[number + 1])
            outputs.append(executor.receive()["y"].copy())
        expected = expected or outputs
        for a, b in zip(expected, outputs, strict=True):
            assert np.abs(a - b).max() <= (1e-2 if half else 1e-5)
        if order == "GGGGG":  # nothing but the frame and its result leaves the GPU
            assert backend.copied_bytes - copied == len(frames) * 4 * (16 * 16 * 3 + 10)
        for row in executor.times()["sub_graphs"][order[:2] == "LG"][-1:]:
            assert (np.diff(row) != 0).any()
        executor.close()
    assert "OpenCL 1.2" in backend.version
    assert manager.memory_bytes > 0
