"""Term: where temperature, T**2, weights, masks and the mean are."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, Term, losses, schedules
from keras_kd._internal.loss_functions import NOT_ON_LOGITS
from tests import references
from tests.models import batch, linear

random = np.random.default_rng(0)
STUDENT, TEACHER = random.normal(size=(2, 4, 3)).astype("float32")  # (batch, classes)
LONG_STUDENT, LONG_TEACHER = random.normal(size=(2, 2, 3, 3)).astype("float32")  # (batch, time, classes)
MASK = np.array([[True, True, False], [True, False, False]])
FEATURES = ("student_layer", "teacher_layer")
X, _ = batch()


def read(term, student=STUDENT, teacher=TEACHER, **arguments):
    return float(term(tf.constant(student), tf.constant(teacher), **arguments))


def masked(values, mask):
    """Return a tensor with a Keras mask on it, as a layer would."""
    tensor = tf.constant(values)
    tensor._keras_mask = tf.constant(mask)
    return tensor


def test_a_softened_term_is_t_squared_times_the_mean_of_the_loss_on_softened_logits():
    value = read(Term(losses.kl_divergence), temperature=5.0, softened=True)
    assert value == pytest.approx(25 * references.kl_divergence(STUDENT / 5, TEACHER / 5).mean(), rel=1e-5)


def test_a_term_on_features_leaves_the_temperature_out():
    value = read(Term(losses.kl_divergence, at=FEATURES), temperature=5.0, softened=False)
    assert value == pytest.approx(references.kl_divergence(STUDENT, TEACHER).mean(), rel=1e-5)


@pytest.mark.parametrize("soften", [True, False])
def test_soften_overrides_what_is_read(soften):
    term = Term(losses.kl_divergence, soften=soften)
    t = 5.0 if soften else 1.0
    expected = t**2 * references.kl_divergence(STUDENT / t, TEACHER / t).mean()
    assert read(term, temperature=5.0, softened=not soften) == pytest.approx(expected, rel=1e-5)


def test_no_gradient_reaches_the_teacher():
    student, teacher = tf.Variable(STUDENT), tf.Variable(TEACHER)
    with tf.GradientTape() as tape:
        value = Term(losses.squared_error)(student, teacher)
    gradients = tape.gradient(value, [student, teacher])
    assert np.any(gradients[0]) and gradients[1] is None


def test_a_transform_sees_both_sides_before_the_temperature():
    # Scale-free standardisation: after the temperature it would undo it, and the value would be another.
    def standardize(z):
        return (z - keras.ops.mean(z, axis=-1, keepdims=True)) / keras.ops.std(z, axis=-1, keepdims=True)

    value = read(Term(losses.kl_divergence, transform=standardize), temperature=3.0, softened=True)
    s, t = ((z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True) for z in (STUDENT, TEACHER))
    assert value == pytest.approx(9 * references.kl_divergence(s / 3, t / 3).mean(), rel=1e-4)


def test_a_bridge_is_on_the_students_side_and_trained():
    term = Term(losses.squared_error, at=FEATURES, bridge=keras.layers.Dense(3, kernel_initializer="ones"))
    wide = np.ones((4, 2), "float32")
    # Each student value becomes 1 + 1 = 2, the teacher stays 0: mean of 2**2.
    assert read(term, wide, np.zeros((4, 3), "float32")) == pytest.approx(4.0)
    assert [v.shape for v in term.trainable_variables] == [(2, 3), (3,)]


def test_a_bridge_comes_before_the_transform():
    bridge = keras.layers.Dense(1, kernel_initializer="ones")
    term = Term(losses.squared_error, at=FEATURES, bridge=bridge, transform=keras.ops.square)
    # (1 + 2)**2 = 9 against 0**2; the other order would give 1**2 + 2**2 = 5.
    assert read(term, [[1.0, 2.0]], [[0.0]]) == pytest.approx(81.0)


def test_a_pair_of_tuples_passes_tuples_to_the_loss():
    def difference_of_differences(student, teacher):
        return keras.ops.mean((student[0] - student[1]) - (teacher[0] - teacher[1]), axis=-1)

    term = Term(difference_of_differences, at=(("a", "b"), ("c", "d")))
    student = {"a": tf.constant([[5.0]]), "b": tf.constant([[2.0]])}
    teacher = {"c": tf.constant([[7.0]]), "d": tf.constant([[6.0]])}
    assert float(term.read(student, teacher)) == (5 - 2) - (7 - 6)


def test_a_loss_that_names_labels_gets_them():
    def at_label(student, teacher, labels):
        return keras.ops.sum((teacher - student) * keras.ops.one_hot(labels, 3), axis=-1)

    term = Term(at_label)
    labels = np.array([2, 0, 1, 1])
    assert term.needs_labels and not Term(losses.kl_divergence).needs_labels
    expected = np.mean([TEACHER[i, k] - STUDENT[i, k] for i, k in enumerate(labels)])
    assert read(term, labels=tf.constant(labels)) == pytest.approx(expected, rel=1e-5)


def test_loss_arguments_reach_the_loss():
    def scaled(student, teacher, factor):
        return factor * keras.ops.sum(teacher - student, axis=-1)

    assert read(Term(scaled, factor=3.0), [[0.0, 0.0]], [[1.0, 2.0]]) == 9.0


def test_a_keras_loss_compares_the_student_with_the_teacher_as_truth():
    # LogCosh would be symmetric; MeanSquaredLogarithmicError is too; the percentage error divides by the truth:
    # 100 * mean(|2 - 4| / 4, |1 - 1| / 1) = 25; with the sides swapped it would be 50.
    term = Term(keras.losses.MeanAbsolutePercentageError(), at=FEATURES)
    assert read(term, [[2.0, 1.0]], [[4.0, 1.0]]) == pytest.approx(25.0)


# The percentage error separates the sides: 100 * mean(|2 - 4| / 4, |1 - 1| / 1) = 25. Huber's is 1 * (2 - 1 / 2) / 2.
@pytest.mark.parametrize(
    "loss, arguments, name, expected",
    [
        ("mape", {}, "mean_absolute_percentage_error", 25.0),
        ("MeanAbsolutePercentageError", {}, "mean_absolute_percentage_error", 25.0),
        (keras.losses.mean_absolute_percentage_error, {}, "mean_absolute_percentage_error", 25.0),
        (functools.partial(keras.losses.mean_absolute_percentage_error), {}, "mean_absolute_percentage_error", 25.0),
        ("mse", {}, "mean_squared_error", 2.0),
        ("mean_absolute_error", {}, "mean_absolute_error", 1.0),
        ("huber", {}, "huber", 0.75),
        ("huber", {"delta": 0.5}, "huber", 0.5 * (2 - 0.25) / 2),
        ("cosine_similarity", {}, "cosine_similarity", -(2 * 4 + 1) / np.sqrt(5 * 17)),
    ],
)
def test_keras_losses_may_be_given_as_in_keras(loss, arguments, name, expected):
    for term in (Term(loss, **arguments), Term(loss, at=FEATURES, **arguments)):
        assert read(term, [[2.0, 1.0]], [[4.0, 1.0]]) == pytest.approx(expected)
        assert term.name in (name, f"{name}_student_layer")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Term("mape")))
    assert read(again, [[2.0, 1.0]], [[4.0, 1.0]]) == pytest.approx(25.0)


@pytest.mark.parametrize(
    "loss", ["kld", "categorical_crossentropy", "Dice", "hinge", "bce", "binary_focal_crossentropy"]
)
def test_losses_on_probabilities_are_refused_on_logits_in_every_form(loss):
    found = keras.losses.get(loss)
    for each in (loss, found, functools.partial(found) if not isinstance(found, keras.losses.Loss) else found):
        with pytest.raises(ValueError, match=r"probabilities or labels.*keras_kd.losses.(kl_divergence|binary_kl)"):
            Term(each)
    assert Term(loss, at=("attention", "attention")).student_names == ("attention",)  # of layers, they may be wanted


def test_a_loss_on_probabilities_is_refused_on_logits_that_are_named_on_both_sides():
    term = Term("kl_divergence", at=("kind", "kind"))
    assert read(term, [[0.5, 0.5]], [[1.0, 0.0]]) == pytest.approx(np.log(2), rel=1e-4)
    with pytest.raises(ValueError, match="keras_kd.losses.kl_divergence"):
        read(term, softened=True)  # what a Distiller passes for outputs


def test_every_loss_of_keras_is_sorted():
    # A new one must not be treated as a regression by mistake.
    regression = "mean_squared_error mean_absolute_error mean_absolute_percentage_error huber log_cosh"
    regression += " mean_squared_logarithmic_error cosine_similarity"
    functions = {name for name, each in vars(keras.losses).items() if isinstance(each, types.FunctionType)}
    functions -= {"get", "serialize", "deserialize"}
    refused = {each.__name__ for each in NOT_ON_LOGITS}
    assert refused | set(regression.split()) == functions and not refused & set(regression.split())


def test_arguments_of_a_loss_that_is_an_object_are_refused_and_not_dropped():
    with pytest.raises(TypeError, match=r"\['delta'\].*where the object is made"):
        Term(keras.losses.Huber(), at=FEATURES, delta=0.5)


def test_a_loss_that_is_a_layer_trains_its_weights_with_the_term():
    class Scale(keras.layers.Layer):
        def build(self, *shapes):
            self.factor = self.add_weight(shape=(), initializer="ones")

        def call(self, student, teacher):
            return keras.ops.mean(self.factor * keras.ops.square(student - teacher), axis=-1)

    term = Term(Scale(), at=FEATURES)
    assert read(term, [[3.0]], [[1.0]]) == 4.0
    assert len(term.trainable_variables) == 1


def test_a_scalar_loss_is_used_unchanged_and_weights_do_not_apply():
    term = Term(lambda student, teacher: keras.ops.sum(teacher - student), at=FEATURES, name="whole")
    assert read(term, [[1.0], [2.0]], [[4.0], [4.0]], sample_weight=tf.constant([0.0, 1.0])) == 5.0


def test_sample_weight_multiplies_and_the_batch_divides():
    weight = np.array([0.0, 1.0, 2.0, 0.5])
    expected = np.sum(weight * references.kl_divergence(STUDENT, TEACHER)) / 4
    assert read(Term(losses.kl_divergence), sample_weight=tf.constant(weight)) == pytest.approx(expected, rel=1e-5)


def test_a_column_of_weights_is_a_vector_of_weights():
    weight = np.array([0.0, 1.0, 2.0, 0.5])
    expected = np.sum(weight * references.kl_divergence(STUDENT, TEACHER)) / 4
    value = read(Term(losses.kl_divergence), sample_weight=tf.constant(weight[:, None]))
    assert value == pytest.approx(expected, rel=1e-5)


def test_weights_of_positions_reach_each_position():
    weight = random.uniform(size=(2, 3))
    expected = np.mean(weight * references.kl_divergence(LONG_STUDENT, LONG_TEACHER))
    value = read(Term(losses.kl_divergence), LONG_STUDENT, LONG_TEACHER, sample_weight=tf.constant(weight))
    assert value == pytest.approx(expected, rel=1e-5)


def test_weights_of_examples_on_outputs_with_positions_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2,\).*Repeat"):
        read(Term(losses.kl_divergence), LONG_STUDENT, LONG_TEACHER, sample_weight=tf.ones(2))


def test_weights_of_examples_count_for_all_positions_of_features():
    weight = np.array([0.0, 3.0])
    expected = np.mean(weight[:, None] * references.squared_error(LONG_STUDENT, LONG_TEACHER))
    term = Term(losses.squared_error, at=FEATURES)
    value = read(term, LONG_STUDENT, LONG_TEACHER, sample_weight=tf.constant(weight))
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_the_mean_is_over_valid_positions_whichever_side_has_the_mask(side):
    sides = {"student": tf.constant(LONG_STUDENT), "teacher": tf.constant(LONG_TEACHER)}
    sides[side] = masked(sides[side], MASK)
    expected = references.kl_divergence(LONG_STUDENT, LONG_TEACHER)[MASK].mean()
    assert float(Term(losses.kl_divergence)(**sides)) == pytest.approx(expected, rel=1e-5)


def test_masks_of_both_sides_leave_what_both_leave():
    other = np.array([[True, False, True], [True, True, True]])
    expected = references.kl_divergence(LONG_STUDENT, LONG_TEACHER)[MASK & other].mean()
    value = Term(losses.kl_divergence)(masked(LONG_STUDENT, MASK), masked(LONG_TEACHER, other))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_mask_and_weights_multiply():
    weight = random.uniform(size=(2, 3))
    expected = np.sum((weight * references.kl_divergence(LONG_STUDENT, LONG_TEACHER))[MASK]) / MASK.sum()
    value = Term(losses.kl_divergence)(
        masked(LONG_STUDENT, MASK), tf.constant(LONG_TEACHER), sample_weight=tf.constant(weight)
    )
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("garbage", [1e30, np.inf, np.nan])
@pytest.mark.parametrize("loss", [losses.kl_divergence, losses.binary_kl, losses.squared_error])
def test_garbage_in_masked_positions_leaves_value_and_gradient_bit_identical(loss, garbage):
    def value_and_gradient(filling):
        student, teacher = (np.where(MASK[..., None], z, filling) for z in (LONG_STUDENT, LONG_TEACHER))
        student = masked(student.astype("float32"), MASK)
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = Term(loss)(student, tf.constant(teacher, "float32"), temperature=2.0, softened=True)
        return value.numpy(), tape.gradient(value, student).numpy()

    clean, dirty = value_and_gradient(0.0), value_and_gradient(garbage)
    assert clean[0] == dirty[0] > 0
    np.testing.assert_array_equal(clean[1], dirty[1])
    assert not np.any(dirty[1][~MASK])


def test_a_transform_that_cannot_take_a_zero_is_safe_in_masked_positions():
    # log(exp(z)) = z, and log(0) = -inf where masked.
    student, teacher = masked(np.exp(LONG_STUDENT), MASK), tf.constant(np.exp(LONG_TEACHER))
    value = Term(losses.squared_error, at=FEATURES, transform=keras.ops.log)(student, teacher)
    expected = references.squared_error(LONG_STUDENT, LONG_TEACHER)[MASK].mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_masked_positions_leave_the_gradient_of_a_bridge_alone():
    # The bridge turns a masked position into 0, whose logarithm has no gradient.
    bridge = keras.layers.Dense(3, use_bias=False, kernel_initializer="ones")
    term = Term(losses.squared_error, at=FEATURES, bridge=bridge, transform=keras.ops.log)
    with tf.GradientTape() as tape:
        value = term(masked(np.exp(LONG_STUDENT), MASK), tf.constant(np.exp(LONG_TEACHER)))
    gradient = tape.gradient(value, bridge.kernel.value)
    assert np.all(np.isfinite(gradient)) and np.any(gradient)


def test_an_all_masked_row_is_left_out_of_the_mean():
    mask = np.array([[True, True, True], [False, False, False]])
    expected = references.kl_divergence(LONG_STUDENT, LONG_TEACHER)[0].mean()
    value = Term(losses.kl_divergence)(masked(LONG_STUDENT, mask), tf.constant(LONG_TEACHER))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_batch_that_is_all_masked_gives_zero():
    value = Term(losses.kl_divergence)(masked(LONG_STUDENT, np.zeros((2, 3), bool)), tf.constant(LONG_TEACHER))
    assert float(value) == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_term_computes_in_float32_whatever_it_reads(dtype):
    student, teacher = (tf.cast(tf.constant(z), dtype) for z in (STUDENT, TEACHER))
    value = Term(losses.kl_divergence)(student, teacher, temperature=tf.constant(2.0), softened=True)
    s, t = (tf.cast(z, "float64").numpy() for z in (student, teacher))  # what the rounding to dtype has left
    assert value.dtype == "float32"
    assert float(value) == pytest.approx(4 * references.kl_divergence(s / 2, t / 2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (Term(losses.kl_divergence), "kl_divergence"),
        (Term(losses.squared_error, at=("block/conv", "top")), "squared_error_block_conv"),
        (Term(keras.losses.MeanSquaredError(), at=("a", "b")), "mean_squared_error_a"),
        (Term(losses.kl_divergence, name="mine"), "mine"),
    ],
)
def test_a_term_is_named_after_its_loss_and_what_it_reads(term, name):
    assert term.name == name


def été(student, teacher):
    return keras.ops.mean(keras.ops.abs(student - teacher), axis=-1)


def _private(student, teacher):
    return été(student, teacher)


class Absolute:
    """A function that is an object."""

    def __call__(self, student, teacher):
        return été(student, teacher)

    def method(self, student, teacher):
        return été(student, teacher)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "loss, name",
    [
        (lambda student, teacher: été(student, teacher), "lambda"),
        (functools.partial(_private), "private"),
        (functools.partial(lambda student, teacher: été(student, teacher)), "lambda"),
        (Absolute(), "Absolute"),
        (Absolute().method, "method"),
        (tf.function(_private), "private"),
        (été, "_t_"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_loss_of_the_users_trains_under_a_name_that_tensorflow_takes(loss, name):
    term = Term(loss)
    distiller = Distiller(student=linear(1), teacher=linear(2), terms=[term, Term("mse")])
    distiller.compile(keras.optimizers.SGD(0.0), alpha=1.0, temperature=1.0, jit_compile=False)
    logs = distiller.fit(X, verbose=0).history
    expected = np.mean(np.abs(linear(1)(X).numpy().astype("float64") - linear(2)(X).numpy()))
    assert term.name == name.lstrip("_") and logs[term.name] == pytest.approx([expected], rel=1e-5)
    assert Term(loss, at=("block 1/conv", "b")).name == f"{name.lstrip('_')}_block_1_conv"


@pytest.mark.parametrize(
    "name", ["with space", "a/b", "été", "_private", "-dash", "a:b", "a\\b", "<lambda>", "損失", 3]
)
def test_a_name_that_tensorflow_does_not_take_is_refused_at_once(name):
    with pytest.raises(ValueError, match="`name`.*letter or a digit.*Received"):
        Term(losses.kl_divergence, name=name)


@pytest.mark.parametrize(
    "loss", ["KLDivergence", "CategoricalCrossentropy", "SparseCategoricalCrossentropy", "Poisson"]
)
def test_a_keras_loss_on_probabilities_is_refused_on_logits_with_the_loss_to_use(loss):
    with pytest.raises(ValueError, match="keras_kd.losses.kl_divergence"):
        Term(getattr(keras.losses, loss)())


def test_a_binary_keras_loss_is_refused_with_the_binary_loss_to_use():
    with pytest.raises(ValueError, match="keras_kd.losses.binary_kl"):
        Term(keras.losses.BinaryCrossentropy())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), lambda step: -1.0])
def test_an_invalid_weight_is_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        Term(losses.kl_divergence, weight=weight)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), lambda step: 0.0])
def test_an_invalid_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Term(losses.kl_divergence, temperature=temperature)


@pytest.mark.parametrize("loss", [None, 3, keras.losses.MeanSquaredError, keras.layers.Dense])
def test_a_loss_that_cannot_be_called_is_refused(loss):
    with pytest.raises(TypeError, match="loss"):
        Term(loss)


@pytest.mark.parametrize("at", [("one",), ("a", "b", "c"), (1, 2), ("a", 2), (("a", 2), "b"), (), ((), ()), ("a", ())])
def test_an_invalid_at_is_refused(at):
    with pytest.raises(ValueError, match="student_layer"):
        Term(losses.squared_error, at=at)


def test_a_name_that_is_not_offered_is_refused_with_what_is():
    with pytest.raises(ValueError, match=r"'b' from the teacher, which offers \['logits'\]"):
        Term(losses.squared_error, at=("a", "b")).read({"a": STUDENT}, {"logits": TEACHER})


def test_shapes_that_do_not_match_are_refused_with_names_and_what_to_do():
    with pytest.raises(ValueError, match=r"'student_layer'.*'teacher_layer'.*\(4, 3\).*\(4, 2\).*bridge"):
        read(Term(losses.squared_error, at=FEATURES), STUDENT, TEACHER[:, :2])


def test_a_softened_term_on_one_class_is_refused_before_anything_is_known_of_the_teacher():
    with pytest.raises(ValueError, match="at least 2 classes"):
        Distiller(student=linear(1, classes=1), teacher=lambda x: x, terms=[Term(losses.kl_divergence)])


def test_a_term_is_saved_and_loaded():
    term = Term(
        losses.squared_error,
        at=(("a", "b"), ("c", "d")),
        weight=schedules.Ramp(0.0, 2.0, steps=4),
        temperature=3.0,
        bridge=keras.layers.Dense(7),
        soften=True,
        name="mine",
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert (again.at, again.temperature, again.soften, again.name) == (
        (("a", "b"), ("c", "d")),
        3.0,
        True,
        "mine",
    )
    assert again.loss is losses.squared_error and again.bridge.units == 7 and float(again.weight(0)) == 0.5
