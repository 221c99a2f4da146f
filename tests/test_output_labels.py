"""Which labels and weights reach a term: those of the output that it reads, as in Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests import references
from tests.models import batch, dense, linear, tagger
from tests.test_errors import refused
from tests.test_objective import distill, fit

X, _ = batch()
ZETA, ALPHA = np.full((8, 1), 2.0, "float32"), np.full((8, 1), 3.0, "float32")  # their squares: 4 and 9
W_ZETA, W_ALPHA = np.linspace(0, 20, 8, dtype="float32"), np.linspace(0, 200, 8, dtype="float32")  # means: 10, 100


def model(form):
    """Return a model of two outputs, all 0, whose order is not that of the alphabet."""
    x = keras.Input((4,))
    zeta, alpha = (keras.layers.Dense(1, kernel_initializer="zeros", name=name)(x) for name in ("zeta", "alpha"))
    return keras.Model(x, shaped(form, zeta, alpha))


def shaped(form, zeta, alpha):
    """Return what belongs to the two outputs in one of the structures that Keras takes."""
    return {
        "dict": {"zeta": zeta, "alpha": alpha},
        "list": [zeta, alpha],
        "tuple": (zeta, alpha),
        "deep": {"one": {"zeta": zeta}, "two": alpha},
    }[form]


def labels_squared(student, teacher, labels):
    """Return what Keras's squared error makes of the labels and an output of 0."""
    return keras.ops.mean(keras.ops.square(labels), axis=-1) + 0.0 * keras.ops.sum(student, axis=-1)


def received(form, y, sample_weight=None):
    """Return the value of each output's term."""
    names = ["one/zeta", "two"] if form == "deep" else ["zeta", "alpha"]
    terms = [kd.Term(labels_squared, at=each, soften=False, name=each.replace("/", ".")) for each in names]
    distiller = distill(model(form), model(form), terms, loss=None, alpha=1.0)
    logs = distiller.fit(X, y, sample_weight=sample_weight, verbose=0)
    return [float(logs.history[term.name][0]) for term in terms]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("form", ["dict", "list", "tuple", "deep"])
def test_each_term_learns_from_the_labels_and_weights_of_its_output(form):
    y, weights = shaped(form, ZETA, ALPHA), shaped(form, W_ZETA, W_ALPHA)
    assert received(form, y) == pytest.approx([4.0, 9.0])
    assert received(form, y, weights) == pytest.approx([10 * 4.0, 100 * 9.0])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("given", ["dict", "list", "tuple"])
@pytest.mark.parametrize("form", ["dict", "list", "tuple"])
def test_labels_in_any_structure_belong_to_the_outputs_that_keras_gives_them(form, given):
    plain = model(form)
    plain.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    y = shaped(given, ZETA, ALPHA)
    expected = plain.evaluate(X, y, verbose=0, return_dict=True)
    assert received(form, y) == pytest.approx([expected["zeta_loss"], expected["alpha_loss"]])


def test_the_weights_of_one_output_alone_leave_the_others_unchanged():
    terms = [kd.Term(labels_squared, at=name, soften=False, name=name) for name in ("zeta", "alpha")]
    distiller = distill(model("list"), model("list"), terms, loss=None, alpha=1.0)
    batches = tf.data.Dataset.from_tensors((X, {"zeta": ZETA, "alpha": ALPHA}, {"alpha": W_ALPHA}))
    logs = distiller.fit(batches, verbose=0).history
    assert (logs["zeta"], logs["alpha"]) == (pytest.approx([4.0]), pytest.approx([900.0]))


@pytest.mark.parametrize("at", ["logits", "only"])
@pytest.mark.parametrize("given", [lambda each: {"only": each}, lambda each: [each], lambda each: each])
def test_one_output_in_a_dict_has_the_one_label_and_weight(at, given):
    x = keras.Input((4,))
    single = [keras.Model(x, {"only": keras.layers.Dense(1, kernel_initializer="zeros")(x)}) for _ in range(2)]
    term = kd.Term(labels_squared, at=at, soften=False)
    logs = fit(distill(*single, [term], loss=None, alpha=1.0), X, given(ALPHA), sample_weight=given(W_ALPHA))
    assert logs["loss"] == pytest.approx([900.0])


def test_labels_of_other_names_or_number_are_refused():
    words = ["'zeta'", "['aplha', 'ztea']", "labels_squared_zeta", "['zeta', 'alpha']"]
    term = kd.Term(labels_squared, at="zeta", soften=False)
    distiller = distill(model("list"), model("list"), [term], loss=None, alpha=1.0)
    refused(ValueError, words, fit, distiller, X, {"ztea": ZETA, "aplha": ALPHA})
    refused(ValueError, ["2 outputs", "3"], fit, distiller, X, [ZETA, ALPHA, ALPHA])


