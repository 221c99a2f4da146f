"""A cache joined to its examples: the same targets as the teacher's, whatever is done with the dataset afterwards."""

import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.cache.cache_reports import Estimate, Info, Verification
from keras_kd.cache.layout import Layout
from tests.caches import CLASSES, FEATURES, built, data, dataset, jittered, student, teacher
from tests.models import assert_same, softmax
from tests.test_objective import distill
from tests.test_teachers_cached import Counted

X, Y = data()
SGD = {"optimizer": "sgd", "temperature": 3.0, "alpha": 0.6}


def trained(teacher_of, examples, terms=None, epochs=2, y=None, **arguments):
    """Return the student's weights after training, and the logs."""
    distiller = distill(student(), teacher_of, terms, **SGD)
    history = distiller.fit(examples, y, epochs=epochs, verbose=0, shuffle=False, **arguments).history
    return distiller.student.get_weights(), history


def batches(examples):
    return examples.shuffle(50, seed=4).batch(20)


@pytest.mark.slow
def test_a_cached_run_is_the_live_run(tmp_path):
    cache = built(tmp_path, dtype="float32")
    live, logs = trained(teacher(), batches(dataset()))
    cached, cached_logs = trained(kd.teachers.Cached(cache), batches(cache.join(dataset())))
    assert_same(cached, live, 1e-6)
    assert logs.keys() == cached_logs.keys()
    for name, values in logs.items():
        np.testing.assert_allclose(cached_logs[name], values, rtol=1e-5, err_msg=name)


def test_a_cached_run_of_arrays_is_the_live_run(tmp_path):
    cache = built(tmp_path, X, dtype="float32")
    weight = np.linspace(0, 2, len(X)).astype("float32")
    for more in ({"sample_weight": weight}, {"class_weight": {0: 2.0, 1: 0.5, **{k: 1.0 for k in range(2, CLASSES)}}}):
        live, _ = trained(teacher(), X, y=Y, batch_size=20, **more)
        cached, _ = trained(kd.teachers.Cached(cache), cache.join(X), y=Y, batch_size=20, **more)
        assert_same(cached, live, 1e-6)


@pytest.mark.slow
def test_replayed_views_are_the_live_run_on_those_views(tmp_path):
    cache = built(tmp_path, dtype="float32", views=3, augment=jittered)
    shuffled = lambda examples: examples.shuffle(50, seed=4, reshuffle_each_iteration=False).batch(20)  # noqa: E731
    distiller = distill(student(), kd.teachers.Cached(cache), **SGD)
    distiller.fit(shuffled(cache.join(dataset())), epochs=4, verbose=0, shuffle=False)

    live = distill(student(), teacher(), **SGD)
    order = list(shuffled(tf.data.Dataset.range(len(X))).as_numpy_iterator())
    for epoch in range(4):
        seeds = np.stack([np.arange(len(X)), np.full(len(X), epoch % 3)], axis=1)
        views = np.stack([jittered(x, seed) for x, seed in zip(X, seeds, strict=True)])
        for rows in order:
            live.train_on_batch(views[rows], Y[rows])
    assert_same(distiller.student.get_weights(), live.student.get_weights(), 1e-5)


@pytest.mark.slow
def test_an_ensemble_of_a_live_teacher_and_cached_views_follows_the_views(tmp_path):
    cache = built(tmp_path, dtype="float32", views=3, augment=jittered)
    both = distill(student(), [teacher(1), kd.teachers.Cached(cache)], **SGD)
    both.fit(cache.join(dataset()).batch(25), epochs=4, verbose=0, shuffle=False)

    live = distill(student(), [teacher(1), teacher()], **SGD)
    for epoch in range(4):
        views = np.stack([jittered(x, [number, epoch % 3]) for number, x in enumerate(X)])
        for start in (0, 25):
            live.train_on_batch(views[start : start + 25], Y[start : start + 25])
    assert_same(both.student.get_weights(), live.student.get_weights(), 1e-5)


