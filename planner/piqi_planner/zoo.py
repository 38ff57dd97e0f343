"""The networks that PiQi is proved on, built with Keras: real structures, random weights, any size and width.

The weights are drawn from a seed and scaled so that activations neither vanish nor explode: He
initialisation, and batch normalisation with the statistics that a batch of noise really has at that place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from piqi_planner.importer.keras import tensorflow, to_tflite

Builder = Callable[[int, float], Any]

CALIBRATION_BATCH = 8


def build_tflite(name: str, size: int | None = None, width: float = 1.0, seed: int = 0) -> bytes:
    """The `.tflite` form of network `name`; see `build` for the arguments. Raises ModelError."""
    return to_tflite(build(name, size, width, seed))


def build(name: str, size: int | None = None, width: float = 1.0, seed: int = 0) -> Any:
    """The Keras model of network `name` (one of `NETWORKS`) with seeded weights.

    `size`: height and width of the input, by default the original's; `width`: factor of all channels but
    those of the heads. Raises KeyError for an unknown name.
    """
    builder, default_size = NETWORKS[name]
    tf = tensorflow()
    tf.keras.backend.clear_session()
    model = builder(size or default_size, width)
    _set_weights(model, np.random.default_rng(seed))
    return model


def _set_weights(model: Any, rng: np.random.Generator) -> None:
    for layer in _all_layers(model):
        normalizes = type(layer).__name__ == "BatchNormalization"
        if normalizes:
            layer.momentum = 0.0  # so that one pass in training mode sets the statistics to that batch's
        for weight in layer.weights:
            shape = tuple(weight.shape)
            role = weight.path.rsplit("/", 1)[-1]
            if "kernel" in role:
                window = shape[:2] if type(layer).__name__ == "DepthwiseConv2D" else shape[:-1]
                values = rng.standard_normal(shape, np.float32) * np.sqrt(2.0 / np.prod(window))
            elif role == "gamma":
                values = rng.uniform(0.5, 1.5, shape)
            elif role in ("beta", "bias"):
                values = rng.normal(0.0, 0.1, shape)
            else:
                continue
            weight.assign(values.astype(np.float32))
    if any(type(layer).__name__ == "BatchNormalization" for layer in _all_layers(model)):
        batch = rng.uniform(-1.0, 1.0, (CALIBRATION_BATCH, *model.inputs[0].shape[1:]))
        model(batch.astype(np.float32), training=True)


def _all_layers(model: Any) -> list[Any]:
    return [inner for layer in model.layers for inner in (_all_layers(layer) if hasattr(layer, "layers") else [layer])]


def _channels(count: int, width: float) -> int:
    """A multiple of 8, as hardware and `groups` like it."""
    return max(8, round(count * width / 8) * 8)


def _conv(x: Any, filters: int, kernel: int, stride: int = 1, padding: str = "same", **more: Any) -> Any:
    more.setdefault("activation", "relu")
    return tensorflow().keras.layers.Conv2D(filters, kernel, stride, padding, **more)(x)


def _conv_bn(x: Any, filters: int, kernel: int, stride: int = 1, slope: float | None = 0.0) -> Any:
    """Convolution, batch normalisation and (leaky) relu; `slope` None leaves the activation out."""
    layers = tensorflow().keras.layers
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(((kernel // 2, (kernel - 1) // 2),) * 2)(x)
    padding = "same" if stride == 1 else "valid"
    x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    if slope is None:
        return x
    return layers.LeakyReLU(negative_slope=slope)(x) if slope else layers.ReLU()(x)


def _input(size: int) -> Any:
    return tensorflow().keras.Input((size, size, 3))


def _classify(x: Any, inputs: Any) -> Any:
    keras = tensorflow().keras
    return keras.Model(inputs, keras.layers.Softmax()(x))


def _normalized(x: Any) -> Any:
    """Local response normalisation across 5 channels."""
    tf = tensorflow()
    options = {"depth_radius": 2, "bias": 1.0, "alpha": 2e-5, "beta": 0.75}
    return tf.keras.layers.Lambda(lambda y: tf.nn.local_response_normalization(y, **options))(x)


def _mobilenet_v1(size: int, width: float) -> Any:
    return tensorflow().keras.applications.MobileNet((size, size, 3), alpha=width, weights=None)


def _mobilenet_v2(size: int, width: float) -> Any:
    return tensorflow().keras.applications.MobileNetV2((size, size, 3), alpha=width, weights=None)


def _mobilenet_v3_small(size: int, width: float) -> Any:
    return tensorflow().keras.applications.MobileNetV3Small((size, size, 3), alpha=width, weights=None)


def _mobilenet_v3_large(size: int, width: float) -> Any:
    return tensorflow().keras.applications.MobileNetV3Large((size, size, 3), alpha=width, weights=None)


def _squeezenet(size: int, width: float) -> Any:
    """SqueezeNet 1.0 (Iandola et al. 2016)."""
    layers = tensorflow().keras.layers

    def fire(x: Any, squeeze: int) -> Any:
        x = _conv(x, _channels(squeeze, width), 1)
        expand = _channels(4 * squeeze, width)
        return layers.Concatenate()([_conv(x, expand, 1), _conv(x, expand, 3)])

    inputs = _input(size)
    x = layers.MaxPooling2D(3, 2)(_conv(inputs, _channels(96, width), 7, 2, "valid"))
    for squeeze in (16, 16, 32):
        x = fire(x, squeeze)
    x = layers.MaxPooling2D(3, 2)(x)
    for squeeze in (32, 48, 48, 64):
        x = fire(x, squeeze)
    x = _conv(fire(layers.MaxPooling2D(3, 2)(x), 64), 1000, 1)
    return _classify(layers.GlobalAveragePooling2D()(x), inputs)


def _googlenet(size: int, width: float) -> Any:
    """Inception v1 (Szegedy et al. 2014) without the auxiliary heads; the numbers are from its table 1."""
    layers = tensorflow().keras.layers

    def inception(x: Any, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int) -> Any:
        c = [_channels(count, width) for count in (one, reduce3, three, reduce5, five, pool)]
        branches = (
            _conv(x, c[0], 1),
            _conv(_conv(x, c[1], 1), c[2], 3),
            _conv(_conv(x, c[3], 1), c[4], 5),
            _conv(layers.MaxPooling2D(3, 1, "same")(x), c[5], 1),
        )
        return layers.Concatenate()(list(branches))

    inputs = _input(size)
    x = layers.MaxPooling2D(3, 2, "same")(_conv(inputs, _channels(64, width), 7, 2))
    x = _conv(_normalized(x), _channels(64, width), 1)
    x = layers.MaxPooling2D(3, 2, "same")(_normalized(_conv(x, _channels(192, width), 3)))
    x = inception(x, 64, 96, 128, 16, 32, 32)
    x = inception(x, 128, 128, 192, 32, 96, 64)
    x = layers.MaxPooling2D(3, 2, "same")(x)
    x = inception(x, 192, 96, 208, 16, 48, 64)
    x = inception(x, 160, 112, 224, 24, 64, 64)
    x = inception(x, 128, 128, 256, 24, 64, 64)
    x = inception(x, 112, 144, 288, 32, 64, 64)
    x = inception(x, 256, 160, 320, 32, 128, 128)
    x = layers.MaxPooling2D(3, 2, "same")(x)
    x = inception(x, 256, 160, 320, 32, 128, 128)
    x = inception(x, 384, 192, 384, 48, 128, 128)
    x = layers.AveragePooling2D(x.shape[1:3])(x)
    return _classify(layers.Dense(1000)(layers.Dropout(0.4)(layers.Flatten()(x))), inputs)


def _resnet50(size: int, width: float) -> Any:
    """ResNet50 v1 (He et al. 2015); here rather than from keras.applications, which has no width."""
    layers = tensorflow().keras.layers

    def bottleneck(x: Any, filters: int, stride: int, project: bool) -> Any:
        shortcut = _conv_bn(x, 4 * filters, 1, stride, slope=None) if project else x
        x = _conv_bn(_conv_bn(x, filters, 1, stride), filters, 3)
        return layers.ReLU()(layers.Add()([_conv_bn(x, 4 * filters, 1, slope=None), shortcut]))

    inputs = _input(size)
    x = _conv_bn(inputs, _channels(64, width), 7, 2)
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = bottleneck(x, _channels(64 << stage, width), stride, project=not block)
    return _classify(layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)), inputs)


def _alexnet(size: int, width: float) -> Any:
    """AlexNet (Krizhevsky et al. 2012): two groups and local response normalisation, as in the original."""
    layers = tensorflow().keras.layers
    c = [_channels(count, width) for count in (96, 256, 384, 384, 256, 4096)]
    inputs = _input(size)
    x = layers.MaxPooling2D(3, 2)(_normalized(_conv(inputs, c[0], 11, 4, "valid")))
    x = layers.MaxPooling2D(3, 2)(_normalized(_conv(x, c[1], 5, groups=2)))
    x = _conv(_conv(_conv(x, c[2], 3), c[3], 3, groups=2), c[4], 3, groups=2)
    x = layers.Flatten()(layers.MaxPooling2D(3, 2)(x))
    for _ in range(2):
        x = layers.Dropout(0.5)(layers.Dense(c[5], "relu")(x))
    return _classify(layers.Dense(1000)(x), inputs)


LEAK = 0.1
YOLO_OUTPUTS = 3 * (80 + 5)


def _yolo_head(x: Any, filters: int) -> Any:
    return _conv(_conv_bn(x, filters, 3, slope=LEAK), YOLO_OUTPUTS, 1, activation=None)


def _doubled(x: Any) -> Any:
    """Nearest neighbour, as TensorFlow resizes; Keras 3's UpSampling2D is a chain of reshapes and tiles."""
    tf = tensorflow()
    return tf.keras.layers.Lambda(lambda y: tf.image.resize(y, (2 * x.shape[1], 2 * x.shape[2]), "nearest"))(x)


