"""Several teachers as one: what an Ensemble averages, and with which weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, TeacherCache, Term, losses, schedules, transforms
from keras_kd.teachers import EMA, Cached, Ensemble, Frozen, SelfTeacher, Teacher
from tests import references
from tests.models import Subclassed, assert_same, batch, dense, headed, linear, mlp, softmax, tagger
from tests.test_objective import Spoil, distill, fit, masked_input, masked_model

X, Y = batch()
ONE_HOT = np.eye(3, dtype="float32")[Y]
FEATURES = Term(losses.squared_error, at=("hidden", "hidden"))


def predict(model, x=X):
    return model(x, training=False).numpy().astype("float64")


def mixed(members, weights, temperature, x=X, function=softmax):
    """Return sum_m w_m p_m with p_m = function(z_m / T), in float64; weights are (members,) or (members, batch)."""
    shares = np.asarray(weights, "float64") / np.sum(weights, axis=0)
    probabilities = [function(predict(member, x) / temperature) for member in members]
    return sum(share[..., None] * each for share, each in zip(shares, probabilities, strict=True))


def soft_loss(student, targets, temperature, x=X):
    """Return the mean of T**2 * KL(targets || softmax(z / T))."""
    q = softmax(predict(student, x) / temperature)
    return temperature**2 * np.mean(np.sum(targets * (np.log(targets) - np.log(q)), axis=-1))


def soft_logs(student, teacher, terms=None, y=None, x=X, temperature=4.0, **arguments):
    """Return the logs of a fit to the teacher alone."""
    return fit(distill(student, teacher, terms, loss=None, alpha=1.0, temperature=temperature), x, y, **arguments)


def soft_log(student, teacher, terms=None, y=None, x=X, temperature=4.0):
    """Return the loss of one batch, from the teacher alone."""
    distiller = distill(student, teacher, terms, loss=None, alpha=1.0, temperature=temperature)
    x, y = (None if values is None else tf.constant(values) for values in (x, y))
    return float(distiller.objective(x, y)["distillation_loss"])


# What is averaged


def test_two_identical_teachers_teach_what_one_does():
    results = []
    for teacher in (mlp(0), [mlp(0), mlp(0)]):
        student = mlp(1)
        terms = [Term(losses.kl_divergence), Term(losses.squared_error, at=("hidden", "hidden"))]
        distiller = distill(student, teacher, terms, keras.optimizers.SGD(0.5), run_eagerly=False)
        results.append((fit(distiller, batch_size=4, epochs=3)["loss"], student.get_weights()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert_same(results[1][1], results[0][1], 1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_are_averaged_at_the_temperature_in_use(temperature):
    student, members = linear(9), [linear(1), mlp(2), linear(3)]
    expected = soft_loss(student, mixed(members, [1.0, 1.0, 1.0], temperature), temperature)
    assert soft_log(student, Ensemble(members), temperature=temperature) == pytest.approx(expected, rel=1e-5)


def test_each_term_averages_at_its_own_temperature():
    student, members = linear(9), [linear(1), linear(2)]
    terms = [Term(losses.kl_divergence, temperature=t, name=f"at_{t:.0f}") for t in (1.0, 8.0)]
    logs = soft_logs(student, Ensemble(members), terms)
    for t in (1.0, 8.0):
        expected = soft_loss(student, mixed(members, [1.0, 1.0], t), t)
        assert logs[f"at_{t:.0f}"] == pytest.approx([expected], rel=1e-5)


def test_a_term_without_a_temperature_averages_probabilities_at_1():
    student, members = linear(9), [linear(1), linear(2)]
    expected = soft_loss(student, mixed(members, [1.0, 1.0], 1.0), 1.0)
    received = soft_log(student, Ensemble(members), [Term(losses.kl_divergence, soften=False)], temperature=4.0)
    assert received == pytest.approx(expected, rel=1e-5)


def test_logits_can_be_averaged_instead():
    student, members = linear(9), [linear(1), linear(2)]
    targets = softmax((3.0 * predict(members[0]) + predict(members[1])) / 4.0 / 4.0)
    received = soft_log(student, Ensemble(members, [3.0, 1.0], over="logits"))
    assert received == pytest.approx(soft_loss(student, targets, 4.0), rel=1e-5)


@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_features_are_averaged_unchanged(over):
    student, members = mlp(9), [mlp(1), mlp(2)]
    hidden = [keras.Model(m.input, m.get_layer("hidden").output) for m in (student, *members)]
    s, *t = (predict(model) for model in hidden)
    expected = np.mean((s - (3.0 * t[0] + t[1]) / 4.0) ** 2)
    assert soft_log(student, Ensemble(members, [3.0, 1.0], over), [FEATURES]) == pytest.approx(expected, rel=1e-5)


def test_an_output_of_values_is_averaged_unchanged():
    student, members = linear(9), [Frozen(linear(seed), head="values") for seed in (1, 2)]
    expected = np.mean((predict(student) - (predict(members[0].model) + predict(members[1].model)) / 2) ** 2)
    received = soft_log(student, Ensemble(members), [Term(losses.squared_error, soften=False)])
    assert received == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_independent_labels_have_the_average_of_the_sigmoids(temperature, activation):
    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    student, members = linear(9), [linear(1), linear(2)]
    p = mixed(members, [1.0, 3.0], temperature, function=sigmoid)
    q = sigmoid(predict(student) / temperature)
    # KL of two Bernoulli distributions, the mean over the labels.
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    teachers = [linear(1, activation=activation), linear(2, activation=activation)]
    received = soft_log(student, Ensemble(teachers, [1.0, 3.0]), [Term(losses.binary_kl)], temperature=temperature)
    assert received == pytest.approx(temperature**2 * np.mean(divergence), rel=1e-5)


@pytest.mark.parametrize(
    "activation, function, back",
    [
        ("softmax", softmax, np.log),
        (None, softmax, np.log),
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z)), lambda p: np.log(p) - np.log(1 - p)),
    ],
    ids=["softmax", "logits", "sigmoid"],
)
def test_a_loss_on_numbers_reads_the_average_of_the_heads_of_the_members(activation, function, back):
    student, members = linear(9), [linear(1), linear(2)]
    expected = np.mean((predict(student) - back(mixed(members, [1.0, 3.0], 1.0, function=function))) ** 2)
    teacher = Ensemble([linear(seed, activation=activation) for seed in (1, 2)], [1.0, 3.0])
    received = soft_log(student, teacher, [Term(losses.squared_error, soften=False)])
    assert received == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_members_may_end_in_logits_or_in_an_activation(head):
    student, members = linear(9), [linear(1), linear(2)]
    expected = soft_loss(student, mixed(members, [1.0, 1.0], 4.0), 4.0)
    received = soft_log(student, Ensemble([members[0], headed(2, head)]))
    assert received == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [losses.kl_divergence, losses.binary_kl])
def test_extreme_logits_stay_finite_and_exact(loss):
    def extreme(signs):
        return lambda x: keras.ops.ones_like(x[:, :1]) * np.array(signs, "float32") * 200.0

    student = linear(9)
    received = soft_log(student, [extreme([1, -1, -1]), extreme([-1, 1, -1])], [Term(loss)], temperature=1.0)
    # Halves of two certain predictions: (1/2, 1/2, 0), and for each label the same numbers.
    p, z = np.array([0.5, 0.5, 1e-300]), predict(student)
    if loss is losses.kl_divergence:
        expected = np.mean(np.sum(p * (np.log(p) - np.log(softmax(z))), axis=-1))
    else:
        q = 1.0 / (1.0 + np.exp(-z))
        expected = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    assert received == pytest.approx(expected, rel=1e-5)


def test_a_transform_is_applied_to_each_member():
    student, members = linear(9), [linear(1), linear(2)]
    p = sum(softmax(references.standardize(predict(member)) / 4.0) for member in members) / 2
    q = softmax(references.standardize(predict(student)) / 4.0)
    expected = 16.0 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    received = soft_log(student, Ensemble(members), [Term(losses.kl_divergence, transform=transforms.standardize)])
    assert received == pytest.approx(expected, rel=1e-4)


def test_each_member_has_its_own_preprocessing():
    student, members = linear(9), [linear(1), linear(2)]
    teachers = [Frozen(members[0], preprocess=lambda x: 2.0 * x), Frozen(members[1], preprocess=lambda x: x - 1.0)]
    p = (softmax(predict(members[0], 2.0 * X) / 4.0) + softmax(predict(members[1], X - 1.0) / 4.0)) / 2
    assert soft_log(student, Ensemble(teachers)) == pytest.approx(soft_loss(student, p, 4.0), rel=1e-5)


@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_one_member_is_that_teacher(over):
    results = []
    for teacher in (Frozen(mlp(0)), Ensemble([mlp(0)], over=over)):
        student = mlp(1)
        distiller = distill(student, teacher, None, keras.optimizers.SGD(0.5))
        results.append((fit(distiller, epochs=2)["loss"], student.get_weights()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert_same(results[1][1], results[0][1], 1e-6)


def test_a_list_of_models_is_an_ensemble():
    distiller = Distiller(student=linear(9), teacher=[linear(1), linear(2)])
    assert isinstance(distiller.teacher, Ensemble)
    assert soft_log(linear(9), [linear(1), linear(2)]) == soft_log(linear(9), Ensemble([linear(1), linear(2)]))


# Sequences and masks

WORDS = np.array([[1, 2, 0, 0], [3, 4, 5, 1], [2, 0, 0, 0]], "int32")
TAGS = np.array([[0, 1, 2, 2], [2, 1, 0, 0], [1, 2, 2, 2]])


def tagged_loss(student, targets, valid):
    q = softmax(predict(student, WORDS) / 4.0)
    return 16.0 * np.mean(np.sum(targets * np.log(targets / q), axis=-1)[valid])


@pytest.mark.parametrize("masks", [(True, True, True), (True, False, False), (False, True, True)])
@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_masked_positions_of_sequences_do_not_count(over, masks):
    student, *members = (tagger(seed, mask=mask) for seed, mask in zip((9, 1, 2), masks, strict=True))
    if over == "probabilities":
        targets = mixed(members, [1.0, 1.0], 4.0, WORDS)
    else:
        targets = softmax((predict(members[0], WORDS) + predict(members[1], WORDS)) / 2 / 4.0)
    received = soft_log(student, Ensemble(members, over=over), x=WORDS)
    assert received == pytest.approx(tagged_loss(student, targets, WORDS != 0), rel=1e-5)


@pytest.mark.parametrize("padding", [2, -1])
def test_agreement_is_computed_at_each_position_and_padding_needs_no_label(padding):
    student, members = tagger(9), [tagger(1), tagger(2)]
    right = [np.take_along_axis(softmax(predict(m, WORDS)), TAGS[..., None], axis=-1)[..., 0] for m in members]
    targets = mixed(members, right, 4.0, WORDS)
    y = np.where(WORDS != 0, TAGS, padding)
    received = soft_log(student, Ensemble(members, "agreement"), x=WORDS, y=y)
    assert received == pytest.approx(tagged_loss(student, targets, WORDS != 0), rel=1e-5)


@pytest.mark.parametrize("weights", [None, "agreement"])
def test_a_member_that_predicts_nan_in_masked_positions_does_no_harm(weights):
    received = []
    for more in ([], [Spoil()]):
        teacher = Ensemble([masked_model(1), masked_model(2, *more)], weights)
        received.append(soft_log(masked_model(9), teacher, x=masked_input(0.0), y=TAGS[:, :3]))
    assert received[0] == received[1] > 0.0


@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_a_member_of_half_precision_keeps_its_mask(over):
    student, members = tagger(9, mask=False), [tagger(1), tagger(2)]
    halves = [Frozen(member, dtype="bfloat16") for member in members]
    received, expected = (soft_log(student, Ensemble(each, over=over), x=WORDS) for each in (halves, members))
    assert received == pytest.approx(expected, rel=0.02)


# Weights


@pytest.mark.parametrize("weights", [[3.0, 1.0, 1.0], [1, 0, 2], [1e-6, 2e-6, 3e-6]], ids=str)
def test_weights_are_shares_of_their_sum(weights):
    student, members = linear(9), [linear(1), linear(2), linear(3)]
    expected = soft_loss(student, mixed(members, weights, 4.0), 4.0)
    assert soft_log(student, Ensemble(members, weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_members_with_their_weights_may_be_in_any_order(over):
    members, weights = [mlp(1), mlp(2), mlp(3)], [3.0, 1.0, 2.0]
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        teacher = Ensemble([members[i] for i in order], [weights[i] for i in order], over)
        student = mlp(9)
        fit(distill(student, teacher, [Term(losses.kl_divergence), FEATURES], keras.optimizers.SGD(0.5)), epochs=2)
        results.append(student.get_weights())
    assert_same(results[1], results[0], 1e-6)


def test_weights_follow_their_schedules():
    student, members = linear(9), [linear(1), linear(2)]
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([1], [2.0, 0.0])
    teacher = Ensemble(members, [schedules.Ramp(0.0, 4.0, steps=4), decay])
    distiller = distill(student, teacher, loss=None, alpha=1.0, temperature=4.0, run_eagerly=False)
    received = fit(distiller, X, None, epochs=4)["distillation_loss"]
    by_step = [[1.0, 2.0], [2.0, 2.0], [3.0, 0.0], [4.0, 0.0]]
    assert received == pytest.approx([soft_loss(student, mixed(members, w, 4.0), 4.0) for w in by_step], rel=1e-5)


def test_weights_that_reach_0_together_count_as_equal():
    student, members = linear(9), [linear(1), linear(2)]
    end = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.0])
    expected = soft_loss(student, mixed(members, [1.0, 1.0], 4.0), 4.0)
    received = soft_logs(student, Ensemble(members, [end, end]), epochs=2)["distillation_loss"]
    assert received == pytest.approx([expected, expected], rel=1e-5)


@pytest.mark.parametrize("labels", [Y, Y[:, None], ONE_HOT], ids=["ids", "column", "one-hot"])
@pytest.mark.parametrize("over", ["probabilities", "logits"])
def test_by_agreement_a_member_that_predicts_the_label_has_more_weight(labels, over):
    # w_m = p_m[y] / sum_j p_j[y], at T = 1 whatever the temperature.
    student, members = linear(9), [linear(1), linear(2), linear(3)]
    right = np.stack([softmax(predict(member))[np.arange(len(Y)), Y] for member in members])
    if over == "probabilities":
        targets = mixed(members, right, 4.0)
    else:
        shares = right / right.sum(axis=0)
        targets = softmax(sum(share[:, None] * predict(m) for share, m in zip(shares, members, strict=True)) / 4.0)
    received = soft_log(student, Ensemble(members, "agreement", over), y=labels)
    assert received == pytest.approx(soft_loss(student, targets, 4.0), rel=1e-5)


# What is true of every member, at any position


class Busy(Teacher):
    """Use every method of a teacher: prepare x, follow `fit` and the student, choose the student's inputs."""

    def __init__(self, name, prepare=lambda x: x):
        super().__init__(name=name)
        self.prepare, self.done = prepare, []

    def call(self, x, student, labels=None, step=0):
        return {"logits": keras.ops.zeros_like(student["logits"])}

    def before_fit(self, x, verbose="auto"):
        return self.prepare(x)

    def callbacks(self):
        return [keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.done.append(("epoch", epoch)))]

    def after_step(self, student, step):
        self.done.append(("step", int(step)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_member_follows_fit_and_every_step(place):
    members = [linear(1), linear(2)]
    members.insert(place, Busy("busy"))
    teacher = Ensemble([*members, Busy("last")])
    fit(distill(linear(9), teacher), batch_size=4, epochs=2)
    expected = [("epoch", 0), ("step", 1), ("step", 2), ("epoch", 1), ("step", 3), ("step", 4)]
    assert members[place].done == teacher.teachers[-1].done == expected


def test_every_member_prepares_x_one_after_the_other():
    student = linear(9)
    members = [Busy("first", lambda x: x + 1.0), linear(1), Busy("last", lambda x: 2.0 * x)]
    distiller = distill(student, members, loss=None, alpha=1.0, temperature=1.0)
    x = 2.0 * (X + 1.0)
    even = np.full((len(X), 3), 1 / 3)
    targets = (2 * even + softmax(predict(linear(1), x))) / 3
    assert fit(distiller, X, None)["loss"] == pytest.approx([soft_loss(linear(9), targets, 1.0, x)], rel=1e-5)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]], ids=str)
