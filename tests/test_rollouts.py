"""What a student writes while it learns: the right tokens, of the right origin, from the student as it is then."""

import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.language import AdaptiveShare, Rollouts, generate
from keras_kd.schedules import Ramp
from tests.rolled import distiller, examples, rollouts, small
from tests.writers import PROMPTS, writer

ROOT = pathlib.Path(__file__).parents[1]


def bigram(table):
    """Return a model that predicts the next token from the last one, by a table of log-probabilities."""
    size = len(table)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(size, size)])
    model.set_weights([np.array(table, "float32")])
    return model


def chain(*following):
    """Return a model that writes, behind each token, the one that follows it here."""
    return bigram(20.0 * np.eye(len(following))[list(following)])


def pairs(x, y, weights):
    """Return the tokens that are read and learned of each row, in an order of their own."""
    ids, mask = (x["token_ids"], x["padding_mask"]) if isinstance(x, dict) else (x, weights >= 0)
    found = []
    for row, present, following, weight in zip(ids, mask, y, weights, strict=True):
        learned = np.flatnonzero(weight)
        found.append((tuple(row[present][: learned[0] + 1]), tuple(following[learned])))
    return sorted(found)


def texts(data):
    """Return those of all rows of an epoch."""
    return sorted(pair for number in range(len(data)) for pair in pairs(*data[number]))


def begun(data):
    data.on_epoch_begin()
    return data


# What is written


@pytest.mark.slow
def test_each_prompt_is_continued_as_if_it_were_alone():
    student = writer(1)
    data = begun(Rollouts(PROMPTS, student=student, length=6, stop_ids=[4, 6], temperature=0.0, batch_size=4, every=2))
    alone = [generate(student, [each], length=6, stop_ids=[4, 6], verbose=0) for each in PROMPTS]
    expected = [
        (tuple(each), tuple(one.y[0][one.sample_weight[0] > 0])) for each, one in zip(PROMPTS, alone, strict=True)
    ]
    assert len({len(completion) for _, completion in expected}) > 2
    assert texts(data) == sorted(expected)


def test_a_row_has_its_prompt_and_what_is_learned_to_the_first_of_several_stop_tokens():
    # 1, 2 and 3 are written behind one another; 3 and 4 stop, in a prompt they stop nothing.
    data = Rollouts([[3, 0], [2]], student=chain(1, 2, 3, 4, 0), length=4, stop_ids=[4, 3], pad=9, temperature=0.0,
                    batch_size=2, every=1)  # fmt: skip
    x, y, weights = begun(data)[0]
    order = np.argsort(x[:, 0])
    np.testing.assert_array_equal(x[order], [[2, 9, 9, 9, 9], [3, 0, 1, 2, 9]])
    np.testing.assert_array_equal(y[order], [[3, 9, 9, 9, 9], [0, 1, 2, 3, 9]])
    np.testing.assert_array_equal(weights[order], [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0]])
    assert (x.dtype, y.dtype, weights.dtype) == ("int32", "int32", "float32")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [0.2, 0.5, 0.0, 0.3]),  # of all words, at T = 1
        ({"temperature": 0.5}, np.array([0.04, 0.25, 0.0, 0.09]) / 0.38),
        ({"top_p": 0.7}, [0.0, 5 / 8, 0.0, 3 / 8]),  # 0.5 alone is too little
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_students_distribution(arguments, expected):
    student = bigram(np.log(np.tile([0.2, 0.5, 1e-30, 0.3], (4, 1))))
    data = begun(Rollouts([[0]], student=student, length=1, batch_size=1000, every=4, **arguments))
    shares = np.bincount([following for _, (following,) in texts(data)], minlength=4) / 4000
    np.testing.assert_allclose(shares, expected, rtol=0, atol=4 * np.sqrt(0.25 / 4000))  # four standard deviations
    assert not np.any(shares[np.array(expected) == 0])


