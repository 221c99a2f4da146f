"""Train Distillers whose optimizer clips, on one device and on two replicas, and write their weights to a file.

    python -m tests.clipped FILE.npz

A process of its own: logical devices have to be made before TensorFlow starts. tests/test_clipping.py reads the file.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.models import batch, mlp, tagger

DEVICES = ("CPU:0", "CPU:1")
X, Y = batch(13)  # batches of 8 and 5; the latter is shared as 3 and 2
WORDS = np.random.default_rng(0).integers(0, 6, (13, 5))
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

#: What an optimizer is given. Each limit is below the gradients of these models, so that it clips.
CLIPPING = {
    "by norm": {"clipnorm": 0.05},
    "by global norm": {"global_clipnorm": 0.05},
    "by value": {"clipvalue": 0.01},
    "of scaled gradients": {"clipnorm": 0.05, "loss_scale_factor": 1024.0},
    "none": {},
}


def main(file: str) -> None:
    """Train for two steps in each way, without a strategy and with one."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(DEVICES)}
    runs = {name: (mlp, X, Y, arguments) for name, arguments in CLIPPING.items()}
    runs["sparse"] = (tagger, WORDS, WORDS % 3, {"clipnorm": 0.05})
    runs["dynamic"] = (mlp, X, Y, None)
    found = {}
    for devices, strategy in strategies.items():
        for name, (model, x, y, arguments) in runs.items():
            with strategy.scope():
                distiller = kd.Distiller(student=model(1), teacher=model(2))
                distiller.compile(optimizer(arguments), CROSS_ENTROPY)
            distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            for number, weight in enumerate(distiller.student.get_weights()):
                found[f"{devices} {name} {number}"] = weight
    np.savez(file, **found)


def optimizer(arguments: dict | None) -> keras.optimizers.Optimizer:
    """Return plain gradient descent that clips; without arguments, one that finds its own scale of the loss."""
    if arguments is None:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0, clipnorm=0.05), initial_scale=256.0)
    return keras.optimizers.SGD(1.0, **arguments)


if __name__ == "__main__":
    main(sys.argv[1])
