"""Train in every precision, with XLA or several steps an execution, on two replicas, and write the results.

    python -m tests.combinations FILE.npz

A process of its own, as devices have to be made before TensorFlow starts. XLA and several steps an execution are
refused on several processors, as Keras cannot do them there.
"""

import itertools
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.models import mlp
from tests.strategies import CROSS_ENTROPY, data, strategy_of

POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
KINDS = ["kd", "feature", "cached"]
WAYS = {"default": {"jit_compile": False}, "xla": {"jit_compile": True}, "steps": {"steps_per_execution": 4}}
STEPS, RATE = 8, 0.1


class Path(keras.callbacks.Callback):
    """Add up how far the weights go: the largest change of each step."""

    def on_train_begin(self, logs=None):
        self.length, self.last = 0.0, self.model.student.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.student.get_weights()
        self.length += max(np.max(np.abs(a - b)) for a, b in zip(weights, self.last, strict=True))
        self.last = weights


def trained(kind: str, policy: str, way: str, strategy: tf.distribute.Strategy):
    """Return the student's weights after training, the losses, and the length of the path."""
    keras.utils.clear_session(free_memory=False)
    x, y, _ = data(STEPS * 16)
    with strategy.scope():
        teacher = mlp(2)
        keras.config.set_dtype_policy(policy)
        student = mlp(1)
        terms = [kd.Term(kd.losses.kl_divergence)]
        if kind == "feature":
            terms.append(kd.Term(kd.losses.squared_error, at=("hidden", "hidden")))
        used = kd.teachers.Cached() if kind == "cached" else teacher
        distiller = kd.Distiller(student=student, teacher=used, terms=terms)
        keras.config.set_dtype_policy("float32")
        optimizer = keras.optimizers.SGD(RATE)
        distiller.compile(optimizer, CROSS_ENTROPY, temperature=3.0, alpha=0.6, **WAYS[way])
    if kind == "cached":
        x = kd.Joined(x, {"logits": teacher.predict(x, verbose=0)})
    examples = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    path = Path()
    logs = distiller.fit(examples, callbacks=[path], shuffle=False, verbose=0).history
    return student.get_weights(), [values[0] for values in logs.values()], path.length


def main(file: str) -> None:
    """Train all, and write weights, losses and paths by the name of the combination."""
    devices = {"mirrored": strategy_of("mirrored"), "one": tf.distribute.get_strategy()}
    found = {}
    for kind, policy, way, device in itertools.product(KINDS, POLICIES, WAYS, devices):
        if way != "default" and device == "mirrored":
            continue
        weights, losses, length = trained(kind, policy, way, devices[device])
        name = f"{kind} {policy} {way} {device}"
        found |= {f"{name}/{number}": weight for number, weight in enumerate(weights)}
        found |= {f"{name}/losses": np.array(losses), f"{name}/length": np.array(length)}
    np.savez(file, **found)


if __name__ == "__main__":
    main(sys.argv[1])