def test_each_member_of_an_ensemble_prepares_the_examples():
    ensemble = kd.teachers.Ensemble([teacher(1), kd.teachers.InMemory(teacher())])
    ensemble.bind(student(), ("logits",))
    prepared = ensemble.before_fit(X, verbose=0)
    np.testing.assert_allclose(prepared.targets["logits"]["values"], teacher()(X), atol=1e-6)
    (first, second), _ = ensemble(prepared, {})["logits"]
    np.testing.assert_allclose(first, teacher(1)(X), atol=1e-6)
    np.testing.assert_allclose(second, teacher()(X), atol=1e-6)


@pytest.mark.slow
def test_an_epoch_that_is_resumed_uses_its_own_view(tmp_path):
    cache = built(tmp_path, dtype="float32", views=3, augment=jittered)
    joined = cache.join(dataset()).batch(20)
    whole = distill(student(), kd.teachers.Cached(cache), **SGD)
    whole.fit(joined, epochs=5, verbose=0, shuffle=False)
    parts = distill(student(), kd.teachers.Cached(cache), **SGD)
    parts.fit(joined, epochs=2, verbose=0, shuffle=False)
    parts.fit(joined, epochs=5, initial_epoch=2, verbose=0, shuffle=False)
    assert_same(parts.student.get_weights(), whole.student.get_weights(), 1e-7)


@pytest.mark.slow
def test_views_without_a_callback_that_follows_the_epochs_are_an_error(tmp_path):
    cache = built(tmp_path, views=2, augment=jittered)
    with pytest.raises(tf.errors.OpError, match="several views"):
        next(iter(cache.join(dataset())))
    cache.epoch = 3
    first = next(iter(cache.join(dataset())))[0]
    np.testing.assert_allclose(first.inputs, jittered(X[0], [0, 1]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_target_belongs_to_its_row_after_any_shuffle(tmp_path, seed):
    cache = built(tmp_path, views=2, augment=jittered)
    model = teacher()
    for epoch in range(2):
        cache.epoch = epoch
        pipeline = cache.join(dataset()).shuffle(50, seed=seed).repeat(2).filter(lambda x, y: y > 0).batch(7)
        for x, _ in pipeline:
            logits = kd.teachers.Cached(cache)(x, {})["logits"]
            np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(model(x.inputs), -1))


@pytest.mark.slow
def test_top_k_of_all_classes_trains_as_the_dense_cache(tmp_path):
    dense, top = (built(tmp_path / str(k), dtype="float32", top_k=k) for k in (None, CLASSES))
    expected, _ = trained(kd.teachers.Cached(dense), dense.join(dataset()).batch(8))
    received, _ = trained(kd.teachers.Cached(top), top.join(dataset()).batch(8))
    assert_same(received, expected, 1e-6)


def test_the_top_class_alone_is_kept_with_the_mass_of_the_others(tmp_path):
    x, _ = next(iter(built(tmp_path, top_k=1, dtype="float32").join(dataset()).batch(50)))
    p, parts = softmax(teacher()(X)), x.targets["logits"]
    np.testing.assert_array_equal(parts["indices_of_6"][:, 0], p.argmax(-1))
    np.testing.assert_allclose(parts["log_probabilities"][:, 0], np.log(p.max(-1)), atol=1e-5)
    np.testing.assert_allclose(parts["log_tail"], np.log(1 - p.max(-1)), atol=1e-5)


@pytest.mark.slow
def test_several_taps_and_a_bridge_from_the_manifest(tmp_path):
    terms = lambda: [  # noqa: E731  each run gets terms of its own
        kd.Term(kd.losses.kl_divergence),
        kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), bridge="auto"),
    ]
    cache = built(tmp_path, taps=("logits", "hidden"), dtype="float32")
    opened = kd.TeacherCache(tmp_path)  # without its teacher
    assert {name: spec.shape for name, spec in opened.specs().items()} == {
        "logits": (None, CLASSES),
        "hidden": (None, 8),
    }
    keras.utils.set_random_seed(1)
    live, _ = trained(teacher(), batches(dataset()), terms())
    keras.utils.set_random_seed(1)
    cached, _ = trained(kd.teachers.Cached(opened), batches(cache.join(dataset())), terms())
    assert_same(cached, live, 1e-6)


