"""SDD: a classifier's logits in parts of an image, and what a student learns from them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_kd as kd
from keras_kd import losses, methods
from keras_kd.local_logits import CellMeans, _shares
from tests import references

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 8, 12, 3)).astype("float32")
Y = np.arange(6) % 4


def classifier(filters=5, seed=0, shape=X.shape[1:], name=None, dropout=0.5, **head):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    maps = layers.Conv2D(filters, 3, padding="same", activation="relu", name="maps")(inputs)
    pooled = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(maps))
    return keras.Model(inputs, layers.Dense(4, bias_initializer="normal", name="head", **head)(pooled), name=name)


def outputs(model, x=X):
    """Return a model's logits and local logits."""
    local = keras.Model(model.input, [model.output, model.get_layer("local_logits").output])
    return [np.asarray(each) for each in local(x, training=False)]


def by_hand(model, scales, x=X):
    """Return the logits of each position, by the head as a 1x1 convolution, averaged over each cell, in float64."""
    maps = np.asarray(keras.Model(model.input, model.get_layer("maps").output)(x)).astype("float64")
    kernel, bias = (each.astype("float64") for each in model.get_layer("head").get_weights())
    logits = maps @ kernel + bias
    height, width = logits.shape[1:3]
    cells = []
    for scale in scales:
        for i in range(scale):
            for j in range(scale):
                rows = slice(int(np.floor(i * height / scale)), int(np.ceil((i + 1) * height / scale)))
                columns = slice(int(np.floor(j * width / scale)), int(np.ceil((j + 1) * width / scale)))
                cells.append(logits[:, rows, columns].mean(axis=(1, 2)))
    return np.stack(cells, axis=1)


@pytest.mark.parametrize("scales", [(1,), (1, 2), (1, 2, 4), (1, 3), (1, 5, 8)], ids=str)
def test_each_cell_has_the_mean_of_the_logits_of_its_positions(scales):
    model = classifier()
    logits, local = outputs(methods.with_local_logits(model, scales))
    np.testing.assert_allclose(local, by_hand(model, scales), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, model(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits, local[:, 0])


@given(st.integers(1, 9), st.integers(0, 12))
@settings(deadline=None, max_examples=50)
def test_cells_cover_a_side_and_share_it_evenly(scale, more):
    shares = _shares(scale, side := scale + more)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares.sum(axis=0) > 0).all()
    assert all(np.ptp(np.flatnonzero(row)) == np.count_nonzero(row) - 1 for row in shares)
    if side % scale == 0:
        np.testing.assert_allclose(shares, np.repeat(np.eye(scale), side // scale, axis=1) * scale / side)


def test_channels_may_come_first():
    last, first = CellMeans(), CellMeans(data_format="channels_first")
    np.testing.assert_array_equal(first(X.transpose(0, 3, 1, 2)), last(X))
    assert first.compute_output_shape((None, 3, 8, 12)) == last.compute_output_shape((None, 8, 12, 3)) == (None, 21, 3)


def test_the_layers_are_those_of_the_model_and_the_new_one_is_loaded_as_it_was(tmp_path):
    model = classifier()
    local = methods.with_local_logits(model, scales=(1, 2))
    assert local.get_layer("head") is model.get_layer("head")
    local.save(tmp_path / "local.keras")
    for one, other in zip(outputs(keras.models.load_model(tmp_path / "local.keras")), outputs(local), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_nested_backbone_is_read_at_its_end():
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3, padding="same")])
    nested = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(backbone(inputs))))
    x = X[:, :, :8]
    np.testing.assert_allclose(methods.with_local_logits(nested)(x), nested(x), rtol=1e-5, atol=1e-6)


def ends_in(*head, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), layers.Conv2D(5, 3, padding="same"), *head])


