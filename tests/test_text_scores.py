"""What a text weighs by a score, and how likely it is under a model."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.language import Rollouts, mean_log_probability
from tests import references
from tests.test_rollouts import begun, bigram

RANDOM = np.random.default_rng(0)
OURS, THEIRS, THIRD = RANDOM.normal(size=(3, 5, 5))
IDS, LABELS = RANDOM.integers(0, 5, (2, 7, 4))
WEIGHTS = RANDOM.random((7, 4)) * (RANDOM.random((7, 4)) < 0.7) + np.eye(7, 4)
WEIGHTS[6] = 0.0


def log_softmax(table):
    return table - np.log(np.exp(table).sum(axis=-1, keepdims=True))


def expected(log_p, ids=IDS, labels=LABELS, weights=WEIGHTS):
    """Return the mean of log p(y_t) over the tokens that are learned, one text after the other."""
    found = []
    for row, following, weight in zip(ids, labels, weights, strict=True):
        values = [log_p[token, label] for token, label, w in zip(row, following, weight, strict=True) if w > 0]
        found.append(np.mean(values) if values else 0.0)
    return np.array(found)


@pytest.mark.parametrize("batch_size", [3, 32])
@pytest.mark.parametrize("as_dict", [False, True])
def test_the_mean_is_that_of_the_learned_tokens(as_dict, batch_size):
    x = {"token_ids": IDS, "padding_mask": np.ones(IDS.shape, bool)} if as_dict else IDS
    found = mean_log_probability(bigram(THEIRS), x, LABELS, WEIGHTS, batch_size)
    np.testing.assert_allclose(found, expected(log_softmax(THEIRS)), rtol=1e-5)
    assert found.dtype == "float32" and found[6] == 0


def test_several_models_are_averaged_and_a_token_that_is_impossible_is_not_learned():
    sharp = np.where(np.eye(5, dtype=bool), 0.0, -1e30)
    together = np.log((np.exp(log_softmax(OURS)) + np.exp(log_softmax(THEIRS))) / 2)
    found = mean_log_probability([bigram(OURS), bigram(THEIRS)], IDS, LABELS, WEIGHTS)
    np.testing.assert_allclose(found, expected(together), rtol=1e-5)
    possible = np.where(IDS == LABELS, WEIGHTS, 0.0)
    np.testing.assert_allclose(mean_log_probability(bigram(sharp), IDS, LABELS, possible), 0.0)


@pytest.mark.slow
def test_tasks_of_kerashub_are_averaged_too():
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    tasks, weights = [causal_lm(3), causal_lm(4)], np.ones((2, 4))
    x = {"token_ids": np.array([[0, 3, 4, 5], [0, 9, 0, 0]]), "padding_mask": np.array([[1] * 4, [1, 1, 0, 0]], bool)}
    y = np.array([[3, 4, 5, 6], [9, 7, 0, 0]])
    weights[1, 2:] = 0
    logits = np.stack([np.asarray(each(x), "float64") for each in tasks])
    together = np.log(np.mean(np.exp(log_softmax(logits)), axis=0))
    of_labels = np.take_along_axis(together, y[..., None], axis=-1)[..., 0]
    means = (of_labels * weights).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(mean_log_probability(tasks, x, y, weights), means, rtol=1e-4)


def test_what_a_teacher_writes_has_its_own_score():
    teacher = bigram(THEIRS)
    made = kd.language.generate(teacher, [[0], [1, 2]], length=5, temperature=1.0, samples=3, best=3, verbose=0)
    found = mean_log_probability(teacher, made.x, made.y, made.sample_weight)
    np.testing.assert_allclose(found, made.teacher_score, rtol=1e-5)


def rollouts(score, **arguments):
    given = (IDS, LABELS, np.full(IDS.shape, 0.5))
    settings = {
        "length": 4, "stop_ids": [1], "batch_size": 8, "every": 3, "replay": 2, "data": given, "teacher_share": 0.3,
        "student_share": 0.4, "teacher": bigram(THEIRS), "score": score,
    }  # fmt: skip
    return Rollouts([[0], [2, 3], [4]], student=bigram(OURS), **{**settings, **arguments})


def likely(x, y, sample_weight):
    return np.exp(mean_log_probability(bigram(THEIRS), x["token_ids"], y, sample_weight))


class Changing:
    """A score that is another one for each test; a model that writes is traced once."""

    function = staticmethod(likely)

    def __call__(self, *examples):
        return self.function(*examples)


@pytest.fixture(scope="module")
def shared():
    return rollouts(Changing())


@pytest.fixture
def scored(shared, monkeypatch):
    """Return a function that returns rollouts with a score, whose next epoch has begun."""

    def begin(score):
        monkeypatch.setattr(Changing, "function", staticmethod(score))
        shared._rows, shared._turns = None, shared._turns._replace(drawn=0, due=0.0)
        return begun(shared)

    return begin


def test_what_models_write_weighs_its_score_once_and_given_examples_their_own_weight(scored):
    data = scored(likely)
    for _ in range(3):
        rows = begun(data)._rows
        of_score = np.exp(expected(log_softmax(THEIRS), rows.token_ids, rows.y, rows.sample_weight))
        weights = np.where(rows.origin == 2, 0.5, of_score)[:, None] * (rows.sample_weight > 0)
        np.testing.assert_allclose(rows.sample_weight, weights, rtol=1e-5)
        assert set(rows.origin) == {0, 1, 2} and np.any(rows.sample_weight == 0)


def test_a_score_sees_what_is_written_in_the_form_of_examples(scored):
    seen = []

    def note(x, y, sample_weight):
        seen.append((x, y, sample_weight))
        return np.ones(len(y))

    rows = scored(note)._rows
    (x, y, weights), *others = seen
    written = rows.origin != 2
    assert not others and x.keys() == {"token_ids", "padding_mask"}
    for one, other in zip((*x.values(), y, weights), rows[:4], strict=True):
        np.testing.assert_array_equal(one, other[written])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_the_mean_goes_over_the_weights_of_the_tokens(reduction, scored):
    data = scored(likely)
    made = kd.Distiller(student=data.student, teacher=bigram(THIRD), terms=kd.methods.gkd(beta=1.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    made.compile("sgd", loss, alpha=1.0, run_eagerly=True)
    x, y, weights = data[1]
    values = references.reverse_kl(OURS[x], THIRD[x])
    divisor = weights.sum() if reduction == "mean_with_sample_weight" else weights.size
    of_rows = np.sum(weights * values) / divisor
    assert float(made.objective(x, y, weights)["distillation_loss"]) == pytest.approx(of_rows, rel=1e-5)


def test_a_mixture_weighs_tokens_and_a_score_texts():
    arguments = {"teacher_mix": 0.3, "student_share": 1.0, "teacher_share": 0.0, "data": None}
    rows = begun(rollouts(likely, **arguments))._rows
    of_score = np.exp(expected(log_softmax(THEIRS), rows.token_ids, rows.y, rows.sample_weight))
    q, p = (np.exp(log_softmax(table))[rows.token_ids, rows.y] for table in (OURS, THEIRS))
    weights = of_score[:, None] * q / (0.7 * q + 0.3 * p) * (rows.sample_weight > 0)
    np.testing.assert_allclose(rows.sample_weight, weights, rtol=1e-5)


def test_texts_that_all_weigh_nothing_have_no_loss(scored):
    data = scored(lambda x, y, weights: np.zeros(len(y)))
    made = kd.Distiller(student=data.student, teacher=bigram(THIRD), terms=kd.methods.gkd(beta=1.0))
    made.compile("sgd", alpha=1.0, run_eagerly=True)
    x, y, weights = (each[data._rows.origin != 2] for each in (data._rows.token_ids, *data._rows[2:4]))
    assert not weights.any() and float(made.objective(x, y, weights)["loss"]) == 0


@pytest.mark.parametrize(
    "score, message",
    [
        (lambda x, y, weights: weights, r"for each text, \(\d+,\). Received: \(\d+, 5\)\."),
        (lambda x, y, weights: 1.0, r"Received: \(\)\."),
        (lambda x, y, weights: np.full(len(y), -0.5), r"from 0 on for each text, .*, with -0.5\."),
        (lambda x, y, weights: np.full(len(y), np.nan), r"a finite number .*, with nan\."),
    ],
    ids=["tokens", "one", "negative", "NaN"],
)
def test_scores_that_cannot_be_are_refused(score, message, scored):
    with pytest.raises(ValueError, match=message):
        scored(score)
