"""Caches of the most probable classes at each position: packed, and without the positions that do not count."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd.cache import json_checks, manifest, records
from keras_kd.cache.layout import Layout
from keras_kd.cache.packed_classes import PackedClasses
from tests.caches import built
from tests.models import assert_same, tagger
from tests.test_objective import distill

WORDS, CLASSES, LENGTH = 8, 12, 9
TOKENS = np.random.default_rng(0).integers(1, WORDS, (30, LENGTH)).astype("int32")
TOKENS[np.arange(LENGTH) >= np.random.default_rng(1).integers(1, LENGTH + 1, 30)[:, None]] = 0
TOKENS[4] = 0  # padding alone
LABELS = np.random.default_rng(2).integers(0, CLASSES, TOKENS.shape).astype("int32")
WEIGHTS = np.random.default_rng(3).integers(0, 3, TOKENS.shape).astype("float32")


def model(seed):
    return tagger(seed, words=WORDS, classes=CLASSES)


def examples(*parts):
    return tf.data.Dataset.from_tensor_slices((TOKENS, *parts))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def like_language(rows, k, classes, seed=0):
    """Return classes and logarithms of probabilities as a language model has them, and the rest: sure and unsure."""
    random = np.random.default_rng(seed)
    ids, kept, rest = [], [], []
    for _ in range(rows):
        logits = -random.uniform(0.8, 2.2) * np.log(np.arange(1, classes + 1) + random.uniform(0, 5))
        logits += random.normal(0, 0.6, classes)
        logits[0] += random.exponential(3.0)
        log_p = np.sort(log_softmax(logits))[::-1]
        ids.append(random.choice(classes, k, replace=False))
        kept.append(log_p[:k])
        rest.append(np.logaddexp.reduce(log_p[k:]) if k < classes else -np.inf)
    return np.stack(ids), np.stack(kept), np.array(rest)


def packed(ids, kept, rest, classes):
    """Return what is read back, in the order of the classes' numbers, as it was given."""
    code = PackedClasses(ids.shape[-1], classes)
    tail = tf.constant(rest, tf.float32) if ids.shape[-1] < classes else None
    octets = code.encode(tf.constant(ids), tf.constant(kept, tf.float32), tail)
    assert octets.shape == (len(ids), code.nbytes)
    found, logarithms, log_rest = code.decode(octets)
    order, ours = np.argsort(found, -1), np.argsort(ids, -1)
    np.testing.assert_array_equal(np.take_along_axis(found.numpy(), order, -1), np.take_along_axis(ids, ours, -1))
    pair = np.take_along_axis(logarithms.numpy(), order, -1), np.take_along_axis(kept, ours, -1)
    return (*pair, None if log_rest is None else log_rest.numpy())


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.data())
def test_any_set_of_classes_comes_back(classes, data):
    k = data.draw(st.integers(1, classes))
    ids, kept, rest = like_language(4, k, classes, data.draw(st.integers(0, 99)))
    found, known, _ = packed(ids, kept, rest, classes)
    assert np.abs(np.exp(found) - np.exp(known)).max() < 0.03


@pytest.mark.parametrize(
    ("k", "nbytes", "probability", "divergence"),
    [(8, 28, 0.002, 5e-6), (20, 59, 0.003, 2e-5), (50, 112, 0.02, 2e-3), (256, 495, 0.02, 2e-3)],
)
def test_the_errors_of_a_packed_row_are_those_that_are_stated(k, nbytes, probability, divergence):
    ids, kept, rest = like_language(60, k, 151_936)
    found, known, log_rest = packed(ids, kept, rest, 151_936)
    assert PackedClasses(k, 151_936).nbytes == nbytes
    assert np.abs(np.exp(found) - np.exp(known)).max() < probability
    np.testing.assert_allclose(np.exp(found).sum(-1) + np.exp(log_rest), 1, atol=1e-6)
    np.testing.assert_allclose(log_rest, rest, atol=6e-4)
    of_rest = np.exp(rest) * (rest - log_rest)
    assert np.mean(np.sum(np.exp(known) * (known - found), -1) + of_rest) < divergence


@pytest.mark.parametrize("rest", [-80.0, -20.0, -1e-6])
def test_a_rest_of_nearly_nothing_or_all_is_kept(rest):
    kept = log_softmax([[2.0, 1.0, 0.0]]) + np.log(-np.expm1(rest))
    found, _, log_rest = packed(np.array([[4, 0, 9]]), kept, np.array([rest]), 10)
    np.testing.assert_allclose(log_rest, [max(rest, -31.0)], rtol=2e-3, atol=2e-9)
    np.testing.assert_allclose(np.exp(found).sum(), -np.expm1(rest), rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "packed"])