def test_each_pass_over_the_prompts_has_each_once_in_another_order():
    prompts = [[number] for number in range(8)]
    data = Rollouts(prompts, student=chain(*range(8)), length=1, batch_size=4, every=2, seed=1)
    orders = []
    for _ in range(3):
        begun(data)
        orders.append([row[0] for number in range(2) for row in data[number][0]])
        assert sorted(orders[-1]) == list(range(8))
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.slow
def test_nothing_behind_a_stop_token_changes_a_bit():
    results = []
    for pad in (0, 5):
        student, teacher = writer(1), writer(5)
        data = rollouts(student, teacher, student_share=0.5, teacher_share=0.5, pad=pad)
        made = distiller(student, teacher).fit(data, epochs=2, verbose=0)
        results.append([*student.get_weights(), made.history["loss"]])
        x, _, weights = data[0]
        assert np.all(x["token_ids"][~x["padding_mask"]] == pad) and not np.all(x["padding_mask"])
        assert not np.any(weights[~x["padding_mask"]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


# By whom, when, how often


@pytest.mark.slow
def test_the_student_writes_as_it_is_when_an_epoch_begins():
    student, teacher = writer(1), writer(5)
    data = Rollouts(PROMPTS, student=student, length=5, temperature=0.0, batch_size=4, every=2)
    before = texts(data)
    written = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: written.append(
            (texts(data), pairs(*generate(student, PROMPTS, length=5, verbose=0)[:3]))
        )
    )

    made = distiller(student, teacher)
    made.compile(keras.optimizers.Adam(0.05), alpha=1.0)
    made.fit(data, epochs=3, callbacks=[note], verbose=0)
    assert all(rows == expected for rows, expected in written[::2])  # the first steps of the epochs
    assert any(rows != expected for rows, expected in written[1::2])
    assert before == written[0][0] != written[-1][0]


@pytest.mark.slow
def test_shares_follow_schedules_and_each_row_is_its_owners():
    student, teacher = chain(1, 1, 1, 1, 1), chain(2, 2, 2, 2, 2)
    given = ([[0, 3]], [[3, 3]], [[0, 1.0]])
    made = distiller(bigram(np.zeros((5, 5))), teacher)
    data = Rollouts([[4]], student=made.student, teacher=teacher, data=given, length=1, temperature=0.0, batch_size=250,
                    every=2, student_share=Ramp(0.0, 0.5, 8), teacher_share=lambda step: 0.25)  # fmt: skip
    made.student.set_weights(student.get_weights())
    made.compile(keras.optimizers.SGD(0.0), alpha=1.0)
    found = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(np.bincount([y[-1] for _, y in texts(data)], minlength=4)[1:])
    )
    history = made.fit(data, epochs=5, callbacks=[count], verbose=0).history
    # Steps 0, 2, 4, 6 and 8: (step + 1) / 8 of the way to 0.5.
    expected = np.array([0.5 * share for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8, 1.0)])
    shares = np.array(found) / 500
    four = 4 * np.sqrt(0.25 / 500)
    np.testing.assert_allclose(shares[:, 0], expected, rtol=0, atol=four)
    np.testing.assert_allclose(shares[:, 1], 0.25, rtol=0, atol=four)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(history["rollouts_student"], shares[:, 0])
    np.testing.assert_allclose(history["rollouts_teacher"], shares[:, 1])
    assert np.bincount(data.origins).tolist() == found[-1].tolist()


def test_shares_that_sum_to_1_need_no_data():
    data = begun(Rollouts([[4]], student=chain(1, 1, 1, 1, 1), teacher=chain(2, 2, 2, 2, 2), length=1, batch_size=50,
                          every=40, student_share=0.7, teacher_share=0.3))  # fmt: skip
    np.testing.assert_allclose(np.bincount(data.origins) / 2000, [0.7, 0.3], atol=4 * np.sqrt(0.25 / 2000))


