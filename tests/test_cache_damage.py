"""A cache that is damaged, or belongs to other data or another teacher, is found before a student learns from it."""

import concurrent.futures
import itertools
import os
import random
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.cache import manifest
from keras_kd.cache.key_index import Index
from keras_kd.cache.source import Source
from tests.caches import FEATURES, built, data, dataset, jittered, student, teacher
from tests.test_objective import distill

WAYS = {
    "a bit": lambda content, at, length, other, draw: (
        content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    ),
    "truncated": lambda content, at, length, other, draw: content[:at],
    "empty": lambda content, at, length, other, draw: b"",
    "written on": lambda content, at, length, other, draw: content + draw.randbytes(length),
    "noise": lambda content, at, length, other, draw: content[:at] + draw.randbytes(length) + content[at + length :],
    "a hole": lambda content, at, length, other, draw: content[:at] + bytes(length) + content[at + length :],
    "a piece is missing": lambda content, at, length, other, draw: content[:at] + content[at + length :],
    "random bytes": lambda content, at, length, other, draw: draw.randbytes(len(content)),
    "another file of the cache": lambda content, at, length, other, draw: other,
    "no file": lambda content, at, length, other, draw: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [pytest.param(2, marks=pytest.mark.slow), 1])
def test_no_damaged_file_is_accepted(tmp_path, rounds):
    cache = built(tmp_path, batch_size=10, top_k=2, views=2, augment=jittered)
    cache.join(dataset())
    paths = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".json", ".tfrecord"))
    paths = [path for path in paths if not path.name.startswith("timing")]
    assert len(paths) == 11
    whole = {path: path.read_bytes() for path in paths}
    # Each way on each file, so that what is drawn, which depends on the lengths of the files, leaves none out.
    for turn, way, path in itertools.product(range(rounds), WAYS, paths):
        draw = random.Random(f"{turn} {way} {path.relative_to(tmp_path)}")
        content, other = whole[path], whole[draw.choice([other for other in paths if other != path])]
        content = WAYS[way](content, draw.randrange(len(content)), draw.randint(1, 40), other, draw)
        if content == whole[path]:  # a hole where there were zeros
            continue
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match="is missing|is damaged|There is no cache") as error:
            reopened = kd.TeacherCache(tmp_path, augment=jittered)
            reopened.join(dataset())
            Source(tmp_path, reopened._manifest, lambda: 1).check(1)  # as when it is read
        assert str(path if path.name != manifest.MANIFEST else tmp_path) in str(error.value)
        assert "build" in str(error.value).lower()
        path.write_bytes(whole[path])
    kd.TeacherCache(tmp_path, augment=jittered).join(dataset())  # and the whole one is


def test_a_damaged_view_is_found_when_its_epoch_comes(tmp_path):
    cache = built(tmp_path, views=2, augment=jittered)
    shard = sorted((tmp_path / "view-0001").iterdir())[2]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    distiller = distill(student(), kd.teachers.Cached(cache), optimizer="sgd")
    joined = cache.join(dataset()).batch(5)
    distiller.fit(joined, verbose=0)
    with pytest.raises(ValueError, match=f"{shard.name}' is damaged.*build the cache again"):
        distiller.fit(joined, epochs=2, verbose=0)


def test_a_file_that_is_damaged_after_the_join_is_found_while_it_is_read(tmp_path):
    joined = built(tmp_path).join(dataset())
    shard = sorted(tmp_path.rglob("*.tfrecord"))[3]
    content = bytearray(shard.read_bytes())
    content[20] ^= 4
    shard.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        list(joined)


def by_numbers(x, y):
    """Return a key for each of the examples of `data`."""
    return tf.strings.to_hash_bucket_fast(tf.strings.as_string(x[:, 0], 9), 2**62)


