"""Train the same Distiller on one device and on two replicas, and write the results to a file.

    python -m tests.replicas FILE.npz

A process of its own: logical devices have to be made before TensorFlow starts. tests/test_replicas.py reads the file.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.models import batch, mlp

DEVICES = ("CPU:0", "CPU:1")
DIMENSION, MEMORY, BATCH = 3, 16, 8
X = batch(BATCH + 5)[0]  # a second batch of 5 is shared as 3 and 2


def main(file: str) -> None:
    """Train for two steps, without a strategy and with one; write the variables of each replica, before and after."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(DEVICES)}
    found = {}
    for devices, strategy in strategies.items():
        with strategy.scope():
            distiller = made()

        def note(steps: int, devices=devices, strategy=strategy, distiller=distiller) -> None:
            for variable in distiller.variables:
                for replica, value in enumerate(strategy.experimental_local_results(variable.value)):
                    found[f"{devices} {steps} {replica} {variable.path}"] = value.numpy()

        note(0)
        after = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, note=note: note(batch + 1))
        distiller.fit(X, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[after])  # outside of the scope
    np.savez(file, **found)


def made() -> kd.Distiller:
    """Return a Distiller with a memory and a running mean, in the same state each time."""
    keras.utils.set_random_seed(0)
    loss = kd.losses.ContrastiveMemory(dimension=DIMENSION, temperature=0.3, memory=MEMORY)
    terms = [kd.Term(loss, at=("hidden", "hidden")), *kd.methods.dino([("hidden", "hidden")])]
    distiller = kd.Distiller(student=mlp(1), teacher=teacher_model(), terms=terms)
    distiller.compile(keras.optimizers.SGD(0.5), alpha=1.0)
    return distiller


def teacher_model() -> keras.Model:
    """Return the teacher, whose weights follow from a seed."""
    return mlp(2, units=7)


if __name__ == "__main__":
    main(sys.argv[1])