@pytest.mark.parametrize(
    "model, words",
    [
        (lambda: ends_in(layers.Flatten(), layers.Dense(4)), "'Flatten', 'Dense'"),
        (lambda: ends_in(layers.GlobalAveragePooling2D(), layers.Dense(4, "softmax")), "without activation"),
        (lambda: ends_in(layers.GlobalAveragePooling2D()), "'GlobalAveragePooling2D'"),
        (lambda: ends_in(layers.GlobalMaxPooling2D(), layers.Dense(4)), "'GlobalMaxPooling2D', 'Dense'"),
        (lambda: ends_in(layers.GlobalAveragePooling2D(), layers.Dense(4), layers.Dense(4)), "'Dense', 'Dense'"),
        (lambda: ends_in(layers.GlobalAveragePooling2D(keepdims=True), layers.Dense(4)), "'Dense'"),
        (lambda: classifier(shape=(3, 8, 3)), "at least 4 x 4"),
        (lambda: classifier(shape=(None, None, 3)), "known size"),
        (lambda: keras.Sequential([layers.Dense(4)]), "built Functional"),
    ],
)
def test_a_model_without_such_a_head_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        methods.with_local_logits(model())


@pytest.mark.parametrize("scales", [(), (2, 4), (1, 4, 2), (1, 1)], ids=str)
def test_scales_rise_from_1(scales):
    with pytest.raises(ValueError, match="rise from 1"):
        CellMeans(scales)


def test_complementary_cells_are_those_whose_top_class_is_not_the_whole_images():
    teacher = np.array([[[3.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    student = np.zeros((1, 4, 3))
    each = references.kl_divergence(student, teacher)[0]
    expected = (each[0] + each[1] + 2 * each[2] + 2 * each[3]) / 4
    np.testing.assert_allclose(losses.scale_decoupled_kl(student, teacher), [expected], rtol=1e-6)
    swapped = losses.scale_decoupled_kl(teacher, student)  # of the student, the top class does not matter
    np.testing.assert_allclose(swapped, [references.kl_divergence(teacher, student).mean()], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (2, 3, 4, 5)], ids=str)
def test_logits_of_no_cells_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 classes|cells, classes"):
        losses.scale_decoupled_kl(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_value_and_gradient_are_the_same_eagerly_in_a_graph_and_compiled(jit_compile):
    student, teacher = (RANDOM.normal(size=(3, 5, 4)).astype("float32") for _ in range(2))

    def value_and_slope(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = losses.scale_decoupled_kl(student, teacher)
        return value, tape.gradient(value, student)

    eager = value_and_slope(tf.constant(student))
    for one, other in zip(eager, tf.function(value_and_slope, jit_compile=jit_compile)(student), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    weights = np.where(teacher.argmax(-1) == teacher.argmax(-1)[:, :1], 1.0, 2.0)[..., None] / 5
    q, p = (np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True) for each in (student, teacher))
    slope = weights * (q - p)
    np.testing.assert_allclose(eager[1], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_student_that_was_given_learns(in_memory, tmp_path):
    small, large = classifier(3, seed=1, name="small", dropout=0), classifier(5, seed=2, name="large")
    student, teacher = methods.with_local_logits(small), methods.with_local_logits(large)
    (ours, theirs), before = (outputs(each)[1] for each in (student, teacher)), small.get_weights()
    taught = kd.teachers.InMemory(teacher) if in_memory else teacher
    distiller = kd.Distiller(student=student, teacher=taught, terms=methods.sdd(complementary_weight=3.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, alpha=0.9, run_eagerly=not in_memory)
    expected = 16 * references.scale_decoupled_kl(ours / 4, theirs / 4, 3.0).mean()
    assert distiller.fit(X, Y, verbose=0).history["distillation_loss"] == pytest.approx(
        [expected], rel=1e-4
    )  # before its one step
    assert all((one != other).any() for one, other in zip(before, small.get_weights(), strict=True))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(X), student(X, training=False), rtol=1e-5, atol=1e-6)


def test_a_model_without_local_logits_is_refused_with_what_it_offers():
    with pytest.raises(ValueError, match="'local_logits' to be an output or a layer of the student"):
        kd.Distiller(student=classifier(), teacher=methods.with_local_logits(classifier()), terms=methods.sdd())