@pytest.mark.parametrize("number", [pytest.param(20, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("arguments", [{}, {"views": 2, "augment": jittered}], ids=["one view", "two views"])
def test_a_byte_that_changes_after_a_join_by_key_is_found(tmp_path, arguments, number):
    cache = built(tmp_path, batch_size=10, key=by_numbers, **arguments)
    joined = cache.join(dataset().shuffle(50)).batch(10)
    paths, draw = sorted((tmp_path / "view-0000").glob("*.tfrecord")), random.Random(0)
    assert len(paths) == 5
    for turn in range(number):
        cache.epoch = 0
        assert sum(1 for _ in joined) == 5
        path = paths[turn % 5]
        content = path.read_bytes()
        at = 12 + draw.randrange(len(content) - 16)  # in the rows: lengths and checksums of records are not read
        with open(path, "r+b") as file:  # in place, as a disk would: the file that was opened stays open
            file.seek(at)
            file.write(bytes([content[at] ^ (1 << draw.randrange(8))]))
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="has changed since it was joined.*build the cache again"
        ):
            list(joined)
        with open(path, "r+b") as file:
            file.write(content)


def test_a_view_that_was_damaged_before_its_epoch_is_found_by_key_too(tmp_path):
    cache = built(tmp_path, batch_size=10, key=by_numbers, views=2, augment=jittered)
    joined = cache.join(dataset()).batch(10)
    path = sorted((tmp_path / "view-0001").iterdir())[2]
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    cache.epoch = 0
    assert sum(1 for _ in joined) == 5
    for damage in (lambda: None, lambda: path.write_bytes(content[:-9]), path.unlink):
        damage()
        cache.epoch = 1
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{path.name}' is (damaged|missing).*build the cache"):
            list(joined)


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 9), lambda path: path.unlink()])
def test_a_file_that_is_cut_off_or_removed_after_a_join_by_key_is_named(tmp_path, damage):
    joined = built(tmp_path, batch_size=10, key=by_numbers).join(dataset()).batch(10)
    assert sum(1 for _ in joined) == 5
    path = sorted((tmp_path / "view-0000").iterdir())[2]
    damage(path)
    time.sleep(1.1)  # sizes are checked once a second
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{path.name}' is (damaged|missing).*build the cache"):
        list(joined)


@pytest.mark.slow
def test_many_threads_that_search_keys_read_a_view_once(tmp_path, monkeypatch):
    cache = built(tmp_path, batch_size=10, key=by_numbers, views=2, augment=jittered)
    index = Index(Source(tmp_path, cache._manifest, lambda: 0))
    reads, read = [], index._read
    monkeypatch.setattr(index, "_read", lambda view: (reads.append(view), time.sleep(0.2), read(view))[-1])
    for view in (0, 1):
        x = np.stack([jittered(x, [number, view]) for x, number in zip(data()[0], by_numbers(*data()), strict=True)])
        keys = by_numbers(x, None).numpy()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(index.find, [keys[::-1]] * 8, [view] * 8))
        assert reads == [0, 1][: view + 1]
        for rows, places, _ in found:
            np.testing.assert_array_equal(places, np.arange(50)[::-1])
            np.testing.assert_array_equal(rows, found[0][0])


def alike(nbytes):
    """Return two rows, not the same, whose fingerprints begin with the same bytes."""
    rows = np.random.default_rng(0).normal(size=(2000, FEATURES)).astype("float32")
    numbers = [row.tobytes() for row in tf.fingerprint(rows).numpy()[:, :nbytes]]
    first = {number: place for place, number in reversed(list(enumerate(numbers)))}
    return next((rows[first[each]], rows[place]) for place, each in enumerate(numbers) if first[each] != place)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "key"])
def test_a_row_whose_first_two_bytes_agree_is_found_by_eight(tmp_path, kind):
    x, y = data()
    x[37], other = alike(2)
    changed_x = x.copy()
    changed_x[37] = other
    key = (lambda x, y: tf.cast(tf.range(tf.shape(y)[0]), tf.int64)) if kind == "key" else None

    def joined(cache, x):
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        return cache.join(x) if kind == "arrays" else list(cache.join(examples))

    caches = [
        built(
            tmp_path / str(n),
            x if kind == "arrays" else tf.data.Dataset.from_tensor_slices((x, y)),
            50,
            key=key,
            check_bytes=n,
        )
        for n in (2, 8)
    ]
    for cache in caches:
        joined(cache, x)
    joined(caches[0], changed_x)  # 1 of 65,536
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="Example .* is not the one that the teacher"
    ):
        joined(caches[1], changed_x)
    assert caches[1].info().nbytes - caches[0].info().nbytes == 50 * (8 - 2)


