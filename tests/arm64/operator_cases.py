"""Random networks of one operator each, for every operator that the executor knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from piqi_runtime.model import Model, Operator, Tensor

Cases = Callable[[np.random.Generator], "Case"]


class Case:
    """An operator with random constants; `model()` makes the network."""

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        self.kind, self.rng = kind, rng
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[str] = []
        self.attributes: dict[str, object] = {}
        self.outputs: list[str] = []

    def size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def input(self, *shape: int) -> None:
        name = f"x{len(self.inputs)}"
        self.tensors[name] = Tensor(name, shape)
        self.inputs.append(name)

    def constant(self, *shape: int) -> None:
        name = f"c{len(self.inputs)}"
        data = self.rng.uniform(-1, 1, shape).astype(np.float32)
        self.tensors[name] = Tensor(name, shape, data=data)
        self.inputs.append(name)

    def output(self, *shape: int) -> None:
        name = f"y{len(self.outputs)}"
        self.tensors[name] = Tensor(name, shape)
        self.outputs.append(name)

    def clamp(self) -> None:
        bounds = [(), (0.0,), (0.0, 6.0), (-1.0, 1.0), (-0.5, np.inf)][self.size(0, 4)]
        self.attributes |= dict(zip(("clamp_min", "clamp_max"), bounds, strict=False))

    def window(self, height: int, width: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
        """Random padding below the kernel; the output's height and width."""
        span = (kernel - 1) * dilation + 1
        sizes = []
        for extent, before, after in ((height, "pad_top", "pad_bottom"), (width, "pad_left", "pad_right")):
            pads = [self.size(0, kernel - 1) for _ in range(2)]
            pads[1] += max(0, span - extent - sum(pads))
            self.attributes |= {before: pads[0], after: pads[1]}
            sizes.append((extent + sum(pads) - span) // stride + 1)
        self.attributes |= {"stride_height": stride, "stride_width": stride}
        return sizes[0], sizes[1]

    def model(self) -> Model:
        operator = Operator(self.kind, self.kind, tuple(self.inputs), tuple(self.outputs), self.attributes)
        inputs = tuple(name for name in self.inputs if self.tensors[name].data is None)
        return Model(self.kind, self.tensors, (operator,), inputs, tuple(self.outputs))


def conv2d(case: Case) -> None:
    kernel, stride, dilation = case.size(1, 5), case.size(1, 2), case.size(1, 4) // 3 or 1
    height, width, groups = case.size(kernel, 14), case.size(kernel, 14), (1, 1, 1, 2)[case.size(0, 3)]
    channels, filters = groups * case.size(1, 20), groups * case.size(1, 20)
    out = case.window(height, width, kernel, stride, dilation)
    case.attributes |= {"dilation_height": dilation, "dilation_width": dilation, "groups": groups}
    batch = case.size(1, 2)
    case.input(batch, height, width, channels)
    case.constant(filters, kernel, kernel, channels // groups)
    if case.size(0, 3):
        case.constant(filters)
    case.output(batch, *out, filters)
    case.clamp()


def depthwise_conv2d(case: Case) -> None:
    kernel, stride, dilation = (3, 3, 5, 2)[case.size(0, 3)], case.size(1, 2), case.size(1, 4) // 3 or 1
    height, width, channels = case.size(kernel, 14), case.size(kernel, 14), case.size(1, 20)
    multiplier = case.size(1, 4) // 3 or 1
    out = case.window(height, width, kernel, stride, dilation)
    case.attributes |= {"dilation_height": dilation, "dilation_width": dilation}
    case.input(1, height, width, channels)
    case.constant(1, kernel, kernel, channels * multiplier)
    if case.size(0, 3):
        case.constant(channels * multiplier)
    case.output(1, *out, channels * multiplier)
    case.clamp()


def transpose_conv2d(case: Case) -> None:
    kernel, stride = case.size(2, 4), case.size(1, 2)
    height, width, channels, filters = case.size(2, 6), case.size(2, 6), case.size(1, 9), case.size(1, 9)
    pads = [case.size(0, 1) for _ in range(4)]
    case.attributes |= dict(zip(("pad_top", "pad_bottom", "pad_left", "pad_right"), pads, strict=True))
    case.attributes |= {"stride_height": stride, "stride_width": stride}
    case.input(1, height, width, channels)
    case.constant(filters, kernel, kernel, channels)
    case.constant(filters)
    rests = [case.size(0, stride - 1) for _ in range(2)]
    case.output(
        1,
        stride * (height - 1) + kernel - pads[0] - pads[1] + rests[0],
        stride * (width - 1) + kernel - pads[2] - pads[3] + rests[1],
        filters,
    )


def fully_connected(case: Case) -> None:
    batch, inputs, outputs = case.size(1, 3), case.size(1, 40), case.size(1, 30)
    case.input(*((batch, 1, 1, inputs) if case.size(0, 1) else (batch, inputs)))
    case.constant(outputs, inputs)
    if case.size(0, 3):
        case.constant(outputs)
    case.output(batch, outputs)
    case.clamp()


def binary(case: Case) -> None:
    shape = [1, case.size(1, 6), case.size(1, 6), case.size(1, 20)][case.size(0, 3) :]
    other = [size if case.size(0, 3) else 1 for size in shape][case.size(0, len(shape) - 1) :]
    operands = [tuple(shape), tuple(other)]
    if case.size(0, 1):
        operands.reverse()
    case.input(*operands[0])
    (case.input, case.constant)[case.size(0, 1)](*operands[1])
    case.output(*np.broadcast_shapes(*operands))
    case.clamp()


def concat(case: Case) -> None:
    shape = [case.size(1, 2), *(case.size(1, 6) for _ in range(case.size(1, 3)))]
    axis = case.size(0, len(shape) - 1)
    total = 0
    for _ in range(case.size(1, 4)):
        shape[axis] = case.size(1, 9)
        total += shape[axis]
        case.input(*shape)
    shape[axis] = total
    case.output(*shape)
    case.attributes["axis"] = axis


def split(case: Case) -> None:
    shape = [case.size(1, 2), *(case.size(1, 6) for _ in range(case.size(1, 3)))]
    axis = case.size(0, len(shape) - 1)
    parts = [case.size(1, 9) for _ in range(case.size(1, 4))]
    for part in parts:
        shape[axis] = part
        case.output(*shape)
    shape[axis] = sum(parts)
    case.input(*shape)
    case.attributes["axis"] = axis


def pool(case: Case) -> None:
    kernel, stride = case.size(1, 4), case.size(1, 3)
    height, width, channels, batch = case.size(kernel, 14), case.size(kernel, 14), case.size(1, 20), case.size(1, 2)
    out = case.window(height, width, kernel, stride)
    case.attributes |= {"kernel_height": kernel, "kernel_width": kernel}
    case.input(batch, height, width, channels)
    case.output(batch, *out, channels)
    case.clamp()


def mean(case: Case) -> None:
    shape = [1, case.size(1, 8), case.size(1, 8), case.size(1, 20)]
    axes = [(1, 2), (1,), (3,), (2, 3), (1, 2, 3)][case.size(0, 4)]
    case.input(*shape)
    kept = case.size(0, 1)
    case.output(*((1 if i in axes else size) for i, size in enumerate(shape) if kept or i not in axes))
    case.attributes["axes"] = list(axes)


def pad(case: Case) -> None:
    shape = [1, case.size(1, 6), case.size(1, 6), case.size(1, 9)][case.size(0, 2) :]
    before, after = ([case.size(0, 2) for _ in shape] for _ in range(2))
    case.input(*shape)
    case.output(*(sum(sizes) for sizes in zip(before, shape, after, strict=True)))
    case.attributes |= {"pad_before": before, "pad_after": after, "pad_value": float(case.rng.uniform(-1, 1))}


def reshape(case: Case) -> None:
    a, b, c = case.size(1, 6), case.size(1, 6), case.size(1, 20)
    shapes = [(1, a, b, c), (a, b * c), (a * b * c,), (c, 1, b, a), (a * b, c)]
    case.input(*shapes[case.size(0, 4)])
    case.output(*shapes[case.size(0, 4)])


def unary(case: Case) -> None:
    shape = [1, case.size(1, 6), case.size(1, 6), case.size(1, 40)][case.size(0, 3) :]
    case.input(*shape)
    case.output(*shape)
    if case.kind == "clamp":
        case.clamp()
    if case.kind == "leaky_relu":
        case.attributes["alpha"] = float(case.rng.uniform(0, 0.5))
    if case.kind == "softmax":
        case.attributes["beta"] = float(case.rng.uniform(0.5, 2))


def resize(case: Case) -> None:
    channels = case.size(1, 9)
    case.input(1, case.size(2, 7), case.size(2, 7), channels)
    case.output(1, case.size(2, 14), case.size(2, 14), channels)
    mode = ("align_corners", "half_pixel_centers", None)[case.size(0, 2)]
    if mode:
        case.attributes[mode] = True


def strided_slice(case: Case) -> None:
    shape = [1, case.size(2, 8), case.size(2, 8), case.size(1, 20)][case.size(0, 2) :]
    begin, size, strides = [], [], []
    for extent in shape:
        stride = case.size(1, 2) * (1 if case.size(0, 4) else -1)
        first = case.size(0, extent - 1)
        room = (extent - 1 - first if stride > 0 else first) // abs(stride) + 1
        begin.append(first)
        strides.append(stride)
        size.append(case.size(1, room))
    case.input(*shape)
    case.output(*size)
    case.attributes |= {"begin": begin, "size": size, "strides": strides}


def local_response_normalization(case: Case) -> None:
    unary(case)
    values = (case.size(1, 4), *(float(case.rng.uniform(low, high)) for low, high in ((0.5, 2), (0.01, 0.5), (0.4, 1))))
    case.attributes |= dict(zip(("radius", "bias", "alpha", "beta"), values, strict=True))


#: Operator kind -> what fills a case of it. Quantising ones are not float32 alone and are the executor's own.
KINDS: dict[str, Callable[[Case], None]] = {
    "conv2d": conv2d,
    "depthwise_conv2d": depthwise_conv2d,
    "transpose_conv2d": transpose_conv2d,
    "fully_connected": fully_connected,
    "add": binary,
    "subtract": binary,
    "multiply": binary,
    "concat": concat,
    "split": split,
    "max_pool2d": pool,
    "average_pool2d": pool,
    "mean": mean,
    "pad": pad,
    "reshape": reshape,
    "softmax": unary,
    "logistic": unary,
    "tanh": unary,
    "clamp": unary,
    "leaky_relu": unary,
    "hard_swish": unary,
    "resize_nearest": resize,
    "resize_bilinear": resize,
    "strided_slice": strided_slice,
    "local_response_normalization": local_response_normalization,
}


def models(kind: str, count: int) -> Iterator[Model]:
    """`count` random networks of one operator of that kind, always the same ones."""
    for seed in range(count):
        case = Case(kind, np.random.default_rng([seed, *kind.encode()]))
        KINDS[kind](case)
        yield case.model()


def frame(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 inputs in [-2, 2] (LRN: as after a ReLU would do as well)."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-2, 2, model.tensors[name].shape).astype(np.float32) for name in model.inputs}
