"""Gradient norms and cosine, against gradients written by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.callbacks import GradientDiagnostics, gradient_diagnostics

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 4)).astype("float32"), np.arange(6) % 3


def linear(seed):
    kernel = keras.initializers.RandomNormal(seed=seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False, kernel_initializer=kernel)])


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def distiller():
    model = kd.Distiller(student=linear(1), teacher=linear(2))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), temperature=3.0)
    return model


def test_norms_and_cosine_are_those_of_the_gradients_written_by_hand():
    model = distiller()
    s, t = (X.astype("float64") @ m.get_weights()[0] for m in (model.student, model.teacher.model))
    # d/dz of T**2 KL is T (q - p), of the cross-entropy q - onehot; the kernel's gradient is x' of it, over the batch.
    soft = X.T @ (3.0 * (softmax(s / 3) - softmax(t / 3))) / 6
    hard = X.T @ (softmax(s) - np.eye(3)[Y]) / 6
    report = gradient_diagnostics(model, X, Y)
    assert report["gradient_norm/distillation_loss"] == pytest.approx(np.linalg.norm(soft), rel=1e-4)
    assert report["gradient_norm/student_loss"] == pytest.approx(np.linalg.norm(hard), rel=1e-4)
    cosine = np.sum(soft * hard) / np.linalg.norm(soft) / np.linalg.norm(hard)
    assert report["gradient_cosine"] == pytest.approx(cosine, rel=1e-4)


def deep(seed):
    """Return two linear layers, of which "hidden" is the first."""
    kernels = [keras.initializers.RandomNormal(seed=seed + number) for number in range(2)]
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((4,)),
            dense(5, use_bias=False, kernel_initializer=kernels[0], name="hidden"),
            dense(3, use_bias=False, kernel_initializer=kernels[1]),
        ]
    )


def test_a_term_on_features_has_no_gradient_in_the_layers_after_them():
    student, teacher = deep(1), deep(5)
    terms = [kd.Term(kd.losses.kl_divergence), kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), name="hint")]
    model = kd.Distiller(student=student, teacher=teacher, terms=terms)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    s, t = (X.astype("float64") @ each.get_weights()[0] for each in (student, teacher))
    # The mean over 6 examples and 5 units of (s - t)**2: of the first kernel x' 2 (s - t) / 30, of the second 0.
    expected = np.linalg.norm(X.T @ (2.0 * (s - t)) / 30)
    assert gradient_diagnostics(model, X, Y)["gradient_norm/hint"] == pytest.approx(expected, rel=1e-4)


def test_without_labels_there_is_no_cosine():
    model = distiller()
    model.compile("sgd", alpha=1.0)
    assert set(gradient_diagnostics(model, X)) == {"gradient_norm/kl_divergence", "gradient_norm/distillation_loss"}


def test_the_callback_writes_scalars_and_leaves_training_unchanged(tmp_path):
    weights = []
    for callbacks in ([], [GradientDiagnostics((X, Y), tmp_path)]):
        model = distiller()
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append(model.student.get_weights()[0])
    np.testing.assert_array_equal(*weights)
    events = [event for file in tmp_path.iterdir() for event in tf.compat.v1.train.summary_iterator(str(file))]
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"gradient_cosine", "gradient_norm/student_loss", "gradient_norm/distillation_loss"} <= tags


def test_the_callback_refuses_other_models():
    model = linear(1)
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="Distiller"):
        model.fit(X, X[:, :3], verbose=0, callbacks=[GradientDiagnostics((X, Y), "unused")])