def test_a_file_of_another_format_is_named(tmp_path):
    built(tmp_path)
    path = tmp_path / manifest.MANIFEST
    manifest.write(path, {**manifest.read(path), "format": 99})
    with pytest.raises(ValueError, match=r"format in \(1, 2, 3\). Received: 99"):
        kd.TeacherCache(tmp_path)


# Of another teacher


def changed(model):
    weights = model.get_weights()
    weights[0][0, 0] += 1e-3
    model.set_weights(weights)
    return model


@pytest.mark.parametrize(
    "other",
    [
        lambda: changed(teacher()),
        lambda: kd.teachers.Ensemble([teacher(), teacher(1)]),
        lambda: keras.Sequential([keras.Input((FEATURES,)), teacher(), keras.layers.ReLU()]),
    ],
)
def test_another_teacher_is_refused(tmp_path, other):
    built(tmp_path)
    with pytest.raises(ValueError, match="another"):
        kd.TeacherCache(tmp_path, teacher=other())


def test_a_teacher_that_is_trained_after_the_cache_was_opened_is_found(tmp_path):
    model = teacher()
    cache = kd.TeacherCache(tmp_path, teacher=model)
    changed(model)
    cache.build(dataset(), 4, verbose=0)
    kd.TeacherCache(tmp_path, teacher=changed(teacher()))  # it is of the teacher that it was built with
    changed(model)
    for use in (cache.join, cache.verify, cache.build):
        with pytest.raises(ValueError, match="one of its weights, is another"):
            use(dataset())


def test_the_same_teacher_is_recognised_by_any_name_and_from_its_file(tmp_path):
    built(tmp_path / "cache")
    keras.layers.Dense(3), keras.layers.Dense(3)  # names count up
    again = teacher()
    again.save(tmp_path / "teacher.keras")
    for model in (again, keras.models.load_model(tmp_path / "teacher.keras"), keras.models.clone_model(again)):
        model.set_weights(again.get_weights())
        kd.TeacherCache(tmp_path / "cache", teacher=model)


@pytest.mark.parametrize(
    "other", [{"top_k": 2}, {"dtype": "float32"}, {"taps": ("logits", "hidden")}, {"key": "id"}, {"check_bytes": 8}]
)
def test_other_settings_are_refused(tmp_path, other):
    built(tmp_path)
    with pytest.raises(ValueError, match="was made with"):
        kd.TeacherCache(tmp_path, teacher=teacher(), **other)


def test_a_setting_that_differs_is_shown_with_80_characters_at_most(tmp_path):
    there, here = ({"augmentation": "x" * length} for length in (78, 79))  # and two quotation marks
    words = f'augmentation = "{"x" * 78}"[.] Received: "{"x" * 59}[.]{{3}}[.] The augmentation is another'
    with pytest.raises(ValueError, match=words):
        manifest.refuse_difference(tmp_path / manifest.PLAN, there, here)


def test_an_unfinished_cache_of_another_teacher_is_refused(tmp_path):
    kd.TeacherCache(tmp_path, teacher=teacher()).build(dataset(), 4, shard=(0, 2), verbose=0)
    with pytest.raises(ValueError, match="another"):
        kd.TeacherCache(tmp_path, teacher=changed(teacher())).build(dataset(), 4, shard=(1, 2), verbose=0)


# Of other data


def one_row_changed(x):
    x = x.copy()
    x[37, 2] = np.nextafter(x[37, 2], np.float32(9))
    return x


OTHERS = {
    "one row changed": one_row_changed,
    "two rows swapped": lambda x: x[[*range(20), 21, 20, *range(22, 50)]],
    "the order changed": lambda x: x[::-1].copy(),
    "a row more": lambda x: np.concatenate([x, x[:1]]),
    "a row less": lambda x: x[:-1],
    "a block more": lambda x: np.concatenate([x, x[:6]]),
    "a block less": lambda x: x[:48],
    "another type": lambda x: x.astype("float64"),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["arrays", "dataset", "dataset of unknown size"])