def test_a_term_that_reads_what_the_cache_does_not_hold_is_refused(tmp_path):
    cache = built(tmp_path)
    with pytest.raises(ValueError, match=r"holds \['logits'\].*taps="):
        distill(student(), kd.teachers.Cached(cache), [kd.Term(kd.losses.squared_error, at=("hidden", "hidden"))])


@pytest.mark.slow
def test_an_ensemble_is_exact_at_any_temperature(tmp_path):
    members = kd.teachers.Ensemble([teacher(1), teacher(2)], weights=[1.0, 3.0])
    cache = built(tmp_path, teacher=members, dtype="float32")
    live, _ = trained(kd.teachers.Ensemble([teacher(1), teacher(2)], weights=[1.0, 3.0]), batches(dataset()))
    cached, _ = trained(kd.teachers.Cached(cache), batches(cache.join(dataset())))
    assert_same(cached, live, 1e-6)


def test_a_softmax_teacher_is_kept_as_logits(tmp_path):
    softmax = keras.Sequential([teacher(), keras.layers.Softmax()])
    softmax.build((None, FEATURES))
    cache = built(tmp_path, teacher=softmax, dtype="float32")
    assert cache.kind("logits") == "softmax"
    live, _ = trained(teacher(), batches(dataset()))
    for cached in (kd.teachers.Cached(cache), kd.teachers.Cached(head="softmax")):
        assert_same(trained(cached, batches(cache.join(dataset())))[0], live, 1e-5)


def test_dict_inputs_and_weights_are_kept_with_the_targets(tmp_path):
    weight = np.linspace(0, 2, len(X)).astype("float32")
    examples = tf.data.Dataset.from_tensor_slices(({"x": X, "id": np.arange(len(X))}, Y, weight))
    inputs = keras.Input((FEATURES,), name="x")
    named = keras.Model(inputs, teacher()(inputs))
    cache = built(tmp_path, examples, teacher=named, dtype="float32")
    x, y, w = next(iter(cache.join(examples).batch(50)))
    np.testing.assert_array_equal(x.inputs["id"], np.arange(50))
    np.testing.assert_array_equal(w, weight)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_allclose(x.targets["logits"]["values"], teacher()(X), atol=1e-6)


@pytest.mark.slow
def test_examples_without_labels_stay_without(tmp_path):
    for number, examples in enumerate((dataset().map(lambda x, y: x), dataset().map(lambda x, y: (x,)))):
        cache = built(tmp_path / str(number), examples, dtype="float32")
        (element,) = cache.join(examples).element_spec
        assert isinstance(element, kd.Joined)
        distiller = distill(student(), kd.teachers.Cached(cache), loss=None, optimizer="sgd", alpha=1.0)
        assert distiller.fit(cache.join(examples).batch(8), verbose=0).history["loss"][0] > 0


@pytest.mark.slow
def test_several_steps_per_execution_and_evaluation(tmp_path):
    cache = built(tmp_path, dtype="float32")
    joined = cache.join(dataset()).batch(10)
    expected, _ = trained(kd.teachers.Cached(cache), joined)
    distiller = distill(student(), kd.teachers.Cached(cache), **SGD, steps_per_execution=2)
    distiller.fit(joined, epochs=2, verbose=0, shuffle=False)
    assert_same(distiller.student.get_weights(), expected, 1e-6)
    expected = distiller.evaluate(X, Y, batch_size=10, verbose=0)
    np.testing.assert_allclose(distiller.evaluate(joined, verbose=0), expected, rtol=1e-6)
    np.testing.assert_allclose(distiller.predict(joined, verbose=0), distiller.predict(X, verbose=0), atol=1e-6)


