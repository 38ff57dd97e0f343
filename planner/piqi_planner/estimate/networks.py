"""The networks that RK3399Pro's published profile was measured with: shapes only, cut into layers as they were there.

They are those of the Arm Compute Library's example graphs; the weights take no memory and hold no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from piqi_runtime.model import Model, Operator, Tensor


class _Builder:
    """Adds operators to the current layer; `x` is a tensor's name."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._tensors = {"input": Tensor("input", (1, size, size, 3))}
        self._operators: list[Operator] = []
        self.layer = -1

    def shape(self, x: str) -> tuple[int, ...]:
        return self._tensors[x].shape

    def add(
        self, kind: str, inputs: list[str], shape: tuple[int, ...], weights: tuple[int, ...] = (), **more: Any
    ) -> str:
        name = f"{kind}_{len(self._operators)}"
        if weights:
            data = np.broadcast_to(np.float32(0), weights)
            self._tensors[f"{name}/weights"] = Tensor(f"{name}/weights", weights, data=data)
            inputs = [*inputs, f"{name}/weights"]
        self._tensors[name] = Tensor(name, shape)
        self._operators.append(Operator(kind, name, tuple(inputs), (name,), more, max(self.layer, 0)))
        return name

    def conv(self, x: str, filters: int, kernel: int, stride: int = 1, groups: int = 1, valid: bool = False) -> str:
        """Padded to a size of ceil(size / stride) unless `valid`."""
        _, height, width, depth = self.shape(x)
        out = tuple((n - kernel) // stride + 1 if valid else -(-n // stride) for n in (height, width))
        more = {"stride_height": stride, "stride_width": stride, "groups": groups}
        return self.add("conv2d", [x], (1, *out, filters), (filters, kernel, kernel, depth // groups), **more)

    def depthwise(self, x: str, stride: int) -> str:
        _, height, width, depth = self.shape(x)
        out = (1, -(-height // stride), -(-width // stride), depth)
        return self.add("depthwise_conv2d", [x], out, (1, 3, 3, depth), stride_height=stride, stride_width=stride)

    def pool(self, x: str, kernel: int, stride: int) -> str:
        """A maximum over windows, the last of which may reach over the border."""
        _, height, width, depth = self.shape(x)
        out = [-(-(n - (kernel if stride > 1 else 1)) // stride) + 1 for n in (height, width)]
        return self.add("max_pool2d", [x], (1, *out, depth), kernel_height=kernel, kernel_width=kernel)

    def fully_connected(self, x: str, outputs: int) -> str:
        return self.add("fully_connected", [x], (1, outputs), (outputs, int(np.prod(self.shape(x)))))

    def same(self, kind: str, *inputs: str) -> str:
        """An element-wise operator."""
        return self.add(kind, list(inputs), self.shape(inputs[0]))

    def concat(self, *inputs: str) -> str:
        depth = sum(self.shape(x)[-1] for x in inputs)
        return self.add("concat", list(inputs), (*self.shape(inputs[0])[:-1], depth), axis=3)

    def mean(self, x: str) -> str:
        return self.add("mean", [x], (1, 1, 1, self.shape(x)[-1]), axes=(1, 2))

    def model(self, *outputs: str) -> Model:
        return Model(self._name, self._tensors, tuple(self._operators), ("input",), outputs)


def _alexnet() -> Model:
    net = _Builder("Alex", 227)
    x = "input"
    for filters, kernel, stride, groups in (
        (96, 11, 4, 1),
        (256, 5, 1, 2),
        (384, 3, 1, 1),
        (384, 3, 1, 2),
        (256, 3, 1, 2),
    ):
        net.layer += 1
        x = net.conv(x, filters, kernel, stride, groups, valid=stride > 1)
        if kernel > 3:
            x = net.same("local_response_normalization", x)
        if net.layer in (0, 1, 4):
            x = net.pool(x, 3, 2)
    for outputs in (4096, 4096, 1000):
        net.layer += 1
        x = net.fully_connected(x, outputs)
    return net.model(net.same("softmax", x))


def _googlenet() -> Model:
    net = _Builder("Google", 224)
    net.layer = 0
    x = net.same("local_response_normalization", net.pool(net.conv("input", 64, 7, 2), 3, 2))
    net.layer = 1
    x = net.same("local_response_normalization", net.conv(net.conv(x, 64, 1), 192, 3))
    x = net.pool(x, 3, 2)
    modules = (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    )
    for one, reduce3, three, reduce5, five, pooled in modules:
        net.layer += 1
        branches = (
            net.conv(x, one, 1),
            net.conv(net.conv(x, reduce3, 1), three, 3),
            net.conv(net.conv(x, reduce5, 1), five, 5),
            net.conv(net.pool(x, 3, 1), pooled, 1),
        )
        x = net.concat(*branches)
        if net.layer in (3, 8):
            x = net.pool(x, 3, 2)
    return net.model(net.same("softmax", net.fully_connected(net.mean(x), 1000)))


def _resnet50() -> Model:
    """The stride is in the last unit of a stage, as in TensorFlow's slim models."""
    net = _Builder("ResV1_50", 224)
    net.layer = 0
    x = net.pool(net.conv("input", 64, 7, 2), 3, 2)
    for stage, units in enumerate((3, 4, 6, 3)):
        filters = 64 << stage
        for unit in range(units):
            net.layer += 1
            stride = 2 if stage < 3 and unit == units - 1 else 1
            shortcut = x if stride == 1 else net.pool(x, 1, stride)
            if unit == 0:
                shortcut = net.conv(x, 4 * filters, 1)
            x = net.conv(net.conv(net.conv(x, filters, 1), filters, 3, stride), 4 * filters, 1)
            x = net.same("add", x, shortcut)
    net.layer += 1
    return net.model(net.same("softmax", net.conv(net.mean(x), 1000, 1)))


def _squeezenet() -> Model:
    net = _Builder("SqueezeV1", 224)
    net.layer = 0
    x = net.pool(net.conv("input", 96, 7, 2, valid=True), 3, 2)
    for squeeze in (16, 16, 32, 32, 48, 48, 64, 64):
        net.layer += 1
        x = net.conv(x, squeeze, 1)
        x = net.concat(net.conv(x, 4 * squeeze, 1), net.conv(x, 4 * squeeze, 3))
        if net.layer in (3, 7):
            x = net.pool(x, 3, 2)
    net.layer += 1
    return net.model(net.same("softmax", net.mean(net.conv(x, 1000, 1))))


def _mobilenet() -> Model:
    net = _Builder("MobileV1", 224)
    net.layer = 0
    x = net.conv("input", 32, 3, 2)
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for filters, stride in blocks:
        net.layer += 1
        x = net.conv(net.depthwise(x, stride), filters, 1)
    return net.model(net.same("softmax", net.conv(net.mean(x), 1000, 1)))


def _yolo() -> Model:
    net = _Builder("YOLOv3", 608)

    def conv(x: str, filters: int, kernel: int, stride: int = 1) -> str:
        net.layer += 1
        return net.same("leaky_relu", net.conv(x, filters, kernel, stride))

    def head(x: str, filters: int) -> str:
        x = conv(x, filters, 3)
        net.layer += 1
        return net.same("logistic", net.conv(x, 255, 1))

    x = conv("input", 32, 3)
    stages = []
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        filters = 64 << stage
        x = conv(x, filters, 3, 2)
        for _ in range(blocks):
            x = net.same("add", conv(conv(x, filters // 2, 1), filters, 3), x)
        stages.append(x)
    outputs = []
    for filters, other in ((512, ""), (256, stages[3]), (128, stages[2])):
        if other:
            x = conv(x, filters, 1)
            _, height, width, depth = net.shape(x)
            x = net.concat(net.add("resize_nearest", [x], (1, 2 * height, 2 * width, depth)), other)
        for _ in range(2):
            x = conv(conv(x, filters, 1), 2 * filters, 3)
        x = conv(x, filters, 1)
        outputs.append(head(x, 2 * filters))
    return net.model(*outputs)


#: Name in the profile -> builder.
NETWORKS: dict[str, Callable[[], Model]] = {
    "Alex": _alexnet,
    "Google": _googlenet,
    "MobileV1": _mobilenet,
    "ResV1_50": _resnet50,
    "SqueezeV1": _squeezenet,
    "YOLOv3": _yolo,
}
