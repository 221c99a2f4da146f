"""Steps that are called directly equal those that Keras calls, are traced as seldom, and keep nothing alive."""

import contextlib
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._keras import loops
from tests.models import Counter, batch, linear, mlp, statistical

X, Y = batch(10)
W = np.linspace(0.5, 1.5, len(X), dtype="float32")
TARGETS = {"logits": batch(10, 3, seed=1)[0]}


def distil(student, teacher=None, **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher or linear(2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"], weighted_metrics=["accuracy"], **arguments)
    return distiller


def named(model):
    inputs = keras.Input((4,), name="features")
    return keras.Model({"features": inputs}, model(inputs))


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(4)


def in_two(*more):
    yield X[:4], Y[:4], *more
    yield X[4:], Y[4:], *more


def of_unknown_shapes():
    unknown = (tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int64))
    return tf.data.Dataset.from_generator(in_two, output_signature=unknown)


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 4},
    "weights": lambda: {"x": X, "y": Y, "sample_weight": W, "batch_size": 4},
    "a dataset": lambda: {"x": batches(X, Y, W)},
    "a dict": lambda: {"x": {"features": X}, "y": Y, "batch_size": 4},
    "targets": lambda: {"x": batches(kd.Joined(X, TARGETS), Y)},
    "targets of one size": lambda: {"x": batches(kd.Joined(X, TARGETS), Y).take(2)},  # XLA compiles each size anew
    "unknown shapes": lambda: {"x": of_unknown_shapes()},
    "a generator": lambda: {"x": in_two(None)},  # for which Keras puts an optional
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("data", "compiled"),
    [*((data, "one size" in data) for data in DATA), pytest.param("targets", True, marks=pytest.mark.slow)],
)
def test_they_equal_those_that_keras_calls(data, compiled, monkeypatch):
    def trained():
        keras.utils.set_random_seed(0)
        student, teacher = statistical(1), kd.teachers.Cached() if "targets" in data else linear(2)
        if data == "a dict":
            student, teacher = named(student), named(teacher)
        distiller = distil(student, teacher, jit_compile=compiled)
        logs = distiller.fit(**DATA[data](), shuffle=False, verbose=0).history
        return logs, distiller.evaluate(**DATA[data](), verbose=0), distiller.get_weights()

    ours = trained()
    monkeypatch.setattr(loops, "fast_function", lambda model, step, function: function)
    keras.tree.map_structure(np.testing.assert_array_equal, ours, trained())


def test_they_are_called_directly_only_one_at_a_time_on_one_device():
    def calls(strategy=None, eagerly=False, **arguments):
        with strategy.scope() if strategy else contextlib.nullcontext():
            distiller = distil(mlp(1), mlp(2), **arguments)
            distiller.optimizer.build(distiller.trainable_variables)
        others = []
        direct = loops.fast_function(distiller, distiller.train_step, others.append)
        tf.config.run_functions_eagerly(eagerly)
        try:
            direct(iter(batches(X, Y)))
        finally:
            tf.config.run_functions_eagerly(False)
        return len(others)

    assert calls() == 0
    assert calls(steps_per_execution=2) == 1
    assert calls(run_eagerly=True) == 1
    assert calls(eagerly=True) == 1
    assert calls(tf.distribute.OneDeviceStrategy("CPU:0")) == 1
    assert calls(tf.distribute.MirroredStrategy(["CPU:0"]), jit_compile=False) == 1


@pytest.mark.slow
def test_only_batches_of_another_kind_are_traced_anew():
    counter = Counter()
    distiller = distil(mlp(1, extra=counter), mlp(2))
    before = len(counter.traces)

    def traced(*parts):
        distiller.fit(batches(*parts), epochs=2, verbose=0)
        return len(counter.traces) - before

    assert [traced(X, Y), traced(X[:5], Y[:5]), traced(X, Y, W), traced(X, Y), traced(X, Y, W)] == [1, 1, 2, 2, 2]


def of_two_outputs(*hidden):
    outputs = keras.Input((4,))
    inputs = outputs
    for layer in hidden:
        outputs = layer(outputs)
    return keras.Model(inputs, {name: keras.layers.Dense(3, name=name)(outputs) for name in "ab"})


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "b": 2.0}])
def test_a_student_of_several_outputs_is_traced_once(weights):
    counter = Counter()
    terms = [kd.Term(kd.losses.kl_divergence, at=(name, name), name=f"kd_{name}") for name in "ab"]
    distiller = kd.Distiller(student=of_two_outputs(counter), teacher=of_two_outputs(), terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", {"a": loss, "b": loss}, loss_weights=weights, metrics={"a": ["accuracy"]})
    before = len(counter.traces)
    logs = distiller.fit(batches(X, {"a": Y, "b": Y}), verbose=0).history
    assert len(counter.traces) - before == 1
    assert {"a_loss", "b_loss", "a_accuracy"} <= logs.keys()


def test_two_iterators_may_take_turns():
    distiller = distil(mlp(1), mlp(2))
    distiller.optimizer.build(distiller.trainable_variables)
    call = loops.fast_function(distiller, distiller.train_step, lambda iterator: None)
    first, second = iter(batches(X, Y)), iter(batches(X, Y, W))
    assert all(call(iterator) for iterator in (first, second, first, second))
    assert int(distiller.optimizer.iterations) == 4


@pytest.mark.slow
def test_no_iterator_is_kept():
    distiller = distil(mlp(1), mlp(2))
    distiller.fit(batches(X, Y), validation_data=batches(X, Y), epochs=2, verbose=0)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, tf.data.Iterator)]
