"""Every operator on the Arm Compute Library's NEON functions computes what XNNPACK computes. Runs on arm64 only."""

import numpy as np
import operator_cases
import pytest

import piqi_native as pn
from piqi_runtime.model import Model, Operator, Tensor

CASES = 12
TOLERANCE = 1e-5  # of the largest value
#: Kinds of which the library has no function for some parameters; every other runs on it whatever they are.
PARTLY = {"transpose_conv2d": "a rest", "strided_slice": "backwards"}


def board(threads: int = 1) -> pn.Board:
    letters = {"X": "xnnpack", "A": "armcl_neon"}
    return pn.Board("test", [pn.Processor(letter, "cpu", name, [], threads) for letter, name in letters.items()])


def results(model: Model, backend: pn.VendorBackend, threads: int = 1, frames: int = 2) -> list[list[np.ndarray]]:
    """Outputs of XNNPACK and of the backend, frame by frame."""
    processors = board(threads)
    manager = pn.GraphManager(model.to_graph(), processors, {"armcl_neon": backend})
    found = []
    for letter in "XA":
        executor = pn.GraphExecutor(manager, pn.Plan(processors, 1, letter))
        outputs = [executor.run(operator_cases.frame(model, seed)) for seed in range(frames)]
        executor.close()
        found.append([frame[name].copy() for frame in outputs for name in model.outputs])
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", operator_cases.KINDS)
def test_it_computes_what_xnnpack_computes(kind: str, threads: int) -> None:
    elsewhere = 0
    for number, model in enumerate(operator_cases.models(kind, CASES if threads == 1 else 8)):
        backend = pn.armcl_neon_backend(threads)
        expected, got = results(model, backend, threads)
        for a, b in zip(expected, got, strict=True):
            worst = float(np.abs(a - b).max()) / max(1e-6, float(np.abs(a).max()))
            assert worst <= TOLERANCE, f"case {number}, {model.operators[0]}: off by {worst}"
        for line in backend.elsewhere:
            assert kind in PARTLY and PARTLY[kind] in line
            elsewhere += 1
    assert elsewhere < CASES


def large(kind: str) -> Model:
    """Enough work for several threads, with a bias and a clamp: 3x3, 1x1 (GEMM, Winograd) and depthwise."""
    case = operator_cases.Case("depthwise_conv2d" if kind == "depthwise" else "conv2d", np.random.default_rng(1))
    case.input(1, 28, 28, 64)
    size = 1 if kind == "1x1" else 3
    case.constant(*((1, 3, 3, 64) if kind == "depthwise" else (96, size, size, 64)))
    channels = 64 if kind == "depthwise" else 96
    case.constant(channels)
    case.output(1, 28, 28, channels)
    pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), size // 2)
    case.attributes |= pads | {"clamp_min": 0.0, "clamp_max": 6.0}
    return case.model()


@pytest.mark.parametrize("kind", ["3x3", "1x1", "depthwise"])
def test_threads_do_not_change_results(kind: str) -> None:
    model = large(kind)
    one = results(model, pn.armcl_neon_backend(1), 1)
    many = results(model, pn.armcl_neon_backend(4), 4)
    fewer = results(model, pn.armcl_neon_backend(4), 2)  # than it was prepared for
    more = results(model, pn.armcl_neon_backend(1), 3)
    for other in (many, fewer, more):
        for a, b in zip(one[1], other[1], strict=True):
            assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_unpadded_tensors_are_not_copied() -> None:
    backend = pn.armcl_neon_backend()
    results(large("1x1"), backend)
    assert backend.copied_bytes == 0


def test_int8_runs_on_kernels_of_ours() -> None:
    tensors = {
        "x": Tensor("x", (1, 4, 4, 8)),
        "q": Tensor("q", (1, 4, 4, 8), "int8", scales=(0.02,), zero_point=3),
        "y": Tensor("y", (1, 4, 4, 8)),
    }
    operators = (Operator("quantize", "q", ("x",), ("q",)), Operator("dequantize", "y", ("q",), ("y",)))
    backend = pn.armcl_neon_backend()
    expected, got = results(Model("quantised", tensors, operators, ("x",), ("y",)), backend)
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    assert len(backend.elsewhere) == 2


def test_library_is_named() -> None:
    backend = pn.armcl_neon_backend()
    assert "arm_compute" in backend.library
    assert "v20.08" in backend.version