def test_examples_cached_in_memory_after_the_join_train_the_same(tmp_path):
    cache = built(tmp_path, dtype="float32")
    expected, _ = trained(kd.teachers.Cached(cache), cache.join(dataset()).batch(10))
    received, _ = trained(kd.teachers.Cached(cache), cache.join(dataset()).cache().batch(10))
    assert_same(received, expected, 1e-6)
    x = X.copy()
    x[30] += 1.0
    with pytest.raises(ValueError, match="Example 30 is not the one that the teacher saw"):
        other = tf.data.Dataset.from_tensor_slices((x, Y))
        trained(kd.teachers.Cached(cache), cache.join(other).cache().batch(10))


def test_the_number_of_batches_is_known(tmp_path):
    cache = built(tmp_path)
    assert int(cache.join(dataset()).batch(8).cardinality()) == 7


# By key


def keyed(rows=50):
    x, y = data(rows)
    return tf.data.Dataset.from_tensor_slices(({"x": x, "id": [f"id-{number}" for number in range(rows)]}, y))


def of_x(model):
    return kd.teachers.Frozen(model, preprocess=lambda x: x["x"])


@pytest.mark.slow
def test_by_key_any_order_and_any_part_of_the_data_gets_its_targets(tmp_path):
    cache = built(tmp_path, keyed(), teacher=of_x(teacher()), key="id", dtype="float32", views=2, augment=_dict_jitter)
    model = teacher()
    for epoch in range(2):
        cache.epoch = epoch
        joined = cache.join(keyed().shuffle(50, seed=1).filter(lambda x, y: y > 1)).batch(8)
        rows = 0
        for x, _ in joined:
            np.testing.assert_allclose(x.targets["logits"]["values"], model(x.inputs["x"]), atol=1e-5)
            rows += len(x.inputs["x"])
        assert rows == np.sum(Y > 1)
    assert cache.verify(keyed(), 0.5).largest["logits"] < 1e-5


def test_by_key_the_order_of_the_build_is_free_too(tmp_path):
    cache = built(tmp_path, keyed().shuffle(50, seed=1), teacher=of_x(teacher()), key="id", dtype="float32")
    for x, _ in cache.join(keyed()).batch(8):
        np.testing.assert_allclose(x.targets["logits"]["values"], teacher()(x.inputs["x"]), atol=1e-5)


def _dict_jitter(x, seed):
    return {**x, "x": jittered(x["x"], seed)}


def test_a_missing_key_is_named(tmp_path):
    cache = built(tmp_path, keyed(), teacher=of_x(teacher()), key="id")
    more = keyed(51)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has no example of one of these keys"):
        list(cache.join(more))


def test_a_key_may_be_a_function_of_the_element(tmp_path):
    key = lambda x, y: tf.cast(x[:, 0] * 1e6, tf.int64)  # noqa: E731
    cache = built(tmp_path, key=key, dtype="float32")
    for x, _ in cache.join(dataset().shuffle(50, seed=2)).batch(8):
        np.testing.assert_allclose(x.targets["logits"]["values"], teacher()(x.inputs), atol=1e-6)


def test_two_examples_of_one_key_are_refused(tmp_path):
    with pytest.raises(ValueError, match="50 examples have 6 different ones"):
        built(tmp_path, key=lambda x, y: y)


# What it reports


@pytest.mark.slow
def test_verify_finds_the_difference_that_was_made(tmp_path):
    cache = built(tmp_path, dtype="float32", taps=("logits", "hidden"), views=2, augment=jittered)
    same = cache.verify(dataset(), 1.0)
    assert same.numbers == 2 * 50 * (CLASSES + 8) and max(same.largest.values()) < 1e-6
    half = built(tmp_path / "half").verify(dataset(), 1.0)
    assert 1e-5 < half.largest["logits"] < 5e-3
    assert built(tmp_path / "top", top_k=2).verify(dataset(), 0.2).largest["logits"] < 5e-3


def test_verify_looks_at_a_fraction_of_the_examples_and_at_least_one(tmp_path):
    cache = built(tmp_path)
    for fraction, examples in ((0.2, 10), (1e-3, 1)):
        assert cache.verify(dataset(), fraction).numbers == examples * CLASSES
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"Received: fraction={fraction}"):
            cache.verify(dataset(), fraction)


