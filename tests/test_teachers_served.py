"""A teacher behind HTTP, by a server of completions in a process of its own."""

import concurrent.futures
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd._internal import completion_server, prompt_log_probabilities, teacher_fingerprints
from keras_kd.cache import manifest
from keras_kd.teachers import Cached, InMemory, Served
from tests.completions_server import KEY, MODEL, WORDS, Server, shared
from tests.models import assert_same, dense, few, initial
from tests.test_objective import distill, fit
from tests.writers import PROMPTS, writer

TOKENS = np.random.default_rng(0).integers(0, WORDS, (6, 5)).astype("int32")
#: Padded on the right, on the left, in the middle, nowhere and everywhere.
PRESENT = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1] * 5, [0] * 5, [1, 0, 0, 0, 0]], bool)
STRINGS = {f"word {number}": number for number in range(WORDS)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(completion_server, "FIRST_WAIT", 0.01)
    found = shared()
    found.switch()
    return found


def served(server, **arguments):
    return Served(server.url, MODEL, **{"classes": WORDS, "top_k": 3, **arguments})


def pupil():
    """Return a student that predicts from the last token, and is traced in no time."""
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    return keras.Model(
        inputs, dense(WORDS, 6)(keras.layers.Embedding(WORDS, 6, embeddings_initializer=initial(5))(inputs))
    )


def trained(teacher, x=TOKENS, student=None, **arguments):
    """Return the logs of a training without labels, and the weights after it."""
    student = pupil() if student is None else student
    settings = {"loss": None, "alpha": 1.0, "temperature": 1.0, **arguments}
    distiller = distill(student, teacher, None, keras.optimizers.SGD(0.3), **settings)
    return fit(distiller, x, None, batch_size=4, epochs=2)["loss"], student.get_weights()


def stored(cache, x=TOKENS):
    return cache.join(x).targets["logits"]


def built(path, teacher, x=TOKENS, batch_size=2, **arguments):
    cache = kd.TeacherCache(path, teacher=teacher, **{"top_k": 3, "dtype": "float32", **arguments})
    cache.build(x, batch_size=batch_size, verbose=0)
    return cache


def agree(found, expected, tolerance=1e-5):
    (losses, weights), (expected_losses, expected_weights) = found, expected
    assert losses == pytest.approx(expected_losses, rel=tolerance)
    assert_same(weights, expected_weights, tolerance)


def assert_same_targets(found, expected, tolerance=1e-5):
    assert found.keys() - {"mask"} == expected.keys()
    for name in expected:
        np.testing.assert_allclose(np.asarray(found[name], "float64"), np.asarray(expected[name], "float64"), tolerance)


# What a server returns, as arrays


def answer(tops, tokens):
    return {"logprobs": {"tokens": tokens, "top_logprobs": tops}}


def test_a_target_is_what_stands_at_the_place_of_the_next_token():
    tops = [None, {"token_id:7": -0.5, "token_id:2": -1.5}, {"token_id:1": -2.0, "token_id:0": -0.25}]
    choice = answer(tops, ["token_id:4", "token_id:2", "token_id:2"])
    ids, logarithms = prompt_log_probabilities.read(choice, [4, 2, 2], 2, prompt_log_probabilities.Tokens(None))
    assert ids.tolist() == [[7, 2], [0, 1]] and logarithms.tolist() == [[-0.5, -1.5], [-0.25, -2.0]]


def test_the_token_that_is_there_does_not_count_beside_the_most_probable_ones():
    tops = [None, {"token_id:2": -9.0, "token_id:7": -0.5, "token_id:3": -1.0}]
    choice = answer(tops, ["token_id:4", "token_id:2"])
    ids, logarithms = prompt_log_probabilities.read(choice, [4, 2], 2, prompt_log_probabilities.Tokens(None))
    assert ids.tolist() == [[7, 3]] and logarithms.tolist() == [[-0.5, -1.0]]


def test_strings_that_are_no_tokens_are_left_to_the_rest():
    tops = [None, {"b": -0.5, "?": -1.0, "a": -2.0}]
    names = prompt_log_probabilities.Tokens({"a": 0, "b": 1})
    ids, logarithms = prompt_log_probabilities.read(answer(tops, ["a", "b"]), [0, 1], 3, names)
    assert ids.tolist() == [[1, 0, -1]] and logarithms.tolist() == [[-0.5, -2.0, -np.inf]]


@few
@given(st.integers(1, 6), st.integers(1, WORDS), st.booleans(), st.integers(0, 10_000))
def test_what_is_read_is_the_largest_of_each_row(length, count, as_ids, seed):
    random = np.random.default_rng(seed)
    sent, rows = random.integers(0, WORDS, length + 1).tolist(), -random.random((length, WORDS))
    name = (lambda number: f"token_id:{number}") if as_ids else (lambda number: f"word {number}")
    tops = [{name(number): row[number] for number in random.permutation(WORDS)} for row in rows]
    names = prompt_log_probabilities.Tokens(None if as_ids else STRINGS)
    ids, logarithms = prompt_log_probabilities.read(answer([None, *tops], list(map(name, sent))), sent, count, names)
    np.testing.assert_array_equal(ids, np.argsort(-rows, axis=-1)[:, :count])
    np.testing.assert_array_equal(logarithms, -np.sort(-rows, axis=-1)[:, :count])


# Values


@pytest.mark.one_in(6, group="served")
@pytest.mark.parametrize("eager", [True, False])
def test_with_all_classes_a_served_teacher_is_the_model_that_is_served(server, eager):
    expected = trained(writer(1), run_eagerly=eager)
    agree(trained(served(server, top_k=WORDS), run_eagerly=eager), expected)


@pytest.mark.one_in(6, group="served")
@pytest.mark.parametrize("tail", ["spread", "bucket"])
def test_with_a_few_classes_it_is_a_cache_of_as_many(server, tail, tmp_path):
    cache = built(tmp_path, writer(1))
    expected = trained(Cached(cache, tail=tail), cache.join(TOKENS))
    agree(trained(served(server, tail=tail)), expected)
    assert abs(expected[0][0] - trained(writer(1))[0][0]) > 1e-3  # all classes teach something else


@pytest.mark.one_in(6, group="served")
def test_strings_are_read_as_ids_are(server):
    server.switch(names="word ")
    agree(trained(served(server, vocabulary=STRINGS)), trained(Cached(tail="spread"), joined_top(3)))
    assert "return_tokens_as_token_ids" not in server.state()["last"]


def joined_top(k):
    logits = np.asarray(writer(1)(TOKENS), "float64")
    logarithms = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    ids = np.argsort(-logarithms, axis=-1)[..., :k]
    top = kd.targets.TopK(ids, np.take_along_axis(logarithms, ids, axis=-1), classes=WORDS)
    return kd.Joined(TOKENS, {"logits": top})


def test_strings_that_are_the_same_leave_their_mass_to_the_rest(server):
    server.switch(names="word ", same=2)
    tokens = 2 + TOKENS % (WORDS - 2)  # of which none is called as another
    found = served(server, vocabulary=STRINGS)(tokens, {})["logits"]
    named = np.asarray(found.log_probabilities)
    assert np.any(np.isin(best(tokens, 3), 1)) and not np.any(np.asarray(found.ids)[named > -1.0] == 1)
    np.testing.assert_allclose(np.exp(named).sum(-1) + np.exp(found.log_tail), 1.0, atol=1.0 / WORDS)
    with pytest.raises(ValueError, match="The server returned 7: lower `top_k`"):
        served(server, top_k=WORDS, vocabulary=STRINGS)(tokens, {})


@pytest.mark.parametrize("eager", [True, False])
def test_padding_is_not_sent_and_has_the_target_of_the_last_token(server, eager):
    teacher = served(server, top_k=WORDS)
    run = whole if eager else tf.function(whole)
    found = np.asarray(run(teacher, {"token_ids": TOKENS, "padding_mask": PRESENT}))
    for row, present in enumerate(PRESENT):
        if present.any():
            alone = np.asarray(keras.ops.log_softmax(writer(1)(TOKENS[row, present][None])))[0]
            np.testing.assert_allclose(found[row, present], alone, atol=1e-5)
            np.testing.assert_allclose(found[row, ~present], np.tile(alone[-1], (sum(~present), 1)), atol=1e-5)
    assert server.state()["asked"] == 5  # nothing is asked of the row that is padding


def whole(teacher, x):
    return teacher(x, {})["logits"].dense()


@pytest.mark.one_in(6, group="served")
def test_what_has_no_weight_teaches_as_a_model_would(server):
    prompts, answers = (
        [row[:2].tolist() for row in TOKENS],
        [row[2 : 3 + n % 3].tolist() for n, row in enumerate(TOKENS)],
    )
    x, y, weights = kd.language.completions(prompts, answers, length=8, end=0)

    def learned(teacher):
        student = pupil()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller = distill(student, teacher, None, keras.optimizers.SGD(0.3), loss=loss, alpha=0.5, temperature=1.0)
        return fit(distiller, x, y, sample_weight=weights, epochs=2)["loss"], student.get_weights()

    agree(learned(served(server, top_k=WORDS)), learned(writer(1)))


@pytest.mark.one_in(6, group="served")
def test_it_teaches_beside_another_teacher_and_in_memory(server):
    both, memory = [served(server, top_k=WORDS), writer(1)], InMemory(served(server, top_k=2, tail="bucket"))
    agree(trained(both), trained(writer(1)))
    agree(trained(memory), trained(served(server, top_k=2, tail="bucket")))
    asked = server.state()["asked"]
    trained(memory)
    assert server.state()["asked"] == asked + 1  # whether it is there


@pytest.mark.one_in(6, group="served")
def test_it_teaches_without_a_tensor_of_all_logits(server):
    pair = [trained(served(server, tail="bucket"), fused_head=fused) for fused in (True, False)]
    agree(*pair)


@pytest.mark.one_in(6, group="served")
def test_it_scores_what_the_student_writes(server):
    def on_policy(teacher):
        student = pupil()
        data = kd.language.Rollouts(PROMPTS, student=student, length=4, batch_size=4, every=2, seed=1)
        distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=1.0))
        distiller.compile(keras.optimizers.SGD(0.3), alpha=1.0)
        return distiller.fit(data, epochs=2, verbose=0).history["loss"], student.get_weights()

    agree(on_policy(served(server, top_k=WORDS)), on_policy(writer(1)))