def test_data_of_other_lengths_are_filled_up():
    x, y, weights = examples(rows=8)
    student = small(1)
    data = Rollouts([[1]], student=student, data=(x, y, weights), length=3, student_share=0.0, batch_size=8, every=1)
    whole = begun(data)[0]
    order, of_data = (np.lexsort(each.T) for each in (whole[0]["token_ids"], x["token_ids"]))
    np.testing.assert_array_equal(whole[0]["padding_mask"][order], x["padding_mask"][of_data])
    np.testing.assert_array_equal(whole[1][order], y[of_data])
    np.testing.assert_array_equal(whole[2][order], weights[of_data])


def test_a_row_is_used_in_as_many_epochs_as_asked_for_and_its_age_logged():
    student, teacher = small(1), small(5)
    data = Rollouts(PROMPTS, student=student, length=12, batch_size=4, every=3, replay=3)
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((data.state()["token_ids"], texts(data)))
    )
    history = distiller(student, teacher).fit(data, epochs=8, callbacks=[note], verbose=0).history
    for epoch in range(1, 8):
        new = np.any(seen[epoch][0] != seen[epoch - 1][0], axis=1)
        np.testing.assert_array_equal(new, np.arange(12) // 4 == (epoch - 1) % 3)
    assert all(len(set(rows)) == 12 for _, rows in seen)  # each row once in an epoch
    # From the third epoch on, a third of the rows is new, a third 3 steps old and a third 6; before, some are older.
    np.testing.assert_allclose(history["rollouts_age"], [0, 2, *[3] * 6])
    assert all(0 < share < 1 for share in history["rollouts_time"])


# Seeds, kills, traces


@pytest.mark.slow
def test_a_seed_makes_two_runs_equal_and_another_one_another_run():
    results = []
    for seed in (3, 3, 4):
        student, teacher = small(1), small(5)
        data = rollouts(student, teacher, seed=seed)
        distiller(student, teacher).fit(data, epochs=3, verbose=0)
        results.append([*student.get_weights(), *data.state().values()])
    for one, other in zip(*results[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(one != other) for one, other in zip(results[0][:-1], results[2][:-1], strict=True))
    settings = {"student": small(1), "length": 12, "batch_size": 4, "every": 1}
    first, again, other = (texts(begun(Rollouts([[1]], **settings, seed=seed))) for seed in (3, 3, 4))
    assert first == again and not set(first) & set(other) and len(set(first)) == 4


@pytest.mark.slow
@pytest.mark.one_in(2, group="kills")
def test_a_killed_run_that_is_continued_equals_one_that_was_not(tmp_path):
    runs = {"whole": [None], "cut": [3, None]}
    for name, kills in runs.items():
        (tmp_path / name).mkdir()
        for epoch in kills:
            command = [
                sys.executable,
                "-m",
                "tests.rolled",
                str(tmp_path / name),
                *([] if epoch is None else [str(epoch)]),
            ]
            finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
            assert finished.returncode == (0 if epoch is None else -signal.SIGKILL), finished.stderr
            assert (tmp_path / name / "results.npz").exists() == (epoch is None)
    whole, cut = (dict(np.load(tmp_path / name / "results.npz")) for name in runs)
    assert whole.keys() == cut.keys() and len(set(whole["rows origin"])) == 3 and len(set(whole["carried"])) == 2
    for name, value in whole.items():
        np.testing.assert_array_equal(cut[name], value, err_msg=name)


@pytest.mark.slow
def test_a_run_that_is_continued_with_other_settings_is_refused(tmp_path):
    student, teacher = small(1), small(5)
    first = distiller(student, teacher)
    first.fit(rollouts(student, teacher), verbose=0)
    first.save_weights(tmp_path / "state.weights.h5")
    for arguments, words in (({"seed": 4}, "seed = 3. Received: 4"), ({"stop_ids": [0, 1]}, r"stop_ids = \[0\]")):
        again = distiller(student, teacher)
        again.fit(rollouts(student, teacher, **arguments), verbose=0)
        with pytest.raises(ValueError, match=words):
            again.load_weights(tmp_path / "state.weights.h5")
    distiller(student, teacher).load_weights(tmp_path / "state.weights.h5")  # without rollouts: as any other


def test_nothing_is_written_before_callbacks_have_restored_what_was_saved():
    # Keras looks at batches before: at two of a PyDataset, and at the first of an epoch under a strategy.
    student, teacher = small(1), small(5)
    data = rollouts(student, teacher)
    found = []
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: (data.on_epoch_begin(), found.append(data.state()))
    )
    history = distiller(student, teacher).fit(data, callbacks=[look], verbose=0).history
    assert found == [{}] and history["rollouts_age"] == [0]
    np.testing.assert_array_equal(data.state()["counters"], [0, 12, 0])


def test_many_epochs_trace_nothing_twice():
    calls = []

    def counted(student, teacher):
        calls.append(1)
        return kd.losses.kl_divergence(student, teacher)

    student, teacher = small(1), small(5)
    made = kd.Distiller(student=student, teacher=teacher, terms=[kd.Term(counted)])
    made.compile("sgd", alpha=1.0)
    data = rollouts(student, teacher, every=1, batch_size=6)
    made.fit(data, epochs=4, verbose=0)
    traced = len(calls), [author.writer.traces for author in data._maker.authors]
    made.fit(data, epochs=30, verbose=0)
    assert (len(calls), [author.writer.traces for author in data._maker.authors]) == traced == (traced[0], [1, 1])


# What is learned


@pytest.mark.slow
def test_on_its_own_text_a_student_that_can_reaches_the_teacher():
    random = np.random.default_rng(0)
    teacher, student = bigram(random.normal(size=(5, 5))), bigram(random.normal(size=(5, 5)))
    data = Rollouts([[number] for number in range(5)], student=student, length=8, batch_size=16, every=40, replay=2)
    made = distiller(student, teacher)
    made.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 480)), alpha=1.0)
    made.fit(data, epochs=12, verbose=0)
    ours, theirs = (np.array(tf.nn.softmax(model.get_weights()[0])) for model in (student, teacher))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-2)


