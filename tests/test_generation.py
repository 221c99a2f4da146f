"""A teacher's completions: what each prompt alone gives, drawn as asked for, kept whole, and learned by a student."""

import math
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd._internal import locks
from keras_kd.language import generate
from keras_kd.language.decoding import Sampling, chosen, decoder
from keras_kd.teachers import as_teacher
from tests.writers import ARGUMENTS, PROMPTS, writer

ROOT = pathlib.Path(__file__).parents[1]
LEARNED = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def log_probabilities(model, tokens):
    """Return the logarithms of the probabilities of each next token, (tokens, words), in float64."""
    logits = np.asarray(model(np.array([tokens])), "float64")[0]
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def by_hand(model, prompt, length, stops=()):
    """Return the most likely completion of one prompt, and the mean of its log-probabilities."""
    tokens, score = list(prompt), 0.0
    while len(tokens) < len(prompt) + length and not (len(tokens) > len(prompt) and tokens[-1] in stops):
        log_p = log_probabilities(model, tokens)[-1]
        tokens.append(int(np.argmax(log_p)))
        score += np.max(log_p)
    return tokens[len(prompt) :], score / (len(tokens) - len(prompt))


def completions(made):
    """Return the tokens that are learned of each example."""
    return [list(y[weight > 0]) for y, weight in zip(made.y, made.sample_weight, strict=True)]


@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_each_prompt_is_continued_as_if_it_were_alone(batch_size):
    teacher = writer(1)
    made = generate(teacher, PROMPTS, length=6, stop_ids=[4, 6], batch_size=batch_size, verbose=0)
    expected = [by_hand(teacher, prompt, 6, (4, 6)) for prompt in PROMPTS]
    assert len({len(tokens) for tokens, _ in expected}) > 2
    assert completions(made) == [tokens for tokens, _ in expected]
    np.testing.assert_allclose(made.teacher_score, [score for _, score in expected], rtol=1e-5)
    np.testing.assert_array_equal(made.finished, [tokens[-1] in (4, 6) for tokens, _ in expected])
    np.testing.assert_array_equal(made.prompt, np.arange(len(PROMPTS)))


def constant(*p):
    """Return a teacher that predicts the same probabilities everywhere."""
    return lambda ids: tf.zeros_like(ids, "float32")[..., None] + tf.math.log(tf.constant(p))


def test_what_is_learned_is_the_completion_to_its_first_stop_token():
    # 1 is the most likely token, and stops; in a prompt it stops nothing.
    made = generate(constant(0.2, 0.7, 0.1), [[2, 1], [0]], length=3, stop_ids=[1], pad=9, verbose=0)
    np.testing.assert_array_equal(made.x["token_ids"], [[2, 1], [0, 1]])
    np.testing.assert_array_equal(made.y, [[1, 1], [1, 9]])
    np.testing.assert_array_equal(made.x["padding_mask"], [[True, True], [True, True]])
    np.testing.assert_array_equal(made.sample_weight, [[0, 1], [1, 0]])
    np.testing.assert_allclose(made.teacher_score, np.log(0.7), rtol=1e-6)
    assert made.finished.all()


