"""Train the same Distillers on one device and on two replicas, and write what came of it to a file.

    python -m tests.replicas FILE.npz

A process of its own: logical devices have to be made before TensorFlow starts. tests/test_replicas.py reads the file.
"""

import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.caches import jittered
from tests.models import batch, mlp

DEVICES = ("CPU:0", "CPU:1")
DIMENSION, MEMORY, BATCH = 3, 16, 8
X = batch(BATCH + 5)[0]  # a second batch of 5 is shared as 3 and 2


def main(file: str) -> None:
    """Train for 0, 1 and 2 steps, without a strategy and with one; write each variable of each replica."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(DEVICES)}
    found = {}
    for devices, strategy in strategies.items():
        for steps, examples in enumerate((0, BATCH, len(X))):
            with strategy.scope():
                distiller = made()
            if steps:
                distiller.fit(tf.data.Dataset.from_tensor_slices(X[:examples]).batch(BATCH), shuffle=False, verbose=0)
            found |= values_of(distiller, strategy, f"{devices} {steps}")
        with tempfile.TemporaryDirectory() as folder:
            with strategy.scope():
                distiller, joined = made_cached(folder)
            distiller.fit(joined.batch(BATCH), epochs=2, shuffle=False, verbose=0)
            found |= values_of(distiller, strategy, f"{devices} cached")
    np.savez(file, **found)


def values_of(distiller: kd.Distiller, strategy: tf.distribute.Strategy, run: str) -> dict[str, np.ndarray]:
    """Return every variable on every replica."""
    return {
        f"{run} {replica} {variable.path}": value.numpy()
        for variable in distiller.variables
        for replica, value in enumerate(strategy.experimental_local_results(variable.value))
    }


def made_cached(folder: str) -> tuple[kd.Distiller, tf.data.Dataset]:
    """Return a Distiller under a cache of two taps and two views, and its examples."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2 * BATCH, 4)).astype("float32"), random.integers(0, 3, 2 * BATCH)
    examples = tf.data.Dataset.from_tensor_slices((x, y, random.random(2 * BATCH).astype("float32")))
    cache = kd.TeacherCache(
        folder, teacher_model(), ("logits", "hidden"), top_k=2, dtype="float32", views=2, augment=jittered
    )
    cache.build(examples, batch_size=4, verbose=0)
    terms = [
        kd.Term(kd.losses.kl_divergence),
        kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), bridge="auto"),
    ]
    distiller = kd.Distiller(student=mlp(1), teacher=kd.teachers.Cached(cache), terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, temperature=2.0, alpha=0.5)
    return distiller, cache.join(examples)


def made() -> kd.Distiller:
    """Return a Distiller with a memory, in the same state each time."""
    keras.utils.set_random_seed(0)
    loss = kd.losses.ContrastiveMemory(dimension=DIMENSION, temperature=0.3, memory=MEMORY)
    terms = [kd.Term(loss, at=("hidden", "hidden"))]
    distiller = kd.Distiller(student=mlp(1), teacher=teacher_model(), terms=terms)
    distiller.compile(keras.optimizers.SGD(0.5), alpha=1.0)
    return distiller


def teacher_model() -> keras.Model:
    """Return the teacher, whose weights follow from a seed."""
    return mlp(2, units=7)


if __name__ == "__main__":
    main(sys.argv[1])