def test_verify_finds_what_no_fingerprint_shows(tmp_path):
    model, other = teacher(), teacher(8)
    cache = built(tmp_path, teacher=lambda x: model(x), dtype="float32")  # read as the cache is built
    differences = np.abs(other(X).numpy() - model(X).numpy())
    model.set_weights(other.get_weights())
    found = cache.verify(dataset(), 1.0)
    assert found.largest["logits"] == pytest.approx(differences.max(), rel=1e-4)
    assert found.mean["logits"] == pytest.approx(differences.mean(), rel=1e-4)


def test_its_representation_has_its_path_what_it_keeps_and_whether_it_is_built(tmp_path):
    cache = kd.TeacherCache(tmp_path / "cache", teacher=teacher(), taps=("logits", "hidden"), top_k=2)
    kept = "taps=['hidden', 'logits'], dtype='float16', top_k=2"
    assert repr(cache) == f"<TeacherCache at {str(tmp_path / 'cache')!r}: not built, {kept}>"
    cache.build(dataset(1200), verbose=0)
    for each in (cache, kd.TeacherCache(tmp_path / "cache")):
        assert repr(each) == f"<TeacherCache at {str(tmp_path / 'cache')!r}: 1,200 examples, {kept}>"


def test_info_and_estimate_describe_the_files(tmp_path):
    cache = built(tmp_path, top_k=2)
    info, estimate = cache.info(), cache.estimate(dataset(), batch_size=8)
    assert info.examples == estimate.examples == 50
    assert estimate.nbytes == 50 * (2 + 2 * (2 + 1) + 2)  # check, k logarithms and classes, tail
    assert info.nbytes == sum(path.stat().st_size for path in tmp_path.rglob("*.tfrecord"))
    assert info.bytes_dense == 50 * (2 + 2 * CLASSES)
    assert info.seconds > 0 and info.break_even >= 1
    assert "bytes an example and view" in str(info) and "on disk" in str(estimate)
    for epochs, words in ((3.25, "after  3.2 epochs"), (float("inf"), "never  reading took"), (None, "not known")):
        assert words in str(info._replace(break_even=epochs)), str(info._replace(break_even=epochs))


def test_info_counts_every_view_of_every_example():
    columns = {
        "logits": {"log_probabilities": np.zeros((1, 5, 2), "float16"), "indices_of_7": np.zeros((1, 5, 2), "uint8")}
    }
    content = {"count": 10, "views": 3, "dtype": "float16", "layout": Layout.of(columns, False, 2).get_config()}
    info = Info.of(content, on_disk=1200, examples_timed=15, seconds=6.0, seconds_to_read=0.1)
    assert (info.examples, info.views, info.nbytes, info.bytes_per_example) == (10, 3, 1200, 40.0)
    assert info.bytes_dense == 10 * 3 * (2 + 5 * 7 * 2)  # the check, and 5 positions of 7 classes
    assert info.seconds == pytest.approx(0.4 * 30)  # 6 s for 15 examples
    # Of n epochs, the live teacher takes 0.4 * 10 n seconds; the cache 0.4 * 30 and 0.1 * 10 n: equal at n = 4.
    assert info.break_even == pytest.approx(4.0)


def test_an_estimate_counts_every_view_of_every_example():
    assert Estimate.of(10, 3, 0.5, 8, 99) == (10, 15.0, 240, 99)
    assert Estimate.of(None, 3, 0.5, 8, 99) == (None, 1.5, 24, 99)
    for examples, words in ((1200, "for 1,200 examples"), (None, "for one example")):
        assert words in str(Estimate.of(examples, 3, 0.5, 8, 99))


def test_an_estimate_runs_a_batch_to_compile_and_then_those_that_it_times(tmp_path):
    counted = Counted(teacher())
    kd.TeacherCache(tmp_path, teacher=counted).estimate(dataset(), batch_size=8, batches=1)
    assert counted.predicted == 2 * 8


