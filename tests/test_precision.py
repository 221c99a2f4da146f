"""The Distiller under 16-bit policies: exact losses, loss scaling, a teacher of another precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, Term, losses
from tests import models, references
from tests.models import batch, linear, mlp

X, Y = batch()
BOTH = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])


def under(policy, make, *arguments, **keywords):
    """Return what `make` makes while `policy` is Keras's, as a user of mixed precision would."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make(*arguments, **keywords)
    finally:
        keras.config.set_dtype_policy(before)


def distill(student, teacher, terms=None, optimizer=None, **arguments):
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"jit_compile": False, "run_eagerly": True, **arguments}
    distiller.compile(optimizer or keras.optimizers.SGD(0.0), loss, **arguments)
    return distiller


def fit(distiller, x=X, **arguments):
    return distiller.fit(x, Y, batch_size=len(x), shuffle=False, verbose=0, **arguments).history


def double(tensor):
    return np.asarray(tf.cast(tensor, "float64"))


def opposite(scale):
    """Return x -> x (scale * I) and x -> x (-scale * I): on the unit vectors the two are sure of different classes."""
    pair = []
    for sign in (1.0, -1.0):
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(3, kernel_initializer=keras.initializers.Identity(sign * scale))(inputs)
        pair.append(keras.Model(inputs, outputs))
    return pair


@pytest.mark.one_in(3)
@BOTH
@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("scale", [200.0, 3e4])
def test_wild_disagreement_stays_finite_and_is_learned_from(policy, temperature, scale):
    student, teacher = under(policy, opposite, scale)
    optimizer = keras.optimizers.SGD(1.0)
    distiller = distill(student, teacher, None, optimizer, temperature=temperature, alpha=0.9)
    before, x = student.get_weights()[0], np.eye(3, dtype="float32")
    logs = distiller.fit(x, np.arange(3), batch_size=3, epochs=12, verbose=0).history
    assert all(np.all(np.isfinite(values)) for values in logs.values())
    moved = student.get_weights()[0] - before
    # Each example's own class is the one that the teacher is most certain is wrong: the diagonal goes down.
    assert np.all(np.isfinite(moved)) and np.all(np.diag(moved) < 0)


@BOTH
def test_the_first_loss_of_wild_disagreement_is_exact(policy):
    # At x = e_1 the student has (2048, 0, 0) and the teacher (-2048, 0, 0), both exact in 16 bits: p = (0, 1/2, 1/2)
    # and KL = log(1/2) - (-2048), each of the others the same; T = 1.
    student, teacher = under(policy, opposite, 2048.0)
    logs = fit_identity(distill(student, teacher, temperature=1.0, alpha=1.0))
    assert logs["distillation_loss"] == pytest.approx([2048 - np.log(2)], rel=1e-6)


def fit_identity(distiller):
    return distiller.fit(np.eye(3, dtype="float32"), np.arange(3), batch_size=3, verbose=0).history


@BOTH
def test_the_logged_losses_are_unscaled_and_computed_in_float32(policy):
    student, teacher = under(policy, mlp, 1), under(policy, mlp, 0)
    s, t = double(student(X)), double(teacher(X))
    logs = fit(distill(student, teacher, temperature=3.0, alpha=0.5), epochs=2)
    soft = 9 * references.kl_divergence(s / 3, t / 3).mean()
    hard = np.mean(np.log(np.exp(s).sum(-1)) - s[np.arange(8), Y])
    assert logs["distillation_loss"] == pytest.approx([soft] * 2, rel=1e-5)
    # Keras computes its own cross-entropy from logits in float32 as well.
    assert logs["student_loss"] == pytest.approx([hard] * 2, rel=1e-4)
    assert logs["loss"] == pytest.approx([0.5 * soft + 0.5 * hard] * 2, rel=1e-4)


def test_float16_gradients_that_would_vanish_survive_by_loss_scaling():
    # d loss / d logits = 1e-7 * (q - p) / 8 is about 1e-9, below float16's smallest number, 6e-8. Scaled by 2**15 it is
    # not. A step of SGD(1e7) then moves the kernel by x' (q - p) / 8.
    student, teacher = under("mixed_float16", linear, 1), linear(0)
    before = student.get_weights()[0].astype("float64")
    q, p = models.softmax(double(student(X))), models.softmax(double(teacher(X)))
    terms = [Term(losses.kl_divergence, weight=1e-7)]
    distiller = distill(student, teacher, terms, keras.optimizers.SGD(1e7), temperature=1.0, alpha=1.0)
    fit(distiller)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(student.get_weights()[0] - before, -X.T @ (q - p) / 8, rtol=0.02, atol=2e-3)