@keras.saving.register_keras_serializable("tests")
class Bell(keras.layers.Layer):
    """Predict, behind any token, one bell over all tokens: a place and a width are all that it learns."""

    def build(self, shape):
        self.place = self.add_weight(shape=(), initializer=keras.initializers.Constant(5.2), name="place")
        self.width = self.add_weight(shape=(), initializer=keras.initializers.Constant(1.2), name="width")

    def call(self, ids):
        tokens = keras.ops.arange(9, dtype="float32")
        logits = -keras.ops.square((tokens - self.place) / self.width) / 2
        return logits + 0.0 * keras.ops.cast(ids, "float32")[..., None]


def kl(one, other):
    return np.sum(one * (np.log(one) - np.log(other)), axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 1.0], ids=["the mean", "a mode"])
def test_of_two_modes_the_forward_divergence_takes_the_mean_and_the_reverse_one_a_mode(beta):
    tokens = np.arange(9.0)
    modes = 0.4 * np.exp(-((tokens - 2) ** 2) / 0.8) + 0.6 * np.exp(-((tokens - 6) ** 2) / 0.8) + 1e-4
    theirs = modes / modes.sum()
    student = keras.Sequential([keras.Input((None,), dtype="int32"), Bell()])
    teacher = bigram(np.tile(np.log(theirs), (9, 1)))
    made = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=beta))
    made.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 300)), alpha=1.0)
    made.fit(Rollouts([[0]], student=student, length=2, batch_size=4, every=50), epochs=6, verbose=0)
    place, width = (np.float64(each) for each in student.get_weights())

    def bell(place, width):
        unscaled = np.exp(-(((tokens - place) / width) ** 2) / 2)
        return unscaled / unscaled.sum(axis=-1, keepdims=True)

    ours = bell(place, width)
    if beta == 0:
        # In an exponential family, the forward divergence is least where the moments are the teacher's.
        np.testing.assert_allclose([ours @ tokens, ours @ tokens**2], [theirs @ tokens, theirs @ tokens**2], rtol=1e-2)
        assert abs(ours @ tokens - 4.4) < 0.1
    else:
        places, widths = np.meshgrid(np.linspace(0, 8, 161), np.linspace(0.4, 5, 93))
        least = np.min(kl(bell(places[..., None], widths[..., None]), theirs))
        assert kl(ours, theirs) < least + 1e-2 and abs(place - 6) < 0.1 and width < 1