def test_it_cannot_write(server):
    with pytest.raises(ValueError, match="predicts each token.*'served' names the 3 most probable"):
        kd.language.generate(served(server), PROMPTS, length=4, verbose=0)
    with pytest.raises(ValueError, match="predicts each token"):
        shares = {"student_share": 0.5, "teacher_share": 0.5}
        kd.language.Rollouts(PROMPTS, student=pupil(), teacher=served(server), length=4, **shares)


# Caches


@pytest.mark.one_in(6, group="served")
@pytest.mark.parametrize("dtype", ["float32", "float16", "packed"])
def test_a_cache_of_a_server_is_one_of_its_model(server, tmp_path, dtype):
    here, there = (
        stored(built(tmp_path / name, teacher, dtype=dtype))
        for name, teacher in (("here", writer(1)), ("there", served(server, top_k=5)))
    )
    assert_same_targets(there, here, {"float32": 1e-5, "float16": 2e-3, "packed": 2e-2}[dtype])


def test_a_cache_keeps_no_more_than_is_asked_for(server, tmp_path):
    for top_k in (None, 4):
        with pytest.raises(ValueError, match=f"`top_k` to be from 1 to 3.*top_k={top_k}. Give top_k=3"):
            kd.TeacherCache(tmp_path, teacher=served(server), top_k=top_k)