@pytest.mark.parametrize("weighted", [False, True])
def test_only_positions_that_count_are_on_the_disk(tmp_path, dtype, weighted):
    parts = (LABELS, WEIGHTS) if weighted else ()
    cache = built(tmp_path, examples(*parts), teacher=model(7), top_k=3, dtype=dtype, batch_size=8)
    counted = (TOKENS != 0) & (WEIGHTS > 0 if weighted else True)
    layout = Layout.from_config(cache._manifest["layout"])
    (field,) = layout.positions
    size = sum(each["bytes"] for each in cache._manifest["files"].values())
    records_written = -(-30 // 8)
    expected = counted.sum() * field.shape[-1] + 30 * (2 + 2 * (1 + weighted)) + records_written * 20
    assert size == expected


@pytest.mark.slow
def test_a_token_of_a_large_vocabulary_takes_at_most_what_is_promised(tmp_path):
    tokens = np.ones((16, 128), "int32")
    for k, most in ((20, 60), (50, 114)):
        teacher = kd.teachers.Frozen(lambda x: tf.random.normal((tf.shape(x)[0], 128, 151_936)), head="logits")
        cache = kd.TeacherCache(tmp_path / str(k), teacher=teacher, top_k=k, dtype="packed")
        data = tf.data.Dataset.from_tensors((tokens[0], tokens[0], np.ones(128, "float32")))
        cache.build(data, batch_size=1, verbose=0)
        whole = sum(each["bytes"] for each in cache._manifest["files"].values())
        assert whole / 128 <= most


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "packed"])
@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_come_back_at_their_positions(tmp_path, dtype, by_key, weighted):
    x = {"tokens": TOKENS, "id": np.arange(30)} if by_key else TOKENS
    parts = (LABELS, WEIGHTS) if weighted else (LABELS,)
    data = tf.data.Dataset.from_tensor_slices((x, *parts))
    teacher = kd.teachers.Frozen(model(7), preprocess=lambda x: x["tokens"]) if by_key else model(7)
    cache = built(tmp_path, data, teacher=teacher, top_k=3, dtype=dtype, key="id" if by_key else None, batch_size=8)
    order = data.shuffle(30, seed=1) if by_key else data
    for joined, *_ in cache.join(order).batch(7):
        tokens = (joined.inputs["tokens"] if by_key else joined.inputs).numpy()
        found, log_p = joined.targets["logits"], log_softmax(model(7)(tokens))
        np.testing.assert_array_equal(found["mask"], tokens != 0)
        kept = np.asarray(found["kept"] if weighted else found["mask"])
        top = np.sort(np.argsort(-log_p, -1)[..., :3], -1)
        np.testing.assert_array_equal(np.sort(found["indices_of_12"], -1)[kept], top[kept])
        known = np.take_along_axis(log_p, np.asarray(found["indices_of_12"], int), -1)
        atol = 1e-5 if dtype == "float32" else 0.1
        np.testing.assert_allclose(found["log_probabilities"].numpy()[kept], known[kept], atol=atol)
    assert cache.verify(data, 1.0).largest["logits"] < atol
    assert cache.info().examples == 30 and cache.estimate(data, 8, 2).nbytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_training_is_that_of_a_cache_of_all_positions(tmp_path, tail):
    found = []
    for data, weights in ((examples(LABELS, WEIGHTS), None), (examples(LABELS), WEIGHTS)):
        cache = built(tmp_path / str(weights is None), data, teacher=model(7), top_k=3, dtype="float32")
        joined = cache.join(data)
        if weights is not None:
            more = tf.data.Dataset.from_tensor_slices(weights)
            joined = tf.data.Dataset.zip(joined, more).map(lambda xy, weight: (*xy, weight))
        distiller = distill(model(3), kd.teachers.Cached(cache, tail=tail), None, "sgd", temperature=1.0, alpha=0.5)
        history = distiller.fit(joined.batch(10), epochs=2, verbose=0).history["loss"]
        found.append([np.array(history), *distiller.student.get_weights()])
    assert_same(*found, 1e-6)