# Tasks of KerasHub


@pytest.fixture
def tasks():
    """Return two language models of letters with their tokenizer."""
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    return causal_lm(3), causal_lm(4)


@pytest.mark.slow
def test_texts_are_continued_and_learned_once_the_preprocessor_is_gone(tasks):
    student, teacher = tasks
    data = Rollouts(["the film", "of"], student=student, length=4, batch_size=2, every=2)
    made = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=1.0))
    made.compile("adam", alpha=1.0)
    with pytest.raises(ValueError, match="has a preprocessor. Set it to None"):
        made.fit(data, verbose=0)
    student.preprocessor = teacher.preprocessor = None
    before = student.get_weights()
    history = made.fit(data, epochs=2, verbose=0).history
    assert history["loss"][0] > 0 and any(np.any(a != b) for a, b in zip(before, student.get_weights(), strict=True))
    ids = [row[:1] for row, _ in texts(data)]
    assert ids == [(0,)] * 4  # the start token, which the preprocessor puts before


def changed(task, change):
    """Give a task other variables, and these other values."""
    if change == "adapters":
        task.backbone.enable_lora(2)
        factors = [each for each in task.variables if each.name in ("lora_kernel_b", "lora_embeddings_b")]
        for number, factor in enumerate(factors):
            factor.assign(np.random.default_rng(number).normal(size=factor.shape))
    else:
        task.quantize("int8")
        for each in task.variables:
            if each.dtype == "int8":
                each.assign(-each)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize("change", ["adapters", "quantisation"])
def test_what_is_written_is_the_students_after_adapters_and_quantisation(change, tasks):
    student = tasks[0]
    data = Rollouts(["the film", "of"], student=student, length=6, temperature=0.0, batch_size=2, every=1)
    before = texts(begun(data))
    changed(student, change)
    after = texts(begun(data))
    made = generate(student, ["the film", "of"], length=6, verbose=0)
    assert after == pairs(*made[:3]) != before
    assert texts(begun(data)) == after and data._maker.authors[0].writer.traces == 2