@pytest.mark.one_in(6, group="served")
def test_an_interrupted_build_goes_on_and_is_that_of_one(server, tmp_path):
    x = np.tile(TOKENS, (4, 1))
    server.switch(after=10)
    with pytest.raises(ValueError, match="asked 2 times"):
        built(tmp_path / "a", served(server, attempts=2), x)
    server.switch(random_seconds=0.01)
    continued = built(tmp_path / "a", served(server, in_flight=3, timeout=9.0), x)
    assert server.state()["asked"] == 24 - 6 + 1  # three batches of two were kept, and it looks whether it is there
    assert_same_targets(stored(continued, x), again(x, tmp_path))


def again(x, tmp_path):
    return stored(built(tmp_path / "b", writer(1), x), x)


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_elsewhere_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(completion_server, "FIRST_WAIT", 0.01)
    x = np.tile(TOKENS, (4, 1))
    first = Server()
    first.switch(killed_after=10)
    with pytest.raises(ValueError, match=r"asked 6 times in .*(ConnectError|RemoteProtocolError|ReadError)"):
        built(tmp_path / "a", served(first), x)
    first.stop()
    second = Server()
    try:
        continued = built(tmp_path / "a", served(second), x)
        assert second.state()["asked"] < 20
    finally:
        second.stop()
    assert_same_targets(stored(continued, x), again(x, tmp_path))


