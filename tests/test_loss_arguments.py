"""Arguments of losses that change with the step."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, schedules
from tests import references
from tests.models import batch, mlp
from tests.test_errors import refused
from tests.test_objective import distill

X, Y = batch()
RANDOM = np.random.default_rng(0)
LOGITS = [scale * RANDOM.normal(size=(7, 5)).astype("float32") for scale in (1.0, 3.0)]
EMBEDDED = [RANDOM.normal(size=(7, 6)).astype("float32") for _ in range(2)]
LABELS = np.arange(7) % 5


def halves(step):
    """Return 0.2, 0.4, 0.6, 0.8 for the first steps."""
    return 0.2 + 0.2 * keras.ops.cast(step, "float32")


#: Loss -> (the argument, its values, the inputs).
CASES = {
    losses.jensen_shannon: ("beta", (1e-6, 0.1, 0.5, 0.9, 1 - 1e-6), LOGITS),
    losses.skew_kl: ("skew", (1e-4, 0.1, 0.5, 0.9), LOGITS),
    losses.skew_reverse_kl: ("skew", (1e-4, 0.1, 0.5, 0.9), LOGITS),
    losses.decoupled_kl: ("non_target_weight", (0.0, 2.0), [*LOGITS, LABELS]),
    losses.normalized_kl: ("non_target_weight", (0.0, 2.0), [*LOGITS, LABELS]),
    losses.enhanced_target: ("power", (1.0, 2.0), [*LOGITS, LABELS]),
    losses.transformed_teacher: ("power", (0.1, 1.0), LOGITS),
    losses.huber_error: ("delta", (0.1, 2.0), LOGITS),
    losses.scale_decoupled_kl: ("complementary_weight", (0.0, 3.0), [each[:, None] for each in LOGITS]),
    losses.foreground_huber: ("threshold", (0.3, 0.6), [LOGITS[0], (LOGITS[1], LOGITS[0])]),
    losses.teacher_bounded: ("margin", (0.0, 2.0), [*LOGITS, LOGITS[0] + 1]),
    losses.correlation_congruence: ("gamma", (0.1, 0.8), EMBEDDED),
    losses.contrastive: ("similarity_temperature", (0.05, 1.0), EMBEDDED),
}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("loss", CASES, ids=lambda loss: loss.__name__)
def test_a_tensor_has_the_value_and_the_gradient_of_its_number(loss, eager):
    name, values, inputs = CASES[loss]

    def value_and_slope(student, value):
        with tf.GradientTape() as tape:
            tape.watch(student)
            found = loss(student, *inputs[1:], **{name: value})
        return found, tape.gradient(found, student)

    run = value_and_slope if eager else tf.function(value_and_slope)
    for value in values:
        expected = getattr(references, loss.__name__)(*inputs, **{name: value})
        found, slope = run(tf.constant(inputs[0]), tf.constant(value))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(slope, value_and_slope(tf.constant(inputs[0]), value)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [3, 8200], ids=["few classes", "chunks"])
def test_each_step_has_its_value(classes):
    student, teacher = mlp(1, classes=classes), mlp(2, classes=classes)
    terms = [kd.Term(losses.jensen_shannon, beta=halves, temperature=1.0)]
    distiller = distill(student, teacher, terms, run_eagerly=False, alpha=1.0, loss=None)
    rows = np.tile(X, (20, 1)) if classes > 3 else X
    logs = distiller.fit(rows, batch_size=len(rows), epochs=4, verbose=0).history["loss"]
    logits = [np.asarray(model(rows), "float64") for model in (student, teacher)]
    for value, found in zip((0.2, 0.4, 0.6, 0.8), logs, strict=True):
        assert found == pytest.approx(references.jensen_shannon(*logits, beta=value).mean(), rel=1e-5)


def test_a_schedule_of_keras_is_called_in_losses_of_any_kind():
    def scaled(student, teacher, *, factor):
        return factor * keras.ops.mean(keras.ops.square(student - teacher), axis=-1)

    decay = keras.optimizers.schedules.PolynomialDecay(4.0, 4, 0.0)
    distiller = distill(mlp(1), mlp(2), [kd.Term(scaled, soften=False, factor=decay)], alpha=1.0, loss=None)
    logs = distiller.fit(X, epochs=3, batch_size=len(X), verbose=0).history["loss"]
    assert [each / logs[0] for each in logs] == pytest.approx([1.0, 0.75, 0.5])


def test_functions_that_a_loss_wants_as_functions_reach_it():
    def through(student, teacher, distance=keras.ops.abs):
        return keras.ops.mean(distance(student - teacher), axis=-1)

    student, teacher = mlp(1), mlp(2)
    distiller = distill(student, teacher, [kd.Term(through, soften=False, distance=keras.ops.square)])
    expected = np.mean(np.square(np.asarray(student(X)) - np.asarray(teacher(X))))
    assert float(distiller.objective(X)["distillation_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "arguments", "words"),
    [
        (
            losses.jensen_shannon,
            {"beta": schedules.Ramp(0.5, 1.0, 4)},
            ["'beta' of the term", "from 1e-06 to 0.999999"],
        ),
        (losses.skew_kl, {"skew": lambda step: -0.1}, ["'skew' of the term 'skew_kl'", "from 0 to 1"]),
        (losses.huber_error, {"delta": lambda step: 0.0}, ["'delta' of the term", "above 0 and finite"]),
    ],
)
def test_what_is_known_to_leave_its_range_is_refused_at_once(loss, arguments, words):
    refused(ValueError, words, kd.Term, loss, **arguments)


def test_a_schedule_that_leaves_its_range_stops_before_weights_change():
    terms = [kd.Term(losses.skew_kl, skew=lambda step: 0.5 + 0.4 * keras.ops.cast(step, "float32"))]
    student = mlp(1)
    distiller = distill(student, mlp(2), terms, keras.optimizers.SGD(0.1), run_eagerly=False)
    refused(ValueError, ["'skew' of the term 'skew_kl'", "from 0 to 1", "step 2"], distiller.fit, X, Y, 8, 5, 0)
    assert int(distiller.optimizer.iterations) == 2


def test_schedules_are_saved_and_functions_that_cannot_be_are_asked_for():
    term = kd.Term(losses.skew_kl, skew=schedules.Ramp(0.1, 0.5, 10))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(term)))
    loaded = keras.saving.deserialize_keras_object(config).loss_arguments["skew"]
    assert isinstance(loaded, schedules.Ramp) and loaded.end == 0.5
    term = kd.Term(losses.skew_kl, skew=lambda step: 0.3)
    loaded = kd.Term.from_config(json.loads(json.dumps(term.get_config())))
    student, teacher = ({"logits": each} for each in LOGITS)
    refused(ValueError, ["'skew_kl'", "has to be assigned again"], loaded.read, student, teacher)


# Which outputs a pair reads.


def two_headed(seed):
    x = keras.Input((4,))
    return keras.Model(x, {name: keras.layers.Dense(3, name=name)(x) for name in ("box", "cls")})


def test_two_outputs_in_a_pair_are_refused_as_they_may_be_meant_to_be_both_read():
    words = ["student's 'box' with the teacher's 'cls'", "at='box'", "{'student': 'box', 'teacher': 'cls'}"]
    term = kd.Term(losses.squared_error, at=("box", "cls"), soften=False)
    refused(ValueError, words, kd.Distiller, student=two_headed(1), teacher=two_headed(2), terms=[term])


def test_two_outputs_of_different_names_are_compared_where_that_is_said():
    student, teacher = two_headed(1), two_headed(2)
    term = kd.Term(losses.squared_error, at={"student": "box", "teacher": "cls"}, soften=False)
    term = kd.Term.from_config(json.loads(json.dumps(term.get_config())))
    assert term.student_names == ("box",) and term.teacher_names == ("cls",)
    found = distill(student, teacher, [term], loss=None, alpha=1.0).objective(X)["loss"]
    expected = np.mean(np.square(np.asarray(student(X)["box"]) - np.asarray(teacher(X)["cls"])))
    assert float(found) == pytest.approx(expected, rel=1e-5)