def test_weights_that_count_where_they_did_not_are_refused(tmp_path):
    cache = built(tmp_path, examples(LABELS, WEIGHTS), teacher=model(7), top_k=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="weights of 0 where they were 0"):
        list(cache.join(examples(LABELS, WEIGHTS + 1.0)))
    list(cache.join(examples(LABELS, WEIGHTS * (LABELS > 3))))  # fewer may count
    with pytest.raises(ValueError, match=r"\(x, y, sample_weight\) with 9 weights"):
        cache.join(examples(LABELS))
    with pytest.raises(ValueError, match=r"\(x, y, sample_weight\) with 9 weights"):
        cache.join(TOKENS)


@pytest.mark.slow
def test_arrays_views_and_ensembles_are_packed_too(tmp_path):
    cache = built(tmp_path / "arrays", TOKENS, teacher=model(7), top_k=3, dtype="packed")
    x = cache.join(TOKENS)
    np.testing.assert_array_equal(x.targets["logits"]["mask"], TOKENS != 0)
    distill(model(3), kd.teachers.Cached(cache), temperature=2.0).fit(x, LABELS, verbose=0)
    both = built(tmp_path / "both", TOKENS, teacher=[model(7), model(8)], top_k=3, dtype="packed")
    distill(model(3), kd.teachers.Cached(both), temperature=2.0).fit(both.join(TOKENS), LABELS, verbose=0)
    augment = lambda x, seed: tf.where(tf.random.stateless_uniform([LENGTH], seed) < 0.5, x, 0)  # noqa: E731
    views = built(tmp_path / "views", examples(LABELS), teacher=model(7), top_k=3, views=2, augment=augment)
    distill(model(3), kd.teachers.Cached(views), temperature=2.0).fit(views.join(examples(LABELS)).batch(9), verbose=0)


@pytest.mark.slow
def test_a_build_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = built(tmp_path / "whole", examples(LABELS, WEIGHTS), teacher=model(7), top_k=3, dtype="packed")
    cache = kd.TeacherCache(tmp_path / "parts", teacher=model(7), top_k=3, dtype="packed")
    write, written = records.encode, []

    def stopping(layout, rows):
        written.append(len(rows))
        if len(written) == 4:
            raise KeyboardInterrupt
        return write(layout, rows)

    monkeypatch.setattr(records, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        cache.build(examples(LABELS, WEIGHTS), batch_size=4, verbose=0)
    monkeypatch.setattr(records, "encode", write)
    assert list((tmp_path / "parts").glob("view-*/shard-*"))
    cache.build(examples(LABELS, WEIGHTS), batch_size=4, verbose=0)
    assert cache._manifest["files"] == whole._manifest["files"]


@pytest.mark.parametrize("k", [None, 3])
def test_packed_classes_need_their_number(tmp_path, k):
    if k is None:
        with pytest.raises(ValueError, match='Expected `top_k`.*dtype="packed"'):
            kd.TeacherCache(tmp_path, teacher=model(7), top_k=k, dtype="packed")
    else:
        assert "dtype='packed'" in repr(kd.TeacherCache(tmp_path, teacher=model(7), top_k=k, dtype="packed"))


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.insert(1, fields.pop()),
        lambda fields: fields[-1].update(shape=[LENGTH, 5]),
        lambda fields: fields[-1].update(part="top_3_of_2_in_packed"),
        lambda fields: fields[-1].update(dtype="uint16"),
        lambda fields: fields[1].update(shape=[3]),
        lambda fields: fields.append({**fields[1], "part": "values"}),
    ],
)
def test_a_layout_that_no_build_writes_is_refused(tmp_path, change):
    built(tmp_path, examples(), teacher=model(7), top_k=3, dtype="packed")
    path = tmp_path / manifest.MANIFEST
    content = json_checks.read_manifest(path)
    change(content["layout"])
    manifest.write(path, content)
    with pytest.raises(ValueError, match="damaged, or was edited"):
        kd.TeacherCache(tmp_path)


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_damaged_shard_is_named(tmp_path, cut):
    cache = built(tmp_path, examples(LABELS), teacher=model(7), top_k=3, dtype="packed")
    path = next(tmp_path.glob("view-*/*"))
    content = bytearray(path.read_bytes())
    content[-cut] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        list(cache.join(examples(LABELS)))


def test_jobs_share_a_build(tmp_path):
    whole = built(tmp_path / "whole", examples(LABELS), teacher=model(7), top_k=3)
    for index in (1, 0):
        cache = kd.TeacherCache(tmp_path / "shared", teacher=model(7), top_k=3)
        cache.build(examples(LABELS), batch_size=4, shard=(index, 2), verbose=0)
    sizes = [sum(each["bytes"] for each in each._manifest["files"].values()) for each in (whole, cache)]
    assert sizes[0] == sizes[1]