def test_a_cache_knows_the_model_and_not_where_it_is(server):
    def fingerprint(url=server.url, model=MODEL, **arguments):
        return teacher_fingerprints.with_code(Served(url, model, classes=WORDS, **{"top_k": 3, **arguments}))

    elsewhere = fingerprint("https://elsewhere/v1", in_flight=2, timeout=1.0, attempts=1, tail="bucket", api_key="k")
    assert fingerprint() == elsewhere
    for other in ({"model": "other"}, {"top_k": 2}, {"vocabulary": STRINGS}):
        assert fingerprint() != fingerprint(**other)


# Requests


def test_what_is_asked_is_in_the_protocol(server):
    served(server, top_k=2)(TOKENS[:1, :2], {})
    first, second = TOKENS[0, :2].tolist()
    fields = {"max_tokens": 0, "echo": True, "logprobs": 2, "temperature": 1, "return_tokens_as_token_ids": True}
    assert server.state()["last"] == {"model": MODEL, "prompt": [first, second, second], **fields}


@pytest.mark.parametrize("in_flight", [1, 4])
def test_requests_run_at_the_same_time_and_keep_their_order(server, in_flight):
    server.switch(seconds=0.02, random_seconds=0.05)
    x = np.tile(TOKENS, (2, 1))
    found = served(server, top_k=WORDS, in_flight=in_flight)(x, {})["logits"].dense()
    np.testing.assert_allclose(found, keras.ops.log_softmax(writer(1)(x)), atol=1e-5)
    assert server.state()["busy"] == in_flight


def test_what_may_succeed_later_is_tried_again(server):
    server.switch(statuses=[429, 503, 408])
    np.testing.assert_array_equal(served(server)(TOKENS[:1], {})["logits"].ids, best(TOKENS[:1], 3))
    assert server.state()["asked"] == 4


def best(tokens, k):
    return np.argsort(-np.asarray(writer(1)(tokens)), axis=-1)[..., :k]


@pytest.mark.parametrize("eager", [True, False])
def test_a_server_that_always_fails_is_an_error_with_what_was_asked_how_often_and_what_came(server, eager):
    teacher = served(server, attempts=3, in_flight=1)
    teacher.before_fit(TOKENS)
    server.switch(always=500)
    run = teacher if eager else tf.function(lambda x, student: teacher(x, student)["logits"].ids)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as raised:
        run(TOKENS, {})
    for part in ("3 largest log-probabilities", "6 tokens", MODEL, server.url, "asked 3 times", "500", "status 500"):
        assert part in str(raised.value)
    assert server.state()["asked"] == 3  # and nothing of the other texts