def test_other_data_teach_nothing(tmp_path, name, kind):
    x, y = data()
    other = OTHERS[name](x)
    labels = np.resize(y, len(other))
    examples = tf.data.Dataset.from_tensor_slices((other, labels))
    cache = built(tmp_path, x if kind == "arrays" else dataset(), batch_size=6)
    distiller = distill(student(), kd.teachers.Cached(cache), optimizer="sgd")
    seen = []
    counter = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    with pytest.raises(ValueError, match="is not the one|another|have other|types and shapes|Expected the 50 examples"):
        if kind == "arrays":
            cache.join(other)
        else:
            joined = cache.join(examples if kind == "dataset" else examples.filter(lambda x, y: True))
            distiller.fit(joined.batch(6), callbacks=[counter], verbose=0)
    # What was taught before the first wrong row was right.
    before = {"one row changed": 37, "two rows swapped": 20, "a row more": 50, "a row less": 49}.get(name, 50)
    assert len(seen) <= -(-before // 6)


def test_an_example_that_is_another_one_is_named_by_its_place(tmp_path):
    x, y = data(512)
    cache = built(tmp_path, x, batch_size=256)
    x[300, 1] += 1.0  # in the second block of 256
    with pytest.raises(ValueError, match="Example 300 is not the one"):
        cache.join(x)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example 300 is not the one"):
        list(built(tmp_path / "pairs", dataset(512)).join(tf.data.Dataset.from_tensor_slices((x, y))))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("rows", [511, 513, 768, 256])
def test_another_number_of_examples_is_found_where_blocks_are_records(tmp_path, rows):
    cache = built(tmp_path, dataset(512), batch_size=256)
    assert sum(1 for _ in cache.join(dataset(512))) == 512
    more = dataset(512).concatenate(dataset(256)).take(rows).filter(lambda x, y: True)  # their number is not known
    with pytest.raises(tf.errors.InvalidArgumentError, match="has another number of examples than the cache"):
        for _ in cache.join(more):
            pass


@pytest.mark.slow
def test_an_augmentation_inside_the_dataset_is_found(tmp_path):
    cache = built(tmp_path)
    noisy = dataset().map(lambda x, y: (x + tf.random.normal([FEATURES]), y))
    with pytest.raises(ValueError, match="before any random step"):
        cache.join(noisy)


@pytest.mark.slow
def test_another_augmentation_is_refused(tmp_path):
    cache = built(tmp_path, views=2, augment=jittered)
    with pytest.raises(ValueError, match="augmentation is another"):
        kd.TeacherCache(tmp_path, augment=lambda x, seed: jittered(x, seed) * 1.01).join(dataset())
    with pytest.raises(ValueError, match="was built with `augment`"):
        kd.TeacherCache(tmp_path)
    seldom = kd.TeacherCache(tmp_path, augment=lambda x, seed: jittered(x, seed) + tf.cast(seed[0] == 30, tf.float32))
    seldom.epoch = cache.epoch = 1
    list(cache.join(dataset()))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example 30 is not the one"):
        list(seldom.join(dataset()))


def test_a_cache_is_not_joined_twice_and_needs_its_targets(tmp_path):
    cache = built(tmp_path)
    with pytest.raises(TypeError, match="not joined yet.*cache the ensemble"):
        cache.join(cache.join(dataset()))
    with pytest.raises(ValueError, match="carry a teacher's targets"):
        distill(student(), kd.teachers.Cached(cache), optimizer="sgd").fit(dataset().batch(5), verbose=0)
    with pytest.raises(TypeError, match="TeacherCache"):
        kd.teachers.Cached(str(tmp_path))
    with pytest.raises(ValueError, match="Received arrays"):
        built(tmp_path / "views", views=2, augment=jittered).join(data()[0])


def test_nothing_that_was_made_is_overwritten(tmp_path):
    built(tmp_path)
    (tmp_path / manifest.MANIFEST).unlink()
    with pytest.raises(ValueError, match="plan.json' is missing"):
        built(tmp_path)
    shutil.rmtree(tmp_path / "view-0000")
    built(tmp_path)


def test_a_second_cache_object_neither_builds_again_nor_raises_an_error(tmp_path):
    first, second = (kd.TeacherCache(tmp_path, teacher=teacher()) for _ in range(2))
    first.build(dataset(), 4, verbose=0)
    second.build(dataset(), 4, verbose=0)
    second.build(dataset(), 4, shard=(0, 2), verbose=0)
    assert len(list(second.join(dataset()))) == 50


def test_the_random_state_of_dropout_makes_no_other_teacher(tmp_path):
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    built(tmp_path / "cache", teacher=model)
    model(data()[0], training=True)
    kd.TeacherCache(tmp_path / "cache", teacher=model).join(dataset())


def test_another_vocabulary_is_another_teacher(tmp_path):
    def reader(text):
        words = keras.layers.TextVectorization(output_mode="multi_hot", max_tokens=4)
        words.adapt([text])
        return keras.Sequential(
            [keras.Input((1,), dtype="string"), words, keras.layers.Dense(3, "relu", kernel_initializer="ones")]
        )

    texts = tf.data.Dataset.from_tensor_slices(np.array([["a b"], ["c"]]))
    built(tmp_path, texts, teacher=reader("a a a b b c"))
    kd.TeacherCache(tmp_path, teacher=reader("a a a b b c"))
    with pytest.raises(ValueError, match="another"):
        kd.TeacherCache(tmp_path, teacher=reader("c c c b b a"))


@pytest.mark.slow
def test_a_shard_that_is_damaged_before_the_end_is_refused(tmp_path):
    for index in range(2):
        if index:
            shard = sorted(tmp_path.rglob("*.tfrecord"))[0]
            content = bytearray(shard.read_bytes())
            content[-6] ^= 1
            shard.write_bytes(content)
            with pytest.raises(ValueError, match=f"{shard.name}' is damaged.*Remove it"):
                kd.TeacherCache(tmp_path, teacher=teacher()).build(dataset(), 4, shard=(index, 2), verbose=0)
        else:
            kd.TeacherCache(tmp_path, teacher=teacher()).build(dataset(), 4, shard=(index, 2), verbose=0)


def test_targets_of_another_cache_are_refused(tmp_path):
    first, second = (built(tmp_path / str(seed), teacher=teacher(seed)) for seed in range(2))
    both = distill(student(), [kd.teachers.Cached(first), kd.teachers.Cached(second)], optimizer="sgd")
    with pytest.raises(ValueError, match="cache the ensemble"):
        both.fit(first.join(dataset()).batch(5), verbose=0)


def test_validation_data_that_the_teacher_has_not_seen_are_an_error_too(tmp_path):
    cache = built(tmp_path)
    distiller = distill(student(), kd.teachers.Cached(cache), optimizer="sgd")
    x, y = data()
    other = tf.data.Dataset.from_tensor_slices((one_row_changed(x), y))
    with pytest.raises(ValueError, match="Example 37 is not the one"):
        distiller.evaluate(cache.join(other).batch(5), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"shard": 3}, "shard"),
        ({"shard": (0.5, 2)}, "shard"),
    ],
)
def test_arguments_of_build_out_of_range_are_refused(tmp_path, arguments, error):
    with pytest.raises(ValueError, match=f"Expected `{error}`"):
        kd.TeacherCache(tmp_path, teacher=teacher()).build(dataset(), **arguments)


def test_unusual_arguments_are_explained(tmp_path):
    cache = kd.TeacherCache(tmp_path, teacher=teacher())
    with pytest.raises(TypeError, match="could be \\(x, y\\)"):
        cache.build(data())
    with pytest.raises(ValueError, match="at least one example"):
        cache.build(dataset().filter(lambda x, y: False), verbose=0)
    with pytest.raises(ValueError, match="integers or strings"):
        kd.TeacherCache(tmp_path / "key", teacher=teacher(), key=lambda x, y: x[:, 0]).build(dataset(), verbose=0)
    with pytest.raises(ValueError, match="`augment\\(x, seed\\)`"):
        kd.TeacherCache(tmp_path / "augment", teacher=teacher(), augment=lambda x: x).build(dataset(), verbose=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder that can be written"):
        kd.TeacherCache(tmp_path / "file" / "cache", teacher=teacher()).build(dataset(), verbose=0)
    with pytest.raises(ValueError, match="made by a cache or by targets.TopK, or tensors by name"):
        joined = kd.Joined(data()[0], {"logits": {"log_probabilities": np.zeros((50, 2), "float32")}})
        distill(student(), kd.teachers.Cached(), optimizer="sgd").fit(joined, data()[1], verbose=0)
