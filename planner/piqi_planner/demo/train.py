"""Trains the network of the demo and writes ``digits.tflite``: ``python -m piqi_planner.demo.train``.

A depthwise-separable CNN of ten layers: a convolution, four depthwise + pointwise pairs, a classifier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import SIZE, load

#: Channels and stride of the pointwise convolution of each pair.
BLOCKS = ((32, 1), (64, 2), (128, 2), (192, 2))
EPOCHS = 40


def build() -> Any:
    """The untrained Keras model."""
    layers = tf.keras.layers
    x = inputs = layers.Input((SIZE, SIZE, 1), name="frame")

    def normalised(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    x = normalised(layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(x))
    for channels, stride in BLOCKS:
        x = normalised(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        x = normalised(layers.Conv2D(channels, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, layers.Dense(10, activation="softmax", name="digit")(x))


def main() -> None:
    """Trains from a fixed seed, prints the test accuracy, writes the file."""
    tf.keras.utils.set_random_seed(7)
    frames, labels, test_frames, test_labels = load()
    model = build()
    augment = tf.keras.Sequential(
        [
            tf.keras.layers.RandomTranslation(0.08, 0.08, fill_mode="constant", fill_value=-1.0),
            tf.keras.layers.RandomRotation(0.03, fill_mode="constant", fill_value=-1.0),
        ]
    )
    data = tf.data.Dataset.from_tensor_slices((frames, labels)).shuffle(len(frames), seed=7).batch(32)
    data = data.map(lambda x, y: (augment(x, training=True), y))
    steps = EPOCHS * len(data)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(data, epochs=EPOCHS, verbose=2)
    accuracy = np.mean(model.predict(test_frames, verbose=0).argmax(-1) == test_labels)
    MODEL.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    print(f"test accuracy {accuracy:.2%}; {MODEL}: {MODEL.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