def test_a_server_that_is_slow_is_an_error(server):
    server.switch(seconds=0.5)
    with pytest.raises(ValueError, match="asked 2 times in .*ReadTimeout"):
        served(server, attempts=2, timeout=0.05)(TOKENS[:1], {})
    server.switch()


def test_no_server_is_an_error():
    teacher = Served("http://127.0.0.1:9/v1", MODEL, classes=WORDS, top_k=2, attempts=1)
    with pytest.raises(ValueError, match="127.0.0.1:9/v1/completions.*asked 1 times in .*ConnectError"):
        trained(teacher)


def test_pauses_grow_and_follow_the_server():
    upwards = [completion_server._pause(attempt, 0.0, lambda low, high: high) for attempt in range(9)]
    assert upwards[:3] == [0.625, 1.25, 2.5] and upwards[-1] == 60.0
    assert completion_server._pause(0, 7.0) == 7.0 and completion_server._pause(0, 700.0) == 60.0


REFUSALS = {
    "another model": ({}, {"model": "other"}, "refused: 404 Not Found: The model `other` does not exist. See whether"),
    "another endpoint": ({}, {"url": "/v2"}, "refused: 404 Not Found: Not Found. See whether `url`"),
    "no key": ({"key": KEY}, {}, "401 Unauthorized: Incorrect API key: None. Give `api_key`, or set KERAS_KD_API_KEY"),
    "too many classes": ({"limit": 2}, {}, "400 Bad Request: Requested 3 logprobs.*lower `top_k`"),
    "fewer classes": ({"capped": 1}, {}, "log-probabilities of 3 tokens at each place. The server returned 2: lower"),
    "no logprobs": ({"no_logprobs": True}, {}, "Received 0 tokens and 0 places with log-probabilities, for 2 tokens"),
    "no echo": ({"no_echo": True}, {}, "returns log-probabilities of a prompt"),
    "another tokenizer": ({"shift": 3}, {}, "differ first at place 0: sent 0, returned 'token_id:3'"),
    "a token at the beginning": (
        {"begin": True},
        {},
        "sent 0, returned 'token_id:1'. It has another tokenizer, or puts",
    ),
    "strings": (
        {"names": "word "},
        {},
        "returns tokens as token_id:7.*Received: 'word 0'. For one that returns strings",
    ),
    "other strings": ({"names": "w"}, {"vocabulary": STRINGS}, r"sent 0 \('word 0'\), returned 'w0'"),
    "no JSON": ({"text": "<html>"}, {}, "no answer of that protocol: 200 OK: <html>"),
    "other JSON": ({"text": '{"choices": []}'}, {}, "no answer of that protocol"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_server_refuses_is_known_before_any_work(server, name, tmp_path):
    switches, arguments, message = REFUSALS[name]
    server.switch(**switches)
    arguments = {**arguments, "url": f"{server.address}{arguments.get('url', '/v1')}"}
    teacher = Served(**{"model": MODEL, "classes": WORDS, "top_k": 3, **arguments})
    student = pupil()
    before = student.get_weights()
    with pytest.raises(ValueError, match=message):
        trained(teacher, student=student)
    assert_same(student.get_weights(), before)
    with pytest.raises(ValueError, match=message):
        built(tmp_path / "cache", teacher)
    assert not (tmp_path / "cache" / manifest.PLAN).exists()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 3), "float32"),
        np.zeros((2, 3, 1), "int32"),
        {"ids": np.zeros((2, 3), "int32")},
        {"token_ids": np.zeros((2, 3), "int32"), "segments": np.zeros((2, 3), "int32")},
    ],
    ids=["floats", "three axes", "other names", "packed"],
)
def test_what_is_no_text_of_tokens_is_refused(server, x):
    with pytest.raises(ValueError, match="Expected token ids, .batch, tokens.*Received"):
        served(server)(x, {})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"url": "localhost:8000"}, "`url` to be as http://127.0.0.1:8000/v1"),
        ({"url": "ftp://localhost"}, "`url` to be as"),
        ({"url": 8000}, "`url` to be as"),
        ({"url": "http://user:word@host/v1"}, "without a user, a password or a query.*'host'"),
        ({"url": "http://host/v1?key=word"}, "without a user, a password or a query"),
        ({"model": ""}, "`model` to be the name"),
        ({"classes": 0}, "`classes` to be a whole number"),
        ({"classes": 1, "top_k": 1}, "top_k=1, classes=1"),
        ({"top_k": 0}, "`top_k` to be a whole number"),
        ({"top_k": 9}, "top_k=9, classes=8"),
        ({"in_flight": True}, "`in_flight` to be a whole number"),
        ({"attempts": 0}, "`attempts` to be a whole number"),
        ({"timeout": 0}, "`timeout` to be seconds, above 0"),
        ({"tail": "none"}, "`tail` to be one of"),
        ({"vocabulary": ["a"]}, "`vocabulary` to be a dict"),
        ({"vocabulary": {}}, "`vocabulary` to be a dict"),
        ({"vocabulary": {"a": 8}}, "ids from 0 to 7.*'a': 8"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        Served(**{"url": "http://host/v1", "model": MODEL, "classes": WORDS, "top_k": 3, **arguments})
    assert "word@" not in str(raised.value) and "key=" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r'pip install "keras_kd\[served\]"'):
        Served("http://host/v1", MODEL, classes=WORDS, top_k=2)