def _yolo_v3(size: int, width: float) -> Any:
    """YOLOv3 (Redmon and Farhadi 2018): Darknet-53 and three heads of raw boxes; 75 convolutions."""
    keras = tensorflow().keras

    def neck(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = _conv_bn(_conv_bn(x, filters, 1, slope=LEAK), 2 * filters, 3, slope=LEAK)
        return _conv_bn(x, filters, 1, slope=LEAK)

    inputs = _input(size)
    x = _conv_bn(inputs, _channels(32, width), 3, slope=LEAK)
    stages = []
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        filters = _channels(64 << stage, width)
        x = _conv_bn(x, filters, 3, 2, slope=LEAK)
        for _ in range(blocks):
            inner = _conv_bn(_conv_bn(x, filters // 2, 1, slope=LEAK), filters, 3, slope=LEAK)
            x = keras.layers.Add()([x, inner])
        stages.append(x)
    c = [_channels(count, width) for count in (512, 256, 128)]
    outputs = []
    for filters, other in zip(c, (None, stages[3], stages[2]), strict=True):
        if other is not None:
            x = _doubled(_conv_bn(x, filters, 1, slope=LEAK))
            x = keras.layers.Concatenate()([x, other])
        x = neck(x, filters)
        outputs.append(_yolo_head(x, 2 * filters))
    return keras.Model(inputs, outputs)


def _yolo_v3_tiny(size: int, width: float) -> Any:
    """YOLOv3-tiny: 13 convolutions, two heads of raw boxes."""
    keras = tensorflow().keras
    inputs = x = _input(size)
    route = None
    for count in (16, 32, 64, 128, 256):
        route = _conv_bn(x, _channels(count, width), 3, slope=LEAK)
        x = keras.layers.MaxPooling2D(2, 2, "same")(route)
    x = keras.layers.MaxPooling2D(2, 1, "same")(_conv_bn(x, _channels(512, width), 3, slope=LEAK))
    x = _conv_bn(_conv_bn(x, _channels(1024, width), 3, slope=LEAK), _channels(256, width), 1, slope=LEAK)
    fine = keras.layers.UpSampling2D(2)(_conv_bn(x, _channels(128, width), 1, slope=LEAK))
    fine = keras.layers.Concatenate()([fine, route])
    heads = [_yolo_head(x, _channels(512, width)), _yolo_head(fine, _channels(256, width))]
    return keras.Model(inputs, heads)


#: Name -> builder and the original's input size.
NETWORKS: dict[str, tuple[Builder, int]] = {
    "mobilenet_v1": (_mobilenet_v1, 224),
    "mobilenet_v2": (_mobilenet_v2, 224),
    "mobilenet_v3_small": (_mobilenet_v3_small, 224),
    "mobilenet_v3_large": (_mobilenet_v3_large, 224),
    "squeezenet": (_squeezenet, 224),
    "googlenet": (_googlenet, 224),
    "resnet50": (_resnet50, 224),
    "alexnet": (_alexnet, 227),
    "yolo_v3": (_yolo_v3, 416),
    "yolo_v3_tiny": (_yolo_v3_tiny, 416),
}