def test_completions_that_do_not_end_are_counted():
    with pytest.warns(UserWarning, match="2 of 2 completions were cut at length=3, before a stop token"):
        made = generate(constant(0.2, 0.8), [[0], [1]], length=3, stop_ids=[0], verbose=0)
    assert completions(made) == [[1, 1, 1]] * 2 and not made.finished.any()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"temperature": 1.0}, [0.2, 0.5, 0.0, 0.3]),
        ({"temperature": 0.5}, np.array([0.04, 0.25, 0.0, 0.09]) / 0.38),
        ({"temperature": 1.0, "top_p": 0.7}, [0.0, 5 / 8, 0.0, 3 / 8]),  # 0.5 alone is too little
        ({"temperature": 1.0, "top_p": 0.4}, [0.0, 1.0, 0.0, 0.0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_distribution(arguments, expected):
    teacher = constant(0.2, 0.5, 0.0, 0.3)
    made = generate(teacher, [[0]], length=1, samples=4000, best=4000, batch_size=4000, verbose=0, **arguments)
    shares = np.bincount(made.y[made.sample_weight > 0], minlength=4) / 4000
    # Four standard deviations of a share of 4000.
    np.testing.assert_allclose(shares, expected, rtol=0, atol=4 * np.sqrt(0.25 / 4000))
    assert not np.any(shares[np.array(expected) == 0])
    np.testing.assert_allclose(made.teacher_score, np.log([0.2, 0.5, 0.0, 0.3])[made.y[:, -1]], rtol=1e-5)


def test_logits_are_computed_at_one_place_alone():
    run = decoder(as_teacher(writer(1, words=9)), Sampling(3, 0.0, 1.0, ()))
    graph = run.get_concrete_function().graph.as_graph_def(add_shapes=True)
    nodes = [node for function in graph.library.function for node in function.node_def]
    shapes = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    of_logits = [shape for shape in shapes if shape.dim and shape.dim[-1].size == 9]
    assert of_logits and all(len(shape.dim) <= 2 for shape in of_logits)  # of all places, they would have three


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 90), st.sampled_from([0.0, 1e-7, 0.25, 0.5, 0.9999999, 1.0]), st.integers(0, 999))
def test_a_token_is_where_the_sum_of_probabilities_passes_a_number(words, uniform, seed):
    random = np.random.default_rng(seed)
    p = random.uniform(0.1, 1.0, words) * (random.random(words) < 0.5)
    p[random.integers(words)] = 1.0
    p /= np.sum(p)
    with np.errstate(divide="ignore"):
        log_p = tf.constant(np.log(p)[None], "float32")
    (place,), (score,) = chosen(log_p, tf.constant([uniform], "float32"), Sampling(1, 1.0, 1.0, ()))
    sums = np.cumsum(p)
    assert p[place] > 0
    assert float(score) == pytest.approx(np.log(p[place]), abs=1e-5)
    assert sums[place] - p[place] <= uniform + 1e-5 and sums[place] >= uniform - 1e-5