# The key


@pytest.mark.one_in(6, group="served")
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_the_key_is_sent_and_goes_nowhere_else(server, source, monkeypatch, tmp_path, caplog):
    server.switch(key=KEY)
    if source == "environment":
        monkeypatch.setenv("KERAS_KD_API_KEY", KEY)
    with caplog.at_level("DEBUG"):
        teacher = served(server, api_key=KEY if source == "argument" else None)
        built(tmp_path / "cache", teacher)
        distiller = distill(pupil(), [teacher, writer(2)], None, loss=None, alpha=1.0)
        fit(distiller, TOKENS, None)
    assert server.state()["key"] == f"Bearer {KEY}"
    distiller.save(tmp_path / "distiller.keras")
    distiller.student.save_weights(tmp_path / "student.weights.h5")
    held = [json.dumps(each.get_config()).encode() for each in (teacher, distiller.teacher)]
    held += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    held += [repr(teacher).encode(), str(vars(teacher._server)).encode() if source == "environment" else b""]
    held += [caplog.text.encode(), json.dumps(keras.saving.serialize_keras_object(teacher)).encode()]
    assert not any(KEY.encode() in each for each in held)


def test_a_key_that_a_server_repeats_is_not_shown(server):
    server.switch(key="another")
    with pytest.raises(ValueError, match=r"Incorrect API key: Bearer \*\*\*") as raised:
        served(server, api_key=KEY)(TOKENS, {})
    assert KEY not in str(raised.value)


# Files


def test_a_served_teacher_is_made_again_of_its_configuration(server):
    settings = {"top_k": 3, "vocabulary": STRINGS, "tail": "bucket", "in_flight": 2, "timeout": 9.0, "attempts": 4}
    teacher = served(server, **settings)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(teacher)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == teacher.get_config()
    assert again.get_config() == {"url": server.url, "model": MODEL, "classes": WORDS, **settings}


@pytest.mark.one_in(6, group="served")
def test_a_distiller_is_saved_without_it(server, tmp_path):
    distiller = distill(pupil(), served(server), None, loss=None, alpha=1.0, temperature=1.0)
    fit(distiller, TOKENS, None)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher is None
    loaded.teacher = served(server)
    assert np.isfinite(loaded.fit(TOKENS, verbose=0).history["loss"]).all()


def test_threads_share_a_teacher(server):
    teacher = served(server)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda row: np.asarray(teacher(row[None], {})["logits"].ids)[0], TOKENS))
    np.testing.assert_array_equal(found, best(TOKENS, 3))
