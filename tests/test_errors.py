"""Bad input: each has a clear error, a ValueError or a TypeError, before the first step changes anything."""

import inspect
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.models import Subclassed, assert_same, batch, dense, linear, mlp, numbers

X, Y = batch(8)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HIDDEN = ("hidden", "hidden")
SAID_BADLY = (math.nan, math.inf, -math.inf)


def distil(student=None, teacher=None, terms=None):
    return kd.Distiller(student=student or linear(1), teacher=teacher or linear(2), terms=terms)


def subclassed(seed, classes):
    model = Subclassed(dense(classes, seed))
    model(X)
    return model


def refused(error, words, action, *arguments, **keywords):
    """Assert that an action raises an error that contains all the words, and return the message."""
    with pytest.raises(error) as caught:
        action(*arguments, **keywords)
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} are not in: {message}"
    return message


def fit_is_refused(error, words, distiller, *arguments, **keywords):
    """The same for `fit`, which must not have taken a step."""
    before = numbers(distiller.student)
    refused(error, words, distiller.fit, *arguments, verbose=0, **keywords)
    assert int(distiller.optimizer.iterations) == 0
    assert_same(numbers(distiller.student), before)


# Student and teacher.


def test_one_model_cannot_be_student_and_teacher():
    model = linear(1)
    distiller = distil()
    for teacher in (model, kd.teachers.Frozen(model)):
        refused(ValueError, ["two models", model.name], kd.Distiller, student=model, teacher=teacher)
    refused(ValueError, ["two models", distiller.student.name], setattr, distiller, "teacher", distiller.student)


def test_a_student_cannot_train_weights_of_its_teacher():
    student = linear(1)
    teacher = keras.Sequential([keras.Input((4,)), student, dense(3, 2)])
    words = ["two models", "kernel", "clone_model", "freeze"]
    refused(ValueError, words, kd.Distiller, student=student, teacher=teacher)


