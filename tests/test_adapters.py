"""Adapters (LoRA) of layers of Keras, which it sets to 0 wherever it loads weights."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from tests.models import mlp

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def adapted(kind="dense"):
    """Return a Distiller whose student has an adapter."""
    keras.utils.set_random_seed(0)
    student = mlp(1)
    if kind == "embedding":
        ids = keras.Input((4,))
        embedding = keras.layers.Embedding(9, 4)
        hidden = keras.layers.Flatten()(embedding(ids))
        student = keras.Model(ids, keras.layers.Dense(3, name="scores", trainable=False)(hidden))
    layer = student.get_layer("hidden") if kind == "dense" else embedding
    layer.enable_lora(2)
    made = kd.Distiller(student=student, teacher=mlp(2))
    made.compile(keras.optimizers.SGD(0.5), alpha=1.0, jit_compile=False)
    return made, layer


def factors(layer):
    return [np.array(each) for each in layer.variables if "lora" in each.path]


class Interrupted(keras.callbacks.Callback):
    """End a training as a kill does."""

    def on_epoch_begin(self, epoch, logs=None):
        """Raise an error before the last epoch."""
        if epoch == 2:
            raise KeyboardInterrupt


def test_adapters_learn_after_an_interruption(tmp_path):
    made, _ = adapted()
    with pytest.raises(KeyboardInterrupt):
        made.fit(X, epochs=3, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), Interrupted()])
    again, layer = adapted()
    with pytest.warns(UserWarning, match="has merged 1 adapters of the student .* They begin anew"):
        again.fit(X, epochs=3, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert len(factors(layer)) == 2 and all(each.any() for each in factors(layer))


@pytest.mark.parametrize("kind", ["dense", "embedding"])
def test_adapters_of_weights_that_were_loaded_learn_and_the_student_predicts_as_before(kind, tmp_path):
    made, layer = adapted(kind)
    x = np.abs(X.astype("int32"))
    made.fit(x, epochs=2, verbose=0)
    before = made.predict(x, verbose=0)
    made.student.save_weights(tmp_path / "student.weights.h5")
    made.student.load_weights(tmp_path / "student.weights.h5")
    assert not any(each.any() for each in factors(layer))  # were this no more, the warning could go
    with pytest.warns(UserWarning, match="begin anew"):
        made.fit(x, epochs=0, verbose=0)
    np.testing.assert_allclose(made.predict(x, verbose=0), before, rtol=0, atol=1e-6)
    made.fit(x, epochs=2, verbose=0)
    assert all(each.any() for each in factors(layer))


@pytest.mark.filterwarnings("error:.*begin anew")
def test_adapters_that_learn_are_left_alone():
    made, layer = adapted()
    made.fit(X, epochs=0, verbose=0)  # the second factor begins at 0
    first = factors(layer)[0]
    made.fit(X, epochs=1, verbose=0)
    np.testing.assert_array_equal(factors(layer)[0], first)  # its gradient is 0 in the first step