def test_a_token_that_a_high_temperature_draws_has_a_score_however_unlikely_it_is():
    logits, sampling = tf.constant([[0.0, 200.0]]), Sampling(1, 1000.0, 1.0, ())
    token, score = chosen(logits, tf.constant([0.1]), sampling)  # at T = 1000, it has a probability of 0.45
    assert int(token[0]) == 0 and float(score[0]) == pytest.approx(-200.0)


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_a_seed_draws_the_same_in_any_batch_and_another_one_draws_other_tokens():
    teacher = writer(1)
    drawn = [generate(teacher, PROMPTS, **{**ARGUMENTS, "best": 2, "batch_size": size}) for size in (1, 5)]
    assert completions(drawn[0]) == completions(drawn[1])
    assert completions(drawn[0]) != completions(generate(teacher, PROMPTS, **{**ARGUMENTS, "best": 2, "seed": 5}))
    pairs = np.array(completions(drawn[0]), object).reshape(-1, 2)
    assert any(first != second for first, second in pairs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*were cut")
def test_the_best_are_kept_by_their_own_log_probabilities():
    teacher, arguments = writer(1), {**ARGUMENTS, "samples": 4, "batch_size": 8}
    every = generate(teacher, PROMPTS, best=4, **arguments)
    scores = []
    for prompt, tokens, score in zip(every.prompt, completions(every), every.teacher_score, strict=True):
        log_p = log_probabilities(teacher, PROMPTS[prompt] + tokens)[len(PROMPTS[prompt]) - 1 : -1]
        scores.append(np.mean(log_p[np.arange(len(tokens)), tokens]))
        assert score == pytest.approx(scores[-1], rel=1e-4)
    by_prompt = np.reshape(scores, (-1, 4))
    best = generate(teacher, PROMPTS, **arguments)
    np.testing.assert_allclose(best.teacher_score, by_prompt.max(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(best.prompt, np.arange(len(PROMPTS)))
    half = generate(teacher, PROMPTS, keep=0.5, **arguments)
    assert sorted(half.prompt) == sorted(np.argsort(-by_prompt.max(axis=1))[: len(PROMPTS) // 2])
    least = float(np.median(scores))
    above = generate(teacher, PROMPTS, best=4, threshold=least, **arguments)
    np.testing.assert_array_equal(above.prompt, np.arange(len(scores))[np.array(scores) >= least] // 4)


def test_a_share_is_rounded_up_and_not_by_the_last_digit():
    made = generate(constant(0.2, 0.8), [[0]] * 100, length=1, keep=0.07, verbose=0)
    assert len(made.y) == 7  # 0.07 * 100 is a little more than 7


def test_a_model_of_one_length_is_given_that_length():
    fixed, free = writer(1, length=16), writer(1)
    made = [generate(each, PROMPTS, length=6, verbose=0) for each in (fixed, free)]
    assert completions(made[0]) == completions(made[1])
    with pytest.raises(ValueError, match="at most 16 tokens together.*prompts of up to 5 and length=12"):
        generate(fixed, PROMPTS, length=12, verbose=0)


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_several_teachers_write_together():
    members = [writer(1), writer(5)]
    made = generate(members, PROMPTS, length=3, verbose=0)
    mean = [np.log(np.mean([np.exp(log_probabilities(each, [4])[-1]) for each in members], axis=0))]
    assert completions(made)[1][0] == np.argmax(mean)


@pytest.mark.slow
def test_a_student_learns_to_write_what_its_teacher_writes():
    teacher, student = writer(1), writer(9)
    made = generate(teacher, PROMPTS, length=6, verbose=0)
    student.compile(keras.optimizers.Adam(0.05), LEARNED, jit_compile=False)
    student.fit(made.x["token_ids"], made.y, sample_weight=made.sample_weight, epochs=60, verbose=0)
    again = generate(student, PROMPTS, length=6, verbose=0)
    same = np.mean(np.array(completions(again)) == np.array(completions(made)))
    assert (
        same > 0.9 > np.mean(np.array(completions(generate(writer(9), PROMPTS, length=6, verbose=0))) == again.y.max())
    )


# Folders


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder that was generated into without an interruption, and what was returned."""
    folder = tmp_path_factory.mktemp("whole") / "made"
    with pytest.warns(UserWarning, match="were cut"):
        return folder, generate(writer(1), PROMPTS, folder, **ARGUMENTS)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("partial-")}


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_what_is_in_a_folder_is_read_back(whole):
    folder, made = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = generate(writer(1), PROMPTS, folder, **ARGUMENTS)
    for received, expected in zip(keras.tree.flatten(tuple(again)), keras.tree.flatten(tuple(made)), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(generate(writer(1), PROMPTS, folder, keep=0.5, **ARGUMENTS).y) == len(PROMPTS) // 2


@pytest.mark.slow
@pytest.mark.one_in(2, group="kills")
def test_killed_in_the_middle_it_ends_in_the_same_bytes(whole, tmp_path):
    folder = tmp_path / "made"
    for part, code in ((3, -signal.SIGKILL), (None, 0)):
        command = [sys.executable, "-m", "tests.writers", str(folder), *([] if part is None else [str(part)])]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert finished.returncode == code, finished.stderr
        if part is not None:
            assert len(list(folder.glob("part-*.npz"))) == part
    assert contents(folder) == contents(whole[0])


@pytest.mark.parametrize(
    ("teacher", "prompts", "arguments", "words"),
    [
        (1, PROMPTS, {"length": 5}, "length = 6. Received: 5"),
        (1, PROMPTS, {"temperature": 0.5}, "temperature = 1.0. Received: 0.5"),
        (1, PROMPTS, {"top_p": 0.5}, "top_p = 1.0. Received: 0.5"),
        (1, PROMPTS, {"stop_ids": [1]}, r"stop_ids = \[0\]. Received: \[1\]"),
        (1, PROMPTS, {"samples": 3}, "samples = 2. Received: 3"),
        (1, PROMPTS, {"seed": 5}, "seed = 4. Received: 5"),
        (1, PROMPTS, {"batch_size": 4}, "batch_size = 3. Received: 4"),
        (1, PROMPTS[:-1], {}, "prompts = "),
        (2, PROMPTS, {}, "teacher_architecture = .* is another"),
    ],
)
def test_what_was_generated_otherwise_is_not_touched_and_the_difference_named(
    teacher, prompts, arguments, words, whole
):
    before = contents(whole[0])
    with pytest.raises(ValueError, match=words):
        generate(writer(teacher), prompts, whole[0], **{**ARGUMENTS, **arguments})
    assert contents(whole[0]) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="an empty folder.*'thesis.txt'. Use another folder"):
        generate(constant(0.2, 0.8), [[0]], tmp_path, length=1, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_part_is_named_and_made_anew_once_it_is_removed(tmp_path):
    arguments = {"length": 2, "batch_size": 2, "verbose": 0}
    expected = generate(writer(1), PROMPTS, tmp_path, **arguments)
    part = tmp_path / "part-000001.npz"
    octets = part.read_bytes()
    for damage in (octets[:-40], (tmp_path / "part-000000.npz").read_bytes()[:100], b""):
        part.write_bytes(damage)
        with pytest.raises(ValueError, match="part-000001.npz.*damaged.*only this part is made anew"):
            generate(writer(1), PROMPTS, tmp_path, **arguments)
    part.unlink()
    np.testing.assert_array_equal(generate(writer(1), PROMPTS, tmp_path, **arguments).y, expected.y)
    assert part.read_bytes() == octets


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    with open(tmp_path / "lock", "wb") as file:
        locks.lock_now(file.fileno())
        with pytest.raises(ValueError, match="Another process .* or generate into another folder"):
            generate(constant(0.2, 0.8), [[0]], tmp_path, length=1, verbose=0)


# Tasks of KerasHub


@pytest.fixture(scope="module")
def task():
    """Return a language model of letters with its tokenizer."""
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    return causal_lm(3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*were cut")
def test_a_task_generates_by_its_own_step_what_whole_passes_give(task):
    prompts, sampler, compiled = ["the film", "a", "of it"], task.sampler, task.generate_function
    made = generate(task, prompts, length=5, verbose=0)
    ids = task.preprocessor.generate_preprocess(prompts)
    tokens = [
        list(row[mask]) for row, mask in zip(np.array(ids["token_ids"]), np.array(ids["padding_mask"]), strict=True)
    ]
    for row, prompt in enumerate(tokens):
        expected = []
        for _ in range(5):
            whole = np.array([prompt + expected])
            logits = task({"token_ids": whole, "padding_mask": np.ones_like(whole)})
            expected.append(int(np.argmax(logits[0, -1])))
        assert completions(made)[row] == expected
        assert list(made.x["token_ids"][row][: len(prompt)]) == prompt
    assert task.sampler is sampler and task.generate_function is compiled
    again = generate(task, tokens, length=5, verbose=0)
    np.testing.assert_array_equal(again.y, made.y)
    np.testing.assert_allclose(again.teacher_score, made.teacher_score, rtol=1e-6)


def test_the_end_token_of_a_tasks_tokenizer_stops(task):
    end = task.preprocessor.tokenizer.end_token_id
    drawn = {"temperature": 3.0, "samples": 30, "best": 30, "batch_size": 30, "verbose": 0}
    with pytest.warns(UserWarning, match="were cut"):
        made = generate(task, ["a"], length=12, **drawn)
    ended = [tokens for tokens in completions(made) if end in tokens]
    assert ended and all(tokens.index(end) == len(tokens) - 1 for tokens in ended)
    assert made.finished.sum() == len(ended) < 30


def test_long_texts_are_not_cut_and_what_does_not_fit_is_refused(task):
    made = generate(task, ["a" * 25], length=2, stop_ids=[], verbose=0)
    assert made.x["padding_mask"].sum() == 1 + 25 + 1  # a start before, and one of the two behind
    with pytest.raises(ValueError, match="at most 32 tokens together.*prompts of up to 31 and length=2"):
        generate(task, ["a" * 30], length=2, verbose=0)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"length": 0}, "`length` to be a whole number from 1 on. Received: length=0"),
        ({"samples": 1.5}, "`samples` to be a whole number"),
        ({"best": 0}, "`best` to be a whole number"),
        ({"batch_size": True}, "`batch_size` to be a whole number"),
        ({"temperature": -1.0}, "`temperature` to be at least 0. Received: temperature=-1.0"),
        ({"temperature": math.nan}, "`temperature` to be at least 0"),
        ({"top_p": 0.0}, "`top_p` to be above 0, at most 1. Received: top_p=0.0"),
        ({"keep": 1.5}, "`keep` to be above 0, at most 1. Received: keep=1.5"),
        ({"samples": 2}, "a `temperature` above 0 for samples=2"),
        ({"best": 2}, "`best` to be at most `samples`. Received: best=2, samples=1"),
        ({"threshold": 0.0}, "a `threshold` that an example reaches. Received: 0.0"),
        ({"prompts": [[0], []]}, r"one token id or more each.*\[\] as prompt 1"),
        ({"prompts": [[0.5]]}, "one token id or more each"),
        ({"prompts": []}, "no prompts"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, words):
    given = {"prompts": [[0]], "length": 1, "verbose": 0, **arguments}
    with pytest.raises(ValueError, match=words):
        generate(constant(0.2, 0.8), **given)


def test_texts_need_a_tokenizer():
    with pytest.raises(TypeError, match="texts alone for a task of KerasHub.*'the film'"):
        generate(constant(0.2, 0.8), ["the film"], length=1)


def test_a_teacher_that_predicts_nan_is_named():
    with pytest.raises(ValueError, match="predicts NaN behind prompt 1"):
        generate(lambda ids: tf.where(ids[..., None] == 3, np.nan, tf.zeros(2)), [[0], [3]], length=1, verbose=0)


def test_the_public_names_are_those_of_the_package():
    assert kd.language.generate is generate and kd.language.Generated._fields[:3] == ("x", "y", "sample_weight")