def test_a_frozen_backbone_may_be_shared():
    backbone = dense(5, 1)
    backbone.trainable = False
    student, teacher = (keras.Sequential([keras.Input((4,)), backbone, dense(3, seed)]) for seed in (1, 2))
    distiller = distil(student, teacher)
    distiller.compile("sgd", alpha=1.0)
    assert np.isfinite(distiller.fit(X, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("make", [lambda seed, n: linear(seed, classes=n), subclassed], ids=["graph", "no graph"])
def test_class_counts_that_differ_are_named(make):
    student, teacher = make(1, 3), make(2, 7)
    words = ["student (", "3)", "teacher (", "7)", "bridge", "transform"]

    def build_and_fit():
        distiller = distil(student, teacher)
        distiller.compile("sgd", alpha=1.0)
        distiller.fit(X, verbose=0)

    before = numbers(student)
    refused(ValueError, words, build_and_fit)
    assert_same(numbers(student), before)


def test_class_counts_that_differ_are_found_as_soon_as_both_are_known():
    words = ["kl_divergence", "(None, 3)", "(None, 7)"]
    refused(ValueError, words, kd.Distiller, student=linear(1), teacher=linear(2, classes=7))
    refused(ValueError, words, setattr, distil(), "teacher", linear(2, classes=7))


@pytest.mark.parametrize(
    "make", [lambda: keras.Sequential([dense(3, 1)]), lambda: Subclassed(dense(3, 1)), lambda: dense(3, 1)]
)
def test_an_unbuilt_teacher_is_named(make):
    teacher = make()
    words = [repr(teacher.name), "not built", "load_model"]
    refused(ValueError, words, kd.Distiller, student=linear(1), teacher=teacher)


@pytest.mark.parametrize("teacher", ["teacher.keras", np.zeros((4, 3)), keras.Sequential])
def test_a_teacher_that_is_no_model_is_shown(teacher):
    words = ["teacher", "Keras model or layer", type(teacher).__name__]
    refused(TypeError, words, kd.Distiller, student=linear(1), teacher=teacher)


@pytest.mark.parametrize("student", [None, "student.keras", lambda x: x])
def test_a_student_that_is_no_model_is_shown(student):
    refused(TypeError, ["student", "keras.Model", repr(student)], kd.Distiller, student=student, teacher=linear(2))


def test_a_distiller_without_a_teacher_is_refused():
    distiller = kd.Distiller(student=linear(1), teacher=None)
    distiller.compile("sgd", CROSS_ENTROPY)
    fit_is_refused(ValueError, ["no teacher", "distiller.teacher ="], distiller, X, Y)


# Layers and shapes.


def nested(seed):
    backbone = keras.Sequential([keras.Input((4,)), dense(5, seed, name="block4")], name="backbone")
    x = keras.Input((4,))
    return keras.Model(x, dense(3, seed)(backbone(x)))


@pytest.mark.parametrize(
    "at, owner, wrong, close",
    [
        (("hiden", "backbone/block4"), "student", "hiden", "hidden"),
        (("hidden", "backbone/blok4"), "teacher", "blok4", "block4"),
        (("hidden", "block4"), "teacher", "block4", "backbone/block4"),
    ],
    ids=["misspelt", "misspelt inside a nested model", "nested model left out"],
)
def test_the_error_of_a_layer_that_does_not_exist_lists_close_names(at, owner, wrong, close):
    term = kd.Term(kd.losses.squared_error, at=at)
    message = refused(ValueError, [owner, f"{wrong}'", "Did you mean"], distil, mlp(1), nested(2), [term])
    assert f"{close}'" in message[message.index("Did you mean") :].split("?")[0]


def test_the_error_of_a_name_unlike_any_layer_lists_all_of_them():
    term = kd.Term(kd.losses.squared_error, at=("zzz", "hidden"))
    message = refused(ValueError, ["'zzz'", "student", "'hidden'", "'scores'"], distil, mlp(1), mlp(2), [term])
    assert "Did you mean" not in message


def test_a_layer_of_a_subclassed_model_cannot_be_read():
    distiller = distil(subclassed(1, 3), mlp(2), [kd.Term(kd.losses.squared_error, at=HIDDEN)])
    distiller.compile("sgd", alpha=1.0)
    fit_is_refused(ValueError, ["'hidden'", "student", "logits", "Functional"], distiller, X)


def test_a_shared_layer_is_refused_by_name():
    x, shared = keras.Input((4,)), dense(4, 1, name="shared")
    twice = keras.Model(x, dense(3, 1)(shared(shared(x))))
    term = kd.Term(kd.losses.squared_error, at=("shared", "hidden"))
    refused(ValueError, ["'shared'", "student", "2 times", "Identity"], distil, twice, mlp(2), [term])


def test_features_of_different_shapes_are_refused_with_the_bridge_to_use():
    term = kd.Term(kd.losses.squared_error, at=HIDDEN)
    words = ["squared_error_hidden", "'hidden'", "(None, 5)", "(None, 9)", "bridge"]
    refused(ValueError, words, distil, mlp(1, units=5), mlp(2, units=9), [term])
    bridged = kd.Term(kd.losses.squared_error, at=HIDDEN, bridge=dense(8, 3))
    refused(ValueError, ["(None, 8)", "(None, 9)"], distil, mlp(1, units=5), mlp(2, units=9), [bridged])


def test_several_outputs_have_to_be_named():
    def model(seed):
        x = keras.Input((4,))
        return keras.Model(x, {"kind": linear(seed)(x), "box": linear(seed)(x)})

    refused(ValueError, ["'logits'", "student", "'box'", "'kind'", "`at`"], distil, model(1), model(2))


def test_one_logit_under_a_softmax_loss_is_refused_with_the_loss_to_use():
    refused(ValueError, ["single logit", "binary_kl"], distil, linear(1, classes=1), linear(2, classes=1))


@pytest.mark.parametrize("seen", ["as a model", "as a function", "not yet"])
def test_the_error_of_a_term_begins_with_our_message_and_has_no_text_of_keras(seen):
    teacher = linear(2, classes=1)
    given = {"as a model": teacher, "as a function": lambda x: teacher(x), "not yet": None}[seen]
    terms = [kd.Term(kd.losses.kl_divergence)]
    words = ["at least 2 classes", "student (None, 1)", "binary_kl"]
    student = linear(1, classes=1)
    message = refused(ValueError, words, kd.Distiller, student=student, teacher=given, terms=terms)
    assert message.startswith("Term 'kl_divergence' reads") and message.endswith("for a value.")


def test_the_error_of_a_head_that_does_not_exist_lists_those_that_do():
    words = ["'softmx'", "softmax", "sigmoid", "logits", "values"]
    refused(ValueError, words, kd.Distiller, student=linear(1), teacher=linear(2), student_head="softmx")
    refused(ValueError, words, kd.teachers.Frozen, linear(2), head="softmx")
    words = ["'kind'", "student", "logits"]
    refused(ValueError, words, kd.Distiller, student=linear(1), teacher=linear(2), student_head={"kind": "values"})


# Terms.


@pytest.mark.parametrize("terms", [[], ["kl_divergence"], [kd.losses.kl_divergence]])
def test_terms_have_to_be_terms(terms):
    refused(TypeError, ["terms", "keras_kd.Term", repr(terms)], distil, terms=terms)


def test_two_terms_of_one_name_or_one_named_as_a_log_are_refused():
    term = kd.Term(kd.losses.kl_divergence)
    again = kd.Term(kd.losses.kl_divergence, temperature=4.0)
    refused(ValueError, ["kl_divergence", "name"], distil, terms=[term, again])
    for name in ("loss", "student_loss", "distillation_loss", "val_loss", "val_accuracy"):
        refused(ValueError, [name, "name"], distil, terms=[kd.Term(kd.losses.kl_divergence, name=name)])


def test_a_term_named_as_a_metric_is_refused():
    terms = [kd.Term(kd.losses.kl_divergence, name="accuracy"), kd.Term(kd.losses.squared_error)]
    distiller = distil(terms=terms)
    distiller.compile("sgd", CROSS_ENTROPY, metrics=["accuracy"])
    fit_is_refused(ValueError, ["accuracy", "metrics", "`name`"], distiller, X, Y)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("where", ["metrics", "weighted_metrics"])
@pytest.mark.parametrize("name", ["loss", "student_loss", "distillation_loss", "kl_divergence"])
def test_a_metric_named_as_a_part_of_the_logs_is_refused_before_the_first_step(name, where, eager):
    distiller = distil(terms=[kd.Term(kd.losses.kl_divergence), kd.Term(kd.losses.squared_error)])
    metric = keras.metrics.SparseCategoricalAccuracy(name=name)
    distiller.compile("sgd", CROSS_ENTROPY, run_eagerly=eager, **{where: [metric]})
    before = distiller.student.get_weights()
    fit_is_refused(ValueError, [name, "metrics", "`name`"], distiller, X, Y)
    refused(ValueError, [name, "metrics", "`name`"], distiller.evaluate, X, Y, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(distiller.student.get_weights(), before, strict=True))


def test_an_output_whose_loss_is_named_as_a_part_of_the_logs_is_refused():
    def model(seed):
        x = keras.Input((4,))
        return keras.Model(x, {"student": linear(seed)(x), "other": linear(seed + 1)(x)})

    distiller = kd.Distiller(student=model(1), teacher=model(3), terms=[kd.Term(kd.losses.kl_divergence, at="other")])
    distiller.compile("sgd", CROSS_ENTROPY)
    fit_is_refused(ValueError, ["student_loss", "output", "`name`"], distiller, X, {"student": Y, "other": Y})


@pytest.mark.slow
def test_metrics_of_several_outputs_are_known_by_their_full_names():
    def model(seed):
        x = keras.Input((4,))
        return keras.Model(x, {"kind": linear(seed)(x), "other": linear(seed + 1)(x)})

    def compiled(name):
        terms = [kd.Term(kd.losses.kl_divergence, at="kind", name=name), kd.Term(kd.losses.squared_error, at="other")]
        distiller = kd.Distiller(student=model(1), teacher=model(3), terms=terms)
        distiller.compile("sgd", CROSS_ENTROPY, metrics={"kind": ["accuracy"]}, alpha=1.0)
        return distiller

    y = {"kind": Y, "other": Y}
    fit_is_refused(ValueError, ["kind_accuracy", "`name`"], compiled("kind_accuracy"), X, y)
    distiller = compiled("accuracy")  # the metric is logged as "kind_accuracy"
    assert {"accuracy", "kind_accuracy"} <= set(distiller.fit(X, y, verbose=0).history)
    assert "kind_accuracy" not in distiller.fit(X, verbose=0).history  # without labels it is not logged


@pytest.mark.parametrize("at", [("a",), ("a", "b", "c"), ("a", 3), 7, (), ((), "b")])
def test_at_is_a_name_or_a_pair(at):
    refused(ValueError, ["`at`", "logits", "pair", repr(at)], kd.Term, kd.losses.squared_error, at=at)


def test_a_loss_has_to_be_callable():
    refused(TypeError, ["`loss`", "7", "int"], kd.Term, 7)
    refused(ValueError, ["'kl'", "mean_squared_error", "keras_kd.losses"], kd.Term, "kl")


@pytest.mark.parametrize(
    "loss, name, instead",
    [
        (keras.losses.KLDivergence(), "kl_divergence", "kl_divergence"),
        (keras.losses.CategoricalCrossentropy(), "categorical_crossentropy", "kl_divergence"),
        (keras.losses.BinaryCrossentropy(), "binary_crossentropy", "binary_kl"),
    ],
)
def test_a_keras_loss_on_probabilities_is_refused_with_the_loss_to_use(loss, name, instead):
    refused(ValueError, [name, "probabilities", f"losses.{instead}"], kd.Term, loss)


@pytest.mark.parametrize("weight", [-1.0, *SAID_BADLY])
def test_the_weight_of_a_term_is_a_finite_number_from_0(weight):
    refused(ValueError, ["weight", repr(weight)], kd.Term, kd.losses.kl_divergence, weight=weight)


# Numbers.


@pytest.mark.parametrize("alpha", [-0.1, 1.1, *SAID_BADLY])
def test_alpha_is_from_0_to_1(alpha):
    distiller = distil()
    for action in (
        lambda: distiller.compile("sgd", CROSS_ENTROPY, alpha=alpha),
        lambda: distiller.compile("sgd", CROSS_ENTROPY, alpha=lambda step: alpha),
    ):
        refused(ValueError, ["alpha"], action)
    distiller.compile("sgd", CROSS_ENTROPY, alpha=0.5)
    refused(ValueError, ["alpha", repr(alpha)], setattr, distiller, "alpha", alpha)
    assert distiller.alpha == 0.5


@pytest.mark.parametrize("temperature", [0.0, -1.0, *SAID_BADLY])
def test_the_temperature_is_above_0(temperature):
    distiller = distil()
    words = ["temperature", repr(temperature)]
    refused(ValueError, words, distiller.compile, "sgd", CROSS_ENTROPY, temperature=temperature)
    refused(ValueError, words, kd.Term, kd.losses.kl_divergence, temperature=temperature)
    distiller.compile("sgd", CROSS_ENTROPY, temperature=3.0)
    refused(ValueError, words, setattr, distiller, "temperature", temperature)
    assert distiller.temperature == 3.0


@pytest.mark.parametrize("name", ["alpha", "temperature"])
def test_a_number_given_as_text_is_refused_and_shown(name):
    refused(TypeError, [name, "'0.5'", "str"], distil().compile, "sgd", CROSS_ENTROPY, **{name: "0.5"})
    refused(TypeError, [name, "None"], distil().compile, "sgd", CROSS_ENTROPY, **{name: None})


def test_a_ramp_needs_a_step_and_finite_ends():
    refused(ValueError, ["`steps`", "0"], kd.schedules.Ramp, 0.0, 1.0, steps=0)
    refused(ValueError, ["`end`", "nan"], kd.schedules.Ramp, 0.0, math.nan, steps=3)


# Labels.


@pytest.mark.parametrize("alpha", [0.0, 0.5, lambda step: 1.0], ids=["0", "0.5", "schedule"])
def test_labels_share_of_the_objective_needs_a_loss(alpha):
    refused(ValueError, ["`loss`", "alpha=1.0"], distil().compile, "sgd", alpha=alpha)


def test_weights_in_the_place_of_the_batch_size_are_refused():
    distiller = distil()
    distiller.compile("sgd", CROSS_ENTROPY, alpha=0.5)
    fit_is_refused(TypeError, ["`batch_size`", "sample_weight=weights", "(8,)"], distiller, X, Y, np.ones(8))


def test_labels_share_of_the_objective_needs_labels():
    distiller = distil()
    distiller.compile("sgd", CROSS_ENTROPY, alpha=0.5)
    fit_is_refused(ValueError, ["labels", "alpha=0.5", "alpha=1.0"], distiller, X)


def test_alpha_stays_1_where_nothing_else_is_left_to_learn_from():
    distiller = distil()
    distiller.compile("sgd", alpha=1.0)
    refused(ValueError, ["alpha=1.0", "alpha=0.5", "loss"], setattr, distiller, "alpha", 0.5)
    assert distiller.alpha == 1.0


def to_label(student, teacher, labels):
    """A loss that needs labels: the teacher's logit of the label against the student's."""
    chosen = keras.ops.one_hot(labels, student.shape[-1], dtype=student.dtype)
    return keras.ops.sum(chosen * keras.ops.square(student - teacher), axis=-1)


OUT_OF_RANGE = [np.where(np.arange(8) == 5, label, Y) for label in (-1, 3)]


@pytest.mark.parametrize("source", ["numpy", "tf.data"])
@pytest.mark.parametrize("labels", OUT_OF_RANGE, ids=["below", "above"])
def test_labels_out_of_range_are_refused_by_a_loss_that_needs_them(labels, source):
    distiller = distil(terms=[kd.Term(to_label)])
    distiller.compile("sgd", alpha=1.0)
    data = (X, labels) if source == "numpy" else [tf.data.Dataset.from_tensors((X, labels))]
    fit_is_refused(ValueError, ["to_label", "labels", "0 to 2"], distiller, *data)


def test_labels_out_of_range_are_refused_in_evaluation_too():
    distiller = distil(terms=[kd.Term(to_label)])
    distiller.compile("sgd", alpha=1.0)
    refused(ValueError, ["to_label", "labels", "0 to 2"], distiller.evaluate, X, OUT_OF_RANGE[1], verbose=0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("labels", OUT_OF_RANGE, ids=["below", "above"])
def test_labels_out_of_range_raise_an_error_under_xla(labels):
    distiller = distil(terms=[kd.Term(to_label)])
    distiller.compile("sgd", alpha=1.0, jit_compile=True)  # XLA drops every assertion of a graph
    try:
        loss = distiller.fit(X, labels, verbose=0).history["loss"]
    except ValueError as error:
        assert "0 to 2" in str(error)
    else:
        assert np.isnan(loss).all()


def test_a_loss_that_needs_labels_is_refused_without_them():
    distiller = distil(terms=[kd.Term(to_label)])
    distiller.compile("sgd", alpha=1.0)
    fit_is_refused(ValueError, ["to_label", "labels", "as y"], distiller, X)


# Weights.


def test_a_weight_for_an_example_is_no_weight_for_its_positions():
    def tagger(seed):
        return keras.Sequential([keras.Input((6, 4)), dense(3, seed)])

    distiller = distil(tagger(1), tagger(2))
    distiller.compile("sgd", alpha=1.0)
    x, y = np.zeros((8, 6, 4)), np.zeros((8, 6))
    words = ["kl_divergence", "sample_weight", "6)", "Repeat"]
    fit_is_refused(ValueError, words, distiller, x, y, sample_weight=np.ones(8))


# The backend.


@pytest.mark.parametrize("backend", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
def test_another_backend_is_named_with_the_way_to_set_it(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", "import keras_kd"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode != 0
    error = finished.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert "TensorFlow" in error and repr(backend) in error and "KERAS_BACKEND=tensorflow" in error


def test_a_student_without_trainable_weights_is_refused_before_the_first_step():
    distiller = distil()
    distiller.student.trainable = False
    distiller.compile("sgd", alpha=1.0)
    words = ["no trainable weights", distiller.student.name, "trainable = True"]
    refused(ValueError, words, distiller.fit, X, verbose=0)


# What alpha may be follows from the data of each fit, whichever fits went before.


def with_and_without_labels(order, alpha):
    """Fit with "xy" or without labels "x", in turns, at alpha 1; then assign alpha. Return the Distiller."""
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2))
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), alpha=1.0)
    for data in order:
        distiller.fit(*([X, Y] if data == "xy" else [X]), verbose=0)
    distiller.alpha = alpha
    return distiller


@pytest.mark.one_in(4)
@pytest.mark.parametrize("alpha", [0.5, lambda step: 0.5], ids=["number", "function"])
@pytest.mark.parametrize("order", [[], ["x"], ["xy"], ["x", "xy"], ["xy", "x"], ["x", "xy", "x"]], ids="-".join)
def test_a_fit_without_labels_refuses_alpha_below_1_whatever_went_before(order, alpha):
    distiller = with_and_without_labels(order, alpha)
    before = distiller.student.get_weights()
    with pytest.raises(ValueError, match="Expected labels for their share of 1 - alpha"):
        distiller.fit(X, verbose=0)
    for ours, theirs in zip(distiller.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("order", [["x"], ["xy", "x"], ["x", "xy"]], ids="-".join)
def test_a_fit_with_labels_takes_any_alpha_whatever_went_before(order):
    distiller = with_and_without_labels(order, 0.5)
    with pytest.raises(ValueError, match="Expected labels"):
        distiller.fit(X, verbose=0)
    distiller.alpha = 0.0
    plain = mlp(1)
    plain.set_weights(distiller.student.get_weights())
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for one in (plain, distiller):
        one.fit(X, Y, shuffle=False, verbose=0)
    for ours, theirs in zip(distiller.student.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_alpha_below_1_within_a_fit_without_labels_stops_it():
    distiller = with_and_without_labels(["x"], 1.0)
    lower = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(distiller, "alpha", 0.5))
    with pytest.raises(ValueError, match="Expected labels for their share of 1 - alpha"):
        distiller.fit(X, epochs=2, callbacks=[lower], verbose=0)


def test_labels_that_are_words_are_refused():
    distiller = distil()
    distiller.compile("sgd", CROSS_ENTROPY)
    for words in (["a", "b"] * 4, np.array(["a", "b"] * 4), np.array(["a", "b"] * 4, object)):
        fit_is_refused(TypeError, ["labels as numbers", "np.unique"], distiller, X, words)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ({"a": np.zeros((8, 3)), "b": np.zeros((8, 5))}, ["'b': (None, 5)", "'b': (None, 3)"]),
        ((np.zeros((8, 3)), np.zeros((8, 4))), ["(None, 4)"]),
    ],
)
def test_labels_of_several_outputs_that_do_not_fit_are_shown_beside_these(y, words):
    student, teacher = (two_outputs(seed) for seed in (1, 3))
    terms = [kd.Term(kd.losses.kl_divergence, at=name) for name in "ab"]
    distiller = distil(student, teacher, terms)
    distiller.compile("sgd", {name: keras.losses.CategoricalCrossentropy(from_logits=True) for name in "ab"})
    fit_is_refused(ValueError, ["labels for each output", *words], distiller, X, y)


def two_outputs(seed):
    x = keras.Input((4,))
    return keras.Model(x, {name: dense(3, seed + place, name=name)(x) for place, name in enumerate("ab")})


def test_the_arguments_of_compile_are_in_keras_order():
    ours, theirs = (list(inspect.signature(each.compile).parameters)[1:] for each in (kd.Distiller, keras.Model))
    assert ours == [*theirs, "temperature", "alpha", "fused_head"]


def test_positional_arguments_of_compile_mean_what_they_mean_in_keras():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = ("sgd", loss, 3.0, ["accuracy"], ["accuracy"], True, 1, False)
    plain, distiller = mlp(1), kd.Distiller(student=mlp(1), teacher=mlp(2))
    plain.compile(*given)
    distiller.compile(*given, alpha=0.0)
    expected = plain.evaluate(X, Y, verbose=0, return_dict=True)
    found = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert distiller.run_eagerly and not distiller.jit_compile