def test_every_average_of_the_student_moves_and_is_saved(order, tmp_path):
    made = [EMA(0.9), linear(2), EMA(0.5)]
    distiller = distill(linear(9), [made[i] for i in order], None, keras.optimizers.SGD(0.5))
    first = distiller.student.get_weights()
    second = fit(distiller, epochs=1) and distiller.student.get_weights()
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    again = distill(linear(9), [[EMA(0.9), linear(2), EMA(0.5)][i] for i in order])
    again.load_weights(tmp_path / "distiller.weights.h5")
    assert np.max(np.abs(second[0] - first[0])) > 0.01
    for each in (distiller, again):
        for number, decay in ((0, 0.9), (2, 0.5)):
            member = each.teacher.teachers[order.index(number)]
            expected = [decay * a + (1 - decay) * b for a, b in zip(first, second, strict=True)]
            assert_same(member.model.get_weights(), expected, 1e-6)
    assert_same(linear(2).get_weights(), distiller.teacher.teachers[order.index(1)].model.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_member_with_a_cache_of_several_views_gets_each_epochs_view(place, tmp_path):
    def augment(x, seed):
        return x + tf.cast(seed[1], "float32")  # the number of the view

    student, live, teacher = linear(9), linear(1), linear(2)
    cache = TeacherCache(tmp_path, teacher, dtype="float32", views=2, augment=augment)
    examples = tf.data.Dataset.from_tensor_slices(X)
    cache.build(examples, verbose=0)
    seen = []
    probe = keras.layers.Lambda(lambda x: seen.append(x.numpy()) or live(x))
    probe.built = True
    members = [probe]
    members.insert(place, Cached(cache))
    distiller = distill(student, members, loss=None, alpha=1.0, temperature=1.0)
    logs = distiller.fit(cache.join(examples).batch(8), epochs=2, verbose=0).history["loss"]
    views = seen[-2:]
    assert np.max(np.abs(views[0] - views[1])) >= 1.0  # another view in each epoch
    for view, loss in zip(views, logs, strict=True):
        targets = (softmax(predict(live, view)) + softmax(predict(teacher, view))) / 2
        assert loss == pytest.approx(soft_loss(student, targets, 1.0, view), rel=1e-4)


@pytest.mark.parametrize("place", [0, 1])
def test_a_member_whose_probabilities_are_read_as_logits_is_found(place):
    def probabilities(x):
        return tf.nn.softmax(x[:, :3])

    members = [headed(1, "softmax")]
    members.insert(place, probabilities)
    with pytest.warns(UserWarning, match="'frozen_probabilities' look like probabilities"):
        fit(distill(linear(9), members))


@pytest.mark.parametrize("place", [0, 1])
def test_a_member_that_reads_the_student_is_shown_what_it_reads(place):
    student, other = mlp(9), mlp(2)
    members = [mlp(2)]
    members.insert(place, SelfTeacher())
    at = ("scores", "hidden")  # the second is not read for the student's side
    term = Term(lambda s, t: keras.ops.mean(t, axis=-1) + 0.0 * keras.ops.sum(s, axis=-1), at=at, soften=False)
    hidden = [predict(keras.Model(m.input, m.get_layer("hidden").output)) for m in (mlp(9), other)]
    distiller = distill(student, members, [term], loss=None, alpha=1.0)
    assert fit(distiller, X, None)["loss"] == pytest.approx([np.mean(hidden)], rel=1e-4)


@pytest.mark.parametrize("place", [0, 1])
def test_a_member_that_changes_makes_the_ensemble_change(place):
    for changing in (EMA(0.9), Ensemble([linear(3), linear(4)], "agreement"), SelfTeacher()):
        members = [Frozen(linear(1))]
        members.insert(place, changing)
        assert not Ensemble(members).cacheable(("logits",))
    assert Ensemble([linear(1), linear(2)]).cacheable(("logits",))


@pytest.mark.parametrize("place", [0, 1])
def test_properties_known_of_one_member_are_known_of_the_ensemble(place):
    bare = Subclassed(dense(3, 1))
    bare.build((None, 4))
    members = [Frozen(linear(2, activation="sigmoid"))]
    members.insert(place, Frozen(bare))
    teacher = Ensemble(members)
    assert teacher.specs()["logits"].shape == (None, 3) and teacher.kind("logits") == "sigmoid"
    words = ["(None, 7)", "(None, 3)"]
    refused(words, Distiller, student=mlp(9, classes=7), teacher=teacher)  # before data are seen


@pytest.mark.parametrize("place", [0, 1])
def test_a_member_may_choose_what_the_student_is_fed(place):
    class Views(Busy):
        def student_view(self, x):
            return x["small"]

    members = [Frozen(linear(1), preprocess=lambda x: x["large"])]
    members.insert(place, Views("views"))
    x = {"small": X, "large": 3.0 * X}
    distiller = distill(linear(9), members, loss=None, alpha=1.0, temperature=1.0)
    targets = (softmax(predict(linear(1), 3.0 * X)) + np.full((len(X), 3), 1 / 3)) / 2
    received = fit(distiller, x, None, batch_size=len(X))["loss"]
    assert received == pytest.approx([soft_loss(linear(9), targets, 1.0)], rel=1e-5)


# What is refused


def refused(words, function, *arguments, error=ValueError, **keywords):
    with pytest.raises(error) as raised:
        function(*arguments, **keywords)
    for word in words:
        assert word in str(raised.value), f"{word!r} is missing from: {raised.value}"


@pytest.mark.parametrize(
    "weights, words",
    [
        ([1.0], ["weights=[1.0]", "each of 2"]),
        ([1.0, 2.0, 3.0], ["weights=[1.0, 2.0, 3.0]", "each of 2"]),
        ([2.0, -1.0], ["[2.0, -1.0]", "negative"]),
        ([0.0, 0], ["[0.0, 0]", "all 0"]),
        ([1.0, float("nan")], ["finite", "nan"]),
        ("agree", ["'agree'", '"agreement"']),
        (2.0, ["weights=2.0", "each of 2"]),
    ],
    ids=str,
)
def test_invalid_weights_are_refused(weights, words):
    refused(words, Ensemble, [linear(1), linear(2)], weights)


def test_a_weight_that_is_no_number_is_refused():
    refused(["weights", "number", "'much'"], Ensemble, [linear(1), linear(2)], ["much", 1.0], error=TypeError)


def test_an_ensemble_needs_members():
    refused(["at least one", "[]"], Ensemble, [])
    refused(["at least one", "[]"], Distiller, student=linear(9), teacher=[])
    refused(["list"], Ensemble, linear(1))


def test_a_member_that_is_no_teacher_is_shown():
    refused(["'teacher.keras'", "Keras model"], Ensemble, [linear(1), "teacher.keras"], error=TypeError)


def test_the_average_is_one_of_two_kinds():
    refused(["'probabilities'", "'logits'", "'log'"], Ensemble, [linear(1)], over="log")


def test_members_of_different_classes_are_refused_before_the_first_step():
    members = [linear(1), mlp(2, classes=7)]
    words = ["(None, 3)", "(None, 7)", members[0].name, members[1].name, "same classes"]
    refused(words, Distiller, student=linear(9), teacher=members)


def test_members_of_different_features_are_refused_before_the_first_step():
    words = ["'hidden'", "(None, 5)", "(None, 8)"]
    refused(words, Distiller, student=mlp(9), teacher=[mlp(1), mlp(2, units=8)], terms=[FEATURES])


def test_members_without_a_graph_are_checked_in_the_first_step():
    members = [Subclassed(dense(classes, 1)) for classes in (3, 7)]
    for member in members:
        member.build((None, 4))
    refused(["(8, 3)", "(8, 7)"], soft_log, linear(9), members)


@pytest.mark.parametrize("y", [None, {"logits": Y}], ids=["none", "dict"])
def test_agreement_needs_one_tensor_of_labels(y):
    teacher = Ensemble([linear(1), linear(2)], "agreement")
    words = ["agreement", "labels", "as numbers"]
    distiller = distill(linear(9), teacher, loss=None, alpha=1.0)
    y = tf.nest.map_structure(tf.constant, y) if y is not None else None
    refused(words, distiller.objective, tf.constant(X), y)


def test_agreement_weighs_logits_only():
    refused(["agreement", "logits", "as numbers"], soft_log, mlp(9), Ensemble([mlp(1)], "agreement"), [FEATURES], Y)


def test_values_beside_logits_are_refused():
    members = [Frozen(linear(1), head="values"), linear(2)]
    for each in (members, members[::-1]):
        refused(["'values'", "'auto'", "one meaning"], Distiller, student=linear(9), teacher=each)


def test_an_ensemble_in_an_ensemble_is_refused():
    refused(["ensemble", "one Ensemble"], soft_log, linear(9), [linear(1), [linear(2), linear(3)]])