def test_weights_of_other_names_are_refused_and_not_left_out():
    term = kd.Term(kd.losses.squared_error, at="zeta", soften=False)
    distiller = distill(model("list"), model("list"), [term], loss=None, alpha=1.0)
    batches = tf.data.Dataset.from_tensors((X, {"zeta": ZETA}, {"ztea": W_ZETA, "alpha": W_ALPHA}))
    refused(ValueError, ["['alpha', 'ztea']", "'zeta'"], distiller.fit, batches, verbose=0)


@pytest.mark.parametrize("at", [("hidden", "hidden"), (("zeta", "alpha"), ("zeta", "alpha"))], ids=["layer", "two"])
def test_a_term_of_a_layer_or_of_two_outputs_cannot_decide_which_weights_are_its_own(at):
    def difference(student, teacher):
        return keras.ops.mean(keras.ops.square(student[0] - teacher[0]), axis=-1)

    def made(seed):
        x = keras.Input((4,))
        hidden = dense(3, seed, name="hidden")(x)
        return keras.Model(x, {"zeta": dense(1, seed)(hidden), "alpha": dense(1, seed + 1)(hidden)})

    distiller = distill(made(1), made(2), [kd.Term(difference, at=at, soften=False)], loss=None, alpha=1.0)
    y, weights = {"zeta": ZETA, "alpha": ALPHA}, {"zeta": W_ZETA, "alpha": W_ALPHA}
    refused(ValueError, ["cannot decide", "one output"], fit, distiller, X, y, sample_weight=weights)


def test_weights_without_labels_which_keras_would_drop_are_refused():
    distiller = distill(linear(1), linear(2), loss=None, alpha=1.0)
    refused(ValueError, ["labels", "sample_weight"], fit, distiller, X, None, sample_weight=W_ZETA)


def test_labels_of_positions_may_be_any_class_however_few_the_positions_are():
    words, labels = np.array([[1, 2], [3, 4]]), np.array([[4, 0], [2, 3]])
    student, teacher = (tagger(seed, classes=5, mask=False) for seed in (1, 2))
    term = kd.Term(kd.losses.decoupled_kl, temperature=1.0)
    s, t = (each(words).numpy().astype("float64") for each in (student, teacher))
    distiller = distill(student, teacher, [term], loss=None, alpha=1.0)
    expected = references.decoupled_kl(s, t, labels).mean()
    assert float(distiller.objective(words, tf.constant(labels))["loss"]) == pytest.approx(expected, rel=1e-5)
    refused(ValueError, ["from 0 to 4"], fit, distiller, words, labels + 1)


YES = np.array([True, False, False, True, True, False, True, False])


@pytest.mark.parametrize(
    "labels", [YES, YES[:, None], np.stack([~YES, YES], axis=-1)], ids=["ids", "column", "one-hot"]
)
@pytest.mark.parametrize("name", ["decoupled_kl", "normalized_kl"])
def test_true_and_false_are_labels(name, labels):
    student, teacher = linear(1, classes=2), linear(2, classes=2)
    term = kd.Term(getattr(kd.losses, name), temperature=1.0)
    s, t = (each(X).numpy().astype("float64") for each in (student, teacher))
    logs = fit(distill(student, teacher, [term], loss=None, alpha=1.0, run_eagerly=False), X, labels)
    assert logs["loss"] == pytest.approx([getattr(references, name)(s, t, YES.astype(int)).mean()], rel=1e-5)


def test_a_teacher_is_weighed_by_labels_of_true_and_false():
    # Two teachers, weighed by the probability that each gives to the label.
    members = [linear(seed, classes=2) for seed in (1, 2)]
    losses = []
    for y in (YES, YES.astype(int)):
        teacher = kd.teachers.Ensemble(members, weights="agreement")
        losses += fit(distill(linear(3, classes=2), teacher, loss=None, alpha=1.0), X, y)["loss"]
    assert losses[0] == losses[1] > 0


@pytest.mark.slow
def test_check_reads_labels_of_true_and_false():
    distiller = distill(linear(3, classes=2), linear(1, classes=2), loss=None, alpha=1.0)
    right = np.mean(linear(1, classes=2)(X).numpy().argmax(axis=-1) == YES)
    assert distiller.check(X, YES).teacher_accuracy == pytest.approx(right)