@BOTH
def test_a_step_equals_that_in_float32_up_to_the_rounding_of_16_bits(policy):
    students = [mlp(1), under(policy, mlp, 1)]
    for student in students:
        fit(distill(student, mlp(0), None, keras.optimizers.SGD(0.5), temperature=4.0, alpha=0.7))
    difference = students[0].get_weights()[0] - mlp(1).get_weights()[0]
    assert np.max(np.abs(difference)) > 0.05
    models.assert_same(students[1].get_weights(), students[0].get_weights(), 0.02 if "b" in policy else 0.003)


PRECISIONS = ["float32", "float64", "mixed_float16", "mixed_bfloat16", "float16"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("student_policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("teacher_policy", PRECISIONS)
def test_the_teacher_may_be_of_another_precision(student_policy, teacher_policy):
    student, teacher = under(student_policy, mlp, 1), under(teacher_policy, mlp, 0)
    s, t = double(student(X)), double(teacher(X))
    terms = [
        Term(losses.kl_divergence),
        Term(losses.squared_error, at=("hidden", "hidden"), name="hint"),
    ]
    logs = fit(under(student_policy, distill, student, teacher, terms, temperature=3.0, alpha=1.0))
    hidden = [
        double(m.get_layer("hidden")(tf.cast(X, m.get_layer("hidden").compute_dtype))) for m in (student, teacher)
    ]
    soft = 9 * references.kl_divergence(s / 3, t / 3).mean()
    assert logs["kl_divergence"] == pytest.approx([soft], rel=1e-5)
    assert logs["hint"] == pytest.approx([references.squared_error(*hidden).mean()], rel=1e-4)


def test_the_inputs_reach_a_float32_teacher_unrounded():
    # 2049 is 2048 in float16: the student sees that, its teacher must not. W = identity, T = 1 and alpha = 1.
    student, teacher = under("mixed_float16", opposite, 1.0)[0], opposite(1.0)[0]
    x = np.array([[2049.0, 2048.0, 0.0]], "float32")
    distiller = under("mixed_float16", distill, student, teacher, temperature=1.0, alpha=1.0)
    logs = distiller.fit(x, np.zeros(1, int), verbose=0).history
    expected = references.kl_divergence(np.array([2048.0, 2048.0, 0.0]), x[0].astype("float64"))
    assert logs["distillation_loss"] == pytest.approx([expected], rel=1e-4)


@BOTH
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_heads_in_16_bits_are_undone_without_the_rounding_of_probabilities(policy, head):
    students, received = [under(policy, linear, 1), under(policy, linear, 1, activation=head)], []
    for student in students:
        teacher = under(policy, linear, 0, activation=head)
        received.append(fit(distill(student, teacher, temperature=3.0, alpha=1.0))["distillation_loss"][0])
    s, t = (double(under(policy, linear, seed)(X)) for seed in (1, 0))
    assert received == pytest.approx([9 * references.kl_divergence(s / 3, t / 3).mean()] * 2, rel=1e-5)


def test_a_bridge_in_16_bits_still_gives_a_float32_loss():
    student, teacher = under("mixed_float16", mlp, 1, units=6), mlp(0)
    bridge = under("mixed_float16", models.dense, 5, 3)
    terms = [Term(losses.squared_error, at=("hidden", "hidden"), bridge=bridge)]
    logs = fit(distill(student, teacher, terms, keras.optimizers.SGD(0.1), alpha=1.0), epochs=5)
    assert np.all(np.diff(logs["distillation_loss"]) < 0)
    assert [v.dtype for v in bridge.variables] == ["float32"] * 2


@BOTH
def test_evaluate_equals_the_students_own_in_16_bits(policy):
    student = under(policy, mlp, 1)
    distiller = distill(student, mlp(0))
    received = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    student.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    assert float(received["loss"]) == pytest.approx(student.evaluate(X, Y, verbose=0), rel=1e-6)


def test_the_inputs_reach_a_student_that_does_not_cast_them_unrounded():
    class Exact(keras.Model):
        def __init__(self):
            super().__init__(autocast=False)
            self.scale = keras.layers.Rescaling(1.0, dtype="float32")

        def call(self, x):
            return self.scale(x)

    student, x = under("mixed_float16", Exact), np.array([[2049.0, 2048.0, 0.0]], "float32")
    distiller = under("mixed_float16", distill, student, linear(0, features=3))
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), x)
