"""The losses most used, at temperatures, by hand. All losses are in test_losses_all; T**2 * loss(z / T) is `Term`'s."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from keras_kd import Term, losses
from tests import references
from tests.models import few, pairs, softmax

GOLDEN = {
    losses.kl_divergence: references.kl_divergence,
    losses.binary_kl: references.binary_kl,
    losses.squared_error: references.squared_error,
}
TEMPERATURES = (1.0, 2.0, 5.0, 20.0)

every_loss = pytest.mark.parametrize("loss", GOLDEN, ids=lambda loss: loss.__name__)


def softened(loss, student, teacher, temperature):
    """Return T**2 * loss(s / T, t / T), one value per example."""
    t = np.float32(temperature)
    return t**2 * np.asarray(loss(student / t, teacher / t))


def reference(loss, student, teacher, temperature):
    student, teacher = np.asarray(student, "float64"), np.asarray(teacher, "float64")
    return temperature**2 * GOLDEN[loss](student / temperature, teacher / temperature)


def term_gradient(loss, student, teacher, temperature):
    """Return the value of a term and its gradient on the student's logits."""
    student = tf.Variable(student, dtype="float32")
    with tf.GradientTape() as tape:
        value = Term(loss)(student, tf.constant(teacher, "float32"), temperature=temperature, softened=True)
    return float(value), tape.gradient(value, student).numpy()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@every_loss
def test_each_example_equals_the_float64_reference(loss, temperature):
    student, teacher = np.random.default_rng(0).normal(size=(2, 64, 10)).astype("float32")
    value = softened(loss, student, teacher, temperature)
    np.testing.assert_allclose(value, reference(loss, student, teacher, temperature), rtol=1e-5, atol=1e-5)


@every_loss
@given(pair=pairs(), temperature=st.sampled_from(TEMPERATURES))
@example(pair=(np.float32([0, 0]), np.float32([7, 8])), temperature=20.0)  # log p - log q cancels, T**2 magnifies
@example(pair=(np.float32([-4, -4]), np.float32([-5.125, -5.125])), temperature=20.0)
@few
def test_any_shape_equals_the_float64_reference(loss, pair, temperature):
    value = softened(loss, *pair, temperature)
    assert value.shape == pair[0].shape[:-1]
    np.testing.assert_allclose(value, reference(loss, *pair, temperature), rtol=1e-5, atol=1e-5)


@given(pair=pairs(), shift=st.floats(-20, 20, width=32))
@few
def test_kl_divergence_ignores_a_constant_added_to_the_logits(pair, shift):
    student, teacher = pair
    expected = references.kl_divergence(student, teacher)
    # Rounding of z + shift itself: 30 * 2**-24 on each of the two sides, times |q - p| <= 2 and |log p - log q| <= 40.
    for value in (
        losses.kl_divergence(student + shift, teacher),
        losses.kl_divergence(student, teacher + shift),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-4)


@every_loss
@given(pair=pairs(largest=200.0))
@few
def test_a_student_that_equals_its_teacher_has_exactly_no_loss(loss, pair):
    assert np.all(np.asarray(loss(pair[0], pair[0].copy())) == 0)


@given(pair=pairs(largest=200.0))
@few
def test_divergences_are_not_negative(pair):
    for loss in (losses.kl_divergence, losses.binary_kl):
        assert np.all(np.asarray(loss(*pair)) >= -1e-6)


def test_opposite_certainties_have_the_exact_divergence():
    # p = (1, e-200, e-200) and q = (e-200, 1, e-200): KL = 1 * (log 1 - (-200)) = 200.
    value, _ = term_gradient(losses.kl_divergence, [[0.0, 200.0, 0.0]], [[200.0, 0.0, 0.0]], 1.0)
    assert value == 200.0


def test_opposite_certainties_of_labels_have_the_exact_divergence():
    # The teacher is sure of yes, the student of no: log 1 - log sigmoid(-300) = 300; the second label agrees: 0.
    assert float(losses.binary_kl(np.array([-300.0, 300.0], "float32"), np.array([300.0, 300.0], "float32"))) == 150.0


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_of_kl_divergence_is_t_times_q_minus_p_over_the_batch(temperature, scale):
    student, teacher = scale * np.random.default_rng(1).normal(size=(2, 6, 5)).astype("float32")
    _, gradient = term_gradient(losses.kl_divergence, student, teacher, temperature)
    q, p = softmax(student / temperature), softmax(teacher / temperature)
    np.testing.assert_allclose(gradient, temperature * (q - p) / 6, atol=1e-5)


def test_the_gradient_of_kl_divergence_is_alive_at_opposite_certainties():
    # q = (0, 1, 0), p = (1, 0, 0), T = 1, B = 2; the second example agrees.
    student, teacher = [[0.0, 200.0, 0.0], [0.0, 0.0, 9.0]], [[200.0, 0.0, 0.0], [0.0, 0.0, 9.0]]
    _, gradient = term_gradient(losses.kl_divergence, student, teacher, 1.0)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_of_binary_kl_is_t_times_q_minus_p_over_labels_and_batch(temperature, scale):
    # d KL / d z_s of one label is Q - P; then the mean over 5 labels and 6 examples, and T**2 / T = T.
    student, teacher = scale * np.random.default_rng(2).normal(size=(2, 6, 5)).astype("float32")
    _, gradient = term_gradient(losses.binary_kl, student, teacher, temperature)
    q, p = (np.exp(-np.logaddexp(0, -z.astype("float64") / temperature)) for z in (student, teacher))
    np.testing.assert_allclose(gradient, temperature * (q - p) / 30, atol=1e-5)


