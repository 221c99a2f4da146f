"""Train a language model from packed targets with BackupAndRestore; with `kill`, kill the process in the middle.

    python -m tests.resumed_language FOLDER [kill]

Its head is fused, and gradients are accumulated over batches, of which an epoch has no whole number of steps.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from tests.resumed import EPOCHS, Kill
from tests.test_fused_head import PROMPTS, WEIGHTS, X, cross_entropy, language_model


def main(folder: pathlib.Path, kill: bool) -> None:
    """Train, or continue to train, and write the results."""
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices((X, PROMPTS, WEIGHTS))
    cache = kd.TeacherCache(folder / "targets", language_model(5, 6), top_k=4, dtype="packed")
    cache.build(data, batch_size=3, verbose=0)
    made = kd.Distiller(student=language_model(1, 4), teacher=kd.teachers.Cached(cache, tail="bucket"))
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    loss = cross_entropy(ignore_class=-100, reduction="mean_with_sample_weight")
    made.compile(optimizer, loss, temperature=1.0, alpha=0.5, fused_head=True)
    callbacks = [keras.callbacks.BackupAndRestore(folder / "backup"), *([Kill()] if kill else [])]
    joined = cache.join(data).shuffle(len(X), seed=0, reshuffle_each_iteration=False).batch(4)
    history = made.fit(joined, epochs=EPOCHS, callbacks=callbacks, verbose=0).history
    weights = {f"weight {number}": np.array(each) for number, each in enumerate(made.variables)}
    np.savez(folder / "student.npz", **weights, **{f"log {key}": value[-1] for key, value in history.items()})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(pathlib.Path(sys.argv[1]), "kill" in sys.argv[2:])
