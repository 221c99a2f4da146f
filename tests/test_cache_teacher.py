"""Which teachers a cache distinguishes: those that output something else, and no others."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd._internal import code_fingerprints, teacher_fingerprints
from keras_kd.teachers.ensemble import as_teacher
from tests.caches import FEATURES, built, teacher

X = np.random.default_rng(0).normal(size=(20, FEATURES)).astype("float32")


def same_weights(model):
    """Give a model weights that follow from their shapes alone."""
    model.set_weights([np.linspace(-1, 1, w.size).reshape(w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def chain(*parts):
    return same_weights(keras.Sequential([keras.Input((FEATURES,)), *parts]))


def image_model(padding):
    parts = [layers.Conv2D(1, 3, padding=padding, name="same"), layers.GlobalMaxPooling2D()]
    return same_weights(keras.Sequential([keras.Input((2, 2, 1)), layers.ZeroPadding2D(1), *parts]))


def two_inputs(first, second):
    a, b = keras.Input((FEATURES,), name=first), keras.Input((FEATURES,), name=second)
    return same_weights(keras.Model([a, b], layers.Subtract()([layers.Dense(3)(a), layers.Dense(3)(b)])))


def two_layers(first, second):
    x = keras.Input((FEATURES,))
    return same_weights(keras.Model(x, layers.Dense(3, name=second)(layers.Dense(3, "relu", name=first)(x))))


def scaled(factor):
    return lambda x: factor * x


def through(model):
    return lambda x: model(x)


class Scaled(keras.Model):
    """A model whose configuration does not contain how it was made."""

    def __init__(self, factor, activation):
        super().__init__()
        self.factor, self._activation, self.dense = factor, activation, layers.Dense(3)

    def call(self, x):
        return self.factor * self._activation(self.dense(x))


class Shifted(Scaled):
    """Another model of the same name."""

    def call(self, x):
        return 1.0 + self.factor * self._activation(self.dense(x))


class Plain(Scaled):
    """A model with the attributes of another and a variable of its own."""

    def __init__(self, factor, activation):
        super().__init__(factor, activation)
        self.bias = self.add_weight(shape=(3,))

    def call(self, x):
        return super().call(x) + self.bias


Shifted.__name__ = Shifted.__qualname__ = "Scaled"


def subclassed(factor=2.0, activation=tf.nn.relu, kind=Scaled):
    model = kind(factor, activation)
    model(X)
    return same_weights(model)


def binned(scale):
    layer = layers.Discretization(num_bins=3)
    layer.adapt(scale * np.arange(9.0))
    return chain(layer, layers.Rescaling(1.0))


def weighed(*texts):
    words = layers.TextVectorization(output_mode="tf_idf", max_tokens=4)
    words.adapt(list(texts))
    return keras.Sequential([keras.Input((1,), dtype="string"), words])


IMAGES = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype("float32")
TEXTS = tf.constant([["a b"], ["b c"]])

#: Two teachers that differ in one thing, and what they are given.
DIFFERENT = {
    "an activation that is the layer's name": lambda: (
        chain(layers.Dense(3), layers.Activation("relu", name="relu")),
        chain(layers.Dense(3), layers.Activation("tanh", name="relu")),
        X,
    ),
    "a padding that is the layer's name": lambda: (image_model("same"), image_model("valid"), IMAGES),
    "a dtype policy": lambda: (chain(layers.Dense(3)), chain(layers.Dense(3, dtype="mixed_bfloat16")), X),
    "which entry of a dict an input reads": lambda: (
        two_inputs("a", "b"),
        two_inputs("b", "a"),
        {"a": X, "b": X[::-1]},
    ),
    "the code of a lambda": lambda: (lambda x: tf.nn.relu(x), lambda x: tf.nn.tanh(x), X),
    "a constant in a lambda": lambda: (lambda x: x * 2.0, lambda x: x * 3.0, X),
    "a number that a function encloses": lambda: (scaled(2.0), scaled(3.0), X),
    "a model that a function encloses": lambda: (through(teacher(1)), through(teacher(2)), X),
    "an argument that is given": lambda: (functools.partial(tf.multiply, 2.0), functools.partial(tf.multiply, 3.0), X),
    "an attribute of a subclassed model": lambda: (subclassed(2.0), subclassed(3.0), X),
    "a private attribute": lambda: (subclassed(), subclassed(activation=tf.nn.tanh), X),
    "a method of a class of the same name": lambda: (subclassed(), subclassed(kind=Shifted), X),
    "what comes before the model": lambda: (
        kd.teachers.Frozen(teacher(), preprocess=lambda x: x),
        kd.teachers.Frozen(teacher(), preprocess=lambda x: -x),
        X,
    ),
    "a layer's own activation": lambda: (
        chain(layers.Dense(3, activation=lambda x: x)),
        chain(layers.Dense(3, activation=lambda x: -x)),
        X,
    ),
    "the bounds of bins": lambda: (binned(0.1), binned(1.0), X),
    "the weights of words": lambda: (weighed("a b", "a c", "a"), weighed("a b", "a c"), TEXTS),
}


@pytest.mark.filterwarnings("ignore")  # Keras warns of every lambda that is written down
@pytest.mark.parametrize("what", DIFFERENT)
def test_teachers_that_output_something_else_are_distinguished(what):
    first, second, x = DIFFERENT[what]()
    first, second = as_teacher(first), as_teacher(second)
    outputs = [np.asarray(each(x, {})["logits"], np.float64) for each in (first, second)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    assert teacher_fingerprints.with_code(first) != teacher_fingerprints.with_code(second)


def test_which_layer_a_tap_reads_counts_and_other_names_do_not():
    one, other = as_teacher(two_layers("p", "q")), as_teacher(two_layers("q", "p"))
    assert teacher_fingerprints.with_code(one, ("p",)) != teacher_fingerprints.with_code(other, ("p",))
    assert teacher_fingerprints.with_code(one, ("logits",)) == teacher_fingerprints.with_code(other, ("logits",))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(layers.Dense(FEATURES, "relu"), chain(layers.Dense(3), layers.BatchNormalization())),
        lambda: two_inputs("a", "b"),
        lambda: lambda x: tf.nn.relu(x) * 2.0,
        lambda: scaled(2.0),
        lambda: through(teacher(1)),
        subclassed,
        lambda: kd.teachers.Frozen(teacher(), preprocess=lambda x: -x),
        lambda: binned(0.1),
        lambda: [teacher(1), subclassed(3.0)],
    ],
)
def test_a_teacher_that_is_created_again_is_the_same(make):
    first = teacher_fingerprints.with_code(as_teacher(make()))
    layers.Dense(3), layers.Activation("relu"), keras.Input((1,))  # names count up
    assert teacher_fingerprints.with_code(as_teacher(make())) == first


def test_training_changes_weights_and_nothing_else():
    model = subclassed(kind=Plain)
    before = teacher_fingerprints.with_code(as_teacher(model))
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], verbose=0)
    after = teacher_fingerprints.with_code(as_teacher(model))
    assert {name for name in before if before[name] != after[name]} == {"teacher_weights"}


def test_another_second_member_is_another_ensemble(tmp_path):
    built(tmp_path, teacher=[teacher(1), teacher(2)])
    kd.TeacherCache(tmp_path, teacher=[teacher(1), teacher(2)])
    other = teacher(2)
    other.set_weights(teacher(3).get_weights())
    with pytest.raises(ValueError, match="one of its weights, is another"):
        kd.TeacherCache(tmp_path, teacher=[teacher(1), other])


def test_another_graph_at_the_same_path_is_another_saved_model(tmp_path):
    found = []
    for activation in ("relu", "tanh"):
        chain(layers.Dense(3, activation)).export(tmp_path / "model", verbose=False)
        found.append(teacher_fingerprints.with_code(kd.teachers.SavedModel(str(tmp_path / "model"))))
    assert found[0] != found[1]
    assert found[0]["teacher_weights"] == found[1]["teacher_weights"]


def test_a_cache_refuses_a_function_with_other_code(tmp_path):
    built(tmp_path, teacher=scaled(2.0))
    with pytest.raises(ValueError, match="a value that it uses, is another.*open the cache without a teacher"):
        kd.TeacherCache(tmp_path, teacher=scaled(3.0))
    assert kd.TeacherCache(tmp_path).info().examples == 50


def test_bytecode_of_another_version_of_python_is_not_compared(tmp_path, monkeypatch):
    built(tmp_path, teacher=scaled(2.0))
    monkeypatch.setattr(code_fingerprints, "version", lambda: "python 2.7: ")
    kd.TeacherCache(tmp_path, teacher=scaled(3.0))


class Counting(Scaled):
    """A model that counts how often it was traced."""

    def __init__(self, factor, activation):
        super().__init__(factor, activation)
        self.traced = 0

    def call(self, x):
        self.traced += 1
        return super().call(x)


def test_a_count_is_no_setting_and_a_warning_names_it(tmp_path):
    model = subclassed(kind=Counting)
    with pytest.warns(UserWarning, match="Changes of 'traced' of the layer .*, which its methods change cannot be"):
        built(tmp_path, teacher=model)
    assert model.traced > 1
    kd.TeacherCache(tmp_path, teacher=model)


class Holder:
    """An object of an unknown class."""

    def __init__(self):
        self.model = teacher()

    def __call__(self, x):
        return self.model(x)


def test_a_build_warns_of_what_cannot_be_distinguished(tmp_path):
    held = Holder()
    with pytest.warns(UserWarning, match="Changes of an object of type Holder in .*, as 'held' cannot be noticed"):
        built(tmp_path, teacher=lambda x: held(x))


@pytest.mark.filterwarnings("error:Changes of")
@pytest.mark.parametrize(
    "make", [teacher, lambda: subclassed(kind=Plain), lambda: through(teacher()), lambda: [teacher(1), teacher(2)]]
)
def test_a_build_does_not_warn_of_what_can_be_distinguished(tmp_path, make):
    built(tmp_path, teacher=make())


@tf.function
def doubled(x):
    """A function whose code is in another object."""
    return 2.0 * x


def test_recursion_compiled_functions_and_libraries_are_read_through():
    def again(x, depth=1):
        return again(x, depth - 1) if depth else doubled(x) + np.float32(1) + tf.nn.relu(x)

    assert code_fingerprints.read(as_teacher(again)).unread == ()