def test_the_gradient_of_squared_error_is_twice_the_difference_over_all_values():
    student, teacher = np.random.default_rng(3).normal(size=(2, 6, 5)).astype("float32")
    _, gradient = term_gradient(losses.squared_error, student, teacher, 1.0)
    np.testing.assert_allclose(gradient, 2 * (student - teacher) / 30, atol=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_temperature_cancels_in_squared_error(temperature):
    # mean of (1 - 3)**2 and (2 - 2)**2 = 2
    value, _ = term_gradient(losses.squared_error, [[1.0, 2.0]], [[3.0, 2.0]], temperature)
    assert value == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("repeats", [(7,), (4, 3)], ids=["time", "pixels"])
@every_loss
def test_repeating_a_batch_along_positions_leaves_its_loss_unchanged(loss, repeats):
    student, teacher = np.random.default_rng(4).normal(size=(2, 6, 5)).astype("float32")
    expected = np.mean(reference(loss, student, teacher, 2.0))

    def repeated(z):
        return np.broadcast_to(z.reshape(6, *[1] * len(repeats), 5), (6, *repeats, 5))

    value, _ = term_gradient(loss, repeated(student), repeated(teacher), 2.0)
    assert value == pytest.approx(expected, rel=1e-5)


@every_loss
def test_how_many_classes_or_labels_there_are_need_not_be_known_while_it_is_traced(loss):
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    received = tf.function(loss, input_signature=[tf.TensorSpec((None, None))] * 2)(student, teacher)
    np.testing.assert_allclose(received, reference(loss, student, teacher, 1.0), rtol=1e-5, atol=1e-6)


@every_loss
def test_shapes_that_differ_are_refused_with_both_of_them(loss):
    with pytest.raises(ValueError, match=r"student \(2, 3\), teacher \(2, 4\).*bridge"):
        loss(np.zeros((2, 3), "float32"), np.zeros((2, 4), "float32"))


def test_one_logit_under_a_softmax_divergence_is_refused_with_the_loss_to_use():
    with pytest.raises(ValueError, match="binary_kl"):
        losses.kl_divergence(np.zeros((2, 1), "float32"), np.zeros((2, 1), "float32"))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize(
    "loss, name", [(losses.jensen_shannon, "beta"), (losses.skew_kl, "skew"), (losses.skew_reverse_kl, "skew")]
)
def test_an_invalid_share_of_the_teacher_is_refused(loss, name, share):
    x = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match=f"`{name}` to be from 0 to 1"):
        loss(x, x, **{name: share})


@every_loss
def test_a_loss_can_be_saved_by_its_name(loss):
    assert keras.saving.get_registered_name(loss) == f"keras_kd>{loss.__name__}"
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)) is loss


def generalised_divergence(student, teacher, beta):
    """Return GKD's divergence as the code of its trainer in TRL computes it, from log-probabilities in float64.

    kl_div(input, target) of PyTorch is sum target (log target - input): KL of its second argument from its first.
    """

    def kl_div(log_input, log_target):
        return np.sum(np.exp(log_target) * (log_target - log_input), axis=-1)

    student, teacher = (np.log(softmax(np.asarray(each, "float64"))) for each in (student, teacher))
    if beta == 0:
        return kl_div(student, teacher)
    if beta == 1:
        return kl_div(teacher, student)
    mixture = np.logaddexp(np.log(1 - beta) + student, np.log(beta) + teacher)
    return beta * kl_div(mixture, teacher) + (1 - beta) * kl_div(mixture, student)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
def test_beta_goes_from_the_forward_to_the_reverse_divergence_and_not_back(beta):
    student, teacher = np.float32([[0.0, 0.0, 5.0], [1.0, 2.0, 3.0]]), np.float32([[3.0, 0.0, 0.5], [0.0, 0.0, 4.0]])
    values = losses.jensen_shannon(student, teacher, beta=beta)
    np.testing.assert_allclose(values, generalised_divergence(student, teacher, beta), rtol=1e-5)
    if beta != 0.5:
        assert np.all(np.abs(values - generalised_divergence(student, teacher, 1 - beta)) > 1e-2)


@pytest.mark.parametrize(("beta", "limit"), [(1e-3, losses.kl_divergence), (1 - 1e-3, losses.reverse_kl)])
def test_near_its_ends_beta_is_as_at_them_but_for_its_factor(beta, limit):
    student, teacher = np.float32([[0.0, 0.5, 1.0]]), np.float32([[1.0, 0.0, 0.5]])
    scaled = np.asarray(losses.jensen_shannon(student, teacher, beta=beta)) / (beta * (1 - beta))
    np.testing.assert_allclose(scaled, limit(student, teacher), rtol=5e-3)
    other = losses.reverse_kl if limit is losses.kl_divergence else losses.kl_divergence
    assert abs(float(other(student, teacher)[0]) - float(limit(student, teacher)[0])) > 1e-2 * float(scaled[0])
