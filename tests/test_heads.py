"""Heads: from the outputs of a model to logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, losses
from keras_kd._internal import heads
from keras_kd._internal.layer_reader import Reader
from keras_kd.teachers import Frozen
from keras_kd.term import Term
from tests import models, references

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype("float32") * 3
ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


def logits_of(model, x, **arguments):
    return Reader(model, **arguments)(tf.constant(x), training=False)[1]["logits"].numpy()


@pytest.mark.parametrize("kind", ["auto", "logits", "values"])
def test_an_output_that_is_not_recognised_is_unchanged(kind):
    np.testing.assert_array_equal(heads.Head(kind)(tf.constant(LOGITS)), LOGITS)


def test_a_softmax_becomes_log_probabilities():
    probabilities = tf.constant([[0.5, 0.25, 0.25]])  # a plain tensor: nothing to recognise it by
    np.testing.assert_allclose(heads.Head("softmax")(probabilities), np.log([[0.5, 0.25, 0.25]]), rtol=1e-6)


def test_a_sigmoid_becomes_log_odds():
    # log(p / (1 - p)): 0.5 -> 0, 0.75 -> log 3, 0.2 -> -log 4
    received = heads.Head("sigmoid")(tf.constant([[0.5, 0.75, 0.2]]))
    np.testing.assert_allclose(received, [[0.0, np.log(3.0), -np.log(4.0)]], atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_rounded_to_0_and_1_have_finite_logits_and_gradients(kind):
    probabilities = tf.Variable([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        logits = heads.Head(kind)(probabilities)
    assert np.all(np.isfinite(logits)) and np.all(np.isfinite(tape.gradient(logits, probabilities)))
    # log of the smallest normal float32 is -87.3, and the log-odds of 1 - 2**-24 are 16.6.
    assert logits[0, 1] < -87 and logits[0, 0] >= (16.6 if kind == "sigmoid" else 0.0)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - references._logsumexp(logits)[..., None]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kind", ["auto", "softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_keras_activation_gives_its_exact_logits_back_however_extreme(activation, kind, graph):
    extreme = 200 * LOGITS

    def back(logits):
        return heads.Head(kind)(keras.activations.get(activation)(logits))

    received = (tf.function(back) if graph else back)(tf.constant(extreme))
    expected = log_softmax(extreme) if activation == "softmax" else extreme
    np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_the_inputs_of_a_softmax_over_another_axis_are_not_treated_as_logits(graph):
    def back(logits):
        return heads.Head()(keras.activations.softmax(logits, axis=1))

    values = np.random.default_rng(1).normal(size=(2, 3, 5)).astype("float32")
    received = (tf.function(back) if graph else back)(tf.constant(values))
    powers = np.exp(values.astype("float64"))
    np.testing.assert_allclose(received, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)


def test_probabilities_declared_as_values_stay_unchanged():
    output = keras.activations.softmax(tf.constant(LOGITS))
    np.testing.assert_array_equal(heads.Head("values")(output), output)


def test_an_unknown_head_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'auto', 'logits', 'softmax', 'sigmoid', 'values'.*'tanh'"):
        heads.Head("tanh")


def test_a_head_passes_the_mask_of_an_output_on():
    output = tf.constant([[[0.5, 0.5], [0.5, 0.5]]])
    output._keras_mask = tf.constant([[True, False]])
    np.testing.assert_array_equal(heads.Head("softmax")(output)._keras_mask, [[True, False]])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested"])
def test_a_head_is_recognised_however_the_model_is_built(kind, head):
    model = models.headed(0, head, kind)
    model = model if kind == "nested" else keras.Model(model.inputs[0], model.outputs[0])
    assert heads.recognise(model.outputs[0]) == head


def test_a_softmax_layer_and_a_distributed_one_are_recognised():
    inputs = keras.Input((2, 3))
    assert heads.recognise(keras.layers.Softmax()(inputs)) == "softmax"
    assert heads.recognise(keras.layers.TimeDistributed(models.dense(3, 0, activation="softmax"))(inputs)) == "softmax"


def repeated(x):
    return keras.layers.RepeatVector(3)(x)


#: What only moves values, behind a head of six classes.
MOVES = {
    "reshape": keras.layers.Reshape((1, 6)),
    "flatten": lambda x: keras.layers.Flatten()(repeated(x)[:, :1]),
    "permute there and back": lambda x: keras.layers.Permute((2, 1))(keras.layers.Permute((2, 1))(repeated(x))),
    "identity": keras.layers.Activation("linear", dtype="float32"),
    "another type": lambda x: keras.ops.cast(x, "bfloat16"),
    "dropout": lambda x: keras.layers.SpatialDropout1D(0.5)(repeated(x)),
    "noise": keras.layers.GaussianNoise(0.5),
    "crop": lambda x: keras.layers.Cropping1D(1)(repeated(x)),
    "slice": lambda x: repeated(x)[:, 1],
    "enlarge": lambda x: keras.layers.UpSampling1D(2)(repeated(x)),
    "classes reversed": lambda x: x[:, ::-1],
    "a function": keras.layers.Lambda(lambda x: tf.expand_dims(x, 1)),
    "a model": lambda x: keras.Sequential([keras.Input((6,)), keras.layers.Reshape((2, 3)), keras.layers.Flatten()])(x),
    "several heads": lambda x: keras.layers.Concatenate(axis=1)([repeated(x), keras.layers.Softmax()(repeated(x))]),
}


def behind(move, activation="softmax"):
    x = keras.Input((4,))
    return keras.Model(x, move(models.dense(6, 0, activation=activation)(x)))


@pytest.mark.parametrize("name", MOVES)
def test_a_softmax_is_recognised_behind_what_only_moves_its_values(name):
    assert heads.recognise(behind(MOVES[name]).output) == "softmax"


@pytest.mark.parametrize("name", [name for name in MOVES if name != "several heads"])
def test_a_sigmoid_and_plain_logits_are_recognised_there_too(name):
    assert heads.recognise(behind(MOVES[name], "sigmoid").output) == "sigmoid"
    plain = behind(MOVES[name], None).output
    assert heads.recognise(plain) == "auto" and not heads.in_doubt(plain)


#: What changes values, or takes a distribution apart.
CHANGES = {
    "half of the classes": lambda x: x[:, :3],
    "classes in two rows": keras.layers.Reshape((2, 3)),
    "two distributions beside each other": lambda x: keras.layers.Concatenate()([x, keras.layers.Softmax()(x)]),
    "halves of two distributions": lambda x: keras.layers.Concatenate()([x[:, :3], keras.layers.Softmax()(x)[:, 3:]]),
    "scaled": keras.layers.Rescaling(2.0),
    "the mean of two": lambda x: keras.layers.Average()([x, keras.layers.Softmax()(x)]),
    "padded": lambda x: keras.layers.ZeroPadding1D(1)(repeated(x)),
    "normalised": keras.layers.BatchNormalization(),
    "logarithms": keras.ops.log,
}


@pytest.mark.parametrize("name", CHANGES)
def test_layers_that_change_the_probabilities_make_the_head_ambiguous(name):
    output = behind(CHANGES[name]).output
    assert heads.recognise(output) == "auto" and heads.in_doubt(output)


def test_a_reshaped_softmax_teaches_what_the_softmax_taught():
    # 0.016 instead, where the probabilities are read as logits.
    student, teacher = models.linear(1), models.linear(0, activation="softmax")
    reshaped = keras.Model(teacher.input, keras.layers.Reshape((3,))(keras.layers.Reshape((1, 3))(teacher.output)))
    x, _ = models.batch()
    z, t = (x.astype("float64") @ each.get_weights()[0] + each.get_weights()[1] for each in (student, teacher))
    distiller = Distiller(student=student, teacher=reshaped)
    distiller.compile(keras.optimizers.SGD(0.0), temperature=4.0, alpha=1.0, jit_compile=False)
    expected = 16 * references.kl_divergence(z / 4, t / 4).mean()
    assert distiller.fit(x, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)


def over_axis_1(made="layer"):
    x = keras.Input((3, 4))
    scores = models.dense(4, 0)(x)
    over = {
        "layer": lambda: keras.layers.Softmax(axis=1)(scores),
        "operation": lambda: keras.ops.softmax(scores, axis=1),
        "moved": lambda: keras.layers.Permute((2, 1))(keras.layers.Softmax()(keras.layers.Permute((2, 1))(scores))),
    }
    return keras.Model(x, over[made]())


@pytest.mark.parametrize("head", ["auto", "softmax"])
@pytest.mark.parametrize("made", ["layer", "operation", "moved"])
def test_a_softmax_over_another_axis_is_refused_with_the_layer_that_moves_it(made, head):
    words = r"classes on the last axis.*\(None, 3, 4\).*over axis 1.*Permute\(\(2, 1\)\)"
    for wrapped in (Frozen(over_axis_1(made), head=head), [linear_in_time(), Frozen(over_axis_1(made), head=head)]):
        with pytest.raises(ValueError, match="teacher.*" + words):
            Distiller(student=linear_in_time(), teacher=wrapped)
    with pytest.raises(ValueError, match="student.*" + words):
        Distiller(student=over_axis_1(made), teacher=linear_in_time(), student_head=head)


def linear_in_time():
    x = keras.Input((3, 4))
    return keras.Model(x, models.dense(4, 1)(x))


def test_a_softmax_over_another_axis_teaches_once_it_is_moved():
    x = np.random.default_rng(2).normal(size=(8, 3, 4)).astype("float32")
    teacher, inputs = over_axis_1(), keras.Input((3, 4))
    student = keras.Model(inputs, models.dense(3, 1)(keras.layers.Permute((2, 1))(inputs)))
    weights, ours = teacher.get_weights(), student.get_weights()
    moved = keras.Model(teacher.input, keras.layers.Permute((2, 1))(teacher.output))
    distiller = Distiller(student=student, teacher=moved)
    distiller.compile(keras.optimizers.SGD(0.0), temperature=2.0, alpha=1.0, jit_compile=False)
    t = np.moveaxis(x.astype("float64") @ weights[0] + weights[1], 1, 2)  # its classes are along axis 1
    z = np.moveaxis(x.astype("float64"), 1, 2) @ ours[0] + ours[1]
    expected = 4 * references.kl_divergence(z / 2, t / 2).mean()
    assert distiller.fit(x, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)


def test_an_output_that_no_term_reads_may_have_its_classes_anywhere():
    x = keras.Input((3, 4))
    scores = models.dense(4, 0)(x)
    teacher = keras.Model(x, {"classes": scores, "attention": keras.layers.Softmax(axis=1)(scores)})
    Distiller(student=linear_in_time(), teacher=teacher, terms=[Term(losses.kl_divergence, at=("logits", "classes"))])


@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.GRU])
def test_the_activation_inside_of_a_recurrent_layer_is_no_head(kind):
    assert heads.recognise(kind(2, activation="sigmoid")(keras.Input((3, 4)))) == "auto"


def test_an_activation_that_a_layer_of_the_users_has_is_no_head():
    class Attention(keras.layers.Layer):
        activation = staticmethod(keras.activations.softmax)

        def call(self, x):
            return 3.0 * self.activation(x)

    assert heads.recognise(Attention()(keras.Input((4,)))) == "auto"


def test_a_model_without_a_graph_at_the_end_of_another_is_an_ambiguous_head():
    output = models.Subclassed(models.dense(3, 0))(keras.Input((4,)))
    assert heads.recognise(output) == "auto" and heads.in_doubt(output)


def test_a_model_at_every_moment_is_recognised_by_its_own_end():
    inner = keras.Sequential([keras.Input((4,)), models.dense(3, 0, activation="softmax")])
    assert heads.recognise(keras.layers.TimeDistributed(inner)(keras.Input((2, 4)))) == "softmax"


@pytest.mark.parametrize(
    ("values", "head"),
    [
        ([[0.7, 0.3], [1.0, 0.0]], "softmax"),
        ([[0.6, 0.35], [0.5, 0.5]], "sigmoid"),  # a sum of 0.95 is no distribution
        ([[0.9], [0.1]], "sigmoid"),
        ([0.9, 0.1], "sigmoid"),
        ([[0.7, 0.3], [1.2, -0.2]], None),
        ([[0.9], [1.1]], None),
        ([[0.9], [-0.1]], None),
        ([[0.0], [0.0]], None),  # as a model of zeros outputs
    ],
)
def test_only_numbers_from_0_to_1_look_like_probabilities(values, head):
    assert heads.resembles(values) == head


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "log_softmax"])
def test_another_end_is_not_treated_as_a_head(activation):
    assert heads.recognise(models.linear(0, activation=activation).output) == "auto"


@pytest.mark.parametrize("head", ["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["functional", "activation", "sequential", "nested", "subclassed"])
def test_copies_of_one_model_with_any_head_have_its_logits(kind, head):
    x, _ = models.batch()
    weights = models.linear(0).get_weights()
    expected = x.astype("float64") @ weights[0] + weights[1]
    expected = log_softmax(expected) if head == "softmax" else expected
    received = logits_of(models.headed(0, head, kind), x)
    np.testing.assert_allclose(received, expected, atol=1e-5)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_head_that_cannot_be_recognised_can_be_declared(head):
    # An activation of TensorFlow leaves no logits on its tensor.
    x, _ = models.batch()
    model = models.linear(0, activation=ACTIVATIONS[head])
    weights = model.get_weights()
    expected = x.astype("float64") @ weights[0] + weights[1]
    received = logits_of(model, x, head=head)
    np.testing.assert_allclose(received, log_softmax(expected) if head == "softmax" else expected, atol=1e-5)


def test_heads_are_declared_by_output_in_a_model_with_several():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"classes": keras.layers.Softmax()(inputs), "box": keras.activations.sigmoid(inputs)})
    read = Reader(model, head={"box": "values"})(tf.constant(LOGITS), training=False)[1]
    np.testing.assert_allclose(read["classes"], log_softmax(LOGITS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read["box"], 1 / (1 + np.exp(-LOGITS)), rtol=1e-5)


def test_a_head_for_an_output_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"\['bx'\].*\['logits'\]"):
        Reader(models.linear(0), head={"bx": "values"}, owner="teacher")


def test_values_are_learned_without_a_temperature():
    student, teacher = models.linear(1), models.linear(0)
    x, _ = models.batch()
    terms = [Term(losses.kl_divergence)]  # a loss on which the temperature would show
    distiller = Distiller(student=student, teacher=Frozen(teacher, head="values"), terms=terms, student_head="values")
    distiller.compile(keras.optimizers.SGD(0.0), temperature=7.0, alpha=1.0, jit_compile=False)
    expected = references.kl_divergence(student.predict(x, verbose=0), teacher.predict(x, verbose=0)).mean()
    assert distiller.fit(x, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)