def test_a_verification_prints_the_differences_of_each_tap():
    found = {"logits": [np.array([0.5, 0.25]), np.array([0.75])], "hidden": [np.array([0.125])]}
    report = Verification.of(found)
    assert report == (4, {"logits": 0.75, "hidden": 0.125}, {"logits": 0.5, "hidden": 0.125})
    assert [line.split() for line in str(report).splitlines()] == [
        ["largest", "mean"],
        ["logits", "7.50e-01", "5.00e-01"],
        ["hidden", "1.25e-01", "1.25e-01"],
    ]


def test_the_times_of_a_build_are_kept_with_the_number_of_examples(tmp_path):
    started = time.perf_counter()
    built(tmp_path, views=2, augment=jittered)
    elapsed = time.perf_counter() - started
    (timing,) = (json.loads(path.read_text()) for path in tmp_path.glob("timing-*.json"))
    assert timing["examples"] == 2 * 50
    assert 0 < timing["seconds"] < elapsed


def test_a_lambda_teacher_and_one_of_another_origin_are_cached(tmp_path):
    cache = built(tmp_path, teacher=lambda x: x @ tf.ones((FEATURES, CLASSES)), dtype="float32")
    x, _ = next(iter(cache.join(dataset()).batch(50)))
    np.testing.assert_allclose(x.targets["logits"]["values"], X @ np.ones((FEATURES, CLASSES)), atol=1e-5)


@pytest.mark.slow
def test_sequences_keep_their_masks(tmp_path):
    from tests.models import tagger

    words = np.random.default_rng(0).integers(0, 6, (20, 5)).astype("int32")
    examples = tf.data.Dataset.from_tensor_slices(words)
    cache = built(tmp_path, examples, teacher=tagger(1), dtype="float32", top_k=3)
    live = distill(tagger(2, mask=False), tagger(1), loss=None, optimizer="sgd", alpha=1.0)
    cached = distill(tagger(2, mask=False), kd.teachers.Cached(cache), loss=None, optimizer="sgd", alpha=1.0)
    live.fit(words, batch_size=5, shuffle=False, verbose=0)
    cached.fit(cache.join(examples).batch(5), shuffle=False, verbose=0)
    assert_same(cached.student.get_weights(), live.student.get_weights(), 1e-6)


def test_a_pass_that_is_no_epoch_uses_one_view(tmp_path):
    cache = built(tmp_path, views=3, augment=jittered)
    seen = []
    for number, (x, _) in enumerate(_moving(cache, cache.join(dataset()).repeat(3))):
        seen.append(x.inputs)
        assert number < 150
    views = [[jittered(x, [place, view]) for place, x in enumerate(X)] for view in range(3)]
    passes = np.array(seen).reshape(3, *np.shape(views[0]))
    # A pass begins when its first examples are read ahead: which epoch that is, the speed of the machine decides.
    used = [[np.allclose(each, view, rtol=1e-6, atol=0) for view in views] for each in passes]
    assert used[0] == [True, False, False] and all(sum(each) == 1 for each in used)


def _moving(cache, examples):
    """Yield examples, of which an epoch sees 40 and a pass has 50."""
    cache.epoch = 0
    for number, element in enumerate(examples):
        cache.epoch = (number + 1) // 40 * 2  # 2 as the second pass begins, 4 as the third does
        yield element


# Inputs of all kinds


class Sum(keras.layers.Layer):
    """The sum of the inputs that are not None, in float32."""

    def call(self, first, second=None):
        first = tf.cast(first, "float32")
        return first if second is None else first + tf.cast(second, "float32")


def of_two_inputs(seed):
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((FEATURES,), name="b", optional=True)
    keras.utils.set_random_seed(seed)
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(CLASSES)(Sum()(a, b)))


def of_bools(seed):
    x = keras.Input((FEATURES,), dtype="bool")
    keras.utils.set_random_seed(seed)
    return keras.Model(x, keras.layers.Dense(CLASSES)(Sum()(x)))


def negated(x, seed):
    return tf.math.logical_xor(x, tf.random.stateless_uniform([FEATURES], seed) > 0.5)


