"""A student with a head for the labels and one for the teacher, averaged outside of training (DeiT)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, methods
from keras_kd.bridges import AveragedHeads
from tests import references
from tests.models import batch, dense, mlp
from tests.test_errors import refused
from tests.test_objective import distill

X, Y = batch()
AT = ("teacher_head", "logits")


def two_headed(seed=1):
    inputs = keras.Input((4,))
    hidden = dense(5, seed, activation="tanh", name="hidden")(inputs)
    heads = [dense(3, seed + place, name=name)(hidden) for place, name in enumerate(("label_head", "teacher_head"))]
    return keras.Model(inputs, AveragedHeads(name="heads")(heads))


def head(model, name):
    return np.asarray(keras.Model(model.input, model.get_layer(name).output)(X), "float64")


def test_each_head_learns_from_its_own_and_predictions_are_their_mean():
    student, teacher = two_headed(), mlp(2)
    labels, taught = (head(student, name) for name in ("label_head", "teacher_head"))
    np.testing.assert_allclose(student.predict(X, verbose=0), (labels + taught) / 2, atol=1e-6)
    distiller = distill(student, teacher, methods.deit(AT), alpha=0.25)
    logs = distiller.fit(X, Y, batch_size=len(X), verbose=0).history
    expected = -np.take_along_axis(np.log(np.asarray(keras.ops.softmax(labels))), Y[:, None], -1).mean()
    assert logs["student_loss"][0] == pytest.approx(expected, rel=1e-5)
    expected = references.hard_label(taught, np.asarray(teacher(X))).mean()
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("alpha", "still"), [(1.0, "label_head"), (0.0, "teacher_head")])
def test_a_head_does_not_learn_what_the_other_does(alpha, still):
    student = two_headed()
    before = student.get_layer(still).get_weights()
    distiller = distill(student, mlp(2), methods.deit(AT), keras.optimizers.SGD(0.1), alpha=alpha)
    distiller.fit(X, Y, verbose=0)
    for new, old in zip(student.get_layer(still).get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_soft_targets_may_teach_the_head_as_well():
    student, teacher = two_headed(), mlp(2)
    term = kd.Term(losses.kl_divergence, at=AT, soften=True, temperature=3.0)
    found = distill(student, teacher, [term]).objective(X, Y)["distillation_loss"]
    expected = 9 * references.kl_divergence(head(student, "teacher_head") / 3, np.asarray(teacher(X), "float64") / 3)
    assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


def test_the_student_is_saved_evaluated_and_exported_with_the_mean(tmp_path):
    student = two_headed()
    distiller = distill(student, mlp(2), methods.deit(AT), keras.optimizers.Adam(0.1), metrics=["accuracy"])
    distiller.fit(X, Y, epochs=3, verbose=0)
    mean = (head(student, "label_head") + head(student, "teacher_head")) / 2
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), mean, atol=1e-5)
    assert distiller.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"] == np.mean(mean.argmax(-1) == Y)
    kd.export(student, tmp_path / "1", fresh=False)
    served = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(served.serve(X), mean, atol=1e-5)


def test_an_ensemble_labels_by_its_average():
    student, teachers = two_headed(), [mlp(2), mlp(3)]
    found = distill(student, teachers, methods.deit(AT)).objective(X, Y)["distillation_loss"]
    average = np.mean([np.asarray(keras.ops.softmax(each(X)), "float64") for each in teachers], axis=0)
    assert float(found) == pytest.approx(references.hard_label(head(student, "teacher_head"), average).mean(), rel=1e-5)


@pytest.mark.parametrize("sizes", [(3, 4), (3,), (3, 3, 3)])
def test_anything_but_two_heads_of_one_shape_is_refused(sizes):
    heads = [keras.Input((size,)) for size in sizes]
    refused(ValueError, ["two heads of one shape"], AveragedHeads(), heads)
