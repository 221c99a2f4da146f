"""Losses of detectors: what the float64 references of tests/test_losses_all.py do not reach."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses
from tests import references

RANDOM = np.random.default_rng(0)
LOGITS = [RANDOM.normal(size=(2, 6, 3)).astype("float32") for _ in range(2)]
BOXES = [RANDOM.normal(size=(2, 6, 4)).astype("float32") for _ in range(2)]
MAPS = [RANDOM.normal(size=(3, 4, 4, 5)).astype("float32") for _ in range(2)]


def value_and_gradient(loss, student, teacher):
    student = tf.convert_to_tensor(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student, teacher)
    return float(value), tape.gradient(value, student).numpy()


def test_thousands_of_empty_anchors_change_the_loss_by_their_probability_alone():
    # 2 anchors of probability p and 2,000 of 1e-4: the weights of the empty ones add up to 0.2.
    student, teacher = np.full((1, 2002, 1), -9.21024, "float32"), np.full((1, 2002, 1), -9.21024, "float32")
    teacher[0, :2], student[0, :2] = 3.0, 0.0
    p = 1 / (1 + np.exp(-3.0))
    each = p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5)
    expected = 2 * p * each / (2 * p + 2000 * 1e-4)
    assert float(losses.foreground_kl(student, teacher)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_a_teacher_that_is_sure_that_all_is_empty_has_finite_losses_and_gradients(scale):
    teacher = np.full((2, 5, 3), -scale, "float32")
    teacher[0, 0, 0] += 1.0  # e times as likely as each of the others
    student = LOGITS[0][:, :5]
    value, gradient = value_and_gradient(losses.foreground_kl, student, teacher)
    shares = np.exp((teacher.astype("float64") + scale).max(axis=-1))
    shares /= shares.sum()
    excess = np.sum(np.log1p(np.exp(student.astype("float64"))), axis=-1)  # of the teacher's 0
    assert value == pytest.approx(np.sum(shares * excess), rel=1e-5)
    sigmoids = 1 / (1 + np.exp(-student.astype("float64")))
    np.testing.assert_allclose(gradient, shares[..., None] * sigmoids, rtol=1e-4)


def test_no_gradient_is_lost_where_the_student_is_certain_of_the_opposite():
    value, gradient = value_and_gradient(
        losses.foreground_kl, np.full((1, 1, 1), -200.0, "float32"), np.full((1, 1, 1), 200.0, "float32")
    )
    assert value == pytest.approx(200.0) and gradient.item() == pytest.approx(-1.0)


def test_a_class_that_both_sides_exclude_counts_nothing():
    student, teacher = (np.concatenate([each, np.full((2, 6, 1), -np.inf, "float32")], -1) for each in LOGITS)
    value, gradient = value_and_gradient(losses.foreground_kl, student, teacher)
    assert value == pytest.approx(float(references.foreground_kl(*LOGITS)), rel=1e-5)
    assert np.isfinite(gradient).all() and not gradient[..., -1].any()


def test_boxes_of_anchors_below_the_threshold_have_no_loss_and_no_gradient():
    logits = np.full((2, 6, 3), -2.0, "float32")
    logits[1, 4, 2] = 2.0
    value, gradient = value_and_gradient(losses.foreground_huber, BOXES[0], (BOXES[1], logits))
    error = np.abs(BOXES[0][1, 4] - BOXES[1][1, 4]).astype("float64")
    assert value == pytest.approx(np.mean(np.where(error < 1, error**2 / 2, error - 0.5)), rel=1e-5)
    assert gradient[1, 4].any()
    gradient[1, 4] = 0.0
    assert not gradient.any()


def test_boxes_count_by_the_teachers_probability():
    # Errors of 3 and of 0.2 in one of 4 numbers, at logits of 1 and 3: smooth L1 of 2.5 / 4 and 0.02 / 4.
    teacher = np.zeros((1, 2, 4)), np.array([[[1.0], [3.0]]])
    student = np.array([[[3.0, 0, 0, 0], [0, 0.2, 0, 0]]])
    weights = 1 / (1 + np.exp([-1.0, -3.0]))
    expected = (weights @ [0.625, 0.005]) / weights.sum()
    assert float(losses.foreground_huber(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_is_sure_nowhere_has_no_boxes_to_learn():
    value, gradient = value_and_gradient(
        losses.foreground_huber, BOXES[0], (BOXES[1], np.full((2, 6, 3), -1.0, "float32"))
    )
    assert value == 0.0 and not gradient.any()


def test_equal_boxes_have_no_loss():
    assert float(losses.foreground_huber(BOXES[0], (np.copy(BOXES[0]), LOGITS[0]))) == 0.0


@pytest.mark.parametrize(
    "student, teacher",
    [
        ((2, 6, 4), [(2, 5, 4), (2, 5, 3)]),
        ((2, 6, 4), [(2, 6, 4), (2, 5, 3)]),
        ((2, 6, 4), [(2, 6, 5), (2, 6, 3)]),
        ((2, 6, 4), [(2, 6, 4), (2, 6, 1, 3)]),
        ((2, 6, 4), [(2, 6, 4)]),
    ],
    ids=str,
)
def test_boxes_of_other_anchors_are_refused_with_the_shapes(student, teacher):
    with pytest.raises(ValueError, match="Expected the (student and the )?teacher") as caught:
        losses.foreground_huber(np.zeros(student), tuple(np.zeros(each) for each in teacher))
    assert str(teacher[0]) in str(caught.value)


def test_one_tensor_in_the_place_of_boxes_and_logits_is_refused():
    with pytest.raises(ValueError, match=r"at=\{'student': 'boxes', 'teacher': \('boxes', 'logits'\)\}"):
        losses.foreground_huber(BOXES[0], BOXES[1])


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.foreground_huber(BOXES[0], (BOXES[1], LOGITS[0]), threshold=threshold)


def test_the_correlation_is_the_papers_mean_squared_error_of_standardised_channels():
    ours, theirs = ((each - each.mean((0, 1, 2))) / each.std((0, 1, 2)) for each in np.float64(MAPS))
    expected = np.mean((ours - theirs) ** 2) / 2
    assert float(losses.map_correlation(*MAPS)) == pytest.approx(expected, rel=1e-5)


def test_maps_that_differ_by_scale_and_offset_of_their_channels_are_equal():
    changed = MAPS[0] * np.float32([1, 2, 0.1, 30, 5]) + np.float32([0, -3, 7, 1, 0])
    assert float(losses.map_correlation(MAPS[0], changed)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.map_correlation(MAPS[0], -changed)) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("constant", [0.0, 3.7, 1e4])
def test_a_channel_that_is_constant_has_half_a_loss_and_no_gradient(constant):
    student = MAPS[0].copy()
    student[..., 1] = constant
    value, gradient = value_and_gradient(losses.map_correlation, student, MAPS[1])
    others = [0, 2, 3, 4]
    expected = (4 * references.map_correlation(MAPS[0][..., others], MAPS[1][..., others]) + 0.5) / 5
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert not gradient[..., 1].any() and np.isfinite(gradient).all() and gradient[..., others].any()


PAIRS = {
    "foreground_kl": LOGITS,
    "foreground_huber": [BOXES[0], (BOXES[1], LOGITS[1])],
    "map_correlation": MAPS,
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_graph_with_and_without_xla_computes_what_eager_execution_does(name):
    loss, (student, teacher) = getattr(losses, name), PAIRS[name]
    expected = value_and_gradient(loss, student, teacher)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, teacher)
        return value, tape.gradient(value, x)

    for xla in (False, True):
        value, gradient = tf.function(step, jit_compile=xla)(tf.constant(student))
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


def test_a_loss_of_the_whole_batch_takes_no_weights_and_no_reduction_of_its_output():
    # KerasHub's detectors are compiled with losses that add up over all anchors: a mean stays one.
    inputs = keras.Input((6, 3))
    student = keras.Model(inputs, {"cls": keras.layers.Dense(3, name="cls")(inputs)})
    term = kd.Term(losses.foreground_kl, at="cls", soften=False)
    distiller = kd.Distiller(student=student, teacher=lambda x: {"cls": x}, terms=[term])
    distiller.compile("sgd", {"cls": keras.losses.BinaryFocalCrossentropy(from_logits=True, reduction="sum")})
    x = LOGITS[0]
    found = distiller.objective(x, {"cls": (LOGITS[1] > 0).astype("float32")}, np.zeros((2, 6), "float32"))
    expected = references.foreground_kl(np.asarray(student(x)["cls"]), x)
    assert float(found["distillation_loss"]) == pytest.approx(float(expected), rel=1e-5)