def jittered_first(x, seed):
    return {**x, "a": jittered(x["a"], seed)}


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    ("make", "x", "augment"),
    [(of_two_inputs, {"a": X, "b": None}, jittered_first), (of_bools, X > 0, negated)],
    ids=["an input that is None", "bool"],
)
def test_any_input_that_keras_takes_is_cached(tmp_path, make, x, augment, views):
    examples = tf.data.Dataset.from_tensor_slices((x, Y))
    model = make(1)
    cache = built(
        tmp_path, examples, teacher=model, dtype="float32", views=views, augment=augment if views > 1 else None
    )
    cache.epoch = 0
    rows = 0
    for joined, _ in cache.join(examples).batch(20):
        np.testing.assert_allclose(joined.targets["logits"]["values"], model(joined.inputs), atol=1e-5)
        rows += len(joined.targets["logits"]["values"])
    assert rows == len(X) and cache.verify(examples, 1.0).largest["logits"] < 1e-5
    assert cache.estimate(examples, batch_size=8).examples == len(X)


@pytest.mark.parametrize(("make", "x"), [(of_two_inputs, {"a": X, "b": None}), (of_bools, X > 0)])
def test_any_input_that_keras_takes_is_cached_as_arrays_and_by_key(tmp_path, make, x):
    model = make(1)
    joined = built(tmp_path / "arrays", x, teacher=model, dtype="float32").join(x)
    np.testing.assert_allclose(joined.targets["logits"]["values"], model(x), atol=1e-5)
    examples = tf.data.Dataset.from_tensor_slices((x, Y, np.arange(len(X))))
    cache = built(tmp_path / "key", examples, teacher=model, dtype="float32", key=lambda x, y, number: number)
    for found, _, _ in cache.join(examples.shuffle(50, seed=1)).batch(10):
        np.testing.assert_allclose(found.targets["logits"]["values"], model(found.inputs), atol=1e-5)


def test_inputs_that_are_all_none_are_refused(tmp_path):
    nothing = tf.data.Dataset.from_tensor_slices(({"b": None}, Y))
    with pytest.raises(ValueError, match="Expected inputs, of which some may be left out. Received none"):
        built(tmp_path, nothing, teacher=of_two_inputs(1))


def test_an_augmentation_may_change_shape_and_type(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (20, 6, 6, 1)).astype("uint8")
    examples = tf.data.Dataset.from_tensor_slices((images, np.zeros(20)))
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])

    def cropped(x, seed):
        return tf.cast(tf.image.stateless_random_crop(x, (4, 4, 1), seed), tf.float32) / 255.0

    cache = built(tmp_path, examples, teacher=model, dtype="float32", views=2, augment=cropped)
    cache.estimate(examples)
    cache.epoch = 1
    (x, _), *_ = cache.join(examples).batch(20)
    np.testing.assert_allclose(x.targets["logits"]["values"], model(x.inputs), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ragged", "variable", "sparse"])
def test_labels_of_any_kind_stay_with_their_examples(tmp_path, kind):
    def boxes(x, y):
        several = tf.ones((y + 1, 4))
        if kind == "sparse":
            return x, tf.sparse.from_dense(tf.one_hot(y, CLASSES))
        return x, tf.RaggedTensor.from_tensor(several) if kind == "ragged" else several

    cache = built(tmp_path, dataset().map(boxes), dtype="float32")
    for (x, _), (expected, _) in zip(cache.join(dataset().map(boxes)), dataset(), strict=True):
        np.testing.assert_array_equal(x.inputs, expected)
        np.testing.assert_allclose(x.targets["logits"]["values"], teacher()(expected[None])[0], atol=1e-5)


def test_keys_of_one_column_are_keys(tmp_path):
    examples = tf.data.Dataset.from_tensor_slices(({"x": X, "id": np.arange(len(X))[:, None]}, Y))
    cache = built(tmp_path, examples, teacher=of_x(teacher()), key="id")
    assert sum(1 for _ in cache.join(examples.shuffle(50))) == 50
