"""Which examples and positions a term counts, and what it divides by: what the compiled loss of its output does."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import keras_kd as kd
from tests import references
from tests.models import dense, few, mlp, tagger
from tests.test_errors import refused

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")
TEMPERATURE = 2.0


def cross_entropy(reduction="sum_over_batch_size", ignored=None):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, ignore_class=ignored)


def distiller_of(student, teacher, terms=None, loss=None, **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile("sgd", loss or cross_entropy(), temperature=TEMPERATURE, **arguments)
    return distiller


def mean(values, counts, weights, reduction):
    """Return sum c w v / D in float64."""
    weights = np.ones(values.shape) if weights is None else np.broadcast_to(weights, values.shape)
    divisor = {"sum": 1.0, "mean_with_sample_weight": np.sum(counts * weights)}.get(reduction, np.sum(counts))
    return np.sum(np.where(counts, values, 0.0) * weights) / divisor


def softened(student, teacher, x):
    ours, theirs = (np.asarray(model(x), "float64") / TEMPERATURE for model in (student, teacher))
    return TEMPERATURE**2 * references.kl_divergence(ours, theirs)


@pytest.mark.slow
@few
@given(
    st.sampled_from(REDUCTIONS),
    st.sampled_from([None, -1, -100, 255]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_a_term_counts_what_the_loss_on_the_labels_counts(reduction, ignored, masked, weighted, seed):
    random = np.random.default_rng(seed)
    x, y = random.integers(1, 6, (4, 5)), random.integers(0, 3, (4, 5))
    x[0] = [1, 2, 0, 0, 0] if masked else x[0]
    y[random.random((4, 5)) < 0.4] = 0 if ignored is None else ignored
    y[1, 0] = 1
    weights = random.uniform(0.1, 2, (4, 5)).astype("float32") * (random.random((4, 5)) < 0.8) if weighted else None
    if weighted:
        weights[1, 0] = 1.0
    student, teacher = tagger(1, mask=masked), tagger(2, mask=False)
    logs = distiller_of(student, teacher, loss=cross_entropy(reduction, ignored)).objective(x, y, weights)
    counts = (y != ignored) & ((x != 0) | (not masked))
    labels = -np.log(np.asarray(keras.ops.softmax(student(x)), "float64"))
    labels = np.take_along_axis(labels, np.where(y == ignored, 0, y)[..., None], -1)[..., 0]
    assert float(logs["distillation_loss"]) == pytest.approx(
        mean(softened(student, teacher, x), counts, weights, reduction), rel=1e-5
    )
    assert float(logs["student_loss"]) == pytest.approx(mean(labels, counts, weights, reduction), rel=1e-5)


def test_gradients_of_what_does_not_count_are_zero():
    x, y = np.array([[1, 2, 3, 4]]), np.array([[0, -100, 2, -100]])
    student = tagger(1, mask=False)
    before = student.get_layer("words").get_weights()[0]
    distiller_of(student, tagger(2, mask=False), loss=cross_entropy(ignored=-100)).fit(x, y, verbose=0)
    moved = np.any(student.get_layer("words").get_weights()[0] != before, axis=-1)
    assert moved.tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize("labels", ["ids", "column"])
def test_unlabelled_examples_count_where_the_labels_do_not_matter(labels):
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.array([0, -1, 2, -1, 1, -1])
    y = y[:, None] if labels == "column" else y
    student, teacher = mlp(1), mlp(2)
    values = softened(student, teacher, x)
    for chosen, expected in (("auto", values[::2].mean()), (None, values.mean())):
        terms = [kd.Term(kd.losses.kl_divergence, sample_weight=chosen)]
        found = distiller_of(student, teacher, terms, cross_entropy(ignored=-1)).objective(x, y)
        assert float(found["distillation_loss"]) == pytest.approx(expected, rel=1e-5)


def test_terms_that_read_labels_learn_from_those_that_count():
    x, y = np.array([[1, 2, 3, 4]]), np.array([[0, -100, 2, -100]])
    student, teacher = tagger(1, mask=False), tagger(2, mask=False)
    terms = [kd.Term(kd.losses.decoupled_kl, temperature=1.0)]
    distiller = distiller_of(student, teacher, terms, cross_entropy(ignored=-100))
    ours, theirs = (np.asarray(model(x), "float64")[:, ::2] for model in (student, teacher))
    expected = references.decoupled_kl(ours, theirs, y[:, ::2], 1.0, 8.0).mean()
    assert float(distiller.objective(x, y)["distillation_loss"]) == pytest.approx(expected, rel=1e-5)
    distiller.fit(x, y, verbose=0)


def detector(seed):
    """Return a model with a class and four numbers for each of three anchors."""
    x = keras.Input((4,))
    hidden = dense(6, seed, activation="tanh", name="hidden")(x)
    anchors = {
        name: layers.Reshape((3, size), name=name)(dense(3 * size, seed + size)(hidden))
        for name, size in {"cls": 5, "box": 4}.items()
    }
    return keras.Model(x, anchors)


X = np.random.default_rng(1).normal(size=(4, 4)).astype("float32")
CLASSES = np.array([[0, -1, 2], [-1, -1, 1], [3, 4, -1], [-1, 0, -1]])
LABELS = {"cls": CLASSES, "box": np.zeros((4, 3, 4), "float32")}
WEIGHTS = {"cls": np.linspace(0.5, 2, 12).reshape(4, 3).astype("float32"), "box": np.ones((4, 3), "float32") / 7}


@pytest.mark.parametrize(
    ("chosen", "weights", "counts"),
    [
        ("auto", WEIGHTS["box"], np.ones((4, 3))),
        ("box", WEIGHTS["box"], np.ones((4, 3))),
        ("cls", WEIGHTS["cls"], CLASSES != -1),
        (None, None, np.ones((4, 3))),
    ],
)
def test_a_term_may_count_what_another_output_counts(chosen, weights, counts):
    student, teacher = detector(1), detector(5)
    terms = [kd.Term(kd.losses.squared_error, at="box", soften=False, sample_weight=chosen)]
    loss = {"cls": cross_entropy("mean_with_sample_weight", -1), "box": "mse"}
    found = distiller_of(student, teacher, terms, loss).objective(X, LABELS, WEIGHTS)
    values = references.squared_error(*(np.asarray(model(X)["box"], "float64") for model in (student, teacher)))
    reduction = "mean_with_sample_weight" if chosen == "cls" else "mean"
    assert float(found["distillation_loss"]) == pytest.approx(mean(values, counts, weights, reduction), rel=1e-5)


def test_a_term_on_layers_stands_beside_weights_for_each_output():
    student, teacher = detector(1), detector(5)
    hidden = [keras.Model(each.input, each.get_layer("hidden").output) for each in (student, teacher)]
    values = references.squared_error(*(np.asarray(model(X), "float64") for model in hidden))
    loss = {"cls": cross_entropy(ignored=-1), "box": "mse"}
    y = {**LABELS, "cls": np.array([0, -1, 2, 1])[:, None] + np.zeros((1, 3), "int64")}
    weights = {"cls": np.ones((4, 3), "float32"), "box": np.ones((4, 3), "float32")}
    term = kd.Term(kd.losses.squared_error, at=("hidden", "hidden"))
    refused(ValueError, ["sample_weight='box'"], distiller_of(student, teacher, [term], loss).objective, X, y, weights)
    term = kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), sample_weight=None)
    found = distiller_of(student, teacher, [term], loss).objective(X, y, weights)
    assert float(found["distillation_loss"]) == pytest.approx(values.mean(), rel=1e-5)


def test_the_weight_of_an_example_counts_for_all_positions_of_its_features():
    student, teacher = tagger(1, mask=False), tagger(2, mask=False)
    x, weights = np.arange(12).reshape(3, 4) % 6, np.array([0.0, 1.0, 3.0], "float32")
    terms = [kd.Term(kd.losses.squared_error, at=("words", "words"))]
    pooled = layers.GlobalAveragePooling1D()
    student, teacher = (keras.Model(each.input, pooled(each.output)) for each in (student, teacher))
    found = distiller_of(student, teacher, terms, cross_entropy("mean_with_sample_weight")).objective(
        x, np.zeros(3, "int64"), weights
    )
    words = [each.get_layer("words").get_weights()[0].astype("float64")[x] for each in (student, teacher)]
    values = references.squared_error(*words)
    expected = np.sum(values * weights[:, None]) / (4 * weights.sum())
    assert float(found["distillation_loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_choice_is_saved_with_the_term():
    term = kd.Term(kd.losses.kl_divergence, at="box", sample_weight="cls")
    assert kd.Term.from_config(term.get_config()).sample_weight == "cls"
    assert kd.Term.from_config(kd.Term(kd.losses.kl_divergence, sample_weight=None).get_config()).sample_weight is None


def test_what_cannot_be_counted_is_refused():
    term = kd.Term(kd.losses.squared_error, at="box", sample_weight="boxes")
    distiller = distiller_of(detector(1), detector(5), [term], {"cls": cross_entropy(), "box": "mse"})
    refused(ValueError, ["student's outputs, ['box', 'cls']", "'boxes'"], distiller.fit, X, LABELS, verbose=0)
    distiller = distiller_of(mlp(1), mlp(2), loss=cross_entropy(None))
    refused(ValueError, ["one number for a batch", "reduction=None"], distiller.fit, X, np.zeros(4), verbose=0)


def test_a_function_that_ignores_a_class_counts_as_an_object_does():
    def loss(y, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True, ignore_class=-1)

    loss.ignore_class = -1
    student, teacher, y = mlp(1), mlp(2), np.array([0, -1, -1, 2])
    found = [distiller_of(student, teacher, loss=each).objective(X, y) for each in (loss, cross_entropy(ignored=-1))]
    assert float(found[0]["loss"]) == pytest.approx(float(found[1]["loss"]), rel=1e-6)


def test_eager_graph_and_compiled_steps_count_alike():
    x, y = np.random.default_rng(0).integers(1, 6, (4, 5)), np.tile([0, -100, 1, 2, -100], (4, 1))
    weights = np.random.default_rng(1).uniform(size=(4, 5)).astype("float32")
    after = []
    for arguments in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        student = tagger(1, mask=False)
        loss = cross_entropy("mean_with_sample_weight", -100)
        distiller_of(student, tagger(2, mask=False), loss=loss, **arguments).fit(x, y, sample_weight=weights, verbose=0)
        after.append(np.concatenate([each.ravel() for each in student.get_weights()]))
    np.testing.assert_allclose(after[1], after[0], atol=1e-6)
    np.testing.assert_allclose(after[2], after[0], atol=1e-6)
