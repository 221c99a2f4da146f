"""Tiny models and batches that the tests share; every weight follows from a seed."""

import keras
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

#: Enough draws to meet the corners, few enough to stay fast; the first call of an operation is slow.
few = settings(max_examples=25, deadline=None)


def batch(examples: int = 8, features: int = 4, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and class ids."""
    random = np.random.default_rng(seed)
    return random.normal(size=(examples, features)).astype("float32"), random.integers(0, classes, examples)


def initial(seed: int) -> keras.initializers.Initializer:
    """Return an initializer whose numbers follow from the seed alone."""
    return keras.initializers.RandomNormal(stddev=0.7, seed=seed)


def dense(units: int, seed: int, **arguments) -> keras.layers.Dense:
    """Return a Dense layer with a bias that is not zero."""
    return keras.layers.Dense(units, kernel_initializer=initial(seed), bias_initializer=initial(seed), **arguments)


def linear(seed: int, *, features: int = 4, classes: int = 3, **arguments) -> keras.Model:
    """Return x -> x W + b, whose every gradient can be written by hand."""
    inputs = keras.Input((features,))
    return keras.Model(inputs, dense(classes, seed, name="scores", **arguments)(inputs))


def mlp(seed: int, *, features: int = 4, units: int = 5, classes: int = 3, extra=None, **arguments) -> keras.Model:
    """Return a model with the layers "hidden" and "scores"; `extra` is a layer between them."""
    inputs = keras.Input((features,))
    hidden = dense(units, seed, activation="tanh", name="hidden")(inputs)
    hidden = hidden if extra is None else extra(hidden)
    return keras.Model(inputs, dense(classes, seed + 1, name="scores", **arguments)(hidden))


def statistical(seed: int, *, features: int = 4, classes: int = 3) -> keras.Model:
    """Return a model that behaves differently in training: BatchNormalization and Dropout."""
    inputs = keras.Input((features,))
    x = dense(6, seed, name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.4, seed=seed)(keras.layers.ReLU()(x))
    return keras.Model(inputs, dense(classes, seed + 1, name="scores")(x))


def tagger(seed: int, *, words: int = 6, classes: int = 3, mask: bool = True) -> keras.Model:
    """Return (batch, time) word ids -> (batch, time, classes); id 0 is padding, which `mask` masks."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(words, 4, embeddings_initializer=initial(seed), mask_zero=mask, name="words")(inputs)
    return keras.Model(inputs, dense(classes, seed, name="scores")(x))


def headed(seed: int, head: str, kind: str = "functional") -> keras.Model:
    """Return one model of three classes that ends in logits, a softmax or a sigmoid, built in one of several ways."""
    activation = None if head == "logits" else head
    if kind == "activation":
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Activation(activation)(dense(3, seed)(inputs)))
    if kind == "sequential":
        return keras.Sequential([keras.Input((4,)), dense(3, seed, activation=activation)])
    if kind == "nested":
        inputs = keras.Input((4,))
        return keras.Model(inputs, headed(seed, head)(inputs))
    if kind == "subclassed":
        model = Subclassed(dense(3, seed, activation=activation))
        model.build((None, 4))
        return model
    return linear(seed, activation=activation)


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def build(self, shape: tuple) -> None:
        """Build the layer."""
        self.layer.build(shape)
        self.built = True

    def call(self, x):
        """Run the layer."""
        return self.layer(x)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.Model):
    """A model without a graph that Keras can write to a file."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.scores = keras.layers.Dense(3)

    def call(self, x):
        """Halve the scores."""
        return self.scores(x) / 2


class Counter(keras.layers.Layer):
    """Pass its input on, and count how often it really runs and how often it is traced."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.traces = []

    def call(self, x):
        """Count a run."""
        self.traces.append(None)
        self.count.assign_add(1.0)
        return x

    @property
    def runs(self) -> int:
        """How often the layer has run."""
        return int(self.count.numpy())


class Penalty(keras.layers.Layer):
    """Pass its input on, and add `scale * mean(x**2)` to the losses of the model."""

    def __init__(self, scale: float, **arguments) -> None:
        super().__init__(**arguments)
        self.scale = scale

    def call(self, x):
        """Add the penalty."""
        self.add_loss(self.scale * keras.ops.mean(keras.ops.square(x)))
        return x


def numbers(model: keras.Model) -> list[np.ndarray]:
    """Return copies of all of a model's variables."""
    return [variable.numpy().copy() for variable in model.variables]


def assert_same(received: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 0.0) -> None:
    """Compare weights one by one; `tolerance` is absolute."""
    assert len(received) == len(expected)
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64."""
    powers = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


@st.composite
def pairs(draw, largest: float = 10.0, smallest_side: int = 2):
    """Draw a student's and a teacher's array of one shape, (..., classes), float32."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, min_side=smallest_side, max_side=5))
    values = arrays.arrays(np.float32, shape, elements=st.floats(-largest, largest, width=32))
    return draw(values), draw(values)