@pytest.mark.slow
def test_kerashub_itself_generates_as_before_adapters_until_the_task_is_compiled_again(tasks):
    # Its `generate` keeps what it has traced, which is why rollouts are made by `generate_step`.
    task = tasks[0]
    task.compile(sampler="greedy")
    found = [task.generate(["a"], max_length=12, stop_token_ids=None)]
    changed(task, "adapters")
    found.append(task.generate(["a"], max_length=12, stop_token_ids=None))
    task.compile(sampler="greedy")
    found.append(task.generate(["a"], max_length=12, stop_token_ids=None))
    assert found[0] == found[1] != found[2]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"length": 0}, "`length` to be a whole number from 1 on. Received: length=0"),
        ({"batch_size": 0}, "`batch_size` to be a whole number"),
        ({"every": 1.5}, "`every` to be a whole number"),
        ({"replay": 0}, "`replay` to be a whole number"),
        ({"replay": 9}, "`replay` to be at most the rows of an epoch, 8. Received: 9"),
        ({"replay": Ramp(1, 9, 4)}, "`replay` to be at most the rows of an epoch, 8. Received: 9 at step 2147483647"),
        ({"replay": lambda step: 0.5}, "`replay` to be at least 1. Received: 0.5 at step 0"),
        ({"replay": lambda step: float("nan")}, "`replay` to be at least 1. Received: nan"),
        ({"student_share": AdaptiveShare()}, "`data` for the rows that neither model writes, a share of 1 at step 0"),
        (
            {"student_share": AdaptiveShare(0.5, 0.8), "teacher_share": 0.5, "teacher": small(5)},
            "at most 1 together. Received: 0.8 and 0.5 once they are at their `end`",
        ),
        ({"temperature": -1.0}, "`temperature` to be at least 0"),
        ({"top_p": 0.0}, "`top_p` to be above 0, at most 1"),
        ({"student_share": -0.1}, "at least 0, and at most 1 together. Received: -0.1 and 0 at step 0"),
        ({"student_share": 0.7, "teacher_share": 0.7}, "at most 1 together. Received: 0.7 and 0.7"),
        ({"student_share": 0.7, "teacher_share": 0.3}, "a `teacher` to write its share of 0.3 at step 0"),
        ({"student_share": 0.7}, "`data` for the rows that neither model writes, a share of 0.3 at step 0"),
        ({"student_share": Ramp(2.0, 0.5, 1)}, "a share of 0.5 at step"),
        ({"student_share": Ramp(1.0, 0.5, 9)}, "a share of 0.0555556 at step 0"),
        ({"data": ([[1, 2]], [[1, 2]], [1.0])}, r"\(examples, tokens\) each. Received the shapes .*\(1,\)"),
        ({"prompts": [[0], []]}, r"one token id or more each.*\[\] as prompt 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    given = {"prompts": [[0]], "length": 1, "batch_size": 4, "every": 2, **arguments}
    with pytest.raises(ValueError, match=words):
        Rollouts(student=chain(1, 0), **given)


def test_other_students_and_objects_are_refused():
    with pytest.raises(TypeError, match="the student to be a keras.Model"):
        Rollouts([[0]], student=lambda ids: ids, length=1)
    fixed = writer(1, length=8)
    with pytest.raises(ValueError, match="at most 8 tokens together"):
        Rollouts([[0] * 5], student=fixed, length=4)
    with pytest.raises(ValueError, match="`data` of at most 8 tokens.*Received: 9"):
        Rollouts([[0]], student=fixed, length=4, data=(np.ones((2, 9), int), np.ones((2, 9)), np.ones((2, 9))))
    with pytest.raises(ValueError, match="the student that is trained, 'small_1'. Received: those of 'small_2'"):
        distiller(small(1), small(5)).fit(Rollouts([[1]], student=small(2), length=2))


def test_other_numbers_of_steps_are_refused():
    student = chain(1, 0)
    made, data = distiller(student, chain(0, 1)), Rollouts([[0]], student=student, length=1, batch_size=2, every=2)
    with pytest.raises(ValueError, match="no `steps_per_epoch`.*has 2 steps.*Received: 3. Make them with every=3"):
        made.fit(data, steps_per_epoch=3)
    made.fit(data, steps_per_epoch=2, verbose=0)


def test_shares_that_cannot_be_later_stop_the_training():
    data = Rollouts(
        [[0]], student=chain(1, 0), length=1, batch_size=2, every=2, student_share=lambda step: 1.0 - step / 4
    )
    made = distiller(data.student, bigram(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="a share of 0.5 at step 2"):
        made.fit(data, epochs=2, verbose=0)


def test_a_student_that_predicts_nan_is_named():
    student = chain(1, 0)
    data = Rollouts([[0]], student=student, length=1, batch_size=2, every=1)
    student.set_weights([np.full((2, 2), np.nan)])
    with pytest.raises(ValueError, match="predicts NaN while it writes"):
        data.on_epoch_begin()


@pytest.mark.slow
def test_a_model_of_one_length_reads_rows_of_that_length():
    student, teacher = writer(1, length=16), writer(5)
    data = Rollouts(PROMPTS, student=student, length=6, temperature=0.0, batch_size=8, every=1)
    distiller(student, teacher).fit(data, verbose=0)
    assert data[0][1].shape == (8, 16)


def test_rows_are_there_before_a_training_and_are_those_of_its_first_epoch():
    student, teacher = small(1), small(5)
    data = rollouts(student, teacher)
    before = texts(data)
    assert len(before) == 12
    seen = []
    look = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(texts(data)))
    distiller(student, teacher).fit(data, callbacks=[look], verbose=0)
    assert seen == [before] * 3


def test_the_public_name_is_that_of_the_package():
    assert kd.language.Rollouts is Rollouts
